"""What Windows runs imports nothing that only Unix has: tried in an interpreter that has lost it all."""

import ast
import os
import subprocess
import sys

from tests.agent import ROOT
from tests.unit.test_layers import modules

LINUX_ONLY = ("__main__", "linux", "kernel.", "lab.", "adopt.command", "adopt.rc_local", "agent.observe", "agent.apply",
              "agent.prove", "agent.platform", "agent.commands", "agent.connmark")
"""And of the host's folder all but what makes the single file."""

WINDOWS = [module for module in modules() if not module.startswith(LINUX_ONLY)
           and (not module.startswith("host.") or module == "host.zipapp")]

STORY = r"""
import sys
# The standard library's own modules and the libraries decide by the platform as they are imported.
import argparse, asyncio, concurrent.futures, json, logging, marshal, multiprocessing.util, os, queue, random, shutil
import socket, ssl, subprocess, tempfile, types, zipfile, xml.etree.ElementTree, xml.sax.saxutils
import requests, tenacity

GONE = {"pyroute2", "yaml", "fcntl", "pwd", "grp", "termios", "resource", "syslog"}

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in GONE:
            raise ImportError("there is no {} on Windows".format(name))

sys.meta_path.insert(0, Nothing())
for name in [name for name in sys.modules if name.split(".")[0] in GONE]:
    del sys.modules[name]
for name in ("geteuid", "getegid", "getuid", "getgid", "uname", "fork", "forkpty", "chroot", "fchmod", "fchown",
             "chown", "getpgid", "setsid", "killpg", "mkfifo", "openpty", "O_CLOEXEC", "O_NOFOLLOW", "O_DIRECTORY",
             "sysconf"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("AF_UNIX", "AF_NETLINK", "AF_PACKET"):
    if hasattr(socket, name):
        delattr(socket, name)
sys.platform = "win32"
os.environ["ProgramData"] = "/nowhere"

import importlib
for module in sys.argv[1:]:
    importlib.import_module("eni_bootstrap." + module)

from eni_bootstrap import cli
from eni_bootstrap.config import loader
from eni_bootstrap.windows import agent, powershell
from tests.build import interface, subnet
from tests.windows.host import FakeWindows, tree

assert loader.PATH == os.path.join("/nowhere", "eni-bootstrap", "eni-bootstrap.yaml")
windows = FakeWindows()
windows.plug(0, "172.16.10.10/24", gateway="172.16.10.253")
windows.plug(1, "172.16.12.76/24", index=6)
found = tree(interface(0, subnet("172.16.10.0/24", "172.16.10.10"), primary=True),
             interface(1, subnet("172.16.12.0/24", "172.16.12.76")))
powershell.run = windows.run
agent.client = lambda config, deadline, every_leaf=False: types.SimpleNamespace(fetch=lambda: found, close=lambda: None)
assert cli.main(["plan"]) == 0
assert cli.main(["plan", "--config", __file__]) == 2
"""


def test_what_windows_runs_imports_nothing_that_only_unix_has(tmp_path):
    script = tmp_path / "story.py"
    script.write_text(STORY)
    done = subprocess.run([sys.executable, "-W", "ignore", str(script)] + WINDOWS, cwd=ROOT, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, universal_newlines=True, env=dict(os.environ, PYTHONPATH=ROOT))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("New-NetRoute -DestinationPrefix '0.0.0.0/0' -InterfaceIndex 6 ")
    assert "takes PyYAML" in done.stderr


def test_the_launcher_imports_what_every_system_has():
    with open(os.path.join(ROOT, "packaging", "launcher.py")) as source:
        tree = ast.parse(source.read())
    names = {node.module if isinstance(node, ast.ImportFrom) else name.name for node in ast.walk(tree)
             if isinstance(node, (ast.Import, ast.ImportFrom)) for name in node.names}
    assert names == {"marshal", "os", "sys", "zlib", "importlib.machinery", "importlib.util", "eni_bootstrap.__main__"}
