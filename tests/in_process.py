"""A command of the agent on Linux in the test's own process."""

import time
from copy import deepcopy

from eni_bootstrap.agent import commands
from eni_bootstrap.config.settings import Config
from eni_bootstrap.kernel.kernel import Kernel
from eni_bootstrap.model.deadline import Deadline


def run_here(vpc, command=commands.apply, config=Config(), kernel=Kernel, fetch=None, sleep=time.sleep, seconds=10):
    """Without a command line: the test has a hand in what is passed in."""
    with vpc.instance:
        reader = kernel()
        try:
            return command(commands.Context(
                fetch or (lambda: deepcopy(vpc.tree)), reader, Deadline(seconds), config, sleep=sleep))
        finally:
            reader.close()
