"""`edgeswarm` and `python -m edgeswarm`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; ends the process with an exit code of docs/cli.md."""
    from edgeswarm.app import handover_guard

    sys.exit(handover_guard.run(_start))


def _start() -> int:
    from edgeswarm.app.cli import root

    return root.run()


if __name__ == "__main__":
    main()
