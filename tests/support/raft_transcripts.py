"""Plays the transcripts of etcd raft's interaction tests on our core, and says where the outcome differs.

Everything of a transcript must come out line by line, but for the log lines of Go's implementation (INFO, DEBUG, ...),
which are left out of both sides; an output that is empty without them reads `ok`.
`python -m raft_transcripts FILE...` (with tests/support on the path) plays files and prints the differences.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from raft_cluster import Cluster, ClusterError, error_text, snapshot_at
from raft_datadriven import Command, TranscriptError, first_difference, parse_file, rewrite
from raft_describe import MESSAGE_TYPES
from raft_members import changes_from_text

from edgeswarm.core.raft.confchange import ConfChange, ConfChangeV2, Transition
from edgeswarm.core.raft.config import ReadOnly
from edgeswarm.errors import EdgeSwarmError

T = TypeVar("T")
LOG_LEVELS = ("DEBUG", "INFO", "WARN", "ERROR", "FATAL", "NONE")
_LOG_LINE = re.compile(r"\s*(DEBUG|INFO|WARN|WARNING|ERROR|FATAL|PANIC) ")
_TYPES_BY_NAME = {name: type_ for type_, name in MESSAGE_TYPES.items()}
_TRANSITIONS = {
    "auto": Transition.AUTO,
    "implicit": Transition.JOINT_IMPLICIT,
    "explicit": Transition.JOINT_EXPLICIT,
}
_READ_ONLY = {"safe": ReadOnly.SAFE, "lease-based": ReadOnly.LEASE_BASED}


@dataclass(frozen=True, slots=True)
class Difference:
    """A command whose output is not the expected one."""

    command: Command
    found: tuple[str, ...]

    def __str__(self) -> str:
        head = f"{self.command.where}: {self.command.name}"
        return "\n".join((head, *first_difference(normal(self.command.expected), normal(self.found))))


def normal(lines: tuple[str, ...] | list[str]) -> list[str]:
    """Output as it is compared."""
    kept = [line.rstrip() for line in lines if line.strip() and not _LOG_LINE.match(line)]
    return kept or ["ok"]


def play(path: Path, *, through_bytes: bool = False) -> list[Difference]:
    """Plays every command of a file; commands after a difference are still played, though more may then differ.

    through_bytes: messages are encoded and decoded on their way, as on a network.  Raises TranscriptError naming file
    and line for what is no transcript.
    """
    player = Player(through_bytes=through_bytes)
    differences = []
    for command in parse_file(path):
        found = player.run(command)
        if normal(found) != normal(command.expected):
            differences.append(Difference(command, found))
    return differences


class Player:
    """A cluster that takes the commands of a transcript."""

    def __init__(self, *, through_bytes: bool = False) -> None:
        self.cluster = Cluster(through_bytes=through_bytes)
        self.commands: dict[str, Callable[[Command], None]] = {
            "add-nodes": self._add_nodes,
            "campaign": lambda c: self.cluster.node(_number(c)).raw.campaign(),
            "compact": lambda c: self.cluster.compact(_number(c), _number(c, 1)),
            "deliver-msgs": self._deliver,
            "forget-leader": lambda c: self.cluster.node(_number(c)).raw.forget_leader(),
            "log-level": lambda c: self._log_level(c, _word(c)),
            "process-append-thread": self._process_append_thread,
            "process-apply-thread": self._process_apply_thread,
            "process-ready": self._process_ready,
            "propose": self._propose,
            "propose-conf-change": self._propose_conf_change,
            "raft-log": lambda c: self.cluster.write_log(_number(c)),
            "raft-state": lambda c: self.cluster.write_states(),
            "report-unreachable": lambda c: self.cluster.node(_number(c)).raw.report_unreachable(_number(c, 1)),
            "send-snapshot": lambda c: self.cluster.send_snapshot(_number(c), _number(c, 1)),
            "set-randomized-election-timeout": self._set_timeout,
            "stabilize": self._stabilize,
            "status": lambda c: self.cluster.write_status(_number(c)),
            "tick-election": lambda c: self._tick(c, "election_ticks"),
            "tick-heartbeat": lambda c: self._tick(c, "heartbeat_ticks"),
            "transfer-leadership": self._transfer,
            "_breakpoint": lambda c: None,
        }

    def run(self, command: Command) -> tuple[str, ...]:
        """Its output, a line each."""
        act = self.commands.get(command.name)
        if act is None:
            known = ", ".join(sorted(self.commands))
            raise TranscriptError(f"{command.where}: unknown command {command.name!r}; known are {known}")
        self.cluster.out = []
        try:
            act(command)
        except EdgeSwarmError as error:  # errors are told even when nothing else is
            self.cluster.out.append(error_text(error))
        except ClusterError as error:
            self.cluster.out.append(str(error))
        return tuple(self.cluster.out)

    # --- commands ---------------------------------------------------------------------------------------------------

    def _add_nodes(self, command: Command) -> None:
        """add-nodes COUNT voters=(..) learners=(..) index=N content=TEXT, and options of every node."""
        options: dict[str, object] = {}
        index, content = 0, b""
        voters: tuple[int, ...] = ()
        learners: tuple[int, ...] = ()
        for key, values in command.args.items():
            match key:
                case "voters":
                    voters = _numbers(command, values)
                case "learners":
                    learners = _numbers(command, values)
                case "index":
                    index = _integer(command, values)
                case "content":
                    content = " ".join(values).encode()
                case "inflight":
                    options["max_inflight_msgs"] = _integer(command, values)
                case "max-committed-size-per-ready":
                    options["max_committed_bytes"] = _integer(command, values)
                case "prevote":
                    options["pre_vote"] = _boolean(command, values)
                case "checkquorum":
                    options["check_quorum"] = _boolean(command, values)
                case "async-storage-writes" | "step-down-on-removal" | "disable-conf-change-validation":
                    options[key.replace("-", "_")] = _boolean(command, values)
                case "read-only":
                    options["read_only"] = _choice(command, values, _READ_ONLY)
                case _ if values:
                    raise TranscriptError(f"{command.where}: add-nodes does not know {key!r}")
        self.cluster.add_nodes(_number(command), snapshot_at(index, voters, learners, content), options)

    def _deliver(self, command: Command) -> None:
        """deliver-msgs ID... drop=(ID, ...) type=MsgX"""
        type_ = None
        if "type" in command.args:
            type_ = _choice(command, command.args["type"], _TYPES_BY_NAME)
        to, dropped = _bare_numbers(command), _numbers(command, command.args.get("drop", ()))
        if set(to) & set(dropped):
            raise TranscriptError(f"{command.where}: messages are delivered or dropped, not both")
        count = 0
        for key in command.args:  # in the order in which they are written
            if key == "drop":
                count += sum(self.cluster.deliver(id_, type_=type_, drop=True) for id_ in dropped)
            elif key.isdigit():
                count += self.cluster.deliver(int(key), type_=type_)
        if not count:
            self.cluster.write("no messages")

    def _log_level(self, command: Command, level: str) -> None:
        if level.upper() not in LOG_LEVELS:
            raise TranscriptError(f"{command.where}: expected a level of {', '.join(LOG_LEVELS)}, found {level!r}")
        self.cluster.quiet = level.upper() == "NONE"

    def _process_ready(self, command: Command) -> None:
        cluster = self.cluster
        cluster.on_each([cluster.node(n) for n in _bare_numbers(command)], "handling Ready", cluster.process_ready)

    def _process_append_thread(self, command: Command) -> None:
        nodes = [self.cluster.node(n) for n in _bare_numbers(command)]
        self.cluster.on_each(nodes, "processing append thread", self.cluster.process_append_thread)

    def _process_apply_thread(self, command: Command) -> None:
        nodes = [self.cluster.node(n) for n in _bare_numbers(command)]
        self.cluster.on_each(nodes, "processing apply thread", self.cluster.process_apply_thread)

    def _propose(self, command: Command) -> None:
        """propose ID TEXT"""
        if len(command.bare) != 2:
            raise TranscriptError(f"{command.where}: expected a node and one word to propose")
        self.cluster.node(_number(command)).raw.propose(command.bare[1].encode())

    def _propose_conf_change(self, command: Command) -> None:
        """propose-conf-change ID v1=BOOL transition=auto|implicit|explicit, and the changes as input."""
        v1, transition = False, Transition.AUTO
        for key, values in command.args.items():
            match key:
                case "v1":
                    v1 = _boolean(command, values)
                case "transition":
                    transition = _choice(command, values, _TRANSITIONS)
                case _ if values:
                    raise TranscriptError(f"{command.where}: propose-conf-change does not know {key!r}")
        changes = changes_from_text(" ".join(command.input))
        change: ConfChange | ConfChangeV2
        if v1:
            if len(changes) != 1 or transition is not Transition.AUTO:
                raise TranscriptError(f"{command.where}: the first form is one change, and has no transition")
            change = ConfChange(changes[0].type, changes[0].number)
        else:
            change = ConfChangeV2(tuple(changes), transition)
        self.cluster.node(_number(command)).raw.propose_conf_change(change)

    def _set_timeout(self, command: Command) -> None:
        """set-randomized-election-timeout ID timeout=TICKS"""
        timeout = _integer(command, command.args.get("timeout", ()))
        self.cluster.node(_number(command)).raw.set_randomized_election_timeout(timeout)

    def _stabilize(self, command: Command) -> None:
        """stabilize ID... log-level=LEVEL"""
        quiet = self.cluster.quiet
        if "log-level" in command.args:
            self._log_level(command, "".join(command.args["log-level"]))
        try:
            self.cluster.stabilize(self.cluster.some(_bare_numbers(command)))
        finally:
            self.cluster.quiet = quiet

    def _tick(self, command: Command, ticks: str) -> None:
        number = _number(command)
        self.cluster.tick(number, getattr(self.cluster.node(number).config, ticks))

    def _transfer(self, command: Command) -> None:
        """transfer-leadership from=ID to=ID"""
        sender, to = (_integer(command, command.args.get(key, ())) for key in ("from", "to"))
        self.cluster.node(sender).raw.transfer_leader(to)


# --- arguments ------------------------------------------------------------------------------------------------------


def _word(command: Command, at: int = 0) -> str:
    if len(command.bare) <= at:
        raise TranscriptError(f"{command.where}: {command.name} expects {at + 1} words, found {len(command.bare)}")
    return command.bare[at]


def _number(command: Command, at: int = 0) -> int:
    word = _word(command, at)
    if not word.isdigit():
        raise TranscriptError(f"{command.where}: {command.name} expects a number, found {word!r}")
    return int(word)


def _bare_numbers(command: Command) -> list[int]:
    return [_number(command, at) for at in range(len(command.bare))]


def _numbers(command: Command, values: tuple[str, ...]) -> tuple[int, ...]:
    if not all(value.isdigit() for value in values):
        raise TranscriptError(f"{command.where}: {command.name} expects numbers, found {values}")
    return tuple(int(value) for value in values)


def _integer(command: Command, values: tuple[str, ...]) -> int:
    numbers = _numbers(command, values)
    if len(numbers) != 1:
        raise TranscriptError(f"{command.where}: {command.name} expects one number, found {values}")
    return numbers[0]


def _boolean(command: Command, values: tuple[str, ...]) -> bool:
    return _choice(command, values, {"true": True, "false": False})


def _choice(command: Command, values: tuple[str, ...], choices: dict[str, T]) -> T:
    if len(values) != 1 or values[0] not in choices:
        raise TranscriptError(f"{command.where}: expected one of {', '.join(choices)}, found {' '.join(values)!r}")
    return choices[values[0]]


def main(words: list[str]) -> int:
    """Plays files; prints every first difference and a line a file.  `--rewrite` puts what comes out into them."""
    failed = 0
    for path in map(Path, [word for word in words if word != "--rewrite"]):
        if "--rewrite" in words:
            player = Player()
            rewrite(path, [tuple(normal(player.run(command))) for command in parse_file(path)])
        differences = play(path)
        failed += bool(differences)
        sys.stdout.write(f"{path.name}: {'ok' if not differences else f'{len(differences)} commands differ'}\n")
        if differences:
            sys.stdout.write(f"{differences[0]}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
