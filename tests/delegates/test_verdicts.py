"""The file of verdicts: what was put is found again under its key, whatever lies on disk beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeswarm.drivers.delegates import contest
from edgeswarm.drivers.delegates.contest import Score, fastest
from edgeswarm.drivers.delegates.verdicts import Verdict, Verdicts, key_of
from edgeswarm.drivers.jail_cache import Binding

HERE = Binding("50.0", "x86_64", "a", "b", "c")
VERDICT = Verdict("litert", (Score("wasm", 31.0), Score("litert", 6.5), Score("gpu", None, "it crashed")), 1.0)


def test_a_verdict_comes_back_as_it_was_put(tmp_path: Path) -> None:
    path = tmp_path / "state" / "delegates.json"
    Verdicts(path).put("k", VERDICT)
    assert Verdicts(path).get("k") == VERDICT and Verdicts(path).get("other") is None
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"not json",
        b"[]",
        b'{"form": 2, "verdicts": {}}',
        b'{"form": 1, "verdicts": []}',
        b'{"form": 1, "verdicts": {"k": {"choice": "litert"}}}',
        b'{"form": 1, "verdicts": {"k": {"choice": "x", "at": "soon", "scores": []}}}',
        b'{"form": 1, "verdicts": {"k": {"choice": "x", "at": 1, "scores": [{"name": "x"}]}}}',
        b'{"form": 1, "verdicts": {"k": {"choice": "x", "at": 1, "scores": []}}}',
        b'{"form": 1, "verdicts": {"k": {"choice": ["wasm"], "at": 1, "scores": []}}}',
        b'{"form": 1, "verdicts": {"k": {"choice": "wasm", "at": NaN, "scores": []}}}',
        *(
            b'{"form": 1, "verdicts": {"k": {"choice": "wasm", "at": 1, "scores": [%s]}}}' % score
            for score in (
                b'{"name": "wasm", "us": NaN, "why": ""}',
                b'{"name": "wasm", "us": Infinity, "why": ""}',
                b'{"name": "wasm", "us": -1, "why": ""}',
                b'{"name": "wasm", "us": 1%s, "why": ""}' % (b"0" * 400),
                b'{"name": "\\ud800", "us": 1, "why": ""}',
                b'{"name": "wasm", "us": 1, "why": ""}, {"name": "wasm", "us": 2, "why": ""}',
            )
        ),
        b"[" * 100_000,
        b"\xff\xfe",
        b" " * (5 << 20),
    ],
)
def test_a_file_that_is_broken_is_empty_and_written_anew(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "delegates.json"
    path.write_bytes(text)
    assert Verdicts(path).get("k") is None
    Verdicts(path).put("k", VERDICT)
    assert Verdicts(path).get("k") == VERDICT


def test_half_a_character_in_a_reason_can_be_told(tmp_path: Path) -> None:
    path = tmp_path / "delegates.json"
    score = '{"name": "litert", "us": null, "why": "a\\ud800b"}'
    path.write_text(f'{{"form": 1, "verdicts": {{"k": {{"choice": "wasm", "at": 1, "scores": [{score}]}}}}}}')
    found = Verdicts(path).get("k")
    assert found is not None and found.scores[0].why.encode() == b"a?b"


def test_the_oldest_verdicts_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeswarm.drivers.delegates.verdicts.DELEGATE_VERDICTS_MAX", 3)
    kept = Verdicts(tmp_path / "delegates.json")
    for at in (5.0, 1.0, 3.0, 4.0):
        kept.put(f"{at:g}", Verdict("wasm", (), at))
    assert [key for key in "12345" if kept.get(key) is not None] == ["3", "4", "5"]


@given(st.data())
def test_a_key_is_another_one_when_anything_that_counts_is(data: st.DataObject) -> None:
    facts: list[Any] = ["f" * 64, HERE, ["one", "two"], ["fastest", 1, 0.01]]
    changed = list(facts)
    which = data.draw(st.integers(0, 3))
    changed[which] = [
        "e" * 64,
        Binding("51.0", "x86_64", "a", "b", "c"),
        data.draw(st.sampled_from([["one"], ["two", "one"], ["onetwo"], []])),
        data.draw(st.sampled_from([["first", 1, 0.01], ["fastest", 2, 0.01], ["fastest", 1, 0.0]])),
    ][which]
    assert key_of(*facts) == key_of(*facts) != key_of(*changed)


@pytest.mark.parametrize(
    ("scores", "choice"),
    [
        ([Score("wasm", 10.0), Score("litert", 5.0), Score("gpu", 7.0)], "litert"),
        ([Score("wasm", 10.0), Score("litert", 9.6)], "wasm"),  # within the margin: not worth a process
        ([Score("wasm", 10.0), Score("litert", 9.4)], "litert"),
        ([Score("wasm", 10.0), Score("litert", None, "wrong")], "wasm"),
        ([Score("wasm", None, "it is late"), Score("litert", 90.0)], "litert"),
        ([Score("wasm", None), Score("litert", None)], "wasm"),
        ([Score("wasm", 10.0)], "wasm"),
    ],
)
def test_the_fastest_that_is_right_is_chosen(scores: list[Score], choice: str) -> None:
    assert fastest(scores, margin=0.05) == choice


@pytest.mark.parametrize(
    ("want", "got", "fault"),
    [
        ([1.0, 2.0], [1.0, 2.0], ""),
        ([1.0, 2.0], [1.0, 2.05], ""),
        ([1.0, 2.0], [1.0, 2.2], "column 1: expected 2, found 2.2"),
        ([1.0, 2.0], [float("nan"), 2.0], "column 0"),
        ([1.0, 2.0], [1.0], "2 values expected, found 1"),
    ],
)
def test_answers_are_compared_within_the_tolerance(want: list[float], got: list[float], fault: str) -> None:
    from array import array

    found = contest.compare(array("f", want).tobytes(), array("f", got).tobytes(), relative=0.0, absolute=0.1)
    assert found.startswith(fault) if fault else not found
