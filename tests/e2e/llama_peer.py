"""A llama-server on a sample model: an OpenAI-compatible server that is not ours."""

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest

from support import DENSE, ROOT, TIME_SCALE

HOW = (
    "no llama-server: name one in HOSTLER_LLAMA_SERVER, put it on PATH, or set "
    "HOSTLER_INSTALL_PEER=1 to install PyPI's llama-cpp-python (which compiles for long)"
)
# One that knows tools, their calls and results; the sample models' own does not. The peer finds out by
# trying it how calls are written, and constrains its sampling to that where a call is required.
TEMPLATE = """\
{%- if tools %}<|im_start|>system
You may call one or more functions.
<tools>
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
</tools>
To call one, answer with {"name": <function-name>, "arguments": <args-json-object>}<|im_end|>
{% endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
{%- elif message.tool_calls %}
{{- '<|im_start|>assistant\\n' }}
{%- if message.content %}{{- message.content }}{%- endif %}
{%- for call in message.tool_calls %}
{%- if call.function %}{%- set call = call.function %}{%- endif %}
{{- '{"name": "' + call.name + '", "arguments": ' }}
{{- call.arguments | tojson }}
{{- '}' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- else %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""


def find_server(model, template, port):
    """The command of one, or a skipped test."""
    binary = os.environ.get("HOSTLER_LLAMA_SERVER") or shutil.which("llama-server")
    where = ["--host", "127.0.0.1", "--port", str(port)]
    if binary:
        return [binary, "-m", model, *where, "-c", "4096", "-np", "2", "-t", "1", "--jinja"] + [
            "--chat-template-file",
            template,
        ]
    if os.environ.get("HOSTLER_INSTALL_PEER") and not importlib.util.find_spec("llama_cpp"):
        package = "llama-cpp-python[server]==0.3.36"
        installed = subprocess.run([sys.executable, "-m", "pip", "install", "-q", package])
        if installed.returncode != 0:
            pytest.skip(f"{package} cannot be installed")
        importlib.invalidate_caches()
    if importlib.util.find_spec("llama_cpp"):
        return [sys.executable, "-m", "llama_cpp.server", "--model", model, *where]
    pytest.skip(HOW)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def llama_peer():
    """Its API's base URL."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        model, template = Path(folder) / "dense.gguf", Path(folder) / "chat.jinja"
        port = free_port()
        command = find_server(model, template, port)
        template.write_text(TEMPLATE)
        subprocess.run(
            [sys.executable, "-B", ROOT / "tests/fixtures/make_sample_gguf.py", DENSE, model],
            check=True,
        )
        process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            url = f"http://127.0.0.1:{port}/v1"
            deadline = time.monotonic() + 60 * TIME_SCALE
            while True:
                try:
                    urllib.request.urlopen(url + "/models", timeout=5).read()
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        log.seek(0)
                        sys.stderr.write(log.read().decode(errors="replace")[-4000:])
                        raise
                    time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            process.wait()
