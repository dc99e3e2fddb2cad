"""Streams across devices, without supervisors: whatever the network and the cell do, every row is counted once."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from supervised import until

from edgeswarm.agentfile.wiring import AgentSource, PublishSpec
from edgeswarm.app.pump import AgentFlow
from edgeswarm.app.swarm.streams_in import Message, RemoteSource
from edgeswarm.app.swarm.streams_out import NOT_YET, Outlet
from edgeswarm.core.cell.types import AgentSpec, AgentState
from edgeswarm.drivers.sources import Setup
from edgeswarm.errors import LimitError
from edgeswarm.ids import AgentName
from edgeswarm.limits import STREAM_EARLY_ROWS_MAX, STREAM_PARKED_MAX, STREAM_PARKED_MS_MAX, STREAM_WAITING_ROWS_MAX

NOW = 1_700_000_000_000  # ms
READER = AgentName("reader")


@dataclass
class Flow:
    """What an outlet needs of an agent's flow."""

    exports: list[Any] = field(default_factory=list)
    bandwidth: None = None

    def emit(self, value: float) -> None:
        for export in self.exports:
            export((value,), time.monotonic_ns())


@dataclass
class Device:
    """An outlet, what it sent, and what the cell says to it."""

    name: str
    permit: int | None = 0
    full: bool = False
    now_ms: int = NOW
    flow: Flow = field(default_factory=Flow)
    sent: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.outlet = Outlet("x", permit=lambda: self.permit, send=self._send, now_ms=lambda: self.now_ms)
        self.open()

    def open(self, **spec: int) -> None:
        self.outlet.attach(cast(AgentFlow, self.flow), PublishSpec(**{"rows": 4, **spec}), 1)

    def _send(self, payload: bytes, _expiry_s: int, _bulk: bool) -> None:
        if self.full:
            raise LimitError("full")
        self.sent.append(payload)

    def balanced(self) -> dict[str, int]:
        counts = self.outlet.counts()
        parts = ("sent", "waiting", "early", "fenced", "malformed", "unsent")
        assert counts["rows"] == sum(counts[part] for part in parts), counts
        return counts


def source(address: str = "any/x", told: list[str] | None = None, **keys: int) -> RemoteSource:
    def tell(name: str, /, **_: object) -> None:
        if told is not None:
            told.append(name)

    spec = AgentSource("agent", address, width=1, **keys)  # type: ignore[arg-type]
    return RemoteSource(READER, spec, Setup("x", tell), listen=lambda _: None, unlisten=lambda _: None)


def agent(device: str | None, epoch: int) -> AgentState:
    return AgentState(AgentSpec("x", b"\0" * 32), 1, device, epoch)


def balanced(heard: RemoteSource) -> None:
    """Of a source that does not run (any more)."""
    counts, seen = heard.counts, heard.subscriber.counts
    assert seen.rows == seen.delivered + seen.duplicates + seen.expired + seen.foreign + seen.stale
    gone = counts.rows + heard.waiting + counts.overflow + counts.outdated + counts.beside + counts.unread
    assert seen.delivered + counts.taken_over == gone


async def drain(heard: RemoteSource) -> list[float]:
    """Let its agent take all that waits."""
    taken: list[float] = []

    async def offer(row: tuple[float, ...], _at_ns: int) -> None:
        taken.append(row[0])

    task = asyncio.create_task(heard.run(offer))
    await until(lambda: not heard.waiting)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return taken


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("emit"), st.integers(0, 1), st.integers(1, 9)),
        st.tuples(st.just("deliver"), st.integers(0, 1), st.integers(1, 3)),
        st.tuples(st.just("lose"), st.integers(0, 1), st.just(1)),
        st.tuples(st.just("repeat"), st.integers(0, 1), st.just(1)),
        st.tuples(st.just("move"), st.integers(0, 1), st.integers(0, 1)),  # 1: the table is told too
        st.tuples(st.just("flush"), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("full"), st.integers(0, 1), st.integers(0, 1)),
        st.tuples(st.just("early"), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("here"), st.just(0), st.integers(0, 1)),
        st.tuples(st.just("take"), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=200)
@given(steps=STEPS)
def test_rows_published_are_delivered_or_counted_as_lost(steps: list[tuple[str, int, int]]) -> None:
    asyncio.run(_life(steps))


async def _life(steps: list[tuple[str, int, int]]) -> None:
    devices = [Device("pi-0", 1), Device("pi-1", None)]
    heard, epoch, here = source(), 1, False
    place = agent("pi-0", 1)
    heard.placed(place, NOW, here=False)
    emitted, lost_rows, repeated, taken, number = 0, 0, 0, [], 0.0
    for what, which, count in steps:
        device = devices[which]
        match what:
            case "emit":
                for _ in range(count):
                    device.flow.emit(number := number + 1.0)
                    emitted += 1
            case "deliver":
                for payload in device.sent[:count]:
                    heard.hear(Message(device.name, 1, payload, NOW))
                del device.sent[:count]
            case "lose":
                lost_rows += sum(_rows(payload) for payload in device.sent[:1])
                del device.sent[:1]
            case "repeat":
                if device.sent:
                    heard.hear(Message(device.name, 1, device.sent[0], NOW))
                    repeated += _rows(device.sent[0])
            case "move":
                epoch += 1
                devices[1 - which].permit, device.permit = None, epoch
                if count:
                    place = agent(device.name, epoch)
                    heard.placed(place, NOW, here=here)
            case "flush":
                device.outlet.flush()
            case "full":
                device.full = bool(count)
            case "early":
                device.permit = NOT_YET
            case "here":
                here = bool(count)
                heard.placed(place, NOW, here=here)
            case "take":
                taken += await drain(heard)
        for one in devices:
            one.balanced()
        balanced(heard)
    for device in devices:
        device.outlet.detach()
        for payload in device.sent:
            heard.hear(Message(device.name, 1, payload, NOW))
    heard.placed(place, NOW + STREAM_PARKED_MS_MAX + 1, here=False)
    taken += await drain(heard)
    balanced(heard)
    counts = [device.balanced() for device in devices]
    assert emitted == sum(one["rows"] for one in counts)
    assert all(one["waiting"] == one["early"] == 0 for one in counts)
    assert sum(one["sent"] for one in counts) - lost_rows + repeated == heard.subscriber.counts.rows
    assert heard.subscriber.counts.missing <= lost_rows + sum(one["fenced"] + one["unsent"] for one in counts)
    assert len(taken) == heard.counts.rows == len(set(taken)), "no row twice"


def _rows(payload: bytes) -> int:
    from edgeswarm.stream.remote import decode

    return len(decode(payload).rows)


# --- out ------------------------------------------------------------------------------------------------------------


async def test_rows_before_the_placement_is_noted_wait_for_it() -> None:
    device = Device("pi-0", NOT_YET)
    for value in range(3):
        device.flow.emit(value)
    assert device.balanced()["early"] == 3 and not device.sent
    device.permit = 7
    device.outlet.flush()
    heard = source()
    heard.placed(agent("pi-0", 7), NOW, here=False)
    heard.hear(Message("pi-0", 1, device.sent[0], NOW))
    assert await drain(heard) == [0.0, 1.0, 2.0]
    device.outlet.detach()


async def test_rows_of_a_placement_that_never_comes_are_bounded_and_counted() -> None:
    device = Device("pi-0", NOT_YET)
    for value in range(STREAM_EARLY_ROWS_MAX + 5):
        device.flow.emit(value)
    assert device.balanced()["early"] == STREAM_EARLY_ROWS_MAX
    device.permit = None
    device.flow.emit(1.0)
    assert device.balanced()["fenced"] == STREAM_EARLY_ROWS_MAX + 6 and not device.sent
    device.outlet.detach()


async def test_message_begun_under_an_epoch_that_is_over_stays_here() -> None:
    device = Device("pi-0", 3)
    device.flow.emit(1.0)
    device.permit = 4
    device.outlet.flush()
    assert not device.sent and device.balanced()["fenced"] == 1
    device.outlet.detach()


async def test_row_waits_for_company_no_longer_than_the_file_says() -> None:
    device = Device("pi-0")
    device.open(rows=100, batch_ms=1)
    device.flow.emit(1.0)
    assert not device.sent
    await until(lambda: device.sent)
    assert device.balanced()["sent"] == 1
    device.outlet.detach()


async def test_agent_that_is_opened_again_speaks_in_a_new_life() -> None:
    device = Device("pi-0")
    heard = source()
    for value in range(4):
        device.flow.emit(value)
    device.flow = Flow()
    device.open()
    for value in range(4):
        device.flow.emit(10 + value)
    for payload in device.sent:
        heard.hear(Message("pi-0", 1, payload, NOW))
    assert await drain(heard) == [0.0, 1.0, 2.0, 3.0, 10.0, 11.0, 12.0, 13.0]
    assert heard.subscriber.counts.missing == 0
    device.outlet.detach()


# --- in -------------------------------------------------------------------------------------------------------------


async def sent_by(name: str, epoch: int, *values: float) -> list[Message]:
    device = Device(name, epoch)
    for value in values:
        device.flow.emit(value)
    device.outlet.detach()
    return [Message(name, 1, payload, NOW) for payload in device.sent]


async def test_no_device_takes_a_stream_over_by_its_own_word() -> None:
    heard = source()
    heard.placed(agent("pi-0", 5), NOW, here=False)
    for message in await sent_by("rogue", 1_000_000, 666.0):
        heard.hear(message)
    for message in await sent_by("pi-0", 5, 1.0):
        heard.hear(message)
    heard.placed(agent("pi-0", 5), NOW + STREAM_PARKED_MS_MAX + 1, here=False)
    assert await drain(heard) == [1.0]
    assert heard.subscriber.counts.foreign == 1 and heard.parked == 0
    balanced(heard)


async def test_rows_that_come_before_our_copy_of_the_table_wait_for_it() -> None:
    heard = source()
    heard.placed(agent("pi-0", 5), NOW, here=False)
    for message in await sent_by("pi-1", 6, 1.0, 2.0):
        heard.hear(message)
    assert heard.waiting == 0 and heard.parked == 1
    heard.placed(agent("pi-1", 6), NOW + 100, here=False)
    assert await drain(heard) == [1.0, 2.0]
    balanced(heard)


async def test_messages_that_wait_for_the_table_are_bounded() -> None:
    heard = source()
    heard.placed(agent("pi-0", 5), NOW, here=False)
    for message in await sent_by("rogue", 9, *range(4 * (STREAM_PARKED_MAX + 3))):
        heard.hear(message)
    heard.hear(Message("rogue", 1, b"\xff", NOW))
    assert heard.parked == STREAM_PARKED_MAX and heard.subscriber.counts.foreign == 4 * 4
    heard.placed(agent("pi-0", 5), NOW + STREAM_PARKED_MS_MAX + 1, here=False)
    assert heard.subscriber.counts.malformed == 1 and heard.parked == 0


async def test_rows_that_the_agent_does_not_take_are_bounded_and_counted() -> None:
    told: list[str] = []
    heard = source(told=told)
    for message in await sent_by("pi-0", 0, *range(STREAM_WAITING_ROWS_MAX + 8)):
        heard.hear(message)
    assert heard.waiting == STREAM_WAITING_ROWS_MAX and heard.counts.overflow == 8 and "rows_dropped" in told
    assert (await drain(heard))[0] == 8.0, "the oldest went"
    balanced(heard)


async def test_rows_that_expire_while_the_agent_is_held_back_are_counted() -> None:
    heard = source(expire_ms=5_000)
    old = time.monotonic_ns() - 6_000_000_000
    heard.take_over([((1.0,), old), ((2.0,), time.monotonic_ns())])
    assert await drain(heard) == [2.0]
    assert heard.counts.outdated == 1
    balanced(heard)


async def test_late_rows_are_delivered_counted_and_told() -> None:
    told: list[str] = []
    heard = source(told=told, late_ms=1_000, expire_ms=60_000)
    device = Device("pi-0")
    for value in range(4):
        device.flow.emit(value)
    device.flow.emit(9.0)
    device.outlet.detach()
    heard.hear(Message("pi-0", 1, device.sent[0], NOW))  # by which the clocks are compared
    heard.hear(Message("pi-0", 1, device.sent[1], NOW + 3_000))
    assert await drain(heard) == [0.0, 1.0, 2.0, 3.0, 9.0]
    assert heard.subscriber.counts.late == 1 and told == ["stream_late"]


async def test_gap_and_malformed_message_are_told() -> None:
    told: list[str] = []
    heard = source(told=told)
    messages = await sent_by("pi-0", 0, *range(12))
    for message in (messages[0], messages[2], Message("pi-0", 1, b"\x01", NOW)):
        heard.hear(message)
    assert told == ["stream_gap", "stream_malformed"] and heard.subscriber.counts.missing == 4


async def test_row_that_was_in_hand_when_the_source_was_stopped_is_counted() -> None:
    heard = source()
    for message in await sent_by("pi-0", 0, 1.0, 2.0):
        heard.hear(message)

    async def never(_row: tuple[float, ...], _at_ns: int) -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(heard.run(never))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert heard.counts.unread == 2
    balanced(heard)
