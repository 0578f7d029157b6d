"""Files that are written: ordinary ones only, and whole whenever Ctrl-C comes."""

import os
import signal
import socket
import sys
import zipfile

import numpy as np
import pytest
from archives import refused
from test_checkpoint import fit, same
from test_io import assert_same

import mlrops
from mlrops.cli.main import main
from mlrops.factor.checkpoint import KIND
from mlrops.io import archive as _archive
from mlrops.io.archive import read_archive, write_archive

OLD, NEW = mlrops.Identity(3), mlrops.Diagonal(np.arange(1.0, 5.0))
POSIX = pytest.mark.skipif(os.name == "nt", reason="devices and named pipes of POSIX")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.npz"


@pytest.fixture(params=["device", "pipe", "socket", "link to a pipe"])
def special(request, tmp_path):
    """Something in the file system that is no file, and what it is called."""
    place = tmp_path / "special"
    if request.param == "device":  # of a terminal: broken code as root would replace the null one
        master, slave = os.openpty()
        request.addfinalizer(lambda: (os.close(master), os.close(slave)))
        return os.ttyname(slave), "a device"
    if request.param == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            os.chdir(tmp_path)
            server.bind("special")
        return place, "a socket"
    os.mkfifo(place)
    if request.param == "pipe":
        return place, "a named pipe"
    os.symlink(place, tmp_path / "link")
    return tmp_path / "link", "a named pipe"


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def kind(place):
    return os.stat(place).st_mode, os.stat(place).st_ino


# ---------------------------------------------------------------- ordinary files only


@POSIX
def test_what_is_no_file_is_neither_written_nor_read(special, monkeypatch):
    place, what = special
    before = kind(place), sorted(os.listdir())
    reason = f"it is {what}, expected an ordinary file"
    with pytest.raises(OSError, match=reason) as caught:
        mlrops.save(place, NEW)
    assert caught.value.filename == str(place)
    refused(place, reason)  # at once: a pipe without a writer would be waited for
    # Before the data are looked at.
    monkeypatch.setattr("mlrops.factor.factor_model.open_source", lambda *args: 1 / 0)
    for resume in (False, True):
        with pytest.raises(OSError, match=reason):
            fit(checkpoint=place, resume=resume)
    assert (kind(place), sorted(os.listdir())) == before


@POSIX
@pytest.mark.parametrize("option", ["-o", "--picture"])
def test_commands_write_ordinary_files_only(option, special, capsys, monkeypatch):
    place, what = special
    before = kind(place)
    np.save("matrix.npy", np.eye(8))
    monkeypatch.setattr("mlrops.cli.fit.read_matrix", lambda *args: 1 / 0)  # before it is read
    assert main(["fit", "matrix.npy", "--total-rank", "1", option, str(place)]) == 2
    assert f"it is {what}, expected an ordinary file" in capsys.readouterr().err
    for command in (["sur", "-o", str(place)], ["demo", "-o", str(place)],
                    ["bench", "-o", str(place)],
                    ["sur", "--data", "matrix.npy", "--save-table", str(place)]):
        assert main(command) == 2
        assert f"it is {what}, expected an ordinary file" in capsys.readouterr().err
    assert kind(place) == before


def test_folders(tmp_path):
    for write in (lambda: mlrops.save(tmp_path, NEW), lambda: fit(checkpoint=tmp_path)):
        with pytest.raises(IsADirectoryError, match="it is a folder, expected an ordinary file"):
            write()
    assert os.listdir(tmp_path) == []


@POSIX
def test_links_to_files_are_followed(path, tmp_path):
    mlrops.save(path, OLD)
    os.symlink("a.npz", tmp_path / "link")
    os.symlink("link", tmp_path / "second")
    os.symlink("none.npz", tmp_path / "dangling")
    mlrops.save(tmp_path / "second", NEW)
    assert_same(NEW, mlrops.load(path))
    mlrops.save(tmp_path / "dangling", OLD)
    assert_same(OLD, mlrops.load(tmp_path / "none.npz"))
    assert all((tmp_path / name).is_symlink() for name in ("link", "second", "dangling"))
    os.symlink("loop", tmp_path / "loop")
    with pytest.raises(OSError):
        mlrops.save(tmp_path / "loop", NEW)
    assert not list(tmp_path.glob(".*.tmp"))


# ---------------------------------------------------------------- Ctrl-C


class Interrupt:
    """Raises SIGINT on one line of what writes an archive; counts the lines."""

    FILES = (_archive.__file__, zipfile.__file__, np.lib.format.read_array.__code__.co_filename)

    def __init__(self, at):
        self.at, self.count = at, 0

    def __enter__(self):
        self._old = sys.gettrace()
        sys.settrace(self._call)
        return self

    def __exit__(self, *error):
        sys.settrace(self._old)

    def _call(self, frame, event, arg):
        return self._line if frame.f_code.co_filename in self.FILES else None

    def _line(self, frame, event, arg):
        if event == "line":
            self.count += 1
            if self.count == self.at:
                signal.raise_signal(signal.SIGINT)
        return self._line


@pytest.fixture
def handler():
    """The usual handler, whatever the tests are run from."""
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, old)


def test_an_interrupt_at_any_line_of_a_write(path, handler, monkeypatch):
    """KeyboardInterrupt comes out as such, and the file is the old or the new one."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    mlrops.save(path, NEW)
    with Interrupt(0) as whole:
        mlrops.save(path, NEW)
    new, found = path.read_bytes(), set()
    mlrops.save(path, OLD)
    old = path.read_bytes()
    for at in range(1, whole.count + 1):
        path.write_bytes(old)
        unraisable.clear()
        try:
            with Interrupt(at):
                mlrops.save(path, NEW)
        except KeyboardInterrupt:
            assert not unraisable
        else:  # in a finalizer of Python's own, which cannot raise
            assert unraisable[0].exc_type is KeyboardInterrupt
            continue
        data = path.read_bytes()
        assert data in (old, new), at
        found.add(data == new)
        left = list(path.parent.glob(".*.tmp"))
        for file in left:  # it was named, but the block that removes it not yet begun or broken
            file.unlink()
        assert len(left) <= 1
    assert found == {True, False} and whole.count > 200


@pytest.mark.parametrize("where", ["first member", "second member", "end"])
def test_a_fit_interrupted_while_its_checkpoint_is_written(where, path, handler, monkeypatch):
    """Without the hands of `unbroken` over it: the checkpoints between updates."""
    full, calls, write = fit(), [], np.lib.format.write_array
    close = zipfile.ZipFile.close

    def at(place, function):
        def interrupted(*args, **kwargs):
            calls.append(place)
            if where == place and calls.count(place) == 11:
                signal.raise_signal(signal.SIGINT)
            return function(*args, **kwargs)
        return interrupted

    with monkeypatch.context() as patch:
        patch.setattr(np.lib.format, "write_array",
                      at("first member", at("second member", write)))
        patch.setattr(zipfile.ZipFile, "close", at("end", close))
        part = fit(checkpoint=path, checkpoint_every=1)
    assert part.termination == "interrupted" and 0 < part.n_iter < full.n_iter
    meta, arrays = read_archive(path, KIND)
    assert np.array_equal(arrays["trace"], part.loglik_trace)
    assert os.listdir(path.parent) == [path.name]
    same(fit(checkpoint=path, resume=True), full)


def test_an_error_in_a_member_comes_out_as_it_is(path, monkeypatch):
    """Not as that of an archive that cannot be closed."""
    write_archive(path, "k", {}, {"x": np.ones(3)})
    old, open_member = path.read_bytes(), zipfile.ZipFile.open

    class Broken(Exception):
        pass

    def opened(*args, **kwargs):
        open_member(*args, **kwargs)  # a member that is open, and nobody to close it
        raise Broken

    monkeypatch.setattr(zipfile.ZipFile, "open", opened)
    with pytest.raises(Broken):
        write_archive(path, "k", {}, {"x": np.ones(4)})
    assert path.read_bytes() == old and os.listdir(path.parent) == [path.name]
