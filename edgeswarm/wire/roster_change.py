"""Whether one roster may follow another, and how the next one is made.

Who may change what:
    operator  all
    issuer    add workers and readers, change those, add certificates; not remove, not touch what an operator signed,
              not change voters
    leader    who votes, and nothing else; it proves that it leads under the version before
    nobody    take back a change of the fleet's root; only an operator adds one, which both roots have signed
The first version is an operator's.  A signature counts if its authority was in office at `created_s`, which never
falls from version to version: so a cell that is cut off for a year goes on, and a key that ran out signs nothing new.
Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from edgeswarm.errors import CodecError, LocalError
from edgeswarm.limits import CERTIFICATES_PER_DEVICE_MAX
from edgeswarm.wire import cose, leadership
from edgeswarm.wire.certificate import Authority, Signatory
from edgeswarm.wire.roster import Roster, sign_roster, whole_aad
from edgeswarm.wire.roster_form import Entry, Member, RosterError, entry_in, sign_entry

FORM, FORM_ROOTS = 1, 2  # the second where the root has changed


# --- making ---------------------------------------------------------------------------------------------------------


def first_roster(
    *,
    fleet: str,
    cell: str,
    created_s: int,
    authorities: Sequence[bytes],
    entries: Iterable[tuple[bytes, bytes]],
    voters: Collection[int],
    by: Signatory,
) -> Roster:
    """Version 1.  entries: (signed entry with since 1, signed certificate) a device.  by: an operator."""
    rows = sorted((entry_in(entry).device, entry, [[1, certificate]]) for entry, certificate in entries)
    number_next = 1 + max((entry_in(entry).number for _, entry, _ in rows), default=0)
    return _make(
        fleet=fleet,
        cell=cell,
        version=1,
        previous=b"",
        created_s=created_s,
        authorities=authorities,
        rows=rows,
        voters=voters,
        outgoing=(),
        voters_since=1,
        number_next=number_next,
        leader=b"",
        by=by,
    )


def next_roster(
    previous: Roster,
    *,
    created_s: int,
    by: Signatory,
    entries: Iterable[bytes] = (),
    certificates: Mapping[str, bytes] | None = None,
    remove: Collection[str] = (),
    voters: Collection[int] | None = None,
    outgoing: Collection[int] = (),
    authorities: Sequence[bytes] | None = None,
    roots: Sequence[bytes] | None = None,
    roots_done: int | None = None,
    leader: leadership.LeaderCertificate | None = None,
) -> Roster:
    """The version after `previous`.  It is not verified here: whoever takes it does that.

    entries: signed entries (since: this version), of new devices or in the place of old ones.  certificates: device ->
    new signed certificate; a new device needs one.  remove: device ids.  voters: raft numbers, None: as before.
    outgoing: the voters before, while they change.  roots, roots_done: None: as before.
    by: operator, issuer, or the leader, with its certificate.
    """
    version = previous.version + 1
    fresh = dict(certificates or {})
    rows: dict[str, tuple[str, bytes, list[list[object]]]] = {}
    for member in previous.members:
        if member.entry.device not in remove:
            pairs: list[list[object]] = [[key.since, key.signed] for key in member.keys]
            rows[member.entry.device] = (member.entry.device, member.signed, pairs)
    number_next = previous.number_next
    for signed in entries:
        entry = entry_in(signed)
        kept = rows.get(entry.device)
        rows[entry.device] = (entry.device, signed, [] if kept is None else kept[2])
        number_next = max(number_next, entry.number + 1)
    for device, certificate in fresh.items():
        if device not in rows:
            raise LocalError(f"roster: a certificate for {device}, which has no entry")
        pairs = [*rows[device][2], [version, certificate]][-CERTIFICATES_PER_DEVICE_MAX:]
        rows[device] = (device, rows[device][1], pairs)
    chosen = previous.voter_numbers if voters is None else tuple(sorted(voters))
    same = chosen == previous.voter_numbers and tuple(sorted(outgoing)) == previous.outgoing_numbers
    return _make(
        fleet=previous.fleet,
        cell=previous.cell,
        version=version,
        previous=previous.hash,
        created_s=max(created_s, previous.created_s),
        authorities=previous.authorities if authorities is None else authorities,
        rows=sorted(rows.values()),
        voters=chosen,
        outgoing=outgoing,
        voters_since=previous.voters_since if same else version,
        number_next=number_next,
        leader=b"" if leader is None else leader.encode(),
        roots=previous.roots if roots is None else roots,
        roots_done=previous.roots_done if roots_done is None else roots_done,
        by=by,
    )


def _make(
    *,
    fleet: str,
    cell: str,
    version: int,
    previous: bytes,
    created_s: int,
    authorities: Sequence[bytes],
    rows: Sequence[tuple[str, bytes, Sequence[Sequence[object]]]],
    voters: Collection[int],
    outgoing: Collection[int],
    voters_since: int,
    number_next: int,
    leader: bytes,
    by: Signatory,
    roots: Sequence[bytes] = (),
    roots_done: int = 0,
) -> Roster:
    tree: list[object] = [
        "roster",
        FORM_ROOTS if roots else FORM,
        fleet,
        cell,
        version,
        previous,
        created_s,
        list(authorities),
        [[entry, certificates] for _, entry, certificates in rows],
        sorted(voters),
        sorted(outgoing),
        voters_since,
        number_next,
        leader,
        *([list(roots), roots_done] if roots else []),
    ]
    return Roster.decode(sign_roster(tree, fleet=fleet, cell=cell, by=by))


def new_entry(roster: Roster, entry: Entry, by: Signatory) -> bytes:
    """`entry` signed for the version after `roster`."""
    return sign_entry(
        Entry(entry.device, entry.number, entry.role, entry.capabilities, roster.version + 1),
        fleet=roster.fleet,
        cell=roster.cell,
        by=by,
    )


# --- checking -------------------------------------------------------------------------------------------------------


def verify_whole(
    roster: Roster, authorities: Mapping[bytes, Authority], previous: Roster | None, check: cose.Verify
) -> None:
    """The signature over the whole: an authority in office, or the leader under the version before."""
    who = f"roster {roster.version}"
    authority = authorities.get(roster.signer)
    if authority is not None:
        if not authority.valid_at(roster.created_s):
            raise RosterError(f"{who}: {authority.name} was not in office at {roster.created_s}")
        if roster.version == 1 and authority.duty != "operator":
            raise RosterError(f"{who}: the first needs an operator's signature, found the {authority.duty}'s")
        public = authority.public
    else:
        if previous is None:
            raise RosterError(f"{who}: at first contact, expected the signature of an operator or the issuer")
        public = _leader_key(roster, previous, check)
    try:
        aad = whole_aad(roster.fleet, roster.cell)
        cose.verify1(roster.data, lookup=lambda _: public, external_aad=aad, who=who, verify=check)
    except CodecError as error:
        raise RosterError(str(error)) from None


def _leader_key(roster: Roster, previous: Roster, check: cose.Verify) -> bytes:
    """The key of the leader that signed, once it is proved that it leads under `previous`."""
    who = f"roster {roster.version}"
    if not roster.leader:
        raise RosterError(f"{who}: signed by nobody of this fleet, and without a leader's certificate")
    try:
        certificate = leadership.LeaderCertificate.decode(roster.leader, who=who)
        leadership.verify(certificate, previous, check=check)
    except leadership.LeadershipError as error:
        raise RosterError(f"{who}: {error}") from None
    member = previous.by_number(certificate.candidate)
    if member is None or cose.key_id(member.public) != roster.signer:
        raise RosterError(f"{who}: not signed by the leader whose certificate it holds")
    return member.public


def verify_change(roster: Roster, previous: Roster, authorities: Mapping[bytes, Authority], check: cose.Verify) -> None:
    """Raises RosterError unless `roster` may follow `previous`, or is the same."""
    who = f"roster {roster.version}"
    if roster.data == previous.data:
        return
    if (roster.fleet, roster.cell) != (previous.fleet, previous.cell):
        raise RosterError(f"{who}: of cell {roster.fleet}/{roster.cell}, after one of {previous.fleet}/{previous.cell}")
    if roster.version != previous.version + 1:
        what = "another one of this version is known" if roster.version == previous.version else "expected the next"
        raise RosterError(f"{who}: after version {previous.version}: {what}")
    if roster.previous != previous.hash:
        raise RosterError(f"{who}: it does not follow the version {previous.version} that is known here")
    if roster.created_s < previous.created_s or roster.number_next < previous.number_next:
        raise RosterError(f"{who}: its date or its next raft number is before that of version {previous.version}")
    voters = (roster.voter_numbers, roster.outgoing_numbers)
    same = voters == (previous.voter_numbers, previous.outgoing_numbers)
    if roster.voters_since != (previous.voters_since if same else roster.version):
        raise RosterError(f"{who}: voters since {roster.voters_since} is not when they changed")
    for member in roster.members:
        _verify_member_change(roster, previous, member)
    verify_roots(roster, previous)
    authority = authorities.get(roster.signer)
    if authority is not None and authority.duty == "operator":
        return
    if (roster.roots, roster.roots_done) != (previous.roots, previous.roots_done):
        raise RosterError(f"{who}: only an operator may add a change of the fleet's root")
    if authority is not None:
        _verify_issuer_change(roster, previous, authorities, same, who)
    else:
        _verify_leader_change(roster, previous, who)


def verify_roots(roster: Roster, known: Roster) -> None:
    """A later roster goes on from the root of the one that is known; RosterError unless it does."""
    kept = roster.roots[: len(known.roots)] == known.roots
    if not kept or roster.roots_done < known.roots_done:
        raise RosterError(
            f"roster {roster.version}: of a root that version {known.version} has replaced, or of another in its place"
        )


def _verify_member_change(roster: Roster, previous: Roster, member: Member) -> None:
    """What is new in a device's row was made for this version, and nothing of the old was exchanged."""
    entry = member.entry
    who = f"roster {roster.version}: device {entry.device}"
    before = previous.member(entry.device)
    if before is None:
        if entry.number < previous.number_next:
            raise RosterError(f"{who}: raft number {entry.number} was used before, next is {previous.number_next}")
        kept: tuple[object, ...] = ()
    else:
        if entry.number != before.entry.number:
            raise RosterError(f"{who}: raft number {entry.number}, it was {before.entry.number}")
        kept = before.keys
    if (before is None or member.signed != before.signed) and entry.since != roster.version:
        raise RosterError(f"{who}: an entry that was signed for version {entry.since}")
    added = [key for key in member.keys if key not in kept]
    if any(key.since != roster.version for key in added) or len(added) > 1:
        raise RosterError(f"{who}: expected at most one new certificate, since {roster.version}")
    old = member.keys[: len(member.keys) - len(added)]
    if old != kept[len(kept) - len(old) :] or (len(old) < len(kept) and len(member.keys) < CERTIFICATES_PER_DEVICE_MAX):
        raise RosterError(f"{who}: certificates of before are missing")


def _verify_issuer_change(
    roster: Roster, previous: Roster, authorities: Mapping[bytes, Authority], same_voters: bool, who: str
) -> None:
    if not same_voters:
        raise RosterError(f"{who}: the issuer may not change voters")
    if not set(previous.authorities) <= set(roster.authorities):
        raise RosterError(f"{who}: the issuer may not remove an authority")
    for before in previous.members:
        member = roster.member(before.entry.device)
        if member is None:
            raise RosterError(f"{who}: the issuer may not remove {before.entry.device}: an operator revokes")
        was = authorities.get(before.signer)
        now = authorities.get(member.signer)
        if member.signed != before.signed and was is not None and was.duty == "operator":
            if now is None or now.duty != "operator":
                raise RosterError(f"{who}: the issuer may not change the entry of {before.entry.device}: an operator's")


def _verify_leader_change(roster: Roster, previous: Roster, who: str) -> None:
    rows = [(member.signed, member.keys) for member in roster.members]
    if rows != [(member.signed, member.keys) for member in previous.members]:
        raise RosterError(f"{who}: a leader may change voters only, found changed devices")
    if roster.authorities != previous.authorities or roster.number_next != previous.number_next:
        raise RosterError(f"{who}: a leader may change voters only, found changed authorities or numbers")
