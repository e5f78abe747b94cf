"""The commands' shapes, on which scripts rely."""

import json

import pytest

from support import DENSE, MOE, hostler, hostler_json

COMMANDS = ["serve", "run", "inspect", "logits", "perplexity", "tokenize", "chat-template", "bench",
    "pack", "verify", "plan",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_tells_the_flags(command):
    text = hostler(command, "--help").stdout
    assert "--model" in text and len(text.splitlines()) > 5
    assert command in hostler("--help").stdout


@pytest.mark.parametrize(
    "command",
    [
        "",
        "dance",
        "serve",
        f"serve --model {MOE} --port http",
        f"serve --model {MOE} --port 70000",
        f"serve --model {MOE} --dance",
        f"serve --model {MOE} --memory lots",
        f"run --model {MOE} --tokens 1,x",
        f"run --model {MOE} --prompt a --tokens 1",
        f"run --model {MOE} --prompt a --max-tokens 0",
        f"run --model {MOE} --prompt a --quantize q9",
        f"run --model {MOE} --prompt a --threads -1",
        f"logits --model {MOE} --tokens 1",
        f"perplexity --model {MOE} --file /dev/null --ctx 1",
        "bench",
    ],
)
def test_wrong_usage_exits_with_2(command):
    done = hostler(command, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr and not done.stdout


@pytest.mark.parametrize(
    "command",
    [
        "run --model /absent --prompt a",
        "inspect /absent",
        "serve --check --model /absent",
        "tokenize --model /absent",
        f"perplexity --model {DENSE} --file /absent",
        f"logits --model {DENSE} --tokens 1,2 --out /absent/x.npy",
        f"plan {MOE} --memory 64MiB --profile /absent",
        "bench --url http://127.0.0.1:9",
    ],
)
def test_failures_exit_with_1(command):
    done = hostler(command, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stderr and not done.stdout


def test_run_tells_text_ids_and_timings():
    ask = ["--model", MOE, "--prompt", "Once upon a time there was"]
    answer = hostler_json("run --max-tokens 12", *ask)
    assert answer.keys() == {"text", "token_ids", "finish_reason", "timings"}
    assert answer["finish_reason"] == "length" and len(answer["token_ids"]) == 12
    ids = json.dumps(answer["token_ids"])
    assert hostler_json("tokenize --decode", "--model", MOE, stdin=ids) == answer["text"]
    assert hostler("run --max-tokens 12", *ask).stdout == answer["text"] + "\n"


def test_tokens_need_no_tokenizer(dense_copy, tmp_path):
    for name in ["tokenizer.json", "tokenizer_config.json"]:
        (dense_copy / name).unlink()
    expected, answer = (
        hostler_json("run --tokens 342,81,617 --max-tokens 8 --ignore-eos", "--model", model)
        for model in [DENSE, dense_copy]
    )
    assert answer["token_ids"] == expected["token_ids"]
    hostler("logits --tokens 342,81", "--model", dense_copy, "--out", tmp_path / "x.npy")


def test_interactive_chat_keeps_the_history():
    answer = hostler("run", "--model", MOE, "-i", "--max-tokens", 16, stdin="Hello\nWho are you?\n")
    assert len(answer.stdout.strip()) > 5


def test_inspect_tells_the_sizes():
    moe = hostler_json("inspect", MOE)
    assert moe["architecture"] == "qwen3_moe"
    assert moe["parameters"] == 27_857_664
    assert moe["experts"] == 32 and moe["experts_per_token"] == 4
    assert moe["bytes_per_expert"] == 3 * 256 * 128 * 2
    assert moe["kv_bytes_per_token"] == 8 * 2 * 4 * 32 * 2  # layers, K and V, heads, width, f16
    assert moe["active_parameters"] == pytest.approx(5.84e6, rel=0.01)
    assert moe["unsupported"] == []
    dense = hostler_json("inspect", "--model", DENSE)
    assert dense["parameters"] == dense["active_parameters"] == 2_410_432
    assert "27,857,664" in hostler("inspect", MOE).stdout


PROFILE = {
    "version": 1, "cpu": "a processor", "backend": "cpu-avx2", "threads": 2, "disk_path": "/models",
    "reader": "io_uring", "past_page_cache": True,
    "disk": [{"read_bytes": 1 << 20, "depth": 8, "bytes_per_second": 1e9}],
    "memory_bytes_per_second_1": 1e10, "memory_bytes_per_second": 1e10, "operation_seconds": 1e-6,
    "kernels": {"f32": [{"rows": 1, "macs_per_second": 1e9}, {"rows": 512, "macs_per_second": 4e10}]},
}


def test_plan_divides_memory_as_the_server_does_and_says_what_more_buys(tmp_path):
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps(PROFILE))
    args = ["plan", str(MOE), "--memory", "48MiB", "--profile", str(profile)]
    plan = hostler_json(*args, "--clients", "4")
    memory = plan["memory"]
    parts = sum(memory[key] for key in ["weights", "work_space", "kv", "experts"])
    assert parts <= memory["budget"] == 48 << 20
    assert 0 < plan["resident_share"] < 1
    assert [row["clients"] for row in plan["decode"]] == [1, 2, 4]
    assert plan["decode"][0]["tokens_per_second"] > 0 and plan["prefill"]["tokens_per_second"] > 0
    rates = [row["tokens_per_second"] for row in plan["more_memory"]]
    assert rates == sorted(rates) and plan["more_memory"][-1]["resident_share"] == 1
    text = hostler(*args).stdout
    assert "assumed:" in text and "with 60.0 MiB" in text
    # Another model's trace is refused.
    trace = tmp_path / "other.csv"
    trace.write_text("# expert-trace v1\n# model=x layers=1 experts=4 topk=1 weights=0\n"
                     "phase,step,layer,e0\n1,0,0,1\n")
    done = hostler(*args, "--trace", str(trace), check=False)
    assert done.returncode == 1 and "the model has" in done.stderr
    # Prefill alone tells nothing of decoding.
    trace.write_text("# expert-trace v1\n# model=x layers=8 experts=32 topk=4 weights=0\n"
                     "phase,step,layer,e0,e1,e2,e3\n0,0,0,0,1,2,3\n")
    done = hostler(*args, "--trace", str(trace), check=False)
    assert done.returncode == 1 and "no decode tokens" in done.stderr
    # What is fixed does not grow.
    fixed = hostler_json(*args, "--expert-memory", "6MiB")
    assert fixed["more_memory"] == []


def test_plan_predicts_for_a_gpu_that_is_not_here(tmp_path):
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps(PROFILE))
    args = ["plan", str(MOE), "--profile", str(profile), "--memory", "1GiB", "--clients", "1"]
    small = hostler_json(*args, "--gpu", "64MiB,1000GB/s,25GB/s,100TFLOPS")
    memory = small["memory"]
    assert sum(memory[key] for key in ["weights", "work_space", "kv", "experts"]) <= memory["budget"]
    assert memory["budget"] <= 0.9 * (64 << 20)
    assert memory["host"]["budget"] == 1 << 30
    assert memory["host"]["experts"] == memory["all_experts"]  # so no disk is asked
    assert small["gpu"]["link_bytes_per_second"] == 25e9
    [row] = small["decode"]
    assert row["disk_seconds"] == 0 and row["limit"] == "link"
    assert row["link_seconds"] == pytest.approx(row["missed_bytes"] / 25e9)
    assert row["tokens_per_second"] == pytest.approx(1 / row["link_seconds"])
    # With all of it there, what is left is its memory's speed.
    large = hostler_json(*args, "--gpu", "8GiB,1000GB/s,25GB/s")
    [row] = large["decode"]
    assert large["resident_share"] == 1 and row["limit"] == "memory" and row["link_seconds"] == 0
    text = hostler(*args, "--gpu", "64MiB,1000GB/s,25GB/s").stdout
    assert "25.0 GB/s to it" in text and "they overlap" in text
    wrong = hostler(*args, "--gpu", "24GiB", check=False)
    assert wrong.returncode == 1 and "--gpu" in wrong.stderr and "LINK SPEED" in wrong.stderr
    none = hostler(*args, "--gpu", "4MiB,1GB/s,1GB/s", check=False)
    assert none.returncode == 1 and "device_memory" in none.stderr


def test_doctor_advises_where_something_is_not_good():
    findings = hostler_json("doctor", "--disk", str(MOE))
    assert {"processor", "memory", "locked memory", "swap", "io_uring", "disk", "gpu"} <= {
        finding["name"] for finding in findings}
    for finding in findings:
        assert (finding["level"] == "good") == (not finding["advice"]), finding
        assert finding["level"] != "problem"
    done = hostler("doctor --disk /absent", check=False)
    assert done.returncode == 1 and "problem  disk" in done.stdout and "/absent" in done.stdout


def test_inspect_names_what_is_unsupported(dense_copy):
    config = json.loads((dense_copy / "config.json").read_text())
    config.update(model_type="mamba", architectures=["MambaForCausalLM"])
    (dense_copy / "config.json").write_text(json.dumps(config))
    done = hostler("inspect", dense_copy, "--json", check=False)
    assert "mamba" in (done.stdout + done.stderr).lower()
    refused = hostler("run", "--model", dense_copy, "--prompt", "a", check=False)
    assert refused.returncode == 1 and "mamba" in refused.stderr.lower()


TEXTS = [
    "Hello there",
    "",
    " two  spaces\n\tand more\r\n",
    "naïve café, 日本語, 🦊🏽‍🚒",
    "1234567890",
    "<|im_start|>user",
    "a\u0301 is á",
]


def test_tokenize_and_back():
    lines = "".join(json.dumps(text) + "\n" for text in TEXTS)
    encoded = hostler("tokenize", "--model", MOE, "--jsonl", stdin=lines).stdout
    ids = [json.loads(line) for line in encoded.splitlines()]
    assert len(ids) == len(TEXTS) and ids[1] == []
    assert all(isinstance(i, int) for one in ids for i in one)
    decoded = hostler("tokenize", "--model", MOE, "--decode", "--jsonl", stdin=encoded).stdout
    back = [json.loads(line) for line in decoded.splitlines()]
    assert back[:-1] == TEXTS[:-1]
    assert back[-1] == "á is á"  # the tokenizer's normal form is NFC
    assert len(ids[4]) == 10  # single digits
    assert hostler_json("tokenize", "--model", MOE, stdin=TEXTS[0]) == ids[0]


def test_special_tokens_are_text_unless_asked_for():
    text = "<|im_start|>user\nHi<|im_end|>"
    plain = hostler_json("tokenize", "--model", MOE, stdin=text)
    special = hostler_json("tokenize --special", "--model", MOE, stdin=text)
    assert not {1, 2} & set(plain)
    assert special[0] == 1 and special[-1] == 2 and len(special) < len(plain)


def test_chat_template_renders_chatml(tmp_path):
    chat = {"messages": [{"role": "user", "content": "Hi"}], "add_generation_prompt": True}
    text = hostler("chat-template", "--model", MOE, stdin=json.dumps(chat)).stdout
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    template = tmp_path / "template"
    template.write_text("{% for m in messages %}[{{ m.role|upper }}] {{ m.content }}{% endfor %}")
    lines = json.dumps(chat) + "\n{broken\n" + json.dumps(chat) + "\n"
    out = hostler("chat-template", "--template", template, "--jsonl", stdin=lines).stdout
    first, second, third = map(json.loads, out.splitlines())
    assert first == third == {"text": "[USER] Hi"}
    assert list(second) == ["error"]


def test_memory_that_is_not_enough_is_refused_with_the_numbers():
    done = hostler("run", "--model", MOE, "--prompt", "a", "--memory", "4MiB", check=False)
    assert done.returncode == 1
    assert "4.00 MiB" in done.stderr and "KV" in done.stderr, done.stderr


def test_trace_names_the_line_of_a_prompt_that_is_too_long(tmp_path):
    prompts, trace = tmp_path / "prompts.txt", tmp_path / "trace.csv"
    prompts.write_bytes(b"A fox.\r\n\n" + b"word " * 100 + b"\n")
    args = ["trace", MOE, "--prompts", prompts, "-o", trace, "--max-tokens", "2"]
    done = hostler(*args, "--max-context", "64", check=False)
    assert done.returncode == 1 and "line 3: a prompt of" in done.stderr
    assert not trace.exists(), "told before anything is recorded"
    hostler(*args)
    done = hostler("replay", trace, "--policy", "foo", check=False)
    assert done.returncode == 2 and "belady_bypass" in done.stderr
