"""EdgeSwarm: agent networks as jailed WebAssembly kernels, on the device where the data is.

The architecture, for whoever reads the code.

Words.  A *kernel* is WASM code generated for one model: no imports, one linear memory.  An *agent file* (`.af`) is
the signed bundle of model, kernel, wiring, limits and policy.  An *agent* is such a file deployed under a name:
sources -> window -> kernel -> decision -> sinks.  An *agent network* is agents wired to each other: one's stream is
another's source. A *sandbox* is the policy (data, in `sandbox/`); a *jail* is the process it is applied to, and hosts
the agents of one trust domain = (publisher key, policy).  The *zygote* is the pre-warmed process that jails are
forked from.  A *population* is many agents of one model in one jail, ticked by one call.  A *device* is one machine
with a supervisor.  A *cell* is the devices that share one Raft group: 1, 3 or 5 *voters*, the rest *followers* of the
leader's *feed*.  A *fleet* is the cells under one root key; its *controller* is
a device of the cell that also issues certificates and advances roll-outs.  A *task* is one run that the swarm wants, a
*job* a graph of tasks.

Two planes.  The *data plane* is many and straight: a sample goes source -> `stream.pipeline` -> jail's ring -> kernel
-> decision -> sink, and waits for no network and no disk.  The *control plane* is few and branchy: an event goes into
`core.node.handle(event, now)`, a list of effects comes out and is performed in list order; an effect that fails
becomes an event.  `core`, `stream`, `compile`, `agentfile`, `model` and `wire` decide and do no I/O; `drivers`,
`jail` and `app` do I/O and take no decisions.  Time and randomness are arguments.

Layers, imports go down only (import-linter checks it):

    __main__                             the process's entry
    app, api                             wiring: supervisor, pump, command line; what `import edgeswarm` offers
    drivers                              all daemon I/O: keys, store, sources, sinks, jails, control socket, doctor
    core | jail | stream | compile       siblings that never import each other
    agentfile                            read, write, sign, verify `.af`
    model                                layers and their numpy reference
    wire                                 deterministic CBOR, COSE_Sign1
    schema, assets                       trees -> frozen dataclasses; where shipped data is
    limits, ids, errors                  every bound with its reason; names that must not be swapped; the error tree

`edgeswarm.jail` is a second program, started by exec (`python -I -m edgeswarm.jail.zygote`): of ours it imports
limits, ids and errors only.  The supervisor imports neither wasmtime nor numpy: compiled code is only ever loaded
inside a jail.

The walk of one reading:

    1  drivers/sources_*    a row of values with the time it was read
    2  stream/pipeline      queue, join, normalise, window full -> one frame, kept until it is answered
    3  app/pump             the frame into the jail's ring, one write on a pipe
    4  jail/worker          frame -> linear memory -> kernel -> frame; nothing else is possible in there
    5  stream/pipeline      score, decision; the agent's stream goes on to the agents that read it
    6  drivers/sinks        stdout, rotating JSONL, a local socket, a command

The walk of one model to a kernel (docs/tflite.md, docs/onnx.md), and to a device's own accelerator (docs/delegates.md):

    1  model/tflite, /onnx  a file's operators, each refused by name or made nodes of ours
    2  model/graph          nodes and tensors, checked; model/ops*: what each must answer, in float64 or whole numbers
    3  compile/schedule     steps in order, tensors and scratch given memory by lifetime
    4  compile/lower_*      steps -> templates of wasm_kernels/, filled in: the code depends on shapes, never on weights
    5  compile/pack_*       weights as that code reads them; a swap of weights packs anew, and compiles nothing
    6  jail/delegate        the file itself in LiteRT, in a jail of its own, where a device has it
    7  app/delegation       measured there: the fastest whose golden vectors hold; the kernel if it dies, hangs or lies

The walk of one command through a cell (docs/swarm.md; a device is in one when DIR/swarm/cell.toml exists):

    1  app/swarm/peer       a question to the leader's inbox; who leads is believed for its certificate only
    2  app/swarm/post       sealed: COSE_Sign1 over topic, boot and sequence; opened there and nowhere else
    3  drivers/mqtt         paho inside the loop: no thread between a packet and its handler
    4  core/raft/member     proposed; votes signed, packets checked, certificates made; pure, as the simulator runs it
    5  app/swarm/raft_loop  written down (drivers/raft_store), then said, then done
    6  core/cell            applied: the same changes on every device
    7  app/swarm/hosted     what this device must run now, under which epoch, while its lease holds
    8  app/swarm/duties     while this device leads: core/health, core/placement, core/jobs -> commands, step 1 again

The walk of one device into a fleet, and of one version to it (docs/operating.md; FLEET is an operator's folder):

    1  app/fleet/init       root key (sealed), issuer, operator, roster of one voter, the broker's configuration
    2  app/join             the broker's certificate is judged by the token's pin before a byte of MQTT; sealed question
    3  app/fleet/issuer     the token is used through the log, one roster for all who ask at once, certificates, answer
    4  app/swarm/node       the device is in its cell, and heard with its new certificate: only now it has joined
    5  app/swarm/rotation   at two thirds of its certificate's life a new key, make before break
    6  app/fleet/waves      an operator has signed a plan: one wave after another, when core/rollout says so
    7  app/swarm/converge   fetch, verify, golden vectors in a jail, swap, watch; back by itself, journal on disk
    8  app/fleet/revocation an operator signs the roster without a device; lists, SIGHUP, sessions ended

What a death means: frames in flight go to the successor once more, then are set aside with their bytes (poison).
"Lost" is what is neither answered, nor dropped by its stream's declared policy, nor set aside; it is 0, and tests
hold it there.

Where to start reading: `stream/pipeline.py` (the data plane), `core/node.py` (the control plane), `jail/enter.py`
(how a process gets confined, in order), `compile/` (how a net becomes a kernel), `app/supervisor.py` (how they are
joined), `app/swarm/raft_loop.py` and `app/swarm/node.py` (the same for a cell), `app/fleet/serve.py` (a controller),
`core/rollout/converge.py` (how a version comes and goes).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeswarm.api import Agent as Agent
    from edgeswarm.api import Network as Network
    from edgeswarm.api import Runtime as Runtime
    from edgeswarm.app.population import Population as Population
    from edgeswarm.app.swarm.coordinator import SwarmCoordinator as SwarmCoordinator
    from edgeswarm.app.swarm.coordinator_job import Task as Task

__version__ = "0.1.0"
__all__ = ["Agent", "Network", "Population", "Runtime", "SwarmCoordinator", "Task", "__version__"]


def __getattr__(name: str) -> Any:
    """`edgeswarm.Runtime` and friends, imported when first asked for: the jail and `--help` import none of it."""
    if name in ("Agent", "Network", "Runtime"):
        return getattr(importlib.import_module("edgeswarm.api"), name)
    if name == "Population":
        return importlib.import_module("edgeswarm.app.population").Population
    if name in ("SwarmCoordinator", "Task"):
        module = "coordinator" if name == "SwarmCoordinator" else "coordinator_job"
        return getattr(importlib.import_module(f"edgeswarm.app.swarm.{module}"), name)
    raise AttributeError(f"module 'edgeswarm' has no attribute {name!r}")
