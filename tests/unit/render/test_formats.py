"""Other systems' words for the decision: each format as text, what it can't express, and the commands."""

import configparser
import json
import os
import re
import shutil
import stat
import subprocess

import pytest

from eni_bootstrap import cli
from eni_bootstrap.config import file as config_file
from eni_bootstrap.config.settings import Config
from eni_bootstrap.lab.vpc import macs_of, make_tree
from eni_bootstrap.metadata.parser import parse_interfaces
from eni_bootstrap.render import FORMATS, output
from eni_bootstrap.render.assumed_host import configured
from eni_bootstrap.render.formats import RENDERERS, Known

FILES = ["netplan", "networkd", "networkmanager", "ifcfg"]
LINUX = FILES + ["ip"]
TREE = make_tree(3, ipv6=True)


def configuration(text):
    found, problems = config_file.read(text.encode())
    assert not problems
    return found


def render(name, tree=TREE, names=None, config=Config()):
    """Path → text."""
    files = RENDERERS[name](Known(parse_interfaces(tree), names or {}, None, config))
    return {file.path: file.text for file in files}


def whole(name, **options):
    return "\n".join(render(name, **options).values())


def outline(tree=TREE, names=None, config=Config()):
    return configured(parse_interfaces(tree), names or {}, config)


class TestOfAllFormats:
    @pytest.mark.parametrize("name", sorted(FORMATS))
    def test_they_are_the_same_whatever_the_order_of_the_answer(self, name):
        turned = make_tree(3, ipv6=True)
        macs = macs_of(turned)
        turned["network"]["interfaces"]["macs"] = dict(reversed(list(macs.items())))
        assert render(name, turned) == render(name)

    @pytest.mark.parametrize("name", sorted(FORMATS))
    def test_every_secondary_gateway_is_in_them(self, name):
        text = whole(name)
        for eni in parse_interfaces(TREE).interfaces:
            assert eni.primary or all(str(subnet.gateway) in text for subnet in eni.subnets)

    @pytest.mark.parametrize("name", LINUX)
    def test_every_address_is_in_them(self, name):
        text = whole(name)
        for eni in parse_interfaces(TREE).interfaces:
            assert all(str(address) in text for subnet in eni.subnets for address in subnet.addresses)

    @pytest.mark.parametrize("name", LINUX)
    def test_names_that_are_not_known_are_assumed_and_that_is_said(self, name):
        assert re.search("are assumed: eth0 is 00:16:3e:0e:00:01", whole(name))
        known = {mac: "ens{}".format(5 + place) for place, mac in enumerate(macs_of(TREE))}
        text = whole(name, names=known)
        assert "assumed" not in text and "eth1" not in text and "ens6" in text

    @pytest.mark.parametrize("name", LINUX)
    def test_a_name_that_is_known_is_given_to_nobody_else(self, name):
        text = whole(name, names={"00:16:3e:0e:00:03": "eth1"})
        assert re.search("assumed: eth0 is 00:16:3e:0e:00:01, eth2 is\n?#? +00:16:3e:0e:00:02", text)

    @pytest.mark.parametrize("name", sorted(FORMATS))
    def test_one_that_is_sick_is_named_and_the_others_are_done(self, name):
        tree = make_tree(3)
        del macs_of(tree)["00:16:3e:0e:00:02"]["gateway"]
        text = whole(name, tree=tree)
        assert "LEFT OUT: eni-bp1exampleeni00002 (00:16:3e:0e:00:02" in text
        assert "172.16.10.253" in text and "172.16.20.253" not in text

    @pytest.mark.parametrize("name", LINUX)
    def test_a_sick_one_keeps_its_name_its_table_and_its_place(self, name):
        tree = make_tree(3)
        del macs_of(tree)["00:16:3e:0e:00:02"]["gateway"]
        text = whole(name, tree=tree)
        assert re.search("assumed: eth0 is 00:16:3e:0e:00:01, eth2 is\n?#? +00:16:3e:0e:00:03", text)
        assert "1002" in text and "1001" not in text

    @pytest.mark.parametrize("name", LINUX)
    def test_where_the_primary_is_sick_nobody_takes_its_place(self, name):
        tree = make_tree(3)
        del macs_of(tree)["00:16:3e:0e:00:01"]["gateway"]
        files = render(name, tree)
        assert not [path for path in files if "eth0" in path]
        text = "\n".join(files.values())
        assert "eth1 is 00:16:3e:0e:00:02" in text and "eth0:" not in text
        # The best metric in main is the primary's.
        assert name == "ip" or not re.search(r"(?i)metric[:=] ?100\b", text)
        assert re.search(r"(?m)^[^#]*7100\b", text) or name == "netplan"

    @pytest.mark.parametrize("name", FILES)
    def test_what_the_configuration_asks_for_is_in_it_or_that_it_is_not_is_said(self, name):
        rules = outline(config=configuration(config_file.EXAMPLE)).all_rules
        assert len(rules) > 30
        text = re.sub("\n *# +", " ", whole(name, config=configuration(config_file.EXAMPLE)))
        for rule in rules:
            if rule.priority == 7000 and name == "netplan":
                continue  # needed only in front of a rule that netplan can't have
            missing = "ip -{} rule {}".format(rule.version, rule)
            priority = {"networkd": "Priority={}\n", "ifcfg": "priority {}\n", "netplan": "priority: {}}}",
                        "networkmanager": "priority {} "}[name].format(rule.priority)
            assert missing in text or priority in text

    @pytest.mark.parametrize("name", ["networkmanager", "ifcfg"])
    def test_entries_that_go_with_their_eni_are_said(self, name):
        said = "meanwhile what access entries send by the ENI is not refused either"
        assert said in re.sub("\n *# +", " ", whole(name, config=configuration("access: [{user: 1001, via: eth1}]")))
        assert said not in re.sub("\n *# +", " ", whole(name))

    @pytest.mark.parametrize("name", FILES)
    def test_spreads_are_not_expressed_and_that_is_said(self, name):
        text = re.sub("\n *# +", " ", whole(name, config=configuration("balance: [{over: {eth0: 1, eth1: 3}}]")))
        assert "NOT EXPRESSED, so that connections are not spread: balance on line 1" in text and "1999" not in text

    @pytest.mark.parametrize("name", FILES)
    def test_more_addresses_bring_no_way_to_the_vswitch_and_are_nobodys_source(self, name):
        """The first of a vSwitch on a link, which it may well be here, would be both."""
        text = whole(name, tree=make_tree(3, addresses=2, ipv6=True), config=Config(assign="all"))
        assert "172.16.20.11/32" in text and "172.16.20.11/24" not in text
        if name == "networkmanager":
            assert "NOT EXPRESSED, so that it may be chosen as a source: 2001:db8:20:a201::1001" in text

    @pytest.mark.parametrize("name", sorted(FORMATS))
    def test_they_can_be_read_in_a_terminal(self, name):
        lines = whole(name, config=configuration(config_file.EXAMPLE)).splitlines()
        assert not [line for line in lines if line.lstrip().startswith("# ") and len(line) > 130 and "NOT" not in line]

    @pytest.mark.parametrize("name", FILES)
    def test_without_secondaries_there_are_no_files(self, name):
        assert render(name, tree=make_tree(1)) == {}
        assert output.text([]).startswith("# nothing is needed")


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox"])
def test_every_shell_reads_the_script(shell, tmp_path):
    if not shutil.which(shell):
        assert not os.environ.get("CI")
        pytest.skip("no {} here".format(shell))
    path = tmp_path / "script"
    path.write_text(whole("ip", config=configuration(config_file.EXAMPLE)))
    subprocess.run(([shell, "sh"] if shell == "busybox" else [shell]) + ["-n", str(path)], check=True)


class TestNetplan:
    def test_a_name_is_a_word_whatever_yaml_would_make_of_it(self):
        names = dict(zip(macs_of(TREE), ["0x10", "no", "1e3"]))
        assert list(self.read(names=names)) == ["0x10", "no", "1e3", "lo"]

    @staticmethod
    def read(**options):
        yaml = pytest.importorskip("yaml")
        (text,) = render("netplan", **options).values()
        return yaml.safe_load(text)["network"]["ethernets"]

    def test_each_eni_is_known_by_its_mac_and_has_its_table(self):
        eth1 = self.read()["eth1"]
        assert eth1["match"] == {"macaddress": "00:16:3e:0e:00:02"}
        assert {"to": "0.0.0.0/0", "via": "172.16.20.253", "on-link": True, "table": 1001} in eth1["routes"]
        assert eth1["dhcp4-overrides"] == {"route-metric": 200} and eth1["optional"] is True

    def test_rules_and_fences_are_los_and_so_survive_a_link(self):
        lo = self.read()["lo"]
        assert {"from": "172.16.20.10/32", "table": 1001, "priority": 7200} in lo["routing-policy"]
        # netplan writes what is larger as a negative number, which networkd takes for none, and none is the best.
        assert {"to": "0.0.0.0/0", "type": "unreachable", "table": 1001, "metric": 2147483647} in lo["routes"]

    def test_what_a_rule_can_not_say_is_a_comment_with_the_consequence(self):
        text = re.sub("\n *# +", " ", whole("netplan"))
        assert "NOT EXPRESSED, so that routes in main to what is no ENI (Docker, VPN) don't hold" in text
        assert "ip -4 rule from all lookup main suppress_prefixlength 0 priority 7100" in text
        assert "NOT EXPRESSED, so that a socket that is bound to eth1 and has no source is routed by main" in text

    def test_a_prefix_that_is_local_has_the_scope_of_the_host(self):
        routes = self.read(tree=make_tree(2, prefix=True), config=Config(prefixes="local"))["lo"]["routes"]
        assert {"to": "172.16.20.128/28", "type": "local", "table": 255} in routes

    def test_others_can_not_read_it(self):
        (file,) = RENDERERS["netplan"](Known(parse_interfaces(TREE), {}, None, Config()))
        assert file.mode == 0o600


class TestNetworkd:
    def test_it_has_each_rule(self):
        text = render("networkd")["/etc/systemd/network/05-eni-bootstrap-lo.network"]
        assert text.count("[RoutingPolicyRule]") == len(outline().all_rules)
        assert "NOT EXPRESSED" not in text
        for block in ("Priority=7200\nFrom=172.16.20.10/32\nTable=1001\n",
                      "Priority=7400\nFrom=2001:db8:20:a201::1000/128\nType=unreachable\n",
                      "Priority=7500\nFamily=ipv6\nOutgoingInterface=eth1\nTable=1001\n",
                      "Priority=7100\nFamily=ipv4\nTable=254\nSuppressPrefixLength=0\n"):
            assert "[RoutingPolicyRule]\n" + block in text

    def test_a_child_with_the_enis_mac_is_not_meant(self):
        assert "[Match]\nMACAddress=00:16:3e:0e:00:02\nType=ether\n" in render("networkd")[
            "/etc/systemd/network/05-eni-bootstrap-eth1.network"]


class TestNetworkManager:
    def test_each_is_a_keyfile_that_keeps_its_id(self):
        first, again = render("networkmanager"), render("networkmanager")
        for path, text in first.items():
            keyfile = configparser.ConfigParser(interpolation=None)
            keyfile.read_string(text)
            assert keyfile["ipv4"]["method"] == "auto" and keyfile["ethernet"]["mac-address"]
            assert "uuid=" + keyfile["connection"]["uuid"] in again[path]
        assert "route3=0.0.0.0/0,0.0.0.0,4294967295\nroute3_options=table=1001,type=unreachable\n" in first[
            "/etc/NetworkManager/system-connections/eni-bootstrap-eth1.nmconnection"]


class TestIfcfg:
    def test_what_belongs_into_another_file_is_said(self):
        text = re.sub("\n#  ", " ", render("ifcfg")["/etc/sysconfig/network-scripts/route6-eth1"])
        assert "ifcfg-eth1 needs IPV6INIT=yes, IPV6_AUTOCONF=no, IPV6ADDR=2001:db8:20:a201::1000/128" in text


class TestTheCommand:
    @pytest.fixture
    def tree(self, tmp_path):
        path = tmp_path / "tree.json"
        path.write_text(json.dumps(TREE))
        return str(path)

    @pytest.mark.parametrize("name", sorted(FORMATS))
    def test_from_a_file_on_any_machine(self, capfd, tree, name, monkeypatch):
        monkeypatch.setattr(cli, "_agent", lambda: pytest.fail("asked this machine"))
        assert cli.main(["render", name, "--metadata", tree]) == 0
        out, err = capfd.readouterr()
        assert out.count("Made by eni-bootstrap") == len(render(name)) and err == ""

    def test_an_eni_that_is_left_out_is_named_with_exit_code_1(self, capfd, tmp_path):
        sick = make_tree(3)
        del macs_of(sick)["00:16:3e:0e:00:02"]["gateway"]
        path = tmp_path / "sick.json"
        path.write_text(json.dumps(sick))
        assert cli.main(["render", "ip", "--metadata", str(path)]) == 1
        out, err = capfd.readouterr()
        assert "172.16.10.11" in out and "eni-bp1exampleeni00002" in err

    @pytest.mark.parametrize("wrong", [
        "../../x", "a b", "eth1\n", "x;reboot", "$(reboot)", "-x", "#", "a" * 16, "lo", "all", "eth0", 1])
    @pytest.mark.parametrize("name", sorted(FORMATS))
    def test_names_that_no_file_can_be_trusted_with(self, capfd, tmp_path, name, wrong):
        path = tmp_path / "saved.json"
        links = {"00:16:3e:0e:00:01": "eth0", "00:16:3e:0e:00:02": wrong}
        path.write_text(json.dumps({"meta-data": TREE, "host": {"links": links}}))
        assert cli.main(["render", name, "--metadata", str(path), "--output", str(tmp_path / "root")]) == 2
        out, err = capfd.readouterr()
        assert out == "" and "host.links" in err and not (tmp_path / "root").exists()

    def test_written_below_a_directory_with_their_modes(self, capfd, tree, tmp_path):
        assert cli.main(["render", "networkmanager", "--metadata", tree, "--output", str(tmp_path / "root")]) == 0
        listed = capfd.readouterr().out.split()
        assert len(listed) == 3
        for path in listed:
            status = os.stat(str(tmp_path / "root") + path)
            assert stat.S_IMODE(status.st_mode) == 0o600
        assert cli.main(["render", "networkmanager", "--metadata", tree, "--output", str(tmp_path / "root")]) == 0

    def test_what_somebody_else_has_written_stays(self, capfd, tree, tmp_path):
        theirs = tmp_path / "etc" / "netplan" / "90-eni-bootstrap.yaml"
        theirs.parent.mkdir(parents=True)
        theirs.write_text("network: {}\n")
        assert cli.main(["render", "netplan", "--metadata", tree, "--output", str(tmp_path)]) == 1
        assert "left alone" in capfd.readouterr().err and theirs.read_text() == "network: {}\n"
        theirs.unlink()
        theirs.symlink_to(tmp_path / "elsewhere")
        assert cli.main(["render", "netplan", "--metadata", tree, "--output", str(tmp_path)]) == 1
        assert not (tmp_path / "elsewhere").exists()

    def test_what_was_killed_while_it_wrote_is_in_nobodys_way(self, capfd, tree, tmp_path):
        """And what somebody else has put where a file is written first is not touched."""
        place = tmp_path / "etc" / "netplan"
        place.mkdir(parents=True)
        (place / "90-eni-bootstrap.yaml.new").write_text("half of i")
        assert cli.main(["render", "netplan", "--metadata", tree, "--output", str(tmp_path)]) == 0
        assert (place / "90-eni-bootstrap.yaml.new").read_text() == "half of i"
        assert sorted(path.name for path in place.iterdir()) == ["90-eni-bootstrap.yaml", "90-eni-bootstrap.yaml.new"]

    def test_a_file_that_can_not_be_put_there_leaves_nothing_behind(self, capfd, tree, tmp_path, monkeypatch):
        monkeypatch.setattr(os, "replace", lambda *paths: os.rename("/none", "/none either"))
        assert cli.main(["render", "netplan", "--metadata", tree, "--output", str(tmp_path)]) == 1
        assert "90-eni-bootstrap.yaml" in capfd.readouterr().err
        assert list((tmp_path / "etc" / "netplan").iterdir()) == []

    @pytest.mark.parametrize("arguments", [["render"], ["render", "nonsense"], ["render", "ip", "--metadata", "/none"]])
    def test_wrong_usage(self, capfd, arguments):
        assert cli.main(arguments) == 2
        assert capfd.readouterr().err

    def test_on_a_laptop_nothing_else_works_and_that_is_said(self, capfd, tree, monkeypatch):
        monkeypatch.setattr(cli, "PLATFORM", "darwin")
        assert cli.main(["render", "ip", "--metadata", tree]) == 0
        capfd.readouterr()
        for command in (["apply"], ["render", "ip"], ["metadata"], ["install"], ["demo"]):
            assert cli.main(command) == 1
            assert "does not work on darwin; render --metadata FILE does" in capfd.readouterr().err


def test_each_name_has_its_renderer():
    assert list(FORMATS) == list(RENDERERS)


def test_a_rendered_file_is_known_again(tmp_path):
    files = RENDERERS["ip"](Known(parse_interfaces(TREE), {}, None, Config()))
    assert output.write(files, str(tmp_path)) == []
    assert output.write(files, str(tmp_path)) == []
    assert os.access(str(tmp_path / "usr/local/sbin/eni-bootstrap-routes"), os.X_OK)
