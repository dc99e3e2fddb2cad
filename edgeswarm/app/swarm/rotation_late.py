"""A device whose certificate has run out asks for a new one where newcomers do: TLS with the broker's certificate only.

The broker is proved by the fleet's root (ca.crt), the device by its key, which is in the roster; the request is sealed
to the issuer, the answer to a key of this question.  What comes back is judged by Rotation.take.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

from edgeswarm.app.swarm.rotation_files import KeyFiles
from edgeswarm.drivers.keys import SigningKey
from edgeswarm.drivers.mqtt.brokers import Broker, TlsFiles
from edgeswarm.drivers.mqtt.transport import Incoming, Priority, Transport
from edgeswarm.errors import LocalError, RemoteError
from edgeswarm.wire import cose, renewal
from edgeswarm.wire.certificate import Signatory

if TYPE_CHECKING:
    from edgeswarm.app.swarm.node import SwarmNode

CONNECT_S, ANSWER_S = 10.0, 30.0


def request_of(node: SwarmNode, new: SigningKey, old: SigningKey) -> tuple[renewal.Request, bytes]:
    """A question, and the X25519 key that opens its answer."""
    from nacl import bindings

    private = os.urandom(32)
    reply = bindings.crypto_scalarmult_base(private)
    config = node.config
    return renewal.Request(config.fleet, config.device, new.public, old.public, os.urandom(16), reply), private


async def ask(
    node: SwarmNode,
    files: KeyFiles,
    request: renewal.Request,
    private: bytes,
    *,
    new: SigningKey,
    old: SigningKey,
) -> bytes:
    """The answer, unsealed and not judged.  Raises LocalError, LinkError, RemoteError."""
    if not files.brokers.exists():
        raise LocalError(
            f"the certificate of {request.device} has run out, and {files.brokers} does not say where newcomers ask; "
            "join again with a new token"
        )
    urls = [line for line in files.brokers.read_text().splitlines() if line][:16]
    topic = renewal.Topic(request.fleet, request.device, request.nonce)
    dated = time.time() >= node.rosters.current.created_s
    tls = TlsFiles(node.folder / node.config.tls_ca, dated=dated)
    brokers = [_with_user(Broker.from_url(url, tls=tls), topic.user) for url in urls]
    data = renewal.sign_request(request, new=_signatory(new), old=_signatory(old))
    answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def take(message: Incoming) -> None:
        if not answer.done():
            try:
                answer.set_result(renewal.unseal(message.payload, private))
            except RemoteError as error:  # of somebody else: the right one may still come
                node.log.warning("renewal_answer_refused", error=str(error))

    transport = Transport(brokers, client_id=f"{topic.user}-{request.nonce.hex()[:8]}")
    granted = transport.subscribe(topic.answer, take, qos=1)
    async with transport:
        await transport.connected(CONNECT_S)
        async with asyncio.timeout(CONNECT_S):
            await granted
        for issuer in _issuers(node):  # newest first; an old one is kept by the controller for a while
            sealed = renewal.seal_to_issuer(data, issuer)
            await transport.publish_acked(topic.request, sealed, deadline_s=CONNECT_S, priority=Priority.HIGH)
            try:
                async with asyncio.timeout(ANSWER_S):
                    return await asyncio.shield(answer)
            except TimeoutError:
                continue
    raise RemoteError(f"no answer within {ANSWER_S:g} s: does the controller run?", who="issuer")


def _issuers(node: SwarmNode) -> list[bytes]:
    book = node.rosters
    found = [one for one in book.current.open_authorities(book.root_public).values() if one.duty == "issuer"]
    return [one.public for one in sorted(found, key=lambda one: one.not_before_s, reverse=True)]


def _with_user(broker: Broker, user: str) -> Broker:
    from dataclasses import replace

    return replace(broker, username=user)


def _signatory(key: SigningKey) -> Signatory:
    return Signatory(key.public, cose.signer(key.seed))
