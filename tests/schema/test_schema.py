"""schema: what fits is built, what does not is listed with path and line, and encode is decode's inverse."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NewType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm import schema
from edgeswarm.errors import LocalError
from edgeswarm.limits import FAULTS_MAX, TEXT_CHARS_MAX
from edgeswarm.schema import Doc, Length, Pattern, Range, SchemaError

Label = NewType("Label", str)


@dataclass(frozen=True, slots=True)
class Square:
    type: Literal["square"]
    side: Annotated[float, Range(0.5, 10.0, "mm"), Doc("length of one side")] = 1.0


@dataclass(frozen=True, slots=True)
class Circle:
    type: Literal["circle", "disc"]
    radius: Annotated[int, Range(1)]


@dataclass(frozen=True, slots=True)
class Span:
    low: int = 0
    high: int = 9

    def faults(self) -> Iterator[tuple[str, str]]:
        if self.low > self.high:
            yield "low", f"expected at most high ({self.high}), found {self.low}"


@dataclass(frozen=True, slots=True)
class Sheet:
    name: Annotated[str, Pattern(r"[a-z]{1,8}", "a name: a-z"), Doc("its name")]
    shapes: Annotated[tuple[Square | Circle, ...], Length(0, 3)] = ()
    span: Span = field(default_factory=Span)
    weights: Mapping[str, float] = field(default_factory=dict)
    note: Annotated[str | None, Length(1, 5)] = None
    pages: Literal["all"] | int = "all"
    open: bool = False
    level: Literal[1, 2] = 1
    label: Label = Label("x")
    origin: str = field(default="", metadata={"key": "from"})


def faults_of(tree: object, kind: type = Sheet, **options: Any) -> list[str]:
    with pytest.raises(SchemaError) as caught:
        schema.decode(tree, kind, **options)
    return [str(fault) for fault in caught.value.faults]


def test_a_tree_that_fits_becomes_the_dataclass() -> None:
    tree = {"name": "a", "shapes": [{"type": "square", "side": 2}, {"type": "disc", "radius": 3}], "span": {"high": 4},
            "weights": {"k": 1}, "note": "hi", "pages": 3, "open": True, "level": 2, "from": "here"}  # fmt: skip
    sheet = schema.decode(tree, Sheet)
    assert sheet == Sheet(
        "a", (Square("square", 2.0), Circle("disc", 3)), Span(0, 4), {"k": 1.0}, "hi", 3, True, 2, Label("x"), "here"
    )
    assert schema.encode(sheet) == tree


def test_every_fault_is_listed_with_its_path() -> None:
    tree = {"name": "A", "shapes": [{"type": "sqare"}, {"type": "circle"}, {"type": "square", "sid": 1}], "open": 1,
            "weights": {"k": "1"}, "pages": "none", "level": 3, "shape": []}  # fmt: skip
    assert faults_of(tree) == [
        "shape: unknown key; did you mean shapes?",
        "name: expected a name: a-z, found 'A'",
        "shapes[0].type: expected one of square, circle, disc, found 'sqare'; did you mean square?",
        "shapes[1].radius: missing; expected a whole number, at least 1",
        "shapes[2].sid: unknown key; did you mean side?",
        "weights.k: expected a number, found '1'",
        "pages: expected all or a whole number, found 'none'",
        "open: expected true or false, found 1",
        "level: expected one of 1, 2, found 3",
    ]


def test_a_fault_has_the_line_of_its_key_or_of_what_holds_it() -> None:
    lines = {"shapes": 3, "shapes[1]": 5, "shapes[1].side": 6}
    tree = {"name": "a", "shapes": [{"type": "square", "side": 0}, {"type": "square", "side": 11}, 3]}
    assert faults_of(tree, lines=lines) == [
        "line 3: shapes[0].side: expected 0.5 to 10.0 mm, found 0.0",
        "line 6: shapes[1].side: expected 0.5 to 10.0 mm, found 11.0",
        "line 3: shapes[2]: expected a table with the key `type`, found 3",
    ]


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("name", None, "name: expected a name: a-z, found nothing"),
        ("name", "a\n", "name: expected a name: a-z, found 'a\\n'"),
        ("shapes", {}, "shapes: expected a list, found a table of 0 keys"),
        ("shapes", [{"type": "square"}] * 4, "shapes: expected at most 3 items, found 4"),
        ("span", [], "span: expected a table of keys, found a list of 0"),
        ("weights", [], "weights: expected a table of keys, found a list of 0"),
        ("weights", {"k": math.nan}, "weights.k: expected a number, found nan"),
        ("weights", {"k": math.inf}, "weights.k: expected a number, found inf"),
        ("weights", {"k": 10**400}, "weights.k: expected a number, found a number of 1329 bits"),
        ("weights", {3: 1.0}, "weights: expected text, found 3"),
        ("note", "", "note: expected 1 to 5 characters, found 0"),
        ("note", "a\0b", "note: expected text without NUL and without half a surrogate pair, found 'a\\x00b'"),
        ("from", "\ud800", "from: expected text without NUL and without half a surrogate pair, found '\\ud800'"),
        ("from", "x" * (TEXT_CHARS_MAX + 1), f"from: expected at most {TEXT_CHARS_MAX} characters, found 4097"),
        ("open", "yes", "open: expected true or false, found 'yes'"),
        ("level", True, "level: expected one of 1, 2, found True"),
        ("level", 1.0, "level: expected one of 1, 2, found 1.0"),
        ("pages", True, "pages: expected all or a whole number, found True"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(key: str, value: object, text: str) -> None:
    assert faults_of({"name": "a", key: value}) == [text]


def test_a_choice_that_looks_like_a_number_is_shown_in_quotes() -> None:
    @dataclass(frozen=True, slots=True)
    class Versioned:
        version: Literal["1.0"]

    globals()["Versioned"] = Versioned
    assert faults_of({"version": 1.0}, Versioned) == ['version: expected "1.0", found 1.0']


def test_what_belongs_together_is_checked_once_each_key_is_right() -> None:
    assert faults_of({"name": "a", "span": {"low": 5, "high": 2}}, lines={"span.low": 7}) == [
        "line 7: span.low: expected at most high (2), found 5"
    ]
    assert faults_of({"name": "a", "span": {"low": 5, "high": "2"}}) == [
        "span.high: expected a whole number, found '2'"
    ]


@pytest.mark.parametrize("tree", [None, [], "x", 3, True])
def test_a_tree_that_is_no_table_is_refused(tree: object) -> None:
    assert faults_of(tree)[0].startswith("expected a table of keys, found")


def test_a_flood_of_faults_is_cut() -> None:
    with pytest.raises(SchemaError, match="possibly more") as caught:
        schema.decode({f"k{n}": 1 for n in range(1000)}, Sheet, where="f.toml")
    assert len(caught.value.faults) == FAULTS_MAX
    assert str(caught.value).startswith("f.toml: ")
    assert isinstance(caught.value, LocalError)


def test_an_optional_table_of_one_kind_keeps_its_precise_faults() -> None:
    @dataclass(frozen=True, slots=True)
    class Holder:
        span: Span | None = None

    globals()["Holder"] = Holder
    assert schema.decode({}, Holder) == Holder()
    assert schema.decode({"span": None}, Holder) == Holder()
    assert faults_of({"span": {"hihg": 3}}, Holder) == ["span.hihg: unknown key; did you mean high?"]
    assert faults_of({"span": {"x": 3}}, Holder) == ["span.x: unknown key; known: low, high"]


def test_encode_leaves_out_what_equals_its_default_and_encode_whole_does_not() -> None:
    assert schema.encode(Sheet("a", span=Span(0, 9), label=Label("x"))) == {"name": "a"}
    whole = schema.encode_whole(Sheet("a"))
    assert whole["span"] == {"low": 0, "high": 9}
    assert whole["note"] is None
    assert schema.decode(whole, Sheet) == Sheet("a")


def test_encode_keeps_minus_zero_apart_from_a_default_of_zero() -> None:
    @dataclass(frozen=True, slots=True)
    class Zero:
        x: float = 0.0

    globals()["Zero"] = Zero
    assert schema.encode(Zero(-0.0)) == {"x": -0.0}
    assert math.copysign(1.0, schema.decode(schema.encode(Zero(-0.0)), Zero).x) == -1.0


sheets = st.builds(
    Sheet,
    name=st.from_regex(r"[a-z]{1,8}", fullmatch=True),
    shapes=st.lists(
        st.one_of(
            st.builds(Square, type=st.just("square"), side=st.floats(0.5, 10.0)),
            st.builds(Circle, type=st.sampled_from(["circle", "disc"]), radius=st.integers(1, 10**9)),
        ),
        max_size=3,
    ).map(tuple),
    span=st.builds(Span, low=st.integers(-9, 9), high=st.integers(9, 99)),
    weights=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20),
        st.floats(allow_nan=False, allow_infinity=False),
        max_size=5,
    ),
    note=st.none() | st.from_regex(r"[a-z]{1,5}", fullmatch=True),
    pages=st.just("all") | st.integers(),
    open=st.booleans(),
    level=st.sampled_from([1, 2]),
    origin=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20),
)


@given(sheets)
@settings(max_examples=150)
def test_decode_undoes_encode(sheet: Sheet) -> None:
    assert schema.decode(schema.encode(sheet), Sheet) == sheet
    assert schema.decode(schema.encode_whole(sheet), Sheet) == sheet


trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([f.name for f in dataclasses.fields(Sheet)]) | st.text(max_size=4), inner)
    ),
    max_leaves=12,
)


@given(trees)
@settings(max_examples=200)
def test_any_tree_is_decoded_or_refused_with_faults(tree: object) -> None:
    try:
        sheet = schema.decode(tree, Sheet)
    except SchemaError as error:
        assert error.faults
    else:
        assert schema.decode(schema.encode(sheet), Sheet) == sheet


def test_describe_lists_every_key_with_type_default_and_meaning() -> None:
    rows = {row.path: row for row in schema.describe(Sheet)}
    assert list(rows)[:4] == ["name", "shapes", "shapes[](square).type", "shapes[](square).side"]
    assert "shapes[](circle|disc).radius" in rows
    assert rows["name"].kind == "a name: a-z"
    assert (rows["name"].default, rows["name"].text) == ("", "its name")
    assert rows["shapes[](square).side"].kind == "a number, 0.5 to 10.0 mm"
    assert rows["shapes[](square).side"].default == "1.0"
    assert rows["span.low"].default == "0"
    assert (rows["note"].default, rows["open"].default, rows["shapes"].default) == ("absent", "false", "[]")
    assert "from" in rows
