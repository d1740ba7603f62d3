"""Losses against the formulas written as loops, and the manners every loss shares."""

import copy
import math

import pytest
import torch
from torch import nn

import hashfast
from hashfast import ops
from hashfast.losses import CSQ, HSWD, METHODS, SWD, HashLoss, OrthoHash, quantization
from hashfast.losses import sliced_wasserstein as sliced

CLASSES, BITS = 5, 8


def batch(n=6, seed=0, dtype=torch.float64, bits=BITS):
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(n, bits, generator=generator, dtype=torch.float64).to(dtype)
    ids = torch.randint(CLASSES, (n,), generator=generator)
    hot = (torch.rand(n, CLASSES, generator=generator) < 0.4).float()
    hot[torch.arange(n), ids] = 1
    return outputs.requires_grad_(), ids, hot


def one_hot(ids):
    return nn.functional.one_hot(ids, CLASSES).float()


# Every method and variant; new methods are covered by the first line.
CASES = {
    **{name: lambda cls=cls, **kw: cls(CLASSES, BITS, **kw) for name, cls in METHODS.items()},
    "csq-official": lambda **kw: CSQ(CLASSES, BITS, variant="official", **kw),
    "orthohash-arc": lambda **kw: OrthoHash(CLASSES, BITS, margin="arc", **kw),
    "orthohash-bce": lambda **kw: OrthoHash(CLASSES, BITS, multi_label="bce", **kw),
    "orthohash-imbalance": lambda **kw: OrthoHash(CLASSES, BITS, multi_label="imbalance", **kw),
    "orthohash-cs": lambda **kw: OrthoHash(CLASSES, BITS, quan="cs", **kw),
}
every_case = pytest.mark.parametrize("make", CASES.values(), ids=CASES)


def bce(logit, target):
    return math.log1p(math.exp(logit)) - target * logit


# ---------------------------------------------------------------- formulas


def csq_centre(criterion, hot_row):
    code = []
    for bit in range(BITS):
        votes = sum(y * c[bit] for y, c in zip(hot_row, criterion.centres.tolist(), strict=True))
        code.append(criterion.tie_break[bit].item() if votes == 0 else math.copysign(1, votes))
    return code


def csq_loops(criterion, outputs, hot):
    centre = quan = 0.0
    n = len(outputs)
    for u_row, y in zip(outputs, hot, strict=True):
        for u, c in zip(u_row, csq_centre(criterion, y), strict=True):
            v, target = math.tanh(u), (c + 1) / 2
            p = (v + 1) / 2
            centre -= target * math.log(p) + (1 - target) * math.log(1 - p)
            quan += (abs(v) - 1) ** 2
    return centre / (n * BITS), quan / (n * BITS)


@pytest.mark.parametrize("form", ["ids", "multi-hot"])
def test_csq_formula(form):
    outputs, ids, hot = batch()
    criterion = CSQ(CLASSES, BITS)
    labels, rows = (ids, one_hot(ids)) if form == "ids" else (hot, hot)
    centre, quan = csq_loops(criterion, outputs.tolist(), rows.tolist())
    loss = criterion(outputs, labels)
    assert loss.item() == pytest.approx(centre + 1e-4 * quan, rel=1e-12)
    assert criterion.components["similarity"].item() == pytest.approx(centre, rel=1e-12)
    assert criterion.components["quantization"].item() == pytest.approx(quan, rel=1e-12)


def test_csq_official_formula():
    outputs, _, hot = batch(n=7)
    criterion = CSQ(CLASSES, BITS, variant="official")
    centre, quan = csq_loops(criterion, outputs.tolist(), hot.tolist())
    pairwise = []
    for i in range(3):  # the first half of 7 rows against the other 4
        for j in range(3, 7):
            similar = any(a and b for a, b in zip(hot[i], hot[j], strict=True))
            pairs = zip(outputs[i].tolist(), outputs[j].tolist(), strict=True)
            theta = 10 / BITS * sum(math.tanh(a) * math.tanh(b) for a, b in pairs)
            pairwise.append(bce(theta, similar))
    pairwise = sum(pairwise) / len(pairwise)
    loss = criterion(outputs, hot)
    assert loss.item() == pytest.approx(centre + 0.2 * pairwise + 0.05 * quan, rel=1e-12)
    assert criterion.components["centre"].item() == pytest.approx(centre, rel=1e-12)
    assert criterion.components["pairwise"].item() == pytest.approx(pairwise, rel=1e-12)


def test_csq_ties_and_rows_without_a_class_take_the_fixed_code():
    criterion = CSQ(2, 4, centres=torch.tensor([[1, 1, -1, -1], [1, -1, 1, -1]]))
    target = criterion.target(torch.tensor([[1, 1], [0, 0], [0, 1]]))
    tie = criterion.tie_break.tolist()
    assert target.tolist() == [[1, tie[1], tie[2], -1], tie, [1, -1, 1, -1]]


def test_csq_survives_saturated_outputs():
    outputs = torch.full((2, BITS), 300.0, requires_grad=True)
    CSQ(CLASSES, BITS)(outputs, torch.tensor([0, 1])).backward()
    assert outputs.grad.isfinite().all()
    assert outputs.grad.count_nonzero() > 0  # wrong bits are still pulled back


def ortho_logits(criterion, outputs, hot):
    logits = []
    for v, y in zip(outputs, hot, strict=True):
        norm = math.sqrt(sum(x * x for x in v))
        row = []
        for label, code in zip(y, criterion.codebook.tolist(), strict=True):
            cosine = sum(a * b for a, b in zip(v, code, strict=True)) / norm / math.sqrt(BITS)
            if criterion.margin == "cos":
                row.append(8 * (cosine - 0.2 * label))
            else:
                angle = math.acos(min(max(cosine, -0.99999), 0.99999))
                row.append(8 * math.cos(angle + 0.2 * label))
        logits.append(row)
    return logits


def ortho_loops(criterion, outputs, hot):
    logits = ortho_logits(criterion, outputs, hot)
    if criterion.multi_label == "label_smoothing":
        total = 0.0
        for row, y in zip(logits, hot, strict=True):
            log_sum = math.log(sum(math.exp(x) for x in row))
            pairs = zip(row, y, strict=True)
            total += sum(t * (log_sum - x) for x, t in pairs) / max(sum(y), 1)
        return total / len(logits)
    total = weights = 0.0
    for row, y in zip(logits, hot, strict=True):
        for x, t in zip(row, y, strict=True):
            weight = 1.0
            found = 1 / (1 + math.exp(-x)) >= 0.7
            if criterion.multi_label == "imbalance" and not t and not found:
                weight = 1 / CLASSES
            total += weight * bce(x, t)
            weights += weight
    return total / (weights + (1e-7 if criterion.multi_label == "imbalance" else 0))


@pytest.mark.parametrize("margin", ["cos", "arc"])
@pytest.mark.parametrize("multi_label", ["label_smoothing", "bce", "imbalance"])
def test_orthohash_formula(margin, multi_label):
    outputs, _, hot = batch(n=9)
    hot[2] = 0
    criterion = OrthoHash(CLASSES, BITS, margin=margin, multi_label=multi_label)
    expected = ortho_loops(criterion, outputs.tolist(), hot.tolist())
    assert criterion(outputs, hot).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("margin", ["cos", "arc"])
def test_orthohash_ids_take_cross_entropy_whatever_multi_label_says(margin):
    outputs, ids, _ = batch()
    criterion = OrthoHash(CLASSES, BITS, margin=margin, multi_label="bce")
    criterion.multi_label = "label_smoothing"
    expected = ortho_loops(criterion, outputs.tolist(), one_hot(ids).tolist())
    criterion.multi_label = "bce"
    assert criterion(outputs, ids).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("quan", ["cs", "l1", "l2"])
def test_orthohash_own_quantization(quan):
    outputs, ids, _ = batch()
    criterion = OrthoHash(CLASSES, BITS, quan=quan, quan_weight=0.3)
    loss = criterion(outputs, ids)
    expected = []
    for v in outputs.tolist():
        gaps = [abs(x - math.copysign(1, x)) for x in v]
        norm = math.sqrt(sum(x * x for x in v) * BITS)
        expected.append(
            {
                "cs": 1 - sum(map(abs, v)) / norm,
                "l1": sum(gaps) / BITS,
                "l2": sum(g * g for g in gaps) / BITS,
            }[quan]
        )
    found = criterion.components["quantization"]
    assert found.item() == pytest.approx(sum(expected) / len(expected), rel=1e-12)
    assert loss.item() == (criterion.components["similarity"] + 0.3 * found).item()


def test_orthohash_zero_row_has_no_direction():
    outputs, ids, _ = batch()
    outputs = outputs.detach().clone()
    outputs[1] = 0
    outputs.requires_grad_()
    loss = OrthoHash(CLASSES, BITS, quan="cs")(outputs, ids)
    loss.backward()
    assert loss.isfinite()
    assert outputs.grad.isfinite().all()
    assert outputs.grad[1].abs().max() == 0


# ---------------------------------------------------------------- HSWD and SWD


def hswd_loops(columns, negatives):
    total = []
    for column, k in zip(columns, negatives, strict=True):
        target = [-1.0] * k + [1.0] * (len(column) - k)
        total += [(u - b) ** 2 for u, b in zip(sorted(column), target, strict=True)]
    return sum(total) / len(total)


def test_hswd_random_formula():
    outputs, _, _ = batch(n=11)
    torch.manual_seed(5)
    seed = torch.randint(2**63 - 1, (), dtype=torch.int64)
    target = ops.binary_wasserstein(outputs, seed=seed)[1]
    torch.manual_seed(5)
    found = HSWD(BITS)(outputs)
    expected = hswd_loops(outputs.T.tolist(), (target < 0).sum(0).tolist())
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_hswd_random_target_is_a_fair_coin():
    torch.manual_seed(0)
    # All +1: distance 4 k / n with k ~ Binomial(n, 1/2). All 0: 1 whatever the target.
    assert HSWD(4096)(torch.ones(10, 4096)).item() == pytest.approx(2, abs=0.04)
    assert HSWD(4096)(torch.zeros(10, 4096)).item() == 1


def test_hswd_balanced_known_answers():
    columns = torch.stack([torch.tensor([1.0, -1, -1, 1, 1, -1])[torch.randperm(6)] for _ in "ab"])
    on_target = columns.T.contiguous()
    distance = HSWD(2, target="balanced")
    assert distance(on_target).item() == 0
    assert distance(on_target + 0.25).item() == 0.0625
    assert HSWD(2, target="balanced", root=True)(on_target + 0.25).item() == 0.25


def test_hswd_balanced_odd_batch_pulls_the_median_to_zero():
    outputs = torch.tensor([[3.0], [0.5], [-2.0]], requires_grad=True)
    loss = HSWD(1, target="balanced")(outputs)
    loss.backward()
    assert loss.item() == (4 + 0.25 + 1) / 3
    assert torch.allclose(outputs.grad[:, 0], torch.tensor([2 * 2, 2 * 0.5, -2.0]) / 3)


@pytest.mark.parametrize("make", [HSWD, SWD])
def test_rooted_form(make):
    outputs, _, _ = batch()
    torch.manual_seed(1)
    squared = make(BITS)(outputs)
    torch.manual_seed(1)
    assert make(BITS, root=True)(outputs).item() == pytest.approx(math.sqrt(squared.item()))


def test_rooted_form_has_zero_gradient_at_zero():
    outputs = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], requires_grad=True)
    loss = HSWD(2, target="balanced", root=True)(outputs)
    loss.backward()
    assert loss.item() == 0
    assert outputs.grad.abs().max() == 0


def test_sliced_wasserstein_formula():
    generator = torch.Generator().manual_seed(0)
    outputs, target, directions = (
        torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (5, 5, 4)
    )

    def projected(rows, axis):
        return sorted(sum(a * b for a, b in zip(row, axis, strict=True)) for row in rows)

    total = []
    for axis in directions.tolist():
        pairs = zip(
            projected(outputs.tolist(), axis), projected(target.tolist(), axis), strict=True
        )
        total += [(a - b) ** 2 for a, b in pairs]
    found = sliced(outputs, target, directions)
    assert found.item() == pytest.approx(sum(total) / len(total), rel=1e-12)


def test_swd_known_answers():
    # In one dimension every direction is +-1, so SWD is HSWD: all 0 gives 1.
    assert SWD(1, num_projections=3)(torch.zeros(6, 1)).item() == 1
    # On average a squared projection of a code on a unit vector is its squared norm / bits = 1.
    torch.manual_seed(0)
    assert SWD(32)(torch.zeros(64, 32)).item() == pytest.approx(1, abs=0.02)


def test_swd_in_chunks_is_the_same(monkeypatch):
    values, gradients = [], []
    for limit in (2**22, 6 * 7):
        monkeypatch.setattr(quantization, "_PROJECTED_VALUES", limit)
        outputs, _, _ = batch()
        torch.manual_seed(3)
        loss = SWD(BITS, num_projections=40)(outputs)
        loss.backward()
        values.append(loss.item())
        gradients.append(outputs.grad)
    assert values[0] == pytest.approx(values[1], rel=1e-12)
    assert torch.allclose(*gradients, rtol=1e-12)


@pytest.mark.parametrize("make", [HSWD, SWD])
@pytest.mark.parametrize("n", [0, 1])
def test_distributional_terms_of_tiny_batches(make, n):
    outputs = torch.randn(n, BITS, requires_grad=True)
    loss = make(BITS)(outputs)
    loss.backward()
    assert loss.isfinite()
    assert loss.shape == ()
    assert outputs.grad.isfinite().all()
    if n == 0:
        assert loss.item() == 0


@pytest.mark.parametrize("make", [HSWD, SWD])
def test_distributional_terms_follow_manual_seed(make):
    outputs, _, _ = batch(n=32)
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(make(BITS)(outputs).item())
    assert found[0] == found[1] != found[2]


# ---------------------------------------------------------------- manners of every loss


@every_case
def test_one_hot_is_the_same_as_ids(make):
    outputs, ids, _ = batch()
    criterion = make()
    if getattr(criterion, "multi_label", "label_smoothing") != "label_smoothing":
        pytest.skip("multi-hot labels take another loss by definition")
    by_id = criterion(outputs, ids)
    for labels in (one_hot(ids), one_hot(ids).long(), one_hot(ids).bool()):
        assert criterion(outputs, labels).item() == pytest.approx(by_id.item(), rel=1e-12)
    assert criterion(outputs, ids.to(torch.int32)).item() == by_id.item()


@every_case
@pytest.mark.parametrize("form", ["ids", "multi-hot"])
def test_gradcheck(make, form):
    outputs, ids, hot = batch(n=4)
    criterion = make().double()
    labels = ids if form == "ids" else hot
    assert torch.autograd.gradcheck(lambda u: criterion(u, labels), outputs)


@pytest.mark.parametrize("term", [HSWD(3, "balanced"), HSWD(3, "balanced", root=True), SWD(3, 5)])
@pytest.mark.parametrize("chunked", [False, True])
def test_gradcheck_of_distributional_terms(term, chunked, monkeypatch):
    if chunked:
        monkeypatch.setattr(quantization, "_PROJECTED_VALUES", 10)

    def distance(outputs):
        torch.manual_seed(0)
        return term(outputs)

    outputs, _, _ = batch(n=5, bits=3)
    assert torch.autograd.gradcheck(distance, outputs)
    assert torch.autograd.gradgradcheck(distance, outputs)


@every_case
@pytest.mark.parametrize("choice", ["original", "hswd", "swd", "none"])
def test_components_add_up(make, choice):
    outputs, _, hot = batch()
    criterion = make(quantization=choice)
    loss = criterion(outputs, hot)
    parts = criterion.components
    assert parts["loss"].item() == loss.item()
    assert not any(part.requires_grad for part in parts.values())
    assert ("quantization" in parts) == (criterion.quantization_weight is not None)
    expected = parts["similarity"]
    if "quantization" in parts:
        expected = expected + criterion.quantization_weight * parts["quantization"]
    assert loss.item() == expected.item()


@pytest.mark.parametrize("name", METHODS)
def test_hswd_replaces_the_methods_own_term(name):
    outputs, ids, _ = batch()
    bare = METHODS[name](CLASSES, BITS, quantization="none")(outputs, ids)
    for on, seen in (("raw", outputs), ("squashed", outputs.tanh())):
        criterion = METHODS[name](CLASSES, BITS, quantization="hswd", quantization_on=on)
        torch.manual_seed(0)
        loss = criterion(outputs, ids)
        torch.manual_seed(0)
        assert loss.item() == pytest.approx((bare + 0.1 * HSWD(BITS)(seen)).item(), rel=1e-12)


def test_quantization_may_be_a_module_or_have_another_weight():
    outputs, ids, _ = batch()
    own = HSWD(BITS, target="balanced")
    criterion = CSQ(CLASSES, BITS, quantization=own, quantization_weight=2.0)
    bare = CSQ(CLASSES, BITS, quantization="none")(outputs, ids)
    assert criterion(outputs, ids).item() == pytest.approx((bare + 2 * own(outputs)).item())
    assert CSQ(CLASSES, BITS).quantization_weight == 1e-4
    assert CSQ(CLASSES, BITS, variant="official").quantization_weight == 0.05
    assert CSQ(CLASSES, BITS, quantization_weight=0.5).quantization_weight == 0.5


@every_case
@pytest.mark.parametrize("choice", ["original", "hswd", "swd"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_outputs_are_computed_in_float32(make, choice, dtype):
    outputs, _, hot = batch(dtype=dtype)
    criterion = make(quantization=choice)
    exact = outputs.detach().float().requires_grad_()
    torch.manual_seed(0)
    criterion(exact, hot).backward()
    torch.manual_seed(0)
    loss = criterion(outputs, hot)
    loss.backward()
    assert loss.dtype == torch.float32
    assert outputs.grad.dtype == dtype
    assert torch.equal(outputs.grad, exact.grad.to(dtype))
    # A criterion cast with the model computes the same.
    torch.manual_seed(0)
    assert copy.deepcopy(criterion).to(dtype)(outputs, hot).item() == loss.item()


@every_case
@pytest.mark.parametrize("choice", ["original", "hswd", "swd"])
def test_autocast_does_not_reach_inside(make, choice):
    outputs, _, hot = batch(dtype=torch.float32)
    criterion = make(quantization=choice)
    torch.manual_seed(0)
    expected = criterion(outputs, hot)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert criterion(outputs, hot).item() == expected.item()


def test_swd_alone_under_autocast():
    outputs, _, _ = batch(dtype=torch.float32)
    torch.manual_seed(0)
    expected = SWD(BITS)(outputs).item()
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert SWD(BITS)(outputs).item() == expected


def test_float64_stays_float64():
    outputs, ids, _ = batch()
    assert CSQ(CLASSES, BITS, quantization="swd")(outputs, ids).dtype == torch.float64


COMPILED = {
    "csq": lambda: CSQ(CLASSES, BITS),
    "csq-official-hswd": lambda: CSQ(CLASSES, BITS, variant="official", quantization="hswd"),
    "orthohash-arc-swd": lambda: OrthoHash(CLASSES, BITS, margin="arc", quantization="swd"),
    "orthohash-imbalance": lambda: OrthoHash(CLASSES, BITS, multi_label="imbalance", quan="cs"),
}


@pytest.mark.parametrize("make", COMPILED.values(), ids=COMPILED)
@pytest.mark.parametrize("autocast", [False, True])
def test_compiles_as_one_graph(make, autocast):
    torch._dynamo.reset()
    _, ids, hot = batch()
    criterion = make()
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    for labels in (ids, hot):
        results, gradients = [], []
        for call in (criterion, compiled):
            outputs, _, _ = batch(dtype=torch.float32)
            torch.manual_seed(0)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                loss = call(outputs, labels)
            loss.backward()
            results.append([loss.detach(), *criterion.components.values()])
            gradients.append(outputs.grad)
        assert all(torch.allclose(a, b, rtol=1e-6) for a, b in zip(*results, strict=True))
        # torch.compile traces the backward under the caller's autocast, whatever the forward says:
        # its matrix products are then rounded to bfloat16.
        scale = gradients[0].abs().max().item()
        assert torch.allclose(*gradients, rtol=0, atol=scale * (2**-7 if autocast else 1e-6))


def test_swd_in_chunks_compiles(monkeypatch):
    monkeypatch.setattr(quantization, "_PROJECTED_VALUES", 60)
    torch._dynamo.reset()
    term = SWD(BITS, num_projections=25)
    compiled = torch.compile(term, fullgraph=True, backend="aot_eager")
    gradients = []
    for call in (term, compiled):
        outputs, _, _ = batch(dtype=torch.float32)
        torch.manual_seed(0)
        call(outputs).backward()
        gradients.append(outputs.grad)
    assert torch.allclose(*gradients, rtol=1e-5)


@every_case
@pytest.mark.parametrize("choice", ["original", "hswd", "swd"])
def test_empty_batch_gives_zero_attached_to_the_graph(make, choice):
    criterion = make(quantization=choice)
    outputs = torch.randn(0, BITS, requires_grad=True)
    with pytest.warns(UserWarning, match="undefined for a batch of 0"):
        loss = criterion(outputs, torch.empty(0, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0
    assert outputs.grad is not None
    full, ids, _ = batch()
    keys = set(criterion.components)
    criterion(full, ids)
    assert keys <= set(criterion.components)
    assert {"similarity", "loss"} <= keys


def test_empty_batch_keeps_parameters_in_the_graph():
    class Proxies(HashLoss):
        def __init__(self):
            super().__init__(CLASSES, BITS)
            self.proxies = nn.Parameter(torch.ones(CLASSES, BITS))

    criterion = Proxies()
    with pytest.warns(UserWarning, match="undefined for a batch of 0"):
        criterion(torch.randn(0, BITS), torch.empty(0, CLASSES)).backward()
    assert criterion.proxies.grad.abs().max() == 0


@every_case
@pytest.mark.filterwarnings("ignore:the pairwise term")
def test_single_row_is_finite(make):
    for row in (torch.randn(1, BITS), torch.zeros(1, BITS)):
        outputs = row.requires_grad_()
        for labels in (torch.tensor([2]), torch.zeros(1, CLASSES)):
            loss = make(quantization="hswd")(outputs, labels)
            loss.backward()
            assert loss.isfinite()
            assert outputs.grad.isfinite().all()


def test_single_row_has_no_pairs():
    criterion = CSQ(CLASSES, BITS, variant="official")
    with pytest.warns(UserWarning, match="pairwise term of CSQ is undefined for a batch of 1"):
        criterion(torch.randn(1, BITS), torch.tensor([0]))
    assert criterion.components["pairwise"].item() == 0


def test_one_class():
    outputs, _, _ = batch(n=3)
    for cls in METHODS.values():
        for labels in (torch.zeros(3, dtype=torch.int64), torch.ones(3, 1)):
            assert cls(1, BITS)(outputs, labels).isfinite()


@pytest.mark.parametrize("name", METHODS)
def test_targets_are_saved_with_the_criterion(name):
    outputs, _, hot = batch()
    saved, fresh = (METHODS[name](CLASSES, 12, seed=seed) for seed in (0, 1))
    outputs = torch.cat([outputs, outputs[:, :4]], 1)
    assert saved(outputs, hot).item() != fresh(outputs, hot).item()
    fresh.load_state_dict(saved.state_dict())
    assert saved(outputs, hot).item() == fresh(outputs, hot).item()


@pytest.mark.parametrize("name", METHODS)
def test_own_class_codes(name):
    codes = torch.ones(CLASSES, BITS)
    argument = {"csq": "centres", "orthohash": "codebook"}[name]
    criterion = METHODS[name](CLASSES, BITS, **{argument: codes})
    assert torch.equal(getattr(criterion, argument).float(), codes)
    for wrong in (codes[:2], 0.5 * codes):
        with pytest.raises(ValueError, match=r"expected only -1 and \+1, in shape \[5, 8\]"):
            METHODS[name](CLASSES, BITS, **{argument: wrong})


class TwoViews(HashLoss):
    """The smallest method with a further input and a quantisation term."""

    needs = ("u_student",)

    def similarity(self, outputs, labels, u_student):
        assert u_student.dtype == outputs.dtype
        return (outputs - u_student).square().mean()

    def original_quantization(self, outputs, u_student):
        return u_student.abs().mean()


def test_a_method_gets_the_inputs_it_needs():
    outputs, ids, _ = batch(dtype=torch.float16)
    criterion = TwoViews(CLASSES, BITS, original_weight=0.5)
    student = outputs.detach() + 1
    criterion(outputs, ids, u_student=student, index=torch.arange(6))
    assert criterion.components["similarity"].item() == pytest.approx(1, rel=1e-2)
    assert "TwoViews" not in METHODS
    with pytest.raises(ValueError, match="TwoViews needs u_student"):
        criterion(outputs, ids)


@pytest.mark.parametrize(
    ("outputs", "labels", "error", "message"),
    [
        (torch.zeros(2, 9), torch.zeros(2).long(), ValueError, r"\[2, 9\]; expected \[n, 8\]"),
        (torch.zeros(8), torch.zeros(1).long(), ValueError, r"shape \[8\]"),
        (torch.zeros(2, 8).long(), torch.zeros(2).long(), TypeError, "before sign"),
        (torch.zeros(2, 8), torch.zeros(2), TypeError, r"labels are float32 .*to int64"),
        (torch.zeros(2, 8), torch.zeros(2).bool(), TypeError, "class ids are integers"),
        (torch.zeros(2, 8), torch.zeros(2, 1).long(), ValueError, r"labels.flatten\(\)"),
        (torch.zeros(2, 8), torch.zeros(2, 4), ValueError, r"multi-hot \[n, num_classes=5\]"),
        (torch.zeros(2, 8), torch.zeros(3).long(), ValueError, "3 labels for 2 outputs"),
        (torch.zeros(2, 8, device="meta"), torch.zeros(2).long(), ValueError, "move the labels"),
        (
            torch.zeros(2, 8, device="meta"),
            torch.zeros(2, device="meta").long(),
            ValueError,
            r"centres of CSQ is on cpu, .* criterion.to\('meta'\)",
        ),
    ],
)
def test_wrong_calls_are_explained(outputs, labels, error, message):
    with pytest.raises(error, match=message):
        CSQ(CLASSES, BITS)(outputs, labels)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CSQ(5, 8, quantization="l2"), "'original', 'hswd', 'swd', 'none'"),
        (lambda: CSQ(5, 8, quantization_on="tanh"), "'raw' or 'squashed'"),
        (lambda: CSQ(5, 8, variant="zoo"), "'paper' or 'official'"),
        (lambda: CSQ(0, 8), "num_classes=0"),
        (lambda: OrthoHash(5, 8, margin="arcface"), "unknown margin 'arcface'"),
        (lambda: OrthoHash(5, 8, multi_label="ce"), "unknown multi_label 'ce'"),
        (lambda: OrthoHash(5, 8, quan="l3"), "unknown quan 'l3'"),
        (lambda: OrthoHash(5, 8, quantization_weight=0.1), "nothing to weigh"),
        (lambda: CSQ(5, 8, quantization="none", quantization_weight=0.1), "nothing to weigh"),
        (lambda: CSQ(5, 8, quantization_weight=-0.1), "quantization_weight is -0.1; .* positive"),
        (lambda: CSQ(5, 8, quantization_weight=math.nan), "quantization_weight is nan"),
        (lambda: HSWD(8, target="fair"), "'random' or 'balanced'"),
        (lambda: SWD(8, num_projections=0), "at least 1"),
    ],
)
def test_wrong_choices_are_listed(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            torch.tensor([1, 5]),
            "class ids 1 to 5, 5 at row 1; num_classes=5 expects ids 0 to 4: .*subtract 1",
        ),
        (torch.tensor([-1, 2]), "class ids -1 to 2"),
        (torch.tensor([[0, 1, 0, 0, 0.5]]), "must be 0 or 1; got 0.5 at row 0, class 4: threshold"),
        (torch.full((1, 5), float("nan")), "must be 0 or 1; got nan at row 0, class 0"),
    ],
)
def test_label_values_are_checked_on_request_and_at_the_first_call(labels, message):
    criterion = CSQ(CLASSES, BITS)
    with pytest.raises(ValueError, match=message):
        criterion.check_labels(labels)
    for _ in range(2):  # until labels pass
        with pytest.raises(ValueError, match=message):
            criterion(torch.zeros(len(labels), BITS), labels)


def test_good_labels_pass():
    _, ids, hot = batch()
    for labels in (ids, hot, hot.bool(), ids[:0], hot[:0]):
        CSQ(CLASSES, BITS).check_labels(labels)


@pytest.mark.parametrize("on_request", [False, True])
def test_label_values_are_checked_once(on_request, monkeypatch):
    seen = []
    monkeypatch.setattr("hashfast.losses._base.check_labels", lambda labels, _: seen.append(labels))
    outputs, ids, hot = batch()
    criterion = copy.deepcopy(CSQ(CLASSES, BITS))
    if on_request:
        criterion.check_labels(hot)
    else:
        with pytest.warns(UserWarning, match="batch of 0"):
            criterion(outputs[:0], ids[:0])  # nothing in it to learn from
        criterion(outputs, ids)
    for labels in (ids, hot):
        criterion(outputs, labels)
    assert len(seen) == 1


def test_a_compiled_first_call_leaves_label_values_to_the_next():
    class Mean(HashLoss):
        def similarity(self, outputs, labels):
            return outputs.mean()

    torch._dynamo.reset()
    outputs, ids, _ = batch()
    criterion = Mean(CLASSES, BITS)
    torch.compile(criterion, fullgraph=True, backend="eager")(outputs, ids + CLASSES)
    with pytest.raises(ValueError, match="class ids"):
        criterion(outputs, ids + CLASSES)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_captured_first_call_does_not_look_at_label_values():
    outputs, ids, _ = batch(dtype=torch.float32)
    outputs, ids, criterion = outputs.detach().cuda(), ids.cuda(), CSQ(CLASSES, BITS).cuda()
    warm = copy.deepcopy(criterion)
    warm(outputs, ids)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = criterion(outputs, ids)
    graph.replay()
    assert torch.allclose(loss, warm(outputs, ids))


def test_public_surface():
    assert METHODS["csq"] is hashfast.losses.CSQ
    assert set(METHODS) >= {"csq", "orthohash"}
    assert all(hasattr(hashfast.losses, name) for name in hashfast.losses.__all__)
    assert hashfast.losses.HSWD(bits=64)(torch.randn(8, 64)).shape == ()
    criterion = hashfast.losses.CSQ(num_classes=100, bits=64, quantization="hswd")
    assert criterion(torch.randn(8, 64), torch.arange(8)).shape == ()
    assert "quantization='hswd'" in repr(criterion)
    assert (CSQ.head, OrthoHash.head) == ("linear", "bn")
