"""In what a sandbox policy is weaker than another: said to who writes one, so that nothing is lost unseen."""

from __future__ import annotations

from collections.abc import Iterator

from edgeswarm.drivers.jail_policy_file import PolicyFile, Stage

_LAYERS = {
    "landlock": "no Landlock",
    "refuse_exec_gain": "executable memory can still be made (no MDWE)",
    "seal_text": "code pages are not sealed",
}


def weaker(policy: PolicyFile, than: PolicyFile) -> list[str]:
    """One line for each promise of `than` that `policy` does not keep; empty where it keeps them all."""
    return [*_layers(policy, than), *_limits(policy, than), *_calls(policy.stage_2, than.stage_2)]


def _layers(policy: PolicyFile, than: PolicyFile) -> Iterator[str]:
    missing = [name for name in than.namespaces if name not in policy.namespaces]
    if missing:
        yield f"no namespace of its own: {', '.join(missing)}"
    for name, text in _LAYERS.items():
        if getattr(than, name) and not getattr(policy, name):
            yield text
    if policy.data_mb > than.data_mb:
        yield f"data_mb {policy.data_mb} instead of {than.data_mb}"


def _limits(policy: PolicyFile, than: PolicyFile) -> Iterator[str]:
    for table in ("limits", "limits_final"):
        ours, theirs = getattr(policy, table), getattr(than, table)
        for name, most in theirs.items():
            if name not in ours:
                yield f"{table}.{name}: none instead of {most}"
            elif ours[name] > most:
                yield f"{table}.{name}: {ours[name]} instead of {most}"


def _calls(stage: Stage, than: Stage) -> Iterator[str]:
    """Of the stage in which agents run."""
    known = {*than.allow, *than.allow_without_exec}
    more = [name for name in (*stage.allow, *stage.allow_without_exec) if name not in known]
    if more:
        yield f"allows while agents run: {', '.join(sorted(more))}"
    executable = sorted(stage.allow.keys() & than.allow_without_exec.keys())
    if executable:
        yield f"also for executable memory: {', '.join(executable)}"
    for name, only in than.only.items():
        if name not in stage.allow and name not in stage.allow_without_exec:
            continue
        ours = stage.only.get(name)
        if ours is None or ours.argument != only.argument or not set(ours.values) <= set(only.values):
            yield f"{name}: argument {only.argument} is not narrowed as there"
