"""etcd: members as Debian packages them, asked through gRPC at the leader, by a client that costs next to nothing."""

from __future__ import annotations

import json
import select
import shutil
import subprocess
import time
import urllib.request

from _swarm_cluster import PEERS, VALUE, Cluster, MissingError, Pacer, free_ports, wait_for
from _swarm_grpc import Channel, field

PUT = b"/etcdserverpb.KV/Put"
TIMINGS = {"default": (100, 1000), "tuned": (30, 150)}


def program() -> str:
    found = shutil.which("etcd", path=f"{PEERS}/etcd/usr/bin") or shutil.which("etcd")
    if found is None:
        raise MissingError("etcd is not here; `make bench` as root fetches Debian's etcd-server")
    return found


def version() -> str:
    said = subprocess.run([program(), "--version"], capture_output=True, text=True, check=True).stdout
    return said.split("\n")[0].replace("etcd Version: ", "")


class Etcd(Cluster):
    """timing: default (heartbeat 100 ms, election 1000 ms) or tuned (30, 150)."""

    def __init__(self, timing: str = "default") -> None:
        self._program = program()
        super().__init__()
        self.name = f"etcd {version()}, {timing} {TIMINGS[timing][0]}/{TIMINGS[timing][1]} ms"
        self._heartbeat_ms, self._election_ms = TIMINGS[timing]
        self._number = 0
        self._leader = 0

    def start(self, members: int) -> None:
        ports = free_ports(2 * members)
        self._clients, self._peers = ports[:members], ports[members:]
        for member in range(members):
            self.spawn(member)
        wait_for(self.name, lambda: self.leader() is not None)
        wait_for(self.name, self.is_whole)

    def spawn(self, member: int) -> None:
        client, peer = (f"http://127.0.0.1:{ports[member]}" for ports in (self._clients, self._peers))
        everybody = ",".join(f"m{number}=http://127.0.0.1:{port}" for number, port in enumerate(self._peers))
        flags = {
            "name": f"m{member}",
            "data-dir": str(self.folder / f"m{member}"),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": everybody,
            "heartbeat-interval": str(self._heartbeat_ms),
            "election-timeout": str(self._election_ms),
            "log-level": "error",
        }
        self.popen(member, [self._program, *(f"--{key}={value}" for key, value in flags.items())])

    def _status(self, member: int) -> dict[str, object]:
        url = f"http://127.0.0.1:{self._clients[member]}/v3/maintenance/status"
        with urllib.request.urlopen(urllib.request.Request(url, b"{}"), timeout=0.5) as answer:
            found: dict[str, object] = json.load(answer)
        return found

    def port(self, member: int) -> int:
        """Where it listens to clients."""
        return self._clients[member]

    def leader(self) -> int | None:
        for member in self.processes:
            try:
                status = self._status(member)
            except OSError:
                continue
            header = status["header"]
            assert isinstance(header, dict)
            if status.get("leader") == header["member_id"]:
                self._leader = member
                return member
        return None

    def is_whole(self) -> bool:
        try:
            found = [self._status(member) for member in self.processes]
        except OSError:
            return False
        indexes = [int(str(status.get("raftAppliedIndex", 0))) for status in found]
        return len({status.get("leader") for status in found}) == 1 and max(indexes) - min(indexes) < 100

    def _put(self) -> bytes:
        self._number += 1
        return field(1, b"key-%d" % (self._number % 1000)) + field(2, VALUE)

    def load(self, *, in_flight: int, seconds: float, rate: float = 0.0) -> list[float]:
        assert self.leader() is not None
        channel = Channel(self._clients[self._leader])
        pacer, began = Pacer(rate), {}
        took: list[float] = []
        until = time.perf_counter() + seconds
        try:
            while (now := time.perf_counter()) < until or began:
                while now < until and len(began) < in_flight and (at := pacer.due(now)) is not None:
                    began[channel.send(PUT, self._put())] = at
                    now = now if rate else time.perf_counter()
                for answer in channel.poll(pacer.wait_s(time.perf_counter()) if len(began) < in_flight else 1.0):
                    if not answer.ok:
                        raise RuntimeError("etcd refused a write")
                    took.append((answer.at - began.pop(answer.stream)) * 1000)
        finally:
            channel.close()
        return took

    def first_write(self, killed: int, since: float, seconds: float = 20.0) -> float:
        """A new write to each of the other members every 5 ms: etcd may lose those that it forwards to a dead leader,
        and holds others back until there is a leader."""
        channels = [Channel(port) for member, port in enumerate(self._clients) if member != killed]
        due = 0.0
        try:
            while (now := time.perf_counter()) < since + seconds:
                if now >= due:
                    due = now + 0.005
                    for channel in channels:
                        channel.send(PUT, self._put())
                ready, _, _ = select.select(channels, [], [], max(0.0, due - now))
                for channel in ready:
                    for answer in channel.poll(0.0):
                        if answer.ok and answer.at > since:
                            return (answer.at - since) * 1000
        finally:
            for channel in channels:
                channel.close()
        raise TimeoutError(f"{self.name}: no write within {seconds:g} s")
