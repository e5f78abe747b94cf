#!/usr/bin/env python3
"""What `hostler plan` predicts beside what `hostler bench` measures.

    bench/plan_check.py
    bench/plan_check.py --model mix7b.gguf --memory 1700MiB,2300MiB,5GiB

Measures a machine profile first (--profile FILE uses one that is there), then for
each model and --memory predicts from the headers and runs. In one run, so that both
see the same machine; a machine that is busy with other things in between spoils the
ratios. Columns: predicted, measured, predicted / measured; hits in %, predicted of decode's
lookups, measured of all, prompts' and those read ahead in time included.

Without --model it takes models/sample-moe at two sizes: a small model, whose
weights fit a processor's caches, which the plan does not know. Bench's prompts are random, so
the plan's uniform gates are the right assumption for random weights; for a trained
model give --trace, recorded with `hostler trace`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import ROOT, cell, say, table


def run(command, seconds):
    out = subprocess.run(command, capture_output=True, timeout=seconds, text=True)
    if out.returncode:
        sys.exit(f"{' '.join(command)}: {out.stderr.strip()}")
    return json.loads(out.stdout)


def check(args, profile, model, memory):
    """Rows of one model and budget."""
    common = [args.hostler]
    clients = [1 << i for i in range(args.clients.bit_length())]
    plan = [*common, "plan", model, "--memory", memory, "--profile", profile, "--json",
            "--prompt", str(args.prompt), "--clients", str(clients[-1])]
    if args.trace:
        plan += ["--trace", args.trace]
    bench = [*common, "bench", "--model", model, "--memory", memory, "--json",
             "--prompt-tokens", str(args.prompt), "--gen-tokens", str(args.tokens),
             "--repeat", str(args.repeat), "--batch", ",".join(map(str, clients))]
    for flag in ["threads", "quantize"]:
        if value := getattr(args, flag):
            plan += [f"--{flag}", str(value)]
            bench += [f"--{flag}", str(value)]
    say(f"{model} in {memory}")
    planned = run(plan, 60)
    measured = {row["batch"]: row for row in run(bench, args.seconds)}
    rows = [("prefill", planned["prefill"], measured[1]["prefill_tokens_per_s"], None)]
    for decode in planned["decode"]:
        row = measured[decode["clients"]]
        rows.append((f"decode, {decode['clients']}", decode, row["decode_tokens_per_s"],
                     row["expert_hit_rate"]))
    return [{"model": Path(model).name, "memory": memory, "what": what,
             "resident": planned["resident_share"], "limit": predicted["limit"],
             "predicted": predicted["tokens_per_second"], "measured": speed,
             "predicted_hits": predicted.get("hit_rate"), "measured_hits": hits}
            for what, predicted, speed, hits in rows]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--hostler", default=str(ROOT / "build/release/hostler"))
    p.add_argument("--model", action="append", help="instead of models/sample-moe; several times")
    p.add_argument("--memory", default="", help="sizes, as 2GiB,4GiB")
    p.add_argument("--trace", help="an expert trace of the model")
    p.add_argument("--profile", help="a machine profile instead of measuring one")
    p.add_argument("--threads", type=int)
    p.add_argument("--quantize")
    p.add_argument("--clients", type=int, default=4, help="1, 2, 4, ... up to so many (default 4)")
    p.add_argument("--prompt", type=int, default=128, help="tokens (default 128)")
    p.add_argument("--tokens", type=int, default=32, help="to generate (default 32)")
    p.add_argument("--repeat", type=int, default=3)
    p.add_argument("--seconds", type=int, default=500, help="for one bench at most")
    p.add_argument("--json", metavar="FILE")
    args = p.parse_args()
    if args.model and not args.memory:
        sys.exit("--model needs --memory")
    models = args.model or [str(ROOT / "models/sample-moe")]
    sizes = args.memory.split(",") if args.memory else ["40MiB", "512MiB"]
    with tempfile.TemporaryDirectory(prefix="hostler-plan-") as folder:
        profile = args.profile
        if not profile:
            say("measuring the machine")
            profile = f"{folder}/profile.json"
            disk = models[0] if Path(models[0]).is_file() else folder
            run([args.hostler, "doctor", "--profile", "--disk", disk, "--output", profile,
                 "--json", *(["--threads", str(args.threads)] if args.threads else [])], 300)
        rows = [row for model in models for size in sizes for row in check(args, profile, model, size)]
    percent = lambda share: "-" if share is None else f"{100 * share:.0f}"
    table(["model", "memory", "resident", "what", "limit", "predicted", "measured", "ratio", "hits"],
          [[r["model"], r["memory"], percent(r["resident"]) + " %", r["what"], r["limit"],
            cell(r["predicted"], 1), cell(r["measured"], 1),
            cell(r["predicted"] / r["measured"], 2),
            f"{percent(r['predicted_hits'])} / {percent(r['measured_hits'])}"] for r in rows])
    ratios = [max(r["predicted"] / r["measured"], r["measured"] / r["predicted"]) for r in rows]
    print(f"\noff by a factor of {statistics.median(ratios):.2f} (median), {max(ratios):.2f} at most")
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
