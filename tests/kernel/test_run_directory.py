"""What lies in the run directory and is no file of ours."""

import os
import socket
import subprocess

import pytest

from tests.unit.kernel.test_record import NAMES


def link_to_a_secret(path, secret):
    path.symlink_to(secret)


def hard_link_to_a_secret(path, secret):
    os.link(str(secret), str(path))


def link_to_nothing(path, secret):
    path.symlink_to(secret.parent / "nothing")


def pipe(path, secret):
    os.mkfifo(str(path))


def talking_socket(path, secret):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


@pytest.mark.parametrize("put", [link_to_a_secret, hard_link_to_a_secret, link_to_nothing, pipe, talking_socket],
                         ids=lambda put: put.__name__)
def test_what_is_no_file_of_ours_is_neither_followed_nor_waited_for(vpc, make_agent, secret, put):
    agent = make_agent(vpc)
    assert agent("apply").code == 0
    for command in ("apply", "remove"):
        for path in (secret.parent / "run" / name for name in NAMES):
            if os.path.lexists(str(path)):
                path.unlink()
            put(path, secret)
        process = agent.start(command, "--timeout", 5)
        try:
            out, err = process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            pytest.fail("{} hangs".format(command))
        assert process.returncode == 0 and "Traceback" not in err, (command, out, err)
