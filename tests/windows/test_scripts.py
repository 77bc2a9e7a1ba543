"""PowerShell that nobody can run here is at least PowerShell: every script, in all its shapes, by a grammar of it."""

import os
import re
import sys
from ipaddress import ip_address, ip_network

import pytest

from eni_bootstrap.config.settings import Config
from eni_bootstrap.model.eni import Listing, SickInterface
from eni_bootstrap.render import windows as render
from eni_bootstrap.windows import powershell, scripts
from eni_bootstrap.windows.model import WindowsRoute
from tests.agent import ROOT
from tests.build import ETH1, ETH2, PRIMARY, interface, subnet


grammar = pytest.mark.skipif(not (3, 10) <= sys.version_info < (3, 15),
                             reason="the grammar has wheels for Python 3.10 to 3.14, see setup.cfg")

FOUR = WindowsRoute(ip_network("0.0.0.0/0"), 6, ip_address("172.16.12.253"), 1)
SIX = WindowsRoute(ip_network("::/0"), 6, ip_address("fe80::1"), 1)
CHANGES = [scripts.command(verb, route, store) for verb in ("add", "set", "remove") for route in (FOUR, SIX)
           for store in (scripts.BOTH, scripts.ACTIVE)]
LISTING = Listing((PRIMARY, ETH1, ETH2, interface(3, subnet("2001:db8::/64", "2001:db8::9"))),
                  (SickInterface("eni-4", "00:16:3e:00:00:04", False, "it's without a gateway", True),))


def faults(text):
    """Where the grammar does not know what to make of it."""
    import tree_sitter
    import tree_sitter_powershell

    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_powershell.language()))
    found, open_nodes = [], [parser.parse(text.encode()).root_node]
    while open_nodes:
        node = open_nodes.pop()
        if node.is_error or node.is_missing:
            found.append((node.start_point[0] + 1, node.text.decode()[:60]))
        open_nodes += node.children
    return found


@grammar
@pytest.mark.parametrize("script", [
    scripts.READ, scripts.change(CHANGES), scripts.change(CHANGES[:1]),
    scripts.ask([(ip_address("203.0.113.1"), None), (ip_address("3fff::1"), ip_address("2001:db8::1"))]),
    powershell._READ_ALL, "\n".join(CHANGES), render.powershell(LISTING, Config())[0].text,
    render.powershell(Listing((), ()), Config())[0].text,
], ids=["read", "change", "one", "ask", "door", "plan", "rendered", "nothing"])
def test_scripts_are_powershell(script):
    assert not faults(script)


@grammar
def test_the_user_data_is_powershell():
    with open(os.path.join(ROOT, "cloud-init", "cloudbase-user-data.ps1"), encoding="ascii") as file:
        text = file.read()
    assert text.startswith("#ps1_sysnative\n") and not faults(text)
    assert set(re.findall(r"\bexit (\d+)", text)) == {"0", "1"}, "others mean a reboot to cloudbase-init"


@grammar
@pytest.mark.parametrize("broken", [
    ("try {", "try"), ("foreach ($row in $rows)", "foreach ($row on $rows)"), ("Say @{", "Say @"), ("'Stop'", "'Stop")])
def test_what_is_none_is_rejected(broken):
    assert broken[0] in scripts.READ and faults(scripts.READ.replace(*broken, 1))


def test_a_cmdlet_that_fails_is_an_error_wherever_it_comes_from():
    """NetTCPIP and NetAdapter are modules, whose functions see the preferences of the global scope only, not those of
    the script that calls them (PowerShell/PowerShell, issues 4568 and 24389)."""
    for script in (scripts.READ, scripts.change(CHANGES), scripts.ask([(ip_address("203.0.113.1"), None)])):
        for name in ("ErrorActionPreference = 'Stop'", "WarningPreference = 'SilentlyContinue'"):
            assert script.count(name) == script.count("\n$global:" + name) == 1
    # A script that people run leaves the preferences of their session as they are.
    text = render.powershell(LISTING, Config())[0].text
    cmdlets = re.findall(r"\b\w+-Net\w+ (?:`\n|[^|}\n])*", text)
    assert len(cmdlets) == 4 and all("-ErrorAction Stop" in each for each in cmdlets), cmdlets


def test_functions_have_names_that_powershell_does_not_keep_for_itself():
    """about_Reserved_Words: what can't be used as an identifier."""
    reserved = """assembly base begin break catch class command configuration continue data define do dynamicparam
        else elseif end enum exit filter finally for foreach from function hidden if in inlinescript interface module
        namespace parallel param private process public return sequence static switch throw trap try type until using
        var while workflow""".split()
    with open(os.path.join(ROOT, "cloud-init", "cloudbase-user-data.ps1"), encoding="ascii") as file:
        texts = [file.read(), render.powershell(LISTING, Config())[0].text, scripts.READ, scripts.ask([])]
    names = re.findall(r"^ *function ([\w-]+)", "\n".join(texts), re.M)
    assert len(names) > 10 and not [name for name in names if name.lower() in reserved]


@grammar
def test_whatever_goes_into_a_script_is_quoted():
    assert scripts.quoted("it's; Remove-Item 'x'") == "'it''s; Remove-Item ''x'''"
    assert not faults("Write-Output " + scripts.quoted("it's; Remove-Item '$x' `\"("))


def test_scripts_are_ascii_and_say_no_question():
    for script in (scripts.READ, scripts.change(CHANGES), scripts.ask([(ip_address("203.0.113.1"), None)])):
        script.encode("ascii")
    assert all(command.endswith("-Confirm:$false") for command in CHANGES)
