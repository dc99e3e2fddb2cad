"""The commands of a page of documentation, pasted into a shell as a reader would."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from processes import as_user, environment, interpreter

PRELUDE = r"""
set -eu -o pipefail
trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT
trap 'echo "line $LINENO: $BASH_COMMAND" >&2' ERR
"""


def commands(text: str) -> str:
    """What stands in its sh blocks."""
    return "\n".join(re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL))


def paste(script: str, folder: Path, user: int | None = None) -> str:
    """What the commands printed in this folder, which is also home; each of them must end with 0."""
    programs = folder / "bin"
    programs.mkdir(parents=True)
    (programs / "edgeswarm").write_text(f'#!/bin/sh\nexec {interpreter(user)} -m edgeswarm "$@"\n')
    (programs / "edgeswarm").chmod(0o755)
    if user is not None:
        os.chown(folder, user, user)
    env = environment(home=folder) | {"PATH": f"{programs}:{os.environ['PATH']}:/usr/sbin"}
    log = programs / "log"
    with open(log, "wb") as out:  # no pipe: what goes on in the background would hold it
        done = subprocess.run(
            ["bash", "-c", PRELUDE + script], cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            timeout=300, check=False, **as_user(user),
        )  # fmt: skip
    said = log.read_text(errors="replace")
    assert done.returncode == 0, said[-6_000:]
    return said
