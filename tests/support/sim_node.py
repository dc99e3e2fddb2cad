"""One simulated device: the product's voter (RawNode, Member, RaftLoop, envelope, replay window) on simulated hands.

Only what touches the world is simulated: the event loop's clock, the disk, the broker, and the keys (a keyed hash
stands for Ed25519 except in some seeds: 50 times as fast, and as hard to guess for an attacker that has no key).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sim_checkers import Violation
from sim_disk import SimDisk, SimStore
from sim_machine import Machine
from sim_network import WILL
from sim_world import MS, NodeLoop, S

from edgeswarm.app.swarm.raft_loop import RaftLoop
from edgeswarm.core.raft.config import Config, PeerNotFoundError, ProposalDroppedError, StateType
from edgeswarm.core.raft.member import Member, Turn
from edgeswarm.core.raft.rawnode import RawNode
from edgeswarm.core.raft.tracker import TrackerConfig
from edgeswarm.errors import CodecError, CoseError, RemoteError
from edgeswarm.wire import cose, envelope
from edgeswarm.wire.leadership import LeaderCertificate, LeadershipError
from edgeswarm.wire.raft import ConfState, EntryType
from edgeswarm.wire.replay import ReplayWindow

if TYPE_CHECKING:
    from sim_cluster import Cluster

FLEET, CELL = "sim", "cell"
LEADER_TOPIC = "leader"
DEFEND_S = 0.2  # until a leader puts its certificate back in the place of something else
FEED_TOPIC = "feed"


def inbox(number: int) -> str:
    return f"raft/{number}"


def device(number: int) -> str:
    return f"d{number}"


class Keys:
    """Signs and checks.  real: Ed25519; else BLAKE2b keyed with the device's secret, of the same length."""

    def __init__(self, *, real: bool) -> None:
        self.real = real
        self._signers: dict[int, Callable[[bytes], bytes]] = {}

    def public(self, number: int) -> bytes:
        seed = number.to_bytes(32, "little")
        return cose.public_key(seed) if self.real else seed

    def signer(self, number: int) -> Callable[[bytes], bytes]:
        if number not in self._signers:
            seed = number.to_bytes(32, "little")
            self._signers[number] = cose.signer(seed) if self.real else _keyed(seed)
        return self._signers[number]

    def check(self, public: bytes, signed: bytes, signature: bytes) -> bool:
        return cose.check(public, signed, signature) if self.real else _keyed(public)(signed) == signature


def _keyed(secret: bytes) -> Callable[[bytes], bytes]:
    return lambda data: hashlib.blake2b(data, key=secret).digest()


@dataclass(slots=True)
class Setting:
    """How the voters of one seed are configured; ticks of tick_ms."""

    tick_ms: int = 50
    election_ticks: int = 3
    heartbeat_ticks: int = 1
    pre_vote: bool = True
    check_quorum: bool = True
    batch_appends: bool = True
    lazy_commits: bool = True
    step_down_on_removal: bool = True
    commit_by_vote: bool = True
    max_size_per_msg: int = 1 << 16
    max_inflight_msgs: int = 64
    max_committed_bytes: int = 1 << 20
    replay_window: bool = True
    snapshot_every: int = 0  # entries applied between snapshots; 0: only when the nemesis wants one
    snapshot_keep: int = 4
    fsync_us: tuple[int, int] = (100, 2 * MS)


Answer = Callable[[bool, Hashable], None]
"""(ok, answer): not ok is a refusal that certainly had no effect."""


class _Watched(Member):
    """Tells the checkers of every turn before anything is written or sent."""

    def __init__(self, owner: SimNode, **arguments: Any) -> None:
        super().__init__(owner.node, **arguments)
        self._owner = owner

    def tick(self) -> None:
        super().tick()
        self._owner.ticks += 1
        self._owner.cluster.checkers.on_tick(self._owner)

    def turn(self) -> Turn:
        turn = super().turn()
        checkers = self._owner.cluster.checkers
        checkers.observe(self._owner)
        checkers.on_turn(self._owner, turn)
        return turn

    def done(self, turn: Turn) -> None:
        super().done(turn)
        self._owner.applied(turn)


class SimNode:
    """`raft` is the core's state, for checkers.  A node that is not `alive` has a disk and nothing else."""

    def __init__(self, cluster: Cluster, number: int, *, founding: ConfState | None) -> None:
        self.cluster, self.world, self.number = cluster, cluster.world, number
        self.disk = SimDisk(self.world, latency_us=cluster.setting.fsync_us)
        self.boot = 0
        self.alive = False
        self.rate = 1.0
        self._founding = founding
        self.durable_snapshot = 0  # index of the newest on its disk: the members there it knows after a power loss
        self.counts: dict[str, int] = {}
        self.accepted: set[tuple[str, int, int]] = set()
        self.believed_term = 0

    def count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1

    # --- life and death ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        assert not self.alive
        cluster, setting = self.cluster, self.cluster.setting
        self.alive = True
        self.boot += 1
        self.seq = 0
        self.certificate = (0, b"")  # term, bytes
        self._proclaimed = b""
        self._defending = False
        self.ticks = self.leading_ticks = 0
        self.leading_config: TrackerConfig | None = None
        self.heard_tick: dict[int, int] = {}
        self.disk.latency_us = setting.fsync_us
        self.store = SimStore(self.disk, conf=self._founding)
        storage = self.store.storage
        self.machine = Machine(storage.snapshot_.data)
        self.machine.index = storage.snapshot_.index
        self.node = RawNode(
            Config(
                id=self.number,
                storage=storage,
                rng=self.world.rng,
                election_ticks=setting.election_ticks,
                heartbeat_ticks=setting.heartbeat_ticks,
                applied=storage.snapshot_.index,
                max_size_per_msg=setting.max_size_per_msg,
                max_inflight_msgs=setting.max_inflight_msgs,
                max_committed_bytes=setting.max_committed_bytes,
                check_quorum=setting.check_quorum,
                pre_vote=setting.pre_vote,
                batch_appends=setting.batch_appends,
                lazy_commits=setting.lazy_commits,
                step_down_on_removal=setting.step_down_on_removal,
                commit_by_vote=setting.commit_by_vote,
                log_fn=cluster.log_fn,
            )
        )
        self.raft = self.node.raft
        keys = cluster.keys
        self.member = _Watched(
            self,
            number=self.number,
            fleet=FLEET,
            cell=CELL,
            roster_version=self.machine.roster_version,
            sign=keys.signer(self.number),
            verify=lambda voter, data, signature: keys.check(keys.public(voter), data, signature),
        )
        self._sign = keys.signer(self.number)
        self.window = ReplayWindow()
        self.waiting: dict[tuple[int, int], Answer] = {}
        self._reads: dict[bytes, tuple[str, Answer]] = {}
        self._due: list[tuple[int, str, Answer]] = []
        self._read_count = 0
        cluster.checkers.born(self.number)
        self.timers = NodeLoop(self.world, rate=self.rate, offset_us=self.world.rng.randrange(10 * S))
        self.timers.watch = self._watch
        self.store.call = self.timers.call
        with self.timers.running():
            self.loop = RaftLoop(self.member, self.store, self, tick_s=setting.tick_ms / 1000)  # type: ignore[arg-type]
        topics = [inbox(self.number), LEADER_TOPIC, WILL, f"ask/{self.number}"]
        cluster.broker.connect(self.number, self.heard, topics, back=self._proclaim)
        self.world.note(f"{self.number} starts: boot {self.boot}, last {storage.last_index()}, {storage.hard_state}")

    def crash(self, *, power_loss: bool, clean: bool = False) -> None:
        """Whatever was in memory is gone."""
        if not self.alive:
            return
        self.world.note(f"{self.number} {'loses power' if power_loss else 'is killed'}")
        self.alive = False
        self.loop.close()
        self.timers.stop()
        self.disk.crash(power_loss=power_loss)
        self.cluster.broker.disconnect(self.number, clean=clean)

    def set_rate(self, rate: float) -> None:
        self.rate = rate
        if self.alive:
            self.timers.set_rate(rate)

    def _watch(self) -> None:
        self.cluster.checkers.observe(self)

    # --- in ---------------------------------------------------------------------------------------------------------

    def heard(self, topic: str, data: bytes) -> None:
        if self.alive:  # through the loop: a process that is stopped hears later
            self.timers.call(self._hear, (topic, data))

    def _hear(self, topic: str, data: bytes) -> None:
        if not self.alive:
            return
        if topic == WILL:
            self._will(int(data))
            return
        if topic.startswith("ask/"):
            if self.cluster.on_ask_hook is not None:
                self.cluster.on_ask_hook(self, data)
            return
        if topic == LEADER_TOPIC and data != self._proclaimed and not self._defending:
            self._defending = True
            self.timers.call_later(DEFEND_S, self._proclaim)
        try:
            opened = self._open(topic, data)
        except (CoseError, CodecError, RemoteError) as error:
            self.count(type(error).__name__)
            return
        if topic == LEADER_TOPIC:
            self._hear_certificate(opened.payload)
            return
        sender = int(opened.sender[1:])
        if sender not in self.cluster.nodes:
            self.count("not a voter")  # the roster says what a device may do: a worker may not write here
            return
        self.heard_tick[sender] = self.ticks
        try:
            self.loop.step(lambda: self.member.receive(sender, opened.payload))
        except (ProposalDroppedError, PeerNotFoundError) as error:
            self.count(type(error).__name__)
        except Exception as error:
            raise Violation(
                "no crash", f"{self.number} on an honest message: {type(error).__name__}: {error}"
            ) from error

    def _open(self, topic: str, data: bytes) -> envelope.Opened:
        keys = self.cluster.keys
        opened = envelope.open_(
            data,
            topic=topic,
            lookup=lambda sender: keys.public(int(sender[1:])) if sender in self.cluster.devices else None,
            verify=keys.check,
        )
        if self.cluster.setting.replay_window and topic != LEADER_TOPIC:
            self.window.admit(opened.sender, opened.boot, opened.seq)
            self.cluster.on_admitted(self, opened)
        self.cluster.on_opened(topic, opened)
        return opened

    def _will(self, gone: int) -> None:
        """A last will is unsigned: it may change when we ask for votes, and nothing else."""
        if self.raft.lead == gone and gone != self.number:
            self.loop.step(self.node.forget_leader)
            if self.raft.lead == 0 and self.raft.state is StateType.FOLLOWER:
                self.node.hasten_election(self.world.rng.randint(1, self.cluster.setting.election_ticks))

    def _proclaim(self) -> None:
        """Who leads says so: at once, when the broker may have forgotten it, when something else is in its place."""
        self._defending = False
        if not self.alive or self.raft.state is not StateType.LEADER or self.believed_term > self.raft.term:
            return
        if self.certificate[0] == self.raft.term:
            self._proclaimed = self.publish(LEADER_TOPIC, self.certificate[1], retain=True)

    def _hear_certificate(self, payload: bytes) -> None:
        try:
            certificate = LeaderCertificate.decode(payload)
            if certificate.term < self.believed_term:
                return  # who follows keeps the highest term it saw
            self.cluster.believe(certificate, who=self.number)
        except LeadershipError:
            self.count("LeadershipError")
            return
        self.believed_term = certificate.term

    # --- clients on this device -------------------------------------------------------------------------------------

    def submit(self, client: int, number: int, key: str, call: Hashable, answer: Answer) -> None:
        self.waiting[client, number] = answer
        if not self._ask(lambda: self.node.propose(Machine.command(client, number, key, call)), answer):
            del self.waiting[client, number]

    def read(self, key: str, answer: Answer) -> None:
        self._read_count += 1
        context = b"%d/%d/%d" % (self.number, self.boot, self._read_count)
        self._reads[context] = (key, answer)
        self._ask(lambda: self.node.read_index(context), answer)

    def _ask(self, act: Callable[[], None], answer: Answer) -> bool:
        try:
            self.loop.step(act)
        except ProposalDroppedError:
            answer(False, None)
            return False
        return True

    # --- Hands of RaftLoop --------------------------------------------------------------------------------------------

    def send(self, to: int, packet: bytes) -> None:
        self.publish(inbox(to), packet)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bytes:
        self.seq += 1
        data = envelope.seal(
            payload, topic=topic, sender=device(self.number), boot=self.boot, seq=self.seq, sign=self._sign
        )
        self.cluster.on_sealed(self.number, topic, self.boot, self.seq, payload)
        self.cluster.broker.publish(self.number, topic, data, retain=retain)
        return data

    def apply(self, turn: Turn) -> None:
        cluster, checkers, machine = self.cluster, self.cluster.checkers, self.machine
        checkers.on_saved(self, turn)
        if turn.certificate is not None:
            cluster.on_certificate(self, turn.certificate)
            self.certificate = (self.raft.term, turn.certificate.encode())
            self._proclaim()
        elif turn.soft_state is not None and turn.soft_state.state is StateType.LEADER:
            raise Violation("certificate", f"{self.number} leads term {self.raft.term} without a certificate")
        if turn.snapshot is not None:
            self._install(turn)
        for entry in turn.committed:
            if entry.index <= machine.index:
                raise Violation("state machine safety", f"{self.number} is to apply {entry.index} twice")
            if entry.type == EntryType.NORMAL:
                done = machine.apply(entry.index, entry.data)
                if done is not None:
                    answer = self.waiting.pop(done[:2], None)
                    if answer is not None:
                        answer(True, done[2])
            else:
                machine.apply(entry.index, b"")  # the members change in Member.done
            checkers.on_applied(self, entry, machine.digest)
        if turn.committed:
            cluster.on_batch(self, turn.committed)
        for state in turn.reads:
            found = self._reads.pop(state.context, None)
            if found is not None:
                self._due.append((state.index, *found))
        if self._due:
            self._answer_reads()

    def applied(self, turn: Turn) -> None:
        """The turn is over: what it changed of the members is in force."""
        machine, member = self.machine, self.member
        machine.roster_version = member.roster_version
        changes = [entry.index for entry in turn.committed if entry.type != EntryType.NORMAL]
        if changes:
            self.cluster.checkers.on_conf(self, changes[-1], member.conf)
            self.cluster.on_roster(member.roster_version, member.conf)
            self.snapshot_if_alive()  # a newcomer takes no snapshot that does not name it
        every = self.cluster.setting.snapshot_every
        if every and not self.disk.full and machine.index - self.store.storage.snapshot_.index >= every:
            self.make_snapshot()

    def _install(self, turn: Turn) -> None:
        snapshot = turn.snapshot
        assert snapshot is not None
        self.machine = Machine(snapshot.data)
        self.machine.index = snapshot.index
        self.member.roster_version = self.machine.roster_version
        self._snapshot_saved(snapshot.index)
        self.count("snapshots installed")
        if snapshot.data:
            self.cluster.checkers.on_state(self, snapshot.index, self.machine.digest)
        self.cluster.checkers.on_conf(self, snapshot.index, snapshot.conf)

    def _answer_reads(self) -> None:
        due, self._due = self._due, []
        for index, key, answer in due:
            if index <= self.machine.index:
                answer(True, self.machine.values.get(key))
            else:
                self._due.append((index, key, answer))

    def make_snapshot(self) -> None:
        """Takes one of what is applied, and drops the log before it."""
        index = self.machine.index
        if index > self.store.storage.snapshot_.index:
            self.store.make_snapshot(
                index,
                self.member.conf,
                self.machine.snapshot(),
                keep=self.cluster.setting.snapshot_keep,
                done=lambda: self._snapshot_saved(index),
            )
            self.count("snapshots made")

    def _snapshot_saved(self, index: int) -> None:
        self.durable_snapshot = max(self.durable_snapshot, index)

    def snapshot_if_alive(self) -> None:
        if self.alive and not self.disk.full:
            self.make_snapshot()

    def failed(self, error: BaseException) -> None:
        """The disk failed: a voter that cannot remember may not vote."""
        self.count("disk failed")
        self.crash(power_loss=False)
