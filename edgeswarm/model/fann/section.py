"""The section `fann` of an agent file: the imported net, so that it can be written again byte for byte.

    EdgeSwarm-FANN 1 <as_is|packed> <f4|f8|i4> <in_order|listed> <plain|scaled>\\n
as_is: the file follows, since libfann would write it otherwise.  packed: the file without its connections follows,
then their weights, then (listed) the neurons they come from as u4; all little-endian.
scaled: the file's scaling was folded into the model.  Raises ModelError and LimitError for bytes that are not that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from edgeswarm.errors import ModelError
from edgeswarm.model.fann.check import in_order
from edgeswarm.model.fann.net import CONNECTIONS, Net
from edgeswarm.model.fann.parse import parse, parse_parts
from edgeswarm.model.fann.write import write

_FIRST_LINE: Final = re.compile(rb"EdgeSwarm-FANN 1 (as_is|packed) (f4|f8|i4) (in_order|listed) (plain|scaled)\n")
_FIRST_LINE_BYTES_MAX: Final = 64
_END_OF_TEXT: Final = f"\n{CONNECTIONS}=\n".encode()


@dataclass(frozen=True, slots=True, eq=False)
class Imported:
    """net: what the file held.  scaled: whether its scaling is in the model.  as_is: the file, where it is not what
    libfann would write for `net`."""

    net: Net
    scaled: bool = False
    as_is: bytes | None = field(default=None, repr=False)

    @property
    def file(self) -> bytes:
        """The file, byte for byte."""
        return write(self.net) if self.as_is is None else self.as_is


def imported(data: bytes, *, scaled: bool = False, who: str = "") -> Imported:
    """A `.net` file as it is kept."""
    net = parse(data, who=who)
    return Imported(net, scaled, None if write(net) == data else data)


def encode(item: Imported) -> bytes:
    """The section's bytes."""
    net = item.net
    ordered = bool((in_order(net) == net.sources).all())
    kind = "i4" if net.fixed else "f4" if net.single else "f8"
    first = (
        f"EdgeSwarm-FANN 1 {'packed' if item.as_is is None else 'as_is'} {kind} "
        f"{'in_order' if ordered else 'listed'} {'scaled' if item.scaled else 'plain'}\n"
    ).encode("ascii")
    if item.as_is is not None:
        return first + item.as_is
    text = write(replace(net, sources=net.sources[:0], weights=net.weights[:0]))
    sources = b"" if ordered else net.sources.astype("<u4").tobytes()
    return first + text + net.weights.astype("<" + kind).tobytes() + sources


def decode(data: bytes, *, who: str = "") -> Imported:
    """The inverse of `encode`."""
    found = _FIRST_LINE.match(data[:_FIRST_LINE_BYTES_MAX])
    if found is None:
        raise ModelError(f"section fann: expected EdgeSwarm-FANN 1, found {data[:20]!r}", who=who)
    form, kind, order, scaling = (part.decode() for part in found.groups())
    rest, scaled = data[found.end() :], scaling == "scaled"
    if form == "as_is":
        return _checked(Imported(parse(rest, who=who), scaled, rest), who)
    end = rest.find(_END_OF_TEXT) + len(_END_OF_TEXT)
    if end < len(_END_OF_TEXT):
        raise ModelError("section fann: expected the line of connections, found none", who=who)
    text, tail = rest[:end], rest[end:]
    weight_bytes = int(kind[1])
    each = weight_bytes + (4 if order == "listed" else 0)
    if len(tail) % each:
        raise ModelError(f"section fann: expected {each} bytes a connection, found {len(tail)} bytes", who=who)
    count = len(tail) // each
    weights = np.frombuffer(tail, "<" + kind, count).astype(np.float64)
    sources = np.frombuffer(tail, "<u4", count, count * weight_bytes) if order == "listed" else None
    if sources is not None and (sources >= 1 << 31).any():
        raise ModelError("section fann: expected the numbers of neurons, found larger ones", who=who)
    net = parse_parts(text, None if sources is None else sources.astype(np.int32), weights, who=who)
    if net.fixed != (kind == "i4"):
        raise ModelError(f"section fann: expected weights of the file's kind, found {kind}", who=who)
    return _checked(Imported(net, scaled), who)


def _checked(item: Imported, who: str) -> Imported:
    if item.scaled and not item.net.scaled:
        raise ModelError("section fann: expected scaling parameters, since it is folded in, found none", who=who)
    return item
