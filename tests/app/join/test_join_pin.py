"""The pin: whoever listens there and is not the fleet's broker hears not one byte of MQTT."""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from join_made import INVENTORY

from edgeswarm.app.join import clock, line, run
from edgeswarm.app.join.line import NoAnswerError, PinError, Times
from edgeswarm.app.swarm.config import CellConfig
from edgeswarm.app.swarm.connect import make_transport
from edgeswarm.drivers.mqtt.transport import LinkError, Will
from edgeswarm.drivers.pki import x509
from edgeswarm.wire import token as wire
from edgeswarm.wire.certificate import Signatory
from edgeswarm.wire.token import Token

NOW_S = int(time.time())
DAY_S = 86_400
SOON = Times(wait=1.5, ask=0.3, connect=1.0)


@dataclass
class Listener:
    """A TLS server that writes down what it is told once the handshake is done."""

    port: int
    told: bytearray = field(default_factory=bytearray)
    handshakes: int = 0


@contextmanager
def listener(folder: Path, chain: bytes, seed: bytes) -> Iterator[Listener]:
    names = [folder / f"{os.urandom(4).hex()}.{kind}" for kind in ("crt", "key")]
    for path, data in zip(names, (chain, x509.pkcs8_pem(seed)), strict=True):
        path.write_bytes(data)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(*names)
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = Listener(server.getsockname()[1])

        def serve() -> None:
            while True:
                try:
                    raw, _ = server.accept()
                except OSError:
                    return
                raw.settimeout(3.0)
                try:
                    with context.wrap_socket(raw, server_side=True) as sock:
                        found.handshakes += 1
                        while data := sock.recv(4_096):
                            found.told += data
                except OSError:
                    raw.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield found
        finally:
            server.shutdown(socket.SHUT_RDWR)
    thread.join(10)


@dataclass
class Pki:
    """A fleet's issuer."""

    root: bytes = field(default_factory=lambda: os.urandom(32))
    issuer: bytes = field(default_factory=lambda: os.urandom(32))
    server: bytes = field(default_factory=lambda: os.urandom(32))

    @property
    def issuer_pem(self) -> bytes:
        return x509.make_issuer(self.root, Signatory.from_seed(self.issuer).public, "plant", NOW_S - DAY_S)

    def chain(self, *hosts: str, at_s: int = NOW_S, days: float = 1.0) -> bytes:
        public = Signatory.from_seed(self.server).public
        leaf = x509.make_server(self.issuer, self.issuer_pem, public, hosts or ("127.0.0.1",), at_s, days=days)
        return x509.chain(leaf, self.issuer_pem)

    def token(self, *ports: int) -> Token:
        brokers = tuple(f"mqtts://127.0.0.1:{port}" for port in ports)
        return wire.make(brokers, "plant", Signatory.from_seed(self.issuer).public, entropy=os.urandom(24))


def wish(tmp_path: Path) -> run.Wish:
    return run.Wish(tmp_path / "state", name="gate-1", found=INVENTORY)


async def refused(tmp_path: Path, token: Token, says: str, *heard: Listener) -> None:
    """Joining and trying fail by the pin, and nobody was told anything."""
    with pytest.raises(PinError, match=says):
        await run.run(token, wish(tmp_path), times=SOON)
    with pytest.raises(PinError, match=says):
        await run.dry_run(token, wish(tmp_path))
    for one in heard:
        assert one.handshakes >= 1, "the certificate was not even looked at"
        assert bytes(one.told) == b""
    assert not (tmp_path / "state" / "swarm").exists()


async def test_broker_of_another_fleet_hears_nothing(tmp_path: Path) -> None:
    ours, theirs = Pki(), Pki()
    with listener(tmp_path, theirs.chain(), theirs.server) as fake:
        await refused(tmp_path, ours.token(fake.port), "not signed by this fleet's issuer", fake)


async def test_broker_that_signed_itself_hears_nothing(tmp_path: Path) -> None:
    """With the right names, of a root that calls itself as ours does."""
    ours = Pki()
    with listener(tmp_path, x509.make_root(ours.server, "plant", NOW_S), ours.server) as fake:
        await refused(tmp_path, ours.token(fake.port), "certificate", fake)


async def test_broker_with_a_certificate_of_another_host_hears_nothing(tmp_path: Path) -> None:
    ours = Pki()
    with listener(tmp_path, ours.chain("broker.plant.example", "127.0.0.2"), ours.server) as fake:
        await refused(tmp_path, ours.token(fake.port), "is for broker.plant.example", fake)


async def test_device_of_the_fleet_that_poses_as_its_broker_hears_nothing(tmp_path: Path) -> None:
    """Its certificate is the issuer's, and not a server's."""
    ours = Pki()
    public = Signatory.from_seed(ours.server).public
    leaf = x509.make_device(ours.issuer, ours.issuer_pem, "gate-9", public, NOW_S - 300, NOW_S + DAY_S)
    with listener(tmp_path, x509.chain(leaf, ours.issuer_pem), ours.server) as fake:
        await refused(tmp_path, ours.token(fake.port), "certificate", fake)


async def test_broker_whose_certificate_has_ended_or_not_begun_hears_nothing(tmp_path: Path) -> None:
    ours = Pki()
    for at_s, says in ((NOW_S - 10 * DAY_S, "ended"), (NOW_S + 10 * DAY_S, "starts")):
        with listener(tmp_path, ours.chain(at_s=at_s), ours.server) as fake:
            await refused(tmp_path, ours.token(fake.port), says, fake)


async def test_older_tls_is_not_spoken(tmp_path: Path) -> None:
    ours = Pki()
    path = tmp_path / "s.crt", tmp_path / "s.key"
    path[0].write_bytes(ours.chain())
    path[1].write_bytes(x509.pkcs8_pem(ours.server))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(*path)
    told = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    raw, _ = server.accept()
                except OSError:
                    return
                try:
                    with context.wrap_socket(raw, server_side=True) as sock:
                        told.extend(sock.recv(100))
                except OSError:
                    raw.close()

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(NoAnswerError):
            await run.run(ours.token(server.getsockname()[1]), wish(tmp_path), times=SOON)
        server.shutdown(socket.SHUT_RDWR)
    thread.join(10)
    assert not told


async def test_wrong_broker_does_not_keep_from_the_right_one(tmp_path: Path) -> None:
    """The token names two: the first was taken over, the second speaks MQTT with us and does not answer."""
    ours, theirs = Pki(), Pki()
    with (
        listener(tmp_path, theirs.chain(), theirs.server) as fake,
        listener(tmp_path, ours.chain(), ours.server) as real,
    ):
        token = ours.token(fake.port, real.port)
        with pytest.raises((NoAnswerError, PinError)):
            await run.run(token, wish(tmp_path), times=SOON)
        assert bytes(fake.told) == b""
        assert bytes(real.told[:1]) == b"\x10" and token.id.encode() in real.told  # CONNECT, user name: the token's id
        planned = await run.dry_run(token, wish(tmp_path))
        assert [row["ok"] for row in planned["brokers"]] == [False, True]
        assert wire.text_of(token).rpartition(".")[2].encode() not in real.told and token.secret not in real.told


async def test_dry_run_says_what_it_would_send_and_sends_nothing(tmp_path: Path) -> None:
    ours = Pki()
    with listener(tmp_path, ours.chain(), ours.server) as real:
        planned = await run.dry_run(ours.token(real.port), wish(tmp_path))
        assert planned["device"] == "gate-1" and planned["inventory"]["profile"] == "rpi-5"
        assert bytes(real.told) == b""
    assert not (tmp_path / "state").exists()


async def test_clock_of_1970_leaves_dates_to_the_pin_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A board without a battery: the certificate seems to lie in the future, and is looked at all the same."""
    ours, theirs = Pki(), Pki()
    monkeypatch.setattr(clock, "wall", lambda: 42.0)
    with listener(tmp_path, ours.chain(), ours.server) as real:
        with pytest.raises(NoAnswerError):
            await run.run(ours.token(real.port), wish(tmp_path), times=SOON)
        assert real.told[:1] == b"\x10"
    with listener(tmp_path, theirs.chain(), theirs.server) as fake:
        await refused(tmp_path, ours.token(fake.port), "not signed by this fleet's issuer", fake)
    with listener(tmp_path, ours.chain("other.example"), ours.server) as fake:
        await refused(tmp_path, ours.token(fake.port), "is for other.example", fake)


async def test_nobody_there_is_told_as_that(tmp_path: Path) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        token = Pki().token(sock.getsockname()[1])
        with pytest.raises(NoAnswerError, match="refused") as found:
            await run.run(token, wish(tmp_path), times=line.Times(wait=0.3, connect=0.3))
        assert found.value.exit_code == 1


async def test_device_of_a_cell_with_a_clock_of_1970_still_reaches_its_broker_and_no_ended_or_foreign_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the join there is no pin: roots judge who it is, the time floor judges the end.  The broker's certificate
    begins in ten days by the kernel's clock, which is therefore ten days behind."""
    ours = Pki()
    theirs = Pki(server=ours.server)
    ahead_s = NOW_S + 10 * DAY_S
    base = tmp_path / "swarm"
    base.mkdir()
    (base / "ca.crt").write_bytes(x509.make_root(ours.root, "plant", NOW_S - DAY_S))

    async def told(chain: bytes, wall_s: float, floor_s: int = 0) -> tuple[bytes, str]:
        monkeypatch.setattr(clock, "wall", lambda: wall_s)
        clock.keep(tmp_path, floor_s)
        with listener(tmp_path, chain, ours.server) as found:
            config = CellConfig("plant", "main", "gate-1", (f"mqtts://127.0.0.1:{found.port}",), "lan", tls_ca="ca.crt")
            transport = make_transport(config, base, will=Will("t", b""), offline=None, on_state=lambda _: None)
            with pytest.raises(LinkError) as error:
                await transport.start(0.8)
            await transport.close()
        return bytes(found.told[:1]), str(error.value)

    assert (await told(ours.chain(at_s=ahead_s), 42.0))[0] == b"\x10"
    said, why = await told(ours.chain(at_s=ahead_s), float(NOW_S))
    assert said == b"" and "not yet valid" in why, "a clock that may be right is believed"
    assert (await told(theirs.chain(), 42.0))[0] == b""
    said, why = await told(ours.chain(at_s=ahead_s, days=2.0), 42.0, ahead_s + 3 * DAY_S)
    assert said == b"" and "ended" in why
