#!/usr/bin/env python3
"""Decode speed of one sequence over --memory, beside the bound.

    bench/memory_sweep.py --model mix7b.gguf [--store mix7b.packed] --json sweep.json
    bench/plot.py --sweep sweep.json

Shows what memory buys, from an eighth of the experts in memory to all. No memory
limit but our own; one streaming client; a prompt of 64 tokens fills the slots first.
Bound: 1 / max(seconds per token at the largest size, bytes missed / disk bandwidth).
About 1 1/2 minutes for each form of the model.
"""

import sys

from capped_decode import CONTEXT, measure
from harness import (Failed, MiB, Prompts, Server, Setup, Stream, cell, common_parser,
                     disk_bandwidth, median, say, table)

SIZES = "800,1100,1400,1700,2100,2600,3200,3800,5120"


def point(setup, model, mib, tokens):
    command = setup.ours(model, CONTEXT)
    command[command.index("--memory") + 1] = f"{mib}MiB"
    with Server(command, 90) as server:
        server.wait_ready(30)
        prompts = Prompts(setup.shape["vocab"], seed=5)
        if not Stream(server.port, prompts.ids(64), 1, 1).wait(60):
            raise Failed("the first prompt took more than 60 s")
        return {"memory_mib": mib, **measure(server, setup.shape["vocab"], tokens, 40, True)}


def main():
    parser = common_parser(__doc__)
    parser.add_argument("--sizes", default=SIZES, help=f"MiB (default {SIZES})")
    parser.add_argument("--tokens", type=int, default=32, help="to generate (default 32)")
    args = parser.parse_args()
    setup = Setup(args, peers=False)
    bandwidths, series = [], {}
    for name, model in [("GGUF", args.model), ("packed", args.store)]:
        for mib in [int(s) for s in args.sizes.split(",")] if model else []:
            bandwidths.append(disk_bandwidth(args.model, setup.shape["bytes_per_expert"], seconds=0.7))
            try:
                row = point(setup, model, mib, args.tokens)
            except Failed as e:
                say(f"{name}, {mib} MiB: {e}")
                continue
            series.setdefault(name, []).append(row)
            say(f"{name}, {mib} MiB: {row['tokens_per_s']:.2f} tokens/s")
    if not series:
        sys.exit("nothing was measured")
    disk = median(bandwidths)
    compute_s = 1 / max(r["tokens_per_s"] for rows in series.values() for r in rows)
    lines = []
    for name, rows in series.items():
        for r in rows:
            r["bound_tokens_per_s"] = 1 / max(compute_s, r["missed_bytes_per_token"] / disk)
            lines.append([name, r["memory_mib"], cell(r["capacity_bytes"] / MiB, 0),
                          cell(100 * r["capacity_bytes"] / setup.all_expert_bytes, 0, " %"),
                          cell(100 * r["hit_rate"], 1, " %"), cell(r["tokens_per_s"]),
                          cell(r["bound_tokens_per_s"]),
                          cell(100 * r["tokens_per_s"] / r["bound_tokens_per_s"], 0, " %")])
    print(f"\nDecode of one sequence over --memory, {args.threads} threads, disk {disk / 1e9:.2f} GB/s\n")
    table(["form", "--memory MiB", "slots MiB", "of experts", "hits", "tokens/s", "bound", "of bound"],
          lines)
    setup.write_json({"script": "memory_sweep", "disk_bytes_per_s": bandwidths,
                      "all_expert_bytes": setup.all_expert_bytes, "series": series})


if __name__ == "__main__":
    main()
