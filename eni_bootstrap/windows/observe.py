"""One look at Windows, and whether we may change it."""

from typing import Callable

from eni_bootstrap.model.deadline import Deadline
from eni_bootstrap.model.errors import NotPermitted
from eni_bootstrap.windows import powershell, reader, record, scripts
from eni_bootstrap.windows.model import Snapshot
from eni_bootstrap.windows.record import Record


def read(run: Callable[[str, float], str], deadline: Deadline) -> Snapshot:
    return reader.snapshot(run(scripts.READ, deadline.remaining()))


def administrator(what: str, deadline: Deadline) -> Snapshot:
    snapshot = read(powershell.run, deadline)
    if not snapshot.elevated:
        raise NotPermitted("{} takes an administrator's rights: run it in a PowerShell that was started as "
                           "administrator".format(what))
    return snapshot


def kept_record(snapshot: Snapshot) -> Record:
    """The record, where nobody else may have written it."""
    return record.load() if snapshot.folder.trusted and snapshot.folder.closed else Record()
