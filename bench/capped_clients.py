#!/usr/bin/env python3
"""One to eight clients at once under a memory limit, beside peers' servers.

    bench/capped_clients.py --model mix7b.gguf --store mix7b.packed --ik DIR --llama DIR \\
        --small shared/models/sample-moe --json out.json

Shows what batching brings when experts must be read: tokens/s of 8 clients together
>= 1.3 x those of one on mix7b, and at no number of clients more than 5 % below one
(ours chooses how many decode at once). Every system is a server under capped.sh from
a cold page cache, ours before and after the peers; all clients of a level start at
once, each asks again when its answer is complete (closed loop, prompts of 8 random
tokens, temperature 1). Also on a small model whose slots hold a part of the experts
(--small, without a limit, ours only).

  tokens/s     of all clients, from when each has its first token (or --settle seconds
               have passed) until --seconds later
  x one        against the same system's one client in the same server
  gap          between tokens as a client sees them, first tokens apart
  longest wait the longest that any client saw nothing, first tokens and unfinished
               waits included

About 9 minutes; --quick about 3.
"""

import os
import threading
import time

from harness import (Failed, MiB, Prompts, Server, Setup, Stream, cell, common_parser, inspect,
                     median, percentile, say, table)

PROMPT = 8


class Client(threading.Thread):
    """Asks one thing after another until it is stopped."""

    def __init__(self, port, vocab, seed, gen):
        super().__init__(daemon=True)
        self.port, self.gen, self.prompts = port, gen, Prompts(vocab, seed)
        self.streams, self.error, self.stopped = [], None, False

    def run(self):
        try:
            while not self.stopped:
                stream = Stream(self.port, self.prompts.ids(PROMPT), self.gen, self.prompts.seed())
                self.streams.append(stream)
                stream.done.wait()
                if stream.error:
                    raise Failed(stream.error)
        except (Failed, OSError) as e:
            if not self.stopped:
                self.error = str(e)

    def stop(self):
        self.stopped = True
        for stream in self.streams[-1:]:
            stream.cancel()

    def started(self):
        return bool(self.streams and self.streams[0].times)


def level(server, vocab, count, gen, settle, seconds):
    """One number of clients; what they saw."""
    clients = [Client(server.port, vocab, 100 * count + i, gen) for i in range(count)]
    for c in clients:
        c.start()
    until = time.perf_counter() + settle
    while time.perf_counter() < until and not all(c.started() or c.error for c in clients):
        time.sleep(0.02)
    start = time.perf_counter()
    end = start + seconds
    while time.perf_counter() < end and not any(c.error for c in clients):
        time.sleep(0.05)
    end = time.perf_counter()
    for c in clients:
        c.stop()
    for c in clients:
        c.join(10)
    row = summarise(clients, start, end)
    row["clients"] = count
    errors = [c.error for c in clients if c.error]
    if errors:
        raise Failed(errors[0])
    return row


def summarise(clients, start, end):
    tokens, first, gaps, waits, shares = 0, [], [], [0.0], []
    for c in clients:
        own = 0
        for s in list(c.streams):
            times = [t for t in list(s.times) if t <= end]
            own += sum(start <= t for t in times)
            first += [times[0] - s.sent] if times else []
            gaps += [b - a for a, b in zip(times, times[1:]) if b >= start]
            seen = [s.sent, *times] + ([end] if s is c.streams[-1] else [])
            waits += [b - a for a, b in zip(seen, seen[1:])]
        shares.append(own)
        tokens += own
    ms = lambda v: None if v is None else 1e3 * v
    return {"tokens": tokens, "seconds": end - start, "tokens_per_s": tokens / (end - start),
            "first_p50_ms": ms(median(first)), "first_max_ms": ms(max(first, default=None)),
            "gap_p50_ms": ms(percentile(gaps, .5)), "gap_p99_ms": ms(percentile(gaps, .99)),
            "longest_wait_ms": ms(max(waits)), "least_client": min(shares)}


def serve(name, command, vocab, ours, o, cap):
    """Rows of all numbers of clients against one server."""
    say(name)
    limit = 30 + len(o.clients) * (o.settle + o.seconds + 10)
    server = Server(command, min(limit, 290), cap, o.limit, o.lock)
    rows = []
    with server:
        try:
            server.wait_ready(40)
            Stream(server.port, Prompts(vocab).ids(4), 4, 1).wait(o.settle)
            for count in o.clients:
                before = server.counters() if ours else {}
                row = level(server, vocab, count, o.gen, o.settle, o.seconds)
                if ours:
                    after = server.counters()
                    generated = max(1, after["generation_tokens_total"]
                                    - before["generation_tokens_total"])
                    for key, counter in [("read_bytes_per_token", "expert_cache_read_bytes_total"),
                                         ("steps_per_token", "engine_steps_total")]:
                        row[key] = (after[counter] - before[counter]) / generated
                rows.append(row)
                say("  " + ", ".join(f"{k} {v:.4g}" for k, v in row.items() if v is not None))
        except (Failed, OSError) as e:
            say(f"  {name}: {e}")
            rows.append({"clients": None, "failed": str(e)})
    for row in rows:
        row.update(peak_gib=server.peak_gib, swapped_pages=server.swapped_pages)
    return rows


def report(title, results):
    print(f"\n{title}\n")
    lines = []
    for name, rows in results.items():
        counts = sorted({r["clients"] for r in rows if r["clients"]})
        single = None
        for count in counts:
            mine = [r for r in rows if r["clients"] == count]
            mid = lambda key: median([r.get(key) for r in mine])
            worst = lambda key: max((r[key] for r in mine if r[key] is not None), default=None)
            speed = mid("tokens_per_s")
            single = speed if count == 1 else single
            ratio = speed / single if single else None
            read = mid("read_bytes_per_token")
            lines.append([
                name, count, len(mine), cell(speed), cell(ratio), cell(mid("first_p50_ms"), 0),
                cell(worst("first_max_ms"), 0), cell(mid("gap_p50_ms"), 1), cell(worst("gap_p99_ms"), 1),
                cell(worst("longest_wait_ms"), 0), min(r["least_client"] for r in mine),
                cell(read / MiB if read is not None else None, 1, " MiB"),
                cell(worst("peak_gib"), 2, " GiB"), sum(r["swapped_pages"] or 0 for r in mine),
                "BELOW ONE CLIENT" if ratio and ratio < 0.95 and name.startswith("hostler") else ""])
        for row in rows:
            if "failed" in row:
                lines.append([name, "-", "", "-", "-", "-", "-", "-", "-", "-", "-", "-",
                              cell(row["peak_gib"], 2, " GiB"), "", row["failed"][:50]])
    table(["system", "clients", "runs", "tokens/s", "x one", "first p50 ms", "first max", "gap p50 ms",
           "gap p99", "longest wait", "least client", "read a token", "peak", "swapped", ""], lines)


def small_model(o):
    """Ours on a small model, with slots for a part of its experts."""
    results = {}
    vocab = inspect(o.hostler, o.small)["vocab"]
    for share in o.small_memory:
        command = [o.hostler, "serve", "--model", f"m={o.small}", "--port", "{port}", "--grpc-port",
                   "off", "--threads", str(o.threads), "--memory", "256MiB", "--expert-memory", share,
                   "--log-level", "warn"]
        quick = type(o)(**{**vars(o), "gen": 128, "seconds": o.small_seconds, "settle": 10})
        for _ in range(o.rounds):
            rows = serve(f"hostler, --expert-memory {share}", command, vocab, True, quick, None)
            results.setdefault(f"hostler, experts {share}", []).extend(rows)
    report(f"{o.small}, no limit, medians", results)
    return results


def main():
    parser = common_parser(__doc__)
    parser.add_argument("--clients", default="1,2,4,8", help="numbers of clients (default 1,2,4,8)")
    parser.add_argument("--gen", type=int, default=192, help="tokens of an answer (default 192)")
    parser.add_argument("--seconds", type=float, help="of one level (default 20; quick 10)")
    parser.add_argument("--settle", type=float, help="at most, before a level counts (default 15; "
                        "quick 8)")
    parser.add_argument("--small", help="a small MoE model, such as shared/models/sample-moe")
    parser.add_argument("--small-memory", default="8MiB,16MiB",
                        help="its --expert-memory, one or several (default 8MiB,16MiB)")
    o = parser.parse_args()
    setup = Setup(o)
    o.clients = [int(c) for c in o.clients.split(",")]
    o.small = o.small and os.path.abspath(o.small)
    o.small_memory = o.small_memory.split(",")
    o.rounds = o.rounds or 1
    o.seconds = o.seconds or (10 if o.quick else 20)
    o.settle = o.settle or (8 if o.quick else 15)
    o.small_seconds = 3 if o.quick else 6
    context = PROMPT + o.gen + 8
    turns = setup.contestants(context, max(o.clients))
    results, vocab = {}, setup.shape["vocab"]
    for i in range(o.rounds):
        first = [t for t in turns if t[2]]
        peers = [t for t in turns if not t[2] and not (t[3] and i > 0)]
        for name, command, ours, _ in first[-1:] + peers + first[-1:]:
            results.setdefault(name, []).extend(serve(name, command, vocab, ours, o, setup.cap))
    report(f"mix7b under {o.limit if setup.cap else 'NO LIMIT'}, ours with --memory {o.memory}, "
           f"{o.threads} threads, medians (worst of the waits)", results)
    small = small_model(o) if o.small else {}
    setup.write_json({"script": "capped_clients", "limit": o.limit, "memory": o.memory,
                      "results": results, "small": small})


if __name__ == "__main__":
    main()
