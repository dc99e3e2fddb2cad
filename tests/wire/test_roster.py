"""One roster by itself: who is in it, and everything that makes it worth nothing."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.errors import LocalError
from edgeswarm.limits import ROSTER_BYTES_MAX
from edgeswarm.wire import codec, cose
from edgeswarm.wire.certificate import Authority, Certificate, Role, Signatory, sign_authority, sign_certificate
from edgeswarm.wire.dev_fleet import DEV_GRANTS, YEAR_S, DevFleet, make_dev_fleet
from edgeswarm.wire.roster import Roster, RosterError, sign_roster
from edgeswarm.wire.roster_form import Entry, sign_entry

NOW_S = 1_700_000_000
FLEET = make_dev_fleet(5, entropy=b"roster", now_s=NOW_S, voters=3, coordinators=4)
ROSTER = FLEET.roster
ROW = 8  # place of the members in the roster's array


def opened(data: bytes, **options: Any) -> Roster:
    return Roster.open(data, root_public=FLEET.root_public, **options)


def tree() -> list[Any]:
    """The roster as plain values."""
    found = codec.loads(cose.parse1(ROSTER.data).payload or b"")
    assert isinstance(found, list)
    return found


def forged(items: list[Any], by: Signatory | None = None, cell: str = "cell") -> bytes:
    """Those values, signed by the operator."""
    return sign_roster(items, fleet="dev", cell=cell, by=by or FLEET.operator)


def entry_of(
    device: str, number: int, role: Role = "worker", *, by: Signatory, since: int = 1, grants: tuple[str, ...] = ()
) -> bytes:
    return sign_entry(Entry(device, number, role, grants, since), fleet="dev", cell="cell", by=by)


def certificate_of(
    device: str, public: bytes, *, serial: int = 1, by: Signatory | None = None, **options: Any
) -> bytes:
    made = Certificate("dev", device, public, serial, NOW_S, NOW_S + YEAR_S, ("coordinator", "worker", "reader"))
    return sign_certificate(dataclasses.replace(made, **options), by or FLEET.issuer)


def refused(text: str, data: bytes) -> None:
    with pytest.raises(RosterError, match=text):
        opened(data)


def test_a_roster_is_what_it_was_made_from() -> None:
    roster = opened(ROSTER.data, fleet="dev", cell="cell")
    assert roster == ROSTER and roster.hash == ROSTER.hash
    assert roster.devices() == ("d1", "d2", "d3", "d4", "d5")
    assert roster.voters() == (1, 2, 3) and roster.voters_outgoing() == () and roster.number_next == 6
    assert [roster.role(device) for device in roster.devices()] == ["coordinator"] * 4 + ["worker"]
    assert roster.is_voter("d3") and not roster.is_voter("d4") and not roster.is_voter("d9")
    assert roster.may("d1", "neural.compute") and roster.may("d1", "tool:x") and not roster.may("d1", "tools")
    assert not roster.may("d9", "neural.compute") and roster.role("d9") is None


def test_keys_are_found_by_device_number_and_serial() -> None:
    public = FLEET.device("d2").public
    assert ROSTER.lookup("d2") == public == ROSTER.lookup_at("d2", 1)
    assert ROSTER.keys_of_number(2, 1) == (public,) and ROSTER.keys_of_number(99, 1) == ()
    member = ROSTER.by_number(2)
    assert member is not None and member.entry.device == "d2" and member.public == public
    for found in (ROSTER.lookup("d9"), ROSTER.lookup_at("d9", 1), ROSTER.lookup_at("d2", 2), ROSTER.member("d9")):
        assert found is None


def test_an_expired_certificate_is_no_key_and_the_roster_still_holds() -> None:
    end_s = NOW_S + YEAR_S
    assert ROSTER.lookup("d1", now_s=end_s) is not None
    assert ROSTER.lookup("d1", now_s=end_s + 1) is None
    assert ROSTER.lookup_at("d1", 1) is not None  # what it signed in its time still verifies


def test_operators_are_found_by_key_id() -> None:
    operator = FLEET.operator
    assert ROSTER.operator_key(operator.kid, FLEET.root_public) == operator.public
    assert ROSTER.operator_key(FLEET.issuer.kid, FLEET.root_public) is None


@pytest.mark.parametrize(("count", "voters"), [(1, (1,)), (2, (1,)), (3, (1, 2, 3)), (5, (1, 2, 3, 4, 5))])
def test_a_fleet_for_development_has_as_many_voters_as_it_can(count: int, voters: tuple[int, ...]) -> None:
    made = make_dev_fleet(count, entropy=b"x", now_s=NOW_S)
    made.roster.verify(made.root_public)
    assert made.roster.voters() == voters


def test_a_fleet_for_development_is_as_secret_as_its_entropy() -> None:
    def seeds(made: DevFleet) -> set[bytes]:
        return {made.root_seed, made.issuer_seed, made.operator_seed, *made.device_seeds.values()}

    one, again, other = (make_dev_fleet(3, entropy=entropy, now_s=NOW_S) for entropy in (b"a", b"a", b"b"))
    assert one.roster.data == again.roster.data and len(seeds(one)) == 6
    assert not seeds(one) & seeds(other)
    with pytest.raises(LocalError):
        make_dev_fleet(0, entropy=b"", now_s=NOW_S)
    named = make_dev_fleet(2, entropy=b"a", now_s=NOW_S, names=["hall", "roof"])
    assert named.roster.devices() == ("hall", "roof")


# --- what is refused ------------------------------------------------------------------------------------------------


def test_a_roster_of_another_root_is_refused() -> None:
    other = make_dev_fleet(3, entropy=b"other", now_s=NOW_S)
    refused("authority: .*no key of this id is known", other.roster.data)


def test_a_roster_of_another_cell_or_fleet_is_refused() -> None:
    other = make_dev_fleet(3, entropy=b"roster", now_s=NOW_S, cell="hall")
    with pytest.raises(RosterError, match="of cell dev/hall, expected dev/cell"):
        opened(other.roster.data, fleet="dev", cell="cell")
    items = tree()
    items[3] = "hall"  # the operator's key, the entries of the cell `cell`
    refused("its entry, of cell dev/hall: .*signature does not match", forged(items, cell="hall"))
    refused("signature does not match", forged(tree(), cell="hall"))


def test_two_devices_with_one_key_are_refused() -> None:
    items = tree()
    items[ROW][4] = [items[ROW][4][0], [[1, certificate_of("d5", FLEET.device("d1").public)]]]
    refused("d1 and d5 have one key", forged(items))


def test_one_device_twice_is_refused() -> None:
    items = tree()
    items[ROW].append(items[ROW][4])
    refused("device d5 is there twice", forged(items))


def test_two_devices_with_one_raft_number_are_refused() -> None:
    items = tree()
    items[ROW][4][0] = entry_of("d5", 2, by=FLEET.issuer)
    refused("d2 and d5 both have raft number 2", forged(items))


def test_a_raft_number_that_is_still_to_come_is_refused() -> None:
    items = tree()
    items[12] = 5
    refused("d5 has raft number 5, next is 5", forged(items))


def test_a_certificate_of_another_device_is_refused() -> None:
    items = tree()
    items[ROW][4][1] = [[1, certificate_of("d9", Signatory.from_seed(b"9" * 32).public)]]
    refused("device d5: has a certificate of d9", forged(items))


def test_a_certificate_that_the_issuer_did_not_sign_is_refused() -> None:
    for by in (FLEET.operator, FLEET.device("d1")):
        items = tree()
        items[ROW][4][1] = [[1, certificate_of("d5", FLEET.device("d5").public, by=by)]]
        refused("device d5: certificate 1: .*no key of this id is known", forged(items))


def test_a_certificate_for_another_role_is_refused() -> None:
    items = tree()
    items[ROW][0][1] = [[1, certificate_of("d1", FLEET.device("d1").public, roles=("worker",))]]
    refused("device d1: its certificate is not for a coordinator", forged(items))


def test_the_issuer_makes_no_coordinators() -> None:
    for role in ("coordinator", "administrator"):
        items = tree()
        items[ROW][4][0] = entry_of("d5", 5, role, by=FLEET.issuer)
        refused(f"a {role} needs an operator's signature, found the issuer's", forged(items))


def test_the_issuer_grants_what_it_may() -> None:
    items = tree()
    items[ROW][4][0] = entry_of("d5", 5, by=FLEET.issuer, grants=("neural.compute", "tool:x@mlp"))
    assert opened(forged(items)).may("d5", "tool:x", "mlp")
    grants = tuple(grant for grant in DEV_GRANTS if grant != "deploy")
    narrow = Authority("dev", "issuer", "dev issuer", FLEET.issuer.public, NOW_S, NOW_S + YEAR_S, grants)
    items[7] = sorted(sign_authority(narrow, FLEET.root) if b"issuer" in each else each for each in items[7])
    assert opened(forged(items)).may("d5", "neural.compute")
    items[ROW][4][0] = entry_of("d5", 5, by=FLEET.issuer, grants=("deploy",))
    refused("dev issuer may not grant 'deploy'", forged(items))
    items[ROW][4][0] = entry_of("d5", 5, by=FLEET.operator, grants=("deploy",))
    assert opened(forged(items)).may("d5", "deploy")
    assert tuple(sorted(DEV_GRANTS)) == DEV_GRANTS


def test_an_entry_signed_by_a_device_is_refused() -> None:
    items = tree()
    items[ROW][4][0] = entry_of("d5", 5, by=FLEET.device("d5"))
    refused("its entry is signed by nobody of this fleet", forged(items))


def test_voters_are_coordinators() -> None:
    for voters in ([1, 5], [1, 99]):
        items = tree()
        items[9] = voters
        refused(f"voter {voters[1]} is not a coordinator", forged(items))


@pytest.mark.parametrize("voters", [[], [2, 1], [1, 1], [1, 2, 3, 4, 5, 6], [0], [True], ["1"]])
def test_voters_are_one_to_five_numbers_in_order(voters: list[Any]) -> None:
    items = tree()
    items[9] = voters
    refused("voters as raft numbers", forged(items))


def test_the_first_roster_is_an_operators_and_every_roster_somebodys() -> None:
    refused("the first needs an operator's signature, found the issuer's", forged(tree(), by=FLEET.issuer))
    refused("at first contact, expected the signature of an operator", forged(tree(), by=FLEET.device("d1")))
    mutant = bytearray(ROSTER.data)
    mutant[-1] ^= 1
    refused("signature does not match", bytes(mutant))


def test_an_operator_who_is_not_in_office_signs_nothing() -> None:
    items = tree()
    items[6] = NOW_S + YEAR_S + 1
    refused("dev operator was not in office", forged(items))


def test_one_authority_twice_is_refused() -> None:
    again = Authority("dev", "operator", "me too", FLEET.operator.public, NOW_S, NOW_S + 5)
    items = tree()
    items[7].append(sign_authority(again, FLEET.root))
    refused("authority me too: one key twice", forged(items))


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (0, "roaster"), (1, 0), (2, "Dev"), (3, "controller"), (4, 0), (4, 1 << 63), (5, b"x"), (6, -1), (7, []),
        (7, [5]), (7, [b"x"] * 33), (8, []), (8, [5]), (8, [[b"", []]]), (9, 5), (10, [0]), (11, 2), (11, 0),
        (12, "6"), (13, None), (13, b"x" * 3000),
    ],
)  # fmt: skip
def test_fields_of_another_shape_are_refused(at: int, value: Any) -> None:
    items = tree()
    items[at] = value
    refused(".", forged(items))


def test_more_fields_are_for_later_forms() -> None:
    refused("form 1 with its 14 fields", forged([*tree(), 5]))
    items = tree()
    items[1] = 2  # with changes of the root: test_root_change.py
    refused("form 2 with 1 to 16 changes of the root", forged(items))
    refused("form 2 with 1 to 16 changes of the root", forged([*items, 5]))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_changed_byte_is_refused(data: st.DataObject) -> None:
    mutant = bytearray(ROSTER.data)
    mutant[data.draw(st.integers(0, len(mutant) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    refused(".", bytes(mutant))


@given(st.binary(max_size=100))
@settings(deadline=None)
def test_bytes_from_outside_are_refused(data: bytes) -> None:
    for prefix in (b"", b"\xd2\x84", ROSTER.data[:200]):
        refused(".", prefix + data)


def test_what_is_too_large_is_refused() -> None:
    refused(f"at most {ROSTER_BYTES_MAX} bytes", b"\xd2" + bytes(ROSTER_BYTES_MAX))
