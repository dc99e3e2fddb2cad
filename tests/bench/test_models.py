"""What bench/models.py and bench/models_verify.py conclude; and, where the models are, that ours answer as LiteRT."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgeswarm.agentfile import AgentFile
from edgeswarm.app.cli import agent_opened
from edgeswarm.compile.layer_errors import compare, first_divergent
from edgeswarm.compile.opened import Opened

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip("ai_edge_litert.interpreter", reason="LiteRT has no wheel for this machine")


@pytest.fixture(scope="module")
def models(bench_folder: None) -> ModuleType:
    import models

    return models


@pytest.fixture(scope="module")
def verify(bench_folder: None) -> ModuleType:
    import models_verify

    return models_verify


def row(**changes: object) -> dict[str, object]:
    """A row of the table that meets every mark."""
    plain = {
        "model": "kws int8",
        "least": 0.5,
        "aim": 0.8,
        "ratio_xnnpack": 0.5,
        "ratio_builtin": 1.0,
        "ratio_jail": 0.4,
        "ratio_fast": 0.5,
        "import_s": 1.5,
        "import_cpu_s": 1.0,
        "compile_s": 0.5,
        "weights_bytes": 1000,
        "activation_bytes": 1500,
        "arena_bytes": {"builtin": 1000, "reference": 900},
        "us": {
            name: {"median_us": 1.0, "noise_us": 0.1} for name in ("xnnpack", "builtin", "process", "kernel", "call")
        },
    }
    return plain | changes


def test_a_row_that_meets_its_marks_misses_none(models: ModuleType) -> None:
    assert list(models.missed(row())) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"ratio_xnnpack": 0.49}, "0.49 of XNNPACK's speed"),
        ({"ratio_builtin": 0.99}, "LiteRT's own kernels"),
        ({"import_s": 1.6}, "import 1.6 s"),
        ({"activation_bytes": 1501}, "1501 bytes"),
    ],
)
def test_each_mark_that_is_missed_is_named(models: ModuleType, change: dict[str, object], says: str) -> None:
    (text,) = models.missed(row(**change))
    assert says in text and "kws int8" in text


def test_the_table_marks_what_is_too_slow(models: ModuleType) -> None:
    good, bad = "\n".join(models.table([row()])), "\n".join(models.table([row(ratio_xnnpack=0.1)]))
    assert "MISSED" not in good and "MISSED" in bad


def test_one_step_of_one_answer_misses_the_mark_of_int8(verify: ModuleType) -> None:
    answers = np.arange(20, dtype=np.float32).reshape(4, 5) * np.float32(0.1)
    assert verify.judge("x", answers, answers, 0.1).met
    other = answers.copy()
    other[2, 3] += np.float32(0.1)
    found = verify.judge("x", other, answers, 0.1)
    assert (found.met, found.lsb, found.differing, found.worst_row) == (False, 1.0, 1, 2)


def test_floats_are_judged_by_their_row_and_nan_is_no_answer(verify: ModuleType) -> None:
    reference = np.array([[100.0, 1e-6], [1.0, 1.0]], np.float32)
    near = reference + np.array([[5e-4, 5e-4], [0, 0]], np.float32)
    assert verify.judge("x", near, reference, None).met
    far = reference + np.array([[0, 0], [5e-5, 0]], np.float32)
    assert not verify.judge("x", far, reference, None).met
    for scale in (None, 0.1):
        assert not verify.judge("x", np.where(reference == 100, np.nan, reference), reference, scale).met


def test_a_row_past_the_mark_counts_unless_ours_is_right_and_the_reference_is_not(verify: ModuleType) -> None:
    true = np.array([[1.0, 0.5], [1.0, 0.5], [1.0, 0.5]])
    wrong, right = np.array([[0, 5e-5], [0, 0], [0, 0]]), np.array([[0, 0], [3e-5, 0], [0, 0]])
    ours, reference = (true + wrong).astype(np.float32), (true + right).astype(np.float32)
    verdict = verify.judge("x", ours, reference, None)
    assert verdict.beyond == (0, 1) and not verdict.met
    found = verify.explained(verdict, ours, reference, true[:2])
    assert (found.theirs, found.met) == (1, False)
    ours[0] = true[0]
    verdict = verify.judge("x", ours, reference, None)
    assert verify.explained(verdict, ours, reference, true[1:2]).met
    assert "1 rows past the mark, 1 by the reference" in str(verify.explained(verdict, ours, reference, true[1:2]))


def test_rows_stay_within_the_range_and_touch_its_ends() -> None:
    import _models

    rows = _models.rows_of(50, 40, -3.0, 7.0, 1)
    assert rows.shape == (40, 50) and rows.dtype == np.float32
    assert rows.min() == -3.0 and rows.max() == 7.0
    assert len(np.unique(rows[3:], axis=0)) == 37
    np.testing.assert_array_equal(rows, _models.rows_of(50, 40, -3.0, 7.0, 1))


def cases() -> list[object]:
    sys.path.insert(0, str(ROOT / "bench"))
    import _models

    sys.path.remove(str(ROOT / "bench"))
    return list(_models.CASES)


def of(case: object, folder: Path) -> AgentFile:
    """The model's agent file; skips where there is no model."""
    import _models

    path: Path = _models.folder() / case.file  # type: ignore[attr-defined]
    if not path.exists():
        pytest.skip(f"no model at {path}: EDGESWARM_TEST_DATA names the folder of mlperf-tiny")
    return _models.import_here(path, folder / "state")


@pytest.mark.parametrize("case", cases(), ids=str)
def test_a_model_of_mlperf_tiny_answers_as_the_reference_and_no_layer_of_it_diverges(
    verify: ModuleType, case: object, tmp_path: Path
) -> None:
    """Every tensor too, as the kernel computes it in memory that tensors share, beside its definition."""
    import _models

    file = of(case, tmp_path)
    verdict = verify.verify(case, 6, seed=6, file=file)
    assert verdict.met, str(verdict)
    graph = agent_opened.graph_of_file(file)
    row = _models.rows_of(graph.tensors[graph.input].size, 4, -20.0, 120.0, 3)[3]
    assert first_divergent(compare(graph, row, Opened(graph).trace(row, deadline_s=60.0))) is None


@pytest.mark.soak
@pytest.mark.parametrize("case", cases(), ids=str)
def test_a_model_of_mlperf_tiny_answers_as_the_reference_on_a_thousand_inputs(
    verify: ModuleType, case: object, tmp_path: Path
) -> None:
    verdict = verify.verify(case, 1000, seed=1, file=of(case, tmp_path))
    assert verdict.met, str(verdict)
