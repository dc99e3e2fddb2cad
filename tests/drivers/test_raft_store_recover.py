"""Recovery from a lost quorum: deliberate, audited, checked, and the old database stays."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from edgeswarm.core.raft.change import ConfChange, ConfChangeSingle, ConfChangeType, ConfChangeV2
from edgeswarm.drivers.raft_store import RaftStore
from edgeswarm.drivers.raft_store_check import verify
from edgeswarm.drivers.raft_store_recover import recover
from edgeswarm.errors import LocalError
from edgeswarm.limits import RAFT_RECOVERY_TERMS
from edgeswarm.wire.raft import ConfState, Entry, EntryType, HardState, Snapshot

THREE = ConfState(voters=(1, 2, 3))
REASON = "two boards burnt"


async def survivor(path: Path, *more: tuple[EntryType, bytes], conf: ConfState = THREE) -> None:
    """Snapshot at 10, entries 11-15, then `more`; 13 is committed."""
    entries = [Entry(2, n, EntryType.NORMAL, b"%d" % n) for n in range(11, 16)]
    entries += [Entry(2, n, kind, data) for n, (kind, data) in enumerate(more, 16)]
    store = await RaftStore.open(path)
    await store.save(HardState(4, 1, 13), entries, Snapshot(10, 2, conf, b"state"))
    await store.set_meta("boot", b"5")
    await store.close()


async def test_survivor_alone_becomes_the_only_voter_and_keeps_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "raft.db"
    await survivor(path)
    audit = recover(path, ConfState(voters=(1,)), REASON, "ada", at_wall="2026-11-21T01:00:00Z")
    assert (audit.first_index, audit.last_index, audit.commit_before) == (16, 17, 13)
    assert (audit.term_before, audit.term) == (4, 4 + RAFT_RECOVERY_TERMS)
    store = await RaftStore.open(path)
    await store.close()
    assert store.storage.hard_state == HardState(4 + RAFT_RECOVERY_TERMS, 0, 17)
    assert [e.data for e in store.storage.log[:5]] == [b"11", b"12", b"13", b"14", b"15"]
    changes = [ConfChangeV2.decode(e.data).changes for e in store.storage.log[5:]]
    assert changes == [(ConfChangeSingle(ConfChangeType.REMOVE_NODE, n),) for n in (2, 3)]
    assert store.meta("boot") == b"5"


async def test_old_database_is_kept_as_it_was_and_the_new_one_says_who_and_why(tmp_path: Path) -> None:
    path = tmp_path / "raft.db"
    await survivor(path)
    first = recover(path, ConfState(voters=(1,)), REASON, "ada", at_wall="2026-11-21T01:00:00Z")
    second = recover(path, ConfState(voters=(1,), learners=(4,)), "again", "bob")
    assert [first.kept.name, second.kept.name] == ["raft.db.before-recovery-1", "raft.db.before-recovery-2"]
    old = verify(first.kept)
    assert (old.fault, old.term, old.commit, old.last_index, old.audits) == ("", 4, 13, 15, ())
    audits = verify(path).audits
    assert len(audits) == 2 and audits[0].startswith("2026-11-21T01:00:00Z ada: voters 1,2,3 -> 1, term 4 ->")
    assert audits[0].endswith(f"({REASON})")


async def test_changes_in_the_log_count_and_a_joint_configuration_is_left(tmp_path: Path) -> None:
    """16 adds voter 4; 17 goes joint to voters 1 and 5 and is never left, since its quorum is gone."""
    path = tmp_path / "raft.db"
    into = ConfChangeV2(
        (
            ConfChangeSingle(ConfChangeType.ADD_NODE, 5),
            *(ConfChangeSingle(ConfChangeType.REMOVE_NODE, n) for n in (2, 3, 4)),
        )
    )
    await survivor(path, ConfChange(ConfChangeType.ADD_NODE, 4).entry(), into.entry())
    audit = recover(path, ConfState(voters=(1, 7), learners=(6,)), REASON, "ada", context=b"roster", command=b"note")
    assert audit.conf_before.voters_outgoing == (1, 2, 3, 4)
    store = await RaftStore.open(path)
    await store.close()
    added = store.storage.log[7:]
    assert [str(ConfChangeV2.decode(e.data)) for e in added[:-1]] == ["", "v7", "l6", "r5"]
    assert {ConfChangeV2.decode(e.data).context for e in added[1:-1]} == {b"roster"}
    assert (added[-1].type, added[-1].data) == (EntryType.NORMAL, b"note")


async def test_what_makes_no_sense_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "raft.db"
    await survivor(path)
    before = path.read_bytes()
    for conf, reason, text in (
        (THREE, REASON, "already voters 1,2,3"),
        (ConfState(), REASON, "at least one voter"),
        (ConfState(voters=(1,), voters_outgoing=(2,)), REASON, "not a joint one"),
        (ConfState(voters=(1,)), " ", "a reason"),
    ):
        with pytest.raises(LocalError, match=text):
            recover(path, conf, reason, "ada")
    store = await RaftStore.open(path)
    with pytest.raises(LocalError, match="another process"):
        recover(path, ConfState(voters=(1,)), REASON, "ada")
    await store.close()
    with pytest.raises(LocalError, match="there is none"):
        recover(tmp_path / "absent.db", ConfState(voters=(1,)), REASON, "ada")
    assert path.read_bytes() == before and not list(tmp_path.glob("*before-recovery*"))


async def test_recovery_cut_before_its_end_leaves_the_old_database_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "raft.db"
    await survivor(path)

    def cut(*_: object) -> None:
        raise OSError("power cut")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="power cut"):
        patch.setattr("os.replace", cut)
        recover(path, ConfState(voters=(1,)), REASON, "ada")
    assert verify(path).last_index == 15
    recover(path, ConfState(voters=(1,)), REASON, "ada")
    assert verify(path).last_index == 17


async def test_any_configuration_can_be_reached_from_any_other(tmp_path: Path) -> None:
    for seed in range(30):
        rng = random.Random(seed)
        members = rng.sample(range(1, 9), 6)
        before = ConfState(voters=tuple(sorted(members[:3])), learners=tuple(sorted(members[3:])))
        voters = rng.sample(range(1, 9), rng.randint(1, 5))
        learners = sorted(set(rng.sample(range(1, 9), 3)) - set(voters))
        wanted = ConfState(voters=tuple(sorted(voters)), learners=tuple(learners))
        if wanted == before:
            continue
        path = tmp_path / f"{seed}.db"
        await survivor(path, conf=before)
        recover(path, wanted, REASON, "ada")
        with pytest.raises(LocalError, match="already"):
            recover(path, wanted, REASON, "ada")
