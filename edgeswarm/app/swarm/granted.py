"""What the roster grants a device, as its own parts ask; and what the cell may bring to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeswarm.app.swarm import rights
from edgeswarm.app.swarm.config import CellConfig
from edgeswarm.app.swarm.rosters import RosterBook
from edgeswarm.core.cell.types import AgentState
from edgeswarm.wire.topics import Topic

if TYPE_CHECKING:
    from edgeswarm.app.supervisor import Supervisor
    from edgeswarm.app.swarm.artefacts import Artefacts
    from edgeswarm.app.swarm.travel import Travel


class Granted:
    """The part of SwarmNode that knows its rights."""

    config: CellConfig
    rosters: RosterBook
    supervisor: Supervisor
    artefacts: Artefacts
    travel: Travel

    def may(self, capability: str, agent: str = "", *, device: str = "") -> bool:
        """Whether the roster grants this to `device` (empty: to this one), for `agent` if one is named."""
        return self.rosters.current.may(device or self.config.device, capability, agent)

    def check_heard(self, sender: str, topic: Topic) -> None:
        """Raises RemoteError where nothing that `sender` says on this topic is to be heard."""
        rights.check_topic(self.rosters.current, sender, topic)

    async def fetch_agent(self, digest: bytes, agent: str) -> bytes:
        """The file of an agent that the cell brings here, if it uses nothing that this device is not granted.

        Raises NotGrantedError, and what fetching and reading an agent file raise.
        """
        data = await self.artefacts.fetch(digest, agent)
        header = self.supervisor.shelf.admit(data, who=f"agent {agent}").header
        rights.check_tools(self.rosters.current, self.config.device, header)
        return data

    async def before_agent(self, agent: AgentState) -> None:
        """Before an agent that the cell has placed here starts.  Raises NotGrantedError, and as Travel.bring."""
        rights.check_hosts(self.rosters.current, self.config.device, agent.spec.id)
        await self.travel.bring(agent)
