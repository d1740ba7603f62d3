"""Condensed sets: what they hold, how they are decoded, written and read."""

import json
import warnings
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from hashfast.data import ArrayDataset, CondensedSet, load
from hashfast.data.condensed import IMAGES_FILE

NAMES = ("cat", "dog", "owl")


def made(channels=1, height=6, width=8, ipc=2, classes=3, **options):
    images = torch.rand(classes * ipc, channels, height, width)
    labels = torch.arange(classes).repeat_interleave(ipc)
    return CondensedSet(images, labels, **{"class_names": NAMES[:classes], **options})


def rewritten(folder, metadata=None, **tensors):
    """The file of a set with other metadata or tensors."""
    from safetensors import safe_open

    path = folder / IMAGES_FILE
    with safe_open(path, framework="pt") as opened:
        kept = opened.metadata()
    save_file({**load_file(path), **tensors}, path, {**kept, **(metadata or {})})
    return path


# What a set is


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"images": torch.rand(6, 1, 6, 8).double()}, TypeError, "torch.float64; expected float32"),
        ({"images": torch.rand(6, 2, 6, 8)}, ValueError, r"\[6, 2, 6, 8\]; expected .* 1 or 3"),
        ({"images": torch.rand(6, 6, 8)}, ValueError, r"shape \[6, 6, 8\]"),
        ({"images": torch.rand(0, 1, 6, 8)}, ValueError, r"shape \[0, 1, 6, 8\]"),
        ({"images": torch.rand(6, 1, 6, 8) + 0.5}, ValueError, r"finite ones in \[0, 1\]"),
        ({"images": torch.full((6, 1, 6, 8), torch.nan)}, ValueError, "values from nan to nan"),
        ({"images": torch.full((6, 1, 6, 8), torch.inf)}, ValueError, "values from inf"),
        ({"labels": torch.zeros(6)}, ValueError, r"torch.float32 \[6\]; expected int64 \[6\]"),
        ({"labels": torch.zeros(5).long()}, ValueError, r"int64 \[5\]; expected int64 \[6\]"),
        ({"labels": torch.tensor([0, 1, 2, 0, 1, 2])}, ValueError, "labels are out of order"),
        ({"labels": torch.tensor([-1, -1, 0, 0, 1, 1])}, ValueError, "class ids from 0 up"),
        (
            {"labels": torch.tensor([0, 0, 1, 2, 2, 2])},
            ValueError,
            "class 0 has 2 images and class 1 1;",
        ),
        ({"class_names": ("cat", "dog")}, ValueError, "class 2 is the last, but there are 2"),
        ({"factor": 7}, ValueError, "factor is 7; images of 6 x 8 pixels can hold"),
        ({"factor": 0}, ValueError, "factor is 0"),
        ({"formation": "double"}, ValueError, "mode is 'double'; expected one of single, multi"),
    ],
)
def test_what_is_no_set_is_refused(changes, error, said):
    with pytest.raises(error, match=said):
        replace(made(), **changes)


def test_classes_that_are_left_out_are_fine():
    some = CondensedSet(torch.rand(4, 1, 4, 4), torch.tensor([0, 0, 2, 2]), class_names=NAMES)
    assert some.num_classes == 2
    assert some.decoded()[1].tolist() == [0, 0, 2, 2]


def test_decoded_by_hand():
    # Two classes of one image of 4 x 4, factor 2: the four 2 x 2 cells, enlarged to 4 x 4.
    image = torch.zeros(2, 1, 4, 4)
    image[0, 0, :2, :2], image[0, 0, :2, 2:], image[0, 0, 2:, :2] = 0.25, 0.5, 1
    image[1, 0, 2, 2] = 1
    condensed = CondensedSet(image, torch.tensor([0, 1]), factor=2)
    images, labels = condensed.decoded()
    assert labels.tolist() == [0] * 4 + [1] * 4
    assert [cell.unique().tolist() for cell in images[:4]] == [[0.25], [0.5], [1.0], [0.0]]
    assert images[4:7].count_nonzero() == 0
    # Bilinear from 2 to 4 pixels: weights 1, 3/4, 1/4, 0 along each side.
    fall = torch.tensor([1, 0.75, 0.25, 0])
    assert images[7, 0].allclose(fall[:, None] * fall)

    dataset = condensed.dataset()
    assert isinstance(dataset, ArrayDataset)
    assert dataset.labels.tolist() == labels.tolist()
    levels = [cell.unique().tolist() for cell in dataset.images[:4]]
    assert levels == [[64], [128], [255], [0]]  # 63.75, 127.5 to even, 255
    assert dataset.images[7, 0, 0].tolist() == [255, 191, 64, 0]  # 191.25, 63.75


def test_multi_formation_keeps_the_whole_images_too():
    condensed = made(factor=2, formation="multi")
    images, labels = condensed.decoded()
    assert labels.tolist() == [c for c in range(3) for _ in range(2 + 2 * 4)]
    assert images[:2].equal(condensed.images[:2])
    assert images[10:12].equal(condensed.images[2:4])


def test_the_fingerprint_tells_sets_apart():
    one = made()
    assert one.fingerprint() == replace(one, info={"seconds": 1.0}).fingerprint()
    pixel = one.images.clone()
    pixel[5, 0, 5, 7] = 1 - pixel[5, 0, 5, 7]
    others = [
        replace(one, images=pixel),
        replace(one, images=one.images.reshape(6, 1, 8, 6)),
        replace(one, labels=torch.arange(3).repeat_interleave(2) + 1, class_names=()),
        replace(one, factor=2),
        replace(one, formation="bound"),
    ]
    assert len({each.fingerprint() for each in [one, *others]}) == 6


# In a protocol


def test_in_place_of_a_training_set():
    digits = load("digits")
    condensed = CondensedSet(
        torch.rand(20, 1, 8, 8),
        torch.arange(10).repeat_interleave(2),
        class_names=digits.class_names,
        info={"mean": [0.25], "std": [0.5]},
    )
    splits = condensed.in_place_of_training_set(digits)
    assert splits.train.images.equal(condensed.dataset().images)
    assert splits.query is digits.query
    assert splits.database is digits.database
    recipe = splits.describe()["recipe"]
    assert json.loads(json.dumps(recipe)) == {
        **digits.recipe,
        "condensed": condensed.fingerprint(),
        "mean": [0.25],
        "std": [0.5],
    }
    assert "condensed" not in digits.recipe


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": torch.rand(10, 3, 8, 8)}, r"\[3, 8, 8\] and those of digits \[1, 8, 8\]"),
        ({"labels": torch.arange(10) + 1}, "classes 1, 2, .*, 10; those of digits are 0, 1"),
        ({"class_names": tuple("abcdefghij")}, "has the classes a, b, .*condense that protocol"),
    ],
)
def test_sets_of_another_protocol_are_refused(changes, said):
    condensed = CondensedSet(torch.rand(10, 1, 8, 8), torch.arange(10))
    with pytest.raises(ValueError, match=said):
        replace(condensed, **changes).in_place_of_training_set(load("digits"))


def test_protocols_of_several_labels_are_refused():
    condensed = CondensedSet(torch.rand(10, 1, 8, 8), torch.arange(10))
    with pytest.raises(ValueError, match="digits has several labels an image"):
        condensed.in_place_of_training_set(replace(load("digits"), multi_label=True))


# On disk


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("formation", ["single", "multi", "bound"])
def test_what_is_written_is_read(tmp_path, channels, formation):
    info = {"method": "iem", "mean": [0.5] * channels, "settings": {"ipc": 2}}
    condensed = made(channels, factor=3, formation=formation, bound=9, info=info)
    condensed.save(tmp_path / "new" / "set")
    for path in (tmp_path / "new" / "set", str(tmp_path / "new" / "set" / IMAGES_FILE)):
        read = CondensedSet.load(path)
        assert read.images.equal(condensed.images)
        assert read.labels.equal(condensed.labels)
        ours, theirs = vars(read), vars(condensed)
        assert {k: v for k, v in ours.items() if k not in ("images", "labels")} == {
            k: v for k, v in theirs.items() if k not in ("images", "labels")
        }
        assert read.fingerprint() == condensed.fingerprint()
        assert read.decoded()[0].equal(condensed.decoded()[0])


def test_a_set_takes_the_place_of_another(tmp_path):
    made().save(tmp_path)
    second = made(channels=3)
    second.images[0].mul_(0.5)
    second.save(tmp_path)
    assert CondensedSet.load(tmp_path).images.equal(second.images)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md",
        "condensed.png",
        IMAGES_FILE,
    ]


def test_views_of_larger_tensors_are_written(tmp_path):
    images = torch.rand(6, 8, 6, 1).permute(0, 3, 2, 1)
    CondensedSet(images, torch.arange(12)[::2]).save(tmp_path)
    read = CondensedSet.load(tmp_path)
    assert read.images.equal(images)
    assert read.labels.tolist() == [0, 2, 4, 6, 8, 10]


def test_the_file_with_the_images_comes_last(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr("hashfast.data.condensed.write_text", full)
    with pytest.raises(OSError, match="disk full"):
        made().save(tmp_path)
    assert not (tmp_path / IMAGES_FILE).exists()


def test_info_that_json_cannot_hold_writes_nothing(tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        made(info={"images": torch.rand(2)}).save(tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_the_picture_shows_every_class(tmp_path):
    condensed = made(height=6, width=8, ipc=2)
    condensed.save(tmp_path)
    picture = Image.open(tmp_path / "condensed.png")
    assert picture.mode == "L"
    # 8 times larger: 64 x 48, with 2 pixels around each.
    assert picture.size == (2 + 2 * 66, 2 + 3 * 50)
    for row, column, y, x in ((0, 0, 0, 0), (2, 1, 5, 7), (1, 0, 3, 4)):
        level = int((255 * condensed.images[2 * row + column, 0, y, x]).round())
        left, top = 2 + column * 66 + 8 * x, 2 + row * 50 + 8 * y
        assert {picture.getpixel((left + dx, top + dy)) for dx in (0, 7) for dy in (0, 7)} == {
            level
        }
    assert picture.getpixel((0, 0)) == 255


@pytest.mark.parametrize(
    ("height", "width", "ipc", "size"),
    [
        (32, 32, 25, (2 + 20 * 66, 2 + 3 * 66)),  # the first 20 of each class
        (100, 50, 1, (2 + 52, 2 + 3 * 102)),
        (256, 64, 1, (2 + 34, 2 + 3 * 130)),  # smaller: 128 x 32
    ],
)
def test_the_picture_has_a_handy_size(tmp_path, height, width, ipc, size):
    made(3, height, width, ipc).save(tmp_path)
    picture = Image.open(tmp_path / "condensed.png")
    assert picture.mode == "RGB"
    assert picture.size == size


def test_another_split_warns():
    digits = load("digits")
    images = torch.zeros(10, *digits.image_shape)
    info = {"protocol": digits.describe()}
    condensed = CondensedSet(images, torch.arange(10), info=info)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        condensed.in_place_of_training_set(digits)
    with pytest.warns(UserWarning, match="made of another split than this one of digits"):
        condensed.in_place_of_training_set(load("digits", None, 1))


def test_the_card_says_what_it_is(tmp_path):
    info = {"method": "iem", "seconds": 12.46, "settings": {"seed": 0}}
    info["protocol"] = {"name": "fashion-mnist"}
    condensed = made(factor=2, info=info)
    condensed.save(tmp_path / "mine")
    card = (tmp_path / "mine" / "README.md").read_text()
    assert card.startswith("# mine\n")
    for row in (
        "| images | 6, 2 of each of 3 classes |",
        "| size of an image | 1 x 6 x 8 |",
        "| training images they are decoded into | 24, 8 a class |",
        "| method | iem |",
        "| seconds | 12.5 |",
        f"| fingerprint | {condensed.fingerprint()} |",
    ):
        assert row in card
    assert "hashfast train --data fashion-mnist --condensed mine" in card
    assert "seed" not in card


def test_the_card_names_the_options_that_must_be_the_same(tmp_path):
    settings = {"root": "/private/pictures", "image_size": 64, "split_seed": 3}
    made(info={"protocol": {"name": "folder"}, "settings": settings}).save(tmp_path / "mine")
    card = (tmp_path / "mine" / "README.md").read_text()
    assert "--data folder --root ROOT --image-size 64 --split-seed 3 --condensed mine" in card
    assert "/private" not in card


def test_where_nothing_is(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "nowhere.safetensors"):
        with pytest.raises(
            FileNotFoundError, match=r"no condensed set in .*condensed\.safetensors"
        ):
            CondensedSet.load(path)


@pytest.mark.parametrize("cut", [0, 5, 100, -1])
def test_a_cut_file_is_damaged(tmp_path, cut):
    made().save(tmp_path)
    path = tmp_path / IMAGES_FILE
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=f"{IMAGES_FILE} is damaged"):
        CondensedSet.load(tmp_path)


def test_a_changed_pixel_is_damage(tmp_path):
    condensed = made()
    condensed.save(tmp_path)
    images = condensed.images.clone()
    images[3, 0, 2, 1] = 1 - images[3, 0, 2, 1]
    rewritten(tmp_path, images=images)
    with pytest.raises(ValueError, match="is damaged: its images have the fingerprint"):
        CondensedSet.load(tmp_path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / IMAGES_FILE
    save_file({"weight": torch.rand(2), "bias": torch.rand(2)}, path)
    with pytest.raises(ValueError, match="holds no condensed set, but bias, weight"):
        CondensedSet.load(tmp_path)


KEY = "hashfast condensed set"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        ("{}", "KeyError: 'format'"),
        ('{"format": 2}', "it has format 2; this version reads format 1"),
        ('{"format": 1, "fingerprint": ""}', "KeyError: 'class_names'"),
        ('{"format": 1, "fingerprint": "", "class_names": [], "x": 1}', "'x'"),
        ('{"format": 1, "fingerprint": "", "class_names": [], "factor": "a"}', "TypeError"),
        ('{"format": 1, "fingerprint": "", "class_names": ["a"]}', "there are 1 class names"),
    ],
)
def test_what_does_not_describe_a_set_is_refused(tmp_path, text, said):
    made().save(tmp_path)
    rewritten(tmp_path, {KEY: text})
    with pytest.raises(ValueError, match=f"{IMAGES_FILE} cannot be read as a condensed set") as why:
        CondensedSet.load(tmp_path)
    assert said in str(why.value)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"labels": torch.tensor([1, 1, 0, 0, 2, 2])}, "labels are out of order"),
        ({"images": torch.rand(6, 1, 6, 8).half()}, "torch.float16; expected float32"),
        ({"more": torch.rand(2)}, "'more'"),
    ],
)
def test_wrong_tensors_are_refused(tmp_path, tensors, said):
    made().save(tmp_path)
    path = rewritten(tmp_path, **tensors)
    with pytest.raises(ValueError, match=said) as why:
        CondensedSet.load(tmp_path)
    assert str(path) in str(why.value)
