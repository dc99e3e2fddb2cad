"""Orders to stop a cell and to go on, signed by an operator: whoever publishes them, their content proves itself.

An order is a COSE_Sign1 whose key id is the operator's and whose external data names fleet and cell.  `number` counts
up: a device obeys the highest that it saw (and keeps it over restarts), so that an old order cannot be replayed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from edgeswarm import limits
from edgeswarm.wire import cose
from edgeswarm.wire.messages.base import Chars, Message, MessageError, Num, decode, encode, message

Reason = Annotated[str, Chars(limits.ORDER_REASON_CHARS_MAX)]
Number = Annotated[int, Num(1)]


@message("stop", bytes_max=limits.STOP_BYTES_MAX)
class SafetyStop(Message):
    """Every device stops its agents, now.  Topic stop, retained, CRITICAL."""

    number: Number
    reason: Reason


@message("resume", bytes_max=limits.STOP_BYTES_MAX)
class SafetyResume(Message):
    """The stop is over; placements hold again."""

    number: Number
    reason: Reason


Order = SafetyStop | SafetyResume


def seal_order(order: Order, *, fleet: str, cell: str, public: bytes, sign: cose.Sign) -> bytes:
    """A signed order.  public, sign: of the operator."""
    return cose.sign1_by(encode(order), sign=sign, kid=cose.key_id(public), external_aad=_aad(fleet, cell))


def open_order(data: bytes, *, fleet: str, cell: str, lookup: Callable[[bytes], bytes | None]) -> Order:
    """The order in `data`, once its signature holds.

    lookup: key id -> public key of an operator (roster.operator_key), or None.
    Raises UnknownSignerError, CoseError, MessageError, LimitError.
    """
    verified = cose.verify1(
        data, lookup=lookup, external_aad=_aad(fleet, cell), who="order", bytes_max=limits.STOP_BYTES_MAX
    )
    order = decode(verified.payload, who=f"operator {verified.kid.decode(errors='replace')}")
    if not isinstance(order, SafetyStop | SafetyResume):
        raise MessageError(f"order: expected stop or resume, found {order.SPEC.kind}", who="order")
    return order


def _aad(fleet: str, cell: str) -> bytes:
    return f"edgeswarm-stop-1/{fleet}/{cell}".encode()
