"""The figures of paper 004 (BRCD): what they need besides Table 1, and how they are drawn."""

from collections.abc import Callable
from pathlib import Path

import torch

from hashfast import plots
from hashfast.distill.paradigms import NEIGHBOURS
from hashfast.hashing.methods import arguments
from hashfast.losses import DISTILLATION
from hashfast.reproduce.experiment import Found, Shown
from hashfast.reproduce.plan import Plan, Run
from hashfast.reproduce.results import data_and_bits, map_table
from hashfast.reproduce.runs004 import (
    columns_of,
    find_method,
    networks,
    paradigm_table,
    student_config,
    student_runs,
    teacher_config,
)
from hashfast.reproduce.tables import Entry, tabulate

ALPHAS, DELTAS = (0.6, 0.7, 0.8, 0.9), (0.2, 0.3, 0.4, 0.5, 0.6)
SHOWN_BITS = 8
_TO = " -> "
NO_NUMBERS = "The paper's figure prints no numbers."


def plan_bits(plan: Plan) -> list[Run]:
    """The teacher, by data and bits."""
    found = []
    for source in plan.sources:
        name = next(iter(networks(source).teachers))
        for bits in plan.bits:
            for seed in plan.seeds:
                config = teacher_config(plan, source, bits=bits, seed=seed)
                found.append(Run(config, source, data_and_bits(source, bits), name))
    return found


def draw_bits(found: Found) -> Shown:
    """Histograms of bits drawn at random, and the expectations of these."""
    cells, pictures = [], []
    for run, result in found.runs:
        draws = torch.Generator().manual_seed(0)
        bits = torch.randperm(run.config.bits, generator=draws)[:SHOWN_BITS].sort().values.tolist()
        path = _picture(found, "bits", f"{run.row} seed {run.config.seed}")
        plots.bit_histograms(_codes(result["codes"]), path, bits=bits)
        cells += [Entry(run.row, f"b{bit + 1}", result["expectations"][bit]) for bit in bits]
        pictures.append(path)
    note = (
        "Expectations |mean| of bits drawn at random, among the teacher's codes of the database "
        f"images of the first class: BRCD masks what is below delta. {NO_NUMBERS}"
    )
    return Shown(tabulate("expectation", cells), tuple(pictures), (note,))


def plan_backbones(plan: Plan) -> list[Run]:
    """Rows are teachers and students, columns methods."""
    found: list[Run] = []
    for source in plan.sources:
        teachers, students = networks(source)
        for teacher, preset in teachers.items():
            for student, changes in students.items():
                for method in plan.methods:
                    found += student_runs(
                        plan,
                        source,
                        method,
                        f"{teacher}{_TO}{student}",
                        find_method(method).label,
                        bits=plan.bits[0],
                        teacher=preset,
                        **changes,
                    )
    return found


def draw_backbones(found: Found) -> Shown:
    table, path = map_table(found, "teacher -> student"), found.out / "backbones.png"
    values: dict[str, dict[str, dict[str, float]]] = {}
    for row, cells in table.rows.items():
        teacher, _, student = row.partition(_TO)
        values.setdefault(teacher, {})[student] = {name: c.mean for name, c in cells.items()}
    plots.distillation_bars(values, path)
    return Shown(table, (path,), (f"mAP of SSHP. {NO_NUMBERS}",))


def draw_alignment(found: Found) -> Shown:
    """ISD and NRA of the training set, a picture a column."""
    measures = {"isd": "ISD", "nra": f"NRA@{NEIGHBOURS}"}
    cells = [
        Entry(run.row, f"{run.column} {name}", result[name.lower()])
        for run, result in found.runs
        for name in measures.values()
    ]
    table, pictures = tabulate("method", cells), []
    for column in columns_of(found):
        path = _picture(found, "alignment", column)
        bars = {
            row: {key: cells[f"{column} {name}"].mean for key, name in measures.items()}
            for row, cells in table.rows.items()
        }
        plots.alignment_bars(bars, path)
        pictures.append(path)
    note = (
        f"ISD: bits in which the codes of student and teacher differ; NRA@{NEIGHBOURS}: share of "
        f"relevant images among the teacher's nearest codes; training set. {NO_NUMBERS}"
    )
    return Shown(table, tuple(pictures), (note,))


def plan_parameters(plan: Plan) -> list[Run]:
    """BRCD by alpha and delta; what is BRCD's default is not told, so that runs are those of
    Table 1."""
    defaults = arguments(DISTILLATION["brcd"])
    found: list[Run] = []
    for row, given in _grid().items():
        values = dict(zip(("alpha", "delta"), given, strict=True))
        options = tuple(f"{key}={v}" for key, v in values.items() if v != defaults[key])
        for source in plan.sources:
            for bits in plan.bits:
                column = data_and_bits(source, bits)
                found += student_runs(plan, source, "brcd", row, column, bits=bits, options=options)
    return found


def draw_parameters(found: Found) -> Shown:
    """A picture a column and paradigm."""
    table, grid, pictures = paradigm_table(found, "parameters"), _grid(), []
    for column in table.columns:
        path = _picture(found, "parameters", column)
        values = {grid[row]: cells[column].mean for row, cells in table.rows.items()}
        plots.parameter_map(values, path, measure=f"mAP, {column}")
        pictures.append(path)
    return Shown(table, tuple(pictures), (NO_NUMBERS,))


def plan_offset_positives(plan: Plan) -> list[Run]:
    """Student and teacher, each trained alone; seeds are those of views and clusters."""
    found: list[Run] = []
    for source in plan.sources:
        teachers, students = networks(source)
        for bits in plan.bits:
            # The student first: images are loaded in the size of the first run, and the teacher
            # scales them to its own.
            makers: dict[str, Callable] = {
                next(iter(students)): student_config,
                next(iter(teachers)): teacher_config,
            }
            for name, make in makers.items():
                for seed in plan.seeds:
                    config = make(plan, source, bits=bits, seed=seed)
                    found.append(Run(config, source, name, data_and_bits(source, bits)))
    return found


def draw_offset_positives(found: Found) -> Shown:
    """Boxes by number of clusters, a picture a column with a panel a model."""
    cells, pictures = [], []
    for column in columns_of(found):
        boxes: dict[str, dict[int, list[float]]] = {}
        for run, result in found.runs:
            if run.column == column:
                for clusters, rate in result["opr"].items():
                    boxes.setdefault(run.row, {}).setdefault(int(clusters), []).append(rate)
                    cells.append(Entry(f"{run.row}, {column}", f"k = {clusters}", rate))
        path = _picture(found, "offset-positives", column)
        plots.offset_positive_boxes(boxes, path)
        pictures.append(path)
    note = (
        "Share of training images whose random view is in another of k clusters; a seed draws "
        f"views and k-means, for the same model. {NO_NUMBERS}"
    )
    return Shown(tabulate("model", cells), tuple(pictures), (note,))


def draw_tsne(found: Found) -> Shown:
    """Codes of students and their teacher, of the first seed, a picture a column."""
    pictures = []
    names = found.splits(found.plan.sources[0]).class_names
    for column in columns_of(found):
        kept: dict[str, dict[str, list]] = {}
        for run, result in found.runs:
            if run.column == column:
                kept.setdefault(run.row, result["codes"])
        codes = {
            row: (_codes(pair["teacher"]), _codes(pair["student"])) for row, pair in kept.items()
        }
        path = _picture(found, "tsne", column)
        labels = torch.tensor(next(iter(kept.values()))["labels"])
        plots.teacher_student_tsne(codes, labels, path, names or None)
        pictures.append(path)
    note = "mAP of the students; pictured are codes of database images of the first five classes."
    return Shown(paradigm_table(found, "method"), tuple(pictures), (note,))


def _grid() -> dict[str, tuple[float, float]]:
    """{row: (alpha, delta)}."""
    return {
        f"alpha = {alpha}, delta = {delta}": (alpha, delta) for alpha in ALPHAS for delta in DELTAS
    }


def _codes(kept: list[list[int]]) -> torch.Tensor:
    return torch.tensor(kept, dtype=torch.uint8)


def _picture(found: Found, name: str, place: str) -> Path:
    return found.out / f"{name}-{place.replace(' ', '-')}.png"
