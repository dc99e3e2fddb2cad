"""What a sandbox policy says, as the jail sees it: plain values, decoded from the JSON that the supervisor sends.

The files are `sandbox/policies/*.toml`; `drivers/jail_policy.py` reads them, joins them with the committed BPF and
sends the result here, because a jail opens no files.
Invariants: a policy has exactly one filter for each stage; a filter's bytes have the hash that it names; tier_min is
never D, because without seccomp there is no jail.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Final, Literal

from edgeswarm.errors import JailError

Tier = Literal["A", "B", "C", "D"]
TIERS: Final[tuple[Tier, ...]] = ("A", "B", "C", "D")
"""A: every layer.  B: Landlock and seccomp.  C: seccomp and limits, and namespaces where they work.  D: refused."""

STAGES: Final = (1, 2)
"""Stage 1 holds while agents are loaded, stage 2 from the first sample on."""


@dataclass(frozen=True, slots=True)
class Filter:
    """A seccomp filter: raw BPF for this machine's architecture."""

    program: bytes
    sha256: str

    def checked(self) -> bytes:
        """The program.  Raises JailError when it does not have the hash that was committed with it."""
        found = hashlib.sha256(self.program).hexdigest()
        if found != self.sha256:
            raise JailError(f"seccomp filter: expected sha256 {self.sha256}, found {found}")
        return self.program


@dataclass(frozen=True, slots=True)
class Policy:
    """One sandbox policy, with the filters for this architecture."""

    name: str
    tier_min: Tier
    namespaces: tuple[str, ...]
    landlock: bool
    refuse_exec_gain: bool
    seal_text: bool
    data_bytes: int
    """Private writable memory of the process besides what its agents' limits add up to."""
    limits: tuple[tuple[str, int], ...]
    """RLIMIT names and values, set before anything is loaded."""
    limits_final: tuple[tuple[str, int], ...]
    """The same, set after the warm-up, when no thread and no descriptor has to come any more."""
    stage_1: Filter
    stage_2: Filter

    def digest(self) -> str:
        """SHA-256 of everything the policy says: what a cached compilation is bound to."""
        return hashlib.sha256(json.dumps(to_json(self), sort_keys=True).encode("utf-8")).hexdigest()


def to_json(policy: Policy) -> dict[str, Any]:
    def encode(item: Filter) -> dict[str, str]:
        return {"program": base64.b64encode(item.program).decode("ascii"), "sha256": item.sha256}

    return {
        "name": policy.name,
        "tier_min": policy.tier_min,
        "namespaces": list(policy.namespaces),
        "landlock": policy.landlock,
        "refuse_exec_gain": policy.refuse_exec_gain,
        "seal_text": policy.seal_text,
        "data_bytes": policy.data_bytes,
        "limits": [list(pair) for pair in policy.limits],
        "limits_final": [list(pair) for pair in policy.limits_final],
        "stage_1": encode(policy.stage_1),
        "stage_2": encode(policy.stage_2),
    }


def from_json(tree: dict[str, Any]) -> Policy:
    """The inverse of `to_json`.  Raises JailError on anything that `to_json` would not have written, and for a filter
    that does not have the hash it names."""

    def decode(item: dict[str, str]) -> Filter:
        found = Filter(program=base64.b64decode(item["program"], validate=True), sha256=str(item["sha256"]))
        found.checked()
        return found

    try:
        policy = Policy(
            name=str(tree["name"]),
            tier_min=tree["tier_min"],
            namespaces=tuple(tree["namespaces"]),
            landlock=tree["landlock"],
            refuse_exec_gain=tree["refuse_exec_gain"],
            seal_text=tree["seal_text"],
            data_bytes=int(tree["data_bytes"]),
            limits=tuple((str(name), int(value)) for name, value in tree["limits"]),
            limits_final=tuple((str(name), int(value)) for name, value in tree["limits_final"]),
            stage_1=decode(tree["stage_1"]),
            stage_2=decode(tree["stage_2"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise JailError(f"sandbox policy: expected the fields of to_json, found {error!r}") from None
    if policy.tier_min not in ("A", "B", "C"):
        raise JailError(f"sandbox policy {policy.name}: tier_min must be A, B or C, found {policy.tier_min!r}")
    return policy
