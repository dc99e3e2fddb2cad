"""A worker for tests of a jail's life: makes one of the product's probes, or tells the supervisor a lie of the test's.

The zygote loads it by `--worker`.  What to do is the first agent's name: a probe's, "lie:<frame>:<head>" in hex, or one
of the two messages on the control socket that no jail may send.  What came of a probe goes out as the fault of slot 0:
"open: ..." or "closed: ...".
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NoReturn

from edgeswarm.jail import probes, wasm, worker

FDS = worker.FDS
PROBES = probes.load_all()
ALIASES = {"socket_inet": "socket_inet_stream"}


class ProbeJail(worker.Jail):
    """A real jail that probes before it says ready."""

    def __init__(self, order: dict[str, Any], fds: Sequence[int], engine: wasm.Engine) -> None:
        super().__init__(order, fds, engine)
        self.chosen, *self.options = order["agents"][0]["name"].split(":")
        self.place = probes.Place(keep=self.keep, sibling=os.getppid(), zygote=os.getppid())

    def serve(self, ready: dict[str, Any]) -> NoReturn:
        if self.chosen == "lie":
            self.lie(ready)
        if self.chosen == "second_control_message":
            worker.tell(self.control, {"ready": ready, "faults": {}})
        if self.chosen in ("bad_control_message", "second_control_message"):
            os.write(self.control, b'{"ready": 7}')
            while os.read(self.wake, 8):  # nothing that is forbidden: only what it said may end it
                pass
            os._exit(0)
        worked, text = PROBES[ALIASES.get(self.chosen, self.chosen)].outcome(self.place)
        self.faults = {0: f"{'open' if worked else 'closed'}: {text}"}
        super().serve(ready)

    def lie(self, ready: dict[str, Any]) -> NoReturn:
        """Say ready, and answer the first frame with the bytes that the name gives: into the ring, into the pipe."""
        worker.tell(self.control, {"ready": ready, "faults": {}})
        os.read(self.wake, 8)
        frame, head = (bytes.fromhex(option) for option in self.options)
        self.shared.from_jail[: len(frame)] = frame
        os.write(self.answer, head)
        while True:
            os.read(self.wake, 8)


start = worker.start_with(ProbeJail)
