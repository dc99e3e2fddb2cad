"""A zygote that is short of processes or descriptors refuses, keeps nothing, and serves again when it is not."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Any

import jail_kernels as k
import pytest

from edgeswarm.drivers.jail_policy import load_policies
from edgeswarm.drivers.jail_zygote import parse_message
from edgeswarm.jail import worker, zygote
from edgeswarm.jail.tiers import Tried

ORDER = {"order": "jail", "policy": "strict", "tier": "C", "memory_bytes": 1 << 20, "job": {}}


@pytest.fixture
def here() -> Any:
    """A zygote in this process, and the supervisor's end of its socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(10)
    tried = {name: Tried(True, "") for name in ("namespaces", "landlock", "seccomp")}
    with ours, theirs:
        yield zygote.Zygote(theirs, worker, None, tried, dict(load_policies(k.SANDBOX))), ours


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_fork_that_fails_is_refused_and_leaves_no_descriptor(here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found, ours = here

    def no_more() -> int:
        raise OSError(errno.EAGAIN, "no more processes")

    monkeypatch.setattr(os, "fork", no_more)
    before = descriptors()
    for number in range(5):
        found.spawn({**ORDER, "id": number}, [])
        message = parse_message(ours.recv(4096), ())
        assert message is not None
        assert message.body["refused"] == number
        assert "no more processes" in message.body["text"]
    assert descriptors() == before
    assert not found.jails


def test_jail_that_cannot_be_told_is_killed_and_refused(here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may live of which nobody knows; its end is told as that of any other."""
    found, ours = here

    def too_many(_pid: int) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(os, "pidfd_open", too_many)
    monkeypatch.setattr(zygote.Zygote, "become_jail", lambda *_: os.execv("/bin/sleep", ["sleep", "60"]))
    before = descriptors()
    found.spawn({**ORDER, "id": 5}, [])
    message = parse_message(ours.recv(4096), ())
    assert message is not None
    assert message.body == {"refused": 5, "text": "[Errno 24] too many open files"}
    (pid,) = found.jails
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1] == b"Z"
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
    assert descriptors() == before
