"""agent bench --against litert, in real jails: both answer alike, and what LiteRT does wrong is told, not suffered."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from edgeswarm import model
from edgeswarm.app.cli import agent_against
from edgeswarm.app.litert_peer import KINDS, Peer, covered
from edgeswarm.errors import JailError

pytest.importorskip("ai_edge_litert.interpreter", reason="LiteRT has no wheel for this machine")
tflite_files = pytest.importorskip("tflite_files", reason="the parser of TFLite files is not installed")
pytestmark = pytest.mark.e2e

SIZES = (5, 7, 3)
SOURCE = """\
version: "1.0"
name: twin
neural_config: {input_size: 5, output_size: 3, hidden_layers: [7], output_activation: linear}
kernel: {batch_max: 1}
"""


def as_tflite(sizes: tuple[int, ...], seed: int) -> bytes:
    """The same net as `agent build --random-seed` makes."""
    net, made = tflite_files.Net(), model.random_mlp(sizes, "relu", "linear", seed)
    first = at = net.tensor((1, sizes[0]))
    for index, layer in enumerate(made.layers):
        w, b = net.constant(layer.weights.T, "f32"), net.constant(layer.bias, "f32")
        out = net.tensor((1, layer.outputs))
        fused = tflite_files.RELU if index + 1 < len(made.layers) else tflite_files.NONE
        net.op("FULLY_CONNECTED", [at, w, b], [out], FusedActivationFunction=fused)
        at = out
    return bytes(net.file([first], [at]))


@pytest.fixture
def twin(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("agent.yaml").write_text(SOURCE)
    assert cli("agent", "build", "agent.yaml", "--random-seed", 3).code == 0
    Path("twin.tflite").write_bytes(as_tflite(SIZES, 3))
    return tmp_path / "twin.af"


def test_both_are_measured_and_answer_alike(cli, twin: Path) -> None:
    arguments = ("agent", "bench", twin, "--against", "litert", "--model", "twin.tflite", "--seconds", "0.05")
    found = cli(*arguments, "--json").json()["against"]
    assert set(found["contestants"]) == {"kernel", "call", "xnnpack", "builtin"}
    for kind in ("xnnpack", "builtin"):
        one = found["contestants"][kind]
        assert one["median_us"] > 0 and one["ratio"] > 0 and one["difference"] < 1e-5
    assert "LiteRT, XNNPACK" in agent_against.text(found)


def test_a_model_of_other_widths_is_refused(cli, twin: Path) -> None:
    Path("other.tflite").write_bytes(as_tflite((5, 7, 4), 3))
    done = cli("agent", "bench", twin, "--against", "litert", "--model", "other.tflite", "--seconds", "0.05")
    assert done.code == 3 and "expected 3 outputs as of twin, found 4" in done.err


@pytest.mark.parametrize("model_file", ["junk.tflite", "empty.tflite"])
def test_what_litert_refuses_is_told(model_file: str, cli, twin: Path) -> None:
    Path(model_file).write_bytes(b"" if model_file == "empty.tflite" else bytes(range(256)) * 8)
    done = cli("agent", "bench", twin, "--against", "litert", "--model", model_file, "--seconds", "0.05")
    assert done.code == 7 and "LiteRT (xnnpack)" in done.err


def test_an_agent_without_its_tflite_file_wants_one_named(cli, twin: Path) -> None:
    done = cli("agent", "bench", twin, "--against", "litert")
    assert done.code == 2 and "--model X.tflite" in done.err
    assert cli("agent", "bench", twin, "--model", "twin.tflite").code == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_peer_answers_as_the_model_does(kind: str) -> None:
    rows = model.random_rows(4, 5, 1)
    with Peer(as_tflite(SIZES, 3), kind) as peer:
        expected = model.reference.forward(model.random_mlp(SIZES, "relu", "linear", 3), rows)
        np.testing.assert_allclose(peer.answers(rows), expected, rtol=1e-4, atol=1e-5)
        assert 0 < peer.time_ns(rows[0], 3) < math.inf
        assert 4 * 8 <= peer.arena_bytes < 1 << 16


def test_arenas_far_apart_count_without_what_lies_between_them() -> None:
    assert covered([]) == 0
    assert covered([(10, 20), (12, 15), (15, 30), (30, 31), (1 << 44, (1 << 44) + 5)]) == 26


def test_inputs_lie_one_behind_the_other_and_so_do_outputs_whatever_their_types() -> None:
    net = tflite_files.Net()
    x, q = net.tensor((1, 3)), net.tensor((1, 2), "i8", scale=0.5, zero_point=1)
    relu, same = net.tensor((1, 3)), net.tensor((1, 2), "i8", scale=0.5, zero_point=1)
    net.op("RELU", [x], [relu])
    net.op("RESHAPE", [q, net.constant([1, 2])], [same])
    with Peer(bytes(net.file([x, q], [same, relu])), "reference") as peer:
        row = np.array([[1, -2, 3, 0.3, -99]], np.float32)
        np.testing.assert_array_equal(peer.answers(row), [[0.5, -64.5, 1, 0, 3]])
        assert (peer.input_steps, peer.output_steps) == (None, (0.5, 1))


def test_a_row_of_the_wrong_width_is_told_and_a_dead_peer_too() -> None:
    with Peer(as_tflite(SIZES, 3), "builtin") as peer:
        with pytest.raises(JailError, match="ValueError"):
            peer.answers(np.zeros((1, 6), np.float32))
        with pytest.raises(JailError, match="its process ended"):
            peer.answers(np.zeros((1, 5), np.float32))
