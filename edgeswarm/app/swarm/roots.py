"""DIR/swarm/root.pub and ca.crt follow the roster: after a change of the fleet's root they are those of the new one.

ca.crt holds, until the change is done (`fleet rotate root --finish`), what it held before as well.  The issuer's
certificate by the new root stands in it beside the root's: so a broker that still shows the one by the old root, for
devices that were off, is verified by the new root.  Each file is replaced whole; what is not written yet, because the
power went, is written at the next start.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from edgeswarm.app.log import Log
from edgeswarm.app.swarm.rosters import RosterBook
from edgeswarm.drivers import keys
from edgeswarm.drivers.files import write_whole
from edgeswarm.errors import ConfigError
from edgeswarm.limits import PEM_BYTES_MAX
from edgeswarm.wire import root_change
from edgeswarm.wire.root_change import RootChange

_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----\s.*?-----END CERTIFICATE-----\n?", re.DOTALL)


def follow(folder: Path, book: RosterBook, log: Log, *, ca: str = "ca.crt") -> bool:
    """Bring the files up to date; True where something was written.  folder: DIR/swarm.  ca: empty without TLS.

    Raises OSError.
    """
    roster = book.current
    if not roster.roots:
        return False
    row = root_change.open_row(roster.roots, fleet=roster.fleet)
    path = folder / "root.pub"
    try:
        known = keys.read_pub(path)
    except ConfigError:
        known = b""
    fresh = known != book.root_public
    if fresh:
        write_whole(path, keys.pub_line(book.root_public, f"root of {roster.fleet}").encode(), mode=0o644)
        log.warning("root_changed", root=keys.key_id(book.root_public), number=row[-1].number)
    if not ca or not row[-1].authorities():
        return fresh
    before = (folder / ca).read_bytes()
    data = authorities(before, row, done=roster.roots_done == len(row))
    if data == before or not _loads(data, log):
        return fresh
    write_whole(folder / ca, data, mode=0o644)
    log.info("authorities_changed", count=data.count(b"-----BEGIN"))
    return True


def authorities(before: bytes, row: Sequence[RootChange], *, done: bool) -> bytes:
    """PEM: what TLS trusts, the newest root's first, then what was there, of whomever.

    done: without the roots before (a root's certificate has its key in it) and what stood beside them.
    """
    found = [each.strip() + b"\n" for each in row[-1].authorities()]
    gone = root_change.publics_of(row)[:-1] if done else ()
    stale = {each.strip() + b"\n" for change in row[:-1] for each in change.authorities()} if done else set()
    for each in _PEM.findall(before[:PEM_BYTES_MAX]):
        text = each.strip() + b"\n"
        if text not in found and text not in stale and not any(public in _der(text) for public in gone):
            found.append(text)
    return b"".join(found)


def _der(pem: bytes) -> bytes:
    """Empty where it is none."""
    try:
        return ssl.PEM_cert_to_DER_cert(pem.decode())
    except ValueError:
        return b""


def _loads(data: bytes, log: Log) -> bool:
    """Whether TLS takes it: a file that it does not take would shut this device out."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=data.decode())
    except (ssl.SSLError, ValueError) as error:
        log.error("authorities_refused", error=str(error))
        return False
    return len(data) <= PEM_BYTES_MAX
