"""Throw-away Ed25519 certificates as PEM files: an authority, a server for 127.0.0.1, clients."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

import pytest


class Pki:
    """folder: ca.crt, server.crt, server.key and, after `client(name)`, NAME.crt and NAME.key."""

    def __init__(self, folder: Path) -> None:
        pytest.importorskip(
            "cryptography", reason="cryptography is not installed (pip install 'edgeswarm[encryption]')"
        )
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ed25519

        self.folder = folder
        folder.mkdir(exist_ok=True, parents=True)
        self._now = datetime.datetime.now(datetime.UTC)
        self._key = ed25519.Ed25519PrivateKey.generate()
        subject = self._name("edgeswarm test authority")
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        self._authority = (
            self._builder(subject, subject, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, None)
        )
        self._write("ca", self._authority)
        self._issue("server", server=True)

    @property
    def ca(self) -> Path:
        return self.folder / "ca.crt"

    def client(self, name: str) -> tuple[Path, Path]:
        """Certificate and key, made on first use."""
        if not (self.folder / f"{name}.crt").exists():
            self._issue(name, server=False)
        return self.folder / f"{name}.crt", self.folder / f"{name}.key"

    @staticmethod
    def _name(common_name: str):  # type: ignore[no-untyped-def]
        from cryptography import x509
        from cryptography.x509.oid import NameOID

        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])

    def _builder(self, subject, issuer, public_key):  # type: ignore[no-untyped-def]
        from cryptography import x509

        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - datetime.timedelta(minutes=5))
            .not_valid_after(self._now + datetime.timedelta(days=2))
        )

    def _issue(self, name: str, *, server: bool) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ed25519
        from cryptography.x509.oid import ExtendedKeyUsageOID

        key = ed25519.Ed25519PrivateKey.generate()
        usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = (
            self._builder(self._name(name), self._authority.subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if server:
            names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        self._write(name, builder.sign(self._key, None), key)

    def _write(self, name: str, certificate, key=None) -> None:  # type: ignore[no-untyped-def]
        from cryptography.hazmat.primitives import serialization

        encoding = serialization.Encoding.PEM
        (self.folder / f"{name}.crt").write_bytes(certificate.public_bytes(encoding))
        if key is not None:
            private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            (self.folder / f"{name}.key").touch(mode=0o600)
            (self.folder / f"{name}.key").write_bytes(private)
