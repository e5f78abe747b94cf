#!/usr/bin/env python3
"""Decode speed of one sequence under a memory limit, beside peers and beside the bound.

    bench/capped_decode.py --model mix7b.gguf --store mix7b.packed --ik DIR --llama DIR --json out.json

Shows that decode keeps up with the disk: >= 80 % of the bound
1 / max(compute seconds, bytes missed per token / disk bandwidth), and how many
times that is of peers that map the file. In one run, systems taking turns, each a
server under capped.sh from a cold page cache, one streaming client: a prompt of one
random token (so that all steps are alike), sampled at temperature 1. A peer that
does not finish in its time counts with the tokens that came.

  compute seconds  per token with all experts in memory: our server without a limit
  bytes missed     our counters: expert bytes read, less those read ahead for nothing
  disk bandwidth   O_DIRECT preads of one expert's size at random places of the model
                   file, 8 at a time (Python threads), measured around every run of ours: the larger value

Hit rate and bytes are of the timed request; "disk read" is of the whole machine for
the whole life of the server. About 9 minutes; --quick about 3.
"""

from harness import (Failed, MiB, Prompts, Server, Setup, Stream, cell, common_parser,
                     disk_bandwidth, median, say, table)

CONTEXT = 512
WASTED = "expert_cache_wasted_bytes_total"


def measure(server, vocab, tokens, seconds, ours, warm_tokens=8):
    """One request after a short one; a dictionary of what was seen."""
    prompts = Prompts(vocab)
    row = {"ready_s": server.wait_ready(seconds)}
    Stream(server.port, prompts.ids(1), warm_tokens, prompts.seed()).wait(seconds)
    before = server.counters() if ours else {}
    stream = Stream(server.port, prompts.ids(1), tokens, prompts.seed())
    row["finished"] = stream.wait(seconds)
    after = server.counters() if ours else {}
    times = stream.times
    row["tokens"] = len(times)
    row["first_s"] = times[0] - stream.sent if times else None
    row["tokens_per_s"] = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else None
    if ours:
        delta = {k: after[k] - before.get(k, 0) for k in after}
        hits, misses = delta["expert_cache_hits_total"], delta["expert_cache_misses_total"]
        row["hit_rate"] = hits / max(1, hits + misses)
        row["wasted_bytes_per_token"] = delta.get(WASTED, 0) / delta["generation_tokens_total"]
        row["missed_bytes_per_token"] = (delta["expert_cache_read_bytes_total"]
                                         / delta["generation_tokens_total"]
                                         - row["wasted_bytes_per_token"])
        row["stall_share"] = (delta["expert_cache_stall_seconds_total"]
                              / delta["engine_step_seconds_total"])
        row["capacity_bytes"] = after["expert_cache_capacity_bytes"]
    return row


def run_capped(setup, name, command, ours, tokens, seconds):
    say(name)
    server = Server(command, 3 * seconds + 20, setup.cap, setup.args.limit, setup.args.lock)
    row = {}
    with server:
        try:
            row = measure(server, setup.shape["vocab"], tokens, seconds, ours)
        except Failed as e:
            row["failed"] = str(e)
            say(f"  {name}: {e}")
    row.update(peak_gib=server.peak_gib, disk_read_gib=server.read_gib,
               swapped_pages=server.swapped_pages)
    say("  " + ", ".join(f"{k} {v:.4g}" for k, v in row.items() if isinstance(v, (int, float))))
    return row


def in_memory(setup, tokens):
    """Seconds per token with every expert in memory."""
    say("hostler with all experts in memory, no limit")
    with Server(setup.ours(setup.args.model, CONTEXT, in_memory=True), 180) as server:
        server.wait_ready(60)
        setup.read_all_experts(server)
        row = measure(server, setup.shape["vocab"], tokens, 60, True)
    if row["missed_bytes_per_token"]:
        say("  not everything stayed in memory: the compute time holds reads as well")
    return row


def bound(row, compute_s, bandwidth):
    missed = row.get("missed_bytes_per_token")
    return None if missed is None else 1 / max(compute_s, missed / bandwidth)


def report(setup, results, compute, bandwidths):
    compute_s = 1 / compute["tokens_per_s"]
    print(f"\nDecode of one sequence under {setup.args.limit if setup.cap else 'NO LIMIT'}, ours with "
          f"--memory {setup.args.memory}, {setup.args.threads} threads, medians")
    print(f"in memory {1 / compute_s:.1f} tokens/s; disk "
          f"{median(bandwidths) / 1e9:.2f} GB/s ({min(bandwidths) / 1e9:.2f} to "
          f"{max(bandwidths) / 1e9:.2f}) at reads of "
          f"{setup.shape['bytes_per_expert'] / MiB:.2f} MiB, 8 at a time\n")
    best = max((median([r.get("tokens_per_s") for r in rows]) or 0
                for name, rows in results.items() if name.startswith("hostler")), default=0)
    lines = []
    for name, rows in results.items():
        mid = lambda key: median([r.get(key) for r in rows])
        speed = mid("tokens_per_s")
        shares = [r["tokens_per_s"] / bound(r, compute_s, r["bandwidth"]) for r in rows
                  if r.get("tokens_per_s") and bound(r, compute_s, r["bandwidth"])]
        note = ""
        if any("failed" in r for r in rows):
            note = next(r["failed"] for r in rows if "failed" in r)[:60]
        elif not all(r["finished"] for r in rows):
            note = f"cut off: {min(r['tokens'] for r in rows)} tokens"
        lines.append([
            name, len(rows), cell(speed), cell(100 * median(shares), 0, " %") if shares else "-",
            cell(best / speed, 1, " x") if speed and not name.startswith("hostler") else "-",
            cell(100 * mid("hit_rate"), 1, " %") if mid("hit_rate") is not None else "-",
            cell(mid("missed_bytes_per_token") / MiB, 0, " MiB") if mid("hit_rate") is not None else "-",
            cell(100 * mid("stall_share"), 0, " %") if mid("hit_rate") is not None else "-",
            cell(max((r["peak_gib"] or 0 for r in rows)), 2, " GiB"),
            sum(r["swapped_pages"] or 0 for r in rows), cell(mid("disk_read_gib"), 1, " GiB"), note])
    table(["system", "runs", "tokens/s", "of bound", "ours is", "hits", "missed a token", "stalled",
           "peak", "swapped", "disk read", ""], lines)


def main():
    parser = common_parser(__doc__)
    parser.add_argument("--tokens", type=int, help="to generate (default 64; quick 32)")
    parser.add_argument("--seconds", type=int,
                        help="for one request of a peer (default 40; quick 25)")
    args = parser.parse_args()
    setup = Setup(args)
    rounds = args.rounds or (1 if args.quick else 3)
    tokens = args.tokens or (32 if args.quick else 64)
    seconds = args.seconds or (25 if args.quick else 40)
    results, computes = {}, []
    disk = lambda: disk_bandwidth(args.model, setup.shape["bytes_per_expert"])
    for i in range(rounds):
        say(f"round {i + 1} of {rounds}")
        computes.append(in_memory(setup, tokens))
        for name, command, ours, slow in setup.contestants(CONTEXT):
            if slow and i > 0:
                continue
            bandwidth = disk() if ours else None
            row = run_capped(setup, name, command, ours, tokens, seconds)
            row["bandwidth"] = max(bandwidth, disk()) if ours else None
            results.setdefault(name, []).append(row)
    bandwidths = [r["bandwidth"] for rows in results.values() for r in rows if r["bandwidth"]]
    compute = {"tokens_per_s": median([c["tokens_per_s"] for c in computes])}
    report(setup, results, compute, bandwidths)
    setup.write_json({"script": "capped_decode", "limit": args.limit, "memory": args.memory,
                      "in_memory": computes, "disk_bytes_per_s": bandwidths, "results": results})


if __name__ == "__main__":
    main()
