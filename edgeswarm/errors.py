"""The error tree: every error EdgeSwarm raises on purpose derives from one of four families.

LocalError: we, or the person at the keyboard, misused something.  RemoteError: a file, a peer or a device did.
LimitError: a bound of `limits/` was passed.  JailError: a jail could not be made, or it died.
Texts say what was expected, what was found, and where.
"""

from __future__ import annotations


class EdgeSwarmError(Exception):
    """Root of the tree.  `exit_code` is what the command line ends with when this error reaches it."""

    exit_code = 1


class LocalError(EdgeSwarmError):
    """A call, a flag or a configuration of ours is wrong."""

    exit_code = 2


class ConfigError(LocalError):
    """A configuration file, a profile or a policy does not check out; the text lists every fault with its key."""


class CapabilityError(LocalError):
    """An agent asks for what it has no capability for."""


class LearningNotAvailableError(LocalError):
    """Learning from feedback is asked for; this version does not have it yet."""


class HandingOverError(LocalError):
    """The supervisor is handing over to another version of itself: nothing was done; ask again in a moment."""


class PermissionDeniedError(LocalError):
    """The operating system did not let us do this."""

    exit_code = 4


class RemoteError(EdgeSwarmError):
    """A file or a peer broke a rule; `who` names it."""

    exit_code = 3

    def __init__(self, message: str, *, who: str = "") -> None:
        super().__init__(f"{who}: {message}" if who else message)
        self.who = who


class AgentFileError(RemoteError):
    """An agent file is malformed: `line` (1-based, of the file) or `offset` (bytes from the file's start) say where."""

    def __init__(self, message: str, *, who: str = "", line: int | None = None, offset: int | None = None) -> None:
        where = f"line {line}: " if line is not None else f"offset {offset}: " if offset is not None else ""
        super().__init__(where + message, who=who)
        self.line = line
        self.offset = offset


class SignatureError(AgentFileError):
    """A signature is missing, broken, or of a publisher nobody trusts."""

    exit_code = 5


class ModelError(RemoteError):
    """A model's arrays do not fit together, its weights hold NaN or infinity, or a file of weights does not read."""


class NotSignedError(SignatureError):
    """The file has no signature."""


class UnknownPublisherError(SignatureError):
    """The signature is of a publisher whose key is not among the trusted ones."""


class CodecError(RemoteError):
    """Bytes of a peer or a file are not deterministic CBOR, or not of the shape that was expected."""


class CoseError(CodecError):
    """A COSE message is malformed, or its signature does not hold."""


class UnknownSignerError(CoseError):
    """A COSE message names a key that nobody here knows."""


class KernelError(RemoteError):
    """A wasm kernel does not keep the ABI, or does not compute what its golden vectors say."""


class InputError(RemoteError):
    """Input data has the wrong width or type, or holds NaN or infinity; the text says in which row."""


class LimitError(EdgeSwarmError):
    """A bound was passed; the text names the bound, its value, and what was found."""

    exit_code = 6


class JailError(EdgeSwarmError):
    """A jail could not be made, or it died."""

    exit_code = 7


class TierError(JailError):
    """This machine lacks the isolation layers that the policy asks for."""


class JailGoneError(JailError):
    """The jail died; frames it had not answered are sent once more to its successor."""


class TrapError(JailError):
    """The kernel trapped: ran past its deadline, past its memory, or hit an illegal operation."""
