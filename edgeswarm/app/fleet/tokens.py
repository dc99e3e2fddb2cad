"""Tokens of a fleet, as operators ask for them: what one is made with, made known to the cell, listed, revoked.

The secret is drawn where the operator sits, and stays there: the controller hears the public half of the key that
follows from it, and the cell's log keeps no more.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from edgeswarm.core.cell import commands as cmd
from edgeswarm.core.cell.types import TokenState
from edgeswarm.drivers import keys
from edgeswarm.errors import LocalError, RemoteError
from edgeswarm.limits import TOKEN_TTL_S_MAX, TOKEN_USES_MAX
from edgeswarm.wire import capability
from edgeswarm.wire import token as wire
from edgeswarm.wire.join import labels_of

if TYPE_CHECKING:
    from edgeswarm.app.fleet.controller import Controller

ROLES: Final = ("worker", "reader", "coordinator")
TTL_S_MIN: Final = 30


class Tokens:
    """Of a controller.  Times are seconds since 1970, by its clock."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._node = controller.node

    async def offer(self, args: dict[str, Any], who: str) -> Any:
        """`token.offer`: what a token holds beside its id and secret."""
        config = self._controller.folder.config
        issuer = self._controller.issuer
        if issuer is None:
            raise LocalError("the issuer does not run")
        return {"brokers": list(config.join_brokers), "fleet": config.fleet, "ca": issuer.enrolment.by.public}

    async def create(self, args: dict[str, Any], who: str) -> Any:
        """`token.create`: {token, public, role, uses, ttl_s, approval, labels, grants}; the row of `list`.

        Raises RemoteError, LocalError, RejectedError, and as `propose`.
        """
        now_s = int(time.time())
        id_, public = _take(args, "token", str), _take(args, "public", bytes)
        role, uses, ttl_s = _take(args, "role", str), _take(args, "uses", int), _take(args, "ttl_s", int)
        if not wire.is_token_id(id_) or len(public) != 32:
            raise RemoteError("token.create: expected a token's id and a key of 32 bytes", who=who)
        if role not in ROLES:
            raise LocalError(f"role: expected one of {', '.join(ROLES)}, found {role!r:.40}")
        if not 0 < uses <= TOKEN_USES_MAX:
            raise LocalError(f"uses: expected 1 to {TOKEN_USES_MAX}, found {uses}")
        if not TTL_S_MIN <= ttl_s <= TOKEN_TTL_S_MAX:
            raise LocalError(f"ttl: expected {TTL_S_MIN} s to {TOKEN_TTL_S_MAX // 86_400} days, found {ttl_s} s")
        labels = labels_of(sorted(_take(args, "labels", list), key=_key), "")
        grants = capability.grants_of(map(str, _take(args, "grants", list)))
        self._check_grants(role, grants)
        speaker = self._node.config.device if who == "local" else who
        command = cmd.AddToken(
            token=id_,
            public=public,
            role=role,
            uses=uses,
            expires_s=now_s + ttl_s,
            approval=_take(args, "approval", bool) or role == "coordinator",
            labels=labels,
            grants=grants,
            who=speaker,
        )
        await self._node.propose(cmd.encode(command))
        self._controller.log.info("token_created", token=id_, role=role, uses=uses, expires_s=now_s + ttl_s, who=who)
        token = self._node.replica.state.tokens.get(id_)
        return {"token": id_} if token is None else row(token, now_s)

    def _check_grants(self, role: str, grants: tuple[str, ...]) -> None:
        """What the issuer may not give would refuse every device that comes with the token."""
        from edgeswarm.app.fleet.issuer_judge import Refusal, check_grants

        issuer = self._controller.issuer
        probe = TokenState("", b"", role, 1, 0, False, (), grants, "")
        try:
            check_grants(self._node.rosters.current, self._node.rosters.root_public, issuer.enrolment.by.kid, probe)
        except Refusal as error:
            raise LocalError(f"grant: {error}") from None

    async def list(self, args: dict[str, Any], who: str) -> Any:
        """`token.list`: every token that the cell knows, the newest last."""
        now_s = int(time.time())
        return [row(token, now_s) for token in self._node.replica.state.tokens.values()]

    async def revoke(self, args: dict[str, Any], who: str) -> Any:
        """`token.revoke`: {token}.  Raises LocalError, and as `propose`."""
        id_ = _take(args, "token", str)
        if id_ not in self._node.replica.state.tokens:
            raise LocalError(f"token {id_!r:.40}: no such token; `edgeswarm fleet token list`")
        speaker = self._node.config.device if who == "local" else who
        await self._node.propose(cmd.encode(cmd.RevokeToken(id_, speaker)))
        self._controller.log.info("token_revoked", token=id_, who=who)
        return row(self._node.replica.state.tokens[id_], int(time.time()))


def row(token: TokenState, now_s: int) -> dict[str, Any]:
    """A token, for people and programs: nothing of it is secret."""
    spent = len(token.used) >= token.uses
    state = "revoked" if token.revoked else "used" if spent else "expired" if now_s > token.expires_s else "open"
    return {
        "token": token.id,
        "key": keys.key_id(token.public),
        "role": token.role,
        "state": state,
        "uses": token.uses,
        "used": [device for device, _ in token.used],
        "expires_s": token.expires_s,
        "approval": token.approval,
        "labels": list(token.labels),
        "grants": list(token.grants),
        "who": token.who,
    }


def _key(label: object) -> str:
    return str(label).partition("=")[0]


def _take(args: dict[str, Any], key: str, kind: type) -> Any:
    value = args.get(key)
    if type(value) is not kind:
        raise RemoteError(f"token: {key}: expected {kind.__name__}, found {type(value).__name__}")
    return value


def register(controller: Controller) -> Tokens:
    tokens = Tokens(controller)
    controller.one |= {
        "token.offer": tokens.offer,
        "token.create": tokens.create,
        "token.list": tokens.list,
        "token.revoke": tokens.revoke,
    }
    controller.needs |= {"token.create": capability.TOKEN, "token.revoke": capability.TOKEN}
    return tokens
