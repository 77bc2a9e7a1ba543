"""Where results go: to stdout, whatever that is. The log goes to stderr."""

import logging
import re
import sys

LOG = logging.getLogger(__name__)


_UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\udc80-\udcff]")


def shown(text: str, encoding: str) -> str:
    """Text in an encoding that takes less than all characters; of a link's name, bytes that are none, and what a
    terminal would obey."""
    text = _UNSHOWN.sub(lambda found: "\\x{:02x}".format(ord(found.group()) & 0xFF), text)
    return text.encode(encoding, "backslashreplace").decode(encoding)


def write(text: str) -> bool:
    """Print the result, in an encoding that takes less than all characters too; whether it could be written."""
    encoding = sys.stdout.encoding or "ascii"
    try:
        sys.stdout.write(shown(text, encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        return False  # whoever was reading has seen enough
    except OSError as error:
        LOG.error("the result can't be written: %s", error.strerror)
        return False
    return True
