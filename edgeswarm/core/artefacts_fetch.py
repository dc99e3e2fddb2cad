"""Fetching an artefact from whoever has pieces of it: what to ask whom, whom to blame, and when to give up.  Pure.

Peers offer manifests, and any of them may lie.  Chunks are checked against the manifest in use; whoever sends one that
contradicts the manifest it vouched for is blamed and not asked again.  A whole that does not have the artefact's digest
although all its chunks were right condemns the manifest with all who vouched for it; chunks that another manifest
names too are kept.
Invariants: at most ARTEFACT_WINDOW_CHUNKS chunks are asked for or on their way to the disk, so memory is bounded
whatever peers send; what is stored was checked; the fetch ends: done, or failed with its reason after ARTEFACT_STALL_S
without a new chunk.
The driver keeps the order of the effects, answers Store with stored() or store_failed(), and Check with checked().
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Collection, Sequence
from typing import Final

from edgeswarm.core.artefacts import Chunks, Manifest, TokenBucket
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
from edgeswarm.core.artefacts_peers import Asked, Peer, run
from edgeswarm.limits import (
    ARTEFACT_ASK_CHUNKS_MAX,
    ARTEFACT_BACKOFF_S_MAX,
    ARTEFACT_CHUNK_BYTES_MAX,
    ARTEFACT_CHUNK_S,
    ARTEFACT_FETCH_BYTES_PER_S,
    ARTEFACT_MANIFESTS_MAX,
    ARTEFACT_PEER_CHUNKS,
    ARTEFACT_PEERS_MAX,
    ARTEFACT_QUIET_S,
    ARTEFACT_SPREAD_S,
    ARTEFACT_STALL_S,
    ARTEFACT_WINDOW_CHUNKS,
    MESSAGE_ITEMS_MAX,
)

_NOT_THIS: Final = "vouched for a manifest whose chunks are not this artefact"
_OFFER_S: Final = 2.0  # between two calls for offers
_SILENT: Final = 3  # requests let pass in a row: then another manifest may be better
_BLAMED_MAX: Final = 4 * ARTEFACT_PEERS_MAX
_BITS_BYTES: Final = MESSAGE_ITEMS_MAX // 8


class Fetch:
    """One artefact.  Every method takes `now` (seconds, monotonic) and returns effects, in their order."""

    def __init__(
        self,
        digest: bytes,
        *,
        rng: random.Random,
        now: float,
        bytes_per_s: float = ARTEFACT_FETCH_BYTES_PER_S,
        manifest: Manifest | None = None,
        have: bytes | None = None,
        seed: Callable[[Manifest], Collection[int]] | None = None,
        shared: Sequence[str] | None = None,
    ) -> None:
        """manifest, have: what an earlier try left on disk, each chunk checked again; have as Chunks takes it.

        seed: chunks of a manifest whose bytes the driver has from elsewhere, checked.  shared: many fetch this now:
        all ask the same peer (these first, in their order), each after a while, and not while what others asked comes.
        """
        self.digest = digest
        self._rng = rng
        self._bucket = TokenBucket(bytes_per_s, max(bytes_per_s / 4, ARTEFACT_CHUNK_BYTES_MAX), now)
        self._peers: dict[str, Peer] = {}
        self._blamed: dict[str, str] = {}
        self._condemned: set[Manifest] = set()
        self._manifest = manifest
        self._have = Chunks(0 if manifest is None else manifest.count, have if manifest is not None else None)
        self._before: tuple[Manifest, Chunks] | None = None  # the manifest before, and what is on disk of it
        self._asked: dict[int, Asked] = {}
        self._storing: set[int] = set()
        self._cursor = 0
        self._tokens_at: float | None = None  # when more may be asked for; None: that is not what it waits for
        self._progress_at = now
        self._offer_at = now
        self._checking = False
        self._seed = seed or (lambda _: ())
        self._shared = shared
        self._hold_until = now
        if shared is not None:
            self._hold_until += ARTEFACT_SPREAD_S * rng.uniform(0.5, 1.5)
            self._offer_at = self._hold_until  # the first of `shared` was asked already
        self.over: Done | Failed | None = None

    # --- events -----------------------------------------------------------------------------------------------------

    def start(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        if self._manifest is not None:
            effects.append(Use(self._manifest, self._kept()))
        return effects + self._go_on(now)

    def offered(self, peer: str, manifest: Manifest | None, have: bytes, now: float) -> list[Effect]:
        """A peer has the artefact, or pieces: have as on the wire, empty is all.  manifest None: it did not say."""
        if self.over or peer in self._blamed:
            return []
        if manifest is not None and manifest.digest != self.digest:
            return []  # of another artefact
        if manifest is not None and manifest in self._condemned:
            return self._blame(peer, _NOT_THIS, now)
        known = self._peers.get(peer)
        if known is None:
            if len(self._peers) >= ARTEFACT_PEERS_MAX:
                return []
            known = self._peers[peer] = Peer()
        if manifest is not None:
            manifest = self._admit_manifest(manifest, peer)
        if manifest is not None:
            known.offered = manifest
        known.bits = have[:_BITS_BYTES]
        effects: list[Effect] = []
        if known.offered is None and self._manifest is None and not known.offer_asked:
            known.offer_asked = True
            effects.append(AskOffer(peer))
        return effects + self._go_on(now)

    def arrived(self, peer: str, index: int, data: bytes, now: float) -> list[Effect]:
        """A chunk came, asked for or not: what it is, is for its hash to say."""
        manifest = self._manifest
        if self.over or manifest is None or peer in self._blamed or not 0 <= index < manifest.count:
            return []
        if index in self._have or index in self._storing or len(self._storing) >= ARTEFACT_WINDOW_CHUNKS:
            return []  # a duplicate is not worth its hash; where the disk is behind, it will be asked for again
        known = self._peers.get(peer)
        if not manifest.is_chunk(index, data):
            if known is None:
                return []  # nobody whom we asked
            if known.offered == manifest:
                return self._blame(peer, f"chunk {index} is not what its manifest says", now)
            known.useless = True
            self._take_back(peer)
            return self._go_on(now)
        asked = self._asked.pop(index, None)
        if asked is not None:
            self._peers[asked.peer].asked -= 1
        elif self._shared is not None:  # only what is right and new: nobody can hold us off for ever
            self._hold_until = now + ARTEFACT_QUIET_S * self._rng.uniform(1.0, 3.0)
        if known is not None:
            known.silent, known.not_before, known.heard_at = 0, now, now
        self._storing.add(index)
        self._progress_at = now
        return [Store(index, data), *self._go_on(now)]

    def stored(self, index: int, now: float) -> list[Effect]:
        if self.over or index not in self._storing:
            return []
        self._storing.discard(index)
        self._have.add(index)
        return self._go_on(now)

    def store_failed(self, why: str, now: float) -> list[Effect]:
        return [] if self.over else self._fail(f"the disk refused: {why}")

    def checked(self, ok: bool, now: float) -> list[Effect]:
        """The answer to Check.  False: every chunk was what the manifest says, but the whole is another artefact."""
        if self.over or not self._checking:
            return []
        self._checking = False
        if ok:
            self.over = Done()
            return [self.over]
        assert self._manifest is not None
        condemned = self._manifest
        self._condemned.add(condemned)
        effects: list[Effect] = []
        for name in [name for name, peer in self._peers.items() if peer.offered == condemned]:
            effects += self._blame_only(name, _NOT_THIS)
        return effects + self._choose() + self._go_on(now)

    def gone(self, peer: str, now: float) -> list[Effect]:
        """The peer has left the network; it may come back with a new offer."""
        if self.over or peer not in self._peers:
            return []
        self._take_back(peer)
        del self._peers[peer]
        return self._go_on(now)

    def tick(self, now: float) -> list[Effect]:
        """Time has passed: timeouts, new tokens."""
        if self.over:
            return []
        for index, asked in [each for each in self._asked.items() if each[1].at + ARTEFACT_CHUNK_S <= now]:
            del self._asked[index]
            peer = self._peers[asked.peer]
            peer.asked -= 1
            if peer.heard_at <= asked.at and peer.not_before <= now:  # once for all chunks of a request
                peer.silent += 1
                wait = min(ARTEFACT_CHUNK_S * 2 ** min(peer.silent - 1, 16), ARTEFACT_BACKOFF_S_MAX)
                peer.not_before = now + wait * self._rng.uniform(0.5, 1.0)
        if now >= self._progress_at + ARTEFACT_STALL_S and not (self._checking or self._storing):
            return self._fail(self._why_stalled())
        return self._go_on(now)

    def wake_at(self) -> float | None:
        """When tick() is due at the latest; None: the fetch is over, or waits for the disk."""
        if self.over or self._checking or (self._storing and self._have.size + len(self._storing) == self._have.count):
            return None
        times = [self._offer_at]
        if not self._storing:
            times.append(self._progress_at + ARTEFACT_STALL_S)
        times += [asked.at + ARTEFACT_CHUNK_S for asked in self._asked.values()]
        if self._tokens_at is not None:
            times.append(self._tokens_at)
        return min(times)

    def progress(self) -> Progress:
        manifest, peers, blamed = self._manifest, len(self._peers), dict(self._blamed)
        if manifest is None:
            return Progress(peers=peers, blamed=blamed)
        stored = self._have.size * manifest.chunk_bytes
        if self._have.size and manifest.count - 1 in self._have:
            stored += manifest.size_of(manifest.count - 1) - manifest.chunk_bytes
        return Progress(self._have.size, manifest.count, stored, manifest.size_bytes, peers, blamed)

    # --- what next --------------------------------------------------------------------------------------------------

    def _go_on(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        if len(self._blamed) > _BLAMED_MAX:
            return self._fail(f"{len(self._blamed)} peers sent what is not this artefact")
        if self._manifest is None or self._other_is_better():
            effects += self._choose()
        if self._manifest is not None and self._have.is_full():
            if not self._checking and not self._storing:
                self._checking = True
                effects.append(Check())
            return effects
        asks = self._ask(now) if self._manifest is not None else []
        if not asks and not self._asked and not self._storing and self._tokens_at is None and now >= self._offer_at:
            asks = [AskOffer("")]
        if asks or now >= self._offer_at:
            self._offer_at = now + _OFFER_S
        return effects + asks

    def _usable(self, peer: Peer) -> bool:
        """Whether the manifest in use is its own, or it has none and was right so far."""
        return peer.offered == self._manifest or (peer.offered is None and not peer.useless)

    def _patience(self, manifest: Manifest | None) -> int:
        """How often the best of those who vouch for it was silent; _SILENT is not better than nobody."""
        return min([peer.silent for peer in self._peers.values() if peer.offered == manifest], default=1_000)

    def _other_is_better(self) -> bool:
        """Whether nobody sends what the manifest in use names, and another one is untried or was tried less."""
        if self._checking or self._storing:
            return False
        ours = self._patience(self._manifest)
        if ours < _SILENT or any(self._usable(p) and not p.silent for p in self._peers.values() if p.offered is None):
            return False
        return any(peer.silent < ours for peer in self._peers.values() if peer.offered not in (None, self._manifest))

    def _choose(self) -> list[Effect]:
        """Take the manifest that was tried least in vain, of these the one that most vouch for."""
        vouched: dict[Manifest, int] = {}
        for peer in self._peers.values():
            if peer.offered is not None and peer.offered not in self._condemned:
                vouched[peer.offered] = vouched.get(peer.offered, 0) + 1
        if self._manifest is not None:
            self._before = self._manifest, self._have
        self._asked.clear()
        for peer in self._peers.values():
            peer.asked, peer.useless = 0, False
        if not vouched:
            if self._manifest in self._condemned:
                self._manifest, self._have = None, Chunks(0)
            return []
        self._manifest = manifest = min(vouched, key=lambda each: (self._patience(each), -vouched[each]))
        self._have = Chunks(manifest.count)
        if self._before is not None and self._before[0].chunk_bytes == manifest.chunk_bytes:
            before, have = self._before
            for index, (ours, theirs) in enumerate(zip(manifest.chunks, before.chunks, strict=False)):
                if ours == theirs and index in have and before.size_of(index) == manifest.size_of(index):
                    self._have.add(index)
        self._cursor = self._rng.randrange(manifest.count) if manifest.count and self._shared is None else 0
        kept, seeded = self._kept(), tuple(i for i in self._seed(manifest) if i not in self._have)
        for index in seeded:
            self._have.add(index)
        return [Use(manifest, kept, seeded)]

    def _kept(self) -> bytes:
        return self._have.to_bytes() if self._have.size else b"\0"

    def _ask(self, now: float) -> list[Effect]:
        """Runs of missing chunks, each of one peer; those least silent and least busy first."""
        assert self._manifest is not None
        self._tokens_at = None
        effects: list[Effect] = []
        if now < self._hold_until:
            self._tokens_at = self._hold_until
            return []
        peers = [each for each in self._peers.items() if each[1].not_before <= now and self._usable(each[1])]
        if self._shared is not None:
            peers = sorted(peers, key=self._rank)[:1]
        else:
            self._rng.shuffle(peers)
            peers.sort(key=lambda each: (each[1].silent, each[1].asked))
        count = self._manifest.count
        missing = ~self._have.bits & ((1 << count) - 1)
        for index in (*self._asked, *self._storing):
            missing &= ~(1 << index)
        for name, peer in peers:
            room = ARTEFACT_WINDOW_CHUNKS - len(self._asked) - len(self._storing)
            room = min(room, ARTEFACT_PEER_CHUNKS - peer.asked, ARTEFACT_ASK_CHUNKS_MAX)
            wanted = missing & Chunks(count, peer.bits).bits
            if room <= 0 or not wanted:
                continue
            first, length = run(wanted, self._cursor, room)
            length = self._affordable(first, length, now)
            if not length:
                break
            for index in range(first, first + length):
                self._asked[index] = Asked(name, now)
                missing &= ~(1 << index)
            peer.asked += length
            self._cursor = (first + length) % count
            effects.append(AskChunks(name, first, length))
        return effects

    def _rank(self, each: tuple[str, Peer]) -> tuple[int, int, bytes]:
        """The same for all who share: who answers, who was named first, and else some one."""
        (name, peer), named = each, [*(self._shared or ())]
        place = named.index(name) if name in named else len(named)
        return peer.silent, place, hashlib.sha256(self.digest + name.encode()).digest()

    def _affordable(self, first: int, length: int, now: float) -> int:
        """How many chunks of the run the rate allows now."""
        assert self._manifest is not None
        for index in range(first, first + length):
            size = self._manifest.size_of(index)
            if not self._bucket.take(size, now):
                self._tokens_at = self._bucket.ready_at(size)
                return index - first
        return length

    # --- peers ------------------------------------------------------------------------------------------------------

    def _admit_manifest(self, manifest: Manifest, peer: str) -> Manifest | None:
        """The same one, as we have it, if there is room; those tried in vain make some."""
        known = [self._manifest] if self._manifest is not None else []
        for name, each in self._peers.items():
            if each.offered is not None and name != peer and not any(each.offered is other for other in known):
                known.append(each.offered)
        for other in known:
            if other == manifest:
                return other
        if len(known) < ARTEFACT_MANIFESTS_MAX:
            return manifest
        worst = max([other for other in known if other is not self._manifest], key=self._patience)
        if self._patience(worst) < _SILENT:
            return None
        for each in self._peers.values():
            if each.offered is worst:
                each.offered, each.useless = None, True
        return manifest

    def _take_back(self, name: str) -> None:
        """What it was asked for, others may be."""
        self._peers[name].asked = 0
        for index in [index for index, asked in self._asked.items() if asked.peer == name]:
            del self._asked[index]

    def _blame_only(self, name: str, why: str) -> list[Effect]:
        if name in self._peers:
            self._take_back(name)
            del self._peers[name]
        self._blamed[name] = why
        return [Blame(name, why)]

    def _blame(self, name: str, why: str, now: float) -> list[Effect]:
        return [*self._blame_only(name, why), *self._go_on(now)]

    def _fail(self, why: str) -> list[Effect]:
        self.over = Failed(why)
        return [self.over]

    def _why_stalled(self) -> str:
        blamed = "".join(f"; {name} {why}" for name, why in list(self._blamed.items())[:3])
        if self._manifest is None:
            return f"nobody offered it for {ARTEFACT_STALL_S:.0f} s{blamed}"
        missing = self._manifest.count - self._have.size
        text = f"{missing} of {self._manifest.count} chunks missing, none came for {ARTEFACT_STALL_S:.0f} s"
        return f"{text}; {len(self._peers)} peers offered it{blamed}"
