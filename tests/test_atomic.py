"""A file is written whole or not at all, whatever stops the writing."""

import errno
import io
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import snnpipe
from snnpipe.errors import SnnpipeError
from snnpipe.exchange import tensor_file
from snnpipe.exchange.atomic import write_atomically
from snnpipe.exchange.sealed import read_sealed, write_sealed


def half(error):
    def write(file):
        file.write(b"half of ")
        file.flush()
        raise error

    return write


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), RuntimeError("bug")], ids=repr)
@pytest.mark.parametrize("before", [None, b"old"])
def test_what_stops_the_writing_leaves_the_old_content(tmp_path, error, before):
    path = tmp_path / "file"
    if before is not None:
        path.write_bytes(before)
    with pytest.raises(type(error)):
        write_atomically(str(path), half(error))
    assert [each.read_bytes() for each in tmp_path.iterdir()] == ([] if before is None else [before])


def test_a_process_that_dies_leaves_the_old_content(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    code = (
        "import os, sys; from snnpipe.exchange.atomic import write_atomically\n"
        "write_atomically(sys.argv[1], lambda file: (file.write(b'half'), file.flush(), os._exit(3)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=Path(snnpipe.__file__).parents[1], check=False)
    assert done.returncode == 3
    assert path.read_bytes() == b"old"


def test_the_content_is_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: done.append(_kind(number)) or fsync(number))
    monkeypatch.setattr(os, "replace", lambda *names: done.append("replace") or replace(*names))
    write_atomically(str(tmp_path / "file"), lambda file: file.write(b"new"))
    assert done == ["file", "replace", "folder"]


def _kind(number):
    return "folder" if stat.S_ISDIR(os.fstat(number).st_mode) else "file"


def test_links_and_permissions_are_kept(tmp_path):
    target, link, fresh = tmp_path / "target", tmp_path / "link", tmp_path / "fresh"
    target.write_bytes(b"old")
    target.chmod(0o640)
    link.symlink_to(target)
    write_atomically(str(link), lambda file: file.write(b"new"))
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    write_atomically(str(fresh), lambda file: file.write(b"new"))
    (tmp_path / "plain").write_bytes(b"")
    assert fresh.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_devices_and_folders_are_left_alone(tmp_path):
    for path in (str(tmp_path), "/dev/null"):
        with pytest.raises(OSError, match="not a regular file"):
            write_atomically(path, lambda file: None)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_file_that_may_not_be_written_to_is_left_alone(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write to every file
    with pytest.raises(PermissionError, match="may not be written to"):
        write_atomically(str(path), lambda file: file.write(b"new"))
    assert path.read_bytes() == b"old"


def test_a_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_sealed({"a": [1, None, "b"]}, "file")
    assert read_sealed("file") == ({"a": [1, None, "b"]}, True)
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, content):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tensor_file, "write_atomically", lambda path, write: write(Full()))
    with pytest.raises(SnnpipeError, match="file cannot be written: No space left on device"):
        write_sealed({"a": torch.ones(3)}, str(tmp_path / "file"))


def test_a_folder_that_is_not_there_is_said_of_the_file_asked_for(tmp_path):
    path = str(tmp_path / "missing" / "x")
    with pytest.raises(FileNotFoundError) as error:
        write_atomically(path, lambda file: None)
    assert error.value.filename == path
