#!/usr/bin/env python3
"""Each kernel's share of what this machine can do at most: a roofline (Williams et al. 2009).

    bench/roofline.py [--build build/release] [--json FILE]

Peaks: bytes that all threads read from memory (`hostler doctor --profile`), and
multiply-adds of vpdpbusd and of f32 vfmadd in registers (`kernels_bench`). A kernel's bound
is the longer of its bytes at the first and its multiply-adds at the second; its share is
that by the time it took. Products by AMX tiles can pass the VNNI peak.

Matrix products are 2048 x 2048 and more, of weights that the profile reads from memory;
those of `kernels_bench` repeat on the same operands, which the last-level cache may hold:
then the share of memory's peak can pass 100%. Run it on a quiet machine."""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

# Bytes of a weight.
WEIGHT_BYTES = {"f32": 4, "f16": 2, "bf16": 2, "q8_0": 34 / 32, "q4_0": 18 / 32, "q4_k": 144 / 256,
                "q5_k": 176 / 256, "q6_k": 210 / 256, "iq4_nl": 18 / 32, "iq4_xs": 136 / 256,
                "mxfp4": 17 / 32}
# Computed in integers; the others in f32.
INTEGERS = {"q8_0", "q4_0", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs", "mxfp4"}


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=Path("build/release"))
    parser.add_argument("--json", type=Path, help="write the rows here as well")
    return parser.parse_args()


def profile(build):
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [build / "hostler", "doctor", "--profile", "--json", "--output", file.name]
        return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def kernels(build, pattern):
    command = [build / "kernels_bench", f"--benchmark_filter={pattern}", "--benchmark_format=json",
               "--benchmark_repetitions=3", "--benchmark_report_aggregates_only=true"]
    out = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return [row for row in out["benchmarks"] if row["aggregate_name"] == "median"]


def share(macs, peak_macs, read, peak_read):
    """(percent of the bound, which bound it is); rates a second."""
    of_macs, of_read = macs / peak_macs, read / peak_read
    return (100 * of_macs, "arithmetic") if of_macs >= of_read else (100 * of_read, "memory")


def main():
    arguments = read_arguments()
    machine = profile(arguments.build)
    threads = machine["threads"]
    table = machine["backend"].removeprefix("cpu-")
    memory = machine["memory_bytes_per_second"]
    peaks = {row["run_name"]: row["GFLOP/s"] / 2 * 1e9 for row in kernels(arguments.build, "Peak$")}
    vnni, fma = peaks["VnniPeak"] * threads, peaks["Avx512FmaPeak"] * threads
    print(f"{table}, {threads} threads: memory {memory / 1e9:.1f} GB/s, "
          f"VNNI {vnni / 1e9:.0f} and f32 {fma / 1e9:.0f} G multiply-adds/s\n")
    rows = []
    for name, weight in WEIGHT_BYTES.items():
        for point in machine["kernels"][name]:
            macs = point["macs_per_second"]
            read = macs * weight / point["rows"]
            rows.append((f"product, {name}, {point['rows']} tokens", macs, read,
                         vnni if name in INTEGERS else fma, memory))
    pattern = (f"^Attention/{table}/(f16|bf16|q8_0)/threads:1/rows:.*/context:4096|^Rope|^RmsNorm")
    for row in kernels(arguments.build, pattern):
        rows.append((row["run_name"].replace(f"/{table}", "") + ", 1 thread", row["GFLOP/s"] / 2 * 1e9,
                     row["GB/s"] * 1e9, fma / threads, machine["memory_bytes_per_second_1"]))
    result = []
    print("| kernel | G multiply-adds/s | GB/s | share of its bound | bound |\n|---|---|---|---|---|")
    for name, macs, read, peak_macs, peak_read in rows:
        percent, bound = share(macs, peak_macs, read, peak_read)
        print(f"| {name} | {macs / 1e9:.1f} | {read / 1e9:.1f} | {percent:.0f}% | {bound} |")
        result.append({"kernel": name, "macs_per_second": macs, "bytes_per_second": read,
                       "percent": percent, "bound": bound})
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
