"""Certificates of a fleet: OpenSSL takes what is right, and refuses what is not; so does `check_leaf`."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from edgeswarm.drivers.pki import x509
from edgeswarm.drivers.pki.parts import is_host_name
from edgeswarm.errors import LocalError
from edgeswarm.wire.certificate import CertificateError, Signatory

NOW_S = 1_795_000_000
DAY_S = 86_400


class Pki:
    """One fleet's keys and certificates."""

    def __init__(self, fleet: str = "plant") -> None:
        self.root, self.issuer, self.server, self.device = (os.urandom(32) for _ in range(4))
        self.root_pem = x509.make_root(self.root, fleet, NOW_S)
        self.issuer_pem = x509.make_issuer(self.root, self.public(self.issuer), fleet, NOW_S)
        self.server_pem = self.make_server(["broker.plant.example", "10.0.0.7", "::1"])
        self.device_pem = self.make_device("press-1")

    def make_server(self, hosts: list[str]) -> bytes:
        return x509.make_server(self.issuer, self.issuer_pem, self.public(self.server), hosts, NOW_S)

    def make_device(self, device: str, *, begins_s: int = NOW_S - 60, ends_s: int = NOW_S + 30 * DAY_S) -> bytes:
        return x509.make_device(self.issuer, self.issuer_pem, device, self.public(self.device), begins_s, ends_s)

    @staticmethod
    def public(seed: bytes) -> bytes:
        return Signatory.from_seed(seed).public

    @property
    def issuer_public(self) -> bytes:
        return self.public(self.issuer)


@pytest.fixture(scope="module")
def pki() -> Pki:
    return Pki()


def der(pem: bytes) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pem.decode())


def openssl(tmp_path: Path, pki: Pki, leaf: bytes, *arguments: str, at_s: int = NOW_S + 60, crl: bytes = b"") -> str:
    """What `openssl verify -x509_strict` says of a chain; "OK" is good."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl is not installed")
    for name, data in (("root", pki.root_pem), ("issuer", pki.issuer_pem), ("leaf", leaf), ("crl", crl)):
        (tmp_path / name).write_bytes(data)
    command = [program, "verify", "-x509_strict", "-attime", str(at_s), "-CAfile", "root", "-untrusted", "issuer"]
    if crl:
        command += ["-crl_check", "-CRLfile", "crl"]
    done = subprocess.run([*command, *arguments, "leaf"], cwd=tmp_path, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


# --- what OpenSSL says ------------------------------------------------------------------------------------------------


def test_chain_of_server_and_device_is_right_for_their_purpose_and_no_other(pki: Pki, tmp_path: Path) -> None:
    for leaf, good, bad in ((pki.server_pem, "sslserver", "sslclient"), (pki.device_pem, "sslclient", "sslserver")):
        assert "OK" in openssl(tmp_path, pki, leaf, "-purpose", good)
        assert "unsuitable certificate purpose" in openssl(tmp_path, pki, leaf, "-purpose", bad)


def test_certificates_end(pki: Pki, tmp_path: Path) -> None:
    assert "has expired" in openssl(tmp_path, pki, pki.device_pem, at_s=NOW_S + 31 * DAY_S)
    assert "OK" in openssl(tmp_path, pki, pki.server_pem, at_s=NOW_S + 364 * DAY_S)
    assert "has expired" in openssl(tmp_path, pki, pki.server_pem, at_s=NOW_S + 367 * DAY_S)
    assert x509.not_after_of(pki.issuer_pem) - NOW_S == 2 * x509.YEAR_S
    assert x509.not_after_of(pki.root_pem) - NOW_S == 20 * x509.YEAR_S


def test_issuer_cannot_make_another_issuer(pki: Pki, tmp_path: Path) -> None:
    """Path length 0: a leaf below an authority below the issuer is refused."""
    sub = os.urandom(32)
    sub_pem = x509.make_issuer(pki.issuer, pki.public(sub), "plant", NOW_S)
    forged = x509.make_device(sub, sub_pem, "press-1", pki.public(pki.device), NOW_S, NOW_S + DAY_S)
    (tmp_path / "more").write_bytes(sub_pem)
    assert "OK" not in openssl(tmp_path, pki, forged, "-untrusted", "more").replace("\n", " ").split(" error")[0]


def test_device_cannot_sign_for_another(pki: Pki, tmp_path: Path) -> None:
    forged = x509.make_device(pki.device, pki.device_pem, "press-2", pki.public(pki.server), NOW_S, NOW_S + DAY_S)
    (tmp_path / "more").write_bytes(pki.device_pem)
    assert "verification failed" in openssl(tmp_path, pki, forged, "-untrusted", "more")


def test_revoked_certificate_is_refused_and_others_are_not(pki: Pki, tmp_path: Path) -> None:
    other = pki.make_device("press-2")
    crl = x509.make_crl(pki.issuer, pki.issuer_pem, [(x509.serial_of(pki.device_pem), NOW_S)], NOW_S)
    assert "certificate revoked" in openssl(tmp_path, pki, pki.device_pem, crl=crl)
    assert "OK" in openssl(tmp_path, pki, other, crl=crl)
    empty = x509.make_crl(pki.issuer, pki.issuer_pem, [], NOW_S)
    assert "OK" in openssl(tmp_path, pki, pki.device_pem, crl=empty)
    assert "CRL has expired" in openssl(tmp_path, pki, other, crl=x509.make_crl(pki.issuer, pki.issuer_pem, [], 0))


def test_revocation_list_holds_for_ten_years_and_names_who_signed_it(pki: Pki) -> None:
    revoked = {x509.serial_of(pki.device_pem): NOW_S - 5}
    pem = x509.make_crl(pki.issuer, pki.issuer_pem, revoked.items(), NOW_S)
    first, second = x509.read_crls(pem + x509.make_crl(pki.root, pki.root_pem, [], NOW_S))
    assert first.revoked == revoked and first.until_s - NOW_S == 10 * x509.YEAR_S
    assert first.signed_by(pki.issuer_public) and not first.signed_by(pki.public(pki.root))
    assert second.signed_by(pki.public(pki.root)) and second.revoked == {}


# --- reading ----------------------------------------------------------------------------------------------------------


def test_what_is_read_is_what_was_written(pki: Pki) -> None:
    assert x509.name_of(pki.device_pem) == "press-1"
    assert x509.public_of(pki.device_pem) == pki.public(pki.device)
    assert (x509.not_before_of(pki.device_pem), x509.not_after_of(pki.device_pem)) == (NOW_S - 60, NOW_S + 30 * DAY_S)
    assert x509.hosts_of(pki.server_pem) == ("broker.plant.example", "10.0.0.7", "::1")
    assert x509.public_of_key(x509.pkcs8_pem(pki.device)) == pki.public(pki.device)
    both = x509.chain(pki.device_pem.rstrip(), pki.issuer_pem)
    assert x509.split(both) == [pki.device_pem, pki.issuer_pem]
    assert x509.signed_by(both, pki.issuer_public) and not x509.signed_by(both, pki.public(pki.root))


def test_serial_numbers_are_random_and_of_64_to_159_bits(pki: Pki) -> None:
    serials = {x509.serial_of(pki.make_device("press-1")) for _ in range(50)}
    assert len(serials) == 50 and all(64 <= serial.bit_length() <= 159 for serial in serials)


def test_authorities_of_one_fleet_have_names_of_their_own() -> None:
    assert x509.name_of(Pki().issuer_pem) != x509.name_of(Pki().issuer_pem)


@pytest.mark.parametrize(
    "data", [b"", b"junk", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"x" * 70_000]
)
def test_bytes_that_are_no_certificate_are_refused(data: bytes) -> None:
    for read in (x509.serial_of, x509.not_after_of, x509.public_of, x509.name_of, x509.hosts_of, x509.split):
        with pytest.raises(CertificateError):
            read(data)
    with pytest.raises(CertificateError):
        x509.public_of_key(data)
    with pytest.raises(CertificateError):
        x509.check_leaf(data, bytes(32), "h", None)


def test_bytes_that_are_no_revocation_list_are_refused_or_empty() -> None:
    assert x509.read_crls(b"") == [] == x509.read_crls(b"junk")
    for data in (b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", b"x" * (9 << 20)):
        with pytest.raises(CertificateError):
            x509.read_crls(data)


# --- the pin check of a join ------------------------------------------------------------------------------------------


def test_broker_of_the_fleet_passes_under_each_of_its_names(pki: Pki) -> None:
    for host in ("broker.plant.example", "BROKER.plant.example", "broker.plant.example.", "10.0.0.7", "::1", "0:0::1"):
        x509.check_leaf(der(pki.server_pem), pki.issuer_public, host, NOW_S)


def test_broker_of_another_name_is_refused(pki: Pki) -> None:
    for host in ("plant.example", "x.broker.plant.example", "10.0.0.70", "*", "", "::2"):
        with pytest.raises(CertificateError, match=r"its certificate is for broker\.plant"):
            x509.check_leaf(der(pki.server_pem), pki.issuer_public, host, NOW_S)


def test_broker_of_another_fleet_with_the_same_names_is_refused(pki: Pki) -> None:
    with pytest.raises(CertificateError, match="not signed by this fleet's issuer"):
        x509.check_leaf(der(Pki().server_pem), pki.issuer_public, "10.0.0.7", NOW_S)


def test_device_or_issuer_that_poses_as_the_broker_is_refused(pki: Pki) -> None:
    with pytest.raises(CertificateError, match="not one of a server"):
        x509.check_leaf(der(pki.make_device("10")), pki.issuer_public, "10", NOW_S)
    root_public = pki.public(pki.root)
    with pytest.raises(CertificateError, match="none of a fleet's broker"):
        x509.check_leaf(der(pki.issuer_pem), root_public, "10.0.0.7", NOW_S)


def test_one_changed_bit_of_the_certificate_is_noticed(pki: Pki) -> None:
    good = der(pki.server_pem)
    for at in range(0, len(good), 7):
        bad = good[:at] + bytes((good[at] ^ 1,)) + good[at + 1 :]
        with pytest.raises(CertificateError):
            x509.check_leaf(bad, pki.issuer_public, "10.0.0.7", NOW_S)


def test_dates_count_only_where_the_clock_is_believed(pki: Pki) -> None:
    leaf = der(pki.server_pem)
    with pytest.raises(CertificateError, match="ended at 2027"):
        x509.check_leaf(leaf, pki.issuer_public, "::1", NOW_S + 400 * DAY_S)
    with pytest.raises(CertificateError, match="clock"):
        x509.check_leaf(leaf, pki.issuer_public, "::1", 0)
    x509.check_leaf(leaf, pki.issuer_public, "::1", None)


def test_certificate_with_another_kind_of_key_is_refused(pki: Pki, tmp_path: Path) -> None:
    from tls_files import make

    files = make(tmp_path, "10.0.0.7")
    with pytest.raises(CertificateError):
        x509.check_leaf(der(files.certificate.read_bytes()), pki.issuer_public, "10.0.0.7", NOW_S)
    with pytest.raises(CertificateError, match="Ed25519"):
        x509.public_of(files.certificate.read_bytes())
    with pytest.raises(CertificateError, match="Ed25519"):
        x509.public_of_key(files.key.read_bytes())


# --- arguments --------------------------------------------------------------------------------------------------------


def test_arguments_out_of_bounds_are_refused(pki: Pki) -> None:
    public = pki.public(pki.server)
    for hosts in ([], ["a b"], ["*.plant.example"], ["-x"], ["x" * 64], ["h"] * 33, [""], ["a\nb"], ["\u00fc.example"]):
        with pytest.raises(LocalError):
            pki.make_server(hosts)
    for device in ("", "A", "a/b", "x" * 64, "+", "#"):
        with pytest.raises(LocalError, match="device id"):
            pki.make_device(device)
    for begins_s, ends_s in ((NOW_S, NOW_S), (-1, NOW_S), (NOW_S, 1 << 50)):
        with pytest.raises(LocalError):
            pki.make_device("d", begins_s=begins_s, ends_s=ends_s)
    with pytest.raises(LocalError, match="another key"):
        x509.make_device(pki.root, pki.issuer_pem, "d", public, NOW_S, NOW_S + 1)
    with pytest.raises(LocalError, match="32 bytes"):
        x509.make_root(b"short", "plant", NOW_S)
    with pytest.raises(LocalError, match="name of a fleet"):
        x509.make_root(pki.root, "Plant 7", NOW_S)
    with pytest.raises(LocalError, match="serial"):
        x509.make_crl(pki.issuer, pki.issuer_pem, [(0, NOW_S)], NOW_S)


def test_host_names_are_those_of_rfc_1123() -> None:
    assert all(map(is_host_name, ("a", "a.b", "broker-1.plant.example", "x" * 63)))
    assert not any(map(is_host_name, ("", ".", "a..b", "a_b", "-a", "a-", "*.a", "a" * 64, "a b", "\u0661.b")))
