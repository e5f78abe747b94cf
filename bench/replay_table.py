#!/usr/bin/env python3
"""Replays the recorded traces with every policy and prints the hit rates beside
the reference table of the traces' README.

    bench/replay_table.py [--hostler build/release/hostler] [--traces FOLDER] [--markdown]

Exits with 1 when LRU or Belady differ from the reference counts, another row by
more than 0.3 points, or the default policy is below the best causal row at 5,
10 or 20 %.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CAPACITIES = ["3%", "5%", "10%", "20%", "30%", "50%"]
JUDGED = ["5%", "10%", "20%"]
POLICIES = ["lru", "lfru", "ema", "forward_distance", "default", "belady", "belady_bypass"]
REFERENCE = {
    "qwen": {
        "lru": [0.0, 37.8, 50.4, 75.4, 89.8, 96.0],
        "lfru": [24.6, 35.3, 56.1, 78.1, 89.2, 96.2],
        "ema": [29.5, 39.2, 57.7, 78.7, 89.8, 96.3],
        "forward_distance": [31.3, 41.5, 59.6, 79.4, 90.0, 96.3],
        "belady": [45.6, 58.5, 76.2, 91.1, 96.0, 96.6],
    },
    "gptoss": {
        "lru": [29.6, 42.4, 56.9, 69.6, 75.8, 87.0],
        "lfru": [29.7, 41.7, 56.4, 70.9, 79.0, 87.0],
        "ema": [34.9, 45.6, 60.0, 73.5, 81.4, 87.0],
        "forward_distance": [35.2, 46.1, 59.8, 74.2, 81.6, 87.0],
        "belady": [56.6, 66.7, 78.3, 87.0, 87.0, 87.0],
    },
    "olmoe": {
        "lru": [0.0, 0.0, 0.0, 44.2, 58.4, 74.5],
        "lfru": [8.9, 15.0, 29.1, 48.8, 60.3, 79.1],
        "ema": [12.7, 19.7, 30.8, 47.5, 60.1, 78.6],
        "forward_distance": [13.2, 21.0, 35.5, 52.6, 63.2, 79.6],
        "belady": [18.2, 31.2, 51.0, 68.5, 78.1, 89.6],
    },
}
EXACT = {  # trace, capacity, policy: hits
    ("qwen", "10%", "lru"): 13346, ("qwen", "10%", "belady"): 20195,
    ("qwen", "10%", "belady_bypass"): 20250, ("qwen", "20%", "lru"): 19971,
    ("qwen", "20%", "belady"): 24140, ("qwen", "20%", "belady_bypass"): 24151,
    ("gptoss", "10%", "lru"): 1884, ("gptoss", "10%", "belady"): 2593,
    ("gptoss", "10%", "belady_bypass"): 2628, ("olmoe", "20%", "lru"): 12170,
    ("olmoe", "20%", "belady"): 18845, ("olmoe", "20%", "belady_bypass"): 18919,
    ("olmoe", "10%", "lru"): 0, ("olmoe", "10%", "belady"): 14044,
    ("olmoe", "10%", "belady_bypass"): 14333,
}


def replay(hostler, traces):
    command = [hostler, "replay", "--json", "--capacity", ",".join(CAPACITIES),
               "--policy", ",".join(POLICIES)]
    command += [str(traces / f"{name}.csv") for name in REFERENCE]
    rows = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=600).stdout)
    return {(Path(r["trace"]).stem, r["capacity"], r["policy"]): r for r in rows}


def rate(row):
    return 100 * row["hits"] / row["lookups"]


def judge(rows):
    problems = []
    for key, hits in EXACT.items():
        if rows[key]["hits"] != hits:
            problems.append(f"{key}: {rows[key]['hits']} hits, the reference has {hits}")
    for trace, table in REFERENCE.items():
        for policy, values in table.items():
            for capacity, value in zip(CAPACITIES, values):
                got = rate(rows[trace, capacity, policy])
                if abs(got - value) > 0.3:
                    problems.append(f"{trace} {policy} {capacity}: {got:.2f}, not {value}")
        for capacity in JUDGED:
            column = CAPACITIES.index(capacity)
            best = max(v[column] for p, v in table.items() if p != "belady")
            got = rate(rows[trace, capacity, "default"])
            if got < best:
                problems.append(f"{trace} {capacity}: the default has {got:.2f}, below {best}")
    return problems


def show(rows, markdown):
    bar = " | " if markdown else "  "
    edge = ("| ", " |") if markdown else ("", "")
    for trace, table in REFERENCE.items():
        print(f"\n{trace}: hit rate in %, (reference), share of Belady in %\n")
        print(edge[0] + bar.join([f"{'policy':<16}"] + [f"{c:^20}" for c in CAPACITIES]) + edge[1])
        if markdown:
            print("|" + " --- |" * (len(CAPACITIES) + 1))
        for policy in POLICIES:
            cells = []
            for column, capacity in enumerate(CAPACITIES):
                got = rate(rows[trace, capacity, policy])
                bound = rate(rows[trace, capacity, "belady"])
                known = f"({table[policy][column]:.1f})" if policy in table else ""
                cells.append(f"{got:5.1f} {known:>6} {100 * got / bound:4.0f}%".center(20))
            print(edge[0] + bar.join([f"{policy:<16}"] + cells) + edge[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--hostler", default=str(ROOT / "build/release/hostler"))
    parser.add_argument("--traces", type=Path, default=ROOT / "../shared/data/expert-traces")
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args()
    rows = replay(args.hostler, args.traces)
    show(rows, args.markdown)
    problems = judge(rows)
    print("\n" + ("\n".join(problems) if problems else "all rows as the reference has them"))
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
