"""How losses are built and called: choices, inputs, labels, and what a wrong call is told."""

import copy
import math

import pytest
import torch
from losses_by_hand import BITS, CLASSES, batch, every_case, needed

import hashfast
from hashfast.losses import CSQ, HSWD, METHODS, SWD, HashLoss, OrthoHash


def test_quantization_may_be_a_module_or_have_another_weight():
    outputs, ids, _ = batch()
    own = HSWD(BITS, target="balanced")
    criterion = CSQ(CLASSES, BITS, quantization=own, quantization_weight=2.0)
    bare = CSQ(CLASSES, BITS, quantization="none")(outputs, ids)
    assert criterion(outputs, ids).item() == pytest.approx((bare + 2 * own(outputs)).item())


TARGETS = {"csq": "centres", "orthohash": "codebook", "dpn": "targets"}


@pytest.mark.parametrize(("name", "argument"), TARGETS.items())
def test_own_class_codes(name, argument):
    codes = torch.ones(CLASSES, BITS)
    criterion = METHODS[name](CLASSES, BITS, **{argument: codes})
    assert torch.equal(getattr(criterion, argument).float(), codes)
    for wrong in (codes[:2], 0.5 * codes):
        with pytest.raises(ValueError, match=r"expected only -1 and \+1, in shape \[5, 8\]"):
            METHODS[name](CLASSES, BITS, **{argument: wrong})


@pytest.mark.parametrize("name", TARGETS)
def test_class_codes_follow_the_seed_and_are_saved(name):
    outputs, _, hot = batch(bits=12)
    saved, same, fresh = (METHODS[name](CLASSES, 12, seed=seed) for seed in (0, 0, 1))
    loss = saved(outputs, hot).item()
    assert same(outputs, hot).item() == loss != fresh(outputs, hot).item()
    fresh.load_state_dict(saved.state_dict())
    assert fresh(outputs, hot).item() == loss


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


@every_case
def test_every_loss_checks_its_call(make):
    outputs, ids, hot = batch()
    for wrong, error, message in (
        ((outputs[:, :4], ids), ValueError, r"\[6, 4\]; expected \[n, 8\]"),
        ((outputs[0], ids[:1]), ValueError, r"shape \[8\]"),
        ((outputs.long(), ids), TypeError, "before sign"),
        ((outputs, ids.double()), TypeError, "labels are float64"),
        ((outputs, hot[:, :4]), ValueError, r"multi-hot \[n, num_classes=5\]"),
        ((outputs, ids[:5]), ValueError, "5 labels for 6 outputs"),
        ((outputs, ids.to("meta")), ValueError, "labels are on meta"),
        ((outputs, ids + 3), ValueError, "num_classes=5 expects ids 0 to 4"),
        ((outputs, hot + 1), ValueError, "must be 0 or 1"),
    ):
        criterion = make()
        given = needed(criterion, outputs.detach())
        with pytest.raises(error, match=message):
            criterion(*wrong, **given)


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
    assert " ".join(METHODS) == "csq dbdh dch dhd dpn dsdh greedyhash hashnet orthohash"
    assert all(hasattr(hashfast.losses, name) for name in hashfast.losses.__all__)
    assert hashfast.losses.HSWD(bits=64)(torch.randn(8, 64)).shape == ()
    criterion = hashfast.losses.CSQ(num_classes=100, bits=64, quantization="hswd")
    assert criterion(torch.randn(8, 64), torch.arange(8)).shape == ()
    assert "quantization='hswd'" in repr(criterion)
    heads = {name: cls.head for name, cls in METHODS.items() if cls.head != "linear"}
    assert heads == {"orthohash": "bn", "dhd": "dhd"}


def test_what_is_no_tensor_is_named():
    criterion = CSQ(CLASSES, BITS)
    outputs, ids, _ = batch()
    with pytest.raises(
        TypeError, match=r"labels are a list; expected a torch\.Tensor of class ids"
    ):
        criterion(outputs, ids.tolist())
    with pytest.raises(
        TypeError, match=r"outputs are a ndarray; expected a torch\.Tensor \[n, 8\]"
    ):
        criterion(outputs.detach().numpy(), ids)
