"""Does anything grow?  Many jails serve while random ones are killed, closed, starved and replaced, for some minutes.

Every jail is asked without pause; each tenth of a second one or more are killed with SIGKILL, closed, left spinning
past their deadline, made to trap, or lose their zygote.  Before, after and each tenth of the time are counted: memory
of host and zygote, descriptors, memfds, children that nobody reaps, cgroups.  Ends with 0 when nothing grew and every
answer was right, else with 1.

    python bench/jail_soak.py [--seconds 300] [--jails 100] [--seed 1] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import jail_kernels as k  # noqa: E402

from edgeswarm.drivers.jails import Jail, JailExit, JailHost, KernelSpec, Reply  # noqa: E402
from edgeswarm.errors import EdgeSwarmError  # noqa: E402
from edgeswarm.jail.frames import Kind  # noqa: E402

DEADLINE_MS = 300
STEP_S = 0.1
SAMPLES = 10
GROWTH_BYTES = 8 << 20
"""Of the host's own memory: its allocator keeps what many jails at once have needed; a leak grows with every jail."""


class Soak:
    """The jails by their place, and what became of them."""

    def __init__(self, host: JailHost, spec: KernelSpec, count: int, seed: int) -> None:
        self.host, self.spec, self.count = host, spec, count
        self.rng = random.Random(seed)
        self.jails: dict[int, Jail] = {}
        self.asked: dict[tuple[int, int], float] = {}
        self.tally: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
        self.seq = 0
        self.wrong: list[str] = []
        self.missing: set[int] = set(range(count))

    async def fill(self) -> None:
        """A jail at every place that has none."""
        for place in sorted(self.missing)[:4]:
            self.missing.discard(place)
            try:
                jail = await self.host.spawn(
                    [self.spec],
                    on_reply=self.replied,
                    on_exit=lambda ended, place=place: self.ended(place, ended),  # type: ignore[misc]
                )
            except EdgeSwarmError as error:
                self.tally["not started"] += 1
                self.ends[str(error).partition(": ")[2][:60]] += 1
                self.missing.add(place)
                continue
            self.tally["started"] += 1
            self.jails[place] = jail

    def replied(self, reply: Reply) -> None:
        value = self.asked.pop((reply.jail_id, reply.seq), None)
        if reply.kind != Kind.REPLY:
            self.tally["faults"] += 1
        elif value is not None and reply.payload[:4] != struct.pack("<f", 2 * value):
            self.wrong.append(f"jail {reply.jail_id}, frame {reply.seq}: {reply.payload.hex()}")
        else:
            self.tally["right answers"] += 1

    def ended(self, place: int, ended: JailExit) -> None:
        self.ends[ended.text if ended.code is not None or ended.signal is not None else f"{ended.text}, unknown"] += 1
        self.jails.pop(place, None)
        self.asked = {key: value for key, value in self.asked.items() if key[0] != ended.jail_id}
        self.missing.add(place)

    def ask(self) -> None:
        for jail in list(self.jails.values()):
            if jail.alive and jail.in_flight < 4:
                self.seq += 1
                value = float(self.rng.randrange(1 << 20))
                self.asked[jail.id, self.seq] = value
                if not jail.submit(0, self.seq, 1, k.row(k.ADD, value)):
                    self.asked.pop((jail.id, self.seq))

    async def hurt(self) -> None:
        """Something happens to one of them."""
        if not self.jails:
            return
        jail = self.rng.choice(list(self.jails.values()))
        what = self.rng.choices(("kill", "close", "spin", "trap", "scribble", "zygote"), (8, 4, 2, 2, 1, 0.2))[0]
        self.tally[what] += 1
        match what:
            case "kill" if jail.pidfd >= 0:
                with contextlib.suppress(ProcessLookupError):  # it ends in this very moment
                    signal.pidfd_send_signal(jail.pidfd, signal.SIGKILL)
            case "close":
                await jail.close()
            case "zygote" if self.host.zygote_pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.host.zygote_pid, signal.SIGKILL)
            case "spin" | "trap" | "scribble" if jail.alive:
                self.seq += 1
                jail.submit(0, self.seq, 1, k.row({"spin": k.SPIN, "trap": k.TRAP, "scribble": k.SCRIBBLE}[what]))

    async def run(self, seconds: float, samples: list[dict[str, Any]]) -> None:
        """Until then; a sample at the beginning, once all jails are there, and each tenth of the time."""
        while len(self.jails) < self.count:
            await self.fill()
        began = time.monotonic()
        while True:
            elapsed = time.monotonic() - began
            if elapsed >= len(samples) * seconds / SAMPLES:
                samples.append(self.sample(elapsed))
            if elapsed >= seconds:
                return
            self.ask()
            for _ in range(self.rng.choice((0, 1, 1, 2))):
                await self.hurt()
            await self.fill()
            await asyncio.sleep(STEP_S / 10)

    def sample(self, at_s: float) -> dict[str, Any]:
        links = [_link(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
        groups = [path for tree in self.host.groups._trees for path in tree.folder.glob(f"{self.host.groups.prefix}*")]
        children = [pid for task in os.listdir("/proc/self/task") for pid in _words(f"/proc/self/task/{task}/children")]
        zygote = self.host.zygote_pid
        return {
            "at_s": round(at_s, 1),
            "jails": len(self.host._jails),
            "host_bytes": _anonymous_bytes("self"),
            "zygote_bytes": _anonymous_bytes(str(zygote)) if zygote else 0,
            "descriptors": len(links),
            "memfds": sum("memfd:" in link for link in links),
            "zombies": sum(_is_zombie(pid) for pid in children),
            "cgroups": len(groups),
        }


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _words(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="ascii").split()
    except OSError:
        return []


def _anonymous_bytes(pid: str) -> int:
    lines = dict(line.split(":", 1) for line in (Path(f"/proc/{pid}/status")).read_text().splitlines() if ":" in line)
    return 1024 * int(lines["RssAnon"].split()[0])


def _is_zombie(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1] == b"Z"
    except OSError:
        return False


def verdict(samples: list[dict[str, Any]], rest: dict[str, Any], soak: Soak) -> list[str]:
    """What is wrong; nothing when nothing grew.  samples: the first one is taken when all jails are there."""
    first, last = samples[1] if len(samples) > 2 else samples[0], samples[-1]
    found = [f"wrong answers: {len(soak.wrong)}, first {soak.wrong[0]}"] if soak.wrong else []
    if last["host_bytes"] > first["host_bytes"] + GROWTH_BYTES:
        found.append(f"memory of the host: {first['host_bytes'] >> 10} KiB, then {last['host_bytes'] >> 10} KiB")
    per_jail = samples[0]["descriptors"] / max(1, samples[0]["jails"])
    if last["descriptors"] > samples[0]["descriptors"] + per_jail * max(0, last["jails"] - samples[0]["jails"]) + 16:
        found.append(f"descriptors: {samples[0]['descriptors']}, then {last['descriptors']}")
    found += [f"{key} left at the end: {rest[key]}" for key in ("jails", "memfds", "zombies", "cgroups") if rest[key]]
    unknown = sum(count for text, count in soak.ends.items() if text.endswith(", unknown"))
    if unknown:
        found.append(f"ends that nobody knows: {unknown}")
    return found


async def soak(seconds: float, count: int, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        host = JailHost(policy_dir=ROOT / "sandbox", cache_dir=Path(folder), mac_key=bytes(32), own_process=True)
        await host.start()
        try:
            spec = k.moody_spec(await host.compile(k.assemble(k.MOODY)), deadline_ms=DEADLINE_MS)
            samples: list[dict[str, Any]] = []
            run = Soak(host, spec, count, seed)
            await run.run(seconds, samples)
            while host.jails:
                await asyncio.gather(*(jail.close() for jail in host.jails))
            for _ in range(100):
                if not (rest := run.sample(seconds))["zombies"]:
                    break
                await asyncio.sleep(0.02)
        finally:
            await host.close()
    faults = verdict(samples, rest, run)
    tallies = {"did": dict(run.tally), "ends": dict(run.ends), "zygotes": host.zygote_starts}
    return {"samples": samples, "after": rest, **tallies, "faults": faults}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300, help="how long (default 300)")
    parser.add_argument("--jails", type=int, default=100, help="living at a time (default 100)")
    parser.add_argument("--seed", type=int, default=1, help="of what happens (default 1)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    found = asyncio.run(soak(options.seconds, options.jails, options.seed))
    if options.json:
        print(json.dumps(found, indent=1))
        return 1 if found["faults"] else 0
    heads = ("at_s", "jails", "host_bytes", "zygote_bytes", "descriptors", "memfds", "zombies", "cgroups")
    print("".join(f"{head:>14}" for head in heads))
    for row in (*found["samples"], found["after"]):
        print("".join(f"{row[head]:>14}" for head in heads))
    print("\n" + ", ".join(f"{name} {count}" for name, count in sorted(found["did"].items())))
    print("ends: " + "; ".join(f"{text} {count}" for text, count in sorted(found["ends"].items())))
    print(f"zygotes: {found['zygotes']}")
    print("verdict: " + ("; ".join(found["faults"]) or f"nothing grew in {options.seconds:.0f} s"))
    return 1 if found["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
