"""This device's part in its cell: the daemon makes one when DIR/swarm/cell.toml exists.

Joins the post, the peer, the replica, the voter or the feed, the agents placed here, and, while this device leads, the
leader's duties.  Every piece decides for itself; this module says who hears of what.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from edgeswarm.app.swarm import config as cell_config
from edgeswarm.app.swarm import log_tail, measures
from edgeswarm.app.swarm.artefacts import Artefacts
from edgeswarm.app.swarm.asking import Asking
from edgeswarm.app.swarm.audited import Audited
from edgeswarm.app.swarm.connect import Waiting, load_cipher, make_transport
from edgeswarm.app.swarm.converge import Converge
from edgeswarm.app.swarm.duties import Duties
from edgeswarm.app.swarm.feed import FeedFollower, FeedWriter, LeaseKeeper
from edgeswarm.app.swarm.granted import Granted
from edgeswarm.app.swarm.heard import Heard
from edgeswarm.app.swarm.hosted import Hosted
from edgeswarm.app.swarm.orders import Orders
from edgeswarm.app.swarm.peer import Peer
from edgeswarm.app.swarm.post import Letter, Post
from edgeswarm.app.swarm.replica import Replica
from edgeswarm.app.swarm.reports import Reports
from edgeswarm.app.swarm.rosters import RosterBook
from edgeswarm.app.swarm.rotation import Rotation
from edgeswarm.app.swarm.rotation_files import KeyFiles
from edgeswarm.app.swarm.streams import Streams
from edgeswarm.app.swarm.tasks_run import Worker
from edgeswarm.app.swarm.tasks_work import Work
from edgeswarm.app.swarm.travel import Travel
from edgeswarm.app.swarm.voter import GENESIS_INDEX, GENESIS_TERM, Voter
from edgeswarm.app.swarm.voting import CLONE_LIVES, CLONE_TOLD_S, Voting
from edgeswarm.core.cell import changes as ch
from edgeswarm.core.cell import commands as cmd
from edgeswarm.core.cell.state import CellState
from edgeswarm.core.raft.member import Turn
from edgeswarm.drivers.mqtt.transport import Connected, Disconnected, Priority, Will
from edgeswarm.errors import EdgeSwarmError
from edgeswarm.limits import AWAY_MS_MAX
from edgeswarm.wire import messages as msg
from edgeswarm.wire.topics import Topics

if TYPE_CHECKING:
    from edgeswarm.app.supervisor import Supervisor


def genesis(rosters: RosterBook) -> CellState:
    """The state that every copy of a cell begins with: its first roster, and nothing else."""
    state = CellState()
    first = rosters.first
    state.apply(GENESIS_INDEX, GENESIS_TERM, cmd.encode(cmd.SetRoster(first.version, first.previous, first.data)))
    return state


class SwarmNode(Asking, Granted, Voting):
    """supervisor: started, and keeping nothing of the cell running."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor, self.log = supervisor, supervisor.log
        state_dir = supervisor.settings.state_dir
        self.config = config = cell_config.load(state_dir)
        self.folder = cell_config.folder(state_dir)
        self.rosters = RosterBook.load(state_dir, fleet=config.fleet, cell=config.cell)
        key = supervisor.shelf.device_key = KeyFiles(state_dir).named(config.device, self.rosters.lookup(config.device))
        self.boot = cell_config.next_boot(state_dir)
        self.topics = Topics(config.fleet, config.cell)
        self._offline = Waiting()
        self.transport = make_transport(
            config,
            self.folder,
            will=Will(self.topics.gone(config.device), msg.encode(msg.Gone(self.boot))),
            offline=self._offline,
            on_state=self._on_state,
        )
        self.post = self._make_post(key.seed)
        self.post.on_clone = self._cloned
        self.post.allowed = self.check_heard
        self.peer = Peer(self.post, self.rosters, log=self.log)
        self.peer.on_false = self._facts_soon
        self.peer.on_leader.append(self._led)
        self.audited = Audited(self)
        self.heard = Heard(self)
        self.replica = Replica(genesis(self.rosters), index=GENESIS_INDEX, term=GENESIS_TERM)
        self.lease = LeaseKeeper(self.replica, config.times.health.lease_ms, self._wake)
        self.orders = Orders(self)
        self.artefacts = Artefacts(self)
        self.travel = Travel(self)
        self.hosted = Hosted(
            device=config.device,
            supervisor=supervisor,
            replica=self.replica,
            fetch=self.fetch_agent,
            lease=lambda: (self.lease.lease, self.lease.now()),
            halted=lambda: self.orders.halted,
            told=self._agent_told,
            folder=self.folder,
            before=self.before_agent,
        )
        self.reports = Reports(self)
        self.converge = Converge(self)
        self.streams = Streams(self)
        self.duties = Duties(self)
        self.work = Work(self)
        self.worker = Worker(self, self.work.do)
        self.rotation = Rotation(self)
        self.voter: Voter | None = None
        self.follower: FeedFollower | None = None
        self._writer: FeedWriter | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._beat: asyncio.TimerHandle | None = None
        self._closed = self._leaving = False
        self._began = time.monotonic()
        self._looking = False
        self._facts: asyncio.TimerHandle | None = None
        self._cloned_at = -CLONE_TOLD_S
        self._voting = asyncio.Lock()

    def _make_post(self, seed: bytes) -> Post:
        """seed: of this device's key."""
        return Post(
            self.transport,
            self.topics,
            device=self.config.device,
            boot=self.boot,
            seed=seed,
            lookup=self.rosters.lookup,
            log=self.log,
            cipher=load_cipher(self.config, self.folder),
            check=self.rosters.check,
        )

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Raises StoreError, LocalError, OSError; neither the broker nor a log that opens need be there."""
        self.supervisor.swarm_samples = lambda: measures.samples(self)
        self.replica.listeners.append(self._changed)
        self.replica.restored.append(self._restored)
        self.replica.on_fault = lambda error: self.log.crash("swarm_fault", error)
        self.heard.load()
        self.serve()
        log_tail.serve(self)
        self.peer.start()
        self.orders.start()
        self.follower = FeedFollower(
            self.peer, self.replica, self.lease, log=self.log, votes=lambda: self.voter is not None, on_word=self._word
        )
        await self._vote_first()
        await self.artefacts.start()
        self.streams.start()
        self.hosted.start()
        self.converge.start()
        self.travel.start()
        await self.work.start()
        self.worker.start()
        await self._offline.open(self.folder / "offline.db")
        await self.transport.start()
        self.reports.start()
        self.heard.start()
        self.rotation.start()
        self._tick()
        self.audited.joined()
        self.log.info(
            "swarm_joined",
            cell=self.config.cell,
            device=self.config.device,
            boot=self.boot,
            votes=self.voter is not None,
        )

    async def close(self, *, leaving: bool = False) -> None:
        """From here on no row flows for the cell, and it is told; the agents are the supervisor's to stop.

        leaving: another version of the supervisor is here in a moment: the cell is told so, and moves nothing.
        """
        self._closed, self._leaving = True, leaving
        for timer in (self._beat, self._facts):
            if timer is not None:
                timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        closes: list[Callable[[], Awaitable[None]]] = [
            self.rotation.close,
            self.duties.close,
            self.streams.close,
            self.worker.close,
        ]
        closes += [
            self.work.close,
            self.converge.close,
            functools.partial(self.hosted.close, leaving=leaving),
            self.travel.close,
            functools.partial(self.reports.close, leaving=leaving),
            self.artefacts.close,
        ]
        closes += [] if self.follower is None else [self.follower.close]
        closes += [self.peer.close, self._leave, self.transport.close, self._offline.close]
        closes += [self.heard.close]
        for close in closes:
            try:
                await close()
            except Exception as error:  # whatever it is, the others close
                self.log.crash("swarm_fault", error)
        self.supervisor.swarm_samples = None

    async def _leave(self) -> None:
        """Nobody waits for a last will that a clean end does not leave: agents of ours may go elsewhere."""
        if self.transport.is_connected and self._leaving:
            away = self.topics.event(msg.event_priority("away"), "away")
            self.post.send(away, msg.encode(msg.Away(AWAY_MS_MAX)), priority=Priority.HIGH, qos=1)
        elif self.transport.is_connected:
            gone = self.topics.gone(self.config.device)
            self.post.send_raw(gone, msg.encode(msg.Gone(self.boot)), priority=Priority.HIGH, qos=0, retain=False)
        voter, self.voter = self.voter, None
        if voter is not None:
            await voter.close()
        self.audited.joined(left=True)

    def task(self, work: Any) -> None:
        if self._closed:
            work.close()
            return
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.log.crash("swarm_fault", error)

    # --- what is heard ------------------------------------------------------------------------------------------------

    def _on_state(self, state: Connected | Disconnected) -> None:
        self.rotation.connected(up=isinstance(state, Connected))
        if isinstance(state, Connected):
            self.log.info("broker_connected", broker=state.broker, protocol=state.protocol, count=state.count)
            self.duties.listen_again()
            self.reports.soon()
            self.converge.soon(again=True)
            self._facts_soon()
        else:
            if state.taken_over or state.short_lived >= CLONE_LIVES:  # not every broker says why it hangs up
                self._cloned(self.boot)
            self.log.warning("broker_lost", broker=state.broker, reason=state.reason, taken_over=state.taken_over)

    def _cloned(self, boot: int) -> None:
        now = self.lease.now() / 1000
        if now - self._cloned_at < CLONE_TOLD_S:
            return
        self._cloned_at = now
        self.log.error("device_cloned", device=self.config.device, other_boot=boot)
        text = f"it seems that another device runs with the key of {self.config.device} (boot {boot})"
        self.alert("critical", "clone", text)

    def _gone(self, letter: Letter) -> None:
        """A last will: unsigned, so it may only make us doubt."""
        device = letter.topic.device
        self.duties.gone(device)
        self.artefacts.gone(device)
        leader = self.peer.leader
        if self.voter is not None and leader is not None and device == leader.device != self.config.device:
            self.voter.leader_gone(device)

    def _changed(self, changes: Any) -> None:
        for change in changes:
            match change:
                case ch.RosterChanged():
                    self._take_roster()
                case ch.Stopped() | ch.Resumed():
                    self.orders.replicated()
        self.duties.changed(changes)
        self.reports.changed(changes)
        self.converge.changed(changes)
        self._wake()

    def _take_roster(self) -> None:
        """The roster of the log: it was checked before it was proposed, and is checked again here."""
        try:
            if self.rosters.offer(self.replica.state.roster.data):
                self.peer.roster_changed()
                self._facts_soon()
                self.task(self._maybe_vote())
        except EdgeSwarmError as error:
            self.log.error("roster_refused", version=self.replica.state.roster.version, error=str(error))

    def _restored(self) -> None:
        self._take_roster()
        self.converge.look()
        self.duties.restored()
        self._wake()

    def _wake(self) -> None:
        self.hosted.wake()
        self.streams.wake()
        self.worker.look()

    # --- the voter ----------------------------------------------------------------------------------------------------

    def _role(self, leads: bool) -> None:
        self.log.info("leads" if leads else "leads_no_more", term=self.peer.term_seen)
        if leads:
            self.duties.begin()
            self._word_of_ours()
        else:
            self.duties.end()
            self.replica.give_up("this device leads no more")

    def _applied(self, turn: Turn) -> None:
        self.lease.applied()
        if self.leads and self._writer is not None and turn.committed:
            self._writer.say(turn.committed)

    def _word(self, term: int, commit: int) -> None:
        """The leader has spoken.  A lease that lapsed begins only after a look that is surely fresh: what was said may
        have lain about in a broker, or in a socket of ours while this process was stopped."""
        if self.lease.held:
            self.lease.word(term, commit)
        else:
            self._word_of_ours()

    def _word_of_ours(self) -> None:
        """Ask who surely leads, and what is committed.  A leader holds its own lease by this and by nothing else."""
        if not self._looking:
            self._looking = True
            self.task(self._look())

    async def _look(self) -> None:
        try:
            term, asked = self.peer.term_seen, self.lease.now()
            async with asyncio.timeout(self.config.times.health.lease_ms / 1000):
                await self.barrier()
            self.lease.word(term, self.replica.index, asked)
        except (EdgeSwarmError, TimeoutError) as error:
            self.log.debug("no_fresh_look", error=repr(error))
        finally:
            self._looking = False

    def _tick(self) -> None:
        """Each third of a lease: the leader's beat, and a look at whether the lease is over."""
        third_s = self.config.times.health.lease_ms / 3000
        self._beat = asyncio.get_running_loop().call_later(third_s, self._tick)
        if self.leads and self._writer is not None:
            self._writer.beat()
            self._word_of_ours()
            self.duties.alive()
        if not self.lease.held:
            self.hosted.wake()
        self._led(self.peer.leader)  # it may have been verified before this device's log was open

    # --- what is told -------------------------------------------------------------------------------------------------

    def alert(self, severity: Any, code: str, text: str) -> None:
        message = msg.Alert(device=self.config.device, severity=severity, code=code, text=text)
        self.post.send(self.topics.event("critical", "alert"), msg.encode(message), priority=Priority.CRITICAL, qos=1)

    def _agent_told(self, agent: str, status: str, why: str) -> None:
        self.audited.agent(agent, status, why)
        self.reports.agent(agent, status, why)
        self.reports.soon()

    @property
    def uptime_s(self) -> int:
        return int(time.monotonic() - self._began)  # the wall clock may be set meanwhile
