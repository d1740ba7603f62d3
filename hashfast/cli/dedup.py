import math
import os
import time
import warnings
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import tyro

from hashfast.cli._galleries import check_comparable
from hashfast.cli._items import label_text, printable
from hashfast.cli._report import CSV_FILE, HTML_FILE, Picture, check_folder, write_report
from hashfast.cli._run import Output

if TYPE_CHECKING:
    from hashfast.index import Gallery


class Rows(NamedTuple):
    """Pictures of several galleries, each once.

    codes uint8 [n, B]; the number of each one's gallery [n] and its row there [n]; `old` is how
    many come first because they are of older galleries, `known` how many of the last gallery are
    left out because they stand before.
    """

    codes: np.ndarray
    galleries: np.ndarray
    rows: np.ndarray
    old: int
    known: int


@dataclass(frozen=True)
class Command:
    """Find near-duplicates among the pictures of a gallery. Never deletes or moves anything.

    Pictures whose codes differ in at most --radius bits are linked, and linked pictures form a
    group, whose first picture represents it. A chain of links can join pictures that are far apart:
    distances to the first are reported, and groups that reach beyond the radius are called chains.

    A model trained on labels gives all pictures of a class nearly the same code; to find
    near-duplicates, encode with the head itq or random, which are fitted without labels.
    """

    gallery: Annotated[Path, tyro.conf.Positional]
    """Folder written by `hashfast encode` or `hashfast index`."""
    radius: int | None = None
    """Largest distance of a link in bits (default: 1 for every 16 bits of a code, so 4 of 64)."""
    against: tuple[Path, ...] = ()
    """Older galleries: report only groups with a picture that none of these has."""
    out: Path | None = None
    """Folder for report.html and duplicates.csv (default: GALLERY/duplicates)."""
    force: bool = False
    """Compare codes of different models all the same."""

    def run(self) -> Output:
        from hashfast.index import Gallery, near_duplicates
        from hashfast.index.checks import as_integer

        if self.radius is not None:
            as_integer(self.radius, "radius", 0)
        out = self.out or self.gallery / "duplicates"
        check_folder(out)
        paths = [*self.against, self.gallery]
        galleries = [Gallery.load(path, mmap=True) for path in paths]
        self._check(galleries)
        bits = galleries[-1].index.d
        radius = bits // 16 if self.radius is None else self.radius
        rows = _rows(galleries)
        _warn_of_chance(len(rows.codes), rows.old, bits, radius)
        start = time.perf_counter()
        found = near_duplicates(rows.codes, radius, first_new=rows.old, progress=True)
        seconds = time.perf_counter() - start

        def picture(row: int, distance: int) -> Picture:
            number, at = rows.galleries[row], rows.rows[row]
            item, label = galleries[number].items[at], label_text(galleries[number], at)
            return Picture(item, distance, label, str(paths[number]))

        members = zip(found.rows.tolist(), found.distances.tolist(), strict=True)
        pictures = [picture(row, distance) for row, distance in members]
        groups = [pictures[start:end] for start, end in pairwise(found.limits)]
        facts: dict[str, Any] = {
            "pictures": len(rows.codes) - rows.old,
            "old pictures": rows.old,
            "known already": rows.known,
            "distinct codes": found.distinct,
            "groups": len(groups),
            "pictures in groups": len(pictures),
            "identical codes": found.identical,
            "chains": sum(group[-1].distance > radius for group in groups),
            "radius": radius,
            "bits": bits,
            "seconds": round(seconds, 3),
        }
        write_report(out, f"Near-duplicates in {self.gallery}", facts, groups)
        facts |= {"report": str(out / HTML_FILE), "csv": str(out / CSV_FILE)}
        return Output(
            "\n".join(f"{name:<18} {printable(str(value))}" for name, value in facts.items()),
            {
                "gallery": str(self.gallery),
                "against": [str(path) for path in self.against],
                **{name.replace(" ", "_"): value for name, value in facts.items()},
            },
        )

    def _check(self, galleries: "list[Gallery]") -> None:
        for path, gallery in zip(self.against, galleries, strict=False):
            if path.resolve() == self.gallery.resolve():
                raise ValueError(
                    f"--against names {path}, the gallery itself: leave it out, and its pictures "
                    "are compared with one another"
                )
            check_comparable(path, gallery, self.gallery, galleries[-1], self.force)


def _rows(galleries: "list[Gallery]") -> Rows:
    sizes = [gallery.index.ntotal for gallery in galleries]
    codes = np.concatenate([gallery.index.codes for gallery in galleries])
    numbers = np.repeat(np.arange(len(sizes)), sizes)
    rows = np.concatenate([np.arange(size) for size in sizes])
    kept = _once([item for gallery in galleries for item in gallery.items], codes)
    is_old = numbers < len(sizes) - 1
    old, known = int((kept & is_old).sum()), int((~kept & ~is_old).sum())
    return Rows(codes[kept], numbers[kept], rows[kept], old, known)


def _once(items: list[str], codes: np.ndarray) -> np.ndarray:
    """Which rows to keep, bool [n], so that no picture is called a duplicate of itself.

    Of rows with the same name and code the first. Of a file whose code has changed the last: the
    picture of the older code is no more. Names that are mere row numbers tell nothing.
    """
    kept = np.ones(len(items), bool)
    seen: dict[str, int] = {}
    for row, item in enumerate(items):
        if item.isdecimal():
            continue
        path = os.path.abspath(item)
        before = seen.setdefault(path, row)
        if before == row:
            continue
        if codes[row].tobytes() == codes[before].tobytes():
            kept[row] = False
        elif os.path.isfile(path):
            kept[before] = False
            seen[path] = row
    return kept


def _warn_of_chance(n: int, old: int, bits: int, radius: int) -> None:
    """Say so when random codes would have pairs within the radius too."""
    compared = math.comb(n, 2) - math.comb(old, 2)
    within = sum(math.comb(bits, distance) for distance in range(min(radius, bits) + 1))
    expected = compared * within / 2**bits
    if expected >= 1:
        warnings.warn(
            f"among {n} random codes of {bits} bits about {expected:,.0f} pairs would lie within "
            f"{radius} bits by chance: longer codes or a smaller --radius tell more",
            stacklevel=1,
        )
