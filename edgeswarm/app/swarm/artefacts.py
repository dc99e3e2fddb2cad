"""Artefacts of this device: kept by their SHA-256 below DIR/swarm/artefacts, served to peers, fetched from them.

Thin for now: pieces are asked for one after the other, of one peer at a time, and the whole is verified at its end.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from edgeswarm.app.swarm.config import write_whole
from edgeswarm.app.swarm.peer import CallError
from edgeswarm.errors import CodecError, EdgeSwarmError, LimitError, RemoteError
from edgeswarm.limits import AF_FILE_BYTES_MAX, SNAPSHOT_PIECE_BYTES
from edgeswarm.wire import codec

if TYPE_CHECKING:
    from edgeswarm.app.swarm.node import SwarmNode


class Artefacts:
    def __init__(self, node: SwarmNode) -> None:
        self._node = node
        self._folder = node.folder / "artefacts"

    def start(self) -> None:
        self._node.peer.methods["artefact.piece"] = self._piece

    async def close(self) -> None:
        pass

    def _path(self, digest: bytes) -> Path:
        return self._folder / digest.hex()

    def put(self, data: bytes) -> bytes:
        """Keep `data` and serve it; its SHA-256.  Raises OSError, LimitError."""
        if len(data) > AF_FILE_BYTES_MAX:
            raise LimitError(f"artefact: at most {AF_FILE_BYTES_MAX} bytes, found {len(data)}")
        digest = hashlib.sha256(data).digest()
        if not self._path(digest).exists():
            write_whole(self._path(digest), data)
        return digest

    async def fetch(self, digest: bytes, agent: str) -> bytes:
        """From this device, else from any peer that has it.  Raises RemoteError when nobody does."""
        if self._path(digest).exists():
            return self._path(digest).read_bytes()
        state, me = self._node.replica.state, self._node.config.device
        peers = [device for device, one in state.devices.items() if one.alive and device != me]
        leader = self._node.peer.leader
        if leader is not None and leader.device in peers:
            peers.remove(leader.device)
            peers.insert(0, leader.device)
        for peer in peers:
            try:
                data = await self._from(peer, digest)
            except EdgeSwarmError:
                continue
            if hashlib.sha256(data).digest() == digest:
                self.put(data)
                return data
        raise RemoteError(f"agent {agent}: artefact {digest.hex()[:12]}: none of {len(peers)} peers has it")

    async def _from(self, peer: str, digest: bytes) -> bytes:
        data = b""
        while True:
            ask = codec.dumps([digest, len(data)])
            body = await self._node.peer.call(peer, "artefact.piece", ask, deadline_s=5.0)
            match codec.loads(body, who=peer):
                case [int(size), bytes(piece)] if size <= AF_FILE_BYTES_MAX and (piece or size == len(data)):
                    data += piece
                case _:
                    raise CodecError("artefact.piece: expected [size, piece]", who=peer)
            if len(data) >= size:
                return data

    async def _piece(self, sender: str, body: bytes) -> bytes:
        match codec.loads(body, who=sender):
            case [bytes(digest), int(offset)] if len(digest) == 32 and offset >= 0:
                pass
            case _:
                raise CodecError("artefact.piece: expected [digest, offset]", who=sender)
        try:
            return codec.dumps(self._read(digest, offset))
        except OSError:
            raise CallError("no such artefact here", who=self._node.config.device, code="not-found") from None

    def _read(self, digest: bytes, offset: int) -> list[object]:
        with open(self._path(digest), "rb") as file:
            size = file.seek(0, 2)
            file.seek(offset)
            return [size, file.read(SNAPSHOT_PIECE_BYTES)]
