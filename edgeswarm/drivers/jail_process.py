"""A jail that serves frames, under asyncio.  Made by `jails.JailHost.spawn` only.

Invariants: `on_reply` and `on_exit` are called from the event loop only; `on_exit` exactly once for a jail that became
ready, never for one that did not (`spawn` raises then); after it no reply comes.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping

from edgeswarm.drivers.jail_life import JailExit, JailLife, Owner
from edgeswarm.drivers.jail_link import JailLink, KernelSpec, Reply
from edgeswarm.errors import JailGoneError, TrapError
from edgeswarm.jail.frames import Kind, RingError

_TIMER_MIN_NS = 100_000
_RETRY_S = 0.001


class Jail(JailLife):
    """A ready jail with its agents."""

    def __init__(
        self,
        host: Owner,
        link: JailLink,
        on_reply: Callable[[Reply], None],
        on_exit: Callable[[JailExit], None],
        *,
        listens: bool = True,
    ) -> None:
        super().__init__(host, link, on_exit, listens=listens)
        self._link = link
        self._on_reply = on_reply
        self._own: dict[int, asyncio.Future[Reply]] = {}
        self._senders: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._due_ns = 0
        if listens:
            self._link.heard_again()  # it was made before its order, which had to wait its turn
            self._loop.add_reader(link.answers, self._on_answers)
            self._judge()

    def listen(self, *, on: bool) -> None:
        super().listen(on=on)
        if self._gone:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if on:
            if not self._link.answers_ended:
                self._loop.add_reader(self._link.answers, self._on_answers)
            self._link.heard_again()
            self._judge()
        else:
            self._loop.remove_reader(self._link.answers)

    @property
    def in_flight(self) -> int:
        """Frames without an answer yet."""
        return self._link.in_flight

    @property
    def specs(self) -> Mapping[int, KernelSpec]:
        """Its agents, by slot."""
        return self._link.specs

    @property
    def memory_bytes_max(self) -> int:
        """What its agents may have together, without the jail's own."""
        return self._link.memory_bytes_max

    @property
    def cpu_cores(self) -> float:
        """The same of CPU time a second."""
        return self._link.cpu_cores

    def rows_max(self, slot: int) -> int:
        """How many rows fit into one frame of this agent."""
        return self._link.rows_max(slot)

    async def become_ready(self, *, began_ns: int, within_ms: int) -> None:
        await super().become_ready(began_ns=began_ns, within_ms=within_ms)
        self._link.loading = False

    # --- frames -------------------------------------------------------------------------------------------------------

    def submit(self, slot: int, seq: int, rows: int, payload: bytes | bytearray | memoryview) -> bool:
        """Send rows x width packed float32; the answer comes to `on_reply`.  False: no room now, nothing written.

        seq: below 2**63, not in flight for this slot.  Raises JailGoneError when the jail is dead, LocalError or
        LimitError for what could never be sent.
        """
        if self._gone:
            raise JailGoneError(f"jail {self.id} is gone")
        try:
            sent = self._link.submit(slot, seq, rows, payload)
        except RingError as error:
            self._violated(error)
            return False
        if sent and self._timer is None:
            self._judge()
        return sent

    async def swap_weights(self, slot: int, weights: bytes) -> None:
        """Replace an agent's weights between two of its frames: those submitted before this call see the old ones.

        Raises LocalError when they have the wrong size, JailGoneError when the jail ends first.
        """
        self._link.check_weights(slot, weights)
        seq, step = self._link.next_own_seq(), self._link.chunk_bytes()
        waiting = self._expect(seq)
        try:
            for at in range(0, len(weights), step):
                await self._send_own(
                    slot, Kind.WEIGHTS, seq, weights[at : at + step], aux=at, last=at + step >= len(weights)
                )
            await self._acknowledged(waiting)
        finally:
            self._own.pop(seq, None)

    async def set_memory(self, slot: int, content: bytes) -> None:
        """Replace the values that an agent keeps between its calls; memory_width float32."""
        self._link.check_memory(slot, content)
        await self._ask(slot, Kind.MEMORY, content)

    async def ping(self, slot: int) -> None:
        """Wait until the jail has answered everything of this slot that was sent before."""
        await self._ask(slot, Kind.PING, b"")

    async def _ask(self, slot: int, kind: Kind, content: bytes) -> None:
        seq = self._link.next_own_seq()
        waiting = self._expect(seq)
        try:
            await self._send_own(slot, kind, seq, content)
            await self._acknowledged(waiting)
        finally:
            self._own.pop(seq, None)

    def _expect(self, seq: int) -> asyncio.Future[Reply]:
        waiting: asyncio.Future[Reply] = self._loop.create_future()
        self._own[seq] = waiting
        return waiting

    async def _send_own(
        self, slot: int, kind: Kind, seq: int, piece: bytes, *, aux: int = 0, last: bool = True
    ) -> None:
        while True:
            if self._gone:
                raise JailGoneError(f"jail {self.id} is gone")
            try:
                sent = self._link.send_own(slot, kind, seq, piece, aux=aux, last=last)
            except RingError as error:
                self._violated(error)
                raise JailGoneError(f"jail {self.id} broke the protocol") from None
            if sent:
                if self._timer is None:
                    self._judge()
                return
            if self._link.in_flight:
                room: asyncio.Future[None] = self._loop.create_future()
                self._senders.append(room)
                await room
            else:  # only chunks wait in the ring, which are not answered
                await asyncio.sleep(_RETRY_S)

    async def _acknowledged(self, waiting: asyncio.Future[Reply]) -> None:
        reply = await waiting
        if reply.kind == Kind.FAULT:
            raise TrapError(f"jail {self.id}, slot {reply.slot}: {reply.text}")

    def _on_answers(self) -> None:
        try:
            replies = self._link.collect()
        except RingError as error:
            self._violated(error)
            replies = []
        if self._link.answers_ended or self._lie:
            self._loop.remove_reader(self._link.answers)
        for reply in replies:
            waiting = self._own.get(reply.seq)
            if waiting is None:
                self._hand_out(reply)
            elif not waiting.done():
                waiting.set_result(reply)
        self._wake_senders()

    def _hand_out(self, reply: Reply) -> None:
        """An error of the callback is the loop's to report; the answers behind this one still come."""
        try:
            self._on_reply(reply)
        except Exception as error:
            self._loop.call_exception_handler(
                {"message": f"on_reply of jail {self.id} raised for frame {reply.seq}", "exception": error}
            )

    def _wake_senders(self) -> None:
        while self._senders:
            room = self._senders.popleft()
            if not room.done():
                room.set_result(None)

    # --- deadlines and the end ----------------------------------------------------------------------------------------

    def _judge(self) -> None:
        """Poke or kill what is past its deadline, and come back when the next one is due."""
        now = time.monotonic_ns()
        if self._timer is not None:
            self._link.forgive(now - self._due_ns)
        self._timer = None
        if self._gone:
            return
        verdict = self._link.judge(now)
        if verdict is None:
            return
        if verdict.kill:
            self.kill("killed: no answer two deadlines long")
            return
        if verdict.poke:
            self._link.poke()
        wait_ns = max(verdict.at_ns - now, _TIMER_MIN_NS)
        self._timer, self._due_ns = self._loop.call_later(wait_ns / 1e9, self._judge), now + wait_ns

    def _drain(self) -> None:
        if not self._lie:
            self._on_answers()

    def _running_slot(self) -> int | None:
        return self._link.running_slot()

    def _forsake(self) -> None:
        self._loop.remove_reader(self._link.answers)
        if self._timer is not None:
            self._timer.cancel()
        for waiting in self._own.values():
            if not waiting.done():
                waiting.set_exception(JailGoneError(f"jail {self.id} is gone"))
                waiting.exception()  # somebody may be about to await it; nobody has to
        self._wake_senders()
