"""Batch norm over the rows of all processes, also on the CPU, where torch's own has none."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def share_batch_norm(model: nn.Module, device: torch.device) -> None:
    """Make every batch norm of a model take its statistics from all processes.

    On GPUs it becomes torch's SyncBatchNorm, elsewhere a SharedBatchNorm; parameters and running
    statistics stay the same tensors under the same names.
    """
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return
    for name, module in list(model.named_modules()):
        if isinstance(module, _BatchNorm):
            model.set_submodule(name, SharedBatchNorm(module))


class SharedBatchNorm(_BatchNorm):
    """A batch norm, in training over the rows of all processes: their number may be 0 in some.

    Input [n, C, ...] -> the same shape; at least two values a channel in all processes together.
    Without a process group, as where the model was copied to, it is the batch norm it stands for.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine)
        self.track_running_stats = norm.track_running_stats
        for name, value in (*norm._parameters.items(), *norm._buffers.items()):
            setattr(self, name, value)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any: the norm that this one stands for had its own rule."""

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and dist.is_initialized()):
            return super().forward(input)
        # Half types have too few digits for sums.
        values = input.to(torch.promote_types(input.dtype, torch.float32))
        dims = [0, *range(2, values.ndim)]
        shape = (1, -1, *(1 for _ in dims[1:]))
        count = _Sum.apply(values.new_tensor(values.numel() // values.shape[1]))
        mean = _Sum.apply(values.sum(dims)) / count
        centred = values - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(dims)) / count
        self._track(mean.detach(), variance.detach() * count / (count - 1))
        normal = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        return normal.to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        self.running_mean += share * (mean - self.running_mean)
        self.running_var += share * (variance - self.running_var)


class _Sum(torch.autograd.Function):
    """Sum over all processes; so is its gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        value = value.clone()
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].clone()
        dist.all_reduce(gradient)
        return gradient
