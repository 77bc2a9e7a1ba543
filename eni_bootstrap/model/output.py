"""Output of results to stdout, whatever that is. The log goes to stderr."""

import logging
import re
import sys

LOG = logging.getLogger(__name__)


_UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\udc80-\udcff]")


def shown(text: str, encoding: str) -> str:
    """Text for a terminal: what the encoding lacks, bytes of a link's name that are no UTF-8, and control characters
    are shown by backslash escapes."""
    text = _UNSHOWN.sub(lambda found: "\\x{:02x}".format(ord(found.group()) & 0xFF), text)
    return text.encode(encoding, "backslashreplace").decode(encoding)


def write(text: str) -> bool:
    """Print the result, whatever the encoding of stdout. Returns whether it could be written."""
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
