"""Commands on join tokens, labels and roots: who may join, what devices are called, whom the fleet trusts.

A token is used here, in the log: whoever leads, and however often it is asked, one use is one device.  There is no
clock in the state: what has expired is judged by the time that a join names, and by the latest that any join named
(`token_time_s`) where room is needed.
"""

from __future__ import annotations

from dataclasses import replace

from edgeswarm.core.cell import changes as ch
from edgeswarm.core.cell import commands_fleet as cmd
from edgeswarm.core.cell.book import Book, Refused
from edgeswarm.core.cell.types import TokenState
from edgeswarm.limits import CELL_DEVICES_MAX, CELL_ROOTS_MAX, CELL_TOKEN_USES_MAX, CELL_TOKENS_MAX


def token_of(book: Book, token_id: str) -> TokenState:
    token = book.tokens.get(token_id)
    if token is None:
        raise Refused(f"token {token_id} is not known")
    return token


def add_token(book: Book, command: cmd.AddToken) -> list[ch.Change]:
    new = TokenState(
        command.token,
        command.public,
        command.role,
        command.uses,
        command.expires_s,
        command.approval,
        command.labels,
        command.grants,
        command.who,
    )
    old = book.tokens.get(new.id)
    if old is not None:
        if replace(old, used=(), revoked=False) == new:
            return []
        raise Refused(f"token {new.id} is there already")
    while len(book.tokens) >= CELL_TOKENS_MAX:
        if not _drop_spent(book):
            raise Refused(f"tokens: a cell keeps at most {CELL_TOKENS_MAX}, and all of them can be used: revoke some")
    book.tokens[new.id] = new
    book.note(command.who, f"token {new.id}: {new.uses} x {new.role}")
    return [ch.TokenAdded(new.id)]


def use_token(book: Book, command: cmd.UseToken) -> list[ch.Change]:
    """The same device with the same key again takes no further use, also when the token has expired meanwhile."""
    token = token_of(book, command.token)
    if token.revoked:
        raise Refused(f"token {token.id} is revoked")
    for device, public in token.used:
        if device == command.device:
            if public == command.public:
                return []
            raise Refused(f"token {token.id}: device {device} joined with another key")
    if len(token.used) >= token.uses:
        raise Refused(f"token {token.id} is used up: {token.uses} of {token.uses}")
    if command.at_s > token.expires_s:
        raise Refused(f"token {token.id} expired at {token.expires_s}, it is {command.at_s}")
    while sum(len(one.used) for one in book.tokens.values()) >= CELL_TOKEN_USES_MAX:
        if not _drop_spent(book, but=token.id):
            raise Refused(
                f"tokens: a cell keeps at most {CELL_TOKEN_USES_MAX} joins: revoke tokens that are not needed"
            )
    book.tokens[token.id] = replace(token, used=(*token.used, (command.device, command.public)))
    book.token_time_s = max(book.token_time_s, command.at_s)
    book.note(command.device, f"join with token {token.id}")
    return [ch.TokenUsed(token.id, command.device, command.public)]


def revoke_token(book: Book, command: cmd.RevokeToken) -> list[ch.Change]:
    token = token_of(book, command.token)
    if token.revoked:
        return []
    book.tokens[token.id] = replace(token, revoked=True)
    book.note(command.who, f"revoke token {token.id}")
    return [ch.TokenRevoked(token.id)]


def _drop_spent(book: Book, *, but: str = "") -> bool:
    """Forget the oldest token that nobody can use any more; False when there is none."""
    for token in book.tokens.values():
        spent = token.revoked or len(token.used) >= token.uses or token.expires_s < book.token_time_s
        if spent and token.id != but:
            del book.tokens[token.id]
            return True
    return False


# --- labels and roots -----------------------------------------------------------------------------------------------


def set_labels(book: Book, command: cmd.SetLabels) -> list[ch.Change]:
    if book.labels.get(command.device, ()) == command.labels:
        return []
    if not command.labels:
        del book.labels[command.device]
    else:
        if command.device not in book.labels and len(book.labels) >= CELL_DEVICES_MAX:
            raise Refused(f"labels: at most {CELL_DEVICES_MAX} devices have some; take those of devices that left away")
        book.labels[command.device] = command.labels
    book.note(command.who, f"labels of {command.device}: {len(command.labels)}")
    return [ch.LabelsChanged(command.device)]


def rotate_root(book: Book, command: cmd.RotateRoot) -> list[ch.Change]:
    if command.data in book.roots:
        return []
    if len(book.roots) >= CELL_ROOTS_MAX:
        raise Refused(f"roots: a cell keeps at most {CELL_ROOTS_MAX} rotations")
    book.roots = (*book.roots, command.data)
    book.note(command.who, "rotate the root")
    return [ch.RootRotated()]
