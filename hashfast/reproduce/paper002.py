"""Paper 002: One Loss for Quantization: Deep Hashing with Discrete Wasserstein Distributional
Matching (HSWD; Doan, Yang and Li, CVPR 2022)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Literal

from hashfast.data import Splits
from hashfast.presets import QUANTIZATION_METHODS, STAND_IN, SUFFIXES
from hashfast.reproduce.experiment import Experiment, Found, Result, Shown
from hashfast.reproduce.figures002 import (
    KINDS,
    draw_bars,
    draw_codes,
    draw_distances,
    draw_two_bits,
)
from hashfast.reproduce.measures import distances_over_training, outputs_sample
from hashfast.reproduce.numbers002 import (
    FIGURE_2,
    TABLE_1,
    TABLE_1_COLUMNS,
    TABLE_2,
    TABLE_2_COLUMNS,
    TABLE_3,
)
from hashfast.reproduce.plan import Plan, Run, Source
from hashfast.reproduce.results import data_and_bits, entries, printed, show_map
from hashfast.reproduce.tables import Cell, Table, tabulate
from hashfast.reproduce.timing import VARIANTS, epoch_seconds

TITLE = "One Loss for Quantization (HSWD)"
_SIX = tuple(QUANTIZATION_METHODS)
_DISTRIBUTIONAL: tuple[Literal["swd", "hswd"], ...] = ("swd", "hswd")


def _variants(
    plan: Plan,
    column: Callable[[Source, int], str],
    paper: Callable[[str, str, Source, int], float | None] = lambda *place: None,
    quantizations: Sequence[str] = tuple(SUFFIXES),
    backbone: str | None = None,
) -> list[Run]:
    """All methods with all kinds of quantisation, on all sources, with all numbers of bits.

    The released code crops and flips NUS-WIDE and COCO, and takes CIFAR-10 as it is.
    """
    unknown = [method for method in plan.methods if method not in QUANTIZATION_METHODS]
    if unknown:
        raise ValueError(f"{unknown[0]} is none of the paper's methods: {', '.join(_SIX)}")
    found: list[Run] = []
    for method in plan.methods:
        for quantization in quantizations:
            mark = SUFFIXES[quantization]
            for source in plan.sources:
                family, changes = STAND_IN, {}
                if not source.stands_in:
                    family = "002"
                    changes = {} if source.name == "cifar10" else {"augment": "standard"}
                    changes |= {"backbone": backbone} if backbone else {}
                for bits in plan.bits:
                    found += plan.runs(
                        source,
                        f"{family}/{method}{mark}",
                        _name(method, quantization),
                        column(source, bits),
                        paper=paper(method, quantization, source, bits),
                        baseline=_name(method, "original") if mark else None,
                        bits=bits,
                        **changes,
                    )
    return found


def _name(method: str, quantization: str) -> str:
    return QUANTIZATION_METHODS[method] + SUFFIXES[quantization].upper()


def _bits(source: Source, bits: int) -> str:
    return f"{bits} bits"


def _printed_in(
    table: Mapping[str, Mapping[str, Sequence[float]]], columns: Sequence[tuple[str, int]]
) -> Callable[[str, str, Source, int], float | None]:
    def number(method: str, quantization: str, source: Source, bits: int) -> float | None:
        place = (source.like, bits)
        return table[method][quantization][columns.index(place)] if place in columns else None

    return number


def _precision_table(found: Found) -> Shown:
    def value(result: Result) -> float:
        precision = result["report"]["precision_at"].get("1000")
        if precision is None:
            raise ValueError("P@1000 needs a database of 1,000 images, ranked that far")
        return precision

    return Shown(tabulate("method", entries(found, value)))


def _whole_ranking(splits: Splits) -> Splits:
    """CIFAR-10 is ranked whole, as by the released code (python/config.py, topK -1)."""
    if splits.name.startswith("cifar10"):
        return replace(splits, topk=len(splits.database))
    return splits


def _four_classes(splits: Splits) -> Splits:
    """The first four classes alone. Raises ValueError for data of several labels an image."""
    if splits.multi_label:
        raise ValueError(f"{splits.name} has several labels an image; 2-bit codes need one")
    parts = {
        part: getattr(splits, part).subset((getattr(splits, part).labels < 4).nonzero()[:, 0])
        for part in ("query", "train", "database")
    }
    four = replace(splits, **parts, num_classes=4, class_names=splits.class_names[:4])
    return _whole_ranking(four)


def _turns(plan: Plan) -> list[Run]:
    """One run a method: it times the three kinds of quantisation."""
    return _variants(plan, data_and_bits, quantizations=("original",))


def _times(found: Found) -> Shown:
    rows: dict[str, dict[str, Cell]] = {}
    for source in found.plan.sources:
        own = [(run.row, result) for run, result in found.runs if run.source == source]
        name = printed(source.name)
        for method in dict.fromkeys(method for method, _ in own):
            rows[f"{name}, {method}"] = _time_cells([r for m, r in own if m == method], {})
        paper = TABLE_3.get(source.like, {})
        rows[f"{name}, mean"] = _time_cells([result for _, result in own], paper)
    note = (
        f"Seconds an epoch of training, and of its loss alone: {found.runs[0][1]['clock']}, "
        "without the loading of images. The paper's are means over its six methods."
    )
    columns = list(dict.fromkeys(column for cells in rows.values() for column in cells))
    return Shown(Table("seconds", columns, rows), notes=(note,))


def _time_cells(results: list[Result], paper: Mapping[str, float]) -> dict[str, Cell]:
    """Means over results; the paper's numbers, where there are any, are of whole epochs."""
    cells = {}
    for kind, numbers in (("epoch", paper), ("loss", {})):
        mean = {name: fmean(fmean(r[kind][name]) for r in results) for name in VARIANTS}
        for name in VARIANTS:
            cells[f"{kind}: {KINDS[name]}"] = Cell((mean[name],), numbers.get(name), spec="#.3g")
        for name in _DISTRIBUTIONAL:
            ratio, base = mean[name] / mean["original"], numbers.get("original")
            paper_ratio = numbers[name] / base if base else None
            cells[f"{kind}: {KINDS[name]} / original"] = Cell((ratio,), paper_ratio, spec=".3f")
    return cells


def _two_bits(plan: Plan) -> list[Run]:
    if plan.bits != (2,):
        raise ValueError(f"bits are {plan.bits}; this figure draws codes of 2 bits")

    def paper(method: str, quantization: str, source: Source, bits: int) -> float | None:
        return FIGURE_2.get(method, {}).get(quantization)

    return _variants(plan, _bits, paper, ("original", "hswd"))


def _distances(plan: Plan) -> list[Run]:
    return _variants(plan, _bits, quantizations=_DISTRIBUTIONAL)


_SEEDS = (0, 1, 2)

EXPERIMENTS: dict[str, Experiment] = {
    "table 1": Experiment(
        "mAP of six methods with their own quantisation, SWD (-S) and HSWD (-C)",
        data=("cifar10", "nuswide21", "coco"),
        network="VGG11",
        plan=lambda plan: _variants(plan, data_and_bits, _printed_in(TABLE_1, TABLE_1_COLUMNS)),
        show=show_map("method"),
        prepare=_whole_ranking,
        methods=_SIX,
        bits=(16, 32, 64),
        seeds=_SEEDS,
    ),
    "table 2": Experiment(
        "P@1000 of six methods with their own quantisation, SWD (-S) and HSWD (-C)",
        data=("cifar10", "nuswide21"),
        network="AlexNet",
        plan=lambda plan: _variants(
            plan, data_and_bits, _printed_in(TABLE_2, TABLE_2_COLUMNS), backbone="alexnet"
        ),
        show=_precision_table,
        prepare=_whole_ranking,
        methods=_SIX,
        bits=(16, 32),
        seeds=_SEEDS,
    ),
    "table 3": Experiment(
        "seconds an epoch with the original quantisation, SWD and HSWD",
        data=("cifar10", "nuswide21", "coco"),
        network="VGG11",
        plan=_turns,
        show=_times,
        perform=epoch_seconds,
        methods=_SIX,
        bits=(64,),
        epochs=3,
    ),
    "figure 2": Experiment(
        "2-bit codes of four classes, with the original quantisation and HSWD",
        data=("cifar10",),
        network="VGG11",
        plan=_two_bits,
        show=draw_two_bits,
        perform=outputs_sample,
        prepare=_four_classes,
        methods=("hashnet", "dsdh", "csq"),
        bits=(2,),
    ),
    "figure 3": Experiment(
        "SWD and HSWD over training with either as quantisation",
        data=("cifar10",),
        network="VGG11",
        plan=_distances,
        show=draw_distances,
        perform=distances_over_training,
        prepare=_whole_ranking,
        methods=("dsdh", "hashnet"),
        bits=(32,),
    ),
    "figure 4": Experiment(
        "t-SNE of codes with the original quantisation, SWD and HSWD",
        data=("cifar10",),
        network="VGG11",
        plan=lambda plan: _variants(plan, _bits),
        show=draw_codes,
        perform=outputs_sample,
        prepare=_whole_ranking,
        methods=("csq", "dch"),
        bits=(16,),
    ),
    "figure 5": Experiment(
        "quantisation error and bit entropy of six methods with three kinds of quantisation",
        data=("cifar10",),
        network="VGG11",
        plan=lambda plan: _variants(plan, _bits),
        show=draw_bars,
        prepare=_whole_ranking,
        methods=_SIX,
        bits=(32,),
    ),
}
