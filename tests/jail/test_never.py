"""What stage 2 of no policy may allow, by whatever name it is called."""

from __future__ import annotations

from pathlib import Path

import jail_kernels as k
import pytest

from edgeswarm.drivers import syscall_names
from edgeswarm.drivers.jail_policy_file import NEVER, read_policy_file
from edgeswarm.errors import ConfigError

X86_64 = 0xC000_003E


def own_policy(folder: Path, rule: str, without: str = "") -> Path:
    """strict under another name, with one more rule in both stages; `without`: the beginning of lines to leave out."""
    text = (k.SANDBOX / "policies" / "strict.toml").read_text().replace('name = "strict"', 'name = "mine"')
    lines = [line for line in text.splitlines() if not (without and line.startswith(without))]
    for stage in (1, 2):
        lines.insert(lines.index(f"[stage_{stage}.allow]") + 1, rule)
    path = folder / "mine.toml"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("call", ["execve", "clone", "prctl", "pkey_mprotect", "recvmsg", "seccomp"])
def test_no_policy_may_allow_what_leads_out_of_a_jail(tmp_path: Path, call: str) -> None:
    path = own_policy(tmp_path, f'{call} = {{ reason = "somebody wants it" }}', without=f"{call} = ")
    with pytest.raises(ConfigError, match=rf"stage_2.allow.{call}: no policy may allow this"):
        read_policy_file(path)


@pytest.mark.parametrize(("number", "call"), [(437, "openat2"), (435, "clone3"), (425, "io_uring_setup")])
def test_no_call_gets_in_under_another_name(tmp_path: Path, number: int, call: str) -> None:
    """A number is for calls that libseccomp has no name for; it is not a way around what no policy may allow."""
    path = own_policy(tmp_path, f'harmless = {{ number = {number}, reason = "a call that nobody knows" }}')
    with pytest.raises(ConfigError, match=f"stage_2.allow.harmless.number: {number} is {call}"):
        read_policy_file(path)


def test_what_no_policy_may_allow_are_calls_that_exist() -> None:
    known = set(syscall_names.names(X86_64).values())
    assert known >= NEVER
