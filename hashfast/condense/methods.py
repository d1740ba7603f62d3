"""The condensation methods by name."""

from hashfast.condense.base import Method
from hashfast.condense.dm import DM
from hashfast.condense.dsa import DSA
from hashfast.condense.idc import IDC
from hashfast.condense.iem import IEM
from hashfast.condense.selection import Herding, Random

METHODS: dict[str, type[Method]] = {
    "random": Random,
    "herding": Herding,
    "dm": DM,
    "dsa": DSA,
    "idc": IDC,
    "iem": IEM,
}
