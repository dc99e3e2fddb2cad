"""Mutants of bytes and of JSON trees: the same number always gives the same mutant."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Sequence
from typing import Any

import pytest

FAST, FULL = 500, 10_000
"""How many mutants of each kind `make test` tries, and how many `make soak`."""

_WORDS = (0, 1, 7, 8, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 1 << 63, (1 << 64) - 1)
_LEAVES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**32, 2**63, 2**64, 10**400, 1e999, float("nan"), 0.5, "", "0", "\ud800",
    "\0", "../..", "x" * 5000, [], {}, [[]], [0] * 300, {"a": 1}, "/proc/self/mem",
)  # fmt: skip


def batches(*, fast: int = FAST, full: int = FULL, parts: int = 5) -> list[Any]:
    """Parameters of a test: ranges of numbers, `fast` of them in `make test`, `full` others in `make soak`."""
    found = []
    for first, count, marks in ((0, fast, ()), (fast, full, (pytest.mark.soak,))):
        step = -(-count // parts)
        for start in range(first, first + count, step):
            end = min(start + step, first + count)
            found.append(pytest.param(range(start, end), marks=marks, id=f"{start}-{end - 1}"))
    return found


def mutant(content: bytes, number: int, *, among: Sequence[bytes] = ()) -> bytes:
    """One to four changes of a kind that breaks parsers; never the content itself.  among: pieces worth inserting."""
    rng = random.Random(number)
    while True:
        found = bytearray(content)
        for _ in range(rng.choice((1, 1, 2, 4))):
            _change(found, rng, among)
        if found != content:
            return bytes(found)


def _change(found: bytearray, rng: random.Random, among: Sequence[bytes]) -> None:
    at = rng.randrange(len(found) + 1)
    end = min(len(found), at + rng.choice((1, 2, 8, 64, 512)))
    match rng.randrange(9 if among else 8):
        case 0 | 1 if at < len(found):
            found[at] ^= 1 << rng.randrange(8)
        case 2 if at < len(found):
            found[at] = rng.randrange(256)
        case 3:
            size = rng.choice((1, 2, 4, 8))
            word = rng.choice(_WORDS) & ((1 << 8 * size) - 1)
            found[at : at + size] = word.to_bytes(size, "little")
        case 4:
            del found[at:end]
        case 5:
            found[at:at] = found[at:end]
        case 6:
            found[at:at] = rng.randbytes(rng.choice((1, 4, 64)))
        case 7 if at:
            del found[at:]
        case 8:
            found[at:at] = rng.choice(among)
        case _:
            found += b"\0"


def mutant_tree(tree: dict[str, Any], number: int) -> bytes:
    """JSON of a tree in which a leaf or a branch is another, absent, or there twice; sometimes its bytes are broken."""
    rng = random.Random(number)
    found = json.loads(json.dumps(tree))
    for _ in range(rng.choice((1, 1, 2, 3))):
        _change_tree(found, rng)
    text = json.dumps(found).encode("utf-8")
    return mutant(text, number) if rng.random() < 0.3 else text


def _change_tree(tree: dict[str, Any], rng: random.Random) -> None:
    here: Any = tree
    while True:
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(here[key], dict | list) and here[key] and rng.random() < 0.8:
            here = here[key]
            continue
        match rng.randrange(4):
            case 0:
                del here[key]
            case 1 if isinstance(here, list):
                here.append(here[key])
            case _:
                here[key] = copy.deepcopy(rng.choice(_LEAVES))
        return
