"""Whether this machine isolates as well as its operator wants, and how to say that it does less than it could.

Tier A is every layer; B and C are degraded, and agents run there only on the operator's word: `min_tier` under [jails].
Decides nothing about what a tier is (`jail.tiers`) or what a policy needs (its own `tier_min`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from edgeswarm.app.config import Settings
from edgeswarm.errors import TierError

SETTING: Final = "jails.min_tier"
_DETAIL_CHARS_MAX: Final = 200
_ERRNO: Final = re.compile(r"^\[Errno \d+\] ")
_NAMES: Final = {"namespaces": "namespaces", "landlock": "Landlock"}


def degraded(tier: str, layers: Mapping[str, tuple[bool, str]]) -> str:
    """Which layers jails of this tier do without, and what the kernel said to them; "" for tier A."""
    lost = {"B": ("namespaces",), "C": ("namespaces", "landlock")}.get(tier, ())
    if not layers.get("landlock", (True, ""))[0]:  # tier C enters the namespaces that it can have (`plan.make_plan`)
        lost = tuple(layer for layer in lost if not layers.get(layer, (False, ""))[0])
    said = []
    for layer in lost:
        ok, detail = layers.get(layer, (False, ""))
        why = "" if ok or not detail else f" ({_ERRNO.sub('', detail)[:_DETAIL_CHARS_MAX]})"
        said.append(f"no {_NAMES[layer]}{why}")
    return ", ".join(said)


def check(tier: str, layers: Mapping[str, tuple[bool, str]], settings: Settings) -> None:
    """Raises TierError, with the setting to change, when jails here are weaker than `min_tier` accepts."""
    least = settings.profile.jails.min_tier
    if tier <= least:  # "A" < "B" < "C": a later letter is less isolation
        return
    origin = settings.origin.get(SETTING, "")
    raise TierError(
        f"isolation tier: {least} or better is wanted ({origin or 'settings'}), this machine has {tier}: "
        f'{degraded(tier, layers)}. If that is enough for your agents, say min_tier = "{tier}" under '
        f"[jails] in edgeswarm.toml, or EDGESWARM_JAILS__MIN_TIER={tier}; "
        "`edgeswarm doctor --explain` says what is missing and how to get it"
    )


def any_tier(environ: Mapping[str, str]) -> dict[str, str]:
    """For a demo: it runs agents that it has made itself and shows the tier, so it needs no word for a weaker one."""
    return {"EDGESWARM_JAILS__MIN_TIER": "C", **environ}
