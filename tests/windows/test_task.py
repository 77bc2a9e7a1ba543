"""The task that runs the agent, and what install and uninstall put where."""

import os
import sys
import xml.etree.ElementTree
import zipfile

import pytest

import eni_bootstrap
from eni_bootstrap.host import zipapp
from eni_bootstrap.windows import task
from tests.windows.host import TASK_NAMESPACE, Instance

WINDOWS = {"PUBLIC": r"C:\Users\Public", "USERPROFILE": r"C:\Windows\system32\config\systemprofile",
           "ProgramFiles": r"C:\Program Files", "SystemRoot": r"C:\Windows"}
PYTHON = r"C:\Program Files\Python312\python.exe"
PROGRAM = r"C:\Program Files\eni-bootstrap\eni-bootstrap.pyz"


def parsed(definition):
    """Without the declaration, which is true of the file only."""
    return xml.etree.ElementTree.fromstring(definition.split("\n", 1)[1])


def outline(element):
    """Tag, then text or children; the namespace is everywhere the same."""
    assert element.tag.startswith(TASK_NAMESPACE)
    children = [outline(child) for child in element]
    return element.tag[len(TASK_NAMESPACE):], children or element.text


@pytest.fixture
def instance(tmp_path, monkeypatch):
    """An installation out of the single file."""
    made = Instance(tmp_path, monkeypatch)
    program = tmp_path / "users" / "me" / "Downloads" / "eni-bootstrap.pyz"
    program.parent.mkdir(parents=True)
    with zipfile.ZipFile(str(program), "w") as archive:
        archive.writestr("py39/eni_bootstrap/cli.py", "")
    monkeypatch.setattr(zipapp, "path", lambda: str(program))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "programs" / "Python312" / "python.exe"))
    made.program, made.place = program, tmp_path / "programs" / "eni-bootstrap" / "eni-bootstrap.pyz"
    return made


def test_the_task_element_by_element():
    found = parsed(task.task(PYTHON, [PROGRAM, "apply", "--unattended"]))
    assert found.attrib == {"version": "1.2"}
    _, parts = outline(found)
    assert [name for name, _ in parts] == ["RegistrationInfo", "Triggers", "Principals", "Settings", "Actions"]
    sections = dict(parts)
    assert sections["Triggers"] == [
        ("BootTrigger", [("Enabled", "true")]),
        ("EventTrigger", [
            ("Enabled", "true"),
            ("Subscription", '<QueryList><Query Id="0" Path="Microsoft-Windows-NetworkProfile/Operational"><Select '
             'Path="Microsoft-Windows-NetworkProfile/Operational">*[System[(EventID=10000 or EventID=10001)]]</Select>'
             '</Query></QueryList>'),
            ("Delay", "PT3S")]),
        ("TimeTrigger", [
            ("Enabled", "true"), ("StartBoundary", "2020-01-01T00:00:00"),
            ("Repetition", [("Interval", "PT5M"), ("StopAtDurationEnd", "false")])])]
    assert sections["Principals"] == [
        ("Principal", [("UserId", "S-1-5-18"), ("RunLevel", "HighestAvailable")])]
    settings = dict(sections["Settings"])
    assert settings["MultipleInstancesPolicy"] == "Queue" and settings["ExecutionTimeLimit"] == "PT5M"
    assert settings["StartWhenAvailable"] == "true" and settings["Hidden"] == "false"
    for name in ("DisallowStartIfOnBatteries", "StopIfGoingOnBatteries", "RunOnlyIfIdle", "RunOnlyIfNetworkAvailable"):
        assert settings[name] == "false"
    assert sections["Actions"] == [("Exec", [
        ("Command", PYTHON), ("Arguments", '"{}" apply --unattended'.format(PROGRAM))])]


def test_the_query_is_xml_itself():
    query = next(parsed(task.task(PYTHON, [])).iter(TASK_NAMESPACE + "Subscription")).text
    assert xml.etree.ElementTree.fromstring(query)[0][0].text == "*[System[(EventID=10000 or EventID=10001)]]"


def test_names_that_mean_something_to_xml():
    found = parsed(task.task(r"C:\Program Files\R&D <1>\python.exe", ["-m", "eni_bootstrap"]))
    assert next(found.iter(TASK_NAMESPACE + "Command")).text == r"C:\Program Files\R&D <1>\python.exe"


@pytest.mark.parametrize("path, expected", [
    (r"C:\Users\Me\AppData\Local\Programs\Python\Python312\python.exe", False), (r"c:/users/me/python.exe", False),
    (PYTHON, True), (PYTHON.lower().replace("\\", "/"), True), (r"C:\Python312\python.exe", False),
    (r"C:\Program Files Mine\python.exe", False), (r"C:\Program Files\..\Users\me\python.exe", False)])
def test_what_is_guarded(path, expected):
    assert task.is_guarded(path, WINDOWS) is expected


def test_install_and_uninstall(instance):
    done = instance("install")
    assert done.code == 0, done
    assert instance.place.read_bytes() == instance.program.read_bytes()
    definition = instance.windows.tasks["eni-bootstrap"].decode("utf-16-le")
    arguments = next(parsed(definition).iter(TASK_NAMESPACE + "Arguments")).text
    assert arguments.split()[-2:] == ["apply", "--unattended"] and str(instance.place) in arguments
    assert sorted(path.name for path in instance.place.parent.iterdir()) == ["eni-bootstrap.pyz"]
    assert not instance.windows.commands, "it starts nothing"
    assert instance("install").code == 0, "again"
    assert instance("uninstall").code == 0
    assert not instance.windows.tasks and not instance.place.parent.exists()
    done = instance("uninstall")
    assert done.code == 0 and done.out == "nothing is installed\n"


def test_who_installs_it_wants_it_whatever_was_removed_before(instance):
    instance.windows.plug(0, "172.16.10.10/24", gateway="172.16.10.253")
    assert instance("remove").code == 0 and instance.state["taken_back"]
    assert instance("install").code == 0 and instance.state["taken_back"] is None


def test_installed_by_pip(instance, monkeypatch):
    monkeypatch.setattr(zipapp, "path", lambda: "")
    done = instance("install")
    assert done.code == 1 and "outside Program Files" in done.err, "a checkout, where the task would not find it"
    package = instance.folder / "programs" / "Python312" / "Lib" / "site-packages" / "eni_bootstrap"
    monkeypatch.setattr(eni_bootstrap, "__file__", str(package / "__init__.py"))
    assert instance("install").code == 0 and not instance.place.parent.exists()
    definition = instance.windows.tasks["eni-bootstrap"].decode("utf-16-le")
    assert next(parsed(definition).iter(TASK_NAMESPACE + "Arguments")).text == \
        "-m eni_bootstrap apply --unattended"


def test_a_dry_run_shows_all_and_does_nothing(instance):
    instance.windows.elevated = False
    done = instance("install", "--dry-run")
    assert done.code == 0 and str(instance.place) in done.out and "<EventTrigger>" in done.out
    assert instance("uninstall", "--dry-run").code == 0
    assert not instance.windows.tools and not instance.place.exists()


@pytest.mark.parametrize("command", ["install", "uninstall"])
def test_an_image_can_t_be_given_a_task(instance, command):
    assert instance(command, "--root", "/mnt").code == 2


@pytest.mark.parametrize("place", ["users/me", "Python312", "programs-of-mine/Python312"])
def test_a_python_where_users_may_write_is_refused(instance, monkeypatch, place):
    monkeypatch.setattr(sys, "executable", str(instance.folder / place / "python.exe"))
    done = instance("install")
    assert done.code == 1 and "outside Program Files" in done.err and "install Python for all users" in done.err
    assert not instance.windows.tasks and not instance.place.exists()
    assert sys.executable in instance("install", "--dry-run").out


def test_a_task_that_is_not_ours_is_left_alone(instance):
    instance.windows.tasks["eni-bootstrap"] = "<Task><Author>Somebody</Author></Task>".encode("utf-16")
    for command in ("install", "uninstall"):
        done = instance(command)
        assert done.code == 1 and "left as it is: the task eni-bootstrap is not ours" in done.out
    assert b"S\0o\0m\0e" in instance.windows.tasks["eni-bootstrap"] and not instance.place.exists()


def test_a_file_that_is_not_ours_is_left_alone(instance):
    instance.place.parent.mkdir(parents=True)
    instance.place.write_text("somebody's")
    for command in ("install", "uninstall"):
        done = instance(command)
        assert done.code == 1 and "is not ours" in done.out
    assert instance.place.read_text() == "somebody's" and not instance.windows.tasks


def test_schtasks_that_fails(instance, monkeypatch):
    usual = instance.windows.tool
    monkeypatch.setattr("eni_bootstrap.windows.powershell.tool", lambda command, timeout=60: (
        (1, b"ERROR: Access is denied.") if "/Create" in command else usual(command)))
    done = instance("install")
    assert done.code == 1 and "schtasks /Create has failed with code 1: ERROR: Access is denied." in done.err
    assert not os.path.exists(str(instance.place.parent / "task.xml"))
