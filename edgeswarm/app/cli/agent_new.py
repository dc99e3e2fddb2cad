"""`edgeswarm agent new`: a folder with a commented agent.yaml that builds and runs as it is."""

from __future__ import annotations

from pathlib import Path

import click

from edgeswarm.app.cli import common, output, templates
from edgeswarm.errors import LocalError
from edgeswarm.ids import is_name


@click.command()
@click.argument("name")
@click.option(
    "--template",
    type=click.Choice(sorted(templates.TEMPLATES)),
    default="threshold",
    show_default=True,
    help="What to begin with.",
)
@click.option("--force", is_flag=True, help="Overwrite what is there.")
@output.json_option
def new(name: str, template: str, force: bool, as_json: bool) -> None:
    """Write NAME/agent.yaml, commented, and say what to do next.  NAME may be a path; its last part names the agent.

    \b
    threshold    a rule as a net: the machine's load is watched and flagged above a bound; runs at once
    autoencoder  anomalies of this machine's vitals, normalised on its own first rows; wants training
    classifier   rows of a program get one of several labels; wants training

    \b
    Example:
      edgeswarm agent new cpu-watch --template threshold
    """
    folder = Path(name)
    agent = folder.name
    if not is_name(agent):
        raise LocalError(f"agent name: expected 1 to 64 of a-z, 0-9, -, a letter first, found {agent!r}")
    made = templates.TEMPLATES[template]
    files = {path: text.replace("@NAME@", agent) for path, text in made.files.items()}
    there = [path for path in files if (folder / path).exists()]
    if there and not force:
        raise LocalError(f"{folder / there[0]}: is there already; --force overwrites it")
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        common.write_file(folder / path, text.encode())
    next_ = [
        f"edgeswarm agent build {folder}/agent.yaml {made.build.replace('@DIR@', str(folder))} -o {agent}.af",
        f"edgeswarm agent verify {agent}.af",
        f"edgeswarm run {agent}.af",
    ]
    row = {"name": agent, "template": template, "files": [str(folder / path) for path in files], "next": next_}
    text = "\n".join([f"wrote {', '.join(row['files'])}", made.hint, "next:", *(f"  {line}" for line in next_)])
    output.emit(row, as_json=as_json, text=lambda: text)
