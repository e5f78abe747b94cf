"""`hostler bench`, of the engine and of a server."""

import json

from support import MOE, hostler


def test_the_engine_is_measured():
    rows = json.loads(hostler("bench", "--model", MOE, "--prompt-tokens", 64, "--gen-tokens", 8,
                              "--batch", "1,4", "--repeat", 1, "--json").stdout)
    assert [row["batch"] for row in rows] == [1, 4]
    for row in rows:
        assert row["prefill_tokens_per_s"] > 0 and row["decode_tokens_per_s"] > 0


def test_a_server_is_measured(server):
    report = json.loads(hostler(
        "bench", "--url", server.url, "--model", "moe", "--concurrency", 4, "--requests", 12,
        "--prompt-tokens", "8-64", "--gen-tokens", "4-16", "--slo-ttft-ms", 60000, "--json").stdout)
    check_report(report, 12)
    assert report["goodput"] > 0


def test_arrivals_at_a_rate(server):
    report = json.loads(hostler("bench", "--url", server.url, "--model", "dense", "--rate", 20,
                                "--requests", 10, "--prompt-tokens", 8, "--gen-tokens", 4,
                                "--json").stdout)
    check_report(report, 10)


def test_a_trace_is_replayed(server, shared):
    for trace in ["azure_conv_2023.csv", "mooncake_conversation.jsonl"]:
        report = json.loads(hostler(
            "bench", "--url", server.url, "--model", "dense", "--trace",
            shared / "data/traces" / trace, "--limit", 6, "--scale", 64, "--speed", 100,
            "--json").stdout)
        assert report["completed"] > 0
        check_report(report, report["completed"])


def check_report(report, completed):
    assert report["completed"] == completed and not report["failures"]
    for times in ["ttft_ms", "itl_ms", "e2e_ms"]:
        distribution = report[times]
        assert 0 < distribution["p50"] <= distribution["p90"] <= distribution["p99"]
    assert report["output_tokens_per_s"] > 0
