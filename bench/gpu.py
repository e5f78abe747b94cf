#!/usr/bin/env python3
"""All that docs/cuda.md asks of a machine with a GPU, in one go: build, tests on the hardware,
compute-sanitizer, bandwidths, tokens/s against their bounds. Needs the tree, what the preset `cuda`
builds with, and Python's standard library; no network.

    bench/gpu.py --quick --out report          # below 10 minutes
    bench/gpu.py --build-dir build/cuda --out report
    bench/gpu.py --dry-run --build-dir build/cuda-emulated --out report

Writes report.json and report.md into the folder after every step. A step that fails or takes too
long is noted there and the others go on. --dry-run takes every step on the emulation with a tiny
model: its figures say that the script works, and nothing of any hardware.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("memcheck", "racecheck", "synccheck")
# Dense multiply-adds a clock of a multiprocessor's tensor cores with bf16 inputs and f32 sums; int8
# ones are twice that. From NVIDIA's architecture papers: A100 (312 TFLOPS = 108 x 1.41 GHz x 2 x 1024),
# L40S (366 = 142 x 2.52 GHz x 2 x 512), H100 SXM (989 = 132 x 1.83 GHz x 2 x 2048).
TENSOR_MACS = {"8.0": 1024, "8.6": 512, "8.9": 512, "9.0": 2048}
QUICK_SECONDS = 570


class Failed(Exception):
    """A step's; its text says why."""


def run(command, timeout, cwd=ROOT, env=None):
    """stdout of a command. Its whole group of processes ends with it."""
    command = [str(part) for part in command]
    process = subprocess.Popen(command, cwd=cwd, env=env, text=True, start_new_session=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    try:
        out, err = process.communicate(timeout=max(timeout, 1))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.communicate()
        raise Failed(f"`{' '.join(command)}` took more than {timeout:.0f} s") from None
    if process.returncode != 0:
        tail = "\n".join((out + err).splitlines()[-12:])
        raise Failed(f"`{' '.join(command)}`: exit code {process.returncode}: {tail}")
    return out


def have(program):
    return shutil.which(program) is not None


class Report:
    """What the steps found, in the order they were taken."""

    def __init__(self, options):
        self.options, self.begin = options, time.monotonic()
        self.steps = {}
        self.data = {"dry_run": options.dry_run, "quick": options.quick, "steps": self.steps}
        Path(options.out).mkdir(parents=True, exist_ok=True)

    def left(self):
        limit = self.options.limit or (QUICK_SECONDS if self.options.quick else 4 * 3600)
        return limit - (time.monotonic() - self.begin)

    def step(self, name, seconds, function):
        """Takes a step of at most `seconds`; returns what it found, or None."""
        start, result = time.monotonic(), None
        timeout = min(seconds, self.left())
        entry = self.steps[name] = {}
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            if timeout < 3:
                raise Failed("no time is left")
            result = function(timeout)
            entry["result"] = result
            if isinstance(result, dict) and "skipped" in result:
                entry["skipped"], result = result["skipped"], None
        except (Failed, OSError, ValueError, KeyError, ZeroDivisionError) as error:
            entry["failed"] = str(error) or type(error).__name__
        entry["seconds"] = round(time.monotonic() - start, 1)
        print(f"    {self.outcome(entry)}, {entry['seconds']} s", file=sys.stderr, flush=True)
        self.write()
        return result

    @staticmethod
    def outcome(entry):
        if "failed" in entry:
            return "FAILED: " + entry["failed"].splitlines()[0]
        return f"skipped: {entry['skipped']}" if "skipped" in entry else "done"

    def write(self):
        self.data["seconds"] = round(time.monotonic() - self.begin, 1)
        out = Path(self.options.out)
        (out / "report.json").write_text(json.dumps(self.data, indent=1) + "\n")
        (out / "report.md").write_text(self.markdown())

    def markdown(self):
        lines = ["# A GPU's run", ""]
        if self.options.dry_run:
            lines += ["**A dry run on the emulation. No figure here says anything of hardware.**", ""]
        if device := self.steps.get("device", {}).get("result"):
            gpu = device["gpu"]
            lines += [
                f"{gpu['name']}, sm {gpu['capability']}, {gpu['multiprocessors']} multiprocessors, "
                f"{gpu['memory_bytes'] / 2**30:.1f} GiB; CUDA driver {gpu['driver']}, runtime {gpu['runtime']}",
                "",
            ]
        lines += ["| step | outcome | seconds |", "|---|---|---|"]
        for name, entry in self.steps.items():
            lines.append(f"| {name} | {self.outcome(entry).replace('|', '/')} | {entry['seconds']} |")
        if findings := self.data.get("findings"):
            lines += ["", "| what | figure | bound | share |", "|---|---|---|---|"]
            for f in findings:
                share = f"{100 * f['share']:.0f}%" if f.get("share") is not None else ""
                bound = f"{f['bound']:.4g} {f['unit']}" if f.get("bound") else ""
                lines.append(f"| {f['what']} | {f['figure']:.4g} {f['unit']} | {bound} | {share} |")
        return "\n".join(lines) + "\n"

    def finding(self, what, figure, unit, bound=None):
        share = figure / bound if bound else None
        self.data.setdefault("findings", []).append(
            {"what": what, "figure": figure, "unit": unit, "bound": bound, "share": share}
        )


# -- Building and testing ---------------------------------------------------------


def machine(_):
    if not have("nvidia-smi"):
        raise Failed("no nvidia-smi")
    query = "name,compute_cap,memory.total,driver_version,pcie.link.gen.max,pcie.link.width.max,power.limit"
    lines = run(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"], 60).splitlines()
    return [dict(zip(query.split(","), map(str.strip, line.split(",")))) for line in lines]


def build(options, gpus):
    preset = "cuda-emulated" if options.dry_run else "cuda"
    flags = [] if have("ccache") else ["-DCMAKE_CXX_COMPILER_LAUNCHER="]
    flags += [] if have("ninja") else ["-G", "Unix Makefiles"]
    if gpus:
        flags.append(f"-DCMAKE_CUDA_ARCHITECTURES={gpus[0]['compute_cap'].replace('.', '')}-real")

    def take(timeout):
        start = time.monotonic()
        run(["cmake", "--preset", preset, "-B", options.build_dir, *flags], timeout)
        targets = ["gpu_bench", "compute_test", "cuda_models_test"]
        left = timeout - (time.monotonic() - start)
        run(["cmake", "--build", options.build_dir, "-j", os.cpu_count() or 1, "--target", *targets], left)
        return {"preset": preset, "flags": flags}

    return take


def tests(options, binary, filters):
    """Runs a test binary; how many tests ran, and which failed."""

    def take(timeout):
        out = Path(options.out).resolve() / f"{binary}.json"
        out.unlink(missing_ok=True)
        try:
            run([options.build_dir / binary, f"--gtest_filter={filters}", f"--gtest_output=json:{out}"], timeout)
        except Failed as error:
            if not out.exists():
                raise
            failed = [
                f"{suite['name']}.{test['name']}"
                for suite in json.loads(out.read_text())["testsuites"]
                for test in suite["testsuite"]
                if test.get("failures")
            ]
            raise Failed(f"{len(failed)} tests failed: {', '.join(failed[:8])}; {error}") from None
        report = json.loads(out.read_text())
        every = [test for suite in report["testsuites"] for test in suite["testsuite"]]
        ran = [test for test in every if test["result"] == "COMPLETED"]
        if ran:
            return {"tests": len(ran)}
        why = {skipped["message"].splitlines()[-1] for test in every for skipped in test.get("skipped", [])}
        # The reference models are not everywhere.
        if len(why) == 1 and "golden" in (reason := why.pop()):
            return {"skipped": reason}
        raise Failed(f"no test ran {' '.join(why)}")

    return take


def sanitize(options, tool, filters):
    def take(timeout):
        if not have("compute-sanitizer"):
            return {"skipped": "compute-sanitizer is not installed"}
        if options.dry_run:
            return {"skipped": "compute-sanitizer knows hardware only"}
        out = run(["compute-sanitizer", "--tool", tool, "--error-exitcode", 9,
                   options.build_dir / "compute_test", f"--gtest_filter={filters}"], timeout)  # fmt: skip
        summary = [line for line in out.splitlines() if "ERROR SUMMARY" in line or "RACECHECK SUMMARY" in line]
        return {"summary": summary[-1] if summary else "no summary"}

    return take


# -- Measuring ----------------------------------------------------------------------


def gpu_bench(options, *arguments, timeout):
    return json.loads(run([options.build_dir / "gpu_bench", *arguments], timeout))


def make_model(options):
    def take(timeout):
        if options.model:
            return {"path": options.model, "given": True}
        path = Path(options.out).resolve() / f"{options.preset}.gguf"
        run([sys.executable, ROOT / "bench/gpu_model.py", "--preset", options.preset, "--type", options.type,
             path], timeout)  # fmt: skip
        return {"path": str(path), "bytes": path.stat().st_size}

    return take


def serve(options, model, **settings):
    words = [f"{key}={value}" for key, value in settings.items()]

    def take(timeout):
        return gpu_bench(options, "serve", f"model={model}", f"device={options.device}", *words, timeout=timeout)

    return take


def bytes_of_step(work, clients):
    """What a step with one row for each client reads of the device's memory at least, if every expert
    is as likely: dense weights once, and the experts that any of the rows chose."""
    experts = work["experts"] * (1 - (1 - work["experts_per_token"] / max(work["experts"], 1)) ** clients)
    return work["dense_bytes"] + work["moe_layers"] * experts * work["slot_bytes"]


def measure(report, options, device, model):
    short = options.dry_run or options.quick
    decode = {"decode_tokens": 8 if options.dry_run else 128 if short else 512,
              "warm_tokens": 4 if options.dry_run else 64}  # fmt: skip
    limit = 60 if options.dry_run else 240
    link, memory = device["to_device_bytes_per_second"], device["memory_bytes_per_second"]
    report.finding("copies within the device's memory", memory / 1e9, "GB/s",
                   device["gpu"]["memory_bytes_per_second"] / 1e9)  # fmt: skip
    report.finding("pinned memory to the device", link / 1e9, "GB/s")
    report.finding("the device to pinned memory", device["to_host_bytes_per_second"] / 1e9, "GB/s")

    full, compute_s = None, {}
    for clients in options.clients:
        settings = dict(decode, clients=clients)
        if clients == options.clients[0]:
            settings["prompt_tokens"] = options.prompt_tokens
        found = report.step(f"all experts on the device, {clients} clients", limit,
                            serve(options, model, **settings))  # fmt: skip
        if found is None:
            continue
        full = full or found
        tokens = found["decode"]["tokens_per_second"]
        compute_s[clients] = clients / tokens
        report.finding(f"decode, all experts on the device, {clients} clients", tokens, "tokens/s",
                       clients * memory / bytes_of_step(found["work"], clients))  # fmt: skip
        if "prefill" in found:
            peak_per_clock = TENSOR_MACS.get(device["gpu"]["capability"])
            peak = None
            if peak_per_clock:
                gpu = device["gpu"]
                peak = peak_per_clock * gpu["multiprocessors"] * gpu["clock_hz"] / found["work"]["macs_of_row"]
            report.finding(f"prefill of {options.prompt_tokens} tokens, against the tensor cores' bf16 peak",
                           found["prefill"]["tokens_per_second"], "tokens/s", peak)  # fmt: skip

    modes = ("copy only", "hybrid") if device["hybrid"] else ("",)
    for percent in (*options.percents, 0):
        for mode in modes:
            if percent == 0 and mode == "hybrid":
                continue
            what = f"{percent}% of the experts" if percent else "copying what every step asks for"
            what += f", {mode}" if mode else ""
            settings = dict(decode, clients=1, expert_percent=percent)
            if mode:
                settings["hybrid"] = "off" if mode == "copy only" else "auto"
            found = report.step(what, limit, serve(options, model, **settings))
            if found is None:
                continue
            done = found["decode"]
            missed_s = done["missed_bytes"] / max(done["tokens"], 1) / link
            bound = 1 / max(compute_s.get(1, 0), missed_s) if compute_s.get(1, 0) or missed_s else None
            report.finding(f"decode, {what}", done["tokens_per_second"], "tokens/s", bound)
    if full and (everything := full["work"]["moe_layers"] * full["work"]["experts"] * full["work"]["slot_bytes"]):
        report.finding("copying every expert of every layer for each token (arithmetic)", link / everything,
                       "tokens/s")  # fmt: skip
    report.write()


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder for the report and the model")
    parser.add_argument("--build-dir", type=Path, help="default: build/<preset>")
    parser.add_argument("--no-build", action="store_true", help="the build folder has what is needed")
    parser.add_argument("--quick", action="store_true", help="below 10 minutes")
    parser.add_argument("--dry-run", action="store_true", help="every step on the emulation, a tiny model")
    parser.add_argument("--device", default="cuda", help="cuda or cuda:N")
    parser.add_argument("--model", help="a model to measure in place of one that is made")
    parser.add_argument("--preset", help="of gpu_model.py; default mix7b")
    parser.add_argument("--type", default="Q4_0", help="of its matrices: Q4_0 or Q8_0")
    parser.add_argument("--clients", type=lambda text: [int(n) for n in text.split(",")], help="default 1,8")
    parser.add_argument("--percents", type=lambda text: [int(n) for n in text.split(",")], default=[25, 10])
    parser.add_argument("--prompt-tokens", type=int)
    parser.add_argument("--limit", type=float, help="seconds for everything")
    options = parser.parse_args()
    options.preset = options.preset or ("tiny" if options.dry_run else "mix7b")
    options.clients = options.clients or ([1, 2] if options.dry_run else [1, 8])
    options.prompt_tokens = options.prompt_tokens or (32 if options.dry_run else 2048)
    options.build_dir = (
        options.build_dir or ROOT / "build" / ("cuda-emulated" if options.dry_run else "cuda")
    ).resolve()
    if options.dry_run:
        options.device = "cuda-emulated"
    return options


def main():
    options = parse()
    report = Report(options)
    gpus = None if options.dry_run else report.step("nvidia-smi", 60, machine)
    if not options.no_build:
        report.step("build", 3600, build(options, gpus))
    kernels, models = "*/cuda*:*Cuda*", "Golden/CudaModelTest*"
    if options.dry_run:
        kernels, models = "*RowOps*/cuda*:*GateTest*/cuda*", "Golden/CudaModelTest*/mixtral"
    elif options.quick:
        models = "Golden/CudaModelTest*/qwen3_moe:Golden/CudaModelTest*/deepseek_v3:Golden/CudaModelTest*/mixtral"
    report.step("kernels' tests", 120 if options.quick else 1200, tests(options, "compute_test", kernels))
    report.step("models' tests", 120 if options.quick else 1200, tests(options, "cuda_models_test", models))
    seconds = "0.05" if options.dry_run else "1"
    device = report.step("device", 60, lambda t: gpu_bench(options, "device", options.device, seconds, timeout=t))
    model = report.step("model", 300, make_model(options))
    if device and model:
        measure(report, options, device, model["path"])
    # Last: slow, and of no use to what is measured.
    small = "*RowOps*/cuda*:*GateTest*/cuda*:*ExpertTest*/cuda*" if options.quick else kernels
    for tool in TOOLS:
        report.step(f"compute-sanitizer {tool}", 60 if options.quick else 1800, sanitize(options, tool, small))
    report.write()
    print(report.markdown())
    failed = [name for name, entry in report.steps.items() if "failed" in entry]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
