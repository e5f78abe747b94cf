"""Bad requests: each a clear error that names what is wrong, the daemon alive."""

import socket

import pytest

from support import grpc_generate, grpc_stub, wait_for_rest


@pytest.fixture(autouse=True)
def still_serves(server):
    yield
    assert server.alive()
    reply = server.post("/v1/completions", {"prompt": "Once", "max_tokens": 2})
    assert reply.status == 200
    wait_for_rest(server)


COMPLETIONS = [
    ("no prompt", {}, "prompt"),
    ("null prompt", {"prompt": None}, "prompt"),
    ("a number", {"prompt": 5}, "prompt"),
    ("an object", {"prompt": {"text": "a"}}, "prompt"),
    ("empty", {"prompt": ""}, "prompt"),
    ("no ids", {"prompt": []}, "prompt"),
    ("empty list within", {"prompt": [[1], []]}, "prompt[1]"),
    ("mixed", {"prompt": ["a", 5]}, "prompt[1]"),
    ("negative id", {"prompt": [1, -5]}, "prompt[1]"),
    ("fraction", {"prompt": [1, 2.5]}, "prompt[1]"),
    ("id beyond the vocabulary", {"prompt": [1, 4096]}, "prompt"),
    ("huge id", {"prompt": [2**40]}, "prompt[0]"),
    ("too long", {"prompt": [5] * 2048}, "prompt"),
    ("too long a text", {"prompt": "word " * 5000}, "prompt"),
    ("negative count", {"prompt": "a", "max_tokens": -1}, "max_tokens"),
    ("zero count", {"prompt": "a", "max_tokens": 0}, "max_tokens"),
    ("fractional count", {"prompt": "a", "max_tokens": 1.5}, "max_tokens"),
    ("huge count", {"prompt": "a", "max_tokens": 10**30}, "max_tokens"),
    ("text for a count", {"prompt": "a", "max_tokens": "5"}, "max_tokens"),
    ("negative n", {"prompt": "a", "n": -1}, "n"),
    ("huge n", {"prompt": "a", "n": 10**9}, "n"),
    ("best_of", {"prompt": "a", "best_of": 3}, "best_of"),
    ("negative logprobs", {"prompt": "a", "logprobs": -1}, "logprobs"),
    ("too many logprobs", {"prompt": "a", "logprobs": 5000}, "logprobs"),
    ("temperature too high", {"prompt": "a", "temperature": 1e30}, "temperature"),
    ("top_p of 0", {"prompt": "a", "top_p": 0}, "top_p"),
    ("top_p of 2", {"prompt": "a", "top_p": 2}, "top_p"),
    ("min_p", {"prompt": "a", "min_p": -0.1}, "min_p"),
    ("top_k", {"prompt": "a", "top_k": -7}, "top_k"),
    ("penalty", {"prompt": "a", "presence_penalty": 3}, "presence_penalty"),
    ("repetition penalty", {"prompt": "a", "repetition_penalty": 0}, "repetition_penalty"),
    ("seed", {"prompt": "a", "seed": "x"}, "seed"),
    ("stream", {"prompt": "a", "stream": "yes"}, "stream"),
    ("stop", {"prompt": "a", "stop": [1]}, "stop[0]"),
    ("many stops", {"prompt": "a", "stop": ["x"] * 1000}, "stop"),
    ("bias", {"prompt": "a", "logit_bias": [1]}, "logit_bias"),
    ("biased word", {"prompt": "a", "logit_bias": {"word": 1}}, "logit_bias"),
    ("bias too high", {"prompt": "a", "logit_bias": {"5": 1000}}, "logit_bias.5"),
    ("model", {"prompt": "a", "model": 5}, "model"),
    ("echo", {"prompt": "a", "echo": 1}, "echo"),
    (
        "stream options",
        {"prompt": "a", "stream_options": {"include_usage": True}},
        "stream_options",
    ),
]


@pytest.mark.parametrize(
    "fields, param", [row[1:] for row in COMPLETIONS], ids=[row[0] for row in COMPLETIONS]
)
def test_a_bad_field_is_named(server, fields, param):
    reply = server.post("/v1/completions", {"model": "moe", **fields})
    assert reply.status == 400, reply.body
    assert reply.error["param"] == param and reply.error["message"]
    assert reply.error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "messages",
    [
        None,
        {},
        "Hi",
        [],
        [5],
        [{}],
        [{"role": 5, "content": "Hi"}],
        [{"role": "user", "content": 5}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        [{"role": "user", "content": "word " * 5000}],
    ],
)
def test_bad_messages_are_named(server, messages):
    reply = server.post("/v1/chat/completions", {"model": "moe", "messages": messages})
    assert reply.status == 400, reply.body
    assert reply.error["param"].startswith("messages")


NOT_JSON = [
    b"",
    b"{",
    b'{"prompt": "a"',
    b"[]",
    b"null",
    b'"a"',
    b'{"prompt": "a"} x',
    b"\xff\xfe",
    b'{"prompt": "a", "max_tokens": NaN}',
    b'{"prompt": "\xff\xfe"}',
    b'{"prompt": "\xed\xa0\x80"}',
    b'{"prompt": "\\ud800"}',
    b'{"\xc3": 1, "prompt": "a"}',
]


@pytest.mark.parametrize("body", NOT_JSON)
@pytest.mark.parametrize(
    "path", ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"]
)
def test_what_is_not_json_or_not_utf8_is_refused(server, path, body):
    reply = server.post(path, body)
    assert reply.status == 400 and reply.error["message"], reply.body


@pytest.mark.parametrize("opening, closing", [("[", "]"), ('{"a":', "}")])
def test_deep_nesting_is_refused(server, opening, closing):
    for depth in [1000, 200_000]:
        nested = opening * depth + "1" + closing * depth
        for body in [
            nested,
            f'{{"prompt": {nested}}}',
            f'{{"messages": [{{"role": "user", "content": {nested}}}]}}',
        ]:
            for path in ["/v1/completions", "/v1/chat/completions"]:
                assert server.post(path, body).status == 400


def test_an_unknown_model_is_not_found(server):
    for path, fields in [
        ("/v1/completions", {"prompt": "a"}),
        ("/tokenize", {"prompt": "a"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
        ("/detokenize", {"tokens": [5]}),
    ]:
        reply = server.post(path, {**fields, "model": "absent"})
        assert reply.status == 404 and "absent" in reply.error["message"]


def test_paths_and_methods_that_are_not_there(server):
    assert server.get("/v1/dance").status == 404
    assert server.get("/v1/completions").status == 405
    assert server.request("DELETE", "/health").status == 405


def raw_exchange(server, data):
    """Everything that comes back for these bytes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as s:
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: s.recv(65536), b""))


def post_head(length):
    return f"POST /v1/completions HTTP/1.1\r\nHost: x\r\n{length}\r\n\r\n".encode()


def test_a_huge_body_is_refused(server):
    for data in [
        post_head("Content-Length: 17000000") + b"x" * 1000,
        post_head("Content-Length: 18446744073709551615"),
        post_head("Transfer-Encoding: chunked") + b"1100000\r\n" + b"x" * 1000,
    ]:
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as s:
            s.sendall(data)
            answer = s.recv(65536)
        assert answer.startswith(b"HTTP/1.1 413 "), answer


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"GET / HTTP/9.9\r\n\r\n",
        post_head("Content-Length: -5"),
        post_head("Content-Length: x"),
    ],
)
def test_what_is_not_http_is_refused(server, data):
    answer = raw_exchange(server, data)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 "), answer


def test_huge_headers_are_refused(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as s:
        s.sendall(b"GET /health HTTP/1.1\r\nX: " + b"x" * 100_000)
        assert s.recv(65536).startswith(b"HTTP/1.1 431 ")


def test_a_request_that_breaks_off_is_forgotten(server):
    for data in [b"", b"GET /hea", post_head("Content-Length: 100") + b'{"prompt"']:
        raw_exchange(server, data)


def test_fields_that_are_unknown_are_ignored(server):
    reply = server.post(
        "/v1/completions", {"prompt": "a", "max_tokens": 2, "user": "me", "dance": 1}
    )
    assert reply.status == 200


def test_a_grpc_message_that_is_too_large_is_refused(server):
    import grpc

    with grpc_stub(server) as stub, pytest.raises(grpc.RpcError) as raised:
        grpc_generate(stub, text="x" * (80 << 20))
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
