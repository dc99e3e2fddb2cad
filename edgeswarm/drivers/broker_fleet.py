"""What a fleet's broker is made of: two mosquitto processes (2.0), their configuration, written out whole.

Devices: TLS 1.3, both sides with certificates, the common name is the user; an access list by roles, a revocation list,
and the dynamic-security plugin, which does one thing here: end the sessions of a user.
Newcomers: a process of its own on another port, TLS 1.3 with the broker's certificate only, user name = token id, and a
bridge that brings requests to the first and answers back.  Two processes, because to mosquitto a client id is enough to
end the session of whoever has it, also on another listener (tried on 2.0.11): strangers must not be where devices are.
In between devices this stays: a device of the fleet can end another's connection, not read or write for it.

Ending sessions, tried on 2.0.11: a new CRL and SIGHUP keep a certificate out, and live sessions stay; `disableClient`
does not hold (mosquitto#2999); `deleteClient` of a client that the plugin does not know fails.  `createClient` followed
by `deleteClient` in one message ends every session of the user name, whatever its client ids, and leaves nothing: so no
device is ever registered with the plugin, and the access list stays the only one.

FLEET/broker: mosquitto.conf mosquitto-join.conf acl acl-join ca.crt server.crt server.key bridge.crt bridge.key crl.pem
broker.toml, which only their owner writes; data/ and data-join/ are mosquitto's own.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from edgeswarm import schema
from edgeswarm.drivers.broker import mosquitto_user
from edgeswarm.drivers.broker_fleet_acl import JOIN
from edgeswarm.drivers.files import write_whole
from edgeswarm.errors import ConfigError, LocalError
from edgeswarm.limits import (
    BROKER_CLIENT_QUEUE_BYTES,
    BROKER_CLIENT_QUEUE_MESSAGES,
    BROKER_CONNECTIONS_MAX,
    BROKER_HOSTS_MAX,
    BROKER_INFLIGHT_MAX,
    BROKER_JOIN_CONNECTIONS_MAX,
    BROKER_JOIN_MEMORY_BYTES_MAX,
    BROKER_JOIN_PACKET_BYTES_MAX,
    BROKER_JOIN_QUEUE_BYTES,
    BROKER_MEMORY_BYTES_MAX,
    CONFIG_BYTES_MAX,
    MQTT_PACKET_BYTES_MAX,
)
from edgeswarm.schema.kinds import Doc, Length, Pattern, Range
from edgeswarm.wire.topics import ROOT

PLUGIN: Final = "mosquitto_dynamic_security.so"
PLUGIN_FOLDERS: Final = ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/opt/homebrew/lib", "/lib")
LOOPBACK: Final = "127.0.0.1"
HOST_PATTERN: Final = r"[A-Za-z0-9:][A-Za-z0-9.:-]{0,252}"
BIND_PATTERN: Final = r"[0-9a-fA-F.:]{2,45}"


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """`broker.toml`: how the broker is reached."""

    hosts: Annotated[
        tuple[Annotated[str, Pattern(HOST_PATTERN)], ...],
        Length(1, BROKER_HOSTS_MAX),
        Doc("names and addresses of its certificate"),
    ]
    port: Annotated[int, Range(1, 65_535), Doc("for devices")] = 8883
    join_port: Annotated[int, Range(1, 65_535), Doc("for newcomers")] = 8884
    bind: Annotated[str, Pattern(BIND_PATTERN), Doc("address it listens on")] = "0.0.0.0"

    @property
    def local(self) -> str:
        """An address of this machine where it listens."""
        return {"0.0.0.0": LOOPBACK, "::": "::1"}.get(self.bind, self.bind)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the server's certificate: the hosts, and how this machine reaches it."""
        return tuple(dict.fromkeys((*self.hosts, "localhost", LOOPBACK, "::1", self.local)))


@dataclass(frozen=True, slots=True)
class Files:
    """The paths of FLEET/broker."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "mosquitto.conf"

    @property
    def join_config(self) -> Path:
        return self.folder / "mosquitto-join.conf"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def join_data(self) -> Path:
        return self.folder / "data-join"

    @property
    def settings(self) -> Path:
        return self.folder / "broker.toml"

    @property
    def pid(self) -> Path:
        return self.data / "mosquitto.pid"

    @property
    def join_pid(self) -> Path:
        return self.join_data / "mosquitto.pid"

    @property
    def plugin_state(self) -> Path:
        return self.data / "dynamic-security.json"

    def __truediv__(self, name: str) -> Path:
        return self.folder / name


# --- settings ---------------------------------------------------------------------------------------------------------


def load_settings(folder: Path) -> BrokerSettings:
    """broker.toml of FLEET/broker.  Raises ConfigError with every fault."""
    path = folder / "broker.toml"
    try:
        tree = tomllib.loads(path.read_bytes()[: CONFIG_BYTES_MAX + 1].decode())
    except FileNotFoundError:
        raise ConfigError(f"{path}: is not there; `edgeswarm fleet init` writes it") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    try:
        return schema.decode(tree, BrokerSettings, where=str(path))
    except schema.SchemaError as error:
        raise ConfigError(str(error)) from None


def settings_text(settings: BrokerSettings) -> str:
    hosts = ", ".join(f'"{host}"' for host in settings.hosts)
    return f'hosts = [{hosts}]\nport = {settings.port}\njoin_port = {settings.join_port}\nbind = "{settings.bind}"\n'


# --- configuration ----------------------------------------------------------------------------------------------------


def plugin_path() -> str | None:
    """Where mosquitto's dynamic-security plugin is."""
    for folder in PLUGIN_FOLDERS:
        for pattern in (PLUGIN, f"*/{PLUGIN}"):
            found = sorted(Path(folder).glob(pattern)) if os.path.isdir(folder) else []
            if found:
                return str(found[0])
    return None


def config_text(settings: BrokerSettings, home: Files, *, user: str | None, plugin: str) -> str:
    """mosquitto.conf of the process for devices.  user: whom it changes to when root starts it."""
    return _lines(
        *_head(home.pid, user),
        f"max_packet_size {MQTT_PACKET_BYTES_MAX}",
        f"max_queued_messages {BROKER_CLIENT_QUEUE_MESSAGES}",
        f"max_queued_bytes {BROKER_CLIENT_QUEUE_BYTES}",
        f"memory_limit {BROKER_MEMORY_BYTES_MAX}",
        "persistent_client_expiration 1d",
        "",
        "# Retained messages outlive a restart; the cell would say them again, a new device would wait for that.",
        "persistence true",
        f"persistence_location {_quoted(home.data)}/",
        "persistence_file mosquitto.db",
        "autosave_interval 300",
        "",
        "# Devices: both sides show certificates of the fleet; the common name is the user name.",
        *_listener(home, settings.bind, settings.port, BROKER_CONNECTIONS_MAX),
        "allow_anonymous false",
        "require_certificate true",
        "use_identity_as_username true",
        f"crlfile {_quoted(home / 'crl.pem')}",
        f"acl_file {_quoted(home / 'acl')}",
        f"plugin {plugin}",
        f"plugin_opt_config_file {_quoted(home.plugin_state)}",
    )


def join_config_text(settings: BrokerSettings, home: Files, fleet: str, *, user: str | None, secret: str) -> str:
    """mosquitto-join.conf of the process for newcomers.  secret: of 16 hex digits or more, the bridge's client id here:
    who knows it could end the bridge's session."""
    local = f"[{settings.local}]" if ":" in settings.local else settings.local
    join = f"{ROOT}/{fleet}/join/+/+"
    return _lines(
        *_head(home.join_pid, user),
        f"max_packet_size {BROKER_JOIN_PACKET_BYTES_MAX}",
        f"max_queued_messages {BROKER_JOIN_CONNECTIONS_MAX}",
        f"max_queued_bytes {BROKER_JOIN_QUEUE_BYTES}",
        f"memory_limit {BROKER_JOIN_MEMORY_BYTES_MAX}",
        "persistent_client_expiration 1h",
        "retain_available false",
        "persistence false",
        "",
        "# Newcomers: they see the broker's certificate, and are called after their token; there is no password.",
        *_listener(home, settings.bind, settings.join_port, BROKER_JOIN_CONNECTIONS_MAX),
        "allow_anonymous true",
        "require_certificate false",
        f"acl_file {_quoted(home / 'acl-join')}",
        "",
        "# Requests go to the devices' broker, answers come from there.",
        f"connection {JOIN}",
        f"address {local}:{settings.port}",
        f"topic {join}/request out 1",
        f"topic {join}/answer in 1",
        f"local_clientid {JOIN}-{secret}",
        f"remote_clientid {JOIN}",
        "bridge_protocol_version mqttv50",
        f"bridge_cafile {_quoted(home / 'ca.crt')}",
        f"bridge_certfile {_quoted(home / 'bridge.crt')}",
        f"bridge_keyfile {_quoted(home / 'bridge.key')}",
        "bridge_tls_version tlsv1.3",
        "bridge_insecure false",
        "cleansession true",
        "notifications false",
        "try_private false",
        "keepalive_interval 15",
        "restart_timeout 1 4",
        "start_type automatic",
    )


def _head(pid: Path, user: str | None) -> list[str]:
    return [
        "# Written by edgeswarm; changes are overwritten.  mosquitto.conf(5), 2.0.",
        "per_listener_settings true",
        *([f"user {user}"] if user is not None else []),
        f"pid_file {_quoted(pid)}",
        "set_tcp_nodelay true",
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        "log_type notice",
        "connection_messages false",
        "log_timestamp_format %Y-%m-%dT%H:%M:%S",
        "",
        "# Bounds: one slow or hostile client must not take the memory of all.",
        f"max_inflight_messages {BROKER_INFLIGHT_MAX}",
        "max_keepalive 300",
        "queue_qos0_messages false",
    ]


def _listener(home: Files, bind: str, port: int, connections: int) -> list[str]:
    return [
        f"listener {port} {bind}",
        "protocol mqtt",
        f"max_connections {connections}",
        "max_qos 1",
        "max_topic_alias 0",
        "allow_zero_length_clientid false",
        f"cafile {_quoted(home / 'ca.crt')}",
        f"certfile {_quoted(home / 'server.crt')}",
        f"keyfile {_quoted(home / 'server.key')}",
        "tls_version tlsv1.3",
    ]


def _lines(*lines: str) -> str:
    return "\n".join(lines) + "\n"


def _quoted(path: Path) -> str:
    """mosquitto takes the rest of the line as it is: only a line break could add an option."""
    text = str(path.absolute())
    if "\n" in text or "\r" in text:
        raise LocalError(f"broker: a path with a line break: {text!r}")
    return text


# --- writing ----------------------------------------------------------------------------------------------------------


def runs_as(home: Path) -> str | None:
    """The user that mosquitto changes to: its own, where that can reach `home`; root where it cannot; None for others.

    home: FLEET.  A fleet below a folder that is closed to others (root's home, a test's) is served by root.
    """
    user = mosquitto_user()
    if user is None:
        return None
    parents = [parent for parent in home.absolute().parents if parent.exists()]
    return user if all(parent.stat().st_mode & 0o001 for parent in parents) else "root"


def write(path: Path, data: bytes | str, *, user: str | None, secret: bool = False) -> bool:
    """Write a file of FLEET/broker that mosquitto reads and may not write; False if it holds that already."""
    data = data.encode() if isinstance(data, str) else data
    group = user not in (None, "root")
    mode = (0o640 if group else 0o600) if secret else 0o644
    try:
        if path.read_bytes() == data:
            return False
    except FileNotFoundError:
        pass
    fresh = path.with_name(path.name + ".draft")
    write_whole(fresh, data, mode=mode if not group else 0o600)
    if group:
        shutil.chown(fresh, group=_group(user))
        fresh.chmod(mode)
    fresh.replace(path)
    return True


def make_folders(files: Files, *, user: str | None) -> None:
    """FLEET/broker for mosquitto to read, data/ and data-join/ for it to write, FLEET for it to pass through."""
    files.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    own = user not in (None, "root")
    if own:
        shutil.chown(files.folder, group=_group(user))
        files.folder.chmod(0o750)
        files.folder.parent.chmod(files.folder.parent.stat().st_mode | 0o011)
    for folder in (files.data, files.join_data):
        folder.mkdir(exist_ok=True, mode=0o700)
        if own:
            shutil.chown(folder, user, _group(user))
    if not os.path.lexists(files.plugin_state):
        write_whole(files.plugin_state, plugin_state().encode())
    found, owner = os.lstat(files.plugin_state), files.data.stat()
    if own and found.st_uid == 0 and stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
        # data/ is mosquitto's: a link there could be meant to get it another file of root's
        os.chown(files.plugin_state, owner.st_uid, owner.st_gid, follow_symlinks=False)


def plugin_state() -> str:
    """dynamic-security.json: no clients, no roles; whom the plugin does not know, the access list judges."""
    access = dict.fromkeys(("publishClientSend", "publishClientReceive", "subscribe", "unsubscribe"), False)
    return json.dumps({"defaultACLAccess": access, "clients": [], "groups": [], "roles": []}, indent=1) + "\n"


def _group(user: str | None) -> str:
    import grp
    import pwd

    assert user is not None
    return grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name


def unit_text(fleet: Path, program: str = "/usr/bin/env edgeswarm") -> str:
    """A systemd unit for `edgeswarm fleet broker run`.  fleet: FLEET, absolute."""
    if any(character.isspace() or character in "%\"'\\$" for character in str(fleet)):
        raise LocalError(f"broker: a unit cannot name {str(fleet)!r}: no blanks, quotes, percent or dollar signs")
    return f"""\
# Written by `edgeswarm fleet broker unit`.  It starts as root to read the fleet's folder; mosquitto itself runs as its
# own user.  Debian's own service takes no part: systemctl disable --now mosquitto
[Unit]
Description=EdgeSwarm fleet broker
After=network-online.target
Wants=network-online.target
Conflicts=mosquitto.service

[Service]
Type=notify
ExecStart={program} fleet broker run --fleet {fleet}
Restart=always
RestartSec=2
LimitNOFILE=65536
UMask=0077
CapabilityBoundingSet=CAP_SETUID CAP_SETGID CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_KILL CAP_NET_BIND_SERVICE
NoNewPrivileges=yes
ProtectSystem=strict
ReadWritePaths={fleet}
ProtectHome={"no" if str(fleet).startswith(("/home/", "/root/")) else "yes"}
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
SystemCallArchitectures=native
SystemCallFilter=@system-service

[Install]
WantedBy=multi-user.target
"""
