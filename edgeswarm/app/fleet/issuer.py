"""The issuer: devices that ask to join are judged, their tokens consumed in the cell's log, and they are answered.

    request -> opened -> token of the replicated state -> approval? -> UseToken (once is once) -> roster -> answer

Requests of JOIN_BATCH_S become one roster.  Nothing is remembered that the log does not hold, but who waits for a
person: a controller that dies between consuming and answering is asked again by the device, finds that its token is
used by that very device and key, and answers.  A key that is in the roster is that device, whatever it calls itself:
it gets a new certificate and keeps its id.  A name that another key has is taken.
Who holds no token learns no more than that; what does not open is counted.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeswarm.app.fleet.issuer_enrol import Candidate, Enrolment
from edgeswarm.app.fleet.issuer_judge import Refusal, check_grants, check_room, check_token, identity, labels_for
from edgeswarm.app.fleet.issuer_pending import PendingBook, pending_id
from edgeswarm.app.fleet.issuer_people import People
from edgeswarm.app.swarm.converge_disk import cut
from edgeswarm.app.swarm.peer import CallError
from edgeswarm.app.swarm.replica import RejectedError
from edgeswarm.core.cell import commands as cmd
from edgeswarm.core.cell.types import TokenState
from edgeswarm.drivers.broker_fleet_acl import PROBE_TOKEN
from edgeswarm.drivers.mqtt.transport import Incoming
from edgeswarm.errors import EdgeSwarmError, LimitError
from edgeswarm.limits import (
    COMMAND_BATCH_MAX,
    JOIN_ANSWERS_MAX,
    JOIN_BATCH_MAX,
    JOIN_BATCH_S,
    JOIN_REFUSALS_MAX,
    JOIN_REQUEST_BYTES_MAX,
    JOIN_SEEN_MAX,
    JOIN_WAITING_MAX,
)
from edgeswarm.wire import codec, join, renewal
from edgeswarm.wire.join import Answer, ForgedError, Request, Topic
from edgeswarm.wire.roster import Roster

if TYPE_CHECKING:
    from edgeswarm.app.fleet.controller import Controller

ANSWER_S = 20.0
LOG_EVERY_S = 10.0
_OTHERS = (renewal.USER, PROBE_TOKEN)


@dataclass(frozen=True, slots=True)
class Case:
    """A request whose signatures hold, and the device that it would be."""

    topic: Topic
    request: Request
    candidate: Candidate


class Issuer(People):
    """Of a controller; `start` begins to listen."""

    def __init__(self, controller: Controller, *, clock: Callable[[], float] = time.time) -> None:
        self._controller, self._clock = controller, clock
        self.node, self.log = controller.node, controller.log
        self.enrolment = Enrolment(controller, clock=clock)
        self.pending = PendingBook(controller.folder.controller / "pending", self.log)
        self.counts: Counter[str] = Counter()
        self.seen: dict[str, tuple[int, str]] = {}  # device -> (when, what it runs), since this start
        self._queue: asyncio.Queue[tuple[Topic, bytes]] = asyncio.Queue(JOIN_WAITING_MAX)
        self._open: dict[str, tuple[Topic, Request]] = {}  # pending id -> where its device waits
        self._sending = asyncio.Semaphore(JOIN_ANSWERS_MAX)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._told_at = -LOG_EVERY_S
        self._filter = join.requests(controller.folder.config.fleet)

    def start(self) -> None:
        self.node.transport.subscribe(self._filter, self._incoming, qos=1)
        self._task(self._run())

    async def close(self) -> None:
        self.node.transport.unsubscribe(self._filter, self._incoming)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _task(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.log.crash("issuer_fault", error)

    # --- asked --------------------------------------------------------------------------------------------------------

    def _incoming(self, message: Incoming) -> None:
        try:
            if message.topic.split("/")[4:5] and message.topic.split("/")[4].startswith(_OTHERS):
                return  # a device whose certificate has ended is rotation's; `fleet broker check` asks nothing
            topic = join.parse_topic(message.topic)
            if len(message.payload) > JOIN_REQUEST_BYTES_MAX:
                raise LimitError(f"a request of {len(message.payload)} bytes")
            self._queue.put_nowait((topic, message.payload))
        except asyncio.QueueFull:
            self.counts["overrun"] += 1  # its device asks again
        except EdgeSwarmError as error:
            self._unreadable(error)

    def _unreadable(self, error: EdgeSwarmError) -> None:
        self.counts["unreadable"] += 1
        now = time.monotonic()
        if now - self._told_at >= LOG_EVERY_S:
            self._told_at = now
            self.log.warning("join_unreadable", count=self.counts["unreadable"], error=str(error)[:300])

    async def _run(self) -> None:
        while True:
            batch = [await self._queue.get()]
            await asyncio.sleep(JOIN_BATCH_S)
            while len(batch) < JOIN_BATCH_MAX and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            try:
                await self._serve(batch)
            except Exception as error:  # a fault of ours must not end the issuer; the devices ask again
                self.log.crash("issuer_fault", error)

    async def _serve(self, batch: Sequence[tuple[Topic, bytes]]) -> None:
        self.enrolment.reload()  # it may have been rotated
        newest = dict(batch)  # a device that asked twice is answered once
        cases: list[Case] = []
        refusals = 0
        for topic, data in newest.items():
            try:
                case = self._judge(topic, data, cases)
                if case is not None:
                    cases.append(case)
            except Refusal as error:
                refusals += 1
                if error.code not in ("unknown", "forged") or refusals <= JOIN_REFUSALS_MAX:
                    self._answer(topic, self._last, Answer("refused", error.code, str(error)))
                self._refused(topic.token, self._last.name, error)
            except EdgeSwarmError as error:
                self._unreadable(error)
            await asyncio.sleep(0)
        if cases:
            await self._admit(cases)

    def _judge(self, topic: Topic, data: bytes, before: Sequence[Case]) -> Case | None:
        """Who it is, and whether it may; None where a person has to decide.  Raises Refusal, JoinError.

        before: cases of the same batch, which have names and keys of theirs.
        """
        token = self.node.replica.state.tokens.get(topic.token)
        try:
            request = self._last = join.open_request(
                data,
                topic,
                issuer_seed=self.enrolment.key.key.seed,
                token_public=None if token is None else token.public,
            )
        except ForgedError as error:
            self._last = error.request
            if token is None:
                raise Refusal("unknown", f"token {topic.token} is not known here, or no more") from None
            raise Refusal("forged", f"the request was not made with the secret of token {topic.token}") from None
        assert token is not None
        roster = self.node.rosters.current
        device, known = identity(request.name, request.public, roster)
        check_token(token, device, request.public, self.enrolment.now_s())
        for other in before:
            one = other.candidate
            if (one.device == device) != (one.public == request.public):
                raise Refusal("name-taken", f"the name {device} was asked for twice at one time, by two keys")
        if not known:
            check_room(roster, len(before))
            check_grants(roster, self.node.rosters.root_public, self.enrolment.by.kid, token)
        candidate = Candidate(device, request.public, token.role, token.grants, token.id)  # type: ignore[arg-type]
        if not known and (token.approval or token.role == "coordinator"):
            self._wait(topic, request, device, token)
            return None
        return Case(topic, request, candidate)

    def _wait(self, topic: Topic, request: Request, device: str, token: TokenState) -> None:
        """A person decides."""
        id_ = pending_id(token.id, request.public)
        row = self.pending.get(id_)
        if row is not None and row.denied:
            raise Refusal("denied", f"an operator said no: {row.denied}")
        if row is None:
            try:
                left = token.uses - len(token.used)
                row = self.pending.add(request, device, token.role, self.enrolment.now_s(), uses=left)
            except LimitError as error:
                raise Refusal("full", str(error)) from None
            self.log.info("join_pending", id=id_, device=device, token=token.id, role=token.role)
            if self._controller.audit is not None:
                self._controller.audit.record(
                    "join.pending", who=device, capability="token", target=f"token={token.id}"
                )
        if id_ in self._open or len(self._open) < JOIN_WAITING_MAX:
            self._open[id_] = (topic, request)
        text = f"waits for approval: `edgeswarm fleet approve {id_}` (device {row.device}, key {row.public.hex()[:16]})"
        self._answer(topic, request, Answer("pending", "waiting", text))

    # --- in -----------------------------------------------------------------------------------------------------------

    async def _admit(self, cases: Sequence[Case]) -> None:
        """Consume the tokens, change the roster once, answer all."""
        used = await asyncio.gather(*(self._use(case.candidate) for case in cases), return_exceptions=True)
        admitted: list[Case] = []
        for case, outcome in zip(cases, used, strict=True):
            if outcome is None:
                admitted.append(case)
            elif isinstance(outcome, Refusal):
                self._answer(case.topic, case.request, Answer("refused", outcome.code, str(outcome)))
                self._refused(case.topic.token, case.candidate.device, outcome)
            elif isinstance(outcome, EdgeSwarmError):  # nobody leads, or it is not known: the device asks again
                self.log.warning("join_later", device=case.candidate.device, error=str(outcome))
            elif isinstance(outcome, BaseException):
                raise outcome
        if not admitted:
            return
        cut("join.used")
        for case, roster in await self._enrol(admitted):
            self._task(self._welcome(case, roster))

    async def _use(self, one: Candidate) -> None:
        """The token is used by this device when this returns.  Raises Refusal, and as `propose`."""
        token = self.node.replica.state.tokens.get(one.token)
        if token is not None and (one.device, one.public) in token.used and not token.revoked:
            return
        now_s = self.enrolment.now_s()
        try:
            await self.node.propose(cmd.encode(cmd.UseToken(one.token, one.device, one.public, now_s)))
        except RejectedError as error:
            token = self.node.replica.state.tokens.get(one.token)
            if token is None:
                raise Refusal("unknown", str(error)) from None
            check_token(token, one.device, one.public, now_s)
            raise Refusal("used", str(error)) from None

    async def _enrol(self, cases: Sequence[Case]) -> list[tuple[Case, Roster]]:
        """All in one roster; where that fails, each by itself, so that one cannot keep the others out."""
        try:
            rosters = await self.enrolment.enrol([case.candidate for case in cases])
            await self._set_labels(cases)
            await self._broker_knows()
            return [(case, rosters[case.candidate.device]) for case in cases if case.candidate.device in rosters]
        except EdgeSwarmError as error:
            self.log.error(
                "join_roster_failed", devices=[case.candidate.device for case in cases[:8]], error=str(error)
            )
            if len(cases) == 1:
                return []
        return [pair for case in cases for pair in await self._enrol([case])]

    async def _set_labels(self, cases: Sequence[Case]) -> None:
        state = self.node.replica.state
        commands: list[bytes] = []
        for case in cases:
            token = state.tokens.get(case.topic.token)
            labels = labels_for(() if token is None else token.labels, case.request.inventory.labels)
            device = case.candidate.device
            if labels and state.labels.get(device, ()) == ():
                commands.append(cmd.encode(cmd.SetLabels(device, labels, self.node.config.device)))
        for at in range(0, len(commands), COMMAND_BATCH_MAX):
            try:
                await self.node.propose(cmd.encode(cmd.Batch(tuple(commands[at : at + COMMAND_BATCH_MAX]))))
            except EdgeSwarmError as error:  # labels keep nobody out
                self.log.error("join_labels_failed", error=str(error))

    async def _broker_knows(self) -> None:
        """Its access list has the new devices before they are told."""
        update = getattr(self._controller.broker, "update", None)
        if update is not None:
            try:
                await update()
            except (EdgeSwarmError, OSError) as error:
                self.log.error("join_broker_failed", error=str(error))

    async def _approved(self, one: Candidate, waits: tuple[Topic, Request] | None) -> None:
        """By a person; a device that does not wait any more asks again, and is in the roster then."""
        if waits is not None:
            case = Case(*waits, one)
            roster = self.enrolment.fresh(one)
            await self._set_labels([case])
            await self._broker_knows()
            if roster is not None:
                self._task(self._welcome(case, roster))

    async def _welcome(self, case: Case, roster: Roster) -> None:
        cut("join.enrolled")
        one = case.candidate
        membership = await asyncio.to_thread(self.enrolment.membership, one, roster)
        self.counts["joined"] += 1
        self.log.info(
            "device_admitted", device=one.device, role=membership.role, token=one.token, roster=roster.version
        )
        await self._send(case.topic, case.request, Answer("joined", membership=membership))
        self._open.pop(pending_id(one.token, one.public), None)

    # --- answering ----------------------------------------------------------------------------------------------------

    def _answer(self, topic: Topic, request: Request, answer: Answer) -> None:
        if len(self._tasks) >= JOIN_WAITING_MAX:
            self.counts["answers_dropped"] += 1  # its device asks again
            return
        self._task(self._send(topic, request, answer))

    async def _send(self, topic: Topic, request: Request, answer: Answer) -> None:
        """Lost on its way, or beyond what the broker takes: the device asks again."""
        async with self._sending:
            try:
                data = join.seal_answer(answer, topic, reply=request.reply, issuer=self.enrolment.by)
                await self.node.transport.publish_acked(topic.answer, data, deadline_s=ANSWER_S)
            except EdgeSwarmError as error:
                self.log.warning("join_answer_lost", device=request.name, error=str(error))

    def _refused(self, token: str, device: str, error: Refusal) -> None:
        self.counts[f"refused_{error.code}"] += 1
        self.log.warning("join_refused", token=token, device=device, code=error.code, reason=str(error))
        if error.code not in ("unknown", "forged"):  # strangers shall not fill the audit
            self.node.audited.refused("join.refuse", error, who=device, capability="token", target=f"token={token}")

    # --- asked by devices -------------------------------------------------------------------------------------------

    async def confirm(self, sender: str, body: bytes) -> bytes:
        """`join.confirm`: a device of the roster, heard with its own signature."""
        match codec.loads(body, who=sender):
            case [str(by), str(software)] if len(by) <= 32 and len(software) <= 128:
                pass
            case _:
                raise CallError("join.confirm: expected [by, software]", who=sender, code="error")
        if sender in self.seen or len(self.seen) < JOIN_SEEN_MAX:
            self.seen[sender] = (self.enrolment.now_s(), software)
        self.log.info("device_joined", device=sender, by=by, software=software)
        return b""


def register(controller: Controller) -> Issuer:
    """The issuer of a controller, which answers from `start` on."""
    issuer = Issuer(controller)
    controller.issuer = issuer
    controller.node.peer.methods["join.confirm"] = issuer.confirm
    asked: dict[str, Callable[[dict[str, Any], str], Awaitable[Any]]] = {
        "pending": issuer.rows,
        "approve": issuer.approve,
        "deny": issuer.deny,
    }
    controller.one |= asked
    controller.needs |= {"approve": "token", "deny": "token"}
    from edgeswarm.app.fleet import tokens

    tokens.register(controller)
    return issuer
