"""Which delegates this machine could have: their packages, looked up without importing them, and what identifies them.

Names, as in a profile's `delegates.order`: `litert` (ai-edge-litert, XNNPACK on the CPU), `tflite` (tflite-runtime, the
same), `gpu` (LiteRT's WebGPU accelerator), `npu` (LiteRT with a vendor's dispatch library), `external` (a delegate
library of the profile, in either runtime).
A package may lie in a folder of its own (`delegates.packages`): tflite-runtime wants numpy < 2, EdgeSwarm does not.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from edgeswarm.errors import ConfigError, LocalError

Name = Literal["litert", "tflite", "gpu", "npu", "external"]
_WORKER: Final = "edgeswarm.jail.delegate_"


@dataclass(frozen=True, slots=True)
class Package:
    """A runtime's distribution, the module in it, and the worker of jails that have it."""

    distribution: str
    module: str
    worker: str


PACKAGES: Final = {
    "litert": Package("ai-edge-litert", "ai_edge_litert", f"{_WORKER}litert"),
    "tflite": Package("tflite-runtime", "tflite_runtime", f"{_WORKER}tflite"),
    "gpu": Package("ai-edge-litert", "ai_edge_litert", f"{_WORKER}gpu"),
}
_RUNS_ON: Final[dict[Name, tuple[str, ...]]] = {
    "litert": ("litert",),
    "tflite": ("tflite",),
    "gpu": ("gpu",),
    "npu": ("gpu",),
    "external": ("litert", "tflite"),
}
"""Packages that offer a delegate, the first that is installed is taken."""


class NotHereError(LocalError):
    """This machine does not have that delegate; the text says what is missing."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """An installed runtime.  folder: what goes on a zygote's path."""

    package: Package
    version: str
    folder: str


@dataclass(frozen=True, slots=True)
class Delegate:
    """One that can be tried here.  library: of an external one.  driver: the file that names a GPU's, if not the
    system's; the folder of an NPU's dispatch library.

    identity: changes with anything that could change what it computes, or how fast.
    """

    name: Name
    runtime: Runtime
    library: str = ""
    options: tuple[tuple[str, str], ...] = ()
    driver: str = ""
    identity: str = ""

    @property
    def title(self) -> str:
        """For people."""
        where = f" with {Path(self.library).name}" if self.library else ""
        return f"{self.runtime.package.distribution} {self.runtime.version}{where}"


def find_runtime(name: str, packages: str = "") -> Runtime:
    """name: a key of PACKAGES.  packages: a folder to look in, else where this Python looks.

    Raises NotHereError.
    """
    package = PACKAGES[name]
    for folder in [packages] if packages else _own_folders():
        if not (Path(folder) / package.module / "__init__.py").is_file():
            continue
        for found in importlib.metadata.distributions(name=package.distribution, path=[folder]):
            return Runtime(package, found.version, str(Path(folder).resolve()))
    where = f" in {packages}" if packages else ""
    raise NotHereError(f"{package.distribution} is not installed{where}")


def _own_folders() -> list[str]:
    """Where packages of this Python lie: those that `python -I -S` does not look at by itself."""
    paths = sysconfig.get_paths()
    numpy = importlib.util.find_spec("numpy")
    beside = [str(Path(numpy.origin).parents[1])] if numpy is not None and numpy.origin else []
    return list(dict.fromkeys([paths["purelib"], paths["platlib"], *beside]))


def find(
    name: Name, *, packages: str = "", library: str = "", options: tuple[str, ...] = (), driver: str = ""
) -> Delegate:
    """A delegate.  library, options ("key=value"): of an external one.  driver: the file that names a GPU's, if not the
    system's; the folder of an NPU's dispatch library, if not in the package.  Raises NotHereError, ConfigError.
    """
    runtime: Runtime | None = None
    why = ""
    for package in _RUNS_ON[name]:
        try:
            runtime = find_runtime(package, packages)
            break
        except NotHereError as error:
            why = f"{why}; {error}" if why else str(error)
    if runtime is None:
        raise NotHereError(why)
    parts = [name, runtime.package.distribution, runtime.version, runtime.folder]
    pairs: tuple[tuple[str, str], ...] = ()
    if name == "external":
        if not library:
            raise NotHereError("delegates.library: names no library")
        pairs = tuple(_pair(text) for text in options)
        parts += [_file_identity(library), repr(pairs)]
    elif name == "gpu":
        accelerator = Path(runtime.folder) / runtime.package.module / "libLiteRtWebGpuAccelerator.so"
        if not accelerator.is_file():
            raise NotHereError(f"{runtime.package.distribution} {runtime.version} brings no GPU accelerator")
        parts += [_file_identity(driver) if driver else "", _file_identity(str(accelerator))]
    elif name == "npu":
        dispatch = _dispatch_libraries(runtime, driver)
        driver = str(dispatch[0].parent)
        parts += [_file_identity(str(path)) for path in dispatch]
    identity = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
    return Delegate(
        name,
        runtime,
        library=library if name == "external" else "",
        options=pairs,
        driver=driver if name in ("gpu", "npu") else "",
        identity=identity,
    )


def _dispatch_libraries(runtime: Runtime, folder: str) -> list[Path]:
    """Those of one vendor, sorted.  Raises NotHereError."""
    vendors = Path(runtime.folder) / runtime.package.module / "vendors"
    folders = [Path(folder)] if folder else sorted(vendors.glob("*/dispatch"))
    for one in folders:
        if found := sorted(one.glob("libLiteRtDispatch_*.so")):
            return found
    raise NotHereError(f"no libLiteRtDispatch_*.so in {folder or vendors}")


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ConfigError(f"delegates.library_options: expected key=value, found {text!r}")
    return key, value


def _file_identity(path: str) -> str:
    """A file's path, size and time: another build of it is another delegate.  Raises NotHereError."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise NotHereError(f"delegate: {path}: {error.strerror}") from None
    if not os.path.isabs(path) or not os.path.isfile(path):
        raise NotHereError(f"delegate: {path}: the absolute path of a file expected")
    return f"{path}:{found.st_size}:{found.st_mtime_ns}"
