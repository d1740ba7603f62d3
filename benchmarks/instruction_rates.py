"""Measure how fast this GPU does the instructions that a Hamming search is made of.

python benchmarks/instruction_rates.py [--out FILE]

Compiles micro/instruction_rates.cu with nvcc for the GPU that is present and runs it, some seconds.
A rate is of instructions of a warp (BGMMA: of four) a cycle of one multiprocessor. `Gpairs/s` is
what the whole GPU could compare if a search were made of that instruction alone, for codes of the
bits beside it. Exits with 1 when a product of bits is wrong, with 2 without a GPU or a compiler.
"""

import argparse
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from _bench import stamp
from _nvcc import compile_cuda
from _rows import RESULTS, ROOT, Row, aligned, append_rows, machine_slug

SOURCE = ROOT / "benchmarks" / "micro" / "instruction_rates.cu"
RUN_SECONDS = 120

# Bits of codes, and how many pairs of them an instruction compares. A product by AND takes codes
# and their complements, twice the bits; one by XOR takes the codes. A lane counts 32 bits a POPC.
PAIRS = {
    "BMMA m16n8k128 AND": (64, 16 * 8),
    "BMMA m16n8k128 XOR": (128, 16 * 8),
    "BMMA m16n8k256 AND": (128, 16 * 8),
    "BMMA m16n8k256 XOR": (256, 16 * 8),
    "BGMMA m64n64k256 AND": (128, 64 * 64),
    "BGMMA m64n256k256 AND": (128, 64 * 256),
    "POPC": (64, 32 // 2),
}

COLUMNS = (
    *(
        "instruction",
        "per_cycle",
        "per_second",
        "clock_ghz",
        "milliseconds",
        "code_bits",
        "gpairs_s",
    ),
    *("processors", "architecture", "device", "torch", "commit", "date"),
)


class Rate(NamedTuple):
    """instructions: how many warps did it how often, in all; cycles: of one block."""

    instruction: str
    instructions: float
    milliseconds: float
    cycles: int


def parse_rates(text: str) -> tuple[int, list[Rate]]:
    """Multiprocessors and rates out of what the program prints."""
    processors, *lines = text.splitlines()
    rates = []
    for line in lines:
        name, instructions, milliseconds, cycles = line.rsplit(",", 3)
        rates.append(Rate(name, float(instructions), float(milliseconds), int(cycles)))
    return int(processors), rates


def rows(text: str, made: Row) -> list[Row]:
    """A row for each instruction. made: what all of them share."""
    processors, rates = parse_rates(text)
    found = []
    for rate in rates:
        per_second = 1e3 * rate.instructions / rate.milliseconds
        bits, pairs = PAIRS.get(rate.instruction, ("", math.nan))
        found.append(
            {
                "instruction": rate.instruction,
                "per_cycle": rate.instructions / processors / rate.cycles,
                "per_second": per_second,
                "clock_ghz": rate.cycles / rate.milliseconds / 1e6,
                "milliseconds": rate.milliseconds,
                "code_bits": bits,
                "gpairs_s": per_second * pairs / 1e9,
                "processors": processors,
            }
            | made
        )
    return found


def table(found: list[Row]) -> str:
    lines = [("instruction", "a cycle and multiprocessor", "a second", "GHz", "Gpairs/s", "bits")]
    for row in found:
        pairs = row["gpairs_s"]
        lines.append(
            (
                *(row["instruction"], f"{row['per_cycle']:.4f}", f"{row['per_second']:.3g}"),
                f"{row['clock_ghz']:.2f}",
                "" if math.isnan(pairs) else f"{pairs:,.0f}",
                str(row["code_bits"]),
            )
        )
    return aligned(lines)


def architecture(capability: tuple[int, int]) -> str:
    """As nvcc names it; only code for 90a has Hopper's own products."""
    major, minor = capability
    return f"{major}{minor}{'a' if capability == (9, 0) else ''}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--machine", help="name of the results file (default: the GPU's model)")
    parser.add_argument("--out", type=Path, help="CSV file to append to, instead of results/")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("this torch sees no CUDA GPU, and rates are those of a GPU", file=sys.stderr)
        return 2
    made = stamp("cuda", 1)
    made = {key: made[key] for key in ("device", "torch", "commit", "date")}
    made["architecture"] = architecture(torch.cuda.get_device_capability())
    with tempfile.TemporaryDirectory(prefix="hashfast-") as folder:
        program = Path(folder) / "instruction_rates"
        try:
            compile_cuda(SOURCE, program, [made["architecture"]])
        except RuntimeError as error:
            print(error, file=sys.stderr)
            return 2
        done = subprocess.run(
            [program], capture_output=True, text=True, check=False, timeout=RUN_SECONDS
        )
    print(done.stderr, end="", file=sys.stderr)
    found = rows(done.stdout, made) if done.stdout else []
    print(f"{made['device']}, sm_{made['architecture']}; commit {made['commit']}; {made['date']}")
    print(table(found))
    if found and done.returncode == 0:
        out = (
            options.out
            or RESULTS / f"instructions-{machine_slug(options.machine or made['device'])}.csv"
        )
        append_rows(out, found, COLUMNS)
        print(f"rows appended to {out}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
