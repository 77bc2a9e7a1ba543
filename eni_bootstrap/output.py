"""Where results go: to stdout, whatever that is. The log goes to stderr."""

import logging
import sys

LOG = logging.getLogger(__name__)


def write(text: str) -> bool:
    """Print the result, in an encoding that takes less than all characters too; whether it could be written."""
    encoding = sys.stdout.encoding or "ascii"
    try:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        return False  # whoever was reading has seen enough
    except OSError as error:
        LOG.error("the result can't be written: %s", error.strerror)
        return False
    return True
