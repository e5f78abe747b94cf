"""Routing: a router from training to serving and back to its log, and what goes on beside it: shadows,
hedges, failover, budgets."""

import contextlib
import json
import os
import signal
import threading

import pytest
import tiny_bert

from support import (
    DENSE,
    MOE,
    fake_model,
    grpc_api,
    grpc_stub,
    hostler,
    hostler_json,
    serving,
    wait_for,
)

EASY, HARD = "Say hello to guest number {}", "Compute the product of {} and ninety-one"


def write_outcomes(path, first, rows):
    """The dear model is always right, the cheap one only about greetings."""
    with open(path, "w") as file:
        for i in range(first, first + rows):
            easy = i % 2 == 0
            file.write(json.dumps({
                "id": str(i),
                "subject": "greetings" if easy else "sums",
                "prompt": (EASY if easy else HARD).format(i),
                "correct": {"cheap": int(easy), "dear": 1},
            }) + "\n")
    return path


def write_config(folder, router, **settings):
    target = {"cheap": {"target": "small", "quality_as": "cheap"},
              "dear": {"target": "large", "quality_as": "dear"}}
    # JSON is YAML.
    path = folder / "hostler.yaml"
    path.write_text(json.dumps({
        "models": [
            {"name": "small", "path": str(DENSE), "price": {"input": 1, "output": 1}},
            {"name": "large", "path": str(MOE), "price": {"input": 10, "output": 10}},
        ],
        "memory": "1GiB",
        "virtual_models": [{
            "name": "auto", "policy": "cost_quality", "router": str(router), "min_quality": 0.75,
            "targets": list(target.values()),
        }],
        **settings,
    }))
    return path


def ask(server, path, prompt, **more):
    body = {"model": "auto", "max_tokens": 4, "messages": [{"role": "user", "content": prompt}]}
    return server.post(path, {**body, **more})


def test_a_trained_router_sends_prompts_to_the_cheapest_that_will_do(tmp_path):
    train = write_outcomes(tmp_path / "chat_train.jsonl", 0, 400)
    held = write_outcomes(tmp_path / "chat_val.jsonl", 1000, 100)
    router = tmp_path / "router.bin"
    hostler("route train", "--data", train, "--hash-bits", 10, "-o", router)
    judged = hostler_json("route eval", "--router", router, "--data", held, "--train", train)[0]
    assert judged["apgr"] > 0.7 and judged["brier"] < 0.05, judged

    with serving("--config", write_config(tmp_path, router)) as server:
        for prompt, target in [(EASY.format(7), "small"), (HARD.format(8), "large")]:
            assert ask(server, "/v1/route", prompt).json["model"] == target
            url = f"http://127.0.0.1:{server.port}"
            told = hostler("route explain", prompt, "--url", url).stdout
            assert told.startswith(f"{target}: cost_quality: ") and "\nlarge " in told
            answer = ask(server, "/v1/chat/completions", prompt, explain=True)
            assert answer.status == 200
            assert answer.headers["x-hostler-model"] == target
            said = answer.json["hostler"]
            assert said["model"] == target and len(said["candidates"]) == 2
            assert said["outcome"]["completion_tokens"] == answer.json["usage"]["completion_tokens"]
            good = {"id": answer.json["id"], "good": True}
            assert server.post("/v1/feedback", good).status == 200
            assert server.post("/v1/feedback", good).status == 404

        unknown = hostler("route explain", "x", "--model", "none", "--url", url, check=False)
        assert unknown.returncode != 0 and 'no model "none"' in unknown.stderr, unknown.stderr

        # A file that cannot be read leaves the one that serves in place.
        bad = tmp_path / "bad.bin"
        bad.write_bytes(router.read_bytes()[:-1])
        refused = server.post("/admin/router/reload", {"path": str(bad)})
        assert refused.status == 400 and "bad.bin" in refused.error["message"]
        assert ask(server, "/v1/route", HARD.format(9)).json["model"] == "large"
        assert server.post("/admin/router/reload", {}).json["auto"]["version"] == 2


def test_without_its_router_file_the_cheapest_serves_and_a_metric_says_so(tmp_path):
    with serving("--config", write_config(tmp_path, tmp_path / "none.bin")) as server:
        assert ask(server, "/v1/route", HARD.format(8)).json["rule"] == "no_router_file"
        answer = ask(server, "/v1/chat/completions", HARD.format(8))
        assert answer.status == 200 and answer.headers["x-hostler-model"] == "small"
        metrics = server.get("/metrics").body.decode()
        assert 'hostler:route_file_ok{virtual_model="auto"} 0' in metrics


def test_a_server_log_is_judged_and_replayed(tmp_path):
    train = write_outcomes(tmp_path / "chat_train.jsonl", 0, 400)
    router, log = tmp_path / "router.bin", tmp_path / "route.jsonl"
    hostler("route train", "--data", train, "--hash-bits", 10, "-o", router)
    config = write_config(tmp_path, router, route_log=str(log), route_log_prompts="text")
    with serving("--config", config) as server:
        for i in range(12):
            easy = i % 3 > 0
            answer = ask(server, "/v1/chat/completions", (EASY if easy else HARD).format(i))
            judged = {"id": answer.json["id"], "score": 1 if i % 2 else 0.5}
            assert server.post("/v1/feedback", judged).status == 200

    told = hostler_json("route eval", "--log", log)
    assert told["log"]["decisions"] == told["log"]["feedback"] == 12
    rows = {row["model"]: row for row in told["calibration"]}
    assert rows["small"]["requests"] == 8 and rows["large"]["requests"] == 4
    assert rows["small"]["quality"]["observed"] == 0.75
    # Answers of 4 tokens were foreseen as such: no more are asked for.
    assert rows["large"]["cost_usd"]["predicted"] == pytest.approx(
        rows["large"]["cost_usd"]["observed"], rel=0.9
    )
    assert "replayed" not in told

    names = ["--quality-as", "small=cheap", "--quality-as", "large=dear"]
    for more in [[], ["--router", router, *names]]:
        same = hostler_json("route eval", "--log", log, "--min-quality", 0.75, *more)
        assert same["replayed"] == same["logged"]
        assert same["logged"]["share"]["small"] == pytest.approx(2 / 3)
        cheapest = hostler_json("route eval", "--log", log, "--value", 0, *more)["replayed"]
        assert cheapest["share"] == {"small": 1}
        assert cheapest["judged"] == cheapest["matched"] == 8
        assert cheapest["observed_quality"] == 0.75
    table = hostler("route eval", "--log", log, "--value", 0).stdout
    assert "replayed: 12 decisions, small 100.0 %" in table

    whole = log.read_bytes()
    log.write_bytes(whole[:-20])
    assert "the last line is cut off" in hostler("route eval", "--log", log).stdout
    log.write_bytes(b"{}\n" + whole)
    broken = hostler("route eval", "--log", log, check=False)
    assert broken.returncode == 2 and "route.jsonl:1: " in broken.stderr, broken.stderr
    skipped = hostler_json("route eval", "--log", log, "--skip-bad-lines")
    assert skipped["log"] == {**told["log"], "skipped": 1}
    for wrong, why in [
        (["--log", log, "--policy", "cascade"], "--policy"),
        (["--log", log, "--policy", "best_effort"], "--deadline-ms"),
        (["--log", log, "--min-quality", 2], "--min-quality"),
        (["--log", log, "--data", train], "one of --data and --log"),
        (["--log", tmp_path / "none"], "cannot open"),
    ]:
        refused = hostler("route eval", *wrong, check=False)
        assert refused.returncode != 0 and why in refused.stderr, refused.stderr


# -- Beside real targets: a model that pretends --------------------------------


@contextlib.contextmanager
def before_fake(folder, url, settings={}, **virtual_model):
    """A daemon with small, the upstream far, which is better and dearer, and "auto"."""
    path = folder / "hostler.yaml"
    path.write_text(json.dumps({
        "models": [{"name": "small", "path": str(DENSE), "price": {"input": 1, "output": 1}}],
        "upstreams": [{"name": "far", "url": url, "price": {"input": 10, "output": 10}}],
        "virtual_models": [{
            "name": "auto",
            "policy": "cost_quality",
            "targets": [
                {"target": "small", "quality": 0.5},
                {"target": "far", "quality": 0.9},
            ],
            **virtual_model,
        }],
        **settings,
    }))
    with serving("--config", path) as server:
        yield server


def test_a_killed_upstream_loses_no_request_that_had_not_begun(tmp_path):
    with fake_model(first=0.1, spread=1.5, between=0.05, tokens=20) as (process, url):
        with before_fake(tmp_path, url) as server:
            results = [{"text": "", "end": None} for _ in range(50)]
            body = {"model": "auto", "max_tokens": 20}
            body["messages"] = [{"role": "user", "content": "Tell me a story."}]
            threads = [
                threading.Thread(target=server.read_stream, args=("/v1/chat/completions", body, r))
                for r in results
            ]
            for thread in threads:
                thread.start()
            wait_for(lambda: sum(bool(r["text"]) for r in results) >= 20, "streams to begin")
            os.kill(process.pid, signal.SIGKILL)
            for thread in threads:
                thread.join()
            assert all(r["end"] for r in results), "none ends without a word"
            assert all(r["text"] for r in results if r["end"] == "error"), "none is lost"
            rescued = [r for r in results if r["end"] == "done" and r["model"] == "small"]
            cut = [r for r in results if r["end"] == "error"]
            assert rescued and cut
            assert all(r["text"].startswith("right") for r in cut)
            assert server.metric("route_fallbacks_total") >= len(rescued)


@pytest.mark.parametrize("over", ["cheapest", "reject"])
def test_a_days_budget_that_is_spent(tmp_path, over):
    # Of far an answer costs $0.0004: ten are paid for.
    with fake_model(tokens=20) as (_, url):
        budget = {"day_budget": 0.004, "over_budget": over, "output_tokens": 20}
        with before_fake(tmp_path, url, **budget) as server:
            answers = [ask(server, "/v1/chat/completions", "x" * 60) for _ in range(14)]
            assert all(a.headers["x-hostler-model"] == "far" for a in answers[:10])
            for rest in answers[10:]:
                if over == "cheapest":
                    assert rest.status == 200 and rest.headers["x-hostler-model"] == "small"
                    assert rest.headers["x-hostler-policy"] == "cost_quality/budget"
                else:
                    assert rest.status == 429 and "budget" in rest.error["message"]
                    assert 0 < int(rest.headers["Retry-After"]) <= 86400
            assert server.metric("route_cost_usd_total") == pytest.approx(0.004, rel=0.1)


def test_spending_is_kept_over_a_restart_and_a_damaged_state_begins_anew(tmp_path):
    state = tmp_path / "route.state"
    settings = {"route_state": str(state)}
    with fake_model(tokens=20) as (_, url):

        def answers(count):
            with before_fake(tmp_path, url, settings, day_budget=0.004) as server:
                ok = server.metric("route_state_ok")
                found = [ask(server, "/v1/chat/completions", "x" * 60) for _ in range(count)]
                return ok, [each.headers["x-hostler-model"] for each in found]

        assert answers(6) == (1, ["far"] * 6)
        assert answers(6) == (1, ["far"] * 4 + ["small"] * 2)
        state.write_bytes(state.read_bytes()[:-5])
        assert answers(2) == (0, ["far"] * 2)
        assert (tmp_path / "route.state.bad").exists()


def test_a_shadow_answers_unseen_and_is_logged(tmp_path):
    log = tmp_path / "route.jsonl"
    settings = {"route_log": str(log), "route_log_prompts": "text"}
    shadow = {"share": 1, "target": "far"}
    with fake_model(tokens=3) as (_, url):
        with before_fake(tmp_path, url, settings, min_quality=0.4, shadow=shadow) as server:
            answer = ask(server, "/v1/chat/completions", "Tell me a story.", explain=True)
            assert answer.headers["x-hostler-model"] == "small"
            assert answer.json["hostler"]["shadow"] == "far"

            def lines():
                return [json.loads(line) for line in log.read_text().splitlines()]

            wait_for(lambda: len(lines()) == 2, "the shadow's line")
            line = lines()[1]
            assert line["type"] == "shadow" and line["of"] == answer.json["id"]
            assert line["answer"] == "right word word"
            assert line["real_answer"] == answer.json["choices"][0]["message"]["content"]
            assert line["outcome"]["cost_usd"] == pytest.approx(23 * 10 / 1e6)
            assert server.metric("route_shadow_total") == 1
            assert server.metric("route_shadow_cost_usd_total") == pytest.approx(23 * 10 / 1e6)
            assert server.post("/v1/feedback", {"id": line["id"], "bad": True}).status == 200
    rows = {row["model"]: row for row in hostler_json("route eval", "--log", log)["calibration"]}
    assert rows["far"]["shadows"] == 1 and rows["far"]["quality"]["observed"] == 0


def test_a_late_first_token_is_hedged(tmp_path):
    with fake_model(first=5) as (_, url):
        with before_fake(tmp_path, url, hedge={"after_ms": 50}) as server:
            for stream in [False, True]:
                answer = ask(server, "/v1/chat/completions", "Tell me a story.", stream=stream)
                assert answer.status == 200
                assert answer.headers["x-hostler-model"] == "small"
            assert server.metrics()["hostler:route_hedges_total"]['{result="won"}'] == 2
            wait_for(lambda: server.metric("upstream_requests_running") == 0, "the other's end")


def test_grpc_explains_too(tmp_path):
    with fake_model(tokens=3) as (_, url), before_fake(tmp_path, url) as server:
        with grpc_stub(server) as stub:
            pb = grpc_api()[0]
            asked = pb.GenerateRequest(
                model="auto", text="Tell me a story.", max_tokens=4, explain=True
            )
            asked.hostler.max_cost = 0.00002
            *_, last = stub.Generate(asked, timeout=60)
            told = json.loads(last.done.explanation_json)
            assert told["model"] == "small" and told["outcome"]["model"] == "small"
            far = next(each for each in told["candidates"] if each["model"] == "far")
            assert far["left_out"] == "over max_cost"
            assert told["wish"] == {"max_cost": 0.00002}
def test_a_router_trained_with_an_encoder_is_served_with_that_alone(tmp_path):
    encoder, other = (tiny_bert.write(tmp_path / f"bert{i}", i) for i in range(2))
    train = write_outcomes(tmp_path / "chat_train.jsonl", 0, 200)
    held = write_outcomes(tmp_path / "chat_val.jsonl", 1000, 50)
    router = tmp_path / "router.bin"
    options = ["--hash-bits", 10, "-o", router]
    hostler("route train", "--data", train, "--encoder", encoder, *options)
    judge = ["route eval", "--router", router, "--data", held]
    assert hostler_json(*judge, "--encoder", encoder)[0]["apgr"] > 0.7
    refused = hostler(*judge, "--encoder", other, check=False)
    assert refused.returncode != 0 and "trained with encoder" in refused.stderr, refused.stderr

    ok = 'hostler:route_encoder_ok{virtual_model="auto"} '
    with serving("--config", write_config(tmp_path, router, encoder=str(encoder))) as server:
        assert "without embeddings" not in server.log()
        for prompt, target in [(EASY.format(7), "small"), (HARD.format(8), "large")]:
            told = ask(server, "/v1/route", prompt).json
            assert told["model"] == target and told["embedding"] == "used"
        answer = ask(server, "/v1/chat/completions", HARD.format(8), explain=True)
        assert answer.json["hostler"]["embedding"] == "used"
        told = hostler("route explain", HARD.format(8), "--url", server.url).stdout
        assert "\nembedding: used\n" in told
        metrics = server.get("/metrics").body.decode()
        assert ok + "1" in metrics
        assert 'route_embedding_total{result="used",virtual_model="auto"} 1' in metrics

    with serving("--config", write_config(tmp_path, router, encoder=str(other))) as server:
        assert server.log().count("is used without embeddings: it was trained with encoder") == 1
        told = ask(server, "/v1/route", HARD.format(8)).json
        assert told["embedding"] == "no_encoder" and told["router_version"] == 1
        assert ok + "0" in server.get("/metrics").body.decode()
        again = server.post("/admin/router/reload", {}).json["auto"]
        assert again["version"] == 2 and "trained with encoder" in again["no_embedding"]

    (encoder / "model.safetensors").write_bytes(b"nothing")
    config = write_config(tmp_path, router, encoder=str(encoder))
    refused = hostler("serve --check", "--config", config, check=False)
    assert refused.returncode != 0 and "encoder: " in refused.stderr, refused.stderr
    assert "model.safetensors" in refused.stderr
