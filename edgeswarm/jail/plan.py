"""Which steps make a jail, in their order: a plan first, then `enter.perform` carries it out.

Decides the list from a policy and the tier that this machine offers; performs nothing.
Invariants of every plan:
    seccomp stage 1 stands before Load; stage 2 and the last self-test before Begin, so that no instruction of an
    agent is ever executed with less than everything in force;
    NoNewPrivileges stands before Landlock and before the first filter;
    JoinGroups stands first: whatever the jail does is counted, and it has the right to enter;
    nothing is loaded before the descriptors are closed, the limits set and the capabilities dropped.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeswarm.errors import TierError
from edgeswarm.jail.policy import TIERS, Filter, Policy, Tier


@dataclass(frozen=True, slots=True)
class JoinGroups:
    """Enter the cgroups that the supervisor has made and limited for this jail: `doors` are the files to write 0 to."""

    doors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BecomeUser:
    """Give up root: a jail of a root supervisor runs as a user that owns nothing."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Unshare:
    """Enter fresh namespaces, and map the one user of the jail into the user namespace."""

    namespaces: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ForkInit:
    """Fork once more: the child is process 1 of the new process namespace and becomes the jail."""


@dataclass(frozen=True, slots=True)
class NullStdio:
    """Descriptors 0, 1, 2 on /dev/null."""


@dataclass(frozen=True, slots=True)
class Prepare:
    """Where a driver needs files and starts threads: let it, in a thread without any right, while there are files."""


@dataclass(frozen=True, slots=True)
class EmptyRoot:
    """pivot_root into an empty, read-only tmpfs."""


@dataclass(frozen=True, slots=True)
class Hostname:
    """Hide the host's name."""


@dataclass(frozen=True, slots=True)
class CloseDescriptors:
    """Close every descriptor but those of the jail's own protocol."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One rlimit, soft and hard."""

    name: str
    value: int


@dataclass(frozen=True, slots=True)
class DropCapabilities:
    """Empty every capability set and, where allowed, the bounding set."""


@dataclass(frozen=True, slots=True)
class NoNewPrivileges:
    """No exec can give anything back."""


@dataclass(frozen=True, slots=True)
class DenyFiles:
    """Landlock with no exception."""


@dataclass(frozen=True, slots=True)
class LoadFilter:
    """A seccomp filter on every thread; its hash was checked when the zygote received it."""

    stage: int
    filter: Filter


@dataclass(frozen=True, slots=True)
class Load:
    """Start the epoch thread, deserialise the agents' code, call code of our own once; nothing of theirs runs."""


@dataclass(frozen=True, slots=True)
class RefuseExecGain:
    """PR_SET_MDWE: no mapping becomes executable any more."""


@dataclass(frozen=True, slots=True)
class SealText:
    """mseal the loaded code: it cannot be made writable, moved or unmapped.  The zygote has sealed all other code."""


@dataclass(frozen=True, slots=True)
class SelfTest:
    """Try what must fail by now, and expect failure."""


@dataclass(frozen=True, slots=True)
class Begin:
    """Instantiate the agents and call each once: the first instructions of theirs."""


Step = (
    JoinGroups
    | BecomeUser
    | Unshare
    | ForkInit
    | NullStdio
    | Prepare
    | EmptyRoot
    | Hostname
    | CloseDescriptors
    | Limit
    | DropCapabilities
    | NoNewPrivileges
    | DenyFiles
    | LoadFilter
    | Load
    | RefuseExecGain
    | SealText
    | SelfTest
    | Begin
)


def name_of(step: Step) -> str:
    """How a step is called in messages and in `sandbox/README.md`."""
    match step:
        case Limit(name=name):
            return f"Limit({name})"
        case LoadFilter(stage=stage):
            return f"LoadFilter({stage})"
        case _:
            return type(step).__name__


def make_plan(
    policy: Policy,
    tier: Tier,
    *,
    run_as: tuple[int, int] | None,
    memory_bytes: int,
    doors: tuple[str, ...] = (),
    namespaces_too: bool = False,
    prepares: bool = False,
) -> tuple[Step, ...]:
    """The steps of one jail.

    run_as: (uid, gid) when the zygote is root, else None.  memory_bytes: the sum of the agents' memory limits.
    doors: of its cgroups; none: rlimits are all there is.  namespaces_too: of tier C for want of Landlock alone.
    prepares: a driver makes itself ready before the root is emptied; of tier A only.
    Raises TierError when the policy asks for more than this machine's tier.
    """
    if TIERS.index(tier) > TIERS.index(policy.tier_min):
        raise TierError(f"policy {policy.name} needs tier {policy.tier_min} or better, this machine offers {tier}")
    steps: list[Step] = []
    namespaces = policy.namespaces if tier == "A" or (tier == "C" and namespaces_too) else ()
    if doors:
        steps.append(JoinGroups(doors))
    if run_as is not None:
        steps.append(BecomeUser(*run_as))
    if namespaces:
        steps.append(Unshare(namespaces))
    if "pid" in namespaces:
        steps.append(ForkInit())
    steps.append(NullStdio())
    if prepares:
        if tier != "A":
            raise TierError(f"a driver that needs files wants tier A, this machine offers {tier}")
        steps.append(Prepare())
    if "mount" in namespaces:
        steps.append(EmptyRoot())
    if "uts" in namespaces:
        steps.append(Hostname())
    steps.append(CloseDescriptors())
    steps += [Limit(name, value) for name, value in policy.limits]
    steps.append(Limit("DATA", policy.data_bytes + memory_bytes))
    steps += [DropCapabilities(), NoNewPrivileges()]
    if policy.landlock and tier in ("A", "B"):
        steps.append(DenyFiles())
    steps += [LoadFilter(1, policy.stage_1), Load(), SelfTest()]
    if policy.refuse_exec_gain:
        steps.append(RefuseExecGain())
    if policy.seal_text:
        steps.append(SealText())
    steps += [Limit(name, value) for name, value in policy.limits_final]
    steps += [LoadFilter(2, policy.stage_2), SelfTest(), Begin()]
    return tuple(steps)
