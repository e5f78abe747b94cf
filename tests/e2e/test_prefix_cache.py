"""The prefix cache over HTTP and gRPC: what was found, and who finds it."""

import pytest

from support import MOE, grpc_generate, grpc_stub, serving

SYSTEM = "You answer briefly and kindly. " * 12


@pytest.fixture(scope="module")
def fresh():
    with serving("--model", f"moe={MOE}", "--threads", 2) as running:
        yield running


def chat(server, words, **fields):
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": words}]
    answer = server.post(
        "/v1/chat/completions",
        {"model": "moe", "messages": messages, "max_tokens": 12, "temperature": 0, **fields},
    )
    assert answer.status == 200
    usage = answer.json["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return answer.json["choices"][0]["message"]["content"], usage["prompt_tokens"], cached


def test_a_shared_system_prompt_is_computed_once(fresh):
    before = fresh.metric("prefix_cache_hits_total")
    _, _, cached = chat(fresh, "What is 7 plus 5?", cache_salt="once")
    assert cached == 0
    text, tokens, cached = chat(fresh, "Who are you?", cache_salt="once")
    assert tokens - 64 < cached < tokens
    assert fresh.metric("prefix_cache_hits_total") - before == cached
    assert fresh.metric("kv_blocks_cached") >= cached / 16
    with serving("--model", f"moe={MOE}", "--threads", 2, "--prefix-cache", "off") as plain:
        for _ in range(2):
            assert chat(plain, "Who are you?") == (text, tokens, 0)
        assert plain.metric("prefix_cache_queries_total") == 0


def test_tenants_do_not_share(fresh):
    chat(fresh, "Who are you?", cache_salt="a")
    assert chat(fresh, "Who are you?", cache_salt="b")[2] == 0
    assert chat(fresh, "Who are you?", cache_salt="a")[2] > 0


def test_grpc_finds_what_http_computed(fresh):
    prompt = list(range(100, 164))
    fields = {"model": "moe", "max_tokens": 4, "temperature": 0, "cache_salt": "t"}
    fresh.post("/v1/completions", {"prompt": prompt, **fields})
    with grpc_stub(fresh) as stub:
        common = {"token_ids": {"ids": prompt}, "max_tokens": 4, "sampling": {"temperature": 0}}
        done = grpc_generate(stub, cache_salt="t", **common)[2]
        assert done.usage.cached_prompt_tokens == 48
        assert grpc_generate(stub, cache_salt="u", **common)[2].usage.cached_prompt_tokens == 0


def test_a_salt_is_a_short_string(fresh):
    for salt in [5, "x" * 257]:
        body = {"model": "moe", "prompt": [5], "max_tokens": 1, "cache_salt": salt}
        answer = fresh.post("/v1/completions", body)
        assert answer.status == 400 and answer.json["error"]["param"] == "cache_salt"
