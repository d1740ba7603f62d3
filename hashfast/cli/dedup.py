import math
import os
import stat
import time
import warnings
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import tyro

from hashfast.cli._galleries import check_comparable
from hashfast.cli._items import label_text, path_of, printable
from hashfast.cli._report import CSV_FILE, HTML_FILE, Picture, check_folder, write_report
from hashfast.cli._run import Output

if TYPE_CHECKING:
    from hashfast.index import Gallery


class Rows(NamedTuple):
    """Pictures of several galleries, each once.

    codes uint8 [n, B]; the number of each one's gallery [n] and its row there [n]; `old` is how
    many come first because they are of older galleries. Left out are `known` ones of the last
    gallery, which stand before, and `links` to files that another item names.
    """

    codes: np.ndarray
    galleries: np.ndarray
    rows: np.ndarray
    old: int
    known: int
    links: int


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
        if radius > bits:
            raise ValueError(
                f"radius is {radius} and the codes of {self.gallery} have {bits} bits; expected at "
                "most that"
            )
        rows = _rows(galleries)
        _warn_of_chance(len(rows.codes), rows.old, bits, radius)
        start = time.perf_counter()
        found = near_duplicates(rows.codes, radius, first_new=rows.old, progress=True)
        seconds = time.perf_counter() - start
        _warn_of_a_giant(len(rows.codes), int(np.diff(found.limits).max(initial=0)))

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
            "links left out": rows.links,
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
    kept, links = _once([item for gallery in galleries for item in gallery.items], codes)
    is_old = numbers < len(sizes) - 1
    old, known = int((kept & is_old).sum()), int((~kept & ~links & ~is_old).sum())
    return Rows(codes[kept], numbers[kept], rows[kept], old, known, int(links.sum()))


def _once(items: list[str], codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which rows to keep, bool [n], so that no picture is called a duplicate of itself.

    Of rows with the same file, or name, and code the first. Of a file whose code has changed the
    last: the picture of the older code is no more. Also which of the rows left out, bool [n], are
    links: other names, symbolic or hard links, of a file that is kept.
    """
    kept, links = np.ones(len(items), bool), np.zeros(len(items), bool)
    seen: dict[tuple[int, int] | str, int] = {}
    for row, item in enumerate(items):
        path = path_of(item)
        if path is None:
            continue
        file = _identity(path)
        before = seen.setdefault(file or path, row)
        if before == row:
            continue
        same = codes[row].tobytes() == codes[before].tobytes()
        if not same and file is None:
            continue
        left_out = row if same else before
        kept[left_out] = False
        links[left_out] = path != path_of(items[before])
        if not same:
            seen[file or path] = row
    return kept, links


def _identity(path: str) -> tuple[int, int] | None:
    """What all names of a file on disk share; None where there is no file."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # a name may hold what no path can
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None


def _warn_of_a_giant(n: int, largest: int) -> None:
    """Say so when one group holds most pictures: the codes tell classes then, not copies."""
    if n >= 20 and largest > n / 2:
        warnings.warn(
            f"one group holds {largest} of {n} pictures: a model trained on labels gives all "
            "pictures of a class nearly one code; encode with a model whose head is itq or random, "
            "or choose a smaller --radius",
            stacklevel=1,
        )


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
