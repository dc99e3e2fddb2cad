"""README's commands, pasted as they stand into a shell in an empty folder: by root, and by a user without rights."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from brokers import free_port, needs_mosquitto
from pages import commands, paste
from processes import NOBODY, ROOT, state

from edgeswarm import model

__all__ = ["state"]
pytestmark = pytest.mark.e2e
README = ROOT / "README.md"
MADE = """\
export EDGESWARM_STATE=$PWD/es
edgeswarm agent new pump-watch
edgeswarm agent build pump-watch/agent.yaml --weights pump-watch/weights.json -o pump-watch.af
"""
NET = """\
version: "1.0"
name: small
neural_config: {input_size: 2, output_size: 1, hidden_layers: [8]}
"""


def chapter(name: str) -> str:
    """The commands of one chapter: its sh blocks up to the next heading."""
    text = README.read_text().partition(f" {name}\n")[2]
    found = commands(re.split(r"^#+ ", text, maxsplit=1, flags=re.MULTILINE)[0])
    assert found, f"README has no commands under {name}"
    return found


def replaced(script: str, **changes: str) -> str:
    for key, value in changes.items():
        assert key in script, f"README no longer says {key!r}"
        script = script.replace(key, value)
    return script


@pytest.fixture
def ordinary() -> int | None:
    return NOBODY if os.geteuid() == 0 else None


@pytest.mark.parametrize("who", ["self", "ordinary"])
def test_five_minutes_are_as_readme_says(state: Path, ordinary: int | None, who: str) -> None:
    if who == "ordinary" and ordinary is None:
        pytest.skip("we are an ordinary user ourselves")
    script = replaced(
        chapter("Five minutes"),
        **{
            "source .venv/bin/activate\n": "",
            "edgeswarm top ": "edgeswarm top --count 2 ",
            "/tmp/es ": "$PWD/es ",
            "X.af": "pump-watch.af",
            "edgeswarm agent run": "printf '50,20\\n99,30\\n' > rows.csv; edgeswarm agent run",
        },
    )
    said = paste(script, state, ordinary if who == "ordinary" else None)
    assert "pump-watch: running" in said and "all is well" in said
    assert np.load(state / "answers.npy").ravel() == pytest.approx([0.44, 0.852])


def test_a_net_that_you_have_is_as_readme_says(state: Path, ordinary: int | None) -> None:
    given = state.parent / "given"
    given.mkdir()
    (given / "pump.net").write_bytes((ROOT / "tests/data/fann/trained.net").read_bytes())
    (given / "agent.yaml").write_text(NET)
    model.save_npz(model.random_mlp((2, 8, 1), "relu", "linear", 1), given / "w.npz")
    rows = np.random.default_rng(1).uniform(-1, 1, (200, 2))
    (given / "rows.csv").write_text("".join(f"{a:.4f},{b:.4f}\n" for a, b in rows))
    said = paste(f"cp {given}/* .\n" + chapter("A net that you have"), state, ordinary)
    assert "byte for byte" in said
    assert (state / "again.net").read_bytes() == (state / "pump.net").read_bytes()


def test_a_tflite_model_is_as_readme_says(state: Path, ordinary: int | None) -> None:
    pytest.importorskip("tflite", reason="the parser of TFLite files is not installed: pip install 'edgeswarm[build]'")
    given = state.parent / "given"
    given.mkdir()
    (given / "kws.tflite").write_bytes(spotter())
    rows = np.random.default_rng(1).uniform(-1, 1, (5, 60))
    (given / "rows.csv").write_text("".join(",".join(f"{x:.4f}" for x in row) + "\n" for row in rows))
    said = paste(f"cp {given}/* .\n" + chapter("A TFLite or ONNX model"), state, ordinary)
    assert "to the bit" in said
    words = np.loadtxt(state / "words.csv", delimiter=",")
    assert words.shape == (5, 4) and words.sum(axis=1) == pytest.approx(1, abs=0.02)
    assert "<svg" in (state / "kws.svg").read_text()


def spotter() -> bytes:
    """A tiny net of words in full int8: 10 x 6 features in, 4 classes out."""
    from tflite_files import RELU, SAME, Net

    rng, net = np.random.default_rng(2), Net()
    x = net.tensor((1, 10, 6, 1), "i8", scale=1 / 128, zero_point=3)
    y = net.tensor((1, 5, 3, 8), "i8", scale=0.02, zero_point=-128)
    weights = net.constant(rng.integers(-127, 128, (8, 3, 3, 1)), "i8", scale=[0.01] * 8, zero_point=[0] * 8)
    bias = net.constant(rng.integers(-500, 500, 8), "i32", scale=[0.01 / 128] * 8, zero_point=[0] * 8)
    net.op("CONV_2D", [x, weights, bias], [y], Padding=SAME, StrideH=2, StrideW=2, FusedActivationFunction=RELU)
    score = net.tensor((1, 4), "i8", scale=0.1, zero_point=0)
    dense = net.constant(rng.integers(-127, 128, (4, 120)), "i8", scale=0.01)
    net.op("FULLY_CONNECTED", [y, dense, -1], [score])
    share = net.tensor((1, 4), "i8", scale=1 / 256, zero_point=-128)
    net.op("SOFTMAX", [score], [share], Beta=1.0)
    return net.file([x], [share])


def test_a_fleet_is_as_readme_says(state: Path, ordinary: int | None) -> None:
    needs_mosquitto()
    script = replaced(
        chapter("A fleet"),
        **{
            "--bind 127.0.0.1": f"--bind 127.0.0.1 --port {free_port()} --join-port {free_port()} --timing lan",
            "--watch": "--gate healthy=1s,pause=1s --watch",
            "--reason stolen": "--reason stolen --yes",  # a terminal would ask
        },
    )
    asked = "umask 077; echo 'correct horse battery staple' > pass; export EDGESWARM_PASSPHRASE_FILE=$PWD/pass\n"
    said = paste(asked + MADE + script, state, ordinary)
    assert "done, wave 1: 1 healthy" in said


def test_a_swarm_without_a_fleet_is_as_readme_says(state: Path, ordinary: int | None) -> None:
    script = replaced(
        chapter("Several devices without a fleet"),
        **{"18830": str(free_port()), "edgeswarm swarm watch": "! timeout 3 edgeswarm swarm watch"},
    )
    said = paste(MADE + script, state, ordinary)
    assert re.search(r"^pump-watch +d[123] ", said, re.MULTILINE), said
