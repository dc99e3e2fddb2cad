"""Puts fetching and serving artefacts (core/artefacts*.py) to work: their effects on the store, the clock, a post.

The post is what the swarm's topics are made of; it sends and never waits.  What comes in is handed to the on_ methods.
    wants an artefact      ask_offer(everybody)  ->  others: on_offer_asked
    has it, or pieces      offer(everybody)      ->  others: on_offer
    wants pieces           ask_chunks(peer)      ->  that peer: on_chunks_asked
    sends a piece          send_chunk            ->  whoever listens to the artefact's topic: on_chunk
`listen` says which artefact's topic this device wants to hear, from when until when.
Invariants: at most ARTEFACT_FETCHES_MAX fetches at one time; an artefact is offered to everybody at most once in
ARTEFACT_OFFER_S, however many ask; a piece is read from disk when its turn has come, so what waits holds no bytes.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from edgeswarm.core.artefacts import Chunks, Manifest, ManifestError, SendChunk, Serve
from edgeswarm.core.artefacts_effects import (
    AskChunks,
    AskOffer,
    Blame,
    Check,
    Done,
    Effect,
    Failed,
    Progress,
    Store,
    Use,
)
from edgeswarm.core.artefacts_fetch import Fetch
from edgeswarm.drivers.artefact_store import ArtefactStore
from edgeswarm.errors import EdgeSwarmError, LimitError, LocalError, RemoteError
from edgeswarm.limits import (
    ARTEFACT_FETCH_BYTES_PER_S,
    ARTEFACT_FETCHES_MAX,
    ARTEFACT_OFFER_S,
    ARTEFACT_SERVE_BYTES_PER_S,
    ARTEFACTS_MAX,
)


class Post(Protocol):
    """Sends, and never waits.  peer "": everybody.  have: as on the wire, empty is all."""

    def listen(self, digest: bytes, on: bool) -> None: ...
    def ask_offer(self, peer: str, digest: bytes) -> None: ...
    def offer(self, peer: str, manifest: Manifest, have: bytes) -> None: ...
    def ask_chunks(self, peer: str, digest: bytes, first: int, count: int) -> None: ...
    def send_chunk(self, digest: bytes, index: int, data: bytes, peers: tuple[str, ...]) -> None: ...
    def blame(self, peer: str, digest: bytes, why: str) -> None: ...


Seed = Callable[[Manifest], Mapping[int, bytes]]
"""Chunks of a manifest whose bytes are here already, each checked; asked more than once."""


class _Running:
    """One fetch and its way to the disk: effects that need the disk wait in `work`, in their order."""

    def __init__(self, fetch: Fetch, done: asyncio.Future[Path], seed: Seed | None) -> None:
        self.fetch, self.done, self.seed = fetch, done, seed
        self.work: deque[Use | Store | Check] = deque()
        self.worker: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None


class ArtefactExchange:
    """Use on one loop.  fetch_bytes_per_s: of each fetch; serve_bytes_per_s: of all that ask."""

    def __init__(
        self,
        store: ArtefactStore,
        post: Post,
        *,
        rng: random.Random | None = None,
        fetch_bytes_per_s: float = ARTEFACT_FETCH_BYTES_PER_S,
        serve_bytes_per_s: float = ARTEFACT_SERVE_BYTES_PER_S,
    ) -> None:
        self.store = store
        self._post = post
        self._rng = rng or random.Random()
        self._loop = asyncio.get_running_loop()
        self._fetch_bytes_per_s = fetch_bytes_per_s
        self._serve = Serve(serve_bytes_per_s, self._loop.time())
        self._running: dict[bytes, _Running] = {}
        self._starting: dict[bytes, asyncio.Task[Path]] = {}
        self._sends: deque[SendChunk] = deque()
        self._sender: asyncio.Task[None] | None = None
        self._serve_timer: asyncio.TimerHandle | None = None
        self._offered: dict[bytes, float] = {}
        self._closed = False

    # --- what we want -----------------------------------------------------------------------------------------------

    async def fetch(self, digest: bytes, *, seed: Seed | None = None, shared: Sequence[str] | None = None) -> Path:
        """The artefact's file, from here or from peers; several calls for one artefact share one fetch.

        seed: what need not come from peers.  shared: see core.artefacts_fetch.Fetch.

        Raises RemoteError when nobody gives it (the text says why), LimitError where there is no room, StoreError.
        A caller that is cancelled gives up waiting; the fetch goes on for the others, or until cancel().
        """
        task = self._starting.get(digest)
        if task is None:
            if self._closed:
                raise LocalError("artefacts: used after close")
            if len(self._starting) >= ARTEFACT_FETCHES_MAX:
                raise LimitError(f"artefacts: at most {ARTEFACT_FETCHES_MAX} fetches at one time")
            task = self._starting[digest] = self._loop.create_task(
                self._fetch(digest, seed, shared), name="artefact fetch"
            )
            task.add_done_callback(lambda done: self._ended(digest, done))
        return await asyncio.shield(task)

    async def _fetch(self, digest: bytes, seed: Seed | None, shared: Sequence[str] | None) -> Path:
        path = await self.store.get(digest)
        if path is not None:
            return path
        left = await self.store.resume(digest)
        manifest, have = left if left is not None else (None, None)
        now = self._loop.time()
        fetch = Fetch(
            digest,
            rng=self._rng,
            now=now,
            bytes_per_s=self._fetch_bytes_per_s,
            manifest=manifest,
            have=have,
            seed=seed,
            shared=shared,
        )
        running = self._running[digest] = _Running(fetch, self._loop.create_future(), seed)
        self._post.listen(digest, True)
        try:
            self._do(running, fetch.start(now))
            return await running.done
        finally:
            del self._running[digest]
            self._post.listen(digest, False)
            if running.timer is not None:
                running.timer.cancel()
            if running.worker is not None:
                running.worker.cancel()
                await asyncio.gather(running.worker, return_exceptions=True)
            if not self._closed:
                await self.store.leave(digest)

    def _ended(self, digest: bytes, task: asyncio.Task[Path]) -> None:
        del self._starting[digest]
        if not task.cancelled():
            task.exception()  # whoever still waits is told; if nobody does, it is no news

    def cancel(self, digest: bytes) -> None:
        """Nobody wants it any more; what came so far stays until the room is needed."""
        if (task := self._starting.get(digest)) is not None:
            task.cancel()

    def progress(self, digest: bytes) -> Progress | None:
        """None: it is not being fetched."""
        running = self._running.get(digest)
        return None if running is None else running.fetch.progress()

    async def close(self) -> None:
        """Ends all fetches; the store stays open."""
        self._closed = True
        if self._serve_timer is not None:
            self._serve_timer.cancel()
        tasks: list[asyncio.Task[Path] | asyncio.Task[None]] = [*self._starting.values()]
        tasks += [self._sender] if self._sender is not None else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- what comes in ----------------------------------------------------------------------------------------------

    def on_offer(
        self, peer: str, digest: bytes, size_bytes: int, chunk_bytes: int, chunks: Sequence[bytes], have: bytes
    ) -> None:
        """An ArtefactOffer.  No chunks, but a size: it has the artefact, and does not say what is in it."""
        running = self._running.get(digest)
        if running is None:
            return
        manifest = None
        if chunks or not size_bytes:
            try:
                manifest = Manifest(digest, size_bytes, chunk_bytes, tuple(chunks))
            except ManifestError as error:
                self._post.blame(peer, digest, str(error))
                return
        self._do(running, running.fetch.offered(peer, manifest, have, self._loop.time()))

    def on_chunk(self, peer: str, digest: bytes, index: int, data: bytes) -> None:
        if (running := self._running.get(digest)) is not None:
            self._do(running, running.fetch.arrived(peer, index, data, self._loop.time()))

    def on_offer_asked(self, peer: str, digest: bytes) -> None:
        """Answered to everybody: who fetches an artefact is seldom the only one."""
        held, now = self._held(digest), self._loop.time()
        if held is None or self._closed or now < self._offered.get(digest, -ARTEFACT_OFFER_S) + ARTEFACT_OFFER_S:
            return
        if len(self._offered) >= ARTEFACTS_MAX:
            self._offered.clear()
        self._offered[digest] = now
        self._post.offer("", held[0], held[1].to_bytes())

    def on_chunks_asked(self, peer: str, digest: bytes, first: int, count: int) -> None:
        if self._closed:
            return
        held = self._held(digest)
        if held is None:
            self._serve.drop(digest)
        else:
            self._serve.hold(*held)
        self._send(self._serve.asked(peer, digest, first, count, self._loop.time()))

    def on_gone(self, peer: str) -> None:
        """The peer has left the network."""
        self._serve.gone(peer)
        for running in list(self._running.values()):
            self._do(running, running.fetch.gone(peer, self._loop.time()))

    # --- fetching ---------------------------------------------------------------------------------------------------

    def _do(self, running: _Running, effects: list[Effect]) -> None:
        digest = running.fetch.digest
        for effect in effects:
            match effect:
                case AskOffer(peer):
                    self._post.ask_offer(peer, digest)
                case AskChunks(peer, first, count):
                    self._post.ask_chunks(peer, digest, first, count)
                case Blame(peer, why):
                    self._post.blame(peer, digest, why)
                case Failed(why):
                    self._fail(running, RemoteError(f"artefact {digest.hex()}: {why}"))
                case Done():
                    pass  # the worker, which checked it, has the path
                case Use() | Store() | Check():
                    running.work.append(effect)
        if running.work and (running.worker is None or running.worker.done()) and not running.done.done():
            running.worker = self._loop.create_task(self._work(running), name="artefact store")
        if running.timer is not None:
            running.timer.cancel()
        wake = running.fetch.wake_at()
        running.timer = None if wake is None else self._loop.call_at(wake, self._tick, running)

    def _tick(self, running: _Running) -> None:
        self._do(running, running.fetch.tick(self._loop.time()))

    async def _work(self, running: _Running) -> None:
        """What needs the disk, one after the other."""
        fetch, digest = running.fetch, running.fetch.digest
        try:
            while running.work:
                match running.work.popleft():
                    case Use(manifest, keep, seeded):
                        await self.store.use(manifest, keep)
                        found = running.seed(manifest) if seeded and running.seed is not None else {}
                        for index in seeded:
                            await self.store.write(digest, index, found[index])
                    case Store(index, data):
                        await self.store.write(digest, index, data)
                        self._do(running, fetch.stored(index, self._loop.time()))
                    case Check():
                        whole = await self.store.check(digest)
                        self._do(running, fetch.checked(whole, self._loop.time()))
                        path = await self.store.get(digest) if whole else None
                        if path is not None and not running.done.done():
                            running.done.set_result(path)
        except EdgeSwarmError as error:  # a full disk, no room, removed meanwhile
            fetch.store_failed(str(error), self._loop.time())
            self._fail(running, error)

    def _fail(self, running: _Running, error: EdgeSwarmError) -> None:
        if not running.done.done():
            running.done.set_exception(error)

    # --- serving ----------------------------------------------------------------------------------------------------

    def _held(self, digest: bytes) -> tuple[Manifest, Chunks] | None:
        """What is on disk; nothing of a fetch that has nothing yet."""
        held = self.store.held(digest)
        return None if held is None or (held[1].size == 0 and held[0].count) else held

    def _send(self, sends: list[SendChunk]) -> None:
        self._sends.extend(sends)
        if self._sends and (self._sender is None or self._sender.done()):
            self._sender = self._loop.create_task(self._send_all(), name="artefact serve")
        if self._serve_timer is not None:
            self._serve_timer.cancel()
        wake = self._serve.wake_at()
        self._serve_timer = None if wake is None else self._loop.call_at(wake, self._serve_tick)

    def _serve_tick(self) -> None:
        self._serve_timer = None
        self._send(self._serve.tick(self._loop.time()))

    async def _send_all(self) -> None:
        while self._sends:
            send = self._sends.popleft()
            try:
                data = await self.store.read_chunk(send.digest, send.index)
            except EdgeSwarmError:
                data = None  # a disk that does not read: who asked will ask elsewhere
            if data is None:
                if self.store.held(send.digest) is None:
                    self._serve.drop(send.digest)
                continue
            self._post.send_chunk(send.digest, send.index, data, send.peers)
