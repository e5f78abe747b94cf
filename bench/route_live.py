#!/usr/bin/env python3
"""Routing over targets that are real processes: the two sample models in one daemon and a fake
upstream (tests/e2e/fake_model.py) of set latency, capacity, price and quality.

1. overload: best_effort with a deadline, before, during and after ten times the load that the
   better model (the upstream) takes. Columns: requests, errors, share that each target answered,
   p50 and p99 of the time to the whole answer, mean quality (the upstream's as set, judged by the answer's
   first word; the others' as they are configured).
2. failover: 50 streams run, the upstream is killed with SIGKILL. A stream is whole ([DONE]), told (an
   error event, after some text), lost (an error, no text) or cut (neither). Lost and cut
   must be 0.
3. budget: a day's budget that pays for some answers of the dear model, with over_budget cheapest and
   reject.

Each prints a table; --json FILE writes the numbers. The machine should be quiet; deadlines are
absolute times.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/e2e"))

from harness import median, percentile, table  # noqa: E402
from support import DENSE, MOE, fake_model, serving  # noqa: E402

PROMPT = [{"role": "user", "content": "Tell me a story about a fox."}]
QUALITY = {"far": 0.9, "large": 0.7, "small": 0.5}
PRICE = {"far": 10, "large": 2, "small": 1}


def parse_args():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--deadline-ms", type=float, default=2000)
    p.add_argument("--capacity", type=int, default=2, help="requests at a time, of the upstream")
    p.add_argument("--latency", type=float, default=0.2, help="seconds, of its answers")
    p.add_argument("--seconds", type=float, default=10, help="of each phase")
    p.add_argument("--tokens", type=int, default=4, help="of each answer")
    p.add_argument("--json", metavar="FILE")
    return p.parse_args()


@contextlib.contextmanager
def routed(url, concurrency=256, **virtual_model):
    """A daemon with both models, the upstream and "auto"."""
    price = {name: {"input": each, "output": each} for name, each in PRICE.items()}
    config = {
        "models": [
            {"name": "small", "path": str(DENSE), "price": price["small"]},
            {"name": "large", "path": str(MOE), "price": price["large"]},
        ],
        "memory": "1GiB",
        "upstreams": [
            {"name": "far", "url": url, "price": price["far"], "max_concurrency": concurrency}
        ],
        "virtual_models": [
            {
                "name": "auto",
                "targets": [{"target": name, "quality": each} for name, each in QUALITY.items()],
                **virtual_model,
            }
        ],
    }
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump(config, file)  # JSON is YAML
        file.flush()
        with serving("--config", file.name) as server:
            yield server


def ask(server, tokens):
    """(status, target, seconds, text)"""
    begin = time.monotonic()
    body = {"model": "auto", "messages": PROMPT, "max_tokens": tokens}
    answer = server.post("/v1/chat/completions", body)
    seconds = time.monotonic() - begin
    if answer.status != 200:
        return answer.status, None, seconds, ""
    text = answer.json["choices"][0]["message"]["content"]
    return 200, answer.headers["x-hostler-model"], seconds, text


def load(server, args, per_second, seconds):
    """Requests at a steady rate, whatever becomes of them."""
    count = int(per_second * seconds)
    with ThreadPoolExecutor(max_workers=256) as pool:
        begin, running = time.monotonic(), []
        for i in range(count):
            time.sleep(max(0, begin + i / per_second - time.monotonic()))
            running.append(pool.submit(ask, server, args.tokens))
        return [each.result() for each in running]


def phase(name, answers):
    good = [each for each in answers if each[0] == 200]
    chance = random.Random(1)

    def quality(target, text):
        if target == "far":
            return text.startswith("right")
        return chance.random() < QUALITY[target]

    seconds = [each[2] for each in good]
    return {
        "phase": name,
        "requests": len(answers),
        "errors": len(answers) - len(good),
        **{
            target: sum(each[1] == target for each in good) / max(len(good), 1)
            for target in QUALITY
        },
        "p50_s": median(seconds),
        "p99_s": percentile(seconds, 0.99),
        "quality": sum(quality(each[1], each[3]) for each in good) / max(len(good), 1),
    }


def overload(args):
    limit = args.capacity / args.latency
    model = {"policy": "best_effort", "deadline_ms": args.deadline_ms}
    settings = dict(first=args.latency, tokens=args.tokens, capacity=args.capacity, quality=0.9)
    with fake_model(**settings) as (_, url):
        with routed(url, **model, concurrency=args.capacity) as server:
            load(server, args, limit / 4, 3)  # so that its speed is known
            phases = [("before", limit / 2), ("10 x", limit * 10), ("after", limit / 2)]
            rows = []
            for name, rate in phases:
                rows.append(phase(name, load(server, args, rate, args.seconds)))
                rows[-1]["per_second"] = rate
            return rows


def failover(count=50):
    with fake_model(first=0.1, spread=1.5, between=0.05, tokens=20) as (process, url):
        with routed(url, policy="cost_quality") as server:
            results = [{"text": "", "end": None} for _ in range(count)]
            body = {"model": "auto", "messages": PROMPT, "max_tokens": 20}
            readers = [
                threading.Thread(target=server.read_stream, args=("/v1/chat/completions", body, r))
                for r in results
            ]
            for reader in readers:
                reader.start()
            # About half have begun.
            deadline = time.monotonic() + 30
            while sum(bool(r["text"]) for r in results) < count / 2:
                assert time.monotonic() < deadline, "the streams do not begin"
                time.sleep(0.01)
            begun = sum(bool(r["text"]) for r in results)
            os.kill(process.pid, signal.SIGKILL)
            for reader in readers:
                reader.join()
            ends = {"whole": 0, "told": 0, "lost": 0, "cut": 0}
            for r in results:
                if r["end"] == "done":
                    ends["whole"] += 1
                elif r["end"] == "error":
                    ends["told" if r["text"] else "lost"] += 1
                else:
                    ends["cut"] += 1
            others = sum(r["end"] == "done" and r["model"] != "far" for r in results)
            return {"streams": count, "begun_when_killed": begun, **ends, "by_others": others}


def told(answer):
    """Whether it says when to come back."""
    return any(name.lower() == "retry-after" for name in answer.headers)


def budget():
    """The dear model's answers cost $0.0004 (20 + 20 tokens at $10 a million): ten are paid for."""
    rows = []
    for over in ["cheapest", "reject"]:
        model = {"policy": "cost_quality", "day_budget": 0.004, "over_budget": over}
        with fake_model(tokens=20) as (_, url):
            with routed(url, **model, output_tokens=20) as server:
                answers = []
                for _ in range(40):
                    body = {"model": "auto", "messages": PROMPT, "max_tokens": 20}
                    answers.append(server.post("/v1/chat/completions", body))
                models = [each.headers.get("x-hostler-model") for each in answers]
                refused = [each for each in answers if each.status == 429]
                rows.append(
                    {
                        "over_budget": over,
                        "requests": len(answers),
                        **{name: models.count(name) for name in QUALITY},
                        "refused": len(refused),
                        "retry_after": bool(refused) and all(told(each) for each in refused),
                        "spent_usd": server.metric("route_cost_usd_total"),
                        "budget_usd": 0.004,
                    }
                )
    return rows


def show(title, rows):
    print(f"\n{title}")
    header = list(rows[0])
    number = lambda v: f"{v:.3g}" if isinstance(v, float) else str(v)
    table(header, [[number(v) for v in row.values()] for row in rows])


def main():
    args = parse_args()
    report = {
        "overload": overload(args),
        "failover": [failover()],
        "budget": budget(),
    }
    for title, rows in report.items():
        show(title, rows)
    if args.json:
        Path(args.json).write_text(json.dumps({"deadline_s": args.deadline_ms / 1000, **report}, indent=1))
    bad = report["failover"][0]
    return 1 if bad["lost"] or bad["cut"] else 0


if __name__ == "__main__":
    sys.exit(main())
