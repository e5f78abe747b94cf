"""`device`: a GPU's backend behind the daemon, on the emulation that default builds have, and what
they refuse to pretend."""

import json

import pytest

from support import MOE, hostler, serving

PROMPT = "Once upon a time"
EMULATED = ["--device", "cuda-emulated", "--max-context", "256", "--step-tokens", "64",
            "--max-sequences", "4"]


def tokens(server):
    answer = server.post("/v1/completions", {
        "model": MOE.name, "prompt": PROMPT, "max_tokens": 8, "temperature": 0, "logprobs": 0,
        "ignore_eos": True,
    })
    assert answer.status == 200, answer.body
    return answer.json["choices"][0]["logprobs"]["tokens"]


@pytest.fixture(scope="module")
def emulates():
    """Whether this build has the emulation."""
    done = hostler("serve --check", "--model", MOE, *EMULATED, check=False)
    if "this build has" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr


def test_serves_the_cpus_tokens_within_the_devices_budget(emulates):
    with serving("--model", MOE, "--precise") as server:
        expected = tokens(server)
        metrics = server.metrics()
        assert metrics["hostler:device"][f'{{model_name="{MOE.name}",device="cpu"}}'] == 1
        assert not metrics.get("hostler:host_memory_bytes")
    with serving("--model", MOE, "--precise", *EMULATED, "--device-memory", "40MiB", "--memory", "200MiB") as server:
        assert tokens(server) == expected
        metrics = server.metrics()
        model = f'model_name="{MOE.name}"'
        assert metrics["hostler:device"][f'{{{model},device="cuda-emulated"}}'] == 1
        assert metrics["hostler:memory_budget_bytes"][f"{{{model}}}"] == 40 << 20
        parts = metrics["hostler:memory_bytes"]
        assert 0 < sum(parts.values()) <= 40 << 20
        assert metrics["hostler:host_memory_budget_bytes"][f"{{{model}}}"] == 200 << 20
        assert metrics["hostler:host_memory_bytes"][f'{{{model},part="work_space"}}'] > 0
        slots = metrics["hostler:expert_cache_capacity_bytes"]
        beneath = metrics["hostler:host_memory_bytes"][f'{{{model},part="experts"}}']
        assert slots == {f'{{{model},tier="hbm"}}': parts[f'{{{model},part="experts"}}'],
                         f'{{{model},tier="dram"}}': beneath}
        assert "emulated on the CPU" in server.log()
        memory = server.get("/admin/cache").json["models"][0]["memory"]
        assert memory["device"] == "cuda-emulated"
        assert memory["host"]["budget_bytes"] == 200 << 20


def test_whoever_computes_what_the_device_lacks_tokens_are_the_same(emulates):
    answers = []
    for hybrid in ("off", "always"):
        flags = ["--device-memory", "30MiB", "--hybrid", hybrid]
        with serving("--model", MOE, "--precise", *EMULATED, *flags) as server:
            answers.append(tokens(server))
            [computed] = server.metrics()["hostler:expert_cache_host_experts_total"].values()
            assert (computed > 0) == (hybrid == "always")
    assert answers[0] == answers[1]


def test_a_build_without_cuda_does_not_pretend(emulates):
    for arguments in (["--device", "cuda"], ["--device", "cuda:1"]):
        for check in (["--check"], []):
            done = hostler("serve", "--model", MOE, *arguments, *check, check=False)
            assert done.returncode == 1
            assert f"device {arguments[1]}" in done.stderr
            assert "cmake --preset release-cuda" in done.stderr
    with serving("--model", MOE, "--device", "auto") as server:
        assert "device auto is cpu: this build knows CUDA as an emulation" in server.log()


def test_check_finds_wrong_devices_and_sizes(tmp_path):
    done = hostler("serve --check", "--model", MOE, "--device", "tpu", check=False)
    assert done.returncode == 2
    assert "--device" in done.stderr and '"tpu" is none of cpu, cuda, cuda:N, auto' in done.stderr
    config = tmp_path / "hostler.yaml"
    config.write_text(json.dumps({"models": [{"path": str(MOE), "device": "cuda:x"}]}))
    done = hostler("serve --check", "--config", config, check=False)
    assert done.returncode == 2
    assert f"{config}:1" in done.stderr and "device" in done.stderr


def test_says_which_memory_is_too_small(emulates):
    small = hostler("serve", "--model", MOE, *EMULATED, "--device-memory", "6MiB", check=False)
    assert small.returncode == 1 and "the device_memory of 6.00 MiB" in small.stderr
    host = hostler("serve", "--model", MOE, *EMULATED, "--memory", "1MiB", check=False)
    assert host.returncode == 1 and "memory is 1.00 MiB" in host.stderr
