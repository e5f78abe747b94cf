"""What the comparison scripts of this folder share: servers (ours and the peers'),
with or without a memory limit, a streaming client that notes when each token came,
the disk's speed, and tables.

Every process that is started here is ended here, by its pid, and has a time limit.
Standard library only; Linux.
"""

import argparse
import contextlib
import fcntl
import http.client
import json
import mmap
import os
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
MiB, GiB = 1 << 20, 1 << 30


def say(text):
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


# --- arguments ---------------------------------------------------------------


def common_parser(doc):
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--hostler", default=str(ROOT / "build/release/hostler"), help="our binary")
    p.add_argument("--model", required=True, help="GGUF of mix7b (make_moe_gguf.py --preset mix7b)")
    p.add_argument("--store", help="the same as a packed store; written here if it is missing")
    p.add_argument("--ik", metavar="DIR", help="folder with ik_llama.cpp's llama-server")
    p.add_argument("--llama", metavar="DIR", help="folder with llama.cpp's llama-server")
    p.add_argument("--llama-args", default="", metavar="ARGS",
                   help="more for llama.cpp in memory (--no-repack where its AMX kernels crash)")
    p.add_argument("--ik-prefetch-threads", type=int, default=8, metavar="N",
                   help="of ik_llama.cpp's --prefetch-experts (default 8)")
    p.add_argument("--capped", default=str(SHARED / "tools/capped.sh"), help="path of capped.sh")
    p.add_argument("--limit", default="2G", help="memory limit of capped runs (default 2G)")
    p.add_argument("--memory", default="1800MiB",
                   help="our --memory under the limit (default 1800MiB: room for the process itself)")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, help="times that all systems take turns")
    p.add_argument("--quick", action="store_true", help="fewer and shorter runs: hints only")
    p.add_argument("--lock", help="file to lock while a capped run is under way (shared machines)")
    p.add_argument("--json", metavar="FILE", help="write the raw numbers there")
    return p


class Setup:
    """The arguments, checked; what cannot be had here is said and left out."""

    def __init__(self, args, peers=True):
        self.args = args
        for path in [args.hostler, args.model]:
            if not Path(path).exists():
                sys.exit(f"{path}: no such file")
        for name in ["hostler", "model", "store", "ik", "llama", "capped"]:
            if value := getattr(args, name):  # servers run in folders of their own
                setattr(args, name, os.path.abspath(value))
        self.shape = inspect(args.hostler, args.model)
        limited = peers and args.capped  # "": no run is
        self.cap = usable_cap(args.capped) if limited else None
        if limited and not self.cap:
            say("NO MEMORY LIMIT: peers map the file into free memory, so ratios to them mean nothing")
        if args.store and not (Path(args.store) / "manifest.json").exists():
            say(f"packing {args.model} into {args.store}")
            subprocess.run([args.hostler, "pack", args.model, "-o", args.store], check=True,
                           timeout=600, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if not args.store:
            say("no --store: ours is measured from GGUF only")
        wanted = [("ik_llama.cpp", args.ik), ("llama.cpp", args.llama)] if peers else []
        self.peers = {name: self.peer(name, folder) for name, folder in wanted}

    def peer(self, name, folder):
        path = Path(folder) / "llama-server" if folder else None
        if path and os.access(path, os.X_OK):
            return str(path)
        say(f"{name} is LEFT OUT: " + (f"no {path}" if path else "its folder was not given"))
        return None

    @property
    def all_expert_bytes(self):
        s = self.shape
        return s["moe_layers"] * s["experts"] * s["bytes_per_expert"]

    def ours(self, model, context, sequences=1, in_memory=False):
        """Command of our server; {port} is filled in when it starts. Like a peer's it keeps
        KV for `sequences` of `context` tokens."""
        memory = [self.args.memory]
        if in_memory:
            every = self.all_expert_bytes // MiB + 1
            memory = [f"{every + self.shape['dense_bytes'] // MiB + 1536}MiB",
                      "--expert-memory", f"{every}MiB"]
        kv = sequences * context * self.shape["kv_bytes_per_token"] // MiB
        return [self.args.hostler, "serve", "--model", f"m={model}", "--port", "{port}",
                "--grpc-port", "off", "--threads", str(self.args.threads), "--memory", *memory,
                "--kv-memory", f"{max(kv, 1)}MiB", "--max-context", str(context),
                "--expert-popularity", "off",  # every run starts as cold as the others
                "--log-level", "warn"]

    def read_all_experts(self, server):
        """Prompts the server until all experts are resident."""
        prompts = Prompts(self.shape["vocab"], seed=7)
        for _ in range(8):
            if not Stream(server.port, prompts.ids(256), 1, 1).wait(60):
                break
            if server.counters()["expert_cache_resident_bytes"] >= 0.999 * self.all_expert_bytes:
                return
        raise Failed("not all experts became resident")

    def contestants(self, context, sequences=1):
        """[(name, command, is ours, is slow)], peers and ours taking turns. `context` is
        that of one sequence. "Slow" is who is not expected to finish, and runs once."""
        total = context * sequences
        common = ["-m", self.args.model, "-t", str(self.args.threads), "-c", str(total),
                  "-np", str(sequences), "--host", "127.0.0.1", "--port", "{port}", "--no-warmup",
                  "-cram", "0"]  # no copies of old prompts: that memory is experts'
        prefetch = ["--prefetch-experts", "--prefetch-experts-threads",
                    str(self.args.ik_prefetch_threads)]
        ours = [("hostler, GGUF", self.ours(self.args.model, context, sequences), True, False)]
        if self.args.store:
            ours.append(("hostler, packed", self.ours(self.args.store, context, sequences), True, False))
        peers = []
        if ik := self.peers["ik_llama.cpp"]:
            peers.append(("ik_llama.cpp, mapped", [ik, *common], False, False))
            peers.append(("ik_llama.cpp, --prefetch-experts", [ik, *common, *prefetch], False, False))
        if llama := self.peers["llama.cpp"]:  # repacked weights are a copy, which would not fit
            peers.append(("llama.cpp, mapped", [llama, *common, "-fit", "off", "--no-repack"], False, True))
        turns = []
        for i in range(max(len(ours), len(peers))):
            turns += peers[i:i + 1] + ours[i:i + 1]
        return turns

    def in_memory_peers(self, context, sequences):
        """{name: command} of the peers' servers, with their own best settings."""
        return {name: [server, "-m", self.args.model, "-t", str(self.args.threads),
                       "-np", str(sequences), "-c", str(context * sequences), "--host", "127.0.0.1",
                       "--port", "{port}", "-cram", "0",
                       *(self.args.llama_args.split() if name == "llama.cpp" else [])]
                for name, server in self.peers.items() if server}

    def write_json(self, data):
        if self.args.json:
            Path(self.args.json).write_text(json.dumps(data, indent=1) + "\n")


def inspect(hostler, model):
    out = subprocess.run([hostler, "inspect", "--json", model], check=True, capture_output=True,
                         timeout=60)
    return json.loads(out.stdout)


def usable_cap(path):
    root = Path("/sys/fs/cgroup/memory")
    if os.geteuid() != 0:
        say("NO MEMORY LIMIT: it needs root")
    elif not root.joinpath("memory.limit_in_bytes").exists():
        say("NO MEMORY LIMIT: no cgroup v1 memory controller here")
    elif not os.access(path, os.X_OK):
        say(f"NO MEMORY LIMIT: cannot run {path}")
    else:
        return path
    return None


# --- servers -----------------------------------------------------------------


class Failed(Exception):
    """A server did not start, died, or did not answer in time."""


class Server:
    """A server process on a free port of 127.0.0.1. `seconds` is the most it may live.
    After the `with` block: peak_gib, read_gib (whole machine), swapped_pages; None unless capped."""

    def __init__(self, command, seconds, cap=None, limit=None, lock=None):
        self.command, self.seconds = command, int(seconds)
        self.cap, self.limit, self.lock = cap, limit, lock
        self.peak_gib = self.read_gib = self.swapped_pages = None
        self.folder = self.process = self.pid = self.lock_file = None

    def __enter__(self):
        if self.lock:
            self.lock_file = open(self.lock, "w")
            fcntl.flock(self.lock_file, fcntl.LOCK_EX)
        self.folder = tempfile.mkdtemp(prefix="hostler-bench-")
        self.port = free_port()
        self.swap_before = swapped_out()
        command = [part.replace("{port}", str(self.port)) for part in self.command]
        # The shell notes its pid and becomes the server, which is then ended by that pid. It
        # runs in a folder of its own, since ik_llama.cpp writes a log where it is started.
        command = ["sh", "-c", 'echo $$ > pid; exec "$@" > log 2>&1', "sh", *command]
        if self.cap:
            command = [self.cap, self.limit, str(min(self.seconds, 300)), *command]
        else:
            command = ["timeout", "-k", "5", str(self.seconds), *command]
        self.started = time.monotonic()
        self.process = subprocess.Popen(command, cwd=self.folder, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_):
        try:
            self.stop()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
            if self.lock_file:
                self.lock_file.close()

    def left(self):
        return self.seconds - (time.monotonic() - self.started)

    def wait_ready(self, seconds):
        until = time.monotonic() + min(seconds, self.left())
        while time.monotonic() < until:
            if self.process.poll() is not None:
                killed = " (killed: out of memory?)" if self.process.returncode == 137 else ""
                raise Failed(f"it ended with {self.process.returncode}{killed}: {self.log_tail()}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
                c.request("GET", "/health")
                if c.getresponse().status == 200:
                    return time.monotonic() - self.started
            time.sleep(0.1)
        raise Failed(f"not ready after {seconds:.0f} s")

    def counters(self):
        """Our server's counters and gauges, summed over their labels."""
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        c.request("GET", "/metrics")
        sums = {}
        for line in c.getresponse().read().decode().splitlines():
            if m := re.match(r"hostler:(\w+)(?:\{.*\})? (\S+)$", line):
                sums[m[1]] = sums.get(m[1], 0.0) + float(m[2])
        return sums

    def log_tail(self):
        with contextlib.suppress(OSError):
            lines = Path(self.folder, "log").read_text(errors="replace").strip().splitlines()
            return " / ".join(lines[-3:])[-400:]
        return ""

    def server_pid(self):
        with contextlib.suppress(OSError, ValueError):
            return int(Path(self.folder, "pid").read_text())
        return None

    def stop(self):
        """Ends the server; capped.sh then ends by itself and tells the peak."""
        pid = self.server_pid()
        for sig, patience in [(signal.SIGTERM, 10), (signal.SIGKILL, 20)]:
            if pid and self.process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, sig)
            with contextlib.suppress(subprocess.TimeoutExpired):
                _, err = self.process.communicate(timeout=patience)
                break
        else:
            self.process.kill()
            _, err = self.process.communicate()
        if m := re.search(r"([\d.]+) GiB read from disk, peak ([\d.]+) GiB", err or ""):
            self.read_gib, self.peak_gib = float(m[1]), float(m[2])
            self.swapped_pages = swapped_out() - self.swap_before


def free_port():
    while True:
        port = random.randrange(20000, 60000)
        with socket.socket() as s:
            with contextlib.suppress(OSError):
                s.bind(("127.0.0.1", port))
                return port


def swapped_out():
    for line in Path("/proc/vmstat").read_text().splitlines():
        if line.startswith("pswpout "):
            return int(line.split()[1])
    return 0


# --- client ------------------------------------------------------------------


class Stream:
    """One streaming completion of a prompt of token ids, read by a thread of its own."""

    def __init__(self, port, prompt, max_tokens, seed):
        self.times, self.error, self.usage = [], None, None
        self.done = threading.Event()
        self._cancelled = False
        self._body = json.dumps({
            "model": "m", "stream": True, "max_tokens": max_tokens, "prompt": prompt,
            "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "seed": seed,
            "ignore_eos": True, "cache_prompt": False, "stream_options": {"include_usage": True}})
        self._conn = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        self._conn.connect()
        self._socket = self._conn.sock
        self.sent = time.perf_counter()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        try:
            self._read()
        except Exception as e:  # reported by who waits for the stream
            if not self._cancelled:
                self.error = f"{type(e).__name__}: {e}"
        self.done.set()

    def _read(self):
        self._conn.request("POST", "/v1/completions", self._body,
                           {"Content-Type": "application/json"})
        response = self._conn.getresponse()
        if response.status != 200:
            raise Failed(f"HTTP {response.status}: {response.read()[:200]}")
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if event.get("error"):
                raise Failed(str(event["error"]))
            self.usage = event.get("usage") or self.usage
            choice = (event.get("choices") or [{}])[0]
            if choice and (choice.get("text") or not choice.get("finish_reason")):
                self.times.append(time.perf_counter())

    def cancel(self):
        self._cancelled = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def wait(self, seconds):
        """Until it is done, at most so long; then it is cut off. True: it was done."""
        if self.done.wait(seconds):
            if self.error:
                raise Failed(self.error)
            return True
        self.cancel()
        self.done.wait(5)
        return False


class Prompts:
    """Random prompts, the same ones for every system: each starts from the same seed."""

    def __init__(self, vocab, seed=1):
        self.rng, self.vocab = random.Random(seed), vocab

    def ids(self, n):
        return [self.rng.randrange(300, self.vocab - 1) for _ in range(n)]

    def seed(self):
        return self.rng.randrange(1 << 30)


# --- the disk ----------------------------------------------------------------


def disk_bandwidth(path, size, depth=8, seconds=1.5):
    """Bytes/s of O_DIRECT preads of `size` bytes at random places, `depth` at a time, into
    buffers of huge pages (with small ones the kernel's page work takes up to half)."""
    size = -(-size // 4096) * 4096
    places = (os.path.getsize(path) - size) // 4096
    buffers = [aligned_buffer(size) for _ in range(depth)]
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    start = time.perf_counter()
    totals = [0] * depth

    def read(i):
        rng = random.Random(start + i)
        while time.perf_counter() - start < seconds:
            totals[i] += os.preadv(fd, [buffers[i]], rng.randrange(places) * 4096)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(depth)]
    try:
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        return sum(totals) / (time.perf_counter() - start)
    finally:
        os.close(fd)


def aligned_buffer(size):
    memory = mmap.mmap(-1, size + 2 * MiB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    for place in range(0, len(memory), 4096):
        memory[place] = 1
    return memoryview(memory)[:size]


# --- numbers -----------------------------------------------------------------


def median(values):
    values = [v for v in values if v is not None]
    return statistics.median(values) if values else None


def percentile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, int(p * len(values)))] if values else None


def cell(value, digits=2, unit=""):
    return "-" if value is None else f"{value:.{digits}f}{unit}"


def table(header, rows):
    """Prints Markdown with aligned columns."""
    widths = [max(len(str(r[i])) for r in [header, *rows]) for i in range(len(header))]
    line = lambda r: "| " + " | ".join(
        str(v).ljust(w) if i == 0 else str(v).rjust(w) for i, (v, w) in enumerate(zip(r, widths))) + " |"
    print(line(header))
    print("|" + "|".join("-" * (w + 2) for w in widths) + "|")
    for r in rows:
        print(line(r))
    sys.stdout.flush()
