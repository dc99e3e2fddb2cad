"""How jails begin and end: what /proc says of them, lies in the rings, deaths of jail, zygote and supervisor."""

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

import jail_kernels as k
import pytest
import pytest_asyncio

from edgeswarm.drivers.jails import JailHost, JailStartError, Program
from edgeswarm.errors import JailError, JailGoneError
from edgeswarm.jail import frames
from edgeswarm.jail.frames import Kind

pytestmark = pytest.mark.e2e

HERE = Path(__file__).resolve().parent
PROBE = Program(worker="probe_worker", path=(str(HERE),))


def status_of(path: str) -> dict[str, str]:
    lines = Path(path).read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


# --- what a jail is -------------------------------------------------------------------------------------------------


async def test_every_thread_is_filtered_and_has_no_privileges(spawn: Any, moody: bytes) -> None:
    served = await spawn(k.moody_spec(moody))
    threads = os.listdir(f"/proc/{served.jail.pid}/task")
    assert len(threads) == 2
    for thread in threads:
        status = status_of(f"/proc/{served.jail.pid}/task/{thread}/status")
        assert status["Seccomp"] == "2"
        assert status["Seccomp_filters"] == "2"
        assert status["NoNewPrivs"] == "1"
        for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[kind], 16) == 0
        assert status["Uid"].split()[0] != "0"
        assert status["Groups"] in ("", status["Gid"].split()[0], "65534")


async def test_a_jail_is_in_namespaces_of_its_own(host: JailHost, spawn: Any, moody: bytes) -> None:
    if host.tier != "A":
        pytest.skip(f"tier {host.tier}: {host.layers['namespaces'][1]}")
    served = [await spawn(k.moody_spec(moody)) for _ in range(2)]
    pids = [str(item.jail.pid) for item in served]
    for kind in ("user", "pid", "mnt", "net", "ipc", "uts", "cgroup"):
        links = {os.readlink(f"/proc/{pid}/ns/{kind}") for pid in ("self", *pids)}
        assert len(links) == 3, kind
    for item in served:
        assert status_of(f"/proc/{item.jail.pid}/status")["NSpid"].split()[-1] == "1"
        assert os.listdir(f"/proc/{item.jail.pid}/root") == []
        mounts = Path(f"/proc/{item.jail.pid}/mounts").read_text().splitlines()
        assert len(mounts) == 1
        assert mounts[0].split()[1:3] == ["/", "tmpfs"]
        assert {"ro", "nosuid", "nodev", "noexec"} <= set(mounts[0].split()[3].split(","))


async def test_nothing_in_a_jail_is_writable_and_executable(spawn: Any, moody: bytes) -> None:
    served = await spawn(k.moody_spec(moody))
    rights = [line.split()[1] for line in Path(f"/proc/{served.jail.pid}/maps").read_text().splitlines()]
    assert any("x" in right for right in rights)
    assert not [right for right in rights if "w" in right and "x" in right]


async def test_a_jail_has_the_descriptors_of_its_protocol_only(spawn: Any, moody: bytes) -> None:
    for _ in range(3):  # others live meanwhile: none of theirs may show
        served = await spawn(k.moody_spec(moody))
    found = {fd: os.readlink(f"/proc/{served.jail.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{served.jail.pid}/fd")}
    kinds = sorted(target.split(":")[0].rsplit("/", 1)[-1] for target in found.values())
    assert kinds == ["null"] * 3 + ["pipe"] * 3 + ["socket"]


async def test_every_layer_of_the_policy_was_performed(host: JailHost, spawn: Any, moody: bytes) -> None:
    served = await spawn(k.moody_spec(moody))
    performed = served.jail.ready["performed"]
    layers = {
        "NoNewPrivileges",
        "LoadFilter(1)",
        "Load",
        "SelfTest",
        "LoadFilter(2)",
        "DropCapabilities",
        "Limit(DATA)",
    }
    if host.tier in "AB":
        layers.add("DenyFiles")
    if host.tier == "A":
        layers |= {"Unshare", "ForkInit", "EmptyRoot", "Hostname"}
    assert layers <= set(performed)
    absent = {name for name, layer in (("RefuseExecGain", "refuse_exec_gain"), ("SealText", "seal_text"))
              if not host.layers[layer][0]}  # fmt: skip
    assert set(served.jail.ready["absent"]) == absent


async def test_an_idle_jail_sleeps(spawn: Any, moody: bytes) -> None:
    """No timer, no tick: neither of its threads is woken while nothing is asked of it."""
    served = await spawn(k.moody_spec(moody))
    await served.ask(0, 1, k.row(k.ADD))
    await asyncio.sleep(0.1)

    def switches() -> list[str]:
        tasks = Path(f"/proc/{served.jail.pid}/task")
        return [status_of(f"{task}/status")["voluntary_ctxt_switches"] for task in sorted(tasks.iterdir())]

    before = switches()
    await asyncio.sleep(0.4)
    assert switches() == before


async def test_jails_of_root_are_users_of_their_own(spawn: Any, moody: bytes) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give jails users of their own")
    users = {status_of(f"/proc/{(await spawn(k.moody_spec(moody))).jail.pid}/status")["Uid"].split()[0] for _ in "ab"}
    assert len(users) == 2
    assert "0" not in users


async def test_a_jails_private_memory_is_small(spawn: Any, moody: bytes) -> None:
    served = [await spawn(k.moody_spec(moody)) for _ in range(4)]
    for item in served:
        assert 0 < item.jail.memory_bytes() < 8 << 20  # bench/jail.py measures; this catches an accident


@pytest_asyncio.fixture
async def liars(cache_dir: Path) -> AsyncIterator[JailHost]:
    host = JailHost(policy_dir=k.SANDBOX, cache_dir=cache_dir, mac_key=k.MAC_KEY, program=PROBE)
    await host.start()
    yield host
    await host.close()


# --- lies -----------------------------------------------------------------------------------------------------------


def frame(length: int, slot: int, kind: int, seq: int, rows: int, aux: int) -> tuple[bytes, bytes]:
    """What a lying jail writes into its ring, and the head it tells."""
    head = frames.padded(length) if 24 <= length <= 4096 else 64
    return frames.HEADER.pack(length, slot, kind, seq, rows, aux), struct.pack("<Q", head)


@pytest.mark.parametrize(
    ("lie", "text"),
    [
        (frame(32, 0, Kind.REPLY, 2, 1, 0), "not in flight"),
        (frame(32, 1, Kind.REPLY, 1, 1, 0), "not in flight"),
        (frame(32, 0, Kind.REPLY, 1, 2, 0), "rows 2"),
        (frame(40, 0, Kind.REPLY, 1, 1, 0), "40 bytes"),
        (frame(24, 0, Kind.REPLY, 1, 1, 0), "24 bytes"),
        (frame(32, 0, Kind.ACK, 1, 1, 1), "kind 131"),
        (frame(32, 0, Kind.RUN, 1, 1, 0), "kind 1"),
        (frame(32, 0, 0x99, 1, 1, 0), "kind 153"),
        (frame(128, 0, Kind.FAULT, 1, 0, 99), "99"),
        (frame(136, 0, Kind.FAULT, 1, 0, 1), "136 bytes"),
        (frame(0, 0, Kind.REPLY, 1, 1, 0), "found 0"),
        (frame(7, 0, Kind.REPLY, 1, 1, 0), "found 7"),
        (frame(33, 0, Kind.REPLY, 1, 1, 0), "found 33"),
        (frame(0xFFFFFFF0, 0, Kind.REPLY, 1, 1, 0), "found 4294967280"),
        (frame(0xFFFFFFFF, 0, Kind.REPLY, 1, 1, 0), "passes the head"),
        ((b"", struct.pack("<Q", 1 << 40)), "head between"),
        ((b"", struct.pack("<Q", 13)), "head between"),
        ((b"", b"abc"), "heads of 8 bytes"),
    ],
)
async def test_a_lie_in_the_ring_is_the_end_of_the_jail(
    liars: JailHost, spawn: Any, lie: tuple[bytes, bytes], text: str
) -> None:
    """The jail's own process writes the lie, as one that was taken over could, when it is asked for row 1."""
    code = await liars.compile(k.assemble(k.MOODY))
    name = ":".join(("lie", *(part.hex() for part in lie)))
    served = await spawn(k.replace(k.moody_spec(code), name=name), on=liars)
    assert served.jail.submit(0, 1, 1, k.row(k.ADD))
    ended = await served.exit()
    assert ended.quarantine
    assert ended.text.startswith("broke the protocol: ")
    assert text in ended.text
    assert not served.replies


async def test_a_jail_that_claims_to_have_read_what_was_not_sent_is_ended(spawn: Any, moody: bytes) -> None:
    served = await spawn(k.moody_spec(moody))
    served.jail._link._shared.tail_to_jail[0] = 1 << 30
    assert not served.jail.submit(0, 1, 1, k.row(k.ADD))
    ended = await served.exit()
    assert ended.quarantine
    assert "tail between" in ended.text


async def test_a_malformed_message_on_the_control_socket_ends_the_jail(liars: JailHost, spawn: Any) -> None:
    code = await liars.compile(k.assemble(k.MOODY))
    with pytest.raises(JailStartError) as caught:
        await spawn(k.replace(k.moody_spec(code), name="bad_control_message"), on=liars)
    assert caught.value.ended.quarantine
    assert caught.value.ended.text == "broke the protocol: malformed message on the control socket"


async def test_a_second_message_on_the_control_socket_ends_the_jail(liars: JailHost, spawn: Any) -> None:
    code = await liars.compile(k.assemble(k.MOODY))
    served = await spawn(k.replace(k.moody_spec(code), name="second_control_message"), on=liars)
    ended = await served.exit()
    assert ended.quarantine
    assert ended.text == "broke the protocol: a second message on the control socket"


# --- deaths ---------------------------------------------------------------------------------------------------------


async def test_a_killed_jail_is_reported_once_with_its_signal(spawn: Any, moody: bytes) -> None:
    served, other = await spawn(k.moody_spec(moody)), await spawn(k.moody_spec(moody))
    os.kill(served.jail.pid, signal.SIGKILL)
    ended = await served.exit()
    assert (ended.code, ended.signal, ended.sigsys, ended.quarantine) == (None, signal.SIGKILL, False, False)
    assert ended.pid == served.jail.pid
    await asyncio.sleep(0.05)
    assert len(served.exits) == 1
    assert not served.jail.alive
    assert (await other.ask(0, 1, k.row(k.ADD))).kind == Kind.REPLY


async def test_a_forbidden_call_is_reported_for_quarantine(liars: JailHost, spawn: Any) -> None:
    code = await liars.compile(k.assemble(k.MOODY))
    with pytest.raises(JailStartError, match="SIGSYS") as caught:
        await spawn(k.replace(k.moody_spec(code), name="socket_inet"), on=liars)
    assert caught.value.ended.sigsys
    assert caught.value.ended.quarantine


async def test_what_waits_for_a_jail_hears_of_its_end(spawn: Any, moody: bytes) -> None:
    served = await spawn(k.moody_spec(moody, deadline_ms=60_000))
    assert served.jail.submit(0, 1, 1, k.row(k.SPIN))
    waiting = asyncio.ensure_future(served.jail.swap_weights(0, bytes(4)))
    await asyncio.sleep(0.05)
    served.jail.kill()
    with pytest.raises(JailGoneError):
        await waiting
    await served.exit()


async def test_closing_a_jail_ends_it_in_order_even_while_it_spins(spawn: Any, moody: bytes) -> None:
    for busy in (False, True):
        served = await spawn(k.moody_spec(moody, deadline_ms=60_000))
        if busy:
            assert served.jail.submit(0, 1, 1, k.row(k.SPIN))
            await asyncio.sleep(0.05)
        await served.jail.close()
        ended = await served.exit()
        assert (ended.code, ended.text) == (0, "closed")
        assert not Path(f"/proc/{served.jail.pid}").exists()


async def test_a_new_zygote_takes_over_and_jails_live_on(host: JailHost, spawn: Any, moody: bytes) -> None:
    served = await spawn(k.moody_spec(moody))
    first = host.zygote_pid
    os.kill(first, signal.SIGKILL)
    assert (await served.ask(0, 1, k.row(k.ADD))).kind == Kind.REPLY
    second = await spawn(k.moody_spec(moody))
    assert host.zygote_pid != first
    assert host.zygote_starts == 2
    assert (await second.ask(0, 1, k.row(k.ADD))).kind == Kind.REPLY
    assert (await served.ask(0, 2, k.row(k.ADD))).kind == Kind.REPLY
    served.jail.kill()
    ended = await served.exit()
    assert (ended.code, ended.text) == (None, "killed")  # a child of init by now, which reaps it when it likes
    assert ended.signal == signal.SIGKILL or (not k.tells_ends() and ended.signal is None)


async def test_a_zygote_that_dies_while_it_is_asked_is_replaced(host: JailHost, spawn: Any, moody: bytes) -> None:
    for _ in range(3):
        os.kill(host.zygote_pid, signal.SIGKILL)
        try:
            served = await spawn(k.moody_spec(moody))
        except JailError:
            continue  # the order was with the old one
        assert (await served.ask(0, 1, k.row(k.ADD))).kind == Kind.REPLY
    served = await spawn(k.moody_spec(moody))
    assert (await served.ask(0, 1, k.row(k.ADD))).kind == Kind.REPLY


async def test_a_zygote_that_cannot_start_is_an_error_not_a_loop(cache_dir: Path) -> None:
    host = JailHost(policy_dir=k.SANDBOX, cache_dir=cache_dir, mac_key=k.MAC_KEY, program=Program(worker="nowhere"))
    with pytest.raises(JailError, match="before being ready"):
        await host.start()
    await host.close()


async def test_no_descriptor_is_left_behind(liars: JailHost, spawn: Any) -> None:
    """Neither by jails that were closed nor by those that never became ready."""
    code = await liars.compile(k.assemble(k.MOODY))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(JailStartError):
            await spawn(k.replace(k.moody_spec(code), name="socket_inet"), on=liars)
        served = await spawn(k.replace(k.moody_spec(code), name="leaked_descriptors"), on=liars)
        await served.jail.close()
    assert len(os.listdir("/proc/self/fd")) == before


SUPERVISOR = """
import asyncio, sys
sys.path[:0] = sys.argv[1].split(":")
import jail_kernels as k
from edgeswarm.drivers.jails import JailHost
from pathlib import Path

async def main():
    host = JailHost(policy_dir=k.SANDBOX, cache_dir=Path(sys.argv[2]), mac_key=k.MAC_KEY)
    await host.start()
    code = await host.compile(Path(sys.argv[3]).read_bytes())
    jails = [await host.spawn([k.moody_spec(code, deadline_ms=60_000)], on_reply=print, on_exit=print) for _ in "abcd"]
    for jail in jails[:2]:
        jail.submit(0, 1, 1, k.row(k.SPIN))
    assert "wasmtime" not in sys.modules and "numpy" not in sys.modules
    print(host.zygote_pid, *(jail.pid for jail in jails), flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def supervisor(tmp_path: Path, cache_dir: Path) -> tuple[subprocess.Popen[bytes], list[int]]:
    """Another supervisor with four jails, two of them spinning: (process, [zygote, jails...])."""
    wasm = tmp_path / "moody.wasm"
    wasm.write_bytes(k.assemble(k.MOODY))
    path = ":".join((str(k.ROOT), str(k.ROOT / "tests" / "support"), *(p for p in sys.path if p)))
    process = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, path, str(cache_dir), str(wasm)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    pids = [int(word) for word in process.stdout.readline().split()]
    assert len(pids) == 5
    return process, pids


def await_gone(pids: list[int], within_s: float) -> list[int]:
    until = time.monotonic() + within_s
    while time.monotonic() < until and any(Path(f"/proc/{pid}").exists() for pid in pids):
        time.sleep(0.01)
    return [
        pid for pid in pids if Path(f"/proc/{pid}").exists() and status_of(f"/proc/{pid}/status")["State"][0] != "Z"
    ]


@pytest.mark.parametrize("zygote_first", [False, True])
def test_after_kill_9_of_the_supervisor_nothing_is_left_within_a_second(
    tmp_path: Path, cache_dir: Path, zygote_first: bool
) -> None:
    """With the zygote dead before, the jails notice by themselves, even in the middle of an endless call."""
    process, pids = supervisor(tmp_path, cache_dir)
    with process:
        if zygote_first:
            os.kill(process.pid, signal.SIGSTOP)  # so that it does not start another one
            os.kill(pids[0], signal.SIGKILL)
        process.kill()
        left = await_gone(pids, 1.0)
        assert left == []


def test_the_supervisor_never_loads_wasmtime(tmp_path: Path, cache_dir: Path) -> None:
    """Not as a module (asserted inside) and not as a library: machine code is loaded in jails only."""
    process, pids = supervisor(tmp_path, cache_dir)
    with process:
        assert "wasmtime" not in Path(f"/proc/{process.pid}/maps").read_text()
        zygote = Path(f"/proc/{pids[0]}/maps").read_text()
        assert "_libwasmtime" in zygote
        for heavy in ("numpy", "_cbor2", "nacl", "_yaml", "psutil", "_ssl"):  # what a jail would share, and never use
            assert heavy not in zygote
        assert len(os.listdir(f"/proc/{pids[0]}/task")) == 1  # forking more than one thread is asking for deadlocks
        process.kill()
    assert await_gone(pids, 5.0) == []
