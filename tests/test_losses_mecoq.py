"""MeCoQ and its product quantiser against their formulas as loops; its memory of codes."""

import copy
import math

import pytest
import torch
from losses_by_hand import BITS, batch, cosine, dot, mean

from hashfast.losses import MeCoQ, ProductQuantizer
from hashfast.losses.mecoq import code_entropy, codeword_similarity, memory_contrastive
from hashfast.losses.product_quantizer import CodeMemory, reconstruct, soft_codes

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS, PARTS, WORDS, SIZE = 4, 3, 5, 2


def made(seed=0, rows=ROWS, memory=6):
    """Soft codes of two views and of a memory, and codebooks, for any number of codewords."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    logits = 2 * normal(rows, PARTS, WORDS)
    second = logits + 0.5 * normal(rows, PARTS, WORDS)
    first, second, kept = (x.softmax(2) for x in (logits, second, normal(memory, PARTS, WORDS)))
    return first, second, normal(PARTS, WORDS, SIZE), kept


def rebuilt(codes, codebooks):
    """sum_k p_mk c_mk of each part, joined."""
    return [
        [
            dot(p, [word[d] for word in words])
            for p, words in zip(row, codebooks, strict=True)
            for d in range(len(words[0]))
        ]
        for row in codes
    ]


def pairs(vectors, kept, temperature, normalised=True):
    """Of each row: exp of its positive's cosine and the sum of exp of its negatives'."""
    n = len(vectors) // 2
    for i, x in enumerate(vectors):
        partner = (i + n) % (2 * n)
        near = math.exp(cosine(x, vectors[partner]) / temperature)
        batch = [cosine(x, y) for j, y in enumerate(vectors) if j not in (i, partner)]
        if normalised:
            batch += [cosine(x, y) for y in kept]
        else:
            batch += [dot(x, y) / math.sqrt(dot(x, x)) for y in kept]
        yield near, sum(math.exp(c / temperature) for c in batch)


@pytest.mark.parametrize("seen", [None, [True] * 6, [False, True, False, True, True, False]])
@pytest.mark.parametrize(("temperature", "prior"), [(0.4, 0.1), (0.4, 0.0), (0.4, 0.8)])
def test_contrastive_term(seen, temperature, prior):
    first, second, codebooks, kept = made()
    memory = None if seen is None else (kept, torch.tensor(seen))
    found = memory_contrastive(
        first, second, codebooks, memory, temperature=temperature, prior=prior
    )
    vectors = rebuilt(torch.cat([first, second]).tolist(), codebooks.tolist())
    used = [] if seen is None else kept[torch.tensor(seen)].tolist()
    count = 2 * ROWS - 2 + len(used)
    losses, clamped = [], 0
    for near, far in pairs(vectors, rebuilt(used, codebooks.tolist()), temperature):
        floor = count * math.exp(-1 / temperature)
        debiased = (far - count * prior * near) / (1 - prior)
        losses.append(-math.log(near / (near + max(debiased, floor))))
        clamped += debiased < floor
    assert found.item() == pytest.approx(mean(losses), rel=1e-7)
    assert clamped or prior < 0.8  # that case reaches the floor


@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize("prior", [0.1, 0.0])
def test_released_contrastive_term(memory, prior):
    first, second, codebooks, kept = made()
    given = (kept, torch.ones(6, dtype=torch.bool)) if memory else None
    found = memory_contrastive(first, second, codebooks, given, prior=prior, variant="released")
    vectors = rebuilt(torch.cat([first, second]).tolist(), codebooks.tolist())
    others = rebuilt(kept.tolist(), codebooks.tolist()) if memory else []
    sums = list(pairs(vectors, others, 0.4, normalised=False))
    count = 2 * ROWS - 2
    expected = mean(
        -math.log(near / (near + max((far - count * prior * near) / (1 - prior), floor)))
        for near, _ in sums
        for _, far in sums
        for floor in [math.exp(-count / 0.4)]
    )
    assert found.item() == pytest.approx(expected, rel=1e-7)


def test_regularisers():
    first, _, codebooks, _ = made()
    found = codeword_similarity(codebooks).item()
    words = codebooks.tolist()
    assert found == pytest.approx(mean(dot(a, b) for part in words for a in part for b in part))
    entropy = mean(sum(-p * math.log(p) for p in part) for row in first.tolist() for part in row)
    assert code_entropy(first).item() == pytest.approx(entropy, rel=1e-12)


def test_the_entropy_of_hard_codes_is_zero():
    logits = torch.tensor([[[0.0, 1e4], [800.0, -800.0]]], requires_grad=True)
    entropy = code_entropy(logits.softmax(2))
    entropy.backward()
    assert entropy.item() == pytest.approx(0, abs=1e-30)
    assert logits.grad.abs().max() < 1e-30


def inputs(seed=0, n=6):
    first = batch(n=n, seed=seed)[0]
    second = (first + 0.5 * torch.randn(n, BITS, dtype=torch.float64)).detach()
    generator = torch.Generator().manual_seed(9)
    codebooks = torch.randn(BITS, 2, 3, generator=generator, dtype=torch.float64)
    return first, second, codebooks


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_a_bit_is_a_sub_codebook_of_two(variant):
    """The soft code of x is that of its output, and the loss is the three terms of those codes."""
    criterion = MeCoQ(BITS, variant=variant, memory_start=0, memory_size=20)
    kept = None
    for seed in range(2):
        first, second, codebooks = inputs(seed)
        loss = criterion(first, second, codebooks=codebooks)
        words = torch.nn.functional.normalize(codebooks, dim=2)
        codes = [torch.stack([torch.zeros_like(u), u], 2).softmax(2) for u in (first, second)]
        memory = None if kept is None else (kept, torch.ones(len(kept), dtype=torch.bool))
        terms = {
            "contrastive": memory_contrastive(*codes, words, memory, variant=variant),
            "codeword": codeword_similarity(words),
            "entropy": (code_entropy(codes[0]) + code_entropy(codes[1])) / 2,
        }
        for name, value in terms.items():
            assert criterion.components[name].item() == pytest.approx(value.item(), rel=1e-7)
        weighted = terms["contrastive"] + 0.5 * terms["codeword"] + 0.05 * terms["entropy"]
        assert loss.item() == pytest.approx(weighted.item(), rel=1e-7)
        kept = torch.cat(codes).detach().float().double()  # as the memory holds them


def test_the_codebooks_learn_from_every_term():
    first, second, codebooks = inputs()
    codebooks.requires_grad_()
    only = {"codeword_weight": 0.0, "entropy_weight": 0.0}
    gradients = []
    for options in (only, {}, {"variant": "released"}, {"variant": "released", **only}):
        loss = MeCoQ(BITS, **options)(first, second, codebooks=codebooks)
        gradients.append(torch.autograd.grad(loss, codebooks)[0])
    assert gradients[0].abs().max() > 0
    assert not torch.allclose(gradients[0], gradients[1])
    assert torch.allclose(gradients[2], gradients[3])  # the released code's term has none


def test_the_memory_keeps_the_last_rows_and_says_which_are_filled():
    memory = CodeMemory(5, 1, 2)
    like = torch.empty(0, dtype=torch.float64)
    rows = torch.arange(1.0, 20)[:, None, None].expand(-1, 1, 2)
    held = [0.0] * 5
    written = 0
    for count in (0, 2, 2, 3, 1, 5, 6):  # 6: more than it holds
        memory.write(rows[written : written + count])
        for i in range(written, written + count):
            held[i % 5] = i + 1.0
        written += count
        codes, seen = memory.read(like)
        assert codes.dtype == torch.float64
        assert codes[:, 0, 0].tolist() == held
        assert seen.tolist() == [i < written for i in range(5)]


def test_unfilled_rows_and_early_epochs_do_not_count():
    first, second, codebooks = inputs()
    bare = MeCoQ(BITS, memory_size=0)(first, second, codebooks=codebooks).item()
    criterion = MeCoQ(BITS, memory_size=100, memory_start=2)
    losses = []
    for epoch in range(4):
        criterion.start_epoch(epoch)
        losses.append(criterion(first, second, codebooks=codebooks).item())
    assert losses[:2] == pytest.approx([bare, bare], rel=1e-9)
    assert losses[2] > bare + 0.1
    assert losses[3] > losses[2] + 0.1  # another 12 rows


def test_a_resumed_run_meets_the_same_memory():
    first, second, codebooks = inputs()
    saved = MeCoQ(BITS, memory_size=7)
    saved.start_epoch(9)
    saved(first, second, codebooks=codebooks)
    fresh = MeCoQ(BITS, memory_size=7)
    fresh.load_state_dict(copy.deepcopy(saved.state_dict()))
    losses = [c(second, first, codebooks=codebooks).item() for c in (saved, fresh)]
    assert losses[0] == losses[1]
    assert torch.equal(saved.memory.codes, fresh.memory.codes)


def test_the_quantizer_gives_the_nearest_codewords():
    quantizer = ProductQuantizer(PARTS, WORDS, SIZE, alpha=7.0).double()
    features = torch.randn(6, PARTS * SIZE, dtype=torch.float64)
    words = quantizer.codebooks / quantizer.codebooks.norm(dim=2, keepdim=True)
    soft, hard = quantizer(features), quantizer.encode(features)
    for n, row in enumerate(features.view(6, PARTS, SIZE)):
        for m, part in enumerate(row):
            products = [cosine(part.tolist(), word) for word in words[m].tolist()]
            exponents = [math.exp(7 * x) for x in products]
            expected = [x / sum(exponents) for x in exponents]
            assert soft[n, m].tolist() == pytest.approx(expected, rel=1e-9)
            assert hard[n, m] == max(range(WORDS), key=products.__getitem__)
    decoded = quantizer.decode(hard).view(6, PARTS, SIZE)
    for n in range(6):
        for m in range(PARTS):
            assert torch.equal(decoded[n, m], quantizer.words[m, hard[n, m]])
    sure = torch.nn.functional.one_hot(hard, WORDS).double()
    torch.testing.assert_close(quantizer.reconstruct(sure), quantizer.decode(hard))
    mixed = rebuilt(soft.tolist(), words.tolist())
    torch.testing.assert_close(quantizer.reconstruct(soft), torch.tensor(mixed).double())


def test_gradcheck_of_the_quantizer():
    _, _, codebooks, _ = made()
    features = torch.randn(3, PARTS * SIZE, dtype=torch.float64, requires_grad=True)

    def called(x, words):
        return reconstruct(soft_codes(x, words), words)

    assert torch.autograd.gradcheck(called, (features, codebooks.requires_grad_()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"prior": 1.0}, r"prior=1.0 in \[0, 1\)"),
        ({"memory_size": -1}, "memory_size=-1"),
        ({"entropy_weight": -0.1}, "entropy_weight=-0.1"),
        ({"variant": "official"}, "unknown variant 'official'; choose 'paper' or 'released'"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        MeCoQ(BITS, **options)


def test_wrong_shapes():
    first, second, codebooks = inputs()
    for wrong in (codebooks[1:], codebooks[:, :1], codebooks.flatten(1)):
        with pytest.raises(ValueError, match=rf"expected \[{BITS}, 2, D\]"):
            MeCoQ(BITS)(first, second, codebooks=wrong)
    with pytest.raises(ValueError, match="codewords=1 at least 2"):
        ProductQuantizer(2, 1, 4)
    with pytest.raises(ValueError, match="alpha is 0"):
        ProductQuantizer(2, 2, 4, alpha=0)
    with pytest.raises(ValueError, match=r"expected \[n, 8\]: 2 sub-vectors of 4"):
        ProductQuantizer(2, 2, 4)(torch.zeros(3, 7))
