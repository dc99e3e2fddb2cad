"""agent build --quantize: what 8 bits cost is printed and kept, too much of it is refused, bad rows are named."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from edgeswarm import agentfile, model
from edgeswarm.compile.pack_i8 import steps_of

SOURCE = """\
version: "1.0"
name: small
neural_config: {input_size: 6, output_size: 3, hidden_layers: [24, 16], activation_function: sigmoid,
  output_activation: OUTPUT}
kernel: {batch_max: 8}
"""


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    path = tmp_path / "agent.yaml"
    path.write_text(SOURCE.replace("OUTPUT", "softmax"))
    (tmp_path / "linear.yaml").write_text(SOURCE.replace("OUTPUT", "linear"))
    rows = model.random_rows(120, 6, seed=1) * 5
    write("rows.csv", rows)
    write("classes.csv", np.hstack([rows, np.arange(120)[:, None] % 3]))
    write("hot.csv", np.hstack([rows, np.eye(3)[np.arange(120) % 3]]))
    write("targets.csv", np.hstack([rows, rows[:, :3]]))
    return path


def write(name: str, rows: np.ndarray) -> None:
    Path(name).write_text("".join(",".join(f"{value:g}" for value in row) + "\n" for row in rows))


def build(cli, source: Path | str, *options: object):  # type: ignore[no-untyped-def]
    return cli("agent", "build", source, "--random-seed", 3, "-o", "x.af", "--quantize", *options)


def built() -> agentfile.AgentFile:
    return agentfile.read(Path("x.af").read_bytes(), who="x.af")


def test_an_int8_agent_says_how_it_was_made_and_verifies(cli, source: Path) -> None:
    done = build(cli, source, "int8", "--calibrate", "rows.csv", "--json")
    assert done.code == 0
    said = done.json()["quantization"]
    assert (said["path"], said["calibration"], said["rows"]) == ("i7x4", "minmax", 120)
    assert said["tried"][0]["agreement"] == 1 - said["loss"]
    assert "same greatest answer" in done.err
    assert "<- taken" in done.err
    file = built()
    made = file.header.kernel.quantization
    assert made is not None
    assert (made.path, made.rows, made.error_max) == ("i7x4", 120, said["error_max"])
    entry = {entry.name: entry for entry in file.header.sections}["neural_weights"]
    assert (entry.dtype, entry.shape) == ("u8", (entry.raw_length,))
    assert "path i7x4, minmax of 120 rows" in cli("agent", "show", "x.af").out
    assert cli("agent", "show", "x.af", "--json").json()["header"]["kernel"]["quantization"]["path"] == "i7x4"
    verified = cli("agent", "verify", "x.af")
    assert verified.code == 0, verified.out
    assert "16 rows computed in a jail" in verified.out


def test_the_same_rows_give_the_same_bytes(cli, source: Path) -> None:
    bytes_of = []
    for _ in range(2):
        assert build(cli, source, "int8", "--calibrate", "rows.csv").code == 0
        bytes_of.append(Path("x.af").read_bytes())
    assert bytes_of[0] == bytes_of[1]


def test_an_f32_agent_says_nothing_of_quantisation(cli, source: Path) -> None:
    done = cli("agent", "build", source, "--random-seed", 3, "-o", "x.af", "--json")
    assert done.json()["quantization"] is None
    assert built().header.kernel.quantization is None
    assert "quantization" not in cli("agent", "show", "x.af").out


@pytest.mark.parametrize("name", ["classes.csv", "hot.csv"])
def test_rows_with_classes_are_judged_by_accuracy(cli, source: Path, name: str) -> None:
    tried = build(cli, source, "int8", "--calibrate", name, "--json").json()["quantization"]["tried"][-1]
    assert tried["measure"] == "accuracy lost on the rows' classes"
    assert 0 <= tried["accuracy_after"] <= 1
    assert tried["loss"] == max(0, tried["accuracy_before"] - tried["accuracy_after"])


def test_rows_with_right_answers_tell_the_error_before_and_after(cli, source: Path) -> None:
    done = build(cli, "linear.yaml", "int8", "--calibrate", "targets.csv", "--json")
    tried = done.json()["quantization"]["tried"][-1]
    assert tried["target_error_after"] == pytest.approx(tried["target_error_before"], rel=0.1)
    assert "mean error against the right answers" in done.err


def test_a_loss_past_the_bound_is_refused_unless_forced(cli, source: Path) -> None:
    options = ("int8", "--calibrate", "rows.csv", "--max-loss", 0)
    done = build(cli, "linear.yaml", *options)
    assert done.code == 6
    assert "loss: at most 0 (--max-loss), found" in done.err
    assert "float32 on 120 calibration rows" in done.err  # what it would have cost
    assert not Path("x.af").exists()
    forced = build(cli, "linear.yaml", *options, "--force", "--json")
    assert forced.code == 0
    assert [one["path"] for one in forced.json()["quantization"]["tried"]] == ["i7x4", "i7", "exact"]
    made = built().header.kernel.quantization
    assert made is not None
    assert made.loss > made.loss_max == 0


def test_percentiles_a_path_and_the_deterministic_mode_can_be_asked_for(cli, source: Path) -> None:
    done = build(
        cli, source, "int8-exact", "--calibrate", "rows.csv", "--calibration", "percentile", "--percentile", 99
    )
    assert done.code == 0
    made = built().header.kernel.quantization
    assert made is not None
    assert (made.path, made.calibration, made.percentile) == ("exact", "percentile", 99.0)
    weights = built().sections["neural_weights"]
    assert steps_of(weights, (6, 24, 16, 3), "exact")[0].scale < 10 / 255
    assert build(cli, source, "int8", "--calibrate", "rows.csv", "--mode", "deterministic").code == 0
    kernel = built().header.kernel
    assert kernel.quantization is not None
    assert (kernel.mode, kernel.quantization.path) == ("deterministic", "exact")
    assert cli("agent", "verify", "x.af").code == 0
    assert build(cli, source, "int8-7bit", "--calibrate", "rows.csv", "--mode", "deterministic").code == 2


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--quantize", "int8"], "--quantize needs --calibrate"),
        (["--calibrate", "rows.csv"], "need --quantize"),
        (["--force"], "need --quantize"),
        (["--max-loss", "0.5"], "need --quantize"),
        (["--quantize", "int8", "--calibrate", "rows.csv", "--percentile", "99"], "needs --calibration percentile"),
        (["--quantize", "int4", "--calibrate", "rows.csv"], "int4"),
        (["--quantize", "int8", "--calibrate", "rows.csv", "--max-loss", "2"], "--max-loss"),
    ],
)
def test_options_that_do_not_fit_are_refused(cli, source: Path, options: list[str], text: str) -> None:
    done = cli("agent", "build", source, "--random-seed", 3, *options)
    assert (done.code, text in done.err) == (2, True), done.err


def test_a_kernel_of_ones_own_is_not_quantised(cli, source: Path) -> None:
    done = cli("agent", "build", source, "--wasm", "k.wasm", "--quantize", "int8", "--calibrate", "rows.csv")
    assert (done.code, "--wasm brings its own" in done.err) == (2, True)


@pytest.mark.parametrize(
    ("text", "code", "found"),
    [
        ("", 3, "at least 8 rows"),
        ("1,2,3,4,5,6\n" * 7, 3, "at least 8 rows"),
        ("1,2,3,4,5\n" * 9, 3, "expected 6 values, found 5; a calibration file has rows of 6 values (the inputs), 9"),
        ("1,2,3,4,5,6\n" * 9 + "1,2\n", 3, "row 10 (line 10): expected 6 values, found 2"),
        ("1,2,3,4,5,6,0\n" * 9 + "1,2,3,4,5,6\n", 3, "row 10 (line 10): expected 7 values, found 6"),
        ("1,2,3,4,5,6\n" * 9 + "1,2,3,nan,5,6\n", 3, "row 10 (line 10): column 4"),
        ("1,2,3,4,5,6\n" * 9 + "1,2,3,x,5,6\n", 3, "row 10 (line 10): column 4"),
        ("1,2,3,4,5,6,0\n" * 9 + "1,2,3,4,5,6,3\n", 3, "row 10: expected a class from 0 to 2"),
        ("1,2,3,4,5,6,0.5\n" * 9, 3, "row 1: expected a class from 0 to 2 as the last value, found 0.5"),
    ],
)
def test_calibration_files_that_do_not_do_are_refused(cli, source: Path, text: str, code: int, found: str) -> None:
    Path("bad.csv").write_text(text)
    done = build(cli, source, "int8", "--calibrate", "bad.csv")
    assert (done.code, found in done.err) == (code, True), done.err
    assert not Path("x.af").exists()


def test_a_calibration_file_that_is_missing_or_too_large(cli, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = build(cli, source, "int8", "--calibrate", "none.csv")
    assert (done.code, "none.csv: cannot be read" in done.err) == (3, True)
    from edgeswarm.app.cli import agent_quantize

    monkeypatch.setattr(agent_quantize, "CALIBRATION_VALUES_MAX", 24 * 119)
    done = build(cli, source, "int8", "--calibrate", "rows.csv")
    assert (done.code, "at most 119 calibration rows" in done.err) == (6, True)
    monkeypatch.setattr(agent_quantize, "CALIBRATION_VALUES_MAX", 10)
    done = build(cli, source, "int8", "--calibrate", "rows.csv")
    assert (done.code, "bytes of calibration rows" in done.err) == (6, True)


@pytest.mark.parametrize("name", ["rows.csv", "rows.npy"])
def test_calibration_rows_come_from_a_file_not_from_a_pipe(cli, source: Path, name: str) -> None:
    """They are read once for each width that could be meant: a pipe would be empty by then, or never end."""
    Path(name).unlink(missing_ok=True)
    os.mkfifo(name)
    done = build(cli, source, "int8", "--calibrate", name)
    assert (done.code, f"{name}: expected a file of calibration rows" in done.err) == (3, True)


def test_other_formats_of_tables_calibrate_too(cli, source: Path) -> None:
    np.save("rows.npy", model.random_rows(50, 6, seed=1))
    np.save("classes.npy", np.hstack([model.random_rows(50, 6, seed=1), np.ones((50, 1), np.float32)]))
    np.save("wrong.npy", np.ones((50, 4), np.float32))
    assert build(cli, source, "int8", "--calibrate", "rows.npy").code == 0
    assert build(cli, source, "int8", "--calibrate", "classes.npy", "--max-loss", 1).code == 0
    done = build(cli, source, "int8", "--calibrate", "wrong.npy")
    assert (done.code, "a calibration file has rows of 6 values" in done.err) == (3, True)


def test_rounded_weights_are_not_exported(cli, source: Path) -> None:
    assert build(cli, source, "int8", "--calibrate", "rows.csv").code == 0
    done = cli("agent", "export", "x.af", "-o", "x.net")
    assert (done.code, "an int8 agent holds rounded weights" in done.err) == (3, True), done.err
    assert not Path("x.net").exists()
