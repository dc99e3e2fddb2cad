"""A jail that holds a population: told to tick, it calls every agent of its table, and says which ones faulted.

The supervisor writes 8 bytes, an operation and an agent's index, into the wake pipe; 8 bytes come back, the operation
and a count.  What belongs to them lies in the shared memory: a page of control, fault records (agent and code, 4 bytes
each), one agent's weights on their way in or out, and the spans of every agent.
Two descriptors more than in other jails stay open: those of the memory that is mapped here anyway, which a fresh
instance needs again.  The filters are the same.
"""

from __future__ import annotations

import os
import select
import struct
from typing import Any, Final, NoReturn

from edgeswarm.errors import JailError
from edgeswarm.jail import trial, wasm
from edgeswarm.jail.frames import CONTROL_BYTES
from edgeswarm.jail.table import Blame, Fault, Table, TableSpec
from edgeswarm.jail.worker import EXIT_GONE, Jail, tell

MESSAGE: Final = struct.Struct("<II")
FAULT: Final = struct.Struct("<II")
TICK, READ_WEIGHTS, WRITE_WEIGHTS, RESET = 1, 2, 3, 4
FAULTS_AT: Final = CONTROL_BYTES
TEXT_AT: Final = 1024
TEXT_BYTES_MAX: Final = 1024
"""Where the control page holds what a refused operation says."""


class PopulationJail(Jail):
    """Tables of one population."""

    table: Table

    def __init__(self, order: dict[str, Any], fds: Any, engine: wasm.Engine) -> None:
        super().__init__(order, fds, engine)
        self._shared_fd, self._payload_fd = fds[1], fds[5]
        self.keep = (*self.keep, self._shared_fd, self._payload_fd)
        self.blame = Blame()
        self._modules: list[wasm.Module] = []

    def load(self) -> None:
        """Deserialise the code; where that fails, slot 0 of the faults says why."""
        self.start_watching(meanwhile=lambda: trial.call(self.engine))
        self._staging_at = int(self.order["staging_at"])
        order = self.order["population"]
        try:
            self._modules = [self.engine.load(bytes(self._part(order[name]))) for name in ("cwasm", "driver")]
            wasm.check_abi(self._modules[0])
        except JailError as error:
            self.faults[0] = f"{error}"[:500]

    def begin(self) -> None:
        """Instantiate every agent; where that fails, slot 0 of the faults says why."""
        if self.faults:
            return
        agent, driver = self._modules
        spec = TableSpec.from_json(self.order["population"])
        try:
            self.table = Table(
                agent,
                driver,
                spec,
                weights=self._part([spec.weights_at, spec.weights_bytes]),
                shared_fd=self._shared_fd,
                payload_fd=self._payload_fd,
            )
            self.table.warm_up()
        except (JailError, OSError) as error:
            self.faults[0] = f"{error}"[:500]

    def code(self) -> list[tuple[int, int]]:
        return [module.image() for module in self._modules]

    def _watch(self, started: Any) -> None:
        """The epoch thread: as in every jail, except that a poke is about one agent, which it must find twice."""
        started.release()
        poll = select.poll()
        poll.register(self.epoch, select.POLLIN)
        poll.register(self.control, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self.control or not os.read(self.epoch, 64):
                    os._exit(EXIT_GONE)
            if self.blame.poked(self.table.position()):
                self.engine.increment_epoch()

    def serve(self, ready: dict[str, Any]) -> NoReturn:
        """Say ready, then do what is asked until the supervisor is gone."""
        tell(self.control, {"ready": ready, "faults": self.faults})
        while True:
            told = os.read(self.wake, MESSAGE.size)
            if len(told) != MESSAGE.size:
                os._exit(EXIT_GONE)
            operation, index = MESSAGE.unpack(told)
            try:
                count = self._do(operation, index)
            except JailError as error:
                text = str(error).encode()[:TEXT_BYTES_MAX]
                self.output[TEXT_AT : TEXT_AT + len(text)] = text
                operation, count = 0, len(text)
            os.write(self.answer, MESSAGE.pack(operation, count))

    def _do(self, operation: int, index: int) -> int:
        """Returns how many faults a tick has left in the shared memory; 0 for the others."""
        if operation == TICK:
            return self._tell_faults(self.table.tick(self.blame))
        if index >= self.table.spec.count:
            raise JailError(f"agent {index}: this population has {self.table.spec.count}")
        if operation == RESET:
            self.table.reset(index)
        elif operation in (READ_WEIGHTS, WRITE_WEIGHTS):
            with self.table.weights_of(index) as weights:
                end = self._staging_at + len(weights)
                if operation == READ_WEIGHTS:
                    self.output[self._staging_at : end] = weights
                else:
                    weights[:] = self.output[self._staging_at : end]
        else:
            raise JailError(f"unknown operation {operation}")
        return 0

    def _tell_faults(self, faults: list[Fault]) -> int:
        for number, fault in enumerate(faults):
            FAULT.pack_into(
                self.output, FAULTS_AT + number * FAULT.size, fault.agent, fault.code | (fault.trap & 0xFF) << 8
            )
        return len(faults)
