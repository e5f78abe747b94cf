"""Many clients at once, rude ones among them."""

import random
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from support import MOE, TIME_SCALE, grpc_api, grpc_stub, serving, wait_for, wait_for_rest

CLIENTS = 64
FEW_EXPERTS = ("--expert-memory", "5MiB")  # a tenth


@pytest.fixture(scope="module")
def server():
    with serving("--model", MOE, "--threads", 2, *FEW_EXPERTS) as running:
        yield running


def body(tokens, **fields):
    return {"prompt": "Once upon a time", "max_tokens": tokens, "ignore_eos": True, **fields}


def read_http(server, tokens, leave_after):
    events = 0
    for event in server.stream("/v1/completions", body(tokens)):
        events += 1
        finish = event["choices"][0]["finish_reason"]
        if events == leave_after:
            return None
    return finish


def read_grpc(server, tokens, leave_after):
    pb = grpc_api()[0]
    with grpc_stub(server) as stub:
        call = stub.Generate(
            pb.GenerateRequest(text="Once upon a time", max_tokens=tokens, ignore_eos=True),
            timeout=100 * TIME_SCALE,
        )
        events = 0
        for response in call:
            events += response.HasField("delta")
            if events == leave_after:
                call.cancel()
                return None
            if response.HasField("finished"):
                finish = response.finished.finish_reason
        return {pb.FINISH_REASON_LENGTH: "length"}.get(finish)


def test_a_third_of_64_streaming_clients_leaves_midway(server):
    read_http(server, 2, None), read_grpc(server, 2, None)
    wait_for_rest(server)
    open_files = server.open_files()
    draw = random.Random(64)
    finished_before = server.metrics()["hostler:request_success_total"]

    def client(number):
        tokens = draw.randint(20, 120)
        leave_after = draw.randint(1, tokens // 3) if number % 3 == 0 else None
        read = read_grpc if number % 4 == 0 else read_http
        return leave_after, read(server, tokens, leave_after)

    with ThreadPoolExecutor(CLIENTS) as pool:
        results = list(pool.map(client, range(CLIENTS)))
    left = sum(leave_after is not None for leave_after, _ in results)
    assert left == 22
    assert all(finish == (None if leave_after else "length") for leave_after, finish in results)

    wait_for_rest(server)
    wait_for(
        lambda: server.metric("http_connections") == 1, "only the asking connection to be left"
    )
    wait_for(lambda: server.open_files() <= open_files, f"{open_files} open files")
    finished = server.metrics()["hostler:request_success_total"]
    ended = {
        reason: sum(
            v - finished_before.get(labels, 0)
            for labels, v in finished.items()
            if f'"{reason}"' in labels
        )
        for reason in ["length", "abort"]
    }
    assert ended == {"length": CLIENTS - left, "abort": left}


def test_a_client_that_leaves_while_queued_is_forgotten():
    with serving("--model", MOE, "--threads", 2, "--max-sequences", 1) as server:
        running = server.stream("/v1/completions", body(1500))
        next(running)
        with server.connect() as queued:
            queued.request("POST", "/v1/completions", '{"prompt": "Never"}')
            wait_for(
                lambda: server.metric("num_requests_waiting") == 1, "the second request to wait"
            )
        wait_for(lambda: server.metric("num_requests_waiting") == 0, "it to be forgotten")
        running.close()
        wait_for_rest(server)


def test_a_slow_reader_stalls_nobody(server):
    # 20 logprobs with each token: more than the sockets' buffers take.
    tokens, n = 250, 40
    raw = (
        '{"prompt": "Once", "stream": true, "ignore_eos": true, "logprobs": 20, '
        f'"max_tokens": {tokens}, "n": {n}}}'
    )
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(60 * TIME_SCALE)
        slow.connect(("127.0.0.1", server.port))
        slow.sendall(
            f"POST /v1/completions HTTP/1.0\r\nContent-Length: {len(raw)}\r\n\r\n{raw}".encode()
        )
        wait_for(
            lambda: server.metric("num_requests_paused") > 0, "the slow reader to be paused", 90
        )
        assert read_http(server, 40, None) == "length"
        assert read_grpc(server, 40, None) == "length"
        assert server.metric("num_requests_paused") > 0
        answer = b"".join(iter(lambda: slow.recv(1 << 20), b""))
    assert answer.count(b'"finish_reason":"length"') == n
    assert answer.endswith(b"data: [DONE]\n\n")
    wait_for_rest(server)


def test_a_slow_reader_that_leaves_frees_everything(server):
    raw = '{"prompt": "Once", "stream": true, "ignore_eos": true, "max_tokens": 400, "n": 8}'
    with socket.socket() as slow:
        slow.connect(("127.0.0.1", server.port))
        slow.sendall(
            f"POST /v1/completions HTTP/1.0\r\nContent-Length: {len(raw)}\r\n\r\n{raw}".encode()
        )
        wait_for(lambda: server.metric("num_requests_running") == 8, "the sequences to run")
    wait_for_rest(server)


def test_a_full_queue_refuses():
    with serving("--model", MOE, "--threads", 2, "--max-sequences", 1, "--max-queue", 1) as server:
        running = server.stream("/v1/completions", body(1500))
        next(running)
        wait_for(lambda: server.metric("num_requests_waiting") == 0, "the queue to be empty")
        with server.connect() as queued:
            queued.request("POST", "/v1/completions", '{"prompt": "Waits"}')
            wait_for(lambda: server.metric("num_requests_waiting") == 1, "the queue to be full")
            refused = server.post("/v1/completions", {"prompt": "Too many"})
            assert refused.status == 429 and refused.error["type"] == "rate_limit_error"
        running.close()


def test_many_idle_connections_are_fine(server):
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(500)]
    try:
        assert read_http(server, 5, None) == "length"
        wait_for(lambda: server.metric("http_connections") >= 500, "500 connections")
    finally:
        for each in idle:
            each.close()
    wait_for_rest(server)
