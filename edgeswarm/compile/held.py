"""Weights of 8 bits, split so that a few products in a row stay within 16 bits whatever 8-bit number they meet.

x86 multiplies 16 unsigned by 16 signed bytes and adds pairs of products in 16 bits, where they saturate; a second
instruction widens.  It is the fastest that a vector of 128 bits has, and exact where no pair can saturate: where the
positive weights of what is summed together are at most 128, and so are the negative ones, for 255 * 128 < 2^15, and
-128 * 128 - 127 * 128 > -2^15 where bytes are read as signed.  Trained weights nearly all keep to it, even 4 or 8 in a
row.  `kept` are weights that all do; what they lack is the `rest`: single products, added one by one.

wasm's i16x8.relaxed_dot_i8x16_i7x16_s leaves it to the machine whether the second operand's bit 7 is a sign.  Code that
uses `kept` asks it, with one product (SIGNED), and reads its input as bytes from 0 to 255 (q + 128) or as they are:
either way the sums are the same, once their bias says which.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeswarm.errors import ModelError

ONE_SIGN_MAX = 128
REST_BYTES = 8
"""Of an entry: u16 input, u16 output, i32 what the kept weight lacks."""
REST_INDEX_MAX = 0xFFFF
_ENTRY = [("k", "<u2"), ("n", "<u2"), ("delta", "<i4")]

I64 = NDArray[np.int64]


def kept(weights: I64) -> I64:
    """[..., products that are summed together] -> the same with no more than ONE_SIGN_MAX of one sign in a row.

    As few weights as can be are changed: the largest first, towards 0.
    """
    held = weights.copy()
    for sign in (1, -1):
        own = np.maximum(sign * weights, 0)
        order = np.argsort(-own, axis=-1, kind="stable")
        sizes = np.take_along_axis(own, order, -1)
        before = np.cumsum(sizes, axis=-1) - sizes
        excess = np.maximum(own.sum(axis=-1, keepdims=True) - ONE_SIGN_MAX, 0)
        taken = np.zeros_like(own)
        np.put_along_axis(taken, order, np.clip(excess - before, 0, sizes), -1)
        held -= sign * taken
    return held


def pack_rest(rest: I64) -> bytes:
    """Entries of [inputs, outputs], input by input: neighbours add to different sums then.  In fours."""
    k, n = np.nonzero(rest)
    entries = np.zeros(-(-len(k) // 4) * 4, _ENTRY)
    for name, values in (("k", k), ("n", n), ("delta", rest[k, n])):
        entries[name][: len(k)] = values
    return entries.tobytes()


def unpack_rest(data: bytes, inputs: int, outputs: int) -> I64:
    """The inverse of `pack_rest`.  Raises ModelError for what it never gives: weights may come from strangers."""
    if len(data) % REST_BYTES:
        raise ModelError(f"weights: expected a rest of {REST_BYTES} bytes an entry, found {len(data)}")
    entries = np.frombuffer(data, _ENTRY)
    if len(entries) and (entries["k"].max() >= inputs or entries["n"].max() >= outputs):
        raise ModelError(f"weights: expected a rest for {inputs} inputs and {outputs} outputs, found one for more")
    rest = np.zeros((inputs, outputs), np.int64)
    np.add.at(rest, (entries["k"], entries["n"]), entries["delta"])
    return rest
