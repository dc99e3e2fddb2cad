"""Probes of the network: sockets of every family, and what can be done with the one socket that a jail holds."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from errno import EAFNOSUPPORT, EAGAIN, ECONNREFUSED, EINVAL, ENOTCONN, EOPNOTSUPP
from typing import Final

from edgeswarm.jail.probes import SPARE, Group, Place, control, probe

_sockets: Final = Group("network", "seccomp")
_DATAGRAM, _STREAM, _RAW = 2, 1, 3

# family, kind, protocol.  The kernel loads a module for a family that it does not have: those are tried with care
for _name, _family, _kind, _protocol, _careful in (
    ("inet_stream", 2, _STREAM, 0, False),
    ("inet_datagram", 2, _DATAGRAM, 0, False),
    ("inet_raw", 2, _RAW, 1, False),
    ("inet_ping", 2, _DATAGRAM, 1, False),
    ("inet6_stream", 10, _STREAM, 0, False),
    ("inet6_datagram", 10, _DATAGRAM, 0, False),
    ("unix_stream", 1, _STREAM, 0, False),
    ("unix_datagram", 1, _DATAGRAM, 0, False),
    ("netlink_route", 16, _RAW, 0, False),
    ("netlink_audit", 16, _RAW, 9, False),
    ("netlink_events", 16, _DATAGRAM, 15, False),
    ("packet", 17, _RAW, 0x300, False),
    ("vsock", 40, _STREAM, 0, True),
    ("alg", 38, 5, 0, True),
    ("key", 15, _RAW, 2, True),
    ("bluetooth", 31, _RAW, 1, True),
    ("can", 29, _RAW, 1, True),
    ("rds", 21, 5, 0, True),
    ("tipc", 30, _STREAM, 0, True),
    ("nfc", 39, _DATAGRAM, 1, True),
    ("kcm", 41, 5, 0, True),
    ("qrtr", 42, _DATAGRAM, 0, True),
    ("smc", 43, _STREAM, 0, True),
    ("xdp", 44, _RAW, 0, True),
    ("mctp", 45, _DATAGRAM, 0, True),
):
    _sockets(f"socket_{_name}", 41, 198, _family, _kind, _protocol, careful=_careful, undo=os.close)
_sockets("socket_of_no_family", 41, 198, 4095, _STREAM, 0, reached=(EAFNOSUPPORT,))
_sockets("socketpair", 53, 199, 1, 1, 0, SPARE)

# --- the control socket: read and write are all that a jail may do with it -------------------------------------------

_control: Final = Group("control socket", "seccomp")
_ADDRESS: Final = struct.pack("<H", 1) + b"\0edgeswarm-probe"
_control("ask_who_is_there", 55, 209, control, 1, 17, SPARE, ctypes.create_string_buffer(struct.pack("I", 64)))
_control("ask_for_credentials", 54, 208, control, 1, 16, struct.pack("I", 1), 4)
_control("name_of_socket", 51, 204, control, SPARE, ctypes.create_string_buffer(struct.pack("I", 64)))
_control("connect_elsewhere", 42, 203, control, _ADDRESS, len(_ADDRESS), reached=(EINVAL, EOPNOTSUPP, ECONNREFUSED))
_control("bind_control_socket", 49, 200, control, _ADDRESS, len(_ADDRESS), reached=(EINVAL,))
_control("listen_on_control_socket", 50, 201, control, 1, reached=(EINVAL, EOPNOTSUPP))
_control("receive_with_descriptors", 47, 212, control, ctypes.create_string_buffer(56), 0x40, reached=(EAGAIN,))
_control("read_ahead_of_supervisor", 45, 207, control, SPARE, 16, 0x42, None, None, reached=(EAGAIN, ENOTCONN))


@probe("control socket", "seccomp")
def send_a_descriptor(place: Place) -> object:
    """To a socket of our own, not to the supervisor: what is tried is the call."""
    ours, theirs = socket.socketpair()
    return socket.send_fds(ours, [b"x"], [place.keep[1]]) and theirs.fileno()


@probe("network", "namespaces", ECONNREFUSED)
def connect_abstract_socket(_place: Place) -> object:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        s.connect("\0edgeswarm-probe")
        return True


@probe("network", "namespaces", ECONNREFUSED)
def connect_host(_place: Place) -> object:
    """Port 9 of this machine: discard, where nobody listens."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
        s.connect(("127.0.0.1", 9))
        return True


@probe("network", "landlock")
def listen_for_strangers(_place: Place) -> object:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
        s.bind(("127.0.0.1", 0))
        s.listen(1)
        return s.getsockname()[1]


@probe("network", "namespaces")
def send_a_datagram(_place: Place) -> object:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        return s.sendto(b"x", ("127.0.0.1", 9))


@probe("network", "namespaces")
def name_of_host_interfaces(_place: Place) -> object:
    """More than the loopback of an empty network."""
    if len(found := socket.if_nameindex()) < 2:
        raise PermissionError(1, f"only {found}")
    return found
