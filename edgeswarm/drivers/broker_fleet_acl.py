"""The access list of a fleet's broker: what each role of the roster publishes and hears, and nothing else.

Every grant is for a user by name, none for "everybody": who holds a certificate of ours and is not in the roster may
connect and can do nothing.  It limits what the thief of a key can disturb; who wrote a message, and whether he may,
receivers judge by its signature.  The broker judges topics only: it cannot tell the questions in one inbox apart.
mosquitto 2.0 does not refuse subscriptions: it delivers nothing that the subscriber may not read.

Users that are no devices: GUARD (the controller signs its certificate when it is needed: it ends sessions), JOIN (the
bridge that brings join requests from the listener for strangers), PROBE_* (what `fleet broker check` shows the rules
with; they have the rights of their roles in a cell of their own, PROBE_CELL, none in the fleet's).  No device may be
called so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from edgeswarm.wire.certificate import Role
from edgeswarm.wire.roster import Roster
from edgeswarm.wire.topics import ROOT, Topics

RESERVED_START: Final = "es-"
"""Device ids that start so are the broker's own; the issuer must not give them to devices."""
GUARD: Final = "es-guard"
JOIN: Final = "es-join"
PROBE_CELL: Final = "es-probe"
PROBE_TOKEN: Final = "es-probe"
"""An id that no token can have."""
PROBE_WORKER: Final = "es-probe-worker"
PROBE_OTHER: Final = "es-probe-other"
PROBE_READER: Final = "es-probe-reader"
PROBE_ROLES: Final[dict[str, Role]] = {PROBE_WORKER: "worker", PROBE_OTHER: "worker", PROBE_READER: "reader"}
PROBE_STRANGER: Final = "es-probe-stranger"  # a certificate of the issuer's, in no list
CONTROL: Final = "$CONTROL/dynamic-security/v1"

_STREAMS: Final = "stream.publish:"


@dataclass(frozen=True, slots=True)
class User:
    """coordinators: whose inboxes a reader may write to."""

    device: str
    role: Role
    streams: tuple[str, ...] = ()  # levels below stream/<device>/ that it may publish on


def device_acl(roster: Roster, controller: str) -> str:
    """Of the listener for devices.  controller: device id of the one that answers join requests."""
    users = [
        User(member.entry.device, member.entry.role, streams_of(member.entry.capabilities))
        for member in roster.members
        if not member.entry.device.startswith(RESERVED_START)
    ]
    probes = [User(device, role, () if role == "reader" else ("+",)) for device, role in PROBE_ROLES.items()]
    lines = [f"# Written by edgeswarm for {roster.fleet}/{roster.cell}; changes are overwritten."]
    heads = [user.device for user in users if user.role in ("coordinator", "administrator")]
    topics = Topics(roster.fleet, roster.cell)
    for user in users:
        lines += _user(topics, user, heads)
        if user.device == controller:
            lines += _controller(topics)
    for user in probes:
        lines += [line for line in _user(Topics(roster.fleet, PROBE_CELL), user, []) if topics.controller not in line]
    lines += _own(roster.fleet)
    return "\n".join(lines) + "\n"


def join_acl(fleet: str) -> str:
    """Of the listener for newcomers, who name themselves after their token."""
    start = f"{ROOT}/{fleet}/join/%u/+"
    head = "# Written by edgeswarm; changes are overwritten."
    return f"{head}\npattern write {start}/request\npattern read {start}/answer\n"


def streams_of(capabilities: Iterable[str]) -> tuple[str, ...]:
    """Topic levels for grants `stream.publish:<agent>`; the broker knows no prefixes, so "cam*" becomes "+"."""
    found = set()
    for grant in capabilities:
        if grant == "*" or (grant.endswith("*") and _STREAMS.startswith(grant[:-1])):
            found.add("+")
        elif grant.startswith(_STREAMS):
            agent = grant.removeprefix(_STREAMS).partition("@")[0]
            found.add("+" if agent.endswith("*") else agent)
    return ("+",) if "+" in found else tuple(sorted(found))


def _user(topics: Topics, user: User, heads: Iterable[str]) -> list[str]:
    device, role = user.device, user.role
    reads = [
        topics.leader,
        topics.roster,
        topics.feed,
        topics.stop,
        f"{topics.start}/event/#",
        f"{topics.start}/stream/#",
        f"{topics.start}/artifact/#",
        f"{topics.start}/device/+/status",
        f"{topics.start}/device/+/reported",
        topics.goners(),
        topics.inbox(device),
        topics.desired(device),
    ]
    writes = [
        topics.status(device),
        topics.reported(device),
        topics.gone(device),
        topics.controller,
    ]
    if role == "reader":
        writes += [topics.event("low", "health"), *(topics.inbox(head) for head in heads)]
        writes += [topics.inbox(device)] if not heads else []
    else:
        writes += [
            f"{topics.start}/device/+/inbox",
            topics.events(),
            topics.stop,
            f"{topics.start}/artifact/+/+",
            *(f"{topics.start}/stream/{device}/{level}" for level in user.streams),
        ]
    if role in ("coordinator", "administrator"):
        writes += [topics.roster, f"{topics.start}/device/+/desired"]
    if role == "coordinator":
        reads.append(topics.raft(device))
        writes += [f"{topics.start}/raft/+", topics.feed, topics.leader]
    return [f"user {device}", *(f"topic read {each}" for each in reads), *(f"topic write {each}" for each in writes)]


def _controller(topics: Topics) -> list[str]:
    join = f"{ROOT}/{topics.fleet}/join/+/+"
    return [f"topic read {topics.controller}", f"topic read {join}/request", f"topic write {join}/answer"]


def _own(fleet: str) -> list[str]:
    join = f"{ROOT}/{fleet}/join"
    return [
        f"user {JOIN}",
        f"topic write {join}/+/+/request",
        f"topic read {join}/+/+/answer",
        f"user {GUARD}",
        f"topic readwrite {CONTROL}",
        f"topic read {CONTROL}/response",
        f"topic read {join}/{PROBE_TOKEN}/+/request",
        f"topic write {join}/{PROBE_TOKEN}/+/answer",
    ]
