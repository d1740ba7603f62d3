"""Pictures and splits that several tests of the data room share."""

from dataclasses import replace

from PIL import Image

from hashfast.data import PROTOCOLS


def sizes(splits):
    return len(splits.query), len(splits.train), len(splits.database)


def replaced(name, **changes):
    return replace(PROTOCOLS[name], **changes)


def halves(width=60, height=40, left=(255, 0, 0), right=(0, 0, 255)):
    """A picture of two colours, side by side."""
    image = Image.new("RGB", (width, height), left)
    image.paste(right, (width // 2, 0, width, height))
    return image


def class_folders(tmp_path):
    """Two classes of three pictures; also an empty class, hidden files and a loose picture."""
    for name, colour in (("cat", "red"), ("dog", "blue")):
        (tmp_path / name / "deep").mkdir(parents=True)
        for file in ("1.PNG", "2.jpg", "deep/3.png"):
            Image.new("RGB", (12, 10), colour).save(tmp_path / name / file)
        (tmp_path / name / "notes.txt").write_text("not a picture")
        (tmp_path / name / "._1.png").write_text("what macOS leaves behind")
    (tmp_path / "empty").mkdir()
    (tmp_path / ".git").mkdir()
    Image.new("RGB", (5, 5)).save(tmp_path / "loose.png")
    return tmp_path
