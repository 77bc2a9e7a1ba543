"""The configuration file: what is understood, and what is said of the rest."""

import json
import os
import subprocess
import sys
from ipaddress import ip_network

import pytest

from eni_bootstrap import cli
from eni_bootstrap.config import file as config_file, loader
from eni_bootstrap.config.settings import Config, Entry, Source, Spread
from eni_bootstrap.model.errors import UsageError
from tests.agent import ROOT


def read(text):
    return config_file.read(text.encode())[0]


def problems(text):
    found, wrong = config_file.read(text if isinstance(text, bytes) else text.encode())
    assert found is None and wrong == sorted(wrong, key=lambda problem: problem.line)
    return ["{}: {}".format(problem.line, problem) for problem in wrong]


# what is understood


def test_nothing_in_it_is_as_without_it():
    for text in ("", "# only this\n", "---\n"):
        assert read(text) == Config()


def test_the_example_is_all_that_it_says():
    config = read(config_file.EXAMPLE)
    assert config.ignore == ("eth9", "eni-bp1spare*")
    assert [source.networks for source in config.extra] == [(ip_network("172.16.20.99/32"),)]
    assert [entry.via or entry.answer for entry in config.entries] == ["eth2", "eth1", "prohibit", "eth2", "eth1"]
    assert [spread.over for spread in config.spreads] == [(("eth0", 1), ("eth1", 2), ("eth2", 3)),
                                                          (("eth1", 1), ("eth2", 1))]


@pytest.mark.parametrize("text, entry", [
    ("{to: 10.60.0.0/16, protocol: tcp, port: 443, via: eth2}",
     Entry(2, "eth2", "", dst=(ip_network("10.60.0.0/16"),), protocols=(6,), dports=((443, 443),))),
    ("{from: [10.0.0.1, '2001:db8::/32'], in: [br0, docker0], via: eth1}",
     Entry(2, "eth1", "", (ip_network("10.0.0.1/32"), ip_network("2001:db8::/32")), iifs=("br0", "docker0"))),
    ("{user: [0, 1000-1999], answer: unreachable}", Entry(2, "", "unreachable", users=((0, 0), (1000, 1999)))),
    ("{mark: 0x10/0xff, via: e}", Entry(2, "e", "", mark=(0x10, 0xFF))),
    ("{mark: 7, via: e}", Entry(2, "e", "", mark=(7, 0xFFFFFFFF))),
    ("{protocol: [udp, 132], source-port: 1024-65535, port: [53, 5353], answer: blackhole}",
     Entry(2, "", "blackhole", protocols=(17, 132), sports=((1024, 65535),), dports=((53, 53), (5353, 5353)))),
])
def test_an_entry(text, entry):
    assert read("access:\n  - {}\n".format(text)).entries == (entry,)


def test_a_mac_is_no_number_and_no_time():
    """YAML 1.1 takes 12:34:56 for 45296, and 010 for 8."""
    assert read("ignore: 12:34:56:12:34:56\n").ignore == ("12:34:56:12:34:56",)
    assert read("only: [010, yes, ~x]\n").only == ("010", "yes", "~x")


def test_an_empty_list_of_entries_means_none():
    """What a template writes that has found nothing."""
    assert read("access: []\nbalance: []\nignore: []\nsources: []\nlinks: []\n") == Config()


@pytest.mark.parametrize("text", [
    "{to: [0.0.0.0/2, 128.0.0.0/1], answer: prohibit}", "{to: '2000::/3', answer: unreachable}",
    "{to: 128.0.0.0/1, answer: prohibit}", "{from: 10.0.0.0/8, answer: prohibit}",
    "{user: 1-4294967294, answer: blackhole}", "{user: [0-999, 1001-4294967294], answer: prohibit}",
    "{in: br0, answer: prohibit}", "{mark: 1, answer: prohibit}",
    "{in: br0, to: 0.0.0.0/0, answer: prohibit}", "{protocol: udp, port: 1-65535, answer: prohibit}",
    "{protocol: [tcp, udp], port: 1-65534, answer: prohibit}", "{protocol: [icmp, icmpv6], answer: prohibit}",
    "{from: '::/0', to: 2001:db8::/32, answer: prohibit}", "{from: 10.0.0.0/8, to: 100.64.0.0/10, answer: prohibit}",
    "{user: 1000-60000, to: 100.100.100.200, answer: prohibit}", "{to: 0.0.0.0/0, via: eth1}",
])
def test_a_refusal_of_something_is_taken(text):
    assert len(read("access:\n  - {}\n".format(text)).entries) == 1


def test_sources_and_spreads_know_their_lines():
    config = read("sources:\n  - eni: eth1\n    address: [10.0.0.0/28, 10.0.1.1]\nbalance:\n\n  - over: {eth1: 1}\n")
    assert config.extra == (Source(2, "eth1", (ip_network("10.0.0.0/28"), ip_network("10.0.1.1/32"))),)
    assert config.spreads == (Spread(6, (), (("eth1", 1),)),)


# what is not


@pytest.mark.parametrize("text, said", [
    ("ignored: eth1\n", "1: there is no key 'ignored'; allowed: ignore, only, "),
    ("access:\n  - {to: 10.0.0.0/8, via: e, prot: tcp}\n", "2: access[1]: there is no key 'prot'; allowed: from, to,"),
    ("access:\n  - {to: 10.0.0.1/8, via: eth1}\n", "2: access[1].to: '10.0.0.1/8' is given; allowed is a network such"),
    ("access:\n  - {to: fe80::1%eth0, via: eth1}\n", "2: access[1].to: 'fe80::1%eth0' is given; allowed is a network"),
    ("access: eth1\n", "1: access: a list is needed"),
    ("access: {}\n", "1: access: a list is needed"),
    ("access:\n  - eth1\n", "2: access[1]: a mapping is needed, with keys of from, to,"),
    ("access:\n  - {via: eth1}\n", "2: access[1]: nothing is said of the packets that it is for"),
    ("access:\n  - {user: 1}\n", "2: access[1]: either via, an ENI, or answer, a refusal, says what becomes"),
    ("access:\n  - {user: 1, via: e, answer: prohibit}\n", "2: access[1]: either via, an ENI, or answer"),
    ("access:\n  - {port: 80, via: e}\n", "2: access[1]: a port needs a protocol that has ports"),
    ("access:\n  - {port: 80, protocol: icmp, via: e}\n", "2: access[1]: a port needs a protocol that has ports"),
    ("access:\n  - {from: 10.0.0.0/8, to: '::1', via: e}\n", "2: access[1]: from and to contradict each other"),
    ("access:\n  - {to: 0.0.0.0/0, answer: prohibit}\n", "2: access[1]: this would cut off the whole machine"),
    ("access:\n  - {to: 100.100.0.0/16, answer: blackhole}\n", "2: access[1]: this would cut off the whole machine"),
    ("access:\n  - {to: [0.0.0.0/1, 128.0.0.0/1], answer: prohibit}\n", "2: access[1]: this would cut off the whole"),
    ("access:\n  - {to: ['::/1', '8000::/1'], answer: prohibit}\n", "2: access[1]: this would cut off the whole"),
    ("access:\n  - {to: '::/1', answer: prohibit}\n", "2: access[1]: this would cut off the whole machine"),
    ("access:\n  - {from: 0.0.0.0/0, answer: prohibit}\n", "2: access[1]: this would cut off the whole machine"),
    ("access:\n  - {from: [128.0.0.0/1, 0.0.0.0/1], answer: prohibit}\n", "2: access[1]: this would cut off the whole"),
    ("access:\n  - {from: '::/0', answer: blackhole}\n", "2: access[1]: this would cut off the whole machine"),
    ("access:\n  - {from: 0.0.0.0, answer: prohibit}\n", "2: access[1]: this would cut off the whole machine"),
    ("access:\n  - {from: 0.0.0.0/0, to: 100.64.0.0/10, answer: prohibit}\n", "2: access[1]: this would cut off the"),
    ("access:\n  - {user: 0-4294967294, answer: prohibit}\n", "2: access[1]: this would cut off the whole machine"),
    ("access:\n  - {user: [1000-4294967294, 0-999], answer: prohibit}\n", "2: access[1]: this would cut off the whole"),
    ("access:\n  - {in: lo, answer: unreachable}\n", "2: access[1]: this would cut off the whole machine"),
    ("access:\n  - {mark: 0, answer: prohibit}\n", "2: access[1]: this would cut off the whole machine"),
    ("access:\n  - {protocol: [tcp, udp], port: 1-65535, answer: prohibit}\n", "2: access[1]: this would cut off the"),
    ("access:\n  - {protocol: [1, 6, 17], to: 0.0.0.0/0, answer: prohibit}\n", "2: access[1]: this would cut off the"),
    ("access:\n  - {to: [], answer: prohibit}\n", "2: access[1].to: the list is empty, which does not mean all"),
    ("access:\n  - answer: prohibit\n    user: 1\n    to: []\n", "4: access[1].to: the list is empty"),
    ("access:\n  - {from: [], to: 10.0.0.0/8, answer: prohibit}\n", "2: access[1].from: the list is empty"),
    ("access:\n  - {in: [], via: eth1}\n", "2: access[1].in: the list is empty"),
    ("access:\n  - {protocol: [], via: eth1}\n", "2: access[1].protocol: the list is empty"),
    ("access:\n  - {protocol: tcp, port: [], via: eth1}\n", "2: access[1].port: the list is empty"),
    ("access:\n  - {protocol: tcp, source-port: [], via: eth1}\n", "2: access[1].source-port: the list is empty"),
    ("access:\n  - {user: [], answer: prohibit}\n", "2: access[1].user: the list is empty"),
    ("balance:\n  - {to: [], over: {e: 1}}\n", "2: balance[1].to: the list is empty"),
    ("sources:\n  - {eni: e, address: []}\n", "2: sources[1].address: the list is empty"),
    ("only: []\n", "1: only: the list is empty"),
    ("access:\n  - {port: 0, protocol: tcp, via: e}\n", "2: access[1].port: '0' is given; allowed is a port from 1"),
    ("access:\n  - {port: 9-5, protocol: tcp, via: e}\n", "2: access[1].port: '9-5' is given; allowed is a port"),
    ("access:\n  - {user: root, via: e}\n", "2: access[1].user: 'root' is given; allowed is a user id from 0"),
    ("access:\n  - {mark: 0x100/0xff, via: e}\n", "2: access[1].mark: '0x100/0xff' is given; allowed is a firewall"),
    ("access:\n  - {protocol: tpc, via: e}\n", "2: access[1].protocol: 'tpc' is given; allowed is tcp, udp,"),
    ("access:\n  - {in: a-name-too-long-for-a-device, via: e}\n", "2: access[1].in: 'a-name-too-long-for-a-device'"),
    ("access:\n" + 81 * "  - {user: 1, via: e}\n", "2: access: there are 81 entries; there is room for 80"),
    ("balance:\n  - over: [eth1]\n", "2: balance[1].over: a mapping is needed, such as {eth1: 1, eth2: 2}"),
    ("balance:\n  - over: {}\n", "2: balance[1].over: a mapping is needed"),
    ("balance:\n  - over: {e1: 0}\n", "2: balance[1].over.e1: '0' is given; allowed is a whole number from 1 to 256"),
    ("balance:\n  - {to: 10.0.0.0/8}\n", "2: balance[1]: the key over is missing"),
    ("balance:\n  - {to: 100.64.0.0/10, over: {e: 1}}\n", "2: balance[1]: 100.64.0.0/10 is the cloud's own services'"),
    ("sources:\n  - {eni: eth1}\n", "2: sources[1]: the key address is missing"),
    ("assign: some\n", "1: assign: 'some' is given; allowed is one of primary, all, none"),
    ("assign:\n", "1: assign: nothing is given; allowed is one of"),
    ("only: a\n\nonly: b\n", "3: the key 'only' is there twice, first on line 1"),
    ("? [a]\n: b\n", "1: a key has to be a word"),
    ("- a\n", "1: a mapping is needed, with keys of ignore"),
    ("a\n", "1: a mapping is needed"),
    ("ignore:\n\t- b\n", "2: a tab: YAML is indented by spaces"),
    ("ignore: [a\n", "2: "),
    ("ignore: &x [a]\nonly: *x\n", "1: anchors and aliases (& and *) are not for this file"),
    ("ignore: *x\n", "1: anchors and aliases"),
    ("only: !!python/object/apply:os.system ['x']\n", "1: tags (!) are not for this file"),
    ("only: a\n---\nonly: b\n", "2: but found another document"),
    ("[" * 3000, "1: lists and mappings are nested too deeply"),
    (b"\xff\xfe", "1: this is no YAML"),
    (b"# " + b"x" * (1 << 20), "1: the file is larger than 1 MiB"),
], ids=lambda text: str(text)[:40])
def test_what_is_wrong_is_said_with_its_line_and_what_is_allowed(text, said):
    found = problems(text)
    assert [line for line in found if line.startswith(said)], found


def test_all_that_is_wrong_is_said_at_once():
    assert len(problems("access:\n  - {via: eth1}\n  - {user: x, via: e}\nassign: some\nnew: 1\n")) == 4


def test_a_bomb_does_not_go_off():
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        "{0}: &{0} [{1}]\n".format(name, ",".join(["*" + chr(ord(name) - 1)] * 9)) for name in "bcdefghi")
    assert len(problems(bomb)) == 1


def test_a_file_that_can_t_be_read_is_named(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        loader.load(str(tmp_path / "none.yaml"))
    with pytest.raises(UsageError, match="Is a directory"):
        loader.load(str(tmp_path))


# the published schema


@pytest.mark.skipif(sys.version_info < (3, 10), reason="the same on newer Pythons, which have the validator")
def test_the_schema_is_one_and_takes_what_we_take():
    import jsonschema
    import yaml
    schema = config_file.json_schema()
    jsonschema.Draft7Validator.check_schema(schema)
    validator = jsonschema.Draft7Validator(schema)
    for text in (config_file.EXAMPLE, "access: []\nbalance: []\nignore: []\nsources: []\nlinks: []\n"):
        assert not list(validator.iter_errors(yaml.safe_load(text)))
    selectors = ("from", "to", "in", "protocol", "port", "source-port", "user")
    for text in ["ignored: eth1\n", "assign: some\n", "access: {}\n", "balance:\n  - over: {eth1: 0}\n",
                 "sources:\n  - {eni: eth1}\n", "only: {a: b}\n", "only: []\n", "sources:\n  - {eni: e, address: []}\n",
                 "balance:\n  - {to: [], over: {eth1: 1}}\n"] + [
                     "access:\n  - {via: eth1, %s: []}\n" % key for key in selectors]:
        assert list(validator.iter_errors(yaml.safe_load(text))) and problems(text)


# the command


def run(capsys, *arguments):
    code = cli.main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def test_check_example_and_schema(capsys, tmp_path):
    path = tmp_path / "eni-bootstrap.yaml"
    code, out, _ = run(capsys, "config", "example")
    path.write_text(out)
    assert code == 0 and run(capsys, "config", "check", str(path)) == (0, str(path) + ": nothing is wrong\n", "")
    assert json.loads(run(capsys, "config", "schema")[1]) == config_file.json_schema()
    path.write_text("assign: some\nignored: x\n")
    code, out, err = run(capsys, "config", "check", str(path))
    assert (code, out) == (2, "")
    assert "{}:1: assign: 'some' is given".format(path) in err and "{}:2: there is no key".format(path) in err


@pytest.mark.parametrize("command", ["apply", "plan", "verify", "status", "remove"])
def test_with_a_file_that_is_wrong_nothing_is_done(capsys, tmp_path, command):
    path = tmp_path / "wrong.yaml"
    path.write_text("assign: some\n")
    code, out, err = run(capsys, command, "--config", str(path), "--metadata-url", "http://127.0.0.1:1")
    assert code in (2, 4) and out == ""  # 4: who may change nothing is told that first
    assert code == 4 or "wrong.yaml:1: assign" in err


def test_without_a_file_the_library_is_not_imported(tmp_path):
    script = ("import sys; from eni_bootstrap import cli; from eni_bootstrap.config import file; file.PATH = {!r}\n"
              "cli.main(['plan', '--timeout', '0.2', '--metadata-url', 'http://127.0.0.1:1'])\n"
              "assert 'yaml' not in sys.modules").format(str(tmp_path / "none"))
    done = subprocess.run([sys.executable, "-c", script], stderr=subprocess.PIPE, env=dict(os.environ, PYTHONPATH=ROOT))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("entry", ["{eni: eth1}", "{mtu: 1500}", "{eni: eth1, mtu: 100}", "{eni: eth1, rp-filter: 3}",
                                   "{eni: eth1, ttl: 5}"])
def test_an_entry_that_can_t_be_is_refused_by_its_line(entry):
    found, problems = config_file.read("links:\n  - {}\n".format(entry).encode())
    assert found is None and {problem.line for problem in problems} == {2}
