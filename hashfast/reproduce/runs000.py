"""What papers 000 and 001 have in common: the runs of a table over condensed sets."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from hashfast.presets import STAND_IN, Preset, find_preset
from hashfast.reproduce.condensing import Condensing
from hashfast.reproduce.experiment import Found, Shown
from hashfast.reproduce.numbers000 import ABLATION, CIFAR10, CROSS_HASHING, IPC, paper_map, share
from hashfast.reproduce.plan import Plan, Run, Source
from hashfast.reproduce.results import map_table, printed

METHODS = {
    "random": "Random",
    "herding": "Herding",
    "dm": "DM",
    "dsa": "DSA",
    "idc": "IDC",
    "iem-pretrained": "IEM (preprint)",
    "iem": "IEM (published)",
    "whole": "whole set",
}
"""Rows by name. IEM perturbs pretrained networks in 000 and random ones in 001."""
HASHING = {"dhd": "DHD", "dpn": "DPN", "orthohash": "OrthoHash"}
"""The hashing losses of the papers, with their names in print."""
VERSIONS = (
    "IEM (preprint) perturbs networks that were trained for some epochs, IEM (published) random "
    "ones; both papers print the same numbers, of one of them."
)
DISAGREEMENT = (
    "The preprint's tables differ at 64 bits. CIFAR-10, 50 images a class: IEM 57.49 (Tables 1, 5 "
    "and 7), 59.12 (Table 3), 57.88 (Table 4); IDC 46.21 (Tables 1 and 7), 47.14 (Tables 3 and 5). "
    "ImageNet10, 3 images: IEM 52.79 (Tables 2, 3 and 7), 50.38 (Table 4); IDC 48.14 (Tables 2 and "
    "7), 46.08 (Table 3)."
)
# Of the others the networks, if they have any, do not depend on the hashing loss.
_WITH_LOSS = ("herding", "dsa", "idc", "iem-pretrained")


def condensed_runs(
    plan: Plan,
    source: Source,
    method: str,
    column: str,
    *,
    ipc: int,
    bits: int,
    row: str = "",
    paper: float | None = None,
    condense_for: str = "dhd",
    hashing: str = "dhd",
    backbone: tuple[str, float | None] | None = None,
    stops: int = 0,
    **changes: Any,
) -> Iterator[Run]:
    """A run a seed: condense `ipc` images a class and train on them.

    row: the method's name if empty; condense_for: the hashing loss of the networks that condense,
    where they have one; hashing: that of the networks that are trained on the set; backbone: name
    and width of these, None for those of the preset; stops: see Condensing; changes: of the
    preset's settings of condensation.
    Raises ValueError for an unknown method, and where epochs were chosen.
    """
    if method not in METHODS:
        raise ValueError(f"{method} is none of the methods: {', '.join(METHODS)}")
    if plan.epochs is not None:
        raise ValueError("training on condensed sets is counted in steps: choose --scale instead")
    preset = condensation_preset(source, method)
    changes |= {**plan.machine(source), "ipc": ipc}
    if method in _WITH_LOSS:
        changes["hashing"] = condense_for
    evaluation = preset.evaluation(evaluate_bits=bits)
    steps = plan.scaled(evaluation.evaluate_steps)
    evaluation = replace(evaluation, evaluate_steps=steps)
    for seed in plan.seeds:
        config = preset.config(**changes, seed=seed)
        networks = config.resolved().networks
        if networks:
            config = replace(config, networks=plan.scaled(networks))
        network = backbone[0] if backbone else None
        training = evaluation.training(config, 1, method=hashing, backbone=network, seed=seed)
        if backbone:
            training = replace(training, width=backbone[1])
        whole = method == "whole"
        condensing = Condensing(config, evaluation, whole, 0 if whole else stops)
        place = row or METHODS[method], column
        yield Run(training, source, *place, paper, condensing=condensing)


def condensation_preset(source: Source, method: str) -> Preset:
    """Settings of a method on a source; for the whole set those of what it is compared with."""
    method = "iem" if method == "whole" else method
    if source.stands_in:
        return find_preset(f"{STAND_IN}/{method}", "condense")
    paper = "000" if method == "iem-pretrained" else "001"
    name, data = method.partition("-")[0], source.name.partition("-")[0]
    return find_preset(f"{paper}/{name}-{data}", "condense")


def images_a_class(plan: Plan, source: Source) -> Sequence[int]:
    """Those that were chosen, or else those of the experiment that the paper has on the source."""
    if plan.choices.ipc:
        return plan.choices.ipc
    return [ipc for ipc in plan.ipc if ipc in IPC[source.like]]


def data_and_images(source: Source, ipc: int) -> str:
    return f"{printed(source.name)} {ipc} ipc"


def map_grid(plan: Plan, stops: int = 0) -> list[Run]:
    """Rows are methods, columns data, images a class and bits."""
    return [
        run
        for method in plan.methods
        for source in plan.sources
        for ipc in images_a_class(plan, source)
        for bits in plan.bits
        for run in condensed_runs(
            plan,
            source,
            method,
            f"{data_and_images(source, ipc)} {bits} bits",
            ipc=ipc,
            bits=bits,
            paper=paper_map(source.like, ipc, bits, method),
            stops=stops,
        )
    ]


def hashing_grid(plan: Plan, own_sets: bool) -> list[Run]:
    """Rows are methods, columns data, images a class and hashing losses.

    own_sets: each loss trains on sets condensed for it, instead of those for DHD.
    """
    return [
        run
        for method in plan.methods
        for source in plan.sources
        for ipc in images_a_class(plan, source)
        for bits in plan.bits
        for hashing, name in HASHING.items()
        for run in condensed_runs(
            plan,
            source,
            method,
            f"{data_and_images(source, ipc)} {name}",
            ipc=ipc,
            bits=bits,
            paper=None if own_sets else _cross_hashing(source, ipc, bits, method, hashing),
            condense_for=hashing if own_sets else "dhd",
            hashing=hashing,
        )
    ]


def _cross_hashing(source: Source, ipc: int, bits: int, method: str, hashing: str) -> float | None:
    if source.like != CIFAR10 or bits != 64:
        return None
    return share(CROSS_HASHING.get(ipc, {}).get(method.partition("-")[0], {}).get(hashing))


def ablation(plan: Plan, method: str, networks: str, dataset: str) -> list[Run]:
    """IEM without and with augmented networks and augmented images, by their names in print."""
    found: list[Run] = []
    rows = {
        "neither": (False, False),
        networks: (True, False),
        dataset: (False, True),
        f"{networks} and {dataset}": (True, True),
    }
    for row, parts in rows.items():
        changes: dict[str, Any] = {}
        if not parts[0]:
            changes |= {"network_augmentation": False, "network_pool": "random"}
        if not parts[1]:
            changes["factor"] = 1
        for source in plan.sources:
            for ipc in images_a_class(plan, source):
                for bits in plan.bits:
                    printed_here = ipc == max(IPC[source.like]) and bits == 64
                    found += condensed_runs(
                        plan,
                        source,
                        method,
                        f"{data_and_images(source, ipc)} {bits} bits",
                        ipc=ipc,
                        bits=bits,
                        row=row,
                        paper=share(ABLATION[source.like][parts]) if printed_here else None,
                        **changes,
                    )
    return found


def show_table(found: Found) -> Shown:
    """A table of mAP, with what it is to be read by."""
    return Shown(map_table(found, "method"), notes=(VERSIONS, DISAGREEMENT))
