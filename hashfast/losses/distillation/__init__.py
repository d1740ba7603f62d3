"""Distillation losses: they make a student's codes follow a teacher's.

`DISTILLATION` maps each loss's lower-case name to its class. To add one: a file with a subclass of
`Distillation`, and its import line here.
"""

from hashfast.losses.distillation._base import Distillation
from hashfast.losses.distillation.brcd import BRCD as BRCD
from hashfast.losses.distillation.clusters import Clusters, choose_k
from hashfast.losses.distillation.crcd import CRCD as CRCD
from hashfast.losses.distillation.crd import CRD as CRD
from hashfast.losses.distillation.kl import KL as KL
from hashfast.losses.distillation.packd import PACKD as PACKD
from hashfast.losses.distillation.pkt import PKT as PKT
from hashfast.losses.distillation.rkd import RKD as RKD
from hashfast.losses.distillation.sp import SP as SP
from hashfast.losses.distillation.sskd import SSKD as SSKD

DISTILLATION: dict[str, type[Distillation]] = {
    loss.__name__.lower(): loss for loss in (BRCD, KL, SP, PKT, RKD, CRD, SSKD, CRCD, PACKD)
}

__all__ = [
    "DISTILLATION",
    "Clusters",
    "Distillation",
    "choose_k",
    *(loss.__name__ for loss in DISTILLATION.values()),
]
