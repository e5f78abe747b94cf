"""Model files that are damaged, lie, or change under a running daemon."""

import json
import os
import shutil
import struct

import pytest

from support import DENSE, MOE, grpc_stub, grpc_generate, hostler, serving, wait_for_rest


def edit_header(model, edit):
    """Replaces a safetensors header by what edit() makes of it."""
    path = model / "model.safetensors"
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    header = edit(header) or header
    if not isinstance(header, bytes):
        header = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + size :])


def edit_tensor(**changes):
    def edit(header):
        header["model.norm.weight"].update(changes)

    return lambda model: edit_header(model, edit)


def overlap(header):
    header["model.norm.weight"]["data_offsets"] = header["model.layers.0.input_layernorm.weight"][
        "data_offsets"
    ]


def edit_prefix(size):
    def damage(model):
        path = model / "model.safetensors"
        path.write_bytes(struct.pack("<Q", size) + path.read_bytes()[8:])

    return damage


def truncate(size):
    return lambda model: os.truncate(model / "model.safetensors", size)


def edit_config(**changes):
    def damage(model):
        path = model / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return damage


WEIGHTS = {
    "empty": truncate(0),
    "seven bytes": truncate(7),
    "ends in the header": truncate(1000),
    "ends in the data": truncate(2_000_000),
    "one byte short": truncate((DENSE / "model.safetensors").stat().st_size - 1),
    "absent": lambda model: (model / "model.safetensors").unlink(),
    "a folder": lambda model: (
        (model / "model.safetensors").unlink(),
        (model / "model.safetensors").mkdir(),
    ),
    "header of no bytes": edit_prefix(0),
    "header longer than the file": edit_prefix(10_000_000),
    "header of 2^63 bytes": edit_prefix(2**63),
    "header of 2^64 - 1 bytes": edit_prefix(2**64 - 1),
    "not JSON": lambda model: edit_header(model, lambda _: b"{broken"),
    "a list": lambda model: edit_header(model, lambda _: b"[]"),
    "deep": lambda model: edit_header(model, lambda _: b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "no tensors": lambda model: edit_header(model, lambda _: b"{}"),
    "a tensor missing": lambda model: edit_header(
        model, lambda h: h.pop("model.norm.weight") and None
    ),
    "offsets past the end": edit_tensor(data_offsets=[10**9, 10**9 + 384]),
    "offsets of 2^64": edit_tensor(data_offsets=[2**64 - 384, 2**64]),
    "offsets that wrap": edit_tensor(data_offsets=[2**64 - 192, 192]),
    "negative offsets": edit_tensor(data_offsets=[-384, 0]),
    "offsets the wrong way round": edit_tensor(data_offsets=[384, 0]),
    "one offset": edit_tensor(data_offsets=[0]),
    "offsets of text": edit_tensor(data_offsets=["0", "384"]),
    "overlapping": lambda model: edit_header(model, overlap),
    "bytes unlike the shape": edit_tensor(data_offsets=[0, 380]),
    "shape that overflows": edit_tensor(shape=[2**62, 8]),
    "negative shape": edit_tensor(shape=[-192]),
    "shape unlike the configuration": edit_tensor(shape=[96, 2]),
    "type unknown": edit_tensor(dtype="Q7"),
    "type of another size": edit_tensor(dtype="F32"),
    "no type": lambda model: edit_header(
        model, lambda h: h["model.norm.weight"].pop("dtype") and None
    ),
}


SERVE = "serve --port 0 --grpc-port 0"
LOGITS = "logits --tokens 5,6 --out /dev/null"


def check_refused(model, told, *commands):
    for command in commands:
        done = hostler(command, "--model", model, check=False, timeout=20)
        assert done.returncode == 1, (command, done.stderr)
        assert told in done.stderr, done.stderr
        assert len(done.stderr) < 2000


@pytest.mark.parametrize("damage", WEIGHTS)
def test_damaged_weights_are_refused(dense_copy, damage):
    WEIGHTS[damage](dense_copy)
    # What is amiss between files is told of the folder.
    of_one_file = damage not in [
        "absent",
        "no tensors",
        "a tensor missing",
        "shape unlike the configuration",
    ]
    check_refused(
        dense_copy, "model.safetensors" if of_one_file else str(dense_copy), LOGITS, SERVE
    )


@pytest.mark.parametrize("damage", ["ends in the data", "not JSON", "overlapping", "absent"])
def test_check_finds_damaged_weights(dense_copy, damage):
    WEIGHTS[damage](dense_copy)
    check_refused(dense_copy, str(dense_copy), "serve --check")


CONFIGS = {
    "not JSON": lambda model: (model / "config.json").write_text("{"),
    "absent": lambda model: (model / "config.json").unlink(),
    "another width": edit_config(hidden_size=256),
    "no layers": edit_config(num_hidden_layers=0),
    "a million layers": edit_config(num_hidden_layers=10**6),
    "negative heads": edit_config(num_attention_heads=-6),
    "heads that KV heads do not divide": edit_config(num_key_value_heads=4),
    "text for a number": edit_config(hidden_size="wide"),
    "vocabulary of 2^31": edit_config(vocab_size=2**31),
    "another architecture": edit_config(model_type="mamba", architectures=["MambaForCausalLM"]),
    "odd activation": edit_config(hidden_act="dance"),
}


@pytest.mark.parametrize("damage", CONFIGS)
def test_a_configuration_that_does_not_fit_is_refused(dense_copy, damage):
    CONFIGS[damage](dense_copy)
    check_refused(dense_copy, str(dense_copy), LOGITS, SERVE)


def edit_tokenizer(edit):
    def damage(model):
        path = model / "tokenizer.json"
        tokenizer = json.loads(path.read_text())
        edit(tokenizer)
        path.write_text(json.dumps(tokenizer))

    return damage


TOKENIZERS = {
    "not JSON": lambda model: (model / "tokenizer.json").write_text('{"model": '),
    "empty": lambda model: (model / "tokenizer.json").write_text(""),
    "no model": edit_tokenizer(lambda t: t.pop("model")),
    "ids beyond the weights": edit_tokenizer(lambda t: t["model"]["vocab"].update({"zzzz": 4096})),
    "huge ids": edit_tokenizer(lambda t: t["model"]["vocab"].update({"zzzz": 2**40})),
    "negative ids": edit_tokenizer(lambda t: t["model"]["vocab"].update({"zzzz": -1})),
    "an added token beyond the weights": edit_tokenizer(
        lambda t: t["added_tokens"].append({**t["added_tokens"][0], "id": 5000, "content": "<|x|>"})
    ),
    "merges of unknown parts": edit_tokenizer(
        lambda t: t["model"]["merges"].append(["qqqqq", "zzzzz"])
    ),
    "another kind": edit_tokenizer(lambda t: t["model"].update(type="Dance")),
}


@pytest.mark.parametrize("damage", TOKENIZERS)
def test_a_tokenizer_that_does_not_match_is_refused(dense_copy, damage):
    TOKENIZERS[damage](dense_copy)
    check_refused(dense_copy, "tokenizer.json", "run --prompt Once", SERVE)


@pytest.mark.parametrize("source", [MOE, DENSE], ids=["moe", "dense"])
def test_a_file_truncated_under_a_running_daemon_fails_its_requests_only(tmp_path, source):
    victim = shutil.copytree(source, tmp_path / "victim")
    # All experts but a tenth stay on disk.
    with serving(
        "--model",
        f"victim={victim}",
        "--model",
        f"sound={DENSE}",
        "--threads",
        2,
        "--expert-memory",
        "5MiB",
    ) as server:
        ask = {"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}
        assert server.post("/v1/completions", {"model": "victim", **ask}).status == 200
        weights = victim / "model.safetensors"
        os.truncate(weights, weights.stat().st_size // 2)
        for _ in range(3):
            reply = server.post("/v1/completions", {"model": "victim", **ask})
            assert reply.status in [500, 503], reply.body
            assert "model.safetensors" in reply.error["message"]
        import grpc

        with grpc_stub(server) as stub, pytest.raises(grpc.RpcError) as raised:
            grpc_generate(stub, model="victim", text="Once upon a time", max_tokens=8)
        assert "model.safetensors" in raised.value.details()
        assert server.get("/health").status == 200 and server.alive()
        assert server.post("/v1/completions", {"model": "sound", **ask}).status == 200
        wait_for_rest(server)
