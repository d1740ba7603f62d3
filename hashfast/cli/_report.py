"""The report of `hashfast dedup`: every group in duplicates.csv, the first ones in report.html."""

import base64
import html
import io
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

CSV_FILE, HTML_FILE = "duplicates.csv", "report.html"
MAX_GROUPS, MAX_PICTURES = 100, 12  # of report.html: groups, and pictures of each
_HEADER = (
    *("group", "item", "distance", "representative", "label", "gallery"),
    *("width", "height", "bytes"),
)
_MARK = '<meta name="generator" content="hashfast dedup">'
_SIDE = 160  # pixels of a thumbnail


class Picture(NamedTuple):
    """An item of a group, its distance in bits to the group's first, and its gallery."""

    item: str
    distance: int
    label: str
    gallery: str


Group = list[Picture]
"""Near-duplicates by distance: the representative first, the farthest last."""


def check_folder(folder: Path) -> None:
    """Refuse, before anything is computed, to replace files that are not of such a report."""
    for name, start in ((CSV_FILE, _csv_header()), (HTML_FILE, _MARK.encode())):
        path = folder / name
        if not path.exists():
            continue
        with path.open("rb") as file:
            if start not in file.read(512):
                raise FileExistsError(
                    f"{path} was not written by `hashfast dedup`: move it, or choose another --out"
                )


def write_report(folder: Path, title: str, facts: dict[str, Any], groups: list[Group]) -> None:
    """Write both files; those of an older report are replaced together, once both are whole."""
    from hashfast._files import atomic_write
    from hashfast.index.gallery import csv_bytes

    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        table, page = (
            stack.enter_context(atomic_write(folder / name)) for name in (CSV_FILE, HTML_FILE)
        )
        table.write(_csv_header())
        table.write(csv_bytes(_csv_rows(groups)))
        for part in _page(title, facts, groups):
            page.write(part.encode())
        for file in (table, page):  # a full disk shows before the first is replaced
            file.flush()


def _csv_header() -> bytes:
    from hashfast.index.gallery import csv_bytes

    return csv_bytes([_HEADER])


def _csv_rows(groups: list[Group]) -> Iterator[tuple]:
    from tqdm import tqdm

    for number, group in enumerate(tqdm(groups, unit="group", desc="sizes"), 1):
        for place, (item, distance, label, gallery) in enumerate(group):
            first = "no" if place else "yes"
            yield number, item, distance, first, label, gallery, *_measures(item)


def _measures(item: str) -> tuple[int | str, int | str, int | str]:
    """Width, height and bytes by the file's header; empty where there is no picture or no file."""
    from PIL import Image

    if not os.path.isfile(item):
        return "", "", ""
    size = os.path.getsize(item)
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(item) as image:
            return *image.size, size
    except Exception:  # decoders raise nearly any type on a damaged file
        return "", "", size


def _page(title: str, facts: dict[str, Any], groups: list[Group]) -> Iterator[str]:
    from tqdm import tqdm

    shown = groups[:MAX_GROUPS]
    yield _HEAD.format(mark=_MARK, title=_text(title), style=_STYLE)
    yield "<dl>"
    for name, value in facts.items():
        yield f"<div><dt>{_text(name)}</dt><dd>{_text(str(value))}</dd></div>"
    yield "</dl>\n"
    pictures = [picture for group in shown for picture in group]
    relative = any(not os.path.isabs(picture.item) for picture in pictures)
    several = len({picture.gallery for picture in pictures}) > 1
    yield f"<p>{_text(_explanation(len(groups), relative))}</p>\n"
    for number, group in enumerate(tqdm(shown, unit="group", desc="report"), 1):
        chain = group[-1].distance > facts["radius"]
        yield f"<section>\n<h2>Group {number} <span>{len(group)} pictures, farthest "
        yield f"{_bits(group[-1].distance)}</span>{_CHAIN * chain}</h2>\n<div>\n"
        yield from (_figure(picture, several) for picture in _some(group))
        yield "</div>\n"
        if len(group) > MAX_PICTURES:
            yield (
                f"<p>{MAX_PICTURES} of {len(group)}: the nearest and, last, the farthest. "
                f"{CSV_FILE} has all.</p>\n"
            )
        yield "</section>\n"
    yield "</main>\n</html>\n"


def _explanation(groups: int, relative: bool) -> str:
    written = f"Written on {time.strftime('%Y-%m-%d at %H:%M')}; nothing was deleted or moved."
    if not groups:
        return f"No near-duplicates were found. {written}"
    sentences = [
        "Pictures whose codes differ in at most as many bits as the radius are linked, and linked "
        "pictures form a group. Distances are to the first picture of a group. In a chain some lie "
        "beyond the radius: each is near another of the group, not necessarily near the first."
    ]
    if groups > MAX_GROUPS:
        sentences.append(
            f"The {MAX_GROUPS} largest of {groups} groups are shown; {CSV_FILE} has all."
        )
    if relative:
        sentences.append(f"Names without a leading / are looked up in {os.getcwd()}.")
    return " ".join([*sentences, written])


def _some(group: Group) -> Group:
    """As many as are shown; of a larger group the farthest too, for a chain shows at its end."""
    if len(group) <= MAX_PICTURES:
        return group
    return [*group[: MAX_PICTURES - 1], group[-1]]


def _figure(picture: Picture, several: bool) -> str:
    folder, name = os.path.split(picture.item)
    thumbnail, size = _thumbnail(picture.item)
    notes = [size, folder, picture.label, picture.gallery * several]
    return (
        f'<figure title="{_text(picture.item)}">\n{thumbnail}\n<figcaption><b>{_text(name)}</b>'
        f"<i>{_bits(picture.distance)}</i>"
        f"{''.join(f'<span>{_text(note)}</span>' for note in notes if note)}"
        "</figcaption>\n</figure>\n"
    )


def _thumbnail(item: str) -> tuple[str, str]:
    """A small picture that links to the file, or a placeholder; the picture's size in words."""
    from PIL import Image

    from hashfast.data import to_image

    if not os.path.isfile(item):
        return '<div class="none">no file of this name</div>', ""
    try:
        with Image.open(item) as image:
            width, height = image.size
            image.draft(image.mode, (2 * _SIDE, 2 * _SIDE))  # large JPEG files decode faster
            pixels = to_image(image, None).permute(1, 2, 0).numpy()
        small = Image.fromarray(pixels)
        small.thumbnail((_SIDE, _SIDE))
        jpeg = io.BytesIO()
        small.save(jpeg, "JPEG", quality=80)
    except Exception:  # decoders raise nearly any type on a damaged file
        return '<div class="none">cannot be read</div>', ""
    source = f"data:image/jpeg;base64,{base64.b64encode(jpeg.getvalue()).decode()}"
    link = html.escape(Path(os.path.abspath(item)).as_uri())
    size = f"{width} x {height}, {os.path.getsize(item) / 1000:,.0f} kB"
    return f'<a href="{link}"><img src="{source}" alt="{_text(item)}"></a>', size


def _bits(distance: int) -> str:
    return f"{distance} {'bit' if distance == 1 else 'bits'}"


def _text(name: str) -> str:
    """HTML of a text in which every character shows: bytes that are not UTF-8 and control
    characters are escaped as in Python."""
    known = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return html.escape(
        "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in known)
    )


_CHAIN = " <em>chain</em>"
_HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
{mark}
<meta http-equiv="Content-Security-Policy" \
content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>{style}</style>
<main>
<h1>{title}</h1>
"""
_STYLE = """
:root { color-scheme: light dark; --soft: #8888881c; --line: #88888855; --faint: #6b6b6b }
@media (prefers-color-scheme: dark) { :root { --faint: #a3a3a3 } }
body { margin: 0; font: 15px/1.45 system-ui, sans-serif }
main { max-width: 76rem; margin: auto; padding: 1.5rem }
h1 { font-size: 1.5rem; overflow-wrap: anywhere }
h2 { font-size: 1.05rem; margin: 0 0 .8rem }
h2 span, p { color: var(--faint); font-weight: normal; font-size: .9rem }
h2 em { font-style: normal; font-size: .8rem; padding: .1rem .5rem; border-radius: 1rem;
  color: #fff; background: #b35900 }
p { max-width: 60rem }
dl { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1rem 0 }
dl div { padding: .4rem .8rem; border-radius: .5rem; background: var(--soft) }
dt { color: var(--faint); font-size: .8rem }
dd { margin: 0; font-size: 1.1rem; font-variant-numeric: tabular-nums }
section { border-top: 1px solid var(--line); padding: 1.1rem 0 }
section > div { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, 160px) }
figure { margin: 0 }
figure a, .none { display: flex; height: 160px; align-items: center; justify-content: center;
  border-radius: .4rem; background: var(--soft) }
.none { border: 1px dashed var(--line); box-sizing: border-box; color: var(--faint);
  font-size: .8rem }
img { max-width: 100%; max-height: 100% }
figcaption { font-size: .78rem; overflow-wrap: anywhere; margin-top: .3rem }
figcaption i, figcaption span { display: block; font-style: normal; color: var(--faint) }
"""
