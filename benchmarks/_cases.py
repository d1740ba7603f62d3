"""The shapes each operation is measured at, and what else a user could call for the same result.

An operation that is not in BUILDERS is measured on the largest of its own examples, so a new one
needs nothing here to be covered.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from _peers import HASHFAST, REFERENCE, Case, Peer
from torch import Tensor

from hashfast import ops
from hashfast.ops import OPS
from hashfast.ops.class_mmd import class_rows

BACKWARD = {
    "binary_wasserstein": "binary_wasserstein_backward",
    "class_mmd": "class_mean_backward",
    "masked_contrastive": "masked_contrastive_backward",
}

# Small shapes are those of the papers. `quick` is the first of each list; torch.compile takes
# seconds a shape, so it is left out there and of all shapes whose number is not in COMPILED.
CLASSES = {  # classes, real and synthetic rows a class, dimensions
    "cpu": [(10, 64, 10, 512), (10, 256, 10, 2048), (100, 64, 10, 2048), (1000, 64, 10, 512)],
    "cuda": [(10, 64, 10, 2048), (100, 64, 10, 2048), (1000, 32, 10, 2048), (1000, 128, 10, 2048)],
}
OUTPUTS = {  # rows, bits
    "cpu": [(64, 64), (1024, 64), (8192, 128)],
    "cuda": [(64, 64), (1024, 64), (8192, 128), (65536, 128)],
}
PAIRS = {  # anchors, keys, bits
    "cpu": [(64, 64, 64), (1024, 2048, 64), (2048, 2048, 64)],
    "cuda": [(64, 64, 64), (1024, 1024, 64), (8192, 8192, 64), (32768, 32768, 64)],
}
BROADCAST = 2**27  # entries of a tensor of all pairs and bits that fits anywhere
SEARCHES = {  # queries, database codes, bits
    "cpu": [
        *[(64, 10_000, 64), (64, 59_000, 64), (1, 200_000, 64), (64, 200_000, 64)],
        *[(64, 20_000, 32), (64, 20_000, 128), (64, 20_000, 256)],
    ],
    "cuda": [
        *[(64, 10_000, 64), (1000, 59_000, 64), (1, 1_000_000, 64), (64, 1_000_000, 64)],
        *[(1000, 59_000, 32), (1000, 59_000, 128), (1000, 59_000, 256)],
    ],
}
HITS = {  # queries, database codes, bits, ranks that count; the reference sorts all of them
    "cpu": [(64, 10_000, 64, 1000), (128, 59_000, 64, 1000), (128, 59_000, 64, 59_000)],
    "cuda": [(64, 10_000, 64, 1000), (1000, 59_000, 64, 1000), (1000, 59_000, 64, 59_000)],
}
K, TEMPERATURE, GROUPS = 100, 0.3, 10
COMPILED = {"cpu": (1,), "cuda": (1, 3)}


def plan(names: Sequence[str], device: str, quick: bool) -> list[tuple[str, int]]:
    """(operation, number of its shape): every operation's first shape, then the second ones, ..."""
    counts = {
        name: 1 if quick or name not in BUILDERS else len(BUILDERS[name][0][_kind(device)])
        for name in names
    }
    return [
        (name, i)
        for i in range(max(counts.values(), default=0))
        for name in names
        if i < counts[name]
    ]


def build(name: str, number: int, device: str, *, threads: int, compiled: bool) -> Case:
    """The case with its inputs drawn; the same numbers every time."""
    torch.manual_seed(number)
    compiled = compiled and number in COMPILED[_kind(device)]
    if name in BUILDERS:
        shapes, builder = BUILDERS[name]
        return builder(name, shapes[_kind(device)][number], device, threads, compiled)
    arguments = max(OPS[name].examples(device, torch.float32), key=_elements)
    return _case(name, "largest example", arguments, device, compiled=compiled)


def _kind(device: str) -> str:
    return torch.device(device).type


def _elements(arguments: tuple) -> int:
    return sum(a.numel() for a in arguments if isinstance(a, Tensor))


def _case(
    name: str,
    shape: str,
    arguments: tuple[Any, ...],
    device: str,
    *,
    compiled: bool,
    ours: Callable | None = None,
    reference: Callable | None = None,
    others: Sequence[Peer] = (),
    size: int | None = None,
    baseline: str = REFERENCE,
    differentiable: tuple[int, ...] = (),
    capturable: bool = True,
) -> Case:
    """hashfast, the reference, torch.compile of the reference, and what else there is.

    capturable: whether a CUDA graph can hold the reference.
    """
    op, kind = OPS[name], _kind(device)
    forward = op.backend(kind)
    backward = OPS[BACKWARD[name]].backend(kind) if differentiable else ""
    both = forward if forward == backward else f"{forward} + {backward}"
    served = {"forward": forward, "backward": backward, "forward+backward": both}
    plain = reference or op.reference
    peers = [
        Peer(HASHFAST, ours or op, served, capturable=capturable or forward != "reference"),
        Peer(REFERENCE, plain, "PyTorch", capturable=capturable),
    ]
    if compiled:
        # A fresh cache for each shape: otherwise the second shape gets a slower, dynamic kernel.
        torch._dynamo.reset()
        # Timing a backward pass alone repeats it over one forward pass.
        torch._functorch.config.donated_buffer = False
        fused = torch.compile(plain, dynamic=False)
        peers.append(Peer("torch.compile", fused, "Inductor", capturable=capturable))
    peers += others
    floating = [a.dtype for a in arguments if isinstance(a, Tensor) and a.is_floating_point()]
    dtype = floating[0] if floating else torch.uint8
    if all(peer.name != baseline for peer in peers):
        baseline = REFERENCE
    size = _elements(arguments) if size is None else size
    return Case(name, shape, size, dtype, arguments, tuple(peers), baseline, differentiable)


# ---- class_mmd -----------------------------------------------------------------------------


def _class_features(shape: tuple, device: str) -> tuple:
    classes, real, synthetic, dims = shape
    labels = torch.arange(classes, device=device)
    return (
        torch.randn(classes * real, dims, device=device).relu(),
        torch.randn(classes * synthetic, dims, device=device).relu(),
        labels.repeat_interleave(real),
        labels.repeat_interleave(synthetic),
        classes,
    )


def _class_loop(real: Tensor, synthetic: Tensor, _, __, classes: int) -> Tensor:
    """As in the public code of DM and IDC: rows come class by class, equally many of each."""
    total = real.new_zeros(())
    n, m = len(real) // classes, len(synthetic) // classes
    for c in range(classes):
        gap = real[c * n : (c + 1) * n].mean(0) - synthetic[c * m : (c + 1) * m].mean(0)
        total = total + gap.square().sum()
    return total


def _reshaped_means(real: Tensor, synthetic: Tensor, _, __, classes: int) -> Tensor:
    means = (rows.view(classes, -1, rows.shape[1]).mean(1) for rows in (real, synthetic))
    return torch.sub(*means).square().sum()


def _class_mmd(name: str, shape: tuple, device: str, threads: int, compiled: bool) -> Case:
    def reference(real, synthetic, real_labels, synthetic_labels, classes):
        real_classes = class_rows(real_labels, classes)
        synthetic_classes = class_rows(synthetic_labels, classes)
        return OPS[name].reference(real, synthetic, *real_classes, *synthetic_classes)[0]

    classes, real, synthetic, dims = shape
    arguments = _class_features(shape, device)
    made = [class_rows(labels, classes) for labels in arguments[2:4]]
    return _case(
        name,
        f"C={classes} real={real} synthetic={synthetic} D={dims}",
        arguments,
        device,
        compiled=compiled,
        ours=ops.class_mmd,
        reference=reference,
        others=[
            Peer(
                "hashfast with class_rows",
                lambda real, synthetic, *_: ops.class_mmd(real, synthetic, *made, classes),
                OPS[name].backend(_kind(device)),
            ),
            Peer("class loop", _class_loop, "PyTorch"),
            Peer("reshaped means", _reshaped_means, "PyTorch"),
        ],
        baseline="class loop",
        differentiable=(1,),
    )


def _class_mean_backward(
    name: str, shape: tuple, device: str, threads: int, compiled: bool
) -> Case:
    _, synthetic, _, labels, classes = _class_features(shape, device)
    grad = torch.randn(classes, synthetic.shape[1], device=device)
    scale = torch.full((), 0.5, device=device)
    arguments = (grad, scale, *class_rows(labels, classes), torch.float32)
    text = f"C={classes} rows={len(labels)} D={synthetic.shape[1]}"
    return _case(name, text, arguments, device, compiled=compiled, size=synthetic.numel())


# ---- binary_wasserstein --------------------------------------------------------------------


def _outputs(shape: tuple, device: str) -> tuple[Tensor, Tensor, None, bool]:
    outputs = torch.randn(shape, device=device)
    negatives = torch.randint(0, shape[0] + 1, shape[1:], dtype=torch.int32, device=device)
    return outputs, negatives, None, False


def _sorted_columns(outputs: Tensor, negatives: Tensor, _, __) -> Tensor:
    """Sort the columns and compare with the sorted target, given here for nothing."""
    row = torch.arange(len(outputs), device=outputs.device).unsqueeze(1)
    target = torch.where(row < negatives, -1.0, 1.0)
    return (outputs.sort(dim=0).values - target).square().mean(0)


def _binary_wasserstein(name: str, shape: tuple, device: str, threads: int, compiled: bool) -> Case:
    return _case(
        name,
        f"n={shape[0]} b={shape[1]}",
        _outputs(shape, device),
        device,
        compiled=compiled,
        others=[Peer("torch.sort", _sorted_columns, "PyTorch", compared=(0,))],
        baseline="torch.sort",
        differentiable=(0,),
    )


def _binary_wasserstein_backward(
    name: str, shape: tuple, device: str, threads: int, compiled: bool
) -> Case:
    outputs, negatives, *_ = _outputs(shape, device)
    target = ops.binary_wasserstein(outputs, negatives)[1]
    arguments = (torch.randn(shape[1], device=device), outputs, target)
    return _case(name, f"n={shape[0]} b={shape[1]}", arguments, device, compiled=compiled)


# ---- masked_contrastive --------------------------------------------------------------------


def _contrast(shape: tuple, device: str) -> tuple:
    anchors, keys = (torch.randn(n, shape[2], device=device) for n in shape[:2])
    groups = [torch.randint(0, GROUPS, (n,), device=device) for n in shape[:2]]
    return anchors, keys, *groups, None, TEMPERATURE


def _masked_logsumexp(logits, anchor_groups, key_groups):
    same = anchor_groups.unsqueeze(1) == key_groups
    return logits.masked_fill(same, -torch.inf).logsumexp(1)


def _cosine_logits(anchors, keys, anchor_groups, key_groups, _, temperature):
    logits = F.normalize(anchors) @ F.normalize(keys).T / temperature
    return _masked_logsumexp(logits, anchor_groups, key_groups)


def _broadcast_logits(anchors, keys, anchor_groups, key_groups, _, temperature):
    """As public NT-Xent codes do: every pair of rows side by side."""
    logits = F.cosine_similarity(anchors.unsqueeze(1), keys.unsqueeze(0), dim=2) / temperature
    return _masked_logsumexp(logits, anchor_groups, key_groups)


def _masked_contrastive(name: str, shape: tuple, device: str, threads: int, compiled: bool) -> Case:
    def ours(anchors, keys, anchor_groups, key_groups, excluded, temperature):
        masks = anchor_groups, key_groups, excluded
        return ops.masked_contrastive(anchors, keys, temperature, *masks)

    others = [Peer("torch cosine", _cosine_logits, "PyTorch")]
    if shape[0] * shape[1] * shape[2] <= BROADCAST:
        others.append(Peer("broadcast", _broadcast_logits, "PyTorch"))
    return _case(
        name,
        f"M={shape[0]} R={shape[1]} b={shape[2]}",
        _contrast(shape, device),
        device,
        compiled=compiled,
        ours=ours,
        reference=lambda *arguments: OPS[name].reference(*arguments, False)[0],
        others=others,
        size=shape[0] * shape[1],
        baseline="torch cosine",
        differentiable=(0,),
    )


def _masked_contrastive_backward(
    name: str, shape: tuple, device: str, threads: int, compiled: bool
) -> Case:
    """The keys' gradient; the anchors' is made in the forward pass."""
    forward = _contrast(shape, device)
    logsumexp = OPS["masked_contrastive"](*forward, False)[0]
    arguments = (torch.ones_like(logsumexp), logsumexp, *forward)
    text = f"M={shape[0]} R={shape[1]} b={shape[2]}"
    return _case(name, text, arguments, device, compiled=compiled, size=shape[0] * shape[1])


# ---- hamming -------------------------------------------------------------------------------


def _codes(shape: tuple, device: str) -> tuple[Tensor, Tensor]:
    queries, n, bits = shape[:3]
    return tuple(
        torch.randint(0, 256, (rows, bits // 8), dtype=torch.uint8, device=device)
        for rows in (queries, n)
    )


def _search(shape: tuple) -> dict[str, Any]:
    """Bytes of codes compared are the size. The references copy a table from the host and
    synchronise, so no graph holds them."""
    queries, n, bits = shape[:3]
    text = " ".join(f"{letter}={size}" for letter, size in zip("qnbk", shape, strict=False))
    return {"shape": text, "size": queries * n * bits // 8, "capturable": False}


def _faiss(database: Tensor, threads: int) -> Iterator[Peer]:
    """IndexBinaryFlat, if faiss is installed; codes are added beforehand, untimed."""
    try:
        import faiss
    except ImportError:
        return
    faiss.omp_set_num_threads(threads)
    index = faiss.IndexBinaryFlat(8 * database.shape[1])
    index.add(database.numpy())
    # Ids are not compared: faiss leaves ties at the k-th place to chance.
    backend = f"faiss {faiss.__version__}"

    def search(query: Tensor, _: Tensor, k: int, __: None) -> tuple:
        return index.search(query.numpy(), k)

    yield Peer("faiss", search, backend, compared=(0,))


def _hamming_topk(name: str, shape: tuple, device: str, threads: int, compiled: bool) -> Case:
    query, database = _codes(shape, device)
    return _case(
        name,
        arguments=(query, database, K, None),
        device=device,
        compiled=compiled,
        others=list(_faiss(database, threads)) if _kind(device) == "cpu" else [],
        baseline="faiss",
        **_search(shape),
    )


def _hamming_histogram(name: str, shape: tuple, device: str, threads: int, compiled: bool) -> Case:
    query, database = _codes(shape, device)
    arguments = (query, database, None, None)
    return _case(name, arguments=arguments, device=device, compiled=compiled, **_search(shape))


def _hamming_hits(name: str, shape: tuple, device: str, threads: int, compiled: bool) -> Case:
    query, database = _codes(shape, device)
    labels = [torch.randint(0, GROUPS, (len(rows),), device=device) for rows in (query, database)]
    arguments = (query, database, shape[3], *labels, None)
    return _case(name, arguments=arguments, device=device, compiled=compiled, **_search(shape))


def _hamming_range_count(
    name: str, shape: tuple, device: str, threads: int, compiled: bool
) -> Case:
    arguments = (*_codes(shape, device), shape[2] // 4, None)
    return _case(name, arguments=arguments, device=device, compiled=compiled, **_search(shape))


def _hamming_range(name: str, shape: tuple, device: str, threads: int, compiled: bool) -> Case:
    query, database = _codes(shape, device)
    radius = shape[2] // 4
    limits = ops.hamming_range(query, database, radius)[0]
    arguments = (query, database, radius, limits, None)
    return _case(name, arguments=arguments, device=device, compiled=compiled, **_search(shape))


Builder = Callable[[str, tuple, str, int, bool], Case]
BUILDERS: dict[str, tuple[dict[str, list[tuple]], Builder]] = {
    "binary_wasserstein": (OUTPUTS, _binary_wasserstein),
    "binary_wasserstein_backward": (OUTPUTS, _binary_wasserstein_backward),
    "class_mean_backward": (CLASSES, _class_mean_backward),
    "class_mmd": (CLASSES, _class_mmd),
    "hamming_histogram": (SEARCHES, _hamming_histogram),
    "hamming_hits": (HITS, _hamming_hits),
    "hamming_range": (SEARCHES, _hamming_range),
    "hamming_range_count": (SEARCHES, _hamming_range_count),
    "hamming_topk": (SEARCHES, _hamming_topk),
    "masked_contrastive": (PAIRS, _masked_contrastive),
    "masked_contrastive_backward": (PAIRS, _masked_contrastive_backward),
}
