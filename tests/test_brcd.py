"""BRCD against its equations as loops, its switches, its clusters and its state."""

import itertools
import math

import pytest
import torch

from hashfast.losses.distillation.brcd import BRCD, symmetric_contrast, teacher_contrast
from hashfast.losses.distillation.clusters import Clusters

pytestmark = pytest.mark.usefixtures("one_thread")

BITS, IMAGES, BATCH = 8, 40, 6
INDEX = torch.tensor([31, 4, 17, 0, 39, 4])
SWITCHES = ("bit_mask", "false_negatives", "offset_positives")


def example(dtype=torch.float64, seed=0):
    """Real-valued student, codes of the teacher of all images and of six augmentations, clusters.

    Images 0 to 39 are in clusters 0, 1, 2, 0, ...; the centres are the first three codes.
    """
    generator = torch.Generator().manual_seed(seed)

    def codes(n):
        return 2 * torch.randint(2, (n, BITS), generator=generator).to(dtype) - 1

    teacher = codes(IMAGES)
    student = torch.randn(BATCH, BITS, generator=generator, dtype=dtype).requires_grad_()
    augmented = codes(BATCH)
    augmented[0], augmented[1] = teacher[INDEX[0] % 3], teacher[INDEX[1] % 3]  # no offset
    expectations = torch.rand(3, BITS, generator=generator)
    clusters = Clusters(teacher[:3].float(), expectations, torch.arange(IMAGES) % 3)
    return student, teacher, augmented, clusters


def built(clusters, **options):
    criterion = BRCD(BITS, **options)
    criterion.use(clusters)
    return criterion


def called(criterion, student, teacher, augmented):
    return criterion(student, teacher[INDEX], teacher_aug=augmented, index=INDEX)


def dot(x, y):
    return sum(a * b for a, b in zip(x, y, strict=True))


def cosine(x, y):
    norms = math.sqrt(dot(x, x) * dot(y, y))
    return dot(x, y) / norms if norms else 0.0


def masked(code, mask):
    return [a * m for a, m in zip(code, mask, strict=True)]


def nearest_centre(code, centres):
    distances = [sum((a - b) ** 2 for a, b in zip(code, c, strict=True)) for c in centres]
    return distances.index(min(distances))


def given(student, teacher, augmented, clusters, delta):
    """Lists for the loops; the masks of equation 9."""
    masks = [[float(e >= delta) for e in row] for row in clusters.expectations.tolist()]
    own = [clusters.labels[i].item() for i in INDEX]
    rows = (student.tolist(), teacher[INDEX].tolist(), augmented.tolist())
    return *rows, own, clusters.centres.tolist(), masks


def paper_loops(
    case,
    alpha=0.8,
    delta=0.5,
    tau=0.3,
    bit_mask=True,
    false_negatives=True,
    offset_positives=True,
    anchor_temperature=True,
):
    """Equation 10 for every anchor, as it is written."""
    student, teacher, augmented, own, centres, masks = given(*case, delta)
    other = [nearest_centre(code, centres) for code in augmented]
    if not bit_mask:
        masks = [[1.0] * BITS for _ in masks]
    losses = []
    for i, h in enumerate(student):
        weight = 1 if offset_positives and own[i] != other[i] else alpha
        view = masked(h, masks[own[i]])
        mixed = weight * cosine(h, teacher[i])
        mixed += (1 - weight) * cosine(view, masked(augmented[i], masks[other[i]]))
        total = math.exp(cosine(h, teacher[i]) / (tau if anchor_temperature else 1))
        total += math.exp(cosine(view, masked(augmented[i], masks[other[i]])) / tau)
        for r in range(len(student)):
            for code, cluster in ((teacher[r], own[r]), (augmented[r], other[r])):
                if r != i and not (false_negatives and cluster == own[i]):
                    total += math.exp(cosine(view, masked(code, masks[cluster])) / tau)
        losses.append(-math.log(math.exp(mixed / tau) / total))
    return losses


def released_loops(
    case,
    alpha=0.8,
    delta=0.5,
    tau=0.3,
    bit_mask=True,
    false_negatives=True,
    offset_positives=True,
):
    """The released loss of every one of the 2M rows."""
    student, teacher, augmented, own, centres, masks = given(*case, delta)
    m = len(student)
    anchors = [cosine(h, t) / tau for h, t in zip(student, teacher, strict=True)]
    if bit_mask:
        student = [masked(h, masks[y]) for h, y in zip(student, own, strict=True)]
        augmented = [masked(h, masks[y]) for h, y in zip(augmented, own, strict=True)]
    other = [nearest_centre(code, centres) for code in augmented]
    rows, columns = student + augmented, own + (other if offset_positives else own)
    losses = []
    for i, row in enumerate(rows):
        partner, image = (i + m) % (2 * m), i % m
        weight = 1 if offset_positives and own[image] != other[image] else alpha
        positive = weight * anchors[image] + (1 - weight) * cosine(row, rows[partner]) / tau
        total = math.exp(positive)
        for k in range(2 * m):
            if k not in (i, partner):
                false = false_negatives and columns[k] == own[image]
                total += math.exp(cosine(row, rows[k]) / tau + (-1000 if false else 0))
        losses.append(math.log(total) - positive)
    return losses


ALL_SWITCHES = [
    dict(zip(SWITCHES, on, strict=True)) for on in itertools.product([True, False], repeat=3)
]


@pytest.mark.parametrize(
    "switches", ALL_SWITCHES, ids=lambda s: "".join(map(str, map(int, s.values())))
)
@pytest.mark.parametrize(
    "options", [{}, {"alpha": 0.6, "delta": 0.3}, {"alpha": 1.0, "temperature": 0.7}]
)
def test_formula(switches, options):
    case = example()
    loops = {"tau" if name == "temperature" else name: x for name, x in options.items()} | switches
    for reduction in ("mean", "sum"):
        for anchor in (True, False):
            form = {"reduction": reduction, "anchor_temperature": anchor}
            loss = called(built(case[3], **options, **switches, **form), *case[:3])
            expected = sum(paper_loops(case, **loops, anchor_temperature=anchor))
            expected /= BATCH if reduction == "mean" else 1
            assert loss.item() == pytest.approx(expected, rel=1e-12), form
        loss = called(
            built(case[3], **options, **switches, variant="released", reduction=reduction),
            *case[:3],
        )
        expected = sum(released_loops(case, **loops))
        expected /= 2 * BATCH if reduction == "mean" else 1
        assert loss.item() == pytest.approx(expected, rel=1e-12), reduction


def test_the_example_has_every_kind_of_pair():
    """Offset positives and others, false negatives of both kinds, masks that keep and drop."""
    student, teacher, augmented, clusters = example()
    own, other = clusters.labels[INDEX], clusters.assign(augmented)
    assert len((own == other).unique()) == 2
    off = ~torch.eye(BATCH, dtype=torch.bool)
    for columns in (own, other):
        assert len((own.unsqueeze(1) == columns)[off].unique()) == 2
    kept = clusters.masks(0.5)
    assert kept.any(1).all()
    assert not kept.all(1).any()
    # Each switch changes the loss, in both variants.
    for variant in ("paper", "released"):
        whole = called(built(clusters, variant=variant), student, teacher, augmented)
        for switch in SWITCHES:
            criterion = built(clusters, variant=variant, **{switch: False})
            assert called(criterion, student, teacher, augmented).item() != whole.item(), switch


@pytest.mark.parametrize("switches", [ALL_SWITCHES[0], ALL_SWITCHES[-1]], ids=["all", "none"])
@pytest.mark.parametrize("options", [{}, {"anchor_temperature": False}, {"variant": "released"}])
def test_gradients(options, switches):
    student, *rest, clusters = example()
    criterion = built(clusters, **options, **switches)
    assert torch.autograd.gradcheck(lambda s: called(criterion, s, *rest), student)


def test_no_gradient_flows_to_the_teacher():
    student, teacher, augmented, clusters = example()
    teacher, augmented = teacher[INDEX].requires_grad_(), augmented.requires_grad_()
    for variant in ("paper", "released"):
        criterion = built(clusters, variant=variant)
        loss = criterion(student, teacher, teacher_aug=augmented, index=INDEX)
        grads = torch.autograd.grad(loss, (student, teacher, augmented), allow_unused=True)
        assert grads[0].abs().max() > 0
        assert grads[1] is None
        assert grads[2] is None


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_masked_rows_have_cosine_zero_and_no_gradient(variant):
    student, teacher, augmented, clusters = example()
    nothing = clusters.expectations.clone()
    nothing[INDEX[0] % 3] = 0
    case = student, teacher, augmented, Clusters(clusters.centres, nothing, clusters.labels)
    # With alpha 0 and no own term in the numerator, only masked similarities draw the student.
    criterion = built(case[3], alpha=0.0, reduction="sum", variant=variant)
    loss = called(criterion, *case[:3])
    loops = paper_loops if variant == "paper" else released_loops
    assert loss.item() == pytest.approx(sum(loops(case, alpha=0.0)), rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, student)
    assert gradient.isfinite().all()
    everything = built(case[3], delta=1.0, alpha=0.0, reduction="sum", variant=variant)
    (bare,) = torch.autograd.grad(called(everything, *case[:3]), student)
    assert bare.isfinite().all()
    unmasked = torch.zeros(BATCH, BITS).double()
    losses = teacher_contrast(
        student,
        teacher[INDEX],
        augmented,
        alpha=0.0,
        masks=(unmasked, unmasked),
        clusters=(torch.arange(BATCH), torch.arange(BATCH)),
    )
    # a_i is all that is left: exp a_i + 1 for the augmentation + 1 for each of 2 (M - 1) others.
    for h, t, one in zip(student.tolist(), teacher[INDEX].tolist(), losses, strict=True):
        assert one.item() == pytest.approx(math.log(math.exp(cosine(h, t) / 0.3) + 2 * BATCH - 1))


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_anchors_without_negatives(variant):
    student, teacher, augmented, clusters = example()
    for labels, rows in ((torch.zeros(IMAGES).long(), BATCH), (clusters.labels, 1)):
        # All in one cluster whose centre every augmentation is nearest to, or a batch of one.
        centres = torch.cat([torch.zeros(1, BITS), torch.full((2, BITS), 9.0)])
        case = Clusters(centres, clusters.expectations, labels)
        criterion = built(case, variant=variant)
        loss = criterion(
            student[:rows],
            teacher[INDEX[:rows]],
            teacher_aug=augmented[:rows],
            index=INDEX[:rows],
        )
        (gradient,) = torch.autograd.grad(loss, student)
        assert loss.isfinite()
        assert gradient.isfinite().all()
        if variant == "released":  # the one positive is all there is
            assert loss.item() == pytest.approx(0, abs=1e-15)
        else:
            assert loss.item() > 0


def test_students_learn_the_codes_of_the_teacher():
    """The codes themselves, not only what is near what: search compares them with the teacher's."""
    generator = torch.Generator().manual_seed(0)
    teacher = 2 * torch.randint(2, (16, 32), generator=generator).float() - 1
    augmented = teacher.clone()
    augmented[:, :3] *= -1
    student = torch.randn(16, 32, generator=generator).requires_grad_()
    criterion = BRCD(32, k=4)
    criterion.prepare(teacher)
    optimiser = torch.optim.Adam([student], lr=0.1)
    for _ in range(60):
        optimiser.zero_grad()
        criterion(student, teacher, teacher_aug=augmented, index=torch.arange(16)).backward()
        optimiser.step()
    assert (student.sign() == teacher).float().mean() > 0.95


def test_given_pairs_are_no_negatives():
    """symmetric_contrast leaves out keys by row, as the matrix of the released class does."""
    student, teacher, augmented, _ = example()
    out = torch.rand(2 * BATCH, 2 * BATCH) < 0.4
    excluded = torch.where(out, torch.arange(2 * BATCH), -1)
    alpha = torch.rand(BATCH, dtype=torch.float64)
    ours = symmetric_contrast(
        student, teacher[INDEX], augmented, alpha=alpha, temperature=0.5, excluded=excluded
    )
    rows = student.tolist() + augmented.tolist()
    for i, loss in enumerate(ours):
        partner, image = (i + BATCH) % (2 * BATCH), i % BATCH
        own = cosine(rows[image], teacher[INDEX[image]].tolist())
        positive = alpha[image].item() * own
        positive += (1 - alpha[image].item()) * cosine(rows[i], rows[partner])
        total = math.exp(positive / 0.5) + sum(
            math.exp(cosine(rows[i], rows[k]) / 0.5)
            for k in range(2 * BATCH)
            if k not in (i, partner) and not out[i, k]
        )
        assert loss.item() == pytest.approx(math.log(total) - positive / 0.5, rel=1e-12)


def separate(each=20, bits=32):
    """Codes around three different ones, three bits of each flipped: [3 * each, bits]."""
    generator = torch.Generator().manual_seed(0)
    around = torch.tensor([[1.0] * bits, [-1.0] * bits, [1.0, -1.0] * (bits // 2)])
    codes = around.repeat_interleave(each, 0)
    flipped = torch.rand(codes.shape, generator=generator).argsort(1)[:, :3]
    return codes.scatter(1, flipped, -codes.gather(1, flipped))


@pytest.mark.parametrize("k", [3, "elbow", "silhouette"])
def test_prepare_finds_the_clusters(k):
    codes = separate()
    criterion = BRCD(32, k=k, delta=0.6)
    criterion.prepare(codes, torch.zeros(60))
    assert criterion.clusters.k == 3
    blocks = criterion.pseudo_labels.view(3, 20)
    assert (blocks == blocks[:, :1]).all()
    expected = Clusters.fit(codes, 3)
    for name, value in vars(expected).items():
        assert torch.equal(getattr(criterion.clusters, name), value), name
    assert torch.equal(criterion.masks, expected.masks(0.6))
    # Of outputs before sign the codes are the signs.
    outputs = BRCD(32, k=k, delta=0.6)
    outputs.prepare(codes * (0.1 + torch.rand(60, 32)))
    for name, value in criterion.state_dict().items():
        assert torch.equal(outputs.state_dict()[name], value), name


def test_given_clusters_are_kept():
    student, teacher, augmented, clusters = example()
    criterion = built(clusters)
    before = called(criterion, student, teacher, augmented)
    criterion.prepare(teacher)
    assert torch.equal(criterion.pseudo_labels, clusters.labels)
    assert called(criterion, student, teacher, augmented).item() == before.item()
    with pytest.raises(ValueError, match=r"clusters given are of 40 images, .* has 39"):
        criterion.prepare(teacher[1:])


@pytest.mark.parametrize("prepared", [True, False])
def test_the_state_holds_the_clusters(prepared):
    student, teacher, augmented, _ = example()
    criterion = BRCD(BITS, k=5)
    criterion.prepare(teacher)
    state = criterion.state_dict()
    assert set(state) == {"centres", "expectations", "pseudo_labels"}
    resumed = BRCD(BITS, k=2)
    if prepared:
        resumed.prepare(teacher[:30])
    resumed.load_state_dict(state)
    for name, value in state.items():
        assert torch.equal(getattr(resumed, name), value), name
    again = called(resumed, student, teacher, augmented)
    assert again.item() == called(criterion, student, teacher, augmented).item()
    fewer = BRCD(BITS, k=2)
    fewer.prepare(teacher[:30])
    resumed.load_state_dict(fewer.state_dict())
    with pytest.raises(ValueError, match=r"index reaches from 0 to 39; .* of 30 images"):
        called(resumed, student, teacher, augmented)
    with pytest.raises(RuntimeError, match="size mismatch for centres"):
        BRCD(16).load_state_dict(state)


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32(dtype, variant):
    student, teacher, augmented, clusters = example(dtype=torch.float32)
    criterion = built(clusters, variant=variant)
    exact = called(criterion, student.to(dtype).float(), teacher, augmented)
    half = called(criterion, student.to(dtype), teacher.to(dtype), augmented.to(dtype))
    assert half.dtype == torch.float32
    assert half.item() == exact.item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        auto = called(criterion, student.to(dtype).float(), teacher, augmented)
    assert auto.item() == exact.item()
    # The student's type counts, whatever the teacher's.
    for options in ({}, {"bit_mask": False}):
        criterion = built(clusters, variant=variant, **options)
        doubled = called(criterion, student, teacher.double(), augmented.double())
        assert doubled.dtype == torch.float32


def test_thresholds_are_kept_in_other_types():
    clusters = Clusters(torch.zeros(1, 3), torch.tensor([[0.7, 0.3, 0.6]]), torch.zeros(4).long())
    criterion = BRCD(3, delta=0.7)
    criterion.use(clusters)
    assert criterion.double().masks.tolist() == [[True, False, False]]


def test_an_empty_batch_is_zero():
    *_, clusters = example()
    student = torch.zeros(0, BITS, requires_grad=True)
    with pytest.warns(UserWarning, match="distillation loss is undefined"):
        loss = built(clusters)(
            student, student, teacher_aug=student, index=torch.zeros(0, dtype=torch.int64)
        )
    loss.backward()
    assert loss.item() == 0


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_it_compiles_whole(variant):
    student, teacher, augmented, clusters = example()
    criterion = built(clusters, variant=variant)
    eager = called(criterion, student, teacher, augmented)
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    assert called(compiled, student, teacher, augmented).item() == pytest.approx(eager.item())


def test_calls_that_miss_something():
    student, teacher, augmented, clusters = example()
    batch = teacher[INDEX]
    with pytest.raises(ValueError, match=r"no clusters yet: call prepare\(teacher_codes\)"):
        called(BRCD(BITS), student, teacher, augmented)
    with pytest.raises(ValueError, match="no clusters yet"):
        _ = BRCD(BITS).clusters
    criterion = built(clusters)
    with pytest.raises(ValueError, match="BRCD needs teacher_aug"):
        criterion(student, batch, index=INDEX)
    with pytest.raises(ValueError, match="BRCD needs index"):
        criterion(student, batch, teacher_aug=augmented)
    with pytest.raises(ValueError, match="teacher_aug has 2 views of an image; BRCD takes one"):
        criterion(student, batch, teacher_aug=torch.stack([augmented] * 2, 1), index=INDEX)
    for wrong in (INDEX + 1, INDEX - 1):
        with pytest.raises(ValueError, match=r"index reaches from .* of 40 images: prepare BRCD"):
            criterion(student, batch, teacher_aug=augmented, index=wrong)
    with pytest.raises(ValueError, match="of codes of 8 bits, not 16"):
        BRCD(16).use(clusters)
    with pytest.raises(ValueError, match=r"shape \[40, 8\]; expected \[n, 16\]"):
        BRCD(16).prepare(teacher)


def test_wrong_options():
    for options, message in (
        ({"teacher_bits": 16}, "teacher_bits is 16, bits 8: BRCD compares"),
        ({"k": 0}, "k is 0; expected a number of clusters, 'elbow' or 'silhouette'"),
        ({"k": "gap"}, "k is 'gap'"),
        ({"alpha": 1.1}, "alpha is 1.1; expected 0 to 1"),
        ({"delta": -0.1}, "delta is -0.1; expected 0 to 1"),
        ({"delta": math.nan}, "delta is nan"),
        ({"temperature": 0.0}, "temperature is 0.0; it must be positive"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"variant": "official"}, "unknown variant 'official'; choose 'paper' or 'released'"),
        ({"reduction": "none"}, "unknown reduction 'none'; choose 'mean' or 'sum'"),
        ({"variant": "released", "anchor_temperature": False}, "is the printed equation 10"),
    ):
        with pytest.raises(ValueError, match=message):
            BRCD(BITS, **options)
    assert BRCD(BITS, BITS).teacher_bits == BITS
    assert "k=10, alpha=0.8, delta=0.5" in repr(BRCD(BITS))
