"""The measuring code itself: statistics, files, and that what is wrong gets no speed."""

import importlib
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import _bench  # noqa: E402
import _cases  # noqa: E402
import _peers  # noqa: E402
import _rows  # noqa: E402
import _suite  # noqa: E402
import _timing  # noqa: E402

from hashfast.ops import OPS  # noqa: E402


def double(x):
    return 2 * x


def case(*peers, differentiable=()):
    peers = (_peers.Peer("reference", double, "PyTorch"), *peers)
    x = torch.arange(1.0, 5.0)
    return _peers.Case("double", "n=4", 4, x.dtype, (x,), peers, differentiable=differentiable)


@pytest.fixture
def recorder():
    return _bench.Recorder("cpu", threads=1, seconds=0.0)


def test_percentiles_of_known_numbers():
    timing = _timing.summarise([5.0, 1.0, 3.0, 2.0, 4.0, 6.0], [1.0, 9.0, 2.0])
    assert timing == _timing.Timing(median=3.5, p20=2.0, p80=5.0, cpu=2.0, rounds=6)


def test_peers_take_turns():
    order = []
    thunks = {name: lambda name=name: order.append(name) for name in "ab"}

    def timer(thunk, calls):
        thunk()
        return (0.5 if order[-1] == "a" else 0.25), 0.125

    timings = _timing.measure(thunks, timer, seconds=0)
    warm_up, rounds = order[:4], order[4:]
    assert warm_up == ["a", "a", "b", "b"]
    assert rounds == ["a", "b"] * _timing.MIN_ROUNDS
    assert timings["a"] == _timing.Timing(0.5, 0.5, 0.5, 0.125, _timing.MIN_ROUNDS)
    assert timings["b"].median == 0.25


def test_short_calls_are_repeated_within_a_sample():
    seen = []

    def timer(thunk, calls):
        seen.append(calls)
        return _timing.SAMPLE_SECONDS / 7, 0.0

    _timing.measure({"a": lambda: None}, timer, seconds=0)
    assert seen == [1, 1] + [7] * _timing.MIN_ROUNDS


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (lambda x: 2 * x + 1e-2, "relative error"),
        (lambda x: 2 * x[:2], "shape"),
        (lambda x: 2 * x / (x != 3), "NaN or infinite"),
        (lambda x: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_a_wrong_peer_gets_no_row(run, why, recorder):
    good = _peers.Peer("good", lambda x: x + x, "PyTorch")
    rows = recorder.rows(case(good, _peers.Peer("bad", run, "PyTorch")))
    assert [row["provider"] for row in rows] == ["reference", "good"]
    assert not recorder.wrong
    (note,) = recorder.notes
    assert why in note
    assert "bad: not timed" in note


def test_a_wrong_operation_gets_no_rows_at_all(recorder):
    assert recorder.rows(case(_peers.Peer("hashfast", torch.zeros_like, "C++"))) == []
    assert "double n=4" in recorder.wrong[0]


def test_a_wrong_gradient_gets_no_row(recorder):
    def detached(x):
        return 2 * x.detach() + (x - x.detach())

    rows = recorder.rows(
        case(_peers.Peer("detached", detached, "PyTorch"), differentiable=(0,)),
    )
    assert {row["provider"] for row in rows} == {"reference"}
    assert [row["mode"] for row in rows] == ["forward", "backward", "forward+backward"]
    assert "wrong gradient 0" in recorder.notes[0]


def test_unwritten_output_is_noticed(recorder):
    forgetful = _peers.Peer("hashfast", torch.empty_like, "C++")
    assert recorder.rows(case(forgetful)) == []
    assert recorder.wrong


def test_integers_must_be_equal():
    ones = torch.ones(3, dtype=torch.int64)
    assert _peers.disagreement(ones, ones) == ""
    assert "1 of 3 integers" in _peers.disagreement(ones, torch.tensor([1, 1, 2]))


def test_ratio_is_to_the_baseline(recorder):
    rows = recorder.rows(case(_peers.Peer("other", lambda x: x + x, "PyTorch")))
    by_name = {row["provider"]: row for row in rows}
    assert by_name["reference"]["ratio"] == 1
    cpu = {name: row["cpu_median_ms"] for name, row in by_name.items()}
    assert by_name["other"]["ratio"] == pytest.approx(cpu["reference"] / cpu["other"])
    assert {row["ratio_clock"] for row in rows} == {"cpu"}


def test_rows_survive_the_file(recorder, tmp_path):
    rows = recorder.rows(case())
    path = tmp_path / "new" / "machine.csv"
    _rows.append_rows(path, rows)
    _rows.append_rows(path, rows)
    read = _rows.read_rows(path)
    assert len(read) == 2 * len(rows)
    for name in _rows.COLUMNS:
        value = rows[0][name]
        if isinstance(value, float):
            assert read[0][name] == pytest.approx(value, rel=1e-5, nan_ok=True)
        else:
            assert read[0][name] == value
    with pytest.raises(ValueError, match="expected \\['a'\\]: move it away"):
        _rows.append_rows(path, [], columns=["a"])


def test_machine_is_named_by_its_model(monkeypatch):
    assert _rows.machine_slug("NVIDIA H200") == "nvidia-h200"
    assert _rows.machine_slug("Intel(R) Xeon(R) Gold 6230 CPU @ 2.10GHz") == "intel-xeon-gold-6230"
    monkeypatch.setattr(_rows.platform, "node", lambda: "Gpu7.lab")
    with pytest.raises(ValueError, match="host name"):
        _rows.machine_slug("h200 gpu7-lab")


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0.00123, "1.23 us"), (0.0456, "45.6 us"), (0.789, "789 us"), (1.5, "1.50 ms"), (2e4, "20 s")],
)
def test_durations_read_well(milliseconds, text):
    assert _rows.duration(milliseconds) == text


def test_every_operation_is_planned_first_shapes_first():
    work = _cases.plan(sorted(OPS), "cpu", quick=False)
    assert [name for name, number in work[: len(OPS)]] == sorted(OPS)
    assert work == sorted(work, key=lambda item: item[1])
    assert _cases.plan(["class_mmd"], "cpu", quick=True) == [("class_mmd", 0)]


def test_an_operation_without_shapes_of_its_own_uses_its_examples(monkeypatch):
    monkeypatch.delitem(_cases.BUILDERS, "hamming_topk")
    built = _cases.build("hamming_topk", 0, "cpu", threads=1, compiled=False)
    assert built.shape == "largest example"
    assert built.arguments[0].dtype == built.dtype == torch.uint8


@pytest.mark.parametrize("name", sorted(OPS))
def test_every_provider_of_every_operation_is_right(name, recorder):
    built = _cases.build(name, 0, "cpu", threads=1, compiled=False)
    reference = next(peer for peer in built.peers if peer.name == "reference")
    expected = _peers.results_of(built, reference)
    for peer in built.peers:
        assert _peers.check(built, peer, expected) == ""
        assert all(peer.served_by(mode) for mode in built.modes)


def run(*arguments):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_the_script_prints_and_appends(tmp_path):
    out = tmp_path / "rows.csv"
    script = BENCHMARKS / "bench_ops.py"
    done = run(script, "--quick", "--device", "cpu", "--ops", "binary_wasserstein", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "(ratio to torch.sort in CPU time)" in done.stdout
    rows = _rows.read_rows(out)
    assert {row["provider"] for row in rows} == {"hashfast", "reference", "torch.sort"}
    for row in rows:
        assert 0 < row["p20_ms"] <= row["median_ms"] <= row["p80_ms"]
        assert row["rounds"] >= _timing.MIN_ROUNDS
        assert row["threads"] == 1
    (backend,) = {
        row["backend"] for row in rows if row["provider"] == "hashfast" and row["mode"] == "forward"
    }
    assert backend == OPS["binary_wasserstein"].backend("cpu")


def test_plots_are_drawn(recorder, tmp_path):
    pytest.importorskip("matplotlib")
    plot = importlib.import_module("plot")
    path = tmp_path / "machine.csv"
    row = recorder.rows(case())[0]
    _rows.append_rows(path, [row, row | {"size": 40, "shape": "n=40"}, row | {"date": "2000"}])
    assert len(plot.latest(_rows.read_rows(path))) == 2
    assert plot.main([str(path), "--out", str(tmp_path / "plots")]) == 0
    assert (tmp_path / "plots" / "machine-double.png").read_bytes().startswith(b"\x89PNG")


def test_quality_bars_are_judged(monkeypatch, tmp_path, capsys):
    quality = importlib.import_module("quality")
    values = {0: 0.3, 1: 0.5}
    bars = [
        quality.Bar(
            name, "digits", threshold, quality.DIGITS, lambda config, _: values[config.seed]
        )
        for name, threshold in (("low", 0.3999), ("high", 0.41))
    ]
    monkeypatch.setattr(quality, "BARS", bars)
    out = tmp_path / "quality.csv"
    arguments = ["--parts", "digits", "--seeds", "0", "1", "--device", "cpu", "--out", str(out)]
    assert quality.main(arguments) == 1
    low, high = capsys.readouterr().out.splitlines()
    assert low.startswith("passed  low: 0.4000")
    assert high.startswith("MISSED  high")
    assert len(out.read_text().splitlines()) == 3
    assert quality.main([*arguments, "--epochs", "1"]) == 1
    assert len(out.read_text().splitlines()) == 3  # a trial is not kept


def test_random_projection_of_digits():
    quality = importlib.import_module("quality")
    value = quality.random_projection_map(quality.load("digits"), 32, seed=0)
    assert 0.3 < value < 0.7
    assert math.isfinite(value)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_gpu_suite_is_sound():
    script = BENCHMARKS / "gpu_suite.sh"
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    usage = subprocess.run(["bash", script], capture_output=True, text=True, check=False)
    assert usage.returncode == 2
    assert "OUT_FOLDER SECONDS" in usage.stderr
    assert run(BENCHMARKS / "_suite.py", "operations").stdout.split()[0] == "binary_wasserstein"
    assert run(BENCHMARKS / "_suite.py").returncode == 2


def test_gpu_suite_leaves_out_tests_that_cannot_be_imported(tmp_path):
    (tmp_path / "test_a.py").write_text("import torch\nfrom hashfast import ops\n")
    (tmp_path / "test_b.py").write_text("import no_such_package.part\n")
    (tmp_path / "test_c.py").write_text("from hashfast.no_such_module import anything\n")
    assert _suite.unrunnable(tmp_path) == {str(tmp_path / "test_b.py"): "no_such_package"}
