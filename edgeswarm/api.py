"""What `import edgeswarm` offers: run agents from a program, with or without asyncio.

    from edgeswarm import Runtime

    with Runtime() as runtime:                                     # `async with` gives the same, awaited
        agent = runtime.spawn(inputs=4, hidden=[8], outputs=2)
        print(agent.process_input([0.1, 0.2, 0.3, 0.4]).values)

`Runtime` is a supervisor in this process: the same jails, the same checks, the same agent files.  In an `async with`
its methods and those of its agents are coroutines; in a `with` they block, and a thread of their own runs the loop.
Leaves learning from feedback to a later version: it raises LearningNotAvailableError until it exists.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from edgeswarm.app import builder, config, report
from edgeswarm.app.answer import Answer, Values, answer_of, row_of
from edgeswarm.app.log import Log
from edgeswarm.app.network import Network
from edgeswarm.app.shelf import Artefact
from edgeswarm.app.supervisor import Supervisor
from edgeswarm.drivers import checkpoints, keys
from edgeswarm.drivers.temporary import TemporaryFolder
from edgeswarm.errors import AgentFileError, LearningNotAvailableError, LocalError
from edgeswarm.ids import AgentName

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

__all__ = ["Agent", "Answer", "BlockingAgent", "BlockingRuntime", "Network", "Runtime"]

T = TypeVar("T")
TIMEOUT_S = 30.0


class Agent:
    """One agent of a Runtime.  Its methods are coroutines; `BlockingAgent` is the same, blocking."""

    def __init__(self, runtime: Runtime, name: str) -> None:
        self._runtime = runtime
        self.name = name

    @property
    def _supervisor(self) -> Supervisor:
        return self._runtime.supervisor

    def _artefact(self) -> Artefact:
        """Raises LocalError when the agent was removed."""
        self._runtime.agent(self.name)
        return self._supervisor.shelf.current(AgentName(self.name))

    async def process_input(self, values: Values, *, timeout_s: float = TIMEOUT_S) -> Answer | None:
        """The answer to one row (a sequence, a numpy array or a memoryview of float32).

        None when the row completes no frame: warm-up, or a window that is not full.
        Raises InputError for the wrong width or a value that is not finite, TrapError, JailGoneError, LimitError.
        """
        outcome = await self._supervisor.ask(self.name, row_of(values), timeout_s)
        return None if outcome is None else answer_of(outcome)

    async def update_weights(self, weights: Any, *, delta: bool = False) -> None:
        """Other weights, with no frame lost.  weights: a Network, an Mlp or Graph, or [(matrix, bias), ...].

        delta: add to what runs instead of replacing it.  Raises InputError where shapes do not fit.
        """
        artefact = self._artefact()
        file, layout = artefact.file, artefact.layout
        structure = file.sections.get("model", b"")
        packed = builder.repack(file.header, layout, artefact.weights, weights, delta=delta, structure=structure)
        await self._supervisor.swap_weights(self.name, packed)

    async def learn(self, values: Values, feedback: Values) -> None:
        """Learning on the device does not exist yet: raises LearningNotAvailableError."""
        raise LearningNotAvailableError("learning from feedback is not in this version; use update_weights")

    def get_metadata(self) -> dict[str, Any]:
        """Name, version, widths, publisher, status, counters, latency: what `edgeswarm status` shows, and widths."""
        artefact = self._artefact()
        config_ = artefact.file.header.neural_config
        row = report.agent(self._supervisor, AgentName(self.name))
        return {**row, "input_size": config_.input_size, "output_size": config_.output_size}

    async def checkpoint(self) -> bytes:
        """The agent's state (memory, normaliser, window, unanswered frames), sealed under this runtime's key."""
        name = self._artefact().plan.name
        await self._supervisor.flows.checkpoint(name)
        return self._supervisor.shelf.checkpoint_path(name).read_bytes()

    async def restore(self, sealed: bytes) -> None:
        """Go back to a `checkpoint`: the agent is stopped, its state replaced, and started.

        Raises CheckpointError when the bytes were changed, or come from another device.
        """
        name = self._artefact().plan.name
        checkpoints.unseal(sealed, self._supervisor.shelf.checkpoint_key, who=f"checkpoint of {self.name}")
        await self._supervisor.stop(self.name)
        checkpoints.write(self._supervisor.shelf.checkpoint_path(name), sealed)
        await self._supervisor.start_agent(self.name)

    async def stream(self) -> AsyncIterator[dict[str, Any]]:
        """Every answer from now on, whoever asked; a slow reader loses the oldest."""
        async for record in self._supervisor.stream(self.name):
            yield record


class Runtime:
    """A supervisor in this process.

    state: its directory; None makes a temporary one that goes with the runtime.  profile: as `edgeswarm run --profile`.
    trust: .pub files of publishers whose agent files may run, beside this runtime's own.
    """

    def __init__(
        self, *, state: Path | str | None = None, profile: str | None = None, trust: Sequence[Path | str] = ()
    ) -> None:
        self._temporary: TemporaryFolder | None = None
        self._asked_state = state
        self._state = Path()
        self._profile = profile
        self._trust = [Path(path) for path in trust]
        self._supervisor: Supervisor | None = None
        self._blocking: BlockingRuntime | None = None
        self._made = 0

    @property
    def supervisor(self) -> Supervisor:
        """What runs underneath.  Raises LocalError outside the `with`."""
        if self._supervisor is None:
            raise LocalError("runtime: use it inside `with Runtime() as runtime:` or `async with`")
        return self._supervisor

    async def __aenter__(self) -> Runtime:
        if self._supervisor is not None:
            raise LocalError("runtime: it is open already")
        if self._asked_state is None:
            self._temporary = TemporaryFolder()
        self._state = self._temporary.path if self._temporary else Path(self._asked_state or "")
        try:
            settings = config.load(profile=self._profile, state=self._state)
            publisher, _ = keys.load_or_make(self._state / "keys" / "publisher.key")
            keys.trust(self._state / "trust.d", publisher.public, "this runtime")
            for path in self._trust:
                keys.trust(self._state / "trust.d", keys.read_pub(path), path.stem)
            supervisor = Supervisor(settings, log=Log(stream=None))
            await supervisor.start()
        except BaseException:
            self._clean_up()
            raise
        self._supervisor, self._publisher = supervisor, publisher
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        supervisor, self._supervisor = self.supervisor, None
        await supervisor.close()
        self._clean_up()

    def _clean_up(self) -> None:
        if self._temporary is not None:
            self._temporary.remove()
            self._temporary = None

    def __enter__(self) -> BlockingRuntime:
        self._blocking = BlockingRuntime(self)
        return self._blocking

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._blocking is not None:
            self._blocking.close()

    async def spawn(
        self,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        capabilities: Sequence[str] = (),
        *,
        name: str | None = None,
        activation: str = "relu",
        output_activation: str = "linear",
        weights: Any = None,
        seed: int = 0,
        wiring: Mapping[str, Any] | None = None,
    ) -> Agent:
        """Build, sign and run an MLP.  weights: as `update_weights`; None: random from `seed`.

        wiring: as in an agent file; None: one `api` source of `inputs` values, for `process_input`.
        """
        self._made += 1
        data = builder.build_mlp(
            name=name or f"agent-{self._made}",
            sizes=(inputs, *hidden, outputs),
            activation=activation,
            output_activation=output_activation,
            capabilities=capabilities,
            weights=weights,
            seed=seed,
            wiring=wiring,
            key=self._publisher,
        )
        [agent] = await self.run(data)
        return agent

    async def run(self, *files: Path | str | bytes) -> list[Agent]:
        """Deploy agent files (paths or bytes) together: a network's agents belong into one call.

        All are checked before the first is deployed.  Raises AgentFileError, SignatureError, KernelError, ConfigError,
        LocalError; one that fails its golden vectors is removed again, the others run.
        """
        rows = await self.supervisor.deploy([_named(file) for file in files])
        return [Agent(self, row["name"]) for row in rows]

    async def update_agent_brain(self, name: str, weights: Any, *, delta: bool = False) -> None:
        """`Agent.update_weights` by name."""
        await self.agent(name).update_weights(weights, delta=delta)

    async def swap(self, name: str, file: Path | str | bytes) -> None:
        """Another version of a running agent, with no frame lost."""
        await self.supervisor.swap(name, *_named(file))

    async def stop(self, name: str) -> None:
        await self.supervisor.stop(name)

    async def start(self, name: str) -> None:
        """A stopped, failed or quarantined agent."""
        await self.supervisor.start_agent(name)

    async def remove(self, name: str) -> None:
        """For good: its file and its checkpoint too.  Raises LocalError while another agent reads its stream."""
        await self.supervisor.remove(name)

    def agent(self, name: str) -> Agent:
        """Raises LocalError if no agent of that name is deployed."""
        if AgentName(name) not in self.supervisor.node.table.agents:
            raise LocalError(f"agent {name}: no agent of that name is deployed")
        return Agent(self, name)

    def status(self) -> dict[str, Any]:
        """What `edgeswarm status --json` prints."""
        return report.status(self.supervisor)


def _named(file: Path | str | bytes) -> tuple[str, bytes]:
    """Where an agent file came from, and its bytes.  Raises AgentFileError when it cannot be read."""
    if isinstance(file, bytes):
        return "bytes", file
    try:
        return str(file), Path(file).read_bytes()
    except OSError as error:
        raise AgentFileError(error.strerror or str(error), who=str(file)) from None


class BlockingRuntime:
    """`Runtime` for programs without asyncio: a thread runs the loop, every call waits for its answer."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="edgeswarm", daemon=True)
        self._thread.start()
        try:
            self._wait(runtime.__aenter__())
        except BaseException:
            self._end()
            raise

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop.is_closed() or os.getpid() != self._pid:
            work.close()
            whose = (
                "it is closed" if os.getpid() == self._pid else f"it is process {self._pid}'s, which forked this one"
            )
            raise LocalError(f"runtime: {whose}")
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def close(self) -> None:
        """In a forked child nothing happens: agents and their jails are the parent's."""
        if os.getpid() != self._pid:
            return
        try:
            self._wait(self._runtime.__aexit__(None, None, None))
        finally:
            self._end()

    def spawn(
        self, inputs: int, hidden: Sequence[int], outputs: int, capabilities: Sequence[str] = (), **options: Any
    ) -> BlockingAgent:
        """As Runtime.spawn."""
        agent = self._wait(self._runtime.spawn(inputs, hidden, outputs, capabilities, **options))
        return BlockingAgent(self, agent)

    def run(self, *files: Path | str | bytes) -> list[BlockingAgent]:
        """As Runtime.run."""
        return [BlockingAgent(self, agent) for agent in self._wait(self._runtime.run(*files))]

    def update_agent_brain(self, name: str, weights: Any, *, delta: bool = False) -> None:
        self._wait(self._runtime.update_agent_brain(name, weights, delta=delta))

    def swap(self, name: str, file: Path | str | bytes) -> None:
        self._wait(self._runtime.swap(name, file))

    def stop(self, name: str) -> None:
        self._wait(self._runtime.stop(name))

    def start(self, name: str) -> None:
        """As Runtime.start."""
        self._wait(self._runtime.start(name))

    def remove(self, name: str) -> None:
        """As Runtime.remove."""
        self._wait(self._runtime.remove(name))

    def agent(self, name: str) -> BlockingAgent:
        return BlockingAgent(self, self._runtime.agent(name))

    def status(self) -> dict[str, Any]:
        async def ask() -> dict[str, Any]:
            return self._runtime.status()

        return self._wait(ask())

    @property
    def is_open(self) -> bool:
        """False after the `with`."""
        return not self._loop.is_closed()

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run any coroutine of the runtime or its agents in its loop, and wait."""
        return self._wait(work)


class BlockingAgent:
    """`Agent` for programs without asyncio."""

    def __init__(self, runtime: BlockingRuntime, agent: Agent) -> None:
        self._runtime = runtime
        self._agent = agent
        self.name = agent.name

    def process_input(self, values: Values, *, timeout_s: float = TIMEOUT_S) -> Answer | None:
        """As Agent.process_input."""
        return self._runtime.wait(self._agent.process_input(values, timeout_s=timeout_s))

    def update_weights(self, weights: Any, *, delta: bool = False) -> None:
        """As Agent.update_weights."""
        self._runtime.wait(self._agent.update_weights(weights, delta=delta))

    def learn(self, values: Values, feedback: Values) -> None:
        """As Agent.learn: raises LearningNotAvailableError."""
        self._runtime.wait(self._agent.learn(values, feedback))

    def get_metadata(self) -> dict[str, Any]:
        async def ask() -> dict[str, Any]:
            return self._agent.get_metadata()

        return self._runtime.wait(ask())

    def checkpoint(self) -> bytes:
        return self._runtime.wait(self._agent.checkpoint())

    def restore(self, sealed: bytes) -> None:
        self._runtime.wait(self._agent.restore(sealed))

    def stream(self) -> Iterator[dict[str, Any]]:
        """Every answer from now on; ends when the iterator is closed."""
        records = self._agent.stream()

        async def following() -> dict[str, Any]:
            return await anext(records)

        try:
            while True:
                yield self._runtime.wait(following())
        except StopAsyncIteration:
            pass  # the agent was removed, or the runtime ended
        finally:
            if self._runtime.is_open:
                self._runtime.wait(records.aclose())  # type: ignore[attr-defined]
