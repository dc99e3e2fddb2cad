"""A device among its peers: who leads, what to ask whom, and the answers.

Questions go to device/<id>/inbox with an id and a deadline; the answer of that id comes back to ours.  Who answers
must be who was asked.  The leader is whoever the certificate of the highest term names, once it holds against the
roster that it cites; an unproven one is refused and counted, wherever it came from.
Invariants: the highest term never falls; at most CALLS_WAITING_MAX calls wait; each ends at its deadline at the latest.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from edgeswarm.app.log import Log
from edgeswarm.app.swarm.post import Letter, Post
from edgeswarm.app.swarm.replica import OutcomeUnknownError, RejectedError
from edgeswarm.app.swarm.rosters import RosterBook
from edgeswarm.core.breaker import Breaker
from edgeswarm.core.breaker import State as BreakerState
from edgeswarm.drivers.mqtt.transport import Priority
from edgeswarm.errors import EdgeSwarmError, LimitError, RemoteError
from edgeswarm.limits import (
    BATCH_BYTES_MAX,
    BATCH_ITEM_BYTES_MAX,
    CALLS_SERVED_MAX,
    CALLS_WAITING_MAX,
    MESSAGE_ITEMS_MAX,
)
from edgeswarm.wire import codec, leadership
from edgeswarm.wire import messages as msg
from edgeswarm.wire.leadership import LeaderCertificate

Method = Callable[[str, bytes], Awaitable[bytes]]
"""(sender, body) -> the answer's body."""
Reply = Callable[[bytes, str, str], None]
"""(body, code, text): the answer; code is empty when all is well."""
Direct = Callable[[str, bytes, Reply], None]
"""(sender, body, reply): a method without a task of its own; it replies when it can, or never."""
RETRY_S = 0.05


class CallError(RemoteError):
    """A peer answered with an error; `code` is a stable word."""

    def __init__(self, message: str, *, who: str, code: str) -> None:
        super().__init__(message, who=who)
        self.code = code


class NoLeaderError(RemoteError):
    """No leader is known, or none that answers."""


class Leader(NamedTuple):
    device: str
    term: int
    roster_version: int
    certificate: bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """A command was applied at `index`; value: what the leader's `report` made of its changes."""

    index: int
    value: Any


class Peer:
    """post, rosters: of this device."""

    def __init__(self, post: Post, rosters: RosterBook, *, log: Log) -> None:
        self.post, self.rosters, self.log = post, rosters, log
        self.leader: Leader | None = None
        self.term_seen = 0
        self.on_leader: list[Callable[[Leader | None], None]] = []
        self.on_roster: list[Callable[[], None]] = []  # a newer one counts from now on
        self.on_false: Callable[[], None] = lambda: None  # a retained fact of the cell is not what it should be
        self._early: bytes | None = None  # a certificate that cites a roster which has not come yet
        self.letters: dict[type[msg.Message], Callable[[str, Any], None]] = {}
        self.methods: dict[str, Method] = {"ping": self._ping}
        self.direct: dict[str, Direct] = {}
        self.addresses: dict[str, str] = {}  # device -> the topic of its questions, where that is not its inbox
        self._outgoing: dict[str, list[bytes]] = {}
        self._breakers: dict[str, tuple[Breaker, float]] = {}  # peer -> its breaker, and when it last faulted (ms)
        self._calls: dict[bytes, tuple[str, asyncio.Future[bytes]]] = {}
        self._serving: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()

    def start(self) -> None:
        topics = self.post.topics
        self.post.on(topics.roster, self._roster, qos=1)
        self.post.on(topics.leader, self._certificate, qos=1)
        self.listen(topics.inbox(self.post.device))

    def listen(self, topic: str) -> None:
        """Questions and answers come there too."""
        self.post.on(topic, self._inbox, qos=1)

    async def close(self) -> None:
        for task in list(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    # --- who leads ----------------------------------------------------------------------------------------------------

    def _roster(self, letter: Letter) -> None:
        try:
            if self.rosters.offer(letter.payload):
                self.log.info("roster_adopted", version=self.rosters.current.version)
                self.roster_changed()
        finally:
            if letter.payload != self.rosters.current.data:
                self.on_false()

    def roster_changed(self) -> None:
        """A newer roster counts from now on: forget who is not in it, and look again at who leads."""
        self.post.replay.keep(self.rosters.current.devices())
        early, self._early = self._early, None
        if early is not None:
            try:
                self.take_certificate(early)
            except RemoteError as error:
                self.post.refuse(error, sender="", topic=self.post.topics.leader)
        for listener in self.on_roster:
            listener()

    def _certificate(self, letter: Letter) -> None:
        try:
            if letter.payload:
                self.take_certificate(letter.payload)
        finally:
            if self.leader is None or letter.payload != self.leader.certificate:
                self.on_false()

    def take_certificate(self, data: bytes) -> None:
        """Adopt the leader it proves.  Raises RemoteError saying what is wrong; a lower term is old news."""
        certificate = LeaderCertificate.decode(data)
        term = certificate.term
        if term < self.term_seen or (self.leader is not None and term == self.leader.term):
            return
        roster = self.rosters.of(certificate.roster_version)
        if certificate.roster_version > roster.version:
            self._early = data
        leadership.verify(certificate, roster)
        device = self.rosters.device_of(certificate.candidate)
        if device is None:
            raise RemoteError(f"leader of term {term}: raft number {certificate.candidate} has no device here")
        self.term_seen = term
        self._lead(Leader(device, term, roster.version, data))

    def _lead(self, leader: Leader | None) -> None:
        if leader is not None:
            self.log.info("leader_verified", leader=leader.device, term=leader.term)
        self.leader = leader
        self._news.set()
        self._news = asyncio.Event()
        for listener in self.on_leader:
            listener(leader)

    async def wait_leader(self, timeout_s: float) -> Leader:
        """Raises NoLeaderError."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while self.leader is None:
            left = deadline - asyncio.get_running_loop().time()
            try:
                async with asyncio.timeout(max(0.0, left)):
                    await self._news.wait()
            except TimeoutError:
                raise NoLeaderError(f"no leader is known after {timeout_s:g} s") from None
        return self.leader

    # --- asking -------------------------------------------------------------------------------------------------------

    async def call(self, device: str, method: str, body: bytes = b"", *, deadline_s: float = 5.0) -> bytes:
        """The body of the answer.  Raises CallError, LimitError, OutcomeUnknownError at the deadline.

        A peer that has left several calls unanswered is asked again only now and then: CallError "peer-silent".
        """
        breaker = self._breaker_of(device)
        if len(self._calls) >= CALLS_WAITING_MAX:
            raise LimitError(f"swarm: at most {CALLS_WAITING_MAX} calls wait at one time")
        id_ = os.urandom(16)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._calls[id_] = (device, future)
        try:
            request = msg.Request(id=id_, method=method, deadline_ms=max(1, int(deadline_s * 1000)), body=body)
            self.tell(device, request)
            async with asyncio.timeout(deadline_s):
                body = await future
            self._breakers.pop(device, None)
            return body
        except CallError:
            self._breakers.pop(device, None)  # an answer, if not the one that was hoped for
            raise
        except TimeoutError:
            now = asyncio.get_running_loop().time() * 1000
            self._breakers[device] = (breaker.faulted(now), now)
            raise OutcomeUnknownError(f"{method}: no answer within {deadline_s:g} s", who=device) from None
        finally:
            self._calls.pop(id_, None)

    def _breaker_of(self, device: str) -> Breaker:
        """The peer's breaker, half open when its pause is over.  Raises CallError while it is open."""
        breaker, at = self._breakers.get(device, (Breaker(), 0.0))
        if breaker.state is not BreakerState.OPEN:
            return breaker
        if asyncio.get_running_loop().time() * 1000 < at + breaker.pause_ms:
            raise CallError("it has left several calls unanswered", who=device, code="peer-silent")
        if len(self._breakers) > CALLS_WAITING_MAX:
            self._breakers.clear()
        return breaker.probe_due()

    def tell(self, device: str, message: msg.Message) -> None:
        """One message to a device's inbox.  What goes to one device in one turn of the loop shares an envelope."""
        if not self._outgoing:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outgoing.setdefault(device, []).append(msg.encode(message))

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, {}
        for device, items in outgoing.items():
            part: list[bytes] = []
            size = 0
            for item in items:
                alone = len(item) > BATCH_ITEM_BYTES_MAX
                if part and (alone or len(part) >= MESSAGE_ITEMS_MAX or size + len(item) > BATCH_BYTES_MAX):
                    self._send(device, part)
                    part, size = [], 0
                part.append(item)
                size += len(item) + 8
                if alone:
                    self._send(device, part)
                    part, size = [], 0
            if part:
                self._send(device, part)

    def _send(self, device: str, items: list[bytes]) -> None:
        payload = items[0] if len(items) == 1 else msg.encode(msg.Batch(tuple(items)))
        try:
            topic = self.addresses.get(device) or self.post.topics.inbox(device)
            self.post.send(topic, payload, priority=Priority.MEDIUM)
        except EdgeSwarmError as error:  # the others of this turn get theirs
            self.log.error("message_not_sent", to=device, error=str(error))

    async def propose(self, command: bytes, *, deadline_s: float = 5.0) -> Outcome:
        """Have the leader commit `command`, whoever leads; goes on to the next leader while that is safe.

        Raises RejectedError, NoLeaderError, and OutcomeUnknownError: it may or may not have been applied.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline_s
        while True:
            leader = await self.wait_leader(max(0.001, end - loop.time()))
            try:
                body = await self.call(leader.device, "propose", command, deadline_s=max(0.001, end - loop.time()))
                index, reason, value = _outcome(body, leader.device)
                if reason:
                    raise RejectedError(reason, who=leader.device)
                return Outcome(index, value)
            except CallError as error:
                if error.code == "unknown":
                    raise OutcomeUnknownError(str(error)) from None
                # nothing was proposed: it is safe to ask again
                if error.code not in ("not-leader", "busy", "peer-silent") or loop.time() >= end:
                    raise
                if error.code == "not-leader" and self.leader == leader:
                    await self._another(min(RETRY_S, end - loop.time()))
                else:
                    await asyncio.sleep(RETRY_S / 5)

    async def _another(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        except TimeoutError:
            pass

    # --- answering ----------------------------------------------------------------------------------------------------

    def _inbox(self, letter: Letter) -> None:
        self._take(letter.sender, msg.decode(letter.payload, who=letter.sender, kinds=msg.INBOX), batched=False)

    def _take(self, sender: str, message: msg.Message, *, batched: bool) -> None:
        match message:
            case msg.Response():
                waiting = self._calls.get(message.id)
                if waiting is None or waiting[0] != sender or waiting[1].done():
                    return  # it came too late
                if message.code:
                    waiting[1].set_exception(CallError(message.text or message.code, who=sender, code=message.code))
                else:
                    waiting[1].set_result(message.body)
            case msg.Request() if message.method in self.direct:
                self._serve_direct(sender, message)
            case msg.Request():
                if len(self._serving) >= CALLS_SERVED_MAX:
                    self.tell(sender, msg.Response(id=message.id, code="busy"))
                    return
                task = asyncio.create_task(self._serve(sender, message))
                self._serving.add(task)
                task.add_done_callback(self._serving.discard)
            case msg.Batch() if not batched:
                for item in message.items:
                    self._take(sender, msg.decode(item, who=sender, kinds=msg.INBOX), batched=True)
            case _:
                handler = self.letters.get(type(message))
                if handler is not None:
                    handler(sender, message)

    def _serve_direct(self, sender: str, request: msg.Request) -> None:
        def reply(body: bytes, code: str = "", text: str = "") -> None:
            self.tell(sender, msg.Response(id=request.id, code=code, body=body, text=text[:1000]))

        try:
            self.direct[request.method](sender, request.body, reply)
        except CallError as error:
            reply(b"", error.code, str(error))
        except EdgeSwarmError as error:
            reply(b"", "error", str(error))

    async def _serve(self, sender: str, request: msg.Request) -> None:
        method = self.methods.get(request.method)
        try:
            if method is None:
                raise CallError(f"no method {request.method}", who=self.post.device, code="unknown-method")
            async with asyncio.timeout(request.deadline_ms / 1000):
                body = await method(sender, request.body)
            answer = msg.Response(id=request.id, body=body)
        except TimeoutError:
            return  # nobody waits any more
        except CallError as error:
            answer = msg.Response(id=request.id, code=error.code, text=str(error)[:1000])
        except EdgeSwarmError as error:
            answer = msg.Response(id=request.id, code="error", text=str(error)[:1000])
        except Exception as error:  # a fault of ours must not leave the peer waiting, nor end the device
            self.log.crash("method_fault", error, method=request.method)
            answer = msg.Response(id=request.id, code="error", text="internal fault")
        try:
            self.tell(sender, answer)
        except EdgeSwarmError as error:  # an answer beyond its bounds: say that much
            self.tell(sender, msg.Response(id=request.id, code="error", text=str(error)[:1000]))

    async def _ping(self, sender: str, body: bytes) -> bytes:
        return body[:1024]


def outcome_bytes(index: int, reason: str, value: object = None) -> bytes:
    return codec.dumps([index, reason, value])


def _outcome(body: bytes, who: str) -> tuple[int, str, Any]:
    match codec.loads(body, who=who):
        case [int(index), str(reason), value, *_]:
            return index, reason, value
        case _:
            raise RemoteError("propose: expected [index, reason, value]", who=who)
