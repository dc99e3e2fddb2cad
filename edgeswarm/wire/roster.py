"""The roster of a cell: who is in it, with which key, in which role, and who votes.  Numbered, hash-linked, signed.

An *entry* (device, raft number, role, capabilities) is signed by the issuer (workers, readers) or by an operator
(coordinators, administrators).  A device's *certificates* (its keys) stand beside its entry, signed by the issuer, the
old ones kept: what was signed earlier verifies against the certificate of its time.  The *roster* as a whole is signed
by an operator (may change all), the issuer (may add workers and readers, and certificates), or the leader (may change
who votes, among coordinators, with the certificate that proves that it leads under the roster before).
This module decides whether one roster is right by itself and who is in it; roster_change.py, whether it may follow
another.

Invariants of a verified roster: device ids, raft numbers and public keys are each there once; every voter is a
coordinator; raft numbers are below `number_next`, which never falls, so that none is used again; a certificate holds
from the roster version `since` on.  Where the fleet's root has changed, the roster carries the statements that prove it
(root_change.py): authorities are signed by the newest root, and who trusts an earlier one walks to it.
Pure: dates are judged where `now_s` is given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from edgeswarm.errors import CodecError, LimitError
from edgeswarm.limits import (
    AUTHORITIES_MAX,
    CELL_ROOTS_MAX,
    CERTIFICATE_BYTES_MAX,
    DEVICES_MAX,
    LEADER_BYTES_MAX,
    RAFT_NUMBER_MAX,
    ROOT_ROTATION_BYTES_MAX,
    ROSTER_BYTES_MAX,
)
from edgeswarm.wire import codec, cose, root_change, topics
from edgeswarm.wire.capability import granted
from edgeswarm.wire.certificate import (
    OPERATOR_ROLES,
    SECONDS_MAX,
    Authority,
    CertificateError,
    Role,
    Signatory,
    open_authority,
    open_certificate,
)
from edgeswarm.wire.roster_form import (
    DeviceKey,
    Entry,
    Member,
    RosterError,
    decode_member,
    entry_aad,
    voters_of,
    wrong,
)

__all__ = ["DeviceKey", "Entry", "Member", "Roster", "RosterError", "sign_roster", "whole_aad"]

HASH_BYTES: Final = 32
_ROSTER_AAD: Final = "edgeswarm-roster-1"


@dataclass(frozen=True)
class Roster:
    """One version.  Made by `Roster.decode` (unverified) and `Roster.open` (verified)."""

    fleet: str
    cell: str
    version: int
    previous: bytes  # SHA-256 of the bytes of the version before; empty for version 1
    created_s: int  # when it was signed: a time that has passed
    authorities: tuple[bytes, ...]  # signed by the fleet root
    members: tuple[Member, ...]  # by device id
    voter_numbers: tuple[int, ...]
    outgoing_numbers: tuple[int, ...]  # not empty while voters change (joint consensus)
    voters_since: int  # version since which voters are these
    number_next: int  # no device ever had a raft number from here on
    leader: bytes  # leader certificate, where the leader signed; else empty
    roots: tuple[bytes, ...]  # changes of the fleet root, in order (root_change): none is ever taken out
    roots_done: int  # of so many changes the root before is trusted by TLS no more
    signer: bytes  # key id: of an authority, or of the leader's key
    data: bytes = field(repr=False)

    # --- who ----------------------------------------------------------------------------------------------------------

    def member(self, device: str) -> Member | None:
        return self._by_device.get(device)

    def by_number(self, number: int) -> Member | None:
        return self._by_number.get(number)

    def lookup(self, device: str, now_s: int | None = None) -> bytes | None:
        """The public key of `device` now; None when it is not here, or (now_s: trusted floor) its key has expired."""
        member = self._by_device.get(device)
        if member is None or (now_s is not None and member.keys[-1].certificate.expired(now_s)):
            return None
        return member.keys[-1].certificate.public

    def lookup_at(self, device: str, serial: int) -> bytes | None:
        """The public key in the certificate `serial` of `device`, for what it signed in that time."""
        member = self._by_device.get(device)
        keys = () if member is None else member.keys
        return next((key.certificate.public for key in keys if key.certificate.serial == serial), None)

    def keys_of_number(self, number: int, version: int) -> tuple[bytes, ...]:
        """The keys with which the device of this raft number may have signed under roster `version`, or since."""
        member = self._by_number.get(number)
        if member is None:
            return ()
        newest = max((key.since for key in member.keys if key.since <= version), default=0)
        return tuple(key.certificate.public for key in member.keys if key.since >= newest)

    def voters(self) -> tuple[int, ...]:
        """Raft numbers, rising."""
        return self.voter_numbers

    def voters_outgoing(self) -> tuple[int, ...]:
        """Voters of the configuration that is being left; empty unless voters change."""
        return self.outgoing_numbers

    def is_voter(self, device: str) -> bool:
        member = self._by_device.get(device)
        return member is not None and member.entry.number in (*self.voter_numbers, *self.outgoing_numbers)

    def role(self, device: str) -> Role | None:
        member = self._by_device.get(device)
        return None if member is None else member.entry.role

    def may(self, device: str, capability: str, agent: str = "") -> bool:
        """Whether `capability` is granted to `device`, for `agent` if one is named (wire.capability.granted)."""
        member = self._by_device.get(device)
        return member is not None and granted(member.entry.capabilities, capability, agent)

    def devices(self) -> tuple[str, ...]:
        return tuple(self._by_device)

    @cached_property
    def hash(self) -> bytes:
        """SHA-256 of the whole: what the next version names as `previous`."""
        return hashlib.sha256(self.data).digest()

    @cached_property
    def _by_device(self) -> Mapping[str, Member]:
        return {member.entry.device: member for member in self.members}

    @cached_property
    def _by_number(self) -> Mapping[int, Member]:
        return {member.entry.number: member for member in self.members}

    # --- whether ------------------------------------------------------------------------------------------------------

    @classmethod
    def decode(cls, data: bytes) -> Roster:
        """What a roster says.  Its shape is checked, its signatures are not.  Raises RosterError."""
        try:
            parts = cose.parse1(data, who="roster", bytes_max=ROSTER_BYTES_MAX)
            tree = codec.loads(parts.payload or b"", who="roster", bytes_max=ROSTER_BYTES_MAX)
            return _decode(tree, parts.kid, data)
        except (CodecError, LimitError, CertificateError) as error:
            raise RosterError(str(error)) from None

    @classmethod
    def open(
        cls,
        data: bytes,
        *,
        root_public: bytes,
        previous: Roster | None = None,
        fleet: str = "",
        cell: str = "",
        check: cose.Verify = cose.check,
    ) -> Roster:
        """A verified roster.  fleet, cell: where given, it must be theirs.  Raises RosterError."""
        roster = cls.decode(data)
        if (fleet and roster.fleet != fleet) or (cell and roster.cell != cell):
            raise RosterError(f"roster: of cell {roster.fleet}/{roster.cell}, expected {fleet or '*'}/{cell or '*'}")
        roster.verify(root_public, previous, check=check)
        return roster

    def verify(self, root_public: bytes, previous: Roster | None = None, *, check: cose.Verify = cose.check) -> None:
        """Raises RosterError, saying what is wrong, unless every signature holds and it may follow `previous`.

        previous: the verified version before; then what did not change is not checked again.  None: at first contact;
        then it must be signed by an operator or the issuer, and their word is taken for how it came about.
        """
        from edgeswarm.wire import roster_change  # which knows this module

        authorities = self.open_authorities(root_public, check=check)
        _check_once(self)
        known = {} if previous is None else {member.signed: member for member in previous.members}
        for member in self.members:
            _verify_member(self, member, authorities, known.get(member.signed), check)
        roster_change.verify_whole(self, authorities, previous, check)
        if previous is not None:
            roster_change.verify_change(self, previous, authorities, check)

    def open_authorities(self, root_public: bytes, *, check: cose.Verify = cose.check) -> dict[bytes, Authority]:
        """Key id -> authority, each signed by the newest root.  Raises RosterError."""
        found: dict[bytes, Authority] = {}
        root_public = self.newest_root(root_public, check=check)
        for signed in self.authorities:
            try:
                authority = open_authority(signed, fleet=self.fleet, root_public=root_public, verify=check)
            except CertificateError as error:
                raise RosterError(f"roster {self.version}: {error}") from None
            if authority.kid in found:
                raise RosterError(f"roster {self.version}: authority {authority.name}: one key twice")
            found[authority.kid] = authority
        return found

    def newest_root(self, root_public: bytes, *, check: cose.Verify = cose.check) -> bytes:
        """The root of this version, for who trusts `root_public`, a root before it or after.  Raises RosterError."""
        try:
            return root_change.newest(self.roots, root_public, fleet=self.fleet, verify=check)
        except CertificateError as error:
            raise RosterError(f"roster {self.version}: {error}") from None

    def operator_key(self, kid: bytes, root_public: bytes) -> bytes | None:
        """The public key of the operator with this key id: `lookup` of messages.open_order."""
        authority = self.open_authorities(root_public).get(kid)
        return authority.public if authority is not None and authority.duty == "operator" else None


# --- making ---------------------------------------------------------------------------------------------------------


def sign_roster(tree: list[object], *, fleet: str, cell: str, by: Signatory) -> bytes:
    """tree: see roster_change.make."""
    data = cose.sign1_by(codec.dumps(tree), sign=by.sign, kid=by.kid, external_aad=whole_aad(fleet, cell))
    if len(data) > ROSTER_BYTES_MAX:
        raise LimitError(f"roster: at most {ROSTER_BYTES_MAX} bytes, found {len(data)}")
    return data


def whole_aad(fleet: str, cell: str) -> bytes:
    return f"{_ROSTER_AAD}/{fleet}/{cell}".encode()


# --- reading --------------------------------------------------------------------------------------------------------


def _decode(tree: object, signer: bytes, data: bytes) -> Roster:
    match tree:
        case ["roster", int(form), str(fleet), str(cell), int(version), bytes(previous), int(created), *rest]:
            match rest:
                case [list(authorities), list(members), list(voters), list(outgoing), int(since), int(number), *more]:
                    leader, *later = more or [None]
                case _:
                    raise wrong("its fields in their order")
        case _:
            raise wrong("[roster, form, fleet, cell, version, ...]")
    if form < 1 or not isinstance(leader, bytes) or (later and form == 1) or len(leader) > LEADER_BYTES_MAX:
        raise wrong("form 1 with its 14 fields, or a later one")
    roots, roots_done = ((), 0) if form == 1 else _roots(form, later)
    if not topics.is_fleet(fleet) or not topics.is_cell(cell):
        raise wrong("the names of a fleet and a cell")
    if not 1 <= since <= version <= RAFT_NUMBER_MAX or not 0 <= created <= SECONDS_MAX:
        raise wrong("a version from 1, voters since then or before, and a date")
    if len(previous) != (0 if version == 1 else HASH_BYTES):
        raise wrong(f"the hash of the version before ({HASH_BYTES} bytes), and none in version 1")
    signed = tuple(item for item in authorities if isinstance(item, bytes) and len(item) <= CERTIFICATE_BYTES_MAX)
    if len(signed) != len(authorities) or not 0 < len(signed) <= AUTHORITIES_MAX:
        raise wrong(f"1 to {AUTHORITIES_MAX} authorities")
    if not 0 < len(members) <= DEVICES_MAX:
        raise wrong(f"1 to {DEVICES_MAX} devices, found {len(members)}")
    return Roster(
        fleet=fleet,
        cell=cell,
        version=version,
        previous=previous,
        created_s=created,
        authorities=signed,
        members=tuple(decode_member(item, version) for item in members),
        voter_numbers=voters_of(voters, 1),
        outgoing_numbers=voters_of(outgoing, 0),
        voters_since=since,
        number_next=number,
        leader=leader,
        roots=roots,
        roots_done=roots_done,
        signer=signer,
        data=data,
    )


def _roots(form: int, later: list[object]) -> tuple[tuple[bytes, ...], int]:
    """Fields 15 and 16, from form 2 on."""
    match later:
        case [list(items), int(done), *more] if 0 < len(items) <= CELL_ROOTS_MAX and 0 <= done <= len(items):
            found = tuple(item for item in items if isinstance(item, bytes) and len(item) <= ROOT_ROTATION_BYTES_MAX)
            if len(found) == len(items) and not (more and form == 2) and not isinstance(done, bool):
                return found, done
    raise wrong(f"form 2 with 1 to {CELL_ROOTS_MAX} changes of the root and how many are done, or a later one")


# --- checking -------------------------------------------------------------------------------------------------------


def _check_once(roster: Roster) -> None:
    """Device ids, raft numbers and keys are there once; voters are coordinators."""
    numbers: dict[int, str] = {}
    publics: dict[bytes, str] = {}
    last = ""
    for member in roster.members:
        device, number = member.entry.device, member.entry.number
        if device <= last:
            raise RosterError(f"roster {roster.version}: device {device} is there twice, or out of order")
        last = device
        if numbers.setdefault(number, device) != device:
            raise RosterError(f"roster {roster.version}: {numbers[number]} and {device} both have raft number {number}")
        if number >= roster.number_next:
            raise RosterError(
                f"roster {roster.version}: {device} has raft number {number}, next is {roster.number_next}"
            )
        for key in member.keys:
            public = key.certificate.public
            if publics.setdefault(public, device) != device:
                raise RosterError(f"roster {roster.version}: {publics[public]} and {device} have one key")
    for number in (*roster.voter_numbers, *roster.outgoing_numbers):
        voter = roster.by_number(number)
        if voter is None or voter.entry.role != "coordinator":
            raise RosterError(f"roster {roster.version}: voter {number} is not a coordinator of it")


def _verify_member(
    roster: Roster, member: Member, authorities: Mapping[bytes, Authority], known: Member | None, check: cose.Verify
) -> None:
    """known: the member with the same signed entry in a roster that was verified."""
    entry = member.entry
    who = f"roster {roster.version}: device {entry.device}"
    if known is None:
        authority = authorities.get(member.signer)
        if authority is None:
            raise RosterError(f"{who}: its entry is signed by nobody of this fleet")
        if entry.role in OPERATOR_ROLES and authority.duty != "operator":
            raise RosterError(f"{who}: a {entry.role} needs an operator's signature, found the {authority.duty}'s")
        for capability in entry.capabilities:
            if not authority.may_grant(capability):
                raise RosterError(f"{who}: {authority.name} may not grant {capability!r}")
        aad = entry_aad(roster.fleet, roster.cell)
        try:
            cose.verify1(member.signed, lookup=lambda _: authority.public, external_aad=aad, verify=check)
        except CodecError as error:
            raise RosterError(f"{who}: its entry, of cell {roster.fleet}/{roster.cell}: {error}") from None
    before = () if known is None else known.keys
    serial = since = 0
    for key in member.keys:
        certificate = key.certificate
        if certificate.serial <= serial or key.since <= since:
            raise RosterError(f"{who}: certificates are out of order: serial {certificate.serial} after {serial}")
        serial, since = certificate.serial, key.since
        if certificate.device != entry.device:
            raise RosterError(f"{who}: has a certificate of {certificate.device}")
        if key in before:
            continue
        try:
            open_certificate(key.signed, fleet=roster.fleet, issuers=authorities, verify=check)
        except CertificateError as error:
            raise RosterError(f"{who}: certificate {certificate.serial}: {error}") from None
    if entry.role not in member.keys[-1].certificate.roles:
        raise RosterError(f"{who}: its certificate is not for a {entry.role}")
