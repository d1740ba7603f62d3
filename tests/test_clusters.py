"""Clusters of codes: found, assigned, masked, chosen in number, kept in files."""

import json
import sys
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hashfast.losses.distillation.clusters import Clusters, choose_k, nearest

pytestmark = pytest.mark.usefixtures("one_thread")


def groups(k=4, each=30, bits=32, flips=0.1, seed=0):
    """Codes around k random ones, each bit flipped now and then, and where they belong."""
    generator = torch.Generator().manual_seed(seed)
    around = 2 * torch.randint(2, (k, bits), generator=generator).float() - 1
    belongs = torch.arange(k).repeat_interleave(each)
    flipped = torch.rand(k * each, bits, generator=generator) < flips
    return around[belongs] * (1 - 2 * flipped.float()), belongs


@pytest.fixture(params=["faiss", "scikit-learn"])
def library(request, monkeypatch):
    if request.param == "faiss":
        pytest.importorskip("faiss")
    else:
        monkeypatch.setitem(sys.modules, "faiss", None)  # its import then fails
    return request.param


def same_partition(one, other):
    pairs = set(zip(one.tolist(), other.tolist(), strict=True))
    return len(pairs) == len(set(one.tolist())) == len(set(other.tolist()))


def test_groups_are_found(library):
    codes, belongs = groups()
    clusters = Clusters.fit(codes, 4, seed=3)
    assert same_partition(clusters.labels, belongs)
    assert (clusters.k, clusters.bits) == (4, 32)
    for cluster, (centre, expectation) in enumerate(
        zip(clusters.centres.tolist(), clusters.expectations.tolist(), strict=True)
    ):
        members = [
            code for code, y in zip(codes.tolist(), clusters.labels, strict=True) if y == cluster
        ]
        means = [sum(bit) / len(members) for bit in zip(*members, strict=True)]
        assert centre == pytest.approx(means, abs=1e-6)
        assert expectation == pytest.approx([abs(mean) for mean in means], abs=1e-6)
    distances = (codes.unsqueeze(1) - clusters.centres).square().sum(2)
    assert torch.equal(clusters.assign(codes), distances.argmin(1))
    assert clusters.inertia(codes) == pytest.approx(distances.min(1).values.sum().item(), rel=1e-5)


def test_the_seed_decides_and_the_global_state_does_not(library):
    codes = 2 * torch.randint(2, (300, 16)).float() - 1  # no clusters: every start ends elsewhere
    state, of_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    fits = [Clusters.fit(codes, 6, seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], of_numpy)  # noqa: NPY002
    for name, value in vars(fits[0]).items():
        assert torch.equal(value, getattr(fits[1], name)), name
    assert not torch.equal(fits[0].labels, fits[2].labels)


@pytest.mark.parametrize("delta", [0.0, 0.2, 0.3, 0.5, 0.6, 0.7, 1.0])
def test_masks_keep_expectations_from_delta_on(delta):
    # Ten codes: the mean of a bit with m ones is (2 m - 10) / 10, so that e hits the thresholds.
    codes = torch.tensor([[1.0 if row < ones else -1.0 for ones in range(11)] for row in range(10)])
    clusters = Clusters.fit(codes, 1)
    kept = [abs(2 * ones - 10) >= round(10 * delta) for ones in range(11)]
    assert clusters.masks(delta).tolist() == [kept]
    odd = Clusters(torch.zeros(1, 3), torch.tensor([[3 / 10, 7 / 10, 0.6]]), torch.zeros(0).long())
    assert odd.masks(delta).tolist() == [[delta <= 0.3, delta <= 0.7, delta <= 0.6]]


def test_few_distinct_codes_are_their_own_clusters(library):
    codes = torch.tensor([[1.0, 1, -1], [-1, -1, 1], [1, 1, -1], [1, 1, -1]])
    for k in (2, 3, 10):
        context = pytest.warns(UserWarning, match=f"2 clusters of codes instead of k = {k}")
        with context if k > 2 else warnings.catch_warnings():
            clusters = Clusters.fit(codes, k)
        assert clusters.inertia(codes) == 0
        assert clusters.labels.bincount().tolist() in ([1, 3], [3, 1])
        assert torch.equal(clusters.centres[clusters.labels], codes)
        assert torch.equal(clusters.expectations, torch.ones(2, 3))


def test_empty_clusters_are_dropped(monkeypatch):
    codes, belongs = groups(k=2)
    far = torch.full((1, 32), 9.0)
    centres = torch.stack([codes[belongs == c].mean(0) for c in (0, 1)])
    found = torch.cat([centres[:1], far, centres[:1], centres[1:]]).numpy()
    monkeypatch.setattr("hashfast.losses.distillation.clusters._centres", lambda *_: found)
    with pytest.warns(UserWarning, match="2 clusters of codes instead of k = 4"):
        clusters = Clusters.fit(codes, 4)
    assert torch.equal(clusters.centres, centres)
    assert torch.equal(clusters.labels, belongs)
    assert clusters.expectations.isfinite().all()


def test_equally_near_centres_give_the_first():
    centres = torch.tensor([[0.5, -0.5], [-0.5, 0.5], [0.5, -0.5]])
    codes = torch.tensor([[1.0, 1], [-1, -1], [-1, 1], [1, -1]])
    for dtype in (torch.float16, torch.float32, torch.float64, torch.int8):
        assert nearest(codes.to(dtype), centres).tolist() == [0, 0, 1, 0]
    assert nearest(codes[:0], centres).tolist() == []


def test_the_nearest_centre_is_not_the_longest():
    generator = torch.Generator().manual_seed(0)
    centres = torch.rand(7, 5, generator=generator) * torch.arange(1, 8).unsqueeze(1) / 4
    codes = torch.randn(50, 5, generator=generator)
    expected = [min(range(7), key=lambda c: (code - centres[c]).square().sum()) for code in codes]
    assert nearest(codes, centres).tolist() == expected
    assert len(set(expected)) > 3


@pytest.mark.parametrize("by", ["elbow", "silhouette"])
def test_the_number_of_groups_is_chosen(by):
    for k in (3, 6):
        codes, _ = groups(k=k, seed=k)
        assert choose_k(codes, range(2, 13), by) == k
    codes, _ = groups(k=4)
    assert choose_k(codes, [12, 2, 4, 4, 7], by) == 4
    assert choose_k(codes, [5], by) == 5


def test_the_elbow_is_deepest_below_the_line():
    from hashfast.losses.distillation.clusters import _depths

    assert _depths([2, 4, 8], [10.0, 3.0, 1.0]) == pytest.approx([0, 7 - 3, 0])
    assert _depths([2, 3, 5], [6.0, 6.0, 6.0]) == pytest.approx([0, 0, 0])


@pytest.mark.parametrize("by", ["elbow", "silhouette"])
def test_no_more_clusters_than_distinct_codes_are_chosen(by):
    corners = torch.tensor([[1.0, 1, 1], [-1, -1, 1], [1, -1, -1]])
    assert choose_k(corners.repeat(5, 1), by=by) in (2, 3)
    assert choose_k(corners.repeat(5, 1), [4, 9], by) == 3
    assert choose_k(corners[:1].repeat(5, 1), by=by) == 1
    assert choose_k(corners, by=by) in (2, 3)  # every code is alone


def test_silhouette_is_that_of_a_sample(monkeypatch):
    codes, _ = groups(k=5, each=40)
    assert choose_k(codes, range(2, 9), "silhouette") == 5
    seen = []

    def coefficient(rows, labels):
        seen.append(len(rows))
        return -abs(len(np.unique(labels)) - 3)

    monkeypatch.setattr("hashfast.losses.distillation.clusters._SILHOUETTE_ROWS", 50)
    monkeypatch.setattr("sklearn.metrics.silhouette_score", coefficient)
    assert choose_k(codes, range(2, 9), "silhouette") == 3
    assert seen == [50] * 7


def test_files(tmp_path):
    codes, _ = groups()
    clusters = Clusters.fit(codes, 4)
    path = tmp_path / "clusters.safetensors"
    clusters.save(path)
    read = Clusters.load(path)
    for name, value in vars(clusters).items():
        assert torch.equal(value, getattr(read, name)), name
    content = path.read_bytes()
    with pytest.raises(FileNotFoundError, match=r"no clusters in .*what Clusters.save wrote"):
        Clusters.load(tmp_path / "other.safetensors")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        clusters.save(tmp_path / "none" / "clusters.safetensors")
    for damaged in (b"", content[:20], content[:-5]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"clusters.safetensors is damaged, or no safetensors"):
            Clusters.load(path)


def test_files_that_hold_something_else(tmp_path):
    path = str(tmp_path / "file.safetensors")
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(ValueError, match="holds no clusters, but weight"):
        Clusters.load(path)
    good = {
        "centres": torch.zeros(2, 3),
        "expectations": torch.zeros(2, 3),
        "labels": torch.tensor([0, 1, 1]),
    }
    for change, facts, message in (
        ({}, {"format": 2}, "format 2; this version reads format 1"),
        ({}, {}, "KeyError"),
        ({}, [], "TypeError"),
        ({"more": torch.zeros(1)}, {"format": 1}, "unexpected keyword argument 'more'"),
        ({"labels": torch.tensor([0, 2])}, {"format": 1}, "labels reach from 0 to 2 in 2 clusters"),
        ({"labels": torch.tensor([-1, 1])}, {"format": 1}, "labels reach from -1 to 1"),
        ({"labels": torch.zeros(3)}, {"format": 1}, "labels are torch.float32; expected torch.int"),
        ({"centres": torch.full((2, 3), torch.nan)}, {"format": 1}, "centres must be finite"),
        ({"expectations": torch.full((2, 3), 1.5)}, {"format": 1}, "expectations in 0..1"),
        ({"expectations": torch.zeros(3, 3)}, {"format": 1}, r"have shape \[3, 3\] and labels"),
        ({"centres": torch.zeros(0, 3)}, {"format": 1}, r"centres have shape \[0, 3\]"),
    ):
        save_file(good | change, path, {"hashfast clusters": json.dumps(facts)})
        with pytest.raises(ValueError, match=f"cannot be read as clusters: .*{message}"):
            Clusters.load(path)


def test_wrong_codes_and_numbers():
    codes = torch.ones(3, 4)
    for wrong, message in (
        (codes[0], r"codes have shape \[4\]; expected \[N, bits\]"),
        (codes[:0], r"codes have shape \[0, 4\]"),
        (codes * 0.5, r"hold 0.5 at row 0, bit 0; expected -1 and \+1: pass outputs.sign\(\)"),
        (codes * torch.nan, "hold nan at row 0"),
        (codes.to(torch.uint8) * 255, "hold 255 at row 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Clusters.fit(wrong, 2)
        with pytest.raises(ValueError, match=message):
            choose_k(wrong)
    with pytest.raises(ValueError, match="k is 0; expected at least 1 cluster"):
        Clusters.fit(codes, 0)
    for candidates in ([], [1, 2]):
        with pytest.raises(ValueError, match="expected numbers of clusters, at least 2"):
            choose_k(codes, candidates)
    with pytest.raises(ValueError, match="by is 'gap'; expected 'elbow' or 'silhouette'"):
        choose_k(codes, by="gap")


def test_codes_of_any_number_type():
    codes, belongs = groups()
    for dtype in (torch.int8, torch.float16, torch.float64):
        assert same_partition(Clusters.fit(codes.to(dtype), 4).labels, belongs)
