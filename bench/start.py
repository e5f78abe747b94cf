#!/usr/bin/env python3
"""From the start of the process to the first token over HTTP, with the model's files in
the page cache: ours from a packed store and from GGUF beside each peer's llama-server
from the same GGUF. The prompt is 16 token ids; the first one asks again until it is
answered. Medians of --runs, systems taking turns."""

import contextlib
import http.client
import json
import os
import sys
import time
from pathlib import Path

from harness import (Failed, Prompts, Server, Setup, cell, common_parser, median, percentile, say,
                     table)

PROMPT_TOKENS, CONTEXT = 16, 2048


def warm(path):
    """Reads a file, or a folder's files, into the page cache."""
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        with open(file, "rb", buffering=0) as f:
            while f.read(16 << 20):
                pass


def ask(port, body):
    """perf_counter() at the first token; None: not yet ready."""
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    with contextlib.closing(c):
        try:
            c.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
            response = c.getresponse()
        except (OSError, http.client.HTTPException):
            return None
        if response.status == 503:
            response.read()
            return None
        if response.status != 200:
            raise Failed(f"HTTP {response.status}: {response.read()[:200]}")
        for line in response:
            if line.startswith(b"data: {") and (json.loads(line[6:]).get("choices") or [{}])[0]:
                return time.perf_counter()
        raise Failed("no token came")


def first_token(command, prompt, seconds=120):
    """(seconds until it answers requests, until the first token)"""
    body = json.dumps({"model": "m", "prompt": prompt, "max_tokens": 2, "stream": True,
                       "temperature": 0, "ignore_eos": True, "cache_prompt": False})
    begin = time.perf_counter()
    with Server(command, seconds) as server:
        while True:
            sent = time.perf_counter()
            if at := ask(server.port, body):
                return sent - begin, at - begin
            if server.process.poll() is not None:
                raise Failed(f"it ended: {server.log_tail()}")
            if time.perf_counter() - begin > seconds:
                raise Failed("no answer")
            time.sleep(0.005)


def contestants(setup):
    args = setup.args
    default = ["--threads", str(args.threads), "--log-level", "warn", "--grpc-port", "off",
               "--port", "{port}"]
    found = [("hostler, packed", args.store), ("hostler, GGUF", args.model)]
    turns = [(name, [args.hostler, "serve", "--model", f"m={model}", *default])
             for name, model in found if model]
    for name, command in setup.in_memory_peers(CONTEXT, 1).items():
        turns += [(name, command), (f"{name}, no warm-up", [*command, "--no-warmup"])]
    return turns


def main():
    p = common_parser(__doc__)
    p.add_argument("--runs", type=int, default=5)
    p.add_argument("--ours", action="store_true", help="without the peers")
    args = p.parse_args()
    args.capped = ""  # no memory limit is used
    setup = Setup(args)
    prompt = Prompts(setup.shape["vocab"]).ids(PROMPT_TOKENS)
    turns = [t for t in contestants(setup) if not args.ours or t[0].startswith("hostler")]
    results = {name: [] for name, _ in turns}
    for path in {args.model, args.store} - {None}:
        warm(Path(path))
    for run in range(args.runs):
        for name, command in turns:
            try:
                results[name].append(first_token(command, prompt))
                say(f"run {run + 1} {name}: {results[name][-1][1]:.2f} s")
            except Failed as e:
                say(f"run {run + 1} {name}: {e}")
    table(["system", "answers after, s", "first token, s", "slowest, s"],
          [[name, cell(median([r[0] for r in runs])), cell(median([r[1] for r in runs])),
            cell(percentile([r[1] for r in runs], 1))] for name, runs in results.items()])
    setup.write_json({"runs": results, "prompt_tokens": PROMPT_TOKENS})


if __name__ == "__main__":
    os.environ.setdefault("LC_ALL", "C")
    sys.exit(main())
