#!/usr/bin/env python3
"""Writes seed inputs for the fuzz targets: make_seeds.py OUT.

Small inputs are made here; more come from models/ and, where it is there, from
../shared.
"""

import json
import struct
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SHARED = ROOT.parent / "shared"


def gguf_string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def gguf_value(value):
    """Type number and bytes."""
    if isinstance(value, bool):
        return 7, struct.pack("<?", value)
    if isinstance(value, int):
        return 4, struct.pack("<I", value)
    if isinstance(value, float):
        return 6, struct.pack("<f", value)
    if isinstance(value, str):
        return 8, gguf_string(value)
    kinds = [gguf_value(item) for item in value]
    return 9, struct.pack("<IQ", kinds[0][0], len(kinds)) + b"".join(data for _, data in kinds)


def gguf(metadata, tensors):
    """`tensors`: (name, dimensions), all f32 and zero."""
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for key, value in metadata.items():
        kind, data = gguf_value(value)
        out += gguf_string(key) + struct.pack("<I", kind) + data
    offset = 0
    for name, dimensions in tensors:
        out += gguf_string(name) + struct.pack("<I", len(dimensions))
        out += struct.pack(f"<{len(dimensions)}Q", *dimensions) + struct.pack("<IQ", 0, offset)
        count = 1
        for d in dimensions:
            count *= d
        offset += (4 * count + 31) // 32 * 32
    return out + bytes(-len(out) % 32) + bytes(offset)


def gguf_seeds():
    sizes = {"block_count": 1, "context_length": 8, "embedding_length": 4, "feed_forward_length": 4,
             "attention.head_count": 1, "attention.head_count_kv": 1,
             "attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 10000.0}
    tokenizer = {"model": "llama", "tokens": ["<unk>", "<s>", "</s>", "<0x0A>", "\u2581a", "a"],
                 "scores": [0.0, 0.0, 0.0, 0.0, -1.0, -2.0], "token_type": [2, 3, 3, 6, 1, 1],
                 "bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0, "add_bos_token": True}
    for arch in ["llama", "qwen2", "qwen3moe", "qwen2moe", "gemma2", "gemma3"]:
        metadata = {"general.architecture": arch, "general.alignment": 32}
        metadata |= {f"{arch}.{key}": value for key, value in sizes.items()}
        if "moe" in arch:
            metadata |= {f"{arch}.expert_count": 2, f"{arch}.expert_used_count": 1}
        metadata |= {f"tokenizer.ggml.{key}": value for key, value in tokenizer.items()}
        metadata["tokenizer.chat_template"] = "{{ messages }}"
        yield gguf(metadata, [("token_embd.weight", (4, 6)), ("output_norm.weight", (4,))])


def safetensors_seeds():
    header = {"__metadata__": {"format": "pt"},
              "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
              "b": {"dtype": "BF16", "shape": [], "data_offsets": [16, 18]}}
    text = json.dumps(header).encode()
    yield struct.pack("<Q", len(text)) + text + bytes(18)
    yield json.dumps({"metadata": {"total_size": 18},
                      "weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}).encode()


def config_seeds():
    for path in sorted(SHARED.glob("golden/models/*/config.json")) + sorted(
            ROOT.glob("models/*/config.json")):
        yield json.dumps(json.loads(path.read_text()), separators=(",", ":")).encode()
    yield json.dumps({
        "model_type": "mixtral", "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8,
        "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1,
        "max_position_embeddings": 8, "num_local_experts": 2, "num_experts_per_tok": 1,
        "rope_scaling": {"rope_type": "yarn", "factor": 2.0,
                         "original_max_position_embeddings": 4}}).encode()


def tokenizer_parts():
    """(model, normalizer, pre-tokenizer, decoder, post-processor)."""
    letters = {text: i for i, text in enumerate(
        ["<unk>", "a", "b", "ab", "\u0120", "\u0120a", "H", "e", "l", "o", "<0x0A>", "\u2581"])}
    bpe = {"type": "BPE", "vocab": letters, "merges": [["a", "b"], ["\u0120", "a"]],
           "unk_token": "<unk>", "fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    split = {"type": "Split", "pattern": {"Regex": "\\p{L}+| ?\\d+|\\s+(?!\\S)|\\s+"},
             "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                  "use_regex": True}
    template = {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<unk>", "type_id": 0}},
                           {"Sequence": {"id": "A", "type_id": 0}}], "pair": [],
                "special_tokens": {"<unk>": {"id": "<unk>", "ids": [0], "tokens": ["<unk>"]}}}
    yield bpe, {"type": "NFC"}, byte_level, {"type": "ByteLevel"}, template
    yield bpe, None, {"type": "Sequence", "pretokenizers": [
        split, {"type": "Digits", "individual_digits": True}, byte_level]}, {"type": "ByteLevel"}, None
    yield (bpe | {"byte_fallback": True, "fuse_unk": True},
           {"type": "Sequence", "normalizers": [
               {"type": "Prepend", "prepend": "\u2581"},
               {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]}, None,
           {"type": "Sequence", "decoders": [
               {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
               {"type": "ByteFallback"}, {"type": "Fuse"},
               {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}, None)
    bert = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
            "strip_accents": None, "lowercase": True}
    wordpiece = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                 "max_input_chars_per_word": 100,
                 "vocab": {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3, "##a": 4, "hello": 5}}
    yield (wordpiece, bert, {"type": "BertPreTokenizer"},
           {"type": "WordPiece", "prefix": "##", "cleanup": True},
           {"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]})
    unigram = {"type": "Unigram", "unk_id": 0, "byte_fallback": False,
               "vocab": [["<unk>", 0.0], ["\u2581", -2.0], ["a", -3.0], ["\u2581a", -2.5]]}
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always",
                 "split": True}
    yield unigram, {"type": "Sequence", "normalizers": [
        {"type": "Nmt"}, {"type": "NFKC"}, {"type": "StripAccents"}, {"type": "Lowercase"},
        {"type": "Strip", "strip_left": False, "strip_right": True},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "\u2581"}]}, {
            "type": "Sequence", "pretokenizers": [
                {"type": "WhitespaceSplit"}, {"type": "Punctuation", "behavior": "Isolated"},
                metaspace]}, metaspace, None
    # "a" becomes "b": a trie of one letter.
    units = [0] * 256 + [0x80000000]
    units[0] = 0 << 10
    charsmap = struct.pack("<I", 4 * len(units)) + struct.pack(f"<{len(units)}I", *units) + b"b\0"
    import base64
    yield unigram, {"type": "Precompiled",
                    "precompiled_charsmap": base64.b64encode(charsmap).decode()}, metaspace, metaspace, None


def tokenizer_seeds():
    added = [{"id": 40, "content": "<|end|>", "special": True, "normalized": False},
             {"id": 41, "content": "Yes", "lstrip": True, "rstrip": True, "single_word": True,
              "normalized": True}]
    for model, normalizer, pre, decoder, post in tokenizer_parts():
        file = {"version": "1.0", "added_tokens": added, "normalizer": normalizer,
                "pre_tokenizer": pre, "post_processor": post, "decoder": decoder, "model": model}
        yield json.dumps(file, ensure_ascii=False).encode() + b"\n---\nHello ab Yes 12\n"


def vocabulary_seeds():
    # The lines stand at the front, the choices are taken from the end.
    lines = b"20<unk>\n30<s>\n60<0x0A>\n1\xff\xe2\x96\x81a\n1\xfea\n1\xfdb\n1\xfcab\n+a b\n"
    for model in range(4):
        for choice in (0, 0x55):
            yield lines + bytes([choice] * 12) + bytes([choice, model])


def template_seeds():
    folder = SHARED / "golden/chat-templates/templates"
    for path in sorted(folder.glob("*")) if folder.is_dir() else []:
        if path.is_file() and path.stat().st_size < 8192:
            yield path.read_bytes()
    for name in ("expressions", "statements"):
        yield from strings(json.loads((ROOT / f"engine/text/jinja/testdata/{name}.json").read_text()))


def strings(value):
    if isinstance(value, str) and 3 < len(value):
        yield (value if "{" in value else "{{ " + value + " }}").encode()
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


def request_seeds():
    messages = [{"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
                {"role": "assistant", "content": None, "tool_calls": [
                    {"id": "c", "type": "function",
                     "function": {"name": "f", "arguments": "{\"a\": 1}"}}]},
                {"role": "tool", "tool_call_id": "c", "content": "3"}]
    sampling = {"model": "m", "max_tokens": 5, "temperature": 0.5, "top_p": 0.9, "n": 2,
                "stop": ["a", "b"], "seed": 1, "stream": True,
                "stream_options": {"include_usage": True}, "logit_bias": {"5": -1.5}}
    chat = sampling | {"messages": messages, "logprobs": True, "top_logprobs": 2, "tools": [
        {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "chat_template_kwargs": {"enable_thinking": False}}
    yield b"\0" + json.dumps(chat).encode()
    yield b"\1" + json.dumps(sampling | {"prompt": ["a", "b"], "logprobs": 2, "echo": True}).encode()
    yield b"\1" + json.dumps({"model": "m", "prompt": [[1, 2], [3]]}).encode()
    yield b"\2" + json.dumps({"model": "m", "prompt": "a", "add_special_tokens": False}).encode()
    yield b"\2" + json.dumps({"model": "m", "messages": messages}).encode()
    yield b"\3" + json.dumps({"model": "m", "tokens": [1, 2, 3]}).encode()


def http_head_seeds():
    yield (b"POST /v1/%63hat/completions?x=%zz HTTP/1.1\r\nHost: a:1\r\nOrigin: http://a:1\r\n"
           b"Content-Type: text/plain\r\nExpect: 100-continue\r\nX-Request-Id: r-1.2_3:4\r\n"
           b"Content-Length: 2\r\n\r\n{}")
    yield b"GET / HTTP/1.0\r\n\r\n"


def upstream_seeds():
    choice = {"index": 0, "delta": {"role": "assistant", "content": "Hi", "tool_calls": [
        {"index": 0, "function": {"name": "f", "arguments": "{}"}}]}, "finish_reason": None}
    usage = {"prompt_tokens": 3, "completion_tokens": 2,
             "prompt_tokens_details": {"cached_tokens": 1}}
    chunks = [{"id": "x", "choices": [choice]},
              {"choices": [choice | {"delta": {}, "finish_reason": "stop", "stop_reason": "a"}]},
              {"choices": [], "usage": usage}, {"error": {"code": 429, "message": "slow"}}]
    stream = b": hi\n\n" + b"".join(
        b"event: x\r\ndata: " + json.dumps(chunk).encode() + b"\r\n\r\n" for chunk in chunks)
    for kind in (0, 4, 20):
        yield bytes([kind]) + stream + b"data: [DONE]\n\n"
    yield b"\1" + b' {"mod\\u0065l":"x", "model" : [1,{"a":"}"}] ,"b":1.50}'
    yield b"\1{}"
    whole = {"choices": [{"index": 0, "message": {"content": "Hi"}, "text": "Hi",
                          "finish_reason": "length"}], "usage": usage}
    yield b"\2" + json.dumps(whole).encode()
    yield b"\6" + json.dumps(whole).encode()
    yield b"\3https://[::1]:8000/v1"
    yield b"\3Wed, 21 Oct 2015 07:28:00 GMT"
    yield b"\3" + json.dumps({"error": {"message": "why"}}).encode()


def main():
    makers = {"gguf": gguf_seeds, "safetensors": safetensors_seeds, "config": config_seeds,
              "tokenizer": tokenizer_seeds, "vocabulary": vocabulary_seeds,
              "template": template_seeds, "request": request_seeds, "http_head": http_head_seeds,
              "upstream": upstream_seeds}
    for name, maker in makers.items():
        folder = Path(sys.argv[1]) / name
        folder.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(maker()):
            (folder / f"seed-{number:04}").write_bytes(seed)


if __name__ == "__main__":
    main()
