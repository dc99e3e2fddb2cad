"""`edgeswarm agent ...`: the table of its commands; each lives in the module named beside it."""

from __future__ import annotations

import click

from edgeswarm.app.cli.root import CONTEXT_SETTINGS, LazyGroup

COMMANDS: dict[str, tuple[str, str, str]] = {
    "bench": ("agent_run", "bench", "Measure an agent file in a jail: latency, rows a second, memory."),
    "build": ("agent_build", "build", "Compile a model and its wiring into a signed agent file."),
    "debug": ("agent_debug", "debug", "Compare a kernel with its model layer by layer; dump tensors."),
    "deploy": ("agent_live", "deploy", "Start agents in the running supervisor."),
    "export": ("agent_export", "export", "Write an agent's model as a FANN .net file."),
    "import": ("agent_import", "import_", "Make an agent file of a trained model, such as a FANN .net file."),
    "list": ("agent_live", "list_", "List the agents of the running supervisor."),
    "new": ("agent_new", "new", "Write a commented agent.yaml to begin with."),
    "population": ("agent_population", "population", "Try many agents of one file: memory each, ticks a second."),
    "profile": ("agent_profile", "profile", "Measure each layer of a model; draw a flame graph."),
    "remove": ("agent_live", "remove", "Stop agents and forget them."),
    "run": ("agent_run", "run", "Compute a file of rows in a jail, without a supervisor."),
    "show": ("agent_files", "show", "Show what an agent file holds."),
    "sign": ("agent_files", "sign", "Sign an agent file with another key."),
    "start": ("agent_live", "start", "Start stopped agents again."),
    "stop": ("agent_live", "stop", "Stop agents, and keep them stopped over restarts."),
    "swap": ("agent_live", "swap", "Bring a running agent to another version without losing a sample."),
    "verify": ("agent_files", "verify", "Check an agent file: hashes, signature, kernel, golden vectors in a jail."),
}


@click.command(
    cls=LazyGroup,
    table=COMMANDS,
    context_settings=CONTEXT_SETTINGS,
    epilog="\b\nExamples:\n  edgeswarm agent new demo\n"
    "  edgeswarm agent build demo/agent.yaml --weights demo/weights.json -o demo.af\n"
    "  edgeswarm agent verify demo.af\n  edgeswarm agent deploy demo.af",
)
def agent() -> None:
    """Make, look at, run and deploy agent files."""
