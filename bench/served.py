#!/usr/bin/env python3
"""1, 4, 16 and 64 clients over HTTP, beside peers' llama-server on the same GGUF.

    bench/served.py --model mix7b.gguf --ik DIR --llama DIR --json out.json

Closed loop: each client sends its next request when its last one is answered. Lengths
and their order are those of a trace of real requests (--trace, divided by --scale;
longer ones than --context are left out, the same for all), prompts are random ids,
decoding is greedy. A run starts the server anew, waits until it is ready, asks once,
then sends --requests requests. Systems take turns; medians of --runs.

Every system has --threads threads, everything in memory, and room for as many
sequences of --context tokens as there are clients (-np of the peers).

Needs no memory limit. About a minute for each level, system and run."""

import argparse
import json
import subprocess
import sys

from harness import (Failed, SHARED, Prompts, Server, Setup, Stream, cell, common_parser, median,
                     say, table)

FIGURES = [  # (heading, path in the report, digits)
    ("tokens/s", ["output_tokens_per_s"], 1),
    ("prompt tokens/s", ["prompt_tokens_per_s"], 0),
    ("TTFT p50 ms", ["ttft_ms", "p50"], 0),
    ("TTFT p99 ms", ["ttft_ms", "p99"], 0),
    ("between tokens p50 ms", ["itl_ms", "p50"], 0),
    ("between tokens p99 ms", ["itl_ms", "p99"], 0),
]


def contestants(setup, clients):
    args = setup.args
    ours = setup.ours(args.model, args.context, clients, in_memory=True)
    memory = ours.index("--memory") + 1  # beside experts and weights, KV for all
    kv = clients * args.context * setup.shape["kv_bytes_per_token"] >> 20
    ours[memory] = f"{int(ours[memory].removesuffix('MiB')) + kv}MiB"
    return [("hostler", [*ours, *args.ours]), *setup.in_memory_peers(args.context, clients).items()]


def run(setup, command, clients, requests):
    args = setup.args
    with Server(command, args.seconds + 180) as server:
        server.wait_ready(120)
        Stream(server.port, Prompts(setup.shape["vocab"]).ids(64), 4, 1).wait(60)
        bench = [args.hostler, "bench", "--url", f"http://127.0.0.1:{server.port}", "--json",
                 "--trace", args.trace, "--scale", str(args.scale), "--limit", str(requests),
                 "--concurrency", str(clients), "--vocab", str(setup.shape["vocab"]),
                 "--context", str(args.context), "--timeout", str(args.seconds)]
        try:
            done = subprocess.run(bench, capture_output=True, text=True, timeout=args.seconds)
        except subprocess.TimeoutExpired:
            raise Failed(f"not done in {args.seconds} s") from None
        if done.returncode != 0:
            raise Failed(f"{done.stderr.strip()[-300:]} {server.log_tail()}")
        return json.loads(done.stdout)


def figure(report, path):
    for key in path:
        report = report[key]
    return report


def summary(results, level):
    rows = []
    for name, reports in results.items():
        medians = [median([figure(r, path) for r in reports]) for _, path, _ in FIGURES]
        failed = sum(r["failed"] + r["short_answers"] for r in reports)
        rows.append([name, len(reports), *(cell(m, d) for m, (_, _, d) in zip(medians, FIGURES)),
                     failed])
    print(f"\n{level} clients\n")
    table(["system", "runs", *(heading for heading, _, _ in FIGURES), "failed or short"], rows)


def main():
    p = common_parser(__doc__)
    p.add_argument("--levels", default="1,4,16,64", help="numbers of clients")
    p.add_argument("--requests", help="of each level's runs (default 40,80,160,256)")
    p.add_argument("--runs", type=int, default=3)
    p.add_argument("--trace", default=str(SHARED / "data/traces/azure_conv_2023.csv"))
    p.add_argument("--scale", type=int, default=8, help="divides the trace's lengths")
    p.add_argument("--context", type=int, default=512, help="of one sequence")
    p.add_argument("--seconds", type=int, default=600, help="that one run may take")
    p.add_argument("--ours", nargs=argparse.REMAINDER, default=[],
                   help="more arguments for hostler serve; the last one here")
    args = p.parse_args()
    args.capped = ""  # no memory limit is used
    levels = [int(x) for x in args.levels.split(",")]
    requests = [int(x) for x in (args.requests or "40,80,160,256").split(",")]
    if args.quick:
        args.runs, requests = 1, [max(clients, 8) for clients in levels]
    if len(requests) < len(levels):
        sys.exit("--requests must have a number for each level")
    setup = Setup(args)
    everything = {}
    for clients, count in zip(levels, requests):
        results = {name: [] for name, _ in contestants(setup, clients)}
        for turn in range(args.runs):
            for name, command in contestants(setup, clients):
                try:
                    report = run(setup, command, clients, count)
                except Failed as e:
                    say(f"{clients} clients, run {turn + 1}, {name}: {e}")
                    continue
                results[name].append(report)
                say(f"{clients} clients, run {turn + 1}, {name}: "
                    f"{report['output_tokens_per_s']:.1f} tokens/s in {report['wall_s']:.0f} s")
        summary(results, clients)
        everything[clients] = results
        setup.write_json(everything)


if __name__ == "__main__":
    main()
