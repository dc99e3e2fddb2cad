"""Changes of members written as in etcd's data: `v1 l2 r3 u4`."""

from __future__ import annotations

from edgeswarm.core.raft.confchange import ConfChangeSingle, ConfChangeType

LETTERS = {
    "v": ConfChangeType.ADD_NODE,
    "l": ConfChangeType.ADD_LEARNER_NODE,
    "r": ConfChangeType.REMOVE_NODE,
    "u": ConfChangeType.UPDATE_NODE,
}


def changes_from_text(text: str) -> list[ConfChangeSingle]:
    """`v1 l2` as changes.  Raises ValueError for a word that is none."""
    changes: list[ConfChangeSingle] = []
    for word in text.split():
        if word[0] not in LETTERS or not word[1:].isdigit():
            raise ValueError(f"expected v, l, r or u and a number, found {word!r}")
        changes.append(ConfChangeSingle(LETTERS[word[0]], int(word[1:])))
    return changes
