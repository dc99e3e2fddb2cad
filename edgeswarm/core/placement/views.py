"""What placement asks of devices and agents, and the hard half of the question: does this device fit these needs?

Sets are sorted tuples; an empty text or set asks for nothing.  Units: bytes, thousandths of a core.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from edgeswarm.wire.capability import granted

TIERS = "CBA"
"""Isolation tiers, the weakest first."""


class BothLike(Protocol):
    """What a device offers under the names under which an agent or a task needs it."""

    @property
    def profile(self) -> str: ...
    @property
    def memory_bytes(self) -> int: ...
    @property
    def cpu_milli(self) -> int: ...
    @property
    def delegates(self) -> tuple[str, ...]: ...
    @property
    def sensors(self) -> tuple[str, ...]: ...
    @property
    def grants(self) -> tuple[str, ...]: ...
    @property
    def labels(self) -> tuple[str, ...]: ...


class CapabilitiesLike(BothLike, Protocol):
    """What a device offers."""

    @property
    def tier(self) -> str: ...
    @property
    def architecture(self) -> str: ...
    @property
    def agents_max(self) -> int: ...


class NeedsLike(BothLike, Protocol):
    """What an agent or a task needs."""

    @property
    def tier_min(self) -> str: ...
    @property
    def architectures(self) -> tuple[str, ...]: ...


class DeviceLike(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def capabilities(self) -> CapabilitiesLike: ...
    @property
    def alive(self) -> bool: ...
    @property
    def drained(self) -> bool: ...


class SpecLike(Protocol):
    """near: agents whose device is preferred; apart: agents whose device is refused; pin: the only device, or ''."""

    @property
    def id(self) -> str: ...
    @property
    def needs(self) -> NeedsLike: ...
    @property
    def pin(self) -> str: ...
    @property
    def near(self) -> tuple[str, ...]: ...
    @property
    def apart(self) -> tuple[str, ...]: ...
    @property
    def stateful(self) -> bool: ...


class AgentLike(Protocol):
    @property
    def spec(self) -> SpecLike: ...
    @property
    def device(self) -> str | None: ...
    @property
    def epoch(self) -> int: ...


Wish = tuple[str, str, tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[str, ...]]
"""The needs that a device fits or does not, whatever else it runs."""
Kind = tuple[str, str, str, tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[str, ...]]
"""What of a device such needs look at: devices of one kind fit the same wishes."""


def wish_of(needs: NeedsLike) -> Wish:
    return (
        needs.profile,
        needs.tier_min,
        needs.architectures,
        needs.delegates,
        needs.sensors,
        needs.grants,
        needs.labels,
    )


def kind_of(offer: CapabilitiesLike) -> Kind:
    return (
        offer.profile,
        offer.tier,
        offer.architecture,
        offer.delegates,
        offer.sensors,
        offer.grants,
        offer.labels,
    )


def misfits(wish: Wish, kind: Kind) -> Iterator[str]:
    """Each need that a device of this kind does not meet, as a person reads it; nothing: it fits."""
    profile, tier_min, architectures, *wanted = wish
    has_profile, tier, architecture, *offered = kind
    if profile and profile != has_profile:
        yield f"profile {profile}"
    if TIERS.index(tier) < TIERS.index(tier_min):
        yield f"tier {tier_min}"
    if architectures and architecture not in architectures:
        yield f"architecture {' or '.join(architectures)}"
    for name, wants, has in zip(("delegate", "sensor", "grant", "label"), wanted, offered, strict=True):
        for want in wants:
            if not (granted(has, want) if name == "grant" else want in has):
                yield f"{name} {want}"


def fits(wish: Wish, kind: Kind) -> bool:
    return next(misfits(wish, kind), None) is None
