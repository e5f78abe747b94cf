"""The expert cache as an operator sees and moves it: metrics, /admin/cache, hostler top."""

import os
import pty
import re
import socket
import subprocess
import termios
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from support import BINARY, DENSE, MOE, TIME_SCALE, hostler, serving, wait_for, wait_for_rest

MiB = 1 << 20
FEW = 8 * MiB  # of about 52


@pytest.fixture(scope="module")
def few():
    """Both models; the experts of one in a few slots, with room to move."""
    with serving(
        "--model", f"moe={MOE}", "--model", f"dense={DENSE}", "--threads", 2,
        "--memory", "400MiB", "--expert-memory", FEW, "--max-context", 512,
    ) as running:  # fmt: skip
        yield running


def ask(seed, max_tokens=48):
    prompt = [3 + (seed * 131 + i * 17) % 4000 for i in range(16)]
    return {"model": "moe", "prompt": prompt, "max_tokens": max_tokens, "temperature": 0,
            "ignore_eos": True}  # fmt: skip


def streamed(server, request):
    events = list(server.stream("/v1/completions", request))
    assert events[-1]["choices"][0]["finish_reason"] == "length"
    return "".join(event["choices"][0]["text"] for event in events)


def experts(server):
    [model] = server.get("/admin/cache?model=moe").json["models"]
    return model["experts"]


def series(metrics, name, *labels):
    """The sum over those with all of these labels, of the model with experts."""
    found = [
        value
        for written, value in metrics["hostler:" + name].items()
        if all(label in written for label in ['model_name="moe"', *labels])
    ]
    assert found, f"{name} {labels}"
    return sum(found)


def test_metrics_tell_the_reads_of_each_class(few):
    before = few.metrics()
    streamed(few, ask(1))
    wait_for_rest(few)
    after = few.metrics()

    def grown(name, *labels):
        return series(after, name, *labels) - series(before, name, *labels)

    demand, speculative = ['tier="dram"', 'class="demand"'], ['tier="dram"', 'class="speculative"']
    assert grown("expert_cache_reads_total", *demand) > 0
    assert grown("expert_cache_read_bytes_total", *demand) > 0
    assert grown("expert_cache_hits_total") > 0
    misses = grown("expert_cache_misses_total")
    assert 0 < grown("expert_cache_misses_total", *demand) <= misses
    # A read that is waited for is one miss, unless it fails.
    assert grown("expert_cache_demand_read_seconds_count") == misses
    assert grown("expert_cache_demand_read_seconds_bucket", 'le="+Inf"') == misses
    assert grown("expert_cache_demand_read_seconds_sum") > 0
    assert grown("expert_cache_wasted_bytes_total") <= series(
        after, "expert_cache_read_bytes_total", *speculative
    )
    assert grown("expert_cache_evictions_total") > 0
    for name in ["reads_in_flight", "reads_queued"]:
        assert series(after, "expert_cache_" + name, *demand) == 0
    layers = after["hostler:expert_cache_layer_resident_ratio"]
    assert all('layer="' in labels for labels in layers) and len(layers) > 1
    assert all(0 <= ratio <= 1 for ratio in layers.values()) and sum(layers.values()) > 0
    assert series(after, "memory_bytes", 'part="experts"') == FEW
    assert series(after, "memory_bytes") <= series(after, "memory_budget_bytes")
    assert series(after, "decode_width") == 1


def test_the_report_agrees_with_the_metrics(few):
    streamed(few, ask(2))
    wait_for_rest(few)
    wait_for(lambda: few.metric("expert_cache_reads_in_flight") == 0, "guesses' reads to end")
    metrics, report = few.metrics(), few.get("/admin/cache").json
    [moe, dense] = report["models"]
    assert moe["model"] == "moe" and dense["model"] == "dense" and dense["experts"] is None
    told = moe["experts"]
    for read_class in ["demand", "speculative", "preload"]:
        for key, name in [("reads", "reads_total"), ("bytes", "read_bytes_total"),
                          ("in_flight", "reads_in_flight")]:  # fmt: skip
            label = f'class="{read_class}"'
            assert told["reads"][read_class][key] == series(metrics, "expert_cache_" + name, label)
    for key in ["hits", "misses", "evictions", "stall_seconds"]:
        assert told[key] == pytest.approx(series(metrics, f"expert_cache_{key}_total"), rel=1e-6)
    assert told["hit_rate"] == told["hits"] / (told["hits"] + told["misses"])
    times = told["demand_read_seconds"]
    assert times["count"] == sum(bucket["count"] for bucket in times["buckets"])
    assert 0 < times["p50"] <= times["p90"] <= times["p99"]
    assert sum(layer["resident_bytes"] for layer in told["layers"]) == told["resident_bytes"]
    assert told["resident_bytes"] <= told["capacity_bytes"] == FEW
    assert sum(layer["bytes"] for layer in told["layers"]) == moe["memory"]["all_experts_bytes"]
    assert told["policy"] and told["reader"] in ["io_uring", "pread"]
    memory = moe["memory"]
    parts = ["weights_bytes", "work_space_bytes", "kv_bytes", "experts_bytes"]
    assert sum(memory[part] for part in parts) <= memory["budget_bytes"]
    assert moe["generated_tokens"] == series(metrics, "generation_tokens_total")


def test_memory_moves_while_clients_stream(few):
    requests = [ask(seed, 64) for seed in range(8)]
    expected = [streamed(few, request) for request in requests]
    done, moves = threading.Event(), []

    def move():
        sizes = ["2MiB", "12MiB", 5 * MiB, "1MiB"]
        while not done.is_set() or len(moves) < len(sizes):
            size = sizes[len(moves) % len(sizes)]
            moves.append(few.post("/admin/cache", {"model": "moe", "expert_memory": size}))
            assert few.get("/admin/cache").status == 200

    with ThreadPoolExecutor(len(requests) + 1) as pool:
        mover = pool.submit(move)
        together = list(pool.map(lambda request: streamed(few, request), requests))
        done.set()
        mover.result()
    assert together == expected
    assert {reply.status for reply in moves} == {200}
    for reply, size in zip(moves, [2 * MiB, 12 * MiB, 5 * MiB, MiB]):
        assert reply.json["model"] == "moe"
        assert reply.json["memory"]["experts_bytes"] == size
    # What is asked of an idle server takes effect as well.
    answer = few.post("/admin/cache", {"model": "moe", "expert_memory": "3MiB"})
    wait_for(lambda: experts(few)["capacity_bytes"] == 3 * MiB, "the capacity to be 3 MiB")
    assert experts(few)["resident_bytes"] <= 3 * MiB
    [moe] = few.get("/admin/cache?model=moe").json["models"]
    assert moe["memory"] == answer.json["memory"]
    few.post("/admin/cache", {"model": "moe", "expert_memory": FEW})
    assert streamed(few, requests[0]) == expected[0]
    assert experts(few)["capacity_bytes"] == FEW


@pytest.mark.parametrize(
    "body, status, param, told",
    [
        ("{", 400, None, ""),
        ({"expert_memory": "4MiB"}, 400, "model", "moe, dense"),
        ({"model": "absent", "expert_memory": "4MiB"}, 404, None, "absent"),
        ({"model": "auto", "expert_memory": "4MiB"}, 404, None, "virtual"),
        ({"model": "dense", "expert_memory": "4MiB"}, 400, "model", "no experts"),
        ({"model": "moe"}, 400, "expert_memory", "required"),
        ({"model": "moe", "expert_memory": "1B"}, 400, "expert_memory", "between"),
        ({"model": "moe", "expert_memory": 1 << 50}, 400, "expert_memory", "between"),
        ({"model": "moe", "expert_memory": -1}, 400, "expert_memory", ""),
        ({"model": "moe", "expert_memory": "a lot"}, 400, "expert_memory", "a lot"),
        ({"model": "moe", "expert_memory": [1]}, 400, "expert_memory", "an array"),
        ({"model": "moe", "expert_memory": 1, "kv_memory": 2}, 400, "kv_memory", "unknown"),
    ],
)
def test_a_bad_move_is_refused_and_named(few, body, status, param, told):
    before = few.get("/admin/cache?model=moe").json["models"][0]["memory"]
    reply = few.post("/admin/cache", body)
    assert reply.status == status, reply.body
    assert reply.error.get("param") == param and told in reply.error["message"]
    assert few.get("/admin/cache?model=moe").json["models"][0]["memory"] == before


def test_only_this_machine_is_answered(few):
    for headers in [{"Host": "evil.example"}, {"X-Forwarded-For": "203.0.113.9"}]:
        for method, body in [("GET", None), ("POST", {"model": "moe", "expert_memory": "4MiB"})]:
            reply = few.request(method, "/admin/cache", body, headers)
            assert reply.status == 403 and "setting admin" in reply.error["message"]


def test_top_prints_a_frame(few):
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(streamed, few, ask(5, 400))
        wait_for(lambda: few.metric("num_requests_running") > 0, "the request to run")
        frame = hostler("top --once --interval 0.3 --url", few.url).stdout
        running.result()
    assert "\033" not in frame and max(map(len, frame.splitlines())) <= 80
    assert frame.startswith(f"hostler top   {few.url}   ")
    assert re.search(r"^moe   1 running, 0 waiting, 0 paused$", frame, re.MULTILINE)
    assert re.search(r"^dense   0 running", frame, re.MULTILINE)
    assert re.search(r"^  tokens   [1-9][\d.]*/s generated ", frame, re.MULTILINE)
    assert re.search(r"^  hits     [\d.]+% now   [\d.]+% since start   stall [\d.]+%", frame, re.M)
    assert re.search(r"^  demand   [\d.]+ [KMG]iB/s   p50 [\d.]+ [um]s, p99 ", frame, re.MULTILINE)
    for row in ["guesses", "cache", "memory", "layers"]:
        assert f"\n  {row:<9}" in frame, frame


def test_top_says_when_there_is_no_server():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        done = hostler("top --once --url", f"http://127.0.0.1:{port}", check=False)
    assert done.returncode == 1 and not done.stdout
    assert f"127.0.0.1:{port}" in done.stderr and "hostler serve" in done.stderr
    assert hostler("top --once --url ftp://x", check=False).returncode == 2


def test_top_says_when_it_may_not_look():
    with serving("--model", DENSE, "--admin", "off") as server:
        done = hostler("top --once --url", server.url, check=False)
    assert done.returncode == 1 and "the setting admin is off" in done.stderr


def test_top_redraws_in_place_and_leaves_the_terminal_as_it_was(few):
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    command = [BINARY, "top", "--interval", "0.2", "--url", few.url]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave,
                               start_new_session=True, preexec_fn=lambda: take_terminal(slave))  # fmt: skip
    os.set_blocking(master, False)
    seen = b""

    def read():
        nonlocal seen
        try:
            seen += os.read(master, 1 << 16)
        except BlockingIOError:
            pass
        return seen

    try:
        wait_for(lambda: read().count(b"\033[H") >= 3, "three frames")
        assert seen.startswith(b"\033[?1049h") and b"layers" in seen
        assert termios.tcgetattr(slave)[3] & termios.ECHO == 0
        os.write(master, b"\x03")
        assert process.wait(20 * TIME_SCALE) == 0
        # A terminal gives what it holds in parts.
        wait_for(lambda: read().endswith(b"\033[?25h\033[?1049l"), "the terminal's restoring")
        assert termios.tcgetattr(slave) == before
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(master)
        os.close(slave)


def take_terminal(terminal):
    import fcntl

    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
