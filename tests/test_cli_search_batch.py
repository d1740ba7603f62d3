"""hashfast search --queries, and both kinds of search in two processes."""

import contextlib
import io
import json
import os
import shutil

import numpy as np
import pytest
import torch
from cli_calls import answer, call
from hamming_oracle import assert_same, brute_force, brute_force_range, random_codes
from index_examples import index_of
from PIL import Image
from process_runs import together

from hashfast.cli import _search_batch, main
from hashfast.hashing import HashModel, ModelConfig
from hashfast.hashing.encode_job import Job, begin, write_shard
from hashfast.index import Gallery
from hashfast.index.parquet import write_parquet

CODES, QUERIES = random_codes(60, 2, 0, 4), random_codes(7, 2, 1, 4)
NARROW = np.array([255, 248], np.uint8)  # the bits of a 13-bit code


def gallery_of(codes, bits=16, **info):
    return Gallery.of(codes, bits, info=info)


def write(folder, kind, codes, **info):
    """Codes in a file or folder of one of the kinds."""
    path = folder / f"{len(codes)}.{kind}"
    if kind == "npy":
        np.save(path, codes)
    elif kind == "index":
        index_of(codes, 16).save(path)
    elif kind == "gallery":
        gallery_of(codes, **info).save(path)
    else:
        write_parquet(gallery_of(codes, **info), path, 20)
    return path


def found(path):
    with np.load(path) as arrays:
        return dict(arrays)


@pytest.fixture
def npy(tmp_path):
    return write(tmp_path, "npy", CODES), write(tmp_path, "npy", QUERIES), tmp_path / "found.npz"


@pytest.mark.parametrize("kind", ["npy", "index", "gallery", "parquet"])
def test_a_file_of_queries(kind, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(_search_batch, "_RESULTS", 15)  # of 5 neighbours those of 3 queries
    monkeypatch.setattr(_search_batch, "_RANGE_QUERIES", 3)
    codes, queries = (write(tmp_path, kind, rows) for rows in (CODES, QUERIES))
    arguments = ["search", codes, "--queries", queries, "--device", "cpu"]
    said = answer(capsys, *arguments, "--k", 5, "--out", tmp_path / "near")
    arrays = found(tmp_path / "near")
    assert arrays.keys() == {"distances", "ids"}
    assert_same((arrays["distances"], arrays["ids"]), brute_force(QUERIES, CODES, 5))
    seconds = said.pop("seconds")
    assert said.pop("queries_per_second") == pytest.approx(7 / seconds)
    assert said.pop("gpairs_per_second") == pytest.approx(7 * 60 / seconds / 1e9)
    facts = {"queries": 7, "codes": 60, "bits": 16, "processes": 1}
    assert said == {**facts, "k": 5, "out": str(tmp_path / "near")}

    said = answer(capsys, *arguments, "--radius", 4, "--out", tmp_path / "within")
    arrays = found(tmp_path / "within")
    assert arrays.keys() == {"limits", "distances", "ids"}
    in_order = [arrays[name] for name in ("limits", "distances", "ids")]
    assert_same(in_order, brute_force_range(QUERIES, CODES, 4))
    assert (said["radius"], "k" in said) == (4, False)


def test_a_summary_for_people(npy, capsys):
    codes, queries, out = npy
    status, text, err = call(capsys, "search", codes, "--queries", queries, "--out", out)
    assert status == 0
    first, second, third = text.splitlines()
    assert first == "7 queries among 60 codes of 16 bits"
    assert second.startswith("searched    ")
    assert second.endswith(" Gpairs/s")
    assert third == f"written to  {out}"
    assert "7/7" in err  # how far it is


def test_ids_of_the_codes_own(tmp_path, npy, capsys):
    _, queries, out = npy
    ids = np.arange(60)[::-1] * 3
    index_of(CODES, 16, ids).save(tmp_path / "codes.idx")
    answer(capsys, "search", tmp_path / "codes.idx", "--queries", queries, "--out", out)
    np.testing.assert_array_equal(found(out)["ids"], ids[brute_force(QUERIES, CODES, 10)[1]])


def test_more_neighbours_than_codes_and_no_queries(npy, capsys):
    codes, queries, out = npy
    arguments = ["search", codes, "--queries", queries, "--overwrite", "--out", out]
    status, _, err = call(capsys, *arguments, "--k", 70)
    assert status == 0
    assert err.count("k is 70 but there are 60 codes") == 1
    arrays = found(out)
    assert_same((arrays["distances"], arrays["ids"]), brute_force(QUERIES, CODES, 70))
    np.save(queries, QUERIES[:0])
    for option, shapes in (("--k", {(0, 3)}), ("--radius", {(1,), (0,)})):
        assert answer(capsys, *arguments, option, 3)["queries"] == 0
        assert {array.shape for array in found(out).values()} == shapes


# ---- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "either pictures with --image, or --queries"),
        (["--image", "a.png", "--queries", "q.npy"], "either pictures with --image, or --queries"),
        (["--queries", "q.npy"], "--queries and --out go together"),
        (["--image", "a.png", "--out", "found.npz"], "--queries and --out go together"),
        (["--queries", "q.npy", "--out", "o", "--model", "m"], "--model codes the pictures"),
        (["--image", "a.png", "--k", 10, "--radius", 3], "--k finds so many, --radius everything"),
        (["--image", "a.png", "--overwrite"], "--overwrite replaces a file at --out"),
    ],
)
def test_options_that_do_not_go_together(arguments, said, capsys):
    status, _, err = call(capsys, "search", "codes.npy", *arguments)
    assert status == 2
    assert said in " ".join(err.replace("│", " ").split())


def test_what_is_there_is_kept(npy, tmp_path, capsys, monkeypatch):
    codes, queries, out = npy
    out.write_text("of yesterday")
    arguments = ["search", codes, "--queries", queries, "--out"]
    cases = {
        out: "found.npz exists: --overwrite replaces it",
        tmp_path: "is a folder: name a file with --out",
        tmp_path / "no" / "found.npz": f"the folder {tmp_path / 'no'} does not exist",
    }
    with monkeypatch.context() as patch:
        patch.setattr(_search_batch, "_nearest", None)  # refused before anything is computed
        for path, said in cases.items():
            status, _, err = call(capsys, *arguments, path)
            assert status == 1
            assert said in err
    monkeypatch.setattr(np, "savez", full_disk)
    status, _, err = call(capsys, *arguments, out, "--overwrite")
    assert status == 1
    assert "no space left" in err
    assert out.read_text() == "of yesterday"
    monkeypatch.undo()
    answer(capsys, *arguments, out, "--overwrite")
    assert found(out).keys() == {"distances", "ids"}


def full_disk(file, **_):
    file.write(b"half")
    raise OSError("no space left")


def test_numbers_out_of_range(npy, capsys):
    codes, queries, out = npy
    for option, value, said in (("--k", 0, "k is 0"), ("--radius", -1, "radius is -1")):
        status, _, err = call(
            capsys, "search", codes, "--queries", queries, "--out", out, f"{option}={value}"
        )
        assert status == 1
        assert f"{said}; expected at least" in err
    arguments = ["search", codes, "--queries", queries, "--out", out, "--k", 2**31]
    status, _, err = call(capsys, *arguments)
    assert (status, "There are n = 60 codes to search" in err) == (1, True)


def test_half_an_encode_is_refused(npy, tmp_path, capsys):
    _, queries, out = npy
    shards, job = tmp_path / "shards", Job("f", "s", 20, 10, 16)
    begin(shards, job)
    for shard in range(2):
        rows = CODES[job.rows(shard)[0] :][:10]
        write_shard(shards, job, shard, rows, list(map(str, range(10))), np.full(10, -1), [])
    whole = {shards: queries, queries: shards}
    for codes, asked in whole.items():
        answer(capsys, "search", codes, "--queries", asked, "--out", out, "--overwrite")
    (shards / job.name(1)).unlink()
    for codes, asked in whole.items():
        arguments = ["search", codes, "--queries", asked, "--out", out, "--overwrite"]
        status, _, err = call(capsys, *arguments)
        assert (status, "shards is not whole: 1 of 2 shards are missing" in err) == (1, True)


def test_codes_that_do_not_fit_each_other(npy, tmp_path, capsys):
    codes, _, out = npy
    np.save(tmp_path / "wide.npy", random_codes(3, 8))
    arguments = ["search", codes, "--out", out, "--queries"]
    status, _, err = call(capsys, *arguments, tmp_path / "wide.npy")
    assert status == 1
    assert "60.npy has 16-bit codes and " in err
    assert "wide.npy 64-bit ones" in err
    status, _, err = call(capsys, *arguments, tmp_path / "nowhere")
    assert status == 1
    assert "nowhere" in err
    # An .npy file may hold 13-bit codes.
    gallery_of(CODES & NARROW, 13).save(tmp_path / "g")
    for rows in (QUERIES & NARROW, QUERIES):
        np.save(tmp_path / "q.npy", rows)
        narrow = ["search", tmp_path / "g", "--queries", tmp_path / "q.npy", "--overwrite"]
        status, _, err = call(capsys, *narrow, "--out", out)
        assert status == int((rows & ~NARROW).any())
    assert "some of the last 3 bits of a code are set" in err


@pytest.mark.parametrize("kind", ["gallery", "parquet"])
def test_codes_of_two_models_are_refused(kind, npy, tmp_path, capsys):
    path, queries, out = npy
    mine = write(tmp_path, kind, CODES, fingerprint="mine", code_spaces=["mine", "shared"])
    for theirs, status in ({"fingerprint": "a"}, 1), ({"fingerprint": "mine"}, 0), ({}, 0):
        asked = tmp_path / f"{theirs}"
        gallery_of(QUERIES, **theirs).save(asked)
        arguments = ["search", mine, "--queries", asked, "--overwrite", "--out", out]
        found, _, err = call(capsys, *arguments)
        assert found == status
        if status:
            assert f"{mine} was made by model mine and {asked} by a:" in err
            assert "(--force goes ahead all the same)" in err
            assert call(capsys, *arguments, "--force")[0] == 0
    student = tmp_path / "student"
    gallery_of(QUERIES, fingerprint="b", code_spaces=["shared"]).save(student)
    for codes, asked in ((mine, student), (mine, queries), (path, student)):
        answer(capsys, "search", codes, "--queries", asked, "--overwrite", "--out", out)


# ---- two processes --------------------------------------------------------------------------


def calls(folder, out):
    """Exit status and output of searches, as this process prints it.

    For the last the processes are on machines of their own, and the second's has a bad copy.
    """
    copy = folder / ("copy" if os.environ.get("RANK") == "1" else "g")
    batch = ["search", folder / "g", "--queries", folder / "queries.npy", "--device", "cpu"]
    images = ["search", folder / "g", "--image", folder / "1.png", folder / "7.png"]
    commands = [
        [*images, "--k", 5],
        [*images, "--radius", 14, "--json"],
        [*batch, "--k", 20, "--out", out / "near.npz"],
        [*batch, "--radius", 12, "--out", out / "within.npz"],
        ["search", copy, *images[2:]],
    ]
    results = []
    for command in commands:
        if command is commands[-1]:
            os.environ["LOCAL_RANK"] = "0"
        text, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(err):
            status = main(list(map(str, command)))
        results.append((status, text.getvalue(), err.getvalue()))
    return results


def test_two_processes_answer_as_one(tmp_path, capsys, monkeypatch):
    torch.manual_seed(0)
    config = ModelConfig("pixels", 32, image_shape=(1, 8, 8), mean=(0.5,), std=(0.2,))
    HashModel(config).save_pretrained(tmp_path / "model")
    for name in range(15):
        pixels = np.random.default_rng(name).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    gallery = tmp_path / "g"
    answer(capsys, "encode", tmp_path, "--model", tmp_path / "model", "--out", gallery)
    np.save(tmp_path / "queries.npy", random_codes(9, 4))
    shutil.copytree(gallery, tmp_path / "copy")
    with open(tmp_path / "copy" / "items.csv", "a") as file:
        file.write('15,"one more",""\n')
    outs = [tmp_path / "one", tmp_path / "two"]
    for out in outs:
        out.mkdir()
    monkeypatch.setenv("LOCAL_RANK", "0")  # back to what it was afterwards
    alone = calls(tmp_path, outs[0])
    first, second = together(2, calls, tmp_path, tmp_path, outs[1])
    assert [status for status, *_ in alone] == [0] * 5
    assert [status for status, *_ in first] == [status for status, *_ in second] == [0, 0, 0, 0, 1]
    assert first[:2] == alone[:2]
    assert len(json.loads(alone[1][1])["results"][0]["hits"]) > 1
    for name in ("near.npz", "within.npz"):
        ours, theirs = (found(out / name) for out in outs)
        assert ours.keys() == theirs.keys()
        for key, array in ours.items():
            assert array.size
            np.testing.assert_array_equal(array, theirs[key])
    assert first[2][1].startswith("9 queries among 15 codes of 32 bits in 2 processes\n")
    # The second process says nothing, but why it failed.
    assert second[:4] == [(0, "", "")] * 4
    assert second[4][2].startswith(
        f"hashfast search: {tmp_path / 'copy'}: gallery.json is of codes"
    )
    said = second[4][2].removeprefix("hashfast search: ")
    assert first[4] == (1, "", f"hashfast search: process 1: {said}")
