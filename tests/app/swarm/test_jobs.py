"""Job files: what is a job, what is not and on which line, and what the cell gets."""

from __future__ import annotations

import json

import pytest

from edgeswarm.app.swarm import jobs
from edgeswarm.core.cell.types import JobState, JobStatus, TaskRun, TaskStatus
from edgeswarm.errors import EdgeSwarmError
from edgeswarm.wire import codec

GOOD = """\
job: night
deadline_s: 60
tasks:
  - name: both
    file: fuse.af
    use: [left, right]
    needs: {tier: B, memory_mb: 16, cpu_cores: 0.5, labels: [zone=b, zone=a]}
  - name: left
    agent: scorer
    rows: [[1, 2.5]]
    retries: 0
  - name: right
    map: {match: "sensor-*", aggregate: top-k, k: 3, share: 0.9}
    rows: [[1, 2]]
"""


CYCLE = """\
tasks:
  - {name: a, agent: x, rows: [[1]], after: [c]}
  - {name: b, agent: x, rows: [[1]], use: [a]}
  - {name: c, agent: x, rows: [[1]], after: [b]}
"""


def test_a_job_file_becomes_tasks_in_an_order_that_can_run() -> None:
    form = jobs.parse(GOOD, who="night.yaml")
    specs = jobs.specs_of(form, agents=["sensor-b", "sensor-a", "scorer"], files={"fuse.af": bytes(32)})
    assert [(spec.name, spec.after) for spec in specs] == [("left", ()), ("right", ()), ("both", (0, 1))]
    left, right, both = specs
    assert left.agent == "scorer" and left.retries_max == 0
    assert codec.loads(left.input) == {"rows": [[1.0, 2.5]]}
    assert right.map is not None and right.map.agents == ("sensor-a", "sensor-b")
    assert (right.map.k, right.map.share_min_permille) == (3, 900)
    assert both.artefact == bytes(32) and codec.loads(both.input) == {"rows": [], "use": ["left", "right"]}
    assert both.needs.memory_bytes == 16 << 20 and both.needs.labels == ("zone=a", "zone=b")


def test_json_is_a_job_file_too() -> None:
    tree = {"tasks": [{"name": "a", "agent": "x", "rows": [[1]]}]}
    assert jobs.parse(json.dumps(tree), who="j.json") == jobs.form_of(tree, where="j")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("tasks:\n  - name: a\n    agent: x\n    rowz: [[1]]\n", "line 4: tasks[0].rowz"),
        ("tasks:\n  - {name: a, agent: x, rows: [[1]], after: [b]}\n", "task a needs b, which is not in the job"),
        (
            CYCLE,
            "a -> c -> b -> a",
        ),
        ("tasks:\n  - {name: a, agent: x, rows: [[1]]}\n  - {name: a, agent: x, rows: [[1]]}\n", "two tasks are named"),
        ("tasks:\n  - {name: a, agent: x, file: y, rows: [[1]]}\n", "exactly one of agent, file, map"),
        ("tasks:\n  - {name: a, agent: x}\n", "expected rows, or use"),
        ("tasks:\n  - {name: a, agent: x, rows: [[.nan]]}\n", "line 2"),
        ("tasks:\n  - {name: a, map: {aggregate: median, agents: [x]}, rows: [[1]]}\n", "aggregate"),
        ("tasks:\n  - {name: a, map: {aggregate: kernel, agents: [x]}, rows: [[1]]}\n", "goes with aggregate kernel"),
        ("tasks: []\n", "tasks"),
        ("jub: x\ntasks: []\n", "line 1"),
        ("tasks:\n  - [\n", "line"),
    ],
)
def test_what_is_no_job_is_refused_with_the_place(text: str, found: str) -> None:
    with pytest.raises(EdgeSwarmError) as error:
        jobs.parse(text, who="job.yaml")
    assert found in str(error.value)


def test_rows_that_do_not_fit_into_the_log_are_refused() -> None:
    form = jobs.form_of({"tasks": [{"name": "a", "agent": "x", "rows": [[0.1] * 4000] * 3}]}, where="j")
    with pytest.raises(jobs.JobFormError, match="at most 65536 bytes"):
        jobs.specs_of(form, agents=(), files={})
    form = jobs.form_of(
        {"tasks": [{"name": "a", "map": {"match": "x*", "aggregate": "mean"}, "rows": [[1]]}]}, where="j"
    )
    with pytest.raises(jobs.JobFormError, match=r"match 'x\*': expected 1 to 10000, found 0"):
        jobs.specs_of(form, agents=["y"], files={})


def test_a_row_tells_results_and_bytes_that_are_no_cbor_stay_bytes() -> None:
    specs = jobs.specs_of(jobs.parse(GOOD, who="n"), agents=["sensor-a"], files={"fuse.af": bytes(32)})
    done = TaskRun(TaskStatus.FINISHED, 1, device="d1", result=codec.dumps({"answers": []}))
    odd = TaskRun(TaskStatus.FINISHED, 1, device="d1", result=b"\xff")
    job = JobState("night", "d1", specs, (done, odd, TaskRun()), 1, status=JobStatus.RUNNING)
    row = jobs.row_of(job, progress=666, whole=True)
    assert (row["finished"], row["tasks"], row["permille"]) == (2, 3, 666)
    assert [run["result"] for run in row["runs"]] == [{"answers": []}, b"\xff", None]
