"""hashfast dedup: what it finds, its report, and that it leaves everything else alone."""

import base64
import csv
import io
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

import numpy as np
import pytest
import torch
from cli_calls import answer, call
from PIL import Image
from sklearn.datasets import load_sample_images

from hashfast.cli import _report
from hashfast.data import FileDataset
from hashfast.hashing import HashModel, ModelConfig
from hashfast.hashing.encode import fit_projection
from hashfast.index import Gallery

HEADER = [
    *("group", "item", "distance", "representative", "label", "gallery"),
    *("width", "height", "bytes"),
]


def save(folder, distances, items=None, **facts):
    """A gallery of 64-bit codes, each so many bits from zero; equal numbers are equal codes."""
    codes = np.array([list(((1 << d) - 1).to_bytes(8, "big")) for d in distances], np.uint8)
    Gallery.of(codes.reshape(-1, 8), 64, items, **facts).save(folder)
    return folder


def read_csv(folder):
    with open(folder / "duplicates.csv", newline="", errors="surrogateescape") as file:
        header, *rows = csv.reader(file)
    assert header == HEADER
    return [row[:6] for row in rows]


def read_measures(folder):
    """(width, height, bytes) of each item, as written."""
    with open(folder / "duplicates.csv", newline="", errors="surrogateescape") as file:
        return {
            row["item"]: tuple(row[name] for name in HEADER[6:]) for row in csv.DictReader(file)
        }


class Page(HTMLParser):
    """Text, tags, links and pictures of a report."""

    def __init__(self, folder):
        super().__init__()
        self.text, self.tags, self.links, self.pictures = "", [], [], []
        self.feed((folder / "report.html").read_text(encoding="utf-8"))
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        found = dict(attributes)
        if tag == "a":
            self.links.append(os.fsdecode(unquote_to_bytes(urlsplit(found["href"]).path)))
        if tag == "img":
            kind, data = found["src"].split(",")
            assert kind == "data:image/jpeg;base64"
            self.pictures.append(Image.open(io.BytesIO(base64.b64decode(data))))

    def handle_data(self, data):
        self.text += f" {data}"


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two photographs, each with a copy, a half-size and a recompressed one; and others."""
    folder = tmp_path_factory.mktemp("photos") / "photos"
    folder.mkdir()
    for name, pixels in zip(("china", "flower"), load_sample_images().images, strict=True):
        image = Image.fromarray(pixels)
        image.save(folder / f"{name}.png")
        shutil.copy(folder / f"{name}.png", folder / f"{name} copy.png")
        image.resize((320, 213)).save(folder / f"{name} half.png")
        image.save(folder / f"{name} small.jpg", quality=25)
    for seed in range(12):
        noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((64, 64)).save(folder / f"other {seed}.png")
    return folder


@pytest.fixture(scope="module")
def model(photos):
    config = ModelConfig(
        "pixels", 64, head="random", image_shape=(3, 16, 16), mean=(0.5,) * 3, std=(0.25,) * 3
    )
    torch.manual_seed(0)
    fitted = fit_projection(HashModel(config), FileDataset.from_folder(photos, image_size=16))
    fitted.save_pretrained(photos.parent / "model")
    return photos.parent / "model"


# What is found


def test_copies_of_real_pictures_are_found(photos, model, tmp_path, capsys):
    gallery = tmp_path / "g"
    answer(capsys, "encode", photos, "--model", model, "--out", gallery)
    before = contents(photos) | contents(gallery)
    found = answer(capsys, "dedup", gallery)
    rows = read_csv(gallery / "duplicates")
    assert (found["groups"], found["pictures_in_groups"]) == (2, 8)
    for number, name in (("1", "china"), ("2", "flower")):
        names = {os.path.basename(row[1]) for row in rows if row[0] == number}
        assert names == {f"{name}{end}" for end in (".png", " copy.png", " half.png", " small.jpg")}
    page = Page(gallery / "duplicates")
    assert sorted(page.links) == sorted(row[1] for row in rows)
    assert [picture.size for picture in page.pictures] == [(160, 107)] * 8
    assert "640 x 427" in page.text
    after = contents(photos) | contents(gallery)
    report = {gallery / "duplicates" / name for name in ("duplicates.csv", "report.html")}
    assert after.keys() - before.keys() == report
    assert {path: after[path] for path in before} == before


def test_pictures_are_shown_from_any_folder(photos, model, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(photos.parent)
    answer(capsys, "encode", photos.name, "--model", model, "--out", tmp_path / "g")
    monkeypatch.chdir(tmp_path)
    answer(capsys, "dedup", "g")
    page = Page(tmp_path / "g" / "duplicates")
    assert (len(page.pictures), len(page.links)) == (8, 8)
    assert all(os.path.isfile(link) for link in page.links)
    assert "are looked up in" not in page.text


def test_known_groups(tmp_path, capsys):
    items = ["a", "far", "b", "a too", "end", "far too"]
    labels = {"labels": np.array([0, 1, -1, 1, 0, 1]), "class_names": ("cat", "dog")}
    g = save(tmp_path / "g", [0, 40, 3, 0, 6, 44], items, **labels)
    status, out, _ = call(capsys, "dedup", g)
    assert status == 0
    expected = [
        ["1", "a", "0", "yes", "cat", str(g)],
        ["1", "a too", "0", "no", "dog", str(g)],
        ["1", "b", "3", "no", "", str(g)],
        ["1", "end", "6", "no", "cat", str(g)],
        ["2", "far", "0", "yes", "dog", str(g)],
        ["2", "far too", "4", "no", "dog", str(g)],
    ]
    assert read_csv(g / "duplicates") == expected
    printed = dict(line.rsplit(maxsplit=1) for line in out.splitlines())
    counted = {
        "gallery": str(g),
        "against": [],
        "pictures": 6,
        "old_pictures": 0,
        "known_already": 0,
        "links_left_out": 0,
        "distinct_codes": 5,
        "groups": 2,
        "pictures_in_groups": 6,
        "identical_codes": 1,
        "chains": 1,
        "radius": 4,
        "bits": 64,
        "report": str(g / "duplicates" / "report.html"),
        "csv": str(g / "duplicates" / "duplicates.csv"),
    }
    found = answer(capsys, "dedup", g)
    assert found.pop("seconds") >= 0
    assert found == counted
    assert {name: printed[name.replace("_", " ")] for name in list(counted)[2:]} == {
        name: str(value) for name, value in list(counted.items())[2:]
    }
    text = Page(g / "duplicates").text
    assert "Group 1 4 pictures, farthest 6 bits chain" in text
    assert "Group 2 2 pictures, farthest 4 bits no file of this name far 0 bits dog" in text


@pytest.mark.parametrize(("bits", "radius"), [(8, 0), (32, 2), (64, 4), (128, 8)])
def test_the_default_radius_grows_with_the_code(bits, radius, tmp_path, capsys):
    Gallery.of(np.zeros((1, bits // 8), np.uint8), bits).save(tmp_path)
    assert answer(capsys, "dedup", tmp_path)["radius"] == radius


def test_many_copies(tmp_path, capsys):
    g = save(tmp_path / "g", [*[20] * 20_000, *[50, 51], *range(0, 10, 5)])
    found = answer(capsys, "dedup", g)
    assert (found["groups"], found["identical_codes"]) == (2, 19_999)
    rows = read_csv(g / "duplicates")
    assert len(rows) == 20_002
    assert "12 of 20000: the nearest and, last, the farthest." in Page(g / "duplicates").text


def test_short_codes_are_warned_of(tmp_path, capsys):
    Gallery.of(np.random.default_rng(0).integers(0, 256, (500, 2), dtype=np.uint8), 16).save(
        tmp_path
    )
    status, _, err = call(capsys, "dedup", tmp_path)
    assert status == 0
    assert "among 500 random codes of 16 bits about 32 pairs" in err  # 124,750 * 17 / 65,536
    assert "by chance" not in call(capsys, "dedup", save(tmp_path / "g", range(64)))[2]


def test_a_giant_group_is_warned_of(tmp_path, capsys):
    far = [32 + 3 * step for step in range(10)]
    for name, distances, warned in (
        ("most", [0] * 11 + far[:9], True),
        ("half", [0] * 10 + far, False),
        ("few", [0] * 19, False),
    ):
        g = save(tmp_path / name, distances)
        status, _, err = call(capsys, "dedup", g, "--radius", "2")
        assert status == 0
        assert ("one group holds 11 of 20 pictures" in err) == warned
        assert ("one group holds" in err) == warned


# New pictures against old ones


def test_only_groups_with_a_new_picture_are_reported(tmp_path, capsys):
    old = save(tmp_path / "old", [0, 20, 20, 40, 40], ["zero", "x", "x copy", "y", "y copy"])
    older = save(tmp_path / "older", [60], ["z"])
    new = save(tmp_path / "new", [21, 62, 30], ["x new", "z new", "single"])
    found = answer(capsys, "dedup", new, "--against", older, old)
    assert (found["pictures"], found["old_pictures"], found["groups"]) == (3, 6, 2)
    assert read_csv(new / "duplicates") == [
        ["1", "x", "0", "yes", "", str(old)],
        ["1", "x copy", "0", "no", "", str(old)],
        ["1", "x new", "1", "no", "", str(new)],
        ["2", "z", "0", "yes", "", str(older)],
        ["2", "z new", "2", "no", "", str(new)],
    ]
    assert f"x copy 0 bits {old}" in Page(new / "duplicates").text
    joined = tmp_path / "joined"
    answer(capsys, "index", older, old, new, "--out", joined)
    assert answer(capsys, "dedup", joined)["groups"] == 3


def test_a_picture_is_no_duplicate_of_itself(tmp_path, capsys, monkeypatch):
    """As when a whole folder is encoded again to look at what is new in it."""
    monkeypatch.chdir(tmp_path)
    for name in ("kept.png", "edited.png"):
        Image.new("L", (8, 8)).save(name)
    names = ["kept.png", "edited.png", "7", "digits/query/3"]
    old = save(tmp_path / "old", [0, 20, 40, 60], names)
    items = [tmp_path / "kept.png", tmp_path / "edited.png", *names[2:], tmp_path / "new.png"]
    new = save(tmp_path / "new", [0, 21, 40, 61, 1], list(map(str, items)))
    found = answer(capsys, "dedup", new, "--against", old)
    assert (found["pictures"], found["old_pictures"], found["known_already"]) == (4, 3, 1)
    rows = [(row[0], row[1], row[5]) for row in read_csv(new / "duplicates")]
    assert rows == [
        ("1", "kept.png", str(old)),
        ("1", str(tmp_path / "new.png"), str(new)),
        ("2", "7", str(old)),  # any gallery may have a row 7
        ("2", "7", str(new)),
        ("3", "digits/query/3", str(old)),  # no file that can have changed: another split
        ("3", "digits/query/3", str(new)),
    ]


def test_a_link_is_no_duplicate_of_its_file(tmp_path, capsys):
    names = ["file.png", "hard.png", "soft.png", "through/file.png", "copy.png", "broken.png"]
    folder = tmp_path / "p"
    folder.mkdir()
    Image.new("L", (8, 8)).save(folder / "file.png")
    os.link(folder / "file.png", folder / "hard.png")
    os.symlink("file.png", folder / "soft.png")
    os.symlink(folder, folder / "through")
    os.symlink("nothing.png", folder / "broken.png")
    shutil.copy(folder / "file.png", folder / "copy.png")
    items = [str(folder / name) for name in names]
    g = save(tmp_path / "g", [0] * 6, items)
    found = answer(capsys, "dedup", g)
    assert (found["pictures"], found["links_left_out"], found["known_already"]) == (3, 3, 0)
    assert [row[1] for row in read_csv(g / "duplicates")] == [items[0], items[4], items[5]]
    again = save(tmp_path / "again", [1, 1], items[:2])  # the file has changed
    found = answer(capsys, "dedup", again, "--against", save(g, [0, 0], items[3:5]))
    assert (found["old_pictures"], found["pictures"], found["links_left_out"]) == (1, 1, 2)
    assert [row[1] for row in read_csv(again / "duplicates")] == [items[4], items[0]]
    only = answer(capsys, "dedup", save(tmp_path / "only", [0, 0], items[:2]))
    assert (only["groups"], only["links_left_out"]) == (0, 1)


def test_galleries_that_do_not_fit_are_refused(tmp_path, capsys):
    new = save(tmp_path / "new", [0], info={"fingerprint": "1234"})
    other = save(tmp_path / "other", [0], info={"fingerprint": "5678"})
    Gallery.of(np.zeros((1, 4), np.uint8), 32).save(tmp_path / "short")
    status, _, err = call(capsys, "dedup", new, "--against", other)
    assert status == 1
    assert "by model 5678" in err
    assert "--force" in err
    assert answer(capsys, "dedup", new, "--against", other, "--force")["groups"] == 1
    status, _, err = call(capsys, "dedup", new, "--against", tmp_path / "short", "--force")
    assert status == 1
    assert "short has 32-bit codes" in err
    status, _, err = call(capsys, "dedup", new, "--against", tmp_path / "." / "new")
    assert status == 1
    assert "the gallery itself" in err


# The report


@pytest.fixture
def odd(tmp_path):
    """Copies with names that need care (markup, bytes that are not UTF-8) or without a picture."""
    names = ['<b>bold<b> & "q".png', os.fsdecode(b"caf\xe9.png"), "two\nlines\u202e.png"]
    for name in names:
        Image.effect_noise((400, 20), 50).save(tmp_path / name)
    (tmp_path / "text.png").write_text("<script>")
    (tmp_path / "folder.png").mkdir()
    names += ["text.png", "folder.png", "gone.png"]
    items = [*(str(tmp_path / name) for name in names), "digits/database/12", "nul\0"]
    labels = {"labels": np.array([0] * 8), "class_names": ("<i>class</i>",)}
    return save(tmp_path / "<g>", [0] * 8, items, **labels), items


def test_every_name_survives_in_the_report(odd, capsys):
    g, items = odd
    answer(capsys, "dedup", g)
    assert [row[1] for row in read_csv(g / "duplicates")] == items
    page = Page(g / "duplicates")
    assert not {"b>", "script", "i>", "g"} & set(page.tags)
    assert page.tags.count("b") == page.tags.count("figure") == 8  # names, not markup in them
    for shown in ('<b>bold<b> & "q".png', r"caf\xe9.png", r"two\nlines\u202e.png"):
        assert shown in page.text
    assert f"Near-duplicates in {g}" in page.text
    assert page.text.count("<i>class</i>") == 8
    assert page.links == items[:3]
    assert [picture.size for picture in page.pictures] == [(160, 8)] * 3


def test_pictures_that_cannot_be_shown_keep_their_place(odd, capsys):
    g, _ = odd
    answer(capsys, "dedup", g)
    text = Page(g / "duplicates").text
    assert "cannot be read text.png" in text
    assert text.count("no file of this name") == 4
    for name in ("folder.png", "gone.png", "12"):
        assert f"no file of this name {name} 0 bits" in text
    assert f"Names without a leading / are looked up in {os.getcwd()}." in text


def test_a_picture_is_shown_as_it_is_meant(tmp_path, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned
    Image.new("RGB", (2000, 1000), "red").save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGBA", (40, 20), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.fromarray(np.full((20, 20), 65535, np.uint16)).save(tmp_path / "deep.png")
    items = [str(tmp_path / name) for name in ("turned.jpg", "clear.png", "deep.png")]
    answer(capsys, "dedup", save(tmp_path / "g", [0] * 3, items))
    turned, *white = Page(tmp_path / "g" / "duplicates").pictures
    assert turned.size == (80, 160)
    assert turned.getpixel((40, 80))[0] > 240
    for picture in white:
        assert min(picture.getpixel((9, 9))) > 250


def test_sizes_are_told_without_decoding(tmp_path, capsys):
    Image.effect_noise((400, 20), 50).save(tmp_path / "whole.png")
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[:100])
    (tmp_path / "text.png").write_text("text")
    items = [str(tmp_path / name) for name in ("whole.png", "cut.png", "text.png", "gone.png")]
    answer(capsys, "dedup", save(tmp_path / "g", [0] * 4, items))
    assert read_measures(tmp_path / "g" / "duplicates") == {
        items[0]: ("400", "20", str(len(content))),
        items[1]: ("400", "20", "100"),
        items[2]: ("", "", "4"),
        items[3]: ("", "", ""),
    }


def test_the_page_is_limited_and_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(_report, "MAX_GROUPS", 2)
    monkeypatch.setattr(_report, "MAX_PICTURES", 3)
    g = save(tmp_path / "g", [50, 50, 0, 2, 4, 8, 20, 20], list("abcdefgh"))
    assert answer(capsys, "dedup", g)["groups"] == 3
    assert len(read_csv(g / "duplicates")) == 8
    page = Page(g / "duplicates")
    assert page.tags.count("section") == 2
    assert "The 2 largest of 3 groups are shown; duplicates.csv has all." in page.text
    assert "3 of 4: the nearest and, last, the farthest." in page.text
    assert re.findall(r"\b([a-h]) (\d+ bits?)\b", page.text) == [
        ("c", "0 bits"), ("d", "2 bits"), ("f", "8 bits"), ("a", "0 bits"), ("b", "0 bits"),
    ]  # fmt: skip


def test_nothing_found_is_said(tmp_path, capsys):
    for name, distances in (("apart", [0, 30, 60]), ("empty", [])):
        g = save(tmp_path / name, distances)
        assert answer(capsys, "dedup", g)["groups"] == 0
        assert read_csv(g / "duplicates") == []
        assert "No near-duplicates were found." in Page(g / "duplicates").text


def test_a_report_is_replaced_whole(tmp_path, capsys, monkeypatch):
    g, out = save(tmp_path / "g", [0, 0, 30, 30]), tmp_path / "new" / "report"
    assert answer(capsys, "dedup", g, "--out", out)["report"] == str(out / "report.html")
    assert not (g / "duplicates").exists()
    save(g, [0, 0, 30, 40])
    whole = contents(out)

    def full_disk(picture, several):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as failing:
        failing.setattr(_report, "_figure", full_disk)
        status, _, err = call(capsys, "dedup", g, "--out", out)
    assert status == 1
    assert "No space left" in err
    assert contents(out) == whole
    answer(capsys, "dedup", g, "--out", out)
    assert len(read_csv(out)) == 2
    assert contents(out).keys() == whole.keys()


@pytest.mark.parametrize("name", ["report.html", "duplicates.csv"])
def test_files_of_others_are_not_replaced(name, tmp_path, capsys):
    g = save(tmp_path / "g", [0, 0])
    (tmp_path / name).write_text("mine")
    status, _, err = call(capsys, "dedup", g, "--out", tmp_path)
    assert status == 1
    assert f"{name} was not written by `hashfast dedup`" in err
    assert (tmp_path / name).read_text() == "mine"


# Bad input


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["nowhere"], 1, "no gallery in nowhere"),
        ([], 2, "PATH"),
        (["g", "--radius", "-1"], 1, "radius is -1; expected at least 0"),
        (["g", "--radius", "65"], 1, "radius is 65 and the codes of g have 64 bits"),
        (["g", "--radius", "2.5"], 2, "2.5"),
        (["g", "--against", "nowhere"], 1, "no gallery in nowhere"),
        (["g", "--out", "file"], 1, "file"),
        (["g", "--delete"], 2, "--delete"),
    ],
)
def test_bad_input(arguments, status, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(Path("g"), [0, 0])
    Path("file").touch()
    got, out, err = call(capsys, "dedup", *arguments)
    assert (got, out) == (status, "")
    assert said in err
    assert "Traceback" not in err
    assert not Path("g", "duplicates").exists()


def test_help_says_that_nothing_is_deleted(capsys):
    assert "Never deletes or moves anything" in call(capsys, "dedup", "--help")[1]
