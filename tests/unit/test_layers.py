"""Who may import whom: the folders of the house, and the one door to each library.

The tables are those of ARCHITECTURE.md.
"""

import ast
import functools
import os
import re
import subprocess
import sys

import pytest

import eni_bootstrap
from tests.agent import ROOT

pytestmark = pytest.mark.once

PACKAGE = os.path.dirname(eni_bootstrap.__file__)

MAY_IMPORT = {
    "model": "",
    "config": "model",
    "metadata": "model config",
    "kernel": "model config",
    "host": "model config",
    "desired": "model config",
    "plan": "model config desired",
    "verify": "model config desired",
    "agent": "model config metadata kernel host desired plan verify",
    "render": "model config metadata desired plan verify agent windows",
    "adopt": "model config metadata kernel host desired plan verify agent",
    "windows": "model config metadata host desired verify agent",
    "lab": "model config metadata host",
    "linux": "model config metadata kernel host desired plan verify agent adopt",
    "cli": "model config metadata agent render windows lab linux",
    "__main__": "cli",
}
"""Each folder, and each module in the package's root: what it may import of ours beside its own."""

PURE = ("model", "config", "desired", "plan", "verify")
"""No file, no socket, no clock, no process."""

EXCEPTIONS = {
    "model.deadline": {"time", "logging"},  # the default clock; tests pass their own
    "model.output": {"logging"},  # the one place that prints a result
    "config.loader": {"os"},  # the configuration file itself
    "verify.checks": {"os"},  # os.strerror
}

DOORS = {"pyroute2": {"kernel.change_codec"}, "requests": {"metadata.client"}, "tenacity": {"metadata.retry"},
         "yaml": {"config.file"}}

PROGRAMS = {
    "kernel.nft": "nft",
    "host.install": "systemctl, eni-bootstrap --version",
    "host.zipapp": "a Python that compiles the single file",
    "lab.demo": "the agent; a shell with --keep",
    "lab.namespace": "for the demo, and for the tests",
    "windows.powershell": "PowerShell",
}
"""Who starts other programs, and which; README.md and SECURITY.md name those of Linux."""

WORLDLY = {"socket", "os", "subprocess", "time", "threading", "requests", "tenacity", "pyroute2", "fcntl", "logging",
           "msvcrt", "shutil", "tempfile", "zipfile", "ctypes"}


def modules():
    """All of ours by their dotted names below the package."""
    found = []
    for folder, _, names in os.walk(PACKAGE):
        inside = os.path.relpath(folder, PACKAGE).replace(os.sep, ".")
        found += [name[:-3] if inside == "." else "{}.{}".format(inside, name[:-3])
                  for name in names if name.endswith(".py") and name != "__init__.py"]
    return sorted(found)


def text(module):
    """A module's source."""
    with open(os.path.join(PACKAGE, *module.split(".")) + ".py") as source:
        return source.read()


@functools.lru_cache(None)
def _nodes(module):
    return [node for node in ast.walk(ast.parse(text(module))) if isinstance(node, (ast.Import, ast.ImportFrom))]


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
    """Which of our modules a module imports, by their dotted names."""
    known = set(modules())
    names = [name.split(".")[1:] for name in imports(module) if name.startswith("eni_bootstrap.")]
    return {".".join(name[:length]) for name in names for length in (1, 2) if ".".join(name[:length]) in known}


def test_every_module_is_in_a_folder():
    assert {name.split(".")[0] for name in modules()} == set(MAY_IMPORT)
    assert [name for name in modules() if "." not in name] == ["__main__", "cli", "linux"]


@pytest.mark.parametrize("module", modules())
def test_a_folder_imports_only_what_it_may(module):
    folder = module.split(".")[0]
    assert {name.split(".")[0] for name in ours(module)} - {folder} <= set(MAY_IMPORT[folder].split())


def test_nothing_is_imported_in_a_circle():
    """Neither among the folders nor among the modules of one."""
    done, path = set(), []

    def visit(module):
        assert module not in path, " -> ".join(path[path.index(module):] + [module])
        if module not in done:
            path.append(module)
            for other in sorted(ours(module)):
                visit(other)
            path.pop()
            done.add(module)

    for module in modules():
        visit(module)


def test_the_table_has_an_order():
    """Folders, as the table allows: none may import one that may import it."""
    allowed = {folder: set(others.split()) for folder, others in MAY_IMPORT.items()}
    assert not [(one, other) for one in allowed for other in allowed[one] if one in allowed[other]]


LAB = sorted("lab." + name[:-3] for name in os.listdir(os.path.join(PACKAGE, "lab")) if not name.startswith("__"))


@pytest.mark.parametrize("module", LAB)
def test_the_laboratory_knows_nothing_of_the_agent(module):
    """What the agent reads or decides wrongly must not build a world, or see one, that agrees with it.

    It shares what is an error and the words for an address and a network; its demo is a command of the program's, which
    reads files as the others do and starts the agent as a program.
    """
    shared = {"model.errors.NotPermitted", "model.kernel.Address", "model.kernel.Network"}
    if module == "lab.demo":
        shared |= {"model.errors.BootstrapError", "model.errors.UsageError", "metadata.dump", "config.loader",
                   "host.zipapp"}
    names = [name[len("eni_bootstrap."):] for name in imports(module) if name.startswith("eni_bootstrap.")]
    assert {name for name in names if not name.startswith("lab.")} <= shared


@pytest.mark.parametrize("library", sorted(DOORS))
def test_each_library_has_one_door(library):
    agent = [module for module in modules() if not module.startswith("lab.")]
    users = {module for module in agent if library in {name.split(".")[0] for name in imports(module)}
             or re.search(r"\"{}[\".]".format(library), text(module))}  # or by its name, with importlib
    assert users == DOORS[library]


def test_nobody_else_starts_a_program():
    starting = re.compile(r"\bimport subprocess$|\bos\.(system|popen|exec|spawn|posix_spawn|fork)|\bimport pty$", re.M)
    assert {module for module in modules() if starting.search(text(module))} == set(PROGRAMS)


@pytest.mark.parametrize("module", [name for name in modules() if name.split(".")[0] in PURE])
def test_pure_folders_touch_no_world(module):
    assert not {name.split(".")[0] for name in imports(module)} & WORLDLY - EXCEPTIONS.get(module, set())


def test_a_boot_loads_only_what_it_needs():
    """Nor pays for the rest."""
    script = "import sys, eni_bootstrap.cli, eni_bootstrap.linux; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=os.path.dirname(PACKAGE), stdout=subprocess.PIPE)
    loaded = done.stdout.decode().split()
    assert "eni_bootstrap.agent.reconcile" in loaded
    for rest in ("windows", "adopt", "host.install", "host.units", "render.", "lab"):
        assert not [name for name in loaded if name.startswith("eni_bootstrap." + rest)]


@pytest.mark.parametrize("module", modules())
def test_a_function_can_be_read_at_once(module):
    """At most 60 lines and 6 parameters, or a line that begins with «# Size: » right above, which says why."""
    lines = text(module).split("\n")
    for node in ast.walk(ast.parse(text(module))):
        if isinstance(node, ast.FunctionDef):
            every = node.args.args + node.args.kwonlyargs
            given = [argument.arg for argument in every if argument.arg not in ("self", "cls")]
            given += [each.arg for each in (node.args.vararg, node.args.kwarg) if each]
            length = max(getattr(part, "lineno", 0) for part in ast.walk(node)) - node.lineno + 1
            above = lines[min([node.lineno] + [each.lineno for each in node.decorator_list]) - 2]
            assert length <= 60 and len(given) <= 6 or above.strip().startswith("# Size: "), node.name


def test_the_decision_reads_in_a_minute():
    """``decide`` has at most 60 lines, and nothing is changed in place."""
    with open(os.path.join(PACKAGE, "desired", "decide.py")) as source:
        (decide,) = [node for node in ast.parse(source.read()).body if getattr(node, "name", "") == "decide"]
    inner = list(ast.walk(decide))
    assert max(getattr(part, "lineno", 0) for part in inner) - decide.lineno < 60
    assert not [node for node in inner if isinstance(node, (ast.AugAssign, ast.For, ast.While, ast.Delete))]
    changing = {"append", "extend", "insert", "update", "add", "remove", "pop", "clear", "setdefault", "sort"}
    assert not changing.intersection(node.attr for node in inner if isinstance(node, ast.Attribute))


@pytest.mark.parametrize("module", [name for name in modules() if name.startswith("desired.")])
def test_the_decision_reads_no_settings_of_links(module):
    """``Snapshot.settings`` is filled after it, as only the decision tells which are asked for."""
    assert not re.search(r"snapshot\.settings\b", text(module))


def test_the_table_is_the_one_of_the_book():
    """ARCHITECTURE.md has each folder in a row: its name, its promise, what it may import, whether a boot loads it."""
    with open(os.path.join(ROOT, "ARCHITECTURE.md")) as book:
        lines = [line.strip().strip("|") for line in book if line.startswith("| `")]
    rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    told = {re.sub(r"[`/]", "", row[0]): " ".join(re.findall(r"[\w]+", row[2])) for row in rows if len(row) == 4}
    assert told == {folder: others for folder, others in MAY_IMPORT.items()}


STEPS = {
    "observe": "metadata/ kernel/ agent/observe.py",
    "decide": "desired/",
    "plan": "plan/",
    "apply": "agent/apply.py kernel/",
    "prove": "verify/ agent/prove.py",
}
"""The steps of a run, in order, and where each is."""


def test_the_book_says_where_each_step_is():
    with open(os.path.join(ROOT, "ARCHITECTURE.md")) as book:
        rows = re.findall(r"^\| (\w+) \| (`.*?) \|", book.read().split("\n## ")[0], re.MULTILINE)
    assert [(step, " ".join(re.findall(r"`(.+?)`", places))) for step, places in rows] == list(STEPS.items())
    places = " ".join(STEPS.values()).split()
    assert [place for place in places if not os.path.exists(os.path.join(PACKAGE, place))] == []


def test_the_book_calls_pure_what_is_pure():
    with open(os.path.join(ROOT, "ARCHITECTURE.md")) as book:
        page = book.read()
    (rule,) = re.findall(r"\*\*One rule: (.*?) are pure\.", page, re.DOTALL)
    marked = re.findall(r"^\| `(\w+)/` \| .*\(pure\) \|", page, re.MULTILINE)
    assert re.findall(r"`(\w+)/`", rule) == marked == [folder for folder in PURE if folder not in ("model", "config")]
