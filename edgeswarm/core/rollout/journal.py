"""What a device remembers of one agent that rollouts bring: written before each step, read after each power cut.

Invariants: `base` is there exactly while a version runs (or may run) that is not proven, and says what to go back to;
`back` says why this is being done; a rollout in `failed` is not tried again here.
Pure: bytes in, bytes out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Final

from edgeswarm import schema
from edgeswarm.errors import CodecError, LimitError, RemoteError
from edgeswarm.limits import (
    ROLLOUT_BEFORE_MAX,
    ROLLOUT_FAILED_MAX,
    ROLLOUT_JOURNAL_BYTES_MAX,
    ROLLOUT_LIVES,
    ROLLOUT_WHY_CHARS_MAX,
)
from edgeswarm.schema.kinds import Length, Pattern, Range
from edgeswarm.wire import codec

_ROLLOUT: Final = r"([0-9a-f]{16})?"
_SHA256: Final = r"([0-9a-f]{64})?"
Why = Annotated[str, Length(0, ROLLOUT_WHY_CHARS_MAX)]


class JournalError(RemoteError):
    """A file is no journal of ours."""


@dataclass(frozen=True, slots=True)
class Version:
    """rollout: empty where none brought it.  artefact: SHA-256, hex; empty is no agent of that name at all."""

    rollout: Annotated[str, Pattern(_ROLLOUT)] = ""
    artefact: Annotated[str, Pattern(_SHA256)] = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """Given up here.  ordered: by the operator, and not because of anything that happened here."""

    rollout: Annotated[str, Pattern(_ROLLOUT)]
    artefact: Annotated[str, Pattern(_SHA256)]
    why: Why
    ordered: bool = False


@dataclass(frozen=True, slots=True)
class Journal:
    """Of one agent.

    target: what is fetched and checked; staged: that is done, and it is on disk.  tried: what runs on trial.  base:
    what ran before.  lives: starts of the device during the trial after an end without a word.  watched_s: how long it
    has run well.  clean: the last end was one with a word.  back: why it goes back to base, empty: it does not.
    current: what has proved itself.  before: what ran before that, newest first.  failed: oldest first.
    """

    agent: Annotated[str, Pattern(r"[a-z][a-z0-9-]{0,63}")]
    target: Version | None = None
    staged: bool = False
    tried: Version | None = None
    base: Version | None = None
    lives: Annotated[int, Range(0, 1_000_000)] = 0
    watched_s: Annotated[float, Range(0, 1e9)] = 0.0
    clean: bool = False
    back: Why = ""
    ordered: bool = False
    current: Version | None = None
    before: Annotated[tuple[Version, ...], Length(0, ROLLOUT_BEFORE_MAX)] = ()
    failed: Annotated[tuple[Failed, ...], Length(0, ROLLOUT_FAILED_MAX)] = ()

    def failure(self, version: Version) -> Failed | None:
        """Why this version of this rollout is not tried again, if it is not."""
        found = (one for one in self.failed if (one.rollout, one.artefact) == (version.rollout, version.artefact))
        return next(found, None)

    def give_up(self, version: Version, why: str, *, ordered: bool = False) -> Journal:
        """Remember that this version of this rollout is not to be tried again."""
        others = [one for one in self.failed if (one.rollout, one.artefact) != (version.rollout, version.artefact)]
        entry = Failed(version.rollout, version.artefact, why[:ROLLOUT_WHY_CHARS_MAX], ordered)
        return replace(self, failed=(*others, entry)[-ROLLOUT_FAILED_MAX:])

    def artefacts(self) -> frozenset[str]:
        """Those that must stay on this device."""
        versions = (self.target, self.tried, self.base, self.current, *self.before)
        return frozenset(version.artefact for version in versions if version is not None and version.artefact)

    def begun(self) -> Journal:
        """As the device starts: another life, which counts against a version on trial unless the last ended well."""
        if self.base is None:
            return self
        if self.clean:
            return replace(self, clean=False)
        lives = self.lives + 1
        why = f"the device broke down {lives} times with it" if lives >= ROLLOUT_LIVES else ""
        return replace(self, lives=lives, back=self.back or why)

    def ended(self, watched_s: float) -> Journal:
        """As the device ends with a word."""
        return replace(self, clean=True, watched_s=watched_s) if self.base is not None else self

    def to_bytes(self) -> bytes:
        return codec.dumps(schema.encode_whole(self))

    @classmethod
    def from_bytes(cls, data: bytes, *, who: str = "journal") -> Journal:
        """Raises JournalError."""
        try:
            tree = codec.loads(data, who=who, bytes_max=ROLLOUT_JOURNAL_BYTES_MAX)
            return schema.decode(tree, cls, where=who)
        except (CodecError, LimitError, schema.SchemaError) as error:
            raise JournalError(str(error)) from None
