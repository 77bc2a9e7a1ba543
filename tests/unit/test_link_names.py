"""A link's name is bytes: any but a slash, a colon and white space. They go in and out as they are."""

import subprocess

import pytest

from eni_bootstrap import cli
from eni_bootstrap.config import file as config_file
from eni_bootstrap.desired.matching import named
from eni_bootstrap.kernel.rule_codec import pack, unpack
from eni_bootstrap.model import output
from eni_bootstrap.model.changes import Change, Ruleset, Step, ValidMark
from eni_bootstrap.model.eni import Eni
from eni_bootstrap.model.kernel import LinkSetting, LinkUp, Match, Rule, SeenRule, bytes_of, name_of, shell_word
from tests.build import interface, link

NAMES = [b"\xff\xfe", "eth\u00e9".encode(), b"a\xc2\x85b", b"q'$\"\x1c`;", b"\xc3\x28-*"]
"""No UTF-8; UTF-8; what Python takes for a line's end; what means something to a shell; both."""
IDS = ["no UTF-8", "UTF-8", "a line's end", "a shell's signs", "all of it"]
each_name = pytest.mark.parametrize("name", NAMES, ids=IDS)


@each_name
def test_bytes_go_in_and_out(name):
    assert bytes_of(name_of(name)) == name


@each_name
@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_a_shell_reads_them_so(name, shell):
    word = shell_word(name_of(name))
    assert word.encode("ascii").decode().isprintable()
    told = subprocess.run([shell, "-c", "printf %s " + word], stdout=subprocess.PIPE, check=True)
    assert told.stdout == name


def test_words_that_every_terminal_shows_stay_readable():
    assert [shell_word(word) for word in ("eth1", "172.16.0.0/12", "a b", "it's", "br*")] == [
        "eth1", "172.16.0.0/12", "'a b'", "'it'\"'\"'s'", "'br*'"]


@each_name
def test_commands_are_for_a_shell(name):
    dev = name_of(name)
    for text, words in (
        (str(Change("add", LinkUp(dev), 235)), [b"ip", b"link", b"set", b"dev", name, b"up"]),
        (str(Change("add", LinkSetting(dev, "rp_filter", 1), 235)),
         [b"sysctl", b"-qw", b"net/ipv4/conf/" + name + b"/rp_filter=1"]),
        (str(Step("add", ValidMark(dev))), [b"sysctl", b"-w", b"net/ipv4/conf/" + name + b"/src_valid_mark=1"]),
        (str(Change("add", Rule(4, 7500, oif=dev, table=1001), 235)),
         [b"ip", b"-4", b"rule", b"add", b"from", b"all", b"oif", name, b"lookup", b"1001", b"priority", b"7500",
          b"protocol", b"235"]),
    ):
        told = subprocess.run(["sh", "-c", "printf '%s\\n' " + text], stdout=subprocess.PIPE, check=True).stdout
        assert told == b"\n".join(words) + b"\n"


def test_a_ruleset_with_such_a_name_is_for_a_shell():
    text = 'table inet x {\n\tchain y {\n\t\tiifname "\udcff\udcfe" counter\n\t}\n}\n'
    command = str(Step("add", Ruleset(text)))
    told = subprocess.run(["sh", "-c", 'nft() { printf "%s\\n" "$1"; }; ' + command], stdout=subprocess.PIPE).stdout
    assert told == bytes_of(text)
    assert command.isprintable()


@each_name
def test_rules_carry_them(name):
    dev = name_of(name)
    for rule in (Rule(4, 7500, oif=dev, table=1001), Rule(6, 77, table=52, match=Match(iif=dev))):
        body = pack(rule, 235)
        assert name + b"\0" in body
        assert unpack(body, rule.version) == SeenRule(rule, 235)


def test_a_configuration_can_name_them():
    """YAML is text; its escapes are what Python makes of such bytes."""
    text = b'access: [{in: "\\udcff\\udcfe", via: "br\\udcff*"}]\nignore: "\xc3\xa9*"\n'
    config, problems = config_file.read(text)
    assert not problems
    assert bytes_of(config.entries[0].iifs[0]) == b"\xff\xfe"
    eni = Eni(interface(1), link(1, name_of(b"br\xffx")), name_of(b"br\xffx"))
    assert named(config.entries[0].via, [eni]) == [eni]
    assert config.ignore == ("\u00e9*",)


@pytest.mark.parametrize("name", [b"\\ud800", b"\xc3\xa9" * 8, b"a" * 16, b"a/b"], ids=[
    "no character", "too many bytes", "too long", "a slash"])
def test_a_configuration_can_not_name_what_no_link_is_called(name):
    config, problems = config_file.read(b'access: [{in: "' + name + b'", via: eth1}]\n')
    assert config is None and "allowed is the name of a network device" in str(problems[0])


@pytest.mark.parametrize("encoding, shown", [("utf-8", "in by \\xff\u00e9"), ("ascii", "in by \\xff\\xe9")])
def test_what_is_shown_has_an_encoding(encoding, shown):
    assert output.shown("in by \udcff\u00e9", encoding) == shown


def test_the_log_is_ascii():
    record = cli.logging.LogRecord("x", 20, "", 0, "%s is down", ("\udcff\u00e9",), None)
    assert cli._Formatter("%(message)s").format(record) == "\\xff\\xe9 is down"
