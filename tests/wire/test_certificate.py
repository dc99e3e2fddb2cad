"""Authorities and certificates: whose word they are, for which fleet, until when."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from edgeswarm.errors import LocalError
from edgeswarm.wire import codec, cose
from edgeswarm.wire.certificate import (
    Authority,
    Certificate,
    CertificateError,
    Signatory,
    open_authority,
    open_certificate,
    read_certificate,
    sign_authority,
    sign_certificate,
)

ROOT, ISSUER, OPERATOR, DEVICE = (Signatory.from_seed(bytes((number,)) * 32) for number in range(1, 5))
AUTHORITY = Authority("f", "issuer", "controller", ISSUER.public, 100, 200, ("neural.compute", "stream.publish:*"))
CERTIFICATE = Certificate("f", "d1", DEVICE.public, 1, 150, 250, ("worker",), ISSUER.kid)
ISSUERS = {ISSUER.kid: AUTHORITY}


def opened(data: bytes, **options: Any) -> Certificate:
    return open_certificate(data, **{"fleet": "f", "issuers": ISSUERS, **options})


def test_what_was_signed_is_what_is_read() -> None:
    signed = sign_authority(AUTHORITY, ROOT)
    assert open_authority(signed, fleet="f", root_public=ROOT.public) == AUTHORITY
    certificate = sign_certificate(CERTIFICATE, ISSUER)
    assert opened(certificate) == read_certificate(certificate) == CERTIFICATE


def test_only_the_root_appoints() -> None:
    with pytest.raises(CertificateError, match="no key of this id is known"):
        open_authority(sign_authority(AUTHORITY, ISSUER), fleet="f", root_public=ROOT.public)


def test_only_an_issuer_certifies() -> None:
    with pytest.raises(CertificateError, match="no key of this id is known"):
        opened(sign_certificate(CERTIFICATE, OPERATOR))
    operators = {ISSUER.kid: dataclasses.replace(AUTHORITY, duty="operator")}
    with pytest.raises(CertificateError, match="no key of this id is known"):
        opened(sign_certificate(CERTIFICATE, ISSUER), issuers=operators)


def test_a_certificate_of_another_fleet_is_refused() -> None:
    other = dataclasses.replace(CERTIFICATE, fleet="g")
    with pytest.raises(CertificateError, match="signature does not match"):
        opened(sign_certificate(other, ISSUER))
    with pytest.raises(CertificateError, match="signature does not match"):
        open_authority(
            sign_authority(dataclasses.replace(AUTHORITY, fleet="g"), ROOT), fleet="f", root_public=ROOT.public
        )


def test_the_trusted_floor_proves_that_a_certificate_has_expired_and_never_that_it_is_too_early() -> None:
    signed = sign_certificate(CERTIFICATE, ISSUER)
    for now_s in (None, 0, 150, 250):
        assert opened(signed, now_s=now_s).serial == 1
    with pytest.raises(CertificateError, match="d1: certificate 1 expired at 250, it is at least 251"):
        opened(signed, now_s=251)


def test_an_issuer_that_was_not_in_office_certifies_nothing() -> None:
    late = dataclasses.replace(CERTIFICATE, not_before_s=201)
    with pytest.raises(CertificateError, match="outside the time for which its issuer was appointed"):
        opened(sign_certificate(late, ISSUER))


@pytest.mark.parametrize(
    "change",
    [
        {"fleet": "F"},
        {"device": "a/b"},
        {"public": b"short"},
        {"serial": 0},
        {"not_before_s": 300},
        {"not_after_s": 1 << 41},
        {"roles": ()},
        {"roles": ("king",)},
        {"roles": ("worker", "worker")},
    ],
)
def test_what_is_out_of_bounds_is_neither_signed_nor_read(change: dict[str, Any]) -> None:
    wrong = dataclasses.replace(CERTIFICATE, **change)
    with pytest.raises(LocalError, match="certificate: expected"):
        sign_certificate(wrong, ISSUER)
    fields = [wrong.fleet, wrong.device, wrong.public, wrong.serial, wrong.not_before_s, wrong.not_after_s]
    payload = codec.dumps(["certificate", 1, *fields, list(wrong.roles)])
    data = cose.sign1_by(payload, sign=ISSUER.sign, kid=ISSUER.kid, external_aad=b"edgeswarm-certificate-1/f")
    with pytest.raises(CertificateError, match="expected"):
        opened(data)


def test_a_later_version_may_have_more_fields_and_ours_may_not() -> None:
    for version, more, fine in [(2, [1, "x"], True), (1, [1], False), (0, [], False)]:
        payload = codec.dumps(["certificate", version, "f", "d1", DEVICE.public, 1, 150, 250, ["worker"], *more])
        data = cose.sign1_by(payload, sign=ISSUER.sign, kid=ISSUER.kid, external_aad=b"edgeswarm-certificate-1/f")
        if fine:
            assert opened(data) == CERTIFICATE
        else:
            with pytest.raises(CertificateError, match="version"):
                opened(data)


def test_capabilities_are_sorted_each_once_and_few() -> None:
    for grants in (("b", "a"), ("a", "a"), ("",), ("x" * 97,), tuple(f"c{number:03}" for number in range(65))):
        with pytest.raises(LocalError, match="capabilities, sorted, each once"):
            sign_authority(dataclasses.replace(AUTHORITY, grants=grants), ROOT)


def test_what_an_authority_may_grant() -> None:
    operator = dataclasses.replace(AUTHORITY, duty="operator", grants=())
    assert AUTHORITY.may_grant("neural.compute") and AUTHORITY.may_grant("stream.publish:vitals")
    assert not AUTHORITY.may_grant("deploy") and not AUTHORITY.may_grant("neural.compute.more")
    assert operator.may_grant("deploy")


def test_bytes_from_outside_are_refused() -> None:
    signed = sign_certificate(CERTIFICATE, ISSUER)
    for data in (b"", b"\xd2", signed[:-1], signed + b"\0", b"\xd2" + bytes(2000), sign_authority(AUTHORITY, ROOT)):
        with pytest.raises(CertificateError):
            opened(data)
        if data[:1] != b"\xd2" or data != sign_authority(AUTHORITY, ROOT):
            with pytest.raises(CertificateError):
                read_certificate(data)
