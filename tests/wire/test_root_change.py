"""The fleet's root changes: believed with both signatures only; who has an earlier root gets to the newest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.errors import LimitError, LocalError
from edgeswarm.limits import CELL_ROOTS_MAX, CERTIFICATE_BYTES_MAX
from edgeswarm.wire import codec, cose, root_change
from edgeswarm.wire.certificate import CertificateError, Signatory, sign_authority
from edgeswarm.wire.dev_fleet import make_dev_fleet
from edgeswarm.wire.root_change import RootChange, open_change, sign_change
from edgeswarm.wire.roster import Roster, RosterError
from edgeswarm.wire.roster_change import next_roster, verify_roots

FLEET = make_dev_fleet(3, entropy=b"roots", now_s=1_700_000_000, voters=1)
FIRST = FLEET.roster
ROOTS = [FLEET.root, *(Signatory.from_seed(bytes([number]) * 32) for number in range(1, CELL_ROOTS_MAX + 3))]
THIEF = Signatory.from_seed(b"t" * 32)


def change(number: int = 2, *, fleet: str = "dev", old: Signatory | None = None, new: Signatory | None = None) -> bytes:
    """Root `number` follows the one before it."""
    old, new = old or ROOTS[number - 2], new or ROOTS[number - 1]
    return sign_change(RootChange(fleet, number, old.public, new.public, 5, b"root", b"issuer"), old=old, new=new)


def forged(outer: Signatory, inner: Signatory, *, fleet: str = "dev", aad: str = "", **fields: Any) -> bytes:
    """A change from root 1 to root 2 that says so, signed by whomever."""
    tree: list[Any] = ["root", 1, fleet, 2, ROOTS[0].public, ROOTS[1].public, 5, b"root", b"issuer"]
    for place, value in fields.items():
        tree[int(place[1:])] = value
    name = (aad or fleet).encode()
    body = cose.sign1_by(
        codec.dumps(tree), sign=inner.sign, kid=inner.kid, external_aad=b"edgeswarm-root-change-key-1/" + name
    )
    return cose.sign1_by(body, sign=outer.sign, kid=outer.kid, external_aad=b"edgeswarm-root-change-1/" + name)


def moved(roster: Roster, *items: bytes, root: Signatory, by: Signatory = FLEET.operator, done: int = 0) -> Roster:
    """The next roster, of root `root`."""
    before = ROOTS[len(roster.roots)]
    offices = roster.open_authorities(before.public).values()
    return next_roster(
        roster, created_s=roster.created_s, by=by, authorities=[sign_authority(one, root) for one in offices],
        roots=[*roster.roots, *items], roots_done=done,
    )  # fmt: skip


SECOND = moved(FIRST, change(2), root=ROOTS[1])
THIRD = moved(SECOND, change(3), root=ROOTS[2])


# --- one change -----------------------------------------------------------------------------------------------------


keys = st.binary(min_size=32, max_size=32).map(Signatory.from_seed)
certificates = st.binary(min_size=1, max_size=CERTIFICATE_BYTES_MAX)


@given(
    keys,
    keys,
    st.integers(2, CELL_ROOTS_MAX + 1),
    st.integers(0, 1 << 40),
    st.tuples(certificates, certificates) | st.just((b"", b"")),
)
@settings(max_examples=60, deadline=None)
def test_what_was_signed_opens_as_it_was(
    old: Signatory, new: Signatory, number: int, at_s: int, both: tuple[bytes, bytes]
) -> None:
    made = RootChange("dev", number, old.public, new.public, at_s, *both)
    if old.public == new.public:
        with pytest.raises(LocalError):
            sign_change(made, old=old, new=new)
        return
    assert open_change(sign_change(made, old=old, new=new), fleet="dev") == made


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_changed_byte_is_refused(data: st.DataObject) -> None:
    mutant = bytearray(change())
    mutant[data.draw(st.integers(0, len(mutant) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CertificateError):
        open_change(bytes(mutant), fleet="dev")


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(CertificateError):
        open_change(data, fleet="dev")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (forged(ROOTS[0], ROOTS[0]), "signature of the new root"),  # by the old one only
        (forged(ROOTS[1], ROOTS[1]), "signature of the root before"),  # by the new one only
        (forged(THIEF, ROOTS[1]), "signature of the root before"),
        (forged(ROOTS[0], THIEF), "signature of the new root"),
        (forged(ROOTS[1], ROOTS[0]), "signature of the root before"),  # the wrong way around
        (change(2, fleet="other"), "of fleet other, expected dev"),
        (forged(ROOTS[0], ROOTS[1], aad="other"), "signature"),  # another fleet's, renamed
    ],
)
def test_what_both_roots_of_this_fleet_have_not_signed_is_refused(data: bytes, text: str) -> None:
    with pytest.raises(CertificateError, match=text):
        open_change(data, fleet="dev")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, "boot"), (1, 2), (2, "Dev"), (3, 1), (3, CELL_ROOTS_MAX + 2), (3, True), (4, b"x"), (5, b"x" * 33),
        (5, ROOTS[0].public), (6, -1), (6, (1 << 40) + 1), (6, False), (7, "x"),
        (7, b"x" * (CERTIFICATE_BYTES_MAX + 1)), (8, b""), (8, None),
    ],
)  # fmt: skip
def test_fields_out_of_their_bounds_are_refused(place: int, value: Any) -> None:
    with pytest.raises(CertificateError, match="expected"):
        open_change(forged(ROOTS[0], ROOTS[1], **{f"a{place}": value}), fleet="dev")


def test_nobody_signs_what_is_out_of_bounds_or_not_his() -> None:
    made = RootChange("dev", 2, ROOTS[0].public, ROOTS[1].public, 5)
    with pytest.raises(LocalError, match="the keys that it names"):
        sign_change(made, old=ROOTS[0], new=THIEF)
    for wrong in (replace(made, number=1), replace(made, fleet=""), replace(made, root_certificate=b"x")):
        with pytest.raises(LocalError):
            sign_change(wrong, old=ROOTS[0], new=ROOTS[1])
    assert made.authorities() == () and open_change(change(), fleet="dev").authorities()[0].startswith(b"-----BEGIN")


# --- a row ----------------------------------------------------------------------------------------------------------


def test_any_root_of_a_row_leads_to_the_newest_and_a_stranger_nowhere() -> None:
    row = [change(2), change(3), change(4)]
    for root in ROOTS[:4]:
        assert root_change.newest(row, root.public, fleet="dev") == ROOTS[3].public
    assert root_change.newest([], THIEF.public, fleet="dev") == THIEF.public
    with pytest.raises(CertificateError, match="of other roots"):
        root_change.newest(row, THIEF.public, fleet="dev")


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ([change(3)], "expected root 2, found root 3"),
        ([change(2), change(2)], "expected root 3, found root 2"),
        ([change(2), change(3, old=THIEF)], "does not follow"),
        ([change(2), change(3, new=ROOTS[0])], "comes back"),
        ([change(2)] * (CELL_ROOTS_MAX + 1), "at most 16"),
    ],
)
def test_rows_that_do_not_hold_together_are_refused(row: list[bytes], text: str) -> None:
    with pytest.raises(CertificateError, match=text):
        root_change.newest(row, ROOTS[0].public, fleet="dev")


def test_in_a_log_the_first_of_two_counts_and_what_follows_nothing_is_passed_over() -> None:
    log = [b"junk", change(3), change(2), change(2, new=THIEF), change(3, old=THIEF, new=ROOTS[5]), change(3)]
    assert root_change.linked(log, ROOTS[1].public, fleet="dev") == (change(2), change(3))
    assert root_change.linked(log, THIEF.public, fleet="dev") == ()
    assert root_change.linked([], ROOTS[0].public, fleet="dev") == ()


def test_as_many_changes_as_a_cell_keeps() -> None:
    row = [change(number) for number in range(2, CELL_ROOTS_MAX + 2)]
    assert root_change.newest(row, ROOTS[0].public, fleet="dev") == ROOTS[CELL_ROOTS_MAX].public
    with pytest.raises((LocalError, LimitError)):
        change(CELL_ROOTS_MAX + 2)


# --- rosters --------------------------------------------------------------------------------------------------------


def test_roster_of_a_new_root_is_taken_by_who_has_any_root_of_the_row() -> None:
    for root in ROOTS[:3]:
        assert Roster.open(THIRD.data, root_public=root.public).newest_root(root.public) == ROOTS[2].public
    Roster.open(SECOND.data, root_public=ROOTS[0].public, previous=FIRST)
    Roster.open(THIRD.data, root_public=ROOTS[1].public, previous=SECOND)
    assert FIRST.data == Roster.decode(FIRST.data).data and FIRST.roots == ()
    with pytest.raises(RosterError, match="of other roots"):
        Roster.open(THIRD.data, root_public=THIEF.public)


def test_authorities_of_the_old_root_are_refused_once_the_root_has_changed() -> None:
    stale = next_roster(FIRST, created_s=FIRST.created_s, by=FLEET.operator, roots=[change(2)])
    with pytest.raises(RosterError, match="no key of this id"):
        stale.verify(ROOTS[0].public, FIRST)


@pytest.mark.parametrize("by", [FLEET.issuer, FLEET.device("d1")])
def test_only_an_operator_brings_a_new_root_in(by: Signatory) -> None:
    with pytest.raises(RosterError):
        moved(FIRST, change(2), root=ROOTS[1], by=by).verify(ROOTS[0].public, FIRST)
    if by is FLEET.issuer:
        with pytest.raises(RosterError, match="only an operator may add a change"):
            next_roster(SECOND, created_s=SECOND.created_s, by=by, roots_done=1).verify(ROOTS[1].public, SECOND)


@pytest.mark.parametrize(
    "item", [forged(ROOTS[0], ROOTS[0]), forged(ROOTS[1], ROOTS[1]), change(2, fleet="other"), change(2, old=THIEF)]
)
def test_an_operator_without_both_roots_brings_none_in(item: bytes) -> None:
    with pytest.raises(RosterError):
        moved(FIRST, item, root=ROOTS[1]).verify(ROOTS[0].public, FIRST)


def test_nobody_goes_back_to_an_old_root_or_to_another_one() -> None:
    back = next_roster(SECOND, created_s=SECOND.created_s, by=FLEET.operator, authorities=FIRST.authorities, roots=[])
    other = moved(FIRST, change(2, new=THIEF), root=THIEF)
    for roster in (back, other, next_roster(other, created_s=other.created_s, by=FLEET.operator)):
        with pytest.raises(RosterError, match="has replaced, or of another in its place"):
            verify_roots(roster, SECOND)
    with pytest.raises(RosterError):
        back.verify(ROOTS[0].public, SECOND)
    finished = next_roster(SECOND, created_s=SECOND.created_s, by=FLEET.operator, roots_done=1)
    finished.verify(ROOTS[1].public, SECOND)
    with pytest.raises(RosterError, match="has replaced"):
        next_roster(finished, created_s=1, by=FLEET.operator, roots_done=0).verify(ROOTS[1].public, finished)


@pytest.mark.parametrize("later", [[], [5], [[], 0], [[b"x"], 2], [[b"x"], -1], [[5], 0], [[b"x"] * 17, 0],
                                   [[b"x" * 5000], 0], [[b"x"], True], [[b"x"], 0, 1], [b"x", 0]])  # fmt: skip
def test_fields_of_a_roster_out_of_their_bounds_are_refused(later: list[Any]) -> None:
    items: Any = codec.loads(cose.parse1(FIRST.data).payload or b"")
    items[1] = 2
    signed = cose.sign1_by(
        codec.dumps([*items, *later]), sign=FLEET.operator.sign, kid=FLEET.operator.kid,
        external_aad=b"edgeswarm-roster-1/dev/cell",
    )  # fmt: skip
    with pytest.raises(RosterError, match="form 2 with 1 to 16"):
        Roster.decode(signed)
