"""ARCHITECTURE.md: the walk of one address from the metadata service to its rule is the one that the code takes."""

import ast
import os
import re

import pytest

import eni_bootstrap
from tests.agent import ROOT

pytestmark = pytest.mark.once

PACKAGE = os.path.dirname(eni_bootstrap.__file__)
CALL = re.compile(r"^( {4,})(\w+\.\w+\.[\w.]+)(?: +(\S.*) -> (\S.*))?$")


def walk():
    """Each call of the page: how deep it stands, its dotted name, what it makes of what."""
    with open(os.path.join(ROOT, "ARCHITECTURE.md")) as page:
        text = page.read().split("## The walk of one address\n")[1]
    found = [CALL.match(line) for line in text.splitlines() if line.startswith("    ")]
    assert all(found), text
    return [(len(call.group(1)) // 4, call.group(2), call.group(3), call.group(4)) for call in found]


def source(name):
    """The function's syntax tree: ``folder.module.function``, or a class between module and function."""
    folder, module, *path = name.split(".")
    with open(os.path.join(PACKAGE, folder, module + ".py")) as handle:
        node = ast.parse(handle.read())
    for part in path:
        node = next(each for each in node.body if getattr(each, "name", "") == part)
    return node


def used(node):
    """All names that a function uses, also behind a dot."""
    return {each.attr if isinstance(each, ast.Attribute) else each.id
            for each in ast.walk(node) if isinstance(each, (ast.Attribute, ast.Name))}


def edges(calls):
    """Who calls whom, as the page draws it."""
    above = []
    for depth, name, _, _ in calls:
        assert 1 <= depth <= len(above) + 1, name
        del above[depth - 1:]
        if above:
            yield above[-1], name
        above.append(name)


def test_each_function_calls_the_next():
    assert len(list(edges(walk()))) == len(walk()) - 1
    for caller, called in edges(walk()):
        assert isinstance(source(called), ast.FunctionDef), called
        assert called.split(".")[-1] in used(source(caller)), "{} does not call {}".format(caller, called)


def test_what_one_makes_the_next_one_takes():
    changing = [(before, after) for _, _, before, after in walk() if after]
    assert [after for _, after in changing[:-1]] == [before for before, _ in changing[1:]]
    for name in (after for _, after in changing[:-1]):
        value, field = name.split(".")
        holders = [module for module in ("eni", "kernel", "changes") if field in fields(module, value)]
        assert len(holders) == 1, name


def fields(module, value):
    """The fields of one of the model's values."""
    with open(os.path.join(PACKAGE, "model", module + ".py")) as handle:
        classes = [node for node in ast.parse(handle.read()).body
                   if isinstance(node, ast.ClassDef) and node.name == value]
    return {node.target.id for each in classes for node in each.body if isinstance(node, ast.AnnAssign)}


def counts():
    """What the walk has: functions that change an address, their modules, its names on its way."""
    changing = [name for _, name, _, after in walk() if after]
    names = {after for _, _, _, after in walk() if after} - {"a netlink message"}
    return len(changing), len({".".join(name.split(".")[:2]) for name in changing}), len(names)


def test_the_walk_is_short():
    changing = [name for _, name, _, after in walk() if after]
    assert changing[0].startswith("metadata.") and changing[-1].startswith("kernel.")
    functions, modules, names = counts()
    assert functions <= 8 and modules <= 6 and names <= 4


def test_the_page_counts_what_the_walk_has():
    words = "no one two three four five six seven eight".split()
    with open(os.path.join(ROOT, "ARCHITECTURE.md")) as page:
        text = " ".join(page.read().split())
    told = re.search(r"(\w+) functions of (\w+) modules change an address; it has (\w+) names on its way", text)
    assert tuple(words.index(word.lower()) for word in told.groups()) == counts()
