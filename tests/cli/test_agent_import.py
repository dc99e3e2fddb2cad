"""agent import and agent export: FANN nets in, the same bytes out, and what cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fann_nets import FOLDER, SMALL, answers

from edgeswarm import agentfile
from edgeswarm.app.shelf import check_kernel

SOURCE = """\
version: "1.0"
name: judge
neural_config: {input_size: 21, output_size: 3}
wiring: {sources: [{type: api, width: 21}], decision: {type: argmax, labels: [hyper, hypo, normal]}}
kernel: {batch_max: 8}
"""
LITTLE = """\
version: "1.0"
name: judge
neural_config: {input_size: 125, output_size: 2}
resources: {limits: {memory_mb: 1}}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", [*SMALL, "thyroid_cascade2_final", "thyroid_rprop_final"])
def test_a_net_goes_in_and_comes_out_byte_for_byte(name: str, cli) -> None:
    made = cli("agent", "import", FOLDER / f"{name}.net", "-o", "a.af", "--json").json()
    assert made["name"] == name.replace("_", "-")
    assert {"wasm_kernel", "neural_weights", "golden", "fann"} <= set(made["sections"])
    told = cli("agent", "export", "a.af", "-o", "b.net", "--json").json()
    assert told["how"] == "byte for byte as imported"
    assert Path("b.net").read_bytes() == (FOLDER / f"{name}.net").read_bytes()


def test_the_same_net_gives_the_same_agent_file(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    for out in ("a.af", "b.af"):
        assert cli("agent", "import", FOLDER / "cascade.net", "-o", out).code == 0
    assert Path("a.af").read_bytes() == Path("b.af").read_bytes()


def test_it_says_what_it_found(cli) -> None:
    done = cli("agent", "import", FOLDER / "thyroid_cascade2_final.net", "--name", "thyroid")
    assert done.out.startswith("thyroid.af: agent thyroid 1.0.0")
    for text in ("format: FANN_FLO_2.1", "topology: shortcut, fully connected", "connections: 361", "FANN_ELLIOT",
                 "steepness: 0.25, 0.5, 0.75, 1.0", "graph of"):  # fmt: skip
        assert text in done.out
    assert "arithmetic: libfann's own" in done.out
    fast = cli("agent", "import", FOLDER / "thyroid_cascade2_final.net", "--arithmetic", "fast", "--json").json()
    assert fast["found"]["arithmetic"] == "fast"
    assert fast["found"]["difference"] > 1e-6
    assert "float32 rounding" in " ".join(fast["notes"])
    fixed = cli("agent", "import", FOLDER / "fixed.net", "--json").json()
    assert fixed["found"]["format"] == "FANN_FIX_2.0"
    assert "not libfann's fixed-point bits" in fixed["notes"][0]


def test_wiring_comes_from_an_agent_yaml(cli) -> None:
    Path("agent.yaml").write_text(SOURCE)
    net = FOLDER / "thyroid_rprop_final.net"
    assert cli("agent", "import", net, "--source", "agent.yaml", "--arithmetic", "fast", "-o", "t.af").code == 0
    header = agentfile.read(Path("t.af").read_bytes()).header
    assert (header.name, header.kernel.batch_max) == ("judge", 8)
    assert header.wiring.decision.labels == ("hyper", "hypo", "normal")
    assert header.neural_config.hidden_layers == (24,)
    assert header.neural_config.activation_function == "tanh"
    assert header.neural_config.steepness == ()
    done = cli("agent", "import", FOLDER / "cascade.net", "--source", "agent.yaml")
    assert done.code == 3
    assert "expected input_size 2 and output_size 1, found 21 and 3" in done.err


def test_a_file_is_signed_with_a_key_or_not_at_all(cli) -> None:
    done = cli("agent", "import", FOLDER / "cascade.net", "--key", "site.key", "--unsigned", "-o", "c.af")
    assert (done.code, "contradict" in done.err) == (2, True)
    assert not Path("c.af").exists() and not Path("site.key").exists()
    made = cli("agent", "import", FOLDER / "cascade.net", "--unsigned", "-o", "c.af", "--json").json()
    assert made["publisher"] is None
    assert agentfile.read(Path("c.af").read_bytes()).signature is None


def test_an_agent_yaml_that_allows_too_little_memory_is_given_what_the_net_needs(cli) -> None:
    Path("agent.yaml").write_text(LITTLE)
    net = FOLDER / "mushroom_cascade2_final.net"
    assert cli("agent", "import", net, "--source", "agent.yaml", "--batch-max", 4096, "-o", "t.af").code == 0
    file = agentfile.read(Path("t.af").read_bytes())
    needs = check_kernel(file, who="t.af").memory_bytes
    assert 1 << 20 < needs <= file.header.resources.limits.memory_mb << 20


def test_scaling_is_applied_when_asked_and_mentioned_otherwise(cli) -> None:
    assert "--apply-scaling folds both" in cli("agent", "import", FOLDER / "scaled.net").err
    assert cli("agent", "import", FOLDER / "scaled.net", "--apply-scaling", "-o", "s.af").code == 0
    assert cli("agent", "export", "s.af", "-o", "s.net").code == 0
    assert Path("s.net").read_bytes() == (FOLDER / "scaled.net").read_bytes()
    done = cli("agent", "import", FOLDER / "trained.net", "--apply-scaling")
    assert done.code == 3
    assert "scale_included: expected 1" in done.err


@pytest.mark.parametrize("name", ["trained", "cascade", "scaled", "thyroid_cascade2_final"])
def test_an_imported_agent_answers_in_a_jail_as_libfann_does(name: str, cli) -> None:
    scaling = ["--apply-scaling"] if name == "scaled" else []
    assert cli("agent", "import", FOLDER / f"{name}.net", "-o", "a.af", *scaling).code == 0
    inputs = agentfile.read(Path("a.af").read_bytes()).header.neural_config.input_size
    rows, expected = answers(name, inputs)
    Path("rows.csv").write_text("\n".join(",".join(map(repr, row)) for row in rows[:5].tolist()) + "\n")
    assert cli("agent", "verify", "a.af").code == 0
    assert cli("agent", "run", "a.af", "--input", "rows.csv", "-o", "out.csv").code == 0
    found = np.loadtxt("out.csv", delimiter=",", ndmin=2)
    assert np.abs(found - expected[:5]).max() < 1e-6 * max(1, np.abs(expected).max())


def test_changed_weights_of_an_agent_in_libfanns_arithmetic_are_written(cli) -> None:
    """The kernel's region with another bias: the export says one weight, and gives it back."""
    from edgeswarm.compile import Kernel, compile_graph, pack_weights, unpack_graph
    from edgeswarm.model.fann import section
    from edgeswarm.model.fann.exact_net import exact_graph
    from edgeswarm.model.fann.export import export_exact

    item = section.imported((FOLDER / "thyroid_cascade2_final.net").read_bytes())
    made = exact_graph(item.net)
    assert made is not None
    kernel: Kernel = compile_graph(made)
    nodes = unpack_graph(pack_weights(made, kernel.layout), made.outline).nodes
    params = [dict(node.params) for node in nodes if node.op == "dense_fann"]
    assert export_exact(item, params) == (item.file, 0)
    params[0]["bias"] = params[0]["bias"] + np.float32(0.5)
    data, changed = export_exact(item, params)
    assert changed == 1
    again = section.imported(data).net.weights
    assert (again != item.net.weights).sum() == 1
    assert again[21] == np.float32(item.net.weights[21]) + np.float32(0.5)


def test_libfanns_arithmetic_is_refused_where_there_is_none(cli) -> None:
    done = cli("agent", "import", FOLDER / "fixed.net", "--arithmetic", "libfann")
    assert done.code == 3
    assert "expected a float net" in done.err
    for name in ("trained", "sparse", "mixed"):
        net = FOLDER / f"{name}.net"
        told = cli("agent", "import", net, "--arithmetic", "libfann", "-o", "a.af", "--json").json()["found"]
        assert told["arithmetic"] == "libfann's own"
        assert cli("agent", "export", "a.af", "-o", "a.net").code == 0
        assert Path("a.net").read_bytes() == net.read_bytes()


# --- export ----------------------------------------------------------------------------------------------------------


def test_an_agent_that_never_was_a_net_becomes_one(cli) -> None:
    Path("agent.yaml").write_text(
        'version: "1.0"\nname: fresh\n'
        "neural_config: {input_size: 3, output_size: 2, hidden_layers: [4], activation_function: sigmoid}\n"
    )
    assert cli("agent", "build", "agent.yaml", "--random-seed", 1).code == 0
    told = cli("agent", "export", "fresh.af", "--json").json()
    assert told == told | {"path": "fresh.net", "how": "a new net", "connections_changed": None}
    again = cli("agent", "import", "fresh.net", "-o", "again.af", "--json").json()
    assert again["found"]["activations"] == ["FANN_SIGMOID", "FANN_LINEAR"]
    assert cli("agent", "export", "fresh.af", "--original").code == 3


def test_what_libfann_has_not_is_refused(cli) -> None:
    Path("agent.yaml").write_text(
        'version: "1.0"\nname: modern\nneural_config: {input_size: 3, output_size: 2, output_activation: softmax}\n'
    )
    assert cli("agent", "build", "agent.yaml", "--random-seed", 1).code == 0
    done = cli("agent", "export", "modern.af")
    assert done.code == 3
    assert "layer 0: softmax has no counterpart in libfann 2.2" in done.err
    assert not Path("modern.net").exists()


def test_a_cascade_is_no_new_layered_net(cli) -> None:
    assert cli("agent", "import", FOLDER / "cascade.net").code == 0
    assert "concat" in cli("agent", "export", "cascade.af", "--new").err
    assert cli("agent", "export", "cascade.af", "--original").code == 0
    assert cli("agent", "export", "cascade.af", "--new", "--original").code == 2


@pytest.mark.parametrize(
    ("data", "code", "says"),
    [
        (b"", 3, "expected one of FANN .net, TFLite, ONNX, found a file that begins with b''"),
        (b"PK\3\4", 3, "expected one of FANN .net"),
        (b"FANN_FLO_9.9\n", 3, "x.net: line 1: version"),
        (b"FANN_FLO_2.1\nnum_layers=3\nlearning_rate=x\n", 3, "x.net: line 3: learning_rate: expected a finite number"),
        (b"FANN_FLO_2.1\nnum_layers=2000\n", 6, "line 2: num_layers: at most 1025"),
    ],
)
def test_a_broken_file_is_named_with_line_and_field(data: bytes, code: int, says: str, cli) -> None:
    Path("x.net").write_bytes(data)
    done = cli("agent", "import", "x.net")
    assert (done.code, Path("x.af").exists()) == (code, False)
    assert says in done.err


def test_a_missing_file_and_a_bad_name_are_refused(cli) -> None:
    assert cli("agent", "import", "gone.net").code == 3
    assert cli("agent", "import", FOLDER / "trained.net", "--name", "Bad Name").code == 2
    Path("123.net").write_bytes((FOLDER / "trained.net").read_bytes())
    assert cli("agent", "import", "123.net", "--json").json()["name"] == "net-123"
