"""`edgeswarm join`: pin, ask, write, be seen.  What goes wrong before the writing leaves the device as it was.

Nothing says joined before the controller has heard this device with its new certificate: by the running daemon, which
enters the cell without a restart, or by a short connection where none runs.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeswarm.app.join import clock, folder, inventory, line, seen
from edgeswarm.app.swarm import config as cell_config
from edgeswarm.drivers import keys
from edgeswarm.drivers.keys import SigningKey
from edgeswarm.errors import LocalError, RemoteError
from edgeswarm.limits import JOIN_SEEN_S
from edgeswarm.wire import cose, join
from edgeswarm.wire.certificate import Signatory
from edgeswarm.wire.join import Inventory, Membership, Request, Topic
from edgeswarm.wire.token import Token

if TYPE_CHECKING:
    from edgeswarm.drivers.control import ControlClient

DAEMON_S = JOIN_SEEN_S + 30.0  # the daemon starts its part in the cell, and is heard


class JoinRefusedError(RemoteError):
    """The fleet does not take this device; `code` is a stable word (wire/join_form.py)."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Wish:
    """name, profile: "" where nothing was said.  move: leave another fleet first.  socket: where a daemon may listen.

    found: the inventory, where it is known already.
    """

    state_dir: Path
    name: str = ""
    profile: str = "default"
    labels: tuple[str, ...] = ()
    move: bool = False
    socket: Path | None = None
    found: Inventory | None = None


async def dry_run(token: Token, wish: Wish) -> dict[str, Any]:
    """Everything but the asking: whom it would ask, what it would say.  Writes nothing.  Raises as `run`."""
    _check_move(token, wish)
    path = wish.state_dir / "keys" / "device.key"
    key = keys.load_or_make(path)[0] if path.exists() else keys.from_seed(os.urandom(32))
    found = await _inventory(wish)
    request, question = _question(token, wish, key, found)
    rows, good = [], 0
    for broker in line.pinned(token, lambda: clock.now(wish.state_dir)):
        try:
            await line.try_pin(broker)
            good += 1
            rows.append({"broker": broker.url, "ok": True, "why": ""})
        except RemoteError as error:
            rows.append({"broker": broker.url, "ok": False, "why": str(error)})
            last = error
    if not good:
        raise last
    name = request.name if path.exists() or wish.name else f"{request.name[:-6]}<of the key that it would make>"
    return {
        "dry_run": True,
        "fleet": token.fleet,
        "token": token.id,
        "device": name,
        "clock": "believed" if clock.now(wish.state_dir) is not None else "wrong: the pin stands in for dates",
        "brokers": rows,
        "inventory": {each: getattr(found, each) for each in Inventory.__slots__},
        "topic": question.topic.request.replace(question.topic.nonce.hex(), "<nonce>"),
        "request_bytes": len(question.data),
    }


async def run(
    token: Token,
    wish: Wish,
    *,
    times: line.Times | None = None,
    progress: Callable[[str], None] = lambda text: None,
    seen_s: float = JOIN_SEEN_S,
) -> dict[str, Any]:
    """Join; what came of it.

    Raises LocalError, PinError, NoAnswerError, StillWaitingError, JoinRefusedError, JoinError, NotSeenError, OSError.
    """
    with folder.locked(wish.state_dir):
        return await _run(token, wish, times, progress, seen_s)


async def _run(
    token: Token, wish: Wish, times: line.Times | None, progress: Callable[[str], None], seen_s: float
) -> dict[str, Any]:
    state_dir = wish.state_dir
    folder.settle(state_dir)
    _check_move(token, wish)
    key, _ = keys.load_or_make(state_dir / "keys" / "device.key")
    found = await _inventory(wish)
    _, question = _question(token, wish, key, found)
    brokers = line.pinned(token, lambda: clock.now(state_dir))
    answer = await line.ask(question, token, brokers, times=times, progress=progress)
    if answer.membership is None:
        raise JoinRefusedError(f"the fleet {token.fleet} refuses: {answer.reason}", code=answer.code)
    membership = answer.membership
    roster = await asyncio.to_thread(folder.check, membership, key, token.fleet)
    progress(f"accepted as {membership.device}, {membership.role}; roster version {roster.version}")
    by = await _enter(wish, membership, key, token, seen_s)
    return {
        "joined": True,
        "fleet": token.fleet,
        "cell": membership.cell,
        "device": membership.device,
        "number": membership.number,
        "role": membership.role,
        "roster_version": roster.version,
        "brokers": list(membership.brokers),
        "controller": membership.controller,
        "seen_by": by,
    }


async def _inventory(wish: Wish) -> Inventory:
    if wish.found is not None:
        return wish.found
    return await asyncio.to_thread(inventory.take, wish.profile, wish.labels)


def _check_move(token: Token, wish: Wish) -> None:
    """Raises LocalError where this device is another's, and was not told to leave."""
    if not cell_config.is_member(wish.state_dir) or wish.move:
        return
    try:
        now = cell_config.load(wish.state_dir)
    except LocalError:
        return  # damaged: joining again is what mends it
    if now.fleet != token.fleet:
        raise LocalError(
            f"this device is {now.device} of fleet {now.fleet}, and the token is of {token.fleet}; --move leaves"
            f" {now.fleet}: its agents are removed"
        )
    if wish.name and wish.name != now.device:
        raise LocalError(f"this device is {now.device} in {now.fleet} for its life; `edgeswarm leave` first")


def _name(token: Token, wish: Wish, key: SigningKey) -> str:
    if not wish.name and cell_config.is_member(wish.state_dir):
        try:
            now = cell_config.load(wish.state_dir)
            if now.fleet == token.fleet:
                return now.device
        except LocalError:
            pass
    return inventory.device_id(wish.name, key.public)


def _question(token: Token, wish: Wish, key: SigningKey, found: Inventory) -> tuple[Request, line.Question]:
    private, reply = join.new_reply_key(os.urandom)
    request = Request(
        token=token.id,
        fleet=token.fleet,
        name=_name(token, wish, key),
        public=key.public,
        reply=reply,
        nonce=os.urandom(join.NONCE_BYTES),
        floor_s=clock.floor(wish.state_dir),
        inventory=found,
    )
    device = Signatory(key.public, cose.signer(key.seed))
    data = join.seal_request(request, device=device, token=token.signatory(), issuer=token.ca)
    return request, line.Question(Topic(token.fleet, token.id, request.nonce), data, private)


# --- in ---------------------------------------------------------------------------------------------------------------


async def _enter(wish: Wish, found: Membership, key: SigningKey, token: Token, seen_s: float) -> str:
    """Write, and be heard; by whom: "daemon" or "join"."""
    fleet, write = token.fleet, partial(folder.write, wish.state_dir, found, key, token.fleet, token.brokers)
    client = None if wish.socket is None else await asyncio.to_thread(_daemon, wish.socket)
    if client is None:
        await asyncio.to_thread(write)
        await seen.say_hello(wish.state_dir, found.controller, wait_s=seen_s)
        return "join"
    with client:  # one connection for all: who leaves a cell is called otherwise, and its socket too
        if not folder.is_same(wish.state_dir, fleet, found) and cell_config.is_member(wish.state_dir):
            await asyncio.to_thread(_ask, client, "swarm_leave")
        await asyncio.to_thread(write)
        await asyncio.to_thread(_ask, client, "swarm_join", controller=found.controller, wait_s=seen_s)
    return "daemon"


def _daemon(socket: Path) -> ControlClient | None:
    """The daemon that listens there, if one does."""
    from edgeswarm.drivers.control import ControlClient, NotRunningError

    try:
        return ControlClient(socket, timeout_s=DAEMON_S)
    except NotRunningError:
        return None


def _ask(client: ControlClient, op: str, **args: Any) -> Any:
    from edgeswarm.drivers.control import ControlError

    try:
        return client.call(op, **args)
    except ControlError as error:
        if error.kind == "NotSeenError":
            raise seen.NotSeenError(str(error)) from None
        raise


def leave_running(socket: Path) -> bool:
    """Have the daemon that listens there leave its cell; False where none listens."""
    client = _daemon(socket)
    if client is None:
        return False
    with client:
        _ask(client, "swarm_leave")
    return True


def is_running(socket: Path) -> bool:
    client = _daemon(socket)
    if client is not None:
        client.__exit__()
    return client is not None
