"""What we take from paho's inside is still there: a later version that moves it fails here first."""

from __future__ import annotations

import inspect

from paho.mqtt.client import Client, _WebsocketWrapper


def test_paho_has_the_places_that_we_change() -> None:
    for name in ("_create_socket", "_handle_publish", "_do_on_publish", "_send_puback", "_send_pingreq"):
        assert callable(getattr(Client, name)), name
    assert list(inspect.signature(Client._do_on_publish).parameters) == ["self", "mid", "reason_code", "properties"]
    source = inspect.getsource(Client)
    for name in ("self._out_packet", 'self._in_packet["packet"]', 'self._in_packet["command"]', "self._ping_t"):
        assert name in source or name.replace('"', "'") in source, name
    assert "self._sock = self._create_socket()" in source


def test_pahos_websocket_takes_a_socket_of_ours() -> None:
    parameters = list(inspect.signature(_WebsocketWrapper.__init__).parameters)
    assert parameters == ["self", "socket", "host", "port", "is_ssl", "path", "extra_headers"]
