#!/usr/bin/env python3
"""Speed of a prompt under a memory limit, beside peers and beside the bound of one wave.

    bench/capped_prefill.py --model mix7b.gguf --store mix7b.packed --ik DIR --llama DIR --json out.json

Shows that a prompt reads each missing expert once for all its tokens: >= 80 % of
tokens / max(compute seconds, bytes to read once / disk bandwidth), and ahead of
peers that map the file. In one run, systems taking turns, each a server under
capped.sh from a cold page cache; prompts of random tokens, one token generated, the
time is that until it comes. A prompt that is not done in its time is cut off.

  compute seconds     the same prompts with all experts in memory, no limit
  bytes to read once  all experts, less what our slots hold (random prompts this long
                      want every expert)
  read a prompt       our counters: expert bytes read
  disk bandwidth      as bench/capped_decode.py measures it

About 5 minutes; --quick about 2.
"""

from harness import (Failed, GiB, Prompts, Server, Setup, Stream, cell, common_parser,
                     disk_bandwidth, median, say, table)


def prompts_on(server, vocab, tokens, count, seconds, ours):
    """Rows of `count` prompts, after a short one that wakes the server."""
    prompts, rows = Prompts(vocab, seed=3), []
    server.wait_ready(seconds)
    Stream(server.port, prompts.ids(4), 2, prompts.seed()).wait(seconds)
    for _ in range(count):
        before = server.counters() if ours else {}
        stream = Stream(server.port, prompts.ids(tokens), 1, prompts.seed())
        finished = stream.wait(seconds)
        row = {"finished": finished,
               "seconds": stream.times[0] - stream.sent if stream.times else None}
        if ours and finished:
            after = server.counters()
            row["read_bytes"] = (after["expert_cache_read_bytes_total"]
                                 - before["expert_cache_read_bytes_total"])
            row["stall_s"] = (after["expert_cache_stall_seconds_total"]
                              - before["expert_cache_stall_seconds_total"])
            row["capacity_bytes"] = after["expert_cache_capacity_bytes"]
        rows.append(row)
        say("  " + ", ".join(f"{k} {v:.4g}" for k, v in row.items() if v is not None))
        if not finished:
            break
    return rows


def in_memory(setup, context, tokens, count):
    say("hostler with all experts in memory, no limit")
    with Server(setup.ours(setup.args.model, context, in_memory=True), 240) as server:
        server.wait_ready(60)
        setup.read_all_experts(server)
        return prompts_on(server, setup.shape["vocab"], tokens, count, 60, True)


def run_capped(setup, name, command, ours, o):
    say(name)
    server = Server(command, (o.prompts + 1) * o.seconds + 20, setup.cap, setup.args.limit,
                    setup.args.lock)
    rows = []
    with server:
        try:
            rows = prompts_on(server, setup.shape["vocab"], o.tokens, o.prompts, o.seconds, ours)
        except Failed as e:
            say(f"  {name}: {e}")
            rows = [{"finished": False, "seconds": None, "failed": str(e)}]
    for row in rows:
        row.update(peak_gib=server.peak_gib, disk_read_gib=server.read_gib,
                   swapped_pages=server.swapped_pages)
    return rows


def report(setup, o, results, compute_s, bandwidths):
    print(f"\nA prompt of {o.tokens} tokens under {setup.args.limit if setup.cap else 'NO LIMIT'}, "
          f"ours with --memory {setup.args.memory}, {setup.args.threads} threads, medians")
    print(f"in memory {o.tokens / compute_s:.0f} tokens/s; disk {median(bandwidths) / 1e9:.2f} GB/s "
          f"({min(bandwidths) / 1e9:.2f} to {max(bandwidths) / 1e9:.2f})\n")
    speed = lambda rows: o.tokens / s if (s := median([r["seconds"] for r in rows])) else None
    best = max((speed(r) or 0 for n, r in results.items() if n.startswith("hostler")), default=0)
    lines = []
    for name, rows in results.items():
        ours, mid = name.startswith("hostler"), lambda key: median([r.get(key) for r in rows])
        shares, bounds = [], []
        for r in rows:
            if r.get("capacity_bytes"):
                once = max(0, setup.all_expert_bytes - r["capacity_bytes"])
                bounds.append(o.tokens / max(compute_s, once / r["bandwidth"]))
                shares.append(o.tokens / r["seconds"] / bounds[-1])
        note = next((r["failed"][:60] for r in rows if "failed" in r),
                    "" if all(r["finished"] for r in rows) else f"not done in {o.seconds} s")
        lines.append([
            name, len(rows), cell(speed(rows), 1), cell(median(bounds), 1),
            cell(100 * median(shares), 0, " %") if shares else "-",
            cell(best / speed(rows), 2, " x") if speed(rows) and not ours else "-",
            cell(mid("read_bytes") / GiB, 2, " GiB") if mid("read_bytes") else "-",
            cell(mid("stall_s"), 2, " s"), cell(max(r["peak_gib"] or 0 for r in rows), 2, " GiB"),
            sum(r["swapped_pages"] or 0 for r in rows), note])
    table(["system", "prompts", "tokens/s", "bound", "of bound", "ours is", "read a prompt",
           "stalled", "peak", "swapped", ""], lines)


def main():
    parser = common_parser(__doc__)
    parser.add_argument("--tokens", type=int, default=512, help="of a prompt (default 512)")
    parser.add_argument("--prompts", type=int, help="of one run (default 3; quick 2)")
    parser.add_argument("--seconds", type=int, help="for one prompt (default 60; quick 30)")
    o = parser.parse_args()
    setup = Setup(o)
    o.rounds = o.rounds or (1 if o.quick else 3)
    o.prompts = o.prompts or (2 if o.quick else 3)
    o.seconds = o.seconds or (30 if o.quick else 60)
    context = o.tokens + 64
    results, computes = {}, []
    disk = lambda: disk_bandwidth(o.model, setup.shape["bytes_per_expert"])
    for i in range(o.rounds):
        say(f"round {i + 1} of {o.rounds}")
        computes += in_memory(setup, context, o.tokens, o.prompts)
        for name, command, ours, slow in setup.contestants(context):
            if slow and i > 0:
                continue
            bandwidth = disk() if ours else None
            rows = run_capped(setup, name, command, ours, o)
            for row in rows if ours else []:
                row["bandwidth"] = max(bandwidth, disk())
            results.setdefault(name, []).extend(rows)
    compute_s = median([c["seconds"] for c in computes])
    bandwidths = [r["bandwidth"] for rows in results.values() for r in rows if "bandwidth" in r]
    report(setup, o, results, compute_s, bandwidths)
    setup.write_json({"script": "capped_prefill", "limit": o.limit, "memory": o.memory,
                      "tokens": o.tokens, "in_memory": computes, "results": results})


if __name__ == "__main__":
    main()
