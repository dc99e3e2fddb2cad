"""A leader's certificate: a quorum of signed votes of one roster's voters, and nothing less."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.errors import LocalError
from edgeswarm.wire import codec, cose, leadership
from edgeswarm.wire.certificate import Certificate, Signatory, sign_certificate
from edgeswarm.wire.dev_fleet import YEAR_S, DevFleet, make_dev_fleet
from edgeswarm.wire.leadership import LeaderCertificate, LeadershipError, VoteStatement
from edgeswarm.wire.roster import Roster
from edgeswarm.wire.roster_change import next_roster

NOW_S = 1_700_000_000
FLEETS = {
    voters: make_dev_fleet(6, entropy=b"lead", now_s=NOW_S, voters=voters, coordinators=5) for voters in (1, 3, 5)
}
FLEET = FLEETS[3]
STATEMENT = VoteStatement(
    fleet="dev", cell="cell", roster_version=1, term=7, candidate=2, last_index=40, last_term=6, voter=2
)


def won(voters: Sequence[int], fleet: DevFleet = FLEET, statement: VoteStatement = STATEMENT) -> LeaderCertificate:
    """The certificate of a candidate that these voters (raft numbers: 1 is d1) voted for."""
    votes = {voter: fleet.device(f"d{voter}").sign(statement.by(voter).to_be_signed()) for voter in voters}
    return LeaderCertificate.make(statement, votes)


def refused(text: str, certificate: LeaderCertificate, roster: Roster = FLEET.roster) -> None:
    with pytest.raises(LeadershipError, match=text):
        leadership.verify(certificate, roster)


def test_a_quorum_proves_a_leader() -> None:
    leadership.verify(won([1, 2]), FLEET.roster)
    leadership.verify(LeaderCertificate.decode(won([1, 2, 3]).encode()), FLEET.roster)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_every_quorum_and_nothing_less(count: int) -> None:
    fleet = FLEETS[count]
    statement = dataclasses.replace(STATEMENT, candidate=1)
    for size in range(1, count + 1):
        for voters in itertools.combinations(range(1, count + 1), size):
            if size > count // 2:
                leadership.verify(won(voters, fleet, statement), fleet.roster)
            else:
                refused(f"expected {count // 2 + 1} votes .* found {size}", won(voters, fleet, statement), fleet.roster)


def test_it_is_as_small_as_was_said() -> None:
    """swarm.md counts 144 bytes of signatures for 3 voters; the rest is what was voted on."""
    assert len(won([1, 2]).encode()) <= 180


def test_a_certificate_of_another_cell_is_refused() -> None:
    refused("of cell dev/hall, expected dev/cell", won([1, 2], statement=dataclasses.replace(STATEMENT, cell="hall")))
    refused("of cell f/cell, expected dev/cell", won([1, 2], statement=dataclasses.replace(STATEMENT, fleet="f")))


def test_a_vote_of_another_cell_term_candidate_or_entry_is_worth_nothing() -> None:
    for change in ({"cell": "hall"}, {"term": 8}, {"candidate": 1}, {"last_index": 41}, {"last_term": 5}):
        other = won([1], statement=dataclasses.replace(STATEMENT, **change))  # type: ignore[arg-type]
        votes = {**dict(won([2]).votes), **dict(other.votes)}
        refused("the signature of voter 1 does not hold", LeaderCertificate.make(STATEMENT, votes))


def test_a_vote_counts_for_its_own_voter_only() -> None:
    votes = dict(won([2]).votes)
    refused("the signature of voter 1 does not hold", LeaderCertificate.make(STATEMENT, {1: votes[2], 2: votes[2]}))


def test_two_votes_of_one_voter_are_one() -> None:
    vote = won([2]).votes[0]
    twice = dataclasses.replace(won([2]), votes=(vote, vote))
    refused("two votes of 2", twice)
    with pytest.raises(LeadershipError, match="rising order, each once"):
        LeaderCertificate.decode(twice.encode())


def test_who_may_not_vote_does_not_count() -> None:
    """d4 is a coordinator that does not vote, d6 a worker."""
    for device in (4, 6):
        refused(rf"a vote of {device}, which is not among the voters \[1, 2, 3\]", won([1, 2, device]))
    refused(r"candidate 4 is not among the voters", won([1, 2], statement=dataclasses.replace(STATEMENT, candidate=4)))


def test_a_forged_retained_leader_is_refused() -> None:
    """Somebody with keys of his own publishes a certificate for himself."""
    refused("the signature of voter 1 does not hold", won([1, 2], make_dev_fleet(6, entropy=b"forger", now_s=NOW_S)))


def test_terms_start_at_one() -> None:
    refused("expected a term from 1", won([1, 2], statement=dataclasses.replace(STATEMENT, term=0)))


def grown(**changes: Any) -> Roster:
    roster = next_roster(FLEET.roster, created_s=NOW_S + 1, by=FLEET.operator, **changes)
    return Roster.open(roster.data, root_public=FLEET.root_public, previous=FLEET.roster)


def test_a_new_worker_does_not_void_the_leader_and_new_voters_do() -> None:
    leadership.verify(won([1, 2]), grown(remove=["d6"]))
    changed = grown(voters=[1, 2, 3, 4, 5])
    refused("cites roster version 1, while the voters known here are those of versions 2 to 2", won([1, 2, 3]), changed)
    later = won([1, 2], statement=dataclasses.replace(STATEMENT, roster_version=2))
    refused("cites roster version 2, while the voters known here are those of versions 1 to 1", later)


def test_while_voters_change_both_halves_must_have_voted() -> None:
    joint = grown(voters=[3, 4, 5], outgoing=[1, 2, 3])
    statement = dataclasses.replace(STATEMENT, roster_version=2)
    leadership.verify(won([2, 3, 4], statement=statement), joint)
    refused(r"expected 2 votes of the voters \[1, 2, 3\], found 1", won([3, 4, 5], statement=statement), joint)
    refused(r"expected 2 votes of the voters \[3, 4, 5\], found 1", won([1, 2, 3], statement=statement), joint)
    leadership.verify(won([1, 3, 5], statement=dataclasses.replace(statement, candidate=1)), joint)


def test_a_rotated_key_keeps_its_votes_and_votes_no_more() -> None:
    fresh = Signatory.from_seed(b"f" * 32)
    made = Certificate("dev", "d1", fresh.public, 2, NOW_S, NOW_S + YEAR_S, ("coordinator",))
    rotated = grown(certificates={"d1": sign_certificate(made, FLEET.issuer)})
    leadership.verify(won([1, 2]), rotated)
    later = dataclasses.replace(STATEMENT, roster_version=2)
    refused("the signature of voter 1 does not hold", won([1, 2], statement=later), rotated)
    votes = {1: fresh.sign(later.by(1).to_be_signed()), 2: FLEET.device("d2").sign(later.by(2).to_be_signed())}
    leadership.verify(LeaderCertificate.make(later, votes), rotated)


VERSION_AT = 8  # of the form, behind the array's head and "leader": how to read the rest, and no claim

# --- bytes ----------------------------------------------------------------------------------------------------------

numbers = st.integers(0, (1 << 63) - 1)
voted = st.dictionaries(st.integers(1, (1 << 63) - 1), st.binary(min_size=64, max_size=64), min_size=1, max_size=10)
certificates = st.builds(
    LeaderCertificate,
    fleet=st.just("dev"),
    cell=st.just("cell"),
    roster_version=numbers,
    term=numbers,
    candidate=numbers,
    last_index=numbers,
    last_term=numbers,
    votes=voted.map(lambda votes: tuple(sorted(votes.items()))),
)


@given(certificates)
@settings(max_examples=50, deadline=None)
def test_decode_undoes_encode(certificate: LeaderCertificate) -> None:
    assert LeaderCertificate.decode(certificate.encode()) == certificate


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_changed_byte_is_refused(data: st.DataObject) -> None:
    mutant = bytearray(won([1, 2]).encode())
    at = data.draw(st.integers(0, len(mutant) - 1).filter(lambda at: at != VERSION_AT))
    mutant[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(LeadershipError):
        leadership.verify(LeaderCertificate.decode(bytes(mutant)), FLEET.roster)


@given(st.binary(max_size=100))
@settings(deadline=None)
def test_bytes_from_outside_are_refused(data: bytes) -> None:
    for prefix in (b"", won([1, 2]).encode()[:60]):
        with pytest.raises(LeadershipError):
            LeaderCertificate.decode(prefix + data)


@pytest.mark.parametrize(
    ("at", "value"),
    [(0, "lead"), (1, 0), (2, "Dev"), (3, "join"), (4, -1), (5, True), (6, 1 << 63), (7, "1"), (8, None), (9, []),
     (9, 5), (9, [[1]]), (9, [[1, b"short"]]), (9, [[0, b"s" * 64], [0, b"s" * 64]]), (9, [[True, b"s" * 64]]),
     (9, [[number, b"s" * 64] for number in range(1, 12)])],
)  # fmt: skip
def test_fields_of_another_shape_are_refused(at: int, value: Any) -> None:
    items: Any = codec.loads(won([1, 2]).encode())
    items[at] = value
    with pytest.raises(LeadershipError):
        LeaderCertificate.decode(codec.dumps(items))


def test_a_later_version_may_have_more_fields_and_ours_may_not() -> None:
    items: Any = codec.loads(won([1, 2]).encode())
    with pytest.raises(LeadershipError, match="expected ten fields"):
        LeaderCertificate.decode(codec.dumps([*items, 5]))
    items[1] = 2
    assert LeaderCertificate.decode(codec.dumps([*items, 5])) == won([1, 2])


def test_too_many_votes_are_our_mistake() -> None:
    with pytest.raises(LocalError, match="11 votes are too many"):
        LeaderCertificate.make(STATEMENT, dict.fromkeys(range(1, 12), b"s" * 64)).encode()


def test_pycose_checks_a_vote() -> None:
    """A vote is the signature of a detached COSE_Sign1 whose protected header is {1: -8}."""
    pytest.importorskip("pycose", reason="pycose is not installed")
    from pycose.keys import OKPKey
    from pycose.keys.curves import Ed25519
    from pycose.messages import CoseMessage

    device = FLEET.device("d2")
    signature = device.sign(STATEMENT.to_be_signed())
    message = b"\xd2" + codec.dumps([codec.dumps({1: 0})[:-1] + b"\x27", {}, STATEMENT.payload(), signature])
    theirs: Any = CoseMessage.decode(message)
    key: Any = OKPKey(crv=Ed25519, x=device.public)
    theirs.key, theirs.external_aad = key, leadership.VOTE_AAD
    assert theirs.verify_signature()
    assert cose.check(device.public, STATEMENT.to_be_signed(), signature)
