"""The parts of a roster: a device's entry as it is signed, and its certificates; how they read.

Decides whether bytes have the shape of an entry or of a device's row; whether the signatures hold is decided by
roster.py.  Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edgeswarm.errors import CodecError, LocalError, RemoteError
from edgeswarm.limits import CERTIFICATE_BYTES_MAX, CERTIFICATES_PER_DEVICE_MAX, RAFT_NUMBER_MAX, VOTERS_MAX
from edgeswarm.wire import codec, cose, topics
from edgeswarm.wire.certificate import ROLES, Certificate, Role, Signatory, capabilities_of, read_certificate

_ENTRY_AAD: Final = "edgeswarm-roster-entry-1"


class RosterError(RemoteError):
    """A roster is malformed, not signed by whom it must be, or may not follow the one before."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A device in a cell.  since: the roster version that this entry was signed for."""

    device: str
    number: int
    role: Role
    capabilities: tuple[str, ...]
    since: int


@dataclass(frozen=True, slots=True)
class DeviceKey:
    """A certificate of a device, and the roster version from which on it holds."""

    since: int
    certificate: Certificate
    signed: bytes


@dataclass(frozen=True, slots=True)
class Member:
    """An entry, as it was signed and by whom, with the device's certificates, oldest first; the last is the current."""

    entry: Entry
    signed: bytes
    signer: bytes  # key id of an authority
    keys: tuple[DeviceKey, ...]

    @property
    def public(self) -> bytes:
        """The key of now."""
        return self.keys[-1].certificate.public


# --- making ---------------------------------------------------------------------------------------------------------


def sign_entry(entry: Entry, *, fleet: str, cell: str, by: Signatory) -> bytes:
    """The signed form of an entry.  by: the issuer or an operator."""
    tree = [entry.device, entry.number, entry.role, list(entry.capabilities), entry.since]
    if entry_of([*tree]) is None:
        raise LocalError(f"roster entry: {entry!r:.200} is out of its bounds")
    return cose.sign1_by(codec.dumps(tree), sign=by.sign, kid=by.kid, external_aad=entry_aad(fleet, cell))


def entry_aad(fleet: str, cell: str) -> bytes:
    """What binds an entry to its cell."""
    return f"{_ENTRY_AAD}/{fleet}/{cell}".encode()


def entry_in(signed: bytes) -> Entry:
    """What a signed entry says, its signature not checked.  Raises RosterError."""
    try:
        entry = entry_of(codec.loads(cose.parse1(signed).payload or b""))
    except CodecError as error:
        raise RosterError(f"roster entry: {error}") from None
    if entry is None:
        raise wrong("an entry: [device, raft number, role, capabilities, since]")
    return entry


# --- reading --------------------------------------------------------------------------------------------------------


def decode_member(item: object, version: int) -> Member:
    """A device's row in the roster `version`.  Raises RosterError, CodecError, CertificateError."""
    match item:
        case [bytes(signed), list(certificates)] if len(signed) <= 8 * CERTIFICATE_BYTES_MAX:
            parts = cose.parse1(signed, who="roster entry")
        case _:
            raise wrong("a device as [entry, certificates]")
    entry = entry_of(codec.loads(parts.payload or b"", who="roster entry"))
    if entry is None or entry.since > version:
        raise wrong("an entry: [device, raft number, role, capabilities, since]")
    if not 0 < len(certificates) <= CERTIFICATES_PER_DEVICE_MAX:
        raise wrong(f"{entry.device}: 1 to {CERTIFICATES_PER_DEVICE_MAX} certificates")
    keys: list[DeviceKey] = []
    for pair in certificates:
        match pair:
            case [int(since), bytes(data)] if 1 <= since <= version:
                keys.append(DeviceKey(since, read_certificate(data), data))
            case _:
                raise wrong(f"{entry.device}: certificates as [since, certificate]")
    return Member(entry, signed, parts.kid, tuple(keys))


def entry_of(tree: object) -> Entry | None:
    """The entry in a decoded payload, or None where it has another shape."""
    match tree:
        case [str(device), int(number), str(role), list(capabilities), int(since)]:
            if not topics.is_device(device) or role not in ROLES or not 0 < number <= RAFT_NUMBER_MAX or since < 1:
                return None
            return Entry(device, number, role, capabilities_of(capabilities, f"entry {device}"), since)
    return None


def voters_of(items: list[codec.Value], least: int) -> tuple[int, ...]:
    """A list of raft numbers of at least `least`.  Raises RosterError."""
    numbers = tuple(item for item in items if type(item) is int and 0 < item <= RAFT_NUMBER_MAX)
    if len(numbers) != len(items) or list(numbers) != sorted(set(numbers)) or not least <= len(numbers) <= VOTERS_MAX:
        raise wrong(f"{least} to {VOTERS_MAX} voters as raft numbers, rising, each once")
    return numbers


def wrong(expected: str) -> RosterError:
    return RosterError(f"roster: expected {expected}")
