"""How the supervisor learns of ends: of jails whose zygote is gone, of forbidden calls by name, of other orphans."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import forbidden_worker
import jail_kernels as k
import pytest
import pytest_asyncio

from edgeswarm.drivers import jail_orphans, jail_zygote, kernel_log, syscall_names
from edgeswarm.drivers.jail_filter import AUDIT_ARCH
from edgeswarm.drivers.jail_orphans import Orphans, told_end, zombie_end
from edgeswarm.drivers.jail_zygote import parse_message
from edgeswarm.drivers.jails import JailHost, Program
from edgeswarm.jail.frames import Kind

SUPPORT = k.ROOT / "tests" / "support"
FORBIDDEN = struct.pack("<2f", forbidden_worker.FORBIDDEN, 0)
SUICIDE = "import os; os.kill(os.getpid(), 31)"


@pytest_asyncio.fixture
async def escaping(cache_dir: Path) -> AsyncIterator[JailHost]:
    """A host whose jails open a socket when a row begins with FORBIDDEN."""
    program = Program(worker="forbidden_worker", path=(str(SUPPORT),))
    host = JailHost(policy_dir=k.SANDBOX, cache_dir=cache_dir, mac_key=k.MAC_KEY, program=program, own_process=True)
    await host.start()
    yield host
    await host.close()


async def kill_zygote(host: JailHost) -> None:
    """And wait until another one has taken its place."""
    first, starts = host.zygote_pid, host.zygote_starts
    os.kill(first, signal.SIGKILL)
    for _ in range(2000):
        if host.zygote_starts > starts:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("no other zygote was started")


@pytest.mark.e2e
async def test_forbidden_call_after_the_zygotes_death_is_quarantine(escaping: JailHost, spawn: Any) -> None:
    code = await escaping.compile(k.assemble(k.MOODY))
    served = await spawn(k.moody_spec(code), on=escaping)
    await kill_zygote(escaping)
    assert (await served.ask(0, 1, k.row(k.ADD))).kind == Kind.REPLY
    assert served.jail.submit(0, 2, 1, FORBIDDEN)
    ended = await served.exit()
    assert (ended.signal, ended.sigsys, ended.quarantine) == (signal.SIGSYS, True, True)
    assert not Path(f"/proc/{ended.pid}").exists()


@pytest.mark.e2e
async def test_jails_closed_after_the_zygotes_death_leave_no_zombie(escaping: JailHost, spawn: Any) -> None:
    code = await escaping.compile(k.assemble(k.MOODY))
    served = [await spawn(k.moody_spec(code), on=escaping) for _ in range(3)]
    await kill_zygote(escaping)
    for item in served:
        await item.jail.close()
        ended = await item.exit()
        assert (ended.code, ended.signal, ended.text) == (0, None, "closed")
        assert not Path(f"/proc/{ended.pid}").exists()


@pytest.mark.e2e
async def test_in_a_users_program_nobody_is_adopted(host: JailHost, spawn: Any, moody: bytes) -> None:
    """A library must not become the parent of what the program around it lets go; jails end all the same."""
    orphan, end = make_orphan()
    try:
        assert parent_of(orphan) != os.getpid()
    finally:
        os.close(end)
    served = await spawn(k.moody_spec(moody))
    await kill_zygote(host)
    assert (await served.ask(0, 1, k.row(k.ADD))).kind == Kind.REPLY
    assert parent_of(served.jail.pid) != os.getpid()
    served.jail.kill()
    ended = await served.exit()
    assert (ended.code, ended.signal) == (None, signal.SIGKILL) or (not k.tells_ends() and ended.signal is None)


@pytest.mark.e2e
async def test_how_a_jail_ended_is_read_off_it_where_its_parent_is_slow_to_reap(
    escaping: JailHost, spawn: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nobody_tells(pidfd: int) -> None:
        return None

    code = await escaping.compile(k.assemble(k.MOODY))
    served = await spawn(k.moody_spec(code), on=escaping)
    await kill_zygote(escaping)
    monkeypatch.setattr("edgeswarm.drivers.jail_life.orphan_end", nobody_tells)
    assert served.jail.submit(0, 1, 1, FORBIDDEN)
    ended = await served.exit()
    assert (ended.signal, ended.quarantine) == (signal.SIGSYS, True)


@pytest.mark.parametrize(("code", "end"), [("raise SystemExit(3)", (3, None)), (SUICIDE, (None, 31))])
def test_the_kernel_tells_how_a_process_ended_that_others_reaped(code: str, end: tuple[int | None, int | None]) -> None:
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", f"input()\n{code}"], stdin=subprocess.PIPE) as process:
        pidfd = os.pidfd_open(process.pid)
        try:
            assert told_end(pidfd) is None
            process.communicate(b"\n")
            found = told_end(pidfd)
        finally:
            os.close(pidfd)
    if found is None:
        pytest.skip("this kernel does not tell (before Linux 6.15)")
    assert found == end


@pytest.mark.parametrize(
    ("code", "end"), [("raise SystemExit(3)", (3, None)), (SUICIDE, (None, 31)), ("", None)], ids=["3", "SIGSYS", "0"]
)
def test_a_process_that_waits_to_be_reaped_says_how_it_ended(code: str, end: tuple[int | None, int | None]) -> None:
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", f"input()\n{code}"], stdin=subprocess.PIPE) as process:
        pidfd = os.pidfd_open(process.pid)
        try:
            assert zombie_end(pidfd) is None
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.flush()
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            found = zombie_end(pidfd)
            process.wait()
            assert zombie_end(pidfd) is None
        finally:
            os.close(pidfd)
    assert found == end


@pytest.mark.e2e
async def test_forbidden_call_is_told_by_its_name_where_the_kernel_tells(escaping: JailHost, spawn: Any) -> None:
    code = await escaping.compile(k.assemble(k.MOODY))
    served = await spawn(k.moody_spec(code), on=escaping)
    assert served.jail.submit(0, 1, 1, FORBIDDEN)
    ended = await served.exit()
    assert ended.quarantine
    assert ended.text in ("made a forbidden system call: socket (SIGSYS)", "made a forbidden system call (SIGSYS)")
    if not kernel_log.forbidden_call(ended.pid):
        pytest.skip("the kernel's log cannot be read here, or did not take the record")
    assert ended.text == "made a forbidden system call: socket (SIGSYS)"


RECORD = b'5,1,1,-;audit: type=1326 audit(1.2:3): auid=7 uid=1 pid=77 comm="x" sig=31 arch=c00000b7 syscall=198 code=0'


@pytest.mark.parametrize(("pid", "name"), [(77, "socket"), (7, ""), (1, "")])
def test_a_record_of_the_kernels_log_says_which_call_it_was(tmp_path: Path, pid: int, name: str) -> None:
    (tmp_path / "log").write_bytes(RECORD)
    assert kernel_log.forbidden_call(pid, path=str(tmp_path / "log")) == name


def test_a_call_without_a_name_is_told_by_its_number(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(RECORD.replace(b"198", b"9999"))
    assert kernel_log.forbidden_call(77, path=str(tmp_path / "log")) == "system call 9999"


def test_a_kernel_log_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    assert kernel_log.forbidden_call(1, path=str(tmp_path / "absent")) == ""
    assert kernel_log.forbidden_call(1, path=str(tmp_path)) == ""


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_names_of_system_calls_are_libseccomps(arch: str) -> None:
    seccomp = pytest.importorskip("pyseccomp")
    token = getattr(seccomp.Arch, arch.upper())
    names = syscall_names.names(AUDIT_ARCH[arch])
    assert len(names) > 300
    known = {number: int(seccomp.resolve_syscall(token, name)) for number, name in names.items()}
    assert {number: found for number, found in known.items() if found >= 0 and found != number} == {}
    assert sum(found >= 0 for found in known.values()) > 290


# --- orphans --------------------------------------------------------------------------------------------------------

ORPHAN = """
import os, sys
read, write = os.pipe()
if os.fork() == 0:
    if sys.argv[1:]:
        os.setsid()
    os.write(write, b"%d" % os.getpid())
    os.close(write)
    sys.stdin.read()
    os._exit(3)
print(os.read(read, 20).decode(), flush=True)
"""


def gone(pid: int, sweep: Any = lambda: None) -> bool:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        sweep()
        if not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.01)
    return False


def make_orphan(*leads: str) -> tuple[int, int]:
    """A process whose parent, of a session of its own, is gone: its id, and the descriptor that ends it.

    leads: anything, and it leads a session itself.
    """
    wait, end = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-I", "-c", ORPHAN, *leads], stdin=wait, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        os.close(wait)
        assert process.stdout is not None
        return int(process.stdout.readline()), end


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()[1])


def test_orphans_come_to_the_supervisor_and_are_reaped_but_those_that_somebody_waits_for() -> None:
    kept: list[int] = []
    orphans = Orphans(lambda: kept)
    orphans.begin()
    try:
        orphan, end = make_orphan()
        assert parent_of(orphan) == os.getpid()
        assert orphans.sweep() == 0  # it lives
        os.close(end)
        quick = [sys.executable, "-I", "-S", "-c", ""]
        with subprocess.Popen(quick, start_new_session=True) as leader, subprocess.Popen(quick) as ours:
            for child in (leader, ours):
                os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
            os.waitid(os.P_PID, orphan, os.WEXITED | os.WNOWAIT)
            kept.append(orphan)
            orphans.sweep()
            assert Path(f"/proc/{orphan}").exists()  # its end was kept
            kept.clear()
            assert gone(orphan, orphans.sweep)
            assert (leader.wait(), ours.wait()) == (0, 0)  # theirs were not taken
    finally:
        orphans.end()


async def test_orphans_are_looked_for_while_no_jail_ends(monkeypatch: Any) -> None:
    """A script that lets one process go each second must not fill the table of processes; nor one that leads."""
    monkeypatch.setattr(jail_orphans, "ORPHAN_LOOK_S", 0.02)
    orphans = Orphans()
    orphans.begin()
    try:
        for leads in ((), ("leads",)):
            orphan, end = make_orphan(*leads)
            assert parent_of(orphan) == os.getpid()
            os.close(end)
            assert await asyncio.to_thread(gone, orphan)
    finally:
        orphans.end()


def test_after_the_end_orphans_go_where_they_went_before() -> None:
    orphans = Orphans()
    orphans.begin()
    orphans.begin()
    orphans.end()
    orphan, end = make_orphan()
    try:
        assert parent_of(orphan) != os.getpid()
    finally:
        os.close(end)


# --- what a zygote may say --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"7",
        b"{}",
        b"{",
        b'{"hello": 1}',
        b'{"hello": {"tier": "E", "layers": {"wasmtime": [true, ""], "seccomp": [true, ""]}}}',
        b'{"hello": {"tier": "A", "layers": {"wasmtime": [true, ""]}}}',
        b'{"hello": {"tier": "A", "layers": {"wasmtime": 1, "seccomp": 2}}}',
        b'{"spawned": 1, "pid": 5}',
        b'{"refused": 1}',
        b'{"refused": "1", "text": ""}',
        b'{"refused": true, "text": ""}',
        b'{"exited": 1, "pid": 5}',
        b'{"exited": 1, "pid": 5, "code": -1}',
        b'{"exited": 1, "pid": 5, "code": 1, "signal": 2}',
        b'{"exited": 1, "pid": 5e99, "code": 1}',
        b"[" * 100_000,
    ],
    ids=lambda text: text[:40].decode(),
)
def test_no_malformed_message_of_a_zygote_is_taken(text: bytes) -> None:
    assert parse_message(text, ()) is None


def test_a_descriptor_comes_with_a_new_jail_and_with_nothing_else() -> None:
    assert parse_message(b'{"spawned": 1, "pid": 5}', (3,)) is not None
    assert parse_message(b'{"spawned": 1, "pid": 0}', (3,)) is None
    assert parse_message(b'{"spawned": 1, "pid": 5}', (3, 4)) is None
    assert parse_message(b'{"exited": 1, "pid": 5, "signal": 9}', (3,)) is None


@pytest.mark.e2e
async def test_a_zygote_that_talks_nonsense_is_replaced(
    host: JailHost, spawn: Any, moody: bytes, monkeypatch: Any
) -> None:
    served = await spawn(k.moody_spec(moody))
    lies = [b"{}"]
    monkeypatch.setattr(
        jail_zygote, "parse_message", lambda text, fds: parse_message(lies.pop() if lies else text, fds)
    )
    other = await spawn(k.moody_spec(moody))
    assert (await other.ask(0, 1, k.row(k.ADD))).kind == Kind.REPLY
    assert (await served.ask(0, 1, k.row(k.ADD))).kind == Kind.REPLY
    assert host.zygote_starts == 2
