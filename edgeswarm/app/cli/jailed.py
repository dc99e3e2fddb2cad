"""An agent file's kernel in a jail of its own, without a supervisor: for `agent run`, `bench` and `verify`.

Rows are kernel inputs as they are: no window, no normalisation, and an agent's memory is a part of the row, unless it
is asked for that the jail keeps it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeswarm.app.cli import common, output
from edgeswarm.errors import NotSignedError, TrapError, UnknownPublisherError
from edgeswarm.jail import frames
from edgeswarm.limits import RING_BYTES_DEFAULT, RING_BYTES_MAX

if TYPE_CHECKING:
    from edgeswarm.agentfile import AgentFile
    from edgeswarm.compile import Layout
    from edgeswarm.drivers.jail_sync import SyncHost, SyncJail
    from edgeswarm.drivers.jails import JailHost, KernelSpec

_FRAMES_IN_RINGS = 5
"""A ring each way, each with room for two frames, and some to spare where a frame does not wrap."""


def read_runnable(path: Path, state: Path | None, config_file: Path | None) -> tuple[AgentFile, Layout]:
    """An agent file that may be computed with: a publisher that is unknown, or none, is a warning and no more.

    Raises AgentFileError, SignatureError for a broken signature, KernelError, LimitError.
    """
    from edgeswarm import agentfile
    from edgeswarm.app.shelf import check_kernel
    from edgeswarm.compile import check_module
    from edgeswarm.drivers import keys

    file = agentfile.read(
        common.read_agent_file(path), who=str(path), wanted=["neural_weights", "wasm_kernel", "golden"]
    )
    try:
        agentfile.verify(file, keys.trusted(common.settings_of(state, config_file).state_dir / "trust.d"))
    except (NotSignedError, UnknownPublisherError) as error:
        output.warn(str(error))
    layout = check_kernel(file, who=str(path))
    check_module(file.section("wasm_kernel"), who=str(path))
    return file, layout


def host_arguments(state: Path | None, config_file: Path | None) -> dict[str, Any]:
    """Of SyncHost and JailHost: policies, the user's own code cache, and the key that protects it."""
    from edgeswarm.assets import asset
    from edgeswarm.drivers import keys

    folder = common.settings_of(state, config_file).state_dir
    key, _ = keys.load_or_make(folder / "keys" / "device.key")
    return {"policy_dir": asset("sandbox"), "cache_dir": folder / "cache", "mac_key": key.derive("es-cwasm")}


def check_tier(host: SyncHost | JailHost, state: Path | None, config_file: Path | None) -> None:
    """A command accepts what the supervisor accepts: raises TierError for less, and warns where it is not tier A."""
    from edgeswarm.app import isolation

    isolation.check(host.tier, host.layers, common.settings_of(state, config_file))
    if lost := isolation.degraded(host.tier, host.layers):
        output.warn(f"isolation is degraded, tier {host.tier}: {lost}")


@contextmanager
def open_host(state: Path | None, config_file: Path | None) -> Iterator[SyncHost]:
    """A zygote on a machine that isolates as well as its settings want.  Raises TierError, JailError."""
    from edgeswarm.drivers.jail_sync import SyncHost

    with SyncHost(**host_arguments(state, config_file)) as host:
        check_tier(host, state, config_file)
        yield host


def spec_of(file: AgentFile, layout: Layout, cwasm: bytes, *, memory: int = 0) -> KernelSpec:
    from edgeswarm.drivers.jails import KernelSpec

    return KernelSpec(
        slot=0,
        name=file.header.name,
        cwasm=cwasm,
        layout=layout,
        weights=file.sections.get("neural_weights", b""),
        deadline_ms=file.header.kernel.deadline_ms,
        memory_width=memory,
    )


@dataclass(frozen=True, slots=True)
class Ready:
    """A kernel that takes rows.  memory: values of each row that the jail keeps from call to call."""

    host: SyncHost
    jail: SyncJail
    layout: Layout
    memory: int = 0

    def rows(self, payload: bytes, rows: int, *, first: int, who: str) -> bytes:
        """rows x output width float32.  first: number of the first row; TrapError names the row that faults."""
        try:
            return self.jail.call(0, payload, rows)
        except TrapError as error:
            row, text = self._culprit(payload, rows, error)
            raise TrapError(f"{who}: row {first + row}: {text}") from None

    def _culprit(self, payload: bytes, rows: int, error: TrapError) -> tuple[int, str]:
        """Index of the first row that faults by itself, found by halving; row 0 of those left when none does alone."""
        at, size = 0, 4 * (self.layout.input.width - self.memory)
        text = str(error)
        while rows > 1:
            half = rows // 2
            try:
                self.jail.call(0, payload[at * size : (at + half) * size], half)
                at, rows = at + half, rows - half
            except TrapError as again:
                rows, text = half, str(again)
        return at, text.rpartition(": ")[2]


@contextmanager
def open_kernel(
    file: AgentFile,
    layout: Layout,
    state: Path | None,
    config_file: Path | None,
    *,
    rows_max: int,
    memory: int = 0,
) -> Iterator[Ready]:
    """The kernel, compiled (or taken from the cache) and loaded, with room for frames of `rows_max` rows.

    Raises TierError, KernelError, JailError.
    """
    frame_bytes = frames.frame_bytes(rows_max * 4 * max(layout.input.width, layout.output.width))
    ring_bytes = min(max(RING_BYTES_DEFAULT, _FRAMES_IN_RINGS * frame_bytes + frames.CONTROL_BYTES), RING_BYTES_MAX)
    with open_host(state, config_file) as host:
        spec = spec_of(file, layout, host.compile(file.section("wasm_kernel")), memory=memory)
        with host.spawn([spec], policy=file.header.sandbox, ring_bytes=ring_bytes) as jail:
            if 0 in jail.faults:
                raise TrapError(f"agent {file.header.name}: {jail.faults[0]}")
            yield Ready(host, jail, layout, memory)


def golden_rows(file: AgentFile, state: Path | None, config_file: Path | None) -> int:
    """How many golden rows were computed, once all are right.  Raises KernelError with the first that is not."""
    from edgeswarm.app.golden import check_golden
    from edgeswarm.compile import read_layout
    from edgeswarm.drivers.jails import JailHost

    wasm = file.section("wasm_kernel")
    layout = read_layout(wasm, who=file.who)

    async def check() -> None:
        host = JailHost(**host_arguments(state, config_file))
        try:
            await host.start()
            check_tier(host, state, config_file)
            await check_golden(spec_of(file, layout, await host.compile(wasm)), file, host)
        finally:
            await host.close()

    asyncio.run(check())
    width = file.header.neural_config.input_size + file.header.neural_config.output_size
    return len(file.section("golden")) // (4 * width)
