"""A fleet's certificates, and a mosquitto that asks for them: mutual TLS 1.3, the common name is the user."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from brokers import Mosquitto, mosquitto

from edgeswarm.drivers.mqtt.brokers import Broker, TlsFiles
from edgeswarm.drivers.pki import x509
from edgeswarm.wire import cose

DAY_S = 86_400


@dataclass
class Pki:
    """folder: PEM files."""

    folder: Path
    root_seed: bytes
    issuer_seed: bytes

    @classmethod
    def make(cls, folder: Path, *, root_seed: bytes = b"", issuer_seed: bytes = b"") -> Pki:
        folder.mkdir(parents=True, exist_ok=True)
        made = cls(folder, root_seed or os.urandom(32), issuer_seed or os.urandom(32))
        now = int(time.time())
        root = x509.make_root(made.root_seed, "dev", now)
        issuer = x509.make_issuer(made.root_seed, cose.public_key(made.issuer_seed), "dev", now)
        (folder / "ca.crt").write_bytes(root)
        (folder / "issuer.crt").write_bytes(issuer)
        server = os.urandom(32)
        leaf = x509.make_server(made.issuer_seed, issuer, cose.public_key(server), ["127.0.0.1"], now)
        (folder / "server.crt").write_bytes(x509.chain(leaf, issuer))
        (folder / "server.key").write_bytes(x509.pkcs8_pem(server))
        (folder / "crl.pem").write_bytes(x509.make_crl(made.issuer_seed, issuer, [], now))
        return made

    def device(self, name: str, seed: bytes, *, days: float = 30, at: str = "", issuer_seed: bytes = b"") -> TlsFiles:
        """Certificate and key of a device, as files called `at` or after it.  days: negative has expired."""
        now = int(time.time())
        issuer = (self.folder / "issuer.crt").read_bytes()
        begin, end = (now - 3_600, now + int(days * DAY_S)) if days > 0 else (now - 40 * DAY_S, now + int(days * DAY_S))
        leaf = x509.make_device(issuer_seed or self.issuer_seed, issuer, name, cose.public_key(seed), begin, end)
        certificate, key = self.folder / f"{at or name}.crt", self.folder / f"{at or name}.pem"
        certificate.write_bytes(x509.chain(leaf, issuer))
        key.write_bytes(x509.pkcs8_pem(seed))
        return TlsFiles(self.folder / "ca.crt", certificate, key)

    def options(self, *, crl: bool = True) -> tuple[str, ...]:
        """Of mosquitto's listener."""
        lines = [
            f"cafile {self.folder / 'ca.crt'}",
            f"certfile {self.folder / 'server.crt'}",
            f"keyfile {self.folder / 'server.key'}",
            "require_certificate true",
            "use_identity_as_username true",
            "tls_version tlsv1.3",
        ]
        return (*lines, f"crlfile {self.folder / 'crl.pem'}") if crl else tuple(lines)

    @asynccontextmanager
    async def broker(self, *options: str, crl: bool = True) -> AsyncIterator[Mosquitto]:
        async with mosquitto(*self.options(crl=crl), *options, scheme="mqtts") as broker:
            yield broker


def at(broker: Mosquitto, tls: TlsFiles) -> Broker:
    return Broker.from_url(broker.url, tls=tls)
