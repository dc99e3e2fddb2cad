"""What the post lets in.  One device of a real fleet; the broker is a dictionary."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from edgeswarm.app.log import Log
from edgeswarm.app.swarm.post import Letter, Post
from edgeswarm.drivers.mqtt.transport import Incoming, Properties
from edgeswarm.errors import CodecError
from edgeswarm.limits import INBOX_BYTES_MAX
from edgeswarm.wire import codec, cose, envelope
from edgeswarm.wire import messages as msg
from edgeswarm.wire.dev_fleet import make_dev_fleet
from edgeswarm.wire.topics import Topics

NOW_S = 1_790_000_000
OURS = make_dev_fleet(3, entropy=b"\1" * 32, now_s=NOW_S, cell="cell")
THEIRS = make_dev_fleet(3, entropy=b"\1" * 32, now_s=NOW_S, cell="other")
TOPICS = Topics(OURS.fleet, OURS.cell)
INBOX = TOPICS.inbox("d1")


class Wire:
    """A transport that delivers when it is told to."""

    def __init__(self) -> None:
        self.handlers: list[tuple[str, Callable[[Incoming], None]]] = []

    def subscribe(self, topic_filter: str, handler: Callable[[Incoming], None], **_: Any) -> None:
        self.handlers.append((topic_filter, handler))

    def unsubscribe(self, topic_filter: str, handler: Any = None, **_: Any) -> None:
        self.handlers = [one for one in self.handlers if one[0] != topic_filter or handler not in (None, one[1])]

    def deliver(self, topic: str, payload: bytes) -> None:
        message = Incoming(topic, payload, False, 0, Properties())
        for _, handler in self.handlers:
            handler(message)


class Desk:
    """d1's post, what it let in, and a hand that seals as others would."""

    def __init__(self) -> None:
        self.wire, self.log, self.letters = Wire(), Log(stream=None, level="debug"), list[Letter]()
        self.clones: list[int] = []
        self.post = Post(
            self.wire,  # type: ignore[arg-type]
            TOPICS,
            device="d1",
            boot=5,
            seed=OURS.device_seeds["d1"],
            lookup=OURS.roster.lookup,
            log=self.log,
        )
        self.post.on_clone = self.clones.append
        self.post.on(INBOX, self.letters.append)

    def sealed(
        self,
        payload: bytes = b"x",
        *,
        sender: str = "d2",
        topic: str = INBOX,
        boot: int = 1,
        seq: int = 1,
        seed: bytes | None = None,
    ) -> bytes:
        sign = cose.signer(seed or OURS.device_seeds[sender])
        return envelope.seal(payload, topic=topic, sender=sender, boot=boot, seq=seq, sign=sign)

    def refused(self) -> dict[str, int]:
        return dict(self.post.refused)

    def told(self) -> list[dict[str, Any]]:
        return [row for row in map(json.loads, self.log.ring.lines) if row["event"] == "message_refused"]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_sender_that_is_not_in_the_roster_is_refused_and_named(desk: Desk) -> None:
    desk.wire.deliver(INBOX, desk.sealed(sender="d9", seed=b"\7" * 32))
    assert not desk.letters and desk.refused() == {"unknown_sender": 1}
    assert desk.told()[0]["sender"] == "d9"


def test_signature_of_another_key_and_a_changed_byte_are_refused(desk: Desk) -> None:
    desk.wire.deliver(INBOX, desk.sealed(seed=OURS.device_seeds["d3"]))
    good = desk.sealed(b"payload")
    for at in range(len(good)):
        desk.wire.deliver(INBOX, good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    assert not desk.letters
    assert sum(desk.refused().values()) == 1 + len(good) and desk.refused()["signature"] > len(good) // 2
    desk.wire.deliver(INBOX, good)
    assert [letter.payload for letter in desk.letters] == [b"payload"]


def test_replay_is_refused_on_its_own_topic_and_on_any_other(desk: Desk) -> None:
    desk.post.on(TOPICS.inbox("d2"), desk.letters.append)
    data = desk.sealed()
    desk.wire.deliver(INBOX, data)
    for seq in range(7, 10):
        desk.wire.deliver(INBOX, desk.sealed(seq=seq))
        desk.wire.deliver(INBOX, data)
    del desk.letters[2:]
    desk.wire.handlers = desk.wire.handlers[:1]
    for topic in (TOPICS.inbox("d2"), TOPICS.feed, TOPICS.event("critical", "alert")):
        desk.wire.deliver(topic, data)
    assert len(desk.letters) == 2  # two handlers, one letter
    assert desk.refused() == {"replay": 3, "signature": 3}


def test_message_that_comes_once_for_each_of_two_filters_is_handled_once_and_is_no_replay(desk: Desk) -> None:
    data = desk.sealed()
    desk.wire.deliver(INBOX, data)
    desk.wire.deliver(INBOX, data)
    assert len(desk.letters) == 1 and desk.refused() == {}


def test_boot_that_is_over_is_refused(desk: Desk) -> None:
    desk.wire.deliver(INBOX, desk.sealed(boot=4, seq=9))
    desk.wire.deliver(INBOX, desk.sealed(boot=3, seq=10))
    assert len(desk.letters) == 1 and desk.refused() == {"replay": 1}


def test_what_is_too_large_is_refused_before_it_is_opened(desk: Desk) -> None:
    desk.wire.deliver(INBOX, bytes(INBOX_BYTES_MAX + 4096))
    assert desk.refused() == {"too_large": 1}


def test_bomb_of_zeros_is_refused_before_it_expands(desk: Desk) -> None:
    import zstandard

    big = zstandard.ZstdCompressor(level=19).compress(bytes(64 << 20))
    flags = envelope._protected("d2", 1, 1, envelope.ZSTD)
    signature = cose.signer(OURS.device_seeds["d2"])(cose.to_be_signed(flags, INBOX.encode(), big))
    head = b"\xd2\x84" + codec.bytes_head(len(flags)) + flags + b"\xa0"
    desk.wire.deliver(INBOX, head + codec.bytes_head(len(big)) + big + b"\x58\x40" + signature)
    assert not desk.letters and desk.refused() == {"too_large": 1}


def test_certified_device_of_another_cell_is_nobody_here(desk: Desk) -> None:
    seed = make_dev_fleet(3, entropy=b"\2" * 32, now_s=NOW_S, cell="other").device_seeds["d2"]
    desk.wire.deliver(INBOX, desk.sealed(seed=seed))
    other = Topics(THEIRS.fleet, THEIRS.cell).inbox("d1")
    desk.wire.deliver(other, desk.sealed(topic=other))  # the very key of d2, on a topic of another cell
    assert not desk.letters and desk.refused() == {"signature": 1, "topic": 1}


def test_topics_that_are_none_of_ours_are_refused(desk: Desk) -> None:
    for topic in ("", "x", "es/v9/dev/cell/leader", f"{TOPICS.start}/nothing", f"{TOPICS.inbox('d1')}/more"):
        desk.wire.deliver(topic, b"x")
    assert desk.refused() == {"topic": 5}


def test_our_key_elsewhere_is_noticed_by_a_later_boot_or_a_count_ahead_of_ours(desk: Desk) -> None:
    desk.post.seal(INBOX, b"mine")
    for boot, seq in ((4, 99), (5, 1)):  # of an earlier life of ours; what we said ourselves
        desk.wire.deliver(INBOX, desk.sealed(sender="d1", boot=boot, seq=seq))
    assert not desk.clones
    desk.wire.deliver(INBOX, desk.sealed(sender="d1", boot=6, seq=1))
    desk.wire.deliver(INBOX, desk.sealed(sender="d1", boot=5, seq=2))
    assert desk.clones == [6, 5] and not desk.letters


def test_flood_of_refusals_is_counted_whole_logged_rarely_and_remembered_within_bounds(desk: Desk) -> None:
    for number in range(3_000):
        desk.wire.deliver(INBOX, desk.sealed(sender=f"x{number}", seed=b"\7" * 32))
        desk.wire.deliver(INBOX, b"rubbish")
    assert desk.refused() == {"unknown_sender": 3_000, "signature": 3_000}
    assert len(desk.post._logged) <= 1_000 and len(desk.post.replay) == 0
    assert len([row for row in desk.told() if row["reason"] == "signature"]) <= 4


def test_handlers_of_filters_that_overlap_share_one_letter_and_leave_alone(desk: Desk) -> None:
    """A watch on the leader must not make signs of life look like replays."""
    one, two = list[Letter](), list[Letter]()
    health = TOPICS.event("low", "health")
    off = desk.post.on(TOPICS.events(), one.append)
    desk.post.on(TOPICS.events(), two.append)
    desk.wire.handlers = desk.wire.handlers[1:]
    desk.wire.deliver(health, desk.sealed(topic=health, seq=1))
    off()
    desk.wire.deliver(health, desk.sealed(topic=health, seq=2))
    assert (len(one), len(two), desk.refused()) == (1, 2, {})


def test_message_of_a_wrong_schema_is_refused_and_of_a_later_version_read_as_far_as_known() -> None:
    for bad in (
        b"",
        b"\xff",
        codec.dumps([]),
        codec.dumps(["gone"]),
        codec.dumps(["gone", 0, 1]),
        codec.dumps(["x", 1]),
    ):
        with pytest.raises(CodecError):
            msg.decode(bad, who="d2")
    with pytest.raises(CodecError):
        msg.decode(codec.dumps(["gone", 1, "one"]), who="d2")
    with pytest.raises(CodecError):
        msg.decode(codec.dumps(["gone", 1, 3, "more"]), who="d2")
    assert msg.decode(codec.dumps(["gone", 2, 3, "more"]), who="d2") == msg.Gone(3)
