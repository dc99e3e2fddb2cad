"""Jails from one supervisor to the next, across exec: what is packed of the zygote and of each jail, and unpacked.

The jails notice nothing: their ends of socket and pipes stay where they are, the rings' memory is mapped again, and the
positions in it go on.  What is in flight stays in flight; its answer is read by whoever reads next.
Only jails that serve are packed.  A state is of our own making and came through no other hand; what is missing in it
raises KeyError, and the one who unpacks falls back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from edgeswarm.compile.abi import Layout
from edgeswarm.drivers.handover import Packer, Unpacker
from edgeswarm.drivers.jail_ends import Ends
from edgeswarm.drivers.jail_life import JailExit, Owner
from edgeswarm.drivers.jail_link import JailLink, Reply
from edgeswarm.drivers.jail_process import Jail
from edgeswarm.drivers.jail_spec import KernelSpec
from edgeswarm.errors import LocalError
from edgeswarm.ids import JailId

if TYPE_CHECKING:
    from edgeswarm.drivers.jails import JailHost

State = dict[str, Any]


# --- one jail's shared memory and pipes ------------------------------------------------------------------------------


def pack_link(link: JailLink, packer: Packer) -> State:
    """Between two calls of the link, when nobody reads or writes."""
    ends, writer, reader = link._ends, link._writer, link._reader
    return {
        "id": link.id,
        "fds": [packer.fd(fd) for fd in (ends.control.fileno(), ends.wake, ends.answers, ends.epoch, link._rings)],
        "size": len(link._shared.view),
        "agents": [_pack_spec(spec) for spec in link.specs.values()],
        "to_jail": [writer.head, writer._tail],
        "from_jail": [reader.head, reader.tail, reader.position],
        "flights": [[*key, *flight] for key, flight in link._flights.items()],
        "reserved": link._reserved_bytes,
        "reply_max": link._reply_bytes_max,
        "own_seq": link._own_seq,
        "progress_ns": link._progress_ns,
        "poked": [link._poked_call, link._poked_ns],
        "ended": link.answers_ended,
    }


def unpack_link(state: Mapping[str, Any], unpacker: Unpacker) -> JailLink:
    """Raises LocalError, OSError, KeyError; then nothing is left open."""
    link = JailLink.__new__(JailLink)
    link.begin(JailId(state["id"]), [_unpack_spec(one) for one in state["agents"]])
    control, wake, answers, epoch, link._rings = (unpacker.fd(number) for number in state["fds"])
    link.open(Ends.of(control, wake, answers, epoch), state["size"])
    link.loading = False
    link.answers_ended = state["ended"]
    link._writer.head, link._writer._tail = state["to_jail"]
    link._reader.head, link._reader.tail, link._reader.position = state["from_jail"]
    link._flights = {(slot, seq): (kind, rows, size, ns) for slot, seq, kind, rows, size, ns in state["flights"]}
    link._reserved_bytes, link._reply_bytes_max = state["reserved"], state["reply_max"]
    link._own_seq, link._progress_ns = state["own_seq"], state["progress_ns"]
    link._poked_call, link._poked_ns = state["poked"]
    return link


def _pack_spec(spec: KernelSpec) -> State:
    """Code and weights are in the jail."""
    return {
        "slot": spec.slot,
        "name": spec.name,
        "layout": spec.layout.to_json(),
        "memory_limit": spec.memory_limit_bytes,
        "deadline_ms": spec.deadline_ms,
        "memory_width": spec.memory_width,
    }


def _unpack_spec(state: Mapping[str, Any]) -> KernelSpec:
    return KernelSpec(
        slot=state["slot"],
        name=state["name"],
        cwasm=b"",
        layout=Layout.from_json(state["layout"]),
        weights=b"",
        memory_limit_bytes=state["memory_limit"],
        deadline_ms=state["deadline_ms"],
        memory_width=state["memory_width"],
    )


# --- one jail's life -------------------------------------------------------------------------------------------------


def pack_jail(jail: Jail, packer: Packer) -> State:
    """Raises LocalError for a jail that is ending, or with orders of ours that nobody has answered yet."""
    if jail._gone or jail._closing or jail._own or jail.pidfd < 0:
        raise LocalError(f"jail {jail.id}: it is busy, or ending")
    return {
        "pid": jail.pid,
        "pidfd": packer.fd(jail.pidfd),
        "started_ms": jail.started_ms,
        "ready": jail.ready,
        "faults": jail.faults,
        "link": pack_link(jail._link, packer),
    }


def unpack_jail(
    state: Mapping[str, Any],
    unpacker: Unpacker,
    host: Owner,
    on_reply: Callable[[Reply], None],
    on_exit: Callable[[JailExit], None],
) -> Jail:
    """A jail that is not listened to yet: see `Jail.listen`."""
    jail = Jail(host, unpack_link(state["link"], unpacker), on_reply, on_exit, listens=False)
    jail.pid, jail.pidfd = state["pid"], unpacker.fd(state["pidfd"])
    jail.started_ms, jail.ready, jail.faults = state["started_ms"], state["ready"], state["faults"]
    jail._told.set_result({"ready": jail.ready})
    jail._spawned.set_result(None)
    return jail


# --- the host --------------------------------------------------------------------------------------------------------


def busy(host: JailHost) -> str:
    """What keeps the host from being packed now; an empty text: nothing."""
    if host._zygote is None or host._hello is None or not host._hello.done():
        return "the zygote is starting"
    if host.compiler.pending:
        return "a kernel is being compiled"
    for jail in host._jails.values():
        if not isinstance(jail, Jail):
            return "a kernel is being compiled"
        if not jail.ready or jail._gone or jail._closing:
            return f"jail {jail.id} is {'ending' if jail._gone or jail._closing else 'starting'}"
        if jail._own:
            return f"jail {jail.id} is taking weights or memory"
    return ""


def pack_host(host: JailHost, packer: Packer) -> State:
    """Raises LocalError where `busy` says why not."""
    if why := busy(host):
        raise LocalError(why)
    assert host._zygote is not None and host._hello is not None
    binding = host.cache.binding
    zygotes = [host._zygote, *host._elders]
    packed = [
        {"pid": packer.child(one.pid), "socket": packer.fd(one.socket.fileno()), "version": one.version}
        for one in zygotes
    ]
    return {
        "zygote": packed[0],
        "elders": packed[1:],
        "hello": host._hello.result(),
        "binding": {name: getattr(binding, name) for name in binding.__slots__},
        "next": host._next,
        "starts": host.zygote_starts,
        "jails": [
            {
                **pack_jail(jail, packer),
                "parent": zygotes.index(host._parents[jail.id]) if jail.id in host._parents else None,
            }
            for jail in host._jails.values()
            if isinstance(jail, Jail)
        ],
    }
