"""yamltext: a small, strict part of YAML, with lines; what is written reads back, also for other YAML readers."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.agentfile import yamltext
from edgeswarm.errors import AgentFileError, LimitError
from edgeswarm.limits import AF_YAML_DEPTH_MAX


@pytest.fixture(params=["libyaml", "python"], autouse=True)
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs with both of PyYAML's parsers: boards may have a build without libyaml."""
    if request.param == "python":
        monkeypatch.setattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse(text: str) -> Any:
    return yamltext.parse(text, who="f.af").tree


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("~", None), ("null", None), ("", None), ("true", True), ("False", False), ("yes", "yes"), ("no", "no"),
        ("on", "on"), ("0", 0), ("-17", -17), ("+5", 5), ("010", 10), ("0o17", 15), ("0xfF", 255), ("1.5", 1.5),
        ("1e3", 1000.0), ("-.5", -0.5), ("1.", 1.0), ("1.0e-05", 1e-5), (".inf", math.inf), ("-.INF", -math.inf),
        ("1:30", "1:30"), ("2025-07-13T19:24:55.000Z", "2025-07-13T19:24:55.000Z"), ("2025-07-13", "2025-07-13"),
        ("1_000", "1_000"), ("-", "-"), ("0b1", "0b1"), ('"1"', "1"), ("'true'", "true"), ("=", "="), ("<<", "<<"),
    ],
)  # fmt: skip
def test_scalars_follow_the_core_schema(text: str, value: object) -> None:
    if text == "-":
        text = '"-"'
    found = parse(f"a: {text}")["a"]
    assert (type(found), found) == (type(value), value)


def test_not_a_number_is_a_float_that_the_schema_refuses() -> None:
    assert math.isnan(parse("a: .nan")["a"])


def test_lines_are_those_of_keys_and_of_items_on_lines_of_their_own() -> None:
    text = "a: 1\n\nb:\n  c: [1,\n    2]\n  d:\n    - e: 1\n      f: 2\n    - g\n'x.y': 3\n"
    parsed = yamltext.parse(text, who="f.af", first_line=2)
    assert parsed.lines == {
        "a": 2, "b": 4, "b.c": 5, "b.c[1]": 6, "b.d": 7, "b.d[0]": 8, "b.d[0].e": 8, "b.d[0].f": 9, "b.d[1]": 10,
        "'x.y'": 11,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("", 1, "found nothing"),
        ("# only a comment\n", 2, "found nothing"),
        ("a: 1\nb: &x 2\n", 2, "anchors are not taken, found &x"),
        ("a: 1\nb: *x\n", 2, "aliases are not taken, found *x"),
        ("*x : 1\n", 1, "aliases are not taken"),
        ("a: !!str 1\n", 1, "tags are not taken, found tag:yaml.org,2002:str"),
        ("a: !!python/object/apply:os.system [ls]\n", 1, "tags are not taken"),
        ("a:\n  - !x {}\n", 2, "tags are not taken, found !x"),
        ("a: 1\nb: 2\na: 3\n", 3, "the key 'a' is there twice, first in line 1"),
        ("a:\n  b: {c: 1, c: 2}\n", 2, "the key 'c' is there twice"),
        ("? [a]\n: 1\n", 1, "expected a key, found a table or a list"),
        ("? {a: 1}\n: 1\n", 1, "expected a key"),
        ("a: 1\n--- \nb: 2\n", 2, "expected one document, found a second"),
        ("%YAML 1.1\n---\na: 1\n", 1, "directives are not taken"),
        ("%TAG ! tag:x,2000:\n---\na: 1\n", 1, "directives are not taken"),
        ("a: 1\nb: 'x\n", 3, "unexpected end of stream"),
        ("a: 1\n b: 2\n", 2, "mapping values are not allowed"),
        ("a: [1, 2\n", 2, "expected"),
        ("a: 1\n\tb: 2\n", 2, "tab|cannot start any token"),
        ("a: 1\nb: \x07\n", 2, "not allowed|control characters"),
        ('a: 1\nb: "\\q"\n', 2, "unknown escape|escape"),
        ("a: " + "9" * 65 + "\n", 1, "a number has at most 64 characters, found 65"),
        ("a: " + "1" * 60_000 + ".5\n", 1, "a number has at most 64 characters"),
    ],
)
def test_what_is_not_taken_has_its_line(text: str, line: int, what: str) -> None:
    with pytest.raises(AgentFileError, match=what.replace("*", r"\*")) as caught:
        parse(text)
    assert (caught.value.line, str(caught.value).startswith(f"f.af: line {line}: YAML: ")) == (line, True)


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 50_000, "- " * 50_000, "? " * 50_000, "a: " + "[" * 17])
def test_deep_nesting_is_refused_early(text: str) -> None:
    with pytest.raises((LimitError, AgentFileError), match="at most 16 levels|expected a key"):
        parse(text)


def test_too_many_values_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamltext, "AF_YAML_NODES_MAX", 1_000)
    assert len(parse("a: [" + "1," * 900 + "]")["a"]) == 900
    with pytest.raises(LimitError, match="f.af: line 2: at most 1000 keys and values"):
        parse("a:\n  [" + "1," * 1000 + "]")


def test_an_escape_past_unicode_is_refused() -> None:
    with pytest.raises(AgentFileError):
        parse('a: "\\U00110000"')


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | texts
)


def tables_of(depth: int) -> st.SearchStrategy[dict[str, Any]]:
    """Tables that nest no deeper than the reader takes: a table in a list in a table is two levels."""
    contents = scalars | st.lists(scalars, max_size=4)
    if depth > 2:
        below = tables_of(depth - 2)
        contents = contents | st.lists(below.filter(bool), max_size=3) | below
    return st.dictionaries(texts, contents, max_size=4)


tables = tables_of(AF_YAML_DEPTH_MAX - 2)


@given(tables)
@settings(max_examples=120)
def test_what_is_written_reads_back(tree: dict[str, Any]) -> None:
    text = yamltext.emit(tree)
    if tree:
        assert repr(yamltext.parse(text, who="f.af").tree) == repr(tree)


@given(tables.filter(bool))
@settings(max_examples=60)
def test_readers_of_yaml_1_1_see_the_same(tree: dict[str, Any]) -> None:
    assert yaml.safe_load(yamltext.emit(tree)) == tree


@given(st.text(st.sampled_from("ab:-[]{},&*!|>'\"%@`#?\n \t0.~\\x"), max_size=60))
@settings(max_examples=150)
def test_any_text_is_a_tree_or_an_error(text: str) -> None:
    try:
        yamltext.parse(text, who="f.af")
    except (AgentFileError, LimitError):
        return


def test_a_header_full_of_values_stays_in_its_memory() -> None:
    """Some 200 bytes a value, so AF_YAML_NODES_MAX of them stay below 50 MB."""
    text = "a: [" + "1," * 10_000 + "]\n"
    tracemalloc.start()
    try:
        yamltext.parse(text, who="f.af")
        assert tracemalloc.get_traced_memory()[1] < 2_500_000
    finally:
        tracemalloc.stop()
