"""The `vitals` network: its agents' files, made from the headers and the weights beside this script.

What `edgeswarm demo` imports.  Needs edgeswarm with its extra `build` (numpy); nothing is trained here.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from edgeswarm.agentfile import Header
from edgeswarm.app import builder
from edgeswarm.app.flows import stream_width
from edgeswarm.drivers.keys import SigningKey
from edgeswarm.model import Mlp, load_npz
from edgeswarm.schema import decode

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import bursts  # noqa: E402

AUTOENCODER, SCORER, FUSE = "autoencoder", "scorer", "fuse"
AGENTS = (AUTOENCODER, SCORER, FUSE)
"""In the order of the data: each reads those before it."""
NEXT_SCORER = "scorer-1.1.0"
"""The scorer's next version: wider, trained from another seed.  For a swap while the network runs."""
NEXT_HIDDEN = 24
LABELS = ("normal", "cpu-burst", "memory-burst")

SCALES_OF_A_BURST = 16.0  # a memory burst is at least so many of the memory's least scale
MEMORY_SCALE_MIN = 0.1  # percent: psutil tells no less
CPU_SCALES_OF_A_BURST = 8.0
SCALE_RANGE = 1.5  # the greatest scale over the least
CPU_MEAN_MAX = 0.3  # of what a burst reaches: who is busier than that in the first seconds is not taken to be so always


def header(name: str) -> dict[str, Any]:
    """The header of one of AGENTS or of NEXT_SCORER, as its YAML says."""
    base = SCORER if name == NEXT_SCORER else name
    tree: dict[str, Any] = yaml.safe_load((HERE / f"{base}.yaml").read_text())
    if name == NEXT_SCORER:
        tree["agent_version"] = "1.1.0"
        tree["neural_config"]["hidden_layers"] = [NEXT_HIDDEN]
    return tree


def spread(tree: dict[str, Any]) -> None:
    """Let the agent of this header read its neighbours wherever they run, and be read from there.

    A row a message and no wait: at ten rows a second there is nothing to gain from batches, and 50 ms to lose."""
    for source in tree["wiring"]["sources"]:
        if source["type"] == "agent":
            read = source["agent"].removeprefix("vitals-")
            source |= {"agent": f"any/{source['agent']}", "width": stream_width(decode(header(read), Header))}
    tree["wiring"]["publish"] = {"rows": 1, "batch_ms": 0}


def weights(name: str) -> Mlp:
    """The trained network of one of AGENTS or of NEXT_SCORER."""
    return load_npz(HERE / "weights" / f"{name}.npz")


def fit_to(tree: dict[str, Any], reach: bursts.Reach) -> None:
    """Set the autoencoder's scale by how large a burst can be here: bursts.reachable()."""
    cpu = reach.cpu_percent / CPU_SCALES_OF_A_BURST
    memory = max(MEMORY_SCALE_MIN, reach.memory_percent / SCALES_OF_A_BURST)
    tree["wiring"]["normalize"] |= {
        "mean_max": [reach.cpu_percent * CPU_MEAN_MAX, 100.0],
        "std_min": [cpu, memory],
        "std_max": [cpu, memory * SCALE_RANGE],
    }


def build_agent(
    name: str,
    *,
    key: SigningKey,
    reach: bursts.Reach | None = None,
    model: Mlp | None = None,
    across_devices: bool = False,
) -> bytes:
    """One agent file.  name: of AGENTS, or NEXT_SCORER.  reach: fit it to this machine.  model: None: weights(name)."""
    tree = header(name)
    if across_devices:
        spread(tree)
    if reach is not None and name == AUTOENCODER:
        fit_to(tree, reach)
    return builder.build(tree, weights(name) if model is None else model, key=key, batch_max=16)


def build_network(
    *, key: SigningKey, reach: bursts.Reach | None = None, across_devices: bool = False
) -> dict[str, bytes]:
    """File name -> bytes of AGENTS in their order, then of NEXT_SCORER.

    across_devices: for a cell, which places each agent where it will; else all run on one device."""
    return {
        f"vitals-{name}.af": build_agent(name, key=key, reach=reach, across_devices=across_devices)
        for name in (*AGENTS, NEXT_SCORER)
    }
