#!/usr/bin/env python3
"""Perplexity of every quantised weight type that has integer kernels, on each table of them.

    bench/quantised_perplexity.py --models ../shared/models

Writes GGUF files of sample-moe and sample-dense with their matrices in one type, then runs
`hostler perplexity` on the held-out text with each table of integer kernels and with --precise,
which computes in f32 from the same stored weights. Prints perplexities and, in percent, how far
each table is from --precise and from the model's own bf16 weights in f32. Norms and gates
stay in f32. Rows that do not fill blocks of 256 (sample-moe's expert down, which has 128; all of
sample-dense but its down) stay in Q8_0 for the K types and IQ4_XS; the table says how many
weights have the type. The encoders here are simple: the files are worse than llama.cpp's, which
does not matter for a comparison over the same weights.
Needs NumPy and gguf (pip install numpy gguf).
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import gguf
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
BY_PACKAGE = ("Q4_0", "Q8_0", "MXFP4")


def halves(values):
    """f16 of (blocks, n) as bytes, and the values they hold."""
    rounded = values.astype(np.float16)
    return rounded.view(np.uint8).reshape(len(values), -1), rounded.astype(np.float32)


def divided(a, b):
    return np.divide(a, b, out=np.zeros(np.broadcast_shapes(a.shape, b.shape), np.float32), where=b != 0)


def nearest_iq4(x):
    """Index of the step that is nearest."""
    return np.searchsorted((IQ4[1:] + IQ4[:-1]) / 2, x).astype(np.uint8)


def signed_largest(x):
    return np.take_along_axis(x, np.abs(x).argmax(-1)[..., None], -1)


def nibbles(q):
    """(…, 32) values below 16 to (…, 16) bytes: the first half is low."""
    return q[..., :16] | q[..., 16:] << 4


def encode_iq4_nl(x):
    x = x.reshape(-1, 32)
    scale_bytes, scale = halves(signed_largest(x) / IQ4[0])
    return np.hstack([scale_bytes, nibbles(nearest_iq4(divided(x, scale)))])


def encode_iq4_xs(x):
    x = x.reshape(-1, 8, 32)
    wanted = signed_largest(x)[..., 0] / IQ4[0]
    scale_bytes, scale = halves(signed_largest(wanted) / -32)
    parts = np.clip(np.rint(divided(wanted, scale)), -32, 31)
    q = nearest_iq4(divided(x, (scale * parts)[..., None]))
    stored = (parts + 32).astype(np.uint8)
    low = (stored[:, 0::2] & 15) | (stored[:, 1::2] & 15) << 4
    high = (stored >> 4).reshape(-1, 2, 4)
    high = high[..., 0] | high[..., 1] << 2 | high[..., 2] << 4 | high[..., 3] << 6
    return np.hstack([scale_bytes, high, low, nibbles(q).reshape(-1, 128)])


def encode_q45_k(x, bits):
    x = x.reshape(-1, 8, 32)
    least = np.minimum(x.min(-1), 0)
    wanted = (x.max(-1) - least) / (2**bits - 1)
    scale_bytes, scale = halves(wanted.max(-1, keepdims=True) / 63)
    min_bytes, min_scale = halves(-least.min(-1, keepdims=True) / 63)
    scales = np.clip(np.rint(divided(wanted, scale)), 0, 63)
    mins = np.clip(np.rint(divided(-least, min_scale)), 0, 63)
    q = divided(x + (min_scale * mins)[..., None], (scale * scales)[..., None])
    q = np.clip(np.rint(q), 0, 2**bits - 1).astype(np.uint8)
    s, m = scales.astype(np.uint8), mins.astype(np.uint8)
    packed = [
        s[:, :4] | s[:, 4:] >> 4 << 6,
        m[:, :4] | m[:, 4:] >> 4 << 6,
        (s[:, 4:] & 15) | (m[:, 4:] & 15) << 4,
    ]
    low = ((q[:, 0::2] & 15) | (q[:, 1::2] & 15) << 4).reshape(-1, 128)
    fifth = []
    if bits == 5:
        fifth = [np.bitwise_or.reduce(q >> 4 << np.arange(8, dtype=np.uint8)[:, None], axis=1)]
    return np.hstack([scale_bytes, min_bytes, *packed, *fifth, low])


def encode_q6_k(x):
    x = x.reshape(-1, 16, 16)
    wanted = signed_largest(x)[..., 0] / -32
    scale_bytes, scale = halves(signed_largest(wanted) / -128)
    parts = np.clip(np.rint(divided(wanted, scale)), -128, 127)
    q = np.clip(np.rint(divided(x, (scale * parts)[..., None])), -32, 31) + 32
    q = q.astype(np.uint8).reshape(-1, 2, 4, 32)  # runs of 32 in halves of 128
    low = (q[:, :, :2] & 15) | (q[:, :, 2:] & 15) << 4
    high = q[:, :, 0] >> 4 | q[:, :, 1] >> 4 << 2 | q[:, :, 2] >> 4 << 4 | q[:, :, 3] >> 4 << 6
    scales = parts.astype(np.int8).view(np.uint8)
    return np.hstack([low.reshape(-1, 128), high.reshape(-1, 64), scales, scale_bytes])


ENCODERS = {
    "IQ4_NL": encode_iq4_nl,
    "IQ4_XS": encode_iq4_xs,
    "Q4_K": lambda x: encode_q45_k(x, 4),
    "Q5_K": lambda x: encode_q45_k(x, 5),
    "Q6_K": encode_q6_k,
}
TYPES = ["Q8_0", "Q4_0", "IQ4_NL", "MXFP4", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"]


def encoded(x, name):
    """Rows of x in a type, as bytes. Checked by the package's own decoder."""
    kind = gguf.GGMLQuantizationType[name]
    if name in BY_PACKAGE:
        return gguf.quants.quantize(x, kind)
    out = np.ascontiguousarray(ENCODERS[name](x)).reshape(*x.shape[:-1], -1)
    error = np.sqrt(np.mean((gguf.quants.dequantize(out, kind) - x) ** 2) / np.mean(x**2))
    if not error < 0.15:
        raise SystemExit(f"{name}: encoded with a relative error of {error:.3f}")
    return out


def read_safetensors(path):
    data = np.fromfile(path, np.uint8)
    start = 8 + int(data[:8].view(np.uint64)[0])
    tensors = {}
    for name, entry in json.loads(bytes(data[8:start])).items():
        if name == "__metadata__":
            continue
        assert entry["dtype"] == "BF16", name
        begin, end = entry["data_offsets"]
        bits = data[start + begin : start + end].view(np.uint16).astype(np.uint32) << 16
        tensors[name] = bits.view(np.float32).reshape(entry["shape"])
    return tensors


LAYER_NAMES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate": "ffn_gate_inp", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def gguf_tensors(model, config):
    """(GGUF name, f32 values), experts of a layer together."""
    tensors = read_safetensors(model / "model.safetensors")
    yield "token_embd.weight", tensors.pop("model.embed_tokens.weight")
    yield "output_norm.weight", tensors.pop("model.norm.weight")
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for theirs, ours in LAYER_NAMES.items():
            if f"{prefix}{theirs}.weight" in tensors:
                yield f"blk.{layer}.{ours}.weight", tensors.pop(f"{prefix}{theirs}.weight")
        for part in ("gate", "up", "down") if "num_experts" in config else ():
            names = [f"{prefix}mlp.experts.{e}.{part}_proj.weight" for e in range(config["num_experts"])]
            yield f"blk.{layer}.ffn_{part}_exps.weight", np.stack([tensors.pop(n) for n in names])
    if set(tensors) - {"lm_head.weight"}:  # tied, so the same as the embeddings
        raise SystemExit(f"not written: {sorted(tensors)}")


def write_metadata(writer, model, config):
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if "num_experts" in config:
        writer.add_expert_count(config["num_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    special = {t["content"]: t["id"] for t in tokenizer["added_tokens"]}
    ids = {**tokenizer["model"]["vocab"], **special}
    tokens = sorted(ids, key=ids.get)
    assert [ids[t] for t in tokens] == list(range(config["vocab_size"]))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if t in special else 1 for t in tokens])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)


def write_model(model, name, out):
    """Writes a model with its matrices in a type; the share of their weights that has it."""
    config = json.loads((model / "config.json").read_text())
    writer = gguf.GGUFWriter(out, config["model_type"].replace("_", ""))
    write_metadata(writer, model, config)
    block = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]][0]
    matrices = in_type = 0
    for tensor, values in gguf_tensors(model, config):
        if values.ndim == 1 or "ffn_gate_inp" in tensor:
            writer.add_tensor(tensor, values)
            continue
        stored = name if values.shape[-1] % block == 0 else "Q8_0"
        matrices += values.size
        in_type += values.size if stored == name else 0
        writer.add_tensor(tensor, encoded(values, stored), raw_dtype=gguf.GGMLQuantizationType[stored])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return in_type / matrices


def perplexity(args, model, *settings):
    command = [args.hostler, "perplexity", "--model", model, "--file", args.text, "--json", *settings]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: {result.stderr}")
    return json.loads(result.stdout)["perplexity"]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, default=ROOT.parent / "shared/models")
    parser.add_argument("--only", default="sample-moe,sample-dense", help="models")
    parser.add_argument("--types", default=",".join(TYPES))
    parser.add_argument("--kernels", default="amx,avx512vnni")
    parser.add_argument("--bytes", type=int, help="of the text, for a quick look")
    parser.add_argument("--hostler", default=str(ROOT / "build/release/hostler"))
    args = parser.parse_args()
    kernels = args.kernels.split(",")
    with tempfile.TemporaryDirectory() as scratch:
        args.text = args.models / "heldout.txt"
        if args.bytes:
            text = args.text.read_bytes()[: args.bytes].decode(errors="ignore")
            args.text = Path(scratch) / "text.txt"
            args.text.write_text(text)
        head = ["model", "type", "weights in it", "f32", *kernels, *(f"{k}, %" for k in kernels), "from bf16, %"]
        print("| " + " | ".join(head) + " |\n|" + "---|" * len(head), flush=True)
        for model in (args.models / name for name in args.only.split(",")):
            own = perplexity(args, model, "--precise")
            print(f"| {model.name} | bf16 | | {own:.4f} |" + " |" * (2 * len(kernels) + 1), flush=True)
            for name in args.types.split(","):
                file = Path(scratch) / f"{model.name}.{name}.gguf"
                share = write_model(model, name, file)
                exact = perplexity(args, file, "--precise")
                served = [perplexity(args, file, "--kernels", k) for k in kernels]
                off = [f"{(p / exact - 1) * 100:+.4f}" for p in served]
                from_own = " / ".join(f"{(p / own - 1) * 100:+.3f}" for p in served)
                row = [model.name, name, f"{share:.0%}", f"{exact:.4f}"]
                row += [*(f"{p:.4f}" for p in served), *off, from_own]
                print("| " + " | ".join(row) + " |", flush=True)
                file.unlink()


if __name__ == "__main__":
    main()
