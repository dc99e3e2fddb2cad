"""What certificates are put together from, and taken apart into: keys, names, dates, one builder for all of them."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import secrets
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from edgeswarm.errors import LocalError
from edgeswarm.limits import PEM_BYTES_MAX
from edgeswarm.wire import topics
from edgeswarm.wire.certificate import CertificateError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

BEFORE_S: Final = 3_600  # a certificate holds from an hour before it was made: clocks differ
_TIME_S_MAX: Final = 253_402_300_799  # 9999-12-31: X.509 knows no later date
_SERIAL_BITS: Final = 128


def certificate(
    signer: Ed25519PrivateKey,
    subject: x509.Name,
    issuer: x509.Name,
    public: Ed25519PublicKey,
    span: tuple[datetime.datetime, datetime.datetime],
    *,
    path_length: int | None = None,
    server: x509.SubjectAlternativeName | None = None,
    serial: int = 0,
) -> bytes:
    """path_length: of an authority; None makes a leaf.  server: its names; a leaf without is a client's."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import ExtendedKeyUsageOID

    is_ca = path_length is not None
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(serial or secrets.randbits(_SERIAL_BITS) | 1 << _SERIAL_BITS)
        .not_valid_before(span[0])
        .not_valid_after(span[1])
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=path_length), critical=True)
        .add_extension(usage(is_ca=is_ca), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if not is_ca:
        purpose = ExtendedKeyUsageOID.CLIENT_AUTH if server is None else ExtendedKeyUsageOID.SERVER_AUTH
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    if server is not None:
        builder = builder.add_extension(server, critical=False)
    return builder.sign(signer, None).public_bytes(Encoding.PEM)


def usage(*, is_ca: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )


def issuer(seed: bytes, pem: bytes) -> tuple[Ed25519PrivateKey, x509.Certificate]:
    key, certificate = private_key(seed), load(pem)
    if ed25519(certificate, "issuer") != raw(key.public_key()):
        raise LocalError("the issuer's certificate is of another key than the issuer's")
    return key, certificate


def private_key(seed: bytes) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if len(seed) != 32:
        raise LocalError(f"expected a seed of 32 bytes, found {len(seed)}")
    return Ed25519PrivateKey.from_private_bytes(seed)


def public_key(public: bytes) -> Ed25519PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if len(public) != 32:
        raise LocalError(f"expected a public key of 32 bytes, found {len(public)}")
    return Ed25519PublicKey.from_public_bytes(public)


def raw(public: Ed25519PublicKey) -> bytes:
    return public.public_bytes_raw()


def span(now_s: int, lasts_s: float) -> tuple[datetime.datetime, datetime.datetime]:
    return date(max(0, now_s - BEFORE_S)), date(now_s + int(lasts_s))


def date(at_s: int) -> datetime.datetime:
    if not 0 <= at_s <= _TIME_S_MAX:
        raise LocalError(f"expected a time of 1970 to 9999 in seconds, found {at_s}")
    return datetime.datetime.fromtimestamp(at_s, datetime.UTC)


def subject(common: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def authority_name(fleet: str, duty: str, public: bytes) -> x509.Name:
    if not topics.is_fleet(fleet):
        raise LocalError(f"expected the name of a fleet, found {fleet!r:.80}")
    return subject(f"{fleet} {duty} {hashlib.sha256(public).hexdigest()[:16]}")


def general_name(host: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if not is_host_name(host):
            raise LocalError(f"expected a host name or an address, found {host!r:.80}") from None
        return x509.DNSName(host.lower())


def is_host_name(text: str) -> bool:
    """Letters, digits, hyphens in labels of 1 to 63 (RFC 1123 2.1); no wildcard."""
    labels = text.split(".")
    return len(text) <= 253 and all(
        0 < len(label) <= 63 and label.isascii() and label.replace("-", "").isalnum() and label.strip("-") == label
        for label in labels
    )


def load(pem: bytes) -> x509.Certificate:
    from cryptography import x509

    if len(pem) > PEM_BYTES_MAX:
        raise CertificateError(f"certificate: at most {PEM_BYTES_MAX} bytes, found more")
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise CertificateError(f"certificate: not one: {error}") from None


def ed25519(certificate: x509.Certificate, what: str) -> bytes:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"{what}: {error}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise CertificateError(f"{what}: expected an Ed25519 key, found {type(key).__name__}")
    return raw(key)


def holds(certificate: x509.Certificate, public: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.x509.oid import SignatureAlgorithmOID

    if certificate.signature_algorithm_oid != SignatureAlgorithmOID.ED25519:
        return False
    try:
        public_key(public).verify(certificate.signature, certificate.tbs_certificate_bytes)
    except InvalidSignature:
        return False
    return True


def common_name(certificate: x509.Certificate) -> str:
    from cryptography.x509.oid import NameOID

    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def hosts(certificate: x509.Certificate) -> tuple[str, ...]:
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    except ValueError as error:
        raise CertificateError(f"certificate: {error}") from None
    dns = names.get_values_for_type(x509.DNSName)
    return (*dns, *map(str, names.get_values_for_type(x509.IPAddress)))


def matches(host: str, hosts: Iterable[str]) -> bool:
    """No wildcards: a broker's certificate names each of its hosts."""
    try:
        wanted = str(ipaddress.ip_address(host))
    except ValueError:
        wanted = host.lower().removesuffix(".")
    return any(wanted == each.lower().removesuffix(".") for each in hosts)
