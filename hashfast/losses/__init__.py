"""Losses: drop-in modules over the outputs before sign.

`METHODS` maps the lower-case name of each supervised hashing loss to its class, `UNSUPERVISED` the
names of those that need no labels, and `DISTILLATION` those that follow a teacher. To add one: a
file with a subclass of `HashLoss`, `UnsupervisedLoss` or `Distillation`, and its import line.
"""

from hashfast.losses._base import HashLoss
from hashfast.losses._unsupervised import UnsupervisedLoss
from hashfast.losses.bihalf import BiHalf
from hashfast.losses.cibhash import CIBHash
from hashfast.losses.class_mean_mmd import ClassMeanMMD
from hashfast.losses.contrastive import InfoNCE, MaskedContrastive, NTXent
from hashfast.losses.csq import CSQ as CSQ
from hashfast.losses.dbdh import DBDH as DBDH
from hashfast.losses.dch import DCH as DCH
from hashfast.losses.dhd import DHD as DHD
from hashfast.losses.distillation import BRCD as BRCD
from hashfast.losses.distillation import CRCD as CRCD
from hashfast.losses.distillation import CRD as CRD
from hashfast.losses.distillation import DISTILLATION, Clusters, Distillation, choose_k
from hashfast.losses.distillation import KL as KL
from hashfast.losses.distillation import PACKD as PACKD
from hashfast.losses.distillation import PKT as PKT
from hashfast.losses.distillation import RKD as RKD
from hashfast.losses.distillation import SP as SP
from hashfast.losses.distillation import SSKD as SSKD
from hashfast.losses.dpn import DPN as DPN
from hashfast.losses.dsdh import DSDH as DSDH
from hashfast.losses.greedyhash import GreedyHash as GreedyHash
from hashfast.losses.greedyhash_unsupervised import GreedyHashUnsupervised
from hashfast.losses.hashnet import HashNet as HashNet
from hashfast.losses.mecoq import MeCoQ
from hashfast.losses.orthohash import OrthoHash as OrthoHash
from hashfast.losses.product_quantizer import ProductQuantizer
from hashfast.losses.quantization import HSWD, SWD, sliced_wasserstein
from hashfast.losses.tbh import TBH
from hashfast.losses.transport import OT

METHODS: dict[str, type[HashLoss]] = {
    method.__name__.lower(): method for method in HashLoss.__subclasses__()
}
UNSUPERVISED: dict[str, type[UnsupervisedLoss]] = {
    "cibhash": CIBHash,
    "greedyhash-unsupervised": GreedyHashUnsupervised,
    "bihalf": BiHalf,
    "tbh": TBH,
    "mecoq": MeCoQ,
}

__all__ = [
    "DISTILLATION",
    "HSWD",
    "METHODS",
    "OT",
    "SWD",
    "UNSUPERVISED",
    "ClassMeanMMD",
    "Clusters",
    "Distillation",
    "HashLoss",
    "InfoNCE",
    "MaskedContrastive",
    "NTXent",
    "ProductQuantizer",
    "UnsupervisedLoss",
    "choose_k",
    "sliced_wasserstein",
    *(method.__name__ for method in METHODS.values()),
    *(method.__name__ for method in UNSUPERVISED.values()),
    *(loss.__name__ for loss in DISTILLATION.values()),
]
