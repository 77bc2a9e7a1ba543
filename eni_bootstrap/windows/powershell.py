"""The door: everything that is started on Windows is started here."""

import base64
import os
import subprocess
import threading
from typing import Dict, List, Sequence, Tuple

from eni_bootstrap.model.errors import BootstrapError

_READ_ALL = "& ([ScriptBlock]::Create(@($input) -join [char]10))"
"""Takes the script from stdin, where it may be of any length: a command line ends after 32,767 characters. Not
``-Command -``, which reads as if somebody typed: a block that goes on behind an empty line is lost."""

_NO_WINDOW = 0x08000000  # CREATE_NO_WINDOW (Process Creation Flags): where a person is logged in nothing flashes


def run(script: str, timeout: float) -> str:
    """What PowerShell prints when it runs this; raises ``BootstrapError`` when it can't, or not within so many seconds.

    Windows PowerShell, which each Windows has, not pwsh, which has to be installed.
    """
    path = system_program("WindowsPowerShell", "v1.0", "powershell.exe")
    encoded = base64.b64encode(_READ_ALL.encode("utf-16-le")).decode("ascii")
    options = ["-NoLogo", "-NoProfile", "-NonInteractive", "-ExecutionPolicy", "Bypass", "-InputFormat", "Text",
               "-OutputFormat", "Text", "-EncodedCommand", encoded]
    code, out, err = _call([path] + options, script.encode("ascii"), timeout, "PowerShell")
    text = out.decode("utf-8", "replace")
    if code and not text.strip():
        said = [line.strip() for line in err.decode("ascii", "replace").splitlines() if line.strip()]
        raise BootstrapError("PowerShell has ended with code {}: {}".format(code, "".join(said[:1]) or "no word"))
    return text


def tool(command: Sequence[str], timeout: float = 60.0) -> Tuple[int, bytes]:
    """The exit code of one of the system's programs (``icacls.exe``, ...), and what it says, in the system's language.

    They take a tenth of a second; one that waits for a minute waits for ever.
    """
    code, out, err = _call([system_program(command[0])] + list(command[1:]), b"", timeout, command[0])
    return code, out + err


def system_program(*path: str) -> str:
    """A system program's full path: what the search path finds first may be anybody's."""
    return os.path.join(os.environ.get("SystemRoot") or r"C:\Windows", "System32", *path)


def _environment() -> Dict[str, str]:
    """Without the places where pwsh, out of which we may have been started, has its modules: they are not for Windows
    PowerShell, which finds its own."""
    return {name: value for name, value in os.environ.items() if name.upper() != "PSMODULEPATH"}


def _call(command: List[str], given: bytes, timeout: float, name: str) -> Tuple[int, bytes, bytes]:
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   env=_environment(),
                                   creationflags=_NO_WINDOW if os.name == "nt" else 0)
    except FileNotFoundError:
        raise BootstrapError("there is no {} at {}".format(name, command[0])) from None
    except OSError as error:
        raise BootstrapError("{} can't be run: {}".format(name, error.strerror)) from error
    late = threading.Event()

    def stop() -> None:
        late.set()
        process.kill()

    # On Windows ``communicate`` writes the input without heeding its timeout: who does not read it would never be left.
    watch = threading.Timer(max(timeout, 0.001), stop)
    watch.daemon = True
    with process:
        watch.start()
        try:
            out, err = process.communicate(given, timeout=max(timeout, 0.001))
        except subprocess.TimeoutExpired:
            late.set()
        finally:
            watch.cancel()
            process.kill()  # as good as nothing where it has ended
    if late.is_set():
        raise BootstrapError("{} has not ended within {:.0f} s".format(name, timeout))
    return process.returncode, out, err
