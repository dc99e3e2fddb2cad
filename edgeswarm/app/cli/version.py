"""`edgeswarm version`."""

from __future__ import annotations

import importlib.metadata
import platform

import click

from edgeswarm.app.cli import output

STANDS_ON = ("wasmtime", "cbor2", "pynacl", "psutil", "click", "pyyaml", "zstandard", "numpy", "paho-mqtt")


def versions() -> dict[str, str | None]:
    """Version of each distribution, None where it is not installed."""
    found: dict[str, str | None] = {"edgeswarm": None, "python": platform.python_version()}
    for name in ("edgeswarm", *STANDS_ON):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


@click.command()
@output.json_option
def version(as_json: bool) -> None:
    """Print versions of EdgeSwarm and of what it stands on."""
    found = versions()
    text = output.table(("what", "version"), [(name, v or "not installed") for name, v in found.items()])
    output.emit(found, as_json=as_json, text=lambda: text)
