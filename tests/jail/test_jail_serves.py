"""Frames in real jails: answers, faults that stay with their agent, weights, memory, deadlines, backpressure."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import jail_kernels as k
import pytest

from edgeswarm.drivers.jails import JailHost, KernelSpec
from edgeswarm.errors import JailGoneError, KernelError, LimitError, LocalError
from edgeswarm.jail.frames import FaultCode, Kind

pytestmark = pytest.mark.e2e


async def test_a_row_is_answered(spawn: Any, moody: bytes) -> None:
    served = await spawn(k.moody_spec(moody))
    reply = await served.ask(0, 1, k.row(k.ADD, 21))
    assert (reply.kind, reply.seq, reply.rows) == (Kind.REPLY, 1, 1)
    assert k.values(reply.payload) == (42.0, 0.0)


async def test_a_batch_is_answered_in_one_frame_and_in_order(spawn: Any, moody: bytes) -> None:
    served = await spawn(k.moody_spec(moody))
    rows = 150  # more than batch_max: several calls, one answer
    reply = await served.ask(0, 7, b"".join(k.row(k.ADD, i) for i in range(rows)), rows)
    assert k.values(reply.payload)[::2] == tuple(2.0 * i for i in range(rows))


async def test_rows_that_wait_together_are_answered_one_by_one_in_order(spawn: Any, moody: bytes) -> None:
    served = await spawn(k.moody_spec(moody), k.moody_spec(moody, slot=1, weight=10.0))
    assert served.jail.submit(0, 1, 1, k.row(k.SLOW, 0))  # the others queue up behind it
    for seq in range(2, 82):
        assert served.jail.submit(0, seq, 1, k.row(k.ADD, seq))
        assert served.jail.submit(1, seq, 1, k.row(k.ADD, seq))
    await served.until(lambda: len(served.replies) == 161)
    for slot, weight in ((0, 2.0), (1, 10.0)):
        answers = [(r.seq, k.values(r.payload)[0]) for r in served.replies if r.slot == slot and r.seq > 1]
        assert answers == [(seq, weight * seq) for seq in range(2, 82)]


async def test_one_bad_row_among_waiting_ones_faults_alone(spawn: Any, moody: bytes) -> None:
    served = await spawn(k.moody_spec(moody))
    assert served.jail.submit(0, 1, 1, k.row(k.SLOW, 0))
    for seq in range(2, 12):
        assert served.jail.submit(0, seq, 1, k.row(k.TRAP if seq == 5 else k.ADD, seq))
    await served.until(lambda: len(served.replies) == 11)
    faults = [r for r in served.replies if r.kind == Kind.FAULT]
    assert [(r.seq, r.fault) for r in faults] == [(5, FaultCode.TRAP)]
    assert {r.seq: k.values(r.payload)[0] for r in served.replies if r.kind == Kind.REPLY and r.seq > 5} == {
        seq: 2.0 * seq for seq in range(6, 12)
    }


async def test_a_fault_says_how_long_its_call_took_as_an_answer_does(spawn: Any, moody: bytes) -> None:
    served = await spawn(k.moody_spec(moody, deadline_ms=30))
    slow = await served.ask(0, 1, k.row(k.SPIN))
    assert slow.fault is FaultCode.DEADLINE
    assert slow.rows >= 15_000, "us: it was interrupted past its deadline, and half of that at least was its own"


@pytest.mark.parametrize(
    ("mood", "code", "text"),
    [
        (k.TRAP, FaultCode.TRAP, "unreachable"),
        (k.SPIN, FaultCode.DEADLINE, "deadline"),
        (k.NAN, FaultCode.NON_FINITE, "NaN"),
        (k.GROW, FaultCode.TRAP, "unreachable"),
        (k.RECURSE, FaultCode.TRAP, "stack overflow"),
        (k.OUTSIDE, FaultCode.TRAP, "memory access out of bounds"),
        (k.DIVIDE, FaultCode.TRAP, "integer division by zero"),
    ],
)
async def test_a_fault_of_one_agent_leaves_the_others_and_itself_usable(
    spawn: Any, moody: bytes, mood: float, code: FaultCode, text: str
) -> None:
    served = await spawn(k.moody_spec(moody), k.moody_spec(moody, slot=1, weight=3.0))
    reply = await served.ask(0, 1, k.row(mood, 0))
    assert (reply.kind, reply.fault) == (Kind.FAULT, code)
    assert text in reply.text
    assert k.values((await served.ask(1, 1, k.row(k.ADD, 5))).payload)[0] == 15.0
    assert k.values((await served.ask(0, 2, k.row(k.ADD, 5))).payload) == (10.0, 0.0)  # fresh, with its weights
    assert not served.exits


async def test_an_error_of_the_callback_loses_no_other_answer(spawn: Any, moody: bytes) -> None:
    served = await spawn(k.moody_spec(moody))
    reported: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    hand_out = served.on_reply

    def clumsy(reply: Any) -> None:
        hand_out(reply)
        if reply.seq == 2:
            raise ValueError("oops")

    served.jail._on_reply = clumsy
    for seq in range(5):
        served.jail.submit(0, seq, 1, k.row(k.ADD, seq))
    await served.until(lambda: len(served.replies) == 5)
    assert [str(context["exception"]) for context in reported] == ["oops"]


async def test_memory_grows_up_to_the_limit_and_no_further(spawn: Any, moody: bytes) -> None:
    served = await spawn(k.moody_spec(moody, memory_limit_bytes=131_072 + 2 * 16 * 65_536))
    assert k.values((await served.ask(0, 1, k.row(k.GROW))).payload)[1] == 16.0
    assert k.values((await served.ask(0, 2, k.row(k.GROW))).payload)[1] == 32.0
    assert (await served.ask(0, 3, k.row(k.GROW))).fault is FaultCode.TRAP


async def test_an_agent_that_overwrites_its_weights_is_dead_and_says_so(spawn: Any, moody: bytes) -> None:
    served = await spawn(k.moody_spec(moody), k.moody_spec(moody, slot=1))
    for seq in (1, 2):
        reply = await served.ask(0, seq, k.row(k.SCRIBBLE if seq == 1 else k.ADD))
        assert reply.fault is FaultCode.MEMORY
        assert "weights" in reply.text
    assert (await served.ask(1, 1, k.row(k.ADD))).kind == Kind.REPLY


async def test_a_batch_with_a_bad_row_faults_as_a_whole(spawn: Any, moody: bytes) -> None:
    served = await spawn(k.moody_spec(moody))
    reply = await served.ask(0, 1, k.row(k.ADD) + k.row(k.NAN) + k.row(k.ADD), 3)
    assert reply.fault is FaultCode.NON_FINITE


async def test_rows_far_apart_in_memory_are_gathered_and_scattered(host: JailHost, spawn: Any) -> None:
    code = await host.compile(k.assemble(k.STRIDED, k.STRIDED_LAYOUT))
    served = await spawn(KernelSpec(0, "strided", code, k.STRIDED_LAYOUT, b""))
    for seq, rows in enumerate((1, 2, 3, 64, 130), start=1):
        numbers = [float(i) for i in range(3 * rows)]
        reply = await served.ask(0, seq, struct.pack(f"<{3 * rows}f", *numbers), rows)
        assert k.values(reply.payload) == tuple(sum(numbers[3 * i : 3 * i + 3]) for i in range(rows))


# --- weights and memory ---------------------------------------------------------------------------------------------


async def test_weights_are_swapped_between_two_frames(spawn: Any, moody: bytes) -> None:
    served = await spawn(k.moody_spec(moody))
    for seq in range(1, 51):
        assert served.jail.submit(0, seq, 1, k.row(k.ADD, 1))
    await served.jail.swap_weights(0, struct.pack("<f", 5.0))
    for seq in range(51, 101):
        assert served.jail.submit(0, seq, 1, k.row(k.ADD, 1))
    await served.until(lambda: len(served.replies) == 100)
    assert [k.values(r.payload)[0] for r in served.replies] == [2.0] * 50 + [5.0] * 50
    assert (await served.ask(0, 101, k.row(k.TRAP))).kind == Kind.FAULT
    assert k.values((await served.ask(0, 102, k.row(k.ADD))).payload)[0] == 5.0  # a fresh instance has the new ones


async def test_weights_larger_than_the_ring_are_swapped_in_pieces(host: JailHost, spawn: Any) -> None:
    size = 300_000
    layout = k.replace(k.LAYOUT, weights=k.abi.Weights(131_072, size, (size // 4,)), memory_bytes=1 << 20)
    text = k.MOODY.replace("2 64)", "16 64)").replace(str(k.WEIGHTS), str(131_072 + size - 4))
    code = await host.compile(k.assemble(text, layout))
    first, second = (struct.pack("<f", w) * (size // 4) for w in (2.0, 7.0))
    served = await spawn(KernelSpec(0, "large", code, layout, first))
    assert k.values((await served.ask(0, 1, k.row(k.ADD))).payload)[0] == 2.0
    await served.jail.swap_weights(0, second)
    assert k.values((await served.ask(0, 2, k.row(k.ADD))).payload)[0] == 7.0


@pytest.mark.parametrize("size", [0, 3, 8, 100_000])
async def test_weights_of_the_wrong_size_are_refused(spawn: Any, moody: bytes, size: int) -> None:
    served = await spawn(k.moody_spec(moody))
    with pytest.raises(LocalError, match=f"weights of 4 bytes expected, found {size}"):
        await served.jail.swap_weights(0, bytes(size))


async def test_the_jail_too_refuses_weights_of_the_wrong_size_and_keeps_the_old_ones(spawn: Any, moody: bytes) -> None:
    served = await spawn(k.moody_spec(moody))
    link = served.jail._link
    for aux, content, last in ((0, bytes(16), True), (4, bytes(8), True), (0, b"", True), (0, bytes(4), False)):
        link.send_own(0, Kind.WEIGHTS, link.next_own_seq(), content, aux=aux, last=last)
    await served.until(lambda: len(served.replies) == 3)
    assert [(r.fault, "weights" in r.text) for r in served.replies] == [(FaultCode.BAD_FRAME, True)] * 3
    assert k.values((await served.ask(0, 1, k.row(k.ADD))).payload)[0] == 2.0


async def test_memory_goes_from_one_call_to_the_next_and_is_restored(host: JailHost, spawn: Any) -> None:
    code = await host.compile(k.assemble(k.COUNTER, k.COUNTER_LAYOUT))
    spec = KernelSpec(0, "counter", code, k.COUNTER_LAYOUT, b"", memory_width=1)
    # `run_batch` of this kernel traps: an agent with a memory, or of batch 1, is warmed up and run row by row
    served = await spawn(spec)
    assert served.jail.faults == {}
    assert [k.values((await served.ask(0, seq, struct.pack("<f", 1.0))).payload)[0] for seq in (1, 2, 3)] == [1, 2, 3]
    reply = await served.ask(0, 4, struct.pack("<3f", 10, 20, 30), 3)
    assert k.values(reply.payload) == (13.0, 33.0, 63.0)
    successor = await spawn(spec)
    await successor.jail.set_memory(0, reply.payload[-4:])
    assert k.values((await successor.ask(0, 1, struct.pack("<f", 1.0))).payload) == (64.0,)
    with pytest.raises(LocalError, match="memory of 4 bytes expected, found 0"):
        await successor.jail.set_memory(0, b"")


# --- deadlines ------------------------------------------------------------------------------------------------------


async def test_a_slow_call_within_its_deadline_is_not_interrupted_by_another_agents(spawn: Any, moody: bytes) -> None:
    """The slow call is of slot 1, whose deadline is long; the frame of slot 0 waits behind it past its own deadline."""
    served = await spawn(k.moody_spec(moody, deadline_ms=10), k.moody_spec(moody, slot=1, deadline_ms=5_000))
    assert served.jail.submit(1, 1, 1, k.row(k.SLOW, 1))
    assert served.jail.submit(0, 1, 1, k.row(k.ADD, 1))
    await served.until(lambda: len(served.replies) == 2)
    assert [(r.slot, r.kind) for r in served.replies] == [(1, Kind.REPLY), (0, Kind.REPLY)]


async def test_a_late_wake_up_does_not_fault_a_quick_call(spawn: Any, moody: bytes) -> None:
    served = await spawn(k.moody_spec(moody))
    for seq in range(1, 200):
        served.jail._link.poke()
        assert (await served.ask(0, seq, k.row(k.ADD, seq))).kind == Kind.REPLY


async def test_a_jail_that_does_not_answer_at_all_is_killed(spawn: Any, moody: bytes) -> None:
    served = await spawn(k.moody_spec(moody, deadline_ms=50))
    served.jail._link.poke = lambda: None  # as if the wake-up never came through
    assert served.jail.submit(0, 1, 1, k.row(k.SPIN))
    ended = await served.exit()
    assert "no answer" in ended.text
    assert not ended.quarantine
    with pytest.raises(JailGoneError):
        served.jail.submit(0, 2, 1, k.row(k.ADD))


# --- starting, and what is refused ----------------------------------------------------------------------------------


async def test_an_agent_that_cannot_be_loaded_is_a_fault_of_its_slot(spawn: Any, moody: bytes) -> None:
    broken = k.moody_spec(b"no code", slot=1)
    small = KernelSpec(2, "small", moody, k.replace(k.LAYOUT, memory_bytes=1 << 20), bytes(4))  # more than it has
    far = k.replace(k.LAYOUT, weights=k.abi.Weights(1 << 19, 4, (1,)), memory_bytes=1 << 20)
    served = await spawn(k.moody_spec(moody), broken, small, KernelSpec(3, "far", moody, far, bytes(4)))
    assert sorted(served.jail.faults) == [1, 3]
    assert "past its memory" in served.jail.faults[3]
    assert (await served.ask(0, 1, k.row(k.ADD))).kind == Kind.REPLY
    assert (await served.ask(1, 1, k.row(k.ADD))).fault is FaultCode.BAD_FRAME


async def test_a_kernel_that_loops_when_it_is_warmed_up_is_a_fault_of_its_slot(host: JailHost, spawn: Any) -> None:
    looping = await host.compile(
        k.assemble(k.MOODY.replace("(local.set $in (i32.mul", "(loop $e (br $e)) (local.set $in (i32.mul"))
    )
    fine = await host.compile(k.assemble(k.MOODY))
    served = await spawn(k.moody_spec(looping, deadline_ms=100), k.moody_spec(fine, slot=1))
    assert "deadline" in served.jail.faults[0]
    assert (await served.ask(1, 1, k.row(k.ADD))).kind == Kind.REPLY


async def test_what_could_never_be_sent_is_refused(spawn: Any, moody: bytes) -> None:
    served = await spawn(k.moody_spec(moody))
    jail = served.jail
    for call, error, text in (
        (lambda: jail.submit(9, 1, 1, k.row(k.ADD)), LocalError, "slot 9"),
        (lambda: jail.submit(0, 1, 1, b"12345"), LocalError, "8 bytes expected, found 5"),
        (lambda: jail.submit(0, 1, 0, b""), LocalError, "0 rows"),
        (lambda: jail.submit(0, -1, 1, k.row(k.ADD)), LocalError, "seq"),
        (lambda: jail.submit(0, 1 << 63, 1, k.row(k.ADD)), LocalError, "seq"),
        (lambda: jail.submit(0, 1, 100_000, k.row(k.ADD) * 100_000), LimitError, "at most"),
    ):
        with pytest.raises(error, match=text):
            call()
    assert jail.submit(0, 1, jail.rows_max(0), k.row(k.ADD) * jail.rows_max(0))
    with pytest.raises(LocalError, match="in flight"):
        jail.submit(0, 1, 1, k.row(k.ADD))
    await served.until(lambda: len(served.replies) == 1)


async def test_a_full_ring_takes_nothing_and_loses_nothing(spawn: Any, moody: bytes) -> None:
    served = await spawn(k.moody_spec(moody, deadline_ms=10_000))
    assert served.jail.submit(0, 0, 1, k.row(k.SLOW))
    sent = 1
    while served.jail.submit(0, sent, 1, k.row(k.ADD, sent)):
        sent += 1
    assert served.jail.in_flight == sent
    assert 100 < sent < 3_000
    await served.until(lambda: len(served.replies) == sent)
    assert [r.seq for r in served.replies] == list(range(sent))
    assert served.jail.in_flight == 0
    assert served.jail.submit(0, sent, 1, k.row(k.ADD))


async def test_agents_that_cannot_share_a_jail_are_refused(spawn: Any, moody: bytes) -> None:
    with pytest.raises(LocalError, match="slot can be taken once"):
        await spawn(k.moody_spec(moody), k.moody_spec(moody))
    with pytest.raises(LimitError, match="deadline"):
        await spawn(k.moody_spec(moody, deadline_ms=0))
    with pytest.raises(LimitError, match="its kernel needs"):
        await spawn(k.moody_spec(moody, memory_limit_bytes=1000))
    with pytest.raises(LimitError, match="KERNEL_MEMORY_BYTES_MAX"):
        await spawn(k.moody_spec(moody, memory_limit_bytes=1 << 40))
    with pytest.raises(LocalError, match="memory of 2 values"):
        await spawn(k.moody_spec(moody, memory_width=2))
    with pytest.raises(LocalError, match="weights of 4 bytes"):
        await spawn(KernelSpec(0, "light", moody, k.LAYOUT, b""))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('(module (import "a" "b" (func)) (memory (export "memory") 1) (func (export "run")))', "imports"),
        ('(module (func (export "run")) (func (export "run_batch") (param i32)))', "memory"),
        ('(module (memory (export "memory") 1) (func (export "run") (param i32)))', "run"),
        ('(module (memory (export "memory") 1) (func (export "run")) (func (export "run_batch")))', "run_batch"),
        ("(module (memory i64 1))", "memory64"),
    ],
)
async def test_a_module_that_does_not_keep_the_abi_is_refused_by_its_jail(
    host: JailHost, text: str, found: str
) -> None:
    import wasmtime

    with pytest.raises(KernelError, match=found):
        await host.compile(bytes(wasmtime.wat2wasm(text)))


async def test_what_is_no_module_is_refused_by_its_jail(host: JailHost) -> None:
    with pytest.raises(KernelError):
        await host.compile(b"\0asm\1\0\0\0garbage")
    with pytest.raises(LimitError, match="1 to"):
        await host.compile(b"")


async def test_compiling_past_the_deadline_is_a_limit_error(host: JailHost) -> None:
    """Some 20 MB of machine code take the compiler a while; the jail is killed long before."""
    body = "(local.set 0 (f32.add (f32.sqrt (local.get 0)) (f32.load (i32.trunc_f32_s (local.get 0)))))" * 2000
    functions = f"(func (param f32) {body})" * 20
    text = '(module (memory (export "memory") 1) (func (export "run")) (func (export "run_batch") (param i32))'
    import wasmtime

    with pytest.raises(LimitError, match="took longer than 50 ms"):
        await host.compile(bytes(wasmtime.wat2wasm(text + functions + ")")), deadline_s=0.05)


async def test_an_unknown_policy_is_named(host: JailHost, spawn: Any, moody: bytes) -> None:
    with pytest.raises(LocalError, match="expected one of build, .*strict, found 'lax'"):
        await spawn(k.moody_spec(moody), policy="lax")
