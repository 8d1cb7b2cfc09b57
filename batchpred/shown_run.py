"""One run for a person: its facts, what champion and canary said, how it was scored, drift, quarantine, moves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchpred import console

if TYPE_CHECKING:
    from storage.database import Row

# What has a table of its own, or is for programs alone.
_APART = ("definition", "job_table", "quarantine", "moves", "scoring", "sides", "drift")


def print_run(run: Row) -> None:
    """Print what storage.moves.show_run says of a run, and as its `sides` what storage.canaries.sides does."""
    unsaid = [] if run["canary_version"] else [name for name in run if name.startswith("canary_")]
    facts = {name: value for name, value in run.items() if name not in (*_APART, *unsaid)}
    console.print_table([{"": name, " ": str(value)} for name, value in facts.items()])
    if sides := run.get("sides"):
        _print_below(_sides(run, sides))
    if run["scoring"]:
        _print_below(
            [{"scoring": name, " ": _listed(value)} for name, value in _scoring(run["scoring"]).items()]
        )
    if run["drift"]:
        _print_below(_drifted(run["drift"]), title=_drift_title(run["drift"]))
    for name in ("quarantine", "moves"):
        if run[name]:
            _print_below(run[name], title=name)
    if run["status"] == "blocked" and run["has_table"]:
        publishing = (
            f'publish them all the same with:\n  batchpred runs publish {run["run_id"]} --override "why"'
        )
        # Keys that stand there twice: no reason makes one of the rows the right one.
        mending = "mend the query or the source and run again"
        console.out.print(
            f"\nits predictions are in {run['has_table']}; {publishing if run['is_sealed'] else mending}",
            markup=False,
            soft_wrap=True,
        )


def _print_below(rows: list[dict[str, Any]], **title: str) -> None:
    console.out.print()
    console.print_table(rows, **title)


def _sides(run: Row, sides: list[Row]) -> list[dict[str, Any]]:
    """What champion and canary said of their keys, side by side: a row a figure."""
    versions = {False: run["model_version"], True: run["canary_version"]}
    columns = {f"{run['model_name']}/{versions[side['is_canary']]}": side for side in sides}
    figures = [name for name in sides[0] if name != "is_canary"]
    return [{"": figure, **{name: side[figure] for name, side in columns.items()}} for figure in figures]


# In the order in which a person asks: jsonb keeps none.
_SCORING = (
    "device_asked",
    "device",
    "provider",
    "operators",
    "fallback",
    "batch",
    "model_seconds",
    "transform",
    "canary",
)


def _scoring(account: dict[str, Any]) -> dict[str, Any]:
    facts = _facts(account)
    if "canary" in facts:
        facts["canary"] = {"model": facts["canary"]["model"], **_facts(facts["canary"])}
    return facts


def _facts(scoring: dict[str, Any]) -> dict[str, Any]:
    facts = {name: scoring.get(name) for name in _SCORING}
    return {name: value for name, value in facts.items() if value not in (None, {})}


def _listed(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {each}" for name, each in value.items())
    return ", ".join(value) if isinstance(value, list) else str(value)


# Columns of a run that are shown where none is beyond a limit.
_DRIFTED = 5


def _drift_title(found: dict[str, Any]) -> str:
    limits = f"warn {found['warn']:g}, alert {found['alert']:g}"
    return (
        f"drift {found['level']}, against {found['reference']}'s {found['reference_rows']:,} rows; {limits}"
    )


def _drifted(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The columns beyond a limit, and at least the few that moved most, with their figures."""
    beyond = sum(each["level"] in ("warn", "alert") for each in found["columns"])
    return [
        {
            "column": each["column"],
            "of": each["of"],
            "level": each["level"],
            found["metric"]: each["psi"],
            "by chance": each["by_chance"],
            "null": each["null_share"],
            "null before": each["reference_null_share"],
            "gained most": each["gained_most"],
            "share": each["share"],
            "share before": each["reference_share"],
            "new values": ", ".join(f"{value!r} {times}" for value, times in each["new_values"].items()),
        }
        for each in found["columns"][: max(beyond, _DRIFTED)]
    ]
