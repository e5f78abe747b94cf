"""What the end-to-end tests share: the binary, its daemon, and small clients."""

import contextlib
import functools
import http.client
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("HOSTLER_BINARY", ROOT / "build/release/hostler"))
SHARED = Path(os.environ.get("HOSTLER_SHARED", ROOT / "../shared")).resolve()
TIME_SCALE = float(os.environ.get("HOSTLER_TIME_SCALE", "1"))
MOE = ROOT / "models/sample-moe"
DENSE = ROOT / "models/sample-dense"


def hostler(command, *args, stdin="", check=True, timeout=100):
    """Runs a command ("run --json", words apart) to its end. With check, it must succeed."""
    done = subprocess.run(
        [BINARY, *command.split(), *map(str, args)],
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        timeout=timeout * TIME_SCALE,
    )
    if check:
        assert done.returncode == 0, f"{command} {args}: exit {done.returncode}\n{done.stderr}"
    return done


def hostler_json(command, *args, **how):
    return json.loads(hostler(command + " --json", *args, **how).stdout)


def wait_for(condition, what, timeout=20):
    """Returns the condition's first true value."""
    deadline = time.monotonic() + timeout * TIME_SCALE
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.02)


@dataclass
class Reply:
    status: int
    headers: dict
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        return self.json["error"]


class Server:
    """A running `hostler serve`; made by serving()."""

    def __init__(self, process, log):
        self.process, self._log = process, log

    def find_ports(self):
        """Whether the start-up output tells them yet."""
        http_port = re.search(r"HTTP +http://127\.0\.0\.1:(\d+)/", self.log())
        grpc_port = re.search(r"gRPC +127\.0\.0\.1:(\d+)\n", self.log())
        if not http_port or not grpc_port:
            return False
        self.port = int(http_port[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.grpc_address = f"127.0.0.1:{grpc_port[1]}"
        return True

    def connect(self):
        return contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", self.port, timeout=60 * TIME_SCALE)
        )

    def request(self, method, path, body=None, headers={}):
        if isinstance(body, dict):
            body = json.dumps(body)
        with self.connect() as connection:
            connection.request(method, path, body, {"Content-Type": "application/json", **headers})
            answer = connection.getresponse()
            return Reply(answer.status, dict(answer.getheaders()), answer.read())

    def get(self, path):
        return self.request("GET", path)

    def post(self, path, body, headers={}):
        return self.request("POST", path, body, headers)

    def stream(self, path, body):
        """The events of a streamed answer. Closing the generator hangs up."""
        with self.connect() as connection:
            connection.request(
                "POST",
                path,
                json.dumps({**body, "stream": True}),
                {"Content-Type": "application/json"},
            )
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            for line in answer:
                if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
                    yield json.loads(line[6:])

    def read_stream(self, path, body, result):
        """Notes in `result` the "text" of a streamed chat answer as it comes, the "model" that
        gives it, and its "end": "done", "error", or as it was for silence."""
        head = {"Content-Type": "application/json"}
        with contextlib.suppress(OSError), self.connect() as connection:
            connection.request("POST", path, json.dumps({**body, "stream": True}), head)
            answer = connection.getresponse()
            result["model"] = answer.headers.get("x-hostler-model")
            if answer.status != 200:
                result["end"] = "error"
                return
            for line in answer:
                if line.strip() == b"data: [DONE]":
                    result["end"] = "done"
                elif line.startswith(b"data: "):
                    event = json.loads(line[6:])
                    if "error" in event:
                        result["end"] = "error"
                    for choice in event.get("choices", []):
                        result["text"] += choice["delta"].get("content") or ""

    def metrics(self):
        """{name: {labels as written: value}}"""
        families = {}
        for line in self.get("/metrics").body.decode().splitlines():
            if match := re.fullmatch(r"# TYPE ([\w:]+) \w+", line):
                families.setdefault(match[1], {})
            if match := re.fullmatch(r"([\w:]+)(\{.*\})? (\S+)", line):
                name, labels, value = match.groups()
                families.setdefault(name, {})[labels or ""] = float(value)
        return families

    def metric(self, name):
        """The sum over all labels."""
        return sum(self.metrics()["hostler:" + name].values())

    def open_files(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def log(self):
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def alive(self):
        return self.process.poll() is None

    def terminate(self):
        """SIGTERM, then its exit code."""
        if self.alive():
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60 * TIME_SCALE)


@contextlib.contextmanager
def fake_model(**settings):
    """(its process, its API's base); see fake_model.py"""
    flags = [str(each) for key, value in settings.items() for each in (f"--{key}", value)]
    script = Path(__file__).with_name("fake_model.py")
    command = [sys.executable, "-B", script, *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process, f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def serving(*args):
    """Serves with these flags until the block ends. Its end must be a clean one."""
    command = [BINARY, "serve", *args, "--port", 0, "--grpc-port", 0]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        server = Server(process, log)
        try:
            wait_for(lambda: not server.alive() or server.find_ports(), "the server's start", 60)
            assert server.alive(), "the server did not start"
            yield server
            code = server.terminate()
            assert code == 0, f"the server's exit code is {code}"
        except BaseException:
            sys.stderr.write(f"--- log of {' '.join(map(str, command))}\n{server.log()[-8000:]}\n")
            raise
        finally:
            if server.alive():
                process.kill()
                process.wait()


def wait_for_rest(server):
    """Nothing runs, waits or holds anything."""
    for name in [
        "num_requests_running",
        "num_requests_waiting",
        "num_requests_paused",
        "kv_blocks_used",
        "expert_cache_pinned_slots",
    ]:
        wait_for(lambda: server.metric(name) == 0, f"hostler:{name} to be 0")


@functools.cache
def grpc_api():
    """(hostler_pb2, hostler_pb2_grpc), generated from proto/hostler.proto."""
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as out:
        failed = protoc.main(
            [
                "protoc",
                f"-I{ROOT / 'proto'}",
                f"--python_out={out}",
                f"--grpc_python_out={out}",
                "hostler.proto",
            ]
        )
        assert not failed
        sys.path.insert(0, out)
        modules = [importlib.import_module(name) for name in ["hostler_pb2", "hostler_pb2_grpc"]]
        sys.path.remove(out)
    return modules


@contextlib.contextmanager
def grpc_stub(server):
    import grpc

    with grpc.insecure_channel(server.grpc_address) as channel:
        yield grpc_api()[1].HostlerStub(channel)


@dataclass
class Generated:
    text: str = ""
    token_ids: tuple = ()
    finish_reason: int = 0
    stop_reason: str = ""


def grpc_generate(stub, **fields):
    """(Started, [Generated of each sequence], Done)"""
    pb = grpc_api()[0]
    started, sequences, done = None, {}, None
    for response in stub.Generate(pb.GenerateRequest(**fields), timeout=60 * TIME_SCALE):
        assert done is None, "something came after done"
        event = response.WhichOneof("event")
        if event == "started":
            assert started is None and not sequences
            started = response.started
        elif event == "delta":
            one = sequences.setdefault(response.delta.index, Generated())
            one.text += response.delta.text
            one.token_ids += tuple(response.delta.token_ids)
        elif event == "finished":
            one = sequences.setdefault(response.finished.index, Generated())
            assert one.finish_reason == 0
            one.finish_reason = response.finished.finish_reason
            one.stop_reason = response.finished.stop_reason
        else:
            done = response.done
    assert started is not None and done is not None
    return started, [sequences[i] for i in sorted(sequences)], done
