"""Who leads a cell, for anybody who holds the roster: a quorum of signed votes.

A vote is a statement over (fleet, cell, roster version, term, candidate, the candidate's last entry, voter), signed
detached; it is on the voter's disk before it is sent.  A leader's certificate is such votes of a quorum of the voters
of one roster version (of both halves, while they change).  Candidates and voters are raft numbers: never reused.
Decides whether a certificate proves its claim.  Does not decide whether there is a newer one: who follows keeps the
highest term that it saw.  Two certificates of one term need a voter that voted twice: Raft is not BFT.
Pure.  Source: swarm.md, Signed leadership; Raft paper 5.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

from edgeswarm.errors import CodecError, LimitError, LocalError, RemoteError
from edgeswarm.limits import LEADER_BYTES_MAX, RAFT_NUMBER_MAX, VOTERS_MAX
from edgeswarm.wire import codec, cose, topics

VOTE_AAD: Final = b"edgeswarm-vote-1"
_PROTECTED: Final = codec.dumps({1: 0})[:-1] + b"\x27"  # {1: -8}


class LeadershipError(RemoteError):
    """A leader's certificate does not prove what it claims; the text says what is missing."""


class VoterList(Protocol):
    """What is asked of a roster (wire.roster.Roster)."""

    @property
    def fleet(self) -> str: ...
    @property
    def cell(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def voters_since(self) -> int: ...
    def voters(self) -> tuple[int, ...]: ...
    def voters_outgoing(self) -> tuple[int, ...]: ...
    def keys_of_number(self, number: int, version: int) -> tuple[bytes, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteStatement:
    """What a voter signs.  candidate, voter: raft numbers.  last_index, last_term: of the candidate's last entry."""

    fleet: str
    cell: str
    roster_version: int
    term: int
    candidate: int
    last_index: int
    last_term: int
    voter: int

    def by(self, voter: int) -> VoteStatement:
        """The same statement of another voter."""
        return replace(self, voter=voter)

    def to_be_signed(self) -> bytes:
        """Sig_structure (RFC 9052 4.4) with the protected header {1: -8}: any COSE library can check it."""
        return cose.to_be_signed(_PROTECTED, VOTE_AAD, self.payload())

    def payload(self) -> bytes:
        """The statement by itself."""
        return codec.dumps(
            [
                "vote",
                1,
                self.fleet,
                self.cell,
                self.roster_version,
                self.term,
                self.candidate,
                self.last_index,
                self.last_term,
                self.voter,
            ]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderCertificate:
    """votes: (voter, 64-byte signature), voters rising."""

    fleet: str
    cell: str
    roster_version: int
    term: int
    candidate: int
    last_index: int
    last_term: int
    votes: tuple[tuple[int, bytes], ...]

    @classmethod
    def make(cls, statement: VoteStatement, votes: Mapping[int, bytes]) -> LeaderCertificate:
        """From what the candidate asked and who granted it: voter -> signature."""
        return cls(
            fleet=statement.fleet,
            cell=statement.cell,
            roster_version=statement.roster_version,
            term=statement.term,
            candidate=statement.candidate,
            last_index=statement.last_index,
            last_term=statement.last_term,
            votes=tuple(sorted(votes.items())),
        )

    def statement(self, voter: int) -> VoteStatement:
        """What this voter must have signed."""
        return VoteStatement(
            fleet=self.fleet,
            cell=self.cell,
            roster_version=self.roster_version,
            term=self.term,
            candidate=self.candidate,
            last_index=self.last_index,
            last_term=self.last_term,
            voter=voter,
        )

    def encode(self) -> bytes:
        """Deterministic CBOR.  Raises LocalError past the bounds."""
        data = codec.dumps(
            [
                "leader",
                1,
                self.fleet,
                self.cell,
                self.roster_version,
                self.term,
                self.candidate,
                self.last_index,
                self.last_term,
                [[voter, signature] for voter, signature in self.votes],
            ]
        )
        if len(data) > LEADER_BYTES_MAX or len(self.votes) > 2 * VOTERS_MAX:
            raise LocalError(f"leader certificate: {len(self.votes)} votes are too many")
        return data

    @classmethod
    def decode(cls, data: bytes, *, who: str = "leader certificate") -> LeaderCertificate:
        """Checks the shape, not the votes.  Raises LeadershipError."""
        try:
            tree = codec.loads(data, who=who, bytes_max=LEADER_BYTES_MAX)
        except (CodecError, LimitError) as error:
            raise LeadershipError(str(error)) from None
        match tree:
            case ["leader", int(version), str(fleet), str(cell), *rest] if len(rest) >= 6 and version >= 1:
                numbers = [item for item in rest[:5] if type(item) is int and 0 <= item <= RAFT_NUMBER_MAX]
            case _:
                raise LeadershipError("expected [leader, version, fleet, cell, ...]", who=who)
        if (len(rest) > 6 and version == 1) or not topics.is_fleet(fleet) or not topics.is_cell(cell):
            raise LeadershipError("expected ten fields, with names of a fleet and a cell", who=who)
        if len(numbers) != 5:
            raise LeadershipError("expected numbers from 0 to 2^63-1", who=who)
        roster_version, term, candidate, last_index, last_term = numbers
        return cls(
            fleet=fleet,
            cell=cell,
            roster_version=roster_version,
            term=term,
            candidate=candidate,
            last_index=last_index,
            last_term=last_term,
            votes=_votes(rest[5], who),
        )


def verify(certificate: LeaderCertificate, roster: VoterList, *, check: cose.Verify = cose.check) -> None:
    """Raises LeadershipError, saying what is wrong, unless `certificate` proves that its candidate leads.

    roster: verified; of the certificate's version, or of a later one with the same voters.
    """
    who = f"leader certificate of term {certificate.term}"
    if (certificate.fleet, certificate.cell) != (roster.fleet, roster.cell):
        raise LeadershipError(
            f"of cell {certificate.fleet}/{certificate.cell}, expected {roster.fleet}/{roster.cell}", who=who
        )
    if not roster.voters_since <= certificate.roster_version <= roster.version:
        raise LeadershipError(
            f"cites roster version {certificate.roster_version}, while the voters known here are those of versions "
            f"{roster.voters_since} to {roster.version}",
            who=who,
        )
    if certificate.term < 1:
        raise LeadershipError("expected a term from 1", who=who)
    halves = [frozenset(half) for half in (roster.voters(), roster.voters_outgoing()) if half]
    allowed = frozenset().union(*halves)
    if certificate.candidate not in allowed:
        raise LeadershipError(f"candidate {certificate.candidate} is not among the voters {sorted(allowed)}", who=who)
    good: set[int] = set()
    for voter, signature in certificate.votes:
        if voter not in allowed:
            raise LeadershipError(f"a vote of {voter}, which is not among the voters {sorted(allowed)}", who=who)
        if voter in good:
            raise LeadershipError(f"two votes of {voter}", who=who)
        signed = certificate.statement(voter).to_be_signed()
        if not any(check(key, signed, signature) for key in roster.keys_of_number(voter, certificate.roster_version)):
            raise LeadershipError(f"the signature of voter {voter} does not hold", who=who)
        good.add(voter)
    for half in halves:
        quorum = len(half) // 2 + 1
        if len(good & half) < quorum:
            raise LeadershipError(
                f"expected {quorum} votes of the voters {sorted(half)}, found {len(good & half)}", who=who
            )


def _votes(items: object, who: str) -> tuple[tuple[int, bytes], ...]:
    if not isinstance(items, list) or not 0 < len(items) <= 2 * VOTERS_MAX:
        raise LeadershipError(f"expected 1 to {2 * VOTERS_MAX} votes", who=who)
    votes: list[tuple[int, bytes]] = []
    for item in items:
        match item:
            case [int(voter), bytes(signature)] if len(signature) == cose.SIGNATURE_BYTES and type(voter) is int:
                votes.append((voter, signature))
            case _:
                raise LeadershipError("expected votes as [voter, signature]", who=who)
    if [voter for voter, _ in votes] != sorted({voter for voter, _ in votes}):
        raise LeadershipError("expected voters in rising order, each once", who=who)
    return tuple(votes)
