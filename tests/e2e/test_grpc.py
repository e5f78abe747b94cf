"""A Python gRPC client."""

import grpc
import pytest

from support import TIME_SCALE, grpc_api, grpc_generate, wait_for_rest

STORY = "Once upon a time there was a little girl who"
GREEDY = {"model": "moe", "sampling": {"temperature": 0}, "max_tokens": 16}


@pytest.fixture
def pb():
    return grpc_api()[0]


def test_text_tokens_and_chat_are_prompts(server, stub):
    started, [answer], done = grpc_generate(stub, text=STORY, **GREEDY)
    assert started.id and started.model == started.target == "moe"
    assert started.route_reason == "explicit"
    assert len(answer.token_ids) == done.usage.completion_tokens == 16
    assert done.usage.prompt_tokens == started.prompt_tokens
    assert 0 < done.timings.first_token_ms <= done.timings.total_ms

    ids = server.post("/tokenize", {"model": "moe", "prompt": STORY}).json["tokens"]
    assert grpc_generate(stub, token_ids={"ids": ids}, **GREEDY)[1] == [answer]
    http = server.post(
        "/v1/completions", {"model": "moe", "prompt": STORY, "max_tokens": 16, "temperature": 0}
    )
    assert http.json["choices"][0]["text"] == answer.text

    messages = [{"role": "user", "content": "Who are you?"}]
    _, [chat], _ = grpc_generate(stub, chat={"messages": messages}, **GREEDY)
    http = server.post(
        "/v1/chat/completions",
        {"model": "moe", "messages": messages, "max_tokens": 16, "temperature": 0},
    )
    assert http.json["choices"][0]["message"]["content"] == chat.text


def test_three_sequences_with_logprobs(stub, pb):
    request = pb.GenerateRequest(
        model="moe",
        text=STORY,
        n=3,
        max_tokens=8,
        logprobs=2,
        prompt_logprobs=1,
        sampling={"temperature": 1, "seed": 3},
    )
    responses = list(stub.Generate(request))
    started = responses[0].started
    assert len(started.prompt_logprobs) == started.prompt_tokens - 1
    deltas = [r.delta for r in responses if r.HasField("delta")]
    assert {delta.index for delta in deltas} == {0, 1, 2}
    for delta in deltas:
        assert [p.chosen.id for p in delta.logprobs] == list(delta.token_ids)
        assert all(len(p.top) == 2 for p in delta.logprobs)
    again = grpc_generate(
        stub, model="moe", text=STORY, n=3, max_tokens=8, sampling={"temperature": 1, "seed": 3}
    )[1]
    for index, one in enumerate(again):
        assert one.text == "".join(delta.text for delta in deltas if delta.index == index)


def test_stop_strings_and_tokens(stub, pb):
    [whole] = grpc_generate(stub, text=STORY, **GREEDY)[1]
    stop = whole.text[10:14]
    [stopped] = grpc_generate(stub, text=STORY, stop=[stop], **GREEDY)[1]
    assert stopped.text == whole.text[: whole.text.index(stop)]
    assert stopped.finish_reason == pb.FINISH_REASON_STOP and stopped.stop_reason == stop
    [at_token] = grpc_generate(stub, text=STORY, stop_token_ids=[whole.token_ids[5]], **GREEDY)[1]
    assert at_token.finish_reason == pb.FINISH_REASON_STOP
    assert len(at_token.token_ids) <= whole.token_ids.index(whole.token_ids[5]) + 1


def test_cancelling_frees_the_sequence(server, stub, pb):
    call = stub.Generate(
        pb.GenerateRequest(model="moe", text=STORY, max_tokens=1900, ignore_eos=True)
    )
    for response in call:
        if response.HasField("delta"):
            break
    assert server.metric("num_requests_running") == 1
    call.cancel()
    wait_for_rest(server)


def test_a_deadline_ends_the_call(server, stub, pb):
    request = pb.GenerateRequest(model="moe", text=STORY, max_tokens=1900, ignore_eos=True, n=8)
    with pytest.raises(grpc.RpcError) as raised:
        list(stub.Generate(request, timeout=0.2))
    assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    wait_for_rest(server)


def test_tokenize_and_list_models(server, stub, pb):
    answer = stub.Tokenize(pb.TokenizeRequest(model="moe", text=STORY))
    http = server.post("/tokenize", {"model": "moe", "prompt": STORY}).json
    assert list(answer.token_ids) == http["tokens"] and answer.max_context == 2048
    models = stub.ListModels(pb.ListModelsRequest()).models
    assert [(m.id, m.is_virtual) for m in models] == [
        ("moe", False),
        ("dense", False),
        ("auto", True),
    ]
    assert models[0].architecture == "qwen3_moe" and models[0].max_context == 2048


def test_health_and_reflection(server):
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
        ProtoReflectionDescriptorDatabase,
    )

    with grpc.insecure_channel(server.grpc_address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ["", "hostler.v1.Hostler"]:
            status = health.Check(health_pb2.HealthCheckRequest(service=service)).status
            assert status == health_pb2.HealthCheckResponse.SERVING
        reflection = ProtoReflectionDescriptorDatabase(channel)
        assert "hostler.v1.Hostler" in reflection.get_services()
        found = reflection.FindFileContainingSymbol("hostler.v1.Hostler")
        assert [method.name for method in found.service[0].method] == [
            "Generate",
            "Tokenize",
            "ListModels",
        ]


@pytest.mark.parametrize(
    "fields, code, start",
    [
        ({"text": "a", "sampling": {"temperature": -1}}, "INVALID_ARGUMENT", "temperature"),
        ({"text": "a", "max_tokens": -1}, "INVALID_ARGUMENT", "max_tokens"),
        ({"text": "a", "n": 1000}, "INVALID_ARGUMENT", "n:"),
        ({"text": "a", "stop": [""]}, "INVALID_ARGUMENT", "stop"),
        ({"text": "a", "logprobs": 1000}, "INVALID_ARGUMENT", "logprobs"),
        ({"token_ids": {"ids": [5000]}}, "INVALID_ARGUMENT", "prompt"),
        ({"token_ids": {"ids": [5] * 3000}}, "INVALID_ARGUMENT", "prompt"),
        ({"token_ids": {}}, "INVALID_ARGUMENT", "prompt"),
        ({"chat": {}}, "INVALID_ARGUMENT", "chat"),
        (
            {"chat": {"messages": [{"role": "user"}], "tools_json": "{"}},
            "INVALID_ARGUMENT",
            "chat.tools_json",
        ),
        ({}, "INVALID_ARGUMENT", "prompt"),
        ({"text": "a", "model": "absent"}, "NOT_FOUND", ""),
    ],
)
def test_errors_name_the_field(stub, pb, fields, code, start):
    with pytest.raises(grpc.RpcError) as raised:
        list(stub.Generate(pb.GenerateRequest(**fields), timeout=30 * TIME_SCALE))
    assert raised.value.code() == grpc.StatusCode[code]
    assert raised.value.details().startswith(start)
