"""Count the instructions of the scans' inner loops, which say how fast a GPU may become with them.

python benchmarks/scan_instructions.py [--architecture 90]

Compiles csrc/cuda for a GPU that need not be there. A loop compares 32 codes with the queries of
a warp; it is followed from its head along the way on which nothing is found. `cycles` are those of
a multiprocessor that it takes at least: four instructions are issued in one, an integer operation
of a warp takes half of one, 16 bytes a lane from shared memory four, a product of 128 bits one and
of 256 two (to be held against instruction_rates.py). Exits with 2 without nvcc or cuobjdump.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from _nvcc import compile_cuda, cuobjdump
from _rows import ROOT, aligned

SOURCE = ROOT / "tests" / "cuda_kernels.cu"
KERNEL = "hamming_scan_mma_kernel"
CODES = 32
# Integer operations that share the 64 lanes a cycle of a multiprocessor.
INTEGER = ("LOP3", "ISETP", "IADD3", "VIADD", "SHF", "SEL", "LEA", "PLOP3", "IABS")


class Loop(NamedTuple):
    """registers: of B to a product; tiles: of 16 queries; code_words: 0 for any codes."""

    registers: int
    steps: int
    tiles: int
    code_words: int
    instructions: Counter[str]

    @property
    def pairs(self) -> int:
        return 16 * self.tiles * CODES

    def cycles(self) -> dict[str, float]:
        """Of a multiprocessor, by what they are spent on."""
        used = self.instructions
        return {
            "issue": used.total() / 4,
            "integers": sum(used[name] for name in INTEGER) / 2,
            "products": used["BMMA"] * self.registers,
            "shared memory": 4 * used["LDS"],
        }


def loop_with(product: str, listing: str) -> Counter[str]:
    """Instructions of the first loop that holds `product`, along the way without a hit."""
    found = re.findall(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;", listing, re.MULTILINE)
    places = {int(place, 16): number for number, (place, _) in enumerate(found)}
    texts = [text for _, text in found]

    def target(text: str) -> int | None:
        match = re.search(r"\bBRA\b.*0x([0-9a-f]+)", text)
        return places[int(match[1], 16)] if match else None

    first = next(i for i, text in enumerate(texts) if product in text)
    vote = next(i for i in range(first, len(texts)) if "VOTE.ANY" in texts[i])
    branch = next(i for i in range(vote, len(texts)) if target(texts[i]) is not None)
    on = target(texts[branch])
    assert on is not None
    for end in range(on, len(texts)):
        head = target(texts[end])
        if head is not None and head <= first:
            path = texts[head : branch + 1] + texts[on : end + 1]
            return Counter(re.sub(r"^@\S+ ", "", text).split()[0].split(".")[0] for text in path)
    raise ValueError(f"no loop around {product}")


def loops(architecture: str) -> list[Loop]:
    tool = cuobjdump()
    if tool is None:
        raise RuntimeError("no cuobjdump: install the toolkit's, or triton, which brings one")
    with tempfile.TemporaryDirectory(prefix="hashfast-") as folder:
        made = Path(folder) / "kernels.cubin"
        compile_cuda(SOURCE, made, [architecture], "-cubin", f"-I{ROOT / 'csrc' / 'cuda'}")
        command = [tool, "--dump-sass", str(made)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = []
    for part in re.split(r"^\s*Function : ", text, flags=re.MULTILINE)[1:]:
        match = re.search(rf"{KERNEL}ILi(\d+)ELi(\d+)ELi(\d+)ELi(\d+)E", part.split()[0])
        if match:
            found.append(Loop(*map(int, match.groups()), loop_with("BMMA", part)))
    return sorted(found, key=lambda loop: loop[:4])


def table(found: list[Loop]) -> str:
    names = list(found[0].cycles())
    head = ("bits", "queries", "words", "instructions", "BMMA", "LDS", "LOP3", "IMAD", "pairs")
    lines = [(*head, *(f"cycles: {name}" for name in names), "pairs a cycle")]
    for loop in found:
        used, cycles = loop.instructions, loop.cycles()
        bits = 64 * loop.registers * loop.steps
        lines.append(
            (
                *map(str, (bits, 16 * loop.tiles, loop.code_words or "any", used.total())),
                *(str(used[name]) for name in ("BMMA", "LDS", "LOP3", "IMAD")),
                str(loop.pairs),
                *(f"{value:.1f}" for value in cycles.values()),
                f"{loop.pairs / max(cycles.values()):.0f}",
            )
        )
    return aligned(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--architecture", choices=("80", "86", "90"), default="90")
    options = parser.parse_args(arguments)
    try:
        print(table(loops(options.architecture)))
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
