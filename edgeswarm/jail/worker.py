"""What runs inside a jail: load the agents while that is allowed, then answer frames until the supervisor is gone.

Invariants: every frame from the supervisor gets exactly one answer (REPLY, FAULT or ACK), except a chunk of weights
that is not the last; answers of one slot keep the order of its frames; a fault of one agent never stops another.
The epoch thread sleeps in poll until the supervisor pokes it (a call is past its deadline: advance the epoch) or is
gone (end of file on the control socket: end at once, even while a kernel spins).
Leaves the steps of the jail to `enter`, the calls to `agent`, and when to poke to the supervisor.
"""

from __future__ import annotations

import _thread
import json
import os
import select
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

from edgeswarm.errors import JailError
from edgeswarm.jail import enter, kernel, plan, self_test, trial, wasm
from edgeswarm.jail.agent import Agent, AgentSpec, CallFaultError, Ticks
from edgeswarm.jail.frames import (
    FAULT_TEXT_BYTES_MAX,
    HEAD,
    SPIN_NS,
    FaultCode,
    Header,
    Kind,
    Reader,
    RingError,
    Shared,
    Writer,
    spin,
)

FDS: Final[tuple[str, ...]] = ("control", "shared", "wake", "answer", "epoch", "payload")
"""Descriptors that come with the order for a jail, in this order."""

_RUN, _REPLY = int(Kind.RUN), int(Kind.REPLY)  # an enumeration's members are slow to look up

EXIT_GONE: Final = 0
EXIT_REFUSED: Final = 70
"""A step or a load failed; the control socket says which."""
EXIT_RING: Final = 71
"""The ring was broken by the supervisor's side."""

_HEADS_BYTES_MAX: Final = 448  # a multiple of 8 that fits the interpreter's small-object allocator
_PUBLISH_AFTER_NS: Final = 500_000
_EPOCH_STACK_BYTES: Final = 128 * 1024


def tell(control: int, message: dict[str, Any]) -> None:
    os.write(control, json.dumps(message).encode("utf-8"))


class Jail:
    """One jail's life from the fork to its end; `steps` come from the plan, the rest from the supervisor's order."""

    def __init__(self, order: dict[str, Any], fds: Sequence[int], engine: wasm.Engine) -> None:
        """Map what the jail will need of memory, so that it need not keep the descriptors."""
        self.control, shared_fd, self.wake, self.answer, self.epoch, payload_fd = fds
        self.engine = engine
        self.order = order
        self.keep: tuple[int, ...] = (self.control, self.wake, self.answer, self.epoch)
        self.output = _map(shared_fd, writable=True)[1]
        self.shared = Shared(self.output)
        self._payload_at, self.payload = _map(payload_fd, writable=False)
        self.may_spin = len(os.sched_getaffinity(0)) > 1
        self.loaded: list[tuple[AgentSpec, wasm.Module, Sequence[int]]] = []
        """What `begin` makes agents of: their code, and where their weights are in the payload."""
        self.agents: dict[int, Agent] = {}
        self.faults: dict[int, str] = {}
        self.ticks = Ticks()

    def become(self, steps: Sequence[plan.Step], *, forked: Callable[[int], NoReturn]) -> NoReturn:
        """Perform the steps, then serve.  Never returns: a refusal is told on the control socket."""
        around = enter.Surroundings(
            keep=self.keep,
            forked=forked,
            load=self.load,
            code=self.code,
            self_test=self.test_self,
            begin=self.begin,
            prepare=self.prepare,
        )
        try:
            entered = enter.perform(steps, around)
            self.serve({"performed": entered.performed, "absent": entered.absent, "stamps_us": entered.stamps_us})
        except RingError as error:
            self._end(str(error), EXIT_RING)
        except Exception as error:  # whatever it was, the supervisor hears it before the jail ends
            self._end(f"{type(error).__name__}: {error}" if not isinstance(error, JailError) else str(error))

    def _end(self, text: str, code: int = EXIT_REFUSED) -> NoReturn:
        try:
            tell(self.control, {"failed": text[:1000]})
        finally:
            os._exit(code)

    def prepare(self) -> None:
        """Where the plan has it: what needs files and threads of its own."""

    # --- loading: seccomp stage 1 ------------------------------------------------------------------------------------

    def load(self) -> None:
        """Deserialise the code of every agent; one that fails is a fault of its slot alone."""
        self.start_watching(meanwhile=lambda: trial.call(self.engine))
        for tree in self.order["agents"]:
            spec = AgentSpec.from_json(tree)
            try:
                module = self.engine.load_at(self._payload_at + tree["cwasm"][0], len(self._part(tree["cwasm"])))
                self.loaded.append((spec, module, tree["weights"]))
            except JailError as error:
                self.faults[spec.slot] = f"{error}"[:500]

    def code(self) -> list[tuple[int, int]]:
        """Where the loaded kernels' machine code lies."""
        return [module.image() for _, module, _ in self.loaded]

    # --- an agent's first instructions: seccomp stage 2 ---------------------------------------------------------------

    def begin(self) -> None:
        """Instantiate and call every agent once; one that fails is a fault of its slot alone."""
        for spec, module, place in self.loaded:
            try:
                wasm.check_abi(module)
                agent = Agent(module, spec, weights=self._part(place), ticks=self.ticks, running=self.shared.running)
                agent.warm_up()
            except JailError as error:
                self.faults[spec.slot] = f"{error}"[:500]
                continue
            self.agents[spec.slot] = agent
        size_bytes = len(self.payload)
        self.payload.release()
        kernel.unmap(self._payload_at, size_bytes)

    def _part(self, place: Sequence[int]) -> memoryview:
        offset, size_bytes = place
        if offset < 0 or size_bytes < 0 or offset + size_bytes > len(self.payload):
            raise JailError(f"payload: {size_bytes} bytes at {offset} are not within {len(self.payload)}")
        return self.payload[offset : offset + size_bytes]

    def start_watching(self, *, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Start the epoch thread, without the threading module's wrapping, which costs every jail 200 KiB.

        meanwhile: what there is to do until it runs.
        """
        _thread.stack_size(_EPOCH_STACK_BYTES)
        started = _thread.allocate_lock()
        started.acquire()
        _thread.start_new_thread(self._watch, (started,))
        meanwhile()
        started.acquire()  # what the C library calls in a new thread, stage 2 forbids

    def _watch(self, started: _thread.LockType) -> None:
        """The epoch thread.  Never idle-wakes; ends the process when the supervisor's end of the socket is closed."""
        started.release()
        poll = select.poll()
        poll.register(self.epoch, select.POLLIN)
        poll.register(self.control, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self.control or not os.read(self.epoch, 64):
                    os._exit(EXIT_GONE)
            self.ticks.count += 1
            self.engine.increment_epoch()

    def test_self(self, entered: enter.Entered) -> None:
        self_test.run(entered)

    # --- serving: seccomp stage 2 ------------------------------------------------------------------------------------

    def serve(self, ready: dict[str, Any]) -> NoReturn:
        """Say ready, then answer frames until the supervisor's end of the wake pipe is closed."""
        tell(self.control, {"ready": ready, "faults": self.faults})
        reader = Reader(self.shared.to_jail, self.shared.tail_to_jail)
        desk = _Desk(self.agents, self.faults, self.shared, self.answer)
        hint, spins, idle_ns = self.shared.hint_to_jail, False, time.monotonic_ns()
        while True:
            if spins:
                spin(hint, reader.head, os.sched_yield)
            told = os.read(self.wake, _HEADS_BYTES_MAX)
            if not told:
                os._exit(EXIT_GONE)
            spins = self.may_spin and time.monotonic_ns() - idle_ns < SPIN_NS
            reader.admit(told)
            frame = reader.take()
            if frame is not None and reader.position == reader.head:
                desk.handle(*frame, alone=True)
            else:
                while frame is not None:
                    desk.handle(*frame)
                    frame = reader.take()
                desk.flush()
            reader.release()
            desk.publish()
            idle_ns = time.monotonic_ns()


def _map(fd: int, *, writable: bool) -> tuple[int, memoryview]:
    """The whole memory behind a descriptor: its address, and a view of it."""
    size_bytes = os.fstat(fd).st_size
    address = kernel.map_shared(fd, size_bytes, writable=writable)
    return address, kernel.view(address, size_bytes, writable=writable)


class CompileJail(Jail):
    """A jail that compiles one module and ends.  Runs no wasm; the wasm is read in stage 2 only."""

    def load(self) -> None:
        self.start_watching()

    def begin(self) -> None:
        """There is no agent."""

    def serve(self, ready: dict[str, Any]) -> NoReturn:
        """Compile, leave the code in the shared memory, say so, and wait for the end."""
        try:
            module = self.engine.compile(bytes(self.payload))
            wasm.check_abi(module)
            code = module.serialize()
        except wasm.WasmError as error:
            tell(self.control, {"failed": "the module was refused", "invalid": str(error)[:1000]})
            os._exit(EXIT_REFUSED)
        if len(code) > len(self.output):
            self._end(f"compiled code of {len(code)} bytes, at most {len(self.output)}")
        self.output[: len(code)] = code
        tell(self.control, {"ready": ready, "faults": {}, "compiled": len(code)})
        while os.read(self.wake, 8):
            pass
        os._exit(EXIT_GONE)


_AUX_MAX: Final = 0xFFFF_FFFF


class _Desk:
    """Turns frames into answers.  Single rows of one slot that wait together are computed in one call."""

    def __init__(self, agents: dict[int, Agent], faults: dict[int, str], shared: Shared, answer: int) -> None:
        self._agents = agents
        self._faults = faults
        self._writer = Writer(shared.from_jail, shared.tail_from_jail)
        self._hint = shared.hint_from_jail
        self._answer = answer
        self._published = 0
        self._published_ns = 0
        self._waiting: dict[int, list[tuple[int, memoryview]]] = {}

    def handle(self, header: Header, payload: memoryview, *, alone: bool = False) -> None:
        """One frame; unless it is alone, a single row may be put aside until `flush`."""
        _, slot, kind, seq, rows, aux = header
        agent = self._agents.get(slot)
        if agent is None or agent.dead:
            if kind == Kind.WEIGHTS and rows != 1:
                return
            text = self._faults.get(slot, f"no agent in slot {slot}") if agent is None else agent.dead
            self._fault(slot, seq, FaultCode.BAD_FRAME if agent is None else FaultCode.MEMORY, text)
            return
        if kind == _RUN:
            size_bytes = rows * agent.frame_bytes
            if not rows or not size_bytes <= len(payload) < size_bytes + 8:
                self._fault(slot, seq, FaultCode.BAD_FRAME, f"{rows} rows of {agent.frame_bytes} bytes expected")
            elif alone:
                self._run(agent, seq, rows, payload[:size_bytes])
            elif rows == 1 and not agent.memory and agent.spec.batch_max > 1:
                self._waiting.setdefault(slot, []).append((seq, payload[:size_bytes]))
            else:
                self._flush_slot(slot)
                self._run(agent, seq, rows, payload[:size_bytes])
            return
        self._flush_slot(slot)
        try:
            if kind == Kind.WEIGHTS:
                agent.stage_weights(payload, offset=aux, last=rows == 1)
                if rows != 1:
                    return
            elif kind == Kind.MEMORY:
                agent.set_memory(payload)
            elif kind != Kind.PING:
                raise CallFaultError(FaultCode.BAD_FRAME, f"unknown kind {kind}")
        except CallFaultError as fault:
            self._fault(slot, seq, fault.code, str(fault))
            return
        self._put(slot, Kind.ACK, seq, rows, kind, b"")

    def flush(self) -> None:
        """Compute every row that waits."""
        for slot in list(self._waiting):
            self._flush_slot(slot)

    def _flush_slot(self, slot: int) -> None:
        waiting = self._waiting.pop(slot, None)
        if waiting is None:
            return
        agent = self._agents[slot]
        step = agent.spec.batch_max
        for first in range(0, len(waiting), step):
            part = waiting[first : first + step]
            if len(part) > 1 and self._run_together(agent, part):
                continue
            for seq, payload in part:  # alone, or one of them is at fault: each answers for itself
                self._run(agent, seq, 1, payload)

    def _run_together(self, agent: Agent, part: list[tuple[int, memoryview]]) -> bool:
        """Several single rows in one call; False when the call faulted, and nothing was answered."""
        began = self._publish_if_due()
        try:
            answers = agent.run_batch(memoryview(b"".join([payload for _, payload in part])), len(part))
        except CallFaultError:
            return False
        slot, size, view = agent.spec.slot, agent.reply_bytes, memoryview(answers)
        took = _since(began) // len(part)
        for index, (seq, _) in enumerate(part):
            self._put(slot, _REPLY, seq, 1, took, view[index * size : (index + 1) * size])
        return True

    def _run(self, agent: Agent, seq: int, rows: int, payload: memoryview) -> None:
        slot = agent.spec.slot
        began = self._publish_if_due()
        if agent.dead:
            self._fault(slot, seq, FaultCode.MEMORY, agent.dead)
            return
        try:
            answer = agent.run(payload) if rows == 1 else agent.run_rows(payload, rows)
        except CallFaultError as fault:
            self._fault(slot, seq, fault.code, str(fault), took_us=_since(began))
        else:
            self._put(slot, _REPLY, seq, rows, _since(began), answer)

    def _fault(self, slot: int, seq: int, code: FaultCode, text: str, *, took_us: int = 0) -> None:
        self._put(slot, Kind.FAULT, seq, took_us, code, text.encode("utf-8")[:FAULT_TEXT_BYTES_MAX])

    def _put(self, slot: int, kind: int, seq: int, rows: int, aux: int, payload: bytes | memoryview) -> None:
        if self._writer.put(slot, kind, seq, rows, aux, payload) is None:
            raise RingError("the supervisor asked for more answers than it left room for")

    def publish(self) -> None:
        """Tell the supervisor how far the answers go."""
        head = self._writer.head
        if head != self._published:
            self._published = head
            os.write(self._answer, HEAD.pack(head))
            self._hint[0] = head

    def _publish_if_due(self) -> int:
        """The time (monotonic ns).  Between slow calls the supervisor hears of those before, so that it sees progress.

        Before a call, never after one: the last answer of a round is told after the room of its frame was given back.
        """
        now = time.monotonic_ns()
        if now - self._published_ns > _PUBLISH_AFTER_NS:
            self._published_ns = now
            self.publish()
        return now


def _since(began_ns: int) -> int:
    """How long a call took, in us: its answer says so, and the supervisor divides the jail's CPU time by that."""
    return min((time.monotonic_ns() - began_ns) // 1000, _AUX_MAX)


Start = Callable[[dict[str, Any], Sequence[int], wasm.Engine, Sequence[plan.Step], Callable[[int], NoReturn]], NoReturn]


def start_with(serving: type[Jail]) -> Start:
    """What a worker module offers as `start`: in a fresh child of the zygote, become the jail that the job describes.

    serving: of jobs that serve frames.
    """

    def start(
        job: dict[str, Any],
        fds: Sequence[int],
        engine: wasm.Engine,
        steps: Sequence[plan.Step],
        forked: Callable[[int], NoReturn],
    ) -> NoReturn:
        kinds: dict[str, type[Jail]] = {"serve": serving, "compile": CompileJail}
        if job["kind"] == "population":
            from edgeswarm.jail.population import PopulationJail  # for these jails alone; the files are still in sight

            kinds["population"] = PopulationJail
        kinds[job["kind"]](job, fds, engine).become(steps, forked=forked)

    return start


start: Final = start_with(Jail)
