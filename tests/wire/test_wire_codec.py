"""codec: one value, one encoding.  Compared with cbor2 where both agree, with RFC 8949's examples where they do not."""

from __future__ import annotations

import math
import random
import tracemalloc
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.errors import CodecError, LimitError, LocalError
from edgeswarm.limits import CBOR_DEPTH_MAX, CBOR_ITEMS_MAX
from edgeswarm.wire import codec

RFC_8949_APPENDIX_A: list[tuple[object, str]] = [
    (0, "00"), (1, "01"), (10, "0a"), (23, "17"), (24, "1818"), (25, "1819"), (100, "1864"), (1000, "1903e8"),
    (1000000, "1a000f4240"), (1000000000000, "1b000000e8d4a51000"), (18446744073709551615, "1bffffffffffffffff"),
    (-18446744073709551616, "3bffffffffffffffff"), (-1, "20"), (-10, "29"), (-100, "3863"), (-1000, "3903e7"),
    (0.0, "f90000"), (-0.0, "f98000"), (1.0, "f93c00"), (1.1, "fb3ff199999999999a"), (1.5, "f93e00"),
    (65504.0, "f97bff"), (100000.0, "fa47c35000"), (3.4028234663852886e38, "fa7f7fffff"),
    (1.0e300, "fb7e37e43c8800759c"),
    (5.960464477539063e-8, "f90001"), (0.00006103515625, "f90400"), (-4.0, "f9c400"), (-4.1, "fbc010666666666666"),
    (False, "f4"), (True, "f5"), (None, "f6"), (b"", "40"), (bytes([1, 2, 3, 4]), "4401020304"), ("", "60"),
    ("a", "6161"), ("IETF", "6449455446"), ('"\\', "62225c"), ("\u00fc", "62c3bc"), ("\u6c34", "63e6b0b4"),
    ("\U00010151", "64f0908591"), ([], "80"), ([1, 2, 3], "83010203"), ([1, [2, 3], [4, 5]], "8301820203820405"),
    ({}, "a0"), ({1: 2, 3: 4}, "a201020304"), ({"a": 1, "b": [2, 3]}, "a26161016162820203"),
    (["a", {"b": "c"}], "826161a161626163"),
]  # fmt: skip

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 64), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.floats(width=32, allow_nan=False, allow_infinity=False)
    | st.floats(width=16, allow_nan=False, allow_infinity=False)
    | st.binary(max_size=40)
    | texts
)
keys = texts | st.integers(0, (1 << 64) - 1)
values = st.recursive(scalars, lambda v: st.lists(v, max_size=5) | st.dictionaries(keys, v, max_size=5), max_leaves=20)


def same(left: Any, right: Any) -> bool:
    """Equal, with -0.0 and 0.0, 1 and 1.0 and True kept apart."""
    return repr(left) == repr(right)


def by_key_sorted(value: Any) -> Any:
    """Dictionaries in the order of their encoding, so that repr compares content."""
    if isinstance(value, dict):
        return {k: by_key_sorted(value[k]) for k in sorted(value, key=lambda k: cbor2.dumps(k))}
    return [by_key_sorted(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("value", "encoded"), RFC_8949_APPENDIX_A)
def test_examples_of_rfc_8949(value: object, encoded: str) -> None:
    assert codec.dumps(value).hex() == encoded
    assert same(codec.loads(bytes.fromhex(encoded)), value)


def test_keys_of_different_lengths_and_kinds_sort_bytewise() -> None:
    """As in RFC 8949 4.2.1, without its negative key; length-first would put "z" (2 bytes) before 1000 (3 bytes)."""
    value = {"aa": 4, 1000: 2, "z": 3, 10: 1}
    encoded = codec.dumps(value)
    assert encoded.hex() == "a40a011903e802617a0362616104"
    assert encoded != cbor2.dumps(value, canonical=True)
    assert list(codec.loads(encoded)) == [10, 1000, "z", "aa"]  # type: ignore[arg-type]


@given(values)
@settings(max_examples=200)
def test_loads_undoes_dumps(value: Any) -> None:
    encoded = codec.dumps(value)
    found = codec.loads(encoded)
    assert same(found, by_key_sorted(value))
    assert codec.dumps(found) == encoded


@given(values)
@settings(max_examples=100)
def test_cbor2_reads_what_we_write(value: Any) -> None:
    assert same(by_key_sorted(cbor2.loads(codec.dumps(value))), by_key_sorted(value))


@given(st.recursive(scalars, lambda v: st.lists(v, max_size=5) | st.dictionaries(texts, v, max_size=5), max_leaves=20))
@settings(max_examples=100)
def test_with_text_keys_we_write_what_cbor2_calls_canonical(value: Any) -> None:
    """Text keys sort alike both ways, because a text's head grows with its length.

    cbor2 5.9 writes some floats longer than it must (60000.0 fits into two bytes, RFC 8949 4.2.1): ours is shorter.
    """
    ours, theirs = codec.dumps(value), cbor2.dumps(value, canonical=True)
    assert ours == theirs or (len(ours) < len(theirs) and same(cbor2.loads(ours), cbor2.loads(theirs)))


def test_a_float_is_as_short_as_its_value_allows() -> None:
    """RFC 8949 4.2.1 and appendix A; the first is where cbor2 is not."""
    assert codec.dumps(60000.0) == bytes.fromhex("f97b53")
    assert codec.dumps(65504.0) == bytes.fromhex("f97bff")
    assert codec.dumps(100000.0) == bytes.fromhex("fa47c35000")
    assert codec.dumps(1.1) == bytes.fromhex("fb3ff199999999999a")


@given(st.binary(max_size=60))
@settings(max_examples=200)
def test_what_is_taken_is_the_one_encoding_of_its_value(data: bytes) -> None:
    try:
        value = codec.loads(data)
    except (CodecError, LimitError):
        return
    assert codec.dumps(value) == data


@given(values, st.data())
@settings(max_examples=200)
def test_a_changed_byte_gives_another_value_or_an_error(value: Any, data: st.DataObject) -> None:
    encoded = bytearray(codec.dumps(value))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = codec.loads(bytes(encoded))
    except (CodecError, LimitError):
        return
    assert codec.dumps(found) == encoded


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.soak)])
def test_a_mutant_of_a_message_is_refused_or_another_message(count: int) -> None:
    """Bits flipped, bytes removed, repeated: refused by CodecError or LimitError, or the one encoding of its value."""
    rng = random.Random(5)
    value = {"kind": "reply", "rows": [[1.5, -2.25, 1e-9], [3, 2**40, -7]], "id": b"\0\1\2" * 9, 7: None, "ok": True}
    encoded = codec.dumps({"body": value, "more": [value, value]})
    for number in range(count):
        mutant = bytearray(encoded)
        at, size, to = rng.randrange(len(mutant)), rng.randrange(1, 30), rng.randrange(len(mutant))
        match number % 3:
            case 0:
                mutant[at] ^= 1 << rng.randrange(8)
            case 1:
                del mutant[at : at + size]
            case _:
                mutant[to:to] = mutant[at : at + size]
        try:
            found = codec.loads(bytes(mutant))
        except (CodecError, LimitError):
            continue
        assert codec.dumps(found) == mutant


@pytest.mark.parametrize(
    ("encoded", "text"),
    [
        ("", "offset 0: expected 1 bytes, found 0"),
        ("1817", "offset 0: 23 is not in its shortest form"),
        ("190017", "offset 0: 23 is not in its shortest form"),
        ("1b00000000ffffffff", "not in its shortest form"),
        ("5801ff", "offset 0: 1 is not in its shortest form"),
        ("fa3fc00000", "offset 0: 1.5 is not in its shortest form"),
        ("fb3ff8000000000000", "offset 0: 1.5 is not in its shortest form"),
        ("f97e00", "offset 0: expected a finite number"),
        ("f97c00", "offset 0: expected a finite number"),
        ("f7", "simple values other than false, true, null are not taken, found 23"),
        ("e0", "simple values"),
        ("f818", "simple values"),
        ("9f01ff", "indefinite and reserved lengths are not taken, found 31"),
        ("5f4101ff", "indefinite"),
        ("1c", "reserved lengths are not taken, found 28"),
        ("c074", "tags are not taken, found tag 0"),
        ("d81c00", "tags are not taken, found tag 28"),
        ("61ff", "offset 0: text is not UTF-8"),
        ("63eda080", "text is not UTF-8"),
        ("0000", "offset 1: expected the end, found 1 bytes more"),
        ("a2616201616102", "offset 4: map key 'a' is out of order or twice"),
        ("a2616101616102", "offset 4: map key 'a' is out of order or twice"),
        ("a12001", "offset 1: map keys are text or integers from 0"),
        ("a1f501", "map keys are text"),
        ("a18001", "map keys are text"),
        ("820", "expected 2 values"),
        ("4401", "offset 1: expected 4 bytes, found 1"),
        ("9affffffff", "offset 0: expected 4294967295 values, found 0 bytes"),
        ("bbffffffffffffffff", "values, found 0 bytes"),
        ("5bffffffffffffffff", "expected 18446744073709551615 bytes, found 0"),
    ],
)
def test_what_is_not_deterministic_cbor_of_our_kinds_is_refused(encoded: str, text: str) -> None:
    data = bytes.fromhex(encoded if len(encoded) % 2 == 0 else encoded[:-1])
    with pytest.raises(CodecError, match=text) as caught:
        codec.loads(data, who="device d1")
    assert str(caught.value).startswith("device d1: CBOR at offset")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1 << 64, "65 bits"),
        (-(1 << 64) - 1, "65 bits"),
        (math.nan, "finite"),
        (math.inf, "finite"),
        ("\ud800", "surrogate"),
        ({-1: 0}, "map keys"),
        ({True: 0}, "map keys"),
        ({1.0: 0}, "map keys"),
        ({b"": 0}, "map keys"),
        (object(), "object has no encoding"),
        ({1, 2}, "set has no encoding"),
    ],
)
def test_a_value_without_encoding_is_our_mistake(value: object, text: str) -> None:
    with pytest.raises(LocalError, match=text):
        codec.dumps([value])


def test_depth_is_bounded_both_ways() -> None:
    nested: list[Any] = []
    for _ in range(CBOR_DEPTH_MAX - 1):
        nested = [nested]
    assert codec.loads(codec.dumps(nested)) == nested
    with pytest.raises(LimitError, match="16 levels"):
        codec.loads(b"\x81" * 10_000 + b"\x80")
    deep: list[Any] = []
    for _ in range(1_000):
        deep = [deep]
    with pytest.raises(LimitError, match="16 levels"):
        codec.dumps(deep)


def test_values_and_bytes_are_bounded() -> None:
    with pytest.raises(LimitError, match="at most 1000000 values"):
        codec.loads(b"\x9a" + (CBOR_ITEMS_MAX + 1).to_bytes(4, "big") + b"\0" * (CBOR_ITEMS_MAX + 1))
    with pytest.raises(LimitError, match="at most 10 bytes, found 11"):
        codec.loads(b"\x4a" + b"x" * 10, bytes_max=10)


def test_a_declared_length_allocates_nothing() -> None:
    tracemalloc.start()
    try:
        for head in ("5b0000000040000000", "7b0000000040000000", "9b0000000040000000", "bb0000000040000000"):
            with pytest.raises(CodecError):
                codec.loads(bytes.fromhex(head))
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_bytes_like_values_and_tuples_are_taken() -> None:
    assert codec.dumps((bytearray(b"ab"), memoryview(b"cd"))) == codec.dumps([b"ab", b"cd"])
    assert codec.loads(memoryview(b"\x81\x01")) == [1]
