"""Plans and orders of rollouts: what is taken, and everything that must not be."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm import schema
from edgeswarm.errors import EdgeSwarmError, LimitError, LocalError
from edgeswarm.limits import PLAN_BYTES_MAX, ROLLOUT_WHY_CHARS_MAX
from edgeswarm.wire import codec, cose
from edgeswarm.wire.certificate import Signatory
from edgeswarm.wire.dev_fleet import DevFleet, make_dev_fleet
from edgeswarm.wire.rollout import (
    Gate,
    Order,
    Plan,
    RolloutError,
    SectionPlace,
    Share,
    open_order,
    open_plan,
    parse_gate,
    read_plan,
    seal_order,
    seal_plan,
)

MADE = make_dev_fleet(2, entropy=b"rollout", now_s=1_700_000_000)
PLAN = Plan(
    rollout="00112233aabbccdd",
    agent="pump-7",
    version="1.2.3",
    artefact="ab" * 32,
    size_bytes=5_000,
    selector="site=hall-3",
    waves=("1", "10%", "100%"),
    gate=Gate(),
    allow_downgrade=False,
    created_s=1_700_000_001,
    sections=(SectionPlace(100, 900, "cd" * 32), SectionPlace(1_000, 4_000, "ef" * 32)),
)
ORDER = Order(PLAN.rollout, "paused", "somebody called", 1_700_000_002)


def sealed(plan: Plan = PLAN, *, by: Signatory = MADE.operator, fleet: str = "dev", cell: str = "cell") -> bytes:
    return seal_plan(plan, fleet=fleet, cell=cell, by=by)


def opened(data: bytes, made: DevFleet = MADE) -> Plan:
    return open_plan(data, roster=made.roster, root_public=made.root_public)


def order_opened(data: bytes) -> Order:
    return open_order(data, roster=MADE.roster, root_public=MADE.root_public)


def raw(tree: object, by: Signatory = MADE.operator) -> bytes:
    """Signed whatever it is: what an operator's broken or hostile program could make."""
    return cose.sign1_by(codec.dumps(tree), sign=by.sign, kid=by.kid, external_aad=b"edgeswarm-rollout-1/dev/cell")


def test_plan_comes_back_as_it_was_signed() -> None:
    assert opened(sealed()) == PLAN == read_plan(sealed())


@pytest.mark.parametrize("state", ["paused", "running", "aborted", "rolled_back"])
def test_operator_signs_every_order(state: str) -> None:
    order = dataclasses.replace(ORDER, state=state)
    assert order_opened(seal_order(order, fleet="dev", cell="cell", by=MADE.operator)) == order


@pytest.mark.parametrize(
    ("state", "may"), [("paused", True), ("rolled_back", True), ("running", False), ("aborted", False)]
)
def test_issuer_may_take_back_and_nothing_else(state: str, may: bool) -> None:
    data = seal_order(dataclasses.replace(ORDER, state=state), fleet="dev", cell="cell", by=MADE.issuer)
    if may:
        assert order_opened(data).state == state
    else:
        with pytest.raises(RolloutError, match="may sign paused, rolled_back only, found"):
            order_opened(data)


@pytest.mark.parametrize("who", [MADE.issuer, MADE.root, MADE.device("d1"), Signatory.from_seed(b"x" * 32)])
def test_plan_of_anybody_but_an_operator_is_refused(who: Signatory) -> None:
    with pytest.raises(RolloutError, match="no key of this id"):
        opened(sealed(by=who))


@pytest.mark.parametrize(("fleet", "cell"), [("other", "cell"), ("dev", "other")])
def test_plan_of_another_fleet_or_cell_is_refused(fleet: str, cell: str) -> None:
    with pytest.raises(RolloutError, match="signature does not match"):
        opened(sealed(fleet=fleet, cell=cell))


def test_an_order_is_no_plan_and_a_plan_no_order() -> None:
    with pytest.raises(RolloutError):
        opened(seal_order(ORDER, fleet="dev", cell="cell", by=MADE.operator))
    with pytest.raises(RolloutError):
        order_opened(sealed())


@given(st.integers(0, len(sealed()) - 1), st.integers(1, 255))
@settings(max_examples=300)
def test_no_byte_of_a_signed_plan_can_be_changed(at: int, flip: int) -> None:
    data = bytearray(sealed())
    data[at] ^= flip
    with pytest.raises(RolloutError):
        opened(bytes(data))


@given(st.binary(max_size=200))
@settings(max_examples=200)
def test_rubbish_is_refused_with_our_error(data: bytes) -> None:
    for open_it in (opened, order_opened, read_plan):
        with pytest.raises(RolloutError):
            open_it(data)


BAD = [
    ("rollout", "XX"),
    ("agent", "../x"),
    ("version", "1.2"),
    ("artefact", "ab"),
    ("size_bytes", 0),
    ("size_bytes", 1 << 40),
    ("selector", ""),
    ("selector", "x" * 3_000),
    ("waves", []),
    ("waves", ["0"]),
    ("waves", ["101%"]),
    ("waves", ["50%", "10%"]),
    ("waves", ["1", "1"]),
    ("waves", ["1%"] * 40),
    ("gate", {"healthy_s": -1}),
    ("gate", {"failed_max": "many"}),
    ("gate", {"unheard_of": 1}),
    ("allow_downgrade", 1),
    ("created_s", 1 << 50),
    (
        "sections",
        [{"offset": 10, "size_bytes": 10, "sha256": "ab" * 32}, {"offset": 5, "size_bytes": 1, "sha256": "ab" * 32}],
    ),
    ("sections", [{"offset": 4_999, "size_bytes": 2, "sha256": "ab" * 32}]),
    ("more", "of the same"),
]


@pytest.mark.parametrize(("key", "value"), BAD)
def test_signed_plan_with_a_field_that_is_wrong_is_refused(key: str, value: object) -> None:
    """An operator's signature makes nothing right: each device judges what is in it."""
    tree = schema.encode_whole(PLAN) | {key: value}
    with pytest.raises(RolloutError, match=key.removesuffix("_bytes") if key != "more" else "more"):
        opened(raw(tree))


def test_nobody_signs_what_nobody_takes() -> None:
    with pytest.raises(LocalError):
        sealed(dataclasses.replace(PLAN, version="one"))
    with pytest.raises(LocalError):
        seal_order(
            dataclasses.replace(ORDER, why="x" * (ROLLOUT_WHY_CHARS_MAX + 1)),
            fleet="dev",
            cell="cell",
            by=MADE.operator,
        )
    with pytest.raises(RolloutError):
        opened(b"\xd2" + b"\x00" * PLAN_BYTES_MAX)


def test_largest_plan_fits_its_bound() -> None:
    sections = tuple(SectionPlace(at * 100, 100, "ab" * 32) for at in range(16))
    plan = dataclasses.replace(PLAN, sections=sections, selector="ä" * 2_000)
    assert len(sealed(plan)) < PLAN_BYTES_MAX and opened(sealed(plan)) == plan
    with pytest.raises((LocalError, LimitError)):
        sealed(dataclasses.replace(PLAN, sections=sections * 2))


@given(st.integers(0, 100), st.integers(0, 10_000))
def test_percentage_rounds_against_the_fleet(percent: int, whole: int) -> None:
    """Up where devices are given something, down where they may fail."""
    share = Share.parse(f"{percent}%")
    assert share.of(whole, up=False) <= whole * percent / 100 <= share.of(whole, up=True) <= whole
    assert share.of(whole, up=True) - share.of(whole, up=False) <= 1


def test_gate_reads_as_people_write_it() -> None:
    assert parse_gate("healthy=5m,failed=2%, silent=3 ,pause=1h") == Gate(300, "2%", "3", 3_600)
    assert parse_gate("") == Gate()


@pytest.mark.parametrize(
    "text", ["healthy", "healthy=x", "failed=-1", "failed=101%", "fail=1", "failed=1,failed=2", "healthy=99999999s"]
)
def test_gate_that_is_wrong_is_refused(text: str) -> None:
    with pytest.raises(EdgeSwarmError, match=r"gate"):
        parse_gate(text)
