"""Galleries in Milvus: embedded where it is installed, and what is asked of it by a stand-in."""

import importlib.util
import json
import re
import sys
import types

import numpy as np
import pytest
from hamming_oracle import PADDING_DISTANCE, PADDING_ID, random_codes

import hashfast
from hashfast import IndexBinaryFlat
from hashfast.index import Gallery, milvus
from hashfast.index.milvus import MilvusCollection

INSTALLED = all(importlib.util.find_spec(name) for name in ("pymilvus", "milvus_lite"))


def embedded(test):
    why = "needs pymilvus and Milvus Lite: make test-milvus"
    return pytest.mark.milvus(pytest.mark.skipif(not INSTALLED, reason=why)(test))


def gallery_of(codes, bits=64, ids=None, labels=None, **kwargs):
    index = IndexBinaryFlat(bits)
    if ids is None:
        index.add(codes)
    else:
        index.add_with_ids(codes, ids)
    n = len(codes)
    items = [f"/pictures/{row} ü.jpg" for row in range(n)]
    return Gallery(index, items, np.full(n, -1) if labels is None else labels, **kwargs)


# A stand-in for pymilvus: collections are lists of rows, and calls are recorded.


class MilvusException(Exception):
    def __init__(self, message):
        super().__init__(message)
        self.message = message


class Schema:
    def __init__(self, description, **options):
        self.description, self.options, self.fields = description, options, {}

    def add_field(self, name, kind, **options):
        self.fields[name] = (kind, options)


class Parameters(list):
    def add_index(self, field, **options):
        self.append((field, options))


class Client:
    """As a server does, it counts and searches only what is loaded."""

    def __init__(self, uri="", token=""):
        self.opened = (uri, token)
        self.collections, self.calls, self.fail_at = {}, [], None

    def create_schema(self, **options):
        return Schema(**options)

    def prepare_index_params(self):
        return Parameters()

    def has_collection(self, name):
        return name in self.collections

    def create_collection(self, name, schema):
        found = {"schema": schema, "rows": [], "index": None, "loaded": False}
        self.collections[name] = types.SimpleNamespace(**found)

    def drop_collection(self, name):
        self.collections.pop(name, None)

    def describe_collection(self, name):
        return {"description": self.collections[name].schema.description}

    def list_indexes(self, name):
        return ["code"] if self.collections[name].index else []

    def describe_index(self, name, index):
        options = self.collections[name].index
        return {**options, **{key: str(value) for key, value in options["params"].items()}}

    def create_index(self, name, parameters):
        ((field, options),) = parameters
        assert field == "code"
        assert not self.collections[name].loaded
        self.collections[name].index = options
        self.calls.append(("index", options["index_type"]))

    def drop_index(self, name, index):
        assert not self.collections[name].loaded, "release it first"
        self.collections[name].index = None

    def load_collection(self, name):
        assert self.collections[name].index, "load wants an index"
        self.collections[name].loaded = True

    def release_collection(self, name):
        self.collections[name].loaded = False

    def flush(self, name):
        self.calls.append(("flush", None))

    def insert(self, name, rows):
        self.calls.append(("insert", [row["id"] for row in rows]))
        if self.fail_at == rows[0]["id"]:
            self.fail_at = None
            self.collections[name].rows += rows[: len(rows) // 2]
            raise MilvusException("the disk is full")
        self.collections[name].rows += rows

    def upsert(self, name, rows):
        self.calls.append(("upsert", [row["id"] for row in rows]))
        ids = {row["id"] for row in rows}
        kept = [row for row in self.collections[name].rows if row["id"] not in ids]
        self.collections[name].rows = kept + rows

    def query(self, name, filter, output_fields, consistency_level):
        assert (filter, output_fields, consistency_level) == ("", ["count(*)"], "Strong")
        assert self.collections[name].loaded
        return [{"count(*)": len(self.collections[name].rows)}]

    def search(self, name, data, anns_field, limit, search_params):
        assert self.collections[name].loaded
        self.calls.append(("search", (len(data), limit, search_params)))
        rows = self.collections[name].rows[::-1]  # equal distances in an order of its own
        answers = []
        for query in data:
            far = [
                (int.from_bytes(query) ^ int.from_bytes(row["code"])).bit_count() for row in rows
            ]
            order = np.argsort(far, kind="stable")[:limit]
            answers.append([{"id": rows[i]["id"], "distance": float(far[i])} for i in order])
        return answers

    def close(self):
        self.calls.append(("close", None))

    def sent(self):
        return [call for call in self.calls if call[0] in ("insert", "upsert")]


@pytest.fixture
def stand_in(monkeypatch):
    """MilvusCollection with the stand-in: one client, however often it connects."""
    client = Client()

    def connect(uri, token=""):
        if "nowhere" in uri:
            raise MilvusException("no server")
        client.opened = (uri, token)
        return client

    kinds = types.SimpleNamespace(**{k: k for k in ("INT64", "BINARY_VECTOR", "VARCHAR", "ARRAY")})
    module = types.ModuleType("pymilvus")
    module.MilvusClient, module.DataType = connect, kinds
    module.exceptions = types.ModuleType("pymilvus.exceptions")
    module.exceptions.MilvusException = MilvusException
    monkeypatch.setitem(sys.modules, "pymilvus", module)
    monkeypatch.setitem(sys.modules, "pymilvus.exceptions", module.exceptions)
    return client


def collection(name="g"):
    return MilvusCollection("http://localhost:19530", name, "user:secret")


def test_what_a_collection_is_made_of(stand_in):
    gallery = gallery_of(random_codes(3), labels=np.array([4, -1, 0]), info={"fingerprint": "f"})
    assert collection().write(gallery) == 3
    assert stand_in.opened == ("http://localhost:19530", "user:secret")
    found = stand_in.collections["g"]
    assert found.schema.options == {"auto_id": False, "enable_dynamic_field": False}
    assert found.schema.fields == {
        "id": ("INT64", {"is_primary": True}),
        "code": ("BINARY_VECTOR", {"dim": 64}),
        "item": ("VARCHAR", {"max_length": 65535}),
        "label": ("INT64", {}),
    }
    facts = json.loads(found.schema.description)
    assert (facts["bits"], facts["codes"], facts["fingerprint"]) == (64, 3, "f")
    assert found.rows == [
        {"id": row, "code": gallery.index.codes[row].tobytes(), "item": item, "label": label}
        for row, item, label in zip(range(3), gallery.items, [4, -1, 0], strict=True)
    ]
    assert found.index == {"index_type": "BIN_FLAT", "metric_type": "HAMMING", "params": {}}
    assert found.loaded
    assert stand_in.calls[-1] == ("flush", None)


def test_ids_many_labels_and_odd_bits(stand_in):
    codes = hashfast.pack(np.random.default_rng(0).standard_normal((2, 13)))
    labels = np.array([[1, 0, 1], [0, 0, 0]], np.float32)
    names = ("a", "b", "c")
    collection().write(gallery_of(codes, 13, [7, -2], labels, class_names=names))
    found = stand_in.collections["g"]
    assert [(row["id"], row["label"]) for row in found.rows] == [(7, [0, 2]), (-2, [])]
    assert found.schema.fields["code"][1] == {"dim": 16}
    assert found.schema.fields["label"][1]["element_type"] == "INT64"
    assert json.loads(found.schema.description)["class_names"] == list(names)
    distances, ids = collection().search(codes, 1)
    assert (distances.tolist(), ids.tolist()) == ([[0], [0]], [[7], [-2]])
    with pytest.raises(ValueError, match="g holds 13"):
        collection().search(random_codes(1, 1), 1)


def test_a_write_that_fails_is_continued(stand_in):
    gallery = gallery_of(random_codes(10))
    stand_in.fail_at = 6  # one of its three rows gets in
    said = "the disk is full .*6 of 10 rows are in; the same without overwrite goes on there"
    with pytest.raises(RuntimeError, match=said):
        collection().write(gallery, batch_size=3)
    assert len(stand_in.collections["g"].rows) == 7
    stand_in.calls.clear()
    assert collection().write(gallery, batch_size=4) == 4  # the first call's size counts
    assert stand_in.sent() == [("upsert", [6, 7, 8]), ("insert", [9])]
    assert [row["id"] for row in stand_in.collections["g"].rows] == list(range(10))
    stand_in.calls.clear()
    assert collection().write(gallery) == 0
    assert stand_in.sent() == []


def test_a_write_killed_before_its_first_row_is_continued(stand_in, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    gallery = gallery_of(random_codes(4))
    with monkeypatch.context() as patch:
        patch.setattr(Client, "create_index", killed)
        with pytest.raises(KeyboardInterrupt):
            collection().write(gallery)
    assert collection().write(gallery) == 4
    assert len(stand_in.collections["g"].rows) == 4


def test_other_collections_are_left_alone(stand_in):
    collection().write(gallery_of(random_codes(4)))
    before = list(stand_in.collections["g"].rows)
    others = [
        gallery_of(random_codes(4, seed=1)),
        gallery_of(random_codes(4), ids=[5, 6, 7, 8]),
        gallery_of(random_codes(4), labels=np.arange(4)),
        gallery_of(random_codes(4), info={"fingerprint": "other"}),
    ]
    for other in others:
        with pytest.raises(FileExistsError, match="a collection g already, of other codes"):
            collection().write(other)
        assert stand_in.collections["g"].rows == before
    assert collection().write(others[0], overwrite=True) == 4
    assert stand_in.collections["g"].rows != before
    stand_in.create_collection("foreign", Schema("made by hand"))
    with pytest.raises(FileExistsError, match="foreign already"):
        collection("foreign").write(others[0])
    with pytest.raises(ValueError, match="foreign was not written by hashfast"):
        collection("foreign").search(random_codes(1), 1)


def test_the_index_can_be_changed(stand_in):
    gallery = gallery_of(random_codes(4))
    for options, made in (
        ({}, ["BIN_FLAT"]),
        ({}, []),
        ({"index_type": "BIN_IVF_FLAT"}, ["BIN_IVF_FLAT"]),
        ({"index_type": "BIN_IVF_FLAT"}, []),
        ({"index_type": "BIN_IVF_FLAT", "nlist": 2}, ["BIN_IVF_FLAT"]),
    ):
        stand_in.calls.clear()
        collection().write(gallery, **options)
        assert [what for call, what in stand_in.calls if call == "index"] == made
        assert stand_in.collections["g"].loaded
    assert stand_in.collections["g"].index["params"] == {"nlist": 2}


def test_rows_that_appear_from_elsewhere_are_noticed(stand_in, monkeypatch):
    insert = Client.insert
    monkeypatch.setattr(Client, "insert", lambda *call: [insert(*call), insert(*call)])
    with pytest.raises(RuntimeError, match="g has 8 rows after 4 were inserted"):
        collection().write(gallery_of(random_codes(4)))


def test_search_sorts_pads_and_asks_in_batches(stand_in, monkeypatch):
    codes = random_codes(40, size=1, values=8)  # many are equal
    gallery = gallery_of(codes, 8)
    collection().write(gallery)
    monkeypatch.setattr(milvus, "_FOUND", 100)
    with pytest.warns(UserWarning, match="fewer than k = 50 codes for 5 of 5 queries"):
        distances, ids = collection().search(codes[:5], 50, nprobe=3)
    wanted = {"metric_type": "HAMMING", "params": {"nprobe": 3}}
    asked = [what for call, what in stand_in.calls if call == "search"]
    assert asked == [(2, 50, wanted), (2, 50, wanted), (1, 50, wanted)]
    expected = gallery.index.search(codes[:5], 40)
    np.testing.assert_array_equal(distances[:, :40], expected[0])
    np.testing.assert_array_equal(ids[:, :40], expected[1])
    assert (distances[:, 40:] == PADDING_DISTANCE).all()
    assert (ids[:, 40:] == PADDING_ID).all()
    assert (distances.dtype, ids.dtype) == (np.int32, np.int64)
    for k in (0, 16_385):
        with pytest.raises(ValueError, match=f"k is {k}"):
            collection().search(codes, k)
    with pytest.raises(ValueError, match="nprobe is 0"):
        collection().search(codes, 1, nprobe=0)


def test_what_milvus_cannot_hold_is_refused_before_anything_is_made(stand_in):
    plain = gallery_of(random_codes(2))
    odd, long = gallery_of(random_codes(2)), gallery_of(random_codes(2))
    odd.items[1], long.items[1] = "caf\udce9", "ü" * 40_000
    for gallery, options, said in (
        (gallery_of(random_codes(2), ids=[3, 3]), {}, "id 3 has several codes"),
        (odd, {}, r"'caf\\udce9' is not UTF-8"),
        (long, {}, "an item has 80000 bytes; Milvus holds 65535"),
        (plain, {"batch_size": 0}, "batch_size is 0"),
        (plain, {"nlist": 70_000}, "nlist is 70000"),
    ):
        with pytest.raises(ValueError, match=said):
            collection().write(gallery, **options)
    assert not stand_in.collections


def test_connections_that_fail(stand_in, monkeypatch):
    with pytest.raises(RuntimeError, match="Milvus: no server"):
        MilvusCollection("http://nowhere", "g")
    for version in ("3.2.2", "none"):

        def found(_, version=version):
            if version == "none":
                raise milvus.importlib.metadata.PackageNotFoundError
            return version

        monkeypatch.setattr(milvus.importlib.metadata, "version", found)
        with pytest.raises(ImportError, match=f"found {version}: pip install milvus-lite==2.5.1"):
            MilvusCollection("x.db", "g")
    monkeypatch.setattr(milvus.importlib.metadata, "version", lambda _: "2.5.1")
    with pytest.raises(ValueError, match="Milvus Lite, a file, has no BIN_IVF_FLAT"):
        MilvusCollection("x.db", "g").write(gallery_of(random_codes(2)), index_type="BIN_IVF_FLAT")
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(ImportError, match=re.escape("pip install 'hashfast[milvus]'")):
        collection()


def test_close(stand_in):
    collection().close()
    assert stand_in.calls == [("close", None)]


def test_codes_are_collected_once(stand_in, monkeypatch):
    """Some indexes have to collect all of them to say what they are."""
    gallery, taken = gallery_of(random_codes(10)), []
    original = IndexBinaryFlat.codes.fget
    monkeypatch.setattr(
        IndexBinaryFlat, "codes", property(lambda index: taken.append(1) or original(index))
    )
    assert collection().write(gallery, batch_size=3) == 10
    assert len(taken) == 1


# Milvus Lite itself


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "milvus.db")


def assert_agrees(found, index, query):
    """As IndexBinaryFlat says; of codes as far as the last, Milvus chooses which it returns."""
    distances, ids = found
    expected, expected_ids = index.search(query, min(distances.shape[1], index.ntotal))
    n = expected.shape[1]
    np.testing.assert_array_equal(distances[:, :n], expected)
    nearer = expected < (expected[:, -1:] if n < index.ntotal else 10**6)
    np.testing.assert_array_equal(ids[:, :n][nearer], expected_ids[nearer])
    for code, row, far in zip(query, ids[:, :n], expected, strict=True):
        held = np.array([index.reconstruct(int(i)) for i in row])
        np.testing.assert_array_equal(np.bitwise_count(held ^ code).sum(1), far)
        pairs = list(zip(far.tolist(), row.tolist(), strict=True))
        assert pairs == sorted(set(pairs))


@embedded
@pytest.mark.parametrize(("size", "bits"), [(8, 64), (2, 13), (128, 1024), (4096, 32768)])
def test_milvus_lite_finds_what_the_flat_index_finds(size, bits, uri):
    n = 2000 if size < 4096 else 50
    codes = random_codes(n, size)
    codes[n // 10 : n // 5] = codes[5]  # exact duplicates
    codes[:, -1] &= 0xFF << (-bits % 8) & 0xFF
    gallery = gallery_of(codes, bits)
    found = MilvusCollection(uri, "g")
    assert found.write(gallery, batch_size=n // 3) == n
    query = np.concatenate([codes[3:8], random_codes(5, size, 1) & codes[-1:]])
    for k in (1, 10, n // 10 + 1, n):
        assert_agrees(found.search(query, k), gallery.index, query)
    with pytest.warns(UserWarning, match=f"fewer than k = {n + 5}"):
        distances, ids = found.search(query, n + 5)
    assert_agrees((distances, ids), gallery.index, query)
    assert (distances[:, n:] == PADDING_DISTANCE).all()
    assert (ids[:, n:] == PADDING_ID).all()
    found.close()


@embedded
def test_milvus_lite_keeps_ids_items_and_labels(uri):
    labels = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]], np.float32)
    one = gallery_of(random_codes(3), ids=[7, -2, 2**62])
    many = gallery_of(random_codes(3), labels=labels, class_names=("a", "b", "c"))
    for name, gallery, expected in (("one", one, [-1] * 3), ("many", many, [[0, 2], [], [1]])):
        MilvusCollection(uri, name).write(gallery)
        found = MilvusCollection(uri, name)  # connected anew
        assert found.search(gallery.index.codes, 1)[1][:, 0].tolist() == gallery.index.ids.tolist()
        rows = found._client.get(name, gallery.index.ids.tolist())
        by_id = {row["id"]: (row["item"], list(np.atleast_1d(row["label"]))) for row in rows}
        kept = zip(gallery.items, (list(np.atleast_1d(label)) for label in expected), strict=True)
        assert by_id == dict(zip(gallery.index.ids.tolist(), kept, strict=True))
        found.close()


@embedded
def test_a_write_to_milvus_lite_is_continued(uri, monkeypatch):
    from pymilvus.exceptions import MilvusException

    gallery = gallery_of(random_codes(1000))
    failing = MilvusCollection(uri, "g")
    insert = failing._client.insert

    def fails(name, rows):
        if rows[0]["id"] == 600:
            insert(name, rows[:150])
            raise MilvusException(message="the disk is full")
        return insert(name, rows)

    monkeypatch.setattr(failing._client, "insert", fails)
    with pytest.raises(RuntimeError, match=r"the disk is full .*600 of 1000 rows"):
        failing.write(gallery, batch_size=300)
    failing.close()
    found = MilvusCollection(uri, "g")
    assert found.write(gallery) == 400
    assert_agrees(
        found.search(gallery.index.codes[:9], 1000), gallery.index, gallery.index.codes[:9]
    )
    assert found.write(gallery) == 0
    with pytest.raises(FileExistsError, match="of other codes"):
        found.write(gallery_of(random_codes(1000, seed=1)))
    found.write(gallery_of(random_codes(10, seed=1)), overwrite=True)
    with pytest.warns(UserWarning, match="fewer than k = 11"):
        found.search(gallery.index.codes[:1], 11)
    with pytest.raises(RuntimeError, match=r"Milvus: .*not found"):
        MilvusCollection(uri, "absent").search(gallery.index.codes, 1)
    found.close()
