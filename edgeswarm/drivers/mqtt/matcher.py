"""Which handlers a topic concerns (MQTT 5.0, section 4.7): a dictionary for exact topics, a tree for wildcards."""

from __future__ import annotations

from typing import Generic, TypeVar

from edgeswarm.errors import LocalError
from edgeswarm.limits import MQTT_TOPIC_BYTES_MAX, MQTT_TOPIC_LEVELS_MAX

T = TypeVar("T")


def check_topic(topic: str) -> None:
    """LocalError unless the topic can be published to: 1 byte and more, no wildcard, no NUL (section 4.7.3)."""
    if not topic or "+" in topic or "#" in topic or "\0" in topic:
        raise LocalError(f"topic {topic!r}: expected at least one character, none of them +, # or NUL")
    if len(topic.encode()) > MQTT_TOPIC_BYTES_MAX:
        raise LocalError(f"topic: at most {MQTT_TOPIC_BYTES_MAX} bytes, found {len(topic.encode())}")


def check_filter(topic_filter: str) -> None:
    """LocalError unless the filter is well formed: # only as the last level, + only as a whole level (4.7.1)."""
    levels = topic_filter.split("/")
    if not topic_filter or "\0" in topic_filter or len(topic_filter.encode()) > MQTT_TOPIC_BYTES_MAX:
        raise LocalError(f"topic filter {topic_filter!r}: expected 1 to {MQTT_TOPIC_BYTES_MAX} bytes without NUL")
    if len(levels) > MQTT_TOPIC_LEVELS_MAX:
        raise LocalError(f"topic filter: at most {MQTT_TOPIC_LEVELS_MAX} levels, found {len(levels)}")
    for i, level in enumerate(levels):
        if level == "#" and i == len(levels) - 1:
            continue
        if "#" in level or ("+" in level and level != "+"):
            raise LocalError(f"topic filter {topic_filter!r}: # and + stand for whole levels, # for the last one")


class _Node(Generic[T]):
    __slots__ = ("children", "values")

    def __init__(self) -> None:
        self.children: dict[str, _Node[T]] = {}
        self.values: list[T] = []


class Matcher(Generic[T]):
    """filter -> values.  Finding costs one lookup for exact filters, and a walk only where wildcards exist."""

    def __init__(self) -> None:
        self._exact: dict[str, list[T]] = {}
        self._root: _Node[T] = _Node()
        self._wild = 0

    def add(self, topic_filter: str, value: T) -> None:
        if "+" not in topic_filter and "#" not in topic_filter:
            self._exact.setdefault(topic_filter, []).append(value)
            return
        node = self._root
        for level in topic_filter.split("/"):
            node = node.children.setdefault(level, _Node())
        node.values.append(value)
        self._wild += 1

    def remove(self, topic_filter: str, value: T) -> None:
        """Nothing happens if it is not there."""
        if "+" not in topic_filter and "#" not in topic_filter:
            values = self._exact.get(topic_filter, [])
            if value in values:
                values.remove(value)
            if not values:
                self._exact.pop(topic_filter, None)
            return
        path = [self._root]
        levels = topic_filter.split("/")
        for level in levels:
            child = path[-1].children.get(level)
            if child is None:
                return
            path.append(child)
        if value not in path[-1].values:
            return
        path[-1].values.remove(value)
        self._wild -= 1
        for parent, level in zip(reversed(path[:-1]), reversed(levels), strict=True):
            child = parent.children[level]
            if child.values or child.children:
                break
            del parent.children[level]

    def find(self, topic: str) -> list[T]:
        """The values of every filter that matches; the caller must not change the list."""
        exact = self._exact.get(topic)
        if not self._wild:
            return exact or []
        found = list(exact) if exact else []
        levels = topic.split("/")
        if len(levels) > MQTT_TOPIC_LEVELS_MAX:
            return found
        # Wildcards in the first level do not match topics that begin with $ (4.7.2).
        reserved = topic.startswith("$")
        nodes = [self._root]
        for depth, level in enumerate(levels):
            following: list[_Node[T]] = []
            for node in nodes:
                wild = not (reserved and depth == 0)
                for name in (level, "+") if wild else (level,):
                    child = node.children.get(name)
                    if child is not None:
                        following.append(child)
                if wild and (rest := node.children.get("#")) is not None:
                    found += rest.values
            nodes = following
            if not nodes:
                return found
        for node in nodes:
            found += node.values
            # "a/#" also matches "a" (4.7.1.2).
            if (rest := node.children.get("#")) is not None:
                found += rest.values
        return found
