"""What commands over several galleries have in common."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashfast.index import Gallery


def code_spaces(gallery: "Gallery") -> set[str | None]:
    """Fingerprints of the models whose codes those of a gallery can be compared with."""
    return {gallery.info.get("fingerprint"), *gallery.info.get("code_spaces", ())}


def check_comparable(
    path: Path, gallery: "Gallery", other_path: Path, other: "Gallery", force: bool
) -> None:
    """Raise ValueError for codes of different widths, or of different models unless `force`."""
    if gallery.index.d != other.index.d:
        raise ValueError(
            f"{path} has {gallery.index.d}-bit codes and {other_path} {other.index.d}-bit ones: "
            "encode one of them again, with the model of the other"
        )
    made_by, other_by = (found.info.get("fingerprint") for found in (gallery, other))
    if code_spaces(gallery).isdisjoint(code_spaces(other)) and not force:
        raise ValueError(
            f"{path} was made by model {made_by} and {other_path} by {other_by}: their distances "
            "mean nothing to each other (--force goes ahead all the same)"
        )
