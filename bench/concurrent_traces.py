#!/usr/bin/env python3
"""What public traces cannot tell: how many sequences decode together, and how alike
they are, against what a small cache hits and reads.

    bench/concurrent_traces.py --text ../shared/models/heldout.txt

A model answers many prompts (`hostler trace`): passages of a text of many books, cut
into as many topics as there are books' stretches, so many passages of each. The same
answers are then put together anew and replayed (`hostler replay --sequences n`):

  alike    at any time the n sequences continue passages of one topic
  unlike   of n different topics

Both have every answer once, so at one sequence they differ only in order. Figures are
of all of it: the hit rate of the steps' unions of experts, and the bytes that were
read for each token that was generated.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import MiB, ROOT, SHARED, say, table


def passages(text, topics, count, size):
    """[topics][count] prompts of `size` bytes, each one line."""
    stretch = len(text) // topics
    apart = (stretch - size) // max(count - 1, 1)
    return [[" ".join(text[t * stretch + i * apart:][:size].split()) for i in range(count)]
            for t in range(topics)]


def record(args, prompts, folder):
    """The trace's header lines and, for each prompt, its decode lines by token."""
    path, out = folder / "prompts.txt", folder / "all.csv"
    path.write_text("\n".join(prompts) + "\n")
    subprocess.run([args.hostler, "trace", args.model, "--prompts", path, "-o", out,
                    "--max-tokens", str(args.tokens)], check=True, stderr=subprocess.DEVNULL)
    header, answers, phase = [], [], None
    for line in out.read_text().splitlines():
        if not line[0].isdigit():
            header.append(line)
            continue
        if line[0] == "0" and phase != "0":
            answers.append([])
        phase = line[0]
        if phase == "1":
            answers[-1].append(line)
    return header, answers


def complete(args, header, answers, count):
    """[topics][args.passages] answers that no end-of-text cut short."""
    layers = next(int(w.split("=")[1]) for h in header for w in h.split() if w.startswith("layers="))
    topics = []
    for t in range(args.topics):
        whole = [a for a in answers[t * count:(t + 1) * count] if len(a) == args.tokens * layers]
        if len(whole) < args.passages:
            sys.exit(f"topic {t}: {len(whole)} answers of {args.tokens} tokens, fewer than "
                     f"{args.passages}")
        topics.append(whole[:args.passages])
    return layers, topics


def arrange(topics, sequences, alike):
    """Decode lines of `sequences` equal stretches, one after another."""
    count, share = len(topics), len(topics[0]) // sequences
    for s in range(sequences):
        first = 0 if alike else s * count // sequences
        for k in range(count):
            for answer in topics[(first + k) % count][s * share:(s + 1) * share]:
                yield from answer


def replay(args, path, sequences):
    out = subprocess.run(
        [args.hostler, "replay", path, "--sequences", str(sequences), "--capacity", args.capacity,
         "--policy", args.policy, "--json"], check=True, capture_output=True, text=True)
    return json.loads(out.stdout)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--hostler", default=str(ROOT / "build/release/hostler"))
    p.add_argument("--model", default=str(ROOT / "models/sample-moe"))
    p.add_argument("--text", default=str(SHARED / "models/heldout.txt"))
    p.add_argument("--topics", type=int, default=16)
    p.add_argument("--passages", type=int, default=16, help="of each topic (default 16)")
    p.add_argument("--tokens", type=int, default=48, help="generated for each")
    p.add_argument("--capacity", default="10%,25%,50%")
    p.add_argument("--policy", default="lru,ema,default")
    p.add_argument("--json", metavar="FILE", help="write the raw numbers there")
    args = p.parse_args()
    widths = [n for n in [1, 2, 4, 8, 16] if args.passages % n == 0 and args.topics % n == 0]
    with tempfile.TemporaryDirectory(prefix="hostler-traces-") as folder:
        folder = Path(folder)
        count = args.passages * 5 // 4  # some end early
        prompts = [q for t in passages(Path(args.text).read_text(), args.topics, count, 300) for q in t]
        say(f"recording {len(prompts)} answers of {args.tokens} tokens")
        header, answers = record(args, prompts, folder)
        layers, topics = complete(args, header, answers, count)
        tokens = args.topics * args.passages * args.tokens
        expert = next(int(w.split("=")[1].split(",")[0]) for h in header for w in h.split()
                      if w.startswith("expert_bytes="))
        results = []
        for alike in [True, False]:
            for n in widths:
                path = folder / "arranged.csv"
                path.write_text("\n".join([*header, *arrange(topics, n, alike)]) + "\n")
                say(f"replaying {n} sequences, {'alike' if alike else 'unlike'}")
                for row in replay(args, path, n):
                    results.append({
                        "alike": alike, "sequences": n, "capacity": row["capacity"],
                        "policy": row["policy"], "hit_rate": row["hits"] / row["lookups"],
                        "union": row["lookups"] / (tokens * layers),
                        "bytes_per_token": (row["lookups"] - row["hits"]) * expert / tokens})
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=1) + "\n")
    print(f"{tokens} tokens of {args.topics} topics; experts of a layer that a token asks for, "
          "hit rate and MiB read for a token\n")
    keys = dict.fromkeys((r["capacity"], r["policy"]) for r in results)
    rows = []
    for capacity, policy in keys:
        for alike in [True, False]:
            line = [f"{capacity} {policy}, {'alike' if alike else 'unlike'}"]
            for n in widths:
                r = next(r for r in results if (r["capacity"], r["policy"], r["alike"],
                                                r["sequences"]) == (capacity, policy, alike, n))
                line.append(f"{100 * r['hit_rate']:.1f}% {r['bytes_per_token'] / MiB:.2f}")
            rows.append(line)
    for alike in [True, False]:
        line = [f"experts asked, {'alike' if alike else 'unlike'}"]
        line += [f"{r['union']:.2f}" for n in widths for r in results
                 if r["alike"] == alike and r["sequences"] == n][::len(keys)]
        rows.append(line)
    table(["sequences", *map(str, widths)], rows)


if __name__ == "__main__":
    main()
