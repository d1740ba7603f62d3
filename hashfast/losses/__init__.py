"""Hashing losses: drop-in modules over the outputs before sign.

`METHODS` maps each method's lower-case name to its class. To add one: a file with a subclass of
`HashLoss`, and its import line here.
"""

from hashfast.losses._base import HashLoss
from hashfast.losses.class_mean_mmd import ClassMeanMMD
from hashfast.losses.csq import CSQ as CSQ
from hashfast.losses.dbdh import DBDH as DBDH
from hashfast.losses.dch import DCH as DCH
from hashfast.losses.dhd import DHD as DHD
from hashfast.losses.dpn import DPN as DPN
from hashfast.losses.dsdh import DSDH as DSDH
from hashfast.losses.greedyhash import GreedyHash as GreedyHash
from hashfast.losses.hashnet import HashNet as HashNet
from hashfast.losses.orthohash import OrthoHash as OrthoHash
from hashfast.losses.quantization import HSWD, SWD, sliced_wasserstein
from hashfast.losses.transport import OT

METHODS: dict[str, type[HashLoss]] = {
    method.__name__.lower(): method for method in HashLoss.__subclasses__()
}

__all__ = [
    "HSWD",
    "METHODS",
    "OT",
    "SWD",
    "ClassMeanMMD",
    "HashLoss",
    "sliced_wasserstein",
    *(method.__name__ for method in METHODS.values()),
]
