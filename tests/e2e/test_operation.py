"""Starting, configuring, watching and stopping the daemon."""

import json
import re
import signal
import socket

import pytest

from support import DENSE, MOE, grpc_generate, grpc_stub, hostler, serving, wait_for, wait_for_rest

CONFIG = f"""
models:
  - name: small
    path: {DENSE}
    price: {{input: 0.1, output: 0.2}}
  - name: large
    path: {MOE}
    price: {{input: 1, output: 2}}
virtual_models:
  - name: pick
    rules:
      - {{target: small, max_prompt_tokens: 20}}
      - {{target: large}}
threads: 2
log_format: json
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "hostler.yaml"
    path.write_text(CONFIG)
    return path


def test_auto_says_which_model_answered_and_why(server):
    short = server.post("/v1/completions", {"model": "auto", "prompt": "Hi", "max_tokens": 2})
    long = server.post("/v1/completions", {"model": "auto", "prompt": [5] * 1000, "max_tokens": 2})
    assert short.headers["x-hostler-model"] == "dense" and long.headers["x-hostler-model"] == "moe"
    for reply in [short, long]:
        assert reply.headers["x-hostler-route"].startswith("static: ")
    named = server.post("/v1/completions", {"model": "moe", "prompt": "Hi", "max_tokens": 2})
    assert named.headers["x-hostler-model"] == "moe"
    assert named.headers["x-hostler-route"] == "explicit"
    assert server.metric("route_decisions_total") >= 2


def test_the_configuration_names_models_and_rules(config):
    with serving("--config", config) as server:
        assert [m["id"] for m in server.get("/v1/models").json["data"]] == [
            "small",
            "large",
            "pick",
        ]
        for prompt, target in [("Hi", "small"), ([5] * 21, "large")]:
            reply = server.post(
                "/v1/completions", {"model": "pick", "prompt": prompt, "max_tokens": 2}
            )
            assert reply.headers["x-hostler-model"] == target
        streamed = server.stream(
            "/v1/completions", {"model": "pick", "prompt": "Hi", "max_tokens": 2}
        )
        assert list(streamed)
        with grpc_stub(server) as stub:
            started, _, _ = grpc_generate(stub, model="pick", text="Hi", max_tokens=2)
            assert started.target == "small" and started.route_reason.startswith("static: ")


def test_the_log_has_a_line_for_each_request_and_never_its_text(config):
    secret, words = "Xylophone-7781", "Once upon"
    with serving("--config", config) as server:
        good = server.post(
            "/v1/completions",
            {"model": "small", "prompt": secret, "max_tokens": 4, "ignore_eos": True},
        )
        chat = server.post(
            "/v1/chat/completions",
            {"model": "large", "max_tokens": 4, "messages": [{"role": "user", "content": secret}]},
        )
        server.post("/v1/completions", {"model": "absent", "prompt": secret})
        server.post("/v1/completions", {"model": "small", "prompt": secret, "stop": [words] * 1000})
        server.post("/v1/completions", '{"prompt": "' + secret)
        with grpc_stub(server) as stub:
            grpc_generate(stub, text=secret, max_tokens=4)
        assert good.status == chat.status == 200
        lines = wait_for(lambda: request_lines(server, 6), "a line for each request")
        log = server.log()
    assert "Xylophone" not in log and "7781" not in log and words not in log
    answer = good.json["choices"][0]["text"]
    assert json.dumps(answer) not in log
    assert [line["endpoint"] for line in lines[:2]] == ["/v1/completions", "/v1/chat/completions"]
    assert lines[0]["id"] == good.json["id"] and lines[0]["target"] == "small"
    assert lines[0]["completion_tokens"] == 4 and lines[0]["finish_reason"] == "length"
    assert {line["transport"] for line in lines} == {"http", "grpc"}
    assert [line["status"] for line in lines].count("INVALID_ARGUMENT") == 2
    assert all(line.keys() >= {"time", "model", "status", "total_ms", "route"} for line in lines)


def request_lines(server, count):
    """Those of the log's JSON lines that are of requests; none before there are so many."""
    lines = [json.loads(line) for line in server.log().splitlines() if line.startswith("{")]
    lines = [line for line in lines if line.get("event") == "request"]
    return lines if len(lines) >= count else None


FAMILIES = """
num_requests_running num_requests_waiting kv_cache_usage_perc kv_blocks_used num_preemptions_total
prompt_tokens_total generation_tokens_total request_success_total route_decisions_total
time_to_first_token_seconds_count inter_token_latency_seconds_count
time_per_output_token_seconds_count e2e_request_latency_seconds_count
request_queue_time_seconds_count request_prompt_tokens_count request_generation_tokens_count
kv_blocks_cached prefix_cache_queries_total prefix_cache_hits_total prefix_cache_evictions_total
expert_cache_hits_total expert_cache_misses_total expert_cache_evictions_total
expert_cache_read_bytes_total expert_cache_stall_seconds_total
expert_cache_resident_bytes expert_cache_capacity_bytes
""".split()


def test_metrics(server):
    before = server.metrics()
    server.post(
        "/v1/completions",
        {"model": "auto", "prompt": list(range(600, 1200)), "max_tokens": 6, "ignore_eos": True},
    )
    wait_for_rest(server)
    after = server.metrics()
    assert [name for name in FAMILIES if "hostler:" + name not in after] == []

    def of_moe(metrics, name):
        series = metrics["hostler:" + name].items()
        return sum(value for labels, value in series if 'model_name="moe"' in labels)

    def grown(name):
        return of_moe(after, name) - of_moe(before, name)

    assert grown("generation_tokens_total") == 6 and grown("prompt_tokens_total") == 600
    assert (
        grown("time_to_first_token_seconds_count")
        == grown("e2e_request_latency_seconds_count")
        == 1
    )
    assert grown("inter_token_latency_seconds_count") == 5
    assert grown("expert_cache_misses_total") > 0 and grown("expert_cache_read_bytes_total") > 0
    assert (
        of_moe(after, "expert_cache_resident_bytes")
        <= of_moe(after, "expert_cache_capacity_bytes")
        <= 13 << 20
    )
    text = server.get("/metrics")
    assert text.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    for line in text.body.decode().splitlines():
        assert re.match(r"# (HELP|TYPE) hostler:|hostler:\w+(\{.*\})? [-+.\deinfNa]+$", line), line


def test_the_small_endpoints(server):
    assert server.get("/health").json == {"status": "ok"}
    assert re.match(r"\d+\.\d+", server.get("/version").json["version"])
    page = server.get("/")
    assert page.status == 200 and page.headers["Content-Type"].startswith("text/html")


def test_sigterm_lets_running_requests_end_and_refuses_new_ones():
    with serving("--model", MOE, "--threads", 2) as server:
        ask = {"prompt": "Once upon a time", "max_tokens": 1500, "ignore_eos": True}
        stream = server.stream("/v1/completions", ask)
        next(stream)
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: server.get("/health").status == 503, "the server to drain")
        refused = server.post("/v1/completions", ask)
        assert refused.status == 503 and refused.error["message"]
        events = list(stream)
        assert events[-1]["choices"][0]["finish_reason"] == "length"
        assert server.process.wait(30) == 0


def test_the_drain_has_an_end():
    with serving("--model", MOE, "--threads", 2, "--drain-timeout", 1) as server:
        stream = server.stream(
            "/v1/completions", {"prompt": "Once", "ignore_eos": True, "n": 100, "max_tokens": 2000}
        )
        next(stream)
        assert server.terminate() == 0
        *_, last = stream
        assert "error" in last and last["error"]["message"]


def test_a_taken_port_is_told():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for ports in [("--port", port, "--grpc-port", 0), ("--port", 0, "--grpc-port", port)]:
            done = hostler("serve", "--model", DENSE, *ports, check=False)
            assert done.returncode == 1 and str(port) in done.stderr, done.stderr


def test_check_validates_without_serving(config):
    assert "valid" in hostler("serve", "--check", "--config", config).stdout


@pytest.mark.parametrize(
    "extra, told",
    [
        ("expert_memry: 5MiB", "expert_memry"),
        ("threads: many", "threads"),
        ("threads: 2\nthreads: 3", "threads"),
        ("log_format: xml", "log_format"),
        ("memory: -5", "memory"),
        ("models: [{path: x, colour: red}]", "colour"),
        ("virtual_models: [{name: auto, rules: [{target: absent}]}]", "absent"),
        ("virtual_models: [{name: small}]", "small"),
        ("models: {", "hostler.yaml"),
        ("- a", "hostler.yaml"),
    ],
)
def test_a_bad_configuration_is_named(config, extra, told):
    first = extra.split(":")[0]
    # In the place of what the key holds in CONFIG, with the lines that belong to it.
    kept = re.sub(rf"^{first}:.*\n(?:[ -].*\n)*", "", CONFIG, flags=re.MULTILINE)
    config.write_text(kept + extra + "\n")
    done = hostler("serve", "--check", "--config", config, check=False)
    assert done.returncode == 2, done.stderr
    assert told in done.stderr, done.stderr


def test_flags_win_over_the_configuration(config):
    with serving("--config", config, "--log-format", "text") as server:
        server.post("/v1/completions", {"prompt": "a", "max_tokens": 1})
        wait_for(lambda: "event=request" in server.log(), "a line of text in the log")


def test_a_model_beyond_the_memory_is_refused_with_the_numbers():
    done = hostler("serve", "--model", MOE, "--memory", "8MiB", check=False)
    assert done.returncode == 1 and "8.00 MiB" in done.stderr, done.stderr
