"""Codes in Parquet shards: which pictures a shard has, what a run that goes on keeps, and Ray.

Tests marked `ray` run it (`make test-ray`); in the others its place is taken by a stand-in.
"""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from cli_calls import answer, call
from PIL import Image
from sklearn.datasets import load_digits

from hashfast.data import FileDataset, UnreadableImage
from hashfast.hashing import HashModel, ModelConfig, encode_dataset, encode_job, encode_ray
from hashfast.hashing.encode_job import Job, begin, check_whole, try_shard, written
from hashfast.hashing.encode_ray import ShardEncoder, encode_with_ray
from hashfast.index import Gallery
from hashfast.index.parquet import read_parquet

PICTURES, BROKEN = 100, "31.png"


def save_model(folder, seed=0):
    torch.manual_seed(seed)
    model = HashModel(ModelConfig("convnet3", 48, "bn", (3, 16, 16), width=8)).eval()
    model.save_pretrained(folder)
    return model


@pytest.fixture
def model(tmp_path):
    return save_model(tmp_path / "model")


@pytest.fixture
def digits(tmp_path):
    """A hundred digits in the folders of two classes, one of them broken."""
    folder = tmp_path / "digits"
    pixels, digit = load_digits(return_X_y=True)
    for row in range(PICTURES):
        below = folder / ("odd" if digit[row] % 2 else "even")
        below.mkdir(parents=True, exist_ok=True)
        image = (pixels[row].reshape(8, 8) * 15).astype(np.uint8)
        Image.fromarray(image).save(below / f"{row:02}.png")
    (folder / "odd" / BROKEN).write_bytes(b"")
    return folder


@pytest.fixture
def files(digits):
    return FileDataset.from_classes(digits, image_size=16)


@pytest.fixture
def job(files, model):
    return Job.of(files, model.fingerprint(), model.bits, 30, {"source": "digits"})


def row_of(shard):
    """A shard as an actor gets it."""
    return pa.table({"shard": [shard]})


def encoder(job, tmp_path, batch_size=None, strict=False):
    return ShardEncoder(job, tmp_path / "out", tmp_path / "model", "cpu", batch_size, 0, strict)


def encode_shards(job, files, tmp_path, shards=None, batch_size=None):
    begin(tmp_path / "out", job)
    encode = encoder(job, tmp_path, batch_size)
    with encode_job.listed(tmp_path / "out", job, files):
        for shard in range(job.shards) if shards is None else shards:
            (said,) = encode(row_of(shard)).to_pylist()
            assert said == {"shard": shard, "error": "", "unreadable": False}


def assert_same(gallery, files, model):
    """What the DataLoader path gives for the same files, bit by bit."""
    expected = encode_dataset(model, files)
    np.testing.assert_array_equal(gallery.index.codes, expected.codes.numpy())
    np.testing.assert_array_equal(gallery.labels, expected.labels.numpy())
    assert gallery.items == [os.path.abspath(files.path(i)) for i in expected.indices.tolist()]


def test_shards_are_consecutive_and_in_name_order():
    job = Job("f", "s", 25, 10, 64)
    assert [list(job.rows(shard)) for shard in range(job.shards)] == [
        list(range(10)), list(range(10, 20)), list(range(20, 25))
    ]  # fmt: skip
    assert [job.name(shard) for shard in (0, 12)] == ["part-00000.parquet", "part-00012.parquet"]
    many = replace(job, items=1_000_010)
    assert many.shards == 100_001
    assert many.name(99_999) < many.name(100_000)
    assert replace(job, items=0).shards == 0
    assert replace(job, items=20).shards == 2


@pytest.mark.parametrize("batch_size", [None, 7])
def test_shards_hold_the_codes_of_the_plain_path(job, files, model, tmp_path, batch_size):
    encode_shards(job, files, tmp_path, [2, 0, 3, 1], batch_size)
    gallery = read_parquet(tmp_path / "out")
    assert_same(gallery, files, model)
    assert gallery.class_names == ("even", "odd")
    assert gallery.info == {"source": "digits"}
    done = written(tmp_path / "out", job)
    assert [done[shard].codes for shard in range(4)] == [30, 30, 29, 10]
    path = str(tmp_path / "digits" / "odd" / BROKEN)
    assert done[2].unreadable == [(path, f"{path}: the file is empty (0 bytes)")]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "job.json", *[f"part-0000{shard}.parquet" for shard in range(4)]
    ]  # fmt: skip


def test_several_labels_and_a_shard_without_codes(files, model, tmp_path):
    labels = torch.eye(3)[torch.arange(9) % 3]
    labels[4] = 0
    labels[5] = 1
    names = [*files.files[:6], "even/a", "even/b", "even/c"]
    files = FileDataset(names, labels, root=files.root, image_size=16, class_names="abc")
    job = Job.of(files, model.fingerprint(), model.bits, 3, {})
    encode_shards(job, files, tmp_path)
    gallery = read_parquet(tmp_path / "out")
    assert_same(gallery, files, model)
    assert gallery.labels.shape == (6, 3)
    done = written(tmp_path / "out", job)
    assert [done[shard].codes for shard in range(3)] == [3, 3, 0]
    assert [item[-1] for item, _ in done[2].unreadable] == ["a", "b", "c"]


def test_a_job_goes_on_as_it_began(job, tmp_path):
    out = tmp_path / "out"
    assert begin(out, job) == job
    assert begin(out, replace(job, info={"source": "moved"})) == job
    assert begin(out, replace(job, info={"source": "anew"}), overwrite=True).info == {
        "source": "anew"
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fingerprint": "00"}, "of a model with fingerprint "),
        ({"source": "00"}, "of other pictures, or the same with other labels"),
        ({"items": 7}, "of 100 pictures, not 7"),
        ({"rows_per_shard": 5}, "with --rows-per-shard 30, not 5"),
    ],
)
def test_another_job_is_refused_and_replaced(job, files, model, tmp_path, change, said):
    encode_shards(job, files, tmp_path, [0, 1])
    out, other = tmp_path / "out", replace(job, **change)
    with pytest.raises(FileExistsError, match=f"another job \\(.*{said}.*--overwrite"):
        begin(out, other)
    assert set(written(out, job)) == {0, 1}
    assert written(out, other) == {}
    begin(out, other, overwrite=True)
    assert [path.name for path in out.iterdir()] == ["job.json"]


def test_the_list_of_pictures_is_what_counts(job, files, model):
    def source(files):
        return Job.of(files, model.fingerprint(), model.bits, 30, {}).source

    same = FileDataset(files.files, files.labels, root=files.root, class_names=files.class_names)
    assert source(same) == job.source
    changed = [
        FileDataset(files.files[::-1], files.labels, root=files.root, class_names="ab"),
        FileDataset(files.files, 1 - files.labels, root=files.root, class_names=("even", "odd")),
        FileDataset(files.files, files.labels, root=files.root, class_names=("even", "uneven")),
    ]
    assert len({source(other) for other in (*changed, files)}) == 4
    odd = FileDataset(["a.png", "\udcff.png"])
    with pytest.raises(ValueError, match=r"udcff.png' is not UTF-8.*rename the file"):
        source(odd)
    with pytest.raises(ValueError, match="rows_per_shard is 0"):
        Job.of(files, "f", 48, 0, {})


def test_a_folder_of_something_else_is_refused(job, files, tmp_path):
    encode_shards(job, files, tmp_path, [0])
    out = tmp_path / "out"
    (out / "job.json").unlink()
    with pytest.raises(FileExistsError, match=r"1 Parquet files without a job\.json"):
        begin(out, job)
    Gallery.of(np.zeros((1, 6), np.uint8), 48).save(out)
    with pytest.raises(FileExistsError, match="holds a gallery"):
        begin(out, job, overwrite=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "not valid JSON"), ('{"format": 9}', "format 9"), ('{"format": 1}', "describe a job")],
)
def test_a_damaged_description_is_refused(job, tmp_path, text, said):
    begin(tmp_path, job)
    (tmp_path / "job.json").write_text(text)
    with pytest.raises(ValueError, match=said):
        begin(tmp_path, job)


def test_only_whole_shards_of_the_job_count(job, files, tmp_path, monkeypatch):
    encode_shards(job, files, tmp_path)
    out = tmp_path / "out"
    check_whole(out)
    whole = (out / job.name(0)).read_bytes()
    (out / job.name(0)).write_bytes(whole[: len(whole) // 2])
    (out / job.name(1)).write_bytes(b"")
    pq.write_table(pa.table({"item": ["a"]}), out / job.name(2))
    (out / job.name(3)).write_bytes(whole)  # the rows of another shard
    assert written(out, job) == {}
    with pytest.raises(
        ValueError, match=r"4 of 4 shards are missing or damaged, the first is part-00000"
    ):
        check_whole(out)
    (out / job.name(0)).write_bytes(whole)
    (out / job.name(1)).write_bytes(whole)
    assert set(written(out, job)) == {0}
    end = int.from_bytes(whole[-8:-4], "little")  # of the file, which says what is in it
    (out / job.name(0)).write_bytes(whole[: -8 - end] + bytes([255]) * end + whole[-8:])
    assert written(out, job) == {}

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:  # it may be whole: nothing is to take its place
        patch.setattr(pq, "read_metadata", refuse)
        with pytest.raises(PermissionError, match="part-00000"):
            written(out, job)
    (out / "job.json").unlink()
    check_whole(out)  # nobody said how many there were to be


def test_a_shard_that_ends_processes_is_given_up(job, files, model, tmp_path):
    out = tmp_path / "out"
    begin(out, job)
    for _ in range(3):
        try_shard(out, job, 1)  # and the process ends
    encode = encoder(job, tmp_path)
    with encode_job.listed(out, job, files):
        (said,) = encode(row_of(1)).to_pylist()
        assert said["error"].startswith(
            "3 processes ended while they encoded shard 1 (pictures 30 to"
        )
        assert encode(row_of(0)).to_pylist()[0]["error"] == ""
    encode_job.forget_runs(out)
    with encode_job.listed(out, job, files):
        assert encode(row_of(1)).to_pylist()[0]["error"] == ""


def test_the_list_of_pictures_is_looked_up(job, files, model, tmp_path):
    begin(tmp_path, job)
    with encode_job.listed(tmp_path, job, files):
        found = [encode_job.pictures(tmp_path, shard) for shard in range(4)]
    assert [items for items, _ in found] == [
        encode_job.items_of(files, job.rows(shard)) for shard in range(4)
    ]
    np.testing.assert_array_equal(torch.cat([labels for _, labels in found]), files.labels)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["job.json"]
    (tmp_path / "out").mkdir()
    (said,) = encoder(job, tmp_path)(row_of(0)).to_pylist()
    assert "out must be a folder that all share" in said["error"]


def test_what_goes_wrong_on_an_actor_is_returned(job, files, model, tmp_path):
    begin(tmp_path / "out", job)
    with encode_job.listed(tmp_path / "out", job, files):
        (said,) = encoder(job, tmp_path, strict=True)(row_of(2)).to_pylist()
        assert said["unreadable"]
        assert said["error"].endswith(f"{BROKEN}: the file is empty (0 bytes)")
        save_model(tmp_path / "model", seed=1)
        (said,) = encoder(job, tmp_path)(row_of(0)).to_pylist()
        assert not said["unreadable"]
        assert f"this job began with {job.fingerprint}" in said["error"]
    assert written(tmp_path / "out", job) == {}


class StandIn:
    """Ray within this process, of so many CPUs and GPUs."""

    def __init__(self, cpus=4, gpus=0):
        self.resources = {"CPU": float(cpus), "GPU": float(gpus)}
        self.data = SimpleNamespace(
            ActorPoolStrategy=lambda **size: size, from_arrow=self.from_arrow
        )
        self.shards = []

    def cluster(self, address):
        self.address = address
        return nullcontext()

    def cluster_resources(self):
        return self.resources

    def from_arrow(self, blocks):
        self.blocks = blocks
        return self

    def map_batches(self, actor, fn_constructor_args, compute, **options):
        self.options = {**compute, **options}
        encode = actor(*fn_constructor_args)
        self.results = (encode(block).to_pylist()[0] for block in self.blocks)
        return self

    def iter_rows(self):
        for row in self.results:
            self.shards.append(row["shard"])
            yield row


@pytest.fixture
def stand_in(monkeypatch):
    ray = StandIn()
    monkeypatch.setattr(encode_ray, "_import_ray", lambda: ray)
    monkeypatch.setattr(encode_ray, "_cluster", ray.cluster)
    monkeypatch.setattr(encode_ray, "_quiet", nullcontext)
    return ray


def test_the_command_goes_on_and_says_so(stand_in, files, digits, model, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = (
        "encode", digits, "--out", out, "--model", tmp_path / "model", "--engine", "ray"
    )  # fmt: skip
    arguments += ("--rows-per-shard", 30)
    status, said, err = call(capsys, *arguments)
    assert status == 0, err
    assert said == (
        f"99 codes of 48 bits in {out}, in 4 shards; 1 unreadable, see unreadable.csv\n"
        f"`hashfast index {out} --out GALLERY` makes a gallery of them\n"
    )
    gallery = read_parquet(out)
    assert_same(gallery, files, model)
    assert gallery.info["source"] == str(digits)
    assert gallery.info["model"] == str(tmp_path / "model")
    assert gallery.info["fingerprint"] == model.fingerprint()
    assert "torch" in gallery.info["environment"]
    listed = (out / "unreadable.csv").read_text()

    (out / ".pictures.arrow").touch()  # of a run that was killed
    (out / "part-00001.parquet").unlink()
    stand_in.shards.clear()
    found = answer(capsys, *arguments)
    assert stand_in.shards == [1]
    assert (found["codes"], found["shards"], found["kept"], found["unreadable"]) == (99, 4, 3, 1)
    assert (out / "unreadable.csv").read_text() == listed
    assert_same(read_parquet(out), files, model)

    (out / "part-00002.parquet").write_bytes(b"PAR1" + bytes(50) + b"\x10\0\0\0PAR1")
    assert answer(capsys, *arguments)["kept"] == 3  # a damaged shard is written anew
    assert stand_in.shards == [1, 2]
    (out / ".pictures.arrow").touch()
    assert "in 4 shards, 4 of them there before; 1 unreadable" in call(capsys, *arguments)[1]
    assert not list(out.glob(".*"))
    assert stand_in.shards == [1, 2]
    for to_gallery in (("encode", digits, "--model", tmp_path / "model"), ("index", out)):
        status, _, err = call(capsys, *to_gallery, "--out", out, "--overwrite")
        assert (status, "holds shards of --engine ray, not a gallery" in err) == (1, True)
    status, _, err = call(capsys, *arguments, "--strict")
    assert (status, "the file is empty (0 bytes)" in err) == (1, True)
    status, _, err = call(capsys, *arguments[:-1], 50)
    assert (status, "another job (with --rows-per-shard 30, not 50)" in err) == (1, True)
    assert answer(capsys, *arguments[:-1], 50, "--overwrite")["shards"] == 2
    assert len(list(out.glob("part-*"))) == 2


def test_options_reach_the_actors(stand_in, digits, model, tmp_path, capsys, monkeypatch):
    made = []
    monkeypatch.setattr(
        encode_ray,
        "encode_dataset",
        lambda *a, **options: made.append(options) or encode_dataset(*a),
    )
    common = ("encode", digits, "--model", tmp_path / "model", "--engine", "ray")
    answer(capsys, *common, "--out", tmp_path / "a")
    assert stand_in.address == "local"
    assert stand_in.options["size"] == 1  # one shard needs no more
    assert (stand_in.options["num_cpus"], stand_in.options["num_gpus"]) == (1, 0)
    answer(
        capsys, *common, "--out", tmp_path / "b", "--actors", 2, "--workers", 1,
        "--batch-size", 9, "--rows-per-shard", 50, "--address", "auto",
    )  # fmt: skip
    assert stand_in.address == "auto"
    assert (stand_in.options["size"], stand_in.options["num_cpus"]) == (2, 2)
    assert made == [
        {"batch_size": 256, "workers": 0, "strict": False},
        *[{"batch_size": 9, "workers": 1, "strict": False}] * 2,
    ]


@pytest.mark.parametrize(
    ("cpus", "gpus", "asked", "expected"),
    [
        (4, 0, (None, 0, None, 9), (4, 1, 0)),
        (4, 0, (None, 1, None, 9), (2, 2, 0)),
        (8, 2, (None, 2, None, 9), (2, 3, 1)),
        (8, 2, (None, 0, 0, 9), (8, 1, 0)),
        (8, 2, (3, 0, 0, 2), (2, 1, 0)),
        (
            8,
            2,
            (3, 0, None, 9),
            "3 actors take 1 CPU and 1 GPU each, and the Ray cluster has 8 CPU",
        ),
        (8, 0, (None, 0, 1, 9), "has 8 CPU and 0 GPU: at most 0"),
        (2, 0, (None, 2, None, 9), "1 actors take 3 CPU each"),
    ],
)
def test_actors_fit_the_cluster(stand_in, cpus, gpus, asked, expected):
    stand_in.resources = {"CPU": float(cpus), **({"GPU": float(gpus)} if gpus else {})}
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            encode_ray._pool(*asked)
    else:
        assert tuple(encode_ray._pool(*asked).values()) == expected


def test_shards_that_other_machines_keep_are_missed(stand_in, files, model, tmp_path, monkeypatch):
    monkeypatch.setattr(encode_ray, "write_shard", lambda *shard: None)
    with pytest.raises(RuntimeError, match=r"2 of 2 shards .* a folder that all share"):
        encode_with_ray(tmp_path / "model", files, tmp_path / "out", rows_per_shard=50)


def test_errors_of_actors_end_the_run(stand_in, files, model, tmp_path):
    arguments = (tmp_path / "model", files, tmp_path / "out")
    for _ in range(5):  # errors and runs cut short do not add up to a shard that is given up
        with pytest.raises(UnreadableImage, match="the file is empty"):
            encode_with_ray(*arguments, rows_per_shard=30, strict=True)
    assert stand_in.shards == [0, 1, 2, 2, 2, 2, 2]
    assert encode_with_ray(*arguments, rows_per_shard=30).kept == 2
    with pytest.raises(
        ValueError, match=r"loaded as \(3, 8, 8\) and the model takes \(3, 16, 16\)"
    ):
        encode_with_ray(tmp_path / "model", files.resized(8), tmp_path / "other")


def test_nothing_readable_fails(stand_in, model, tmp_path, capsys):
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.png").write_bytes(b"")
    status, _, err = call(
        capsys, "encode", tmp_path / "none", "--out", tmp_path / "out", "--model",
        tmp_path / "model", "--engine", "ray",
    )  # fmt: skip
    assert status == 1
    assert f"none of the 1 pictures in {tmp_path / 'none'} is readable; the first: " in err


RAY = ("--engine", "ray", "--model", "m")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("--engine", "ray"), 2, "--engine ray needs --model: fit one on a sample"),
        ((*RAY, "--split", "query"), 2, "--split belongs to protocols"),
        ((*RAY, "--root", "r"), 2, "--root belongs to protocols"),
        ((*RAY, "--split-seed", 1), 2, "--split-seed belongs to protocols"),
        ((*RAY, "--device", "cuda:1"), 2, "device is cuda:1; --engine ray takes auto, cpu, cuda"),
        ((*RAY, "--address", "ray://a:1"), 2, "invalid choice"),
        ((*RAY, "--actors", 0), 2, "actors is 0; it must be at least 1"),
        ((*RAY, "--rows-per-shard", 0), 2, "rows_per_shard is 0; it must be at least 1"),
        ((*RAY, "--bits", 8), 2, "--bits would make a new model and --model names one"),
        (("--actors", 1), 2, "--actors belongs to --engine ray"),
        (("--rows-per-shard", 1), 2, "--rows-per-shard belongs to --engine ray"),
        (("--address", "auto"), 2, "--address belongs to --engine ray"),
        (RAY, 1, "digits is a protocol, and --engine ray encodes folders of pictures"),
    ],
)
def test_what_does_not_fit_the_engine_is_refused(tmp_path, capsys, arguments, status, said):
    found, out, err = call(capsys, "encode", "digits", "--out", tmp_path / "out", *arguments)
    assert found == status
    assert said in " ".join((out + err).replace("│", "").split())
    assert not (tmp_path / "out").exists()


def test_without_ray_its_extra_is_named(digits, model, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    status, _, err = call(
        capsys, "encode", digits, "--out", tmp_path / "out", "--model", tmp_path / "model",
        "--engine", "ray",
    )  # fmt: skip
    assert (status, "pip install 'hashfast[ray]'" in err) == (1, True)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def cluster():
    """Two CPUs of this machine, and little memory."""
    ray = pytest.importorskip("ray", reason="needs Ray: make test-ray")
    with pytest.MonkeyPatch.context() as environment:
        environment.setattr(encode_ray, "OBJECT_STORE", 100 << 20)
        environment.setattr(ray, "init", lambda init=ray.init, **o: init(num_cpus=2, **o))
        with encode_ray._cluster("local"):
            yield ray


@pytest.mark.ray
@pytest.mark.parametrize("options", [("--actors", 2), ("--workers", 1, "--batch-size", 7)])
def test_ray_gives_the_same_bytes(cluster, digits, files, model, tmp_path, capfd, options):
    common = ("encode", digits, "--model", tmp_path / "model")
    answer(capfd, *common, "--out", tmp_path / "plain")
    found = answer(
        capfd,
        *common,
        "--out",
        tmp_path / "out",
        "--engine",
        "ray",
        "--rows-per-shard",
        13,
        *options,
    )
    assert (found["codes"], found["unreadable"], found["shards"]) == (99, 1, 8)
    plain, shards = Gallery.load(tmp_path / "plain"), read_parquet(tmp_path / "out")
    assert_same(shards, files, model)
    np.testing.assert_array_equal(shards.index.codes, plain.index.codes)
    np.testing.assert_array_equal(shards.labels, plain.labels)
    assert (shards.items, shards.class_names) == (plain.items, plain.class_names)
    assert shards.info == plain.info
    lists = [(tmp_path / name / "unreadable.csv").read_bytes() for name in ("plain", "out")]
    assert lists[0] == lists[1]


@pytest.mark.ray
def test_a_killed_run_goes_on(cluster, digits, model, tmp_path, capsys):
    for number in range(12):  # seconds of work in the last shards
        Image.new("L", (6000, 6000)).save(digits / "odd" / f"z{number:02}.png")
    out = tmp_path / "out"
    arguments = [
        "encode", digits, "--out", out, "--model", tmp_path / "model", "--engine", "ray",
        "--rows-per-shard", 8, "--actors", 1,
    ]  # fmt: skip
    command = [sys.executable, "-m", "hashfast", *map(str, arguments)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            deadline = time.monotonic() + 150
            while len(list(out.glob("part-*"))) < 3 and process.poll() is None:
                assert time.monotonic() < deadline, "no shards came"
                time.sleep(0.01)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    job = encode_job._read_job(out / "job.json")
    kept = {shard: (out / job.name(shard)).stat().st_mtime_ns for shard in written(out, job)}
    assert 3 <= len(kept) < job.shards == 14
    found = answer(capsys, *arguments)
    assert (found["codes"], found["kept"]) == (111, len(kept))
    for shard, when in kept.items():
        assert (out / job.name(shard)).stat().st_mtime_ns == when
    assert_same(read_parquet(out), FileDataset.from_classes(digits, image_size=16), model)


@pytest.mark.ray
def test_an_actor_that_dies_once_is_replaced(cluster, files, model, tmp_path, monkeypatch):
    class DiesOnce(ShardEncoder):
        def _encode(self, shard, items, labels):
            if shard == 2 and not (self.out / "died").exists():
                (self.out / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            super()._encode(shard, items, labels)

    monkeypatch.setattr(encode_ray, "ShardEncoder", DiesOnce)
    found = encode_with_ray(tmp_path / "model", files, tmp_path / "out", rows_per_shard=20)
    assert (found.codes, found.shards) == (99, 5)
    assert (tmp_path / "out" / "died").exists()
    assert_same(read_parquet(tmp_path / "out"), files, model)


@pytest.mark.ray
def test_an_actor_that_always_dies_ends_the_run(cluster, files, model, tmp_path, monkeypatch):
    class Dies(ShardEncoder):
        def _encode(self, shard, items, labels):
            if shard == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            super()._encode(shard, items, labels)

    arguments = {"rows_per_shard": 20, "actors": 1}
    with monkeypatch.context() as patch:
        patch.setattr(encode_ray, "ShardEncoder", Dies)
        with pytest.raises(RuntimeError, match="3 processes ended while they encoded shard 4"):
            encode_with_ray(tmp_path / "model", files, tmp_path / "out", **arguments)
    assert encode_with_ray(tmp_path / "model", files, tmp_path / "out", **arguments).kept == 4


@pytest.mark.ray
def test_errors_come_without_pages_of_ray(cluster, digits, model, tmp_path, capfd):
    path = digits / "odd" / BROKEN
    status, out, err = call(
        capfd, "encode", digits, "--out", tmp_path / "out", "--model", tmp_path / "model",
        "--engine", "ray", "--strict",
    )  # fmt: skip
    assert (status, out) == (1, "")
    assert f"hashfast encode: {path}: the file is empty (0 bytes)\n" in err
    assert "Traceback" not in err
    assert json.loads((tmp_path / "out" / "job.json").read_text())["items"] == PICTURES
