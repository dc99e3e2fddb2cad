"""agent new and agent build: templates that build, bytes that repeat, and inputs that do not fit each other."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeswarm import agentfile, model
from edgeswarm.app.cli import agent_build, templates
from edgeswarm.drivers import keys

SOURCE = """\
version: "1.0"
name: small
neural_config: {input_size: 3, output_size: 2, hidden_layers: [4], activation_function: tanh, output_activation: linear}
kernel: {batch_max: 8}
"""


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "agent.yaml"
    path.write_text(SOURCE)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    return path


def built(path: Path) -> agentfile.AgentFile:
    return agentfile.read(path.read_bytes(), who=str(path))


# --- new -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", sorted(templates.TEMPLATES))
def test_every_template_builds_with_the_commands_it_names(
    template: str, cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = cli("agent", "new", "watcher", "--template", template, "--json").json()
    assert made["files"][0] == "watcher/agent.yaml"
    assert "#" in (tmp_path / "watcher" / "agent.yaml").read_text()
    command = made["next"][0].split()
    assert command[:3] == ["edgeswarm", "agent", "build"]
    assert cli(*command[1:]).code == 0
    file = built(tmp_path / "watcher.af")
    assert file.header.name == "watcher"
    assert file.warnings == ()
    assert set(file.sections) == {"neural_weights", "wasm_kernel", "golden"}
    if file.header.wiring.sources[0].type == "vitals":
        from edgeswarm.drivers import sources_vitals

        assert set(file.header.wiring.sources[0].fields) <= set(sources_vitals.FIELDS)


def test_new_overwrites_nothing_without_force(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("agent", "new", "a").code == 0
    (tmp_path / "a" / "agent.yaml").write_text("mine")
    done = cli("agent", "new", "a")
    assert done.code == 2
    assert "a/agent.yaml: is there already; --force" in done.err
    assert (tmp_path / "a" / "agent.yaml").read_text() == "mine"
    assert cli("agent", "new", "a", "--force").code == 0
    assert (tmp_path / "a" / "agent.yaml").read_text() != "mine"


@pytest.mark.parametrize("name", ["Bad", "9x", "a_b", "a" * 65, ""])
def test_new_refuses_what_is_no_name(name: str, cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("agent", "new", name).code == 2
    assert os.listdir(tmp_path) == []


# --- build -----------------------------------------------------------------------------------------------------------


def test_the_same_input_gives_the_same_bytes(cli, source: Path) -> None:
    for out in ("a.af", "b.af"):
        assert cli("agent", "build", source, "--random-seed", 7, "-o", out).code == 0
    assert Path("a.af").read_bytes() == Path("b.af").read_bytes()
    assert built(Path("a.af")).header.created == "2023-11-14T22:13:20Z"
    assert cli("agent", "build", source, "--random-seed", 8, "-o", "b.af").code == 0
    assert Path("a.af").read_bytes() != Path("b.af").read_bytes()


def test_source_date_epoch_goes_before_the_modification_time(
    cli, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    assert cli("agent", "build", source, "--random-seed", 7, "--json").json()["created"] == "1970-01-01T00:00:00Z"
    for wrong in ("", "-1", "1e9", "soon", "99999999999999"):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", wrong)
        done = cli("agent", "build", source, "--random-seed", 7)
        assert (done.code, "SOURCE_DATE_EPOCH" in done.err) == (2, True)


def test_the_first_build_makes_a_key_that_this_device_trusts(cli, source: Path, state: Path) -> None:
    done = cli("agent", "build", source, "--random-seed", 7)
    path = state / "keys" / "publisher.key"
    assert f"made publisher key {path}" in done.err
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    trusted = keys.trusted(state / "trust.d")
    assert agentfile.verify(built(Path("small.af")), trusted) == next(iter(trusted))
    assert "made publisher key" not in cli("agent", "build", source, "--random-seed", 7).err


def test_a_key_named_is_made_and_trusted_by_nobody(cli, source: Path, state: Path) -> None:
    done = cli("agent", "build", source, "--random-seed", 7, "--key", "k/site.key", "--json")
    assert "k/site.key.pub" in done.err
    pair, made = keys.load_or_make(Path("k/site.key"))
    assert not made
    assert done.json()["publisher"] == pair.id
    assert keys.read_pub(Path("k/site.key.pub")) == pair.public
    assert keys.trusted(state / "trust.d") == {}
    Path("k/site.key").chmod(0o644)
    assert cli("agent", "build", source, "--random-seed", 7, "--key", "k/site.key").code == 4


def test_an_unsigned_file_can_be_signed_later(cli, source: Path, state: Path) -> None:
    assert cli("agent", "build", source, "--random-seed", 7, "--unsigned", "-o", "u.af").code == 0
    assert built(Path("u.af")).signature is None
    assert not (state / "keys").exists()
    assert cli("agent", "build", source, "--random-seed", 7, "-o", "s.af").code == 0
    assert cli("agent", "sign", "u.af").code == 0
    assert Path("u.af").read_bytes() == Path("s.af").read_bytes()


@pytest.mark.parametrize("suffix", [".npz", ".json"])
def test_weights_of_a_file_are_packed_as_the_kernel_wants_them(suffix: str, cli, source: Path) -> None:
    from edgeswarm.compile import unpack_weights

    net = model.random_mlp((3, 4, 2), "tanh", "linear", 5)
    (model.save_npz if suffix == ".npz" else model.save_json)(net, f"w{suffix}")
    assert cli("agent", "build", source, "--weights", f"w{suffix}").code == 0
    file = built(Path("small.af"))
    back = unpack_weights(file.section("neural_weights"), net.sizes, net.activations)
    for before, after in zip(net.layers, back.layers, strict=True):
        assert np.array_equal(before.weights, after.weights)
        assert np.array_equal(before.bias, after.bias)
    golden = np.frombuffer(file.section("golden"), "<f4").reshape(-1, 5)
    assert len(golden) == agent_build.GOLDEN_ROWS
    assert np.allclose(model.reference.forward(net, golden[:, :3]), golden[:, 3:])


def test_npz_without_activations_takes_those_of_the_source(cli, source: Path) -> None:
    net = model.random_mlp((3, 4, 2), "tanh", "linear", 5)
    arrays = {f"{k}{i}": a for i, one in enumerate(net.layers) for k, a in (("w", one.weights), ("b", one.bias))}
    np.savez("w.npz", **arrays)
    assert cli("agent", "build", source, "--weights", "w.npz", "-o", "a.af").code == 0
    model.save_npz(net, "named.npz")
    assert cli("agent", "build", source, "--weights", "named.npz", "-o", "b.af").code == 0
    assert Path("a.af").read_bytes() == Path("b.af").read_bytes()


def test_mode_batch_and_the_rest_end_up_in_the_header(cli, source: Path) -> None:
    Path("train.bin").write_bytes(b"rows")
    done = cli(
        "agent", "build", source, "--random-seed", 7, "--mode", "deterministic", "--batch-max", 3,
        "--training-data", "train.bin", "--no-golden", "--json",
    )  # fmt: skip
    file = built(Path("small.af"))
    assert (file.header.kernel.mode, file.header.kernel.batch_max) == ("deterministic", 3)
    assert done.json()["kernel"]["batch_max"] == 3
    assert done.json()["kernel"]["topology"] == file.header.kernel.topology
    assert file.section("training_data") == b"rows"
    assert "golden" not in file.sections


# --- kernels of one's own --------------------------------------------------------------------------------------------

WAT = """(module (memory (export "memory") 1)
  (func (export "run") (f32.store (i32.const 64) (f32.mul (f32.load (i32.const 0)) (f32.const 2))))
  (func (export "run_batch") (param i32)
    (f32.store (i32.const 64) (f32.mul (f32.load (i32.const 0)) (f32.const 2))))
  (@custom "edgeswarm.kernel" "@LAYOUT@"))
"""
OWN = 'version: "1.0"\nname: own\nneural_config: {network_type: custom, input_size: 1, output_size: 1}\n'


def wat(weights_bytes: int = 0) -> str:
    layout = {
        "abi": 1,
        "batch_max": 1,
        "deterministic": True,
        "input": {"offset": 0, "stride": 64, "width": 1},
        "memory_bytes": 65536,
        "output": {"offset": 64, "stride": 64, "width": 1},
        "topology": "0" * 64,
        "weights": {"offset": 128, "shape": [weights_bytes // 4], "size": weights_bytes},
    }
    text = json.dumps(layout, sort_keys=True, separators=(",", ":"))
    return WAT.replace("@LAYOUT@", text.replace('"', '\\"'))


def test_a_kernel_of_ones_own_with_its_golden_rows(cli, source: Path) -> None:
    import wasmtime

    source.write_text(OWN)
    Path("k.wat").write_text(wat())
    Path("k.wasm").write_bytes(wasmtime.wat2wasm(wat()))
    Path("golden.csv").write_text("1,2\n-3,-6\n")
    files = []
    for kernel in ("k.wat", "k.wasm"):
        assert cli("agent", "build", source, "--wasm", kernel, "--golden", "golden.csv").code == 0
        files.append(Path("own.af").read_bytes())
    assert files[0] == files[1]
    file = built(Path("own.af"))
    assert set(file.sections) == {"wasm_kernel", "golden"}
    assert file.header.kernel.mode == "deterministic"
    assert "no golden vectors" in cli("agent", "build", source, "--wasm", "k.wasm").err


def test_a_weights_region_of_ones_own_kernel(cli, source: Path) -> None:
    source.write_text(OWN)
    Path("k.wat").write_text(wat(8))
    done = cli("agent", "build", source, "--wasm", "k.wat")
    assert (done.code, "expected the 8 bytes of the kernel's region, found none" in done.err) == (3, True)
    Path("w.bin").write_bytes(np.array([1, np.nan], "<f4").tobytes())
    done = cli("agent", "build", source, "--wasm", "k.wat", "--weights", "w.bin")
    assert (done.code, "found nan at index 1" in done.err) == (3, True)
    Path("w.bin").write_bytes(np.array([1, 2], "<f4").tobytes())
    assert cli("agent", "build", source, "--wasm", "k.wat", "--weights", "w.bin").code == 0
    assert built(Path("own.af")).section("neural_weights") == Path("w.bin").read_bytes()


def test_a_kernel_made_here_takes_the_weights_of_its_model(cli, source: Path) -> None:
    assert cli("agent", "build", source, "--random-seed", 5, "-o", "a.af").code == 0
    Path("k.wasm").write_bytes(built(Path("a.af")).section("wasm_kernel"))
    model.save_npz(model.random_mlp((3, 4, 2), "tanh", "linear", 5), "w.npz")
    assert cli("agent", "build", source, "--wasm", "k.wasm", "--weights", "w.npz", "-o", "b.af").code == 0
    assert Path("a.af").read_bytes() == Path("b.af").read_bytes()


def test_steepness_comes_from_the_model_or_the_source_and_is_said_in_the_header(cli, source: Path) -> None:
    from edgeswarm.compile import unpack_weights

    plain = model.random_mlp((3, 4, 2), "tanh", "linear", 5)
    steep = model.Mlp(
        tuple(replace(layer, steepness=value) for layer, value in zip(plain.layers, (0.5, 3), strict=True))
    )
    model.save_npz(steep, "steep.npz")
    model.save_npz(plain, "plain.npz")
    assert cli("agent", "build", source, "--weights", "steep.npz", "-o", "a.af").code == 0
    source.write_text(SOURCE.replace("{input_size", "{steepness: [0.5, 3], input_size"))
    os.utime(source, (1_700_000_000, 1_700_000_000))
    assert cli("agent", "build", source, "--weights", "steep.npz", "-o", "b.af").code == 0
    assert cli("agent", "build", source, "--weights", "plain.npz", "-o", "c.af").code == 0
    assert Path("a.af").read_bytes() == Path("b.af").read_bytes() == Path("c.af").read_bytes()
    file = built(Path("a.af"))
    assert file.header.neural_config.steepness == (0.5, 3.0)
    assert "output linear, steepness 0.5 3" in cli("agent", "show", "a.af").out
    folded = unpack_weights(file.section("neural_weights"), plain.sizes, plain.activations).layers[1]
    assert np.array_equal(folded.weights, plain.layers[1].weights * np.float32(3))
    source.write_text(SOURCE.replace("{input_size", "{steepness: [0.5, 2], input_size"))
    done = cli("agent", "build", source, "--weights", "steep.npz", "-o", "d.af")
    assert (done.code, "steepness: expected 0.5, 2.0 as in neural_config, found 0.5, 3.0" in done.err) == (3, True)


# --- what does not fit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "activations", "expected"),
    [
        ((3, 5, 2), ("tanh", "linear"), "expected the widths [3, 4, 2] of neural_config, found [3, 5, 2]"),
        ((2, 4, 2), ("tanh", "linear"), "expected the widths [3, 4, 2]"),
        ((3, 4, 2), ("relu", "linear"), "expected tanh, linear as in neural_config, found relu, linear"),
    ],
)
def test_a_model_that_is_not_what_the_source_says(
    sizes: tuple[int, ...], activations: tuple[str, str], expected: str, cli, source: Path
) -> None:
    model.save_npz(model.random_mlp(sizes, *activations), "w.npz")
    done = cli("agent", "build", source, "--weights", "w.npz")
    assert (done.code, expected in done.err, "w.npz" in done.err) == (3, True, True)
    assert not Path("small.af").exists()


@pytest.mark.parametrize(
    ("yaml", "expected"),
    [
        ("name: x", "version: missing"),
        (SOURCE.replace("{input_size", "{steepness: [1], input_size"), "steepness: expected 2 numbers"),
        (SOURCE.replace("{input_size", "{steepness: [1, 2e6], input_size"), "steepness[1]: expected"),
        (SOURCE + "wirings: {}\n", "line 5: wirings: unknown key"),
        (SOURCE + "wiring: {sources: [{type: api, width: 2}]}\n", "line 5: wiring: expected frames of 3 values"),
        (SOURCE + "sections: [{name: golden, length: 0, raw_length: 0, sha256: " + "0" * 64 + "}]\n", "sections"),
        (SOURCE + "resources: {limits: {memory_mb: 1}}\nkernel: {batch_max: 4096}\n", "kernel"),
        ("a: [", "YAML"),
        ("%EdgeSwarm-AF 1\nname: x", "found an agent file"),
        (SOURCE.replace("feedforward", "custom").replace("{input", "{network_type: custom, input"), "--wasm"),
    ],
)
def test_a_source_that_does_not_check_out(yaml: str, expected: str, cli, source: Path) -> None:
    source.write_text(yaml)
    done = cli("agent", "build", source, "--random-seed", 1)
    assert (done.code, expected in done.err) == (3, True), done.err


def test_a_kernel_that_needs_more_memory_than_the_limit(cli, source: Path) -> None:
    source.write_text(
        'version: "1.0"\nname: wide\nneural_config: {input_size: 500, output_size: 500}\n'
        "resources: {limits: {memory_mb: 1}}\n"
    )
    done = cli("agent", "build", source, "--random-seed", 1)
    assert (done.code, "resources.limits.memory_mb" in done.err) == (3, True)


@pytest.mark.parametrize(
    ("options", "code", "expected"),
    [
        ([], 2, "name one of --weights FILE, --random-seed N, or --wasm X"),
        (["--weights", "w.npz", "--random-seed", "1"], 2, "name one of"),
        (["--wasm", "k.wasm", "--random-seed", "1"], 2, "--wasm brings its own code"),
        (["--wasm", "k.wasm", "--mode", "fast"], 2, "--mode and --batch-max"),
        (["--random-seed", "1", "--golden", "g.csv", "--no-golden"], 2, "contradict"),
        (["--random-seed", "1", "--key", "k", "--unsigned"], 2, "contradict"),
        (["--random-seed", "-1"], 2, "--random-seed"),
        (["--random-seed", "1", "--batch-max", "5000"], 2, "--batch-max"),
        (["--weights", "none.npz"], 3, "none.npz: cannot be read: No such file"),
        (["--weights", "w.txt"], 2, "expected a name that ends in .npz or .json"),
        (["--wasm", "none.wasm"], 3, "none.wasm: No such file"),
        (["--wasm", "agent.yaml"], 3, "expected a wasm module or its text"),
        (["--random-seed", "1", "--golden", "g.csv"], 3, "expected 5 values, found 2"),
        (["--random-seed", "1", "--training-data", "none"], 2, "none: No such file"),
        (["--random-seed", "1", "-o", "no/such/folder.af"], 2, "No such file"),
    ],
)
def test_options_that_do_not_fit(options: list[str], code: int, expected: str, cli, source: Path) -> None:
    Path("g.csv").write_text("1,2\n")
    done = cli("agent", "build", source, *options)
    assert (done.code, expected in done.err) == (code, True), done.err
    assert list(Path.cwd().glob("*.af*")) == []


def test_a_source_that_is_not_there(cli, source: Path) -> None:
    done = cli("agent", "build", "none.yaml", "--random-seed", 1, "--json")
    assert done.code == 3
    assert json.loads(done.err)["error"] == {"kind": "AgentFileError", "text": "none.yaml: No such file or directory"}


def test_weights_with_nan_name_the_layer(cli, source: Path) -> None:
    arrays = {"w0": np.zeros((3, 4)), "b0": np.zeros(4), "w1": np.zeros((4, 2)), "b1": np.array([0, np.nan])}
    np.savez("w.npz", **arrays)
    done = cli("agent", "build", source, "--weights", "w.npz")
    assert (done.code, "layer 1: bias: expected finite float32 numbers, found nan at [1]" in done.err) == (3, True)
