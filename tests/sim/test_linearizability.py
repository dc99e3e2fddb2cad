"""The judge is judged first: histories whose verdict is known, and a dumb checker that tries every order."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from linearizability import READ, Operation, Undecided, Verdict, cas, check, check_keys, explain, register, write

pytestmark = pytest.mark.sim


def op(client: int, call: object, result: object, called: int, returned: int | None) -> Operation:
    return Operation(client, call, result, called, returned)  # type: ignore[arg-type]


LINEARIZABLE = {
    "nothing": [],
    "a write, then a read of it": [op(1, write(1), None, 0, 1), op(2, READ, 1, 2, 3)],
    "a read beside a write sees the old": [op(1, write(1), None, 0, 10), op(2, READ, None, 3, 4)],
    "a read beside a write sees the new": [op(1, write(1), None, 0, 10), op(2, READ, 1, 3, 4)],
    "writes side by side, in either order": [
        op(1, write(1), None, 0, 10),
        op(2, write(2), None, 0, 10),
        op(3, READ, 2, 11, 12),
        op(3, READ, 2, 13, 14),
    ],
    "old then new beside one write": [
        op(1, write(1), None, 0, 10),
        op(2, READ, None, 1, 2),
        op(2, READ, 1, 3, 4),
    ],
    "a lost write seen late": [op(1, write(1), None, 0, None), op(2, READ, None, 5, 6), op(2, READ, 1, 7, 8)],
    "a lost write never seen": [op(1, write(1), None, 0, None), op(2, READ, None, 5, 6), op(2, READ, None, 7, 8)],
    "a lost write after a later write": [
        op(1, write(1), None, 0, None),
        op(2, write(2), None, 1, 2),
        op(2, READ, 2, 3, 4),
        op(2, READ, 1, 5, 6),
    ],
    "a cas that wins and one that loses": [
        op(1, write(1), None, 0, 1),
        op(1, cas(1, 2), True, 2, 9),
        op(2, cas(1, 3), False, 2, 9),
        op(3, READ, 2, 10, 11),
    ],
    "a lost cas explains a failed one": [
        op(1, cas(None, 1), None, 0, None),
        op(2, cas(None, 2), False, 1, 2),
        op(2, READ, 1, 3, 4),
    ],
    "an unanswered read": [op(1, write(1), None, 0, 1), op(2, READ, 7, 2, None), op(3, READ, 1, 3, 4)],
    "the same instant is concurrent": [op(1, write(1), None, 0, 5), op(2, READ, None, 5, 6)],
    # Herlihy and Wing 1990, 1: overlapping writes, reads that follow one order
    "overlapping in a chain": [
        op(1, write(1), None, 0, 4),
        op(2, write(2), None, 2, 6),
        op(3, READ, 1, 3, 5),
        op(3, READ, 2, 7, 8),
        op(1, READ, 2, 7, 9),
    ],
}

BROKEN = {
    "a read of what nobody wrote": [op(1, write(1), None, 0, 1), op(2, READ, 9, 2, 3)],
    "a stale read": [op(1, write(1), None, 0, 1), op(1, write(2), None, 2, 3), op(2, READ, 1, 4, 5)],
    "a write is lost": [op(1, write(1), None, 0, 1), op(2, READ, None, 2, 3)],
    "new then old": [op(1, write(1), None, 0, 10), op(2, READ, 1, 1, 2), op(2, READ, None, 3, 4)],
    "new then old, two readers": [op(1, write(1), None, 0, 10), op(2, READ, 1, 1, 2), op(3, READ, None, 3, 4)],
    "two readers, two orders": [
        op(1, write(1), None, 0, 10),
        op(2, write(2), None, 0, 10),
        op(3, READ, 1, 11, 12),
        op(4, READ, 2, 11, 12),
    ],
    "both cas win": [
        op(1, write(1), None, 0, 1),
        op(1, cas(1, 2), True, 2, 9),
        op(2, cas(1, 3), True, 2, 9),
    ],
    "a cas loses against nobody": [op(1, write(1), None, 0, 1), op(1, cas(1, 2), False, 2, 3)],
    "a lost write before its call": [op(2, READ, 1, 0, 1), op(1, write(1), None, 2, None)],
    "a lost write seen, then unseen": [
        op(1, write(1), None, 0, None),
        op(2, READ, 1, 1, 2),
        op(2, READ, None, 3, 4),
    ],
    "a lost write twice": [
        op(1, write(1), None, 0, None),
        op(2, READ, 1, 1, 2),
        op(2, write(2), None, 3, 4),
        op(2, READ, 1, 5, 6),
    ],
}


@pytest.mark.parametrize("name", LINEARIZABLE)
def test_history_with_a_known_verdict_is_linearizable(name: str) -> None:
    assert check(LINEARIZABLE[name]).ok


@pytest.mark.parametrize("name", BROKEN)
def test_history_with_a_known_verdict_is_not_linearizable(name: str) -> None:
    verdict = check(BROKEN[name])
    assert not verdict.ok
    assert verdict.stuck, "a failure names the operations that nothing explains"
    assert "can follow" in explain(verdict)


def test_keys_are_judged_apart_and_the_broken_one_is_named() -> None:
    good = [("a", item) for item in LINEARIZABLE["a read beside a write sees the old"]]
    bad = [("b", item) for item in BROKEN["a stale read"]]
    assert check_keys(good).ok
    assert check_keys([*good, *bad]).key == "b"


def test_order_that_is_found_is_one_that_explains_the_answers() -> None:
    history = LINEARIZABLE["overlapping in a chain"]
    assert explains(check(history).order, None)


def test_search_that_is_too_long_is_undecided() -> None:
    history = [op(i, write(i), None, 0, 100) for i in range(12)] + [op(99, READ, 77, 101, 102)]
    with pytest.raises(Undecided):
        check(history, steps_max=1000)


def test_many_operations_one_after_the_other_take_no_search() -> None:
    history = []
    for i in range(2000):
        history += [op(1, write(i), None, 4 * i, 4 * i + 1), op(2, READ, i, 4 * i + 2, 4 * i + 3)]
    assert check(history).steps <= 2 * len(history)


def test_dozens_of_lost_writes_do_not_hide_a_broken_history() -> None:
    history = [op(i, write(i), None, i, None) for i in range(40)]
    history += [op(50, write(100), None, 50, 51), op(50, READ, 100, 52, 53), op(50, READ, 39, 54, 55)]
    assert check(history).ok
    assert not check([*history, op(50, READ, 100, 56, 57)]).ok


# --- against a dumb checker -----------------------------------------------------------------------------------------


def explains(order: tuple[Operation, ...], initial: object) -> bool:
    state, earliest = initial, -1
    for item in order:
        if item.returned is not None and item.returned < earliest:
            return False  # something placed before it was called only after it had returned
        earliest = max(earliest, item.called)
        state, answer = register(state, item.call)  # type: ignore[arg-type, assignment]
        if item.returned is not None and answer != item.result:
            return False
    return True


def dumb(history: list[Operation]) -> bool:
    """Every order of every choice of the lost operations."""
    known = [item for item in history if item.returned is not None]
    lost = [item for item in history if item.returned is None]
    choices = itertools.chain.from_iterable(itertools.combinations(lost, n) for n in range(len(lost) + 1))
    return any(explains(order, None) for chosen in choices for order in itertools.permutations([*known, *chosen]))


@st.composite
def histories(draw: st.DrawFn) -> list[Operation]:
    calls = st.one_of(
        st.just(READ),
        st.integers(1, 2).map(write),
        st.tuples(st.sampled_from([None, 1, 2]), st.integers(1, 2)).map(lambda pair: cas(*pair)),
    )
    history = []
    for client in range(draw(st.integers(1, 5))):
        called = draw(st.integers(0, 12))
        call = draw(calls)
        result = {"read": st.sampled_from([None, 1, 2]), "write": st.none(), "cas": st.booleans()}
        returned = draw(st.one_of(st.none(), st.integers(called, 16)))
        history.append(op(client, call, draw(result[call[0]]), called, returned))  # type: ignore[index]
    return history


@settings(max_examples=300, deadline=None)
@given(histories())
def test_verdict_agrees_with_a_checker_that_tries_every_order(history: list[Operation]) -> None:
    verdict = check(history)
    assert verdict.ok == dumb(history)
    if verdict.ok:
        assert explains(verdict.order, None)


def lived(rng: random.Random, *, operations: int) -> list[tuple[str, Operation]]:
    """A history made by a real register: each operation takes effect at some instant between call and return."""
    state: dict[str, object] = {}
    free = dict.fromkeys(range(6), 0)
    effects = []
    for _ in range(operations):
        client = rng.randrange(6)
        called = free[client] + rng.randrange(1, 5)
        instant, returned = called + rng.randrange(6), called + 6
        free[client] = returned
        call = rng.choice([READ, write(rng.randrange(50)), cas(rng.randrange(3), rng.randrange(3))])
        effects.append((instant, rng.random(), client, rng.choice("xy"), call, called, returned))
    history = []
    for _, luck, client, key, call, called, returned in sorted(effects, key=lambda item: item[:2]):
        state[key], result = register(state.get(key), call)  # type: ignore[arg-type]
        history.append((key, op(client, call, result, called, None if luck < 0.1 else returned)))
    return history


@pytest.mark.parametrize("seed", range(20))
def test_history_of_a_real_register_passes_and_a_false_answer_does_not(seed: int) -> None:
    rng = random.Random(seed)
    history = lived(rng, operations=150)
    assert check_keys(history).ok
    answered = [i for i, (_, item) in enumerate(history) if item.call == READ and item.returned is not None]
    at = rng.choice(answered)
    key, item = history[at]
    history[at] = (key, op(item.client, item.call, "never written", item.called, item.returned))
    verdict = check_keys(history)
    assert (verdict.ok, verdict.key) == (False, key)


def test_verdict_is_a_value() -> None:
    assert check([]) == Verdict(True, 0)
