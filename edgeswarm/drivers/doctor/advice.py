"""What to do about something missing.  Pure: facts about the machine in, one text out.

Invariant: no advice weakens the machine.  Where somebody has closed something, the advice says how EdgeSwarm gets what
it needs beside that (a profile of its own, a kernel option, a package), or that it goes on with a weaker tier.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass

_FRAGMENT = "firmware_configs/linux/kernel/edgeswarm.config"
_TIER_B = "Agents run without namespaces (tier B); the other layers stay."


@dataclass(frozen=True, slots=True)
class Facts:
    """What the advice depends on.  sysctls: name -> text, of those that exist.  filtered: by somebody's seccomp."""

    arch: str
    kernel: tuple[int, int]
    is_root: bool
    filtered: bool
    chrooted: bool
    sysctls: Mapping[str, str]


def for_layer(name: str, number: int, detail: str, facts: Facts) -> str:
    """name: of the layer.  number: errno of the refusal, 0 when there was none.

    Where root cannot become the user of a jail nothing else can be tried: `for_jail_user` is the advice for all of it.
    """
    if name.startswith("namespace"):
        return _namespaces(number, detail, facts)
    if name in ("seccomp", "seccomp_filters"):
        return _seccomp(name, number, detail, facts)
    if name == "landlock":
        return _landlock(number, detail, facts)
    since = _SINCE.get(name)
    if since is not None and facts.kernel < since[0]:
        return f"{since[1]} came with Linux {since[0][0]}.{since[0][1]}; a newer kernel closes this. {_OPTIONAL}"
    if name in _SINCE:
        return f"The kernel has it, but refuses here{_inside(facts)}. {_OPTIONAL}"
    return _OTHER.get(name, f"Expected on every kernel since 5.4{_inside(facts)}: please report it with this output.")


_OPTIONAL = "Jails do without it."
_SINCE = {
    "refuse_exec_gain": ((6, 3), "PR_SET_MDWE"),
    "seal_text": ((6, 10), "mseal"),
    "memfd_sealed": ((6, 3), "MFD_NOEXEC_SEAL"),
}
_OTHER = {
    "pidfd": "Linux 5.3 or later is needed: without pidfds no jail can be ended safely.",
    "capabilities": "A jail that keeps a capability is refused; run the supervisor as an ordinary user.",
}


def for_jail_user(name: str) -> str:
    if name != "jail_user":
        return "Could not be tried: see jail_user."
    return (
        "Root gives its rights up before it makes a jail, by becoming another user; here no other user exists, as in a "
        "container or user namespace that maps root alone. Run the supervisor as an ordinary user, or map more ids."
    )


def _inside(facts: Facts) -> str:
    return " (this process runs under a seccomp filter, as in a container)" if facts.filtered else ""


def refused(number: int, detail: str, *numbers: int) -> bool:
    """The trials that try several things at once tell the errno in words only."""
    return number in numbers or any(os.strerror(one) in detail for one in numbers)


def _namespaces(number: int, detail: str, facts: Facts) -> str:
    restricted = facts.sysctls.get("kernel.apparmor_restrict_unprivileged_userns")
    if restricted == "1" and refused(number, detail, errno.EPERM, errno.EACCES):
        return (
            "AppArmor denies user namespaces to programs that it has no profile for. Install "
            "firmware_configs/linux/apparmor/edgeswarm as /etc/apparmor.d/edgeswarm, load it with "
            "apparmor_parser --replace, and run under it: the systemd unit does, by hand it is "
            "`aa-exec -p edgeswarm -- edgeswarm run`. Leave the sysctl as it is."
        )
    if facts.chrooted:
        return f"The kernel refuses user namespaces in a chroot; enter the tree by pivot_root instead. {_TIER_B}"
    if facts.filtered:
        return (
            "The container's seccomp filter denies unshare. Run the supervisor on the host, or in a container whose "
            f"own profile names unshare, clone, mount and pivot_root. {_TIER_B}"
        )
    if refused(number, detail, errno.ENOSPC) or facts.sysctls.get("user.max_user_namespaces") == "0":
        return f"user.max_user_namespaces is used up, or set to 0 by whoever runs this machine: ask them. {_TIER_B}"
    if facts.sysctls.get("kernel.unprivileged_userns_clone") == "0":
        return f"Whoever runs this machine has closed user namespaces to ordinary users: ask them. {_TIER_B}"
    if refused(number, detail, errno.EINVAL, errno.ENOSYS, errno.ENOENT):
        return f"This kernel was built without it; build one with {_FRAGMENT}. {_TIER_B}"
    return f"Something on this machine denies it (a security module, or a container). {_TIER_B}"


def _seccomp(name: str, number: int, detail: str, facts: Facts) -> str:
    if facts.arch not in ("x86_64", "aarch64"):
        return f"There are filters for x86_64 and aarch64 only; on {facts.arch} nothing can be jailed, so nothing runs."
    if name == "seccomp_filters":
        return "Jails are refused as long as this fails. Reinstall EdgeSwarm; in a checkout run `make seccomp`."
    if refused(number, detail, errno.EINVAL, errno.ENOSYS):
        return f"The kernel lacks CONFIG_SECCOMP_FILTER: nothing runs without it. Build one with {_FRAGMENT}."
    return f"Nothing runs without seccomp{_inside(facts)}; run the supervisor where it may load a filter."


def _landlock(number: int, detail: str, facts: Facts) -> str:
    if refused(number, detail, errno.EOPNOTSUPP):
        return "The kernel has Landlock, but it is not switched on: add landlock to CONFIG_LSM, or to lsm= at boot."
    if facts.kernel < (5, 13):
        return "Landlock came with Linux 5.13. Agents run with seccomp and limits (tier C)."
    if facts.filtered:
        return "The container's seccomp filter denies the landlock calls; run on the host, or name them in its profile."
    return f"The kernel was built without CONFIG_SECURITY_LANDLOCK; build one with {_FRAGMENT}. Tier C until then."


def for_cgroup(name: str, number: int, facts: Facts, *, has_v1: bool) -> str:
    if name == "v2" and has_v1:
        return "The controllers are on version 1 here; nothing to do."
    if name == "v2":
        if refused(number, "", errno.EACCES, errno.EPERM, errno.EROFS):
            return (
                "Run under a systemd unit with Delegate=memory pids cpu (firmware_configs/linux/systemd), or by hand: "
                "systemd-run --user --scope -p Delegate=yes edgeswarm run. Without it RLIMIT_DATA and deadlines bound "
                "jails."
            )
        return "No controller is passed on to our group: Delegate=memory pids cpu in a unit does. Jails do without."
    if not facts.is_root:
        return "Version 1 groups belong to root; as an ordinary user jails are bounded by RLIMIT_DATA and deadlines."
    return "This controller takes no group from us; jails are bounded by RLIMIT_DATA and deadlines."


def for_wasmtime(detail: str, facts: Facts) -> str:
    if facts.arch not in ("x86_64", "aarch64"):
        return (
            f"pip installs a wasmtime on {facts.arch} that holds a Windows library only (as on armv7, riscv64): "
            "no kernel can run here. Use a 64-bit system (aarch64) on this board, if it can run one."
        )
    if "not installed" in detail or "no library" in detail:
        return "Set up again: `make setup` in a checkout, or pip install --force-reinstall wasmtime in its environment."
    return "No kernel can run until this works: compare its version with pyproject.toml; report it with this output."


def for_delegate(name: str, detail: str) -> str:
    if "is not installed" in detail and name in ("litert", "gpu", "npu"):
        return "Only for TFLite models: pip install 'edgeswarm[delegates]'."
    if "is not installed" in detail and name == "tflite":
        return "Only for TFLite models on Python 3.11, where litert has no wheel: pip install 'edgeswarm[tflite]'."
    if name in ("litert", "tflite", "external", "gpu", "npu"):
        return "Agents compute on their kernels; see docs/delegates.md for what a delegate needs."
    if name == "gpu_nodes" and "Permission denied" in detail:
        return "Let the supervisor's user into the group that owns the node (render or video)."
    if "is not installed" in detail:
        return "Only for GPUs: the vendor's driver package brings it."
    return "Only for accelerators; kernels run on the CPU without it."
