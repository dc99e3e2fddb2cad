"""Selectors: what the grammar means, where its errors point, and that percentages lie within each other."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm import limits
from edgeswarm.core import selector as sel
from edgeswarm.core.selector import Device, Glob, SelectorError, parse
from edgeswarm.errors import LimitError

PRESS = Device(
    "press-7",
    "worker",
    "online",
    "B",
    "rpi-5",
    "aarch64",
    "edgeswarm 0.1.0",
    (("line", "4"), ("site", "hall-3")),
    ("tflite", "wasm"),
    ("iio:temp0",),
    ("neural.compute", "stream.publish:*", "tool:lamp@fuse"),
    ("fuse", "score"),
)
BARE = Device("gate-1", role="reader")


@pytest.mark.parametrize(
    ("text", "press", "bare"),
    [
        ("all", True, True),
        ("site=hall-3", True, False),
        ("site=hall-4", False, False),
        ("site!=hall-4", True, True),  # who has no such label is not in that hall either
        ("label:site", True, False),
        ("!label:site", False, True),
        ("label:role=x", False, False),
        ("profile in (rpi-5,jetson)", True, False),
        ("profile in (jetson , rpi-*)", True, False),
        ("tier<=B", True, False),
        ("tier<B", False, False),
        ("tier>=B", True, False),
        ("tier>B", False, False),
        ("tier in (A,C)", False, False),
        ("tier=B", True, False),
        ("has:tflite", True, False),
        ("has:iio:*", True, False),
        ("may:neural.compute", True, False),
        ("may:stream.publish:fuse", True, False),
        ("may:tool:lamp", False, False),  # granted to one agent only
        ("may:tool:lamp@fuse", True, False),
        ("may:tool:lamp@score", False, False),
        ("may:neural.compute@score", True, False),
        ("may:deploy", False, False),
        ("may:NEURAL_COMPUTE", True, False),
        ("!role=reader", True, False),
        ("role=re*", False, True),
        ("id=press-*", True, False),
        ("id=press-?", True, False),
        ('id="press-*"', False, False),
        ("arch=aarch64,software=*0.1*", True, False),
        ("state=online|state=never", True, True),
        ("agent:fuse", True, False),
        ("percent=100", True, True),
        ("percent=0", False, False),
        ("site=hall-3, profile in (rpi-5,jetson), tier<=B, has:tflite, may:neural.compute, !role=reader", True, False),
        ("site=hall-3,tier=A|id=gate-*", False, True),
    ],
)
def test_selector_means_what_its_grammar_says(text: str, press: bool, bare: bool) -> None:
    selector = parse(text)
    assert (selector.matches(PRESS), selector.matches(BARE)) == (press, bare)
    assert parse(str(selector)) == selector


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "all"),
        ("   ", "all"),
        ("site=", "character 6: expected a value, found the end"),
        ("site", "character 5: expected =, != or in"),
        ("=x", "character 1: expected a term"),
        ("site=a,", "character 8: expected a term"),
        ("site=a|", "character 8: expected a term"),
        ("site=a b", "character 8"),
        ("site=a;b", "character 7"),
        ("site in a", 'character 9: expected "("'),
        ("site in (a", 'character 11: expected "," or ")"'),
        ("site in ()", "character 10: expected a value"),
        ("site<=3", "character 5: only a tier has an order"),
        ("tier<=D", "character 7: expected a tier, one of A, B, C"),
        ("tier=D", "character 6: expected one of A, B, C"),
        ("state=ofline", "character 7: expected one of online"),
        ("role in (worker,boss)", "character 17: expected one of coordinator"),
        ("percent=101", "character 9: expected a percentage"),
        ("percent=-1", "character 9: expected a percentage"),
        ("percent=1.234", "character 9"),
        ("percent<10", "character 8: expected percent=NUMBER"),
        ("has:", "character 5: expected a name right after has:"),
        ("may:tool:*", "character 1: expected a whole capability"),
        ("may:neural.compue", "character 1: capability 'neural.compue': expected one of neural.compute"),
        ('may:"a b"', "character 1: capability 'a b': expected one of"),
        ("id=*a*b*c*d*e*", "at most 4 stars"),
        ('site="open', "character 6"),
        ("all,site=a", "expected =, != or in"),
        ("site=\x00", "character 6"),
        ("!!site=a", "character 2: expected a term"),
    ],
)
def test_selector_that_cannot_be_read_says_where(text: str, said: str) -> None:
    with pytest.raises(SelectorError, match=r"selector: ") as caught:
        parse(text)
    assert said in str(caught.value)


def test_selector_is_bounded_in_length_and_in_terms() -> None:
    with pytest.raises(LimitError, match="SELECTOR_CHARS_MAX"):
        parse("a=" + "b" * limits.SELECTOR_CHARS_MAX)
    with pytest.raises(LimitError, match="SELECTOR_TERMS_MAX"):
        parse(",".join(["a=b"] * limits.SELECTOR_TERMS_MAX))
    with pytest.raises(LimitError, match="SELECTOR_TERMS_MAX"):
        parse("a in (" + ",".join(["b"] * limits.SELECTOR_TERMS_MAX) + ")")


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_and_nothing_else(text: str) -> None:
    try:
        selector = parse(text)
    except (SelectorError, LimitError):
        return
    assert parse(str(selector)) == selector
    selector.matches(PRESS)


IDS = [f"d{at}" for at in range(400)]


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.text(max_size=20))
def test_smaller_percentage_lies_within_a_larger_one(one: int, other: int, seed: str) -> None:
    low, high = sorted((one, other))
    few = {d for d in IDS if parse(f"percent={low / 100}").matches(Device(d), seed=seed)}
    many = {d for d in IDS if parse(f"percent={high / 100}").matches(Device(d), seed=seed)}
    assert few <= many


def test_percentage_takes_the_same_devices_for_a_seed_others_for_another_and_about_as_many_as_it_says() -> None:
    ten = parse("percent=10")
    one, again, other = ([d for d in IDS if ten.matches(Device(d), seed=seed)] for seed in ("a", "a", "b"))
    assert one == again != other
    assert 20 <= len(one) <= 60  # of 400
    assert sel.rank("a", "d1") == 252_256_562_804_459_592  # for all time: a wave must not move with a version


def dumb(pattern: str, value: str) -> bool:
    """By trying everything."""
    if not pattern:
        return not value
    if pattern[0] == "*":
        return any(dumb(pattern[1:], value[at:]) for at in range(len(value) + 1))
    return bool(value) and pattern[0] in ("?", value[0]) and dumb(pattern[1:], value[1:])


@settings(max_examples=600, deadline=None)
@given(st.text("ab*?", max_size=6), st.text("ab\n", max_size=8))
def test_glob_agrees_with_trying_everything(pattern: str, value: str) -> None:
    assert sel.fits(Glob(pattern), value) == dumb(pattern, value)


@given(st.text("ab*?", max_size=8), st.text("ab*?", max_size=8))
def test_value_in_quotes_stands_for_itself(text: str, value: str) -> None:
    assert parse(f'label:x="{text}"').matches(Device("d", labels=(("x", value),))) == (text == value)
