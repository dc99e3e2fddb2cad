"""The safety stop, and who may propose what.

An order to stop is signed by an operator and retained by the broker; whoever publishes it, it proves itself.  A device
obeys the highest number that it saw, at once and before anything else: agents' frames are held back in the same call,
then every agent is stopped.  The order is kept on disk: a restart obeys it too.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from edgeswarm.app.swarm import rights
from edgeswarm.app.swarm.post import Letter
from edgeswarm.core.cell import commands as cmd
from edgeswarm.drivers.files import write_whole
from edgeswarm.drivers.mqtt.transport import Priority
from edgeswarm.errors import CodecError, EdgeSwarmError, LocalError, RemoteError
from edgeswarm.ids import AgentName
from edgeswarm.wire import messages as msg
from edgeswarm.wire.roster import Roster

if TYPE_CHECKING:
    from edgeswarm.app.swarm.node import SwarmNode


class Orders:
    """halted: every agent of this device is stopped, and none may start."""

    def __init__(self, node: SwarmNode) -> None:
        self._node = node
        self._path = node.folder / "order"
        self.number = 0
        self.reason = ""
        self._ordered = False
        self._data = b""
        self._stopped: list[str] = []  # agents that are not the cell's, to be started again
        self._changing = asyncio.Lock()

    @property
    def halted(self) -> bool:
        return self._ordered or self._node.replica.state.stop is not None

    def start(self) -> None:
        halted = self._node.folder / "halted"
        self._stopped = halted.read_text().split() if halted.exists() else []
        if self._path.exists():
            try:
                self.take(self._path.read_bytes(), keep=False)
            except (EdgeSwarmError, OSError) as error:
                self._node.log.error("order_refused", error=str(error))
        self._node.post.on(self._node.topics.stop, self._letter, qos=1)

    def _letter(self, letter: Letter) -> None:
        try:
            if letter.payload:
                self.take(letter.payload)
        except EdgeSwarmError as error:
            self._node.audited.refused("order", error, who="?")
            raise
        finally:
            if letter.payload != self._data:
                self._node.peer.on_false()

    def publish(self, data: bytes) -> None:
        """Obey an order, and give it to everybody.  Raises RemoteError where it proves nothing."""
        if not self.take(data):
            raise LocalError(f"order: expected a number above {self.number}")
        self._node.post.send_raw(self._node.topics.stop, data, priority=Priority.CRITICAL)

    def take(self, data: bytes, *, keep: bool = True) -> bool:
        """True when it is newer than what was obeyed.  Raises CoseError, MessageError, LimitError."""
        node = self._node
        root = node.rosters.root_public
        order = msg.open_order(
            data,
            fleet=node.config.fleet,
            cell=node.config.cell,
            lookup=lambda kid: node.rosters.current.operator_key(kid, root),
        )
        if order.number <= self.number:
            return False
        self.number, self.reason, self._data = order.number, order.reason, data
        self._ordered = isinstance(order, msg.SafetyStop)
        node.audited.order(data, stop=self._ordered, number=order.number, reason=order.reason)
        self._obey()
        if keep:
            try:
                write_whole(self._path, data)
            except OSError as error:
                node.log.error("order_not_kept", error=str(error))
        return True

    def say_again(self) -> None:
        """Retain the order anew where the broker may have lost it."""
        if self._data:
            self._node.post.send_raw(self._node.topics.stop, self._data, priority=Priority.CRITICAL)

    def replicated(self) -> None:
        """The cell's own stop flag changed."""
        self._obey()

    def _obey(self) -> None:
        node = self._node
        node.log.warning("safety_stop" if self.halted else "safety_resume", number=self.number, reason=self.reason)
        flows = node.supervisor.flows
        if self.halted:
            for name in list(flows.flows):
                flows.pause(name)
            node.task(self._stop_all())
        else:
            node.task(self._start_again())
        node.hosted.wake()
        node.worker.look()
        node.reports.soon()

    async def _stop_all(self) -> None:
        """What the cell did not place: the rest is the business of `Hosted`."""
        sup, hosted = self._node.supervisor, self._node.hosted
        async with self._changing:
            for name, (status, _) in list(sup.status.items()):
                if not self.halted:
                    return  # `_start_again` waits, and starts what was stopped until here
                if name in hosted.running or status in ("stopped", "failed", "quarantined", "removed"):
                    continue
                try:
                    await sup.stop(name)
                except EdgeSwarmError as error:
                    self._node.log.error("agent_not_stopped", agent=name, error=str(error))
                    continue
                if not hosted.is_of_cell(name):
                    self._remember([*self._stopped, name])

    async def _start_again(self) -> None:
        async with self._changing:
            for name in list(self._stopped):
                if self.halted:
                    return
                if AgentName(name) in self._node.supervisor.node.table.agents:
                    try:
                        await self._node.supervisor.start_agent(name)
                    except EdgeSwarmError as error:
                        self._node.log.error("agent_not_started", agent=name, error=str(error))
                self._remember([one for one in self._stopped if one != name])

    def _remember(self, stopped: list[str]) -> None:
        """Over a restart, too: the order may be taken back only after it."""
        self._stopped = stopped
        try:
            write_whole(self._node.folder / "halted", " ".join(stopped).encode())
        except OSError as error:
            self._node.log.error("order_not_kept", error=str(error))

    # --- who may propose what -----------------------------------------------------------------------------------------

    def check_may_propose(self, sender: str, data: bytes, depth: int = 0) -> None:
        """Raises RemoteError where the command is not the sender's to propose."""
        command = cmd.decode(data)
        match command:
            case cmd.Batch() if depth == 0:
                for one in command.commands:
                    self.check_may_propose(sender, one, 1)
            case cmd.WithSession() if depth < 2:
                self.check_may_propose(sender, command.command, 2)
            case cmd.Batch() | cmd.WithSession():
                raise CodecError("a batch or a session inside another", who=sender)
            case _:
                rights.check_command(self._node.rosters.current, self._node.replica.state, sender, command)
                if isinstance(command, cmd.SetRoster):
                    self._check_roster(command, sender)
                elif isinstance(command, cmd.RotateRoot):
                    rights.check_root(self._node.rosters, self._node.replica.state, sender, command.data)

    def _check_roster(self, command: cmd.SetRoster, sender: str) -> None:
        """It goes into the log only if every device will accept it."""
        book = self._node.rosters
        roster = Roster.open(
            command.data,
            root_public=book.root_public,
            previous=book.current,
            fleet=self._node.config.fleet,
            cell=self._node.config.cell,
        )
        if roster.roots != book.current.roots:
            rights.check_roots(roster, self._node.replica.state, sender)
        if (roster.version, roster.previous) != (command.version, command.previous):
            raise RemoteError(f"roster {roster.version}: the command names version {command.version}", who=sender)
