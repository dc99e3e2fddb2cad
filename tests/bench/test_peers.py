"""What bench/peers.py concludes: from times, from answers that differ, and from contestants that answer nonsense."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def measure(bench_folder: None) -> ModuleType:
    import _peers_measure

    return _peers_measure


@pytest.fixture(scope="module")
def peers(bench_folder: None) -> ModuleType:
    import peers

    return peers


def contestant(measure: ModuleType, code: str) -> object:
    return measure.Contestant("fake", [sys.executable, "-c", code])


LOOP = """
import sys
print("ready fake 1", flush=True)
for line in sys.stdin:
    words = line.split()
    if words[0] == "run": print({run}, flush=True)
    else:
        import array
        array.array("f", [1, 2, 3, 4]).tofile(open(words[1], "wb")); print("ok", flush=True)
"""
HONEST = LOOP.format(run='"ns", 1000 * int(words[2]), 1100 * int(words[2])')


def test_times_are_read(measure: ModuleType) -> None:
    assert measure.parse_slice("x", "ns 1200 1300") == measure.Slice(1200, 1300)


@pytest.mark.parametrize(
    "line",
    ["", "ns", "ns 1", "ns 1 2 3", "ok", "ns -1 5", "ns 0 5", "ns 5 0", "ns 1.5 2", "ns nan 2", "ns ٣ ٣", "ns 1e9 1"],
)
def test_nonsense_for_times_is_refused(measure: ModuleType, line: str) -> None:
    with pytest.raises(measure.PeerError, match="x: expected"):
        measure.parse_slice("x", line)


def test_a_ratio_is_taken_round_by_round(measure: ModuleType) -> None:
    """The third round was slow for both: it says the same as the others."""
    found = measure.ratios([20.0, 20.0, 200.0, 20.0], [10.0, 10.0, 100.0, 10.0])
    assert (found.low, found.median, found.high) == (2.0, 2.0, 2.0)


def test_a_ratio_has_its_quartiles(measure: ModuleType) -> None:
    found = measure.ratios([1.0, 2.0, 3.0, 4.0, 5.0], [1.0] * 5)
    assert (found.low, found.median, found.high) == (1.5, 3.0, 4.5)


@given(
    st.lists(st.tuples(st.floats(1, 1e9), st.floats(1, 1e9)), min_size=2, max_size=40),
    st.floats(0.01, 100),
)
def test_a_ratio_does_not_depend_on_the_machines_speed(times: list[tuple[float, float]], speed: float) -> None:
    import _peers_measure as measure

    peer, ours = zip(*times, strict=True)
    found = measure.ratios(peer, ours)
    scaled = measure.ratios([value * speed for value in peer], [value * speed for value in ours])
    assert scaled.median == pytest.approx(found.median)
    near = 1 + 1e-12  # the quartiles are interpolated, and rounded
    assert found.low <= found.median * near and found.median <= found.high * near


def test_ratios_need_two_rounds_of_both(measure: ModuleType) -> None:
    with pytest.raises(measure.PeerError, match="at least 2"):
        measure.ratios([1.0], [1.0])
    with pytest.raises(measure.PeerError, match="as many"):
        measure.ratios([1.0, 2.0], [1.0])


EXPECTED = np.array([[0.0, 1.0], [0.5, 2.0]])


def test_answers_within_the_tolerance_are_taken(measure: ModuleType) -> None:
    assert measure.difference("x", EXPECTED.astype(np.float32), EXPECTED, "f32") <= 1e-7
    assert measure.difference("x", EXPECTED + 0.04, EXPECTED, "int8") == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("answers", "kind", "text"),
    [
        (EXPECTED + 1e-4, "f32", "differ by"),
        (EXPECTED + 0.2, "int8", "differ by"),
        (np.array([[0.0, np.nan], [0.5, 2.0]]), "int8", "finite"),
        (np.array([[0.0, np.inf], [0.5, 2.0]]), "f32", "finite"),
        (EXPECTED[:1], "f32", "shape"),
    ],
)
def test_answers_that_differ_are_refused(measure: ModuleType, answers: np.ndarray, kind: str, text: str) -> None:
    with pytest.raises(measure.PeerError, match=text):
        measure.difference("x", answers, EXPECTED, kind)


def test_a_reference_that_is_constant_compares_nothing(measure: ModuleType) -> None:
    with pytest.raises(measure.PeerError, match="show nothing"):
        measure.difference("x", np.zeros((2, 2)), np.zeros((2, 2)), "f32")


def test_a_contestant_is_asked(measure: ModuleType, tmp_path: Path) -> None:
    one = contestant(measure, HONEST)
    one.start()
    try:
        assert one.says == "fake 1"
        assert one.run(1, 7) == measure.Slice(7000, 7700)
        assert one.answers(tmp_path / "answers", (2, 2)).tolist() == [[1, 2], [3, 4]]
        with pytest.raises(measure.PeerError, match="expected 3 x 2 answers, found 4"):
            one.answers(tmp_path / "answers", (3, 2))
    finally:
        one.close()


def test_turns_are_equally_long_and_counted_by_row(measure: ModuleType) -> None:
    one, other = contestant(measure, HONEST), contestant(measure, HONEST.replace("1000 *", "3000 *"))
    other.name = "slow"
    try:
        one.start()
        other.start()
        times, disturbed = measure.take_turns([one, other], 10, rounds=4, slice_ns=1_000_000)
    finally:
        one.close()
        other.close()
    assert times == {"fake": [100.0] * 4, "slow": [300.0] * 4}
    assert disturbed == 0  # a tenth more by the wall's clock is not yet a disturbance


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("print('hello', flush=True)", "expected 'ready"),
        ("import sys; sys.exit('no such library')", "ended with 1: no such library"),
        ("print('r' * 5000, flush=True); input()", "at most 4096 bytes"),
    ],
)
def test_a_contestant_that_does_not_start_is_named(measure: ModuleType, code: str, text: str) -> None:
    one = contestant(measure, code)
    try:
        with pytest.raises(measure.PeerError, match=text):
            one.start()
    finally:
        one.close()


@pytest.mark.parametrize(
    ("run", "text"), [('"fast"', "expected 'ns CPU WALL'"), ("1 / 0", "ended with 1: ZeroDivision")]
)
def test_a_contestant_that_fails_later_is_named(measure: ModuleType, run: str, text: str) -> None:
    one = contestant(measure, LOOP.format(run=run))
    one.start()
    try:
        with pytest.raises(measure.PeerError, match=f"fake: .*{text}"):
            one.run(1, 1)
    finally:
        one.close()


def test_a_contestant_that_hangs_is_given_up_and_ended(measure: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "ANSWER_S", 0.2)
    one = contestant(measure, "import time, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)")
    with pytest.raises(measure.PeerError, match="no answer within"):
        one.start()
    process = one._process
    one.close()
    assert process.returncode == -9


def test_every_case_has_a_contestant_for_each_of_its_marks(peers: ModuleType) -> None:
    for spec in peers.SPECS:
        assert set(spec.marks) <= set(spec.peers), spec.name
        assert all(least < aim for least, aim in spec.marks.values())
    assert len({spec.name for spec in peers.SPECS}) == len(peers.SPECS)


@pytest.mark.parametrize("index", range(8))
def test_cases_show_a_difference_and_relu_nets_stay_where_linear_piece_is_relu(
    peers: ModuleType, index: int, tmp_path: Path
) -> None:
    stem, expected = peers.write_case(peers.SPECS[index], tmp_path)
    assert expected.shape == (peers.ROWS, peers.SPECS[index].sizes[-1])
    assert expected.max() - expected.min() > 0.01
    assert Path(f"{stem}.bin").stat().st_size > 4 * peers.ROWS * peers.SPECS[index].sizes[0]


def test_relu_nets_that_leave_it_are_refused(
    peers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = next(spec for spec in peers.SPECS if spec.activation == "relu")
    model = type(spec).model(spec)
    larger = type(model)(tuple(type(layer)(layer.weights * 9, layer.bias, layer.activation) for layer in model.layers))
    monkeypatch.setattr(type(spec), "model", lambda _: larger)
    with pytest.raises(peers.PeerError, match="linear_piece is not relu"):
        peers.write_case(spec, tmp_path)


def test_the_same_arrays_are_computed_alike_by_ours_and_numpy(peers: ModuleType, tmp_path: Path) -> None:
    """The whole way, with two contestants that every checkout has."""
    commands = {
        name: [sys.executable, ROOT / "bench/_peers_child.py", name] for name in ("ours", "numpy", "ours-python")
    }
    found = peers.run_case(peers.SPECS[-1], commands, 2, 200_000)
    assert [row["contestant"] for row in found["rows"]] == ["ours", "numpy", "ours-python"]
    assert found["rows"][0]["ratio"] == 1
    assert all(row["difference"] < 2e-5 for row in found["rows"])


def test_the_ceiling_is_what_multiply_adds_alone_would_take(peers: ModuleType) -> None:
    found = {
        "operations": 200_000,
        "rows": [
            {"contestant": "ours", "us_a_row": 5.0, "mark": None},
            {"contestant": "libfann", "us_a_row": 40.0, "mark": [6, 7]},
        ],
    }
    spec = peers.SPECS[0]
    assert peers.ceiling(spec, found, 50.0).endswith("take 4.00 µs here (50 GFLOP/s): at most libfann 10.0")
    assert peers.ceiling(spec, found, None) == ""
    assert peers.ceiling(next(spec for spec in peers.SPECS if spec.kind == "int8"), found, 50.0) == ""
