"""The next roster, signed by who has the keys and handed to the controller, which may just be making one itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from edgeswarm.app.fleet.link import Link
from edgeswarm.errors import RemoteError
from edgeswarm.wire.roster import Roster

_TRIES: Final = 5


def put_next(link: Link, root_public: bytes, make: Callable[[Roster], Roster | None]) -> Roster:
    """Make what follows the roster of now and put it; again where another came meanwhile, as a device's renewal does.

    make: the next of a roster, None where nothing is to be changed.  Returns the roster that holds then.  Raises what
    the controller refuses it for.
    """
    for left in reversed(range(_TRIES)):
        roster = _now(link, root_public)
        fresh = make(roster)
        if fresh is None:
            return roster
        try:
            link.call("roster.put", data=fresh.data)
        except RemoteError:
            holds = _now(link, root_public)
            if holds.data == fresh.data:  # it was taken, and the answer was lost
                return fresh
            if not left or holds.version == roster.version:
                raise
        else:
            return fresh
    raise AssertionError("the last try raises or returns")


def _now(link: Link, root_public: bytes) -> Roster:
    return Roster.open(link.call("roster.get")["data"], root_public=root_public)
