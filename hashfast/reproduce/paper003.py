"""Paper 003: Deep Hash Distillation for Image Retrieval (DHD; Jang, Gu, Ko and Cho, ECCV 2022), the
tables and figures of its supplement."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hashfast import plots
from hashfast.augment import DEFORMATIONS, build_augmentation
from hashfast.presets import PRESETS, STAND_IN
from hashfast.reproduce.experiment import Experiment, Found, Shown
from hashfast.reproduce.measures import (
    deformed_quality,
    found_under_deformations,
    proxies,
    query_views,
    shown_queries,
)
from hashfast.reproduce.numbers003 import COLUMNS, TABLE_A, TABLE_B, TABLE_C
from hashfast.reproduce.plan import Plan, Run, Source
from hashfast.reproduce.results import data_and_bits, first_seeds, map_table, printed, show_map
from hashfast.reproduce.tables import Entry, tabulate

TITLE = "Deep Hash Distillation (DHD), supplement"
_ALL = ("imagenet100", "nuswide21-dhd", "coco")
_PRESETS = {
    preset.settings["data"]: name for name, preset in PRESETS.items() if name.startswith("003/")
}
_ALEXNET = {"backbone": "alexnet", "augment_scale": 0.2}
_DHD = f"{STAND_IN}/dhd"
_TEACHER = 0.5  # s_T


def _preset(source: Source) -> str:
    return _DHD if source.stands_in else _PRESETS[source.name]


def _grid(plan: Plan, rows: Mapping[str, tuple[dict[str, Any], Sequence[float]]]) -> Iterator[Run]:
    """Rows of Tables A and B, {name: (changed settings, the paper's numbers)}."""
    for row, (changes, numbers) in rows.items():
        paper = dict(zip(COLUMNS, numbers, strict=True))
        for source in plan.sources:
            for bits in plan.bits:
                yield from plan.runs(
                    source,
                    _preset(source),
                    row,
                    data_and_bits(source, bits),
                    paper=paper.get((source.like, bits)),
                    bits=bits,
                    **changes,
                )


def _temperatures(plan: Plan) -> list[Run]:
    rows = {
        f"tau = {tau}": ({"options": (f"tau={tau}",)}, numbers) for tau, numbers in TABLE_A.items()
    }
    return list(_grid(plan, rows))


def _scales(plan: Plan) -> list[Run]:
    rows = {f"s_T = {s}": ({"augment_scale": s}, numbers) for s, numbers in TABLE_B.items()}
    return list(_grid(plan, rows))


def _weights(plan: Plan) -> list[Run]:
    found: list[Run] = []
    for (distill, quantization, sigma), paper in TABLE_C.items():
        row = f"lambda1 = {distill}, lambda2 = {quantization}, sigma = {sigma}"
        for source in plan.sources:
            options = ("tau=0.2", f"distill_weight={distill}", f"sigma={sigma}")
            changes: dict[str, Any] = {} if source.stands_in else _ALEXNET
            for bits in plan.bits:
                found += plan.runs(
                    source,
                    _preset(source),
                    row,
                    f"{bits} bits",
                    paper=paper.get(bits),
                    bits=bits,
                    options=options,
                    quantization_weight=quantization,
                    **changes,
                )
    return found


def _robustness(plan: Plan) -> list[Run]:
    """DHD, DHD without self-distillation, and other methods on crops and flips."""
    found: list[Run] = []
    for source in plan.sources:
        settings = PRESETS[_preset(source)].settings
        undistilled = {"options": (*settings["options"], "distill_weight=0")}
        rows: dict[str, dict[str, Any]] = {"DHD": {}, "DHD, lambda1 = 0": undistilled}
        for method in plan.methods:
            rows[method] = {"method": method, "options": (), "augment": "standard"}
        for bits in plan.bits:
            for row, changes in rows.items():
                column = data_and_bits(source, bits)
                found += plan.runs(source, _preset(source), row, column, bits=bits, **changes)
    return found


def _show_robustness(found: Found) -> Shown:
    entries = [
        Entry(f"{run.column}, {run.row}", name, value)
        for run, result in found.runs
        for name, value in result["map_by_deformation"].items()
    ]
    note = (
        "mAP with each query deformed, of a database as it is. The paper's numbers are in its "
        "Table 5, not in the supplement."
    )
    return Shown(tabulate("queries", entries), notes=(note,))


def _draw_labels(found: Found) -> Shown:
    pictures = []
    for source in found.plan.sources:
        splits, path = found.splits(source), found.out / f"labels-{source.name}.png"
        assert splits.train.labels is not None
        plots.label_statistics(splits.train.labels, path, splits.class_names or None)
        pictures.append(path)
    return Shown(pictures=tuple(pictures))


def _one_run(plan: Plan) -> list[Run]:
    return [
        run
        for source in plan.sources
        for bits in plan.bits
        for run in plan.runs(source, _preset(source), data_and_bits(source, bits), "mAP", bits=bits)
    ]


def _draw_proxies(found: Found) -> Shown:
    pictures = []
    names = found.splits(found.plan.sources[0]).class_names
    for row, result in first_seeds(found).items():
        path = found.out / f"proxies-{row.lower().replace(' ', '-')}.png"
        plots.proxy_similarity(torch.tensor(result["proxies"]), path, names or None)
        pictures.append(path)
    return Shown(map_table(found, "data"), tuple(pictures))


def _draw_views(found: Found) -> Shown:
    source = found.plan.sources[0]
    splits, path = found.splits(source), found.out / "augmentations.png"
    images = torch.stack([splits.query[i][0] for i in shown_queries(splits)])
    groups = {
        f"teacher, s_T = {_TEACHER}": build_augmentation("dhd", splits.image_shape, _TEACHER),
        "student": build_augmentation("dhd", splits.image_shape, 1.0),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plots.augmentation_grid(images, groups, path)
    return Shown(pictures=(path,))


def _draw_retrieval(found: Found) -> Shown:
    splits = found.splits(found.plan.sources[0])
    database: Any = splits.database
    pictures: list[Path] = []
    for row, result in first_seeds(found).items():
        stem = row.lower().replace(" ", "-")
        for query, near in zip(shown_queries(splits), result["found"], strict=True):
            views = query_views(splits, query)
            ids = torch.tensor(near["ids"])
            same = 1 + len(DEFORMATIONS)
            above = found.out / f"deformed-{stem}-query{query}.png"
            deformed = dict(list(views.items())[:same])
            plots.deformation_grid(deformed, database, ids[:same], above)
            rows = [0, *range(same, len(views))]
            below = found.out / f"retrieved-{stem}-query{query}.png"
            plots.retrieval_grid(
                [list(views.values())[i] for i in rows],
                database,
                ids[rows],
                torch.tensor(near["relevant"])[rows],
                torch.tensor(near["distances"])[rows],
                below,
            )
            pictures += [above, below]
    note = (
        "deformed-*: a column a deformation, framed green where the original query finds the same; "
        "retrieved-*: rows are the query, a view as the student gets and, of colour images, grey; "
        "framed green where the class is the query's."
    )
    return Shown(map_table(found, "data"), tuple(pictures), (note,))


def _proxy_figure(data: str) -> Experiment:
    return Experiment(
        f"cosine similarity of the hash proxies, {printed(data)}",
        data=(data,),
        network="ResNet-50",
        plan=_one_run,
        show=_draw_proxies,
        perform=proxies,
        bits=(64,),
    )


_SEEDS = (0, 1, 2)

EXPERIMENTS: dict[str, Experiment] = {
    "table A": Experiment(
        "mAP of DHD by temperature tau",
        data=_ALL,
        network="ResNet-50",
        plan=_temperatures,
        show=show_map("temperature"),
        bits=(16, 32, 64),
        seeds=_SEEDS,
    ),
    "table B": Experiment(
        "mAP of DHD by the teacher's scale of augmentation s_T",
        data=_ALL,
        network="ResNet-50",
        plan=_scales,
        show=show_map("scale"),
        bits=(16, 32, 64),
        seeds=_SEEDS,
    ),
    "table C": Experiment(
        "mAP of DHD by weights of its terms and width of the Gaussians",
        data=("imagenet100",),
        network="AlexNet",
        plan=_weights,
        show=show_map("hyper-parameters"),
        bits=(16, 64),
        seeds=_SEEDS,
    ),
    "table deformation": Experiment(
        "mAP with deformed queries: DHD, without self-distillation, and other methods",
        data=_ALL,
        network="ResNet-50",
        plan=_robustness,
        show=_show_robustness,
        perform=deformed_quality,
        methods=("csq",),
        bits=(64,),
    ),
    "figure A": Experiment(
        "images of each class in the training set",
        data=_ALL,
        network="",
        plan=lambda plan: [],
        show=_draw_labels,
    ),
    "figure B": _proxy_figure("imagenet100"),
    "figure C": _proxy_figure("nuswide21-dhd"),
    "figure D": _proxy_figure("coco"),
    "figure E": Experiment(
        "views of the teacher and of the student",
        data=("imagenet100",),
        network="",
        plan=lambda plan: [],
        show=_draw_views,
    ),
    "figure F": Experiment(
        "what is retrieved for deformed queries",
        data=("imagenet100",),
        network="ResNet-50",
        plan=_one_run,
        show=_draw_retrieval,
        perform=found_under_deformations,
        bits=(64,),
    ),
}
