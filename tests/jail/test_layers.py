"""Each layer left out in turn, so that a layer that stops nothing shows; and what only seccomp stops is known.

The jails here are made from policies of their own: the shipped strict one with layers taken out, and with filters that
allow everything in the place of seccomp.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import shutil
import struct
from collections.abc import Iterable
from pathlib import Path

import jail_kernels as k
import pytest

from edgeswarm.drivers.jail_policy import filter_name, source_digest
from edgeswarm.drivers.jails import JailHost, JailStartError, Program

pytestmark = pytest.mark.e2e

HERE = Path(__file__).resolve().parent
PROBE = Program(worker="probe_worker", path=(str(HERE),))
ALLOW_ALL = struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF_0000)

WITHOUT_RISK = [
    # of the probes, those that may succeed without harm to the machine that runs the tests
    *("open_passwd", "open_root_folder", "open_proc_self_maps", "open_proc_1_status", "open_dev_urandom"),
    *("openat2_passwd", "stat_shadow", "read_link", "inotify", "socket_inet", "socket_inet6_datagram"),
    *("socket_unix", "socket_netlink", "socket_vsock", "socket_alg", "socketpair", "trace_me"),
    *("kill_sibling", "pidfd_of_sibling", "ptrace_parent", "read_memory_of_others", "set_hostname", "setuid_root"),
    *("raise_descriptor_limit", "raise_priority", "set_realtime", "unshare_user", "unshare_net", "bpf_map"),
    *("io_uring", "userfaultfd", "keyring", "perf_event", "kernel_log", "load_module", "kexec", "set_clock"),
    *("modify_ldt", "memfd", "timer", "landlock_more", "terminal_ioctl", "change_root"),
    *("duplicate_descriptor", "map_executable", "map_writable_and_executable", "make_data_executable"),
    *("memory_bomb", "thread", "fsopen", "open_tree", "mount_tmpfs", "make_device"),
]


def policy_folder(folder: Path, *, seccomp: bool, **changes: str) -> Path:
    """sandbox/ with a changed strict policy; without seccomp its filters allow everything."""
    shutil.copytree(k.SANDBOX / "policies", folder / "policies")
    shutil.copytree(k.SANDBOX / "bpf", folder / "bpf")
    path = folder / "policies" / "strict.toml"
    lines = path.read_text().splitlines()
    for key, value in changes.items():
        lines = [f"{key} = {value}" if line.startswith(f"{key} = ") else line for line in lines]
    path.write_text("\n".join(lines))
    manifest = json.loads((folder / "bpf" / "manifest.json").read_text())
    manifest["strict"]["source"] = source_digest(path)
    if not seccomp:
        for stage in (1, 2):
            name = filter_name("strict", stage, platform.machine())
            (folder / "bpf" / name).write_bytes(ALLOW_ALL)
            manifest["strict"]["filters"][name] = hashlib.sha256(ALLOW_ALL).hexdigest()
    (folder / "bpf" / "manifest.json").write_text(json.dumps(manifest))
    return folder


async def open_probes(folder: Path, cache_dir: Path, names: Iterable[str], *, tier: str) -> set[str]:
    """Which of the probes work in jails of this folder's strict policy."""
    host = JailHost(policy_dir=folder, cache_dir=cache_dir, mac_key=k.MAC_KEY, tier=tier, program=PROBE)
    await host.start()
    code = await host.compile(k.assemble(k.MOODY))
    found = set()
    for name in names:
        spec = k.replace(k.moody_spec(code), name=f"{name}:no-test:sibling={os.getpid()}")
        try:
            jail = await host.spawn([spec], on_reply=lambda _: None, on_exit=lambda _: None)
        except JailStartError:
            continue
        if jail.faults[0].startswith("open: "):
            found.add(name)
        jail.kill()
    await host.close()
    return found


async def test_every_layer_stops_something_and_seccomp_stops_what_nothing_else_does(
    tmp_path: Path, cache_dir: Path
) -> None:
    """Capabilities are dropped and descriptors closed in all of them; each kind adds one layer to that."""
    loose = {"NOFILE": "64", "NPROC": "100000"}
    bare = {"landlock": "false", "refuse_exec_gain": "false", "seal_text": "false"}
    kinds = {
        "none": (False, bare | loose, "C"),
        "limits": (False, bare, "C"),
        "namespaces": (False, bare | loose, "A"),
        "landlock": (False, bare | loose | {"landlock": "true"}, "B"),
        "mdwe and mseal": (False, loose | {"landlock": "false"}, "C"),
        "all but seccomp": (False, {}, "A"),
        "seccomp": (True, bare | loose, "C"),
        "all": (True, {}, "A"),
    }
    found = {}
    for name, (seccomp, changes, tier) in kinds.items():
        folder = policy_folder(tmp_path / name, seccomp=seccomp, **changes)
        found[name] = await open_probes(folder, cache_dir, WITHOUT_RISK, tier=tier)
    logging.getLogger(__name__).info("of %d probes open: %s", len(WITHOUT_RISK), {n: len(s) for n, s in found.items()})
    assert {"open_passwd", "socket_inet", "socket_unix", "memfd", "map_executable"} <= found["none"]
    for layer in ("limits", "namespaces", "landlock", "mdwe and mseal", "all but seccomp", "seccomp"):
        assert found[layer] < found["none"], layer
    for layer in ("limits", "namespaces", "landlock", "seccomp"):
        assert "open_passwd" not in found[layer], layer
    assert not {"map_writable_and_executable", "make_data_executable"} & found["mdwe and mseal"]
    assert found["all but seccomp"], "seccomp would be optional"
    assert found["seccomp"] == set()
    assert found["all"] == set()


async def test_a_jail_that_lacks_a_layer_of_its_plan_does_not_become_ready(tmp_path: Path, cache_dir: Path) -> None:
    """The self-test finds that the filter of stage 2 lets through what it should not."""
    folder = policy_folder(tmp_path / "open", seccomp=False)
    host = JailHost(policy_dir=folder, cache_dir=cache_dir, mac_key=k.MAC_KEY)
    await host.start()
    code = await host.compile(k.assemble(k.MOODY))
    with pytest.raises(JailStartError, match="self-test: .* is possible"):
        await host.spawn([k.moody_spec(code)], on_reply=lambda _: None, on_exit=lambda _: None)
    await host.close()
