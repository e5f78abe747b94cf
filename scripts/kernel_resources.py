#!/usr/bin/env python3
"""Registers, shared memory, spills and occupancy of every CUDA kernel, from what ptxas says of them.

    cmake --preset cuda -DCMAKE_CUDA_ARCHITECTURES='80-real;89-real;90-real' -DCMAKE_CUDA_FLAGS=-Xptxas=-v
    cmake --build --preset cuda --target hostler_cuda --clean-first 2>&1 | tee ptxas.log
    scripts/kernel_resources.py ptxas.log [--check] [--markdown docs/cuda-kernels.md]

--check fails on spills of more than a register, on warnings of the compiler, and on kernels of which LAUNCHES below does not
know how they are launched.
"""

import argparse
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Architecture:
    """Of a multiprocessor (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability";
    what is allocated at a time: the CUDA Occupancy Calculator)."""

    warps: int
    blocks: int
    shared_bytes: int
    registers: int = 65536
    warp_registers: int = 256  # a warp gets a multiple
    warp_unit: int = 4  # warps that fit by registers are a multiple
    shared_unit: int = 128  # a block gets a multiple
    shared_reserved: int = 1024  # of a block, by the system


ARCHITECTURES = {
    "sm_80": Architecture(warps=64, blocks=32, shared_bytes=164 << 10),
    "sm_89": Architecture(warps=48, blocks=24, shared_bytes=100 << 10),
    "sm_90": Architecture(warps=64, blocks=32, shared_bytes=228 << 10),
}
LEAST_OCCUPANCY = 0.25
MOST_SPILL_BYTES = 8  # a register stored and loaded

# How the host launches kernels: threads of a block, and its dynamic shared memory at most or as is usual.
# (engine/compute/cuda/*.cu say so where they call Launcher::Run.)
LAUNCHES = {
    "AppendKvKernel": (128, 0),
    "AttentionKernel": (256, 4 * (8 * 128 + 32 * 129 + 8 * 32)),  # heads of 128
    "CombineKernel": (128, 0),
    "ConvKernel": (128, 0),
    "CopyColumnsKernel": (128, 0),
    "DeltaKernel": (128, 0),
    "EmbedKernel": (128, 0),
    "FewTokensKernel": (128, 14 << 10),  # q4_0, one row of input, 4096 columns
    "ForEachKernel": (128, 0),
    "GateKernel": (32, 4 * 3 * 256),  # 256 experts
    "LayerNormKernel": (256, 0),
    "MatMulKernel": (128, 0),
    "MergeKernel": (32, 0),
    "QuantizeInputsKernel": (256, 0),
    "RmsNormKernel": (256, 0),
    "RopeKernel": (128, 0),
    "ScatterRowsKernel": (128, 0),
    "StrongestKernel": (32, 0),
    "TensorKernel": (256, 47 << 10),  # 128 rows of the matrix
    "UnitNormKernel": (32, 0),
    "WeightlessKernel": (128, 0),
}


@dataclass
class Kernel:
    arch: str
    symbol: str
    registers: int = 0
    shared_bytes: int = 0  # static
    stack_bytes: int = 0
    spill_bytes: int = 0  # stores and loads
    name: str = ""  # short

    @property
    def base(self):
        return self.name.split("<")[0]


def up(value, unit):
    return -(-value // unit) * unit


def occupancy(arch, registers, threads, shared_bytes):
    """The share of a multiprocessor's warps that blocks of such a kernel fill."""
    warps = up(threads, 32) // 32
    by_registers = arch.blocks
    if registers:
        fit = arch.registers // up(registers * 32, arch.warp_registers)
        by_registers = fit // arch.warp_unit * arch.warp_unit // warps
    by_shared = arch.shared_bytes // up(shared_bytes + arch.shared_reserved, arch.shared_unit)
    blocks = min(arch.blocks, arch.warps // warps, by_registers, by_shared)
    return blocks * warps / arch.warps


def parse_ptxas(text):
    """(kernels, warnings) of a log."""
    kernels, warnings, kernel = [], [], None
    for line in text.splitlines():
        if entry := re.search(r"Compiling entry function '(\w+)' for '(sm_\w+)'", line):
            kernel = Kernel(entry[2], entry[1])
            kernels.append(kernel)
        elif stack := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            if kernel:
                kernel.stack_bytes, kernel.spill_bytes = int(stack[1]), int(stack[2]) + int(stack[3])
        elif used := re.search(r"Used (\d+) registers", line):
            if kernel:
                kernel.registers = int(used[1])
                shared = re.search(r"(\d+) bytes smem", line)
                kernel.shared_bytes = int(shared[1]) if shared else 0
        elif re.search(r"\bwarning\b", line, re.IGNORECASE) and "ptxas info" not in line:
            # What the host's compiler says of the host's files is its own affair.
            if not re.search(r"\.(cc|h|inc):\d+:", line):
                warnings.append(line.strip())
    return kernels, warnings


def dtype_names():
    """Of engine/base/dtype.h, by value."""
    text = (ROOT / "engine/base/dtype.h").read_text()
    body = re.search(r"enum class DType : uint8_t \{(.*?)\};", text, re.DOTALL)[1]
    return re.findall(r"^\s*k(\w+),", body, re.MULTILINE)


def shorten(demangled, types):
    """"MatMulKernel<Q4_K, 8>" for the whole of a demangled signature."""
    name = demangled.replace("(anonymous namespace)::", "").replace("hostler::", "").removeprefix("void ")
    name = re.sub(r"\(DType\)(\d+)", lambda number: types[int(number[1])], name)
    name = re.sub(r"\((?:int|bool)\)(\d+)", r"\1", name)
    base = re.match(r"\w+", name)[0]
    if wrapped := re.search(r"(Launch\w+)\(", name):
        # A function of its caller's.
        which = re.search(r"(?:lambda.*?#|, )(\d+)[u}]*(?:,|>)", name)
        return f"{base}<{wrapped[1]}{' ' + which[1] if which else ''}>"
    arguments, depth = "", 0
    for letter in name[len(base):]:
        depth += (letter == "<") - (letter == ">")
        if depth == 0 and letter != ">":
            break
        arguments += letter
    return base + arguments


def name_kernels(kernels):
    symbols = sorted({kernel.symbol for kernel in kernels})
    if not symbols:
        return
    demangled = subprocess.run(["c++filt"], input="\n".join(symbols), capture_output=True, text=True, check=True)
    types = dtype_names()
    short = dict(zip(symbols, (shorten(line, types) for line in demangled.stdout.splitlines())))
    for kernel in kernels:
        kernel.name = short[kernel.symbol]


def rows(kernels):
    """A dict for each kernel name: what it uses on each architecture."""
    table = {}
    for kernel in kernels:
        threads, dynamic = LAUNCHES.get(kernel.base, (0, 0))
        row = table.setdefault(kernel.name, {"threads": threads, "dynamic": dynamic, "static": 0, "arch": {}})
        row["static"] = max(row["static"], kernel.shared_bytes)
        share = None
        if threads and kernel.arch in ARCHITECTURES:
            share = occupancy(ARCHITECTURES[kernel.arch], kernel.registers, threads, kernel.shared_bytes + dynamic)
        seen = row["arch"].get(kernel.arch)
        # One name for several functions of a caller: the one that takes most.
        if seen is None or kernel.registers > seen[0]:
            row["arch"][kernel.arch] = (kernel.registers, kernel.spill_bytes, share)
    return table


def markdown(kernels):
    table, arches = rows(kernels), sorted({kernel.arch for kernel in kernels})
    head = ["kernel", "threads", "shared, static + dynamic"] + [f"{arch}: registers, occupancy" for arch in arches]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name in sorted(table):
        row = table[name]
        cells = [f"`{name}`", str(row["threads"] or "?"), f"{row['static']} + {row['dynamic']}"]
        for arch in arches:
            registers, spills, share = row["arch"].get(arch, (0, 0, None))
            text = f"{registers}, " + ("?" if share is None else f"{100 * share:.0f}%")
            if share is not None and share < LEAST_OCCUPANCY:
                text += " **low**"
            cells.append(text + (f" **spills {spills} B**" if spills else ""))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def problems(kernels, warnings):
    found = [f"warning: {line}" for line in warnings]
    found += [f"{k.name} for {k.arch} spills {k.spill_bytes} bytes" for k in kernels if k.spill_bytes > MOST_SPILL_BYTES]
    unknown = sorted({kernel.base for kernel in kernels} - set(LAUNCHES))
    found += [f"{base}: how it is launched is not in LAUNCHES of {Path(__file__).name}" for base in unknown]
    if not kernels:
        found.append("no kernel in the log: was it built with -Xptxas=-v, and from nothing?")
    return found


DOCUMENT = """# What the CUDA kernels take

Written by `scripts/kernel_resources.py` from the log of a build ({compiler}); its head says how. Occupancy is
the share of a multiprocessor's warps that fit at once, by registers, shared memory, threads and
blocks; **low** is below 25%. Dynamic shared memory is the most that a launch asks for, or what is
usual. Nothing here was measured on hardware.

"""


def compiler():
    try:
        out = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    except OSError:
        return "nvcc"
    return "nvcc " + re.search(r"release ([\d.]+)", out)[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", help="of the build; - is standard input")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--markdown", metavar="FILE", help="write a document with the table")
    options = parser.parse_args()
    text = sys.stdin.read() if options.log == "-" else Path(options.log).read_text()
    kernels, warnings = parse_ptxas(text)
    name_kernels(kernels)
    if options.markdown:
        Path(options.markdown).write_text(DOCUMENT.format(compiler=compiler()) + markdown(kernels))
    elif not options.check:
        print(markdown(kernels), end="")
    found = problems(kernels, warnings) if options.check else []
    for line in found:
        print(f"kernel_resources: {line}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
