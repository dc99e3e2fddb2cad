"""Was this history of reads, writes and compare-and-sets linearizable?

A history is a set of operations, each with the instant of its call, the instant of its return, and what it returned.
It is linearizable if every operation can be given one instant between call and return so that, taken in that order, a
sequential object would have answered the same (Herlihy and Wing 1990).  The search is Wing and Gong's (1993) with
Lowe's memoisation (2017): never look twice at the same pair of (operations placed, state reached).
An operation whose outcome nobody knows (`returned` is None) may take effect at any instant after its call, or never:
it is never obliged to be placed, and the search ends when all others are.
Histories of several keys are checked key by key: linearizability is local, so the whole holds if each part does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

STEPS_MAX = 2_000_000  # placements tried for one key; a history that needs more is reported, not believed


class Undecided(Exception):
    """The search was longer than `steps_max`: neither yes nor no."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of one client.

    called, returned: instants on one clock, called <= returned; returned None: the outcome is not known.
    Two operations are concurrent unless one returned strictly before the other was called.
    """

    client: int
    call: Hashable  # what was asked, in the words of the model
    result: Hashable  # what was answered; of no meaning where returned is None
    called: int
    returned: int | None


Step = Callable[[Hashable, Hashable], tuple[Hashable, Hashable]]
"""A model: (state, call) -> (state after it, what it answers).  Deterministic, and of no effect beside its answer."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """ok, and otherwise the longest order that was found (operations), and the ones that could not follow it."""

    ok: bool
    steps: int
    order: tuple[Operation, ...] = ()
    stuck: tuple[Operation, ...] = ()
    key: Hashable = None


# --- models ---------------------------------------------------------------------------------------------------------
Read = tuple[str]
READ: Read = ("read",)


def write(value: Hashable) -> Hashable:
    """Answers None."""
    return ("write", value)


def cas(expected: Hashable, value: Hashable) -> Hashable:
    """Writes `value` if the register holds `expected`; answers whether it did."""
    return ("cas", expected, value)


def register(state: Hashable, call: Hashable) -> tuple[Hashable, Hashable]:
    """One register with READ, write(v) and cas(e, v)."""
    match call:
        case ("read",):
            return state, state
        case ("write", value):
            return value, None
        case ("cas", expected, value):
            return (value, True) if state == expected else (state, False)
    raise ValueError(f"register: no such call: {call!r}")


# --- the search -----------------------------------------------------------------------------------------------------


class _Event:
    """A call or a return in a doubly linked list in the order of time; `partner` of a call is its return."""

    __slots__ = ("after", "before", "number", "partner")

    def __init__(self, number: int) -> None:
        self.number = number
        self.partner: _Event | None = None
        self.before: _Event | None = None
        self.after: _Event | None = None


def check(
    history: Sequence[Operation], *, step: Step = register, initial: Hashable = None, steps_max: int = STEPS_MAX
) -> Verdict:
    """The verdict on one object's history.  Raises Undecided past steps_max."""
    search = _Search([op for op in history if op.returned is not None], step, steps_max)
    search.lost = sorted((op for op in history if op.returned is None and op.call != READ), key=lambda op: op.called)
    return search.run(initial)


class _Search:
    """Depth first: what is known to have happened is tried first, what may have happened only where that is stuck.

    A lost operation is placed only if it changes the state, and straight after another lost one only if that one made
    a difference to it: what is left out by that is reached with fewer of them.
    """

    def __init__(self, known: Sequence[Operation], step: Step, steps_max: int) -> None:
        self.known, self.step, self.steps_max = known, step, steps_max
        self.lost: list[Operation] = []
        self.steps = 0
        self.seen: dict[tuple[int, Hashable], list[int]] = {}
        """(known operations placed, state) -> sets of lost ones used to get there; a larger set finds no more."""
        self.stack: list[tuple[_Event, int, Hashable]] = []
        """(the event tried, the lost one placed there or -1 for the event's own operation, the state before)."""

    def run(self, initial: Hashable) -> Verdict:
        head = _line_up(self.known)
        state, placed, used, must = initial, 0, 0, len(self.known)
        best: list[Operation] = []
        stuck_at: _Event | None = None
        event, number = head.after, 0
        while must:
            assert event is not None, "every list that is not empty holds a return"
            if event.partner is not None:  # a call that is known: it may take effect here
                op, with_it = self.known[event.number], placed | 1 << event.number
                after, answer = self._try(state, op)
                if answer == op.result and self._is_new(with_it, after, used):
                    self.stack.append((event, -1, state))
                    placed, state, must = with_it, after, must - 1
                    _lift(event)
                    event, number = head.after, 0
                else:
                    event = event.after
                continue
            op = self.known[event.number]  # its return is met, and it is not placed: something lost must come first
            while number < len(self.lost) and self.lost[number].called <= (op.returned or 0):
                if not used & 1 << number and self._is_useful(state, self.lost[number]):
                    after, _ = self._try(state, self.lost[number])
                    if self._is_new(placed, after, used | 1 << number):
                        break
                number += 1
            else:
                if len(self.stack) >= len(best):
                    best, stuck_at = self._order(), event
                if not self.stack:
                    return Verdict(False, self.steps, tuple(best), _suspects(self.known, best, stuck_at))
                event, number, state = self.stack.pop()
                if number < 0:
                    placed, must = placed & ~(1 << event.number), must + 1
                    _unlift(event)
                    event, number = event.after, 0
                else:
                    used, number = used & ~(1 << number), number + 1
                continue
            self.stack.append((event, number, state))
            used, state = used | 1 << number, after
            event, number = head.after, 0
        return Verdict(True, self.steps, tuple(self._order()))

    def _try(self, state: Hashable, op: Operation) -> tuple[Hashable, Hashable]:
        self.steps += 1
        if self.steps > self.steps_max:
            raise Undecided(f"{len(self.known) + len(self.lost)} operations: no verdict within {self.steps_max} steps")
        return self.step(state, op.call)

    def _is_new(self, placed: int, state: Hashable, used: int) -> bool:
        before = self.seen.setdefault((placed, state), [])
        if any(fewer & used == fewer for fewer in before):
            return False
        before.append(used)
        return True

    def _is_useful(self, state: Hashable, op: Operation) -> bool:
        after = self.step(state, op.call)[0]
        if after == state:
            return False
        if not self.stack or self.stack[-1][1] < 0:
            return True
        return self.step(self.stack[-1][2], op.call)[0] != after

    def _order(self) -> list[Operation]:
        return [self.known[event.number] if at < 0 else self.lost[at] for event, at, _ in self.stack]


def check_keys(
    history: Iterable[tuple[Hashable, Operation]],
    *,
    step: Step = register,
    initial: Hashable = None,
    steps_max: int = STEPS_MAX,
) -> Verdict:
    """The verdict on a map of independent objects: pairs of (key, operation).  The first key that fails is named."""
    parts: defaultdict[Hashable, list[Operation]] = defaultdict(list)
    for key, op in history:
        parts[key].append(op)
    steps = 0
    for key, part in parts.items():
        verdict = check(part, step=step, initial=initial, steps_max=steps_max)
        steps += verdict.steps
        if not verdict.ok:
            return Verdict(False, steps, verdict.order, verdict.stuck, key)
    return Verdict(True, steps)


def explain(verdict: Verdict, *, operations_max: int = 12) -> str:
    """Lines for a person: the end of the longest order found, and what could not follow."""
    if verdict.ok:
        return "linearizable"
    lines = [f"key {verdict.key!r}: not linearizable; the longest order that explains the answers ends with"]
    lines += [f"  {_line(op)}" for op in verdict.order[-operations_max:]]
    lines += ["and none of these can follow:", *(f"  {_line(op)}" for op in verdict.stuck[:operations_max])]
    return "\n".join(lines)


def _line(op: Operation) -> str:
    outcome = "?" if op.returned is None else f"{op.result!r} at {op.returned}"
    return f"client {op.client}: {op.call!r} at {op.called} -> {outcome}"


def _line_up(known: Sequence[Operation]) -> _Event:
    """The list of calls and returns by time; a call at the instant of a return comes first: they are concurrent."""
    instants: list[tuple[int, int, int]] = []
    for number, op in enumerate(known):
        if op.returned is None or op.returned < op.called:
            raise ValueError(f"returned before it was called: {op}")
        instants += [(op.called, 0, number), (op.returned, 1, number)]
    head = last = _Event(-1)
    calls: dict[int, _Event] = {}
    for _, is_return, number in sorted(instants):
        event = _Event(number)
        if is_return:
            calls[number].partner = event
        else:
            calls[number] = event
        last.after, event.before = event, last
        last = event
    return head


def _lift(call: _Event) -> None:
    """Takes a call and its return out of the list."""
    for event in (call, call.partner):
        assert event is not None and event.before is not None
        event.before.after = event.after
        if event.after is not None:
            event.after.before = event.before


def _unlift(call: _Event) -> None:
    """Puts them back where they were: in the reverse order, or the links of neighbours go wrong."""
    for event in (call.partner, call):
        assert event is not None and event.before is not None
        event.before.after = event
        if event.after is not None:
            event.after.before = event


def _suspects(known: Sequence[Operation], placed: Sequence[Operation], at: _Event | None) -> tuple[Operation, ...]:
    """Those that should have followed: the one whose return was met, and what is concurrent with it."""
    if at is None:
        return ()
    met, done = known[at.number], {id(op) for op in placed}
    rest = (op for op in known if op is not met and id(op) not in done and op.called <= (met.returned or 0))
    return (met, *rest)
