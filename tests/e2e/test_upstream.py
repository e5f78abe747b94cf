"""Upstreams: a daemon without a model of its own before another server."""

import contextlib
import http.server
import json
import re
import threading
import urllib.error
import urllib.request

import pytest

from llama_peer import llama_peer
from support import DENSE, grpc_generate, grpc_stub, hostler, serving, wait_for

PRICE = {"input": 3, "output": 11}
# What differs from answer to answer.
VOLATILE = {"id", "created", "timings", "system_fingerprint", "prompt_tokens_details"}
STORY = [{"role": "user", "content": "Tell me a story about a fox."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
        },
    },
}


def steady(value):
    if isinstance(value, dict):
        return {key: steady(each) for key, each in value.items() if key not in VOLATILE}
    return [steady(each) for each in value] if isinstance(value, list) else value


def write_config(folder, upstreams, more=""):
    path = folder / "hostler.yaml"
    # JSON is YAML.
    path.write_text(f"upstreams: {json.dumps(upstreams)}\n{more}")
    return path


def ask(base, path, body, headers={}):
    """(status, body)"""
    request = urllib.request.Request(
        base + path,
        json.dumps(body).encode(),
        {"Content-Type": "application/json", **headers},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def chunks(body):
    lines = [line for line in body.decode().split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


@pytest.fixture(scope="module")
def peer():
    with llama_peer() as url:
        yield url


@pytest.fixture(scope="module")
def gateway(peer, tmp_path_factory):
    config = write_config(
        tmp_path_factory.mktemp("gateway"),
        [{"name": "llama", "url": peer, "model": "dense", "price": PRICE}],
    )
    with serving("--config", config) as server:
        yield server


def both(peer, gateway, body, path="/chat/completions"):
    """What the peer answers, and what it answers through us."""
    body = {"temperature": 0, "max_tokens": 16, **body}
    # Twice: the first fills the peer's prompt cache.
    ask(peer, path, {"model": "dense", **body})
    direct = ask(peer, path, {"model": "dense", **body})
    through = ask(gateway.url + "/v1", path, {"model": "llama", **body})
    return direct, through


def test_chat_is_the_same(peer, gateway):
    direct, through = both(peer, gateway, {"messages": STORY})
    assert direct[0] == through[0] == 200
    assert steady(json.loads(direct[1])) == steady(json.loads(through[1]))
    assert json.loads(through[1])["choices"][0]["message"]["content"]


def test_completions_are_the_same(peer, gateway):
    for prompt in ["Once upon a time", [300, 301, 302]]:
        direct, through = both(peer, gateway, {"prompt": prompt}, "/completions")
        assert direct[0] == through[0] == 200
        assert steady(json.loads(direct[1])) == steady(json.loads(through[1]))


@pytest.mark.parametrize("include_usage", [True, False])
def test_streams_are_the_same(peer, gateway, include_usage):
    body = {"messages": STORY, "stream": True}
    if include_usage:
        body["stream_options"] = {"include_usage": True}
    direct, through = both(peer, gateway, body)
    assert direct[0] == through[0] == 200
    assert steady(chunks(direct[1])) == steady(chunks(through[1]))
    assert any(chunk.get("usage") for chunk in chunks(through[1])) == include_usage


def test_tools_reach_the_peer(peer, gateway):
    body = {"messages": STORY, "tools": [WEATHER], "tool_choice": "auto"}
    direct, through = both(peer, gateway, body)
    assert direct[0] == through[0] == 200
    answer = json.loads(through[1])
    assert steady(json.loads(direct[1])) == steady(answer)
    without = json.loads(ask(gateway.url + "/v1", "/chat/completions", {"messages": STORY})[1])
    assert answer["usage"]["prompt_tokens"] > without["usage"]["prompt_tokens"]


def masked(body):
    """The bytes, but for the values that differ from answer to answer."""
    scalar = rb'("(?:id|created|system_fingerprint)": ?)("[^"]*"|[0-9]+)'
    masked = re.sub(scalar, rb"\1X", body)
    return re.sub(rb'("(?:timings|prompt_tokens_details)": ?)\{[^{}]*\}', rb"\1X", masked)


def arguments_of(message):
    """Of its only tool call."""
    (call,) = message["tool_calls"]
    assert call["function"]["name"] == "weather"
    return json.loads(call["function"]["arguments"])


# The model is too small to call of its own accord: the peer constrains it to, and words before the call
# are made unlikely.
CALL = {
    "messages": STORY,
    "tools": [WEATHER],
    "tool_choice": "required",
    "logit_bias": [["{", 50]],
    "max_tokens": 256,
}
USAGE = {"stream_options": {"include_usage": True}}


def test_a_tool_call_is_the_same_to_the_byte(peer, gateway):
    direct, through = both(peer, gateway, CALL)
    assert direct[0] == through[0] == 200
    assert masked(direct[1]) == masked(through[1])
    choice = json.loads(through[1])["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert arguments_of(choice["message"])["city"] in ("Paris", "Rome")


def test_a_streamed_tool_call_is_the_same_to_the_byte(peer, gateway):
    direct, through = both(peer, gateway, {**CALL, "stream": True, **USAGE})
    assert direct[0] == through[0] == 200
    assert masked(direct[1]) == masked(through[1])
    name, arguments = "", ""
    for each in chunks(through[1]):
        for part in [p for c in each["choices"] for p in c["delta"].get("tool_calls") or []]:
            name += part["function"].get("name") or ""
            arguments += part["function"].get("arguments") or ""
    assert name == "weather" and json.loads(arguments)["city"] in ("Paris", "Rome")


def test_a_tool_calls_result_goes_back_the_same(peer, gateway):
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city": "Paris"}'},
    }
    messages = [
        *STORY,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": '{"sky": "clear"}'},
    ]
    direct, through = both(peer, gateway, {"messages": messages, "tools": [WEATHER]})
    assert direct[0] == through[0] == 200
    assert masked(direct[1]) == masked(through[1])


@pytest.mark.parametrize("more", [{}, {"stream": True, **USAGE}], ids=["whole", "stream"])
def test_chat_is_the_same_to_the_byte(peer, gateway, more):
    direct, through = both(peer, gateway, {"messages": STORY, **more})
    assert direct[0] == through[0] == 200
    assert masked(direct[1]) == masked(through[1])


def test_only_the_usage_nobody_asked_for_is_left_out(peer, gateway):
    body = {"messages": STORY, "stream": True}
    direct = both(peer, gateway, {**body, **USAGE})[0]
    through = both(peer, gateway, body)[1]
    kept = [each for each in direct[1].split(b"\n\n") if b'"choices":[],' not in each]
    assert masked(b"\n\n".join(kept)) == masked(through[1])


def test_tool_errors_are_the_same(peer, gateway):
    refused = 0
    for change in [{"tool_choice": "nonsense"}, {"tools": [{"type": "function"}]}, {"tools": 3}]:
        direct, through = both(peer, gateway, {**CALL, **change})
        assert direct[0] == through[0] and masked(direct[1]) == masked(through[1])
        refused += direct[0] >= 400
    assert refused


def test_what_no_engine_here_can_do_is_done_there(peer, gateway):
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
    body = {
        "messages": STORY,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
        "logprobs": True,
        "top_logprobs": 2,
    }
    direct, through = both(peer, gateway, body)
    assert direct[0] == through[0] == 200
    assert steady(json.loads(direct[1])) == steady(json.loads(through[1]))
    choice = json.loads(through[1])["choices"][0]
    assert json.loads(choice["message"]["content"])["n"] in (1, 2)
    assert choice["logprobs"]["content"]


@pytest.mark.parametrize(
    "body",
    [
        {"messages": 3},
        {"prompt": "no messages"},
        {"messages": [{"role": "user", "content": "x " * 9000}]},
        {"messages": STORY, "response_format": {"type": "nonsense"}},
    ],
    ids=["messages", "no_messages", "too_long", "response_format"],
)
def test_errors_are_the_same(peer, gateway, body):
    for stream in [False, True]:
        direct, through = both(peer, gateway, {**body, "stream": stream})
        assert direct[0] >= 400
        assert direct == through


def test_the_official_client(gateway):
    import openai

    client = openai.OpenAI(base_url=gateway.url + "/v1", api_key="mine", max_retries=0)
    assert [model.id for model in client.models.list()] == ["llama"]
    how = dict(model="llama", messages=STORY, temperature=0, max_tokens=12)
    whole = client.chat.completions.create(**how)
    stream = list(
        client.chat.completions.create(**how, stream=True, stream_options={"include_usage": True})
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert text == whole.choices[0].message.content
    assert stream[-1].usage.completion_tokens == whole.usage.completion_tokens == 12
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="llama", messages=STORY, n=-1)


def test_grpc_reaches_it_too(peer, gateway):
    direct = json.loads(
        ask(peer, "/completions", {"prompt": "Once upon", "temperature": 0, "max_tokens": 8})[1]
    )
    with grpc_stub(gateway) as stub:
        started, sequences, done = grpc_generate(
            stub, model="llama", text="Once upon", sampling={"temperature": 0}, max_tokens=8
        )
    assert started.target == "llama"
    assert sequences[0].text == direct["choices"][0]["text"]
    assert done.usage.completion_tokens == 8


def test_usage_and_cost_are_counted(gateway):
    before = gateway.metrics()
    usage = json.loads(
        ask(gateway.url + "/v1", "/chat/completions", {"messages": STORY, "max_tokens": 9})[1]
    )["usage"]
    cost = (
        usage["prompt_tokens"] * PRICE["input"] + usage["completion_tokens"] * PRICE["output"]
    ) / 1e6

    def grown(name, labels):
        now = gateway.metrics()["hostler:upstream_" + name][labels]
        return now - before["hostler:upstream_" + name][labels]

    assert grown("requests_total", '{model_name="llama"}') == 1
    assert grown("cost_usd_total", '{model_name="llama"}') == pytest.approx(cost, rel=1e-6)
    for kind in ["prompt", "completion"]:
        labels = f'{{model_name="llama",kind="{kind}"}}'
        assert grown("tokens_total", labels) == usage[f"{kind}_tokens"]


# -- Without a peer: a server of a few lines ----------------------------------


class Fake(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    events, seen = [], []

    def do_GET(self):
        self.reply(b"{}", "application/json")

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        Fake.seen.append((dict(self.headers), json.loads(body)))
        text = "".join(f"data: {event}\n\n" for event in [*Fake.events, "[DONE]"])
        self.reply(text.encode(), "text/event-stream")

    def reply(self, body, kind):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def fake_upstream(events):
    Fake.events, Fake.seen = events, []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Fake)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def chunk(delta, finish=None):
    return json.dumps(
        {
            "id": "x",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "real",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        }
    )


def test_tool_calls_come_through_and_no_key_shows(tmp_path):
    import openai

    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "weather"}}
    events = [
        chunk({"role": "assistant", "tool_calls": [call]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '"Paris"}'}}]}),
        chunk({}, "tool_calls"),
    ]
    key = tmp_path / "key"
    key.write_text("sk-ours\n")
    with fake_upstream(events) as url:
        upstream = {"name": "far", "url": url, "api_key_file": str(key)}
        with serving("--config", write_config(tmp_path, [upstream])) as server:
            client = openai.OpenAI(base_url=server.url + "/v1", api_key="sk-theirs", max_retries=0)
            stream = client.chat.completions.create(
                model="far", messages=STORY, tools=[WEATHER], tool_choice="required", stream=True
            )
            arguments, finish = "", None
            for each in stream:
                for part in each.choices[0].delta.tool_calls or []:
                    arguments += part.function.arguments or ""
                finish = each.choices[0].finish_reason or finish
            assert json.loads(arguments) == {"city": "Paris"} and finish == "tool_calls"
            headers, body = Fake.seen[0]
            assert headers["Authorization"] == "Bearer sk-ours"
            assert body["tools"] == [WEATHER] and body["tool_choice"] == "required"
            assert "sk-ours" not in server.log() and "sk-theirs" not in server.log()


def test_local_and_upstream_models_side_by_side(tmp_path):
    with fake_upstream([chunk({"content": "far away"}), chunk({}, "stop")]) as url:
        upstream = {"name": "far", "url": url, "price": {"input": 100, "output": 100}}
        config = write_config(tmp_path, [upstream], "auto_max_prompt_tokens: 40\n")
        with serving("--config", config, "--model", f"near={DENSE}") as server:
            models = [model["id"] for model in server.get("/v1/models").json["data"]]
            assert models == ["near", "far", "auto"]
            body = {"max_tokens": 2, "stream": True}
            short = server.post("/v1/chat/completions", {"model": "auto", "messages": STORY, **body})
            assert short.headers["x-hostler-model"] == "near"
            long = [{"role": "user", "content": "fox " * 100}]
            other = server.post("/v1/chat/completions", {"model": "auto", "messages": long, **body})
            assert other.headers["x-hostler-model"] == "far"
            assert b"far away" in other.body
            tokens = server.post("/tokenize", {"model": "far", "prompt": "x"})
            assert tokens.status == 501 and "upstream" in tokens.error["message"]
            assert server.get("/admin/cache").status == 200
            assert server.get("/").status == 200


def test_an_upstream_that_dies_is_ejected_and_comes_back(tmp_path):
    with fake_upstream([chunk({"content": "Hi"}), chunk({}, "stop")]) as url:
        health = {"interval": 0.05, "failed_checks": 2, "ejection": 0.2}
        upstream = {"name": "far", "url": url, "health": health}
        with serving("--config", write_config(tmp_path, [upstream])) as server:
            body = {"model": "far", "messages": STORY, "stream": True}

            def state(name):
                labels = f'{{model_name="far",state="{name}"}}'
                return server.metrics()["hostler:upstream_health"][labels]

            assert server.post("/v1/chat/completions", body).status == 200
            answers, Fake.do_GET = Fake.do_GET, lambda self: self.send_error(503)
            try:
                wait_for(lambda: not state("healthy"), "its ejection")
                refused = server.post("/v1/chat/completions", body)
                assert refused.status == 503 and "far" in refused.error["message"]
            finally:
                Fake.do_GET = answers
            wait_for(lambda: state("healthy"), "its return")
            assert server.post("/v1/chat/completions", body).status == 200


def test_the_check_names_what_is_wrong(tmp_path):
    def check(*upstreams, more=""):
        path = write_config(tmp_path, upstreams, more)
        return hostler("serve --check", "--config", path, check=False)

    good = {"name": "far", "url": "https://api.example.com/v1", "price": PRICE}
    done = check(good)
    assert done.returncode == 0 and "1 upstream(s)" in done.stdout
    for change, message in [
        ({"url": "far"}, "url: "),
        ({"url": "https://me:secret@host"}, "url: "),
        ({"api_key_file": "/nowhere"}, "api_key_file: /nowhere cannot be read"),
        ({"api_key_env": "HOSTLER_NO_KEY"}, "HOSTLER_NO_KEY"),
        ({"ca_file": "/nowhere"}, "ca_file: "),
        ({"price": {"input": 1}}, "needs both input and output"),
        ({"timeout": 3}, 'unknown key "timeout"'),
        ({"max_concurrency": 0}, "max_concurrency: "),
        ({"health": {"path": "x"}}, "path must begin with /"),
        ({"health": {"ejection": 10, "max_ejection": 1}}, "max_ejection is less"),
    ]:
        done = check({**good, **change})
        assert done.returncode != 0 and message in done.stderr, (change, done.stderr)
        assert "secret" not in done.stderr
    assert "has the name of another" in check(good, good).stderr
    unpriced = {key: value for key, value in good.items() if key != "price"}
    more = "virtual_models: [{name: cheap, rules: [{target: far}]}]\n"
    assert "has none: give it a price" in check(unpriced, more=more).stderr
