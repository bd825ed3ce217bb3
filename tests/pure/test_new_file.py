"""A file appears whole under its name or not at all: also when the writer fails, is killed, or is not alone."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from modality_forcing.model import new_file as module
from modality_forcing.model.new_file import new_file


def test_a_failed_writer_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="stop"), new_file(tmp_path / "a.bin") as part:
        part.write_bytes(b"half")
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_under_the_name_while_it_is_written(tmp_path):
    path = tmp_path / "a.bin"
    with new_file(path) as part:
        part.write_bytes(b"whole")
        assert not path.exists() and part.suffix == path.suffix and part.parent == path.parent
    assert path.read_bytes() == b"whole" and list(tmp_path.iterdir()) == [path]


def test_of_two_writers_the_second_is_told(tmp_path):
    path = tmp_path / "a.bin"
    with pytest.raises(FileExistsError, match="not overwritten"), new_file(path) as part:
        part.write_bytes(b"second")
        with new_file(path) as other:
            other.write_bytes(b"first")
    assert path.read_bytes() == b"first" and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="Windows renames without overwriting")
def test_without_hard_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(module.errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    test_of_two_writers_the_second_is_told(tmp_path)


def test_a_killed_writer_leaves_no_file_and_its_part_goes(tmp_path):
    path, source = tmp_path / "a.bin", Path(module.__file__).parent
    code = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[2]); from new_file import new_file\n"
        "with new_file(sys.argv[1]) as part:\n"
        "    part.write_bytes(b'half'); os.kill(os.getpid(), getattr(signal, 'SIGKILL', signal.SIGTERM))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path), str(source)]).returncode != 0
    (part,) = tmp_path.iterdir()
    assert part.name.startswith(".")
    with new_file(path) as own:
        own.write_bytes(b"whole")
        assert part.exists()  # it might belong to a writer that is still at work
    long_ago = time.time() - 7200
    os.utime(part, (long_ago, long_ago))
    with new_file(tmp_path / "b.bin") as own:
        own.write_bytes(b"next")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.bin", "b.bin"]


def test_errors_name_the_file(tmp_path):
    with pytest.raises(OSError, match="could not write .*a.bin: .*disk full"), new_file(tmp_path / "a.bin"):
        raise OSError("196608 requested and 51168 written")
    missing = tmp_path / "no such folder" / "a.bin"
    with pytest.raises(OSError, match="could not write .*a.bin: No such file"), new_file(missing) as part:
        part.write_bytes(b"")
