"""Reads sandbox policies: `sandbox/policies/<name>.toml` joined with the committed filters of `sandbox/bpf/`.

A policy names every system call it allows, with the reason; the filters are what `sandbox/build_filters.py` made of
that.  The manifest says which filter belongs to which policy, stage and architecture, with its SHA-256, and which text
of the policy it was made from: a policy edited without `make seccomp` is refused.
An operator's own policies (`own`), and every policy on an architecture without committed filters, are compiled here
and now, which needs pyseccomp and libseccomp.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import stat
from pathlib import Path
from typing import Any, Final

from edgeswarm.drivers import jail_filter
from edgeswarm.drivers.jail_policy_file import ARCHES, ArchName, PolicyFile, Stage, read_policy_file
from edgeswarm.errors import ConfigError
from edgeswarm.jail import policy
from edgeswarm.limits import MIB

__all__ = ["ARCHES", "ArchName", "PolicyFile", "Stage", "load_policies", "read_policy_file"]

BUILD_POLICY: Final = "build"
OWN_POLICIES: Final = "sandbox.d"
"""Folder of the operator's own policies, beside the code cache in the state directory; it may be absent."""
_POLICIES_MAX: Final = 64


def source_digest(path: Path) -> str:
    """SHA-256 of a policy's text: the manifest holds it for every policy that filters were made from."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_policies(folder: Path, *, own: Path | None = None, machine: str = "") -> dict[str, policy.Policy]:
    """Every policy of `folder` (as `sandbox/`: policies/, bpf/) with this machine's filters, by name.

    own: a folder with more policies, the operator's; it may be absent.  machine: this one's architecture, if empty.
    Raises ConfigError when a file is wrong or a filter is not what the manifest says, TierError when there is no
    filter for this architecture and none can be made.
    """
    machine = machine or platform.machine()
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
        if machine in ARCHES:
            stages = [_read_filter(folder / "bpf", file.name, stage, machine, entry) for stage in policy.STAGES]
        else:
            stages = jail_filter.filters_here(file, machine)
        found[file.name] = _join(file, *stages)
    for path in _own_files(own) if own else ():
        item = load_own_policy(path, machine=machine)
        if item.name in found:
            raise ConfigError(f"{path}: name: {item.name!r} is the name of a shipped policy")
        found[item.name] = item
    return found


def _own_files(folder: Path) -> list[Path]:
    """The operator's policies.  Raises ConfigError for what somebody else could have written, or put in its place."""
    paths = sorted(folder.glob("*.toml"))
    if len(paths) > _POLICIES_MAX:
        raise ConfigError(f"{folder}: at most {_POLICIES_MAX} policies expected, found {len(paths)}")
    for path in (folder, *paths) if paths else ():
        found = path.lstat()
        mode = stat.S_IMODE(found.st_mode)
        if not (stat.S_ISDIR if path == folder else stat.S_ISREG)(found.st_mode):
            raise ConfigError(f"{path}: a {'folder' if path == folder else 'file'} expected, no link and no device")
        if found.st_uid not in (0, os.geteuid()) or mode & 0o022:
            raise ConfigError(
                f"{path}: nobody but you and root may write a sandbox policy; found owner {found.st_uid}, mode "
                f"{mode:o}; chmod go-w, or chown"
            )
    return paths


def load_own_policy(path: Path, *, machine: str = "") -> policy.Policy:
    """An operator's own policy, its filters compiled here.  Raises as `load_policies` does."""
    file = read_policy_file(path)
    return _join(file, *jail_filter.filters_here(file, machine or platform.machine()))


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
