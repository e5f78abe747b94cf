"""A sentence encoder of random weights, as a Hugging Face directory."""

import json
import random
import struct

WIDTH, HEADS, LAYERS, FFN, POSITIONS = 32, 2, 1, 64, 32
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "say", "hello", "to", "guest", "number",
         "compute", "the", "product", "of", "and", "ninety", "-", "one"]


def tensors(seed):
    numbers = random.Random(seed)

    def dense(name, out, width):
        yield name + ".weight", (out, width), [numbers.gauss(0, 0.3) for _ in range(out * width)]
        yield name + ".bias", (out,), [0.0] * out

    def norm(name):
        yield name + ".weight", (WIDTH,), [1.0] * WIDTH
        yield name + ".bias", (WIDTH,), [0.0] * WIDTH

    for table, rows in [("word", len(WORDS)), ("position", POSITIONS), ("token_type", 2)]:
        values = [numbers.gauss(0, 1) for _ in range(rows * WIDTH)]
        yield f"embeddings.{table}_embeddings.weight", (rows, WIDTH), values
    yield from norm("embeddings.LayerNorm")
    for i in range(LAYERS):
        layer = f"encoder.layer.{i}."
        for name in ["self.query", "self.key", "self.value", "output.dense"]:
            yield from dense(f"{layer}attention.{name}", WIDTH, WIDTH)
        yield from norm(layer + "attention.output.LayerNorm")
        yield from dense(layer + "intermediate.dense", FFN, WIDTH)
        yield from dense(layer + "output.dense", WIDTH, FFN)
        yield from norm(layer + "output.LayerNorm")


def tokenizer():
    special = [{"id": i, "content": WORDS[i], "special": True, "normalized": False}
               for i in range(4)]
    return {
        "added_tokens": special,
        "normalizer": {"type": "BertNormalizer", "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]"}}, {"Sequence": {"id": "A"}},
                       {"SpecialToken": {"id": "[SEP]"}}],
            "special_tokens": {"[CLS]": {"ids": [2]}, "[SEP]": {"ids": [3]}},
        },
        "decoder": {"type": "WordPiece", "prefix": "##"},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "vocab": {word: i for i, word in enumerate(WORDS)}},
    }


def write(folder, seed=1):
    """Writes it into `folder`, which is made."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({
        "model_type": "bert", "hidden_act": "gelu", "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": FFN,
        "vocab_size": len(WORDS), "max_position_embeddings": POSITIONS, "layer_norm_eps": 1e-12,
    }))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))
    header, data = {}, b""
    for name, shape, values in tensors(seed):
        values = struct.pack(f"<{len(values)}f", *values)
        header[name] = {"dtype": "F32", "shape": shape,
                        "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    head = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + data)
    return folder
