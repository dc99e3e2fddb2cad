"""Firmware pieces: what an image or a machine should have, and whether this one has it.

Decides, for each piece of `firmware_configs/<target>/manifest.toml`, whether its `verify` holds here.  Changes nothing:
`set` is for whoever builds the image.  A piece whose `when` path is absent does not apply; what cannot be read (no
permission, no kernel configuration) is `unknown`, never `ok`.
"""

from __future__ import annotations

import gzip
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, assert_never

from edgeswarm import schema
from edgeswarm.assets import asset
from edgeswarm.errors import ConfigError
from edgeswarm.limits import CONFIG_BYTES_MAX, KERNEL_CONFIG_BYTES_MAX
from edgeswarm.schema import Doc, Length, Pattern

Text = Annotated[str, Length(1, 300)]
Inside = Annotated[str, Pattern(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*", "a path in the folder")]
Absolute = Annotated[str, Pattern(r"(/[A-Za-z0-9._-]+)+", "an absolute path")]


@dataclass(frozen=True, slots=True)
class Install:
    """Copy a file."""

    type: Literal["install"]
    file: Inside
    to: Absolute
    then: Annotated[Text, Doc("the command that makes it count")]

    def text(self, target: str) -> str:
        return f"install firmware_configs/{target}/{self.file} as {self.to}, then: {self.then}"


@dataclass(frozen=True, slots=True)
class Merge:
    """Merge a fragment into something larger."""

    type: Literal["merge"]
    file: Inside
    into: Text
    then: Text

    def text(self, target: str) -> str:
        return f"merge firmware_configs/{target}/{self.file} into {self.into}: {self.then}"


@dataclass(frozen=True, slots=True)
class Kconfig:
    """Every line of the fragment stands in the running kernel's configuration."""

    type: Literal["kconfig"]
    file: Inside


@dataclass(frozen=True, slots=True)
class Sysctl:
    """Every key of the file has its value, or one that `accept` names."""

    type: Literal["sysctl"]
    file: Inside
    accept: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Same:
    """A path holds what we ship."""

    type: Literal["file"]
    file: Inside
    path: Absolute


@dataclass(frozen=True, slots=True)
class Contains:
    """A path has a line that starts with a text."""

    type: Literal["contains"]
    path: Absolute
    text: Text


@dataclass(frozen=True, slots=True)
class Words:
    """A path has a line that holds all of these words, in any order: a kernel's command line."""

    type: Literal["words"]
    path: Absolute
    words: Annotated[tuple[Text, ...], Length(1, 16)]


Verify = Kconfig | Sysctl | Same | Contains | Words


@dataclass(frozen=True, slots=True)
class Applies:
    """How a machine of this target is known: a path that is there, with a line that starts with `text`."""

    path: Absolute
    text: Annotated[str, Length(0, 300)] = ""


@dataclass(frozen=True, slots=True)
class Piece:
    """One thing to set, and how to see that it is set."""

    name: Annotated[str, Pattern(r"[a-z][a-z0-9-]*")]
    about: Text
    steps: Annotated[tuple[Install | Merge, ...], Length(1, 16)] = field(metadata={"key": "set"})
    verify: Annotated[tuple[Verify, ...], Length(1, 16)]
    when: Absolute | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """The pieces of one target."""

    pieces: Annotated[tuple[Piece, ...], Length(1, 64)]
    applies: Annotated[Applies | None, Doc("absent: only who names the target is checked against it")] = None


State = Literal["ok", "missing", "unknown", "not_here"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one piece.  detail: what differs, expected and found; advice: how to set it, "" when it holds."""

    state: State
    detail: str
    advice: str


def targets(folder: Path | None = None) -> list[str]:
    """The targets there are: folders with a manifest."""
    return sorted(path.parent.name for path in (folder or asset("firmware_configs")).glob("*/manifest.toml"))


def load(target: str, folder: Path | None = None) -> Manifest:
    """The manifest of `target`.  Raises ConfigError with every fault, and when a file that it names is not there."""
    base = folder or asset("firmware_configs")
    if target not in targets(base):
        raise ConfigError(f"firmware target: expected one of {', '.join(targets(base))}, found {target!r}")
    path = base / target / "manifest.toml"
    try:
        manifest = schema.decode(tomllib.loads(_read(path, CONFIG_BYTES_MAX)), Manifest, where=str(path))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: {error}") from None
    except schema.SchemaError as error:
        raise ConfigError(str(error)) from None
    for piece in manifest.pieces:
        for item in (*piece.steps, *piece.verify):
            if not isinstance(item, Contains | Words) and not (base / target / item.file).is_file():
                raise ConfigError(f"{path}: piece {piece.name}: {item.file}: no such file in {target}/")
    return manifest


def here(*, root: Path = Path("/"), folder: Path | None = None) -> list[str]:
    """The targets that this machine is one of, "linux" first: boards and init systems are recognised, not guessed."""
    found = [target for target in targets(folder) if target != "linux" and _applies(load(target, folder).applies, root)]
    return ["linux", *found]


def _applies(applies: Applies | None, root: Path) -> bool:
    if applies is None or not _at(root, applies.path).exists():
        return False
    if not applies.text:
        return True
    try:
        return any(line.startswith(applies.text) for line in _read(_at(root, applies.path)).splitlines())
    except OSError:
        return False  # nobody can tell


def check(target: str, *, root: Path = Path("/"), folder: Path | None = None) -> dict[str, Finding]:
    """Piece name -> finding, on the machine whose file system is at `root`."""
    base = (folder or asset("firmware_configs")) / target
    return {piece.name: _check(piece, target, base, root) for piece in load(target, folder).pieces}


def _check(piece: Piece, target: str, base: Path, root: Path) -> Finding:
    if piece.when is not None and not _at(root, piece.when).exists():
        return Finding("not_here", f"{piece.when} is not there: does not apply", "")
    wrong: list[str] = []
    unknown: list[str] = []
    for verify in piece.verify:
        try:
            wrong += _wrong(verify, base, root)
        except PermissionError as error:
            unknown.append(f"{error.filename}: only root can read it")
        except LookupError as error:
            unknown.append(str(error.args[0]))
    if wrong:
        return Finding("missing", "; ".join(wrong + unknown), " ".join(step.text(target) for step in piece.steps))
    if unknown:
        return Finding("unknown", "; ".join(unknown), "")
    return Finding("ok", piece.about, "")


def _wrong(verify: Verify, base: Path, root: Path) -> list[str]:
    """What differs.  Raises LookupError when nobody can tell, PermissionError when only root can."""
    match verify:
        case Kconfig():
            return list(_wrong_kconfig(_read(base / verify.file), _kernel_config(root)))
        case Sysctl():
            return list(_wrong_sysctl(_read(base / verify.file), verify.accept, root))
        case Same():
            path = _at(root, verify.path)
            if not path.exists():
                return [f"{verify.path} is not there"]
            same = path.read_bytes() == (base / verify.file).read_bytes()
            return [] if same else [f"{verify.path} differs from ours"]
        case Contains():
            path = _at(root, verify.path)
            if not path.exists():
                return [f"{verify.path} is not there"]
            found = any(line.startswith(verify.text) for line in _read(path).splitlines())
            return [] if found else [f"{verify.path}: no line starts with {verify.text.strip()!r}"]
        case Words():
            path = _at(root, verify.path)
            if not path.exists():
                return [f"{verify.path} is not there"]
            lines = [set(line.split()) for line in _read(path).splitlines()]
            missing = min((sorted(set(verify.words) - line) for line in lines), key=len, default=sorted(verify.words))
            return [f"{verify.path}: expected {' '.join(missing)} as well"] if missing else []
        case _:
            assert_never(verify)


def _wrong_kconfig(fragment: str, config: Mapping[str, str]) -> Iterator[str]:
    for option, expected in _kconfig(fragment).items():
        found = config.get(option, "n")
        if found != expected and not (expected == "y" and found == "m"):
            yield f"{option}: expected {expected}, found {found}"


def _kconfig(text: str) -> dict[str, str]:
    """CONFIG_X=value lines, and `# CONFIG_X is not set` as "n"."""
    options: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("CONFIG_"):
            option, _, value = line.partition("=")
            options[option] = value.strip()
        elif line.startswith("# CONFIG_") and line.endswith(" is not set"):
            options[line.split()[1]] = "n"
    return options


def _kernel_config(root: Path) -> dict[str, str]:
    """The running kernel's options.  Raises LookupError when it does not show them."""
    packed = _at(root, "/proc/config.gz")
    if packed.exists():
        with gzip.open(packed, "rt", encoding="utf-8", errors="replace") as file:
            return _kconfig(file.read(KERNEL_CONFIG_BYTES_MAX))
    release = os.uname().release
    for name in (f"/boot/config-{release}", f"/lib/modules/{release}/config"):
        if _at(root, name).exists():
            return _kconfig(_read(_at(root, name)))
    raise LookupError("this kernel shows its configuration neither in /proc/config.gz nor in /boot")


def _wrong_sysctl(text: str, accept: Mapping[str, tuple[int, ...]], root: Path) -> Iterator[str]:
    for key, expected in sysctl_lines(text).items():
        path = _at(root, f"/proc/sys/{key.replace('.', '/')}")
        if not path.exists():
            continue  # an older kernel, or a module that is not there: nothing to close
        found = _read(path).strip()
        if found != expected and found not in {str(value) for value in accept.get(key, ())}:
            yield f"{key}: expected {expected}, found {found}"


def sysctl_lines(text: str) -> dict[str, str]:
    """key -> value of a sysctl.d file."""
    lines = (line.strip() for line in text.splitlines())
    pairs = (line.partition("=") for line in lines if "=" in line and not line.startswith(("#", ";")))
    return {key.strip().removeprefix("-"): value.strip() for key, _, value in pairs}


def _at(root: Path, path: str) -> Path:
    return root / path.lstrip("/")


def _read(path: Path, bytes_max: int = KERNEL_CONFIG_BYTES_MAX) -> str:
    """At most `bytes_max` of a file, in pieces: a sysctl refuses a read of megabytes with ENOMEM."""
    text = bytearray()
    with open(path, "rb", buffering=0) as file:
        while len(text) < bytes_max and (piece := file.read(4096)):
            text += piece
    return text[:bytes_max].decode("utf-8", "replace")
