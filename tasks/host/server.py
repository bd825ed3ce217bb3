"""A ComfyUI server as a context manager, with the pack linked into it, and a small client for its HTTP interface."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from pathlib import Path
from types import TracebackType

from .. import HOST_VARIABLE, INPUTS, PYTHON_VARIABLE, ROOT, TaskError, named_path

PACK_FOLDER = "modality-forcing"  # a name that is no Python identifier, as after a git clone
BASE_FOLDERS = ("models/diffusion_models", "models/vae", "models/text_encoders", "input", "output", "user/default")
START_TIMEOUT_S = 300.0


class ServerError(TaskError):
    """ComfyUI did not start, or went away; the text holds the end of its log."""


class GraphError(RuntimeError):
    """A prompt was refused, failed or was interrupted.

    node_id, node_type: where, if the server names a node. message: what ComfyUI shows the user.
    details: the server's own reply or event, as it came.
    """

    def __init__(self, message: str, node_id: str | None, node_type: str | None, details: dict) -> None:
        place = f"node {node_id} ({node_type}): " if node_id is not None else ""
        super().__init__(place + message)
        self.message, self.node_id, self.node_type, self.details = message, node_id, node_type, details


class Client:
    """The HTTP interface of a ComfyUI at ``address`` (``http://127.0.0.1:8188``)."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.client_id = uuid.uuid4().hex
        # Never through a proxy: the server is on this machine.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(self, path: str, timeout_s: float = 60.0) -> bytes:
        """The body of a GET."""
        with self._opener.open(self.address + path, timeout=timeout_s) as reply:
            return reply.read()

    def get_json(self, path: str, timeout_s: float = 60.0):
        """The decoded JSON body of a GET."""
        return json.loads(self.get(path, timeout_s))

    def post(self, path: str, body: dict) -> bytes:
        """The body of the reply to a POST of JSON."""
        return self._send(path, json.dumps(body).encode(), "application/json")

    def object_info(self) -> dict:
        """Every node class of the server: inputs, outputs, display names."""
        return self.get_json("/object_info", timeout_s=120.0)

    def settings(self, values: dict) -> None:
        """Set frontend settings of the (only) user, e.g. ``{"Comfy.VueNodes.Enabled": True}``."""
        self.post("/settings", values)

    def queue(self, prompt: dict) -> str:
        """Queue an API-form prompt and return its id. Raises GraphError when any part of it is refused."""
        try:
            reply = json.loads(self.post("/prompt", {"prompt": prompt, "client_id": self.client_id}))
        except urllib.error.HTTPError as error:
            if error.code != 400:
                raise
            raise _refused(json.loads(error.read()), prompt) from error
        if reply.get("node_errors"):  # ComfyUI would go on and run the outputs that are not concerned
            self.post("/queue", {"delete": [reply["prompt_id"]]})
            raise _refused(reply, prompt)
        return reply["prompt_id"]

    def wait(self, prompt_id: str, timeout_s: float = 600.0) -> dict:
        """Wait for a queued prompt; returns its outputs by node id. Raises GraphError, or TimeoutError."""
        end = time.monotonic() + timeout_s
        pause_s = 0.02
        while time.monotonic() < end:
            entry = self.get_json(f"/history/{prompt_id}").get(prompt_id)
            if entry is not None:
                return _outputs(entry)
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, 0.25)
        raise TimeoutError(f"prompt {prompt_id} did not end within {timeout_s:.0f} s")

    def run(self, prompt: dict, timeout_s: float = 600.0) -> dict:
        """Queue a prompt and wait for its outputs by node id."""
        return self.wait(self.queue(prompt), timeout_s)

    def interrupt(self) -> None:
        """Stop the prompt that is running."""
        self.post("/interrupt", {})

    def free(self) -> None:
        """Unload the models and drop cached results before the next prompt."""
        self.post("/free", {"unload_models": True, "free_memory": True})

    def view(self, filename: str, subfolder: str = "", type: str = "output") -> bytes:
        """The bytes of a file in the server's output, input or temp folder."""
        query = urllib.parse.urlencode({"filename": filename, "subfolder": subfolder, "type": type})
        return self.get("/view?" + query)

    def upload_image(self, path: Path) -> str:
        """Put an image file into the server's input folder; returns the name that LoadImage takes."""
        mark = uuid.uuid4().hex
        head = f'--{mark}\r\nContent-Disposition: form-data; name="image"; filename="{path.name}"\r\n'
        head += "Content-Type: application/octet-stream\r\n\r\n"
        body = head.encode() + path.read_bytes() + f"\r\n--{mark}--\r\n".encode()
        reply = json.loads(self._send("/upload/image", body, f"multipart/form-data; boundary={mark}"))
        return f"{reply['subfolder']}/{reply['name']}".lstrip("/")

    def _send(self, path: str, body: bytes, content_type: str) -> bytes:
        request = urllib.request.Request(self.address + path, body, {"Content-Type": content_type})
        with self._opener.open(request, timeout=60.0) as reply:
            return reply.read()


class Server(Client):
    """Starts ComfyUI on entry and stops it on exit.

    base: the folder for models, input, output, user and custom nodes; made and filled as needed, the pack linked in.
        None uses the host's own folders, as they are.
    host, python: the ComfyUI folder and its interpreter; without them the ones run.py named in the environment.
    port: 0 takes a free one. arguments: further ones for ComfyUI. variables: further environment variables.
    extra_models: a ComfyUI folder whose models are offered as well.
    """

    def __init__(
        self,
        base: Path | None,
        *,
        host: Path | None = None,
        python: Path | None = None,
        port: int = 0,
        arguments: tuple[str, ...] = (),
        variables: dict[str, str] | None = None,
        extra_models: Path | None = None,
        log: Path | None = None,
    ) -> None:
        self.host = host or named_path(HOST_VARIABLE)
        self.python = python or named_path(PYTHON_VARIABLE)
        self.base = base or self.host
        self.own_base = base is not None
        self.log = log or self.base / "server.log"
        self.arguments = arguments
        self.variables = variables or {}
        self.extra_models = extra_models
        self.port = port or _free_port()
        self._process: subprocess.Popen | None = None
        super().__init__(f"http://127.0.0.1:{self.port}")

    def __enter__(self) -> "Server":
        if self.own_base:
            prepare_base(self.base)
        try:
            self._start()
            self._await_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def models(self) -> Path:
        """The folder of model folders."""
        return self.base / "models"

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """End the process: politely, after ten seconds by force."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def log_tail(self, lines: int = 40) -> str:
        """The end of what ComfyUI printed."""
        return "\n".join(self._log().splitlines()[-lines:])

    def check_pack(self) -> None:
        """Raise ServerError with the traceback if ComfyUI could not import this pack."""
        folder = ROOT if self.base / "custom_nodes" == ROOT.parent else self.base / "custom_nodes" / PACK_FOLDER
        before, found, _ = self._log().partition(f"Cannot import {folder} ")
        if found:
            trace = before[before.rfind("Traceback") :]
            raise ServerError(f"ComfyUI runs, but could not import this pack (from {self.log}):\n{trace}")

    def _log(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def _start(self) -> None:
        command = [
            self.python,
            ROOT / "tasks" / "host" / "launch.py",
            self.host,
            "--listen",
            "127.0.0.1",
            "--port",
            self.port,
        ]
        command += ["--disable-auto-launch", *self.arguments]
        if self.own_base:
            # The database would otherwise lie in the host's folder and be shared by all servers.
            database = self.base / "user" / "comfyui.db"
            command += ["--base-directory", self.base, "--database-url", f"sqlite:///{database.as_posix()}"]
        if self.extra_models is not None:
            command += ["--extra-model-paths-config", _model_paths_file(self.base, self.extra_models)]
        variables = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", **self.variables}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                cwd=self.base,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _await_ready(self) -> None:
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end:
            if not self.running:
                raise ServerError(f"ComfyUI ended while starting. The end of {self.log}:\n{self.log_tail()}")
            try:
                self.get("/system_stats", timeout_s=10.0)
                return
            except (urllib.error.URLError, TimeoutError, ConnectionError):
                time.sleep(0.1)
        raise ServerError(
            f"ComfyUI did not answer in {START_TIMEOUT_S:.0f} s. The end of {self.log}:\n{self.log_tail()}"
        )


def prepare_base(base: Path) -> None:
    """Make the folders of a ComfyUI base directory, with the workflows' pictures and a link to this repository."""
    for name in (*BASE_FOLDERS, "custom_nodes"):
        (base / name).mkdir(parents=True, exist_ok=True)
    for picture in INPUTS.glob("*.*"):
        shutil.copy(picture, base / "input")
    link_pack(base / "custom_nodes" / PACK_FOLDER)


def link_pack(link: Path) -> None:
    """Make ``link`` lead to this repository, also where it led to the checkout that this one is a copy of."""
    if os.path.lexists(link):
        if link.resolve() == ROOT:
            return
        try:
            link.unlink() if link.is_symlink() else link.rmdir()  # a junction is removed as an empty folder is
        except OSError as error:
            raise TaskError(f"{link} is a folder where a link to {ROOT} should be: delete or move it.") from error
    if os.name == "nt":
        import _winapi  # a junction needs no right that an ordinary Windows user lacks; a symbolic link does

        _winapi.CreateJunction(str(ROOT), str(link))
    else:
        link.symlink_to(ROOT, target_is_directory=True)


def _model_paths_file(base: Path, host: Path) -> Path:
    folders = sorted(path.name for path in (host / "models").iterdir() if path.is_dir() and path.name != "configs")
    section = {"base_path": str(host / "models"), **{name: name for name in folders}}
    path = base / "host_models.yaml"
    path.write_text(json.dumps({"host": section}, indent=1), encoding="utf-8")  # JSON is YAML
    return path


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _outputs(entry: dict) -> dict:
    status = entry.get("status") or {}
    if status.get("status_str") == "success":
        return entry["outputs"]
    events = dict(status.get("messages", []))
    event = events.get("execution_error") or events.get("execution_interrupted") or {}
    message = "interrupted"
    if "exception_message" in event:
        message = f"{event['exception_type']}: {event['exception_message'].strip()}"
    raise GraphError(message, event.get("node_id"), event.get("node_type"), event)


def _refused(reply: dict, prompt: dict) -> GraphError:
    for node_id, found in reply.get("node_errors", {}).items():
        texts = [f"{error['message']}: {error['details']}" for error in found["errors"]]
        return GraphError("; ".join(texts), node_id, prompt[node_id]["class_type"], reply)
    error = reply["error"]
    return GraphError(f"{error['message']} {error.get('details', '')}".strip(), None, None, reply)
