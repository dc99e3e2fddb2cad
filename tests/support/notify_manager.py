"""A service manager's end of the notify socket."""

from __future__ import annotations

import select
import socket


class Manager:
    """A service manager's end of the socket.  name: a path, or "@..." in the abstract space."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + name[1:] if name.startswith("@") else name)

    def heard(self) -> list[str]:
        """Every line so far."""
        lines: list[str] = []
        while select.select([self.socket], [], [], 0)[0]:
            lines += self.socket.recv(4096).decode().split("\n")
        return lines
