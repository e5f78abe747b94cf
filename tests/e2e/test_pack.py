"""A packed store: the same answers, checked bytes, and nothing that looks whole when it is not."""

import pytest

from support import MOE, hostler, hostler_json, serving

ASK = ["--max-tokens", 24, "--ignore-eos", "--prompt", "Once upon a time there was"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    directory = tmp_path_factory.mktemp("pack") / "sample-moe"
    done = hostler("pack", MOE, "-o", directory)
    assert "256 experts of 8 layers, from safetensors" in done.stdout
    return directory


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_serves_the_same_tokens(store):
    assert hostler_json("inspect", store)["format"] == "packed"
    expected, answer = (hostler_json("run", "--model", m, *ASK) for m in [MOE, store])
    assert answer["token_ids"] == expected["token_ids"]
    request = {"prompt": "Once upon a time", "max_tokens": 16, "temperature": 0}
    texts = []
    for model in [MOE, store]:
        with serving("--model", model, "--expert-memory", "2MiB") as server:
            texts.append(server.post("/v1/completions", request).json["choices"][0]["text"])
    assert texts[0] == texts[1]


def test_q8_is_what_quantize_q8_serves(tmp_path):
    hostler("pack", MOE, "-o", tmp_path / "q8", "--type", "q8")
    expected = hostler_json("run --quantize q8", "--model", MOE, *ASK)
    assert hostler_json("run", "--model", tmp_path / "q8", *ASK)["token_ids"] == (
        expected["token_ids"]
    )


def test_verify_finds_a_turned_bit(tmp_path):
    directory = tmp_path / "store"
    hostler("pack", MOE, "-o", directory)
    assert "the checksums of 74 tensors and 256 experts" in hostler("verify", directory).stdout
    flip(directory / "experts.bin", 196608 * 5 + 1000)
    flip(directory / "dense.bin", 4000)
    done = hostler("verify", directory, check=False)
    assert done.returncode == 1 and not done.stdout
    assert 'experts.bin: layer "model.layers.0.mlp.", expert 5 (196608 bytes at 983040)' in done.stderr
    assert 'dense.bin: tensor "model.embed_tokens.weight"' in done.stderr
    assert "2 of 330 tensors and experts are damaged" in done.stderr


def test_a_damaged_expert_fails_its_requests_alone(tmp_path):
    directory = tmp_path / "store"
    hostler("pack", MOE, "-o", directory)
    flip(directory / "experts.bin", 196608 * 5 + 1000)
    with serving("--model", directory) as server:
        replies = [
            server.post("/v1/completions", {"prompt": [token], "max_tokens": 1})
            for token in range(3, 303)
        ]
        assert {reply.status for reply in replies} == {200, 500}
        message = next(r for r in replies if r.status == 500).error["message"]
        assert "expert 5" in message and "experts.bin" in message
        assert server.metric("expert_cache_read_errors_total") >= 1


def test_tells_what_it_does_not_do(store, tmp_path):
    for command, says in [
        (["pack", MOE, "-o", store], "exists"),
        (["pack", MOE, "-o", tmp_path / "a/b"], "there is no directory"),
        (["pack", "/absent", "-o", tmp_path / "c"], "no such file"),
        (["verify", MOE], "no packed store"),
    ]:
        done = hostler(*command, check=False)
        assert done.returncode == 1 and says in done.stderr, done.stderr
    assert hostler("pack", MOE, "-o", tmp_path / "d", "--type", "q9", check=False).returncode == 2
    assert not list(tmp_path.iterdir())
