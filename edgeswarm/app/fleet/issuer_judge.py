"""Whether a request to join may be granted: token, name, key, room and grants, as far as this device knows the cell.

The cell's log has the last word on tokens, and every device on the roster; what is refused here is refused early, with
a reason that a person understands.  Pure.
"""

from __future__ import annotations

import time

from edgeswarm.app.join.inventory import is_reserved
from edgeswarm.core.cell.types import TokenState
from edgeswarm.errors import RemoteError
from edgeswarm.limits import DEVICES_MAX, LABELS_BYTES_MAX, LABELS_PER_DEVICE_MAX, ROSTER_BYTES_MAX
from edgeswarm.wire.join import Code
from edgeswarm.wire.roster import Roster

ENTRY_BYTES = 900  # of one more device in a roster, generously


class Refusal(RemoteError):
    """A request that is answered with a no; code: a stable word."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def check_token(token: TokenState, device: str, public: bytes, now_s: int) -> None:
    """Raises Refusal where the log would not let this device join by it."""
    if token.revoked:
        raise Refusal("revoked", f"token {token.id} was revoked")
    if (device, public) in token.used:
        return
    if any(one == device for one, _ in token.used):
        raise Refusal("name-taken", f"a device {device} has joined by token {token.id} with another key")
    if len(token.used) >= token.uses:
        times = "once" if token.uses == 1 else f"{token.uses} times"
        raise Refusal("used", f"token {token.id} was good {times}, and is used")
    if now_s > token.expires_s:
        ended = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(token.expires_s))
        raise Refusal("expired", f"token {token.id} ended at {ended}")


def identity(name: str, public: bytes, roster: Roster) -> tuple[str, bool]:
    """(device id, whether it is in the roster) of who asks to be called `name`.  Raises Refusal."""
    for member in roster.members:
        for number, key in enumerate(member.keys, 1):
            if key.certificate.public == public:
                device = member.entry.device
                if number < len(member.keys) and member.public != public:
                    raise Refusal("key-taken", f"that key was {device}'s before its rotation: join with a new one")
                return device, True
    if roster.member(name) is not None:
        raise Refusal("name-taken", f"{name} is in the fleet with another key: another --name, or revoke it first")
    if is_reserved(name):
        raise Refusal("name-taken", f"{name}: that name is the fleet's own: another --name")
    return name, False


def labels_for(token: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The token's labels; what the device asks for beside them, as far as there is room."""
    found = {label.partition("=")[0]: label for label in token}
    for label in wanted:
        size = sum(len(one.encode()) + 2 for one in (*found.values(), label))
        if size <= LABELS_BYTES_MAX and len(found) < LABELS_PER_DEVICE_MAX:
            found.setdefault(label.partition("=")[0], label)
    return tuple(sorted(found.values()))


def check_room(roster: Roster, more: int) -> None:
    """more: devices that come with this one.  Raises Refusal."""
    if len(roster.members) + more >= DEVICES_MAX or len(roster.data) + (more + 1) * ENTRY_BYTES > ROSTER_BYTES_MAX:
        raise Refusal("full", f"the cell is full: {len(roster.members)} devices, {len(roster.data)} bytes of roster")


def check_grants(roster: Roster, root_public: bytes, issuer: bytes, token: TokenState) -> None:
    """The issuer (key id) may give what the root said; a coordinator's entry is an operator's.  Raises Refusal."""
    if token.role == "coordinator":
        return
    authority = roster.open_authorities(root_public).get(issuer)
    wrong = [grant for grant in token.grants if authority is None or not authority.may_grant(grant)]
    if authority is None or wrong:
        raise Refusal("not-allowed", f"this issuer may not grant {', '.join(wrong) or 'anything'}: an operator must")
