"""What the docs name exists: tests, log events, files behind links."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.compile(r"`(tests/[\w/.]+\.py)(?:::(\w+))?`")
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_test_and_file_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    missing = [
        f"{file}::{name}"
        for file, name in NAMED.findall(text)
        if not (ROOT / file).is_file() or (name and name not in functions(ROOT / file))
    ]
    missing += [link for link in LINK.findall(text) if not (page.parent / link).exists()]
    assert not missing


def test_every_row_of_bad_input_names_a_test() -> None:
    rows = [line for line in (ROOT / "docs" / "bad-input.md").read_text().splitlines() if line.startswith("| ")]
    bare = [row for row in rows if not row.startswith("| put in") and not NAMED.search(row)]
    assert len(rows) > 40
    assert not bare


def test_every_log_event_of_the_source_is_in_the_docs() -> None:
    """And every one that the docs name is in the source."""
    told = re.compile(
        r"(?:log|_log|reporter|_report)\.(?:info|warning|error|debug|crash|report)\(\s*\"([a-z_]+)\"", re.MULTILINE
    )
    source = "\n".join(path.read_text() for path in (ROOT / "edgeswarm").rglob("*.py"))
    events = {name for name in told.findall(source) if not name.endswith("_")}  # agent_ + status: the next line
    statuses = {f"agent_{status}" for status in re.findall(r"Announce\([^\"]*\"([a-z_]+)\"", source)}
    page = (ROOT / "docs" / "observability.md").read_text()
    named = set(re.findall(r"`([a-z_]+)`", page.partition("## Counters")[0]))
    assert events | statuses <= named, sorted((events | statuses) - named)
    unknown = {name for name in named if f'"{name}"' not in source and not name.startswith("agent_")}
    assert unknown <= {"at", "level", "cause", "detail", "exited", "ended", "suppressed", "edgeswarm"}, sorted(unknown)
