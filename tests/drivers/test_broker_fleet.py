"""What a fleet's broker is told: configuration and access list, as text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeswarm.drivers import broker_fleet
from edgeswarm.drivers.broker_fleet import BrokerSettings, Files
from edgeswarm.drivers.broker_fleet_acl import PROBE_CELL, RESERVED_START, device_acl, join_acl, streams_of
from edgeswarm.errors import ConfigError, LocalError
from edgeswarm.wire.certificate import Authority as Authority_
from edgeswarm.wire.certificate import Certificate, Role, Signatory, sign_authority, sign_certificate
from edgeswarm.wire.dev_fleet import make_dev_fleet
from edgeswarm.wire.roster import Roster
from edgeswarm.wire.roster_change import first_roster
from edgeswarm.wire.roster_form import Entry, sign_entry

HOME = Files(Path("/srv/plant/broker"))
SETTINGS = BrokerSettings(("broker.plant.example",), bind="0.0.0.0")


def roster(*members: tuple[str, Role, tuple[str, ...]]) -> Roster:
    root, issuer, operator = (Signatory.from_seed(bytes((number,)) * 32) for number in (1, 2, 3))
    authorities = [
        sign_authority(Authority_("plant", "issuer", "i", issuer.public, 0, 9, ("stream.publish:*",)), root),
        sign_authority(Authority_("plant", "operator", "o", operator.public, 0, 9), root),
    ]
    rows = []
    for number, (device, role, grants) in enumerate(members, 1):
        public = Signatory.from_seed(bytes((number + 9,)) * 32).public
        signed = sign_entry(
            Entry(device, number, role, tuple(sorted(grants)), 1), fleet="plant", cell="main", by=operator
        )
        roles = ("coordinator", "worker", "reader", "administrator")
        rows.append((signed, sign_certificate(Certificate("plant", device, public, 1, 0, 9, roles), issuer)))
    return first_roster(
        fleet="plant", cell="main", created_s=1, authorities=authorities, entries=rows, voters=[1], by=operator
    )


MEMBERS = roster(
    ("hub", "coordinator", ()),
    ("press-1", "worker", ("stream.publish:vibration", "stream.publish:cam*")),
    ("panel", "reader", ()),
    ("console-ann", "administrator", ()),
)


def grants(acl: str) -> dict[str, set[tuple[str, str]]]:
    """user -> {(access, topic)}."""
    found: dict[str, set[tuple[str, str]]] = {}
    user = ""
    for line in acl.splitlines():
        match line.split(" ", 2):
            case ["user", name]:
                user = name
                assert user not in found, f"{user} is there twice"
                found[user] = set()
            case ["topic", access, topic]:
                found[user].add((access, topic))
            case _:
                assert line.startswith("#"), line
    return found


def test_nobody_is_granted_anything_who_is_not_in_the_roster_or_the_broker_s_own() -> None:
    acl = device_acl(MEMBERS, "hub")
    assert "pattern" not in acl and not re.search(r"^topic", acl.split("user")[0], re.MULTILINE)
    users = set(grants(acl))
    assert users >= {"hub", "press-1", "panel", "console-ann"}
    assert all(user.startswith(RESERVED_START) for user in users - {"hub", "press-1", "panel", "console-ann"})


def test_own_users_of_the_broker_have_nothing_in_the_cell() -> None:
    found = grants(device_acl(MEMBERS, "hub"))
    for user in found:
        if user.startswith(RESERVED_START):
            topics = {topic for _, topic in found[user]}
            assert not [t for t in topics if t.startswith("es/1/plant/main/")], user
            if user.startswith("es-probe"):
                assert not {t for t in topics if not t.startswith(f"es/1/plant/{PROBE_CELL}/")}, user


def test_each_device_writes_its_own_state_and_no_other_s() -> None:
    found = grants(device_acl(MEMBERS, "hub"))
    for user in ("hub", "press-1", "panel", "console-ann"):
        writes = {topic for access, topic in found[user] if access == "write"}
        for other in ("hub", "press-1", "panel", "console-ann", "+"):
            for kind in ("status", "reported"):
                assert (f"es/1/plant/main/device/{other}/{kind}" in writes) == (other == user)
            assert (f"es/1/plant/main/gone/{other}" in writes) == (other == user)


def test_only_coordinators_speak_as_voters_and_only_the_controller_to_newcomers() -> None:
    found = grants(device_acl(MEMBERS, "hub"))

    def who(access: str, topic: str) -> set[str]:
        return {user for user in found if (access, topic) in found[user] and not user.startswith(RESERVED_START)}

    assert who("write", "es/1/plant/main/raft/+") == {"hub"}
    assert who("write", "es/1/plant/main/leader") == who("write", "es/1/plant/main/feed") == {"hub"}
    assert who("write", "es/1/plant/main/roster") == {"hub", "console-ann"}
    assert who("read", "es/1/plant/join/+/+/request") == who("write", "es/1/plant/join/+/+/answer") == {"hub"}
    assert who("read", "es/1/plant/controller/inbox") == {"hub"}
    assert who("write", "es/1/plant/main/device/+/inbox") == {"hub", "press-1", "console-ann"}
    assert who("write", "es/1/plant/main/device/hub/inbox") == {"panel"}  # a reader asks whoever leads
    for access in ("read", "write", "readwrite"):
        assert who(access, "$CONTROL/dynamic-security/v1") == set()


def test_streams_follow_the_grants() -> None:
    found = grants(device_acl(MEMBERS, "hub"))
    streams = {
        topic for user in found for access, topic in found[user] if "/main/stream/" in topic and access == "write"
    }
    assert streams == {"es/1/plant/main/stream/press-1/+"}  # "cam*" is beyond the broker: the receiver looks
    assert streams_of(["stream.publish:a", "stream.publish:b@agent", "neural.compute"]) == ("a", "b")
    assert streams_of([]) == () and streams_of(["*"]) == streams_of(["stream.*"]) == ("+",)


def test_device_with_a_name_of_the_broker_s_own_gets_nothing() -> None:
    """An issuer that was tricked into such a name has not given away the plugin."""
    odd = roster(("hub", "coordinator", ()), ("es-guard", "worker", ()), ("es-zzz", "worker", ()))
    found = grants(device_acl(odd, "hub"))
    assert found["es-guard"] == grants(device_acl(MEMBERS, "hub"))["es-guard"] and "es-zzz" not in found


def test_newcomers_say_requests_and_hear_answers_of_their_token() -> None:
    assert join_acl("plant").splitlines()[1:] == [
        "pattern write es/1/plant/join/%u/+/request",
        "pattern read es/1/plant/join/%u/+/answer",
    ]


def test_access_list_of_a_thousand_devices_is_small_enough_to_be_read_at_once() -> None:
    made = make_dev_fleet(1_000, entropy=b"x", now_s=1, fleet="plant", cell="main")
    acl = device_acl(made.roster, "d1")
    assert len(acl.splitlines()) < 25_000 and len(acl) < 1_500_000


def test_configuration_asks_for_certificates_and_bounds_everything() -> None:
    lines = broker_fleet.config_text(SETTINGS, HOME, user="mosquitto", plugin="/x/p.so").splitlines()
    for line in (
        "per_listener_settings true", "user mosquitto", "allow_anonymous false", "require_certificate true",
        "use_identity_as_username true", "tls_version tlsv1.3", "crlfile /srv/plant/broker/crl.pem",
        "acl_file /srv/plant/broker/acl", "listener 8883 0.0.0.0", "plugin /x/p.so",
    ):  # fmt: skip
        assert line in lines
    for key in ("max_connections", "max_packet_size", "max_queued_messages", "max_queued_bytes", "memory_limit",
                "max_inflight_messages", "max_keepalive", "persistent_client_expiration"):  # fmt: skip
        assert any(line.startswith(f"{key} ") and line != f"{key} 0" for line in lines), key
    assert sum(line.startswith("listener ") for line in lines) == 1  # strangers are not in this process
    join = broker_fleet.join_config_text(SETTINGS, HOME, "plant", user=None, secret="5ec").splitlines()
    assert "listener 8884 0.0.0.0" in join and "retain_available false" in join and "local_clientid es-join-5ec" in join
    assert not any(line.startswith("user ") for line in join)


@given(
    hosts=st.lists(st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,20})", fullmatch=True), min_size=1, max_size=5),
    ports=st.tuples(st.integers(1, 65_535), st.integers(1, 65_535)),
    bind=st.sampled_from(["0.0.0.0", "127.0.0.1", "::", "10.0.0.1"]),
)
def test_settings_read_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, hosts: list[str], ports: tuple[int, int], bind: str
) -> None:
    folder = tmp_path_factory.mktemp("b")
    settings = BrokerSettings(tuple(hosts), *ports, bind)
    (folder / "broker.toml").write_text(broker_fleet.settings_text(settings))
    assert broker_fleet.load_settings(folder) == settings


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "hosts"),
        ("hosts = []", "hosts"),
        ('hosts = ["a b"]', "hosts"),
        ('hosts = ["a"]\nport = 0', "port"),
        ('hosts = ["a"]\nport = "8883"', "port"),
        ('hosts = ["a"]\nbind = "everywhere"', "bind"),
        ('hosts = ["a"]\npassword = "x"', "password"),
        ("hosts = [", "broker.toml"),
        ("\x00", "broker.toml"),
    ],
)
def test_settings_with_a_fault_are_refused_with_its_key(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "broker.toml").write_text(text)
    with pytest.raises(ConfigError, match=says):
        broker_fleet.load_settings(tmp_path)


def test_settings_that_are_not_there_say_who_writes_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fleet init"):
        broker_fleet.load_settings(tmp_path)


def test_path_with_a_line_break_adds_no_option() -> None:
    with pytest.raises(LocalError, match="line break"):
        broker_fleet.config_text(SETTINGS, Files(Path("/x\nallow_anonymous true")), user=None, plugin="p")
