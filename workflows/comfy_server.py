"""Start a real ComfyUI without a window, and talk to it through its HTTP and websocket API.

`make host` obtains ComfyUI and records where it is in `.host/host.json`; `ComfyServer` starts it on a free
port with its input, output, model and user folders in a temporary directory, and with no other custom nodes
than this pack:

    with ComfyServer() as comfy:
        name = comfy.upload_image("person.png")
        prompt_id = comfy.queue(prompt)              # a graph in API format
        comfy.wait(prompt_id, on_progress=print)
        png, = comfy.images(prompt_id)
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import websocket

ROOT = Path(__file__).resolve().parent.parent
HOST_RECORD = ROOT / ".host" / "host.json"

Progress = Callable[[int, int, str], None]


class ComfyError(RuntimeError):
    """ComfyUI did not start, refused a graph, or a node failed. The message is ready to be shown."""


class ComfyInterrupted(ComfyError):
    """The run was interrupted before its end."""


def read_host() -> tuple[Path, str]:
    """The folder of the ComfyUI that `make host` prepared, and the pack's folder name in its `custom_nodes`.

    Raises ComfyError when there is none.
    """
    try:
        record = json.loads(HOST_RECORD.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ComfyError(f"There is no {HOST_RECORD}: run `make host` first.") from None
    comfyui = Path(record["comfyui"])
    if not (comfyui / "main.py").is_file():
        raise ComfyError(f"The ComfyUI in {comfyui} is gone: run `make host` again.")
    return comfyui, record["pack"]


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on, and that no system gives to a connection of its own accord:
    seconds pass until the process that it is for binds it.

    No seed decides which: two processes that have trained with the same one would otherwise choose the same port.
    """
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def describe_refusal(answer: dict[str, Any]) -> str:
    """One line for each reason in the answer of `/prompt` to a graph it refused."""
    error = answer.get("error", "the graph was refused")
    lines = [error if isinstance(error, str) else _join(error)]
    for node, found in (answer.get("node_errors") or {}).items():
        lines += [f"node {node} ({found.get('class_type')}): {_join(reason)}" for reason in found.get("errors", [])]
    return "\n".join(lines)


def _join(reason: dict[str, Any]) -> str:
    return ": ".join(str(reason[key]) for key in ("message", "details") if reason.get(key))


class ComfyServer:
    """A ComfyUI process, as a context manager.

    Args:
        arguments: command-line arguments added to the fixed ones; the default keeps everything on the CPU.
        ready_timeout: seconds that the start may take.
        comfyui: folder of the ComfyUI to start; the default is the one that `make host` prepared.

    Attributes, once entered:
        url: address of the server, with no slash at the end.
        started_in: seconds that the start took.
        input, output, models, user: its folders, all temporary; `models` starts empty.
    """

    def __init__(
        self, arguments: Sequence[str] = ("--cpu",), ready_timeout: float = 600.0, comfyui: Path | None = None
    ) -> None:
        self.arguments = tuple(arguments)
        self.comfyui = comfyui
        self.ready_timeout = ready_timeout
        self.client_id = uuid.uuid4().hex
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: websocket.WebSocket | None = None

    def __enter__(self) -> ComfyServer:
        comfyui, pack = read_host()
        self.directory = Path(tempfile.mkdtemp(prefix="reposedm-comfyui-"))
        try:
            self._start(self.comfyui or comfyui, pack)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, comfyui: Path, pack: str) -> None:
        folders = {name: self.directory / name for name in ("input", "output", "models", "user", "custom_nodes")}
        for folder in folders.values():
            folder.mkdir()
        self.input, self.output, self.models, self.user, nodes = folders.values()
        (nodes / pack).symlink_to(ROOT, target_is_directory=True)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "main.py", "--port", str(port)]
        command += ["--disable-auto-launch", "--disable-api-nodes"]
        command += ["--disable-all-custom-nodes", "--whitelist-custom-nodes", pack]
        # One option for all folders, because ComfyUI has it longer than one for the models.
        command += ["--base-directory", str(self.directory)]
        command += ["--database-url", f"sqlite:///{self.user / 'comfyui.db'}", *self.arguments]
        with (self.directory / "server.log").open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=comfyui,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._wait_until_ready()
        self._socket = websocket.create_connection(f"ws://127.0.0.1:{port}/ws?clientId={self.client_id}", timeout=60)

    def _wait_until_ready(self) -> None:
        begun = time.monotonic()
        while time.monotonic() < begun + self.ready_timeout:
            self._check_alive()
            try:
                self._call("/system_stats")
                self.started_in = time.monotonic() - begun
                return
            except (OSError, ComfyError):
                time.sleep(0.2)
        raise ComfyError(f"ComfyUI was not ready after {self.ready_timeout:.0f} s. Its log ends:\n{self._log_tail()}")

    def _check_alive(self) -> None:
        status = self._process.poll() if self._process else None
        if status is not None:
            raise ComfyError(f"ComfyUI ended with exit status {status}. Its log ends:\n{self._log_tail()}")

    def close(self) -> None:
        """End the process and remove its temporary folders. May be called twice."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        shutil.rmtree(self.directory, ignore_errors=True)

    def log(self) -> str:
        """Everything that the server has printed so far."""
        return (self.directory / "server.log").read_text(encoding="utf-8", errors="replace")

    def _log_tail(self, lines: int = 25) -> str:
        return "\n".join(self.log().splitlines()[-lines:])

    def _request(self, path: str, body: bytes | None = None, content_type: str = "application/json") -> bytes:
        request = urllib.request.Request(self.url + path, data=body, headers={"Content-Type": content_type})
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            text = error.read().decode("utf-8", "replace")
            try:
                reason = describe_refusal(json.loads(text))
            except (ValueError, AttributeError):
                reason = text.strip() or error.reason
            raise ComfyError(f"ComfyUI refused {path.partition('?')[0]} ({error.code}): {reason}") from None

    def _call(self, path: str, payload: object = None) -> Any:
        text = self._request(path, None if payload is None else json.dumps(payload).encode())
        return json.loads(text) if text else None

    def object_info(self, node_id: str | None = None) -> dict[str, Any]:
        """The schema of every node as the page sees it, by node id; of one node when `node_id` is given."""
        return self._call("/object_info" if node_id is None else f"/object_info/{urllib.parse.quote(node_id)}")

    def upload_image(self, path: str | Path, name: str | None = None) -> str:
        """Upload a file to the input folder, as the page does; returns its name for Load Image."""
        path = Path(path)
        boundary = uuid.uuid4().hex
        fields = b"".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
            for key, value in {"type": "input", "overwrite": "true"}.items()
        )
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name or path.name}"'
        body = fields + head.encode() + b"\r\nContent-Type: application/octet-stream\r\n\r\n"
        body += path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        answer = json.loads(self._request("/upload/image", body, f"multipart/form-data; boundary={boundary}"))
        return "/".join(part for part in (answer.get("subfolder"), answer["name"]) if part)

    def queue(self, prompt: dict[str, Any]) -> str:
        """Queue a graph in API format; returns its id. A ComfyError names every refused node and input."""
        answer = self._call("/prompt", {"prompt": prompt, "client_id": self.client_id})
        if answer.get("node_errors"):
            raise ComfyError(describe_refusal({"error": "Part of the graph was refused", **answer}))
        return answer["prompt_id"]

    def wait(self, prompt_id: str, on_progress: Progress | None = None, timeout: float = 1800.0) -> dict[str, Any]:
        """Wait for the end of a queued graph; returns its history entry.

        `on_progress(value, maximum, node)` is called for every progress message of the run. Raises
        ComfyInterrupted after an interruption, and ComfyError when a node failed, the server died, or
        `timeout` seconds are over.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            message = self._receive(timeout=0.2)
            if message is None:  # a pause: perhaps another `wait` took the message that this run has ended
                entry = self.history(prompt_id)
                if entry is not None:
                    return _checked(entry)
            elif on_progress is not None and message["type"] == "progress":
                data = message["data"]
                if data["prompt_id"] == prompt_id:
                    on_progress(int(data["value"]), int(data["max"]), str(data["node"]))
        raise ComfyError(f"The graph has not ended after {timeout:.0f} s. Log:\n{self._log_tail()}")

    def _receive(self, timeout: float) -> dict[str, Any] | None:
        """The next text message of the websocket, or None when there is none in `timeout` seconds."""
        self._socket.settimeout(timeout)
        try:
            message = self._socket.recv()
        except websocket.WebSocketTimeoutException:
            self._check_alive()
            return None
        except (websocket.WebSocketConnectionClosedException, OSError) as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)  # a dying process closes its sockets before it can be reaped
            self._check_alive()
            raise ComfyError(f"The connection to ComfyUI broke: {error}") from None
        return json.loads(message) if isinstance(message, str) and message else None

    def run(self, prompt: dict[str, Any], on_progress: Progress | None = None, timeout: float = 1800.0) -> list[bytes]:
        """Queue a graph, wait for its end, return its pictures: `queue`, `wait` and `images` in one call."""
        prompt_id = self.queue(prompt)
        self.wait(prompt_id, on_progress, timeout)
        return self.images(prompt_id)

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """The history entry of a graph (`outputs`, `status`, `prompt`), or None while it has not ended."""
        return self._call(f"/history/{prompt_id}").get(prompt_id)

    def forget(self, prompt_id: str) -> None:
        """Take a graph that has ended out of the history."""
        self._call("/history", {"delete": [prompt_id]})

    def images(self, prompt_id: str, node: str | None = None) -> list[bytes]:
        """The files (PNG) that a finished graph saved or previewed, of all nodes or of one node."""
        outputs = (self.history(prompt_id) or {}).get("outputs", {})
        found = [image for key, output in outputs.items() if node in (None, key) for image in output.get("images", [])]
        return [self._request("/view?" + urllib.parse.urlencode(image)) for image in found]

    def interrupt(self) -> None:
        """Interrupt the running graph, as the page's cancel button does."""
        self._call("/interrupt", {})


def _checked(entry: dict[str, Any]) -> dict[str, Any]:
    """The history entry itself; raises the error that it tells of."""
    for kind, data in entry.get("status", {}).get("messages", []):
        if kind == "execution_interrupted":
            raise ComfyInterrupted(f"The run was interrupted in node {data.get('node_id')} ({data.get('node_type')}).")
        if kind == "execution_error":
            text = str(data.get("exception_message", "")).strip()
            raise ComfyError(f"node {data.get('node_id')} ({data.get('node_type')}): {text}")
    return entry
