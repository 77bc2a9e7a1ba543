"""The door to PowerShell, with a stand-in that has its options."""

import base64
import subprocess
import time

import pytest

from eni_bootstrap.model.errors import BootstrapError
from eni_bootstrap.windows import powershell


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """``stand_in(text)``: a shell script in PowerShell's place."""
    monkeypatch.setenv("SystemRoot", str(tmp_path))

    def make(text, *path):
        path = tmp_path.joinpath("System32", *(path or ("WindowsPowerShell", "v1.0", "powershell.exe")))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(0o755)

    return make


def test_the_script_goes_in_by_stdin_of_any_length(stand_in):
    stand_in("cat\n")
    script = "# " + "x" * 200000
    assert powershell.run(script, 10) == script


def test_the_options(stand_in):
    stand_in('echo "$@"\n')
    words = powershell.run("", 10).split()
    assert words[:-1] == ["-NoLogo", "-NoProfile", "-NonInteractive", "-ExecutionPolicy", "Bypass", "-InputFormat",
                          "Text", "-OutputFormat", "Text", "-EncodedCommand"]
    assert base64.b64decode(words[-1]).decode("utf-16-le") == "& ([ScriptBlock]::Create(@($input) -join [char]10))"
    assert len(" ".join(words)) < 1000


def test_utf_8_comes_out(stand_in):
    stand_in("printf '\"\\344\\273\\245\"'\n")
    assert powershell.run("", 10) == '"以"'


def test_one_that_hangs_is_killed(stand_in):
    stand_in("exec sleep 60\n")
    started = time.monotonic()
    with pytest.raises(BootstrapError) as caught:
        powershell.run("", 0.3)
    assert "PowerShell has not ended within 0 s" in str(caught.value) and time.monotonic() - started < 10


def test_one_that_hangs_before_it_has_read_anything_is_killed(stand_in, monkeypatch):
    """On Windows ``communicate`` first writes all of its input, for which its timeout does not count."""
    class Popen(subprocess.Popen):
        def _communicate(self, input, *more):
            self._stdin_write(input)
            self.stdin = None
            return super()._communicate(None, *more)

    monkeypatch.setattr(powershell.subprocess, "Popen", Popen)
    stand_in("exec sleep 20\n")
    started = time.monotonic()
    with pytest.raises(BootstrapError) as caught:
        powershell.run("x" * 1000000, 0.3)
    assert "PowerShell has not ended within 0 s" in str(caught.value) and time.monotonic() - started < 10


def test_one_that_fails_without_a_word_on_stdout(stand_in):
    stand_in("echo ' oops at line 1' >&2; exit 1\n")
    with pytest.raises(BootstrapError) as caught:
        powershell.run("", 10)
    assert str(caught.value) == "PowerShell has ended with code 1: oops at line 1"


def test_one_that_reads_nothing(stand_in):
    stand_in("echo '[]'\n")
    assert powershell.run("x" * 1000000, 10) == "[]\n"


def test_no_powershell(tmp_path, monkeypatch):
    monkeypatch.setenv("SystemRoot", str(tmp_path))
    with pytest.raises(BootstrapError) as caught:
        powershell.run("", 10)
    assert "there is no PowerShell at" in str(caught.value)


def test_pwsh_s_modules_are_not_for_windows_powershell(stand_in, monkeypatch):
    monkeypatch.setenv("PSModulePath", r"C:\Program Files\PowerShell\7\Modules")
    stand_in('echo "[$PSModulePath]"\n')
    assert powershell.run("", 10) == "[]\n"


def test_a_tool(stand_in):
    stand_in("echo \"$1\"; echo no >&2; exit 3\n", "icacls.exe")
    assert powershell.tool(["icacls.exe", "folder"]) == (3, b"folder\nno\n")
