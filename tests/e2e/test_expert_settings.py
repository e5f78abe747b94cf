"""The expert cache's settings, as an operator gives them."""

import pytest

from support import DENSE, MOE, hostler, hostler_json, serving, wait_for

REQUEST = {
    "prompt": [5 + 7 * i % 4000 for i in range(30)],
    "max_tokens": 24,
    "temperature": 0,
    "ignore_eos": True,
}


def ask(server):
    reply = server.post("/v1/completions", REQUEST)
    assert reply.status == 200, reply.body
    return reply.json["choices"][0]["text"]


@pytest.fixture(scope="module")
def expected():
    with serving("--model", MOE, "--threads", 1) as server:
        return ask(server)


def test_settings_of_yaml_serve_the_same_tokens_and_leave_their_files(tmp_path, expected):
    pins = tmp_path / "pins"
    pins.write_text("0 1-3  # hot\n4 7\n")
    popularity, trace = tmp_path / "popularity", tmp_path / "trace.csv"
    config = tmp_path / "hostler.yaml"
    config.write_text(
        f"""
models:
  - path: {MOE}
    expert_memory: 13MiB
    expert_policy: ema
    expert_io: pread
    expert_direct_io: off
    expert_pins: {pins}
    expert_popularity: {popularity}
    expert_trace: {trace}
    expert_trace_size: 10MiB
"""
    )
    with serving("--config", config) as server:
        wait_for(lambda: server.metric("expert_cache_resident_bytes") > 0, "the pinned experts")
        assert ask(server) == expected
        assert not popularity.exists()
    assert popularity.exists()

    analysis = hostler("analyze", trace).stdout
    assert "offload" in analysis
    [row] = hostler_json("replay", trace, "--capacity", "25%", "--policy", "ema")
    assert row["lookups"] == 23 * 8 * 4
    assert 0 < row["hits"] < row["lookups"]

    # The next run starts with more than the pins.
    with serving("--config", config) as server:
        wait_for(lambda: server.metric("expert_cache_resident_bytes") > 10e6, "popular experts")
        assert "warning" not in server.log()
        assert ask(server) == expected


def test_a_damaged_popularity_file_is_a_warning_in_the_log(tmp_path, expected):
    popularity = tmp_path / "popularity"
    popularity.write_bytes(b"HOSTPOP1" + bytes(200))
    flags = ["--model", MOE, "--expert-memory", "13MiB", "--expert-popularity", popularity]
    with serving(*flags) as server:
        assert "starts cold" in server.log()
        assert ask(server) == expected


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--expert-policy", "mru"], ["--expert-policy", "mru", "learned"]),
        (["--expert-io", "carrier-pigeon"], ["--expert-io", "uring"]),
        (["--expert-pins", "/nowhere"], ["expert_pins", "/nowhere"]),
        (["--expert-trace", "/nowhere/trace"], ["/nowhere/trace"]),
    ],
)
def test_what_cannot_be_is_an_error(flags, words):
    done = hostler("run --tokens 1,2,3 --max-tokens 1", "--model", MOE, *flags, check=False)
    assert done.returncode != 0
    for word in words:
        assert word in done.stderr


def test_a_dense_model_has_nothing_to_pin(tmp_path):
    pins = tmp_path / "pins"
    pins.write_text("0 0\n")
    done = hostler(
        "run --tokens 1,2,3 --max-tokens 1", "--model", DENSE, "--expert-pins", pins, check=False
    )
    assert done.returncode != 0
    assert "no experts" in done.stderr
