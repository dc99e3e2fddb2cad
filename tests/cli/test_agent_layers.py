"""agent show --graph, profile and debug: what they say of a model is what the model is, and a wrong layer is named."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as xml
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeswarm import agentfile, model
from edgeswarm.agentfile.file import Section
from edgeswarm.app.cli import agent_debug, agent_graph, agent_opened, flame
from edgeswarm.compile import Rows, attach_layout
from edgeswarm.compile.kernel import compile_graph, pack_weights
from edgeswarm.compile.opened import Opened
from edgeswarm.model.graph import Builder, Graph
from edgeswarm.model.nodes import Tensor
from edgeswarm.model.structure import structure_of
from edgeswarm.schema import decode

SIZES = (5, 7, 3)
SOURCE = """\
version: "1.0"
name: layered
neural_config: {input_size: 5, output_size: 3, hidden_layers: [7], output_activation: softmax}
kernel: {batch_max: 4, mode: MODE}
"""
SVG = "{http://www.w3.org/2000/svg}"


def build(cli, mode: str = "fast", hidden: int = 7) -> Path:
    Path("agent.yaml").write_text(SOURCE.replace("MODE", mode).replace("[7]", f"[{hidden}]"))
    assert cli("agent", "build", "agent.yaml", "--random-seed", 3, "--unsigned").code == 0
    return Path("layered.af").resolve()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(agent_graph, "SECONDS", 0.02)


def test_the_graph_of_a_model_has_its_shapes_and_costs(cli) -> None:
    found = cli("agent", "show", build(cli), "--graph", "--json").json()
    shapes = [(layer["reads"][0]["shape"], layer["writes"]["shape"]) for layer in found["layers"]]
    assert shapes == [([5], [7]), ([7], [3])]
    assert [layer["macs"] for layer in found["layers"]] == [35, 21]
    assert (found["macs"], found["parameters"], found["same_code"]) == (56, 42 + 24, True)
    assert [layer["live_bytes"] for layer in found["layers"]] == [20 + 28, 28 + 12]
    assert found["activation_bytes"] >= 20 + 28 + 12
    assert all(layer["time_us"] >= 0 and layer["noise_us"] >= 0 for layer in found["layers"])


def test_the_table_has_a_line_a_layer(cli) -> None:
    done = cli("agent", "show", build(cli), "--graph")
    assert done.code == 0
    lines = done.out.splitlines()
    assert "2 layers, 56 MACs, 66 parameters" in lines[0]
    assert [re.split(r"  +", line.strip())[:2] for line in lines[4:6]] == [["0", "dense relu"], ["1", "dense softmax"]]


def test_a_flame_graph_holds_every_layer_within_its_run(cli) -> None:
    done = cli("agent", "profile", build(cli, hidden=8000), "--seconds", "0.05", "-o", "x.svg")
    assert done.code == 0 and "flame graph: x.svg" in done.out
    picture = xml.parse("x.svg").getroot()
    frames = [(group.find(f"{SVG}title"), group.find(f"{SVG}rect")) for group in picture.findall(f"{SVG}g")]
    placed = {str(title.text): (float(rect.get("x")), float(rect.get("width"))) for title, rect in frames}
    run = next(place for text, place in placed.items() if text.startswith("one run of layered"))
    layers = [place for text, place in placed.items() if re.match(r"\d+ dense", text)]
    assert len(layers) == 2
    assert all(run[0] <= x and x + width <= run[0] + run[1] + 1 for x, width in placed.values())
    assert layers[0][0] + layers[0][1] <= layers[1][0] + 1, "in the order of computing"


def test_names_from_files_cannot_break_out_of_a_picture() -> None:
    text = "<script>alert(1)</script>\x07&"
    child = flame.Frame(text, 1.0, text)
    picture = flame.svg(text, text, flame.Frame(text, 2.0, "run", children=(child,)))
    root = xml.fromstring(picture)
    assert not root.findall(f".//{SVG}script") and "\x07" not in picture


def test_a_picture_of_no_time_at_all_is_still_one() -> None:
    xml.fromstring(flame.svg("t", "s", flame.Frame("run", 0.0, "run", children=(flame.Frame("a", 0.0, "dense"),))))


def test_the_profile_in_json_has_steps_whose_layers_are_the_model_s(cli) -> None:
    found = cli("agent", "profile", build(cli, hidden=8000), "--seconds", "0.05", "--json").json()
    assert [[step["step"].split()[0] for step in layer["steps"]] for layer in found["layers"]] == [
        ["dense", "relu"],
        ["dense", "softmax"],
    ]
    assert sum(layer["share"] for layer in found["layers"]) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("mode", ["fast", "deterministic"])
def test_a_sound_kernel_does_not_diverge(mode: str, cli) -> None:
    done = cli("agent", "debug", build(cli, mode))
    assert done.code == 0, done.out
    assert "no layer diverges on 16 rows" in done.out


def test_the_first_layer_that_diverges_is_named_with_its_value(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Opened.trace

    def wrong(self: Opened, row: np.ndarray, *, deadline_s: float) -> list[np.ndarray]:
        traced = whole(self, row, deadline_s=deadline_s)
        traced[1][4] += 0.5
        return traced

    monkeypatch.setattr(Opened, "trace", wrong)
    done = cli("agent", "debug", build(cli), "--row", 2)
    assert done.code == 3
    assert re.search(r"the first layer that diverges on 1 row: 0 \(dense relu\), value 4: expected .*, found", done.out)
    found = cli("agent", "debug", "layered.af", "--json", "--row", 2)
    assert found.code == 3


def test_tensors_are_dumped_as_the_kernel_has_them_and_as_the_definition_has_them(cli) -> None:
    rows = model.random_rows(3, 5, 9)
    np.save("rows.npy", rows)
    done = cli("agent", "debug", build(cli), "-i", "rows.npy", "--row", 3, "--layer", 1, "-o", "dump.npz")
    assert done.code == 0 and "layer 1, row 3:" in done.out
    with np.load("dump.npz") as dump:
        assert sorted(dump) == ["input", "layer_1_dense", "layer_1_dense_expected"]
        np.testing.assert_array_equal(dump["input"], rows[2])
        expected = model.reference.forward(model.random_mlp(SIZES, "relu", "softmax", 3), rows[2:])[0]
        np.testing.assert_allclose(dump["layer_1_dense"], expected, atol=1e-5)
        np.testing.assert_allclose(dump["layer_1_dense_expected"], expected, atol=1e-6)


@pytest.mark.parametrize("command", [("profile",), ("debug",)])
def test_what_is_not_there_is_refused(command: tuple[str, ...], cli) -> None:
    file = build(cli)
    np.save("rows.npy", model.random_rows(2, 5, 9))
    done = cli("agent", *command, file, "-i", "rows.npy", "--row", 3)
    assert done.code == 3 and "expected a row 3, found 2 rows" in done.err
    np.save("wide.npy", model.random_rows(2, 6, 9))
    assert cli("agent", *command, file, "-i", "wide.npy").code == 3
    assert cli("agent", *command, "none.af").code == 3
    Path("junk.af").write_bytes(b"junk")
    assert cli("agent", *command, "junk.af").code == 3


def test_a_layer_that_the_model_has_not_is_refused(cli) -> None:
    done = cli("agent", "debug", build(cli), "--layer", 2)
    assert done.code == 2 and "--layer 2: expected 0 to 1" in done.err


def test_a_model_that_is_too_slow_is_given_up(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_opened, "DEADLINE_S", -0.04)
    done = cli("agent", "profile", build(cli), "--seconds", "0.05")
    assert done.code == 6 and "within" in done.err


@pytest.mark.parametrize("kind", ["int8", "int8-exact"])
def test_an_int8_model_has_layers_too(kind: str, cli) -> None:
    Path("agent.yaml").write_text(SOURCE.replace("MODE", "fast"))
    rows = model.random_rows(50, 5, 9)
    np.save("rows.npy", rows)
    quantize = ("--quantize", kind, "--calibrate", "rows.npy", "--unsigned", "--force")
    built = cli("agent", "build", "agent.yaml", "--random-seed", 3, *quantize)
    assert built.code == 0, built.err
    found = cli("agent", "show", "layered.af", "--graph", "--json").json()
    assert [layer["operator"] for layer in found["layers"]] == ["quantize", "dense_i8", "dense_i8"]
    assert (found["macs"], found["same_code"]) == (56, False)
    done = cli("agent", "debug", "layered.af", "-i", "rows.npy", "--row", 1, "--layer", 2, "-o", "dump.npz")
    assert done.code == 0 and "another (an older version's, or `agent build --quantize`)" in done.out
    expected = model.reference.forward(model.random_mlp(SIZES, "relu", "softmax", 3), rows[:1])[0]
    with np.load("dump.npz") as dump:
        np.testing.assert_allclose(dump["layer_2_dense_i8"], expected, atol=0.05)


WAT = """(module (memory (export "memory") 1)
  (func (export "run")) (func (export "run_batch") (param i32))
  (@custom "edgeswarm.kernel" "@LAYOUT@"))
"""
LAYOUT = {
    "abi": 1,
    "batch_max": 1,
    "deterministic": True,
    "input": {"offset": 0, "stride": 64, "width": 1},
    "memory_bytes": 65536,
    "output": {"offset": 64, "stride": 64, "width": 1},
    "topology": "0" * 64,
    "weights": {"offset": 128, "shape": [0], "size": 0},
}


def test_code_of_its_own_has_no_layers(cli) -> None:
    text = json.dumps(LAYOUT, sort_keys=True, separators=(",", ":")).replace('"', '\\"')
    Path("x.wat").write_text(WAT.replace("@LAYOUT@", text))
    Path("agent.yaml").write_text(
        'version: "1.0"\nname: own\nneural_config: {network_type: custom, input_size: 1, output_size: 1}\n'
    )
    built = cli("agent", "build", "agent.yaml", "--wasm", "x.wat", "--unsigned")
    assert built.code == 0, built.err
    for command in (("show", "--graph"), ("profile",), ("debug",)):
        done = cli("agent", command[0], "own.af", *command[1:])
        assert done.code == 3 and "code of its own" in done.err


def graph_file(graph: Graph, widths: tuple[int, int], **said: Any) -> str:
    """An agent file of any graph.  widths: that its header says.  said: what its layout says, true or not."""
    kernel = compile_graph(graph, batch_max=1)
    weights = pack_weights(graph, kernel.layout)
    neural = {"network_type": "graph", "input_size": widths[0], "output_size": widths[1]}
    header = decode({"version": "1.0", "name": "strange", "neural_config": neural}, agentfile.Header)
    sections: dict[str, bytes | Section] = {
        "wasm_kernel": attach_layout(kernel.wasm, replace(kernel.layout, **said)),
        "neural_weights": Section(weights, "u8", (len(weights),)),
        "model": structure_of(graph.outline),
    }
    Path("strange.af").write_bytes(agentfile.build(header, sections))
    return "strange.af"


def relu_of(width: int, times: int = 1) -> Graph:
    builder, at = Builder(Tensor((width,))), 0
    for _ in range(times):
        at = builder.add("elementwise", [at], activation="relu")
    return builder.graph(at)


@pytest.mark.parametrize("command", [("show", "--graph"), ("profile",), ("debug",)])
def test_widths_that_are_not_the_models_are_refused(command: tuple[str, ...], cli) -> None:
    graph = relu_of(4)
    for widths, said, text in (
        ((4, 5), {}, "kernel width"),
        ((3, 4), {"input": Rows(0, 64, 3)}, "expected a model of 3 inputs and 4 outputs"),
    ):
        done = cli("agent", command[0], graph_file(graph, widths, **said), *command[1:])
        assert done.code == 3 and text in done.err, done.err
    assert cli("agent", command[0], graph_file(graph, (4, 4)), *command[1:]).code == 0


def test_tensors_that_take_too_much_memory_side_by_side_are_refused(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_debug, "VALUES_MAX", 35)
    assert cli("agent", "debug", graph_file(relu_of(4, 7), (4, 4))).code == 0
    done = cli("agent", "debug", graph_file(relu_of(4, 8), (4, 4)))
    assert done.code == 6 and "at most 35 values" in done.err
