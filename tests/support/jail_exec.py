"""A program that makes a jail, keeps frames in flight, becomes another program by exec, and reads the answers there.

argv: the cache's folder, then nothing (first life) or the state's descriptor, the lives left, and the sum so far.
Prints one JSON object at its end: {"pids": [[own, zygote, jail] of each life], "answers", "fds", "exit"}.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import cbor2
import jail_kernels as k

from edgeswarm.drivers.handover import Packer, Unpacker
from edgeswarm.drivers.jail_handover import pack_host
from edgeswarm.drivers.jails import JailHost

FRAMES = 200


class Life:
    """One program's part of the story."""

    def __init__(self, cache: str) -> None:
        self.host = JailHost(policy_dir=k.SANDBOX, cache_dir=Path(cache), mac_key=k.MAC_KEY)
        self.told: dict[str, Any] = {"pids": [], "answers": [], "fds": [], "seq": 0}
        self.exits: list[int | None] = []
        self.news = asyncio.Event()

    def on_reply(self, reply: Any) -> None:
        self.told["answers"].append([reply.seq, k.values(reply.payload)[0]])
        self.news.set()

    def on_exit(self, ended: Any) -> None:
        self.exits.append(ended.code)

    async def first(self) -> Any:
        await self.host.start()
        code = await self.host.compile(k.assemble(k.MOODY))
        return await self.host.spawn([k.moody_spec(code)], on_reply=self.on_reply, on_exit=self.on_exit)

    async def next(self, fd: int) -> Any:
        with os.fdopen(fd, "rb") as file:
            file.seek(0)
            state = cbor2.load(file)
        self.told = state["told"]
        [jail] = self.host.adopt(
            state["host"],
            Unpacker(state["fds"]),
            on_reply=lambda _, reply: self.on_reply(reply),
            on_exit=lambda _, ended: self.on_exit(ended),
        )
        for number in state["fds"]:
            os.close(number)
        self.host.listen(on=True)
        return jail

    async def fly(self, jail: Any) -> None:
        """Half of the frames are answered in this life, the others are in flight at its end."""
        last = self.told["seq"] + FRAMES
        while self.told["seq"] < last:
            self.told["seq"] += 1
            while not jail.submit(0, self.told["seq"], 1, k.row(k.ADD, self.told["seq"])):
                self.news.clear()
                await self.news.wait()

    async def all_answered(self) -> None:
        while len(self.told["answers"]) < self.told["seq"]:
            self.news.clear()
            await self.news.wait()


async def main() -> None:
    cache, *rest = sys.argv[1:]
    life = Life(cache)
    jail = await (life.next(int(rest[0])) if rest else life.first())
    left = int(rest[1]) if rest else 3
    life.told["pids"].append([os.getpid(), life.host.zygote_pid, jail.pid])
    life.told["fds"].append(len(os.listdir("/proc/self/fd")))
    await life.fly(jail)
    if left:
        life.host.listen(on=False)
        packer = Packer()
        state = {"host": pack_host(life.host, packer), "told": life.told, "fds": packer.fds}
        fd = os.memfd_create("state", 0)
        os.write(fd, cbor2.dumps(state))
        for number in packer.fds:
            os.set_inheritable(number, True)
        os.execv(sys.executable, [sys.executable, __file__, cache, str(fd), str(left - 1)])
    await life.all_answered()
    await jail.swap_weights(0, k.moody_spec(b"", weight=3.0).weights)
    assert jail.submit(0, life.told["seq"] + 1, 1, k.row(k.ADD, 5.0))
    life.told["seq"] += 1
    await life.all_answered()
    await jail.close()
    life.told["exit"] = life.exits
    await life.host.close()
    sys.stdout.write(json.dumps(life.told))


if __name__ == "__main__":
    asyncio.run(main())
