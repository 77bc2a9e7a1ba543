"""The configuration of a run: the file's settings, where there is a file, and the command line's in front of them.

Most hosts have no file: what reads one is imported for those that have.
"""

import os
import sys
from typing import TYPE_CHECKING

from eni_bootstrap.config.settings import Config
from eni_bootstrap.model.errors import UsageError

if TYPE_CHECKING:
    from argparse import Namespace

PATH = "/etc/eni-bootstrap.yaml" if sys.platform != "win32" else os.path.join(
    os.environ.get("ProgramData") or r"C:\ProgramData", "eni-bootstrap", "eni-bootstrap.yaml")


def load(path: str = "", base: Config = Config()) -> Config:
    """``base`` with the settings of the file; without a path, of the usual file if it is there.

    Raises ``UsageError``, whose message has a line for each problem.
    """
    if not path and not os.path.lexists(PATH):
        return base
    from eni_bootstrap.config.file import LARGEST, read
    name = path or PATH
    try:
        with open(name, "rb") as handle:
            data = handle.read(LARGEST + 1)
    except PermissionError:
        raise UsageError("{}: it has to be readable for everybody: the service is no root".format(name))
    except OSError as error:
        raise UsageError("{}: {}".format(name, error.strerror))
    found, problems = read(data, base)
    if found is None:
        raise UsageError("\n".join("{}:{}: {}".format(name, problem.line, problem) for problem in problems))
    return found


def settings(parsed: "Namespace") -> Config:
    """The settings of a run: those of the file, and the command line's in front of them. Raises as ``load``."""
    config = load(parsed.config)._replace(timeout=parsed.timeout, unattended=parsed.unattended)
    if parsed.metadata_url is None:
        return config
    return config._replace(metadata_url=parsed.metadata_url, metadata_url_ipv6="")
