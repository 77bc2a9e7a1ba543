"""The program: a process that works for a third of a second and ends."""

import gc
import logging
import os
import sys


def run() -> None:
    """The console script."""
    _stand_in_for_closed_streams()
    gc.disable()  # the libraries make a hundred thousand objects to stay: looking through them is 3 % of our life
    from eni_bootstrap.cli import main
    if sys.version_info >= (3, 7):
        gc.freeze()
    gc.set_threshold(700, 10, 1000)  # Python's own, but that what has grown old, which is there to stay, is let be
    gc.enable()
    code = main()
    logging.shutdown()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        pass  # whoever was reading has gone
    os._exit(code)  # the interpreter's tear-down takes longer than our whole work


def _stand_in_for_closed_streams() -> None:
    """Some boot scripts start programs without stdin, stdout and stderr; our sockets would get their numbers."""
    while True:
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor > 2:
            os.close(descriptor)
            break
    sys.stdout = sys.stdout or open(os.devnull, "w")
    sys.stderr = sys.stderr or open(os.devnull, "w")


if __name__ == "__main__":
    run()
