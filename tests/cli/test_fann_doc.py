"""docs/fann.md: its commands, in their order, in one folder."""

from __future__ import annotations

import filecmp
import re
import shlex
import shutil
from pathlib import Path

import pytest
from fann_nets import FOLDER, answers

DOC = Path(__file__).resolve().parents[2] / "docs" / "fann.md"


def test_every_command_of_the_page_works(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = DOC.read_text()
    shutil.copy(FOLDER / "thyroid_rprop_final.net", "thyroid.net")
    shutil.copy(FOLDER / "scaled.net", "scaled.net")
    yaml = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert yaml is not None
    Path("agent.yaml").write_text(yaml[1])
    rows, _ = answers("thyroid_rprop_final", 21)
    Path("rows.csv").write_text("\n".join(",".join(map(str, row)) for row in rows[:3].tolist()) + "\n")
    commands = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    assert len(commands) > 8
    for command in commands:
        program, *arguments = shlex.split(command)
        if program == "cmp":
            assert filecmp.cmp(*arguments, shallow=False)
        else:
            assert program == "edgeswarm"
            done = cli(*arguments)
            assert done.code == 0, f"{command}\n{done.err}"
    assert len(Path("answers.csv").read_text().splitlines()) == 3
