"""`agent import` of TFLite files: what comes out answers as LiteRT does; what cannot go in is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tflite_files import NONE, RELU, SAME, Net, litert

from edgeswarm import agentfile

ROWS = 6


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listener(odd: str = "") -> bytes:
    """A convolution, its mean, a classifier: 8 bits, 49 x 4 x 1 in, 3 out."""
    dice, net = np.random.default_rng(4), Net()
    x = net.tensor((1, 49, 4, 1), "i8", scale=0.5, zero_point=-3, signature=(-1, 49, 4, 1))
    kernel = net.constant(dice.integers(-127, 128, (6, 5, 3, 1)), "i8", scale=[0.02] * 6)
    bias = net.constant(dice.integers(-300, 300, 6), "i32", scale=[0.01] * 6)
    image = net.tensor((1, 25, 2, 6), "i8", scale=0.7, zero_point=-128, signature=(-1, 25, 2, 6))
    options = {"Padding": SAME, "StrideH": 2, "StrideW": 2, "FusedActivationFunction": RELU}
    net.op("CONV_2D", [x, kernel, bias], [image], version=3, **options)
    mean = net.tensor((1, 6), "i8", scale=0.4, zero_point=-128)
    net.op("MEAN", [image, net.constant([1, 2])], [mean], version=2, KeepDims=False)
    weights = net.constant(dice.integers(-127, 128, (3, 6)), "i8", scale=0.03)
    sums = net.tensor((1, 3), "i8", scale=0.3, zero_point=5)
    net.op("FULLY_CONNECTED", [mean, weights, -1], [sums], version=4, FusedActivationFunction=NONE)
    y = net.tensor((1, 3), "i8", scale=1 / 256, zero_point=-128)
    net.op(odd or "SOFTMAX", [sums], [y], version=2, **({} if odd else {"Beta": 1.0}))
    return net.file([x], [y])


def test_a_tflite_file_says_what_it_is_and_answers_in_a_jail_to_the_bit(cli) -> None:
    data = listener()
    Path("listener.tflite").write_bytes(data)
    made = cli("agent", "import", "listener.tflite", "--json").json()
    found = made["found"]
    assert (made["name"], found["input"], found["output"]) == ("listener", "49x4x1", "3")
    assert found["operators"] == ["1 CONV_2D", "1 FULLY_CONNECTED", "1 MEAN", "1 SOFTMAX"]
    assert found["arithmetic"] == "8-bit, LiteRT's reference kernels to the bit"
    assert found["multiplications"] == 25 * 2 * 6 * 15 + 18
    assert {"wasm_kernel", "neural_weights", "golden", "model", "tflite"} <= set(made["sections"])
    assert agentfile.read(Path("listener.af").read_bytes()).sections["tflite"] == data
    assert cli("agent", "verify", "listener.af").code == 0
    held = np.random.default_rng(9).integers(-128, 128, (ROWS, 49 * 4))
    Path("rows.csv").write_text("\n".join(",".join(str((q + 3) * 0.5) for q in row) for row in held) + "\n")
    assert cli("agent", "run", "listener.af", "--input", "rows.csv", "-o", "out.csv").code == 0
    answers = np.loadtxt("out.csv", delimiter=",") * 256 - 128
    assert (answers == litert(data, held).reshape(ROWS, 3)).all()


def test_the_same_file_gives_the_same_agent_file(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    Path("net.tflite").write_bytes(listener())
    for out in ("a.af", "b.af"):
        assert cli("agent", "import", "net.tflite", "-o", out).code == 0
    assert Path("a.af").read_bytes() == Path("b.af").read_bytes()


def test_wiring_and_labels_come_from_a_source(cli) -> None:
    Path("net.tflite").write_bytes(listener())
    Path("agent.yaml").write_text(
        'version: "1.0"\nname: ear\nneural_config: {input_size: 196, output_size: 3}\n'
        "wiring: {sources: [{type: api, width: 196}], decision: {type: argmax, labels: [a, b, c]}}\n"
    )
    assert cli("agent", "import", "net.tflite", "--source", "agent.yaml").code == 0
    header = agentfile.read(Path("ear.af").read_bytes()).header
    assert header.wiring.decision.labels == ("a", "b", "c")
    assert header.neural_config.network_type == "graph"


def test_what_cannot_be_imported_is_named_with_its_index_and_what_can_be_done(cli) -> None:
    Path("net.tflite").write_bytes(listener("ARG_MAX"))
    done = cli("agent", "import", "net.tflite")
    assert done.code == 3
    assert "net.tflite: operator 3 (ARG_MAX): not an operator that can be imported; leave it out" in done.err
    assert not Path("net.af").exists()


@pytest.mark.parametrize("cut", [8, 40, 200, 1000])
def test_half_a_file_is_told_as_that(cut: int, cli) -> None:
    Path("net.tflite").write_bytes(listener()[:cut])
    done = cli("agent", "import", "net.tflite")
    assert done.code == 3 and "net.tflite: " in done.err


def test_options_of_other_formats_are_refused(cli) -> None:
    Path("net.tflite").write_bytes(listener())
    done = cli("agent", "import", "net.tflite", "--apply-scaling")
    assert done.code == 2 and "for FANN nets" in done.err


def test_large_rows_get_small_batches_and_few_golden_vectors(cli) -> None:
    net = Net()
    x, y = net.tensor((1, 96, 96, 3)), net.tensor((1, 3))
    net.op("MEAN", [x, net.constant([1, 2])], [y], KeepDims=False)
    Path("net.tflite").write_bytes(net.file([x], [y]))
    assert cli("agent", "import", "net.tflite").code == 0
    file = agentfile.read(Path("net.af").read_bytes())
    assert file.header.kernel.batch_max == 1
    assert len(file.sections["golden"]) == 2 * 4 * (96 * 96 * 3 + 3)


def test_a_file_too_large_to_go_along_is_left_out_and_it_is_said(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeswarm.app.cli.agent_import_tflite.CARRIED_BYTES_MAX", 100)
    Path("net.tflite").write_bytes(listener())
    made = cli("agent", "import", "net.tflite", "--json").json()
    assert "tflite" not in made["sections"]
    assert any("no delegate can compute it" in note for note in made["notes"])
