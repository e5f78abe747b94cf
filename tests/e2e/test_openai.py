"""The official openai package as the client."""

import math

import openai
import pytest

STORY = "Once upon a time there was a little girl who"
CHAT = [{"role": "user", "content": "Tell me a story about a fox."}]


def complete(client, prompt=STORY, **fields):
    fields = {"model": "moe", "max_tokens": 16, "temperature": 0, **fields}
    return client.completions.create(prompt=prompt, **fields)


def chat(client, **fields):
    fields = {"model": "moe", "messages": CHAT, "max_tokens": 16, "temperature": 0, **fields}
    return client.chat.completions.create(**fields)


def test_models_are_listed(client):
    assert [model.id for model in client.models.list()] == ["moe", "dense", "auto"]
    assert client.models.retrieve("dense").id == "dense"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("absent")


def test_completion(client):
    answer = complete(client)
    assert answer.object == "text_completion" and answer.model == "moe"
    assert answer.choices[0].text and answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 16
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 16


def test_chat(client):
    answer = chat(client, max_tokens=200)
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert chat(client, max_tokens=None, max_completion_tokens=5).usage.completion_tokens == 5


def test_chat_ends_with_the_turn(client):
    answer = chat(
        client, messages=[{"role": "user", "content": "What is 7 plus 5?"}], max_tokens=None
    )
    assert answer.choices[0].finish_reason == "stop"
    assert "<|im_end|>" not in answer.choices[0].message.content
    parts = chat(
        client,
        messages=[{"role": "user", "content": [{"type": "text", "text": "What is 7 plus 5?"}]}],
        max_tokens=None,
    )
    assert parts.choices[0].message.content == answer.choices[0].message.content


def test_streams_say_the_same(client):
    chunks = list(complete(client, stream=True))
    assert "".join(c.choices[0].text for c in chunks) == complete(client).choices[0].text
    assert [c.choices[0].finish_reason for c in chunks].count(None) == len(chunks) - 1
    chunks = list(chat(client, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks)
    assert text == chat(client).choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == "length"


def test_usage_in_a_stream(client):
    for stream in [complete, chat]:
        *chunks, last = stream(client, stream=True, stream_options={"include_usage": True})
        assert last.choices == [] and last.usage.completion_tokens == 16
        assert all(chunk.usage is None for chunk in chunks)
        assert len({chunk.id for chunk in [*chunks, last]}) == 1


def test_three_choices(client):
    answer = chat(client, n=3, temperature=1.5, seed=1)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    texts = [choice.message.content for choice in answer.choices]
    assert len(set(texts)) == 3
    assert answer.usage.completion_tokens <= 3 * 16
    streamed = ["", "", ""]
    for chunk in chat(client, n=3, temperature=1.5, seed=1, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == texts
    assert len({c.text for c in complete(client, n=3).choices}) == 1  # greedy


def test_seeds(client):
    one, again, other = (
        complete(client, temperature=1, seed=seed, max_tokens=24).choices[0].text
        for seed in [5, 5, 6]
    )
    assert one == again != other


def test_completion_logprobs(client):
    logprobs = complete(client, logprobs=3).choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == 16
    for token, logprob, top in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs):
        assert len(top) == 3 and logprob <= 0
        assert max(top, key=top.get) == token and top[token] == logprob
    text = complete(client).choices[0].text
    assert "".join(logprobs.tokens) == text
    assert [text[i:].startswith(t) for i, t in zip(logprobs.text_offset, logprobs.tokens)] == [
        True
    ] * 16


def test_chat_logprobs(client):
    content = chat(client, logprobs=True, top_logprobs=5).choices[0].logprobs.content
    assert len(content) == 16
    for position in content:
        assert bytes(position.bytes).decode() == position.token
        assert len(position.top_logprobs) == 5
        assert position.top_logprobs[0].logprob == position.logprob <= 0
        assert sum(math.exp(top.logprob) for top in position.top_logprobs) <= 1.001
    streamed = [
        position
        for chunk in chat(client, logprobs=True, top_logprobs=5, stream=True)
        if chunk.choices[0].logprobs
        for position in chunk.choices[0].logprobs.content
    ]
    assert streamed == content


def test_echo_scores_the_prompt(client):
    generated = complete(client, logprobs=1).choices[0]
    echoed = complete(
        client, prompt=STORY + generated.text, echo=True, logprobs=1, max_tokens=0
    ).choices[0]
    assert echoed.text == STORY + generated.text
    assert echoed.logprobs.token_logprobs[0] is None
    assert echoed.logprobs.tokens[-16:] == generated.logprobs.tokens
    assert echoed.logprobs.token_logprobs[-16:] == pytest.approx(
        generated.logprobs.token_logprobs, abs=1e-4
    )
    assert complete(client, echo=True).choices[0].text == STORY + generated.text


def test_stop_strings(client):
    text = complete(client, max_tokens=40).choices[0].text
    stop = text[20:26]
    answer = complete(client, max_tokens=40, stop=["never said", stop]).choices[0]
    assert answer.text == text[: text.index(stop)] and answer.finish_reason == "stop"
    streamed = "".join(
        c.choices[0].text for c in complete(client, max_tokens=40, stop=stop, stream=True)
    )
    assert streamed == answer.text


def test_lists_of_prompts_and_token_ids(client, server):
    other = "The old king sat by the fire and"
    single = [complete(client, prompt).choices[0].text for prompt in [STORY, other]]
    answer = complete(client, [STORY, other])
    assert [choice.text for choice in answer.choices] == single
    assert [choice.index for choice in answer.choices] == [0, 1]
    ids = [
        server.post("/tokenize", {"model": "moe", "prompt": p}).json["tokens"]
        for p in [STORY, other]
    ]
    assert complete(client, ids[0]).choices[0].text == single[0]
    assert [choice.text for choice in complete(client, ids).choices] == single
    pairs = complete(client, [STORY, other], n=2).choices
    assert [choice.text for choice in pairs] == [single[0]] * 2 + [single[1]] * 2


def test_logit_bias_and_penalties(client, server):
    banned = server.post("/tokenize", {"model": "moe", "prompt": complete(client).choices[0].text})
    first = banned.json["tokens"][0]
    free = complete(client, max_tokens=1).choices[0].text
    assert complete(client, max_tokens=1, logit_bias={str(first): -100}).choices[0].text != free
    assert (
        complete(client, max_tokens=40, frequency_penalty=2).choices[0].text
        != complete(client, max_tokens=40).choices[0].text
    )


def test_tokenize_is_undone_by_detokenize(server):
    text = "A fox, un zorro, 狐 🦊"
    reply = server.post("/tokenize", {"model": "moe", "prompt": text}).json
    assert reply["count"] == len(reply["tokens"]) and reply["max_model_len"] == 2048
    back = server.post("/detokenize", {"model": "moe", "tokens": reply["tokens"]}).json
    assert back["prompt"] == text
    chat_ids = server.post("/tokenize", {"model": "moe", "messages": CHAT}).json["tokens"]
    assert chat_ids[0] == 1  # <|im_start|>


@pytest.mark.parametrize(
    "fields, param",
    [
        ({"temperature": -1}, "temperature"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"stop": [""]}, "stop[0]"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": [{"content": "Hi"}]}, "messages[0].role"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"extra_body": {"top_k": "many"}}, "top_k"),
        ({"logit_bias": {"4096": 1}}, "logit_bias"),
    ],
)
def test_errors_name_the_field(client, fields, param):
    with pytest.raises(openai.BadRequestError) as raised:
        chat(client, **fields)
    assert raised.value.param == param
    assert raised.value.type == "invalid_request_error" and raised.value.message


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as raised:
        chat(client, model="absent")
    assert raised.value.code == "model_not_found" and "absent" in raised.value.message
