"""`edgeswarm.Population` as a program uses it: real jails, both ways to hold agents, and the page's own examples."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jail_kernels as k
import numpy as np
import pytest

from edgeswarm import Network, Population
from edgeswarm.app.builder import build_mlp
from edgeswarm.compile import Kernel
from edgeswarm.drivers import keys
from edgeswarm.drivers.jail_population import Fault
from edgeswarm.drivers.jail_sync import SyncHost
from edgeswarm.errors import AgentFileError, InputError, JailGoneError, LimitError, LocalError, ModelError, TrapError
from edgeswarm.jail.frames import FaultCode
from edgeswarm.limits import POPULATION_INSTANCES_MAX, POPULATION_PACKED_MAX
from edgeswarm.model import Dense, random_mlp, random_rows
from edgeswarm.model.reference import forward
from edgeswarm.model.shortcut import Shortcut

pytestmark = pytest.mark.e2e

PAGE = Path(__file__).resolve().parents[2] / "docs" / "populations.md"
MODEL, OTHER = (random_mlp((4, 8, 2), "tanh", "sigmoid", seed) for seed in (0, 1))
BOTH = pytest.mark.parametrize("isolation", ["instance", "packed"])
ROWS = random_rows(50, 4, 5)
MOODY = Kernel(k.assemble(k.MOODY), k.LAYOUT, np.float32(2).tobytes())


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SyncHost]:
    """One for all tests here."""
    with SyncHost(policy_dir=k.SANDBOX, cache_dir=tmp_path_factory.mktemp("cwasm"), mac_key=k.MAC_KEY) as host:
        yield host


def test_the_examples_of_the_page_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(examples) == 4
    names: dict[str, Any] = {}
    for example in examples:
        exec(example, names)


@BOTH
def test_every_agent_answers_its_own_row(zygote: SyncHost, isolation: str) -> None:
    with Population(MODEL, 50, isolation=isolation, host=zygote) as agents:
        found = agents.tick(ROWS)
        assert np.abs(found - forward(MODEL, ROWS)).max() < 1e-6
        assert dict(agents.faults) == {}
        assert agents.inputs.shape == (50, 4)
        agents.inputs[3] = ROWS[4]  # in place: the views are the agents' memory
        assert np.array_equal(agents.tick()[3], found[4])
        assert agents.tick() is agents.outputs
        with pytest.raises(ValueError, match="read-only"):
            agents.outputs[0] = 1


@BOTH
def test_an_agents_weights_are_its_own(zygote: SyncHost, isolation: str) -> None:
    with Population(Network(MODEL), 50, isolation=isolation, host=zygote) as agents:
        agents.tick(ROWS)
        agents.set_weights(0, OTHER)
        agents.set_weights(49, [(layer.weights, layer.bias) for layer in OTHER.layers])
        found, expected = agents.tick(), forward(MODEL, ROWS)
        expected[[0, 49]] = forward(OTHER, ROWS[[0, 49]])
        assert np.abs(found - expected).max() < 1e-6
        for (weights, bias), layer in zip(agents.weights(49), OTHER.layers, strict=True):
            assert np.array_equal(weights, layer.weights)
            assert np.array_equal(bias, layer.bias)
        agents.reset(0)
        assert np.abs(agents.tick()[0] - forward(MODEL, ROWS[:1])[0]).max() < 1e-6


@BOTH
def test_all_weights_at_once(zygote: SyncHost, isolation: str) -> None:
    models = [random_mlp((4, 8, 2), "tanh", "sigmoid", seed) for seed in range(50)]
    layers = [
        (np.array([m.layers[i].weights for m in models]), np.array([m.layers[i].bias for m in models])) for i in (0, 1)
    ]
    with Population(MODEL, 50, isolation=isolation, host=zygote) as agents:
        agents.set_all_weights(layers)
        expected = [forward(model, ROWS[i : i + 1])[0] for i, model in enumerate(models)]
        assert np.abs(agents.tick(ROWS) - expected).max() < 1e-6
        for bad in (
            layers[:1],
            [(w[:7], b[:7]) for w, b in layers],
            [(w * np.nan, b) for w, b in layers],
            [1, 2],
            7,
            [(10**400, 1)],
        ):
            with pytest.raises(InputError):
                agents.set_all_weights(bad)  # type: ignore[arg-type]
        assert np.abs(agents.tick(ROWS) - expected).max() < 1e-6


def test_a_large_nets_weights_beside_its_inputs_pages_are_right(zygote: SyncHost) -> None:
    """Weights of several pages: those that share one with inputs are copied, the others mapped."""
    model = random_mlp((30, 70, 33, 5), "relu", "softmax", 2)
    rows = random_rows(9, 30, 1)
    with Population(model, 9, host=zygote) as agents:
        assert np.abs(agents.tick(rows) - forward(model, rows)).max() < 1e-5
        agents.set_weights(4, random_mlp((30, 70, 33, 5), "relu", "softmax", 3))
        agents.reset(4)
        assert np.abs(agents.tick() - forward(model, rows)).max() < 1e-5


@pytest.mark.parametrize("sizes", [(1500, 3), (3, 1500), (1100, 1100)])
def test_rows_of_more_than_a_page_are_right(zygote: SyncHost, sizes: tuple[int, ...]) -> None:
    model = random_mlp(sizes, "relu", "tanh", 2)
    rows = random_rows(5, sizes[0], 1)
    with Population(model, 5, host=zygote) as agents:
        assert np.abs(agents.tick(rows) - forward(model, rows)).max() < 1e-5
        agents.reset(2)
        assert np.abs(agents.tick() - forward(model, rows)).max() < 1e-5


# --- faults -----------------------------------------------------------------------------------------------------------


def moody(count: int, **moods: float) -> np.ndarray:
    rows = np.zeros((count, 2), np.float32)
    rows[:, 1] = 1
    for name, mood in moods.items():
        rows[int(name[1:]), 0] = mood
    return rows


def test_agents_that_fault_are_marked_and_left_out_until_reset(zygote: SyncHost) -> None:
    with Population(MOODY, 8, deadline_ms=50, host=zygote) as agents:
        found = agents.tick(moody(8, _1=k.TRAP, _3=k.SPIN, _5=k.NAN)).copy()
        assert dict(agents.left_out) == {1: "unreachable", 3: "ran past its deadline"}
        assert set(agents.faults) == {1, 3, 5}
        assert np.isnan(found[[1, 3, 5]]).all()
        assert (found[[0, 2, 4, 6, 7], 0] == 2).all()
        found = agents.tick(moody(8))
        assert set(agents.faults) == {1, 3}
        assert np.isnan(found[[1, 3]]).all()
        assert found[5, 0] == 2
        agents.reset(1)
        agents.reset(3)
        assert (agents.tick(moody(8))[:, 0] == 2).all()
        assert not agents.faults


def test_agents_that_fault_may_be_made_anew_at_once(zygote: SyncHost) -> None:
    with Population(MOODY, 4, on_fault="reset", host=zygote) as agents:
        assert np.isnan(agents.tick(moody(4, _2=k.SCRIBBLE))[2]).all()
        assert (list(agents.faults), list(agents.left_out)) == ([2], [])
        assert (agents.tick(moody(4))[:, 0] == 2).all()


def test_a_packed_tick_past_its_deadline_fails_as_a_whole_and_the_next_one_works(zygote: SyncHost) -> None:
    """No net of ours is as slow: the deadline is made to look as if it had passed."""
    with Population(MODEL, 50, isolation="packed", host=zygote) as agents:
        jail = agents._members.population
        real = jail.tick
        jail.tick = lambda: [Fault(0, FaultCode.DEADLINE, "ran past its deadline")]  # type: ignore[method-assign]
        with pytest.raises(TrapError, match="packed population: ran past its deadline"):
            agents.tick(ROWS)
        jail.tick = real  # type: ignore[method-assign]
        assert np.abs(agents.tick(ROWS) - forward(MODEL, ROWS)).max() < 1e-6


def test_memory_grows_where_it_may(zygote: SyncHost) -> None:
    with Population(MOODY, 2, memory_limit_bytes=18 * 65_536, host=zygote) as agents:
        assert agents.tick(moody(2, _0=k.GROW))[0, 1] == 16
        assert list(agents.tick().tolist()[1]) == [2.0, 0.0]
        assert set(agents.faults) == {0}


# --- what it is made of -----------------------------------------------------------------------------------------------


def agent_file(tmp_path: Path) -> Path:
    key, _ = keys.load_or_make(tmp_path / "publisher.key")
    path = tmp_path / "boid.af"
    path.write_bytes(
        build_mlp(
            name="boid",
            sizes=MODEL.sizes,
            activation="tanh",
            output_activation="sigmoid",
            capabilities=[],
            weights=MODEL,
            seed=0,
            wiring=None,
            key=key,
        )
    )
    return path


@BOTH
def test_agent_files_are_populations_too(zygote: SyncHost, tmp_path: Path, isolation: str) -> None:
    path = agent_file(tmp_path)
    for source in (path, str(path), path.read_bytes()):
        with Population(source, 50, isolation=isolation, host=zygote) as agents:
            assert np.abs(agents.tick(ROWS) - forward(MODEL, ROWS)).max() < 1e-6
            assert np.array_equal(agents.weights(1)[0][0], MODEL.layers[0].weights)
            assert isolation == "packed" or agents._members.population.spec.deadline_ms == 1000  # the file's own


def test_a_kernel_whose_weights_nobody_can_read_runs_isolated_only(zygote: SyncHost) -> None:
    with pytest.raises(LocalError, match="expected a feed-forward net"):
        Population(MOODY, 2, isolation="packed", host=zygote)
    with Population(MOODY, 2, host=zygote) as agents:
        for call in (lambda: agents.weights(0), lambda: agents.set_weights(0, MODEL)):
            with pytest.raises(LocalError, match="not known"):
                call()


def test_nets_with_jumps_are_populations_of_isolated_agents(zygote: SyncHost) -> None:
    """As FANN's cascade training makes them: each layer reads all values before it."""
    rng = np.random.default_rng(0)
    layers = (
        Dense(rng.standard_normal((4, 1)), rng.standard_normal(1), "tanh"),
        Dense(rng.standard_normal((5, 2)), rng.standard_normal(2), "sigmoid"),
    )
    first = np.tanh(ROWS @ layers[0].weights + layers[0].bias)
    sums = np.hstack([ROWS, first]) @ layers[1].weights + layers[1].bias
    net = Shortcut(4, layers, 2)
    with Population(net, 50, host=zygote) as agents:
        assert np.abs(agents.tick(ROWS) - 1 / (1 + np.exp(-sums))).max() < 1e-5
    with pytest.raises(LocalError, match="expected a feed-forward net"):
        Population(net, 50, isolation="packed", host=zygote)


def test_deterministic_populations_give_the_same_bits_both_ways(zygote: SyncHost) -> None:
    digests = set()
    for isolation in ("instance", "packed"):
        with Population(MODEL, 50, isolation=isolation, mode="deterministic", host=zygote) as agents:
            digests.add(hashlib.sha256(agents.tick(ROWS).tobytes()).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        ((MODEL, 0), {}, LimitError),
        ((MODEL, POPULATION_INSTANCES_MAX + 1), {}, LimitError),
        ((MODEL, POPULATION_PACKED_MAX + 1), {"isolation": "packed"}, LimitError),
        ((MODEL, -1), {}, LocalError),
        ((MODEL, 2.5), {}, LocalError),
        ((MODEL, True), {}, LocalError),
        ((MODEL, 2), {"isolation": "none"}, LocalError),
        ((MODEL, 2), {"on_fault": "shrug"}, LocalError),
        ((MODEL, 2), {"mode": "quick"}, LocalError),
        ((MODEL, 2), {"deadline_ms": -1}, LocalError),
        ((MODEL, 2), {"deadline_ms": 1 << 40}, LimitError),
        ((MODEL, 2), {"memory_limit_bytes": 1}, LimitError),
        ((7, 2), {}, LocalError),
        (("/nowhere/x.af", 2), {}, AgentFileError),
        (("a\0b", 2), {}, AgentFileError),
        ((b"nothing", 2), {}, AgentFileError),
    ],
)
def test_what_cannot_be_a_population_is_refused(
    zygote: SyncHost, arguments: tuple[Any, Any], options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        Population(*arguments, host=zygote, **options)


@BOTH
def test_wrong_rows_weights_and_agents_are_refused_and_nothing_changes(zygote: SyncHost, isolation: str) -> None:
    with Population(MODEL, 50, isolation=isolation, host=zygote) as agents:
        good = agents.tick(ROWS).copy()
        for rows in (ROWS[:3], ROWS[0], ROWS * np.nan, "rows", [[1]], ROWS.astype(np.float64) * 1e300):
            with pytest.raises(InputError):
                agents.tick(rows)
        for weights in (
            random_mlp((4, 7, 2), "tanh", "sigmoid", 0),
            random_mlp((4, 8, 2), "relu", "relu", 0),
            7,
            [1, 2],
        ):
            with pytest.raises(InputError):
                agents.set_weights(0, weights)
        with pytest.raises(ModelError):
            agents.set_weights(0, [(np.full((4, 8), np.nan), np.zeros(8)), (np.zeros((8, 2)), np.zeros(2))])
        for agent in (-1, 50, True, "1", 1.0):
            for call in (agents.reset, agents.weights, lambda i: agents.set_weights(i, OTHER)):
                with pytest.raises(LocalError):
                    call(agent)  # type: ignore[arg-type]
        assert np.array_equal(agents.tick(), good)


@BOTH
def test_closed_it_is_closed_and_what_was_handed_out_stays(zygote: SyncHost, isolation: str) -> None:
    agents = Population(MODEL, 50, isolation=isolation, host=zygote)
    found = agents.tick(ROWS)
    agents.close()
    agents.close()
    for call in (agents.tick, lambda: agents.reset(0), lambda: agents.weights(0), agents.memory):
        with pytest.raises(LocalError, match="closed"):
            call()
    assert np.abs(found - forward(MODEL, ROWS)).max() < 1e-6


def test_a_jail_that_dies_is_told(zygote: SyncHost) -> None:
    with Population(MODEL, 50, host=zygote) as agents:
        os.kill(agents._members.population.pid, signal.SIGKILL)
        with pytest.raises(JailGoneError):
            agents.tick(ROWS)


def test_memory_is_told_in_bytes(zygote: SyncHost) -> None:
    with Population(MODEL, 50, host=zygote) as agents:
        found = agents.memory()
        assert found["held"] > found["shared"] >= 50 * 4096
        assert found["each"] == (found["held"] + found["page_tables"]) // 50


def test_weights_that_are_shared_are_held_once(zygote: SyncHost) -> None:
    model, count = random_mlp((64, 64, 64), "relu", "relu", 0), 100
    with Population(model, count, host=zygote) as agents:
        agents.tick(random_rows(count, 64, 1))
        shared = agents.memory()["held"]
        for agent in range(count):
            agents.set_weights(agent, model)
        assert agents.memory()["held"] - shared > count * 4 * model.parameters * 0.8


def test_a_population_of_its_own_brings_its_zygote(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with Population(MODEL, 50) as agents:
        assert np.abs(agents.tick(ROWS) - forward(MODEL, ROWS)).max() < 1e-6


def test_two_threads_that_tick_at_once_get_answers_or_a_clear_word_and_complex_rows_are_refused() -> None:
    model = random_mlp([4, 8, 2], "tanh", "linear", 1)
    rows = np.random.default_rng(1).uniform(-1, 1, (64, 4)).astype(np.float32)
    said: list[str] = []
    with Population(model, 64) as population:
        expected = population.tick(rows).copy()

        def work() -> None:
            for _ in range(200):
                try:
                    population.tick()
                except LocalError as error:
                    said.append(str(error))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(said) <= {"population: another thread is at work on it; one thread at a time"}
        assert (population.tick() == expected).all()
        for other in (rows + 0j, rows.astype("m8[s]"), rows.view("V4"), rows.view([("a", "f4")])):
            with pytest.raises(InputError, match=r"expected numbers, found ndarray: the dtype"):
                population.tick(other)


def test_a_thread_that_asks_while_another_ticks_is_refused_by_name_and_may_close(zygote: SyncHost) -> None:
    """The tick takes two deadlines: nobody else's question gets between it and its answer, and it closes at its end."""
    with Population(MOODY, np.int64(2), deadline_ms=np.int64(500), host=zygote) as population:
        thread = threading.Thread(target=population.tick, args=(moody(2, _0=k.SPIN, _1=k.SPIN),))
        thread.start()
        while thread.is_alive() and not population._busy.locked():
            pass
        for ask in (lambda: population.reset(1), population.tick, lambda: population.weights(1)):
            with pytest.raises(LocalError, match="another thread is at work on it"):
                ask()
        assert population.memory()["held"] > 0
        population.close()
        thread.join()
        assert set(population.left_out) == {0, 1}
        assert population._members.population._closed
        with pytest.raises(LocalError, match="it is closed"):
            population.tick()
