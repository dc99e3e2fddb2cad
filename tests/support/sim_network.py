"""One MQTT broker at QoS 0, as the nodes see it: everything goes through it, and it promises nothing.

A message is lost when its sender is not connected, when the broker is down or restarts while it is on its way, when the
receiver's link is cut, or by chance.  It may come twice, late, and (where `reorder` is on: a second broker, a second
connection) before one that was sent earlier.  Links are cut per direction; pairs of nodes can be cut from each other
while both see the rest (a broken bridge between two brokers).
A client that goes without a word leaves a last will: the broker publishes it late, or never.
Retained topics are published at QoS 1: tried again until the broker, and every subscriber, has them.  They outlive a
broker restart only if the broker keeps them, and anybody may put something else in their place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from sim_world import MS, World

Handler = Callable[[str, bytes], None]
AGAIN_US = 300 * MS
"""Until something of QoS 1 is sent again."""
WILL = "will"
"""Topic of last wills; the payload is the raft number of the one that went, as decimal text."""


@dataclass(slots=True)
class Weather:
    """Chances per message, and the time that one takes through the broker (low, high), mostly and sometimes."""

    drop: float = 0.0
    duplicate: float = 0.0
    late: float = 0.0  # chance of a message that takes `late_us`
    reorder: bool = False
    delay_us: tuple[int, int] = (300, 1 * MS)
    late_us: tuple[int, int] = (5 * MS, 400 * MS)
    will: float = 1.0  # chance that a last will is published at all
    will_us: tuple[int, int] = (1 * MS, 2_000 * MS)


CALM = Weather()


class Broker:
    """Clients are ints.  tap: sees every payload that reaches the broker (the attacker listens there)."""

    def __init__(self, world: World, weather: Weather | None = None) -> None:
        self._world = world
        self.weather = weather or Weather()
        self.up = True
        self.keeps_retained = True
        self.retained: dict[str, bytes] = {}
        self.up_cut: set[int] = set()  # cannot send
        self.down_cut: set[int] = set()  # cannot hear
        self.pair_cut: set[tuple[int, int]] = set()  # (from, to)
        self.tap: Callable[[int, str, bytes], None] | None = None
        self.recent: deque[tuple[str, bytes]] = deque(maxlen=256)
        self._life = 0
        self._clients: dict[int, tuple[int, Handler]] = {}  # client -> (session, handler)
        self._back_of: dict[int, Callable[[], object] | None] = {}
        self._sessions = 0
        self._topics: dict[str, set[int]] = {}
        self._last_us: dict[tuple[int, int], int] = {}
        self.sent = self.lost = 0

    # --- connections ------------------------------------------------------------------------------------------------

    def connect(
        self, client: int, handler: Handler, topics: list[str], *, back: Callable[[], object] | None = None
    ) -> None:
        """A new session, at once: retained messages of its topics follow.  The old one ends without a will.

        back: called when the client is connected again after a restart of the broker.
        """
        self._sessions += 1
        self._back_of[client] = back
        self._clients[client] = (self._sessions, handler)
        for topic in topics:
            self._topics.setdefault(topic, set()).add(client)
        if self.up:
            self._send_retained(client, topics)

    def disconnect(self, client: int, *, clean: bool = False) -> None:
        """The client's process ended; unless clean, the broker may publish its will."""
        if self._clients.pop(client, None) is None:
            return
        for members in self._topics.values():
            members.discard(client)
        if not clean:
            self.lose(client)

    def lose(self, client: int) -> None:
        """The broker takes the client for gone, rightly or not: its will may follow."""
        weather = self.weather
        if self.up and self._world.chance(weather.will):
            self._world.after(self._world.between(*weather.will_us), self._publish_will, client, self._life)

    def _publish_will(self, client: int, life: int) -> None:
        if life == self._life and self.up:
            self._world.note(f"broker: last will of {client}")
            self._route(-1, WILL, str(client).encode())

    def restart(self, down_us: int) -> None:
        """Everything on its way is lost; clients are back when they have noticed."""
        self._life += 1
        self.up = False
        if not self.keeps_retained:
            self.retained.clear()
        self._world.after(down_us, self._back)

    def _back(self) -> None:
        self.up = True
        for client in list(self._clients):
            self._world.after(self._world.between(1 * MS, 300 * MS), self._again, client, self._clients[client][0])

    def _again(self, client: int, session: int) -> None:
        known = self._clients.get(client)
        if known is not None and known[0] == session:
            self._send_retained(client, [topic for topic, members in self._topics.items() if client in members])
            back = self._back_of.get(client)
            if back is not None:
                back()

    def _send_retained(self, client: int, topics: list[str]) -> None:
        for topic in topics:
            payload = self.retained.get(topic)
            if payload is not None:
                self._deliver_later(-1, client, topic, payload)

    # --- messages ---------------------------------------------------------------------------------------------------

    def publish(self, sender: int, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self.sent += 1
        if sender not in self._clients or sender in self.up_cut or not self.up:
            self.lost += 1
            if retain and sender in self._clients:
                self._world.after(AGAIN_US, self._publish_again, sender, self._clients[sender][0], topic, payload)
            return
        self.recent.append((topic, payload))
        if retain:
            self.retained[topic] = payload
        self._route(sender, topic, payload)

    def _publish_again(self, sender: int, session: int, topic: str, payload: bytes) -> None:
        known = self._clients.get(sender)
        if known is not None and known[0] == session:
            self.publish(sender, topic, payload, retain=True)

    def inject(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """A stranger's message: the broker asks nobody who they are."""
        if self.up:
            if retain:
                self.retained[topic] = payload
            self._route(-1, topic, payload)

    def _route(self, sender: int, topic: str, payload: bytes) -> None:
        members = self._topics.get(topic)
        if not members:
            return
        world, weather = self._world, self.weather
        for client in sorted(members) if len(members) > 1 else members:
            if weather.drop and topic not in self.retained and world.chance(weather.drop):
                self.lost += 1
                continue
            self._deliver_later(sender, client, topic, payload)
            if weather.duplicate and world.chance(weather.duplicate):
                self._deliver_later(sender, client, topic, payload)

    def _deliver_later(self, sender: int, client: int, topic: str, payload: bytes) -> None:
        world, weather = self._world, self.weather
        late = weather.late and world.chance(weather.late)
        at_us = world.now_us + world.between(*(weather.late_us if late else weather.delay_us))
        if not weather.reorder:
            link = (sender, client)
            at_us = max(at_us, self._last_us.get(link, 0))
            self._last_us[link] = at_us
        world.at(at_us, self._deliver, sender, client, topic, payload, self._life)

    def _deliver(self, sender: int, client: int, topic: str, payload: bytes, life: int) -> None:
        known = self._clients.get(client)
        if known is None or life != self._life or client in self.down_cut or (sender, client) in self.pair_cut:
            self.lost += 1
            if known is not None and life == self._life and topic in self.retained:
                self._world.after(AGAIN_US, self._deliver, -1, client, topic, payload, life)
            return
        known[1](topic, payload)

    def heal(self) -> None:
        """No cuts, no losses; what is down comes up by itself."""
        self.up_cut.clear()
        self.down_cut.clear()
        self.pair_cut.clear()
        self.weather = Weather()
