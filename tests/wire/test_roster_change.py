"""From one roster to the next: what each signer may change, and that nothing of before is lost or comes back."""

from __future__ import annotations

from typing import Any

import pytest

from edgeswarm.errors import LocalError
from edgeswarm.limits import CERTIFICATES_PER_DEVICE_MAX
from edgeswarm.wire import codec, cose
from edgeswarm.wire.certificate import Certificate, Role, Signatory, sign_certificate
from edgeswarm.wire.dev_fleet import YEAR_S, make_dev_fleet
from edgeswarm.wire.leadership import LeaderCertificate, VoteStatement
from edgeswarm.wire.roster import Roster, RosterError, sign_roster
from edgeswarm.wire.roster_change import new_entry, next_roster
from edgeswarm.wire.roster_form import Entry

NOW_S = 1_700_000_000
FLEET = make_dev_fleet(5, entropy=b"change", now_s=NOW_S, voters=1, coordinators=4)
FIRST = FLEET.roster
OPERATOR, ISSUER, LEADER = FLEET.operator, FLEET.issuer, FLEET.device("d1")


def key_of(name: str) -> Signatory:
    return Signatory.from_seed(cose.public_key(b"0" * 32)[:16] + name.encode().ljust(16, b"-"))


def certificate(device: str, key: Signatory, serial: int = 1) -> bytes:
    made = Certificate("dev", device, key.public, serial, NOW_S, NOW_S + YEAR_S, ("coordinator", "worker"))
    return sign_certificate(made, ISSUER)


def entry(roster: Roster, device: str, number: int, role: Role = "worker", by: Signatory = ISSUER) -> bytes:
    return new_entry(roster, Entry(device, number, role, (), 0), by)


def after(previous: Roster = FIRST, *, by: Signatory = OPERATOR, **changes: Any) -> Roster:
    return next_roster(previous, created_s=previous.created_s + 1, by=by, **changes)


def accepted(roster: Roster, previous: Roster = FIRST) -> Roster:
    return Roster.open(roster.data, root_public=FLEET.root_public, previous=previous)


def refused(text: str, roster: Roster, previous: Roster = FIRST) -> None:
    with pytest.raises(RosterError, match=text):
        accepted(roster, previous)


def edited(roster: Roster, *, by: Signatory = OPERATOR, **places: Any) -> Roster:
    """`roster` with items of its array replaced (a4=... is item 4), signed again."""
    items: Any = codec.loads(cose.parse1(roster.data).payload or b"")
    for place, value in places.items():
        items[int(place[1:])] = value
    return Roster.decode(sign_roster(items, fleet="dev", cell="cell", by=by))


def leads(device: str, roster: Roster, *, term: int = 3, voters: tuple[str, ...] = ("d1",)) -> LeaderCertificate:
    member = roster.member(device)
    assert member is not None
    statement = VoteStatement(
        fleet="dev",
        cell="cell",
        roster_version=roster.version,
        term=term,
        candidate=member.entry.number,
        last_index=5,
        last_term=2,
        voter=0,
    )
    votes = {}
    for voter in voters:
        found = roster.member(voter)
        assert found is not None
        votes[found.entry.number] = FLEET.device(voter).sign(statement.by(found.entry.number).to_be_signed())
    return LeaderCertificate.make(statement, votes)


JOINED = after(by=ISSUER, entries=[entry(FIRST, "d6", 6)], certificates={"d6": certificate("d6", key_of("d6"))})


# --- the issuer -----------------------------------------------------------------------------------------------------


def test_the_issuer_lets_a_worker_join() -> None:
    roster = accepted(JOINED)
    assert roster.version == 2 and roster.previous == FIRST.hash and roster.number_next == 7
    assert roster.lookup("d6") == key_of("d6").public and roster.voters_since == 1
    assert roster.keys_of_number(1, 1) == FIRST.keys_of_number(1, 1)


def test_the_issuer_rotates_a_key_and_the_old_one_still_verifies() -> None:
    fresh = key_of("d1 new")
    roster = accepted(after(by=ISSUER, certificates={"d1": certificate("d1", fresh, serial=2)}))
    old = FIRST.lookup("d1")
    assert roster.lookup("d1") == fresh.public and roster.lookup_at("d1", 1) == old
    assert roster.keys_of_number(1, 1) == (old, fresh.public)  # a vote under version 1, by either
    assert roster.keys_of_number(1, 2) == (fresh.public,)  # from version 2 on, the new one only


def test_the_oldest_certificates_go_when_there_are_too_many() -> None:
    roster = FIRST
    for serial in range(2, CERTIFICATES_PER_DEVICE_MAX + 3):
        fresh = certificate("d5", key_of(f"d5 {serial}"), serial)
        roster = accepted(after(roster, by=ISSUER, certificates={"d5": fresh}), roster)
    member = roster.member("d5")
    assert member is not None and len(member.keys) == CERTIFICATES_PER_DEVICE_MAX
    assert roster.lookup_at("d5", 2) is None and roster.lookup_at("d5", 3) is not None


def test_the_issuer_does_not_revoke() -> None:
    refused("the issuer may not remove d5: an operator revokes", after(by=ISSUER, remove=["d5"]))


def test_the_issuer_does_not_touch_voters() -> None:
    refused("the issuer may not change voters", after(by=ISSUER, voters=[1, 2, 3]))


def test_the_issuer_does_not_demote_a_coordinator() -> None:
    demoted = after(by=ISSUER, entries=[entry(FIRST, "d2", 2)])
    refused("the issuer may not change the entry of d2: an operator's", demoted)


def test_the_issuer_does_not_dismiss_an_operator() -> None:
    refused("the issuer may not remove an authority", after(by=ISSUER, authorities=FIRST.authorities[:1]))


# --- an operator ----------------------------------------------------------------------------------------------------


def test_an_operator_revokes_and_the_number_is_not_used_again() -> None:
    roster = accepted(after(remove=["d5"]))
    assert roster.lookup("d5") is None and roster.number_next == 6
    again = after(roster, entries=[entry(roster, "d5", 5)], certificates={"d5": certificate("d5", key_of("x"))})
    refused("raft number 5 was used before, next is 6", again, roster)
    renewed = after(roster, entries=[entry(roster, "d5", 6)], certificates={"d5": certificate("d5", key_of("x"))})
    assert accepted(renewed, roster).lookup("d5") == key_of("x").public


def test_an_operator_changes_voters_in_two_steps() -> None:
    joint = accepted(after(voters=[1, 2, 3], outgoing=[1]))
    assert joint.voters_outgoing() == (1,) and joint.voters_since == 2
    done = accepted(after(joint, voters=[1, 2, 3]), joint)
    assert done.voters_outgoing() == () and done.voters_since == 3
    assert accepted(after(done), done).voters_since == 3


def test_an_operator_promotes_a_worker() -> None:
    roster = accepted(after(entries=[entry(FIRST, "d5", 5, "coordinator", OPERATOR)]))
    assert roster.role("d5") == "coordinator"


# --- the leader -----------------------------------------------------------------------------------------------------


def test_the_leader_lets_coordinators_vote() -> None:
    """1 -> 3 without anybody's hand: the leader of version 1 proves that it leads, and changes voters only."""
    joint = accepted(after(by=LEADER, voters=[1, 2, 3], outgoing=[1], leader=leads("d1", FIRST)))
    assert joint.voters() == (1, 2, 3)
    lead = leads("d1", joint, voters=("d1", "d2"), term=4)
    assert accepted(after(joint, by=LEADER, voters=[1, 2, 3], leader=lead), joint).voters_outgoing() == ()


def test_a_leader_proves_it() -> None:
    change: dict[str, Any] = {"by": LEADER, "voters": [1, 2, 3]}
    refused("signed by nobody of this fleet, and without a leader's certificate", after(**change))
    refused("candidate 2 is not among the voters", after(**change, leader=leads("d2", FIRST)))
    refused("not signed by the leader", after(by=FLEET.device("d2"), voters=[1, 2, 3], leader=leads("d1", FIRST)))
    other = make_dev_fleet(5, entropy=b"other", now_s=NOW_S).device("d1")
    statement = leads("d1", FIRST).statement(1)
    fake = LeaderCertificate.make(statement, {1: other.sign(statement.to_be_signed())})
    refused("the signature of voter 1 does not hold", after(**change, leader=fake))


def test_a_leader_changes_nothing_but_voters() -> None:
    lead = leads("d1", FIRST)
    for changes, text in [
        ({"remove": ["d5"]}, "found changed devices"),
        ({"certificates": {"d1": certificate("d1", key_of("y"), 2)}}, "found changed devices"),
        ({"authorities": FIRST.authorities[::-1]}, "found changed authorities"),
        ({"voters": [1, 5]}, "voter 5 is not a coordinator"),
    ]:
        refused(text, after(by=LEADER, leader=lead, **changes))


def test_a_roster_that_a_leader_signed_is_no_first_contact() -> None:
    roster = after(by=LEADER, voters=[1, 2, 3], leader=leads("d1", FIRST))
    with pytest.raises(RosterError, match="at first contact"):
        Roster.open(roster.data, root_public=FLEET.root_public)


# --- the chain ------------------------------------------------------------------------------------------------------


def test_versions_follow_each_other() -> None:
    second = accepted(after())
    third = after(second)
    refused("after version 1: expected the next", third)
    refused("after version 2: expected the next", FIRST, second)
    refused("another one of this version is known", after(remove=["d5"]), second)
    assert accepted(second, second) == second  # a retained one comes again
    other = after(after(remove=["d5"]))
    refused("it does not follow the version 2 that is known here", other, second)


def test_an_old_entry_does_not_come_back() -> None:
    """d5 is revoked; its entry of version 1, still well signed, may not be put in again."""
    roster = accepted(after(remove=["d5"]))
    old = FIRST.member("d5")
    assert old is not None
    again = edited(after(roster), a12=7)
    items: Any = codec.loads(cose.parse1(again.data).payload or b"")
    items[8].append([old.signed, [[1, old.keys[0].signed]]])
    forged = Roster.decode(sign_roster(items, fleet="dev", cell="cell", by=ISSUER))
    refused("raft number 5 was used before", forged, roster)


def test_a_changed_entry_is_signed_for_its_version() -> None:
    early = new_entry(FIRST, Entry("d5", 5, "reader", (), 0), ISSUER)  # for version 2
    second = accepted(after())
    refused("an entry that was signed for version 2", after(second, entries=[early]), second)


def test_a_device_keeps_its_raft_number() -> None:
    refused("raft number 6, it was 5", after(entries=[entry(FIRST, "d5", 6)]))


def test_certificates_are_kept_and_date_from_their_version() -> None:
    row = [FIRST.members[4].signed, [[1, certificate("d5", key_of("z"), 2)]]]
    rows = [[member.signed, [[1, member.keys[0].signed]]] for member in FIRST.members[:4]]
    refused("expected at most one new certificate, since 2", edited(after(), a8=[*rows, row]))
    row[1] = [[2, certificate("d5", key_of("z"), 2)]]
    refused("certificates of before are missing", edited(after(), a8=[*rows, row]))
    stale = after(certificates={"d5": certificate("d5", key_of("z"), 1)})
    refused("certificates are out of order: serial 1 after 1", stale)


def test_dates_numbers_and_voters_since_do_not_lie() -> None:
    joined = accepted(JOINED)
    refused("its date or its next raft number is before", edited(after(joined), a6=NOW_S), joined)
    smaller = edited(after(joined, remove=["d6"]), a12=6)
    refused("its next raft number is before", smaller, joined)
    refused("voters since 2 is not when they changed", edited(after(), a11=2))
    refused("voters since 1 is not when they changed", edited(after(voters=[1, 2, 3]), a11=1))


def test_a_certificate_needs_an_entry() -> None:
    with pytest.raises(LocalError, match="a certificate for d9, which has no entry"):
        after(certificates={"d9": certificate("d9", key_of("d9"))})


def test_a_key_of_another_device_does_not_rotate_in() -> None:
    stolen = certificate("d5", FLEET.device("d1"), 2)
    refused("d1 and d5 have one key", after(by=ISSUER, certificates={"d5": stolen}))
