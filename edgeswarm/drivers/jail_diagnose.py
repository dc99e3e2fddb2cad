"""Finds out which system call an agent's jail is ended for: the same jail, but that its filters tell instead of kill.

Never in normal operation: no supervisor has a switch for it.  Works without reading the kernel's log, as any user.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from edgeswarm.drivers import syscall_names
from edgeswarm.drivers.jail_filter import KILL_PROCESS, RETURN
from edgeswarm.drivers.jail_life import JailStartError
from edgeswarm.drivers.jail_link import JailLink, KernelSpec
from edgeswarm.drivers.jail_policy import load_policies
from edgeswarm.drivers.jail_sync import SyncHost, SyncJail
from edgeswarm.drivers.jail_zygote import Program
from edgeswarm.errors import JailGoneError, TrapError
from edgeswarm.jail import policy
from edgeswarm.jail.diagnose_worker import CALL_AT

WORKER: Final = "edgeswarm.jail.diagnose_worker"
_TRAP: Final = 0x0003_0000
"""SECCOMP_RET_TRAP: the call is not made, and SIGSYS says which it was."""
_INSTRUCTION: Final = struct.Struct("<HBBI")
_WORDS: Final = struct.Struct("<QQ")


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """call, number: of the system call that ended the jail; "" and -1 when none did.

    ready: whether that was after it had become ready.  rows, faults: how many were computed, how many faulted before.
    """

    call: str
    number: int
    ready: bool
    rows: int
    faults: int
    text: str


def telling(found: policy.Policy) -> policy.Policy:
    """The same policy with filters that raise a signal where they would end the process."""
    return replace(found, stage_1=_telling(found.stage_1), stage_2=_telling(found.stage_2))


def _telling(item: policy.Filter) -> policy.Filter:
    changed = [
        (code, true, false, _TRAP) if (code, value) == (RETURN, KILL_PROCESS) else (code, true, false, value)
        for code, true, false, value in _INSTRUCTION.iter_unpack(item.checked())
    ]
    program = b"".join(_INSTRUCTION.pack(*instruction) for instruction in changed)
    return policy.Filter(program, hashlib.sha256(program).hexdigest())


def diagnose(
    spec: KernelSpec,
    rows: Sequence[bytes],
    *,
    policy_dir: Path,
    cache_dir: Path,
    mac_key: bytes,
    policy_name: str = "strict",
    program: Program | None = None,
) -> Diagnosis:
    """Run rows in a jail that tells.  spec: its code was compiled before, by a host of the usual kind.

    Raises TierError, JailError when there is no jail at all.
    """
    policies = {name: telling(found) for name, found in load_policies(policy_dir).items()}
    with SyncHost(
        policy_dir=policy_dir,
        cache_dir=cache_dir,
        mac_key=mac_key,
        program=program or Program(worker=WORKER),
        policies=policies,
    ) as host:
        link = JailLink(host.next_id(), [spec])
        memory = os.dup(link._rings)  # the jail's word outlives the jail
        done = faults = 0
        ready, text = False, "served every row"
        try:
            with SyncJail(host, link, policy_name) as jail:
                ready = True
                for row in rows:
                    try:
                        jail.call(spec.slot, row)
                        done += 1
                    except TrapError as error:
                        faults, text = faults + 1, str(error)
        except (JailStartError, JailGoneError) as error:
            text = str(error)
        finally:
            number, arch = _WORDS.unpack(os.pread(memory, _WORDS.size, 8 * CALL_AT))
            os.close(memory)
    call = syscall_names.name_of(arch, number - 1) if number else ""
    return Diagnosis(call, number - 1, ready, done, faults, text)
