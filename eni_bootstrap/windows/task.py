"""The task that runs the agent on Windows: at each boot, at each change of a network, every five minutes. PURE."""

import ntpath
from typing import Mapping, Sequence
from xml.sax.saxutils import escape

NAME = "eni-bootstrap"

AUTHOR = "<Author>eni-bootstrap</Author>"
"""By which the task is known as ours."""

_EVENTS = ("<QueryList><Query Id=\"0\" Path=\"Microsoft-Windows-NetworkProfile/Operational\">"
           "<Select Path=\"Microsoft-Windows-NetworkProfile/Operational\">"
           "*[System[(EventID=10000 or EventID=10001)]]</Select></Query></QueryList>")
"""A network was connected, or disconnected: an ENI was bound, or taken away."""

# The elements of a trigger are a sequence in the schema (MS-TSCH 2.5.3.1); of all others any order will do. 3 s: the
# event comes when the adapter does, the lease of its address a little later, for which the agent waits by itself.
_TASK = """\
<?xml version="1.0" encoding="UTF-16"?>
<Task version="1.2" xmlns="http://schemas.microsoft.com/windows/2004/02/mit/task">
  <RegistrationInfo>
    {author}
    <Description>Makes every elastic network interface of this instance answer by itself.</Description>
  </RegistrationInfo>
  <Triggers>
    <BootTrigger>
      <Enabled>true</Enabled>
    </BootTrigger>
    <EventTrigger>
      <Enabled>true</Enabled>
      <Subscription>{events}</Subscription>
      <Delay>PT3S</Delay>
    </EventTrigger>
    <TimeTrigger>
      <Enabled>true</Enabled>
      <StartBoundary>2020-01-01T00:00:00</StartBoundary>
      <Repetition>
        <Interval>PT5M</Interval>
        <StopAtDurationEnd>false</StopAtDurationEnd>
      </Repetition>
    </TimeTrigger>
  </Triggers>
  <Principals>
    <Principal id="Author">
      <UserId>S-1-5-18</UserId>
      <RunLevel>HighestAvailable</RunLevel>
    </Principal>
  </Principals>
  <Settings>
    <MultipleInstancesPolicy>Queue</MultipleInstancesPolicy>
    <DisallowStartIfOnBatteries>false</DisallowStartIfOnBatteries>
    <StopIfGoingOnBatteries>false</StopIfGoingOnBatteries>
    <AllowHardTerminate>true</AllowHardTerminate>
    <StartWhenAvailable>true</StartWhenAvailable>
    <RunOnlyIfNetworkAvailable>false</RunOnlyIfNetworkAvailable>
    <IdleSettings>
      <StopOnIdleEnd>false</StopOnIdleEnd>
      <RestartOnIdle>false</RestartOnIdle>
    </IdleSettings>
    <AllowStartOnDemand>true</AllowStartOnDemand>
    <Enabled>true</Enabled>
    <Hidden>false</Hidden>
    <RunOnlyIfIdle>false</RunOnlyIfIdle>
    <WakeToRun>false</WakeToRun>
    <ExecutionTimeLimit>PT5M</ExecutionTimeLimit>
    <Priority>5</Priority>
  </Settings>
  <Actions Context="Author">
    <Exec>
      <Command>{command}</Command>
      <Arguments>{arguments}</Arguments>
    </Exec>
  </Actions>
</Task>
"""


def task(command: str, arguments: Sequence[str]) -> str:
    """The task's definition, for ``schtasks /Create /XML``, which wants it in UTF-16."""
    return _TASK.format(author=AUTHOR, events=escape(_EVENTS), command=escape(command),
                        arguments=escape(" ".join(_argument(each) for each in arguments)))


def is_ours(definition: bytes) -> bool:
    """Whether the task that schtasks has shown is ours; in which encoding it does is its own affair."""
    return AUTHOR.encode("ascii") in definition.replace(b"\0", b"")


def is_guarded(path: str, environment: Mapping[str, str]) -> bool:
    """Whether the path is below a folder where only administrators may write."""
    names = ("ProgramFiles", "ProgramFiles(x86)", "ProgramW6432", "SystemRoot")
    return any(is_below(path, environment[name]) for name in names if environment.get(name))


def is_below(path: str, folder: str) -> bool:
    path, folder = (ntpath.normcase(ntpath.normpath(each)) for each in (path, folder))
    return path.startswith(folder.rstrip("\\") + "\\")


def _argument(text: str) -> str:
    """An argument, quoted where it has blanks; paths can't have quotation marks."""
    return '"{}"'.format(text) if " " in text else text
