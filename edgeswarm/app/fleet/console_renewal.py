"""An operator's console renews its own certificate when it is used: it is no daemon that could do so by itself."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from edgeswarm.app.swarm.rotation import pem_of
from edgeswarm.app.swarm.rotation_files import KeyFiles
from edgeswarm.drivers import keys
from edgeswarm.wire import cose, renewal
from edgeswarm.wire.certificate import Signatory

if TYPE_CHECKING:
    from edgeswarm.app.fleet.console import Console

CALL_S = 15.0


def key_of(state_dir: Path, public: bytes | None) -> keys.SigningKey:
    """The key to sign with: the one that the roster names, else the one in use."""
    files = KeyFiles(state_dir)
    files.settle()
    files.clean()
    return files.choose(public) or keys.load_or_make(files.key)[0]


def is_due(console: Console, device: str) -> bool:
    """At two thirds of its life, or when there is a newer issuer."""
    book = console.rosters
    member = book.current.member(device)
    if member is None:
        return False
    found = member.keys[-1].certificate
    issuers = [one for one in book.current.open_authorities(book.root_public).values() if one.duty == "issuer"]
    newest = max(issuers, key=lambda one: one.not_before_s).kid if issuers else found.issuer
    now_s = max(int(time.time()), book.current.created_s)
    return newest != found.issuer or now_s >= renewal.due_at(found.not_before_s, found.not_after_s, device)


async def renew(console: Console, state_dir: Path, device: str) -> None:
    """The next connection is made with the new key.  Raises EdgeSwarmError, OSError: then the old one goes on."""
    book, files = console.rosters, KeyFiles(state_dir)
    old = key_of(state_dir, book.lookup(device))
    new = files.make_next()
    request = renewal.Request(book.current.fleet, device, new.public, old.public, os.urandom(16))
    signed = renewal.sign_request(
        request,
        new=Signatory(new.public, cose.signer(new.seed)),
        old=Signatory(old.public, cose.signer(old.seed)),
    )
    data = await console.peer.call(console.controller, renewal.METHOD, signed, deadline_s=CALL_S)
    answer = renewal.read_answer(data)
    if answer.code:
        raise renewal.RenewalError(answer.reason, who=answer.code)
    book.offer(answer.roster)

    def issuer_of(kid: bytes) -> bytes | None:
        found = book.current.open_authorities(book.root_public).get(kid)
        return found.public if found is not None and found.duty == "issuer" else None

    renewal.check_answer(data, request, issuer_of)
    if book.lookup(device) != new.public:
        raise renewal.RenewalError("the roster of the answer does not name the new key", who="renewal")
    files.stage(answer.chain, pem_of(new.seed))
    files.swap()
    files.forget_old()
