"""One row in, its own answer out: under load, behind an open breaker, with what is no row at all."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
from typing import Any

import pytest
from supervised import Bench, until

from edgeswarm.errors import InputError, JailGoneError, LimitError, LocalError, TrapError
from edgeswarm.ids import AgentName

A, BAD = AgentName("a"), AgentName("bad")


async def test_everybody_gets_the_answer_to_their_own_row_however_many_ask_at_once(bench: Bench) -> None:
    """More rows than fit into the queue (256), the flight (256) and the ring together; a jail dies in between."""
    import numpy as np

    from edgeswarm.model import random_mlp, reference

    await bench.supervisor.deploy([("t", bench.mlp())])
    rows = np.random.default_rng(0).normal(size=(900, 4)).astype(np.float32)
    asking = [asyncio.create_task(bench.supervisor.ask("a", row.tolist(), 20.0)) for row in rows]
    await asyncio.sleep(0)
    [jail] = bench.supervisor.jails.values()
    os.kill(jail.pid, signal.SIGKILL)
    answers = await asyncio.gather(*asking)
    expected = reference.forward(random_mlp((4, 8, 2), "relu", "linear", 0), rows)
    assert np.allclose([answer.output for answer in answers if answer], expected, rtol=1e-4, atol=1e-6)


async def test_rows_that_complete_no_frame_are_answered_with_none(bench: Bench) -> None:
    wiring = {"sources": [{"type": "api", "width": 2}], "window": {"rows": 2, "hop": 2}}
    normalize = {"method": "minmax", "warmup_rows": 2, "clip": 0.0}
    await bench.supervisor.deploy([("t", bench.mlp(wiring={**wiring, "normalize": normalize}))])
    asked = [await bench.supervisor.ask("a", [float(i), 1.0], 5.0) for i in range(6)]
    assert [answer is None for answer in asked] == [True, True, True, False, True, False]
    assert bench.tally("a")["warmup"] == 2


async def test_row_that_the_queue_policy_drops_is_answered_with_none(bench: Bench) -> None:
    source = {"type": "api", "width": 4, "queue": {"policy": "latest_only"}}
    await bench.supervisor.deploy([("t", bench.mlp(wiring={"sources": [source]}))])
    bench.supervisor.flows.pause(A)
    first, second = (asyncio.create_task(bench.supervisor.ask("a", [0.1] * 4, 5.0)) for _ in range(2))
    await asyncio.sleep(0.01)
    bench.supervisor.flows.resume(A)
    assert await first is None and await second is not None
    assert bench.tally("a")["dropped"] == 1


async def test_agent_behind_an_open_breaker_is_asked_by_its_probe(bench: Bench) -> None:
    """Those who ask wait; the first of them is the probe, and when it is answered the others are too."""
    await bench.supervisor.deploy([("t", bench.bad("trap"))])
    for _ in range(5):
        with pytest.raises(TrapError):
            await bench.supervisor.ask("bad", [1.0], 5.0)
    await until(lambda: bench.supervisor.status[BAD][0] == "paused")
    answers = await asyncio.gather(*(bench.supervisor.ask("bad", [value], 5.0) for value in (0.5, 0.25, 0.125)))
    assert [answer.output[0] for answer in answers if answer] == [0.5, 0.25, 0.125]
    assert bench.supervisor.status[BAD][0] == "running"


async def test_who_asks_an_agent_that_is_stopped_is_told_at_once(bench: Bench) -> None:
    await bench.supervisor.deploy([("t", bench.mlp())])
    bench.supervisor.flows.pause(A)
    asking = asyncio.create_task(bench.supervisor.ask("a", [0.0] * 4, 20.0))
    await asyncio.sleep(0.01)
    await bench.supervisor.stop("a")
    with pytest.raises(JailGoneError, match="agent a: it was stopped before it answered"):
        await asking
    with pytest.raises(LocalError, match="agent a: it is stopped; start it first"):
        await bench.supervisor.ask("a", [0.0] * 4, 20.0)
    with pytest.raises(LocalError, match="agent b: no agent of that name runs"):
        await bench.supervisor.ask("b", [0.0] * 4, 20.0)


async def test_who_asks_in_vain_is_told_when_and_in_which_state(bench: Bench) -> None:
    await bench.supervisor.deploy([("t", bench.mlp())])
    bench.supervisor.flows.pause(A)
    with pytest.raises(LimitError, match=r"agent a: no answer within 0\.05 s; it is running"):
        await bench.supervisor.ask("a", [0.0] * 4, 0.05)
    bench.supervisor.flows.resume(A)
    assert await bench.supervisor.ask("a", [1.0] * 4, 5.0) is not None  # the row before it is nobody's now


async def test_agent_without_an_api_source_cannot_be_asked(bench: Bench) -> None:
    wiring = {"sources": [{"type": "vitals", "fields": ["cpu_percent"], "rate_hz": 0.001}]}
    await bench.supervisor.deploy([("t", bench.mlp("a", (1, 2, 1), wiring=wiring))])
    with pytest.raises(LocalError, match="agent a: expected an `api` source, found vitals"):
        await bench.supervisor.ask("a", [0.0], 5.0)


BAD_ROWS: list[Any] = [
    [],
    [1.0] * 3,
    [1.0] * 5,
    [float("nan"), 0.0, 0.0, 0.0],
    [0.0, 0.0, 0.0, float("-inf")],
    [1e39, 0.0, 0.0, 0.0],
    [10**5000, 0.0, 0.0, 0.0],
    ["1", 0.0, 0.0, 0.0],
    "abcd",
    b"abc",
    None,
    5,
    {},
    [None] * 4,
    [[1.0]] * 4,
]


async def test_what_is_no_row_is_an_error_that_says_what_was_found_and_is_counted(bench: Bench) -> None:
    await bench.supervisor.deploy([("t", bench.mlp())])
    for row in BAD_ROWS:
        with pytest.raises(InputError, match="agent a: expected 4 finite float32 values, found"):
            await bench.supervisor.ask("a", row, 5.0)
    assert sum(bench.tally("a")["malformed"].values()) == len(BAD_ROWS)
    assert await bench.supervisor.ask("a", [0.0] * 4, 5.0) is not None


async def test_texts_of_bad_rows_never_show_the_values(bench: Bench) -> None:
    """An error text may end up in a log, and a reading in a log is a leak."""
    await bench.supervisor.deploy([("t", bench.mlp())])
    secret = 3.14159
    for row in ([secret] * 3, [secret, float("nan"), 0.0, 0.0], [secret, "x", 0.0, 0.0]):
        with pytest.raises(InputError) as caught:
            await bench.supervisor.ask("a", row, 5.0)
        assert "3.14" not in str(caught.value)
    await bench.supervisor.ask("a", [secret] * 4, 5.0)
    packed = struct.pack("<f", secret).hex()
    assert not [line for line in bench.supervisor.log.ring.lines if "3.14" in line or packed in line]
