"""Which filters a topic concerns (MQTT 5.0, 4.7), and that the clever way agrees with a dumb one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeswarm.drivers.mqtt.matcher import Matcher, check_filter, check_topic
from edgeswarm.errors import LocalError
from edgeswarm.limits import MQTT_TOPIC_BYTES_MAX

LEVELS = st.sampled_from(["a", "b", "", "$x"])
TOPICS = st.lists(LEVELS, min_size=1, max_size=5).map("/".join).filter(bool)
FILTERS = (
    st.tuples(
        st.lists(st.sampled_from(["a", "b", "", "$x", "+"]), min_size=0, max_size=4),
        st.sampled_from([[], ["#"], ["+"]]),
    )
    .map(lambda parts: "/".join(parts[0] + parts[1]))
    .filter(bool)
)


def matches(topic: str, topic_filter: str) -> bool:
    """By the book, level by level."""
    if topic.startswith("$") and topic_filter[0] in "+#":
        return False
    have, want = topic.split("/"), topic_filter.split("/")
    for i, level in enumerate(want):
        if level == "#":
            return True
        if i >= len(have) or level not in ("+", have[i]):
            return False
    return len(have) == len(want)


@given(TOPICS, st.lists(FILTERS, max_size=8))
def test_the_tree_finds_what_the_book_says(topic: str, filters: list[str]) -> None:
    matcher: Matcher[int] = Matcher()
    for i, each in enumerate(filters):
        matcher.add(each, i)
    assert sorted(matcher.find(topic)) == [i for i, each in enumerate(filters) if matches(topic, each)]


@given(TOPICS, st.lists(FILTERS, max_size=8), st.data())
def test_what_is_removed_is_found_no_more(topic: str, filters: list[str], data: st.DataObject) -> None:
    matcher: Matcher[int] = Matcher()
    for i, each in enumerate(filters):
        matcher.add(each, i)
    gone = {i for i in range(len(filters)) if data.draw(st.booleans())}
    for i in gone:
        matcher.remove(filters[i], i)
        matcher.remove(filters[i], i)
    left = [i for i, each in enumerate(filters) if i not in gone and matches(topic, each)]
    assert sorted(matcher.find(topic)) == left


def test_an_emptied_matcher_keeps_no_nodes() -> None:
    matcher: Matcher[int] = Matcher()
    for each in ("a/+/c", "a/b/#", "a/b"):
        matcher.add(each, 1)
        matcher.remove(each, 1)
    assert matcher.__dict__["_root"].children == {}
    assert matcher.__dict__["_exact"] == {}


@pytest.mark.parametrize(
    "bad", ["", "a/#/b", "a#", "+a", "a/b+", "#/a", "a\0", "a" * (MQTT_TOPIC_BYTES_MAX + 1), "/" * 40]
)
def test_a_malformed_filter_is_refused(bad: str) -> None:
    with pytest.raises(LocalError):
        check_filter(bad)


@pytest.mark.parametrize("good", ["#", "+", "a/#", "+/+/#", "/", "a//b", "$SYS/#"])
def test_a_filter_may_hold_whole_wildcards(good: str) -> None:
    check_filter(good)


@pytest.mark.parametrize("bad", ["", "a/+", "#", "a\0b", "ü" * MQTT_TOPIC_BYTES_MAX])
def test_a_topic_holds_no_wildcard(bad: str) -> None:
    with pytest.raises(LocalError):
        check_topic(bad)
