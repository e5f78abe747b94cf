#!/usr/bin/env python3
"""The same text, byte for byte, whatever the speed settings: every row is a server of
its own, which is asked for the greedy answers of the first one.

    bench/same_tokens.py [--model models/sample-moe] [--quick]

The first row has all experts in memory, one thread and one client. The others vary,
each share of experts in memory with all that can be read ahead, and with threads,
clients at once, the policy that evicts and how experts are read (where this build has
the flags) drawn by lot. At least 512 tokens in all are generated for each row. Ends with 1
where a byte differs.
"""

import argparse
import concurrent.futures
import http.client
import itertools
import json
import random
import subprocess
import sys
import time

from harness import ROOT, SHARED, Failed, Server, inspect, say, table

FIRST = {"experts": 100, "prefetch": "off", "threads": 1, "clients": 1}
POLICIES = ["lru", "lfru", "ema", "forward_distance", "learned"]


def rows(flags, quick):
    """Settings by row. Where a flag is missing its column is."""
    optional = {}
    if "--expert-policy" in flags:
        optional["policy"] = POLICIES
    if "--expert-io" in flags:
        optional["io"] = ["uring", "pread"]
    others = {"threads": [1, 2], "clients": [1, 2, 4, 8, 16], **optional}
    rng = random.Random(1)
    draw = lambda: {name: rng.choice(values) for name, values in others.items()}
    yield {**FIRST, **{name: "-" for name in optional}}
    shares = [50, 10] if quick else [50, 25, 10, 0]
    for share, prefetch in itertools.product(shares, ["off", "auto", "gate", "transitions"]):
        yield {"experts": share, "prefetch": prefetch, **draw()}
    if "policy" in optional:  # each for certain
        for policy, prefetch in itertools.product(POLICIES, ["off"] if quick else ["off", "gate"]):
            yield {"experts": 25, "prefetch": prefetch, **draw(), "policy": policy}


def prompts(text, count):
    """Of mixed lengths, from 20 bytes to 600."""
    apart = len(text) // count
    return [text[i * apart:][:20 + (i * 237) % 580] for i in range(count)]


def answer(port, prompt, tokens):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    c.request("POST", "/v1/completions", json.dumps({
        "model": "m", "prompt": prompt, "max_tokens": tokens, "temperature": 0,
        "ignore_eos": True}), {"Content-Type": "application/json"})
    response = c.getresponse()
    body = response.read()
    if response.status != 200:
        raise Failed(f"HTTP {response.status}: {body[:200]}")
    body = json.loads(body)
    return body["choices"][0]["text"], body["usage"]["completion_tokens"]


def run(args, row, shape, asked):
    every = shape["moe_layers"] * shape["experts"] * (shape["bytes_per_expert"] + 4096)
    expert_bytes = max(every * row["experts"] // 100, shape["bytes_per_expert"] + 8192)
    command = [args.hostler, "serve", "--model", f"m={args.model}", "--port", "{port}",
               "--grpc-port", "off", "--log-level", "warn", "--memory", f"{args.memory}",
               "--expert-memory", f"{expert_bytes}B", "--expert-prefetch", row["prefetch"],
               "--threads", str(row["threads"])]
    for name, flag in [("policy", "--expert-policy"), ("io", "--expert-io")]:
        if row.get(name, "-") != "-":
            command += [flag, row[name]]
    with Server(command, 1200) as server:
        server.wait_ready(120)
        start = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(row["clients"]) as clients:
            answers = list(clients.map(lambda q: answer(server.port, q, args.tokens), asked))
        seconds = time.monotonic() - start
        counters = server.counters()
    return {"texts": [a[0] for a in answers], "tokens": sum(a[1] for a in answers),
            "seconds": seconds, "misses": counters.get("expert_cache_misses_total", 0)}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--hostler", default=str(ROOT / "build/release/hostler"))
    p.add_argument("--model", default=str(ROOT / "models/sample-moe"))
    p.add_argument("--text", default=str(SHARED / "models/heldout.txt"))
    p.add_argument("--memory", default="1GiB")
    p.add_argument("--prompts", type=int, default=16)
    p.add_argument("--tokens", type=int, default=40, help="generated for each prompt (default 40)")
    p.add_argument("--quick", action="store_true", help="fewer rows")
    args = p.parse_args()
    if args.prompts * args.tokens < 512:
        sys.exit("fewer than 512 tokens")
    flags = subprocess.run([args.hostler, "serve", "--help"], capture_output=True, text=True).stdout
    shape = inspect(args.hostler, args.model)
    asked = prompts(open(args.text).read(), args.prompts)
    first, lines, different = None, [], 0
    names = None
    for row in rows(flags, args.quick):
        names = names or list(row)
        say(", ".join(f"{n} {row[n]}" for n in names))
        got = run(args, row, shape, asked)
        first = first or got
        same = sum(a == b for a, b in zip(got["texts"], first["texts"]))
        different += same < len(asked)
        lines.append([*(f"{row[n]}%" if n == "experts" else str(row[n]) for n in names),
                      got["tokens"], f"{got['misses']:.0f}", f"{got['seconds']:.1f}",
                      f"{same} of {len(asked)}"])
    table([*names, "tokens", "misses", "seconds", "answers equal"], lines)
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
