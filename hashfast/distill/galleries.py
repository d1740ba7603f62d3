"""What a distilled student searches: the database, coded by itself or by its teacher."""

import os
from pathlib import Path
from typing import Any

from hashfast._environment import environment
from hashfast.data import FileDataset, Splits
from hashfast.distill.paradigms import Paradigms
from hashfast.distill.teacher import Teacher
from hashfast.hashing import Encoded, HashModel
from hashfast.index import Gallery

SYMMETRIC, ASYMMETRIC = "database-sshp", "database-ashp"


def save_galleries(
    out: Path, model: HashModel, splits: Splits, paradigms: Paradigms, teacher: Teacher
) -> None:
    """Write `out`/database-sshp and, where codes are of one length, `out`/database-ashp."""
    info = {
        "source": splits.name,
        "protocol": splits.describe(),
        "split": "database",
        "environment": environment(teacher.loading.device),
    }
    made_by: dict[str, Any] = {
        "model": str(out.resolve()),
        "fingerprint": model.fingerprint(),
        "code_spaces": list(model.code_spaces()),
    }
    _save(out / SYMMETRIC, paradigms.database, model.bits, splits, info | made_by)
    if paradigms.teacher_database is not None:
        made_by = {"model": str(teacher.folder.resolve()), "fingerprint": teacher.fingerprint}
        _save(out / ASYMMETRIC, paradigms.teacher_database, teacher.bits, splits, info | made_by)


def _save(folder: Path, encoded: Encoded, bits: int, splits: Splits, info: dict[str, Any]) -> None:
    items = [_item(splits, row) for row in encoded.indices.tolist()]
    gallery = Gallery.of(
        encoded.codes.numpy(), bits, items, encoded.labels.numpy(), info, splits.class_names
    )
    gallery.save(folder)


def _item(splits: Splits, row: int) -> str:
    """Where a picture lies, or its name in the protocol."""
    if isinstance(splits.database, FileDataset):
        return os.path.abspath(splits.database.path(row))
    return f"{splits.name}/database/{row}"
