"""Has this message been here before?  Per sender the highest boot, per lane of it a window of sequence numbers.

A sender counts `boot` up at each start and `seq` up at each message of a boot.  A broker may deliver out of order
between connections and twice at QoS 1, so behind the highest seq of a lane REPLAY_WINDOW_SEQS more may come, once each.
A lane is a topic's kind (an int of the caller's): bulk that waits seconds behind thousands of Raft messages has a
window of its own, and since the topic is signed, no message changes its lane.
Registers (retained, one writer) are told apart: a broker repeats them at every subscription, so the newest may come
again, and what is older is refused.

Invariants: a pair (boot, seq) of a lane is admitted at most once; a boot below the highest is refused; after
`restore`, what was seen before a restart is refused too; at most `senders_max` senders are remembered.
Pure.  Who the senders are (the roster) and whether their signatures hold was decided before.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from edgeswarm.errors import RemoteError
from edgeswarm.limits import DEVICES_MAX, REPLAY_WINDOW_SEQS

LANES_MAX: Final = 32
"""Lanes of one sender: there are fewer kinds of topics."""

REGISTERS_MAX: Final = DEVICES_MAX + 8
"""Retained topics of one sender: a leader writes the desired state of every device."""


class ReplayError(RemoteError):
    """A message was here before, or is too old to tell.  `why`: "replayed", "too old", "old boot", "full"."""

    def __init__(self, message: str, *, who: str, why: str) -> None:
        super().__init__(message, who=who)
        self.why = why


class _Sender:
    """boot: the highest seen.  floor: seqs up to it were seen before our own restart.  lanes: lane -> [top, bitmap]."""

    __slots__ = ("boot", "floor", "highest", "lanes", "registers")

    def __init__(self, boot: int, floor: int) -> None:
        self.boot = boot
        self.floor = floor
        self.highest = floor
        self.lanes: dict[int, list[int]] = {}
        self.registers: dict[int | str, int] = {}


class ReplayWindow:
    """Remembers what came, for at most `senders_max` senders."""

    __slots__ = ("_senders", "_senders_max")

    def __init__(self, *, senders_max: int = DEVICES_MAX) -> None:
        self._senders: dict[str, _Sender] = {}
        self._senders_max = senders_max

    def __len__(self) -> int:
        return len(self._senders)

    def admit(self, sender: str, boot: int, seq: int, *, lane: int = 0) -> None:
        """Remember this message.  Raises ReplayError (with `why`) when it may not be taken."""
        state = self._state(sender, boot)
        window = state.lanes.get(lane)
        if window is None:
            window = self._lane(state, sender, lane)
        top = window[0]
        if seq > top:
            ahead = seq - top
            window[1] = (window[1] << ahead | 1) & _MASK if ahead < REPLAY_WINDOW_SEQS else 1
            window[0] = seq
            if seq > state.highest:
                state.highest = seq
            return
        behind = top - seq
        if behind >= REPLAY_WINDOW_SEQS or seq <= state.floor:
            raise ReplayError(f"seq {seq} is {behind} behind the newest, {top}", who=sender, why="too old")
        if window[1] >> behind & 1:
            raise ReplayError(f"boot {boot} seq {seq} was here before", who=sender, why="replayed")
        window[1] |= 1 << behind

    def admit_register(self, sender: str, boot: int, seq: int, *, lane: int | str) -> None:
        """The same for a retained message: the newest of its lane may come again, an older one is refused.

        lane: what one register is: the topic, or its kind where one sender writes one topic of that kind.
        Order is kept for one sender.  Where the writer of a topic changes (a new leader), its content has a term.
        """
        state = self._state(sender, boot)
        newest = state.registers.get(lane, -1)
        if seq < newest:
            raise ReplayError(f"seq {seq} is older than the newest, {newest}", who=sender, why="too old")
        if newest < 0 and len(state.registers) >= REGISTERS_MAX:
            raise ReplayError(f"at most {REGISTERS_MAX} retained topics of one sender", who=sender, why="full")
        state.registers[lane] = seq
        if seq > state.highest:
            state.highest = seq

    def keep(self, senders: Collection[str]) -> None:
        """Forget every sender that is not among these: the roster changed."""
        for sender in [name for name in self._senders if name not in senders]:
            del self._senders[sender]

    def boot_of(self, sender: str) -> int | None:
        """The highest boot seen of `sender`, or None."""
        state = self._senders.get(sender)
        return None if state is None else state.boot

    def export(self) -> dict[str, tuple[int, int]]:
        """Sender -> (highest boot, highest seq of it), to be kept over a restart of ours."""
        return {sender: (state.boot, state.highest) for sender, state in self._senders.items()}

    def restore(self, kept: Mapping[str, tuple[int, int]]) -> None:
        """Take in what `export` gave before a restart: of those boots, only higher seqs are admitted from now on."""
        for sender, (boot, highest) in kept.items():
            state = self._senders.get(sender)
            if len(self._senders) >= self._senders_max and state is None:
                return
            if state is None or (state.boot, state.highest) < (boot, highest):
                self._senders[sender] = _Sender(boot, highest)

    def _state(self, sender: str, boot: int) -> _Sender:
        state = self._senders.get(sender)
        if state is None:
            if len(self._senders) >= self._senders_max:
                raise ReplayError(f"at most {self._senders_max} senders are remembered", who=sender, why="full")
            state = self._senders[sender] = _Sender(boot, -1)
        elif boot != state.boot:
            if boot < state.boot:
                raise ReplayError(f"boot {boot} is over, {state.boot} is running", who=sender, why="old boot")
            state = self._senders[sender] = _Sender(boot, -1)
        return state

    def _lane(self, state: _Sender, sender: str, lane: int) -> list[int]:
        if len(state.lanes) >= LANES_MAX:
            raise ReplayError(f"at most {LANES_MAX} lanes of one sender", who=sender, why="full")
        window = state.lanes[lane] = [state.floor, 1]
        return window


_MASK: Final = (1 << REPLAY_WINDOW_SEQS) - 1
