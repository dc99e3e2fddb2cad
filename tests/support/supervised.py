"""A supervisor in a temporary state directory, and agents to put into it: real zygote, real jails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from edgeswarm import agentfile
from edgeswarm.agentfile.file import Section
from edgeswarm.app import builder, config
from edgeswarm.app.log import Log
from edgeswarm.app.supervisor import Supervisor
from edgeswarm.compile import Layout, Rows, Weights, attach_layout
from edgeswarm.drivers import keys
from edgeswarm.drivers.keys import SigningKey
from edgeswarm.schema import decode

KERNEL = """(module (memory (export "memory") 1 1)
  (func (export "run") {run})
  (func (export "run_batch") (param i32) {run}))"""
# bodies of kernels that misbehave when the first input is above 0.5, and else copy input 0 to output 0
IF_BAD = "(if (f32.gt (f32.load (i32.const 0)) (f32.const 0.5)) (then {bad})) {copy}"
COPY = "(f32.store (i32.const 64) (f32.load (i32.const 0)))"
BAD = {
    "trap": "unreachable",
    "loop": "(loop $l (br $l))",
    "nan": "(f32.store (i32.const 64) (f32.const nan)) return",
    "grow": "(drop (memory.grow (i32.const 60000)))",
}


class Bench:
    """One supervisor and its helpers."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.publisher, _ = keys.load_or_make(state / "keys" / "publisher.key")
        keys.trust(state / "trust.d", self.publisher.public, "test")
        self.log = Log(stream=None, level="debug")
        self.supervisor = self.make()

    def make(self, **flags: Any) -> Supervisor:
        accepted = {"jails.min_tier": "C"}  # so that a machine without every layer shows how far it gets
        return Supervisor(config.load(state=self.state, flags=accepted | flags, environ={}), log=self.log)

    def mlp(self, name: str = "a", sizes: tuple[int, ...] = (4, 8, 2), **changes: Any) -> bytes:
        """An MLP agent with an `api` source; changes: other top-level keys of the header."""
        tree = header_tree(name, sizes[0], sizes[-1], hidden=sizes[1:-1], **changes)
        model = builder.model_of(None, sizes=sizes, activation="relu", output_activation="linear")
        return builder.build(tree, model, key=changes.get("key", self.publisher))

    def bad(self, kind: str, name: str = "bad", **changes: Any) -> bytes:
        """An agent of one input whose kernel does `kind` (a key of BAD) when its input is above 0.5."""
        import wasmtime

        body = IF_BAD.format(bad=BAD[kind], copy=COPY)
        wasm = bytes(wasmtime.wat2wasm(KERNEL.format(run=body)))
        layout = Layout(
            batch_max=1,
            deterministic=True,
            input=Rows(0, 64, 1),
            output=Rows(64, 64, 1),
            weights=Weights(128, 0, (0,)),
            memory_bytes=65536,
            topology="0" * 64,
        )
        header = decode(header_tree(name, 1, 1, **changes), agentfile.Header)
        section = Section(attach_layout(wasm, layout))
        return agentfile.build(header, {"wasm_kernel": section}, publisher_key=self.publisher.seed)

    def events(self, name: str) -> list[str]:
        """Log lines of one event."""
        return [line for line in self.supervisor.log.ring.lines if f'"event":"{name}"' in line]

    def tally(self, name: str) -> dict[str, Any]:
        return dict(self.supervisor.flows.flows[name].pipeline.tally())  # type: ignore[index]


def header_tree(
    name: str, inputs: int, outputs: int, *, hidden: tuple[int, ...] = (), key: SigningKey | None = None, **changes: Any
) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "version": "1.0",
        "name": name,
        "neural_config": {
            "network_type": "feedforward",
            "input_size": inputs,
            "output_size": outputs,
            "hidden_layers": list(hidden),
            "activation_function": "relu",
        },
        "wiring": {"sources": [{"type": "api", "width": inputs}]},
    }
    return {**tree, **changes}


async def until(condition: Callable[[], Any], *, within_s: float = 10.0) -> Any:
    """Wait until `condition()` is true; its value."""
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "condition did not come true"
        await asyncio.sleep(0.005)
    return found


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """A started supervisor; at the end nothing may be lost, and no jail may be left."""
    made = Bench(tmp_path)
    await made.supervisor.start()
    yield made
    flows = list(made.supervisor.flows.flows.values())
    pids = [jail.pid for jail in made.supervisor.jails.values()]
    await made.supervisor.close()
    assert all(flow.pipeline.lost == 0 for flow in flows)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert not made.events("control_fault") and not made.events("task_fault")
