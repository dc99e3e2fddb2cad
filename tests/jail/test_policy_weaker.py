"""Who writes a policy of his own is told what it gives up, each promise by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jail_kernels as k
import pytest

from edgeswarm.drivers.jail_policy_file import PolicyFile, read_policy_file
from edgeswarm.drivers.jail_policy_weaker import weaker

STRICT = k.SANDBOX / "policies" / "strict.toml"


def policy(tmp_path: Path, before: str, after: str) -> PolicyFile:
    text = STRICT.read_text()
    assert before in text
    path = tmp_path / "strict.toml"
    path.write_text(text.replace(before, after))
    return read_policy_file(path)


def strict() -> PolicyFile:
    return read_policy_file(STRICT)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ('"net", "ipc", ', '"ipc", ', "no namespace of its own: net"),
        ("landlock = true", "landlock = false", "no Landlock"),
        ("refuse_exec_gain = true", "refuse_exec_gain = false", "executable memory"),
        ("seal_text = true", "seal_text = false", "not sealed"),
        ("data_mb = 64", "data_mb = 65", "data_mb 65 instead of 64"),
        ("NPROC = 0 ", "NPROC = 1 ", "limits_final.NPROC: 1 instead of 0"),
        ("SIGPENDING = 16", "", "limits.SIGPENDING: none instead of 16"),
        ("[stage_2.allow]\n", '[stage_2.allow]\ngetpid = { reason = "a test of this" }\n', "agents run: getpid"),
    ],
)
def test_each_promise_that_is_given_up_is_named(tmp_path: Path, before: str, after: str, told: str) -> None:
    [line] = weaker(policy(tmp_path, before, after), strict())
    assert told in line


def test_a_call_that_may_make_executable_memory_is_named() -> None:
    stage = strict().stage_2
    loose = replace(stage, allow={**stage.allow, **stage.allow_without_exec}, allow_without_exec={})
    assert weaker(replace(strict(), stage_2=loose), strict()) == ["also for executable memory: mmap, mprotect"]


@pytest.mark.parametrize("name", sorted(read_policy_file(STRICT).stage_2.only))
def test_an_argument_that_is_no_longer_narrowed_is_named(name: str) -> None:
    stage = strict().stage_2
    only = stage.only[name]
    wider = {**stage.only, name: replace(only, values=(*only.values, 0x7777))}
    without = {other: each for other, each in stage.only.items() if other != name}
    for changed in (wider, without):
        [line] = weaker(replace(strict(), stage_2=replace(stage, only=changed)), strict())
        assert line == f"{name}: argument {only.argument} is not narrowed as there"


def test_strict_is_as_strong_as_itself_and_a_stricter_one_as_well(tmp_path: Path) -> None:
    assert weaker(strict(), strict()) == []
    assert weaker(policy(tmp_path, "data_mb = 64", "data_mb = 32"), strict()) == []
