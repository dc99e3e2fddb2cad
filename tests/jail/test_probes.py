"""Every promise of sandbox/README.md, with probes that try to break it, in real jails of policy `strict`.

`sandbox/probes.json` is the expected matrix: for each column the probes that are open.  On a kernel of another version,
or where this process is filtered already, only the columns that keep their seccomp filter are compared: what the kernel
itself offers is then another.
"""

from __future__ import annotations

import json
import os
import platform
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jail_kernels as k
import pytest

from edgeswarm.drivers import probe_host, probe_matrix
from edgeswarm.drivers.probe_host import Answer, Column, ProbeHost, Row
from edgeswarm.errors import JailError
from edgeswarm.jail import probes

pytestmark = pytest.mark.e2e

EXPECTED = json.loads((k.SANDBOX / "probes.json").read_text())
ROWS = probe_host.rows()
NATIVE = [row.name for row in ROWS.values() if row.group not in ("wasm", "protocol")]
OTHERS = [row.name for row in ROWS.values() if row.group in ("wasm", "protocol")]
COLUMNS = [*(name for name in EXPECTED["root"] if not name.startswith("only_"))]


@pytest.fixture(scope="session")
def offered() -> str:
    return probe_matrix.offered_tier(k.SANDBOX)


def column_of(name: str, offered: str) -> Column:
    for column in probe_host.columns(offered, is_root=os.geteuid() == 0):
        if column.name == name:
            return column
    pytest.skip(f"a machine of tier {offered} has no column {name} for this user")


def same_kernel() -> bool:
    """Whether what the kernel itself offers is what it was when the matrix was written."""
    here = ".".join(platform.release().split(".")[:2])
    filtered = re.search(r"^Seccomp:\s*[12]$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return here == EXPECTED["kernel"] and platform.machine() == EXPECTED["machine"] and not filtered


def tried_in(column: Column, expected: set[str]) -> list[str]:
    """A jail of a whole tier: every probe.  Where a layer is left out: those that it stops, and a third of the others.

    Which third differs from column to column, so that each probe is tried with several layers gone; all with soak.
    """
    if not column.without:
        return NATIVE
    own = {name for name in NATIVE if name in expected or ROWS[name].layer in column.without}
    return [name for place, name in enumerate(NATIVE) if name in own or (place + COLUMNS.index(column.name)) % 3 == 0]


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.soak)], ids=["often", "all"])
def test_what_a_column_lets_through_is_what_the_matrix_says(
    name: str, every: bool, offered: str, cache_dir: Path
) -> None:
    column = column_of(name, offered)
    expected = set(EXPECTED["root" if os.geteuid() == 0 else "user"][name])
    names = NATIVE if every else tried_in(column, expected)
    answers, threads = probe_host.run_column(
        column, names, lambda _: None, policy_dir=k.SANDBOX, cache_dir=cache_dir, mac_key=k.MAC_KEY
    )
    found = {probe for probe, answer in answers.items() if answer.status == "open"}
    if "seccomp" in column.without:
        if not same_kernel():
            pytest.skip(f"written on {EXPECTED['machine']}, Linux {EXPECTED['kernel']}, not filtered")
        varying = set(EXPECTED["varies"])
        assert found - varying == expected - varying
        return
    assert found == expected
    assert not [probe for probe, answer in answers.items() if answer.status == "untried"]
    if not column.without:
        assert len(threads) >= 2
        assert probe_host.guarded(threads) == []


@pytest.fixture(scope="module")
def full(offered: str, cache_dir: Path) -> Iterator[ProbeHost]:
    with ProbeHost(column_of("full", offered), policy_dir=k.SANDBOX, cache_dir=cache_dir, mac_key=k.MAC_KEY) as host:
        yield host


@pytest.mark.parametrize("name", OTHERS)
def test_no_lie_is_believed_and_no_module_breaks_out(full: ProbeHost, name: str) -> None:
    answer = full.attempt(name)
    assert answer.status == "blocked", answer.text
    if name.startswith("ring_"):
        assert "ring" in answer.text or "broke the protocol" in answer.text
    assert "nobody knows" not in answer.text


def test_what_is_left_of_the_system_calls_is_refused_not_missing(full: ProbeHost) -> None:
    """Of the calls that serve: no new code by mmap and mprotect (an error), everything else ends the jail."""
    for name in ("map_executable", "make_data_executable", "map_writable_and_executable"):
        assert full.attempt(name).text == "EACCES Permission denied"
    for name in ("open_passwd", "socket_inet_stream", "execute", "clone", "new_namespace_user", "memory_file"):
        assert full.attempt(name).text == "SIGSYS"


def test_there_are_enough_probes_of_every_kind() -> None:
    groups: dict[str, int] = {}
    for row in ROWS.values():
        groups[row.group] = groups.get(row.group, 0) + 1
    assert len(ROWS) >= 350
    assert groups.keys() >= {"files", "side channels", "network", "others", "kernel", "code", "resources", "protocol"}
    assert groups["wasm"] >= 70
    layers = set(probes.LAYERS) | {"engine", "supervisor"}
    assert {row.layer for row in ROWS.values()} <= layers


def test_nearly_every_native_probe_is_seen_to_work_where_nothing_stops_it() -> None:
    """A probe that no column lets through proves little: those that need a privilege, a device or another kernel."""
    tried = [name for name in NATIVE if not ROWS[name].careful]
    open_somewhere = set(EXPECTED["root"]["bare"]) | set(EXPECTED["user"]["bare"])
    if platform.machine() == EXPECTED["machine"]:
        assert len(open_somewhere) > 0.7 * len(tried)


def test_the_matrix_names_probes_and_columns_that_exist() -> None:
    for who in ("root", "user"):
        for column, names in EXPECTED[who].items():
            assert set(names) <= set(NATIVE) or platform.machine() != EXPECTED["machine"], column
            assert names == sorted(names)
    assert all(not names for column, names in EXPECTED["root"].items() if column in ("full", "tier_B", "tier_C"))
    assert set(EXPECTED["varies"]) <= set(NATIVE)


def test_a_jail_that_cannot_be_made_is_not_taken_for_one_that_holds(offered: str, cache_dir: Path) -> None:
    """A column whose jails do not start is an error: nothing of it counts as blocked."""
    broken = Column("broken", ("no such layer",), offered)
    with pytest.raises(JailError):
        ProbeHost(broken, policy_dir=k.SANDBOX, cache_dir=cache_dir, mac_key=k.MAC_KEY)


def matrix(**answers: str) -> probe_matrix.Matrix:
    rows = tuple(Row(name, "seccomp", "files") for name in answers)
    found: dict[str, Any] = {name: Answer(status, "text") for name, status in answers.items()}
    thread = {"thread": 1, "seccomp": 2, "filters": 2, "no_new_privs": 1, "capabilities": 0}
    return probe_matrix.Matrix("A", rows, ("full",), {"full": found}, (thread,))


def test_an_open_probe_and_an_unfiltered_thread_are_told() -> None:
    assert matrix(a="blocked").open == []
    assert matrix(a="blocked", b="open", c="untried").open == ["b", "c"]
    assert matrix(a="blocked").unguarded == []
    for wrong in ({"seccomp": 0}, {"filters": 1}, {"no_new_privs": 0}, {"capabilities": 1}):
        row = {"thread": 1, "seccomp": 2, "filters": 2, "no_new_privs": 1, "capabilities": 0} | wrong
        assert probe_host.guarded([row])
    [probe, *_] = matrix(a="blocked").to_json()["probes"]
    assert probe == {"name": "a", "layer": "seccomp", "group": "files", "full": "blocked", "how": "text"}


def test_a_column_that_cannot_be_made_stops_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second column would probe for ever; it stops once the first has failed."""
    begun = threading.Event()

    def run_column(column: Column, _names: Any, told: Any, **_host: Any) -> Any:
        if column.name == "full":
            begun.wait()
            raise JailError("cannot be made")
        while True:
            begun.set()
            told(1)

    monkeypatch.setattr(probe_matrix, "run_column", run_column)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    with pytest.raises(JailError, match="cannot be made"):
        probe_matrix.run(k.SANDBOX, list(ROWS.values())[:1], [Column("full"), Column("endless")])
