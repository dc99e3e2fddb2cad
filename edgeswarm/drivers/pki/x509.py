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

import datetime
import hashlib
import ipaddress
import secrets
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from edgeswarm.errors import LocalError
from edgeswarm.limits import BROKER_HOSTS_MAX, CRL_BYTES_MAX, PEM_BYTES_MAX
from edgeswarm.wire import topics
from edgeswarm.wire.certificate import CertificateError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

DAY_S: Final = 86_400
YEAR_S: Final = 31_557_600  # of 365.25 days
ROOT_S: Final = 20 * YEAR_S
ISSUER_S: Final = 2 * YEAR_S
SERVER_S: Final = YEAR_S
DEVICE_S: Final = 30 * DAY_S
CRL_S: Final = 10 * YEAR_S
BEFORE_S: Final = 3_600  # a certificate holds from an hour before it was made: clocks differ
_TIME_S_MAX: Final = 253_402_300_799  # 9999-12-31: X.509 knows no later date
_SERIAL_BITS: Final = 128


# --- making -----------------------------------------------------------------------------------------------------------


def make_root(seed: bytes, fleet: str, now_s: int, *, days: float = 0.0) -> bytes:
    """The root's certificate of its own key.  days: 0 takes 20 years.  Raises LocalError, as all that makes does."""
    key = _private(seed)
    name = _authority_name(fleet, "root", _raw(key.public_key()))
    return _certificate(key, name, name, key.public_key(), _span(now_s, days * DAY_S or ROOT_S), path_length=1)


def make_issuer(root_seed: bytes, issuer_public: bytes, fleet: str, now_s: int, *, days: float = 0.0) -> bytes:
    """The certificate of an issuer's public key (32 bytes), signed by the root.  days: 0 takes 2 years."""
    root = _private(root_seed)
    return _certificate(
        root,
        _authority_name(fleet, "issuer", issuer_public),
        _authority_name(fleet, "root", _raw(root.public_key())),
        _public(issuer_public),
        _span(now_s, days * DAY_S or ISSUER_S),
        path_length=0,
    )


def make_server(
    issuer_seed: bytes, issuer_pem: bytes, public: bytes, hosts: Sequence[str], now_s: int, *, days: float = 0.0
) -> bytes:
    """The certificate of a broker's public key; hosts: names and addresses, the first is its common name too."""
    from cryptography import x509

    if not 0 < len(hosts) <= BROKER_HOSTS_MAX:
        raise LocalError(f"expected 1 to {BROKER_HOSTS_MAX} host names, found {len(hosts)}")
    signer, issuer = _issuer(issuer_seed, issuer_pem)
    names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
    span = _span(now_s, days * DAY_S or SERVER_S)
    return _certificate(signer, _name(hosts[0][:64]), issuer.subject, _public(public), span, server=names)


def make_device(
    issuer_seed: bytes, issuer_pem: bytes, device: str, public: bytes, not_before_s: int, not_after_s: int
) -> bytes:
    """The certificate of a device's public key, for TLS clients; its serial number is random (`serial_of`)."""
    if not topics.is_device(device):
        raise LocalError(f"expected a device id, found {device!r:.80}")
    signer, issuer = _issuer(issuer_seed, issuer_pem)
    span = _time(not_before_s), _time(not_after_s)
    if span[0] >= span[1]:
        raise LocalError(f"device {device}: a certificate that ends at {not_after_s} cannot start at {not_before_s}")
    return _certificate(signer, _name(device), issuer.subject, _public(public), span)


def make_crl(
    issuer_seed: bytes, issuer_pem: bytes, revoked: Iterable[tuple[int, int]], now_s: int, *, days: float = 0.0
) -> bytes:
    """The issuer's list of revoked certificates: (serial number, seconds since 1970).  days: 0 takes 10 years.

    Without anything revoked it is needed all the same: mosquitto with a CRL file refuses every certificate whose
    issuer's list is not in it.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    signer, issuer = _issuer(issuer_seed, issuer_pem)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(_time(now_s - BEFORE_S))
        .next_update(_time(now_s + int(days * DAY_S or CRL_S)))
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .add_extension(x509.CRLNumber(now_s), critical=False)
    )
    for serial, at_s in revoked:
        if not 0 < serial < 1 << 159:
            raise LocalError(f"expected a serial number of 1 to 159 bits, found {serial}")
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(_time(at_s)).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(signer, None).public_bytes(Encoding.PEM)


def pkcs8_pem(seed: bytes) -> bytes:
    """The private key of a 32-byte seed as TLS libraries read it.  To be kept like a password."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return _private(seed).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


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
    return _load(pem).serial_number


def not_before_of(pem: bytes) -> int:
    return int(_load(pem).not_valid_before_utc.timestamp())


def not_after_of(pem: bytes) -> int:
    """The last second of the (first) certificate."""
    return int(_load(pem).not_valid_after_utc.timestamp())


def public_of(pem: bytes) -> bytes:
    """The Ed25519 public key, 32 bytes."""
    return _ed25519(_load(pem), "certificate")


def name_of(pem: bytes) -> str:
    """The common name: of a device its id."""
    return _common_name(_load(pem))


def hosts_of(pem: bytes) -> tuple[str, ...]:
    """Names and addresses of a server's certificate."""
    return _hosts(_load(pem))


def crl_of(pem: bytes, *, who: str = "crl") -> tuple[int, frozenset[int]]:
    """(the second from which it is void, revoked serial numbers) of a CRL.  Raises CertificateError."""
    from cryptography import x509

    if len(pem) > CRL_BYTES_MAX:
        raise CertificateError(f"at most {CRL_BYTES_MAX} bytes, found more", who=who)
    try:
        found = x509.load_pem_x509_crl(pem)
        until = found.next_update_utc
        return 0 if until is None else int(until.timestamp()), frozenset(each.serial_number for each in found)
    except ValueError as error:
        raise CertificateError(f"not a list of revoked certificates: {error}", who=who) from None


def signed_by(pem: bytes, public: bytes) -> bool:
    """Whether the (first) certificate carries a signature of this Ed25519 key."""
    return _holds(_load(pem), public)


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
        signed, hosts = _holds(leaf, ca_public), _hosts(leaf)
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
    if not _matches(host, hosts):
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


# --- parts ------------------------------------------------------------------------------------------------------------


def _certificate(
    signer: Ed25519PrivateKey,
    subject: x509.Name,
    issuer: x509.Name,
    public: Ed25519PublicKey,
    span: tuple[datetime.datetime, datetime.datetime],
    *,
    path_length: int | None = None,
    server: x509.SubjectAlternativeName | None = None,
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
        .serial_number(secrets.randbits(_SERIAL_BITS) | 1 << _SERIAL_BITS)  # its length tells nothing, and is never 0
        .not_valid_before(span[0])
        .not_valid_after(span[1])
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=path_length), critical=True)
        .add_extension(_usage(is_ca=is_ca), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if not is_ca:
        purpose = ExtendedKeyUsageOID.CLIENT_AUTH if server is None else ExtendedKeyUsageOID.SERVER_AUTH
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    if server is not None:
        builder = builder.add_extension(server, critical=False)
    return builder.sign(signer, None).public_bytes(Encoding.PEM)


def _usage(*, is_ca: bool) -> x509.KeyUsage:
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


def _issuer(seed: bytes, pem: bytes) -> tuple[Ed25519PrivateKey, x509.Certificate]:
    key, certificate = _private(seed), _load(pem)
    if _ed25519(certificate, "issuer") != _raw(key.public_key()):
        raise LocalError("the issuer's certificate is of another key than the issuer's")
    return key, certificate


def _private(seed: bytes) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if len(seed) != 32:
        raise LocalError(f"expected a seed of 32 bytes, found {len(seed)}")
    return Ed25519PrivateKey.from_private_bytes(seed)


def _public(public: bytes) -> Ed25519PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if len(public) != 32:
        raise LocalError(f"expected a public key of 32 bytes, found {len(public)}")
    return Ed25519PublicKey.from_public_bytes(public)


def _raw(public: Ed25519PublicKey) -> bytes:
    return public.public_bytes_raw()


def _span(now_s: int, lasts_s: float) -> tuple[datetime.datetime, datetime.datetime]:
    return _time(now_s - BEFORE_S), _time(now_s + int(lasts_s))


def _time(at_s: int) -> datetime.datetime:
    if not 0 <= at_s <= _TIME_S_MAX:
        raise LocalError(f"expected a time of 1970 to 9999 in seconds, found {at_s}")
    return datetime.datetime.fromtimestamp(at_s, datetime.UTC)


def _name(common: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _authority_name(fleet: str, duty: str, public: bytes) -> x509.Name:
    if not topics.is_fleet(fleet):
        raise LocalError(f"expected the name of a fleet, found {fleet!r:.80}")
    return _name(f"{fleet} {duty} {hashlib.sha256(public).hexdigest()[:16]}")


def _general_name(host: str) -> x509.GeneralName:
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


def _load(pem: bytes) -> x509.Certificate:
    from cryptography import x509

    if len(pem) > PEM_BYTES_MAX:
        raise CertificateError(f"certificate: at most {PEM_BYTES_MAX} bytes, found more")
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise CertificateError(f"certificate: not one: {error}") from None


def _ed25519(certificate: x509.Certificate, what: str) -> bytes:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"{what}: {error}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise CertificateError(f"{what}: expected an Ed25519 key, found {type(key).__name__}")
    return _raw(key)


def _holds(certificate: x509.Certificate, public: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.x509.oid import SignatureAlgorithmOID

    if certificate.signature_algorithm_oid != SignatureAlgorithmOID.ED25519:
        return False
    try:
        _public(public).verify(certificate.signature, certificate.tbs_certificate_bytes)
    except InvalidSignature:
        return False
    return True


def _common_name(certificate: x509.Certificate) -> str:
    from cryptography.x509.oid import NameOID

    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def _hosts(certificate: x509.Certificate) -> tuple[str, ...]:
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    except ValueError as error:
        raise CertificateError(f"certificate: {error}") from None
    dns = names.get_values_for_type(x509.DNSName)
    return (*dns, *map(str, names.get_values_for_type(x509.IPAddress)))


def _matches(host: str, hosts: Iterable[str]) -> bool:
    """No wildcards: a broker's certificate names each of its hosts."""
    try:
        wanted = str(ipaddress.ip_address(host))
    except ValueError:
        wanted = host.lower().removesuffix(".")
    return any(wanted == each.lower().removesuffix(".") for each in hosts)
