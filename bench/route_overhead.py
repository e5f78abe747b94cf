#!/usr/bin/env python3
"""What routing costs a server: the same load on a sample model, named directly and through a virtual
model with a router file whose cheapest target it is. Rounds take turns.

Columns: requests a second, milliseconds of the daemon's processor time for a request, both medians of
the rounds; then the ratios auto / direct, medians of the rounds' own with the quartiles. "deciding" is the
time that route_decide_seconds tells, as a share of the daemon's processor time in those rounds; it has in
it what the thread waited for a processor meanwhile.

    bench/route_overhead.py --router mmlu.bin --as MODEL --as MODEL --prompts mmlu_val.jsonl
"""

import argparse
import http.client
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/e2e"))

from harness import median, table  # noqa: E402
from support import DENSE, MOE, serving  # noqa: E402


def parse_args():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--router", required=True, help="from hostler route train")
    p.add_argument("--as", dest="names", action="append", required=True, help="two of its models")
    p.add_argument("--prompts", required=True, help='JSONL with a "prompt" each')
    p.add_argument("--target", choices=["small", "large"], default="small", help="sample-dense, or -moe")
    p.add_argument("--rounds", type=int, default=8)
    p.add_argument("--requests", type=int, default=300, help="of a round")
    p.add_argument("--clients", type=int, default=16)
    p.add_argument("--tokens", type=int, default=16)
    p.add_argument("--json", metavar="FILE")
    return p.parse_args()


def write_config(args, folder):
    small, large = args.names
    price = {name: {"input": 9 - 8 * (name == args.target)} for name in ["small", "large"]}
    for each in price.values():
        each["output"] = each["input"]
    path = Path(folder, "hostler.yaml")
    path.write_text(json.dumps({
        "models": [
            {"name": "small", "path": str(DENSE), "price": price["small"]},
            {"name": "large", "path": str(MOE), "price": price["large"]},
        ],
        "memory": "1GiB",
        "prefix_cache": "off",
        "virtual_models": [{
            "name": "auto",
            "policy": "cost_quality",
            "router": os.path.abspath(args.router),
            "value": 0,
            "targets": [
                {"target": "small", "quality_as": small},
                {"target": "large", "quality_as": large},
            ],
        }],
    }))
    return path


def processor_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load(server, model, prompts, args):
    """(seconds, the daemon's processor seconds) of all requests."""
    left, lock = list(range(args.requests)), threading.Lock()

    def client():
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
        while True:
            with lock:
                if not left:
                    break
                i = left.pop()
            body = {
                "model": model,
                "messages": [{"role": "user", "content": prompts[i % len(prompts)]}],
                "max_tokens": args.tokens,
                "min_tokens": args.tokens,
                "temperature": 0,
            }
            connection.request(
                "POST",
                "/v1/chat/completions",
                json.dumps(body),
                {"Content-Type": "application/json"},
            )
            answer = connection.getresponse()
            text = answer.read()
            assert answer.status == 200, text
            assert answer.headers["x-hostler-model"] == args.target
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(args.clients)]
    begin, used = time.monotonic(), processor_seconds(server.process.pid)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - begin, processor_seconds(server.process.pid) - used


def main():
    args = parse_args()
    prompts = [json.loads(line)["prompt"][:2000] for line in open(args.prompts)]
    rounds = {args.target: [], "auto": []}
    with tempfile.TemporaryDirectory() as folder:
        with serving("--config", write_config(args, folder)) as server:
            for model in rounds:
                load(server, model, prompts, args)  # warm
            decided = server.metrics()["hostler:route_decide_seconds_sum"]
            for i in range(args.rounds):
                for model in sorted(rounds, reverse=i % 2 == 1):
                    rounds[model].append(load(server, model, prompts, args))
            deciding = sum(server.metrics()["hostler:route_decide_seconds_sum"].values()) - sum(
                decided.values()
            )
    rows = []
    for model, runs in rounds.items():
        rate = [args.requests / seconds for seconds, _ in runs]
        cost = [used / args.requests * 1000 for _, used in runs]
        rows.append([model, f"{median(rate):.1f}", f"{median(cost):.3f}"])
    table(["model", "requests/s", "ms of processor"], rows)
    pairs = list(zip(rounds["auto"], rounds[args.target]))
    ratios = {
        "requests/s": [direct[0] / auto[0] for auto, direct in pairs],
        "processor": [auto[1] / direct[1] for auto, direct in pairs],
    }
    for name, values in ratios.items():
        low, middle, high = statistics.quantiles(values, n=4)
        print(f"{name}, auto / direct: {middle:.4f} ({low:.4f} to {high:.4f})")
    per_request = deciding / args.rounds / args.requests
    share = deciding / sum(used for _, used in rounds["auto"])
    print(f"deciding: {per_request * 1e6:.1f} us a request, {share:.2%} of the processor time")
    if args.json:
        report = {"rounds": rounds, "ratios": ratios, "decide_s": per_request, "share": share}
        Path(args.json).write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
