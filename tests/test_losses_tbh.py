"""TBH against its formula as loops, and the two gradients of its one optimiser."""

import math

import pytest
import torch
from losses_by_hand import BITS, batch, dot, mean

from hashfast.losses.tbh import TBH, binary_bottleneck, code_similarity, laplacian

FEATURES, HIDDEN, WIDTH = 7, 6, 4

pytestmark = pytest.mark.usefixtures("one_thread")


def made(n=5):
    generator = torch.Generator().manual_seed(5)
    shapes = (n, FEATURES), (n, HIDDEN)
    features, hidden = (torch.rand(s, generator=generator, dtype=torch.float64) for s in shapes)
    return batch(n=n)[0], features, hidden.requires_grad_()


def small(**options):
    return TBH(BITS, FEATURES, HIDDEN, width=WIDTH, **options).double()


def called(criterion, n=5):
    torch.manual_seed(3)
    outputs, features, hidden = made(n)
    return criterion(outputs, features=features, hidden=hidden), outputs, hidden


def draws(criterion, n=5):
    """The random numbers of that call: thresholds, coins and uniform numbers."""
    torch.manual_seed(3)
    threshold = torch.full((n, BITS), 0.5, dtype=torch.float64)
    if criterion.stochastic:
        threshold = torch.rand(n, BITS, dtype=torch.float64)
    coins = torch.randint(2, (n, BITS)).double()
    return threshold, coins, torch.rand(n, WIDTH, dtype=torch.float64)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def layer(module, rows):
    weight, bias = module.weight.tolist(), module.bias.tolist()
    return [[dot(row, w) + b for w, b in zip(weight, bias, strict=True)] for row in rows]


def each(function, rows):
    return [[function(x) for x in row] for row in rows]


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_formula(stochastic, reduction):
    criterion = small(stochastic=stochastic, reduction=reduction)
    loss, _, _ = called(criterion)
    outputs, features, hidden = (x.tolist() for x in made())
    threshold, coins, uniform = (x.tolist() for x in draws(criterion))
    n = len(outputs)
    codes = [
        [float(sigmoid(x) > t) for x, t in zip(*rows, strict=True)]
        for rows in zip(outputs, threshold, strict=True)
    ]
    graph = [
        [(1 - sum(x != y for x, y in zip(a, b, strict=True)) / BITS) ** 1.4 for b in codes]
        for a in codes
    ]
    degree = [sum(row) + 1e-8 for row in graph]
    mixed = layer(criterion.convolution, each(sigmoid, layer(criterion.continuous, hidden)))
    rebuilt = [
        [
            sigmoid(
                sum(graph[i][j] / (degree[i] * degree[j]) ** 0.5 * mixed[j][k] for j in range(n))
            )
            for k in range(WIDTH)
        ]
        for i in range(n)
    ]
    decoded = rebuilt
    for module in criterion.decoder:
        decoded = each(lambda x: max(x, 0), layer(module, decoded))
    reconstruction = sum(
        (x - y) ** 2 / 2
        for rows in zip(decoded, features, strict=True)
        for x, y in zip(*rows, strict=True)
    )
    critic = sum(
        mean(-math.log(sigmoid(x)) for (x,) in layer(module, real))
        + mean(-math.log(1 - sigmoid(x)) for (x,) in layer(module, fake))
        for module, real, fake in zip(
            criterion.critics, (coins, uniform), (codes, rebuilt), strict=True
        )
    )
    weight = 1 if reduction == "sum" else 1 / 400
    reconstruction = reconstruction if reduction == "sum" else reconstruction / n
    parts = criterion.components
    assert parts["reconstruction"].item() == pytest.approx(reconstruction, rel=1e-9)
    assert parts["critic"].item() == pytest.approx(critic, rel=1e-9)
    assert loss.item() == pytest.approx(reconstruction - weight * critic, rel=1e-9)
    assert parts["actor"].item() == loss.item()


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_one_backward_has_the_gradients_of_both_sides(weight):
    criterion = small(reduction="sum", critic_weight=weight)
    loss, outputs, hidden = called(criterion)
    loss.backward()
    found = {name: p.grad.clone() for name, p in criterion.named_parameters()}
    found |= {"outputs": outputs.grad, "hidden": hidden.grad}

    # The same two losses, each with its own graph.
    outputs, features, hidden = made()
    threshold, coins, uniform = draws(criterion)
    probability = outputs.sigmoid()
    codes = binary_bottleneck(probability, threshold)
    mixed = criterion.convolution(criterion.continuous(hidden).sigmoid())
    rebuilt = (laplacian(code_similarity(codes)) @ mixed).sigmoid()
    decoded = criterion.decoder[1](criterion.decoder[0](rebuilt).relu()).relu()
    reconstruction = (decoded - features).square().sum() / 2
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    critic = sum(
        bce(module(real), torch.ones(5, 1).double()) + bce(module(fake), torch.zeros(5, 1).double())
        for module, real, fake in zip(
            criterion.critics, (coins, uniform), (codes, rebuilt), strict=True
        )
    )
    named = dict(criterion.named_parameters()) | {"outputs": outputs, "hidden": hidden}
    critics = {name: p for name, p in named.items() if name.startswith("critics")}
    actors = {name: p for name, p in named.items() if name not in critics}
    for value, side in ((critic, critics), (reconstruction - weight * critic, actors)):
        gradients = torch.autograd.grad(value, side.values(), retain_graph=True)
        for name, gradient in zip(side, gradients, strict=True):
            assert torch.allclose(found[name], gradient, rtol=1e-9, atol=1e-13), name


def test_the_binary_bottleneck():
    logits = torch.tensor([[-2.0, 0.0, 3.0]], requires_grad=True)
    codes = binary_bottleneck(logits.sigmoid(), 0.5)
    assert codes.tolist() == [[0.0, 0.5, 1.0]]
    (gradient,) = torch.autograd.grad(codes, logits, torch.tensor([[1.0, 2.0, -3.0]]))
    p = logits.detach().sigmoid()
    assert torch.allclose(gradient, p * (1 - p) * torch.tensor([[1.0, 2.0, -3.0]]))
    above = torch.rand(20_000, 1)
    stochastic = binary_bottleneck(torch.full_like(above, 0.8), above)
    assert abs(stochastic.mean().item() - 0.8) < 5 * 0.4 / 20_000**0.5


def test_every_draw_is_new_and_seeded():
    criterion = small(stochastic=True)
    outputs, features, hidden = made()
    torch.manual_seed(0)
    values = [criterion(outputs, features=features, hidden=hidden).item() for _ in range(3)]
    torch.manual_seed(0)
    again = [criterion(outputs, features=features, hidden=hidden).item() for _ in range(3)]
    assert values == again
    assert len(set(values)) == 3


def test_wrong_arguments():
    with pytest.raises(ValueError, match="num_hidden=0"):
        TBH(BITS, FEATURES, 0)
    with pytest.raises(ValueError, match="unknown reduction 'none'"):
        small(reduction="none")
    with pytest.raises(ValueError, match="critic_weight is -1"):
        small(critic_weight=-1)
    outputs, features, hidden = made()
    criterion = small()
    with pytest.raises(ValueError, match=r"features are 6 wide.*num_features=7"):
        criterion(outputs, features=features[:, 1:], hidden=hidden)
    with pytest.raises(ValueError, match=r"hidden are 7 wide.*num_hidden=6"):
        criterion(outputs, features=features, hidden=features)
