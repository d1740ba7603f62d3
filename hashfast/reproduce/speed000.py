"""Table 7 of paper 000 (IEM, preprint): what a part of the time of condensation is enough for."""

from collections.abc import Iterator
from typing import Any

from hashfast.reproduce.experiment import Found, Shown
from hashfast.reproduce.numbers000 import MINUTES, SHARES, SPEED, paper_map, share
from hashfast.reproduce.plan import Plan, Run
from hashfast.reproduce.runs000 import VERSIONS, condensed_runs, data_and_images, images_a_class
from hashfast.reproduce.tables import Entry, Table, tabulate

STOPS = 10
"""Evaluations while condensing: one at each of SHARES."""
_FOLLOWED = ("idc", "iem-pretrained", "iem")


def speed(plan: Plan) -> list[Run]:
    """Methods of which the paper prints what they reach in a part of the time are followed."""
    return [
        run
        for method in plan.methods
        for source in plan.sources
        for ipc in images_a_class(plan, source)
        for run in condensed_runs(
            plan,
            source,
            method,
            data_and_images(source, ipc),
            ipc=ipc,
            bits=plan.bits[0],
            paper=paper_map(source.like, ipc, plan.bits[0], method),
            stops=STOPS if method in _FOLLOWED else 0,
        )
    ]


def show_speed(found: Found) -> Shown:
    maps, minutes = [], []
    for run, result in found.runs:
        maps.append(Entry(run.column, run.row, result["report"]["map"], run.paper))
        for part, point, number, time in _shares(run, result):
            maps.append(Entry(run.column, f"{run.row} 1/{part}", point["map"], number))
            name = f"{run.row} 1/{part} min"
            minutes.append(Entry(run.column, name, point["seconds"] / 60, time))
    table, times = tabulate("data", maps), tabulate("data", minutes, "#.3g")
    rows = {row: {**cells, **times.rows.get(row, {})} for row, cells in table.rows.items()}
    note = (
        "1/5 and 1/10: what is reached in this part of the networks; min: minutes of condensation "
        "until then, the paper's on an RTX 2080 Ti (CIFAR-10) or 3090. Pretrained networks count "
        "where they were trained, not where a run before left them."
    )
    return Shown(Table("data", [*table.columns, *times.columns], rows), notes=(note, VERSIONS))


def _shares(
    run: Run, result: dict[str, Any]
) -> Iterator[tuple[int, dict[str, Any], float | None, float | None]]:
    """(1 / share, the stop nearest to it, the paper's mAP and minutes there)."""
    if "history" not in result or run.condensing is None:
        return
    config, history = run.condensing.config, result["history"]
    place, none = (run.source.like, config.ipc), (None,) * len(SHARES)
    numbers = SPEED.get(place, {}).get(config.method, none)
    times = MINUTES.get(place, {}).get(config.method, none)
    for part, number, time in zip(SHARES, numbers, times, strict=True):
        aim = history[-1]["networks"] / part
        stop = min(history, key=lambda point: abs(point["networks"] - aim))
        yield part, stop, share(number) if run.config.bits == 64 else None, time
