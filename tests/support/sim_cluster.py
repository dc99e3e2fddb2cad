"""A cell: its voters, its broker, what everybody in it is known to have said, and the judges."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sim_checkers import Checkers, Violation
from sim_network import Broker, Weather
from sim_node import CELL, FLEET, LEADER_TOPIC, Keys, Setting, SimNode, device
from sim_world import World

from edgeswarm.core.raft.config import StateType
from edgeswarm.errors import CoseError
from edgeswarm.wire import envelope, leadership
from edgeswarm.wire.envelope import Opened
from edgeswarm.wire.leadership import LeaderCertificate, LeadershipError
from edgeswarm.wire.raft import ConfState, Entry


@dataclass(frozen=True, slots=True)
class Voters:
    """What a roster says of one version: see wire.leadership.VoterList."""

    conf: ConfState
    version: int
    keys: Keys
    fleet: str = FLEET
    cell: str = CELL

    @property
    def voters_since(self) -> int:
        return self.version

    def voters(self) -> tuple[int, ...]:
        return self.conf.voters

    def voters_outgoing(self) -> tuple[int, ...]:
        return self.conf.voters_outgoing

    def keys_of_number(self, number: int, version: int) -> tuple[bytes, ...]:
        return (self.keys.public(number),)


class Cluster:
    """nodes: by raft number, dead ones too.  devices: ids that the roster knows."""

    def __init__(
        self, world: World, setting: Setting, *, voters: int, weather: Weather, real_keys: bool = False
    ) -> None:
        self.world, self.setting = world, setting
        self.keys = Keys(real=real_keys)
        self.checkers = Checkers(world)
        self.broker = Broker(world, weather)
        self.nodes: dict[int, SimNode] = {}
        self.devices: set[str] = set()
        self.sealed: dict[tuple[str, int, int], tuple[str, int]] = {}
        self.rosters: dict[int, list[ConfState]] = {}  # version -> its configuration, a joint one first
        self.log_fn: Callable[[str, str], None] | None = None
        self.gone: set[int] = set()  # switched off for good
        self.on_batch_hook: Callable[[SimNode, Sequence[Entry]], None] | None = None
        self.on_ask_hook: Callable[[SimNode, bytes], None] | None = None
        self._admitted: set[tuple[int, int, str, int, int]] = set()
        if world.trace is not None:
            self.log_fn = lambda _, text: world.note(text)
        founding = ConfState(voters=tuple(range(1, voters + 1)))
        self.on_roster(1, founding)
        for number in founding.voters:
            self.add(number, founding=founding).start()

    def add(self, number: int, *, founding: ConfState | None = None) -> SimNode:
        """A new device with an empty disk, or a founding member's."""
        node = self.nodes[number] = SimNode(self, number, founding=founding)
        self.devices.add(device(number))
        return node

    def servers(self) -> list[SimNode]:
        """Those that clients can reach."""
        return [node for node in self.nodes.values() if node.alive]

    def leader(self) -> SimNode | None:
        """Of those that think they lead, the one of the highest term."""
        leading = [node for node in self.nodes.values() if node.alive and node.raft.state is StateType.LEADER]
        return max(leading, key=lambda node: node.raft.term, default=None)

    def conf(self) -> ConfState:
        """The newest configuration that any node has applied."""
        return self.rosters[max(self.rosters)][-1]

    def ever_members(self) -> set[int]:
        """Every raft number that was in any configuration; none is ever used again once it has left."""
        return {
            number
            for confs in self.rosters.values()
            for conf in confs
            for number in (*conf.voters, *conf.voters_outgoing, *conf.learners, *conf.learners_next)
        }

    def members(self) -> list[SimNode]:
        """Those of the newest configuration."""
        conf = self.conf()
        numbers = {*conf.voters, *conf.voters_outgoing, *conf.learners, *conf.learners_next}
        return [self.nodes[number] for number in sorted(numbers)]

    # --- what the judges are told -----------------------------------------------------------------------------------

    def on_roster(self, version: int, conf: ConfState) -> None:
        confs = self.rosters.setdefault(version, [conf])
        if conf in confs:
            return
        if len(confs) > 1 or not confs[0].voters_outgoing or confs[0].voters != conf.voters:
            raise Violation("same configuration", f"roster {version}: {confs} and {conf}")
        confs.append(conf)  # left without a word of its own

    def on_sealed(self, number: int, topic: str, boot: int, seq: int, payload: bytes) -> None:
        key = (device(number), boot, seq)
        assert key not in self.sealed, "an envelope's number was used twice"
        self.sealed[key] = (topic, zlib.crc32(payload))

    def on_opened(self, topic: str, opened: Opened) -> None:
        if self.sealed.get(opened[:3]) != (topic, zlib.crc32(opened.payload)):
            raise Violation("authenticity", f"an envelope of {opened.sender} on {topic} that it did not send there")

    def on_admitted(self, node: SimNode, opened: Opened) -> None:
        key = (node.number, node.boot, *opened[:3])
        if key in self._admitted:
            raise Violation("authenticity", f"{node.number} takes in {opened[:3]} twice")
        self._admitted.add(key)

    def on_certificate(self, node: SimNode, certificate: LeaderCertificate) -> None:
        """A node says that it leads, and proves it."""
        if certificate.candidate != node.number:
            raise Violation("certificate", f"{node.number} shows one of {certificate.candidate}")
        try:
            self.believe(certificate, who=node.number)
        except LeadershipError as error:
            raise Violation("certificate", f"of {node.number}, made by the core: {error}") from error

    def believe(self, certificate: LeaderCertificate, *, who: int) -> None:
        """Raises LeadershipError for one that does not hold; one that does must name the leader."""
        confs = self.rosters.get(certificate.roster_version, [])
        faults = []
        for conf in confs:
            roster = Voters(conf, certificate.roster_version, self.keys)
            try:
                leadership.verify(certificate, roster, check=self.keys.check)
                break
            except LeadershipError as error:
                faults.append(error)
        else:
            raise faults[0] if faults else LeadershipError(f"roster {certificate.roster_version} is not known")
        real = self.checkers.leaders.get(certificate.term)
        if real != certificate.candidate:
            raise Violation(
                "certificate",
                f"{who} believes that {certificate.candidate} leads term {certificate.term}, it is {real}",
            )

    def on_batch(self, node: SimNode, entries: Sequence[Entry]) -> None:
        if self.on_batch_hook is not None:
            self.on_batch_hook(node, entries)

    def retained_term(self) -> int:
        """Of the certificate that a newcomer would find and believe; 0 for none."""
        data = self.broker.retained.get(LEADER_TOPIC)
        try:
            certificate = LeaderCertificate.decode(envelope.parse(data or b"").payload)
            self.believe(certificate, who=0)
        except (CoseError, LeadershipError):
            return 0
        return certificate.term
