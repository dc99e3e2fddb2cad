"""Jails without an event loop, and jails of an ordinary user."""

from __future__ import annotations

import itertools
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import jail_kernels as k
import pytest

from edgeswarm.drivers.jail_sync import SyncHost
from edgeswarm.drivers.jails import JailStartError, Program
from edgeswarm.errors import JailError, JailGoneError, KernelError, LimitError, LocalError, TrapError

pytestmark = pytest.mark.e2e

PROBE = Program(worker="probe_worker", path=(str(Path(__file__).resolve().parent),))


def test_rows_are_computed_in_order_however_many(sync_host: SyncHost) -> None:
    code = sync_host.compile(k.assemble(k.MOODY))
    with sync_host.spawn([k.moody_spec(code)]) as jail:
        for rows in (1, 2, 64, 65, 5_000, 20_000):  # the last ones are several frames
            payload = b"".join(k.row(k.ADD, i) for i in range(rows))
            assert k.values(jail.call(0, payload, rows))[::2] == tuple(2.0 * i for i in range(rows))
        assert jail.started_ms > 0
        assert jail.memory_bytes() > 0


def test_room_is_given_back_before_the_last_answer_is_told(sync_host: SyncHost) -> None:
    """Frames of half a ring in lock-step: a single one whose room came after its answer would wait for ever."""
    code = sync_host.compile(k.assemble(k.MOODY))
    with sync_host.spawn([k.moody_spec(code)]) as jail:
        payload = k.row(k.ADD, 1) * 4_090
        for _ in range(300):
            assert len(jail.call(0, payload, 4_090)) == len(payload)


def test_a_fault_names_its_rows_and_leaves_the_jail_usable(sync_host: SyncHost) -> None:
    code = sync_host.compile(k.assemble(k.MOODY))
    with sync_host.spawn([k.moody_spec(code)]) as jail:
        with pytest.raises(TrapError, match="row 0: .*NaN"):
            jail.call(0, k.row(k.NAN))
        with pytest.raises(TrapError, match="row 0: .*deadline"):
            jail.call(0, k.row(k.SPIN))
        rows = 20_000
        payload = bytearray(b"".join(k.row(k.ADD, i) for i in range(rows)))
        payload[8 * 12_345 : 8 * 12_346] = k.row(k.TRAP)
        with pytest.raises(TrapError, match=r"rows \d+ to \d+: .*unreachable") as caught:
            jail.call(0, payload, rows)
        first, last = (int(word) for word in str(caught.value).split("rows ")[1].split(":")[0].split(" to "))
        assert first <= 12_345 <= last
        assert k.values(jail.call(0, k.row(k.ADD, 3)))[0] == 6.0


def test_weights_and_memory_without_a_loop(sync_host: SyncHost) -> None:
    moody = k.moody_spec(sync_host.compile(k.assemble(k.MOODY)))
    code = sync_host.compile(k.assemble(k.COUNTER, k.COUNTER_LAYOUT))
    counter = k.KernelSpec(1, "counter", code, k.COUNTER_LAYOUT, b"", memory_width=1)
    with sync_host.spawn([moody, counter]) as jail:
        jail.swap_weights(0, struct.pack("<f", 9.0))
        assert k.values(jail.call(0, k.row(k.ADD, 1)))[0] == 9.0
        assert k.values(jail.call(1, struct.pack("<2f", 1, 2), 2)) == (1.0, 3.0)
        jail.set_memory(1, struct.pack("<f", 100.0))
        assert k.values(jail.call(1, struct.pack("<f", 1))) == (101.0,)
        with pytest.raises(LocalError):
            jail.swap_weights(0, b"")
        with pytest.raises(LocalError):
            jail.call(0, b"12", 1)


@pytest.mark.parametrize("rows", [1, 20_000])
@pytest.mark.parametrize("at", [1, 2])
def test_answers_to_a_call_that_was_broken_off_are_no_later_calls(
    sync_host: SyncHost, monkeypatch: pytest.MonkeyPatch, rows: int, at: int
) -> None:
    """Ctrl-C while a call waits, as in a notebook: its frames are still in flight, and are answered."""
    counts = itertools.count(1)
    with sync_host.spawn([k.moody_spec(sync_host.compile(k.assemble(k.MOODY)))]) as jail:
        collect = jail._link.collect

        def interrupted() -> object:
            if next(counts) == at:
                raise KeyboardInterrupt
            return collect() if at > 1 else []

        for later in ("set_memory", "swap_weights", "call"):
            monkeypatch.setattr(jail._link, "collect", interrupted)
            with pytest.raises(KeyboardInterrupt):
                while True:
                    jail.call(0, k.row(k.ADD, 7) * rows, rows)
            monkeypatch.setattr(jail._link, "collect", collect)
            match later:
                case "swap_weights":
                    jail.swap_weights(0, struct.pack("<f", 2.0))
                case "set_memory":
                    with pytest.raises(LocalError):
                        jail.set_memory(0, b"")
            counts = itertools.count(1)
            for value in (1, 2, 3):
                assert k.values(jail.call(0, k.row(k.ADD, value)))[0] == 2.0 * value
            assert jail._link.in_flight == 0


@pytest.mark.parametrize("size", [0, 8 * 19_999, 8 * 20_001], ids=["none", "one less", "one more"])
def test_bytes_that_are_not_the_rows_are_refused_before_any_is_sent(sync_host: SyncHost, size: int) -> None:
    with sync_host.spawn([k.moody_spec(sync_host.compile(k.assemble(k.MOODY)))]) as jail:
        with pytest.raises(LocalError, match=f"20000 rows of 8 bytes expected, found {size}"):
            jail.call(0, bytes(size), 20_000)
        assert jail._link.in_flight == 0
        assert k.values(jail.call(0, k.row(k.ADD, 3)))[0] == 6.0


def test_a_jail_that_died_says_so(sync_host: SyncHost) -> None:
    jail = sync_host.spawn([k.moody_spec(sync_host.compile(k.assemble(k.MOODY)))])
    os.kill(jail.pid, 9)
    with pytest.raises(JailGoneError, match="signal 9"):
        while True:
            jail.call(0, k.row(k.ADD))
    with pytest.raises(JailGoneError):
        jail.call(0, k.row(k.ADD))
    jail.close()
    other = sync_host.spawn([k.moody_spec(sync_host.compile(k.assemble(k.MOODY)))])
    ended = other.kill()
    assert (ended.signal, ended.text) == (9, "killed")


def test_how_a_jail_ended_is_learned_of_a_zygote_that_is_busy(sync_host: SyncHost) -> None:
    """Else a forbidden call would go unnoticed, and nobody would be put into quarantine."""
    jail = sync_host.spawn([k.moody_spec(sync_host.compile(k.assemble(k.MOODY)))])
    os.kill(sync_host._zygote.pid, signal.SIGSTOP)
    awake = threading.Timer(0.7, os.kill, (sync_host._zygote.pid, signal.SIGCONT))
    awake.start()
    os.kill(jail.pid, signal.SIGKILL)
    with pytest.raises(JailGoneError, match="ended by signal 9"):
        while True:
            jail.call(0, k.row(k.ADD))
    ended = jail._life.end("")
    assert ended.signal == signal.SIGKILL
    awake.join()


def test_a_jail_that_never_answers_is_killed(sync_host: SyncHost, monkeypatch: pytest.MonkeyPatch) -> None:
    with sync_host.spawn([k.moody_spec(sync_host.compile(k.assemble(k.MOODY)), deadline_ms=50)]) as jail:
        monkeypatch.setattr(jail._link, "poke", lambda: None)
        with pytest.raises(JailGoneError, match="no answer two deadlines long"):
            jail.call(0, k.row(k.SPIN))


def test_what_cannot_be_compiled_or_started_is_an_error(sync_host: SyncHost, cache_dir: Path) -> None:
    with pytest.raises(KernelError):
        sync_host.compile(b"\0asm\1\0\0\0garbage")
    with pytest.raises(LimitError):
        sync_host.compile(b"")
    code = sync_host.compile(k.assemble(k.MOODY))
    with pytest.raises(LocalError, match="found 'lax'"):
        sync_host.spawn([k.moody_spec(code)], policy="lax")
    with (
        SyncHost(policy_dir=k.SANDBOX, cache_dir=cache_dir, mac_key=k.MAC_KEY, program=PROBE) as probing,
        pytest.raises(JailStartError, match="SIGSYS") as caught,
    ):
        probing.spawn([k.replace(k.moody_spec(code), name="socket_inet")])
    assert caught.value.ended.quarantine


def test_a_zygote_that_cannot_start_is_an_error(cache_dir: Path) -> None:
    with pytest.raises(JailError, match="before it was ready"):
        SyncHost(policy_dir=k.SANDBOX, cache_dir=cache_dir, mac_key=k.MAC_KEY, program=Program(worker="nowhere"))


def test_no_descriptor_is_left_behind(cache_dir: Path) -> None:
    def use() -> None:
        with SyncHost(policy_dir=k.SANDBOX, cache_dir=cache_dir, mac_key=k.MAC_KEY) as host:
            jail = host.spawn([k.moody_spec(host.compile(k.assemble(k.MOODY)))])
            jail.call(0, k.row(k.ADD))
            host.spawn([k.moody_spec(host.compile(k.assemble(k.MOODY)))])  # closed by the host

    use()
    before = len(os.listdir("/proc/self/fd"))
    use()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("tier", ["A", "B", "C"])
def test_every_weaker_tier_serves_too(cache_dir: Path, tier: str) -> None:
    with SyncHost(policy_dir=k.SANDBOX, cache_dir=cache_dir, mac_key=k.MAC_KEY) as host:
        if tier < host.tier:
            pytest.skip(f"this machine offers {host.tier}")
    with (
        SyncHost(policy_dir=k.SANDBOX, cache_dir=cache_dir, mac_key=k.MAC_KEY, tier=tier) as host,
        host.spawn([k.moody_spec(host.compile(k.assemble(k.MOODY)))]) as jail,
    ):
        assert k.values(jail.call(0, k.row(k.ADD, 3)))[0] == 6.0
        layers = [step in jail.ready["performed"] for step in ("Unshare", "DenyFiles")]
        assert layers == [tier == "A", tier != "C"]


ORDINARY = """
import os, sys
sys.path[:0] = sys.argv[1].split(":")
import jail_kernels as k
from pathlib import Path
from edgeswarm.drivers.jail_sync import SyncHost
with SyncHost(policy_dir=k.SANDBOX, cache_dir=Path(sys.argv[2]), mac_key=k.MAC_KEY) as host:
    with host.spawn([k.moody_spec(host.compile(Path(sys.argv[3]).read_bytes()))]) as jail:
        status = Path(f"/proc/{jail.pid}/status").read_text()
        assert k.values(jail.call(0, k.row(k.ADD, 21)))[0] == 42.0
        assert "Seccomp:\\t2" in status and "NoNewPrivs:\\t1" in status
        print(os.getuid(), host.tier, jail.memory_bytes() > 0)
"""


def test_an_ordinary_user_has_jails_too() -> None:
    """When the tests run as root: the same again as nobody, with an interpreter that nobody may run."""
    if os.geteuid() != 0:
        pytest.skip("the other tests are this one")
    names = (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}")
    path = ":".join((str(k.ROOT), str(k.ROOT / "tests" / "support"), *(p for p in sys.path if "site-packages" in p)))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)  # pytest's own folders are closed to others
        wasm = Path(folder) / "moody.wasm"
        wasm.write_bytes(k.assemble(k.MOODY))
        for name in names:
            command = [name, "-c", ORDINARY, path, folder, str(wasm)]
            try:
                done = subprocess.run(
                    command, user=65534, group=65534, extra_groups=[], capture_output=True, text=True, check=False
                )
            except PermissionError:
                continue
            assert done.returncode == 0, done.stderr
            user, tier, measured = done.stdout.split()
            assert (user, measured) == ("65534", "True")
            assert tier in "ABC"
            return
    pytest.skip(f"nobody may run neither of {names}")
