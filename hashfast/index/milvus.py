"""Galleries in Milvus, a server that searches codes while others are added and removed.

A collection has one row a code:

    id     INT64, the primary key: the code's id in its index
    code   BINARY_VECTOR of 8 * ceil(bits / 8) bits, searched by HAMMING
    item   VARCHAR
    label  INT64, -1 for none; or an ARRAY of INT64 for items that may have several

Its description says, as JSON, what gallery it holds.
"""

import hashlib
import importlib.metadata
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from tqdm import tqdm

from hashfast._inputs import Array, as_codes
from hashfast.index.checks import NO_DISTANCE, NO_ID, as_integer, like
from hashfast.index.gallery import Gallery

IndexType = Literal["BIN_FLAT", "BIN_IVF_FLAT"]
MAX_K = 16_384  # what a search in Milvus returns at most
_MAX_ITEM, _MAX_LABELS, _MAX_NLIST = 65_535, 4_096, 65_536  # limits of Milvus, in bytes and items
_FOUND = 1 << 20  # neighbours asked for at once: their message stays far below 64 MB
_MAX_QUERIES = 16_384


class MilvusCollection:
    """A collection in Milvus, to be written from a gallery and searched.

    With a server of Milvus, or embedded in this process by Milvus Lite 2, which keeps everything in
    one file and knows BIN_FLAT only (version 3 has no binary vectors any more).
    """

    def __init__(self, uri: str, name: str, token: str = "") -> None:
        """Connect to Milvus; nothing is made yet.

        Args:
            uri: where the server is, as in http://localhost:19530; or a file that ends in .db, for
                Milvus Lite.
            name: of the collection: letters, digits and underscores.
            token: user:password, or a key.

        Raises:
            ImportError: pymilvus is not installed, or for a file no Milvus Lite that will do.
            RuntimeError: there is no such server, or it does not let us in.
        """
        self.name = name
        self._embedded = uri.endswith(".db")
        self._client = _connect(uri, token, self._embedded)

    def write(
        self,
        gallery: Gallery,
        *,
        index_type: IndexType = "BIN_FLAT",
        nlist: int = 128,
        batch_size: int = 10_000,
        overwrite: bool = False,
        progress: bool = False,
    ) -> int:
        """Insert the codes of a gallery in the order of their rows, and load the collection.

        When it fails half-way, what was inserted stays, and the same call without `overwrite` goes
        on after it: the batch that failed is sent once more, in batches of the first call's size. A
        finished collection of this gallery gets another index if another is asked for. One of
        anything else is left alone unless `overwrite`, which deletes it before the first row is
        inserted.

        Args:
            gallery: what to insert; ids must differ, and items be UTF-8.
            index_type: BIN_FLAT compares a query with all codes; BIN_IVF_FLAT with those of some of
                `nlist` clusters.
            nlist: clusters of BIN_IVF_FLAT, 1 to 65,536.
            batch_size: rows a call; Milvus takes messages of up to 64 MB.
            overwrite: delete a collection of this name, if there is one.
            progress: show a bar on standard error.

        Returns:
            How many rows this call inserted.

        Raises:
            FileExistsError: there is a collection of this name with other codes.
            RuntimeError: Milvus refused; says how many rows it has by then.
            TypeError, ValueError: bad arguments, or a gallery that Milvus cannot hold.
        """
        batch_size = as_integer(batch_size, "batch_size", 1)
        nlist = as_integer(nlist, "nlist", 1, _MAX_NLIST)
        if self._embedded and index_type != "BIN_FLAT":
            raise ValueError(f"Milvus Lite, a file, has no {index_type}: choose BIN_FLAT")
        rows = _Rows(gallery)
        _check_gallery(gallery, rows.ids)
        facts = {**_facts_of(rows), "batch_size": batch_size}
        with _told():
            if overwrite:
                self._client.drop_collection(self.name)  # does nothing where there is none
            continued = self._client.has_collection(self.name)
            if continued:
                batch_size = self._check_same(facts)
            else:
                self._create(gallery, facts)
            self._make_index(index_type, nlist)
            done = self._count() if continued else 0
        n = gallery.index.ntotal
        if done != n:
            done = min(done // batch_size * batch_size, n)
        with tqdm(total=n, initial=done, unit="code", disable=not progress) as bar:
            self._insert(rows, done, batch_size, continued, bar)
        return n - done

    def search(self, query: Array, k: int, nprobe: int | None = None) -> tuple[Array, Array]:
        """Find the k nearest codes of every query.

        BIN_FLAT finds the distances that `IndexBinaryFlat` finds. Of several codes at the largest
        distance returned Milvus does not say which it takes, nor is it always the same; and it
        does not know the order in which codes were added, so equal distances are sorted by id.
        BIN_IVF_FLAT misses neighbours, and may find fewer than k, unless nprobe is nlist.

        Args:
            query: uint8 [q, bytes per code], numpy or torch.
            k: neighbours per query, 1 to 16,384.
            nprobe: clusters that BIN_IVF_FLAT looks into; None for what Milvus chooses.

        Returns:
            distances int32 [q, k] in bits and ids int64 [q, k], sorted by (distance, id). Where
            fewer were found, the rest is distance 2**31 - 1 and id -1, with a warning. numpy for a
            numpy query; torch on the query's device for a torch query.

        Raises:
            TypeError, ValueError: a query that is not packed codes of this width, or a bad k.
            RuntimeError: Milvus refused: there is no such collection, or it is not loaded.
        """
        k = as_integer(k, "k", 1, MAX_K)
        codes = as_codes(query, "query", self._bits(), f"{self.name} holds").cpu().numpy()
        parameters = {} if nprobe is None else {"nprobe": as_integer(nprobe, "nprobe", 1)}
        distances = np.full((len(codes), k), NO_DISTANCE, np.int32)
        ids = np.full((len(codes), k), NO_ID, np.int64)
        at_once = max(1, min(_FOUND // k, _MAX_QUERIES))
        for start in range(0, len(codes), at_once):
            with _told():
                answers = self._client.search(
                    self.name,
                    data=[code.tobytes() for code in codes[start : start + at_once]],
                    anns_field="code",
                    limit=k,
                    search_params={"metric_type": "HAMMING", "params": parameters},
                )
            for row, hits in enumerate(answers, start):
                found = sorted((int(hit["distance"]), hit["id"]) for hit in hits)
                if found:
                    distances[row, : len(found)], ids[row, : len(found)] = zip(*found, strict=True)
        short = int((ids == NO_ID).any(1).sum())
        if short:
            warnings.warn(
                f"Milvus found fewer than k = {k} codes for {short} of {len(codes)} queries: "
                f"results are padded with distance {NO_DISTANCE} and id {NO_ID}",
                stacklevel=2,
            )
        found_distances, found_ids = like(query, torch.from_numpy(distances), torch.from_numpy(ids))
        return found_distances, found_ids

    def close(self) -> None:
        """Disconnect; a file is then free for another process."""
        self._client.close()

    def _insert(
        self, rows: "_Rows", done: int, batch_size: int, continued: bool, bar: tqdm
    ) -> None:
        """Send the rows from `done` on, and see that all are there then."""
        n = len(rows.ids)
        for start in range(done, n, batch_size):
            batch = rows.of(start, min(start + batch_size, n))
            # Only the first may be there in part, from a call that failed: rows of an id that
            # Milvus has would else be there twice.
            send = self._client.upsert if continued and start == done else self._client.insert
            with _told(f"{start} of {n} rows are in; the same without overwrite goes on there"):
                send(self.name, batch)
            bar.update(len(batch))
        with _told():
            self._client.flush(self.name)
            found = self._count()
        if found != n:
            raise RuntimeError(
                f"{self.name} has {found} rows after {n} were inserted: something else writes to "
                "it, or a batch was lost; write it anew with overwrite"
            )

    def _create(self, gallery: Gallery, facts: dict[str, Any]) -> None:
        from pymilvus import DataType

        schema = self._client.create_schema(
            auto_id=False, enable_dynamic_field=False, description=json.dumps(facts)
        )
        schema.add_field("id", DataType.INT64, is_primary=True)
        # Milvus wants whole bytes; padding bits are zero in all codes and change no distance.
        schema.add_field("code", DataType.BINARY_VECTOR, dim=8 * gallery.index.code_size)
        schema.add_field("item", DataType.VARCHAR, max_length=_MAX_ITEM)
        if gallery.labels.ndim == 1:
            schema.add_field("label", DataType.INT64)
        else:
            schema.add_field(
                "label", DataType.ARRAY, element_type=DataType.INT64, max_capacity=_MAX_LABELS
            )
        self._client.create_collection(self.name, schema=schema)

    def _make_index(self, index_type: IndexType, nlist: int) -> None:
        """Give the codes this index, unless they have it."""
        parameters = {"nlist": nlist} if index_type == "BIN_IVF_FLAT" else {}
        wanted = {"index_type": index_type, **{k: str(v) for k, v in parameters.items()}}
        for name in self._client.list_indexes(self.name):
            found = self._client.describe_index(self.name, name)
            if all(str(found.get(key)) == value for key, value in wanted.items()):
                return
            self._client.release_collection(self.name)
            self._client.drop_index(self.name, name)
        index = self._client.prepare_index_params()
        index.add_index("code", index_type=index_type, metric_type="HAMMING", params=parameters)
        self._client.create_index(self.name, index)

    def _check_same(self, facts: dict[str, Any]) -> int:
        """Raise FileExistsError unless the collection is of the same gallery; its batch size."""
        found = self._facts()
        other = {**found, "batch_size": facts["batch_size"]} != facts
        if other:
            raise FileExistsError(
                f"Milvus has a collection {self.name} already, of other codes: overwrite replaces "
                "it, or choose another name"
            )
        return found["batch_size"]

    def _facts(self) -> dict[str, Any]:
        """What the description says; nothing where it was not written by us."""
        try:
            facts = json.loads(self._client.describe_collection(self.name)["description"])
        except ValueError:
            return {}
        return facts if isinstance(facts, dict) else {}

    def _bits(self) -> int:
        with _told():
            bits = self._facts().get("bits")
        if bits is None:
            raise ValueError(
                f"the collection {self.name} was not written by hashfast: it does not say how many "
                "bits its codes have"
            )
        return bits

    def _count(self) -> int:
        """Rows there are now; loads the collection, which a server wants before it counts."""
        self._client.load_collection(self.name)
        (answer,) = self._client.query(
            self.name, filter="", output_fields=["count(*)"], consistency_level="Strong"
        )
        return answer["count(*)"]


class _Rows:
    """Rows of a gallery as Milvus takes them.

    Attributes:
        gallery: the gallery.
        codes, ids: those of its index, which may have to copy or collect all of them to say so.
    """

    def __init__(self, gallery: Gallery) -> None:
        self.gallery = gallery
        self.codes, self.ids = np.asarray(gallery.index.codes), gallery.index.ids

    def of(self, start: int, stop: int) -> list[dict[str, Any]]:
        return [
            {
                "id": int(i),
                "code": code.tobytes(),
                "item": item,
                "label": int(label) if np.ndim(label) == 0 else np.flatnonzero(label).tolist(),
            }
            for i, code, item, label in zip(
                self.ids[start:stop],
                self.codes[start:stop],
                self.gallery.items[start:stop],
                self.gallery.labels[start:stop],
                strict=True,
            )
        ]


def _check_gallery(gallery: Gallery, ids: np.ndarray) -> None:
    ordered = np.sort(ids)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(repeated):
        raise ValueError(
            f"id {repeated[0]} has several codes; in Milvus an id has one: number the codes anew"
        )
    for item in gallery.items:
        try:
            size = len(item.encode())
        except UnicodeEncodeError:
            raise ValueError(
                f"the item {item!r} is not UTF-8, and Milvus holds no other names: rename the file "
                "and encode it again"
            ) from None
        if size > _MAX_ITEM:
            raise ValueError(f"an item has {size} bytes; Milvus holds {_MAX_ITEM}: {item[:80]}...")


def _facts_of(rows: _Rows) -> dict[str, Any]:
    """What tells whether a collection holds this gallery."""
    gallery, digest = rows.gallery, hashlib.sha256()
    for array in (rows.codes, rows.ids, gallery.labels):
        digest.update(np.ascontiguousarray(array).data)
    for item in gallery.items:
        digest.update(json.dumps(item).encode())
    return {
        "bits": gallery.index.d,
        "codes": gallery.index.ntotal,
        "digest": digest.hexdigest()[:16],
        "fingerprint": gallery.info.get("fingerprint"),
        "class_names": list(gallery.class_names),
    }


@contextmanager
def _told(where: str = "") -> Iterator[None]:
    """Errors of Milvus as RuntimeError, which says `where` it stands."""
    from pymilvus.exceptions import MilvusException

    try:
        yield
    except MilvusException as error:
        where = f" ({where})" if where else ""
        raise RuntimeError(f"Milvus: {error.message or error}{where}") from error


def _connect(uri: str, token: str, embedded: bool) -> Any:
    try:
        from pymilvus import MilvusClient
    except ImportError as error:
        raise ImportError(
            "Milvus needs pymilvus, which is not installed: pip install 'hashfast[milvus]'"
        ) from error
    if embedded:
        _check_lite()
    with _told():
        return MilvusClient(uri, token=token)


def _check_lite() -> None:
    """Raise ImportError unless there is a Milvus Lite with binary vectors."""
    try:
        version = importlib.metadata.version("milvus-lite")
    except importlib.metadata.PackageNotFoundError:
        version = "none"
    if not version.startswith("2."):
        raise ImportError(
            "a file needs Milvus Lite 2, as version 3 has no binary vectors; found "
            f"{version}: pip install milvus-lite==2.5.1 'setuptools<80', or name a server"
        )
