"""The controller's hand on a real mosquitto: who is revoked goes and stays away, nobody else is locked out."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hardened import Hardened, make

from edgeswarm.app.fleet import broker_files, broker_guard
from edgeswarm.app.fleet.broker_guard import BrokerError
from edgeswarm.drivers import broker_fleet
from edgeswarm.drivers.broker_fleet_client import RefusedError
from edgeswarm.drivers.files import write_whole
from edgeswarm.drivers.pki import x509
from edgeswarm.errors import ConfigError, LocalError
from edgeswarm.wire.certificate import Role, Signatory

ROLES: dict[str, Role] = {"c1": "coordinator", "w1": "worker", "w2": "worker"}


@pytest.fixture
def hardened(tmp_path: Path) -> Hardened:
    return make(tmp_path, ROLES)


@pytest.fixture
async def running(hardened: Hardened) -> AsyncIterator[Hardened]:
    async with hardened.broker():
        yield hardened


async def off(function: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.to_thread(function, *arguments)


def refused(hardened: Hardened, device: str, chain: bytes = b"") -> str:
    """How the broker refuses this device; fails where it does not."""
    with pytest.raises(RefusedError) as caught:
        hardened.session(device, chain).close()
    return str(caught.value)


async def until(look: Callable[[], Any], what: str) -> None:
    for _ in range(600):
        if await off(look):
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"did not happen: {what}")


def works(hardened: Hardened, device: str, chain: bytes = b"") -> bool:
    try:
        with hardened.session(device, chain) as session:
            return session.publish(hardened.topics.status(device), b"x") in (0, 16)
    except RefusedError:
        return False


# --- revoking ---------------------------------------------------------------------------------------------------------


async def test_revoked_device_loses_every_session_and_cannot_come_back(running: Hardened) -> None:
    """It holds two connections, under client ids that nobody guesses; the certificate is one.  Another device's
    connections live on."""
    chain, guard = running.certificate("w1"), running.guard()
    await guard.start()
    try:
        control, bulk = await off(running.session, "w1", chain), await off(running.session, "w1", chain)
        other = await off(running.session, "w2")
        running.roster = running.without("w1")
        await guard.revoke([(x509.serial_of(chain), int(time.time()))])
        assert await off(control.publish, running.topics.status("w1"), b"x") == 135  # before the session ends already
        assert await guard.kick("w1")
        assert "administrative" in str(await off(control.ended, 5)) and "administrative" in str(
            await off(bulk.ended, 5)
        )
        assert await off(refused, running, "w1", chain)
        assert await off(other.ended, 0.1) is None
        for session in (control, bulk, other):
            session.close()
    finally:
        await guard.close()


async def test_device_out_of_the_roster_can_do_nothing_with_a_valid_certificate(
    running: Hardened,
) -> None:
    guard = running.guard()
    await off(guard.write, running.without("w1"))

    def tries() -> list[int]:
        with running.session("w1") as session:
            topics = running.topics
            return [
                session.publish(topic, b"x") for topic in (topics.status("w1"), topics.inbox("c1"), topics.gone("w1"))
            ]

    assert await off(tries) == [135, 135, 135]


async def test_revocation_survives_a_restart_of_broker_and_controller(hardened: Hardened) -> None:
    chain = hardened.certificate("w1")
    hardened.guard().write(revoked=[(x509.serial_of(chain), int(time.time()))])
    async with hardened.broker():
        assert await off(refused, hardened, "w1", chain)
    guard = hardened.guard()  # knows nothing but what is on disk
    async with hardened.broker():
        await guard.start()
        try:
            assert await off(refused, hardened, "w1", chain)
            assert await off(works, hardened, "w1")  # a new certificate of the same device, e.g. after it joined again
        finally:
            await guard.close()


async def test_session_that_could_not_be_ended_is_ended_once_the_broker_answers(
    running: Hardened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker hangs while the device is revoked; the guard says so and does it later, also after its own restart."""
    monkeypatch.setattr(broker_guard, "BROKER_PROBE_S", 0.3)
    guard = running.guard()
    session = await off(running.session, "w1")
    pid = int(running.files.pid.read_text())
    os.kill(pid, signal.SIGSTOP)
    try:
        assert not await guard.kick("w1")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert running.said("broker_kick_failed")
    monkeypatch.undo()
    later = running.guard()
    assert await later.look()
    assert "administrative" in str(await off(session.ended, 5))
    assert running.guard()._pending == {}
    session.close()


async def test_session_of_a_broker_that_has_gone_is_not_waited_for(hardened: Hardened) -> None:
    guard = hardened.guard()
    assert await guard.kick("w1")  # nothing runs: there is no session
    async with hardened.broker():
        session = await off(hardened.session, "w1")
        assert await guard.look()
        assert await off(session.ended, 0.2) is None  # it came after the revocation, by leave of the lists
        session.close()
    assert guard._pending == {}


async def test_device_id_that_is_none_is_not_told_to_the_broker(hardened: Hardened) -> None:
    for bad in ("", "a/b", '","password":"', "x" * 64, "$SYS"):
        with pytest.raises(LocalError, match="expected a device id"):
            await hardened.guard().kick(bad)


# --- nobody is locked out ---------------------------------------------------------------------------------------------


def crl_of(hardened: Hardened, made_s: int, days: float) -> bytes:
    entries = [(broker_files.PROBE_SERIAL, 0)]
    return x509.make_crl(hardened.issuer.key.seed, hardened.issuer.pem, entries, made_s, days=days)


async def test_expired_revocation_list_locks_everybody_out_until_the_guard_starts(hardened: Hardened) -> None:
    long_ago = int(time.time()) - 400 * 86_400
    (hardened.files / "crl.pem").write_bytes(crl_of(hardened, long_ago, 30))
    async with hardened.broker():
        assert await off(refused, hardened, "w1")  # mosquitto, left alone
        guard = hardened.guard()
        await guard.start()
        try:
            await until(lambda: works(hardened, "w1"), "the list is valid again")
        finally:
            await guard.close()


def test_revocation_list_is_signed_anew_after_a_month_and_never_later_than_a_year_before_it_ends(
    hardened: Hardened,
) -> None:
    now_s = int(time.time())
    revoked = [(1 << 128 | 7, now_s)]
    hardened.guard().write(revoked=revoked)
    assert hardened.guard().write() == set()
    later = hardened.guard(clock=lambda: now_s + 31 * 86_400.0)
    assert later.write() == {"crl.pem"}
    (again,) = x509.read_crls((hardened.files / "crl.pem").read_bytes())
    assert 1 << 128 | 7 in again.revoked and again.until_s > now_s + 9 * 365 * 86_400
    (hardened.files / "crl.pem").write_bytes(crl_of(hardened, now_s, 300))
    assert hardened.guard().write() == {"crl.pem"}


def test_damaged_revocation_list_is_replaced(hardened: Hardened) -> None:
    path = hardened.files / "crl.pem"
    for damage in (b"", b"junk", path.read_bytes()[:200], path.read_bytes().replace(b"MI", b"NI", 1)):
        path.write_bytes(damage)
        assert hardened.guard().write() == {"crl.pem"}
        assert len(x509.read_crls(path.read_bytes())) == 1


def test_clock_at_1970_does_not_make_lists_and_certificates_of_1970(hardened: Hardened) -> None:
    assert hardened.guard(clock=lambda: 0.0).write() == set()
    (crl,) = x509.read_crls((hardened.files / "crl.pem").read_bytes())
    assert crl.made_s > 1_700_000_000


async def test_broker_s_certificate_is_renewed_before_it_ends_and_no_session_breaks(running: Hardened) -> None:
    guard = running.guard()
    old = x509.make_server(
        running.issuer.key.seed,
        running.issuer.pem,
        x509.public_of((running.files / "server.crt").read_bytes()),
        ["localhost"],
        int(time.time()),
        days=59,
    )
    write_whole(running.files / "server.crt", x509.chain(old, running.issuer.pem), mode=0o644)
    session = await off(running.session, "w1")
    assert await off(guard.write) == {"server.crt"}
    new = (running.files / "server.crt").read_bytes()
    assert x509.not_after_of(new) > time.time() + 300 * 86_400 and "localhost" in x509.hosts_of(new)

    def served() -> int:
        import socket
        import ssl

        from edgeswarm.drivers.broker_fleet_client import context

        with (
            context(running.ca) as tls,
            socket.create_connection(("127.0.0.1", running.join_port), 5) as plain,
            tls.wrap_socket(plain, server_hostname="localhost") as sock,
        ):
            return x509.serial_of(ssl.DER_cert_to_PEM_cert(sock.getpeercert(binary_form=True) or b"").encode())

    await until(lambda: served() == x509.serial_of(new), "newcomers see the new certificate")
    assert await off(works, running, "w2")
    assert await off(session.ended, 0.1) is None
    session.close()


async def test_certificates_of_the_issuer_before_work_until_its_list_is_taken_away(hardened: Hardened) -> None:
    """An issuer is rotated: the new one's list stands first, the old one's stays.  Without it mosquitto refuses all
    that the old one has signed: that is how an issuer is revoked."""
    old = hardened.certificate("w1")
    old_crl = (hardened.files / "crl.pem").read_bytes()
    rotate(hardened)
    hardened.guard().write()
    assert len(x509.read_crls((hardened.files / "crl.pem").read_bytes())) == 2
    async with hardened.broker():
        assert await off(works, hardened, "w1", old) and await off(works, hardened, "w1")
        path = hardened.files / "crl.pem"
        path.write_bytes(path.read_bytes().replace(old_crl.strip(), b""))
        os.kill(int(hardened.files.pid.read_text()), signal.SIGHUP)
        await until(lambda: not works(hardened, "w1", old), "the old issuer's certificates are refused")
        assert await off(works, hardened, "w1")


def rotate(hardened: Hardened) -> None:
    """Another issuer under the same root key would be; here under a second root, and both are trusted."""
    root, seed, now_s = os.urandom(32), os.urandom(32), int(time.time())
    pem = x509.make_issuer(root, Signatory.from_seed(seed).public, "plant", now_s)
    write_whole(hardened.folder.issuer_key, seed.hex().encode())
    write_whole(hardened.folder.pki / "issuer.crt", pem)
    both = hardened.ca + x509.make_root(root, "plant", now_s)
    write_whole(hardened.folder.pki / "ca.crt", both)
    hardened.issuer = broker_files.Issuer.load(hardened.folder)


# --- files ------------------------------------------------------------------------------------------------------------


def test_nothing_is_written_when_nothing_changed(hardened: Hardened) -> None:
    before = {path: path.stat().st_mtime_ns for path in hardened.folder.broker.rglob("*") if path.is_file()}
    assert hardened.guard().write() == set()
    assert {path: path.stat().st_mtime_ns for path in before} == before
    hardened.roster = hardened.without("w2")
    assert hardened.guard().write() == {"acl"}


def test_secrets_of_the_broker_are_readable_by_nobody_else(hardened: Hardened) -> None:
    for name in ("server.key", "bridge.key", "mosquitto-join.conf", "acl"):
        assert (hardened.files / name).stat().st_mode & 0o007 == 0, name


def test_issuer_s_key_of_another_certificate_is_told(hardened: Hardened) -> None:
    write_whole(hardened.folder.issuer_key, os.urandom(32).hex().encode())
    with pytest.raises(ConfigError, match="of another key"):
        hardened.guard().write()


def test_fleet_in_a_draft_folder_names_its_home(tmp_path: Path, hardened: Hardened) -> None:
    config = {"port": hardened.port, "join_port": hardened.join_port, "bind": "127.0.0.1", "now_s": int(time.time())}
    broker_guard.write_first(hardened.folder, hardened.roster, hosts=["localhost"], home=Path("/srv/plant"), **config)
    text = (hardened.files.config).read_text() + (hardened.files.join_config).read_text()
    assert "/srv/plant/broker/acl" in text and str(tmp_path) not in text


@pytest.mark.parametrize(
    "bad",
    [
        {"hosts": []},
        {"hosts": ["a b"]},
        {"hosts": ["x\nallow_anonymous true"]},
        {"hosts": ['"']},
        {"hosts": ["h"] * 33},
        {"port": 0},
        {"port": 70_000},
        {"join_port": 8883, "port": 8883},
        {"bind": "0.0.0.0\nallow_anonymous true"},
        {"bind": "example.org"},
    ],
)
def test_settings_that_make_no_broker_are_refused(hardened: Hardened, bad: dict[str, Any]) -> None:
    good: dict[str, Any] = {"hosts": ["localhost"], "port": 8883, "join_port": 8884, "bind": "127.0.0.1", "now_s": 1}
    with pytest.raises((LocalError, ConfigError)):
        broker_guard.write_first(hardened.folder, hardened.roster, **{**good, **bad})


# --- running ----------------------------------------------------------------------------------------------------------


async def test_mosquitto_that_dies_is_started_again_and_the_guard_says_both(running: Hardened) -> None:
    guard = running.guard()
    assert await guard.look()
    for pid_file in (running.files.pid, running.files.join_pid):
        os.kill(int(pid_file.read_text()), signal.SIGKILL)
    while await guard.look():  # noqa: ASYNC110 - the kernel has not closed its socket yet
        await asyncio.sleep(0.01)
    assert running.said("broker_silent")
    await until(lambda: works(running, "w1"), "it runs again")
    assert await guard.look() and len(running.said("broker_answers")) == 2


async def test_broker_that_cannot_start_says_why(hardened: Hardened) -> None:
    hardened.files.config.write_text("listener 1 256.0.0.1\nnonsense true\n")
    with pytest.raises(Exception, match="nonsense|does not start"):
        async with hardened.broker():
            pass


async def test_machine_without_mosquitto_makes_a_fleet_and_says_what_running_it_needs(
    hardened: Hardened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_fleet, "plugin_path", lambda: None)
    assert hardened.guard().write() == {"mosquitto.conf"}
    with pytest.raises(LocalError, match="install mosquitto"):
        async with hardened.broker():
            pass
    monkeypatch.undo()
    assert hardened.guard().write() == {"mosquitto.conf"}


async def test_broker_with_another_fleet_s_certificate_is_not_spoken_to(running: Hardened, tmp_path: Path) -> None:
    """The guard, like every device, believes the fleet's root alone."""
    other = make(tmp_path / "other", ROLES)
    write_whole(running.folder.pki / "ca.crt", other.ca)
    with pytest.raises(BrokerError, match="CERTIFICATE_VERIFY_FAILED"):
        await off(running.guard().session)


async def test_mosquitto_is_its_own_user_and_still_reads_what_is_renewed(tmp_path: Path) -> None:
    """Started by root it gives that up: it may read its files, also after SIGHUP, and write nothing but its data."""
    if os.geteuid():
        pytest.skip("only root can start mosquitto as somebody else")
    home = Path(tempfile.mkdtemp(prefix="es-fleet-", dir="/tmp"))
    home.chmod(0o755)
    try:
        hardened = make(home, ROLES)
        async with hardened.broker():
            guard = hardened.guard()
            pid = int(hardened.files.pid.read_text())
            uids = next(
                line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("Uid:")
            )
            assert "0" not in uids.split()[1:]
            (hardened.files / "server.crt").unlink()
            hardened.roster = hardened.without("w1")
            assert await off(guard.write) == {"server.crt", "acl"}
            await until(lambda: works(hardened, "w2") and not works(hardened, "w1"), "it has read them")
            writable = [path for path in hardened.folder.path.rglob("*") if path.owner() != "root"]
            assert writable and all("data" in path.relative_to(hardened.folder.path).parts[1] for path in writable)
    finally:
        shutil.rmtree(home)


async def test_what_devices_retained_is_there_after_a_restart(hardened: Hardened) -> None:
    """Also of a device that has left: mosquitto gives out what it retained, and receivers refuse it by the roster."""
    topics = hardened.topics

    def say() -> None:
        for device in ("w1", "w2"):
            with hardened.session(device) as session:
                assert session.publish(topics.status(device), b"well", retain=True) in (0, 16)

    def hear() -> set[str]:
        with hardened.session("c1") as session:
            session.subscribe(topics.statuses())
            return {said.topic for _ in range(2) if (said := session.message(5)) is not None}

    async with hardened.broker():
        await off(say)
    hardened.guard().write(hardened.without("w1"))
    async with hardened.broker():
        assert await off(hear) == {topics.status("w1"), topics.status("w2")}
