"""Exact optimal transport of a batch to random codes: what HSWD approximates bit by bit (HSWD)."""

import torch
from torch import Tensor, nn

from hashfast.losses._functional import check_outputs, full_precision


class OT(nn.Module):
    """Squared Wasserstein-2 distance of a batch to as many random +-1 codes, divided by the bits.

    Codes are drawn at each call from torch's global generator and paired with the outputs at the
    least total cost; the result is the mean cost |u - code|^2 / bits of the pairs. The pairing,
    O(n^3), is found on the CPU with scipy, so a call waits for the device and torch.compile breaks
    its graph there; HSWD needs neither. Drop-in: `OT(bits=64)(outputs)`.

    Call: outputs [n, bits], floating point -> scalar (float32 for half types); an empty batch gives
    0. Raises TypeError or ValueError for other outputs, ValueError for NaN or infinite ones, and
    ImportError without scipy. Agrees with `quantization_ot_loss` of khoadoan106/
    single_loss_quantization, python/losses/distributional_quantization_losses.py.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def forward(self, outputs: Tensor) -> Tensor:
        check_outputs(outputs, self.bits)
        outputs = full_precision(outputs)
        if outputs.shape[0] == 0:
            return outputs.sum()
        coins = torch.randint(2, outputs.shape, device=outputs.device)
        return transport_cost(outputs, (2 * coins - 1).to(outputs.dtype))

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


def transport_cost(outputs: Tensor, codes: Tensor) -> Tensor:
    """Mean of |u - code|^2 / b over the pairs of least total cost.

    outputs, codes [n, b], n > 0, float32 or float64 -> scalar; differentiable in both, with the
    pairs held fixed.
    """
    pairs = _assignment(outputs.detach(), codes.detach()).to(codes.device)
    return (outputs - codes[pairs]).square().mean()


@torch.compiler.disable
def _assignment(outputs: Tensor, codes: Tensor) -> Tensor:
    """The row of `codes` that each row of `outputs` is paired with, int64 [n]."""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise ImportError("OT needs scipy: pip install scipy") from error
    if not bool(outputs.isfinite().all()):
        raise ValueError("outputs hold NaN or infinity: no optimal pairing exists")
    points, goals = outputs.double().cpu(), codes.double().cpu()
    with torch.autocast("cpu", enabled=False):
        cost = goals.square().sum(1) - 2 * points @ goals.T  # up to what all codes share
    return torch.from_numpy(linear_sum_assignment(cost.numpy())[1])
