"""Hypothesis strategies for every typed message, made from the bounds that its own fields state."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Annotated, Any, Literal, Union

from hypothesis import strategies as st

from edgeswarm.wire.messages.base import MESSAGES, Chars, Items, Message, Num, Size

EXAMPLE_BYTES_MAX = 300  # long values say nothing new; their bounds have tests of their own
EXAMPLE_ITEMS_MAX = 4

classes = sorted(MESSAGES.values(), key=lambda cls: cls.SPEC.kind)


def messages() -> st.SearchStrategy[Message]:
    """Any message."""
    return st.one_of([message_of(cls) for cls in classes])


def message_of(cls: type[Any]) -> st.SearchStrategy[Any]:
    """Any message of this class, at its bounds now and then."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return st.builds(cls, **{field.name: value_of(hints[field.name]) for field in dataclasses.fields(cls)})


def value_of(hint: Any) -> st.SearchStrategy[Any]:
    note: Any = None
    if typing.get_origin(hint) is Annotated:
        note, hint = hint.__metadata__[-1], hint.__origin__
    origin = typing.get_origin(hint)
    if origin is Union or origin is types.UnionType:
        (inner,) = [option for option in typing.get_args(hint) if option is not types.NoneType]
        return st.none() | value_of(inner)
    if origin is tuple:
        assert isinstance(note, Items)
        high = min(note.high, EXAMPLE_ITEMS_MAX)
        return st.lists(value_of(typing.get_args(hint)[0]), min_size=note.low, max_size=high).map(tuple)
    if origin is Literal:
        return st.sampled_from(typing.get_args(hint))
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return message_of(hint)
    return scalar_of(hint, note)


def scalar_of(hint: Any, note: Any) -> st.SearchStrategy[Any]:
    if hint is bool:
        return st.booleans()
    if hint is int:
        assert isinstance(note, Num)
        low, high = int(note.low), int(note.high)
        return st.integers(low, high) | st.sampled_from([low, high])
    if hint is float:
        return st.floats(max(note.low, -1e300), min(note.high, 1e300), allow_nan=False)
    if hint is bytes:
        assert isinstance(note, Size)
        return st.binary(min_size=note.low, max_size=max(note.low, min(note.high, EXAMPLE_BYTES_MAX)))
    assert hint is str and isinstance(note, Chars)
    if note.pattern:
        return st.from_regex(note.pattern, fullmatch=True).filter(lambda text: note.low <= len(text) <= note.high)
    return st.text(st.characters(exclude_categories=["Cs"]), min_size=note.low, max_size=min(note.high, 60))
