"""This device's certificate: renewed at two thirds of its life with a new key, without a restart or a lost message.

    due -> the next key is made and kept -> asked of the controller, signed by both keys -> its roster names the new key
    (messages are signed with it, RENEWAL_SETTLE_S later: others hear of it first; they take both meanwhile)
    -> a second connection shows the new certificate to the broker, and takes the place of the first
    -> files are exchanged (rotation_files: a power cut at any step leaves what works) -> the old key is removed once
    the controller has answered to the new one.
Whatever fails is tried again, ever less often; the old certificate lasts ten more days.  A device whose certificate has
run out while it was off is let in by no broker: it asks through the listener for newcomers (rotation_late).
A device that is in the roster no more is revoked: it says so, and runs nothing of the cell.
"""

from __future__ import annotations

import asyncio
import base64
import os
import random
import time
from typing import TYPE_CHECKING

from edgeswarm.app.swarm import roots, rotation_late
from edgeswarm.app.swarm.rotation_files import KeyFiles
from edgeswarm.drivers.files import write_whole
from edgeswarm.drivers.keys import SigningKey
from edgeswarm.drivers.mqtt.transport import TlsFiles
from edgeswarm.errors import EdgeSwarmError, LocalError
from edgeswarm.limits import RENEWAL_LOOK_S, RENEWAL_RETRY_S, RENEWAL_RETRY_S_MAX, RENEWAL_SETTLE_S
from edgeswarm.wire import cose, renewal
from edgeswarm.wire.certificate import Certificate, Signatory

if TYPE_CHECKING:
    from edgeswarm.app.swarm.node import SwarmNode

CALL_S = 30.0
LATE_AFTER_S = 60.0
"""Without a broker for so long, a device whose certificate may have run out asks through the listener for newcomers."""
SPREAD_S = 60.0  # after a new issuer is there, every device asks within so long
_PKCS8 = bytes.fromhex("302e020100300506032b657004220420")  # RFC 8410 7: what stands before the 32 bytes of a seed


def pem_of(seed: bytes) -> bytes:
    """The private key as TLS libraries read it."""
    text = base64.b64encode(_PKCS8 + seed)
    return b"-----BEGIN PRIVATE KEY-----\n" + text + b"\n-----END PRIVATE KEY-----\n"


class Rotation:
    """revoked: this device was in the roster, and is in it no more."""

    def __init__(self, node: SwarmNode) -> None:
        self._node = node
        self.files = KeyFiles(node.supervisor.settings.state_dir)
        self.revoked = False
        self.trouble = ""  # of the last try
        self._forced = False
        self._signing = node.supervisor.shelf.device_key
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._settling: asyncio.TimerHandle | None = None
        self._settled = True
        self._lost_at: float | None = time.monotonic()  # since when no broker is connected; None: one is
        self._spread_s = random.uniform(0.0, SPREAD_S)
        self._issuer_seen: tuple[bytes, float] | None = None  # a newer issuer than our certificate's, and since when

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._node.peer.on_roster.append(self._roster)
        self._roster()
        if self._node.config.tls_cert:
            self._task = asyncio.create_task(self._run(), name="rotation")

    async def close(self) -> None:
        if self._settling is not None:
            self._settling.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def force(self) -> None:
        """Renew now; the issuer may find it too early."""
        self._forced = True
        self._wake.set()

    def soon(self) -> None:
        """Something changed that may help: look now."""
        self._wake.set()

    def connected(self, *, up: bool) -> None:
        """The connection to a broker came or went."""
        self._lost_at = None if up else self._lost_at or time.monotonic()
        self._wake.set()

    async def _run(self) -> None:
        wait_s = RENEWAL_RETRY_S
        while True:
            try:
                self._wake.clear()
                await self.look()
                next_s, wait_s, self.trouble = RENEWAL_LOOK_S, RENEWAL_RETRY_S, ""
            except (EdgeSwarmError, OSError) as error:
                if str(error) != self.trouble:
                    self._node.log.error("certificate_not_renewed", error=str(error), again_s=wait_s)
                self.trouble = str(error)
                next_s, wait_s = wait_s, min(2 * wait_s, RENEWAL_RETRY_S_MAX)
            except Exception as error:  # a fault of ours must not end what keeps the device connectable
                self._node.log.crash("rotation_fault", error)
                next_s = RENEWAL_RETRY_S_MAX
            try:
                async with asyncio.timeout(min(next_s, LATE_AFTER_S) if self._lost_at is not None else next_s):
                    await self._wake.wait()
            except TimeoutError:
                pass

    # --- looking ------------------------------------------------------------------------------------------------------

    @property
    def certificate(self) -> Certificate | None:
        """Ours in the roster, the newest."""
        member = self._node.rosters.current.member(self._node.config.device)
        return None if member is None else member.keys[-1].certificate

    def now_s(self) -> int:
        """A time that has passed for sure: a clock at 1970 is not believed."""
        return max(int(time.time()), self._node.rosters.current.created_s)

    def is_due(self) -> bool:
        """Whether a new certificate should be asked for."""
        found = self.certificate
        if found is None:
            return False
        if self._forced or self.now_s() >= renewal.due_at(found.not_before_s, found.not_after_s, found.device):
            return True
        newest = self._newest_issuer()
        if newest in (None, found.issuer):
            return False
        assert newest is not None
        now = time.monotonic()
        if self._issuer_seen is None or self._issuer_seen[0] != newest:
            self._issuer_seen = (newest, now)
            asyncio.get_running_loop().call_later(self._spread_s + 0.01, self._wake.set)
        return now - self._issuer_seen[1] >= self._spread_s

    def _newest_issuer(self) -> bytes | None:
        book = self._node.rosters
        issuers = [one for one in book.current.open_authorities(book.root_public).values() if one.duty == "issuer"]
        return max(issuers, key=lambda one: (one.not_before_s, one.kid)).kid if issuers else None

    async def look(self) -> None:
        """Take the step that is due.  Raises EdgeSwarmError, OSError; then it is tried again."""
        node, found = self._node, self.certificate
        if found is None:
            return  # revoked
        self.files.clean()
        in_use = await asyncio.to_thread(self._key_in_use)
        if self._is_shut_out(found):
            await self._late()
        if node.transport.is_connected:
            if not self.files.brokers.exists():
                await self._learn_brokers()
            if in_use != found.public or self.is_due():
                await self._renew(in_use, found)
            elif self.files.old_key.exists() and self._settled:
                await self._ask("ping", b"")  # answered to the new key, over the new certificate
                self.files.forget_old()
                node.log.info("key_removed", which="old")

    def _key_in_use(self) -> bytes:
        from edgeswarm.drivers import keys

        return keys.load_or_make(self.files.key)[0].public

    # --- renewing -----------------------------------------------------------------------------------------------------

    async def _renew(self, in_use: bytes, found: Certificate) -> None:
        """in_use: the key of our TLS certificate; found: our certificate in the roster, which may name another."""
        node = self._node
        new = await asyncio.to_thread(self._next_key, in_use, found)
        request = renewal.Request(node.config.fleet, found.device, new.public, self._signing.public, os.urandom(16))
        data = renewal.sign_request(request, new=_signatory(new), old=_signatory(self._signing))
        await self.take(await self._ask(renewal.METHOD, data), request, new)
        why = await node.transport.succeed(
            TlsFiles(node.folder / node.config.tls_ca, self.files.next_certificate, self.files.next_pem)
        )
        if why:
            raise LocalError(f"the broker does not take the new certificate: {why}")
        await asyncio.to_thread(self.files.swap, node.supervisor.shelf.keep_local_keys)
        self._forced = False
        node.log.info("certificate_renewed", serial=found.serial, until_s=found.not_after_s)
        node.supervisor.audit.record("certificate.renewed", who=found.device, target=f"key {new.id}")
        self._wake.set()

    def _next_key(self, in_use: bytes, found: Certificate) -> SigningKey:
        """The key to renew to: the one that the roster names already, else the next one."""
        named = self.files.choose(found.public)
        if named is not None and named.public != in_use:
            return named
        return self.files.make_next()

    async def take(self, data: bytes, request: renewal.Request, new: SigningKey) -> renewal.Answer:
        """An answer of the issuer: its roster is adopted, its certificate is kept beside the one in use.

        Raises RenewalError, RosterError, LocalError.
        """
        node = self._node
        answer = renewal.read_answer(data)
        if answer.code:
            renewal.check_answer(data, request, self._issuer_of)
            raise renewal.RenewalError(f"the issuer refuses: {answer.reason or answer.code}", who=answer.code)
        if node.rosters.offer(answer.roster):
            node.log.info("roster_adopted", version=node.rosters.current.version)
            node.peer.roster_changed()
        renewal.check_answer(data, request, self._issuer_of)
        if node.rosters.lookup(request.device) != new.public:
            raise renewal.RenewalError("the roster of the answer does not name the new key", who="renewal")
        await asyncio.to_thread(self.files.stage, answer.chain, pem_of(new.seed))
        self._keep_brokers(answer.join_brokers)
        return answer

    def _issuer_of(self, kid: bytes) -> bytes | None:
        book = self._node.rosters
        found = book.current.open_authorities(book.root_public).get(kid)
        return found.public if found is not None and found.duty == "issuer" else None

    async def _ask(self, method: str, body: bytes) -> bytes:
        """Of the controller, which is the cell's first device."""
        node = self._node
        first = node.rosters.current.by_number(1)
        if first is None:
            raise LocalError("this cell has no controller (raft number 1), which would renew certificates")
        controller = first.entry.device
        if controller == node.config.device:  # brokers do not bring us what we say
            served = node.peer.methods.get(method)
            if served is None:
                raise LocalError(f"{method}: the controller does not serve yet")
            return await served(controller, body)
        return await node.peer.call(controller, method, body, deadline_s=CALL_S)

    async def _learn_brokers(self) -> None:
        """Where newcomers ask: once our certificate has run out, nobody else lets us in."""
        from edgeswarm.wire import codec

        found = codec.loads(await self._ask("certificate.brokers", b""), who="certificate.brokers")
        if isinstance(found, list):
            self._keep_brokers(tuple(url for url in found[:16] if isinstance(url, str) and url.isprintable()))

    def _keep_brokers(self, urls: tuple[str, ...]) -> None:
        text = "".join(f"{url}\n" for url in urls if len(url) < 256).encode()
        if text and (not self.files.brokers.exists() or self.files.brokers.read_bytes() != text):
            write_whole(self.files.brokers, text)

    # --- shut out -----------------------------------------------------------------------------------------------------

    def _is_shut_out(self, found: Certificate) -> bool:
        """No broker lets us in, and it may be that our certificate has run out."""
        if self._node.transport.is_connected or self._lost_at is None:
            return False
        clock = int(time.time())
        if clock > found.not_after_s:
            return True
        may = self.now_s() >= renewal.due_at(found.not_before_s, found.not_after_s, found.device)
        return (may or clock < found.not_before_s) and time.monotonic() - self._lost_at > LATE_AFTER_S

    async def _late(self) -> None:
        """Ask through the listener for newcomers.  Raises EdgeSwarmError, OSError."""
        node = self._node
        new = await asyncio.to_thread(self.files.make_next)
        node.log.warning("certificate_expired", text="no broker lets this device in; asking where newcomers ask")
        request, private = rotation_late.request_of(node, new, self._signing)
        first = node.rosters.current.by_number(1)
        if first is not None and first.entry.device == request.device:  # the controller itself: nobody else could
            signed = renewal.sign_request(request, new=_signatory(new), old=_signatory(self._signing))
            data = await self._ask(renewal.METHOD, signed)
        else:
            data = await rotation_late.ask(node, self.files, request, private, new=new, old=self._signing)
        await self.take(data, request, new)
        await asyncio.to_thread(self.files.swap, node.supervisor.shelf.keep_local_keys)
        node.log.info("certificate_renewed", late=True)
        node.supervisor.audit.record("certificate.renewed", who=request.device, target=f"key {new.id}", reason="late")
        self._wake.set()

    # --- the roster ---------------------------------------------------------------------------------------------------

    def _roster(self) -> None:
        """A roster counts from now on: it may name our next key, or not name us any more."""
        node = self._node
        try:
            roots.follow(node.folder, node.rosters, node.log, ca=node.config.tls_ca)
        except OSError as error:  # it is tried at the next start; what is there works
            node.log.error("root_not_kept", error=str(error))
        public = node.rosters.lookup(node.config.device)
        if public is None:
            self._revoked()
            return
        self.revoked = False
        if public != self._signing.public:
            key = self.files.choose(public)
            if key is None:
                node.log.error("device_key_unknown", text="the roster names a key that this device does not have")
                return
            self._sign_with(key)
        self._wake.set()

    def _sign_with(self, key: SigningKey) -> None:
        """Statements that cite the roster at once, messages a little later: others hear of the new key first."""
        node = self._node
        sign = cose.signer(key.seed)
        self._signing, self._settled = key, False
        node.supervisor.shelf.device_key = key
        node.post.sign = sign
        node.log.info("key_changed", key=key.id)

        def settle() -> None:
            node.post.seal_sign = sign
            node.supervisor.audit.new_signer(Signatory.from_seed(key.seed))
            self._settled, self._settling = True, None
            self._wake.set()

        if self._settling is not None:
            self._settling.cancel()
        member = node.rosters.current.member(node.config.device)
        lasts = member is not None and len(member.keys) > 1 and not member.keys[-2].certificate.expired(self.now_s())
        # nobody takes messages by the old key once its certificate has run out
        self._settling = asyncio.get_running_loop().call_later(RENEWAL_SETTLE_S if lasts else 0.0, settle)

    def _revoked(self) -> None:
        node = self._node
        if self.revoked:
            return
        self.revoked = True
        text = (
            "this device was removed from its cell: peers refuse it; `edgeswarm join` with a new token brings it back"
        )
        node.log.error("device_revoked", device=node.config.device, roster=node.rosters.current.version, text=text)
        who = node.audited.signer(node.rosters.current.signer)
        node.supervisor.audit.record("device.revoked", who=who, target=node.config.device)
        node.hosted.wake()


def _signatory(key: SigningKey) -> Signatory:
    return Signatory(key.public, cose.signer(key.seed))
