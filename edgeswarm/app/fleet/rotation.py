"""The controller's side of rotation: a device's next certificate, in the roster and as X.509.

A request is granted to the key that the roster has for the device now, not in the first sixth of a certificate's life;
renewals of RENEWAL_BATCH_S become one roster.  Who asks again for the same key (the answer was lost, the controller
died between) gets the same certificate of the roster, and another X.509 of it.  A device whose certificate has run out
is granted one as well while it is in the roster: it asks through the listener for newcomers, since no broker lets it
in.  A revoked device is in no roster, and gets nothing.
"""

from __future__ import annotations

import asyncio
import os
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from edgeswarm.app.fleet import authorities, issued
from edgeswarm.app.fleet.roster_changes import RosterChanges
from edgeswarm.core.cell import commands as cmd
from edgeswarm.drivers import keys
from edgeswarm.drivers.files import write_whole
from edgeswarm.drivers.mqtt.transport import Incoming, Priority
from edgeswarm.drivers.pki import x509
from edgeswarm.errors import EdgeSwarmError, LocalError
from edgeswarm.limits import RENEWAL_BATCH_S, RENEWAL_LATE_MAX, RENEWAL_REQUEST_BYTES_MAX
from edgeswarm.wire import codec, renewal
from edgeswarm.wire.certificate import Authority, Certificate, Signatory, sign_certificate
from edgeswarm.wire.renewal import Answer, RenewalError, Request
from edgeswarm.wire.roster import Roster
from edgeswarm.wire.roster_change import next_roster
from edgeswarm.wire.roster_form import Member

if TYPE_CHECKING:
    from edgeswarm.app.fleet.controller import Controller

EARLY_S = 300
"""A certificate begins so long ago: clocks differ."""
SEALED_BYTES = 48  # what libsodium's sealed box adds


class Renewer:
    """One for each controller."""

    def __init__(self, controller: Controller) -> None:
        self._controller, self._node, self._folder = controller, controller.node, controller.folder
        self.changes = RosterChanges(controller.node)
        self._leaves = issued.Leaves(controller.folder)
        self._waiting: dict[str, tuple[Request, asyncio.Future[None]]] = {}
        self._batch: asyncio.Task[None] | None = None
        self._late: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        node = self._node
        node.peer.methods |= {renewal.METHOD: self._asked, "certificate.brokers": self._brokers}
        node.transport.subscribe(renewal.requests(node.config.fleet), self._came_late, qos=1)
        node.rotation.soon()  # the controller's own certificate may have run out

    async def close(self) -> None:
        node = self._node
        node.transport.unsubscribe(renewal.requests(node.config.fleet), self._came_late)
        for name in (renewal.METHOD, "certificate.brokers"):
            node.peer.methods.pop(name, None)
        tasks = [*self._late, *([] if self._batch is None else [self._batch])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- asked --------------------------------------------------------------------------------------------------------

    async def _asked(self, sender: str, body: bytes) -> bytes:
        """The sender is who the envelope's signature says."""
        request = renewal.open_request(body, fleet=self._node.config.fleet, device=sender)
        return await self.answer(request)

    async def _brokers(self, sender: str, body: bytes) -> bytes:
        return codec.dumps(list(self._folder.config.join_brokers))

    def _came_late(self, message: Incoming) -> None:
        """Through the listener for newcomers: anybody may have written it."""
        topic = renewal.parse_topic(message.topic)
        if topic is None or topic.fleet != self._node.config.fleet or len(self._late) >= RENEWAL_LATE_MAX:
            return  # a join, or more than we take at one time: it asks again
        if len(message.payload) > RENEWAL_REQUEST_BYTES_MAX + SEALED_BYTES:
            return
        task = asyncio.create_task(self._answer_late(topic, message.payload))
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def _answer_late(self, topic: renewal.Topic, payload: bytes) -> None:
        log = self._controller.log
        try:
            data = await asyncio.to_thread(self._unseal, payload)
            request = renewal.open_request(data, fleet=topic.fleet, device=topic.device)
            if request.nonce != topic.nonce or not request.reply:
                raise RenewalError("its content is of another question than its topic", who=topic.device)
            answer = renewal.seal(await self.answer(request, late=True), request.reply)
            self._node.transport.publish(topic.answer, answer, priority=Priority.MEDIUM, qos=1)
        except EdgeSwarmError as error:
            log.warning("renewal_refused", device=topic.device, error=str(error))
        except Exception as error:  # a fault of ours must not end the controller
            log.crash("renewal_fault", error)

    def _unseal(self, payload: bytes) -> bytes:
        """With the issuer's key, or the one before it."""
        for path in (self._folder.issuer_key, self._folder.issuer_key.with_name("issuer.key.old")):
            if path.exists():
                try:
                    return renewal.open_as_issuer(payload, keys.load_or_make(path)[0].seed)
                except RenewalError:
                    continue
        raise RenewalError("it is sealed to no issuer of this fleet", who="renewal")

    # --- answering ----------------------------------------------------------------------------------------------------

    async def answer(self, request: Request, *, late: bool = False) -> bytes:
        """A signed answer: a certificate, or why there is none.  Raises where nothing can be said now: ask again."""
        issuer = self._issuer()
        reason, code = self._judge(request)
        if not code:
            member = self._node.rosters.current.member(request.device)
            assert member is not None
            if member.public != request.public or member.keys[-1].certificate.expired(self._now_s()):
                await self._wait(request)
            reason, code = self._judge(request)
        if code:  # of anybody, where it came late
            self._node.audited.refused("certificate.renew", reason, who=request.device)
            return renewal.sign_answer(Answer(code, reason, now_s=self._now_s()), request, issuer)
        answer = await asyncio.to_thread(self._granted, request, late)
        return renewal.sign_answer(answer, request, issuer)

    def _judge(self, request: Request) -> tuple[str, Any]:
        """Why not: (reason, code), both empty where it is granted."""
        roster = self._node.rosters.current
        member = roster.member(request.device)
        if member is None:
            return f"device {request.device} is not in the roster: revoked, or never joined", "unknown"
        known = [key.certificate.public for key in member.keys]
        if request.public == member.public:
            return ("", "") if request.old in known else ("not signed by a key of the device", "forged")
        if request.old != member.public:
            return "not signed by the key that the roster has for the device", "forged"
        if any(request.public == key.certificate.public for one in roster.members for key in one.keys):
            return "the new key was used before", "forged"
        newest = member.keys[-1].certificate
        same = newest.issuer == self._issuer().kid
        if not renewal.may_renew(newest.not_before_s, newest.not_after_s, self._now_s(), same_issuer=same):
            return f"certificate {newest.serial} is too young to be renewed", "too-early"
        return "", ""

    async def _wait(self, request: Request) -> None:
        """Until the roster names the new key; many at once become one roster.  Raises EdgeSwarmError."""
        before = self._waiting.pop(request.device, None)
        if before is not None and not before[1].done():
            before[1].set_exception(LocalError(f"device {request.device} has asked again"))
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[request.device] = (request, future)
        if self._batch is None or self._batch.done():
            self._batch = asyncio.create_task(self._run_batch())
        await future

    async def _run_batch(self) -> None:
        while self._waiting:
            await asyncio.sleep(RENEWAL_BATCH_S)
            waiting, self._waiting = self._waiting, {}
            requests = [each for each, _ in waiting.values()]
            try:
                await self.changes.change(partial(self._build, requests))
                failed: Exception | None = None
            except Exception as error:  # whatever it is, who waits is told
                failed = error
            for _, future in waiting.values():
                if not future.done():
                    if failed is None:
                        future.set_result(None)
                    else:
                        future.set_exception(failed)

    def _build(self, requests: list[Request], roster: Roster) -> Roster:
        issuer, now_s = self._issuer(), max(self._now_s(), roster.created_s)
        office = roster.open_authorities(self._node.rosters.root_public).get(issuer.kid)
        if office is None or office.duty != "issuer":
            raise LocalError("the issuer's key of this controller is not in office: `edgeswarm fleet rotate issuer`")
        fresh: dict[str, bytes] = {}
        seen: set[bytes] = set()
        for request in requests:
            member = roster.member(request.device)
            if member is None or request.public in seen:
                continue
            seen.add(request.public)
            fresh[request.device] = sign_certificate(_next(member, request, office, now_s), issuer)
        if not fresh:
            raise LocalError("none of the devices is in the roster any more")
        return next_roster(roster, created_s=now_s, by=issuer, certificates=fresh)

    def _granted(self, request: Request, late: bool) -> Answer:
        """The X.509 form of the certificate that the roster names.  Blocking, some ms."""
        folder, node = self._folder, self._node
        roster = node.rosters.current
        member = roster.member(request.device)
        assert member is not None
        found = member.keys[-1].certificate
        pem = (folder.pki / "issuer.crt").read_bytes()
        end_s = min(found.not_after_s, x509.not_after_of(pem))
        seed = keys.load_or_make(folder.issuer_key)[0].seed
        issuer, begin_s = (seed, pem), found.not_before_s
        leaf, new = self._leaves.make(issuer, request.device, request.public, begin_s, end_s, now_s=self._now_s())
        audit = self._controller.audit
        if new and audit is not None:
            audit.record("certificate.renew", who=request.device, cause="late" if late else "")
        return Answer(
            chain=x509.chain(leaf, pem),
            ca=(folder.pki / "ca.crt").read_bytes(),
            roster=roster.data,
            roots=tuple(node.replica.state.roots),
            join_brokers=folder.config.join_brokers,
            now_s=self._now_s(),
        )

    # --- the issuer changes -------------------------------------------------------------------------------------------

    async def issuer_changed(self, args: dict[str, Any], who: str) -> dict[str, Any]:
        """There is another issuer's key and certificate on disk: sign with them, and revoke what pins the old one."""
        controller, node = self._controller, self._node
        if controller.issuer is not None:
            controller.issuer.enrolment.reload()
        if controller.broker is not None:
            await controller.broker.update(force=True)
        now_s, revoked = self._now_s(), []
        for token in list(node.replica.state.tokens.values()):
            if not token.revoked and token.expires_s >= now_s and len(token.used) < token.uses:
                await node.propose(cmd.encode(cmd.RevokeToken(token.id, node.config.device)))
                revoked.append(token.id)
        return {"issuer": self._issuer().kid.decode(), "tokens_revoked": revoked}

    async def issuer_retired(self, args: dict[str, Any], who: str) -> dict[str, Any]:
        """Only this issuer's certificates open the broker from here on: mosquitto takes none whose list is missing."""
        guard = self._controller.broker
        if guard is None:
            raise LocalError("this controller has no broker to tell")
        await guard.update(force=True)
        dropped = await asyncio.to_thread(self._drop_lists)
        return {"lists_dropped": dropped}

    def _drop_lists(self) -> int:
        guard, public = self._controller.broker, self._issuer().public
        path = guard.files / "crl.pem"
        lists = x509.read_crls(path.read_bytes(), who=str(path))
        own = [each.pem for each in lists if each.signed_by(public)]
        if not own:
            raise LocalError(f"{path}: this issuer has no list in it")
        if len(own) < len(lists):
            mode = path.stat()
            write_whole(path, x509.chain(*own), mode=mode.st_mode & 0o777)
            os.chown(path, mode.st_uid, mode.st_gid)
            guard.reload()
        return len(lists) - len(own)

    async def not_renewed(self, args: dict[str, Any], who: str) -> dict[str, Any]:
        """Devices that still have a certificate of an issuer before this one."""
        devices = authorities.not_renewed(self._node.rosters.current, self._issuer().kid, self._now_s())
        return {"issuer": self._issuer().kid.decode(), "devices": devices}

    def _issuer(self) -> Signatory:
        return Signatory.from_seed(keys.load_or_make(self._folder.issuer_key)[0].seed)

    def _now_s(self) -> int:
        return max(int(time.time()), self._node.rosters.current.created_s)


def _next(member: Member, request: Request, office: Authority, now_s: int) -> Certificate:
    """As long as the one before, and no longer than the issuer's office."""
    before = member.keys[-1].certificate
    begin = max(now_s - EARLY_S, office.not_before_s)
    end = min(begin + before.not_after_s - before.not_before_s, office.not_after_s)
    return Certificate(before.fleet, before.device, request.public, before.serial + 1, begin, end, before.roles)


def register(controller: Controller) -> Renewer:
    """Answer renewals from now on; `close` it at the end."""
    renewer = Renewer(controller)
    controller.one |= {
        "issuer.changed": renewer.issuer_changed,
        "issuer.retired": renewer.issuer_retired,
        "issuer.left": renewer.not_renewed,
    }
    controller.needs |= {"issuer.changed": "revoke", "issuer.retired": "revoke"}
    renewer.start()
    return renewer
