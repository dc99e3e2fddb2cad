"""Where the shipped data is: `edgeswarm/shipped/<area>/` in a wheel, the repository's folder in a checkout."""

from __future__ import annotations

from pathlib import Path

from edgeswarm.errors import LocalError

AREAS = ("wasm_kernels", "sandbox", "profiles", "firmware_configs")
_PACKAGE = Path(__file__).resolve().parent


def asset(area: str, name: str = "") -> Path:
    """Path of the shipped file (or folder) `name` in `area`.

    area: one of AREAS.  name: relative, forward slashes, without "..".
    Raises LocalError if the area is unknown, the name climbs out of it, or the file is not shipped.
    """
    if area not in AREAS:
        raise LocalError(f"asset area: expected one of {', '.join(AREAS)}, found {area!r}")
    for root in (_PACKAGE / "shipped" / area, _PACKAGE.parent / area):
        if root.is_dir():
            path = (root / name).resolve()
            if path != root.resolve() and root.resolve() not in path.parents:
                raise LocalError(f"asset name: expected a path below {area}/, found {name!r}")
            if path.exists():
                return path
            raise LocalError(f"asset {area}/{name}: not shipped (looked in {root})")
    raise LocalError(f"asset area {area}: not shipped (looked beside {_PACKAGE})")
