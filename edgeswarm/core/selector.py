"""Selectors: which devices of a fleet are meant.  Text in, a typed tree out, and whether a device matches it.

    selector    = "all" | conjunction *("|" conjunction)        "|" is or; "," is and, and binds tighter
    conjunction = term *("," term)
    term        = ["!"] (comparison | "label:" KEY | "has:" GLOB | "may:" CAPABILITY | "agent:" GLOB)
    comparison  = KEY ("=" | "!=") GLOB | KEY "in" "(" GLOB *("," GLOB) ")"
                | "tier" ("<=" | ">=" | "<" | ">") TIER | "percent" "=" NUMBER

KEY is one of id, profile, role, state, tier, arch(itecture), software; any other is a label's (`label:role=x` names a
label that is called like a field).  A GLOB knows `*` and `?`; "in quotes" it is taken as it is.  Tiers are in the order
of their letters: A, the strongest, is the least, so `tier<=B` is B or stronger.  `has:` is a delegate or a sensor,
`may:` what the roster grants (`may:tool:x@agent` to one agent), `agent:` what runs there.  `percent=10` takes devices
by the SHA-256 of a seed and their id: always the same ones, and 10 % lies within 50 %.  A device without a label
matches no comparison with `=` or `in`, and each with `!=`.
Decides nothing else.  Pure; app/fleet/index_sql.py says the same in SQL.  Invariant: parse(str(s)) == s.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from edgeswarm.core.selector_tree import (
    EVERYBODY,
    FIELDS,
    PERCENT_PARTS,
    ROLES,
    STATES,
    TIERS,
    Device,
    Glob,
    Has,
    Is,
    LabelIs,
    May,
    Runs,
    Selector,
    Share,
    Term,
    TierIs,
    What,
    fits,
    rank,
)
from edgeswarm.errors import LimitError, LocalError
from edgeswarm.limits import SELECTOR_CHARS_MAX, SELECTOR_STARS_MAX, SELECTOR_TERMS_MAX
from edgeswarm.wire import capability

__all__ = [
    "EVERYBODY",
    "FIELDS",
    "PERCENT_PARTS",
    "ROLES",
    "STATES",
    "TIERS",
    "Device",
    "Glob",
    "Has",
    "Is",
    "LabelIs",
    "May",
    "Runs",
    "Selector",
    "SelectorError",
    "Share",
    "Term",
    "TierIs",
    "What",
    "fits",
    "parse",
    "rank",
]

_ALIASES: Final = {"arch": "architecture"}
_CHOICES: Final = {"tier": TIERS, "role": ROLES, "state": STATES}


class SelectorError(LocalError):
    """A selector cannot be read; the text says at which character."""


# --- reading --------------------------------------------------------------------------------------------------------

_TOKEN: Final = re.compile(
    r"(?P<blank>[ \t\n]+)|(?P<word>[A-Za-z0-9_.:/@+*?%-]+)|\"(?P<text>[^\"\x00-\x1f]*)\"|(?P<sign><=|>=|!=|[<>=!(),|])"
)
_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]*")
_NUMBER: Final = re.compile(r"(\d{1,3})(?:\.(\d{1,2}))?%?")


class _Token(NamedTuple):
    kind: str  # word, text, sign, end
    text: str
    at: int  # 0-based


def parse(text: str) -> Selector:
    """Raises SelectorError (at which character, what was expected), LimitError."""
    if len(text) > SELECTOR_CHARS_MAX:
        raise LimitError(f"selector: at most {SELECTOR_CHARS_MAX} characters (SELECTOR_CHARS_MAX), found {len(text)}")
    reader = _Reader(_tokens(text))
    if reader.peek().kind == "end":
        raise SelectorError("selector: it is empty; `all` selects every device")
    if reader.peek().text == "all" and reader.peek(1).kind == "end":
        return Selector(((),), text)
    alternatives = [_conjunction(reader)]
    while reader.take("|"):
        alternatives.append(_conjunction(reader))
    if reader.peek().kind != "end":
        raise reader.wrong('expected ",", "|" or the end')
    return Selector(tuple(alternatives), text)


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    at = 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            raise SelectorError(f"selector: character {at + 1}: expected a name, a value or a sign, found {text[at]!r}")
        if token.lastgroup != "blank":
            found.append(_Token(str(token.lastgroup), token[str(token.lastgroup)], at))
        at = token.end()
    return [*found, _Token("end", "", len(text))]


class _Reader:
    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens, self._at, self._count = tokens, 0, 0

    def peek(self, ahead: int = 0) -> _Token:
        return self._tokens[min(self._at + ahead, len(self._tokens) - 1)]

    def next(self) -> _Token:
        token = self.peek()
        self._at += 1
        return token

    def take(self, sign: str) -> bool:
        """Pass over this sign, if it is there."""
        if self.peek().kind == "sign" and self.peek().text == sign:
            self._at += 1
            return True
        return False

    def count(self) -> None:
        """One more term or value.  Raises LimitError."""
        self._count += 1
        if self._count > SELECTOR_TERMS_MAX:
            raise LimitError(f"selector: at most {SELECTOR_TERMS_MAX} terms and values (SELECTOR_TERMS_MAX)")

    def wrong(self, expected: str, token: _Token | None = None) -> SelectorError:
        token = token or self.peek()
        found = "the end" if token.kind == "end" else repr(token.text)
        return SelectorError(f"selector: character {token.at + 1}: {expected}, found {found}")


def _conjunction(reader: _Reader) -> tuple[Term, ...]:
    terms = [_term(reader)]
    while reader.take(","):
        terms.append(_term(reader))
    return tuple(terms)


def _term(reader: _Reader) -> Term:
    negated = reader.take("!")
    token = reader.peek()
    if token.kind != "word":
        raise reader.wrong("expected a term, as site=hall-3, tier<=B or has:tflite")
    reader.count()
    reader.next()
    prefix, colon, rest = token.text.partition(":")
    if colon and prefix in ("has", "may", "agent"):
        return Term(_asked(reader, prefix, rest, token), negated)
    if colon and prefix == "label":
        return _compared(reader, _key(reader, rest, token), token, negated, label=True)
    return _compared(reader, _key(reader, token.text, token), token, negated, label=False)


def _key(reader: _Reader, text: str, token: _Token) -> str:
    if not _KEY.fullmatch(text):
        raise reader.wrong("expected a name before the comparison", token)
    return text


def _asked(reader: _Reader, prefix: str, rest: str, token: _Token) -> What:
    """What follows has:, may: or agent:."""
    if rest:
        glob = _glob(reader, token._replace(text=rest, at=token.at + len(prefix) + 1))
    elif reader.peek().kind == "text":
        glob = _glob(reader, reader.next())
    else:
        raise reader.wrong(f"expected a name right after {prefix}:")
    if prefix == "has":
        return Has(glob)
    if prefix == "agent":
        return Runs(glob)
    if not glob.is_plain or "*" in glob.text:
        raise reader.wrong("expected a whole capability after may:, without * or ?", token)
    try:
        wanted, _, agent = capability.canonical(glob.text).partition("@")
    except capability.CapabilityError as error:
        raise SelectorError(f"selector: character {token.at + 1}: {error}") from None
    return May(wanted, agent)


def _compared(reader: _Reader, key: str, token: _Token, negated: bool, *, label: bool) -> Term:
    """What follows a key.  `a != b` is `! a = b`."""
    key = key if label else _ALIASES.get(key, key)
    is_field = not label and key in FIELDS
    sign = reader.peek()
    globs: tuple[Glob, ...]
    if not label and key == "percent":
        reader.next()
        if sign.text != "=":
            raise reader.wrong("expected percent=NUMBER", sign)
        return Term(_share(reader), negated)
    if sign.kind == "sign" and sign.text in ("=", "!="):
        reader.next()
        globs = (_value(reader, key if is_field else ""),)
        negated ^= sign.text == "!="
    elif sign.kind == "word" and sign.text == "in":
        reader.next()
        globs = _values(reader, key if is_field else "")
    elif sign.kind == "sign" and sign.text in ("<", "<=", ">", ">="):
        if not (is_field and key == "tier"):
            raise reader.wrong("only a tier has an order; expected =, != or in (...)")
        reader.next()
        value = reader.next()
        if value.text not in TIERS:
            raise reader.wrong(f"expected a tier, one of {', '.join(TIERS)}", value)
        return Term(TierIs(sign.text, value.text), negated)  # type: ignore[arg-type]
    elif label:
        return Term(LabelIs(key), negated)
    else:
        raise reader.wrong(f"expected =, != or in (...) after {token.text} (label:{key} asks whether it is there)")
    return Term(Is(key, globs) if is_field else LabelIs(key, globs), negated)


def _values(reader: _Reader, key: str) -> tuple[Glob, ...]:
    if not reader.take("("):
        raise reader.wrong('expected "(" after in')
    found = [_value(reader, key)]
    while reader.take(","):
        found.append(_value(reader, key))
    if not reader.take(")"):
        raise reader.wrong('expected "," or ")"')
    return tuple(found)


def _value(reader: _Reader, key: str) -> Glob:
    """key: of a field, whose value may be one of a few."""
    token = reader.peek()
    if token.kind not in ("word", "text"):
        raise reader.wrong("expected a value")
    reader.count()
    reader.next()
    glob = _glob(reader, token)
    choices = _CHOICES.get(key)
    if choices is not None and not any(fits(glob, choice) for choice in choices):
        raise reader.wrong(f"expected one of {', '.join(choices)}", token)
    return glob


def _glob(reader: _Reader, token: _Token) -> Glob:
    text = token.text if token.kind == "text" else re.sub(r"\*+", "*", token.text)
    if token.kind != "text" and text.count("*") > SELECTOR_STARS_MAX:
        raise reader.wrong(f"expected at most {SELECTOR_STARS_MAX} stars in one value", token)
    return Glob(text, literal=token.kind == "text")


def _share(reader: _Reader) -> Share:
    token = reader.next()
    number = _NUMBER.fullmatch(token.text) if token.kind == "word" else None
    parts = -1 if number is None else int(number[1]) * PERCENT_PARTS + int((number[2] or "").ljust(2, "0"))
    if not 0 <= parts <= 100 * PERCENT_PARTS:
        raise reader.wrong("expected a percentage from 0 to 100, with two decimals at most", token)
    return Share(parts)
