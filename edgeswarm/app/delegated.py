"""What an agent's flow sends to while a delegate computes for it: the delegate's jail, with the kernel's behind it.

Takes every frame to the delegate until it fails: its jail ends, it faults, it stays silent past its deadlines, it
answers otherwise than the kernel.  From then on the kernel computes, first what the delegate had not answered, in
order; no frame is lost, none is answered twice.
Invariants: a frame is either at the kernel or at the delegate, a checked one at both, and the flow hears one answer;
answers come in the order of the frames: what is at the kernel when this begins is answered before anything is sent to
the delegate.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from edgeswarm.drivers.jails import JailExit, Reply
from edgeswarm.errors import JailGoneError
from edgeswarm.jail.frames import Kind
from edgeswarm.limits import DELEGATE_RETRY_PUMP_S, DELEGATE_SHADOWS_MAX

Failure = Literal["crash", "hang", "fault", "wrong"]
_SHADOW: Final = 1 << 62
"""Sequence numbers from here on are checks: flows never get so far."""


class Jail(Protocol):
    """What is needed of a jail (`drivers.jails.Jail`)."""

    @property
    def alive(self) -> bool: ...

    def submit(self, slot: int, seq: int, rows: int, payload: bytes) -> bool: ...

    def kill(self, reason: str = ...) -> None: ...


class Turns(Protocol):
    """Where agents share one accelerator: when this one may use it.  end(us): its call took so long."""

    def begin(self) -> bool: ...

    def end(self, us: float) -> None: ...

    def call(self) -> None: ...

    def leave(self) -> None: ...


@dataclass(slots=True)
class _Check:
    """A frame at both: the answers that are there."""

    kernel: bytes | None = None
    delegate: bytes | None = None


class DelegatedPort:
    """One agent's way into two jails.

    kernel, slot: where the agent's kernel is.  deliver: an answer for the flow, as if from there.  failed(kind, text):
    the delegate is out, once.  differ(kernel's answer, delegate's): what is wrong, or nothing.  check_every: frames
    for one check, 0: none; the first is one.  turns: of an accelerator that agents share, one frame at a time.
    """

    def __init__(
        self,
        kernel: Jail,
        slot: int,
        *,
        deliver: Callable[[Reply], None],
        failed: Callable[[Failure, str], None],
        differ: Callable[[bytes, bytes], str],
        check_every: int,
        turns: Turns | None = None,
    ) -> None:
        self.kernel = kernel
        self.slot = slot
        self.active = False
        """The delegate computes."""
        self.frames = 0
        """That the delegate has answered."""
        self.checks = 0
        self._deliver, self._failed, self._differ = deliver, failed, differ
        self._check_every = check_every
        self._turns = turns
        self._delegate: Jail | None = None
        self._at_kernel: set[int] = set()
        self._flying: dict[int, tuple[int, bytes]] = {}  # the delegate's seq -> the flow's, and the frame
        self._backlog: deque[tuple[int, bytes]] = deque()  # what the delegate left, for the kernel
        self._checks: dict[int, _Check] = {}
        self._sent = 0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, delegate: Jail, waiting: Iterable[int]) -> None:
        """The delegate's jail is ready.  waiting: frames of the flow that are at the kernel now."""
        self._delegate, self._at_kernel, self.active = delegate, set(waiting), True

    # --- the flow's side ------------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        return self.kernel.alive

    def submit(self, slot: int, seq: int, rows: int, payload: bytes) -> bool:
        """As `Jail.submit`, of one row."""
        if self._backlog:
            self._pump()
        if self._backlog:
            return False
        if not self.active or self._delegate is None:
            return self._to_kernel(seq, payload)
        if self._at_kernel:
            return False  # its answer comes first, and wakes the flow
        if self._turns is not None and (self._flying or not self._turns.begin()):
            return False  # it is called when its turn comes
        try:
            sent = self._delegate.submit(0, self._sent + 1, rows, payload)
        except JailGoneError:
            self.fall_back("crash", "its jail is gone")
            return self.submit(slot, seq, rows, payload)
        if sent:
            self._sent += 1
            self._flying[self._sent] = (seq, payload)
            if self._check_every and (self._sent - 1) % self._check_every == 0:
                self._check(self._sent, payload)
        return sent

    def _to_kernel(self, seq: int, payload: bytes) -> bool:
        sent = self.kernel.submit(self.slot, seq, 1, payload)
        if sent:
            self._at_kernel.add(seq)
        return sent

    # --- the delegate's side --------------------------------------------------------------------------------------

    def replied(self, reply: Reply) -> None:
        """An answer of the delegate's jail."""
        flying = self._flying.get(reply.seq)
        if flying is None or not self.active:
            return
        if reply.kind != Kind.REPLY:
            self.fall_back("fault", reply.text)
            return
        if self._checks and (check := self._checks.get(reply.seq)) is not None:
            check.delegate = reply.payload
            if not self._judge(reply.seq, check):
                return
        del self._flying[reply.seq]
        self.frames += 1
        if self._turns is not None:
            self._turns.end(reply.aux)
        self._deliver(reply._replace(slot=self.slot, seq=flying[0]))
        if self._turns is not None:
            self._turns.call()

    def exited(self, ended: JailExit) -> None:
        """The delegate's jail has ended."""
        silent = ended.signal is not None and "no answer" in ended.text
        self.fall_back("hang" if silent else "crash", ended.text)

    def fall_back(self, kind: Failure, text: str) -> None:
        """The delegate is out: its unanswered frames go to the kernel, before all others."""
        if not self.active:
            return
        self._leave()
        self._failed(kind, text)
        self._pump()

    def end(self) -> None:
        """Nobody needs the delegate any more; what it has not answered goes to the kernel."""
        if self.active:
            self._leave()
            self._pump()

    @property
    def settled(self) -> bool:
        """Nothing is left of the delegate that the kernel has yet to be given."""
        return not self.active and not self._backlog

    def forsake(self) -> None:
        """The kernel's jail is gone, or the flow leaves it: what was in flight is the flow's to send again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.active:
            self._leave()
        self._backlog.clear()

    def _leave(self) -> None:
        self.active = False
        self._backlog.extend(self._flying[seq] for seq in sorted(self._flying))
        self._flying.clear()
        self._checks.clear()
        if self._delegate is not None:
            self._delegate.kill("not needed any more")
        if self._turns is not None:
            self._turns.leave()

    def _pump(self) -> None:
        """What the delegate had not answered, to the kernel, as far as its ring has room."""
        try:
            while self._backlog and self._to_kernel(*self._backlog[0]):
                self._backlog.popleft()
        except JailGoneError:
            self._backlog.clear()  # the flow sends them again, into its next jail
        if self._backlog and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(DELEGATE_RETRY_PUMP_S, self._pump_again)

    def _pump_again(self) -> None:
        self._timer = None
        self._pump()

    # --- the kernel's side, and the checks --------------------------------------------------------------------------

    def kernel_replied(self, reply: Reply) -> bool:
        """An answer of the kernel's jail for this agent.  True: it was for a check, and not for the flow."""
        is_check = reply.seq >= _SHADOW
        check = self._checks.get(reply.seq - _SHADOW) if is_check else None
        if check is not None and reply.kind == Kind.REPLY:
            check.kernel = reply.payload
            self._judge(reply.seq - _SHADOW, check)
        elif check is not None:  # the kernel has no answer: nothing to compare with
            del self._checks[reply.seq - _SHADOW]
        self._at_kernel.discard(reply.seq)
        if self._backlog:
            self._pump()
        return is_check

    def _check(self, number: int, payload: bytes) -> None:
        """Let the kernel compute this frame too, if it has room; else the next check will do."""
        if len(self._checks) >= DELEGATE_SHADOWS_MAX:
            return
        try:
            sent = self.kernel.submit(self.slot, _SHADOW + number, 1, payload)
        except JailGoneError:
            return
        if sent:
            self._checks[number] = _Check()

    def _judge(self, number: int, check: _Check) -> bool:
        """False: the delegate has lied, and is out."""
        if check.kernel is None or check.delegate is None:
            return True
        del self._checks[number]
        self.checks += 1
        if wrong := self._differ(check.kernel, check.delegate):
            self.fall_back("wrong", f"it answered otherwise than the kernel: {wrong}")
            return False
        return True
