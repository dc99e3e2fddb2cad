"""`agent import` of ONNX files: what comes out answers as ONNX Runtime does, and what cannot go in is named."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the extra onnx is not here: NO ONNX FILE IS TESTED")

from fann_nets import FOLDER
from onnx_files import Net, answers, rows_of

from edgeswarm import agentfile


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def classifier() -> bytes:
    net = Net(["N", 4])
    for width, after in ((4, 8), (8, 3)):
        net.add("MatMul", net.random(width, after))
        net.add("Add", net.random(after))
        net.add("Relu" if after == 8 else "Softmax")
    return net.bytes()


def test_an_onnx_file_says_what_it_is_and_answers_in_a_jail_as_onnx_runtime_does(cli) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not here: NO ANSWER IS COMPARED")
    data = classifier()
    Path("iris.onnx").write_bytes(data)
    made = cli("agent", "import", "iris.onnx", "-o", "iris.af", "--json").json()
    found = made["found"]
    assert (made["name"], found["input"], found["output"], found["multiplications"]) == (
        "iris",
        "4",
        "3",
        4 * 8 + 8 * 3,
    )
    assert found["operators"] == ["2 Add", "2 MatMul", "1 Relu", "1 Softmax"]
    assert {"wasm_kernel", "neural_weights", "golden", "model"} <= set(made["sections"])
    rows = rows_of(data, 5)
    Path("rows.csv").write_text("\n".join(",".join(map(repr, row)) for row in rows.tolist()) + "\n")
    assert cli("agent", "verify", "iris.af").code == 0
    assert cli("agent", "run", "iris.af", "--input", "rows.csv", "-o", "out.csv").code == 0
    np.testing.assert_allclose(np.loadtxt("out.csv", delimiter=","), answers(data, rows), atol=1e-6)


def test_an_operator_without_a_place_is_named_with_its_index_and_what_can_be_done(cli) -> None:
    net = Net([1, 4, 8])
    net.add("Relu")
    net.add("LSTM", net.random(1, 12, 8), net.random(1, 12, 3), hidden_size=3)
    Path("net.onnx").write_bytes(net.bytes())
    done = cli("agent", "import", "net.onnx")
    assert done.code == 3
    assert "node 1 (LSTM 'lstm_1'): operator LSTM is not supported (a net that remembers" in done.err


def test_large_rows_get_small_batches(cli) -> None:
    """256 rows of 60,000 values would be 60 MB of memory for a kernel that takes one at a time."""
    for width, batch_max in ((4, 256), (60_000, 2)):
        net = Net(["N", width])
        net.add("Gemm", net.random(width, 2))
        Path("net.onnx").write_bytes(net.bytes())
        assert cli("agent", "import", "net.onnx", "-o", "net.af").code == 0
        assert agentfile.read(Path("net.af").read_bytes()).header.kernel.batch_max == batch_max


def causal_net() -> bytes:
    """A temporal convolutional net over 24 frames of 3 values, as PyTorch exports it."""
    net = Net([1, 3, 24])
    for dilation, channels in ((1, 3), (2, 6), (4, 6)):
        before = net.last
        net.add("Pad", net.whole(0, 0, 2 * dilation, 0, 0, 0))
        net.add("Conv", net.random(6, channels, 3, scale=0.4), net.random(6), dilations=[dilation])
        net.add("Relu")
        if channels == 6:
            net.add("Add", before)
    net.add("Gather", net.number(-1, np.int64), axis=2)
    net.add("Gemm", net.random(6, 2), net.random(2))
    return net.bytes()


def test_a_causal_net_takes_frame_by_frame_and_answers_as_for_windows(cli) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not here: NO ANSWER IS COMPARED")
    data = causal_net()
    Path("tcn.onnx").write_bytes(data)
    made = cli("agent", "import", "tcn.onnx", "--stream", 1, "-o", "tcn.af", "--json").json()
    assert made["found"]["stream"] == "1 of 24 frames a call, 78 values of memory"
    assert 20 * made["found"]["multiplications"] < made["found"]["multiplications_of_a_window"] * 1.2
    header = agentfile.read(Path("tcn.af").read_bytes()).header
    assert (header.neural_config.input_size, header.memory.width, header.payload_width) == (3 + 78, 78, 2)
    frames = np.random.default_rng(3).normal(size=(40, 3)).astype(np.float32)
    Path("rows.csv").write_text("\n".join(",".join(map(repr, row)) for row in frames.tolist()) + "\n")
    assert cli("agent", "verify", "tcn.af").code == 0
    assert cli("agent", "run", "tcn.af", "--input", "rows.csv", "-o", "out.csv", "--memory").code == 0
    found = np.loadtxt("out.csv", delimiter=",")
    windows = np.stack([frames[last - 24 : last].T.reshape(-1) for last in range(24, 41)])
    np.testing.assert_allclose(found[23:], answers(data, windows), atol=1e-5)


def test_a_stream_that_cannot_be_says_why(cli) -> None:
    net = Net([1, 3, 24])
    net.add("Conv", net.random(6, 3, 3), pads=[1, 1])
    Path("ahead.onnx").write_bytes(net.bytes())
    done = cli("agent", "import", "ahead.onnx", "--stream", 1)
    assert done.code == 3
    assert "look ahead, found one that sees 1 past the last frame" in done.err
    done = cli("agent", "import", FOLDER / "cascade.net", "--stream", 1)
    assert (done.code, "--stream is for nets over a window of frames" in done.err) == (2, True)


def test_without_the_extra_the_command_says_which_it_needs(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("iris.onnx").write_bytes(classifier())
    monkeypatch.setitem(sys.modules, "onnx", None)
    done = cli("agent", "import", "iris.onnx")
    assert (done.code, "pip install 'edgeswarm[onnx]'" in done.err) == (2, True)
