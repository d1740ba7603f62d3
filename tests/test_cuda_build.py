"""What a compiler makes of the CUDA kernels, where no GPU is needed to see it: machine code.

Every kernel of the Hamming searches for Ampere, Hopper and Blackwell in one compilation, from
cuda_kernels.cu; and the loops of the instruction benchmark.
"""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import _nvcc  # noqa: E402
import instruction_rates  # noqa: E402
import scan_instructions  # noqa: E402

KERNELS = Path(__file__).with_name("cuda_kernels.cu")
ARCHITECTURES = ("75", "80", "90", "100")
TENSOR_CORES = ("80", "90")  # that multiply single bits
REGISTERS, WARP = 65536, 32  # of a processor; they are given to a warp 8 a thread at a time
STATIC_SHARED = 48 * 1024
SCAN_THREADS = 256

pytestmark = pytest.mark.skipif(
    _nvcc.nvcc() is None or _nvcc.cuobjdump() is None, reason="needs nvcc and cuobjdump"
)


class Made(NamedTuple):
    """Compiled code; resources: {architecture: {kernel: {"REG": ..., "STACK": ...}}}."""

    path: Path
    resources: dict[str, dict[str, dict[str, int]]]

    def listings(self, architecture: str, *kernels: str) -> dict[str, str]:
        """Machine code of the kernels whose names hold one of these."""
        names = [name for name in self.resources[architecture] if any(k in name for k in kernels)]
        text = dump(self.path, "--dump-sass", f"-arch=sm_{architecture}", "-fun", ",".join(names))
        parts = re.split(r"^\s*Function : ", text, flags=re.MULTILINE)[1:]
        found = {part.split()[0]: part for part in parts}
        assert sorted(found) == sorted(names)
        return found


def instructions(listing):
    """How often each instruction is in machine code."""
    return Counter(
        re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@\S+ )?([A-Z]\S*)", listing, re.MULTILINE)
    )


def dump(path, *options):
    command = [_nvcc.cuobjdump(), *options, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def compiled(source, folder, architectures, *options):
    listed = subprocess.run([_nvcc.nvcc(), "--list-gpu-arch"], capture_output=True, text=True)
    known = [a for a in architectures if f"compute_{a.rstrip('a')}" in listed.stdout]
    path = folder / f"{source.stem}.fatbin"
    _nvcc.compile_cuda(source, path, known, "-fatbin", "--threads=2", *options)
    resources: dict[str, dict[str, dict[str, int]]] = {}
    for part in dump(path, "--dump-resource-usage").split("arch = sm_")[1:]:
        kernels = resources.setdefault(part.split()[0], {})
        for name, used in re.findall(r"Function (\S+):\s+(REG:.*)", part):
            kernels[name] = {key: int(n) for key, n in re.findall(r"([A-Z]+):(\d+)", used)}
    assert sorted(resources) == sorted(known)
    return Made(path, resources)


# ---- the searches --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def searches(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kernels")
    return compiled(KERNELS, folder, ARCHITECTURES, f"-I{ROOT / 'csrc' / 'cuda'}")


def scans(kernels):
    """{name: registers of B, steps, tiles of queries, words of a code} of scans on tensor cores."""
    pattern = r"hamming_scan_mma_kernelILi(\d+)ELi(\d+)ELi(\d+)ELi(\d+)E"
    return {
        name: tuple(map(int, match.groups()))
        for name in kernels
        if (match := re.search(pattern, name))
    }


def test_all_kernels_are_there(searches):
    for kernels in searches.resources.values():
        for part in ("sample", "scan_popc", "select", "count_rows", "place_rows", "count_hits"):
            assert any(part in name for name in kernels), part
        assert {bits * steps for bits, steps, *_ in scans(kernels).values()} == {1, 2, 4, 8, 16}
        assert {tiles for _, _, tiles, _ in scans(kernels).values()} == {1, 2, 4}


def test_no_kernel_uses_local_memory(searches):
    """What does not fit into registers would go there, many times slower."""
    spilled = [
        f"sm_{architecture} {name}: {used}"
        for architecture, kernels in searches.resources.items()
        for name, used in kernels.items()
        if used["STACK"] or used["LOCAL"]
    ]
    assert not spilled, "\n".join(spilled)


def test_static_shared_memory_is_what_every_gpu_has(searches):
    for kernels in searches.resources.values():
        assert max(used["SHARED"] for used in kernels.values()) <= STATIC_SHARED


@pytest.mark.parametrize("architecture", TENSOR_CORES)
def test_a_processor_holds_as_many_blocks_of_a_scan_as_it_is_given(searches, architecture):
    kernels = searches.resources[architecture]
    for name, (_, steps, tiles, _) in scans(kernels).items():
        blocks = 1 if steps > 4 else 4 if tiles == 1 and steps <= 2 else 2
        registers = -(-kernels[name]["REG"] // 8) * 8
        assert registers * SCAN_THREADS * blocks <= REGISTERS, name


@pytest.mark.parametrize("architecture", TENSOR_CORES)
def test_scans_multiply_bits_by_tensor_cores(searches, architecture):
    """Where they cannot, the compiler calls a function for every product, without a word."""
    shapes = scans(searches.resources[architecture])
    # Those of codes in vectors; the loops of others are the same, and a listing takes its time.
    usual = [name for name, shape in shapes.items() if shape[3] > 1]
    for name, listing in searches.listings(architecture, *usual).items():
        registers, steps, tiles, _ = shapes[name]
        # Of 16 queries and 8 of 32 codes at a time; once more to tell which codes are hits.
        product = f"BMMA.168{128 * registers}.AND.POPC"
        assert instructions(listing)[product] == 2 * 4 * tiles * steps, name
        loop = scan_instructions.loop_with(product, listing)
        assert loop["BMMA"] == 4 * tiles * steps, name
        # Words of four codes come in one load, for all queries of the warp.
        assert loop["LDS"] == registers * steps, name


# ---- the benchmark of instructions ---------------------------------------------------------

LOOP = 32  # of an instruction in a loop of the benchmark
EVERYWHERE = {
    "Popc": {"POPC": LOOP},
    "Lop3": {"LOP3.LUT": LOOP},
    "Iadd3": {"IADD3": LOOP},
    "VoteAndBranch": {"VOTE.ANY": LOOP, "BRA": LOOP},
    "SharedLoad": {"LDS.128": LOOP},
    "AtomicsILj1E": {"ATOMG.E.ADD.STRONG.GPU": LOOP},
    "AtomicsILj512E": {"ATOMG.E.ADD.STRONG.GPU": LOOP},
    "AtomicsILj1048576E": {"ATOMG.E.ADD.STRONG.GPU": LOOP},
}
AND_OF_BITS = {
    "BmmaAnd128": {"BMMA.168128.AND.POPC": LOOP},
    "BmmaAnd256": {"BMMA.168256.AND.POPC": LOOP},
}
EXPECTED = {
    "80": EVERYWHERE
    | AND_OF_BITS
    | {
        "BmmaXor128": {"BMMA.168128.XOR.POPC": LOOP},
        "BmmaXor256": {"BMMA.168256.XOR.POPC": LOOP},
    },
    # Hopper's tensor cores have AND alone; XOR is a function.
    "90a": EVERYWHERE
    | AND_OF_BITS
    | {"BmmaXor128": {"CALL": LOOP}, "Bgmma64": {"BGMMA": 8}, "Bgmma256": {"BGMMA": 8}},
    "100": EVERYWHERE | {"BmmaAnd128": {"CALL": LOOP}, "BmmaAnd256": {"CALL": LOOP}},
}


def test_instructions_that_are_timed_are_in_the_loops(tmp_path):
    made = compiled(instruction_rates.SOURCE, tmp_path, tuple(EXPECTED))
    for architecture, kernels in made.resources.items():
        for name, used in kernels.items():
            assert (used["STACK"], used["LOCAL"]) == (0, 0), (architecture, name)
        for kernel, wanted in EXPECTED[architecture].items():
            (listing,) = made.listings(architecture, kernel).values()
            used = instructions(listing)
            for name, times in wanted.items():
                found = sum(
                    n for one, n in used.items() if one == name or one.startswith(f"{name}.")
                )
                # A few more are around the loop; twice as many would be another loop.
                assert times <= found < 2 * times, (architecture, kernel, name, found)
