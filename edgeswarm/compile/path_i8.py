"""Which path a packed int8 weights region was made for; needs the standard library only, so that devices can ask.

Weights of one path under the code of another would answer wrongly, and silently: their regions may be equally long.
"""

from __future__ import annotations

import struct

from edgeswarm.errors import InputError

NUMBERS = {"i7x4": 1, "i7": 2, "exact": 3}
"""What the region's first record holds, as float32 at AT, for each path."""
AT = 72


def check_path(weights: bytes, path: str, *, who: str = "") -> None:
    """Raises InputError unless `weights` is a region packed for the path."""
    (number,) = struct.unpack_from("<f", weights, AT) if len(weights) >= AT + 4 else (0.0,)
    if number != NUMBERS[path]:
        names = {value: name for name, value in NUMBERS.items()}
        found = names.get(number, "no int8 weights")
        raise InputError(f"weights: expected int8 weights of the path {path}, found {found}", who=who)
