"""This device's part in its cell: the daemon makes one when DIR/swarm/cell.toml exists.

Joins the post, the peer, the replica, the voter or the feed, the agents placed here, and, while this device leads, the
leader's duties.  Every piece decides for itself; this module says who hears of what.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from edgeswarm.app.swarm import config as cell_config
from edgeswarm.app.swarm.artefacts import Artefacts
from edgeswarm.app.swarm.asking import Asking
from edgeswarm.app.swarm.duties import Duties
from edgeswarm.app.swarm.feed import FeedFollower, FeedServer, FeedWriter, LeaseKeeper
from edgeswarm.app.swarm.hosted import Hosted
from edgeswarm.app.swarm.orders import Orders
from edgeswarm.app.swarm.peer import Leader, Peer
from edgeswarm.app.swarm.post import Letter, Post
from edgeswarm.app.swarm.replica import Replica
from edgeswarm.app.swarm.reports import Reports
from edgeswarm.app.swarm.rosters import RosterBook
from edgeswarm.app.swarm.streams import Streams
from edgeswarm.app.swarm.voter import GENESIS_INDEX, GENESIS_TERM, Voter
from edgeswarm.core.cell import changes as ch
from edgeswarm.core.cell import commands as cmd
from edgeswarm.core.cell.state import CellState
from edgeswarm.core.raft.member import Turn
from edgeswarm.drivers.mqtt.transport import Broker, Connected, Disconnected, Priority, Transport, Will
from edgeswarm.errors import EdgeSwarmError, LocalError
from edgeswarm.wire import messages as msg
from edgeswarm.wire.raft import ConfState
from edgeswarm.wire.topics import Topics

if TYPE_CHECKING:
    from edgeswarm.app.supervisor import Supervisor

STORE_RETRY_S = 5.0


def genesis(rosters: RosterBook) -> CellState:
    """The state that every copy of a cell begins with: its first roster, and nothing else."""
    state = CellState()
    first = rosters.first
    state.apply(GENESIS_INDEX, GENESIS_TERM, cmd.encode(cmd.SetRoster(first.version, first.previous, first.data)))
    return state


class SwarmNode(Asking):
    """supervisor: started, and keeping nothing of the cell running."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor, self.log = supervisor, supervisor.log
        state_dir = supervisor.settings.state_dir
        self.config = config = cell_config.load(state_dir)
        self.folder = cell_config.folder(state_dir)
        self.rosters = RosterBook.load(state_dir, fleet=config.fleet, cell=config.cell)
        key = supervisor.shelf.device_key
        if self.rosters.lookup(config.device) != key.public:
            raise LocalError(f"swarm: the key of this state directory is not the roster's for device {config.device}")
        self.boot = cell_config.next_boot(state_dir)
        self.topics = Topics(config.fleet, config.cell)
        self.transport = Transport(
            [Broker.from_url(url) for url in config.brokers],
            client_id=f"{config.fleet}.{config.cell}.{config.device}",
            will=Will(self.topics.gone(config.device), msg.encode(msg.Gone(self.boot))),
            on_state=self._on_state,
        )
        self.post = Post(
            self.transport,
            self.topics,
            device=config.device,
            boot=self.boot,
            seed=key.seed,
            lookup=self.rosters.lookup,
            log=self.log,
        )
        self.post.on_clone = self._cloned
        self.peer = Peer(self.post, self.rosters, log=self.log)
        self.replica = Replica(genesis(self.rosters), index=GENESIS_INDEX, term=GENESIS_TERM)
        self.lease = LeaseKeeper(self.replica, config.times.health.lease_ms, self._wake)
        self.orders = Orders(self)
        self.artefacts = Artefacts(self)
        self.hosted = Hosted(
            device=config.device,
            supervisor=supervisor,
            replica=self.replica,
            fetch=self.artefacts.fetch,
            lease=lambda: (self.lease.lease, self.lease.now()),
            halted=lambda: self.orders.halted,
            told=self._agent_told,
            folder=self.folder,
        )
        self.reports = Reports(self)
        self.streams = Streams(self)
        self.duties = Duties(self)
        self.voter: Voter | None = None
        self.follower: FeedFollower | None = None
        self._writer: FeedWriter | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._beat: asyncio.TimerHandle | None = None
        self._closed = False
        self._looking = False

    @property
    def leads(self) -> bool:
        return self.voter is not None and self.voter.leads

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Raises what opening the log raises; the broker need not be there."""
        self.replica.listeners.append(self._changed)
        self.replica.restored.append(self._restored)
        self.replica.on_fault = lambda error: self.log.crash("swarm_fault", error)
        self.serve()
        self.peer.start()
        self.orders.start()
        self.post.on(self.topics.goners(), self._gone, qos=1)
        self.follower = FeedFollower(
            self.peer, self.replica, self.lease, log=self.log, votes=lambda: self.voter is not None
        )
        await self._maybe_vote()
        await self.artefacts.start()
        self.streams.start()
        self.hosted.start()
        await self.transport.start()
        self.reports.start()
        self._tick()
        self.log.info(
            "swarm_joined",
            cell=self.config.cell,
            device=self.config.device,
            boot=self.boot,
            votes=self.voter is not None,
        )

    async def close(self) -> None:
        self._closed = True
        if self._beat is not None:
            self._beat.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.duties.close()
        await self.streams.close()
        await self.hosted.close()
        await self.reports.close()
        await self.artefacts.close()
        if self.follower is not None:
            await self.follower.close()
        await self.peer.close()
        if self.voter is not None:
            voter, self.voter = self.voter, None
            await voter.close()
        await self.transport.close()

    def task(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.log.crash("swarm_fault", error)

    async def _maybe_vote(self) -> None:
        """Take part in Raft where the roster has this device as a voter, or its disk says that it was one."""
        path = self.folder / "raft.db"
        roster = self.rosters.current
        number = self.rosters.number_of(self.config.device)
        if self.voter is not None or not (path.exists() or roster.is_voter(self.config.device)):
            return
        first = self.rosters.first
        begins = number in first.voters() and roster.voters_since == first.voters_since
        store = await Voter.open_store(path, ConfState(first.voters()) if begins else None, first.version, self.replica)
        self.voter = Voter(
            self.config,
            self.peer,
            self.replica,
            store,
            log=self.log,
            on_role=self._role,
            on_applied=self._applied,
            on_word=self._word,
            on_failed=self._voter_failed,
        )
        self._writer = FeedWriter(self.peer, self.voter, self.lease)
        FeedServer(self.peer, self.voter)
        if self.follower is not None:
            self.follower.follow(False)

    def _voter_failed(self, error: BaseException) -> None:
        """Its disk failed: it votes again once the log opens anew and is whole."""
        voter, self.voter, self._writer = self.voter, None, None
        assert voter is not None
        if self.follower is not None:
            self.follower.follow(True)

        async def again() -> None:
            await voter.close()
            while not self._closed:
                await asyncio.sleep(STORE_RETRY_S)
                try:
                    await self._maybe_vote()
                    return
                except (LocalError, OSError) as error:
                    self.log.error("voter_failed", error=str(error))

        self.task(again())

    # --- what is heard ------------------------------------------------------------------------------------------------

    def _on_state(self, state: Connected | Disconnected) -> None:
        if isinstance(state, Connected):
            self.log.info("broker_connected", broker=state.broker, protocol=state.protocol, count=state.count)
            self.duties.listen_again()
            self.reports.soon()
        else:
            self.log.warning("broker_lost", broker=state.broker, reason=state.reason, taken_over=state.taken_over)

    def _cloned(self, boot: int) -> None:
        self.log.error("device_cloned", device=self.config.device, other_boot=boot)
        self.alert("critical", "clone", f"another device runs with the key of {self.config.device} (boot {boot})")

    def _gone(self, letter: Letter) -> None:
        """A last will: unsigned, so it may only make us doubt."""
        device = letter.topic.device
        self.duties.gone(device)
        self.artefacts.gone(device)
        leader = self.peer.leader
        if self.voter is not None and leader is not None and device == leader.device != self.config.device:
            self.voter.leader_gone()

    def _changed(self, changes: Any) -> None:
        for change in changes:
            match change:
                case ch.RosterChanged():
                    self._take_roster()
                case ch.Stopped() | ch.Resumed():
                    self.orders.replicated()
        self.duties.changed(changes)
        self.reports.changed(changes)
        self._wake()

    def _take_roster(self) -> None:
        """The roster of the log: it was checked before it was proposed, and is checked again here."""
        try:
            if self.rosters.offer(self.replica.state.roster.data):
                self.post.replay.keep(self.rosters.current.devices())
                self.task(self._maybe_vote())
        except EdgeSwarmError as error:
            self.log.error("roster_refused", version=self.replica.state.roster.version, error=str(error))

    def _restored(self) -> None:
        self._take_roster()
        self.duties.restored()
        self._wake()

    def _wake(self) -> None:
        self.hosted.wake()
        self.streams.wake()

    # --- the voter ----------------------------------------------------------------------------------------------------

    def _role(self, leads: bool) -> None:
        self.log.info("leads" if leads else "leads_no_more", term=self.peer.term_seen)
        if leads:
            self.duties.begin()
            self.post.send_raw(self.topics.roster, self.rosters.current.data, priority=Priority.HIGH)
        else:
            self.duties.end()
            self.replica.give_up("this device leads no more")

    def _applied(self, turn: Turn) -> None:
        self.lease.applied()
        if self.leads and self._writer is not None and turn.committed:
            self._writer.say(turn.committed)

    def _word(self, term: int, commit: int) -> None:
        """This voter's leader has spoken.  A lease that lapsed begins only after a look that is surely fresh."""
        if self.lease.held:
            self.lease.word(term, commit)
        elif not self._looking:
            self._looking = True
            self.task(self._look())

    async def _look(self) -> None:
        try:
            term = self.peer.term_seen
            await asyncio.wait_for(self.barrier(), self.config.times.health.lease_ms / 1000)
            self.lease.word(term, self.replica.index)
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
            self.duties.alive()
        if not self.lease.held:
            self.hosted.wake()

    # --- what is told -------------------------------------------------------------------------------------------------

    def alert(self, severity: Any, code: str, text: str) -> None:
        message = msg.Alert(device=self.config.device, severity=severity, code=code, text=text)
        self.post.send(self.topics.event("critical", "alert"), msg.encode(message), priority=Priority.CRITICAL, qos=1)

    def _agent_told(self, agent: str, status: str, why: str) -> None:
        self.reports.agent(agent, status, why)
        self.reports.soon()

    def leader(self) -> Leader | None:
        return self.peer.leader

    @property
    def uptime_s(self) -> int:
        return int(time.time() - self.supervisor.started_at)
