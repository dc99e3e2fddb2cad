"""The command line as a whole: every command's help, JSON and exit codes, completion, and what --help may import."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from edgeswarm import errors
from edgeswarm.app.cli import aliases, root
from edgeswarm.drivers.control import NotRunningError

DOCS = Path(__file__).resolve().parents[2] / "docs" / "cli.md"
NO_JSON = {"demo", "fleet broker unit"}
"""A show; and a text that is a file."""


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command, and every group, with the words that call it."""

    def below(prefix: str, group: click.Group) -> Iterator[tuple[str, click.Command]]:
        context = click.Context(group)
        for name in group.list_commands(context):
            found = group.get_command(context, name)
            assert found is not None
            yield prefix + name, found
            if isinstance(found, click.Group):
                yield from below(f"{prefix}{name} ", found)

    yield from below("", root.root)


COMMANDS = dict(commands())
GROUPS = {name for name, command in COMMANDS.items() if isinstance(command, click.Group)}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_with_an_example(name: str, cli) -> None:
    done = cli(*name.split(), "--help")
    assert done.code == 0
    if name not in ("config", "demo", "version"):
        assert "Example" in done.out
        assert f"edgeswarm {name}" in done.out


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - GROUPS - NO_JSON))
def test_every_command_takes_json(name: str) -> None:
    assert any("--json" in parameter.opts for parameter in COMMANDS[name].params)


def test_every_option_of_a_command_says_what_it_is_for() -> None:
    silent = [
        f"{name} {option.opts[-1]}"
        for name, command in COMMANDS.items()
        for option in command.params
        if isinstance(option, click.Option) and not option.hidden and not option.help
    ]
    assert silent == []


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - GROUPS))
def test_every_command_is_in_the_documentation(name: str) -> None:
    assert f"`{name}" in DOCS.read_text() or f"edgeswarm {name}" in DOCS.read_text()


def test_the_help_of_the_root_names_every_command(cli) -> None:
    done = cli("--help")
    assert [name for name in root.COMMANDS if not re.search(rf"^  {name} ", done.out, re.MULTILINE)] == []


def test_help_imports_no_command_and_nothing_heavy() -> None:
    code = (
        "import sys; from edgeswarm.app.cli import root; code = root.run(['--help']); "
        "print(sorted(m for m in sys.modules if m.startswith('edgeswarm.') or m in "
        "('numpy', 'wasmtime', 'yaml', 'nacl', 'cbor2', 'psutil', 'asyncio')), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {"edgeswarm.app", "edgeswarm.app.cli", "edgeswarm.app.cli.output", "edgeswarm.app.cli.root"}
    assert done.stderr.strip() == str(sorted(loaded | {"edgeswarm.errors"}))


def test_asking_for_a_status_imports_nothing_heavy(state: Path) -> None:
    code = (
        "import sys; from edgeswarm.app.cli import root; assert root.run(['status']) == 8; "
        "assert not {'numpy', 'wasmtime'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


# --- exit codes ------------------------------------------------------------------------------------------------------


def tree(kind: type[errors.EdgeSwarmError]) -> Iterator[type[errors.EdgeSwarmError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from tree(below)


def documented() -> dict[int, str]:
    rows = re.findall(r"^\| (\d+) \| ([^|]+)\|", DOCS.read_text(), re.MULTILINE)
    return {int(code): text for code, text in rows}


def test_the_documentation_lists_every_exit_code_of_the_error_tree() -> None:
    codes = {kind.exit_code for kind in tree(errors.EdgeSwarmError)} | {NotRunningError.exit_code}
    assert codes <= set(documented())


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (errors.ConfigError("settings: x"), 2, "settings: x"),
        (errors.AgentFileError("cut", who="x.af", offset=7), 3, "x.af: offset 7: cut"),
        (errors.PermissionDeniedError("no"), 4, "no"),
        (errors.SignatureError("broken", who="x.af"), 5, "x.af: broken"),
        (errors.LimitError("at most 3"), 6, "at most 3"),
        (errors.TierError("no seccomp"), 7, "no seccomp"),
        (NotRunningError("nobody"), 8, "nobody"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 4, "/x: Permission denied"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), 1, "/x: No space left on device"),
        (ModuleNotFoundError("No module named 'numpy'", name="numpy"), 2, "pip install 'edgeswarm[build]'"),
        (click.UsageError("bad flag"), 2, "bad flag"),
        (click.Abort(), 130, "interrupted"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_an_error_becomes_its_exit_code_and_one_text(
    error: Exception, code: int, text: str, as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    @click.option("--json", "flag", is_flag=True)
    def command(flag: bool) -> None:
        raise error

    assert root.run(["--json"] if as_json else [], command=command) == code
    found = capsys.readouterr()
    assert found.out == ""
    assert text in found.err
    assert "Traceback" not in found.err
    assert not as_json or found.err.startswith('{"error": {"kind": ')


def test_a_module_of_ours_that_is_missing_is_no_excuse(capsys: pytest.CaptureFixture[str]) -> None:
    @click.command()
    def command() -> None:
        raise ModuleNotFoundError("No module named 'edgeswarm.nothing'", name="edgeswarm.nothing")

    with pytest.raises(ModuleNotFoundError):
        root.run([], command=command)


def test_unknown_commands_and_options_are_usage_errors(cli) -> None:
    assert cli("no-such-command").code == 2
    assert cli("agent", "no-such-command").code == 2
    assert cli("status", "--no-such-option").code == 2


def test_texts_of_files_reach_the_terminal_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    @click.command()
    def command() -> None:
        raise errors.AgentFileError("name \x1b]0;owned\x07\x9b31m\nline 2")

    root.run([], command=command)
    assert "?]0;owned??31m\nline 2" in capsys.readouterr().err


# --- completion ------------------------------------------------------------------------------------------------------


def complete(words: str, state: Path, name: str = "edgeswarm") -> list[str]:
    environ = {
        **os.environ,
        f"_{name.upper().replace('-', '_')}_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
        "EDGESWARM_STATE": str(state),
    }
    script = f"import sys; sys.argv = [{name!r}]; from edgeswarm.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, timeout=30)
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_completion_of_commands_options_and_choices(state: Path) -> None:
    assert complete("edgeswarm st", state) == ["status"]
    assert complete("edgeswarm agent s", state) == ["show", "sign", "start", "stop", "swap"]
    assert complete("edgeswarm agent new x --template a", state) == ["autoencoder"]
    assert "--follow" in complete("edgeswarm logs --", state)


def test_completion_of_agent_names_is_silent_without_a_supervisor(state: Path) -> None:
    assert complete("edgeswarm agent stop ", state) == []


def test_the_bash_script_of_the_documentation_is_made(state: Path) -> None:
    line = 'eval "$(_EDGESWARM_COMPLETE=bash_source edgeswarm)"'
    assert line in DOCS.read_text()
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv = ['edgeswarm']; from edgeswarm.__main__ import main; main()"],
        env={**os.environ, "_EDGESWARM_COMPLETE": "bash_source"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "complete -o nosort -F _edgeswarm_completion edgeswarm" in done.stdout


# --- the other names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (aliases.compiler, "Usage: af-compiler [OPTIONS] SRC"),
        (aliases.runtime, "Usage: af-runtime [OPTIONS] [X.af]..."),
        (aliases.debug, "verify"),
        (aliases.profile, "Usage: af-profile [OPTIONS] X.af"),
    ],
)
def test_the_other_names_are_the_same_commands(
    entry, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["af", "--help"])
    with pytest.raises(SystemExit) as end:
        entry()
    assert end.value.code == 0
    assert expected in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["x.af", "--input", "a", "--output", "b"], "agent_run"),
        (["x.af", "-i", "a", "-o", "b"], "agent_run"),
        (["--input=a", "x.af"], "agent_run"),
        (["-ia", "x.af"], "agent_run"),
        (["x.af"], "daemon"),
        ([], "daemon"),
    ],
)
def test_af_runtime_computes_a_file_where_an_input_is_named(arguments: list[str], name: str) -> None:
    callback = aliases.runtime_command(arguments).callback
    assert callback is not None
    assert callback.__module__ == f"edgeswarm.app.cli.{name}"
