"""The agents a supervisor knows: files checked on the way in, kept under DIR/agents, prepared for their jails.

Decides nothing about who runs.  Invariant: an artefact on the shelf has a verified signature of a trusted publisher, a
known policy, and a kernel whose layout fits its header; whoever takes one from here need not doubt it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from edgeswarm import agentfile
from edgeswarm.agentfile.file import AgentFile
from edgeswarm.agentfile.header import Header
from edgeswarm.agentfile.wiring import AgentSource
from edgeswarm.app.allowance import Allowance, allow
from edgeswarm.app.config import Settings
from edgeswarm.app.golden import check_golden
from edgeswarm.app.log import Log
from edgeswarm.app.swarm.rotation_files import KeyFiles
from edgeswarm.compile.abi import Layout, read_layout
from edgeswarm.compile.path_i8 import check_path
from edgeswarm.core.events import AgentPlan, Need, Supervision
from edgeswarm.drivers import checkpoints, keys
from edgeswarm.drivers.jail_cache import Binding
from edgeswarm.drivers.jails import JailHost, KernelSpec
from edgeswarm.drivers.profiles import Timing
from edgeswarm.errors import AgentFileError, ConfigError, EdgeSwarmError, InputError, KernelError, LimitError
from edgeswarm.ids import AgentName, KeyId, NetworkName
from edgeswarm.limits import AF_FILE_BYTES_MAX

CHECKPOINT_PURPOSE = "es-checkpoint"


@dataclass(slots=True)
class Artefact:
    """One version of an agent.  weights follow a swap of the weights alone.

    cwasm, binding: filled by Shelf.prepare, and what that code is good for.
    """

    plan: AgentPlan
    file: AgentFile
    layout: Layout
    data: bytes = field(repr=False)
    weights: bytes = field(repr=False)
    deadline_ms: int
    allowance: Allowance
    cwasm: bytes | None = field(default=None, repr=False)
    binding: Binding | None = None

    @property
    def header(self) -> Header:
        return self.file.header

    def kernel_spec(self, slot: int) -> KernelSpec:
        """What a jail needs to run this."""
        assert self.cwasm is not None, f"artefact {self.plan.artefact[:12]} is not prepared"
        return KernelSpec(
            slot=slot,
            name=self.plan.name,
            cwasm=self.cwasm,
            layout=self.layout,
            weights=self.weights,
            memory_limit_bytes=self.allowance.memory_bytes,
            deadline_ms=self.deadline_ms,
            memory_width=self.header.memory.width,
            cpu_cores=self.allowance.cpu_cores,
        )


def plan_of(header: Header, *, artefact: str, publisher: KeyId, timing: Timing) -> AgentPlan:
    """What the control plane has to know of an agent file, within what the device allows (`timing`)."""
    limits, wants = header.resources.limits, header.resources.requirements
    sup = header.supervision
    return AgentPlan(
        name=AgentName(header.name),
        artefact=artefact,
        publisher=publisher,
        policy=header.sandbox,
        own_jail=header.isolation == "own-jail",
        need=Need(
            memory_bytes_min=wants.minimum_memory_mb << 20,
            memory_bytes=limits.memory_mb << 20,
            cpu_cores_min=wants.minimum_cpu_cores,
            cpu_cores=limits.cpu_cores,
        ),
        supervision=Supervision(
            network=NetworkName(sup.network or header.name),
            strategy=sup.strategy,
            restarts_max=sup.restarts_max,
            within_ms=sup.within_s * 1000,
            backoff_ms=max(sup.backoff_ms, timing.backoff_ms_min),
            backoff_ms_max=max(sup.backoff_ms_max, timing.backoff_ms_min),
        ),
        upstream=tuple(
            AgentName(s.agent) for s in header.wiring.sources if isinstance(s, AgentSource) and not s.device
        ),
        checkpoint_ms=max(header.memory.checkpoint_s, timing.checkpoint_s_min) * 1000,
    )


def check_kernel(file: AgentFile, *, who: str) -> Layout:
    """The kernel's layout.  Raises KernelError where kernel, weights and header do not fit each other."""
    header = file.header
    wasm = file.sections.get("wasm_kernel")
    if wasm is None:
        raise KernelError("section wasm_kernel: expected a kernel, found none; build it with `agent build`", who=who)
    try:
        layout = read_layout(wasm)
    except (KernelError, LimitError) as error:
        raise type(error)(f"{who}: section wasm_kernel: {error}") from None
    found = (layout.input.width, layout.output.width)
    expected = (header.neural_config.input_size, header.neural_config.output_size)
    if found != expected:
        raise KernelError(f"kernel width: expected {expected} (neural_config), found {found}", who=who)
    weights = file.sections.get("neural_weights", b"")
    if len(weights) != layout.weights.size:
        raise KernelError(
            f"neural_weights: the kernel expects {layout.weights.size} bytes, found {len(weights)}", who=who
        )
    if header.kernel.quantization is not None:
        try:
            check_path(weights, header.kernel.quantization.path)
        except InputError as error:
            raise KernelError(f"neural_{error}", who=who) from None
    limit = header.resources.limits.memory_mb << 20
    if layout.memory_bytes > limit:
        raise KernelError(
            f"kernel memory: resources.limits.memory_mb allows {limit}, found {layout.memory_bytes}", who=who
        )
    return layout


class Shelf:
    """Agent files by name: what runs (`current`), and what a swap goes to (`pending`)."""

    def __init__(self, settings: Settings, *, log: Log) -> None:
        self.settings = settings
        self.log = log
        folder = settings.state_dir / "keys"
        files = KeyFiles(settings.state_dir)
        if files.settle(self.keep_local_keys):
            log.info("key_changed_at_start")
        self.device_key, _ = keys.load_or_make(folder / "device.key")
        files.clean()
        self.checkpoint_key = keys.local_key(folder, self.device_key, CHECKPOINT_PURPOSE)
        self._current: dict[AgentName, Artefact] = {}
        self._pending: dict[AgentName, Artefact] = {}
        self._golden_passed: set[str] = set()

    def keep_local_keys(self, key: keys.SigningKey) -> None:
        """The device's key goes: its checkpoints must still open."""
        keys.keep_local_key(self.settings.state_dir / "keys", key, CHECKPOINT_PURPOSE)

    # --- in -----------------------------------------------------------------------------------------------------------

    def admit(self, data: bytes, *, who: str) -> Artefact:
        """Agent file bytes -> artefact.

        Raises AgentFileError, SignatureError, KernelError, LimitError, ConfigError.
        """
        if len(data) > AF_FILE_BYTES_MAX:
            raise LimitError(f"{who}: an agent file has at most {AF_FILE_BYTES_MAX} bytes, found {len(data)}")
        file = agentfile.read(data, who=who)
        publisher = agentfile.verify(file, keys.trusted(self.settings.state_dir / "trust.d"))
        header = file.header
        allowed = self.settings.profile.jails.policies
        if header.sandbox not in allowed:
            raise ConfigError(
                f"{who}: sandbox: expected one of {', '.join(allowed)} (profile), found {header.sandbox!r}"
            )
        for warning in file.warnings:
            self.log.warning("agent_file_warning", agent=header.name, text=str(warning))
        return self._artefact(file, data, publisher, who)

    def _artefact(self, file: AgentFile, data: bytes, publisher: KeyId, who: str) -> Artefact:
        layout = check_kernel(file, who=who)
        timing, classes = self.settings.profile.timing, self.settings.profile.classes
        allowance = allow(file.header, classes)
        if layout.memory_bytes > allowance.memory_bytes:
            raise KernelError(
                f"kernel memory: {allowance.origin['memory_mb']} allows {allowance.memory_bytes}, "
                f"found {layout.memory_bytes}",
                who=who,
            )
        plan = plan_of(file.header, artefact=file.sha256, publisher=publisher, timing=timing)
        deadline_ms = min(file.header.kernel.deadline_ms, timing.deadline_ms_max)
        return Artefact(plan, file, layout, data, file.sections.get("neural_weights", b""), deadline_ms, allowance)

    async def prepare(self, artefact: Artefact, host: JailHost) -> None:
        """Compile in a build jail (or take from the cache), then hold the kernel against its golden vectors."""
        wasm = artefact.file.sections["wasm_kernel"]
        binding = host.cache.binding
        artefact.cwasm = await host.compile(wasm)
        if artefact.plan.artefact not in self._golden_passed:
            await check_golden(artefact.kernel_spec(0), artefact.file, host)
            self._golden_passed.add(artefact.plan.artefact)
        artefact.binding = binding
        self.recall_weights(artefact)  # after the check: the golden vectors are those of the file's own weights

    # --- places -------------------------------------------------------------------------------------------------------

    def put(self, artefact: Artefact) -> None:
        self._current[artefact.plan.name] = artefact

    def put_pending(self, artefact: Artefact) -> None:
        self._pending[artefact.plan.name] = artefact

    def promote(self, name: AgentName, artefact: Artefact) -> None:
        self._current[name] = artefact
        self._pending.pop(name, None)

    def drop_pending(self, name: AgentName) -> None:
        self._pending.pop(name, None)

    def current(self, name: AgentName) -> Artefact:
        return self._current[name]

    def known(self) -> list[Header]:
        return [artefact.header for artefact in self._current.values()]

    def find(self, name: AgentName, artefact: str) -> Artefact:
        """Raises AgentFileError when that version is not here."""
        for place in (self._current, self._pending):
            found = place.get(name)
            if found is not None and found.plan.artefact == artefact:
                return found
        raise AgentFileError(f"agent {name}: version {artefact[:12]} is not on this device")

    # --- disk ---------------------------------------------------------------------------------------------------------

    def _path(self, name: str, artefact: str) -> Path:
        return self.settings.state_dir / "agents" / f"{name}.{artefact[:16]}.af"

    def checkpoint_path(self, name: str) -> Path:
        return self.settings.state_dir / "agents" / f"{name}.checkpoint"

    def seal_weights(self, artefact: Artefact) -> tuple[Path, bytes]:
        """The file that keeps weights which are not those of the agent file.  Raises LimitError."""
        state = {"artefact": artefact.plan.artefact, "weights": artefact.weights}
        return self._weights_path(artefact.plan.name), checkpoints.seal(state, self.checkpoint_key)

    def recall_weights(self, artefact: Artefact) -> None:
        """Weights that were swapped into exactly this version, in this life or an earlier one, are its own again."""
        path = self._weights_path(artefact.plan.name)
        try:
            state = checkpoints.read(path, self.checkpoint_key) or {}
        except (EdgeSwarmError, OSError) as error:
            self.log.error("weights_refused", agent=artefact.plan.name, error=str(error))
            return
        weights = state.get("weights")
        if state.get("artefact") == artefact.plan.artefact and isinstance(weights, bytes):
            assert len(weights) == artefact.layout.weights.size, "sealed by us, for this version"
            artefact.weights = weights

    def _weights_path(self, name: str) -> Path:
        return self.settings.state_dir / "agents" / f"{name}.weights"

    def keep(self, artefact: Artefact) -> None:
        """Keep the file for the next start, and drop this agent's other versions but the running one."""
        name = artefact.plan.name
        path = self._path(name, artefact.plan.artefact)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            fresh = path.with_suffix(".new")
            fresh.write_bytes(artefact.data)
            fresh.replace(path)
        wanted = {path}
        if name in self._current:
            wanted.add(self._path(name, self._current[name].plan.artefact))
        for other in path.parent.glob(f"{name}.*.af"):
            if other not in wanted:
                other.unlink()

    def discard(self, artefact: Artefact) -> None:
        """A version that was put as pending, and kept, did not become the current one."""
        name = artefact.plan.name
        if self._pending.get(name) is artefact:
            del self._pending[name]
        current = self._current.get(name)
        if current is None or current.plan.artefact != artefact.plan.artefact:
            self._path(name, artefact.plan.artefact).unlink(missing_ok=True)

    def load_kept(self, name: str, artefact: str) -> Artefact:
        """Raises OSError when the file is gone, and as admit."""
        path = self._path(name, artefact)
        found = self.admit(path.read_bytes(), who=str(path))
        if found.plan.artefact != artefact:
            raise AgentFileError(f"expected SHA-256 {artefact}, found {found.plan.artefact}", who=str(path))
        return found

    def is_kept(self, name: AgentName) -> bool:
        """Whether the current version's file is on disk."""
        return self._path(name, self._current[name].plan.artefact).is_file()

    def load_handed(self, name: str, artefact: str, publisher: str) -> Artefact:
        """What an earlier program of this process has admitted, and runs: it is not judged again, only read.

        Raises OSError, AgentFileError, KernelError.
        """
        path = self._path(name, artefact)
        data = path.read_bytes()
        file = agentfile.read(data, who=str(path))
        if file.sha256 != artefact:
            raise AgentFileError(f"expected SHA-256 {artefact}, found {file.sha256}", who=str(path))
        found = self._artefact(file, data, KeyId(publisher), str(path))
        self.recall_weights(found)
        return found

    @property
    def golden_passed(self) -> set[str]:
        """Artefacts whose golden vectors were held against their kernel on this device."""
        return self._golden_passed

    def forget(self, name: AgentName) -> None:
        self._current.pop(name, None)
        self._pending.pop(name, None)
        folder = self.settings.state_dir / "agents"
        for path in [*folder.glob(f"{name}.*.af"), self.checkpoint_path(name), self._weights_path(name)]:
            path.unlink(missing_ok=True)
