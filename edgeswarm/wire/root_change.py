"""The fleet's root changes: "root N+1 follows root N of fleet F", signed by both.  COSE_Sign1 in COSE_Sign1, over CBOR.

The new root signs what follows (it has the key), the old root signs that again (it agrees).  Rosters carry all changes
in order: who holds any root of the row can walk to the newest, and, since each root names the one before it, back.
Beside the keys stand the X.509 certificates of the new root, and of the issuer by it, for TLS.
Decides whether a change is well formed and signed by both, and where a row of them leads.  Pure.
Invariants: open_change(sign_change(c)) == c; a row has every root once, numbered from 2; every field is bounded.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from edgeswarm.errors import CodecError, LimitError, LocalError, RemoteError
from edgeswarm.limits import CELL_ROOTS_MAX, CERTIFICATE_BYTES_MAX, ROOT_ROTATION_BYTES_MAX
from edgeswarm.wire import codec, cose, topics
from edgeswarm.wire.certificate import SECONDS_MAX, CertificateError, Signatory

_OLD_AAD: Final = b"edgeswarm-root-change-1/"
_NEW_AAD: Final = b"edgeswarm-root-change-key-1/"
_PEM_LINE: Final = 64


@dataclass(frozen=True, slots=True)
class RootChange:
    """number: of the new root, the first has 1.  old, new: Ed25519 public keys.

    root_certificate, issuer_certificate: DER, of the new root by itself, and of the issuer's key by the new root; empty
    in a fleet without TLS.
    """

    fleet: str
    number: int
    old: bytes
    new: bytes
    created_s: int
    root_certificate: bytes = field(default=b"", repr=False)
    issuer_certificate: bytes = field(default=b"", repr=False)

    def authorities(self) -> tuple[bytes, ...]:
        """What TLS trusts after it, PEM: the root's certificate, and the issuer's.

        The issuer's is among them so that a chain which ends in the old root is verified by the new one, too: OpenSSL
        looks for who signed a certificate among what it trusts first.
        """
        return tuple(pem(der) for der in (self.root_certificate, self.issuer_certificate) if der)


def sign_change(change: RootChange, *, old: Signatory, new: Signatory) -> bytes:
    """The signed form.  Raises LocalError when a field is out of its bounds, or these are not its keys."""
    if (old.public, new.public) != (change.old, change.new):
        raise LocalError("root change: expected to be signed by the keys that it names")
    tree = [
        "root",
        1,
        change.fleet,
        change.number,
        change.old,
        change.new,
        change.created_s,
        change.root_certificate,
        change.issuer_certificate,
    ]
    _change(tree, "")
    fleet = change.fleet.encode()
    inner = cose.sign1_by(codec.dumps(tree), sign=new.sign, kid=new.kid, external_aad=_NEW_AAD + fleet)
    data = cose.sign1_by(inner, sign=old.sign, kid=old.kid, external_aad=_OLD_AAD + fleet)
    if len(data) > ROOT_ROTATION_BYTES_MAX:
        raise LimitError(f"root change: at most {ROOT_ROTATION_BYTES_MAX} bytes, found {len(data)}")
    return data


def open_change(data: bytes, *, fleet: str, verify: cose.Verify = cose.check) -> RootChange:
    """The change in `data`, once both roots that it names have signed it.  Raises CertificateError.

    Whether `old` is a root that the caller trusts is `newest`'s to say.
    """
    who = "root change"
    try:
        inner = cose.parse1(data, who=who, bytes_max=ROOT_ROTATION_BYTES_MAX).payload or b""
        tree = codec.loads(cose.parse1(inner, who=who, bytes_max=ROOT_ROTATION_BYTES_MAX).payload or b"", who=who)
        change = _change(tree, who)
        name = change.fleet.encode()
        for what, part, public, aad in (
            ("the root before", data, change.old, _OLD_AAD),
            ("the new root", inner, change.new, _NEW_AAD),
        ):
            kid = cose.key_id(public)
            cose.verify1(
                part,
                lookup=lambda found, kid=kid, public=public: public if found == kid else None,  # type: ignore[misc]
                external_aad=aad + name,
                who=f"{who}, signature of {what}",
                verify=verify,
            )
    except (CodecError, LimitError) as error:
        raise CertificateError(str(error)) from None
    if change.fleet != fleet:
        raise CertificateError(f"of fleet {change.fleet}, expected {fleet}", who=who)
    return change


def open_row(items: Sequence[bytes], *, fleet: str, verify: cose.Verify = cose.check) -> tuple[RootChange, ...]:
    """Changes that follow each other from the first root on.  Raises CertificateError where they do not."""
    if len(items) > CELL_ROOTS_MAX:
        raise CertificateError(f"at most {CELL_ROOTS_MAX} changes of the root, found {len(items)}")
    row = tuple(open_change(item, fleet=fleet, verify=verify) for item in items)
    for number, change in enumerate(row, 2):
        if change.number != number:
            raise CertificateError(f"root change: expected root {number}, found root {change.number}")
        if number > 2 and change.old != row[number - 3].new:
            raise CertificateError(f"root change: root {number} does not follow root {number - 1} of this row")
    publics = publics_of(row)
    if len(set(publics)) < len(publics):
        raise CertificateError("root change: a root that was replaced comes back")
    return row


def publics_of(row: Sequence[RootChange]) -> tuple[bytes, ...]:
    """The roots of a row, oldest first; none where there is no change."""
    return () if not row else (row[0].old, *(change.new for change in row))


def newest(items: Sequence[bytes], root_public: bytes, *, fleet: str, verify: cose.Verify = cose.check) -> bytes:
    """The newest root for who trusts `root_public`: that, or the one at the end of the row.

    Raises CertificateError where the row does not hold, or `root_public` is not in it.
    """
    publics = publics_of(open_row(items, fleet=fleet, verify=verify))
    if not publics:
        return root_public
    if root_public not in publics:
        raise CertificateError(
            f"root change: of other roots than {cose.key_id(root_public).decode()}, which is trusted"
        )
    return publics[-1]


def linked(items: Sequence[bytes], root_public: bytes, *, fleet: str) -> tuple[bytes, ...]:
    """The changes among `items`, as they stand in a log, that follow from its first root on; of two that follow one
    root the first counts.  root_public: any root of the row.  What is none, or follows nothing, is passed over.
    """
    found: list[tuple[bytes, RootChange]] = []
    for item in items[:CELL_ROOTS_MAX]:
        try:
            change = open_change(item, fleet=fleet)
            open_row([*(data for data, _ in found), item], fleet=fleet)
        except CertificateError:
            continue
        found.append((item, change))
    if found and root_public not in publics_of([change for _, change in found]):
        return ()
    return tuple(data for data, _ in found)


def pem(der: bytes) -> bytes:
    """A certificate as TLS libraries read it."""
    text = base64.b64encode(der)
    lines = [text[at : at + _PEM_LINE] for at in range(0, len(text), _PEM_LINE)]
    return b"-----BEGIN CERTIFICATE-----\n" + b"\n".join(lines) + b"\n-----END CERTIFICATE-----\n"


# --- shape ----------------------------------------------------------------------------------------------------------


def _change(tree: object, who: str) -> RootChange:
    match tree:
        case ["root", 1, str(fleet), int(number), bytes(old), bytes(new), int(created), bytes(root), bytes(issuer)]:
            pass
        case _:
            raise _wrong("[root, 1, fleet, number, old key, new key, date, root's certificate, issuer's]", who)
    if isinstance(number, bool) or isinstance(created, bool) or not 0 <= created <= SECONDS_MAX:
        raise _wrong("a number and a date", who)
    if not topics.is_fleet(fleet) or not 2 <= number <= CELL_ROOTS_MAX + 1:
        raise _wrong(f"a fleet's name and a root's number of 2 to {CELL_ROOTS_MAX + 1}", who)
    if len(old) != cose.PUBLIC_BYTES or len(new) != cose.PUBLIC_BYTES or old == new:
        raise _wrong(f"two public keys of {cose.PUBLIC_BYTES} bytes", who)
    if max(len(root), len(issuer)) > CERTIFICATE_BYTES_MAX or bool(root) != bool(issuer):
        raise _wrong(f"two certificates of at most {CERTIFICATE_BYTES_MAX} bytes, or none", who)
    return RootChange(fleet, number, old, new, created, root, issuer)


def _wrong(expected: str, who: str) -> RemoteError | LocalError:
    """who: empty when it is we who made it."""
    return CertificateError(f"expected {expected}", who=who) if who else LocalError(f"root change: expected {expected}")
