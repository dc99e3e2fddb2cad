"""The control socket: answers, streams, errors, and clients that misbehave."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeswarm.drivers.control import ControlClient, ControlError, ControlServer, NotRunningError, unpack
from edgeswarm.errors import CapabilityError, LocalError, RemoteError
from edgeswarm.limits import CONTROL_MESSAGE_BYTES_MAX


def answer(op: str, args: dict[str, Any]) -> Awaitable[Any] | AsyncIterator[Any]:
    async def one() -> Any:
        if op == "refuse":
            raise CapabilityError("no such capability")
        return {"op": op, **args}

    async def many() -> AsyncIterator[Any]:
        for i in range(3):
            yield i

    return many() if op == "count" else one()


def with_server(path: Path, client: Any) -> Any:
    """Run blocking `client()` in a thread against a live server."""

    async def story() -> Any:
        server = ControlServer(path, answer)
        await server.start()
        try:
            return await asyncio.to_thread(client)
        finally:
            await server.close()

    return asyncio.run(story())


def test_call_and_follow_answer_over_a_socket_only_its_owner_may_use(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"

    def client() -> Any:
        assert os.stat(path).st_mode & 0o777 == 0o600
        with ControlClient(path) as c:
            return c.call("hello", a=1), list(c.follow("count")), c.call("again")

    assert with_server(path, client) == ({"op": "hello", "a": 1}, [0, 1, 2], {"op": "again"})
    assert not path.exists()


def test_an_error_keeps_its_kind_and_exit_code_and_the_connection_lives_on(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"

    def client() -> Any:
        with ControlClient(path) as c:
            with pytest.raises(ControlError, match="no such capability") as caught:
                c.call("refuse")
            assert (caught.value.kind, caught.value.exit_code) == ("CapabilityError", 2)
            return c.call("after")

    assert with_server(path, client) == {"op": "after"}


@pytest.mark.parametrize(
    "raw", [struct.pack(">I", CONTROL_MESSAGE_BYTES_MAX + 1), b"\0\0\0\3abc", b"\0\0\0\1\x80", b"\0\0"]
)
def test_a_client_that_sends_rubbish_is_told_or_dropped_and_others_go_on(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "c.sock"

    def client() -> Any:
        with socket.socket(socket.AF_UNIX) as bad:
            bad.settimeout(5)
            bad.connect(str(path))
            bad.sendall(raw)
            bad.shutdown(socket.SHUT_WR)
            said = b""
            while piece := bad.recv(4096):
                said += piece
        if said:
            assert cbor2.loads(said[4:])["ok"] is False
        with ControlClient(path) as c:
            return c.call("fine")

    assert with_server(path, client) == {"op": "fine"}


def test_no_supervisor_is_said_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotRunningError, match="edgeswarm run"):
        ControlClient(tmp_path / "none.sock")


def test_second_supervisor_on_one_state_is_refused_and_a_stale_socket_is_not(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"

    async def story() -> None:
        first, second = ControlServer(path, answer), ControlServer(path, answer)
        await first.start()
        with pytest.raises(LocalError, match="runs on this state"):
            await second.start()
        await first.close()
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
        await second.start()
        await second.close()

    asyncio.run(story())


def test_a_path_that_does_not_fit_a_socket_address_serves_like_any_other(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 120) / ("y" * 120) / "c.sock"

    async def story() -> None:
        first, second = ControlServer(path, answer), ControlServer(path, answer)
        await first.start()
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(LocalError, match="runs on this state"):
            await second.start()
        assert await asyncio.to_thread(call) == {"op": "ping"}
        await first.close()
        assert not path.exists()

    def call() -> object:
        with ControlClient(path) as client:
            return client.call("ping")

    asyncio.run(story())


def test_a_name_that_no_socket_can_have_is_refused(tmp_path: Path) -> None:
    async def story() -> None:
        await ControlServer(tmp_path / ("x" * 120), answer).start()

    with pytest.raises(LocalError, match="cannot be made"):
        asyncio.run(story())


@given(st.binary(max_size=60))
def test_unpack_never_raises_anything_but_its_error(data: bytes) -> None:
    try:
        message = unpack(data)
    except RemoteError:
        return
    assert all(isinstance(key, str) for key in message)


def test_client_that_is_hung_up_on_is_told_so_whenever_that_is(tmp_path: Path) -> None:
    """Before it asks (EPIPE), while it asks, or before the answer (ECONNRESET)."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        for early in (True, False):
            with ControlClient(path) as client:
                peer, _ = listener.accept()
                if early:
                    peer.close()
                else:
                    client._send({"op": "ping"})
                    peer.close()  # with the request unread
                with pytest.raises(RemoteError, match="closed the connection"):
                    client.call("ping")
