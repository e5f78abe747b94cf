#!/usr/bin/env python3
"""Counts the instructions of the hot kernels under callgrind and compares them with
bench/instructions.json: a regression shows without a quiet machine. valgrind knows no
AVX-512, so it is the avx2 and portable kernels that are counted; what the others share
with them (loops, splitting, sampling) is counted too.

Counts depend on the compiler: the table says which one it was made with, and another one
is no comparison (exit code 77). --update writes the table; run it where a change of the
counts is meant, and commit the table with that change."""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = Path(__file__).with_suffix(".json")
TOLERANCE = 0.03
SKIPPED = 77


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(SKIPPED)


def count(binary):
    """{kernel: instructions}"""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "callgrind.out"
        run = subprocess.run(["valgrind", "--tool=callgrind", "--instr-atstart=no",
                              f"--callgrind-out-file={out}", str(binary)],
                             capture_output=True, text=True, timeout=300)
        if run.returncode != 0:
            sys.exit(f"valgrind ended with {run.returncode}: {run.stderr[-2000:]}")
        counts = {}
        for part in Path(folder).iterdir():
            text = part.read_text()
            name = re.search(r"^desc: Trigger: Client Request: (.+)$", text, re.M)
            total = re.search(r"^(?:totals|summary): (\d+)", text, re.M)
            if name and total:
                counts[name[1]] = int(total[1])
    return dict(sorted(counts.items()))


def compare(counts, table):
    """What is wrong, in lines."""
    wrong = []
    for name in sorted(counts.keys() | table.keys()):
        old, new = table.get(name), counts.get(name)
        if new is None:
            wrong.append(f"{name}: is in the table and was not counted")
        elif old is None:
            wrong.append(f"{name}: {new} instructions, and is not in the table")
        elif abs(new / old - 1) > TOLERANCE:
            more = "more" if new > old else "fewer (good: --update the table)"
            line = f"{name}: {new} instructions, {abs(new / old - 1):.1%} {more} than {old}"
            if new > old:
                wrong.append(line)
            else:
                print(line)
    return wrong


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--binary", default=str(ROOT / "build/release/instructions"))
    p.add_argument("--compiler", default="", help='name and version of what built it: "GNU 12.2.0"')
    p.add_argument("--update", action="store_true", help="write the table")
    args = p.parse_args()
    if not shutil.which("valgrind"):
        skip("no valgrind (apt-get install valgrind)")
    if "avx2" not in Path("/proc/cpuinfo").read_text():
        skip("this CPU has no AVX2")
    table = json.loads(TABLE.read_text()) if TABLE.exists() else {"compiler": args.compiler}
    if not args.update and table["compiler"] != args.compiler:
        skip(f"the table was made with {table['compiler']}, this is {args.compiler}")
    counts = count(args.binary)
    if args.update:
        table = {"compiler": args.compiler or table["compiler"], "instructions": counts}
        TABLE.write_text(json.dumps(table, indent=1) + "\n")
        print(f"{len(counts)} kernels written to {TABLE}")
        return
    wrong = compare(counts, table["instructions"])
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"{len(counts)} kernels take no more instructions than the table says")


if __name__ == "__main__":
    main()
