"""Mutated ring frames, either way, and mutated socket messages: zygote and supervisor survive, no answer is invented.

`make soak` tries 10,000 of each, `make test` 500.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import struct
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jail_kernels as k
import pytest
from mutants import batches, mutant, mutant_tree

from edgeswarm.drivers.jail_life import parse_told
from edgeswarm.drivers.jail_link import JailLink
from edgeswarm.drivers.jail_policy import load_policies
from edgeswarm.drivers.jail_zygote import Program, ZygoteProcess, parse_message
from edgeswarm.drivers.jails import JailHost
from edgeswarm.ids import JailId
from edgeswarm.jail import frames
from edgeswarm.jail.frames import Kind, RingError
from edgeswarm.jail.policy import to_json

SPEC = k.moody_spec(b"code", deadline_ms=300)
PIECES = tuple(struct.pack("<I", word) for word in (0, 8, 24, 32, 0xFFFF_FFFF, 0xFFFF_FFF8))


# --- what a jail may write ------------------------------------------------------------------------------------------


def honest_answers(link: JailLink) -> bytes:
    """What a jail would write for rows 1 to 4 of slot 0, and the ping that follows."""
    memory = memoryview(bytearray(link._reader.capacity))
    writer = frames.Writer(memory, memoryview(bytearray(8)).cast("Q"))
    for seq in range(1, 4):
        writer.put(0, Kind.REPLY, seq, 1, 5, k.row(float(seq), 0.0))
    writer.put(0, Kind.FAULT, 4, 0, 1, b"trap")
    writer.put(0, Kind.ACK, link._own_seq, 1, Kind.PING, b"")
    return bytes(memory[: writer.head])


@pytest.mark.parametrize("numbers", batches())
def test_mutated_answers_are_taken_as_asked_for_or_end_the_jail(numbers: range) -> None:
    """Nothing but RingError; an answer that is taken belongs to a frame in flight, once, and has its size."""
    for number in numbers:
        link = JailLink(JailId(1), [SPEC])
        try:
            for seq in range(1, 5):
                assert link.submit(0, seq, 1, k.row(k.ADD))
            assert link.send_own(0, Kind.PING, link.next_own_seq(), b"")
            asked = {(0, seq) for seq in range(1, 5)} | {(0, link._own_seq)}
            content = mutant(honest_answers(link), number, among=PIECES)
            link._shared.from_jail[: len(content)] = content[: len(link._shared.from_jail)]
            rng = random.Random(number)
            heads = [struct.pack("<Q", rng.choice((len(content) & -8, 184, 64, 1 << 63))), rng.randbytes(8)]
            found = []
            for head in (heads[0], mutant(heads[0], number) if rng.random() < 0.5 else heads[0], heads[1]):
                os.write(link._ends.inside[2], head)
                try:
                    found += link.collect()
                except RingError:
                    break
            for reply in found:
                assert (reply.slot, reply.seq) in asked, f"mutant {number}"
                asked.remove((reply.slot, reply.seq))
                if reply.kind == Kind.REPLY:
                    assert (reply.rows, len(reply.payload)) == (1, 8), f"mutant {number}"
        finally:
            link.close()


@pytest.mark.e2e
@pytest.mark.parametrize("numbers", batches())
async def test_mutated_frames_never_make_a_jail_answer_what_was_not_asked(
    host: JailHost, spawn: Any, moody: bytes, numbers: range
) -> None:
    """The supervisor's own ring is broken under it: the jail faults, or ends; if it answers, the answer is right."""
    neighbour = await spawn(k.moody_spec(moody))
    tally = Counter[str]()

    async def one(number: int) -> str:
        served = await spawn(k.moody_spec(moody, deadline_ms=300))
        link = served.jail._link
        rng = random.Random(number)
        whole = frames.HEADER.pack(32, 0, rng.choice((Kind.RUN, Kind.RUN, Kind.PING, Kind.WEIGHTS)), 1, 1, 0)
        content = mutant(whole + k.row(k.ADD, 3.0), number, among=PIECES)[:256]
        link._flights[0, 1] = link._lanes[0].single
        link._shared.to_jail[: len(content)] = content
        os.write(link._wake, struct.pack("<Q", rng.choice((32, 32, frames.padded(len(content)), 24, 4096))))
        with contextlib.suppress(TimeoutError):
            await served.until(lambda: bool(served.replies or served.exits), within_s=0.1)
        if served.replies and served.replies[0].kind == Kind.REPLY:
            mood, value = struct.unpack_from("<2f", link._shared.to_jail, 24)
            assert served.replies[0].payload[:4] == struct.pack("<f", 2.0 * value), f"mutant {number}: {mood}"
        await served.jail.close()
        if served.replies:
            return "answered" if served.replies[0].kind == Kind.REPLY else "faulted"
        return "ended" if served.exits else "silent"

    for first in range(numbers.start, numbers.stop, 4):
        tally.update(await asyncio.gather(*(one(number) for number in numbers[first - numbers.start :][:4])))
    assert host.zygote_starts == 1
    assert tally["ended"] and tally["answered"]
    assert (await neighbour.ask(0, 1, k.row(k.ADD))).kind == Kind.REPLY


# --- what the zygote may be told, and may say -------------------------------------------------------------------------

POLICIES = load_policies(k.SANDBOX)
POLICY = {"order": "policy", "policy": to_json(POLICIES["strict"])}


@pytest.fixture
def zygote() -> Iterator[ZygoteProcess]:
    found = ZygoteProcess(Program(), tuple(POLICIES.values()))
    found.socket.settimeout(20)
    message = found.receive()
    assert message is not None
    assert "hello" in message.body
    yield found
    found.stop()


def answered_to(zygote: ZygoteProcess, number: int) -> int:
    """Ask for a jail of a policy that is none, and wait for the refusal; how many other messages came before it."""
    zygote.send({"order": "jail", "id": number, "policy": "none", "tier": "C", "memory_bytes": 0, "job": {}})
    others = 0
    while (message := zygote.receive()) is not None:
        for fd in message.fds:
            os.close(fd)
        if message.body.get("refused") == number:
            return others
        others += 1
    raise AssertionError("the zygote ended")


@pytest.mark.e2e
@pytest.mark.parametrize("numbers", batches())
def test_a_zygote_survives_mutated_orders(zygote: ZygoteProcess, numbers: range) -> None:
    """Whatever a mutant makes it do, it says so in a form that the supervisor takes, and takes the next order."""
    for number in numbers:
        rng = random.Random(number)
        link = JailLink(JailId(1 + number % 1000), [SPEC])
        try:
            order = {"order": "jail", "id": link.id, "policy": "strict", "tier": "C", "memory_bytes": 1 << 20}
            text = mutant_tree(POLICY if rng.random() < 0.3 else {**order, "job": link.job}, number)
            sent = list(link.fds)[: rng.choice((6, 6, 6, 5, 0))]
            zygote.socket.send(text) if not sent else _send(zygote, text, sent)
            link.hand_over()
        finally:
            link.close()
        if number % 10 == 9:
            answered_to(zygote, 5_000_000 + number)
    answered_to(zygote, 4_000_000)
    assert zygote.process.poll() is None


def _send(zygote: ZygoteProcess, text: bytes, fds: list[int]) -> None:
    import socket

    socket.send_fds(zygote.socket, [text], fds)


HELLO = {"hello": {"tier": "A", "layers": {"wasmtime": [True, ""], "seccomp": [True, "x"], "landlock": [False, "n"]}}}
SAID: list[dict[str, Any]] = [
    HELLO,
    {"spawned": 3, "pid": 77},
    {"refused": 3, "text": "no"},
    {"exited": 3, "pid": 77, "code": 0},
    {"exited": 3, "pid": 77, "signal": 9},
]


@pytest.mark.parametrize("numbers", batches())
def test_mutated_messages_of_a_zygote_have_their_shape_or_are_none(numbers: range) -> None:
    for number in numbers:
        tree = SAID[number % len(SAID)]
        message = parse_message(mutant_tree(tree, number), (9,) if "spawned" in tree else ())
        if message is None:
            continue
        match message.body:
            case {"hello": {"tier": "A" | "B" | "C" | "D", "layers": layers}}:
                assert all(type(ok) is bool and type(detail) is str for ok, detail in layers.values())
            case {"spawned": int(), "pid": int(pid)}:
                assert pid > 0
                assert message.fds == (9,)
            case {"refused": int(), "text": str()}:
                assert message.fds == ()
            case {"exited": int(), "pid": int(), "code": int()} | {"exited": int(), "pid": int(), "signal": int()}:
                assert message.fds == ()
            case _:
                raise AssertionError(f"mutant {number}: {message.body}")


TOLD: list[dict[str, Any]] = [
    {"ready": {"performed": ["Limit(DATA)"], "absent": [], "stamps_us": [["Load", 5]]}, "faults": {"0": "x"}},
    {"ready": {"performed": [], "absent": [], "stamps_us": []}, "faults": {}, "compiled": 5000},
    {"failed": "the module was refused", "invalid": "no export"},
]


@pytest.mark.parametrize("numbers", batches())
def test_mutated_messages_of_a_jail_have_their_shape_or_are_none(numbers: range) -> None:
    for number in numbers:
        text = mutant_tree(TOLD[number % len(TOLD)], number)
        found = parse_told(text)
        match found:
            case None:
                continue
            case {"failed": str(), "invalid": str()}:
                found["failed"].encode("utf-8")
                found["invalid"].encode("utf-8")
            case {"ready": dict(ready), "faults": dict(faults), "compiled": int()}:
                assert all(type(ready[key]) is list for key in ("performed", "absent", "stamps_us"))
                for slot, fault in faults.items():
                    assert type(slot) is int
                    fault.encode("utf-8")
                json.dumps(ready)
            case _:
                raise AssertionError(f"mutant {number}: {found}")
