"""A selector as a condition of SQL: picks the rows of which core/selector.py says that they match, no other.

The percentage is a function of ours in SQLite (`register`), since it goes by a hash.  A glob is SQLite's GLOB, whose
third sign, "[", no glob of ours can hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from sqlite3 import Connection
from typing import Any, Final, assert_never

from sqlalchemy import ColumnElement, and_, exists, false, func, literal, not_, or_, true

from edgeswarm.app.fleet import index_tables as t
from edgeswarm.core import selector as sel
from edgeswarm.core.selector import Glob, Has, Is, LabelIs, May, Runs, Selector, Share, TierIs, What

_FIELDS: Final[dict[str, ColumnElement[str]]] = {
    "id": t.devices.c.device,
    **{name: t.devices.c[name] for name in sel.FIELDS if name != "id"},
}
_WHOLE: Final = 1 << 64


def register(connection: Connection) -> None:
    """What `condition` calls, for one connection of SQLite."""

    def share(seed: str, device: str, parts: int) -> bool:
        return sel.rank(seed, device) * 100 * sel.PERCENT_PARTS < parts * _WHOLE

    connection.create_function("es_share", 3, share, deterministic=True)


def condition(selector: Selector, *, seed: str = "") -> ColumnElement[bool]:
    """True for the rows of `devices` that match."""
    return or_(false(), *(_all(terms, seed) for terms in selector.alternatives))


def _all(terms: Sequence[sel.Term], seed: str) -> ColumnElement[bool]:
    found = [not_(_one(term.what, seed)) if term.negated else _one(term.what, seed) for term in terms]
    return and_(true(), *found)


def _one(what: What, seed: str) -> ColumnElement[bool]:
    device = t.devices.c.device
    match what:
        case Is(key, globs):
            return _any(_FIELDS[key], globs)
        case LabelIs(key, globs):
            wanted = [t.labels.c.key == key, *([_any(t.labels.c.value, globs)] if globs else [])]
            return device.in_(t.labels.select().with_only_columns(t.labels.c.device).where(*wanted))
        case TierIs():
            return t.devices.c.tier.in_(what.tiers())
        case Has(glob):
            return device.in_(t.has.select().with_only_columns(t.has.c.device).where(_any(t.has.c.name, (glob,))))
        case May(capability, agent):
            return exists().where(t.grants.c.device == device, _granted(capability, agent))
        case Runs(glob):
            named = _any(t.agents.c.agent, (glob,))
            return device.in_(t.agents.select().with_only_columns(t.agents.c.device).where(named))
        case Share(parts):
            return func.es_share(seed, device, parts) == 1
        case _:
            assert_never(what)


def _granted(capability: str, agent: str) -> ColumnElement[bool]:
    """See wire.capability.granted."""
    name = t.grants.c.capability
    start = func.substr(name, 1, func.length(name) - 1)
    prefix = and_(func.substr(name, -1) == "*", func.substr(literal(capability), 1, func.length(name) - 1) == start)
    return and_(t.grants.c.agent.in_({"", agent}), or_(name == capability, prefix))


def _any(column: ColumnElement[Any], globs: Sequence[Glob]) -> ColumnElement[bool]:
    plain = [glob.text for glob in globs if glob.is_plain]
    found: list[ColumnElement[bool]] = [column.in_(plain)] if plain else []
    found += [column.op("GLOB", is_comparison=True)(glob.text) for glob in globs if not glob.is_plain]
    return or_(*found)
