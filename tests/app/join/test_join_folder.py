"""DIR/swarm is whole or as it was: joining, joining again, moving and leaving, with the power cut at every step."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from join_made import PowerCut, a_fleet, a_key, membership, power_cut

from edgeswarm.app.join import clock, folder
from edgeswarm.app.swarm import config as cell_config
from edgeswarm.app.swarm.rosters import RosterBook
from edgeswarm.drivers import keys
from edgeswarm.drivers.pki import x509
from edgeswarm.errors import LocalError
from edgeswarm.wire.certificate import Signatory, sign_authority
from edgeswarm.wire.join import JoinError, Membership
from edgeswarm.wire.root_change import RootChange, sign_change
from edgeswarm.wire.roster import Roster
from edgeswarm.wire.roster_change import next_roster

PLANT, YARD = a_fleet("plant"), a_fleet("yard")


def join(state: Path, made: object = PLANT, device: str = "gate-1", **more: int) -> Membership:
    found = membership(made, device, a_key(state), **more)  # type: ignore[arg-type]
    folder.check(found, a_key(state), made.fleet)  # type: ignore[attr-defined]
    folder.write(state, found, a_key(state), made.fleet)  # type: ignore[attr-defined]
    return found


def whole(state: Path) -> tuple[str, str, int, int]:
    """(fleet, device, roster version, end of the certificate) of a state directory that a device could start with."""
    config = cell_config.load(state)
    book = RosterBook.load(state, fleet=config.fleet, cell=config.cell)
    base = cell_config.folder(state)
    chain = (base / "device.crt").read_bytes()
    assert x509.public_of(chain) == a_key(state).public == book.lookup(config.device)
    assert x509.public_of_key((base / "device.pem").read_bytes()) == a_key(state).public
    assert x509.signed_by((base / "ca.crt").read_bytes(), book.root_public)
    assert book.first.version == 1
    return config.fleet, config.device, book.current.version, x509.not_after_of(chain)


def trusts(state: Path, public: bytes) -> bool:
    return keys.key_id(public) in keys.trusted(state / "trust.d")


def test_device_that_joined_has_all_that_it_needs_and_nothing_is_left_over(tmp_path: Path) -> None:
    found = join(tmp_path)
    assert whole(tmp_path)[:3] == ("plant", "gate-1", 2)
    assert trusts(tmp_path, found.publishers[0])
    assert clock.floor(tmp_path) == found.now_s
    assert {path.name for path in tmp_path.iterdir()} == {"keys", "swarm", "trust.d", "clock"}
    assert (tmp_path / "swarm" / "device.pem").stat().st_mode & 0o077 == 0


def test_joining_again_renews_the_certificate_and_keeps_what_a_voter_has_promised(tmp_path: Path) -> None:
    join(tmp_path)
    before = whole(tmp_path)
    (tmp_path / "swarm" / "raft.db").write_bytes(b"a vote")
    (tmp_path / "swarm" / "boot").write_text("7\n")
    join(tmp_path, serial=2)
    after = whole(tmp_path)
    assert after[2] == before[2] + 1 and after[3] > before[3]
    assert (tmp_path / "swarm" / "raft.db").read_bytes() == b"a vote"
    assert cell_config.next_boot(tmp_path) == 8


def test_moving_takes_nothing_of_the_old_cell_but_the_count_of_starts(tmp_path: Path) -> None:
    old = join(tmp_path)
    (tmp_path / "swarm" / "raft.db").write_bytes(b"a vote")
    (tmp_path / "swarm" / "hosted").write_text("camera mlp")
    (tmp_path / "swarm" / "rollouts").mkdir()
    (tmp_path / "swarm" / "rollouts" / "pump.journal").write_bytes(b"what a rollout brought")
    (tmp_path / "swarm" / "boot").write_text("7\n")
    new = join(tmp_path, YARD, "crane-2")
    assert whole(tmp_path)[:2] == ("yard", "crane-2")
    assert not (tmp_path / "swarm" / "raft.db").exists() and not (tmp_path / "swarm" / "hosted").exists()
    assert cell_config.next_boot(tmp_path) == 8
    assert folder.orphans(tmp_path) == ["camera", "mlp", "pump"]
    assert trusts(tmp_path, new.publishers[0]) and not trusts(tmp_path, old.publishers[0])


def test_another_fleet_of_the_same_names_is_another_fleet(tmp_path: Path) -> None:
    """Made anew with a new root: files of the old one must not be mixed in."""
    join(tmp_path)
    again = replace_root()
    join(tmp_path, again)
    assert whole(tmp_path)[:2] == ("plant", "gate-1")
    assert RosterBook.load(tmp_path, fleet="plant", cell="main").root_public == again.root_public


def of_a_new_root(found: Membership) -> Membership:
    """The same, after PLANT's root was replaced."""
    new = Signatory.from_seed(b"new root".ljust(32))
    change = sign_change(RootChange("plant", 2, found.root, new.public, 5), old=PLANT.root, new=new)
    before = Roster.decode(found.roster)
    offices = before.open_authorities(found.root).values()
    roster = next_roster(
        before, created_s=before.created_s, by=PLANT.operator, roots=[change],
        authorities=[sign_authority(office, new) for office in offices],
    )  # fmt: skip
    return replace(found, roster=roster.data, root=new.public, ca=x509.make_root(b"new root".ljust(32), "plant", 0))


def test_the_same_fleet_with_a_new_root_is_the_same_fleet_at_each_power_cut(tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    old = join(origin)
    found, key = of_a_new_root(old), a_key(origin)
    (origin / "swarm" / "raft.db").write_bytes(b"what a voter has promised")
    assert folder.check(found, key, "plant").roots and folder.is_same(origin, "plant", found)
    with pytest.raises(JoinError, match="not the newest of its roster"):
        folder.check(replace(found, root=old.root, ca=old.ca), key, "plant")
    roots = []
    for at in range(100):
        state = tmp_path / f"s{at}"
        shutil.copytree(origin, state)
        try:
            with power_cut(at):
                folder.write(state, found, key, "plant", ("mqtts://new:8884", "mqtts://other:8884"))
            done = True
        except PowerCut:
            done = False
        roots.append(RosterBook.load(state, fleet="plant", cell="main").root_public)
        assert folder.is_same(state, "plant", found) and (state / "swarm" / "raft.db").exists()
        if done:
            break
    assert done and roots[0] == old.root and roots[-1] == found.root
    assert (state / "swarm" / "join-brokers").read_text() == "mqtts://new:8884\nmqtts://other:8884\n"


def replace_root() -> object:
    from edgeswarm.wire.dev_fleet import make_dev_fleet

    return make_dev_fleet(
        1, entropy=b"anew", now_s=PLANT.roster.created_s, fleet="plant", cell="main", names=["controller"]
    )


def test_damaged_files_are_mended_by_joining_again(tmp_path: Path) -> None:
    join(tmp_path)
    (tmp_path / "swarm" / "rosters" / "2.cbor").write_bytes(b"rot")
    (tmp_path / "swarm" / "cell.toml").write_text("rot = [")
    join(tmp_path, serial=2)
    assert whole(tmp_path)[2] == 3


def test_leaving_forgets_the_cell_and_keeps_the_device(tmp_path: Path) -> None:
    found = join(tmp_path)
    own = keys.from_seed(b"\7" * 32)
    keys.trust(tmp_path / "trust.d", own.public, "mine")
    key = a_key(tmp_path)
    assert folder.leave(tmp_path) and not cell_config.is_member(tmp_path)
    assert not folder.leave(tmp_path)
    assert a_key(tmp_path) == key and trusts(tmp_path, own.public) and not trusts(tmp_path, found.publishers[0])


def test_publisher_that_the_owner_trusted_before_stays_trusted(tmp_path: Path) -> None:
    publisher = PLANT.operator.public
    keys.trust(tmp_path / "trust.d", publisher, "mine")
    join(tmp_path)
    folder.leave(tmp_path)
    assert trusts(tmp_path, publisher)


def test_factory_reset_leaves_nothing_but_the_time(tmp_path: Path) -> None:
    join(tmp_path)
    for name in ("agents", "cache", "log", "audit"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("x")
    (tmp_path / "edgeswarm.db").write_bytes(b"x")
    taken = folder.reset(tmp_path)
    assert {"keys", "agents", "swarm", "trust.d", "edgeswarm.db", "log", "audit", "cache"} <= set(taken)
    assert {path.name for path in tmp_path.iterdir()} <= {"clock", "swarm.lock"}


# --- power cuts -------------------------------------------------------------------------------------------------------


def cuts(tmp_path: Path, before: Callable[[Path], object], step: Callable[[Path], object]) -> list[tuple[int, object]]:
    """Cut `step` at each of its steps, settle, and say what the device is then: None, or what `whole` says."""
    origin = tmp_path / "origin"
    (origin / "keys").mkdir(parents=True)
    (origin / "keys" / "device.key").write_text("07" * 32)
    (origin / "keys" / "device.key").chmod(0o600)
    before(origin)
    found: list[tuple[int, object]] = []
    for at in range(1_000):
        state = tmp_path / f"s{at}"
        shutil.copytree(origin, state)
        try:
            with power_cut(at):
                step(state)
            done = True
        except PowerCut:
            done = False
        for again in (1_000, 2, 1_000):  # the power may go once more while it settles
            try:
                with power_cut(again):
                    folder.settle(state)
            except PowerCut:
                pass
        assert not [name for name in (folder.DRAFT, folder.LEFT, folder.GONE) if (state / name).exists()]
        for path in (state / "trust.d").glob("*.pub"):
            keys.read_pub(path)
        found.append((at, whole(state) if cell_config.is_member(state) else None))
        with power_cut(1_000):
            step(state)  # and it can be done after all
        shutil.rmtree(state)
        if done:
            assert at > 3, "nothing was cut"
            return found
    raise AssertionError("it never ended")


def test_power_cut_at_each_step_of_a_join_leaves_no_cell_or_the_new_one(tmp_path: Path) -> None:
    found = cuts(tmp_path, lambda state: a_key(state), lambda state: join(state))
    kinds = [each for _, each in found]
    assert kinds[0] is None and kinds[-1] is not None
    assert all(kind is None or kind[:3] == ("plant", "gate-1", 2) for kind in kinds)  # type: ignore[index]
    assert kinds == sorted(kinds, key=lambda kind: kind is not None), "it went back"


def test_power_cut_at_each_step_of_a_renewal_leaves_a_device_that_starts(tmp_path: Path) -> None:
    found = cuts(tmp_path, lambda state: join(state), lambda state: join(state, serial=2))
    assert all(kind is not None and kind[1] == "gate-1" for _, kind in found)  # type: ignore[index]
    assert found[0][1][2] == 2 and found[-1][1][2] == 3  # type: ignore[index]


def test_power_cut_at_each_step_of_a_move_leaves_the_old_cell_or_the_new_one(tmp_path: Path) -> None:
    def before(state: Path) -> None:
        join(state)
        (state / "swarm" / "hosted").write_text("camera")

    found = cuts(tmp_path, before, lambda state: join(state, YARD, "crane-2"))
    kinds = {kind[:2] for _, kind in found if kind is not None}  # type: ignore[index]
    assert None not in [kind for _, kind in found] and kinds == {("plant", "gate-1"), ("yard", "crane-2")}


def test_power_cut_while_leaving_leaves_a_member_or_none(tmp_path: Path) -> None:
    found = cuts(tmp_path, lambda state: join(state), lambda state: folder.leave(state))
    kinds = [kind for _, kind in found]
    assert kinds[0] is not None and kinds[-1] is None
    assert kinds == sorted(kinds, key=lambda kind: kind is None), "it went back"


def test_two_at_a_time_do_not_mix_their_files(tmp_path: Path) -> None:
    with folder.locked(tmp_path):
        with pytest.raises(LocalError, match="another `edgeswarm join`"), folder.locked(tmp_path):
            pass
        assert not folder.settle_at_start(tmp_path)


# --- what came --------------------------------------------------------------------------------------------------------


def test_answer_that_does_not_fit_this_device_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    key, other = a_key(tmp_path), keys.from_seed(b"\5" * 32)
    good = membership(PLANT, "gate-1", key)
    theirs = membership(PLANT, "gate-1", other)
    yard = membership(YARD, "gate-1", key)
    for bad, says in (
        (replace(good, roster=theirs.roster), "does not have this device's key"),
        (replace(good, chain=theirs.chain), "certificate in it is another device's"),
        (replace(good, device="gate-2"), "does not have this device's key"),
        (replace(good, number=3), "another role"),
        (replace(good, role="reader"), "another role"),
        (replace(good, roster=yard.roster), "roster"),
        (replace(good, root=YARD.root_public), "no key of this id"),
        (replace(good, ca=yard.ca), "roots are not"),
        (replace(good, chain=good.chain[: good.chain.index(b"-----END") + 26]), "without the issuer's"),
        (replace(good, first=b"rot"), "roster"),
        (replace(good, encrypt=True), "there is no key"),
    ):
        with pytest.raises(JoinError, match=says):
            folder.check(bad, key, "plant")
    with pytest.raises(JoinError):
        folder.check(good, key, "yard")
    assert folder.check(good, key, "plant").version == 2
