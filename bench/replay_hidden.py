#!/usr/bin/env python3
"""How much of the wait for experts reading ahead hides on the recorded traces.

    bench/replay_hidden.py [--traces DIR]

`hostler replay --predictor` with a clock: a disk that reads one expert at a time,
demand first, while layers compute. "hidden" is a predictor's share of the stall that
perfect knowledge of the next layer hides in the same replay; "wasted" of the bytes
read ahead. The traces have no hidden states, so the gate lookahead that serves cannot
be replayed: bench/hidden_stall.cc measures that on a model.
"""

import argparse
import json
import subprocess
from pathlib import Path

from harness import ROOT, SHARED, table

# Decode of a token with all experts in memory, ms.
COMPUTE = {"qwen": 40, "gptoss": 60, "olmoe": 15}


def replay(args, trace, capacity, bandwidth, chance):
    out = subprocess.run(
        [args.hostler, "replay", Path(args.traces) / f"{trace}.csv", "--capacity", capacity,
         "--policy", "default", "--predictor", "none,transitions,perfect", "--bandwidth", bandwidth,
         "--compute-ms", str(COMPUTE[trace]), "--least-chance", str(chance), "--json"],
        check=True, capture_output=True, text=True)
    return {row["predictor"]: row for row in json.loads(out.stdout)}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--hostler", default=str(ROOT / "build/release/hostler"))
    p.add_argument("--traces", default=str(SHARED / "data/expert-traces"))
    p.add_argument("--capacity", default="10%")
    p.add_argument("--bandwidth", nargs="*", default=["2.3GB", "10GB"])
    p.add_argument("--least-chance", nargs="*", type=float, default=[0.3, 0.5, 0.75])
    args = p.parse_args()
    lines = []
    for trace in COMPUTE:
        for bandwidth in args.bandwidth:
            for chance in args.least_chance:
                rows = replay(args, trace, args.capacity, bandwidth, chance)
                none, ours, perfect = (rows[n] for n in ["none", "transitions", "perfect"])
                stall = lambda row: row["stall_seconds"] / row["tokens"] * 1e3
                hideable = stall(none) - stall(perfect)
                read = ours["speculative_bytes"]
                lines.append([
                    f"{trace}, {bandwidth}/s, chance {chance}", f"{stall(none):.1f}",
                    f"{hideable:.1f}", f"{100 * (stall(none) - stall(ours)) / hideable:.0f}%",
                    f"{100 * ours['wasted_bytes'] / read:.0f}%" if read else "-",
                    f"{ours['tokens_per_second'] / none['tokens_per_second']:.3f}",
                    f"{perfect['tokens_per_second'] / none['tokens_per_second']:.3f}"])
    print(f"transitions, default policy, {args.capacity} of the experts; stall in ms a token\n")
    table(["", "stall", "hideable", "hidden", "wasted", "x none", "perfect x none"], lines)


if __name__ == "__main__":
    main()
