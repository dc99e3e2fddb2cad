"""Topics: what is built parses to what it was built from; nothing else parses."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm import limits
from edgeswarm.errors import LocalError
from edgeswarm.wire.topics import PRIORITIES, RESERVED_CELLS, RULES, Kind, Signing, Topic, TopicError, Topics, parse

fleets = st.from_regex(r"[a-z0-9][a-z0-9-]{0,31}", fullmatch=True)
cells = fleets.filter(lambda text: text not in RESERVED_CELLS)
devices = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
agents = st.from_regex(r"[a-z][a-z0-9-]{0,63}", fullmatch=True)
names = st.from_regex(r"[a-z][a-z0-9._-]{0,63}", fullmatch=True)
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
chunks = st.integers(0, limits.ARTEFACT_CHUNKS_MAX - 1)
DEVICE_KINDS = [Kind.RAFT, Kind.GONE, Kind.STATUS, Kind.DESIRED, Kind.REPORTED, Kind.INBOX]
topics = (
    st.builds(Topic, st.sampled_from([Kind.LEADER, Kind.ROSTER, Kind.FEED, Kind.STOP]), fleets, cells)
    | st.builds(Topic, st.sampled_from(DEVICE_KINDS), fleets, cells, devices)
    | st.builds(Topic, st.just(Kind.STREAM), fleets, cells, devices, agents)
    | st.builds(Topic, st.just(Kind.EVENT), fleets, cells, priority=st.sampled_from(PRIORITIES), name=names)
    | st.builds(Topic, st.just(Kind.ARTIFACT), fleets, cells, digest=digests, index=chunks)
    | st.builds(Topic, st.just(Kind.CONTROLLER), fleets)
)


@given(topics)
@settings(max_examples=300, deadline=None)
def test_parse_undoes_build(topic: Topic) -> None:
    text = str(topic)
    assert parse(text) == topic
    assert len(text) <= limits.TOPIC_CHARS_MAX
    assert not set(text) & set("+#\0 ") and "//" not in text


@given(topics)
@settings(deadline=None)
def test_the_methods_of_a_cell_build_the_same_texts(topic: Topic) -> None:
    of = Topics(topic.fleet, topic.cell or "c")
    built = {
        Kind.LEADER: lambda: of.leader,
        Kind.ROSTER: lambda: of.roster,
        Kind.FEED: lambda: of.feed,
        Kind.STOP: lambda: of.stop,
        Kind.CONTROLLER: lambda: of.controller,
        Kind.RAFT: lambda: of.raft(topic.device),
        Kind.GONE: lambda: of.gone(topic.device),
        Kind.STATUS: lambda: of.status(topic.device),
        Kind.DESIRED: lambda: of.desired(topic.device),
        Kind.REPORTED: lambda: of.reported(topic.device),
        Kind.INBOX: lambda: of.inbox(topic.device),
        Kind.STREAM: lambda: of.stream(topic.device, topic.agent),
        Kind.EVENT: lambda: of.event(topic.priority, topic.name),
        Kind.ARTIFACT: lambda: of.artifact(topic.digest, topic.index),
    }[topic.kind]()
    assert built == str(topic)
    assert of.parse(built) == topic


@given(topics, st.data())
@settings(max_examples=300, deadline=None)
def test_a_changed_topic_is_refused_or_another(topic: Topic, data: st.DataObject) -> None:
    text = str(topic)
    at = data.draw(st.integers(0, len(text)))
    mutant = text[:at] + data.draw(st.sampled_from("+#/\0 Aé-a0.")) + text[at + data.draw(st.integers(0, 1)) :]
    try:
        found = parse(mutant)
    except TopicError:
        return
    assert str(found) == mutant and (found != topic or mutant == text)


@given(st.text(max_size=60) | st.text("es/1frc+#\0-", max_size=60))
@settings(deadline=None)
def test_nothing_else_is_raised_for_any_text(text: str) -> None:
    try:
        assert str(parse(text)) == text
    except TopicError:
        pass


@pytest.mark.parametrize(
    "text",
    [
        "",
        "es/1/f/c",
        "es/2/f/c/leader",
        "$SYS/broker/uptime/f/c",
        "es/1/f/c/leader/",
        "/es/1/f/c/leader",
        "es/1/f/c/device/+/status",
        "es/1/f/c/#",
        "es/1/f/c/device/a\0b/status",
        "es/1/f//leader",
        "es/1/f/c/device/-a/status",
        "es/1/f/c/event/urgent/alert",
        "es/1/f/controller/leader",
        "es/1/f/join/leader",
        "es/1/F/c/leader",
        "es/1/f/c/leader\n",
        "es/1/f/c/artifact/" + "a" * 64 + "/01",
        "es/1/f/c/artifact/" + "a" * 64 + "/1048576",
        "es/1/f/c/artifact/" + "A" * 64 + "/1",
        "es/1/f/c/artifact/" + "a" * 64 + "/\u0661",  # an Arabic digit: int() would take it
        "es/1/f/c/raft/" + "d" * 64,
        "es/1/f/c/" + "x" * 400,
    ],
)
def test_what_is_no_topic_of_ours_is_refused(text: str) -> None:
    with pytest.raises(TopicError):
        parse(text)


def test_topics_of_other_fleets_and_cells_are_refused() -> None:
    with pytest.raises(TopicError, match="expected fleet f, found g"):
        Topics("f", "c").parse("es/1/g/c/leader")
    with pytest.raises(TopicError, match="expected cell c, found d"):
        Topics("f", "c").parse("es/1/f/d/leader")
    assert Topics("f", "c").parse("es/1/f/controller/inbox").kind is Kind.CONTROLLER


@pytest.mark.parametrize("cell", ["controller", "join", "", "A", "a/b", "+", "c" * 33])
def test_a_cell_has_a_name_of_its_own(cell: str) -> None:
    with pytest.raises(LocalError):
        Topics("f", cell)


def test_what_is_not_a_name_builds_nothing() -> None:
    of = Topics("f", "c")
    for build in (
        lambda: of.raft("a/b"),
        lambda: of.status("+"),
        lambda: of.stream("d", "#"),
        lambda: of.event("high", "a/b"),
        lambda: of.event("none", "alert"),
        lambda: of.artifact("a" * 63, 0),
        lambda: of.artifact("a" * 64, -1),
    ):
        with pytest.raises(LocalError):
            build()


def test_filters_cover_their_topics() -> None:
    of = Topics("f", "c")
    assert of.statuses() == "es/1/f/c/device/+/status"
    assert of.goners() == "es/1/f/c/gone/+"
    assert of.events() == "es/1/f/c/event/+/+"
    assert of.events("low") == "es/1/f/c/event/low/+"
    assert of.streams("any-1") == "es/1/f/c/stream/any-1/+"
    assert of.chunks("a" * 64).endswith("/+")
    assert of.everything() == "es/1/f/c/#"


def test_every_kind_has_a_rule() -> None:
    assert set(RULES) == set(Kind)
    assert all(0 < rule.bytes_max <= limits.RAFT_BYTES_MAX for rule in RULES.values())
    assert [kind for kind, rule in RULES.items() if rule.signing is Signing.NONE] == [Kind.GONE]
    assert {kind for kind, rule in RULES.items() if rule.signing is Signing.ITSELF} == {
        Kind.LEADER,
        Kind.ROSTER,
        Kind.STOP,
    }
