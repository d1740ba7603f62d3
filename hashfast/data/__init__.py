"""Datasets, picture decoding and the named protocols that split them into query, train, database.

Every dataset is map-style and yields ``(image, label, index)``: a uint8 tensor ``[C, H, W]`` of one
fixed size, an int class id or a float32 multi-hot vector ``[classes]``, and the item's position in
that dataset. Normalisation to float is the model's business, on the model's device.
"""

from hashfast._inputs import check_labels
from hashfast.data.arrays import ArrayDataset
from hashfast.data.base import ImageDataset
from hashfast.data.condensed import CondensedSet
from hashfast.data.files import FileDataset
from hashfast.data.lists import read_list
from hashfast.data.loaders import load, load_csv, load_folder, load_lists
from hashfast.data.pictures import UnreadableImage, to_image
from hashfast.data.protocols import PROTOCOLS, Protocol
from hashfast.data.recipe import split_rows
from hashfast.data.splits import Splits
from hashfast.data.tables import read_csv
from hashfast.data.wrap import wrap

__all__ = [
    "PROTOCOLS",
    "ArrayDataset",
    "CondensedSet",
    "FileDataset",
    "ImageDataset",
    "Protocol",
    "Splits",
    "UnreadableImage",
    "check_labels",
    "load",
    "load_csv",
    "load_folder",
    "load_lists",
    "read_csv",
    "read_list",
    "split_rows",
    "to_image",
    "wrap",
]
