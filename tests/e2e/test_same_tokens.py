"""Speed settings and company never change an answer."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from support import MOE, grpc_generate, grpc_stub, hostler_json, serving


def make_requests():
    """16 of mixed lengths."""
    random_ids = random.Random(16)
    lengths = [(1, 40), (2, 8), (300, 24), (17, 48), (5, 1), (130, 30), (64, 32), (9, 20)] * 2
    return [
        {"prompt": [random_ids.randrange(3, 4096) for _ in range(prompt)], "max_tokens": out}
        for prompt, out in lengths
    ]


REQUESTS = make_requests()


def over_http(server, request):
    reply = server.post("/v1/completions", {**request, "temperature": 0, "ignore_eos": True})
    assert reply.status == 200, reply.body
    return reply.json["choices"][0]["text"]


def over_http_streamed(server, request):
    events = server.stream("/v1/completions", {**request, "temperature": 0, "ignore_eos": True})
    return "".join(event["choices"][0]["text"] for event in events)


def over_grpc(server, request):
    pb_fields = {"token_ids": {"ids": request["prompt"]}, "max_tokens": request["max_tokens"]}
    with grpc_stub(server) as stub:
        _, [answer], _ = grpc_generate(
            stub, **pb_fields, sampling={"temperature": 0}, ignore_eos=True
        )
    assert len(answer.token_ids) == request["max_tokens"]
    return answer.text


WAYS = [over_http, over_http_streamed, over_grpc]


@pytest.fixture(scope="module")
def expert_bytes():
    info = hostler_json("inspect", MOE)
    return info["bytes_per_expert"] * info["experts"] * info["moe_layers"]


@pytest.fixture(scope="module")
def expected():
    """Each answer computed alone, all experts resident, in one thread."""
    with serving("--model", MOE, "--threads", 1) as server:
        return [over_http(server, request) for request in REQUESTS]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("percent", [100, 50, 25, 10])
def test_every_expert_budget_gives_the_same_tokens(percent, threads, expert_bytes, expected):
    with serving(
        "--model", MOE, "--threads", threads, "--expert-memory", expert_bytes * percent // 100
    ) as server:
        for way in WAYS:
            assert way(server, REQUESTS[3]) == expected[3]
        with ThreadPoolExecutor(len(REQUESTS)) as pool:
            ways = [WAYS[i % len(WAYS)] for i in range(len(REQUESTS))]
            together = list(pool.map(lambda way, request: way(server, request), ways, REQUESTS))
        assert together == expected
        evictions = server.metric("expert_cache_evictions_total")
        assert (evictions > 0) == (percent < 100)
        capacity = server.metric("expert_cache_capacity_bytes")
        assert 0 < capacity <= expert_bytes * percent // 100


@pytest.mark.parametrize(
    "flags", [("--step-tokens", 16), ("--max-sequences", 3), ("--kv-memory", "10MiB")]
)
def test_scheduling_gives_the_same_tokens(flags, expected):
    with serving("--model", MOE, "--threads", 2, *flags) as server:
        with ThreadPoolExecutor(len(REQUESTS)) as pool:
            together = list(pool.map(lambda request: over_http_streamed(server, request), REQUESTS))
        assert together == expected


def test_the_command_line_gives_the_same_tokens(expected):
    for i in [0, 2, 3]:
        ids, count = ",".join(map(str, REQUESTS[i]["prompt"])), REQUESTS[i]["max_tokens"]
        flags = f"--ignore-eos --tokens {ids} --max-tokens {count}"
        answer = hostler_json(f"run {flags}", "--model", MOE)
        assert answer["text"] == expected[i]
