"""The fleet's X.509 certificates (RFC 5280), all Ed25519 (RFC 8410): root -> issuer -> broker and devices, and the CRL.

They exist for TLS alone: who is in the fleet, and in which role, is the roster's word (wire/roster.py).  Root: CA, path
length 1, 20 years.  Issuer: CA, path length 0, 2 years.  Leaves: a server names the hosts it is reached at, a device
has its id as common name, which mosquitto takes for the user name.  Subjects of authorities carry the key's id, so that
two of one fleet are never taken for each other.  A CRL is valid for 10 years: mosquitto refuses everybody once it has
expired, and nothing may depend on a controller that is up.
Certificates are PEM (bytes); times are seconds since 1970 and come from the caller.  `cryptography` is imported inside
functions: a device that does not join or rotate never loads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edgeswarm.drivers.pki import parts
from edgeswarm.errors import LocalError
from edgeswarm.limits import BROKER_HOSTS_MAX, CRL_BYTES_MAX, PEM_BYTES_MAX
from edgeswarm.wire import topics
from edgeswarm.wire.certificate import CertificateError

if TYPE_CHECKING:
    from cryptography import x509

DAY_S: Final = 86_400
YEAR_S: Final = 31_557_600  # of 365.25 days
ROOT_S: Final = 20 * YEAR_S
ISSUER_S: Final = 2 * YEAR_S
SERVER_S: Final = YEAR_S
DEVICE_S: Final = 30 * DAY_S
CRL_S: Final = 10 * YEAR_S
_CRL: Final = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)


# --- making -----------------------------------------------------------------------------------------------------------


def make_root(seed: bytes, fleet: str, now_s: int, *, days: float = 0.0) -> bytes:
    """The root's certificate of its own key.  days: 0 takes 20 years.  Raises LocalError, as all that makes does."""
    key = parts.private_key(seed)
    name = parts.authority_name(fleet, "root", parts.raw(key.public_key()))
    return parts.certificate(
        key, name, name, key.public_key(), parts.span(now_s, days * DAY_S or ROOT_S), path_length=1
    )


def make_issuer(root_seed: bytes, issuer_public: bytes, fleet: str, now_s: int, *, days: float = 0.0) -> bytes:
    """The certificate of an issuer's public key (32 bytes), signed by the root.  days: 0 takes 2 years."""
    root = parts.private_key(root_seed)
    return parts.certificate(
        root,
        parts.authority_name(fleet, "issuer", issuer_public),
        parts.authority_name(fleet, "root", parts.raw(root.public_key())),
        parts.public_key(issuer_public),
        parts.span(now_s, days * DAY_S or ISSUER_S),
        path_length=0,
    )


def make_server(
    issuer_seed: bytes, issuer_pem: bytes, public: bytes, hosts: Sequence[str], now_s: int, *, days: float = 0.0
) -> bytes:
    """The certificate of a broker's public key; hosts: names and addresses, the first is its common name too."""
    from cryptography import x509

    if not 0 < len(hosts) <= BROKER_HOSTS_MAX:
        raise LocalError(f"expected 1 to {BROKER_HOSTS_MAX} host names, found {len(hosts)}")
    signer, issuer = parts.issuer(issuer_seed, issuer_pem)
    names = x509.SubjectAlternativeName([parts.general_name(host) for host in hosts])
    span = parts.span(now_s, days * DAY_S or SERVER_S)
    return parts.certificate(
        signer, parts.subject(hosts[0][:64]), issuer.subject, parts.public_key(public), span, server=names
    )


def make_device(
    issuer_seed: bytes,
    issuer_pem: bytes,
    device: str,
    public: bytes,
    not_before_s: int,
    not_after_s: int,
    *,
    serial: int = 0,
) -> bytes:
    """The certificate of a device's public key, for TLS clients.  serial: 0 takes a random one (`serial_of`)."""
    if not topics.is_device(device):
        raise LocalError(f"expected a device id, found {device!r:.80}")
    signer, issuer = parts.issuer(issuer_seed, issuer_pem)
    span = parts.date(not_before_s), parts.date(not_after_s)
    if span[0] >= span[1]:
        raise LocalError(f"device {device}: a certificate that ends at {not_after_s} cannot start at {not_before_s}")
    return parts.certificate(
        signer, parts.subject(device), issuer.subject, parts.public_key(public), span, serial=serial
    )


def make_crl(
    issuer_seed: bytes, issuer_pem: bytes, revoked: Iterable[tuple[int, int]], now_s: int, *, days: float = 0.0
) -> bytes:
    """The issuer's list of revoked certificates: (serial number, seconds since 1970).  days: 0 takes 10 years.

    Without anything revoked it is needed all the same: mosquitto with a CRL file refuses every certificate whose
    issuer's list is not in it.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    signer, issuer = parts.issuer(issuer_seed, issuer_pem)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(parts.date(max(0, now_s - parts.BEFORE_S)))
        .next_update(parts.date(now_s + int(days * DAY_S or CRL_S)))
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .add_extension(x509.CRLNumber(now_s), critical=False)
    )
    for serial, at_s in revoked:
        if not 0 < serial < 1 << 159:
            raise LocalError(f"expected a serial number of 1 to 159 bits, found {serial}")
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(parts.date(at_s)).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(signer, None).public_bytes(Encoding.PEM)


def pkcs8_pem(seed: bytes) -> bytes:
    """The private key of a 32-byte seed as TLS libraries read it.  To be kept like a password."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return parts.private_key(seed).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def chain(*certificates: bytes) -> bytes:
    """Certificates of one file, each followed by who signed it: leaf, issuer."""
    return b"".join(pem if pem.endswith(b"\n") else pem + b"\n" for pem in certificates)


# --- reading ----------------------------------------------------------------------------------------------------------


def split(pem: bytes, *, who: str = "certificates") -> list[bytes]:
    """The certificates of a file, each as PEM.  Raises CertificateError."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    if len(pem) > PEM_BYTES_MAX:
        raise CertificateError(f"at most {PEM_BYTES_MAX} bytes, found more", who=who)
    try:
        return [each.public_bytes(Encoding.PEM) for each in x509.load_pem_x509_certificates(pem)]
    except ValueError as error:
        raise CertificateError(f"not a certificate: {error}", who=who) from None


def serial_of(pem: bytes) -> int:
    """Serial number of the (first) certificate.  Raises CertificateError, as all that reads does."""
    return parts.load(pem).serial_number


def not_before_of(pem: bytes) -> int:
    return int(parts.load(pem).not_valid_before_utc.timestamp())


def not_after_of(pem: bytes) -> int:
    """The last second of the (first) certificate."""
    return int(parts.load(pem).not_valid_after_utc.timestamp())


def public_of(pem: bytes) -> bytes:
    """The Ed25519 public key, 32 bytes."""
    return parts.ed25519(parts.load(pem), "certificate")


def name_of(pem: bytes) -> str:
    """The common name: of a device its id."""
    return parts.common_name(parts.load(pem))


def hosts_of(pem: bytes) -> tuple[str, ...]:
    """Names and addresses of a server's certificate."""
    return parts.hosts(parts.load(pem))


@dataclass(frozen=True, slots=True)
class Crl:
    """A list of revoked certificates.  made_s, until_s: from when to when it holds.  revoked: serial -> when."""

    pem: bytes
    made_s: int
    until_s: int
    revoked: Mapping[int, int]
    _parsed: x509.CertificateRevocationList

    def signed_by(self, public: bytes) -> bool:
        """Whether it carries a signature of this Ed25519 key."""
        return self._parsed.is_signature_valid(parts.public_key(public))


def read_crls(pem: bytes, *, who: str = "crl") -> list[Crl]:
    """The lists of a file, one for each issuer.  Raises CertificateError."""
    from cryptography import x509

    if len(pem) > CRL_BYTES_MAX:
        raise CertificateError(f"at most {CRL_BYTES_MAX} bytes, found more", who=who)
    found = []
    for part in _CRL.findall(pem):
        try:
            crl = x509.load_pem_x509_crl(part)
            until = crl.next_update_utc
            revoked = {each.serial_number: int(each.revocation_date_utc.timestamp()) for each in crl}
            made_s = int(crl.last_update_utc.timestamp())
            found.append(Crl(part + b"\n", made_s, 0 if until is None else int(until.timestamp()), revoked, crl))
        except ValueError as error:
            raise CertificateError(f"not a list of revoked certificates: {error}", who=who) from None
    return found


def public_of_key(pem: bytes, *, who: str = "key") -> bytes:
    """The public key, 32 bytes, of a private Ed25519 key as `pkcs8_pem` makes it.  Raises CertificateError."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem[:PEM_BYTES_MAX], password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"not a private key: {error}", who=who) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise CertificateError(f"expected an Ed25519 key, found {type(key).__name__}", who=who)
    return parts.raw(key.public_key())


def signed_by(pem: bytes, public: bytes) -> bool:
    """Whether the (first) certificate carries a signature of this Ed25519 key."""
    return parts.holds(parts.load(pem), public)


def check_leaf(der: bytes, ca_public: bytes, host: str, now_s: int | None) -> None:
    """Raises CertificateError, saying what is wrong, unless `der` is the certificate of the server at `host`.

    That is: signed by the Ed25519 key `ca_public` (the issuer's, out of a token), for servers, no authority, with the
    host among its names, and valid at now_s.  now_s: None where the clock is not to be believed.
    """
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    who = f"broker {host}"
    if len(der) > PEM_BYTES_MAX:
        raise CertificateError(f"its certificate has {len(der)} bytes, at most {PEM_BYTES_MAX}", who=who)
    try:
        leaf = x509.load_der_x509_certificate(der)
        signed, hosts = parts.holds(leaf, ca_public), parts.hosts(leaf)
        usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        is_ca = leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, x509.ExtensionNotFound) as error:
        raise CertificateError(f"its certificate is none of a fleet's broker: {error}", who=who) from None
    if not signed:
        raise CertificateError(
            "its certificate is not signed by this fleet's issuer: another fleet's broker, or somebody in between",
            who=who,
        )
    if is_ca or ExtendedKeyUsageOID.SERVER_AUTH not in usage:
        raise CertificateError("its certificate is not one of a server", who=who)
    if not parts.matches(host, hosts):
        raise CertificateError(f"its certificate is for {', '.join(hosts) or 'no host'}", who=who)
    if now_s is not None:
        start, end = int(leaf.not_valid_before_utc.timestamp()), int(leaf.not_valid_after_utc.timestamp())
        if now_s > end:
            raise CertificateError(f"its certificate ended at {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC", who=who)
        if now_s < start:
            raise CertificateError(
                f"its certificate starts at {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC; is this device's clock"
                " right?",
                who=who,
            )
