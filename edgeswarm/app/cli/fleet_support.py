"""`edgeswarm fleet support-bundle`: one file for who helps from afar."""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import Any

import click

from edgeswarm.app.cli import common, fleet_view, output
from edgeswarm.errors import EdgeSwarmError


@click.command("support-bundle")
@click.option("-o", "--output", "path", type=click.Path(path_type=Path, dir_okay=False), help="Where to write it.")
@output.fleet_option
@output.json_option
def support_bundle(path: Path | None, fleet_dir: Path | None, as_json: bool) -> None:
    """Write a tar.gz for who helps from afar: versions, configuration, index, logs, audit, what `doctor` finds.

    No key, token or password is in it: what looks like one is replaced, and so is whatever the fleet's key files hold.
    Device ids, labels and texts of logs are in it.  It is made also while the controller does not run.

    \b
    Examples:
      edgeswarm fleet support-bundle
      edgeswarm fleet support-bundle -o /tmp/plant-7.tar.gz && tar -tzf /tmp/plant-7.tar.gz
    """
    from edgeswarm.app.fleet import support
    from edgeswarm.app.fleet.folder import FleetFolder, default_path

    folder = FleetFolder(fleet_dir or default_path())
    name = folder.config.fleet  # says what is wrong where there is no fleet
    live, why = _live(fleet_dir)
    now_s = int(time.time())
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now_s))
    target = path or Path(f"edgeswarm-support-{name}-{stamp}.tar.gz")
    files = support.collect(folder, live, _doctor(), _versions())
    data, removed = support.bundle(folder, files, made_s=now_s)
    common.write_file(target, data)
    target.chmod(0o600)
    found = {"path": str(target), "bytes": len(data), "files": sorted(files), "removed": removed, "controller": why}

    def text() -> str:
        lines = [f"{target}: {output.size(len(data))}, {len(files)} files, {removed} secrets removed"]
        return "\n".join([*lines, *([] if live is not None else [f"without the controller: {output.plain(why)}"])])

    click.echo(fleet_view.dumps(found) if as_json else text())


def _live(fleet_dir: Path | None) -> tuple[dict[str, Any] | None, str]:
    from edgeswarm.app.fleet import link

    try:
        with link.open_link(fleet_dir) as asking:
            found: dict[str, Any] = asking.call("support")
            return found, "answered"
    except (EdgeSwarmError, OSError) as error:
        return None, str(error)


def _doctor() -> str:
    """What `edgeswarm doctor` prints; why it does not, where it fails."""
    try:
        from edgeswarm.drivers import doctor

        return doctor.text(doctor.examine()) + "\n"
    except Exception as error:  # a bundle is wanted most where things are broken
        return f"{type(error).__name__}: {error}\n"


def _versions() -> dict[str, Any]:
    from edgeswarm.app.cli.version import versions

    return {**versions(), "machine": platform.machine(), "kernel": platform.release()}
