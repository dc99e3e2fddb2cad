"""Reads the source: rules that no compiler keeps.  A failure names the file, the line, and what was expected."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "edgeswarm"
SOURCES = sorted(PACKAGE.rglob("*.py"))
OTHERS = sorted(path for folder in ("tests", "bench", "docs") for path in (ROOT / folder).rglob("*.py"))

FILE_LINES_MAX = 400
TEST_LINES_MAX = 600  # of a test or a benchmark: a list of stories, read one at a time
FUNCTION_LINES_MAX = 70
LONG_FILES: dict[str, str] = {}
"""File -> why it may be longer."""
LONG_FUNCTIONS = {"edgeswarm/jail/enter.py": "the steps into the jail are one straight list, in their order"}
PRINTING = ("edgeswarm/app/cli/", "edgeswarm/app/demo", "edgeswarm/__main__.py")
PURE = ("core", "stream", "wire", "model", "agentfile", "schema")
LIGHT = ("__main__", "api", "app", "drivers", "core", "stream", "agentfile", "wire", "schema", "assets", "limits")
"""What the supervisor's process imports.  On a device memory is the product: wasmtime costs 8 MB, numpy 17."""
HEAVY = ("wasmtime", "numpy", "scipy", "sklearn", "cryptography", "pyseccomp")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def nodes_of(paths: list[Path], word: str) -> Iterator[tuple[Path, ast.AST]]:
    """Every node of the files whose text has a match of `word`; the others need no parsing."""
    pattern = re.compile(word)
    for path in paths:
        if pattern.search(path.read_text()):
            for node in ast.walk(tree_of(path)):
                yield path, node


def report(faults: Iterator[str]) -> None:
    found = list(faults)
    assert not found, "\n".join(["", *found])


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_there_is_source_to_read() -> None:
    assert len(SOURCES) > 20


def test_files_are_short_enough_to_read() -> None:
    def faults() -> Iterator[str]:
        for path in SOURCES + OTHERS:
            lines = path.read_text().count("\n")
            lines_max = TEST_LINES_MAX if path in OTHERS else FILE_LINES_MAX
            if lines > lines_max and name_of(path) not in LONG_FILES:
                yield f"{name_of(path)}: expected at most {lines_max} lines, found {lines}"

    report(faults())


def test_functions_are_short_enough_to_read() -> None:
    def faults() -> Iterator[str]:
        for path in SOURCES:
            if name_of(path) in LONG_FUNCTIONS:
                continue
            for node in functions(tree_of(path)):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES_MAX:
                    yield f"{name_of(path)}:{node.lineno}: {node.name}(): {lines} lines, at most {FUNCTION_LINES_MAX}"

    report(faults())


def test_exceptions_to_the_rules_name_files_that_exist() -> None:
    excused = [*LONG_FILES, *LONG_FUNCTIONS]
    report(f"{name} is excused but is not there" for name in excused if not (ROOT / name).exists())


def test_no_marks_of_unfinished_work() -> None:
    marks = re.compile(r"\b([T]ODO|[F]IXME|[X]XX|[H]ACK)\b")  # the brackets keep this line from finding itself

    def faults() -> Iterator[str]:
        for path in SOURCES + OTHERS:
            if not marks.search(path.read_text()):
                continue
            with tokenize.open(path) as file:
                for token in tokenize.generate_tokens(file.readline):
                    if token.type in (tokenize.COMMENT, tokenize.STRING) and marks.search(token.string):
                        yield f"{name_of(path)}:{token.start[0]}: {token.string.strip()[:80]}"
        for path, node in nodes_of(SOURCES, "NotImplementedError"):
            if isinstance(node, ast.Raise) and node.exc and "NotImplementedError" in ast.dump(node.exc):
                yield f"{name_of(path)}:{node.lineno}: NotImplementedError: what does not work is absent"

    report(faults())


def test_no_error_is_swallowed_unseen() -> None:
    """`except Exception: pass` hides the world's faults; a narrow error may be passed over, with its reason."""

    def broad(handler: ast.ExceptHandler) -> bool:
        return handler.type is None or (
            isinstance(handler.type, ast.Name) and handler.type.id in ("Exception", "BaseException")
        )

    def faults() -> Iterator[str]:
        for path, node in nodes_of(SOURCES, r"\bexcept\s*\*?\s*(:|\(?(Base)?Exception\b)"):
            if not isinstance(node, ast.ExceptHandler) or not broad(node):
                continue
            if all(isinstance(line, ast.Pass | ast.Continue) for line in node.body):
                yield f"{name_of(path)}:{node.lineno}: a broad except that does nothing"

    report(faults())


def test_only_the_command_line_prints() -> None:
    def faults() -> Iterator[str]:
        silent = [path for path in SOURCES if not name_of(path).startswith(PRINTING)]
        for path, node in nodes_of(silent, r"\bprint\b"):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                yield f"{name_of(path)}:{node.lineno}: print() outside app/cli"

    report(faults())


def test_every_module_says_what_it_decides() -> None:
    def faults() -> Iterator[str]:
        for path in SOURCES:
            text = path.read_text().strip()
            if text and not re.match(r'"""\w', text) and not ast.get_docstring(tree_of(path)):
                yield f"{name_of(path)}: expected a module docstring"

    report(faults())


def test_every_bound_has_its_reason() -> None:
    """In limits/ a number's line, or the line above, says why it is that number.  units.py holds KIB and MIB."""

    def faults() -> Iterator[str]:
        seen: dict[str, str] = {}
        for path in sorted((PACKAGE / "limits").glob("*.py")):
            lines = path.read_text().splitlines()
            for node in tree_of(path).body:
                if not isinstance(node, ast.Assign | ast.AnnAssign):
                    continue
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                assert isinstance(target, ast.Name), ast.dump(target)
                where = f"{name_of(path)}:{node.lineno}: {target.id}"
                above = lines[node.lineno - 2].lstrip()
                commented = "#" in lines[node.lineno - 1] or (above.startswith("#") and not above.startswith("# ---"))
                if path.name != "units.py" and not commented:
                    yield f"{where}: expected a comment with unit or reason"
                if target.id in seen:  # one of the two would silently win in `from edgeswarm.limits import NAME`
                    yield f"{where}: is in {seen[target.id]} already"
                seen[target.id] = name_of(path)
        assert len(seen) > 400, len(seen)

    report(faults())


def test_every_area_of_the_bounds_is_read_from_one_place() -> None:
    listed = {
        node.module
        for node in tree_of(PACKAGE / "limits/__init__.py").body
        if isinstance(node, ast.ImportFrom) and [name.name for name in node.names] == ["*"]
    }
    assert listed == {f"edgeswarm.limits.{path.stem}" for path in (PACKAGE / "limits").glob("[!_]*.py")}


def test_decisions_do_not_read_the_clock_or_the_environment() -> None:
    """core, stream, wire, model, agentfile get `now` and `rng` as arguments; below app nobody reads the environment."""
    clocks = {("time", "time"), ("time", "monotonic"), ("time", "monotonic_ns"), ("time", "time_ns"), ("os", "urandom")}
    environment = {("os", "environ"), ("os", "getenv")}

    def faults() -> Iterator[str]:
        for path, node in nodes_of(SOURCES, r"\b(time|os)\s*\.\s*(time|monotonic|environ|getenv|urandom)"):
            area = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
            read = node.func if isinstance(node, ast.Call) else node  # a clock may be a parameter's default
            if not (isinstance(read, ast.Attribute) and isinstance(read.value, ast.Name)):
                continue
            what = (read.value.id, read.attr)
            if area in PURE and (what in environment or (what in clocks and isinstance(node, ast.Call))):
                yield f"{name_of(path)}:{read.lineno}: {'.'.join(what)} in {area}/, which is pure"
            elif area in ("drivers", "compile") and what in environment:
                yield f"{name_of(path)}:{read.lineno}: {'.'.join(what)} below app/"

    report(faults())


def modules() -> list[str]:
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in SOURCES)
    return sorted(name for name in names if name == "edgeswarm" or name.split(".")[1] in LIGHT)


def test_what_the_supervisor_imports_stays_light() -> None:
    """Imports every module of the supervisor's side in one fresh interpreter: heavy packages come in only when used."""
    code = (
        "import importlib, sys\n"
        f"for name in {modules()!r}:\n"
        "    importlib.import_module(name)\n"
        f"    heavy = [found for found in {HEAVY!r} if found in sys.modules]\n"
        "    if heavy: sys.exit(f'import {name} brings in {heavy}')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr.strip()[-2000:]


@pytest.mark.parametrize("area", ["wasm_kernels", "sandbox", "profiles", "firmware_configs"])
def test_data_folders_are_not_importable(area: str) -> None:
    """A tool that makes the data may live beside it (it does not ship); a package may not."""
    report(f"{name_of(path)}: data, not importable" for path in (ROOT / area).rglob("__init__.py"))
