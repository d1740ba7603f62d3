"""What a result was computed with: stored beside every number."""

import platform
from importlib import metadata

import torch

import hashfast


def environment(device: torch.device | str = "cpu") -> dict[str, str]:
    """Versions and the device's name."""
    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    versions = {"hashfast": hashfast.__version__, "torch": torch.__version__}
    for package in ("torchvision", "triton", "numpy"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {"device": name, "python": platform.python_version(), **versions}


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [
                line.split(":", 1)[1].strip() for line in file if line.startswith("model name")
            ]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
