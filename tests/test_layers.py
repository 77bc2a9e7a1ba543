"""Who may import whom: the layers of the house, and the one door to each library."""

import ast
import functools
import os
import subprocess
import sys

import pytest

import eni_bootstrap

PACKAGE = os.path.dirname(eni_bootstrap.__file__)

# Each module may import what stands before it, and nothing else of ours.
ORDER = ["errors", "model", "config", "output", "wake", "host.managers", "host.rooted", "host.rivals",
         "host.containers", "host.files", "host.installer", "host.bytecode", "host.singlefile", "retry", "interfaces",
         "pairing", "schema", "configfile", "tables", "evidence", "links", "maintable", "policy", "marks", "routing",
         "windows.model", "windows.scripts", "windows.reader", "windows.decision", "windows.plan", "plan", "staging",
         "typed", "adoption", "host.rclocal", "recall", "proof", "trials", "fibrule", "rtnetlink", "netlink",
         "nftables", "state", "host.command", "metadata", "patience", "answer", "saved", "render.outline",
         "render.windows", "render.ifcfg", "render.netplan", "render.networkd", "render.networkmanager",
         "render.script", "render.formats", "render.rendered", "report", "looking", "executing", "proving",
         "bootstrap", "takeover", "views", "linux", "windows.proof", "windows.task", "windows.powershell",
         "windows.record", "windows.looking", "windows.installation", "windows.agent", "cli", "__main__"]

FOLDERS = ("host", "render", "windows")

PURE = ["errors", "model", "config", "host.files", "interfaces", "pairing", "schema", "tables", "evidence", "links",
        "maintable", "policy", "marks", "routing", "plan", "staging", "typed", "adoption", "recall", "proof", "trials",
        "fibrule", "render.outline", "render.ifcfg", "render.netplan", "render.networkd", "render.networkmanager",
        "render.script", "render.formats", "report", "views", "windows.model", "windows.scripts", "windows.reader",
        "windows.decision", "windows.plan", "windows.proof", "render.windows", "windows.task"]

DOORS = {"pyroute2": {"netlink"}, "requests": {"metadata"}, "tenacity": {"retry"}, "yaml": {"configfile"}}

WORLDLY = {"socket", "os", "subprocess", "time", "threading", "requests", "tenacity", "pyroute2", "fcntl", "logging",
           "msvcrt", "shutil", "tempfile", "zipfile"}


@functools.lru_cache(None)
def _nodes(module):
    with open(os.path.join(PACKAGE, *module.split(".")) + ".py") as source:
        return [node for node in ast.walk(ast.parse(source.read())) if isinstance(node, (ast.Import, ast.ImportFrom))]


def imports(module):
    """Full names of what a module imports, also inside functions."""
    for node in _nodes(module):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield name.name
        elif isinstance(node, ast.ImportFrom):
            for name in node.names:
                yield "{}.{}".format(node.module, name.name)


def ours(module):
    """Which of our modules a module imports: ``from eni_bootstrap.host import files`` too."""
    names = [name.split(".")[1:] for name in imports(module) if name.startswith("eni_bootstrap.")]
    return {".".join(name[:2]) if name[0] in FOLDERS + ("lab",) else name[0] for name in names}


def modules():
    """All but the laboratory's."""
    found = []
    for folder in ("",) + tuple(name + "." for name in FOLDERS):
        names = os.listdir(os.path.join(PACKAGE, folder[:-1]))
        found += [folder + name[:-3] for name in names if name.endswith(".py") and name != "__init__.py"]
    return sorted(found)


def test_every_module_has_its_place():
    assert sorted(ORDER) == modules()


@pytest.mark.parametrize("module", ORDER)
def test_imports_only_go_down(module):
    above = set(ORDER[ORDER.index(module):])
    assert not ours(module) & above


@pytest.mark.parametrize("module", [module for module in ORDER if module not in ("cli", "__main__")])
def test_the_laboratory_is_no_part_of_the_agent(module):
    assert not [name for name in ours(module) if name.startswith("lab")]


@pytest.mark.parametrize("library", sorted(DOORS))
def test_each_library_has_one_door(library):
    users = {module for module in ORDER if library in {name.split(".")[0] for name in imports(module)}}
    assert users == DOORS[library]


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_touch_no_world(module):
    allowed = {"fibrule": {"socket"}, "proof": {"os"}}.get(module, set())  # for address families' numbers, strerror
    assert not {name.split(".")[0] for name in imports(module)} & WORLDLY - allowed


def test_a_boot_loads_only_what_it_needs():
    """Nor pays for the rest."""
    script = "import sys, eni_bootstrap.cli, eni_bootstrap.linux; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=os.path.dirname(PACKAGE), stdout=subprocess.PIPE)
    loaded = done.stdout.decode().split()
    assert "eni_bootstrap.bootstrap" in loaded
    for rest in ("windows", "adoption", "takeover", "host.command", "render.outline", "lab"):
        assert not [name for name in loaded if name.startswith("eni_bootstrap." + rest)]
