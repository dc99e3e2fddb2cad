"""What a device says of itself when it joins, and by which id.  Reads, changes nothing."""

from __future__ import annotations

import platform
import re
import socket

import psutil

from edgeswarm import __version__
from edgeswarm.errors import EdgeSwarmError, LocalError
from edgeswarm.limits import JOIN_DELEGATES_MAX, JOIN_TEXT_CHARS_MAX
from edgeswarm.wire import topics
from edgeswarm.wire.join import Inventory, is_label

RESERVED_START = "es-"  # the broker's own users are called so
RESERVED = ("local",)  # to controller and audit: the control socket of this machine


def device_id(wanted: str, public: bytes, *, host: str | None = None) -> str:
    """`wanted`, else the host's name and six hex digits of the key: the same for this key, and hardly another's.

    Raises LocalError for a name that no device may have.
    """
    if wanted:
        if not topics.is_device(wanted) or is_reserved(wanted):
            raise LocalError(
                f"--name: expected 1 to 63 of a-z, 0-9 and -, not starting with - or {RESERVED_START},"
                f" not {RESERVED[0]}, found {wanted!r:.80}"
            )
        return wanted
    text = (socket.gethostname() if host is None else host).partition(".")[0].lower()
    clean = re.sub(r"[^a-z0-9]+", "-", text).strip("-")[:40].removeprefix(RESERVED_START).strip("-") or "device"
    return f"{clean}-{public.hex()[:6]}"


def is_reserved(name: str) -> bool:
    """A device so called would be taken for something else."""
    return name.startswith(RESERVED_START) or name in RESERVED


def labels(items: tuple[str, ...]) -> tuple[str, ...]:
    """Sorted by key, each once.  Raises LocalError."""
    for item in items:
        if not is_label(item):
            raise LocalError(f"--label: expected key=value, found {item!r:.80}")
    found = {item.partition("=")[0]: item for item in items}
    if len(found) != len(items):
        raise LocalError("--label: expected each key once")
    return tuple(found[key] for key in sorted(found))


def take(profile: str, wanted_labels: tuple[str, ...]) -> Inventory:
    """Of this machine.  Blocks for some 0.5 s: every isolation layer is tried."""
    tier, delegates = _tier()
    return Inventory(
        profile=profile[:JOIN_TEXT_CHARS_MAX],
        tier=tier,
        architecture=platform.machine()[:JOIN_TEXT_CHARS_MAX],
        software=f"edgeswarm {__version__}"[:JOIN_TEXT_CHARS_MAX],
        memory_bytes=int(psutil.virtual_memory().total),
        delegates=delegates,
        labels=wanted_labels,
    )


def _tier() -> tuple[str, tuple[str, ...]]:
    from edgeswarm.drivers.doctor import examine

    try:
        report = examine()
    except (EdgeSwarmError, OSError):
        return "", ()
    names = [name[:JOIN_TEXT_CHARS_MAX] for name, check in report.delegates.items() if check.ok]
    return report.tier, tuple(sorted(names)[:JOIN_DELEGATES_MAX])
