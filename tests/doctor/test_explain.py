"""`edgeswarm doctor --explain`: every missing layer has a price and a way to it, and nothing weakens the machine."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.app.cli import doctor as command
from edgeswarm.assets import asset
from edgeswarm.drivers import doctor
from edgeswarm.drivers.doctor import Check, Report, advice, explain
from edgeswarm.errors import TierError

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("seccomp", "namespaces", "landlock", "refuse_exec_gain", "seal_text")
TIERS: dict[tuple[bool, ...], doctor.Tier] = {
    (True, True, True): "A",
    (True, False, True): "B",
    (True, True, False): "C",
    (True, False, False): "C",
}
MATRIX = explain.read_matrix(is_root=False)

WEAKENING = re.compile(
    r"sysctl\s+(-w|--write)|apparmor_restrict_unprivileged_(userns|unconfined)\s*=\s*0|userns_clone\s*=\s*1"
    r"|(seccomp|apparmor|label)[=:]\s*unconfined|--privileged|privileged:\s*true|--cap-add|SYS_ADMIN\b|setenforce"
    r"|selinux=0|apparmor=0|seccomp=0|mitigations=off|chmod\s+(-R\s+)?[0-7]?777|NoNewPrivileges=(no|false)"
    r"|aa-(teardown|disable|complain)|--security-opt\s+label=disable|userns=host|pid=host|--network[= ]host|"
    r"ptrace_scope\s*=\s*0|unprivileged_bpf_disabled\s*=\s*0|max_user_namespaces\s*=",
    re.IGNORECASE,
)
"""What an advice must never say: each opens this machine for every program, or a container for all that runs in it."""


def facts(**changes: Any) -> advice.Facts:
    base: dict[str, Any] = {
        "arch": "x86_64", "kernel": (6, 18), "is_root": False, "filtered": False, "chrooted": False, "sysctls": {},
    }  # fmt: skip
    return advice.Facts(**base | changes)


def report(*missing: str, known: advice.Facts | None = None, detail: str = "Operation not permitted") -> Report:
    """A machine that lacks these layers."""
    known = known or facts()
    layers = {
        name: Check(False, detail, advice.for_layer(name, 1, detail, known), "missing")
        if name in missing
        else Check(True, "tried")
        for name in LAYERS
    }
    layers["seccomp_filters"] = layers["seccomp"]
    has = tuple(name not in missing for name in ("seccomp", "namespaces", "landlock"))
    tier: doctor.Tier = TIERS.get(has, "D")
    groups = {} if "cgroups" in missing else {"v2": Check(True, "took a process; limits: memory pids cpu")}
    return Report(tier, doctor.TIERS[tier], {}, layers, groups, Check(True, "fine"), {}, {}, 1)


some_facts = st.builds(
    advice.Facts,
    arch=st.sampled_from(["x86_64", "aarch64", "armv7l"]),
    kernel=st.sampled_from([(5, 4), (5, 15), (6, 1), (6, 18)]),
    is_root=st.booleans(),
    filtered=st.booleans(),
    chrooted=st.booleans(),
    sysctls=st.dictionaries(st.sampled_from(doctor.SYSCTLS), st.sampled_from(["0", "1", "15000"])),
)


@settings(max_examples=300)
@given(st.sets(st.sampled_from([*LAYERS, "cgroups"])), some_facts, st.integers(0, 133))
def test_every_missing_layer_has_its_worth_and_a_way_to_it_and_none_weakens_the_machine(
    missing: set[str], known: advice.Facts, number: int
) -> None:
    found = explain.explain(report(*missing, known=known, detail=os.strerror(number)), known, MATRIX)
    assert {item.layer for item in found} == missing
    for item in found:
        assert item.adds
        assert item.how
        assert bool(item.of) == (item.layer not in ("seccomp", "cgroups"))
        assert len(item.stops) <= item.of
        for line in (item.adds, *item.how):
            assert not WEAKENING.search(line), line
    text = explain.text(found)
    assert all(item.title in text for item in found)
    assert not WEAKENING.search(text)


@pytest.mark.parametrize(
    ("groups", "lost"),
    [
        ({"v2": "a group took a process; limits: memory pids"}, "none for cpu: "),
        ({"v1_memory": "", "v1_cpu": "", "v2": None}, "none for pids: "),
        ({"v1_memory": "", "v2": "limits: pids cpu"}, ""),
        ({"v2": None, "v1_pids": None}, "refused; refused"),
    ],
    ids=["v2 without cpu", "v1 without pids", "both together", "nothing"],
)
def test_a_controller_that_no_group_has_is_missing(groups: dict[str, str | None], lost: str) -> None:
    """systemd passes memory and pids on to a user, and often not cpu: then nothing bounds a jail's processor time."""
    checks = {name: Check(said is not None, said or "refused") for name, said in groups.items()}
    found = explain.explain(dataclasses.replace(report(), cgroups=checks), facts(), MATRIX)
    assert [(item.layer, item.said.startswith(lost)) for item in found] == ([("cgroups", True)] if lost else [])


@pytest.mark.parametrize(
    "weak",
    [
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        "kernel.apparmor_restrict_unprivileged_userns = 0",
        "docker run --privileged",
        "--security-opt seccomp=unconfined",
        "--security-opt apparmor=unconfined",
        "--cap-add SYS_ADMIN",
        "setenforce 0",
        "sysctl kernel.unprivileged_userns_clone=1",
    ],
)
def test_the_scan_finds_what_it_is_for(weak: str) -> None:
    assert WEAKENING.search(weak)


def test_nothing_that_we_ship_or_write_advises_to_weaken_a_machine() -> None:
    """Sources of the doctor, firmware pieces, pages: what a user may copy from."""
    files = [*(ROOT / "edgeswarm" / "drivers" / "doctor").glob("*.py"), ROOT / "README.md", ROOT / "sandbox/README.md"]
    files += [path for path in (ROOT / "firmware_configs").rglob("*") if path.is_file()]
    files += (ROOT / "docs").glob("*.md")
    assert len(files) > 30
    for path in files:
        for line in path.read_text(encoding="utf-8").splitlines():
            assert not WEAKENING.search(line), f"{path}: {line}"


def test_what_a_layer_stops_comes_from_the_committed_matrix() -> None:
    tree = json.loads(asset("sandbox", "probes.json").read_text())
    [item] = explain.explain(report("landlock"), facts(), MATRIX)
    open_without, open_with = set(tree["user"]["bare"]), set(tree["user"]["only_landlock"])
    assert set(item.stops) == open_without - open_with
    assert item.of == len(open_without)
    assert "open_passwd" in item.stops
    assert f"{len(item.stops)} of the {item.of} probes" in " ".join(explain.text((item,)).split())
    assert explain.Matrix().stopped_by("landlock") == ((), 0), "a machine without the matrix has the rest of the answer"


@pytest.mark.parametrize(
    ("missing", "known", "expected"),
    [
        (("namespaces",), {"sysctls": {"kernel.apparmor_restrict_unprivileged_userns": "1"}},
         ["firmware_configs/linux/apparmor/edgeswarm", "Leave the sysctl as it is", "RestrictNamespaces="]),
        (("namespaces",), {"filtered": True},
         ["container/edgeswarm-seccomp.json", "--security-opt seccomp=edgeswarm.json", "no further capability"]),
        (("namespaces",), {}, ["security module, or a container", "edgeswarm.service"]),
        (("landlock",), {"kernel": (5, 4)}, ["Linux 5.13", "CONFIG_SECURITY_LANDLOCK=y", "lsm="]),
        (("seccomp",), {}, ["CONFIG_SECCOMP_FILTER=y"]),
        (("refuse_exec_gain",), {"kernel": (6, 1)}, ["Linux 6.3"]),
        (("seal_text",), {"kernel": (6, 1)}, ["Linux 6.10"]),
        (("cgroups",), {}, ["Delegate=memory pids cpu", "systemd-run --user --scope"]),
        (("cgroups",), {"filtered": True}, ["--memory, --pids-limit, --cpus"]),
    ],
)  # fmt: skip
def test_the_way_to_a_layer_fits_the_machine(missing: tuple[str, ...], known: Any, expected: list[str]) -> None:
    here = facts(**known)
    text = " ".join(explain.text(explain.explain(report(*missing, known=here), here, MATRIX)).split())
    for part in expected:
        assert part in text


def test_a_step_for_several_layers_is_told_once() -> None:
    here = facts(filtered=True)
    text = " ".join(explain.text(explain.explain(report("namespaces", "landlock", known=here), here, MATRIX)).split())
    assert text.count("--slurpfile") == 1
    assert text.count("the same for the container as above") == 1


def test_a_kernel_without_namespaces_is_told_its_options() -> None:
    said = os.strerror(22)
    text = explain.text(explain.explain(report("namespaces", detail=said), facts(), MATRIX))
    assert "CONFIG_USER_NS=y" in text


def ask(monkeypatch: pytest.MonkeyPatch, found: Report, *arguments: str, word: str = "") -> tuple[int, str]:
    monkeypatch.setattr(doctor, "examine", lambda **_: found)
    if word:
        monkeypatch.setenv("EDGESWARM_JAILS__MIN_TIER", word)
    else:
        monkeypatch.delenv("EDGESWARM_JAILS__MIN_TIER", raising=False)
    done = CliRunner().invoke(command.doctor, list(arguments), standalone_mode=False)
    assert done.exception is None, done.exception
    return done.return_value or 0, done.output


@pytest.mark.parametrize(
    ("missing", "word", "code", "starts", "said"),
    [
        ((), "", 0, True, "Agents start here: min_tier is A"),
        (("namespaces",), "", 0, False, 'min_tier = "B" under [jails] in edgeswarm.toml (EDGESWARM_JAILS__MIN_TIER=B)'),
        (("namespaces",), "B", 0, True, "DEGRADED, as accepted"),
        (("landlock",), "B", 0, False, 'min_tier = "C"'),
        (("landlock",), "C", 0, True, "DEGRADED, as accepted"),
        (("seccomp",), "C", TierError.exit_code, False, "Nothing runs here"),
    ],
)
def test_doctor_says_whether_agents_start_and_which_setting_decides(
    monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...], word: str, code: int, starts: bool, said: str
) -> None:
    found = report(*missing)
    assert ask(monkeypatch, found, "--json", "--explain", word=word)[0] == code
    tree = json.loads(ask(monkeypatch, found, "--json", "--explain", word=word)[1])
    assert (tree["starts"], tree["min_tier"]) == (starts, word or "A")
    assert tree["degraded"] == (found.tier in "BC")
    assert [item["layer"] for item in tree["explain"]] == [name for name in LAYERS if name in missing]
    text = " ".join(ask(monkeypatch, found, "--explain", word=word)[1].split())
    assert said in text
    assert "explain" not in json.loads(ask(monkeypatch, found, "--json", word=word)[1])


def test_broken_settings_do_not_keep_doctor_from_answering(monkeypatch: pytest.MonkeyPatch) -> None:
    code, text = ask(monkeypatch, report("namespaces"), "--explain", word="Z")
    assert code == 0
    assert "the settings are broken" in text
