"""The engine against reference outputs of another implementation (transformers)."""

import array
import json
import re
from math import exp, fsum, log

import pytest

from support import DENSE, MOE, hostler, hostler_json

MODELS = {"sample-moe": MOE, "sample-dense": DENSE}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]


@pytest.fixture
def golden(model, shared):
    return json.loads((shared / f"models/golden/{model.name}.json").read_text())


def logits_of(model, ids, folder):
    """Rows of `hostler logits --precise`."""
    tokens, out = folder / "tokens", folder / "logits.npy"
    tokens.write_text(",".join(map(str, ids)))
    hostler("logits", "--model", model, "--tokens", f"@{tokens}", "--out", out, "--precise")
    data = out.read_bytes()
    assert data[:8] == b"\x93NUMPY\x01\x00"
    end = 10 + int.from_bytes(data[8:10], "little")
    header = data[10:end].decode()
    rows, vocab = map(int, re.search(r"'shape': \((\d+), (\d+)\)", header).groups())
    assert "'descr': '<f4'" in header and "'fortran_order': False" in header
    values = array.array("f", data[end:])
    assert rows == len(ids) and len(values) == rows * vocab
    return [values[i * vocab : (i + 1) * vocab] for i in range(rows)]


def test_logits_are_the_reference_s(model, golden, tmp_path):
    for prompt in golden["prompts"]:
        steps = prompt["logits"]
        ids = prompt["prompt_ids"] + prompt["greedy_ids"][: len(steps) - 1]
        rows = logits_of(model, ids, tmp_path)
        for step in steps:
            row = rows[len(prompt["prompt_ids"]) - 1 + step["step"]]
            worst = max(abs(row[i] - value) for i, value in zip(step["ids"], step["values"]))
            assert worst <= 2e-3, (prompt["name"], step["step"])
            assert max(row) == row[step["ids"][0]]


def test_log_likelihood_is_the_reference_s(model, golden, tmp_path):
    ids = golden["passage"]["ids"]
    rows = logits_of(model, ids, tmp_path)
    ours = [row[i] - log(fsum(map(exp, row))) for row, i in zip(rows, ids[1:])]
    worst = max(abs(a - b) for a, b in zip(ours, golden["passage"]["logprobs"], strict=True))
    assert worst <= 4e-3
    assert fsum(ours) == pytest.approx(golden["passage"]["logprob_sum"], abs=0.1)


def test_greedy_continuations_are_the_reference_s(model, golden):
    for prompt in golden["prompts"]:
        ids, count = ",".join(map(str, prompt["prompt_ids"])), len(prompt["greedy_ids"])
        flags = f"--precise --ignore-eos --tokens {ids} --max-tokens {count}"
        answer = hostler_json(f"run {flags}", "--model", model)
        assert answer["token_ids"] == prompt["greedy_ids"], prompt["name"]
        assert answer["finish_reason"] == "length"
        if prompt["first_eos_index"] is None:
            assert answer["text"] == prompt["greedy_text"]


# From the table in models/README.md of the references; the first token of each
# window is not scored.
@pytest.mark.parametrize(
    "model, text, quantize, tokens, perplexity, within",
    [
        (MOE, "heldout.txt", "none", 50481, 63.33, 0.005),
        (MOE, "heldout.txt", "q8", 50481, 63.33, 0.01),
        (MOE, "heldout_chat.txt", "none", 9755, 4.47, 0.005),
        (DENSE, "heldout.txt", "none", 50481, 87.56, 0.005),
        (DENSE, "heldout.txt", "q8", 50481, 87.56, 0.01),
        (DENSE, "heldout_chat.txt", "none", 9755, 5.73, 0.005),
    ],
)
def test_perplexity_is_the_reference_s(shared, model, text, quantize, tokens, perplexity, within):
    command = f"perplexity --ctx 256 --quantize {quantize}"
    score = hostler_json(command, "--model", model, "--file", shared / "models" / text)
    assert score["tokens"] == tokens
    assert score["perplexity"] == pytest.approx(perplexity, rel=within)
    assert score.keys() == {"perplexity", "bits_per_byte", "tokens"}
