"""Backbones and hash heads against their formulas, written out with torch.nn.functional."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from hashfast.hashing.backbones import build_backbone
from hashfast.hashing.convnet import ConvNet
from hashfast.hashing.heads import HEADS, MLPHead, build_head
from hashfast.hashing.resnet import ResNet10, ResNetAP10
from hashfast.hashing.weights import read_weights
from hashfast.losses.product_quantizer import soft_codes


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """Float64 copy with random norm parameters, which start at 1 and 0 and would hide errors."""
    generator = torch.Generator().manual_seed(seed)
    network = network.double()
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(noise, alpha=0.1)
    return network


def random_images(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def instance_norm(maps, weight, bias):
    centred = maps - maps.mean(dim=(2, 3), keepdim=True)
    variance = centred.square().mean(dim=(2, 3), keepdim=True)
    return centred / (variance + 1e-5).sqrt() * weight[:, None, None] + bias[:, None, None]


def functional_convnet(images, state, depth):
    padding = 3 if images.shape[1] == 1 else 1
    for stage in range(depth):
        conv, norm = f"stages.{stage}.conv.", f"stages.{stage}.norm."
        images = F.conv2d(images, state[conv + "weight"], state[conv + "bias"], padding=padding)
        images = instance_norm(images, state[norm + "weight"], state[norm + "bias"])
        images = F.avg_pool2d(images.relu(), 2)
        padding = 1
    return images.flatten(1)


def functional_resnet_ap(images, state, image_size):
    def norm(maps, key):
        return instance_norm(maps, state[key + ".weight"], state[key + ".bias"])

    kernel, pool = (7, 4) if image_size > 128 else (3, 2) if image_size > 64 else (3, 1)
    maps = F.conv2d(images, state["stem.0.weight"], padding=kernel // 2)
    maps = F.avg_pool2d(norm(maps, "stem.1").relu(), pool)
    for block, pool in enumerate((1, 2, 2, 2)):
        key = f"blocks.{block}."
        residual = F.conv2d(maps, state[key + "conv1.weight"], padding=1)
        residual = F.avg_pool2d(norm(residual, key + "norm1").relu(), pool)
        residual = norm(F.conv2d(residual, state[key + "conv2.weight"], padding=1), key + "norm2")
        if pool == 2:
            maps = F.avg_pool2d(F.conv2d(maps, state[key + "shortcut.0.weight"]), 2)
            maps = norm(maps, key + "shortcut.2")
        maps = (maps + residual).relu()
    return maps.mean(dim=(2, 3))


def functional_resnet(images, state, image_size):
    def norm(maps, key):
        return instance_norm(maps, state[key + ".weight"], state[key + ".bias"])

    kernel, stride = (7, 2) if image_size > 128 else (3, 1)
    maps = F.conv2d(images, state["stem.0.weight"], stride=stride, padding=kernel // 2)
    maps = norm(maps, "stem.1").relu()
    if image_size > 64:
        maps = F.max_pool2d(maps, 3, stride=2, padding=1)
    for block, stride in enumerate((1, 2, 2, 2)):
        key = f"blocks.{block}."
        residual = F.conv2d(maps, state[key + "conv1.weight"], stride=stride, padding=1)
        residual = norm(residual, key + "norm1").relu()
        residual = norm(F.conv2d(residual, state[key + "conv2.weight"], padding=1), key + "norm2")
        if stride == 2:
            maps = F.conv2d(maps, state[key + "shortcut.0.weight"], stride=2)
            maps = norm(maps, key + "shortcut.1")
        maps = (maps + residual).relu()
    return maps.mean(dim=(2, 3))


@pytest.mark.parametrize(
    ("channels", "image_size", "depth", "num_features"),
    [
        (3, 32, 3, 6 * 4 * 4),
        (1, 28, 3, 6 * 4 * 4),
        (1, 8, 3, 6 * 1 * 1),
        (3, 8, 3, 6 * 1 * 1),
        (3, 20, 2, 6 * 5 * 5),
        (4, 33, 3, 6 * 4 * 4),
    ],
)
def test_convnet_is_its_formula(channels, image_size, depth, num_features):
    network = randomised(ConvNet(channels, image_size, width=6, depth=depth))
    images = random_images(2, channels, image_size, image_size)
    features = network(images)
    expected = functional_convnet(images, network.state_dict(), depth)
    torch.testing.assert_close(features, expected, rtol=1e-10, atol=1e-12)
    assert features.shape == (2, num_features) == (2, network.num_features)


@pytest.mark.parametrize("image_size", [16, 64, 65, 128, 129])
@pytest.mark.parametrize(
    ("make", "formula"), [(ResNetAP10, functional_resnet_ap), (ResNet10, functional_resnet)]
)
def test_resnets_are_their_formulas(make, formula, image_size):
    network = randomised(make(3, image_size, width=0.0625))
    images = random_images(2, 3, image_size, image_size)
    features = network(images)
    expected = formula(images, network.state_dict(), image_size)
    torch.testing.assert_close(features, expected, rtol=1e-10, atol=1e-12)
    assert features.shape == (2, 32) == (2, network.num_features)


def test_stages_are_the_maps_behind_the_features():
    images = torch.rand(2, 3, 32, 32)
    convnet = ConvNet(3, 32, width=8)
    maps = convnet.forward_stages(images)
    assert [tuple(stage.shape[1:]) for stage in maps] == [(8, 16, 16), (8, 8, 8), (8, 4, 4)]
    assert torch.equal(maps[-1].flatten(1), convnet(images))

    for resnet in (ResNetAP10(3, 32, width=0.125), ResNet10(3, 32, width=0.125)):
        maps = resnet.forward_stages(images)
        sizes = [(8, 32, 32), (8, 32, 32), (16, 16, 16), (32, 8, 8), (64, 4, 4)]
        assert [tuple(stage.shape[1:]) for stage in maps] == sizes
        assert torch.equal(maps[-1].mean(dim=(2, 3)), resnet(images))


def test_parameter_counts():
    def count(network):
        return sum(parameter.numel() for parameter in network.parameters())

    stage_norms = 3 * 2 * 128
    assert count(ConvNet()) == 128 * (27 + 1) + 2 * 128 * (9 * 128 + 1) + stage_norms == 299_520

    def block(inputs, outputs):
        shortcut = inputs * outputs + 2 * outputs if inputs != outputs else 0
        return 9 * inputs * outputs + 9 * outputs * outputs + 4 * outputs + shortcut

    blocks = block(64, 64) + block(64, 128) + block(128, 256) + block(256, 512)
    for make in (ResNetAP10, ResNet10):
        assert count(make(image_size=224)) == 49 * 3 * 64 + 128 + blocks
        assert count(make(image_size=128)) == 9 * 3 * 64 + 128 + blocks


@pytest.mark.parametrize("make", [ResNetAP10, ResNet10])
def test_resnet_initial_values(make):
    torch.manual_seed(0)
    network = make(3, 32)
    for name, parameter in network.named_parameters():
        if parameter.ndim == 4:
            outputs, _, kernel, _ = parameter.shape
            expected = (2 / (kernel**2 * outputs)) ** 0.5
            tolerance = 5 / (2 * parameter.numel()) ** 0.5  # five standard errors
            assert parameter.std().item() == pytest.approx(expected, rel=tolerance), name
        else:
            assert torch.all(parameter == (1 if name.endswith("weight") else 0)), name


OWN_NETWORKS = {
    "convnet3": lambda: ConvNet(3, 16, width=4),
    "resnetap10": lambda: ResNetAP10(3, 16, width=0.0625),
    "resnet10": lambda: ResNet10(3, 16, width=0.0625),
}


@pytest.mark.parametrize("make", OWN_NETWORKS.values(), ids=OWN_NETWORKS)
def test_compile_channels_last_gradients_and_state_dict(make):
    network = randomised(make())
    images = random_images(2, 3, 16, 16).requires_grad_()
    features = network(images)
    features.square().sum().backward()
    for tensor in [images, *network.parameters()]:
        assert tensor.grad.isfinite().all()
        assert tensor.grad.count_nonzero() > 0

    channels_last = images.detach().to(memory_format=torch.channels_last)
    torch.testing.assert_close(network(channels_last), features, rtol=1e-10, atol=1e-12)

    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images), features, rtol=1e-10, atol=1e-12)

    other = make().double()
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(images), features)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_from_a_file(tmp_path, suffix):
    source = ConvNet(3, 16, width=4)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": source.state_dict()}, path)
    else:
        save_file(source.state_dict(), path)
    arguments = {"in_channels": 3, "image_size": 16, "weights": path}
    network = build_backbone("convnet3", width=4, **arguments)
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(network(images), source(images))
    with pytest.raises(ValueError, match="do not fit convnet3"):
        build_backbone("convnet3", width=8, **arguments)


def test_unreadable_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights file"):
        read_weights(tmp_path / "missing.pth")
    for name, content in [("a.pth", b"garbage"), ("b.pth", b""), ("c.safetensors", b"garbage")]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            read_weights(tmp_path / name)
    torch.save({"weight": print}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match="more than tensors"):
        read_weights(tmp_path / "code.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="no state dict"):
        read_weights(tmp_path / "list.pth")
    (tmp_path / "weights.npz").touch()
    with pytest.raises(ValueError, match=r"not a \.safetensors"):
        read_weights(tmp_path / "weights.npz")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("convnet3", {"image_size": 7}, "smallest size is 8"),
        ("convnet3", {"in_channels": 1, "image_size": 3}, "smallest size is 4"),
        ("convnet3", {"width": 0.125}, "expected a number of channels"),
        ("resnetap10", {"image_size": 15}, "smallest is 16"),
        ("resnet10", {"image_size": 15}, "ResNet-10 got image_size 15, the smallest is 16"),
        ("resnetap10", {"width": 0.001}, "multiplier >= 1/64"),
        ("alexnet", {}, "the smallest it takes is 63x63.*or use convnet3"),
        ("vit_b_16", {"image_size": 40}, "cannot take 40x40 images"),
        ("resnet18", {"width": 2}, "fixed width"),
        ("resnet18", {"in_channels": 4}, "3 channels, or 1"),
        ("resnet19", {}, "close names: resnet18"),
        ("inception_v3", {}, "no plain classifier"),
    ],
)
def test_what_cannot_be_built(name, arguments, message):
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        build_backbone(name, **({"in_channels": 3, "image_size": 32} | arguments))


def test_convnet_refuses_images_of_another_size():
    with pytest.raises(ValueError, match=r"got images \[2, 3, 16, 16\], expected .*\(3, 32, 32\)"):
        ConvNet(3, 32, width=4)(torch.rand(2, 3, 16, 16))


def test_heads_are_their_formulas():
    features = random_images(5, 12)
    linear = randomised(build_head("linear", 12, 7))
    expected = features @ linear.weight.T + linear.bias
    torch.testing.assert_close(linear(features), expected, rtol=1e-10, atol=1e-12)

    head = randomised(build_head("bn", 12, 7))
    projected = features @ head[0].weight.T
    mean, variance = projected.mean(0), projected.var(0, unbiased=False)
    normalised = (projected - mean) / (variance + 1e-5).sqrt()
    expected = normalised * head[1].weight + head[1].bias
    torch.testing.assert_close(head(features), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(head[1].running_mean, 0.1 * mean)
    torch.testing.assert_close(head[1].running_var, 0.9 + 0.1 * projected.var(0))
    assert head[0].bias is None


def test_the_head_with_a_hidden_layer_is_its_formula():
    features = random_images(5, 12)
    head = randomised(build_head("mlp", 12, 7))
    assert head.num_hidden == 1024
    first, last = head.hidden[0], head.output
    hidden = (features @ first.weight.T + first.bias).clamp(min=0)
    torch.testing.assert_close(head.hidden(features), hidden, rtol=1e-10, atol=1e-12)
    expected = hidden @ last.weight.T + last.bias
    torch.testing.assert_close(head(features), expected, rtol=1e-10, atol=1e-12)
    assert MLPHead(12, 7, num_hidden=3).output.in_features == 3


def test_the_quantizing_head_gives_the_logit_of_the_second_of_two_codewords():
    features = random_images(5, 12)
    head = randomised(build_head("pq", 12, 7))
    assert head.codebooks.shape == (7, 2, 8)
    outputs = head(features)
    codes = soft_codes(head.projection(features), head.codebooks / norms(head.codebooks))
    torch.testing.assert_close(outputs.sigmoid(), codes[..., 1], rtol=1e-10, atol=1e-12)
    outputs.sum().backward()
    assert head.codebooks.grad.abs().max() > 0
    fresh = build_head("pq", 12, 7)
    torch.testing.assert_close(norms(fresh.codebooks), torch.ones(7, 2, 1))


def norms(vectors):
    return vectors.norm(dim=2, keepdim=True)


def test_head_errors():
    with pytest.raises(ValueError, match="unknown hash head 'tanh'; the heads are linear, bn"):
        build_head("tanh", 12, 7)
    for kind in HEADS:
        with pytest.raises(ValueError, match="at least 1 bit"):
            build_head(kind, 12, 0)
