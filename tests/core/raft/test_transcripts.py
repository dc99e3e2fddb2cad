"""Transcripts of what a few nodes say to each other, played on the core and compared line by line.

etcd's own: from the directory that EDGESWARM_RAFT_TRANSCRIPTS names, else from the shared data; further ones can be
dropped in there.  Ours, for the commands that those do not use: tests/core/raft/transcripts.
`PYTHONPATH=tests/support python -m raft_transcripts FILE...` plays files by hand.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from raft_datadriven import TranscriptError, data_directory, data_files, no_data, parse_file
from raft_transcripts import Player, normal, play

OURS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))
ETCD = data_files("interaction")


def _name(path: Path) -> str:
    return path.stem


@pytest.mark.skipif(not ETCD, reason=no_data("interaction"))
@pytest.mark.parametrize("path", ETCD, ids=_name)
def test_transcript_of_etcd_comes_out(path: Path) -> None:
    differences = play(path)
    assert not differences, "\n\n".join(map(str, differences[:3]))


@pytest.mark.parametrize("path", OURS, ids=_name)
def test_transcript_of_ours_comes_out(path: Path) -> None:
    differences = play(path)
    assert not differences, "\n\n".join(map(str, differences[:3]))


@pytest.mark.parametrize("path", ETCD + OURS, ids=_name)
def test_transcript_comes_out_with_messages_as_bytes(path: Path) -> None:
    assert not play(path, through_bytes=True)


def test_transcripts_that_were_asked_for_are_there() -> None:
    assert len(OURS) >= 16
    named = os.environ.get("EDGESWARM_RAFT_TRANSCRIPTS")
    assert ETCD or not named, f"EDGESWARM_RAFT_TRANSCRIPTS names {named}, where there is no transcript"


# --- the reader -----------------------------------------------------------------------------------------------------


def _write(folder: Path, text: str) -> Path:
    path = folder / "story.txt"
    path.write_text(text)
    return path


def test_transcript_reader_takes_every_form(tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        "# comment\n\nadd-nodes 3 voters=(1, 2,3) index=2 \\\n  prevote=true\n----\nok\n\n"
        "propose-conf-change 1 v1=true\nv2\nr3\n----\none\ntwo\n\n\n"
        "stabilize\n----\n----\nfirst\n\nsecond\n----\n----\nlast 1 x\n----\nend",
    )
    first, second, third, fourth = parse_file(path)
    assert (first.name, first.bare, first.line) == ("add-nodes", ("3",), 3)
    assert first.args == {"3": (), "voters": ("1", "2", "3"), "index": ("2",), "prevote": ("true",)}
    assert (second.input, second.expected) == (("v2", "r3"), ("one", "two"))
    assert third.expected == ("first", "", "second")
    assert (fourth.name, fourth.bare, fourth.expected) == ("last", ("1", "x"), ("end",))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("\nfly 1\n----\nok\n", r"story.txt:2: unknown command 'fly'; known are .*campaign"),
        ("campaign\n----\nok\n", "story.txt:1: campaign expects 1 words"),
        ("campaign one\n----\nok\n", "story.txt:1: campaign expects a number"),
        ("add-nodes 1 wings=2\n----\nok\n", "story.txt:1: add-nodes does not know 'wings'"),
        ("add-nodes 1 prevote=perhaps\n----\nok\n", "story.txt:1: expected one of true, false"),
        ("add-nodes 1 inflight=(1,2)\n----\nok\n", "story.txt:1: add-nodes expects one number"),
        ("deliver-msgs 1 drop=(1)\n----\nok\n", "delivered or dropped, not both"),
        ("deliver-msgs 1 type=MsgCarrot\n----\nok\n", "found 'MsgCarrot'"),
        ("log-level loud\n----\nok\n", "story.txt:1: expected a level"),
        (
            "add-nodes 1 voters=(1) index=2\n----\nok\n\npropose 1\n----\nok\n",
            "story.txt:5: expected a node and",
        ),
        ("stabilize voters=(1\n----\nok\n", "story.txt:1: expected key"),
        ("stabilize\nok\n", "story.txt:1: expected `----` after the command"),
        ("stabilize\n----\n----\nno end\n", "story.txt:1: expected `----` twice"),
        ("add-nodes 1 voters=(1) index=2\n----\nok\n\npropose-conf-change 1 v1=true\nv1 v2\n----\nok\n", "one change"),
    ],
)
def test_transcript_faults_name_file_and_line(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(TranscriptError, match=fault):
        play(_write(tmp_path, text))


def test_transcript_with_a_wrong_line_is_told(tmp_path: Path) -> None:
    """The difference says where, what was expected and what came out; it is not lost in what follows."""
    path = _write(
        tmp_path,
        "add-nodes 1 voters=(1) index=3\n----\nok\n\nraft-state\n----\n1: StateLeader (Voter) Term:9 Lead:1\n\n"
        "campaign 1\n----\nINFO whatever it says\n",
    )
    (difference,) = play(path)
    assert difference.command.line == 5
    assert "-1: StateLeader (Voter) Term:9 Lead:1" in str(difference)
    assert "+1: StateFollower (Voter) Term:0 Lead:0" in str(difference)


def test_transcript_errors_are_told_even_when_nothing_else_is(tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        "log-level none\n----\nok\n\nadd-nodes 1 voters=(1) index=3\n----\nok\n\nraft-state\n----\nok\n\n"
        "propose 1 x\n----\nraft proposal dropped\n\ncampaign 5\n----\nthere is no node 5, found 1 nodes\n",
    )
    assert play(path) == []


def test_log_lines_do_not_count() -> None:
    assert normal(("INFO 1 became follower", "  DEBUG x", "> 1 handling Ready  ")) == ["> 1 handling Ready"]
    assert normal(("WARN x",)) == normal(()) == normal(("ok",)) == ["ok"]


def test_transcript_directory_can_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = _write(tmp_path, "")
    (tmp_path / "README.md").write_text("no transcript")
    monkeypatch.setenv("EDGESWARM_RAFT_TRANSCRIPTS", str(tmp_path))
    assert data_files("interaction") == [one]
    monkeypatch.setenv("EDGESWARM_RAFT_TRANSCRIPTS", str(tmp_path / "absent"))
    assert data_files("interaction") == []
    monkeypatch.delenv("EDGESWARM_RAFT_TRANSCRIPTS")
    monkeypatch.setenv("EDGESWARM_TEST_DATA", str(tmp_path))
    below = tmp_path / "etcd-raft" / "interaction"
    below.mkdir(parents=True)
    assert data_directory("interaction") == below


def test_every_command_of_the_language_is_known() -> None:
    """The commands of etcd's rafttest; a transcript that uses another one fails by name."""
    assert set(Player().commands) >= {
        "add-nodes",
        "campaign",
        "compact",
        "deliver-msgs",
        "forget-leader",
        "log-level",
        "process-append-thread",
        "process-apply-thread",
        "process-ready",
        "propose",
        "propose-conf-change",
        "raft-log",
        "raft-state",
        "report-unreachable",
        "send-snapshot",
        "set-randomized-election-timeout",
        "stabilize",
        "status",
        "tick-election",
        "tick-heartbeat",
        "transfer-leadership",
    }
