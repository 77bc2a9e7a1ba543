"""The file of the record, its folder, and the lock."""

import os
import subprocess
import sys
import threading

import pytest

from eni_bootstrap.model.deadline import Deadline
from eni_bootstrap.model.errors import BootstrapError, NotPermitted
from eni_bootstrap.windows import record
from eni_bootstrap.windows.model import Folder
from eni_bootstrap.windows.record import Record
from tests.fakes import Clock
from tests.windows.host import msvcrt

OURS = Folder(True, True, False)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ProgramData", str(tmp_path))
    monkeypatch.setitem(sys.modules, "msvcrt", msvcrt())
    (tmp_path / "eni-bootstrap").mkdir()
    return tmp_path / "eni-bootstrap"


def test_one_run_at_a_time(folder):
    clock = Clock()
    with record.lock(Deadline(10, clock), clock.sleep) as waited:
        assert not waited
        with pytest.raises(BootstrapError) as caught, record.lock(Deadline(10, clock), clock.sleep):
            pass
        assert "another run has been at work for 10 s" in str(caught.value)
        timer = threading.Timer(0.2, lambda: None)
        timer.start()
        timer.join()
    with record.lock(Deadline(10, clock), clock.sleep) as waited:
        assert not waited


def test_the_lock_is_free_when_its_holder_is_killed(folder):
    holder = subprocess.Popen([sys.executable, "-c", (
        "import sys, time; sys.path.insert(0, {!r})\n"
        "from tests.windows.host import msvcrt; sys.modules['msvcrt'] = msvcrt()\n"
        "from eni_bootstrap.windows import record; from eni_bootstrap.model.deadline import Deadline\n"
        "with record.lock(Deadline(10)): print('held', flush=True); time.sleep(60)\n").format(os.getcwd())],
        stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout.readline() == b"held\n"
        threading.Timer(0.3, holder.kill).start()
        with record.lock(Deadline(10)) as waited:
            assert waited


def test_icacls_that_fails(folder):
    with pytest.raises(BootstrapError) as caught:
        record.secure(OURS, lambda command: (5, b"Zugriff\r\nverweigert"))
    assert "code 5, Zugriff verweigert" in str(caught.value)


def test_a_junction_is_put_aside(folder):
    folder.rmdir()
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    folder.symlink_to(elsewhere)
    record.secure(OURS, lambda command: (0, b""))
    assert folder.is_dir() and not folder.is_symlink() and not list(elsewhere.iterdir())


def test_what_somebody_was_quick_to_put_in_goes(folder):
    folder.rmdir()

    def tool(command):
        (folder / "state.json").write_text("{}") if command[1:3] == [str(folder), "/setowner"] else None
        return 0, b""

    record.secure(Folder(False, False, False), tool)
    assert [path.name for path in folder.iterdir()] == ["lock"]


@pytest.mark.parametrize("as_folder", [False, True])
def test_what_was_put_into_an_open_folder_under_our_names_is_not_used(folder, as_folder):
    """Its owner could go on writing what we read, or hold the lock for ever; and a folder is in the way."""
    (folder / "eni-bootstrap.yaml").write_text("")
    for name in ("state.json", "state.json.new", "lock"):
        if as_folder:
            (folder / name / "x").mkdir(parents=True)
        else:
            (folder / name).write_text("planted")
    done = []
    record.secure(Folder(True, False, True), lambda command: (done.append(command[1:]), (0, b""))[1])
    assert [str(folder / "lock"), "/setowner", "*S-1-5-32-544", "/Q"] in done
    assert done[-2] == [str(folder / "lock"), "/reset", "/Q"], "also of what its maker has granted to himself"
    record.save(Record(taken_back=7))
    assert record.load() == Record(taken_back=7) and (folder / "lock").is_file()
    ours = {path.name for path in folder.iterdir() if ".not-ours-" not in path.name}
    assert ours == {"eni-bootstrap.yaml", "state.json", "lock"}
    record.secure(OURS, lambda command: (0, b""))
    assert record.load() == Record(taken_back=7)


def test_a_folder_that_somebody_was_quick_to_put_in_is_in_nobody_s_way(folder):
    folder.rmdir()

    def tool(command):
        (folder / "state.json" / "x").mkdir(parents=True) if command[1:3] == [str(folder), "/setowner"] else None
        return 0, b""

    record.secure(Folder(False, False, False), tool)
    record.save(Record(taken_back=7))
    assert record.load() == Record(taken_back=7)


def test_a_record_that_can_t_be_written(folder):
    (folder / "state.json.new").mkdir()
    with pytest.raises(BootstrapError) as caught:
        record.save(Record())
    assert "can't write" in str(caught.value) and not isinstance(caught.value, NotPermitted)


def test_a_record_that_somebody_reads_just_now(folder, monkeypatch):
    """Windows does not replace a file that is open."""
    usual, refusals = os.replace, [PermissionError(13, "Permission denied")] * 3

    def replace(*paths):
        if refusals:
            raise refusals.pop()
        usual(*paths)

    monkeypatch.setattr(os, "replace", replace)
    record.save(Record(taken_back=7))
    assert record.load() == Record(taken_back=7)
    refusals.extend([PermissionError(13, "Permission denied")] * 99)
    monkeypatch.setattr(record, "time", Clock())
    with pytest.raises(NotPermitted):
        record.save(Record())


@pytest.mark.parametrize("text", [
    "", "[]", '{"routes": [{}]}', '{"routes": 3}',
    '{"routes": [{"mac": "", "guid": "", "prefix": "10.0.0.0/8", "index": 1, "gateway": "10.0.0.1", "metric": 1}]}',
    '{"routes": [{"mac": "", "guid": "", "prefix": "::/0", "index": 1, "gateway": "10.0.0.1", "metric": 1}]}'])
def test_a_record_that_is_none_is_empty(folder, text, caplog):
    (folder / "state.json").write_text(text)
    assert record.load() == Record() and "which routes are ours is not known any more" in caplog.text


def test_a_record_that_can_t_be_read_is_not_forgotten(folder, monkeypatch):
    """A virus scanner or a backup may have it open for itself; what it says counts all the same."""
    kept = Record(taken_back=7)
    record.save(kept)
    monkeypatch.setattr(record, "time", Clock())
    refusals = [PermissionError(13, "Permission denied")] * 3

    def refuse(*how, **more):
        if refusals:
            raise refusals.pop()
        return open(*how, **more)

    monkeypatch.setattr(record, "open", refuse, raising=False)
    assert record.load() == kept
    refusals.extend([PermissionError(13, "Permission denied")] * 99)
    with pytest.raises(BootstrapError) as caught:
        record.load()
    assert "can't read" in str(caught.value)
    del refusals[:]
    refusals.extend([OSError(5, "Input/output error")])
    with pytest.raises(BootstrapError):
        record.load()
