"""A sandbox policy as written: one TOML file that names every system call it allows, with the reason.

Checked whole: an error lists every fault with its line and field.  What no policy may allow, none does: a call that
opens, connects, runs, forks or traces once agents are served is a fault of the file (NEVER).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal

from edgeswarm import schema
from edgeswarm.drivers import syscall_names
from edgeswarm.errors import ConfigError

ArchName = Literal["x86_64", "aarch64"]
ARCHES: Final[tuple[ArchName, ...]] = ("x86_64", "aarch64")
Namespace = Literal["user", "pid", "mount", "net", "ipc", "uts", "cgroup"]
_Reason = Annotated[str, schema.Length(8, 200)]
_FILE_BYTES_MAX: Final = 64 * 1024
_LIMITS: Final = frozenset(
    "CORE CPU FSIZE MEMLOCK MSGQUEUE NICE NOFILE NPROC RTPRIO SIGPENDING STACK".split()  # what a policy may set
)

NEVER: Final = frozenset(
    # files
    "open openat openat2 creat mknod mknodat link linkat symlink symlinkat rename renameat renameat2 unlink unlinkat "
    "mkdir mkdirat rmdir chmod fchmodat chown fchownat truncate name_to_handle_at open_by_handle_at open_tree "
    "mount umount2 move_mount fsopen fsconfig fsmount pivot_root chroot acct swapon quotactl inotify_init "
    "fanotify_init open_tree_attr mount_setattr fspick "
    # other processes, and more of this one
    "fork vfork clone clone3 execve execveat ptrace process_vm_readv process_vm_writev process_madvise "
    "process_mrelease kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_open pidfd_getfd "
    "pidfd_send_signal kcmp migrate_pages move_pages sched_setscheduler sched_setattr setpriority unshare setns "
    "setuid setgid setresuid setresgid capset personality modify_ldt "
    # the network
    "socket socketpair connect bind listen accept accept4 sendto sendmsg sendmmsg recvmsg recvmmsg "
    # limits and filters, which are final by then, and new code past `allow_without_exec`
    "prctl seccomp setrlimit prlimit64 pkey_mprotect remap_file_pages shmat uselib "
    # objects that outlive a process
    "shmget msgget semget mq_open "
    # the kernel's attack surface
    "bpf io_uring_setup io_uring_enter io_uring_register userfaultfd perf_event_open keyctl add_key request_key "
    "init_module finit_module delete_module kexec_load kexec_file_load reboot syslog iopl ioperm "
    "settimeofday clock_settime adjtimex".split()
)
"""What stage 2 of no policy may allow, the operator's own included."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """A system call that is allowed.  number: for one that libseccomp has no name for yet (the same everywhere)."""

    reason: _Reason
    arch: tuple[ArchName, ...] = ARCHES
    number: Annotated[int, schema.Range(400, 1000)] | None = None


@dataclass(frozen=True, slots=True)
class Only:
    """What the low half of an argument of an allowed call must be one of, else EPERM.  argument: 0 is the first."""

    reason: _Reason
    argument: Annotated[int, schema.Range(0, 5)]
    values: Annotated[tuple[Annotated[int, schema.Range(0, 0xFFFF_FFFF)], ...], schema.Length(1, 32)]


@dataclass(frozen=True, slots=True)
class Refused:
    """A system call that fails with `errno` instead of killing the jail."""

    reason: _Reason
    errno: Literal["EPERM", "EACCES", "ENOSYS"]
    arch: tuple[ArchName, ...] = ARCHES


@dataclass(frozen=True, slots=True)
class Stage:
    """One seccomp filter.  allow_without_exec: allowed unless the third argument asks for PROT_EXEC.

    only: what narrows a call of these two tables further.
    """

    allow: Mapping[str, Allowed]
    refuse: Mapping[str, Refused]
    allow_without_exec: Mapping[str, Allowed] = field(default_factory=dict)
    only: Mapping[str, Only] = field(default_factory=dict)

    def faults(self) -> Iterator[tuple[str, str]]:
        tables = (self.allow, self.refuse, self.allow_without_exec)
        names = [name for table in tables for name in table]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield name, "is in more than one table"
        for name in sorted(self.only.keys() - self.allow.keys() - self.allow_without_exec.keys()):
            yield f"only.{name}", "narrows a call that no table of this stage allows"


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """A file of sandbox/policies/, as written."""

    name: Annotated[str, schema.Pattern(r"[a-z][a-z0-9-]{0,31}", "a name: a-z, 0-9, -")]
    description: Annotated[str, schema.Length(1, 200)]
    tier_min: Literal["A", "B", "C"]
    namespaces: tuple[Namespace, ...]
    landlock: bool
    refuse_exec_gain: bool
    seal_text: bool
    data_mb: Annotated[int, schema.Range(16, 4096, "MiB")]
    limits: Mapping[str, Annotated[int, schema.Range(0, 1 << 40)]]
    limits_final: Mapping[str, Annotated[int, schema.Range(0, 1 << 40)]]
    stage_1: Stage
    stage_2: Stage

    def faults(self) -> Iterator[tuple[str, str]]:
        for table, names in (("limits", self.limits), ("limits_final", self.limits_final)):
            for name in sorted(set(names) - _LIMITS):
                yield f"{table}.{name}", f"expected one of {', '.join(sorted(_LIMITS))}"
        before = self.stage_1.allow.keys() | self.stage_1.allow_without_exec.keys()
        for table in ("allow", "allow_without_exec", "refuse"):
            for name in sorted(getattr(self.stage_2, table).keys() - before):
                yield f"stage_2.{table}.{name}", "stage 1 stays in force and kills it; allow it there too"
        for table in ("allow", "allow_without_exec"):
            for name in sorted(NEVER & getattr(self.stage_2, table).keys()):
                yield f"stage_2.{table}.{name}", "no policy may allow this once agents are served"
        for stage, rules in (("stage_1", self.stage_1), ("stage_2", self.stage_2)):
            for table, calls in (("allow", rules.allow), ("allow_without_exec", rules.allow_without_exec)):
                for name, rule in calls.items():
                    known = _NAMES.get(rule.number, name) if rule.number is not None else name
                    if known != name:
                        yield f"{stage}.{table}.{name}.number", f"{rule.number} is {known}"
        if self.namespaces and "user" not in self.namespaces:
            yield "namespaces", "the others need `user`"


_NAMES: Final = syscall_names.names(0xC000_003E)
"""Of x86_64; the numbers that a rule may give, from 400 on, are the same everywhere."""
_HEADER: Final = re.compile(r"\s*\[([\w.-]+)\]\s*(?:#.*)?")
_KEY: Final = re.compile(r"\s*([\w.-]+)\s*=")


def lines_of(text: str) -> dict[str, int]:
    """Path of each table and key -> its line, 1-based.  What stands within an inline table has the line of that."""
    found: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.fullmatch(line):
            table = header[1]
            found.setdefault(table, number)
        elif key := _KEY.match(line):
            found.setdefault(f"{table}.{key[1]}" if table else key[1], number)
    return found


def read_policy_file(path: Path) -> PolicyFile:
    """One policy as written.  Raises ConfigError that lists every fault, with its line and field."""
    try:
        with path.open("rb") as file:
            text = file.read(_FILE_BYTES_MAX + 1)
        if len(text) > _FILE_BYTES_MAX:
            raise ConfigError(f"{path}: at most {_FILE_BYTES_MAX} bytes expected")
        decoded = text.decode("utf-8")
        tree = tomllib.loads(decoded)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    try:
        found = schema.decode(tree, PolicyFile, where=str(path), lines=lines_of(decoded))
    except schema.SchemaError as error:
        raise ConfigError(str(error)) from None
    if found.name != path.stem:
        raise ConfigError(f"{path}: name: expected {path.stem!r} as the file is called, found {found.name!r}")
    return found
