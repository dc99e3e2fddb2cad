"""FLEET/broker, kept as the roster and the certificates want it: what is there is left alone unless something changed.

Writes configuration, access lists, the broker's certificate and the bridge's, and the revocation list; says what it
wrote, so that the broker is told.  A revocation list of another issuer of this fleet is kept as it is: mosquitto
refuses every certificate whose issuer has no list in the file, so taking a list out shuts an issuer's certificates out.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeswarm.app.fleet.folder import FleetFolder
from edgeswarm.app.swarm.rosters import RosterBook
from edgeswarm.drivers import broker_fleet, keys
from edgeswarm.drivers.broker_fleet import BrokerSettings, Files
from edgeswarm.drivers.broker_fleet_acl import JOIN, PROBE_CELL, device_acl, join_acl
from edgeswarm.drivers.pki import sealed, x509
from edgeswarm.errors import ConfigError, LocalError
from edgeswarm.limits import BROKER_CRL_DAYS, BROKER_RENEW_DAYS, BROKER_REVOKED_DAYS
from edgeswarm.wire.certificate import CertificateError
from edgeswarm.wire.roster import Roster

PROBE_SERIAL: Final = int.from_bytes(b"edgeswarm probe")
"""Always revoked: `fleet broker check` signs itself a certificate of this number.  Random ones are longer."""

RELOADED: Final = frozenset({"acl", "crl.pem", "server.crt", "ca.crt"})
"""What mosquitto reads again on SIGHUP."""
JOIN_RESTARTED: Final = frozenset({"mosquitto-join.conf", "bridge.crt", "acl-join"})
RESTARTED: Final = frozenset({"mosquitto.conf"})


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who signs here: the seed of its key, and its certificate."""

    key: keys.SigningKey
    pem: bytes

    @classmethod
    def load(cls, folder: FleetFolder) -> Issuer:
        """Raises ConfigError, PermissionDeniedError, OSError."""
        issuer = cls(sealed.load_key(folder.issuer_key, None), (folder.pki / "issuer.crt").read_bytes())
        if x509.public_of(issuer.pem) != issuer.key.public:
            raise ConfigError(f"{folder.pki / 'issuer.crt'}: it is of another key than {folder.issuer_key}")
        return issuer

    @classmethod
    def load_old(cls, folder: FleetFolder) -> tuple[Issuer, ...]:
        """The issuer before this one while devices still have certificates of it (`fleet rotate issuer`)."""
        key, pem = folder.issuer_key.with_name("issuer.key.old"), folder.pki / "issuer.crt.old"
        try:
            old = cls(sealed.load_key(key, None), pem.read_bytes())
            return (old,) if x509.public_of(old.pem) == old.key.public else ()
        except (ConfigError, OSError, CertificateError):
            return ()


def write_first(
    folder: FleetFolder,
    roster: Roster,
    *,
    hosts: Iterable[str],
    port: int = 8883,
    join_port: int = 8884,
    bind: str = "0.0.0.0",
    now_s: int,
    home: Path | None = None,
) -> set[str]:
    """FLEET/broker of a fleet that is being made.  home: where `folder` will lie once it is whole."""
    settings = BrokerSettings(tuple(hosts), port, join_port, bind)
    if port == join_port:
        raise LocalError(f"broker: devices and newcomers need two ports, found {port} twice")
    folder.broker.mkdir(parents=True, exist_ok=True, mode=0o700)
    broker_fleet.write(folder.broker / "broker.toml", broker_fleet.settings_text(settings), user=None)
    broker_fleet.load_settings(folder.broker)  # bad host names, ports and addresses are told here
    return write(folder, roster, now_s=now_s, home=home)


def write(
    folder: FleetFolder,
    roster: Roster,
    revoked: Iterable[tuple[int, int]] = (),
    *,
    now_s: int,
    home: Path | None = None,
) -> set[str]:
    """Bring FLEET/broker up to date; the names of the files that changed.

    revoked: (serial number, seconds since 1970) beside those that the list has.  now_s: a clock that is behind the
    roster is not believed.  Raises ConfigError, LocalError, CertificateError, OSError.
    """
    files, home_files = Files(folder.broker), Files((home or folder.path).absolute() / "broker")
    settings, issuer = broker_fleet.load_settings(folder.broker), Issuer.load(folder)
    now_s = max(now_s, roster.created_s)
    if roster.cell == PROBE_CELL:
        raise LocalError(f"broker: a cell must not be called {PROBE_CELL}: `fleet broker check` uses that name")
    plugin = broker_fleet.plugin_path() or f"/usr/lib/{broker_fleet.PLUGIN}"  # a fleet may be made elsewhere
    user = broker_fleet.runs_as(home_files.folder.parent)
    broker_fleet.make_folders(files, user=user)
    with _alone(files):
        return _write(folder, files, home_files, settings, issuer, roster, dict(revoked), now_s, user, plugin)


def _write(
    folder: FleetFolder,
    files: Files,
    home_files: Files,
    settings: BrokerSettings,
    issuer: Issuer,
    roster: Roster,
    revoked: dict[int, int],
    now_s: int,
    user: str | None,
    plugin: str,
) -> set[str]:
    texts: dict[str, bytes | str] = {
        "ca.crt": (folder.pki / "ca.crt").read_bytes(),
        "acl": device_acl(roster, folder.config.controller),
        "acl-join": join_acl(roster.fleet),
        "crl.pem": _crl(files, (issuer, *Issuer.load_old(folder)), revoked, now_s),
        "mosquitto.conf": broker_fleet.config_text(settings, home_files, user=user, plugin=plugin),
        "mosquitto-join.conf": broker_fleet.join_config_text(
            settings, home_files, roster.fleet, user=user, secret=_secret(files)
        ),
    }
    changed = set()
    shown = Issuer(issuer.key, _shown(folder, issuer, now_s))
    for name, certificate, by in (("server", _server, shown), ("bridge", _bridge, issuer)):
        public = _key_pair(files, f"{name}.key", user)
        texts[f"{name}.crt"] = certificate(files, by, settings, public, now_s)
    for name, text in texts.items():
        secret = name not in ("ca.crt", "server.crt", "bridge.crt", "crl.pem")
        if broker_fleet.write(files / name, text, user=user, secret=secret):
            changed.add(name)
    return changed


def write_now(folder: FleetFolder) -> set[str]:
    """`write` by this machine's clock and the newest roster on its disk: for who has no controller at hand."""
    return write(folder, newest_roster(folder), now_s=int(time.time()))


def newest_roster(folder: FleetFolder) -> Roster:
    """The newest roster that the controller's device has on disk.  Raises ConfigError."""
    config = folder.config
    return RosterBook.load(folder.controller, fleet=config.fleet, cell=config.cell).current


# --- parts ------------------------------------------------------------------------------------------------------------


@contextmanager
def _alone(files: Files) -> Iterator[None]:
    """One writer at a time: what one revokes, another that read the list before must not write away."""
    with open(files / "lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _key_pair(files: Files, name: str, user: str | None) -> bytes:
    """The public key of a private one that is made once: renewing a certificate changes one file."""
    path = files / name
    if not path.exists():
        broker_fleet.write(path, x509.pkcs8_pem(os.urandom(32)), user=user, secret=True)
    return x509.public_of_key(path.read_bytes(), who=str(path))


def _server(files: Files, issuer: Issuer, settings: BrokerSettings, public: bytes, now_s: int) -> bytes:
    kept = _kept(files / "server.crt", issuer, public, now_s)
    if kept is not None and set(x509.hosts_of(kept)) == set(map(_as_certified, settings.names)):
        return kept
    return x509.chain(x509.make_server(issuer.key.seed, issuer.pem, public, settings.names, now_s), issuer.pem)


def _shown(folder: FleetFolder, issuer: Issuer, now_s: int) -> bytes:
    """The issuer's certificate that the broker shows: by the root before, where that has changed (root_rotation), since
    devices of the new root have the newer one themselves."""
    try:
        pem = (folder.pki / "issuer.before.crt").read_bytes()
        good = x509.public_of(pem) == issuer.key.public and now_s < x509.not_after_of(pem)
    except (FileNotFoundError, CertificateError):
        return issuer.pem
    return pem if good else issuer.pem


def _bridge(files: Files, issuer: Issuer, settings: BrokerSettings, public: bytes, now_s: int) -> bytes:
    kept = _kept(files / "bridge.crt", issuer, public, now_s)
    if kept is not None:
        return kept
    span = now_s - 3_600, now_s + x509.SERVER_S
    return x509.chain(x509.make_device(issuer.key.seed, issuer.pem, JOIN, public, *span), issuer.pem)


def _kept(path: Path, issuer: Issuer, public: bytes, now_s: int) -> bytes | None:
    """The certificate in `path` unless it has to be made anew."""
    try:
        pem = path.read_bytes()
        good = (
            x509.signed_by(pem, issuer.key.public)
            and x509.public_of(pem) == public
            and x509.not_before_of(pem) <= now_s < x509.not_after_of(pem) - BROKER_RENEW_DAYS * x509.DAY_S
            and pem.endswith(x509.chain(issuer.pem))
        )
    except (FileNotFoundError, CertificateError):
        return None
    return pem if good else None


def _as_certified(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host.lower()


def _crl(files: Files, issuers: Sequence[Issuer], revoked: dict[int, int], now_s: int) -> bytes:
    """A list of each issuer that signs here, made anew where it has to be, and after them those of others."""
    try:
        lists = x509.read_crls((files / "crl.pem").read_bytes(), who=str(files / "crl.pem"))
    except (FileNotFoundError, CertificateError):
        lists = []  # the roster is the truth on who is in: a damaged list is replaced, and its devices stay shut out
    made: list[bytes] = []
    for number, issuer in enumerate(issuers):
        own = [each for each in lists if each.signed_by(issuer.key.public)]
        lists = [each for each in lists if each not in own]
        if own or not number:  # without its list an issuer before this one is out already
            made.append(_list_of(issuer, own, revoked, now_s))
    return x509.chain(*made, *(each.pem for each in lists))


def _list_of(issuer: Issuer, own: list[x509.Crl], revoked: dict[int, int], now_s: int) -> bytes:
    """own: the lists of this issuer that are there, one as a rule."""
    oldest_s = now_s - BROKER_REVOKED_DAYS * x509.DAY_S
    wanted = dict(revoked)
    for each in own:  # who was revoked twice was revoked the first time
        wanted |= {serial: at_s for serial, at_s in each.revoked.items() if at_s >= oldest_s}
    wanted[PROBE_SERIAL] = 0
    fresh = (
        len(own) == 1
        and dict(own[0].revoked) == wanted
        and own[0].made_s <= now_s < own[0].made_s + BROKER_CRL_DAYS * x509.DAY_S
        and own[0].until_s > now_s + x509.YEAR_S
    )
    return own[0].pem if fresh else x509.make_crl(issuer.key.seed, issuer.pem, sorted(wanted.items()), now_s)


def _secret(files: Files) -> str:
    """The bridge's client id at the newcomers' broker, kept: the configuration must not change without a reason."""
    try:
        for line in (files / "mosquitto-join.conf").read_text().splitlines():
            if line.startswith(f"local_clientid {JOIN}-"):
                return line.rsplit("-", 1)[1]
    except FileNotFoundError:
        pass
    return secrets.token_hex(16)
