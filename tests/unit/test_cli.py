"""The command line: which word of it is the command."""

from types import SimpleNamespace

import pytest

from eni_bootstrap import cli
from tests.unit.test_docs import subparsers


@pytest.fixture
def parsed(monkeypatch):
    """What a command is given; none of them runs."""
    found = []

    def run(arguments):
        found.append(arguments)
        return 0

    for name in ("_work", "_metadata", "_render", "_show_config", "_demo"):
        monkeypatch.setattr(cli, name, run)
    monkeypatch.setattr(cli, "_agent", lambda: SimpleNamespace(install=run, uninstall=run))

    def parse(*arguments):
        assert cli.main(list(arguments)) == 0, arguments
        return vars(found.pop())
    return parse


BARE = [[], ["--unattended"], ["apply", "--unattended"], ["--unattended", "apply"], *([name] for name in cli.COMMANDS)]


@pytest.mark.parametrize("words", BARE, ids=" ".join)
def test_a_bare_command_is_read_as_argparse_reads_it(words):
    parser = cli._parser()
    assert vars(cli._bare(words)) == vars(parser.parse_args(cli._with_default_command(words, parser)))


@pytest.mark.parametrize("words", [
    ["status", "--unattended"], ["--unattended", "--unattended"], ["apply", "apply"], ["plan", "-v"], ["demo"], ["-h"],
    ["applx"], ["status", "--json"],
], ids=" ".join)
def test_all_else_is_argparse_s(words):
    assert cli._bare(words) is None


@pytest.mark.parametrize("line, command, given", [
    ("", "apply", {"config": ""}),
    ("--config config", "apply", {"config": "config"}),
    ("--config config status", "status", {"config": "config"}),
    ("--config=config status", "status", {"config": "config"}),
    ("--conf config status", "status", {"config": "config"}),
    ("-v --timeout 5 --config plan --json verify", "verify", {"config": "plan", "timeout": 5, "verbose": True}),
    ("status --config verify", "status", {"config": "verify"}),
    ("--metadata-url remove plan", "plan", {"metadata_url": "remove"}),
    ("--root install install", "install", {"root": "install"}),
    ("--root adopt --yes adopt", "adopt", {"root": "adopt", "yes": True}),
    ("--output plan --metadata metadata render ip", "render", {"output": "plan", "metadata": "metadata"}),
    ("--enis 2 --config config demo --keep", "demo", {"config": "config", "enis": 2, "keep": True}),
    ("-v config check plan", "config", {"what": "check", "file": "plan"}),
    ("--metadata - render ip", "render", {"metadata": "-", "format": "ip"}),
])
def test_the_command_is_the_first_name_that_is_no_value_of_an_option(parsed, line, command, given):
    found = parsed(*line.split())
    assert found["command"] == command and {name: found[name] for name in given} == given


@pytest.mark.parametrize("line, said", [
    ("-h", "usage: eni-bootstrap [-h]"), ("-v --help", "usage: eni-bootstrap [-h]"),
    ("--config config status -h", "usage: eni-bootstrap status"), ("--version", "eni-bootstrap "),
    ("status --config config --help", "usage: eni-bootstrap status"), ("--version status", "eni-bootstrap "),
])
def test_help_is_of_the_command_that_is_named(capsys, line, said):
    assert cli.main(line.split()) == 0
    assert capsys.readouterr().out.startswith(said)


@pytest.mark.parametrize("line, said", [("--config", "--config"), ("aply", "aply"), ("--timeout plan", "'plan'")])
def test_what_is_no_command_is_said(capsys, line, said):
    assert cli.main(line.split()) == 2
    assert said in capsys.readouterr().err


def test_every_command_is_known_behind_an_option(parsed):
    more = {"render": ["ip"], "config": ["check"]}
    for name in dict(list(subparsers(cli._parser()))[1:]):
        assert parsed("-v", name, *more.get(name, []))["command"] == name


def test_a_new_command_is_known(monkeypatch):
    """With its options, too."""
    def add(commands):
        new = commands.add_parser("brew")
        new.add_argument("--pot")
        new.set_defaults(verbose=False, run=lambda given: 0 if given.pot == "plan" else 1)

    monkeypatch.setattr(cli, "_add_demo_parser", add)
    assert cli.main(["--pot", "plan", "brew"]) == 0
