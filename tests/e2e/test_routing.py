"""A router from training to serving: train it, judge it, serve with it, ask it why."""

import json

import tiny_bert
from support import DENSE, MOE, hostler, hostler_json, serving

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


def write_config(folder, router, **more):
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
        **more,
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
