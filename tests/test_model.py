"""HashModel: one folder on disk, the same codes everywhere, clear errors for anything else."""

import json
import os
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import hashfast
from hashfast import _files
from hashfast.data import UnreadableImage, to_image
from hashfast.hashing import HashModel, ModelConfig
from hashfast.hashing.model import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE

CONFIG = ModelConfig("convnet3", 12, "bn", (3, 16, 16), width=4)


def build(seed=0, config=CONFIG):
    torch.manual_seed(seed)
    return HashModel(config).eval()


def pictures(n=7, size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, 3, size, size), generator=generator, dtype=torch.uint8)


def as_pil(image):
    return Image.fromarray(image.permute(1, 2, 0).numpy())


@pytest.fixture
def saved(tmp_path):
    model = build()
    model.training_info = {"method": "csq", "mAP@1000": 0.5, "results": {"loss": [1.0, 0.5]}}
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


# On disk


def test_a_saved_model_comes_back_whole(tmp_path):
    model = build()
    model(pictures(64, seed=1))
    model.train()(pictures(64, seed=1))  # moves the running statistics of the head
    model.training_info = {"method": "csq", "nested": {"values": [1, None, 0.1]}}
    model.save_pretrained(tmp_path / "new" / "folder")
    again = HashModel.from_pretrained(tmp_path / "new" / "folder")
    assert again.config == CONFIG
    assert again.training_info == model.training_info
    assert again.fingerprint() == model.fingerprint()
    assert not again.training
    assert torch.equal(again.encode(pictures()), model.encode(pictures()))
    assert len(again.encode(pictures()).unique(dim=0)) > 3
    assert torch.equal(again(pictures()), model.eval()(pictures()))
    names = {path.name for path in (tmp_path / "new" / "folder").iterdir()}
    assert names == {WEIGHTS_FILE, CONFIG_FILE, CARD_FILE}


def test_half_precision_models_stay_what_they_are(tmp_path):
    model = build().to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    again = HashModel.from_pretrained(tmp_path)
    assert again(pictures()).dtype == torch.bfloat16
    assert again.fingerprint() == model.fingerprint()
    assert torch.equal(again.encode(pictures()), model.encode(pictures()))


def test_the_fingerprint_changes_with_every_weight_and_setting():
    model = build()
    seen = {model.fingerprint()}
    assert build().fingerprint() in seen
    assert build(seed=1).fingerprint() not in seen
    for name, value in model.state_dict().items():
        kept = value.clone()
        value.view(-1)[-1] += 1
        assert model.fingerprint() not in seen, name
        seen.add(model.fingerprint())
        value.copy_(kept)
    assert model.fingerprint() == build().fingerprint()
    for change in ({"mean": (0.5, 0.5, 0.4)}, {"std": (1.0, 1.0, 0.5)}):
        other = HashModel(replace(CONFIG, **change))
        other.load_state_dict(model.state_dict())
        assert other.fingerprint() not in seen


def test_the_fingerprint_is_stored(saved):
    stored = json.loads((saved / CONFIG_FILE).read_text())["fingerprint"]
    assert stored == HashModel.from_pretrained(saved).fingerprint()
    assert len(stored) == 16
    int(stored, 16)


def test_the_card_says_what_the_model_is(saved):
    card = (saved / CARD_FILE).read_text()
    model = HashModel.from_pretrained(saved)
    assert card.startswith("# model\n")
    for row in (
        "| bits | 12 |",
        "| backbone | convnet3 |",
        "| input | 3x16x16 |",
        f"| fingerprint | {model.fingerprint()} |",
        "| method | csq |",
        "| mAP@1000 | 0.5 |",
    ):
        assert row in card
    assert "results" not in card
    assert 'hashfast.HashModel.from_pretrained("model")' in card


def test_the_card_of_the_current_folder_has_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build().save_pretrained(".")
    assert (tmp_path / CARD_FILE).read_text().startswith(f"# {tmp_path.name}\n")


@pytest.mark.parametrize("name", [WEIGHTS_FILE, CONFIG_FILE])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"no model in .*: it has no {name}"):
        HashModel.from_pretrained(saved)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no model in .*nothing"):
        HashModel.from_pretrained(tmp_path / "nothing")


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_truncated_weights_are_refused(saved, length):
    whole = (saved / WEIGHTS_FILE).read_bytes()
    (saved / WEIGHTS_FILE).write_bytes(whole[:length])
    with pytest.raises(ValueError, match=r"model\.safetensors is not a readable"):
        HashModel.from_pretrained(saved)


def test_weights_that_changed_on_disk_are_refused(saved):
    content = bytearray((saved / WEIGHTS_FILE).read_bytes())
    content[-3] ^= 1
    (saved / WEIGHTS_FILE).write_bytes(content)
    with pytest.raises(ValueError, match="not of the same model: their fingerprints"):
        HashModel.from_pretrained(saved)


def test_weights_of_another_model_are_refused(saved, tmp_path):
    build(seed=1).save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / WEIGHTS_FILE, saved)
    with pytest.raises(ValueError, match="not of the same model"):
        HashModel.from_pretrained(saved)
    HashModel(replace(CONFIG, bits=8)).save_pretrained(tmp_path / "short")
    shutil.copy(tmp_path / "short" / WEIGHTS_FILE, saved)
    with pytest.raises(ValueError, match=r"does not fit the model in config\.json"):
        HashModel.from_pretrained(saved)
    save_file({"ids": torch.arange(3)}, saved / WEIGHTS_FILE)
    with pytest.raises(ValueError, match=r"does not fit the model in config\.json"):
        HashModel.from_pretrained(saved)


def test_no_file_is_unpickled(saved, tmp_path):
    armed = pickle.dumps(Bomb(tmp_path / "armed"))
    pickle.loads(armed)
    assert (tmp_path / "armed").exists()  # so the next lines would notice
    bomb = Bomb(tmp_path / "exploded")
    torch.save(bomb, saved / WEIGHTS_FILE)
    with pytest.raises(ValueError, match="not a readable"):
        HashModel.from_pretrained(saved)
    (saved / WEIGHTS_FILE).write_bytes(pickle.dumps(bomb))
    with pytest.raises(ValueError, match="not a readable"):
        HashModel.from_pretrained(saved)
    assert not (tmp_path / "exploded").exists()


def edited(saved, edit):
    path = saved / CONFIG_FILE
    content = json.loads(path.read_text())
    path.write_text(json.dumps(edit(content)))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c | {"format": 2}, "has format 2; .*reads format 1.*later version"),
        (lambda c: {"architectures": ["Bert"]}, "has format None; .*not a hashfast model's"),
        (lambda c: [c], "has format None"),
        (lambda c: {"format": 1}, "does not describe a model: KeyError: 'model'"),
        (lambda c: c | {"model": "convnet3"}, "does not describe a model"),
        (lambda c: c | {"model": c["model"] | {"depth": 3}}, "does not describe .*depth"),
        (lambda c: c | {"model": c["model"] | {"image_shape": 16}}, "does not describe a model"),
        (lambda c: c | {"model": c["model"] | {"bits": "many"}}, "does not describe a model"),
        (lambda c: c | {"model": c["model"] | {"backbone": "brain", "width": None}}, "unknown ba"),
        (lambda c: c | {"model": c["model"] | {"std": [1.0, 1.0, 1.0]}}, "not of the same model"),
    ],
)
def test_a_damaged_foreign_or_later_configuration_is_refused(saved, edit, message):
    edited(saved, edit)
    with pytest.raises(ValueError, match=message):
        HashModel.from_pretrained(saved)


def test_a_configuration_that_is_not_json_is_refused(saved):
    (saved / CONFIG_FILE).write_text((saved / CONFIG_FILE).read_text()[:-20])
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON"):
        HashModel.from_pretrained(saved)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_interrupted_save_keeps_the_old_model(saved, monkeypatch, step):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def fail(*args):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(_files.os, step, fail)
        with pytest.raises(OSError, match="disk full"):
            build(seed=1).save_pretrained(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_a_model_stopped_between_its_files_is_noticed(saved, monkeypatch):
    real, calls = os.replace, []

    def fail_second(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(_files.os, "replace", fail_second)
        with pytest.raises(KeyboardInterrupt):
            build(seed=1).save_pretrained(saved)
    assert {path.name for path in saved.iterdir()} == {WEIGHTS_FILE, CONFIG_FILE, CARD_FILE}
    with pytest.raises(ValueError, match="not of the same model"):
        HashModel.from_pretrained(saved)


def test_facts_that_json_cannot_hold_are_refused_before_anything_is_written(saved):
    before = (saved / WEIGHTS_FILE).read_bytes()
    model = build(seed=1)
    model.training_info = {"loss": torch.tensor(1.0)}
    with pytest.raises(TypeError, match="not JSON serializable"):
        model.save_pretrained(saved)
    assert (saved / WEIGHTS_FILE).read_bytes() == before


def test_weights_are_the_state_of_the_model(saved):
    stored = load_file(saved / WEIGHTS_FILE)
    state = build().state_dict()
    assert stored.keys() == state.keys()
    assert all(torch.equal(stored[name], state[name]) for name in state)


# Encoding


def test_every_form_of_a_picture_gives_the_same_code(tmp_path):
    model, images = build(), pictures(3)
    expected = hashfast.pack(model(images))
    assert expected.shape == (3, 2)
    assert len(expected.unique(dim=0)) == 3
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, image in zip(paths, images, strict=True):
        as_pil(image).save(path)
    array = images.permute(0, 2, 3, 1).numpy()
    for form in (
        images,
        images.float() / 255,
        array,
        list(images),
        tuple(array),
        paths,
        [str(path) for path in paths],
        [as_pil(images[0]), str(paths[1]), array[2]],
    ):
        codes = model.encode(form)
        assert codes.dtype == torch.uint8
        assert torch.equal(codes, expected), type(form)
    for single in (paths[1], str(paths[1]), as_pil(images[1]), array[1], images[1]):
        assert torch.equal(model.encode(single), expected[1:2]), type(single)
    assert not model.encode(images).is_inference()
    assert model.encode([]).shape == (0, 2)
    assert model.encode(images[:0]).shape == (0, 2)


def test_pictures_of_any_size_are_fitted(tmp_path):
    model = build()
    large = as_pil(torch.randint(256, (3, 30, 44), dtype=torch.uint8))
    large.save(tmp_path / "a.png")
    expected = model.encode(to_image(large, 16, 3))
    assert torch.equal(model.encode(tmp_path / "a.png"), expected)
    assert torch.equal(model.encode(np.array(large)[None]), expected)
    grey = HashModel(ModelConfig("convnet3", 12, "bn", (1, 16, 16), 4, (0.5,), (0.5,)))
    assert torch.equal(grey.encode(large), grey.encode(large.convert("L").convert("RGB")))


@pytest.mark.parametrize("batch_size", [1, 2, 7, 100])
def test_codes_do_not_depend_on_the_batch_size(batch_size):
    model, images = build(), pictures(7)
    expected = hashfast.pack(model(images))
    assert torch.equal(model.encode(images, batch_size), expected)
    assert torch.equal(model.encode(list(images), batch_size), expected)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_an_impossible_batch_size_is_refused(batch_size):
    with pytest.raises(ValueError, match=f"batch_size is {batch_size}"):
        build().encode(pictures(), batch_size)


def test_encoding_neither_trains_the_model_nor_changes_its_mode():
    model, images = build(), pictures()
    expected = model.encode(images)
    model.train()
    model.backbone.eval()
    before = model.fingerprint()
    assert torch.equal(model.encode(images), expected)
    assert model.fingerprint() == before
    assert model.training
    assert model.head.training
    assert not model.backbone.training
    with pytest.raises(ValueError, match="outside"):
        model.encode(images.float())
    model.head[0].weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="not finite"):
        model.encode(images)
    assert model.training


def test_uint8_and_float_images_agree():
    model, images = build(), pictures()
    assert torch.equal(model(images), model(images.float() / 255))
    assert torch.equal(model(images), model(images.double().float() / 255))
    assert torch.allclose(model(images), model(images.double() / 255), atol=1e-4)
    with pytest.raises(TypeError, match=r"images are torch\.int64; expected uint8"):
        model(images.long())


def test_images_are_normalised_by_channel():
    config = ModelConfig(
        "pixels", 4, image_shape=(3, 2, 2), mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0)
    )
    images = pictures(2, size=2)
    scaled = images.double() / 255
    expected = torch.stack(
        [(scaled[:, c] - config.mean[c]) / config.std[c] for c in range(3)], dim=1
    ).flatten(1)
    assert torch.allclose(build(config=config).features(images).double(), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (b"GIF89a, truly", "cannot be read|not a picture"), (None, "No such file")],
)
def test_an_unreadable_picture_is_named(tmp_path, content, reason):
    as_pil(pictures(1)[0]).save(tmp_path / "good.png")
    bad = tmp_path / "bad.png"
    if content is not None:
        bad.write_bytes(content)
    with pytest.raises(UnreadableImage, match=rf"bad\.png: .*({reason})"):
        build().encode([tmp_path / "good.png", bad])


@pytest.mark.parametrize("batch_size", [2, 256])
def test_a_picture_whose_outputs_are_not_finite_is_named(tmp_path, batch_size):
    config = ModelConfig("pixels", 8, image_shape=(3, 4, 4), mean=(0.0,) * 3, std=(1.0,) * 3)
    model = build(config=config)
    model.head.register_forward_hook(
        lambda head, features, outputs: outputs.masked_fill(
            (features[0] == 1).all(1, keepdim=True), torch.inf
        )
    )
    images = pictures(5, size=4)
    images[3] = 255
    with pytest.raises(ValueError, match=r"^picture 3: the model's outputs are not finite"):
        model.encode(images, batch_size)
    as_pil(images[3]).save(tmp_path / "white.png")
    with pytest.raises(ValueError, match=r"^picture 1 \(.*white\.png\): the model's outputs"):
        model.encode([images[0], tmp_path / "white.png"], batch_size)


@pytest.mark.parametrize("wrong", [3.5, None, {"a": 1}, [None]])
def test_what_is_no_picture_is_refused(wrong):
    with pytest.raises(TypeError, match="expected a path, PIL image, numpy array or tensor"):
        build().encode(wrong)


# Settings


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="16x20; models take square ones"):
        ModelConfig("convnet3", 8, image_shape=(3, 16, 20))
    with pytest.raises(ValueError, match="a value for each of the 1 channels"):
        ModelConfig("convnet3", 8, image_shape=(1, 16, 16), mean=(0.1, 0.2, 0.3))
    with pytest.raises(ValueError, match="unknown hash head 'softmax'"):
        HashModel(replace(CONFIG, head="softmax"))


@pytest.mark.parametrize("shape", [(3, 20, 20), (1, 16, 16), (3, 16, 18)])
def test_images_of_another_shape_are_refused(shape):
    config = ModelConfig("pixels", 8, image_shape=(3, 16, 16))
    message = r"images have shape \[2, .*\]; this model takes \[n, 3, 16, 16\]"
    for images in (torch.zeros(2, *shape, dtype=torch.uint8), torch.zeros(2, *shape)):
        with pytest.raises(ValueError, match=message):
            HashModel(config).features(images)


def test_a_head_can_be_replaced(tmp_path):
    model = build().to(torch.bfloat16)
    backbone = model.backbone.state_dict()
    model.replace_head("linear")
    assert model.config == replace(CONFIG, head="linear")
    assert isinstance(model.head, torch.nn.Linear)
    assert model(pictures()).dtype == torch.bfloat16
    assert all(torch.equal(t, backbone[name]) for name, t in model.backbone.state_dict().items())
    model.save_pretrained(tmp_path)
    assert HashModel.from_pretrained(tmp_path).fingerprint() == model.fingerprint()
    with pytest.raises(ValueError, match="unknown hash head 'deep'"):
        model.replace_head("deep")
    assert model.config.head == "linear"
