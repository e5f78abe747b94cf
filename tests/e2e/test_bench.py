"""`hostler bench`, of the engine and of a server."""

import pytest

from support import MOE, hostler_json


def test_the_engine_is_measured():
    rows = hostler_json(
        "bench --prompt-tokens 64 --gen-tokens 8 --batch 1,4 --repeat 1", "--model", MOE
    )
    assert [row["batch"] for row in rows] == [1, 4]
    for row in rows:
        assert row["prefill_tokens_per_s"] > 0 and row["decode_tokens_per_s"] > 0


def test_a_server_is_measured(server):
    report = hostler_json(
        "bench --model moe --concurrency 4 --requests 12 --prompt-tokens 8-64 --gen-tokens 4-16"
        " --slo-ttft-ms 60000",
        "--url",
        server.url,
    )
    check_report(report, 12)
    assert report["goodput"] > 0


def test_arrivals_at_a_rate(server):
    flags = "--model dense --rate 20 --requests 10 --prompt-tokens 8 --gen-tokens 4"
    check_report(hostler_json(f"bench {flags}", "--url", server.url), 10)


@pytest.mark.parametrize("trace", ["azure_conv_2023.csv", "mooncake_conversation.jsonl"])
def test_a_trace_is_replayed(server, shared, trace):
    command = "bench --model dense --limit 6 --scale 8 --speed 100"
    path = shared / "data/traces" / trace
    report = hostler_json(command, "--url", server.url, "--trace", path)
    assert report["completed"] > 0
    check_report(report, report["completed"])


def check_report(report, completed):
    assert report["completed"] == completed and not report["failures"]
    for times in ["ttft_ms", "itl_ms", "e2e_ms"]:
        distribution = report[times]
        assert 0 <= distribution["p50"] <= distribution["p90"] <= distribution["p99"]
        assert distribution["p99"] > 0
    assert report["output_tokens_per_s"] > 0
