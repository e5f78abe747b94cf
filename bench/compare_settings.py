#!/usr/bin/env python3
"""How far answers move from the references with the settings that people serve with.

    bench/compare_settings.py [HOSTLER] [SHARED]

Every reference model of SHARED/golden (../shared), its short prompt at every
position and the last of its long one: the largest difference of a logit, the
root of the mean square, and at how many positions the first choice is the same.
Needs NumPy.
"""

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {"--precise": ["--precise"], "default": [], "--quantize q8": ["--quantize", "q8"]}


def models(golden):
    """(weight type, model, its golden files)"""
    for path in sorted((golden / "models").iterdir()):
        config = json.loads((path / "config.json").read_text())
        mxfp4 = "mxfp4" in json.dumps(config.get("quantization_config"))
        yield "MXFP4" if mxfp4 else config["torch_dtype"], path, path
    for path in sorted((golden / "gguf/models").glob("*.gguf")):
        yield f"GGUF {path.stem.split('.')[-1]}", path, path.with_suffix(".golden")


def logits(hostler, model, tokens, settings, out):
    command = [hostler, "logits", model, "--memory", "256MiB", "--out", out]
    command += ["--tokens", ",".join(map(str, tokens)), *settings]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return np.load(out)


def main():
    hostler = sys.argv[1] if len(sys.argv) > 1 else str(ROOT / "build/release/hostler")
    shared = Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT.parent / "shared"
    groups = defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch:
        for weights, model, golden in models(shared / "golden"):
            prompts = json.loads((golden / "golden.json").read_text())["prompts"]
            expected = np.vstack([
                np.load(golden / "logits_short.npy"),
                np.load(golden / "logits_long_last.npy").reshape(1, -1),
            ])
            for name, settings in SETTINGS.items():
                out = f"{scratch}/out.npy"
                got = np.vstack([
                    logits(hostler, model, prompts["short"], settings, out),
                    logits(hostler, model, prompts["long"], settings, out)[-1:],
                ])
                same = got.argmax(axis=1) == expected.argmax(axis=1)
                worst, rms = np.abs(got - expected).max(), np.sqrt(((got - expected) ** 2).mean())
                print(f"{model.name:22} {name:14} {worst:.1e} {rms:.1e} {same.sum()}/{len(same)}")
                groups[weights, name].append((worst, rms, same.sum(), len(same)))
    print("\n| weights | settings | models | largest difference, median and most | same first choice |")
    print("|---|---|---|---|---|")
    for (weights, name), rows in groups.items():
        worst, _, same, of = (np.array(column) for column in zip(*rows))
        print(f"| {weights} | {name} | {len(rows)} | {np.median(worst):.1e}, {worst.max():.1e} "
              f"| {same.sum()} of {of.sum()} |")


if __name__ == "__main__":
    main()
