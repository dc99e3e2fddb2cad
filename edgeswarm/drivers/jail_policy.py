"""Reads sandbox policies: `sandbox/policies/<name>.toml` joined with the committed filters of `sandbox/bpf/`.

A policy names every system call it allows, with the reason; the filters are what `sandbox/build_filters.py` made of
that.  The manifest says which filter belongs to which policy, stage and architecture, with its SHA-256, and which text
of the policy it was made from: a policy edited without `make seccomp` is refused.
"""

from __future__ import annotations

import hashlib
import json
import platform
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from edgeswarm import schema
from edgeswarm.errors import ConfigError, TierError
from edgeswarm.jail import policy
from edgeswarm.limits import MIB

ArchName = Literal["x86_64", "aarch64"]
ARCHES: Final[tuple[ArchName, ...]] = ("x86_64", "aarch64")
Namespace = Literal["user", "pid", "mount", "net", "ipc", "uts", "cgroup"]
_Reason = Annotated[str, schema.Length(8, 200)]
BUILD_POLICY: Final = "build"
_POLICIES_MAX: Final = 64
_FILE_BYTES_MAX: Final = 64 * 1024
_LIMITS: Final = frozenset(
    "CORE CPU FSIZE MEMLOCK MSGQUEUE NICE NOFILE NPROC RTPRIO SIGPENDING STACK".split()  # what a policy may set
)


@dataclass(frozen=True, slots=True)
class Allowed:
    """A system call that is allowed.  number: for one that libseccomp has no name for yet (the same everywhere)."""

    reason: _Reason
    arch: tuple[ArchName, ...] = ARCHES
    number: Annotated[int, schema.Range(400, 1000)] | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """A system call that fails with `errno` instead of killing the jail."""

    reason: _Reason
    errno: Literal["EPERM", "EACCES", "ENOSYS"]
    arch: tuple[ArchName, ...] = ARCHES


@dataclass(frozen=True, slots=True)
class Stage:
    """One seccomp filter.  allow_without_exec: allowed unless the third argument asks for PROT_EXEC."""

    allow: Mapping[str, Allowed]
    refuse: Mapping[str, Refused]
    allow_without_exec: Mapping[str, Allowed] = field(default_factory=dict)

    def faults(self) -> Iterator[tuple[str, str]]:
        tables = (self.allow, self.refuse, self.allow_without_exec)
        names = [name for table in tables for name in table]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield name, "is in more than one table"


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
        if self.namespaces and "user" not in self.namespaces:
            yield "namespaces", "the others need `user`"


def read_policy_file(path: Path) -> PolicyFile:
    """One policy as written.  Raises ConfigError that lists every fault."""
    try:
        with path.open("rb") as file:
            text = file.read(_FILE_BYTES_MAX + 1)
        if len(text) > _FILE_BYTES_MAX:
            raise ConfigError(f"{path}: at most {_FILE_BYTES_MAX} bytes expected")
        tree = tomllib.loads(text.decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    try:
        found = schema.decode(tree, PolicyFile, where=str(path))
    except schema.SchemaError as error:
        raise ConfigError(str(error)) from None
    if found.name != path.stem:
        raise ConfigError(f"{path}: name: expected {path.stem!r} as the file is called, found {found.name!r}")
    return found


def source_digest(path: Path) -> str:
    """SHA-256 of a policy's text: the manifest holds it for every policy that filters were made from."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_policies(folder: Path) -> dict[str, policy.Policy]:
    """Every policy of `folder` (as `sandbox/`: policies/, bpf/) with this machine's filters, by name.

    Raises ConfigError when a file is wrong or a filter is not what the manifest says, TierError when there is no
    filter for this architecture.
    """
    machine = platform.machine()
    if machine not in ARCHES:
        raise TierError(f"jails need x86_64 or aarch64, this machine is {machine}: there is no seccomp filter for it")
    paths = sorted((folder / "policies").glob("*.toml"))[:_POLICIES_MAX]
    if not paths:
        raise ConfigError(f"{folder}/policies: no policy found")
    if BUILD_POLICY not in {path.stem for path in paths}:
        raise ConfigError(f"{folder}/policies: no policy `{BUILD_POLICY}`, under which kernels are compiled")
    manifest = _read_manifest(folder / "bpf" / "manifest.json")
    found = {}
    for path in paths:
        file = read_policy_file(path)
        entry = manifest.get(file.name, {})
        if entry.get("source") != source_digest(path):
            raise ConfigError(f"{path}: changed since its filters were made; run `make seccomp`")
        stages = [_read_filter(folder / "bpf", file.name, stage, machine, entry) for stage in policy.STAGES]
        found[file.name] = _join(file, *stages)
    return found


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: a table of policies expected")
    return tree


def filter_name(policy_name: str, stage: int, arch: str) -> str:
    return f"{policy_name}-{stage}-{arch}.bpf"


def _read_filter(folder: Path, name: str, stage: int, arch: str, entry: dict[str, Any]) -> policy.Filter:
    file = filter_name(name, stage, arch)
    expected = entry.get("filters", {}).get(file)
    if not isinstance(expected, str):
        raise ConfigError(f"{folder}/manifest.json: no hash for {file}; run `make seccomp`")
    try:
        program = (folder / file).read_bytes()
    except OSError as error:
        raise ConfigError(f"{folder}/{file}: {error.strerror}") from None
    found = hashlib.sha256(program).hexdigest()
    if found != expected:
        raise ConfigError(f"{folder}/{file}: expected sha256 {expected}, found {found}")
    return policy.Filter(program, expected)


def _join(file: PolicyFile, stage_1: policy.Filter, stage_2: policy.Filter) -> policy.Policy:
    return policy.Policy(
        name=file.name,
        tier_min=file.tier_min,
        namespaces=tuple(file.namespaces),
        landlock=file.landlock,
        refuse_exec_gain=file.refuse_exec_gain,
        seal_text=file.seal_text,
        data_bytes=file.data_mb * MIB,
        limits=tuple(file.limits.items()),
        limits_final=tuple(file.limits_final.items()),
        stage_1=stage_1,
        stage_2=stage_2,
    )
