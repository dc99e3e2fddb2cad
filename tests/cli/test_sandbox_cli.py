"""`edgeswarm sandbox`: what it prints, and the exit code by which a script learns that a jail does not hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jail_kernels as k
import pytest

from edgeswarm.drivers import probe_matrix
from edgeswarm.drivers.probe_host import Answer


def test_the_probes_are_listed_without_trying_one(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_matrix, "run", None)
    rows = cli("sandbox", "probe", "--list", "--json").json()
    assert len(rows) >= 350
    assert {"name": "open_passwd", "layer": "landlock", "group": "files"} in rows
    assert {row["layer"] for row in cli("sandbox", "probe", "--list", "--layer", "seal", "--json").json()} == {"seal"}
    assert "wasm_stack_overflow" in cli("sandbox", "probe", "--list", "--name", "wasm_stack*").out


@pytest.mark.e2e
def test_a_jail_that_holds_ends_with_0_and_says_what_was_tried(cli: Any) -> None:
    found = cli("sandbox", "probe", "--full-only", "--name", "open_pa*", "--name", "ring_head_far*", "--json").json()
    rows = {row["name"]: row for row in found["probes"]}
    assert rows.keys() == {"open_passwd", "open_parent_folder", "ring_head_far_ahead"}
    assert rows["open_passwd"] | {"how": ""} == {
        "name": "open_passwd", "layer": "landlock", "group": "files", "full": "blocked", "how": "",
    }  # fmt: skip
    assert found["open"] == {"full": 0}
    assert all(row["seccomp"] == 2 and row["no_new_privs"] == 1 for row in found["threads"])


@pytest.mark.e2e
def test_a_column_shows_what_its_layer_stops(cli: Any) -> None:
    done = cli("sandbox", "probe", "--column", "without_seal", "--name", "make_code_writable")
    assert done.code == 0
    assert "make_code_writable  seal   -     OPEN" in done.out
    assert "1 probes, none open" in done.out


def test_an_open_probe_ends_with_7_and_is_named(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    thread = {"thread": 7, "seccomp": 2, "filters": 2, "no_new_privs": 1, "capabilities": 0}

    def run(_folder: Path, rows: Any, picked: Any, _told: Any) -> probe_matrix.Matrix:
        answers = {column.name: {row.name: Answer("open", "worked: 3") for row in rows} for column in picked}
        return probe_matrix.Matrix("A", tuple(rows), tuple(answers), answers, (thread,))

    monkeypatch.setattr(probe_matrix, "run", run)
    monkeypatch.setattr(probe_matrix, "offered_tier", lambda _: "A")
    done = cli("sandbox", "probe", "--full-only", "--name", "open_passwd")
    assert done.code == 7
    assert "OPEN IN THE FULL JAIL: 1" in done.out
    assert "open_passwd: worked: 3" in done.out
    assert cli("sandbox", "probe", "--full-only", "--name", "open_passwd", "--json").code == 7


@pytest.mark.parametrize(
    "lacks", [{"seccomp": 0}, {"filters": 1}, {"no_new_privs": 0}, {"capabilities": 1}], ids=lambda lacks: str(lacks)
)
def test_a_thread_that_lacks_a_lock_ends_with_7_although_no_probe_is_open(
    cli: Any, monkeypatch: pytest.MonkeyPatch, lacks: dict[str, int]
) -> None:
    thread = {"thread": 7, "seccomp": 2, "filters": 2, "no_new_privs": 1, "capabilities": 0, **lacks}

    def run(_folder: Path, rows: Any, picked: Any, _told: Any) -> probe_matrix.Matrix:
        answers = {column.name: {row.name: Answer("blocked", "EPERM") for row in rows} for column in picked}
        return probe_matrix.Matrix("A", tuple(rows), tuple(answers), answers, (thread,))

    monkeypatch.setattr(probe_matrix, "run", run)
    monkeypatch.setattr(probe_matrix, "offered_tier", lambda _: "A")
    done = cli("sandbox", "probe", "--full-only", "--name", "open_passwd")
    assert (done.code, "Every thread of a jail" in done.out) == (7, False)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--name", "no_such_probe"), "no probe is chosen"),
        (("--layer", "no_such_layer"), "layers and groups are"),
        (("--column", "without_everything", "--name", "open_passwd"), "without_everything"),
    ],
)
def test_what_does_not_exist_is_told(
    cli: Any, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], text: str
) -> None:
    monkeypatch.setattr(probe_matrix, "offered_tier", lambda _: "A")
    done = cli("sandbox", "probe", *arguments)
    assert (done.code, text in done.err) == (2, True), done.err


def test_the_policies_are_listed_and_explained(cli: Any) -> None:
    rows = {row["name"]: row for row in cli("sandbox", "policies", "--json").json()}
    assert rows.keys() == {"build", "delegate", "gpu", "strict"}
    assert rows["strict"]["calls_serving"] == 15
    assert rows["gpu"]["tier_min"] == "A"
    calls = {row["call"]: row for row in cli("sandbox", "explain", "strict", "--json").json()}
    assert calls["mmap"]["answer"] == "not executable"
    assert calls["getppid"]["answer"] == "EPERM"
    assert calls["futex"]["reason"]
    assert "ioctl" in cli("sandbox", "explain", "gpu").out


@pytest.mark.parametrize("name", ["no_such", "../policies/strict", ""])
def test_a_policy_that_is_not_there_is_told_with_those_that_are(cli: Any, name: str) -> None:
    done = cli("sandbox", "explain", name)
    text = f"policy {name}: expected one of build, delegate, gpu, strict, or a file"
    assert (done.code, text in done.err) == (2, True)


def test_a_policy_of_ones_own_is_checked(cli: Any, tmp_path: Path) -> None:
    pytest.importorskip("pyseccomp")
    path = tmp_path / "mine.toml"
    text = (k.SANDBOX / "policies" / "strict.toml").read_text().replace('name = "strict"', 'name = "mine"')
    path.write_text(text)
    found = cli("sandbox", "policies", "--check", path, "--json").json()
    assert (found["name"], found["weaker_than_strict"]) == ("mine", [])
    path.write_text(text.replace("landlock = true", "landlock = false"))
    assert "Weaker than strict:\n  no Landlock\n" in cli("sandbox", "policies", "--check", path).out
    path.write_text(text.replace('tier_min = "C"', 'tier_min = "E"'))
    done = cli("sandbox", "policies", "--check", path)
    assert done.code == 2
    assert "tier_min" in done.err
    assert "5" in done.err
    assert json.loads(cli("sandbox", "explain", k.SANDBOX / "policies" / "strict.toml", "--json").out)
