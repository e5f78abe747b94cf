#!/usr/bin/env python3
"""Writes a random-weight MoE model as GGUF with nothing but the standard library, for bench/gpu.py on
machines that have no more. Shapes, sizes and the spread of weights are those of
shared/tools/make_moe_gguf.py, which needs numpy and gguf; there is no tokenizer, and the blocks of
all matrices are one run of random ones over and over, from another place for each row.

    gpu_model.py --preset mix7b out.gguf
"""

import argparse
import random
import struct

PRESETS = {
    # layers, experts, topk, dim, ffn, heads, kv heads, head dim, vocab, context
    "tiny": (2, 8, 2, 256, 256, 4, 4, 64, 512, 2048),
    "small": (8, 64, 8, 1024, 512, 16, 16, 64, 32000, 4096),
    "mix7b": (16, 64, 8, 2048, 1024, 16, 16, 128, 50304, 4096),
}
FIELDS = ("layers", "experts", "topk", "dim", "ffn", "heads", "kv_heads", "head_dim", "vocab", "context")
F32 = 0
# GGUF's number, bytes a block of 32, what a scale of 1 makes of the quants' spread
TYPES = {"Q4_0": (2, 18, 4.64), "Q8_0": (8, 34, 73.9)}
ALIGNMENT = 32
# Prime, and more than a row has blocks: no two rows begin at the same place.
RUN_BLOCKS = 65537


def tensors(o):
    """(name, shape with the row's length last, "ones", "gate" or the weights' standard deviation)"""
    q, kv = o.heads * o.head_dim, o.kv_heads * o.head_dim
    residual = (2 * o.layers) ** -0.5
    yield "token_embd.weight", (o.vocab, o.dim), 1.0
    for i in range(o.layers):
        b = f"blk.{i}."
        yield b + "attn_norm.weight", (o.dim,), "ones"
        yield b + "attn_q.weight", (q, o.dim), o.dim**-0.5
        yield b + "attn_k.weight", (kv, o.dim), o.dim**-0.5
        yield b + "attn_v.weight", (kv, o.dim), o.dim**-0.5
        yield b + "attn_output.weight", (o.dim, q), residual * q**-0.5
        yield b + "ffn_norm.weight", (o.dim,), "ones"
        yield b + "ffn_gate_inp.weight", (o.experts, o.dim), "gate"
        yield b + "ffn_gate_exps.weight", (o.experts, o.ffn, o.dim), o.dim**-0.5
        yield b + "ffn_up_exps.weight", (o.experts, o.ffn, o.dim), o.dim**-0.5
        yield b + "ffn_down_exps.weight", (o.experts, o.dim, o.ffn), 4 * residual * o.ffn**-0.5
    yield "output_norm.weight", (o.dim,), "ones"
    yield "output.weight", (o.vocab, o.dim), o.dim**-0.5


def metadata(o):
    text, u32, f32 = 8, 4, 6
    yield "general.architecture", text, "llama"
    yield "general.name", text, f"random {o.layers}x{o.experts} top-{o.topk} {o.type} seed {o.seed}"
    for key, value in (
        ("vocab_size", o.vocab), ("context_length", o.context), ("embedding_length", o.dim),
        ("block_count", o.layers), ("feed_forward_length", o.ffn), ("attention.head_count", o.heads),
        ("attention.head_count_kv", o.kv_heads), ("attention.key_length", o.head_dim),
        ("attention.value_length", o.head_dim), ("rope.dimension_count", o.head_dim),
        ("expert_count", o.experts), ("expert_used_count", o.topk),
    ):  # fmt: skip
        yield "llama." + key, u32, value
    yield "llama.rope.freq_base", f32, 1e4
    yield "llama.attention.layer_norm_rms_epsilon", f32, 1e-5


def string(text):
    return struct.pack("<Q", len(text.encode())) + text.encode()


def value(kind, it):
    return {8: string, 4: lambda v: struct.pack("<I", v), 6: lambda v: struct.pack("<f", v)}[kind](it)


def count(shape):
    product = 1
    for n in shape:
        product *= n
    return product


def tensor_bytes(shape, kind, block_bytes):
    return count(shape) * 4 if isinstance(kind, str) else count(shape) // 32 * block_bytes


def padding(at):
    return -at % ALIGNMENT


def header(o, block_bytes, type_number):
    listed = list(tensors(o))
    pairs = list(metadata(o))
    out = [b"GGUF", struct.pack("<IQQ", 3, len(listed), len(pairs))]
    out += [string(key) + struct.pack("<I", kind) + value(kind, it) for key, kind, it in pairs]
    offset = 0
    for name, shape, kind in listed:
        number = F32 if isinstance(kind, str) else type_number
        out.append(string(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape)))
        out.append(struct.pack("<IQ", number, offset))
        size = tensor_bytes(shape, kind, block_bytes)
        offset += size + padding(size)
    out = b"".join(out)
    return out + bytes(padding(len(out)))


def random_run(rng, deviation, quant_bytes, spread):
    """RUN_BLOCKS blocks: scales within 25% of what gives the deviation, of either sign, then quants."""
    scales = [
        struct.pack("<e", rng.choice((-1, 1)) * deviation / spread * (0.75 + 0.5 * rng.random()))
        for _ in range(256)
    ]
    return b"".join(rng.choice(scales) + rng.randbytes(quant_bytes) for _ in range(RUN_BLOCKS))


def write_blocks(out, run, block_bytes, blocks, first):
    """`blocks` blocks of the run, over and over from block `first`."""
    view = memoryview(run)
    while blocks > 0:
        n = min(blocks, RUN_BLOCKS - first)
        out.write(view[first * block_bytes : (first + n) * block_bytes])
        blocks -= n
        first = 0


def write_model(o):
    type_number, block_bytes, spread = TYPES[o.type]
    rng = random.Random(o.seed)
    runs = {}
    with open(o.out, "wb") as out:
        out.write(header(o, block_bytes, type_number))
        for _, shape, kind in tensors(o):
            start = out.tell()
            if kind == "ones":
                out.write(struct.pack("<f", 1) * count(shape))
            elif kind == "gate":
                gauss = [rng.gauss(0, shape[1] ** -0.5) for _ in range(count(shape))]
                out.write(struct.pack(f"<{len(gauss)}f", *gauss))
            else:
                if kind not in runs:
                    runs[kind] = random_run(rng, kind, block_bytes - 2, spread)
                write_blocks(out, runs[kind], block_bytes, count(shape) // 32, rng.randrange(RUN_BLOCKS))
            out.write(bytes(padding(out.tell() - start)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--preset", choices=PRESETS, default="mix7b")
    parser.add_argument("--type", choices=TYPES, default="Q4_0")
    parser.add_argument("--seed", type=int, default=1)
    for field in FIELDS:
        parser.add_argument("--" + field.replace("_", "-"), type=int)
    o = parser.parse_args()
    for field, preset in zip(FIELDS, PRESETS[o.preset]):
        if getattr(o, field) is None:
            setattr(o, field, preset)
    if o.topk > o.experts or o.heads % o.kv_heads or any(n % 32 for n in (o.dim, o.ffn, o.heads * o.head_dim)):
        parser.error("topk is more than experts, heads no multiple of kv heads, or a row no multiple of 32")
    write_model(o)


if __name__ == "__main__":
    main()
