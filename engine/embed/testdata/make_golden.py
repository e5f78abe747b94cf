#!/usr/bin/env python3
"""Writes minilm.json: embeddings of a few texts by all-MiniLM-L6-v2, computed in float64.

usage: make_golden.py MODEL_DIRECTORY   (needs numpy, scipy, safetensors, tokenizers)

An implementation apart from Hostler's: BERT as transformers has it, with tokens by Hugging
Face's tokenizers. Values are stored as integers, 1e-4 each.
"""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from scipy.special import erf
from tokenizers import Tokenizer

TEXTS = [
    "",
    "This is an example sentence",
    "What is the derivative of x^2 * sin(x)?\nA. 2x sin(x)\nB. x^2 cos(x)\nC. 2x sin(x) + x^2 cos(x)",
    "def f(xs):\n    return [x * 2 for x in xs if x % 3 == 0]  # naïve Ünïcödé",
    "Wie spät ist es in Zürich? — Сколько времени? 你好，世界！ 🙂",
    "The quick brown fox jumps over the lazy dog; antidisestablishmentarianism. " * 30,
]


def encode(weights, ids, heads, layers):
    def dense(x, name):
        return x @ weights[name + ".weight"].T + weights[name + ".bias"]

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x /= np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12)
        return x * weights[name + ".weight"] + weights[name + ".bias"]

    n = len(ids)
    x = weights["embeddings.word_embeddings.weight"][ids]
    x = x + weights["embeddings.position_embeddings.weight"][:n]
    x = norm(x + weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for i in range(layers):
        layer = f"encoder.layer.{i}."
        q, k, v = (
            dense(x, layer + "attention.self." + name).reshape(n, heads, -1).transpose(1, 0, 2)
            for name in ("query", "key", "value")
        )
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
        p = np.exp(scores - scores.max(-1, keepdims=True))
        attended = ((p / p.sum(-1, keepdims=True)) @ v).transpose(1, 0, 2).reshape(n, -1)
        y = dense(attended, layer + "attention.output.dense")
        x = norm(x + y, layer + "attention.output.LayerNorm")
        h = dense(x, layer + "intermediate.dense")
        h = h * 0.5 * (1 + erf(h / np.sqrt(2)))
        x = norm(x + dense(h, layer + "output.dense"), layer + "output.LayerNorm")
    mean = x.mean(0)
    return mean / np.linalg.norm(mean)


def main():
    model = Path(sys.argv[1])
    config = json.loads((model / "config.json").read_text())
    length = json.loads((model / "sentence_bert_config.json").read_text())["max_seq_length"]
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(length)
    weights = load_file(model / "model.safetensors")
    weights = {name: w.astype(np.float64) for name, w in weights.items()}
    lines = []
    for text in TEXTS:
        ids = tokenizer.encode(text).ids
        e = encode(weights, ids, config["num_attention_heads"], config["num_hidden_layers"])
        values = [int(round(v * 1e4)) for v in e]
        lines.append(json.dumps({"text": text, "values": values}, separators=(",", ":")))
    out = Path(__file__).parent / "minilm.json"
    out.write_text("[\n" + ",\n".join(lines) + "\n]\n")


main()
