"""The probes of `fleet broker check`: what is tried at the running broker, and what must come of it.

The issuer's key signs certificates for the probes, good for ten minutes.  Their names stand in the access list with the
rights of their roles in a cell of its own (PROBE_CELL), so nothing has to be opened for a check, and nothing that a
probe says reaches a device.  What mosquitto refuses silently (subscriptions) is tried by saying something that must not
arrive.
"""

from __future__ import annotations

import os
import secrets
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

from edgeswarm.app.fleet.broker_files import PROBE_SERIAL, Issuer
from edgeswarm.app.fleet.broker_guard import BrokerGuard
from edgeswarm.app.fleet.folder import FleetFolder
from edgeswarm.app.log import Log
from edgeswarm.drivers import broker_fleet
from edgeswarm.drivers.broker_fleet_acl import (
    CONTROL,
    PROBE_CELL,
    PROBE_OTHER,
    PROBE_READER,
    PROBE_STRANGER,
    PROBE_TOKEN,
    PROBE_WORKER,
)
from edgeswarm.drivers.broker_fleet_client import (
    TAKEN,
    RefusedError,
    Session,
    Where,
    connect,
    context,
    reason,
)
from edgeswarm.drivers.pki import x509
from edgeswarm.limits import (
    BROKER_JOIN_PACKET_BYTES_MAX,
    BROKER_PROBE_S,
    BROKER_PROBE_SILENCE_S,
    BROKER_RENEW_DAYS,
    MQTT_PACKET_BYTES_MAX,
)
from edgeswarm.wire.roster import Roster
from edgeswarm.wire.topics import ROOT, Topics

WORKS: Final = "works"
REFUSED: Final = "is refused"
PROBE_S: Final = 600  # life of a probe's certificate


Probe = Callable[["Bench"], str]
"""What was found: WORKS or REFUSED, ": " and how; raises RefusedError where the broker takes no connection."""


class Bench:
    """What the probes use: identities, connections, topics."""

    def __init__(self, folder: FleetFolder, roster: Roster, now_s: int) -> None:
        self.folder, self.roster, self.now_s = folder, roster, now_s
        self.issuer = Issuer.load(folder)
        self.settings = broker_fleet.load_settings(folder.broker)
        self.ca = (folder.pki / "ca.crt").read_bytes()
        self.cell = Topics(roster.fleet, roster.cell)
        self.topics = Topics(roster.fleet, PROBE_CELL)
        self.join = f"{ROOT}/{roster.fleet}/join"
        self.run = secrets.token_hex(8)
        self._guard = BrokerGuard(folder, Log(stream=None), roster=lambda: roster)

    def identity(
        self, name: str, *, serial: int = 0, ends_s: int = PROBE_S, issuer: tuple[bytes, bytes] | None = None
    ) -> tuple[bytes, bytes]:
        """(certificate with its chain, key), PEM.  ends_s: from now.  issuer: (seed, PEM) of somebody else."""
        seed, pem = issuer or (self.issuer.key.seed, self.issuer.pem)
        key = x509.pkcs8_pem(os.urandom(32))
        begin = self.now_s - 2 * PROBE_S
        leaf = x509.make_device(seed, pem, name, x509.public_of_key(key), begin, self.now_s + ends_s, serial=serial)
        return x509.chain(leaf, pem), key

    def device(self, name: str, identity: tuple[bytes, bytes] | None = None, *, client_id: str = "") -> Session:
        """A connection to the devices' listener."""
        with context(self.ca, *(identity or self.identity(name))) as tls:
            return self.connect(tls, client_id or f"{name}-{secrets.token_hex(6)}")

    def connect(self, tls: ssl.SSLContext | None, client_id: str) -> Session:
        return connect(Where(self.settings.local, self.settings.port, tls), client_id=client_id)

    def newcomer(self, user: str | None, *, client_id: str = "") -> Session:
        """A connection to the newcomers' listener."""
        with context(self.ca) as tls:
            where = Where(self.settings.local, self.settings.join_port, tls)
            return connect(where, client_id=client_id or f"join-{secrets.token_hex(6)}", user=user)

    def guard(self) -> Session:
        return self._guard.session()

    def end_sessions(self, device: str) -> None:
        self._guard.end_sessions([device])

    def arrives(self, listener: Session, topic_filter: str, say: Callable[[], int], topic: str) -> bool:
        """Whether what `say` publishes on `topic` comes to `listener`, who subscribes to `topic_filter`."""
        listener.subscribe(topic_filter)
        code = say()
        if code not in TAKEN:
            raise RefusedError(f"the probe could not say what must (not) arrive: {reason(code)}")
        end = time.monotonic() + BROKER_PROBE_SILENCE_S
        while (left_s := end - time.monotonic()) > 0:
            said = listener.message(left_s)
            if said is not None and said.topic == topic:
                return True
        return False


# --- probes -----------------------------------------------------------------------------------------------------------


def _says(session: Session, topic: str, payload: bytes = b"probe") -> str:
    """What becomes of one message."""
    with session:
        code = session.publish(topic, payload)
    return f"{WORKS}: {reason(code)}" if code in TAKEN else f"{REFUSED}: {reason(code)}"


def _own_status(bench: Bench) -> str:
    return _says(bench.device(PROBE_WORKER), bench.topics.status(PROBE_WORKER))


def _hears(bench: Bench) -> str:
    topic = bench.topics.event("low", "health")
    with bench.device(PROBE_READER) as reader, bench.device(PROBE_WORKER) as worker:
        came = bench.arrives(reader, bench.topics.events(), lambda: worker.publish(topic, b"probe"), topic)
    return f"{WORKS}: it arrives" if came else f"{REFUSED}: it does not arrive"


def _join_way(bench: Bench) -> str:
    """A request of a newcomer and its answer, over the bridge."""
    start = f"{bench.join}/{PROBE_TOKEN}/{bench.run}"
    with bench.newcomer(PROBE_TOKEN) as newcomer, bench.guard() as guard:
        newcomer.subscribe(f"{start}/answer")
        guard.subscribe(f"{start}/request")
        for _ in range(int(BROKER_PROBE_S / BROKER_PROBE_SILENCE_S)):  # the bridge may be connecting
            newcomer.publish(f"{start}/request", b"probe")
            if guard.message(BROKER_PROBE_SILENCE_S) is not None:
                break
        else:
            return f"{REFUSED}: the request does not arrive"
        guard.publish(f"{start}/answer", b"probe")
        came = newcomer.message(BROKER_PROBE_S)
    return f"{WORKS}: request and answer arrive" if came is not None else f"{REFUSED}: the answer does not arrive"


def _certificate(bench: Bench) -> str:
    """Both listeners show the certificate of the fleet's issuer, for every host, with time left."""
    with (
        context(bench.ca) as tls,
        socket.create_connection((bench.settings.local, bench.settings.join_port), BROKER_PROBE_S) as plain,
        tls.wrap_socket(plain, server_hostname=bench.settings.local) as sock,
    ):
        der = sock.getpeercert(binary_form=True)
    later_s = bench.now_s + BROKER_RENEW_DAYS * x509.DAY_S // 4
    for host in bench.settings.hosts:
        x509.check_leaf(der or b"", bench.issuer.key.public, host, later_s)
    return f"{WORKS}: {', '.join(bench.settings.hosts)}"


def _no_certificate(bench: Bench) -> str:
    with context(bench.ca) as tls:
        return _says(bench.connect(tls, "probe"), bench.topics.status(PROBE_WORKER))


def _foreign(bench: Bench) -> str:
    """The same names, another root."""
    root, issuer, fleet = os.urandom(32), os.urandom(32), bench.roster.fleet
    public = x509.public_of_key(x509.pkcs8_pem(issuer))
    pem = x509.make_issuer(root, public, fleet, bench.now_s)
    return _as(bench, bench.identity(PROBE_WORKER, issuer=(issuer, pem)))


def _of_a_device(bench: Bench) -> str:
    """A device's key signs for another device."""
    seed = os.urandom(32)
    public, span = x509.public_of_key(x509.pkcs8_pem(seed)), (bench.now_s - PROBE_S, bench.now_s + PROBE_S)
    pem = x509.make_device(bench.issuer.key.seed, bench.issuer.pem, PROBE_OTHER, public, *span)
    chain, key = bench.identity(PROBE_WORKER, issuer=(seed, pem))
    return _as(bench, (x509.chain(chain, bench.issuer.pem), key))


def _revoked(bench: Bench) -> str:
    return _as(bench, bench.identity(PROBE_WORKER, serial=PROBE_SERIAL))


def _expired(bench: Bench) -> str:
    return _as(bench, bench.identity(PROBE_WORKER, ends_s=-60))


def _as(bench: Bench, identity: tuple[bytes, bytes]) -> str:
    return _says(bench.device(PROBE_WORKER, identity), bench.topics.status(PROBE_WORKER))


def _tls_1_2(bench: Bench) -> str:
    with context(bench.ca, *bench.identity(PROBE_WORKER)) as tls:
        tls.minimum_version = tls.maximum_version = ssl.TLSVersion.TLSv1_2
        return _says(bench.connect(tls, "probe"), bench.topics.status(PROBE_WORKER))


def _plain(bench: Bench) -> str:
    return _says(bench.connect(None, "probe"), bench.topics.status(PROBE_WORKER))


def _plain_join(bench: Bench) -> str:
    where = Where(bench.settings.local, bench.settings.join_port, None)
    return _says(connect(where, client_id="probe", user=PROBE_TOKEN), f"{bench.join}/{PROBE_TOKEN}/x/request")


def _stranger(bench: Bench) -> str:
    return _says(bench.device(PROBE_STRANGER), bench.cell.status(PROBE_STRANGER))


def _other_status(bench: Bench) -> str:
    return _says(bench.device(PROBE_WORKER), bench.topics.status(PROBE_OTHER))


def _real_cell(bench: Bench) -> str:
    """The probes themselves open nothing."""
    return _says(bench.device(PROBE_WORKER), bench.cell.inbox(bench.folder.config.controller))


def _worker_raft(bench: Bench) -> str:
    return _says(bench.device(PROBE_WORKER), bench.topics.raft(PROBE_OTHER))


def _worker_roster(bench: Bench) -> str:
    return _says(bench.device(PROBE_WORKER), bench.topics.roster)


def _reader_inbox(bench: Bench) -> str:
    return _says(bench.device(PROBE_READER), bench.topics.inbox(PROBE_WORKER))


def _reader_event(bench: Bench) -> str:
    return _says(bench.device(PROBE_READER), bench.topics.event("critical", "alert"))


def _other_stream(bench: Bench) -> str:
    return _says(bench.device(PROBE_WORKER), bench.topics.stream(PROBE_OTHER, "probe"))


def _spies_inbox(bench: Bench) -> str:
    topic = bench.topics.inbox(PROBE_OTHER)
    with bench.device(PROBE_READER) as spy, bench.device(PROBE_WORKER) as worker:
        came = bench.arrives(spy, "#", lambda: worker.publish(topic, b"probe"), topic)
    return _silence(came)


def _spies_join(bench: Bench) -> str:
    topic = f"{bench.join}/{PROBE_TOKEN}/{bench.run}-spy/answer"
    with bench.device(PROBE_WORKER) as spy, bench.guard() as guard:
        came = bench.arrives(spy, f"{bench.join}/#", lambda: guard.publish(topic, b"probe"), topic)
    return _silence(came)


def _silence(came: bool) -> str:
    return f"{WORKS}: it arrives" if came else f"{REFUSED}: nothing arrives"


def _control(bench: Bench) -> str:
    return _says(bench.device(PROBE_WORKER), CONTROL, b'{"commands":[{"command":"listClients"}]}')


def _sys(bench: Bench) -> str:
    with bench.device(PROBE_WORKER) as session:
        session.subscribe("$SYS/#")
        return _silence(session.message(BROKER_PROBE_SILENCE_S) is not None)


def _oversized(bench: Bench) -> str:
    return _announces(bench.device(PROBE_WORKER), MQTT_PACKET_BYTES_MAX + 1)


def _oversized_join(bench: Bench) -> str:
    return _announces(bench.newcomer(PROBE_TOKEN), BROKER_JOIN_PACKET_BYTES_MAX + 1)


def _announces(session: Session, size: int) -> str:
    """The head of a PUBLISH that says that so many bytes follow: enough to be thrown out."""
    with session:
        head = bytearray(b"\x30")
        while size:
            size, byte = size >> 7, size & 127
            head.append(byte | (128 if size else 0))
        session.raw(bytes(head))
        ended = session.ended(BROKER_PROBE_S)
    return f"{WORKS}: it waits for the rest" if ended is None else f"{REFUSED}: {ended}"


def _other_token(bench: Bench) -> str:
    return _says(bench.newcomer(f"{PROBE_TOKEN}-b"), f"{bench.join}/{PROBE_TOKEN}/{bench.run}/request")


def _spies_token(bench: Bench) -> str:
    topic = f"{bench.join}/{PROBE_TOKEN}/{bench.run}-other/answer"
    with bench.newcomer("+") as spy, bench.newcomer(f"{PROBE_TOKEN}-b") as other, bench.guard() as guard:
        spy.subscribe(f"{bench.join}/#")
        came = bench.arrives(other, f"{bench.join}/#", lambda: guard.publish(topic, b"probe"), topic)
        came = came or spy.message(BROKER_PROBE_SILENCE_S) is not None
    return _silence(came)


def _newcomer_device_topic(bench: Bench) -> str:
    return _says(bench.newcomer(PROBE_WORKER), bench.topics.status(PROBE_WORKER))


def _nameless(bench: Bench) -> str:
    return _says(bench.newcomer(None), f"{bench.join}//{bench.run}/request")


def _newcomer_answers(bench: Bench) -> str:
    return _says(bench.newcomer(PROBE_TOKEN), f"{bench.join}/{PROBE_TOKEN}/{bench.run}/answer")


def _takes_over(bench: Bench) -> str:
    """Who comes with a device's client id to the newcomers' listener must not end the device's session."""
    name = f"{PROBE_WORKER}-{bench.run}"
    with bench.device(PROBE_WORKER, client_id=name) as device, bench.newcomer(PROBE_TOKEN, client_id=name):
        ended = device.ended(BROKER_PROBE_SILENCE_S)
    return f"{REFUSED}: the device's session lives" if ended is None else f"{WORKS}: {ended}"


def _kick(bench: Bench) -> str:
    """Two sessions of one certificate, as a device has them; another's goes on."""
    with ExitStack() as stack:
        both = [stack.enter_context(bench.device(PROBE_WORKER)) for _ in range(2)]
        other = stack.enter_context(bench.device(PROBE_OTHER))
        bench.end_sessions(PROBE_WORKER)
        lives = [session for session in both if session.ended(BROKER_PROBE_S) is None]
        if lives:
            return f"{REFUSED}: {len(lives)} of 2 sessions live on"
        if other.ended(BROKER_PROBE_SILENCE_S / 4) is not None:
            return f"{REFUSED}: the session of another device ended too"
    return f"{WORKS}: both sessions ended, another device's goes on"


PROBES: Final[tuple[tuple[str, str, Probe], ...]] = (
    ("a device publishes its own status", WORKS, _own_status),
    ("a reader hears a worker's event", WORKS, _hears),
    ("a newcomer's request and its answer, over the bridge", WORKS, _join_way),
    ("the broker's certificate is the issuer's, for its hosts", WORKS, _certificate),
    ("sessions of a revoked device are ended", WORKS, _kick),
    ("a device without a certificate", REFUSED, _no_certificate),
    ("a certificate of another fleet", REFUSED, _foreign),
    ("a certificate that a device signed", REFUSED, _of_a_device),
    ("a revoked certificate", REFUSED, _revoked),
    ("an expired certificate", REFUSED, _expired),
    ("TLS 1.2", REFUSED, _tls_1_2),
    ("plain TCP", REFUSED, _plain),
    ("plain TCP, newcomers", REFUSED, _plain_join),
    ("a certificate whose device is in no roster publishes", REFUSED, _stranger),
    ("a device publishes another's status", REFUSED, _other_status),
    ("a probe publishes in the fleet's own cell", REFUSED, _real_cell),
    ("a worker publishes to a voter", REFUSED, _worker_raft),
    ("a worker publishes a roster", REFUSED, _worker_roster),
    ("a worker publishes another's stream", REFUSED, _other_stream),
    ("a reader publishes to a worker's inbox", REFUSED, _reader_inbox),
    ("a reader publishes an alert", REFUSED, _reader_event),
    ("a device listens to #, another's inbox", REFUSED, _spies_inbox),
    ("a device listens to join topics", REFUSED, _spies_join),
    ("a device tells the broker's plugin", REFUSED, _control),
    ("a device listens to $SYS", REFUSED, _sys),
    ("a packet beyond the limit", REFUSED, _oversized),
    ("a packet beyond the limit, newcomers", REFUSED, _oversized_join),
    ("a newcomer publishes under another token", REFUSED, _other_token),
    ("a newcomer listens to other tokens", REFUSED, _spies_token),
    ("a newcomer answers instead of the controller", REFUSED, _newcomer_answers),
    ("a newcomer publishes on a device's topic", REFUSED, _newcomer_device_topic),
    ("a newcomer without a user name publishes", REFUSED, _nameless),
    ("a newcomer ends a device's session by its client id", REFUSED, _takes_over),
)
