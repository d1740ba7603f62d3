"""Networks of torchvision and timm as backbones: shapes, weights, statistics; no network."""

import socket
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from hashfast.hashing import HashModel, ModelConfig
from hashfast.hashing.backbones import backbone_statistics, build_backbone, list_backbones


@pytest.mark.parametrize(
    ("name", "image_size", "num_features"),
    [
        ("alexnet", 224, 4096),
        ("vgg11", 224, 4096),
        ("vgg11_bn", 32, 4096),
        ("resnet18", 224, 512),
        ("resnet18", 32, 512),
        ("resnet50", 224, 2048),
        ("vit_b_16", 224, 768),
        ("vit_b_16", 48, 768),
        ("swin_t", 224, 768),
        ("efficientnet_b0", 224, 1280),
        ("mobilenet_v2", 32, 1280),
        ("densenet121", 32, 1024),
        ("timm/vit_base_patch16_224", 224, 768),
        ("timm/deit_small_patch16_224", 224, 384),
        ("timm/swin_tiny_patch4_window7_224", 224, 768),
        ("timm/efficientnet_b0", 224, 1280),
        ("timm/resnet50.a1_in1k", 32, 2048),
        ("efficientnet-lite0", 224, 1280),
        ("efficientnet-lite2", 260, 1280),
        ("convnet3", 32, 2048),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_networks_of_the_papers(name, image_size, num_features, channels):
    if name.startswith(("timm/", "efficientnet-lite")):
        pytest.importorskip("timm")
    with torch.device("meta"):
        network = build_backbone(name, in_channels=channels, image_size=image_size)
        images = torch.empty(2, channels, image_size, image_size)
    assert network(images).shape == (2, num_features) == (2, network.num_features)
    assert name.startswith("timm/") or name in list_backbones()


def test_grey_images_are_repeated():
    grey = build_backbone("resnet18", in_channels=1, image_size=32).eval()
    colour = build_backbone("resnet18", in_channels=3, image_size=32).eval()
    colour.load_state_dict(grey.state_dict())
    images = torch.rand(2, 1, 32, 32)
    assert torch.equal(grey(images), colour(images.repeat(1, 3, 1, 1)))
    with pytest.raises(ValueError, match=r"expected \[n, 1, H, W\]"):
        grey(torch.rand(2, 3, 32, 32))


def test_building_leaves_batch_statistics_untouched():
    network = build_backbone("resnet18", in_channels=3, image_size=32)
    assert all(t == 0 for name, t in network.named_buffers() if name.endswith("tracked"))


def test_timm_backbones():
    pytest.importorskip("timm")
    resnet = build_backbone("timm/resnet18", in_channels=3, image_size=32)
    assert resnet(torch.rand(2, 3, 32, 32)).shape == (2, 512) == (2, resnet.num_features)
    vit = build_backbone("timm/vit_tiny_patch16_224", in_channels=1, image_size=32)
    assert vit(torch.rand(2, 1, 32, 32)).shape == (2, 192) == (2, vit.num_features)
    with pytest.raises(ValueError, match="close names: timm/resnet18"):
        build_backbone("timm/resnet19", in_channels=3, image_size=32)


def test_timm_weights(tmp_path):
    timm = pytest.importorskip("timm")
    source = timm.create_model("mobilenetv3_small_050")
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    arguments = {"in_channels": 3, "image_size": 32, "weights": tmp_path / "weights.pth"}
    network = build_backbone("timm/mobilenetv3_small_050", **arguments).network
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name]), name
    with pytest.raises(ValueError, match="do not fit timm/resnet18"):
        build_backbone("timm/resnet18", **arguments)


def test_missing_timm_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r'pip install "hashfast\[train\]"'):
        build_backbone("timm/resnet18", in_channels=3, image_size=32)


def test_torchvision_weights_drop_the_classifier(tmp_path):
    from torchvision import models

    source = models.mobilenet_v2(num_classes=7)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    network = build_backbone(
        "mobilenet_v2", in_channels=3, image_size=32, weights=tmp_path / "weights.pth"
    )
    state = network.network.state_dict()
    assert set(source.state_dict()) - set(state) == {"classifier.1.weight", "classifier.1.bias"}
    assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in state.items())


def test_old_densenet_keys_are_renamed(tmp_path):
    from torchvision import models

    source = models.densenet121().state_dict()
    old = {}
    for name, tensor in source.items():
        for layer in ("norm1", "norm2", "conv1", "conv2"):
            if "denselayer" in name:
                name = name.replace(f".{layer}.", f".{layer[:-1]}.{layer[-1]}.")
        old[name] = tensor
    torch.save(old, tmp_path / "weights.pth")
    network = build_backbone(
        "densenet121", in_channels=3, image_size=32, weights=tmp_path / "weights.pth"
    )
    for name, tensor in network.network.state_dict().items():
        assert torch.equal(tensor, source[name]), name


@pytest.fixture
def offline(monkeypatch):
    """Any use of the network fails."""

    def no_network(*args, **kwargs):
        raise AssertionError("tried to reach the network")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(socket.socket, "connect", no_network)


def test_pretrained_reads_the_local_cache_and_never_the_network(tmp_path, monkeypatch, offline):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    arguments = {"in_channels": 3, "image_size": 32, "weights": "pretrained"}
    with pytest.raises(FileNotFoundError, match=r"resnet18-f37072fd\.pth.*Nothing is downloaded"):
        build_backbone("resnet18", **arguments)
    with pytest.raises(ValueError, match="convnet3 has no published weights"):
        build_backbone("convnet3", **arguments)

    from torchvision import models

    source = models.resnet18()
    (tmp_path / "checkpoints").mkdir()
    torch.save(source.state_dict(), tmp_path / "checkpoints" / "resnet18-f37072fd.pth")
    network = build_backbone("resnet18", **arguments).network
    assert torch.equal(network.conv1.weight, source.conv1.weight)


def test_timm_pretrained_reads_the_local_caches(tmp_path, monkeypatch, offline):
    timm = pytest.importorskip("timm")
    import huggingface_hub

    name = "mobilenetv3_small_050"
    asked = []
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *file: asked.append(file))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    arguments = {"in_channels": 3, "image_size": 32, "weights": "pretrained"}
    with pytest.raises(FileNotFoundError, match=r"Hugging Face cache.*Nothing is downloaded"):
        build_backbone(f"timm/{name}", **arguments)
    repository = timm.get_pretrained_cfg(name).hf_hub_id
    assert asked[0] == (repository, "model.safetensors")
    with pytest.raises(FileNotFoundError, match="timm publishes none"):
        build_backbone("timm/botnet50ts_256", **arguments | {"image_size": 256})

    source = timm.create_model(name)
    path = tmp_path / "model.safetensors"
    save_file(source.state_dict(), path)
    monkeypatch.setattr(
        huggingface_hub,
        "try_to_load_from_cache",
        lambda *file: str(path) if file == asked[0] else None,
    )
    network = build_backbone(f"timm/{name}", **arguments).network
    assert torch.equal(network.conv_stem.weight, source.conv_stem.weight)

    config = replace(timm.get_pretrained_cfg(name), hf_hub_id=None, url="https://x/y/file.pth")
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: config)
    with pytest.raises(FileNotFoundError, match=r"looked for .*checkpoints/file\.pth\. Nothing"):
        build_backbone(f"timm/{name}", **arguments)
    (tmp_path / "checkpoints").mkdir()
    torch.save(source.state_dict(), tmp_path / "checkpoints" / "file.pth")
    network = build_backbone(f"timm/{name}", **arguments).network
    assert torch.equal(network.conv_stem.weight, source.conv_stem.weight)


# Statistics

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALVES = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet50", IMAGENET),
        ("efficientnet_v2_l", HALVES),
        ("timm/deit_small_patch16_224", IMAGENET),
        ("timm/vit_base_patch16_224", HALVES),
        ("timm/vit_base_patch16_224.augreg_in21k", HALVES),
        ("timm/vit_base_patch16_224.mae", IMAGENET),
        ("timm/tf_efficientnet_lite0", HALVES),
        ("efficientnet-lite1", HALVES),
        ("convnet3", IMAGENET),
        ("pixels", IMAGENET),
    ],
)
def test_images_are_normalised_as_the_published_weights_want(name, expected):
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    assert backbone_statistics(name) == expected
    config = ModelConfig(name, 8)
    assert (config.mean, config.std) == expected
    grey = [pytest.approx(sum(values) / 3) for values in expected]
    assert [mean_or_std for (mean_or_std,) in backbone_statistics(name, 1)] == grey


def test_statistics_that_are_given_stay():
    config = ModelConfig("resnet18", 8, mean=(0.1, 0.2, 0.3))
    assert (config.mean, config.std) == ((0.1, 0.2, 0.3), IMAGENET[1])
    with pytest.raises(ValueError, match="images of 4 channels: give mean and std"):
        ModelConfig("convnet3", 8, image_shape=(4, 32, 32))
    assert ModelConfig("convnet3", 8, "linear", (4, 32, 32), 4, (0.5,) * 4, (1.0,) * 4).std == (
        (1.0,) * 4
    )
    with pytest.raises(ValueError, match="close names: resnet18"):
        backbone_statistics("resnet19")


def test_a_model_divides_by_the_statistics_of_its_backbone():
    model = HashModel(ModelConfig("efficientnet-lite0", 8, image_shape=(3, 32, 32))).eval()
    seen = []
    model.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 32, 32))
    assert seen[0][0].unique().tolist() == [-1]
    assert seen[0][1].unique().tolist() == [1]
