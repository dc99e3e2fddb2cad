"""The way into two jails, against jails that a test plays: whatever happens, one answer for each frame, in order."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.app.delegated import DelegatedPort
from edgeswarm.drivers.jails import JailExit, Reply
from edgeswarm.errors import JailGoneError
from edgeswarm.ids import JailId
from edgeswarm.jail.frames import FaultCode, Kind


@dataclass
class PlayedJail:
    """Answers when it is told to; its ring holds `room` frames."""

    room: int = 4
    alive: bool = True
    waiting: deque[tuple[int, bytes]] = field(default_factory=deque)

    def submit(self, slot: int, seq: int, rows: int, payload: bytes) -> bool:
        if not self.alive:
            raise JailGoneError("gone")
        assert seq not in [one for one, _ in self.waiting], "a frame was sent twice"
        if len(self.waiting) >= self.room:
            return False
        self.waiting.append((seq, payload))
        return True

    def kill(self, reason: str = "killed") -> None:
        self.alive = False


def reply(seq: int, payload: bytes, kind: Kind = Kind.REPLY) -> Reply:
    return Reply(JailId(1), 0, int(kind), seq, 1, int(FaultCode.TRAP) if kind == Kind.FAULT else 5, payload)


ENDED = JailExit(JailId(1), 1, None, 11, False, False, "ended by signal 11")


class Story:
    """A flow, its kernel and a delegate; a frame's payload is its number, its answer the same."""

    def __init__(self, check_every: int, room: int) -> None:
        self.kernel, self.delegate = PlayedJail(room), PlayedJail(room)
        self.answered: list[int] = []
        self.failures: list[str] = []
        self.sent = self.taken = 0
        self.port = DelegatedPort(
            self.kernel,
            0,
            deliver=lambda one: self._take(one),
            failed=lambda kind, _: self.failures.append(kind),
            differ=lambda want, got: "" if want == got else "other",
            check_every=check_every,
        )

    def _take(self, one: Reply) -> None:
        assert one.payload == b"%d" % one.seq
        self.answered.append(one.seq)

    def send(self) -> None:
        if self.port.submit(0, self.sent + 1, 1, b"%d" % (self.sent + 1)):
            self.sent += 1

    def kernel_answers(self) -> None:
        if self.kernel.waiting:
            seq, payload = self.kernel.waiting.popleft()
            if not self.port.kernel_replied(reply(seq, payload)):
                self._take(reply(seq, payload))

    def delegate_answers(self) -> None:
        if self.delegate.waiting and self.delegate.alive:
            seq, payload = self.delegate.waiting.popleft()
            self.port.replied(reply(seq, payload))

    def delegate_lies(self) -> None:
        """About the frame that the first check compares: the last chance to find out before anybody hears it."""
        if self.delegate.waiting and self.delegate.alive:
            seq, _ = self.delegate.waiting.popleft()
            self.port.replied(reply(seq, b"nonsense", Kind.FAULT))

    def delegate_dies(self) -> None:
        self.delegate.alive = False
        self.port.exited(ENDED)


STEPS = [
    "send",
    "send",
    "send",
    "kernel_answers",
    "delegate_answers",
    "delegate_answers",
    "delegate_lies",
    "delegate_dies",
]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(STEPS), max_size=80),
    st.integers(0, 10),
    st.sampled_from([0, 1, 3]),
    st.integers(1, 4),
    st.booleans(),
)
def test_every_frame_is_answered_once_and_in_order_whatever_the_delegate_does(
    steps: list[str], begins_at: int, check_every: int, room: int, ends: bool
) -> None:
    async def play() -> None:
        story = Story(check_every, room)
        for number, step in enumerate(steps):
            if number == begins_at:
                story.port.begin(story.delegate, {seq for seq, _ in story.kernel.waiting})
            getattr(story, step)()
        if ends:
            story.port.end()
        for _ in range(4 * len(steps) + 20):  # everybody answers what is left
            story.delegate_answers()
            story.kernel_answers()
        assert story.answered == list(range(1, story.sent + 1))
        assert len(story.failures) <= 1
        assert story.port.settled or story.port.active
        story.port.forsake()

    asyncio.run(play())


async def test_what_is_at_the_kernel_is_answered_before_the_delegate_gets_anything() -> None:
    story = Story(0, 4)
    story.send()
    story.port.begin(story.delegate, {1})
    story.send()
    assert story.sent == 1 and not story.delegate.waiting
    story.kernel_answers()
    story.send()
    assert story.sent == 2 and len(story.delegate.waiting) == 1


async def test_a_lie_about_a_checked_frame_that_the_kernel_answered_first_is_never_delivered() -> None:
    story = Story(1, 4)
    story.port.begin(story.delegate, ())
    story.send()
    ((shadow, payload),) = story.kernel.waiting
    story.kernel.waiting.clear()
    assert story.port.kernel_replied(reply(shadow, payload))
    story.port.replied(reply(1, b"2"))
    assert story.failures == ["wrong"] and not story.answered
    story.kernel_answers()
    assert story.answered == [1]


async def test_a_kernel_that_faults_on_a_check_says_nothing_about_the_delegate() -> None:
    story = Story(1, 4)
    story.port.begin(story.delegate, ())
    story.send()
    ((shadow, _),) = story.kernel.waiting
    assert story.port.kernel_replied(reply(shadow, b"trapped", Kind.FAULT))
    story.port.replied(reply(1, b"1"))
    assert story.answered == [1] and not story.failures and story.port.active


async def test_a_kernel_that_is_gone_leaves_the_frames_to_its_flow() -> None:
    story = Story(0, 4)
    story.port.begin(story.delegate, ())
    story.send()
    story.kernel.alive = False
    story.delegate_dies()
    assert story.failures == ["crash"] and story.port.settled
    with pytest.raises(JailGoneError):
        story.port.submit(0, 9, 1, b"9")


async def test_turns_are_kept_and_given_back() -> None:
    class Turns:
        mine, said = False, list[Any]()

        def begin(self) -> bool:
            return self.mine

        def end(self, us: float) -> None:
            self.said.append(us)

        def call(self) -> None:
            self.said.append("call")

        def leave(self) -> None:
            self.said.append("leave")

    story = Story(0, 4)
    turns = story.port._turns = Turns()
    story.port.begin(story.delegate, ())
    story.send()
    assert story.sent == 0, "it is somebody else's turn"
    turns.mine = True
    story.send()
    story.send()
    assert story.sent == 1, "one frame at a time"
    story.delegate_answers()
    assert turns.said == [5, "call"] and story.answered == [1]
    story.port.end()
    assert turns.said[-1] == "leave"
