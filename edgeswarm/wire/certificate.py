"""Who may speak for a fleet, and which key is a device's: two small signed statements.  COSE_Sign1 over CBOR.

Authority: the fleet root says that a key is its issuer's or an operator's (interfaces.md, Trust).
Certificate: the issuer says that a key is a device's; a rotation makes a new one with a higher serial.
Dates are seconds since 1970.  `now_s` is a trusted floor (the latest time that is known to have passed): it proves that
something has expired, never that something is not yet valid, so a device without a clock is not locked out.
Decides whether a statement is well formed and signed by the key that it must be signed by.  Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from edgeswarm.errors import CodecError, CoseError, LimitError, LocalError, RemoteError
from edgeswarm.limits import CAPABILITIES_MAX, CERTIFICATE_BYTES_MAX
from edgeswarm.wire import codec, cose, topics
from edgeswarm.wire.capability import covers

Role = Literal["coordinator", "worker", "reader", "administrator"]
ROLES: Final[tuple[Role, ...]] = ("coordinator", "worker", "reader", "administrator")
OPERATOR_ROLES: Final = frozenset({"coordinator", "administrator"})
"""Roles that only an operator may grant."""
Duty = Literal["issuer", "operator"]
CAPABILITY_CHARS_MAX: Final = 96  # "stream.publish:" and a topic of an application
NAME_CHARS_MAX: Final = 64  # of a person or a controller
SECONDS_MAX: Final = 1 << 40  # some 35,000 years

_AUTHORITY_AAD: Final = b"edgeswarm-authority-1/"
_CERTIFICATE_AAD: Final = b"edgeswarm-certificate-1/"


class CertificateError(RemoteError):
    """An authority or a certificate is malformed, not signed by whom it must be, of another fleet, or expired."""


@dataclass(frozen=True, slots=True)
class Signatory:
    """Somebody who signs: a public key, and a function that signs with the private one."""

    public: bytes
    sign: cose.Sign

    @property
    def kid(self) -> bytes:
        return cose.key_id(self.public)

    @classmethod
    def from_seed(cls, seed: bytes) -> Signatory:
        """seed: 32 bytes, RFC 8032 5.1.5."""
        return cls(cose.public_key(seed), cose.signer(seed))


@dataclass(frozen=True, slots=True)
class Authority:
    """The root's word that this key is an issuer's or an operator's.

    grants: capabilities that an issuer may give, "*" at the end for any that start so; an operator may give all.
    """

    fleet: str
    duty: Duty
    name: str
    public: bytes
    not_before_s: int
    not_after_s: int
    grants: tuple[str, ...] = ()

    @property
    def kid(self) -> bytes:
        return cose.key_id(self.public)

    def valid_at(self, at_s: int) -> bool:
        return self.not_before_s <= at_s <= self.not_after_s

    def may_grant(self, capability: str) -> bool:
        return self.duty == "operator" or any(covers(grant, capability) for grant in self.grants)


@dataclass(frozen=True, slots=True)
class Certificate:
    """The issuer's word that this key is this device's.  serial: counts up with each rotation of the device."""

    fleet: str
    device: str
    public: bytes
    serial: int
    not_before_s: int
    not_after_s: int
    roles: tuple[str, ...]
    issuer: bytes = b""  # key id of the authority that signed it; set when read

    def expired(self, now_s: int) -> bool:
        """now_s: trusted floor."""
        return now_s > self.not_after_s


def sign_authority(authority: Authority, root: Signatory) -> bytes:
    """The signed form.  Raises LocalError when a field is out of its bounds."""
    tree = [
        "authority",
        1,
        authority.fleet,
        authority.duty,
        authority.name,
        authority.public,
        authority.not_before_s,
        authority.not_after_s,
        list(authority.grants),
    ]
    _authority(tree, "")
    aad = _AUTHORITY_AAD + authority.fleet.encode()
    return cose.sign1_by(codec.dumps(tree), sign=root.sign, kid=root.kid, external_aad=aad)


def open_authority(data: bytes, *, fleet: str, root_public: bytes, verify: cose.Verify = cose.check) -> Authority:
    """The authority in `data`, once the root's signature holds.  Raises CertificateError."""
    root_kid = cose.key_id(root_public)
    payload, _ = _open(
        data,
        lambda kid: root_public if kid == root_kid else None,
        aad=_AUTHORITY_AAD + fleet.encode(),
        what="authority",
        verify=verify,
    )
    authority = _authority(_tree(payload, "authority"), "authority")
    if authority.fleet != fleet:
        raise CertificateError(f"of fleet {authority.fleet}, expected {fleet}", who=f"authority {authority.name}")
    return authority


def sign_certificate(certificate: Certificate, issuer: Signatory) -> bytes:
    """The signed form.  Raises LocalError when a field is out of its bounds."""
    tree = [
        "certificate",
        1,
        certificate.fleet,
        certificate.device,
        certificate.public,
        certificate.serial,
        certificate.not_before_s,
        certificate.not_after_s,
        list(certificate.roles),
    ]
    _certificate(tree, "", b"")
    aad = _CERTIFICATE_AAD + certificate.fleet.encode()
    return cose.sign1_by(codec.dumps(tree), sign=issuer.sign, kid=issuer.kid, external_aad=aad)


def read_certificate(data: bytes) -> Certificate:
    """What a certificate says, its signature *not* checked.  Raises CertificateError."""
    try:
        parts = cose.parse1(data, who="certificate", bytes_max=CERTIFICATE_BYTES_MAX)
    except (CodecError, LimitError) as error:
        raise CertificateError(str(error)) from None
    return _certificate(_tree(parts.payload or b"", "certificate"), "certificate", parts.kid)


def open_certificate(
    data: bytes,
    *,
    fleet: str,
    issuers: Mapping[bytes, Authority],
    now_s: int | None = None,
    verify: cose.Verify = cose.check,
) -> Certificate:
    """The certificate in `data`, once an issuer's signature holds.

    issuers: key id -> authority.  now_s: trusted floor; None: dates are not judged (join with a pin, or offline).
    Raises CertificateError.
    """

    def lookup(kid: bytes) -> bytes | None:
        authority = issuers.get(kid)
        return authority.public if authority is not None and authority.duty == "issuer" else None

    payload, kid = _open(data, lookup, aad=_CERTIFICATE_AAD + fleet.encode(), what="certificate", verify=verify)
    certificate = _certificate(_tree(payload, "certificate"), "certificate", kid)
    if certificate.fleet != fleet:
        raise CertificateError(f"of fleet {certificate.fleet}, expected {fleet}", who=certificate.device)
    if not issuers[kid].valid_at(certificate.not_before_s):
        raise CertificateError("starts outside the time for which its issuer was appointed", who=certificate.device)
    if now_s is not None and certificate.expired(now_s):
        raise CertificateError(
            f"certificate {certificate.serial} expired at {certificate.not_after_s}, it is at least {now_s}",
            who=certificate.device,
        )
    return certificate


# --- shapes ---------------------------------------------------------------------------------------------------------


def _open(
    data: bytes, lookup: Callable[[bytes], bytes | None], *, aad: bytes, what: str, verify: cose.Verify
) -> tuple[bytes, bytes]:
    """Payload and key id."""
    try:
        found = cose.verify1(data, lookup=lookup, external_aad=aad, bytes_max=CERTIFICATE_BYTES_MAX, verify=verify)
    except (CoseError, LimitError) as error:
        raise CertificateError(str(error), who=what) from None
    return found.payload, found.kid


def _tree(payload: bytes, what: str) -> list[object]:
    try:
        tree = codec.loads(payload, who=what, bytes_max=CERTIFICATE_BYTES_MAX)
    except (CodecError, LimitError) as error:
        raise CertificateError(str(error)) from None
    if not isinstance(tree, list):
        raise CertificateError("expected an array", who=what)
    return list(tree)


def _authority(tree: list[object], who: str) -> Authority:
    match tree:
        case ["authority", int(version), str(fleet), ("issuer" | "operator") as duty, str(name), bytes(public), *rest]:
            match rest:
                case [int(start), int(end), list(grants), *more]:
                    _common(fleet, public, start, end, version, more, who)
                    if not 0 < len(name) <= NAME_CHARS_MAX or "\0" in name:
                        raise _wrong("a name of 1 to 64 characters", who)
                    return Authority(fleet, duty, name, public, start, end, capabilities_of(grants, who))
    raise _wrong("authority: [kind, version, fleet, duty, name, public key, from, to, grants]", who)


def _certificate(tree: list[object], who: str, kid: bytes) -> Certificate:
    match tree:
        case ["certificate", int(version), str(fleet), str(device), bytes(public), int(serial), *rest]:
            match rest:
                case [int(start), int(end), list(roles), *more]:
                    _common(fleet, public, start, end, version, more, who)
                    if not topics.is_device(device) or not 0 < serial < 1 << 64:
                        raise _wrong("a device id and a serial from 1", who)
                    if not 0 < len(roles) <= len(ROLES) or len(set(map(str, roles)) & set(ROLES)) != len(roles):
                        raise _wrong(f"roles, each once, of {', '.join(ROLES)}", who)
                    return Certificate(fleet, device, public, serial, start, end, tuple(map(str, roles)), kid)
    raise _wrong("certificate: [kind, version, fleet, device, public key, serial, from, to, roles]", who)


def _common(fleet: str, public: bytes, start: int, end: int, version: int, more: list[object], who: str) -> None:
    if isinstance(version, bool) or version < 1 or (more and version == 1):
        raise _wrong(f"version 1 without more fields, or a later one; version {version} has {len(more)} more", who)
    if not topics.is_fleet(fleet):
        raise _wrong("a fleet's name", who)
    if len(public) != cose.PUBLIC_BYTES:
        raise _wrong(f"a public key of {cose.PUBLIC_BYTES} bytes", who)
    if not 0 <= start <= end <= SECONDS_MAX:
        raise _wrong("dates in order", who)


def capabilities_of(items: list[object], who: str) -> tuple[str, ...]:
    """A list of capabilities, sorted and each once.  Raises CertificateError (LocalError when who is empty)."""
    found = tuple(item for item in items if isinstance(item, str) and 0 < len(item) <= CAPABILITY_CHARS_MAX)
    if len(found) != len(items) or len(found) > CAPABILITIES_MAX or list(found) != sorted(set(found)):
        raise _wrong(f"at most {CAPABILITIES_MAX} capabilities, sorted, each once", who)
    return found


def _wrong(expected: str, who: str) -> RemoteError | LocalError:
    """who: empty when it is we who made it."""
    return CertificateError(f"expected {expected}", who=who) if who else LocalError(f"certificate: expected {expected}")
