"""What can be asked of a cell about its fleet: who may join, which device is called what, which agent goes where.

All of it since feature version 3; `commands` encodes and decodes it.  Lists of labels, grants and devices may come in
any order, with repeats; they are read in rising order, each once.  Decides nothing else; pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from edgeswarm.core.cell import shapes as s
from edgeswarm.core.cell.types import ROLLOUT_STATES, TOKEN_ROLES
from edgeswarm.errors import CodecError
from edgeswarm.limits import (
    CAPABILITY_BYTES_MAX,
    CAPABILITY_NAMES_MAX,
    CELL_DEVICES_MAX,
    LABELS_BYTES_MAX,
    LABELS_PER_DEVICE_MAX,
    PLAN_BYTES_MAX,
    ROLLOUT_ORDER_BYTES_MAX,
    ROOT_ROTATION_BYTES_MAX,
    TOKEN_NAMES_BYTES_MAX,
    TOKEN_USES_MAX,
)


@dataclass(frozen=True, slots=True)
class AddToken:
    """Devices may join by it.  public: the key derived from its secret, 32 bytes; expires_s: seconds since 1970."""

    token: str
    public: bytes
    role: str
    """One of TOKEN_ROLES."""
    uses: int
    expires_s: int
    approval: bool
    """A person must agree to each join."""
    labels: tuple[str, ...]
    """What each device that joins by it is labelled with."""
    grants: tuple[str, ...]
    """What each is granted."""
    who: str


@dataclass(frozen=True, slots=True)
class UseToken:
    """One device joins.  public: its key, 32 bytes; at_s: seconds since 1970 by the clock of who proposes it."""

    token: str
    device: str
    public: bytes
    at_s: int


@dataclass(frozen=True, slots=True)
class RevokeToken:
    token: str
    who: str


@dataclass(frozen=True, slots=True)
class SetLabels:
    """All labels of a device, in the place of those that it had.  It need not have registered yet."""

    device: str
    labels: tuple[str, ...]
    who: str


@dataclass(frozen=True, slots=True)
class StartRollout:
    """An artefact for an agent, as an operator signed it.  It runs from now, on no device yet (wave 0)."""

    rollout: str
    """16 lower hex digits."""
    agent: str
    artefact: bytes
    plan: bytes
    """COSE_Sign1; the state does not look into it."""
    who: str


@dataclass(frozen=True, slots=True)
class AdvanceRollout:
    """More devices.  wave: the next one, or the same again."""

    rollout: str
    wave: int
    devices: tuple[str, ...]
    who: str


@dataclass(frozen=True, slots=True)
class SteerRollout:
    """Pause, go on, abort, roll back, done.  order: COSE_Sign1 of who wants it, or nothing."""

    rollout: str
    state: str
    """One of ROLLOUT_STATES."""
    order: bytes
    why: str
    who: str


@dataclass(frozen=True, slots=True)
class RotateRoot:
    """The fleet has another root: the statement that the old one signed; the app judges it."""

    data: bytes
    who: str


FleetCommand = AddToken | UseToken | RevokeToken | SetLabels | StartRollout | AdvanceRollout | SteerRollout | RotateRoot

# --- reading --------------------------------------------------------------------------------------------------------

LABEL_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,62}=[^\x00-\x1f\x7f]{0,63}")
token_id = s.pattern(re.compile(r"[a-z2-7]{13}"), "a token's id of 13 characters a-z, 2-7")
rollout_id = s.pattern(re.compile(r"[0-9a-f]{16}"), "a rollout's id of 16 lower hex digits")
public_key = s.exactly(32, "public key")
token_role = s.choice(*TOKEN_ROLES)
rollout_state = s.choice(*ROLLOUT_STATES)
uses = s.uint(TOKEN_USES_MAX, 1)
plan = s.blob(PLAN_BYTES_MAX)
order = s.blob(ROLLOUT_ORDER_BYTES_MAX)
root = s.blob(ROOT_ROTATION_BYTES_MAX)
wave = s.uint(CELL_DEVICES_MAX)
_label = s.pattern(LABEL_PATTERN, "a label as key=value, the key of 1 to 63 characters A-Z, a-z, 0-9, _ . / -")
_labels = s.as_set(_label, LABELS_PER_DEVICE_MAX)
_grants = s.as_set(s.text(CAPABILITY_BYTES_MAX), CAPABILITY_NAMES_MAX)
_devices = s.as_set(s.device_id, CELL_DEVICES_MAX)


def labels(value: Any) -> tuple[str, ...]:
    found = _labels(value)
    keys = {label.partition("=")[0] for label in found}
    if len(keys) < len(found):
        raise CodecError(f"labels: expected each key once, found {len(found)} labels with {len(keys)} keys")
    size = sum(len(label.encode()) + 2 for label in found)
    if size > LABELS_BYTES_MAX:
        raise CodecError(f"labels: expected at most {LABELS_BYTES_MAX} bytes together, found {size}")
    return found


def add_token(value: Any) -> AddToken:
    token = _add_token(value)
    size = sum(len(name.encode()) + 2 for name in (*token.labels, *token.grants))
    if size > TOKEN_NAMES_BYTES_MAX:
        raise CodecError(f"token: expected at most {TOKEN_NAMES_BYTES_MAX} bytes of labels and grants, found {size}")
    return token


_add_token = s.record(AddToken, token_id, public_key, token_role, uses, s.uint(least=1), s.flag, labels, _grants, s.who)
FLEET_KINDS: Final = (
    (50, AddToken, add_token),
    (51, UseToken, s.record(UseToken, token_id, s.device_id, public_key, s.uint())),
    (52, RevokeToken, s.record(RevokeToken, token_id, s.who)),
    (53, SetLabels, s.record(SetLabels, s.device_id, labels, s.who)),
    (54, StartRollout, s.record(StartRollout, rollout_id, s.agent_id, s.digest, plan, s.who)),
    (55, AdvanceRollout, s.record(AdvanceRollout, rollout_id, wave, _devices, s.who)),
    (56, SteerRollout, s.record(SteerRollout, rollout_id, rollout_state, order, s.why, s.who)),
    (57, RotateRoot, s.record(RotateRoot, root, s.who)),
)
"""Kind, class, reader."""
