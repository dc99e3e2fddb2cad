"""Artefacts between devices: `drivers.artefact_exchange` on the swarm's topics.

Who wants one asks everybody on event/low/artefact.wanted; who has it answers on event/low/artefact.offer; pieces are
asked for in a device's inbox and come on artifact/<sha256>/<n>, on the bulk connection, for all who fetch it at once.
Whether a piece is right is decided by its hash, so any peer may serve.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeswarm.app.swarm.peer import CallError
from edgeswarm.app.swarm.post import Letter
from edgeswarm.core.artefacts import Manifest
from edgeswarm.drivers.artefact_exchange import ArtefactExchange, Seed
from edgeswarm.drivers.artefact_store import ArtefactStore
from edgeswarm.drivers.mqtt.transport import Incoming, Priority
from edgeswarm.errors import CodecError, EdgeSwarmError, LimitError, LocalError, RemoteError
from edgeswarm.limits import AF_FILE_BYTES_MAX, ARTEFACT_QUOTA_BYTES
from edgeswarm.wire import messages as msg
from edgeswarm.wire.capability import MEMORY

if TYPE_CHECKING:
    from edgeswarm.app.swarm.node import SwarmNode

WANTED = "artefact.wanted"
OFFER = "artefact.offer"
LISTEN_LOOK_S = 0.02
LISTEN_S = 2.0  # the bulk connection is made when it is first needed
CHUNK_EXPIRY_S = 10  # a chunk that waits longer for the connection was asked for elsewhere
KEEP_S = 30.0  # an agent file of 4 MB at 256 KiB/s takes half of that


def _nothing(message: Incoming) -> None:
    """The exchange hears what comes."""


def _offer_of(manifest: Manifest, have: bytes) -> msg.ArtefactOffer:
    return msg.ArtefactOffer(
        digest=manifest.digest,
        size_bytes=manifest.size_bytes,
        chunk_bytes=manifest.chunk_bytes,
        chunks=manifest.chunks,
        have=have,
    )


class Artefacts:
    """What this device keeps and serves, and how it gets what it lacks."""

    def __init__(self, node: SwarmNode) -> None:
        self._node = node
        self._store: ArtefactStore | None = None
        self._exchange: ArtefactExchange | None = None

    async def start(self) -> None:
        """Raises StoreError."""
        post, topics, peer = self._node.post, self._node.topics, self._node.peer
        allowed = self._node.supervisor.settings.profile.classes.coordinator.disk_mb << 20
        quota_bytes = min(ARTEFACT_QUOTA_BYTES, allowed)
        self._store = await ArtefactStore.open(self._node.folder / "artefacts", quota_bytes=quota_bytes)
        self._exchange = ArtefactExchange(self._store, self)
        post.on(topics.events("low", WANTED), self._wanted)
        post.on(topics.events("low", OFFER), self._offered)
        peer.methods |= {"artefact.keep": self._keep, "artefact.offer": self._offer}
        peer.letters[msg.ChunkRequest] = self._asked
        peer.letters[msg.ArtefactOffer] = self._offer_letter

    async def close(self) -> None:
        if self._exchange is not None:
            await self._exchange.close()
        if self._store is not None:
            await self._store.close()

    @property
    def exchange(self) -> ArtefactExchange:
        if self._exchange is None:
            raise LocalError("artefacts: used before the device is in its cell")
        return self._exchange

    async def put(self, data: bytes) -> bytes:
        """Keep `data` and serve it; its SHA-256.  Raises StoreError, LimitError."""
        if len(data) > AF_FILE_BYTES_MAX:
            raise LimitError(f"artefact: at most {AF_FILE_BYTES_MAX} bytes, found {len(data)}")
        return (await self.exchange.store.add(data)).digest

    async def spread(self, digest: bytes) -> int:
        """Have a majority of the voters keep it, before anything in the log depends on it; how many do.

        Raises RemoteError where too few can be reached: what one device alone has is lost with it.
        """
        node = self._node
        numbers = node.rosters.current.voters()
        voters = [device for number in numbers if (device := node.rosters.device_of(number)) is not None]
        others = [device for device in voters if device != node.config.device]
        asks = {
            asyncio.ensure_future(node.peer.call(device, "artefact.keep", digest, deadline_s=KEEP_S))
            for device in others
        }
        kept, wanted, faults, waiting = len(voters) - len(others), len(voters) // 2 + 1, set[str](), asks
        try:
            while kept < wanted and waiting:  # a voter that is dead costs its deadline only where it is needed
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                errors = [error for ask in done if (error := ask.exception()) is not None]
                kept += len(done) - len(errors)
                faults |= {str(error) for error in errors}
        finally:
            for ask in asks:
                ask.cancel()
            await asyncio.gather(*asks, return_exceptions=True)
        if kept < wanted:
            why = "; ".join(sorted(faults))[:300]
            raise RemoteError(f"artefact {digest.hex()[:12]}: {kept} of {len(voters)} voters keep it: {why}")
        return kept

    async def _keep(self, sender: str, body: bytes) -> bytes:
        if len(body) != 32:
            raise CodecError("artefact.keep: expected a SHA-256", who=sender)
        if self._node.rosters.current.role(sender) == "reader":
            raise CallError("a reader may not have artefacts kept", who=sender, code="forbidden")
        fetch = asyncio.ensure_future(self._get(body))
        try:
            if not await self.exchange.store.get(body):
                offer = msg.decode(await self._node.peer.call(sender, "artefact.offer", body, deadline_s=LISTEN_S))
                if isinstance(offer, msg.ArtefactOffer):  # who asks us to keep it has it: no need to ask everybody
                    self._offer_letter(sender, offer)
        except EdgeSwarmError as error:
            self._node.log.debug("offer_not_given", peer=sender, error=str(error))
        await fetch
        return b""

    async def _offer(self, sender: str, body: bytes) -> bytes:
        self._check_readable(sender, body)
        held = self.exchange.store.held(body)
        if held is None:
            raise CallError("no such artefact here", who=self._node.config.device, code="not-found")
        return msg.encode(_offer_of(held[0], held[1].to_bytes()))

    async def fetch(self, digest: bytes, agent: str, *, seed: Seed | None = None, shared: bool = False) -> bytes:
        """From this device, else from whichever peers have it.  Raises RemoteError, LimitError, StoreError.

        seed: as ArtefactExchange.fetch.  shared: many fetch it now, and the voters keep it: all ask the same one.
        """
        await self._get(digest, seed=seed, shared=self._voters(digest) if shared else None)
        data = await self.exchange.store.read(digest)
        if data is None:
            raise RemoteError(f"agent {agent}: artefact {digest.hex()[:12]} was evicted as soon as it came")
        return data

    def _voters(self, digest: bytes) -> list[str]:
        """In an order that is everybody's, and another one for each artefact."""
        rosters = self._node.rosters
        names = (rosters.device_of(number) for number in rosters.current.voters())
        found = [name for name in names if name is not None and name != self._node.config.device]
        return sorted(found, key=lambda name: hashlib.sha256(digest + name.encode()).digest())

    async def _ask_first(self, digest: bytes, first: Sequence[str]) -> None:
        """The offer of the first of them that answers, instead of everybody's."""
        for name in first:
            try:
                offer = msg.decode(await self._node.peer.call(name, "artefact.offer", digest, deadline_s=LISTEN_S))
            except EdgeSwarmError as error:
                self._node.log.debug("offer_not_given", peer=name, error=str(error))
                continue
            if isinstance(offer, msg.ArtefactOffer):
                for _ in range(round(LISTEN_S / LISTEN_LOOK_S)):  # the fetch looks at the disk before it listens
                    if self.exchange.progress(digest) is not None:
                        break
                    await asyncio.sleep(LISTEN_LOOK_S)
                self._offer_letter(name, offer)
                return

    def gone(self, device: str) -> None:
        """A peer's last will came."""
        if self._exchange is not None:
            self._exchange.on_gone(device)

    async def _get(self, digest: bytes, *, seed: Seed | None = None, shared: Sequence[str] | None = None) -> None:
        """Fetch it once its topic is heard: what is sent before is lost, and asked for again only after seconds."""
        transport, topic = self._node.transport, self._node.topics.chunks(digest.hex())
        granted = transport.subscribe(topic, _nothing, bulk=True)
        try:
            if await self.exchange.store.get(digest) is None:
                await asyncio.wait([granted], timeout=LISTEN_S)
                asking = asyncio.ensure_future(self._ask_first(digest, shared or ()))
                try:
                    await self.exchange.fetch(digest, seed=seed, shared=shared)
                finally:
                    asking.cancel()
                    await asyncio.gather(asking, return_exceptions=True)
        finally:
            transport.unsubscribe(topic, _nothing, bulk=True)

    # --- what the exchange says -----------------------------------------------------------------------------------

    def listen(self, digest: bytes, on: bool) -> None:
        post, topic = self._node.post, self._node.topics.chunks(digest.hex())
        if on:
            post.on(topic, self._chunk, bulk=True)
        else:
            post.transport.unsubscribe(topic, bulk=True)

    def ask_offer(self, peer: str, digest: bytes) -> None:
        node = self._node
        topic = node.topics.event("low", WANTED)
        node.post.send(topic, msg.encode(msg.AppMessage(name=WANTED, body=digest)), priority=Priority.MEDIUM)

    def offer(self, peer: str, manifest: Manifest, have: bytes) -> None:
        node = self._node
        offer = _offer_of(manifest, have)
        if peer:
            node.peer.tell(peer, offer)
        else:
            node.post.send(node.topics.event("low", OFFER), msg.encode(offer), priority=Priority.MEDIUM)

    def ask_chunks(self, peer: str, digest: bytes, first: int, count: int) -> None:
        self._node.peer.tell(peer, msg.ChunkRequest(digest=digest, first=first, count=count))

    def send_chunk(self, digest: bytes, index: int, data: bytes, peers: tuple[str, ...]) -> None:
        node = self._node
        chunk = msg.encode(msg.Chunk(digest=digest, index=index, data=data))
        node.post.send(
            node.topics.artifact(digest.hex(), index), chunk, priority=Priority.LOW, bulk=True, expiry_s=CHUNK_EXPIRY_S
        )

    def blame(self, peer: str, digest: bytes, why: str) -> None:
        self._node.log.warning("artefact_blame", peer=peer, artefact=digest.hex()[:12], why=why)

    # --- what comes -----------------------------------------------------------------------------------------------

    def _wanted(self, letter: Letter) -> None:
        message = msg.decode_at(letter.topic, letter.payload, who=letter.sender)
        if isinstance(message, msg.AppMessage) and len(message.body) == 32:
            self.exchange.on_offer_asked(letter.sender, message.body)

    def _offered(self, letter: Letter) -> None:
        message = msg.decode_at(letter.topic, letter.payload, who=letter.sender)
        if isinstance(message, msg.ArtefactOffer):
            self._offer_letter(letter.sender, message)

    def _offer_letter(self, sender: str, offer: msg.ArtefactOffer) -> None:
        self.exchange.on_offer(sender, offer.digest, offer.size_bytes, offer.chunk_bytes, offer.chunks, offer.have)

    def _check_readable(self, sender: str, digest: bytes) -> None:
        """What an agent remembers is given to who may have it: memory.access, and the coordinators, who keep it.

        Raises CallError.  What was overtaken by a newer checkpoint is not known for one any more."""
        node = self._node
        agents = [one.spec.id for one in node.replica.state.agents.values() if one.checkpoint == digest]
        if agents and node.rosters.current.role(sender) != "coordinator":
            if not any(node.may(MEMORY, agent, device=sender) for agent in agents):
                raise CallError(f"checkpoint of {agents[0]}: {MEMORY} is not granted", who=sender, code="forbidden")

    def _asked(self, sender: str, request: msg.ChunkRequest) -> None:
        self._check_readable(sender, request.digest)
        self.exchange.on_chunks_asked(sender, request.digest, request.first, request.count)

    def _chunk(self, letter: Letter) -> None:
        chunk = msg.decode_at(letter.topic, letter.payload, who=letter.sender)
        if isinstance(chunk, msg.Chunk) and letter.topic.digest == chunk.digest.hex():
            self.exchange.on_chunk(letter.sender, chunk.digest, chunk.index, chunk.data)
