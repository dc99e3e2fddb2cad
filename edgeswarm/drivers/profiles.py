"""Device profiles: what a class of device has and may run, read from `profiles/*.toml`.

Decides how a profile takes over from the one it inherits: table by table, key by key; a list is replaced as a whole.
Invariants: `default` inherits from nothing and names every key; whatever `load` returns fits Profile.
Leaves the settings file, environment and flags to `app/config.py`, which merges them over `load_tree`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from edgeswarm import schema
from edgeswarm.assets import asset
from edgeswarm.errors import ConfigError
from edgeswarm.limits import (
    AGENTS_MAX,
    CALL_DEADLINE_MS_MAX,
    CONFIG_BYTES_MAX,
    DELEGATE_THREADS_MAX,
    JAIL_AGENTS_MAX,
    JAILS_MAX,
    PROFILE_INHERITS_MAX,
    RING_BYTES_MAX,
)
from edgeswarm.schema import Doc, Length, Pattern, Range

BASE = "default"
NAME = r"[a-z0-9][a-z0-9-]{0,63}"


@dataclass(frozen=True, slots=True)
class Limits:
    """What the device gives to agents, all of them together."""

    memory_mb: Annotated[int, Range(1, 1 << 20, "MB"), Doc("memory for the agents' minimums, summed")]
    cpu_cores: Annotated[float, Range(0.1, 1024, "cores"), Doc("CPU for the agents' minimums, summed")]
    agents_max: Annotated[int, Range(1, AGENTS_MAX, "agents"), Doc("agents deployed at a time")]
    jails_max: Annotated[int, Range(1, JAILS_MAX, "jails"), Doc("jails alive at a time")]
    agents_per_jail: Annotated[int, Range(1, JAIL_AGENTS_MAX, "agents"), Doc("agents of one trust domain in one jail")]


@dataclass(frozen=True, slots=True)
class Jails:
    """How agents are confined."""

    policies: Annotated[
        tuple[Annotated[str, Pattern(NAME, "a policy's name")], ...],
        Length(1, 16),
        Doc("policies of sandbox/policies that an agent file may ask for"),
    ]
    min_tier: Annotated[
        Literal["A", "B", "C"], Doc("the weakest isolation tier on which agents may start; less than A needs saying so")
    ]
    ring_kb: Annotated[
        int,
        Range(64, RING_BYTES_MAX >> 10, "KiB"),
        Doc("shared memory of one jail's two rings; more where the widest row of its agents asks for it"),
    ]


@dataclass(frozen=True, slots=True)
class Delegates:
    """What may compute a model besides the wasm kernel, for agents whose file brings the model (`tflite`)."""

    order: Annotated[
        tuple[Literal["wasm", "litert", "tflite", "gpu", "npu", "external"], ...],
        Length(1, 6),
        Doc("who may compute, as far as it is installed; wasm always works"),
    ]
    choose: Annotated[
        Literal["fastest", "first"], Doc("of those that answer the golden rows rightly; first: in the order above")
    ]
    threads: Annotated[int, Range(1, DELEGATE_THREADS_MAX, "threads"), Doc("of one model")]
    packages: Annotated[str, Doc("folder of the runtime's packages; empty: those of this Python")]
    library: Annotated[str, Doc("absolute path of an external delegate's .so")]
    library_options: Annotated[
        tuple[Annotated[str, Pattern(r"[^=]{1,64}=.{0,256}", "key=value")], ...],
        Length(0, 16),
        Doc("key=value, for that library"),
    ]
    tolerance: Annotated[
        float, Range(0.0, 1.0), Doc("how far answers may be off, as a share of their range, beside the file's own word")
    ]
    check_every: Annotated[
        int,
        Range(0, 1_000_000_000, "frames"),
        Doc("a frame in so many goes to the kernel too, and is compared; 0: none"),
    ]
    gpu_driver: Annotated[str, Doc("absolute path of the file that names a Vulkan driver; empty: the system's")]
    npu_dispatch: Annotated[str, Doc("folder of an NPU's dispatch library; empty: one that the package brings")]
    gpu_memory_mb: Annotated[
        int, Range(0, 1 << 20, "MB"), Doc("what all agents may have of the accelerator; 0: none may")
    ]
    agents: Annotated[
        tuple[
            Annotated[
                str,
                Pattern(
                    r"([a-z][a-z0-9-]{0,63}|\*)=(wasm|litert|tflite|gpu|npu|external)", "agent=delegate, or *=delegate"
                ),
            ],
            ...,
        ],
        Length(0, 256),
        Doc("who computes an agent (* for all), without a contest: agent=delegate"),
    ]


@dataclass(frozen=True, slots=True)
class Timing:
    """What the device does not do more often, or longer, than this, whatever an agent file asks for."""

    checkpoint_s_min: Annotated[float, Range(0.1, 86_400, "s"), Doc("between two checkpoints of an agent, at least")]
    backoff_ms_min: Annotated[float, Range(1, 60_000, "ms"), Doc("before the first restart of an agent, at least")]
    deadline_ms_max: Annotated[
        int, Range(1, CALL_DEADLINE_MS_MAX, "ms"), Doc("a kernel call is interrupted after this, at the latest")
    ]


@dataclass(frozen=True, slots=True)
class Network:
    """What agents may reach from outside their jails, if their files have the capability."""

    mqtt: Annotated[bool, Doc("mqtt sources and sinks")] = True
    webhooks: Annotated[bool, Doc("webhook sinks")] = True
    private_webhooks: Annotated[
        bool, Doc("webhooks to loopback, private, link-local and other addresses that are not public")
    ] = False


@dataclass(frozen=True, slots=True)
class AgentClass:
    """What one agent of this class gets at most, whatever its file asks for.

    Its jail has no network at all; `network` is what the supervisor carries for it.
    """

    memory_mb: Annotated[int, Range(1, 1 << 20, "MiB"), Doc("memory of its kernel")]
    cpu_cores: Annotated[float, Range(0.01, 1024, "cores"), Doc("CPU time a second")]
    disk_mb: Annotated[int, Range(0, 1 << 20, "MiB"), Doc("files that are kept for it")]
    network: Annotated[
        Literal["none", "broker", "capabilities"],
        Doc("nothing; mqtt and streams of the cell; what its capabilities name, within [network]"),
    ]
    network_bandwidth_mbps: Annotated[float, Range(0.001, 1e6, "Mbit/s"), Doc("what its sinks and streams send")]


@dataclass(frozen=True, slots=True)
class Classes:
    """Classes of agents, as container runtimes have them."""

    agent: Annotated[AgentClass, Doc("every agent that is not a coordinator")]
    coordinator: Annotated[AgentClass, Doc("the agents of `coordinators`")]
    coordinators: Annotated[
        tuple[Annotated[str, Pattern(r"[a-z][a-z0-9-]{0,63}", "an agent's name")], ...],
        Length(0, 64),
        Doc("agents of class coordinator, by name: they bring other agents' streams together"),
    ] = ()


@dataclass(frozen=True, slots=True)
class Log:
    """The supervisor's own log."""

    level: Annotated[Literal["debug", "info", "warning", "error"], Doc("the least level that is written")]


@dataclass(frozen=True, slots=True)
class Metrics:
    """Where the metrics can be read, besides the control socket."""

    port: Annotated[int, Range(0, 65_535), Doc("Prometheus text on 127.0.0.1:port; 0: the control socket only")]


@dataclass(frozen=True, slots=True)
class Profile:
    """A class of devices."""

    description: Annotated[str, Length(1, 200), Doc("which devices this is for")]
    limits: Limits
    jails: Jails
    delegates: Delegates
    timing: Timing
    network: Network
    classes: Classes
    log: Log
    metrics: Metrics


def names(folder: Path | None = None) -> list[str]:
    """The profiles there are, sorted.  folder: where to look instead of the shipped profiles."""
    return sorted(path.stem for path in (folder or asset("profiles")).glob("*.toml"))


def load_tree(name: str, folder: Path | None = None) -> dict[str, Any]:
    """Profile `name` merged over what it inherits, not yet checked against Profile.

    Raises ConfigError for a name that is not there (the text lists those that are), and for a chain that goes round.
    """
    return _load_tree(name, folder or asset("profiles"), ())


def load(name: str, folder: Path | None = None) -> Profile:
    """Profile `name`, checked whole.  Raises ConfigError with every fault."""
    try:
        return schema.decode(load_tree(name, folder), Profile, where=f"profile {name}")
    except schema.SchemaError as error:
        raise ConfigError(str(error)) from None


def _load_tree(name: str, folder: Path, chain: tuple[str, ...]) -> dict[str, Any]:
    chain = (*chain, name)
    known = names(folder)
    if name not in known:
        wants = f", which profile {chain[-2]} inherits" if len(chain) > 1 else ""
        raise ConfigError(f"profile: expected one of {', '.join(known)}, found {name!r}{wants}")
    if name in chain[:-1] or len(chain) > PROFILE_INHERITS_MAX:
        raise ConfigError(f"profile {chain[0]}: expected a short chain of inherits, found {' -> '.join(chain)}")
    tree = _read(folder / f"{name}.toml")
    inherits = tree.pop("inherits", None)
    if inherits is None:
        return tree
    if not isinstance(inherits, str):
        raise ConfigError(f"profile {name}: inherits: expected a profile's name, found {inherits!r}")
    return _merge(_load_tree(inherits, folder, chain), tree)


def _read(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            data = file.read(CONFIG_BYTES_MAX + 1)
        if len(data) > CONFIG_BYTES_MAX:
            raise ConfigError(f"{path}: expected at most {CONFIG_BYTES_MAX} bytes")
        return tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


def _merge(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
