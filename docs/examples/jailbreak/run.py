"""A well-behaved agent beside a malicious one: what the one tries, and that the other does not notice.

First both share a jail, and the malicious one attacks by the means that wasm has.  Then it is taken for granted that it
found a hole in the engine and is native code: attempts from inside a real jail, by the probes of the product itself
(`edgeswarm sandbox probe` has 300 more).  After every attack the well-behaved agent is asked, and must be right.

    python docs/examples/jailbreak/run.py

Ends with 0 only if every attack failed and every answer was right.
"""

from __future__ import annotations

import hashlib
import os
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import wasmtime

from edgeswarm.assets import asset
from edgeswarm.compile import abi
from edgeswarm.drivers.jail_link import KernelSpec
from edgeswarm.drivers.jail_sync import SyncHost, SyncJail
from edgeswarm.drivers.probe_host import Column, ProbeHost, rows
from edgeswarm.errors import TrapError

HERE = Path(__file__).resolve().parent
GOOD, EVIL = 0, 1
LAYOUT = abi.Layout(
    batch_max=1,
    deterministic=True,
    input=abi.Rows(0, 8, 2),
    output=abi.Rows(65_536, 8, 2),
    weights=abi.Weights(131_008, 0, (0,)),
    memory_bytes=131_072,
    topology=hashlib.sha256(b"jailbreak").hexdigest(),
)
BY_WASM = (
    "read past its memory",
    "write past its memory",
    "copy a megabyte from there",
    "overflow the stack",
    "call past the table",
    "call what is not there",
    "call by another type",
    "take all memory",
    "never come back",
    "crash the processor",
)
"""As malicious.wat numbers them, from 1."""
BY_NATIVE_CODE = (
    ("read /etc/passwd", "open_passwd"),
    ("list the processes", "tell_list_of_processes"),
    ("open a connection", "connect_host"),
    ("run another program", "execute"),
    ("become two processes", "clone"),
    ("read its neighbour's memory", "read_memory_of_sibling"),
    ("signal its neighbour", "signal_sibling"),
    ("trace the supervisor", "trace_supervisor"),
    ("enter a namespace where it is root", "new_namespace_user"),
    ("call the kernel the 32-bit way", "int80_open"),
    ("load a program into the kernel", "bpf_program"),
    ("map new machine code", "map_executable"),
    ("change the machine code that is there", "make_code_writable"),
    ("take memory without end", "more_memory_than_allowed"),
    ("answer what nobody asked", "ring_answer_that_nobody_asked_for"),
    ("claim to have written a terabyte", "ring_head_far_ahead"),
    ("never answer again", "jail_never_answers"),
)


class Attack(NamedTuple):
    """One attempt.  failed: the attack did; unharmed: the well-behaved agent answered rightly afterwards."""

    means: str
    what: str
    failed: bool
    outcome: str
    unharmed: bool


def kernel(name: str) -> bytes:
    return abi.attach_layout(bytes(wasmtime.wat2wasm((HERE / name).read_text())), LAYOUT)


def spec(host: SyncHost, slot: int, name: str) -> KernelSpec:
    code = host.compile(kernel(name))
    return KernelSpec(slot, name, code, LAYOUT, b"", deadline_ms=100)


def is_right(jail: SyncJail, number: int) -> bool:
    mean, _ = struct.unpack("<2f", jail.call(GOOD, struct.pack("<2f", number, number + 2)))
    return bool(mean == number + 1)


def attacks(cache: Path) -> Iterator[Attack]:
    """Every attempt, as it is made."""
    settings = {"policy_dir": asset("sandbox"), "cache_dir": cache, "mac_key": os.urandom(32)}
    with SyncHost(**settings) as host:
        pair = [spec(host, GOOD, "well_behaved.wat"), spec(host, EVIL, "malicious.wat")]
        with host.spawn(pair) as jail:
            for number, what in enumerate(BY_WASM, 1):
                try:
                    jail.call(EVIL, struct.pack("<2f", number, 0))
                except TrapError as error:
                    failed, outcome = True, str(error).rpartition(": ")[2]
                else:
                    failed, outcome = False, "was answered"
                yield Attack("wasm", what, failed, outcome, is_right(jail, number))
            jail.call(EVIL, struct.pack("<2f", 20, 0))  # and it still computes, when it behaves
            with ProbeHost(Column("full", (), host.tier), **settings) as foothold:
                known = rows()  # of this architecture: aarch64 has no 32-bit way in
                attempts = [(what, probe) for what, probe in BY_NATIVE_CODE if probe in known]
                for number, (what, probe) in enumerate(attempts, 1):
                    answer = foothold.attempt(probe)
                    yield Attack("native", what, answer.status == "blocked", answer.text, is_right(jail, number))


def main() -> int:
    made = faults = 0
    with tempfile.TemporaryDirectory(prefix="edgeswarm-jailbreak-") as folder:
        for attack in attacks(Path(folder) / "cache"):
            verdict = "stopped" if attack.failed else "SUCCEEDED"
            neighbour = "neighbour right" if attack.unharmed else "NEIGHBOUR WRONG"
            sys.stdout.write(f"{attack.means:7} {attack.what:38} {verdict:10} {neighbour:16} {attack.outcome[:60]}\n")
            made += 1
            faults += not (attack.failed and attack.unharmed)
    sys.stdout.write(f"{made} attacks, {faults} that should not have been possible\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
