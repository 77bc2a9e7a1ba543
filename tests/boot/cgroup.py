"""A control group for each container: side by side in one, they would take each other's units for their own."""

import os
import time
from typing import List


class ControlGroup:
    """Made at once; ``remove()`` when all that was in it has ended."""

    def __init__(self, name: str) -> None:
        self._folders = [os.path.join(hierarchy, name) for hierarchy in _hierarchies()]
        for folder in self._folders:
            os.mkdir(folder)

    def enter(self) -> None:
        """The process that calls this, and its children from now on."""
        for folder in self._folders:
            with open(os.path.join(folder, "cgroup.procs"), "w") as file:
                file.write("0")

    def remove(self) -> None:
        give_up = time.monotonic() + 5
        for top in self._folders:
            for folder, _, _ in list(os.walk(top, topdown=False)):
                while True:
                    try:
                        os.rmdir(folder)
                        break
                    except OSError:  # its last process is just being reaped
                        if time.monotonic() > give_up:
                            break
                        time.sleep(0.05)


def _hierarchies() -> List[str]:
    """Those in which systemd keeps its units: the only one, or its own two beside the controllers'."""
    found = [path for path in ("/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified") if os.path.isdir(path)]
    return found or ["/sys/fs/cgroup"]
