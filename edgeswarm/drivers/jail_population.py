"""A population in a jail, without an event loop: its memory as the supervisor sees it, and its ticks.

The jail side is `jail/population.py`, which says what lies where.  Nothing that comes from the jail is trusted: every
answer must be the one to what was asked, every fault must name an agent that exists, in order; else the jail ends.
What the spans hold are the agents' own bytes, which they may write at any time: values, and never more than that.
"""

from __future__ import annotations

import mmap
import os
import select
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from edgeswarm.drivers.jail_ends import Ends
from edgeswarm.drivers.jail_population_spec import PopulationSpec, spans_of
from edgeswarm.drivers.jail_sync import SyncHost
from edgeswarm.drivers.jail_sync_life import SyncLife
from edgeswarm.errors import JailError, JailGoneError, LimitError, LocalError
from edgeswarm.ids import JailId
from edgeswarm.jail import kernel, wasm
from edgeswarm.jail.frames import CONTROL_BYTES, FaultCode
from edgeswarm.jail.pages import PAGE
from edgeswarm.jail.population import FAULT, FAULTS_AT, MESSAGE, READ_WEIGHTS, RESET, TEXT_AT, TEXT_BYTES_MAX
from edgeswarm.jail.population import TICK as _TICK
from edgeswarm.jail.population import WRITE_WEIGHTS as _WRITE_WEIGHTS
from edgeswarm.limits import JAIL_READY_MS_MAX, POPULATION_HOST_BYTES, POPULATION_TICK_MS_MAX

__all__ = ["Fault", "PopulationLink", "PopulationSpec", "SyncPopulation", "spans_of"]

_CODES: Final = (int(FaultCode.TRAP), int(FaultCode.DEADLINE))


class Fault(NamedTuple):
    """An agent that did not finish its tick, and is left out until it is reset."""

    agent: int
    code: FaultCode
    text: str


class PopulationLink:
    """Everything that is shared with the jail of one population."""

    def __init__(self, jail_id: JailId, spec: PopulationSpec) -> None:
        spec.check()
        self.id = jail_id
        self.spec = spec
        self.cpu_cores = 1.0
        self.memory_bytes_max = spec.count * (spec.limit_bytes + POPULATION_HOST_BYTES)
        self.faults_at = FAULTS_AT
        self.staging_at = _page(CONTROL_BYTES + spec.count * FAULT.size)
        self.spans_at = self.staging_at + _page(len(spec.weights))
        payload, order = self._lay_out()
        self.job: dict[str, Any] = {"kind": "population", "population": order, "staging_at": self.staging_at}
        self._payload_bytes = len(payload)
        self._ends = Ends()
        self._memory: list[int] = []
        try:
            size_bytes = self.spans_at + max(spec.count * spec.stride, PAGE)
            self._memory.append(kernel.memfd("population", size_bytes=size_bytes))
            self._memory.append(kernel.memfd("population-code", size_bytes=len(payload), content=payload))
            self.view = mmap.mmap(self._memory[0], size_bytes)
        except (OSError, ValueError) as error:
            self.close()
            raise JailError(f"population {spec.name}: no memory for {spec.count} agents: {error}") from None
        self.control, self.answers = self._ends.control, self._ends.answers

    def _lay_out(self) -> tuple[bytearray, dict[str, Any]]:
        """Code and weights in one piece of memory; weights where whole pages of them can be mapped."""
        spec, payload = self.spec, bytearray()
        places = []
        for code in (spec.cwasm, spec.driver):
            places.append([len(payload), len(code)])
            payload += code + bytes(-len(code) % 64)
        payload += bytes(-len(payload) % PAGE + spec.weights_offset % PAGE)
        weights_at = len(payload)
        payload += spec.weights
        payload += bytes(-len(payload) % PAGE)
        return payload, {
            "name": spec.name,
            "count": spec.count,
            "cwasm": places[0],
            "driver": places[1],
            "spans": [list(span) for span in spec.spans],
            "spans_at": self.spans_at,
            "weights_offset": spec.weights_offset,
            "weights_bytes": len(spec.weights),
            "weights_at": weights_at,
            "memory_bytes": spec.memory_bytes,
            "memory_limit_bytes": spec.limit_bytes,
            "resets_max": spec.resets_max,
            "filled": spec.filled,
        }

    @property
    def fds(self) -> tuple[int, ...]:
        """The jail's descriptors, in the order of `worker.FDS`."""
        control, wake, answer, epoch = self._ends.inside
        return (control, self._memory[0], wake, answer, epoch, self._memory[1])

    def hand_over(self) -> None:
        """The jail's descriptors are on their way; the shared memory's stays, to ask how much of it is in use."""
        self._ends.hand_over()
        while len(self._memory) > 1:
            os.close(self._memory.pop())

    def shared_bytes(self) -> int:
        """Bytes of the shared memory that are in use, and of code and weights."""
        return os.fstat(self._memory[0]).st_blocks * 512 + self._payload_bytes

    def close(self) -> None:
        """Let go of everything but the mapping: whoever holds a view of it may look at it as long as he wants."""
        self._ends.close()
        self._let_go()

    def _let_go(self) -> None:
        while self._memory:
            os.close(self._memory.pop())

    def ask(self, operation: int, index: int) -> None:
        os.write(self._ends.wake, MESSAGE.pack(operation, index))

    def poke(self) -> None:
        try:
            os.write(self._ends.epoch, b"!")
        except (BlockingIOError, BrokenPipeError):
            return  # thousands of pokes wait, or it is dead already


class SyncPopulation:
    """A population that is ready.  One thread uses it; every call blocks until it is answered or the jail is gone."""

    def __init__(self, host: SyncHost, spec: PopulationSpec, *, policy: str = "strict") -> None:
        """Starts its jail.  Raises JailStartError, JailError, LimitError."""
        self.link = PopulationLink(host.next_id(), spec)
        self._life = SyncLife(host, self.link, policy)
        self._closed = False
        self._awaited = 0
        """The operation that has no answer yet; 0: none."""
        self._owed: list[Fault] = []
        try:
            told = self._life.become_ready(within_ms=JAIL_READY_MS_MAX, judge=None)
            if told["faults"]:
                raise JailError(f"population {spec.name}: {next(iter(told['faults'].values()))}")
        except BaseException:
            self.close()
            raise
        self.started_ms = (time.monotonic_ns() - self._life.began_ns) / 1e6
        self.load_ms = sum(_took_ms(told["ready"]["stamps_us"], step) for step in ("Load", "Begin"))
        self._poll = select.poll()
        self._poll.register(self.link.answers, select.POLLIN)

    @property
    def spec(self) -> PopulationSpec:
        return self.link.spec

    @property
    def pid(self) -> int:
        return self._life.process.pid

    def memory_bytes(self) -> dict[str, int]:
        """What the population takes: bytes `held` (each once, whoever maps it) and those of its `page_tables`.

        held: the jail's own memory, its share of what it has from the zygote and from files, the memory that is shared
        with this process, code and weights.  `resident` is what ps shows, where a page counts as often as it is mapped.
        """
        pid, link = self.pid, self.link
        own = _fields(f"/proc/{pid}/smaps_rollup", "Pss_Anon", "Pss_File")
        status = _fields(f"/proc/{pid}/status", "VmRSS", "VmPTE", "RssAnon")
        shared = link.shared_bytes()
        return {
            "held": (sum(own.values()) or status["RssAnon"]) + shared,
            "page_tables": status["VmPTE"],
            "shared": shared,
            "resident": status["VmRSS"],
        }

    def tick(self) -> list[Fault]:
        """Every agent once; the agents that faulted, in order.

        Raises JailGoneError when the jail ends, or the tick takes longer than POPULATION_TICK_MS_MAX.
        """
        self._read_faults(self._ask(_TICK, 0))
        faults, self._owed = self._owed, []
        return sorted(faults)

    def _read_faults(self, count: int) -> None:
        """Take note of what a tick has left: also one that nobody waited for, whose faults the next tick tells."""
        last = -1
        for number in range(min(count, self.spec.count)):
            agent, what = FAULT.unpack_from(self.link.view, self.link.faults_at + number * FAULT.size)
            if not last < agent < self.spec.count or what & 0xFF not in _CODES:
                raise self._lied(f"fault {what} of agent {agent} after agent {last}")
            code = FaultCode(what & 0xFF)
            late = code is FaultCode.DEADLINE
            self._owed.append(Fault(agent, code, "ran past its deadline" if late else wasm.trap_text(what >> 8)))
            last = agent
        if count > self.spec.count:
            raise self._lied(f"{count} faults of {self.spec.count} agents")

    def reset(self, agent: int) -> None:
        """A fresh instance with the weights that the population began with.  Raises LimitError when none is left."""
        self._check(agent)
        self._ask(RESET, agent)
        self._owed = [fault for fault in self._owed if fault.agent != agent]  # of the instance that is gone

    def weights_of(self, agent: int) -> bytes:
        self._check(agent)
        self._ask(READ_WEIGHTS, agent)
        at = self.link.staging_at
        return self.link.view[at : at + len(self.spec.weights)]

    def set_weights(self, agent: int, weights: bytes) -> None:
        """The pages that hold them are this agent's own from now on.  Raises LocalError for the wrong size."""
        self._check(agent)
        if len(weights) != len(self.spec.weights):
            raise LocalError(
                f"population {self.spec.name}: weights of {len(self.spec.weights)} bytes expected, found {len(weights)}"
            )
        at = self.link.staging_at
        self.link.view[at : at + len(weights)] = weights
        self._ask(_WRITE_WEIGHTS, agent)

    def _check(self, agent: int) -> None:
        if not 0 <= agent < self.spec.count:
            raise LocalError(f"population {self.spec.name}: agent 0 to {self.spec.count - 1} expected, found {agent}")

    def _ask(self, operation: int, index: int) -> int:
        """The count that comes back."""
        if self._closed or self._life.gone:
            raise self._gone("")
        if self._awaited == _TICK:  # a call before was interrupted, by Ctrl-C for one: its answer comes first
            self._read_faults(self._answer())
        elif self._awaited:
            self._answer()
        try:
            self.link.ask(operation, index)
        except (BrokenPipeError, BlockingIOError):
            raise self._gone("") from None
        self._awaited = operation
        return self._answer()

    def _answer(self) -> int:
        """Wait for the answer to what was asked; returns its count."""
        patience_ms = max(POPULATION_TICK_MS_MAX, 3 * self.spec.deadline_ms)  # a late agent is stopped after two
        until = time.monotonic() + patience_ms / 1000
        while not self._poll.poll(self.spec.deadline_ms):
            if time.monotonic() > until:
                raise self._gone(f"killed: no answer within {patience_ms} ms (POPULATION_TICK_MS_MAX)")
            self.link.poke()
        told = os.read(self.link.answers, MESSAGE.size)
        if not told:
            raise self._gone("")
        operation, self._awaited = self._awaited, 0
        answered, count = MESSAGE.unpack(told) if len(told) == MESSAGE.size else (-1, 0)
        if answered == 0 and count <= TEXT_BYTES_MAX:
            text = bytes(self.link.view[TEXT_AT : TEXT_AT + count]).decode("utf-8", "replace")
            raise LimitError(text) if operation == RESET else JailError(f"population {self.spec.name}: {text}")
        if answered != operation:
            raise self._lied(f"answer {answered} to {operation}")
        return int(count)

    def _lied(self, text: str) -> JailGoneError:
        self._life.lie = f"population: {text}"
        return self._gone("")

    def _gone(self, reason: str) -> JailGoneError:
        name = self.spec.name
        if self._closed:
            return JailGoneError(f"population {name}: it is closed")
        return JailGoneError(f"population {name}: {self._life.end(reason).text}")

    def close(self) -> None:
        """End the jail in an orderly way, and wait for it.  Views of its memory stay readable."""
        if not self._closed:
            self._closed = True
            self._life.close()


def _fields(path: str, *names: str) -> dict[str, int]:
    """Lines `name: n kB` of a file in /proc, in bytes; 0 for one that this kernel does not have, or does not show."""
    found = dict.fromkeys(names, 0)
    try:
        with open(path, encoding="ascii") as file:
            for line in file:
                name, _, rest = line.partition(":")
                if name in found:
                    found[name] = int(rest.split()[0]) * 1024
    except PermissionError:  # smaps_rollup of a container's root without CAP_SYS_PTRACE
        return found
    except OSError as error:
        raise JailGoneError(f"{path}: {error.strerror}") from None
    return found


def _page(size_bytes: int) -> int:
    return -(-size_bytes // PAGE) * PAGE


def _took_ms(stamps: Sequence[Any], name: str) -> float:
    """How long a step of the plan took, by the jail's word."""
    before = 0
    for step, at in stamps:
        if step == name:
            return (int(at) - before) / 1000
        before = int(at)
    return 0.0
