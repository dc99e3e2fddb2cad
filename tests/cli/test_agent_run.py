"""agent run and agent bench, in real jails: the answers are the reference's, and a bad row is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgeswarm import model
from edgeswarm.app.cli import agent_run

pytestmark = pytest.mark.e2e

SIZES = (5, 7, 3)
SOURCE = """\
version: "1.0"
name: parity
neural_config: {input_size: 5, output_size: 3, hidden_layers: [7], output_activation: softmax}
kernel: {batch_max: 16}
"""


@pytest.fixture
def parity(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("agent.yaml").write_text(SOURCE)
    assert cli("agent", "build", "agent.yaml", "--random-seed", 3).code == 0
    return tmp_path / "parity.af"


def expected(rows: np.ndarray) -> np.ndarray:
    return model.reference.forward(model.random_mlp(SIZES, "relu", "softmax", 3), rows)


def write(path: Path, rows: np.ndarray) -> Path:
    if path.suffix == ".npy":
        np.save(path, rows)
    elif path.suffix == ".csv":
        path.write_text("".join(",".join(map(repr, row)) + "\n" for row in rows.tolist()))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows.tolist()))
    return path


def read(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        found = np.load(path)
        assert found.dtype == np.float32
        return found
    if path.suffix == ".csv":
        return np.loadtxt(path, delimiter=",", ndmin=2, dtype=np.float32)
    return np.array([json.loads(line) for line in path.read_text().splitlines()], dtype=np.float32)


def test_every_row_is_answered_in_order_and_right(cli, parity: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches smaller and larger than the kernel's, a last one that is not full, every format in and out."""
    rows = model.random_rows(107, 5, 1)
    answers = []
    for source, out, batch in (
        (".npy", ".csv", 4_096),
        (".csv", ".jsonl", 50),
        (".jsonl", ".npy", 1),
        (".csv", ".npy", 7),
    ):
        monkeypatch.setattr(agent_run, "BATCH_ROWS", batch)
        path = write(Path("in").with_suffix(source), rows)
        done = cli("agent", "run", parity, "--input", path, "--output", f"out{out}", "--json").json()
        assert (done["rows"], done["input_width"], done["output_width"]) == (107, 5, 3)
        assert done["tier"] in "ABC"
        answers.append(read(Path(f"out{out}")))
    assert np.allclose(answers[0], expected(rows), rtol=1e-5, atol=1e-6)
    for other in answers[1:]:
        assert np.array_equal(answers[0], other)


def test_no_rows_give_no_rows(cli, parity: Path) -> None:
    Path("in.csv").write_text("a,b,c,d,e\n")
    assert cli("agent", "run", parity, "-i", "in.csv", "-o", "out.npy").code == 0
    assert np.load("out.npy").shape == (0, 3)


def test_answers_on_standard_output_and_the_rest_on_standard_error(cli, parity: Path) -> None:
    Path("in.csv").write_text("1,2,3,4,5\n0,0,0,0,0\n")
    done = cli("agent", "run", parity, "-i", "in.csv", "-o", "-")
    assert len(done.out.splitlines()) == 2
    assert "2 rows of 5 values" in done.err
    done = cli("agent", "run", parity, "-i", "in.csv", "-o", "-", "--output-format", "jsonl", "--json")
    assert [len(json.loads(line)) for line in done.out.splitlines()] == [3, 3]
    assert json.loads(done.err)["rows"] == 2


@pytest.mark.parametrize(
    ("text", "expected_text"),
    [
        ("1,2,3,4,5\n" * 20 + "1,2,3,4\n", "in.csv: row 21 (line 21): expected 5 values, found 4"),
        ("1,2,3,4,5\n1,2,nan,4,5\n", "row 2 (line 2): column 3: expected a finite float32, found nan"),
        ("1,2,inf,4,5\n", "row 1 (line 1): column 3: expected a finite float32, found inf"),
        ("1,2,x,4,5\n", "row 1 (line 1): column 3: expected a number, found 'x'"),
    ],
)
def test_a_bad_row_ends_it_with_its_number_and_no_output(text: str, expected_text: str, cli, parity: Path) -> None:
    Path("in.csv").write_text(text)
    done = cli("agent", "run", parity, "-i", "in.csv", "-o", "out.csv")
    assert (done.code, expected_text in done.err) == (3, True), done.err
    assert not list(Path.cwd().glob("out*"))


def test_an_unknown_publisher_is_a_warning_a_broken_signature_an_error(cli, parity: Path, state: Path) -> None:
    Path("in.csv").write_text("1,2,3,4,5\n")
    assert cli("agent", "run", parity, "-i", "in.csv", "-o", "-").err.count("warning") == 0
    broken = Path("broken.af")
    broken.write_bytes(parity.read_bytes().replace(b"batch_max: 16", b"batch_max: 15", 1))
    assert cli("agent", "run", broken, "-i", "in.csv", "-o", "-").code == 5
    for path in (state / "trust.d").iterdir():
        path.unlink()
    done = cli("agent", "run", parity, "-i", "in.csv", "-o", "-")
    assert (done.code, "warning" in done.err, "is not trusted here" in done.err) == (0, True, True)
    assert len(done.out.splitlines()) == 1


# --- kernels that misbehave ------------------------------------------------------------------------------------------

HEAD = """(module (memory (export "memory") 1)
  (func $one (param $at i32)
    (local $x f32)
    (local.set $x (f32.load (local.get $at)))
    @BODY@
    (f32.store (i32.add (local.get $at) (i32.const 512)) (local.get $x)))
  (func (export "run") (call $one (i32.const 0)))
  (func (export "run_batch") (param $rows i32)
    (loop $next
      (local.set $rows (i32.sub (local.get $rows) (i32.const 1)))
      (call $one (i32.mul (local.get $rows) (i32.const 64)))
      (br_if $next (local.get $rows))))
  (@custom "edgeswarm.kernel" "@LAYOUT@"))
"""
BODIES = {
    "trap": "(if (f32.eq (local.get $x) (f32.const 13)) (then unreachable))",
    "loop": "(if (f32.eq (local.get $x) (f32.const 13)) (then (loop $ever (br $ever))))",
    "nan": "(local.set $x (f32.div (f32.sub (local.get $x) (f32.const 13)) (f32.sub (local.get $x) (f32.const 13))))",
}


@pytest.fixture
def wild(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """wild(body): an agent file whose kernel gives rows back, but does something else on the number 13."""
    monkeypatch.chdir(tmp_path)

    def make(body: str) -> Path:
        layout = {
            "abi": 1,
            "batch_max": 8,
            "deterministic": True,
            "input": {"offset": 0, "stride": 64, "width": 1},
            "memory_bytes": 65536,
            "output": {"offset": 512, "stride": 64, "width": 1},
            "topology": "0" * 64,
            "weights": {"offset": 1024, "shape": [0], "size": 0},
        }
        text = json.dumps(layout, sort_keys=True, separators=(",", ":")).replace('"', '\\"')
        Path("k.wat").write_text(HEAD.replace("@BODY@", BODIES[body]).replace("@LAYOUT@", text))
        Path("agent.yaml").write_text(
            'version: "1.0"\nname: wild\nneural_config: {network_type: custom, input_size: 1, output_size: 1}\n'
            "kernel: {deadline_ms: 300}\n"
        )
        assert cli("agent", "build", "agent.yaml", "--wasm", "k.wat", "-o", "wild.af").code == 0
        return tmp_path / "wild.af"

    return make


@pytest.mark.parametrize("body", sorted(BODIES))
def test_a_row_on_which_the_kernel_fails_is_named(body: str, cli, wild) -> None:
    path = wild(body)
    Path("in.csv").write_text("".join(f"{n}\n" for n in range(12)))
    assert cli("agent", "run", path, "-i", "in.csv", "-o", "out.csv").code == 0
    assert len(Path("out.csv").read_text().splitlines()) == 12
    Path("in.csv").write_text("".join(f"{n}\n" for n in range(30)))
    done = cli("agent", "run", path, "-i", "in.csv", "-o", "bad.csv")
    assert (done.code, "in.csv: row 14: " in done.err) == (7, True), done.err
    assert not Path("bad.csv").exists()


# --- bench -----------------------------------------------------------------------------------------------------------


def test_bench_measures_the_batch_sizes_that_the_kernel_takes(cli, parity: Path) -> None:
    row = cli("agent", "bench", parity, "--seconds", 0.05, "--json").json()
    assert [one["rows"] for one in row["batches"]] == [1, 16]
    assert all(one["calls"] >= agent_run.BENCH_CALLS_MIN and one["p99_us"] >= one["p50_us"] for one in row["batches"])
    assert row["jail_memory_bytes"] > 0
    row = cli("agent", "bench", parity, "--seconds", 0.05, "--rows", 3, "--rows", 40, "--json").json()
    assert [one["rows"] for one in row["batches"]] == [3, 40]
    assert "rows a call" in cli("agent", "bench", parity, "--seconds", 0.05).out


def test_bench_without_golden_vectors_makes_numbers_up(cli, parity: Path) -> None:
    assert cli("agent", "build", "agent.yaml", "--random-seed", 3, "--no-golden").code == 0
    assert cli("agent", "bench", parity, "--seconds", 0.05, "--rows", 5, "--json").json()["batches"][0]["rows"] == 5
