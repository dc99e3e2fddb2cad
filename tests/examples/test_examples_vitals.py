"""docs/examples/vitals: what it is trained on, what it finds, and the files it makes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import psutil
import pytest

from edgeswarm import agentfile
from edgeswarm.drivers import keys
from edgeswarm.model import Mlp
from edgeswarm.stream import graph

ROOT = Path(__file__).resolve().parents[2]
Models = dict[str, Mlp]


@pytest.fixture(scope="module")
def models(vitals: ModuleType) -> Models:
    """The committed ones."""
    network = vitals.network
    return {name: network.weights(name) for name in (*network.AGENTS, network.NEXT_SCORER)}


@pytest.fixture(scope="module")
def trained(vitals: ModuleType) -> Models:
    """Newly trained ones."""
    models: Models = vitals.training.train_all(vitals.training.load(vitals.RECORDING))
    return models


def test_the_agents_form_one_network_in_the_order_of_the_data(vitals: ModuleType) -> None:
    headers = [vitals.network.header(name) for name in vitals.network.AGENTS]
    upstreams = {
        tree["name"]: [source["agent"] for source in tree["wiring"]["sources"] if source["type"] == "agent"]
        for tree in headers
    }
    assert graph.check(upstreams) == tuple(tree["name"] for tree in headers)
    assert {tree["supervision"]["network"] for tree in headers} == {"vitals"}
    assert upstreams["vitals-fuse"] == ["vitals-scorer", "vitals-autoencoder"]


def test_across_devices_the_agents_read_each_other_wherever_they_run(vitals: ModuleType, tmp_path: Path) -> None:
    key, _ = keys.load_or_make(tmp_path / "publisher.key")
    files = vitals.network.build_network(key=key, across_devices=True)
    wirings = {name: agentfile.read(data, who=name).header.wiring for name, data in files.items()}
    read = {name: [(s.agent, s.width) for s in w.sources if s.type == "agent"] for name, w in wirings.items()}
    assert read["vitals-autoencoder.af"] == []
    assert read["vitals-scorer.af"] == read["vitals-scorer-1.1.0.af"] == [("any/vitals-autoencoder", 2)]
    assert read["vitals-fuse.af"] == [("any/vitals-scorer", 2), ("any/vitals-autoencoder", 2)]
    assert all(wiring.publish is not None for wiring in wirings.values())
    one = vitals.network.build_network(key=key)
    assert all(agentfile.read(data, who=name).header.wiring.publish is None for name, data in one.items())


def test_training_sees_what_the_runtime_computes(vitals: ModuleType, models: Models) -> None:
    """The vectorised steps against edgeswarm.stream's pipelines, on a recorded stretch with two bursts."""
    training, evaluate, network = vitals.training, vitals.evaluate, vitals.network
    piece = next(p for p in evaluate.runs(training.load(vitals.RECORDING)) if len(np.unique(p[:, 4])) > 1)
    live = evaluate.Vitals(models)
    outcomes = [live.push(row) for row in piece[:, 1:3]]
    found = np.array([outcome.output for outcome in outcomes if outcome is not None])

    unit = np.array([network.header(network.AUTOENCODER)["wiring"]["normalize"]["std_min"][1]])
    rows = training.normalised(piece[None, :, 1:3], unit)
    frames = training.windows(rows, 4)
    residual = training.residuals(frames, training.answers(models[network.AUTOENCODER], frames))
    scores = training.answers(models[network.SCORER], training.scorer_frames(residual))
    expected = training.answers(models[network.FUSE], training.fuse_frames(scores, residual))[0]
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=2e-4)  # the runtime's rows are float32
    assert [outcome is None for outcome in outcomes].index(False) < evaluate.READY_ROWS


@pytest.mark.parametrize("which", ["committed", "trained"])
@pytest.mark.parametrize("scorer", ["scorer", "scorer-1.1.0"])
def test_bursts_are_found_on_the_recording_s_held_out_part(
    vitals: ModuleType, request: pytest.FixtureRequest, which: str, scorer: str
) -> None:
    models = request.getfixturevalue("models" if which == "committed" else "trained")
    held = vitals.training.held_out(vitals.training.load(vitals.RECORDING))
    figures = vitals.evaluate.evaluate({**models, "scorer": models[scorer]}, vitals.evaluate.runs(held))
    assert min(figures.bursts.values()) >= 5
    assert figures.found == figures.bursts
    assert np.percentile(figures.delays, 95) <= 20
    assert figures.false_flags <= 1


def test_bursts_are_found_on_machines_of_every_size(vitals: ModuleType, trained: Models) -> None:
    figures = vitals.evaluate.made_up(trained, count=60, rows=300, seed=4711)
    for kind, count in figures.bursts.items():
        assert count >= 50 and figures.found[kind] >= 0.95 * count, (kind, figures)
    assert figures.false_flags_per_hour <= 40, figures


def test_a_container_with_a_share_of_the_machine_gets_a_scale_of_its_own(vitals: ModuleType) -> None:
    tree = vitals.network.header("autoencoder")
    as_written = dict(tree["wiring"]["normalize"])
    vitals.network.fit_to(tree, vitals.bursts.Reach(100.0, 8.0, 0))
    assert tree["wiring"]["normalize"] == as_written
    vitals.network.fit_to(tree, vitals.bursts.Reach(25.0, 0.4, 0))
    scale = tree["wiring"]["normalize"]
    assert scale["std_min"] == [3.125, 0.1] and scale["mean_max"] == [7.5, 100.0]


def test_the_files_are_whole_signed_and_the_same_every_time(vitals: ModuleType, tmp_path: Path) -> None:
    key, _ = keys.load_or_make(tmp_path / "publisher.key")
    reach = vitals.bursts.Reach(50.0, 4.0, 0)
    files = vitals.network.build_network(key=key, reach=reach)
    assert files == vitals.network.build_network(key=key, reach=reach)
    found = {}
    for name, data in files.items():
        file = agentfile.read(data, who=name)
        assert agentfile.verify(file, {key.id: key.public}) == key.id
        assert len(data) < 16_384
        found[name] = (file.header.name, file.header.agent_version)
    assert list(found.values()) == [
        ("vitals-autoencoder", "1.0.0"),
        ("vitals-scorer", "1.0.0"),
        ("vitals-fuse", "1.0.0"),
        ("vitals-scorer", "1.1.0"),
    ]


def test_a_burst_stays_within_what_this_machine_and_this_container_have(
    vitals: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    bursts = vitals.bursts
    gib = 1 << 30
    monkeypatch.setattr(bursts, "_cgroup_cores", lambda: iter([1.5]))
    monkeypatch.setattr(bursts, "_cgroup_memory_room", lambda: iter([gib, 4 * gib]))
    monkeypatch.setattr(bursts, "_meminfo", lambda: {"MemTotal": 64 * gib, "MemAvailable": 60 * gib})
    monkeypatch.setattr(bursts.os, "cpu_count", lambda: 6)
    monkeypatch.setattr(bursts.os, "sched_getaffinity", lambda pid: set(range(4)))
    assert bursts.reachable() == bursts.Reach(25.0, 100 / 128, gib // 2)
    monkeypatch.setattr(bursts, "_cgroup_memory_room", lambda: iter([]))
    monkeypatch.setattr(bursts, "_meminfo", lambda: {"MemTotal": gib // 2, "MemAvailable": gib // 4})
    assert bursts.reachable().memory_bytes == gib // 8


def test_cgroup_limits_of_every_level_count(
    vitals: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bursts = vitals.bursts
    inner = tmp_path / "inner"
    inner.mkdir()
    for folder, cpu, memory in ((tmp_path, "200000 100000", "5000"), (inner, "max 100000", "max")):
        (folder / "cpu.max").write_text(cpu + "\n")
        (folder / "memory.max").write_text(memory + "\n")
        (folder / "memory.current").write_text("2000\n")
    monkeypatch.setattr(bursts, "_cgroup_folders", lambda: iter([inner, tmp_path, tmp_path / "absent"]))
    assert list(bursts._cgroup_cores()) == [2.0]
    assert list(bursts._cgroup_memory_room()) == [3000]


def test_a_burst_ends_by_itself_and_with_its_parent(vitals: ModuleType) -> None:
    bursts = vitals.bursts
    processes = [bursts._start("spin", 0.1), bursts._start("hold", 0.1, 1 << 20)]
    bursts.wait(processes)
    assert [process.returncode for process in processes] == [0, 0]
    code = "import bursts; print(bursts._start('spin', 60).pid)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=vitals.network.HERE, capture_output=True, text=True, timeout=30, check=True
    )
    pid = int(done.stdout)
    deadline = time.monotonic() + 10
    while not _ended(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _ended(pid)


def _ended(pid: int) -> bool:
    """Gone, or a zombie: another test's supervisor may have made this process the one that orphans come to."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_recording_reads_back_as_training_takes_it(vitals: ModuleType, recorder: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "short.csv"
    rows = recorder.record(1.0, path, seed=1)
    recorded = vitals.training.load(path)
    assert recorded.shape == (rows, 5) and rows >= 5
    assert path.read_text().splitlines()[0] == vitals.RECORDING.read_text().splitlines()[0]
    assert set(np.unique(recorded[:, 4])) == {0.0}


@pytest.mark.e2e
def test_quickstart_runs() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "examples" / "quickstart.py")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "agent-1 1.0.0 running lost 0"
