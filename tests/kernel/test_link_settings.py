"""MTU, reverse path filter and ARP settings of the links: only when asked for, and put back."""

import pytest

from eni_bootstrap.agent import commands
from eni_bootstrap.kernel.kernel import Kernel
from eni_bootstrap.lab.vpc import Vpc, macs_of, make_tree
from tests.kernel.test_addresses import Configured, run_step
from tests.kernel.test_crash import Killed
from tests.oracle import OUTSIDE, assert_every_eni_answers, difference, ip, kernel, leaves_by, show, watch
from tests.unit.host.test_units import ASKED

NAMES = ("rp_filter", "arp_ignore", "arp_announce")


def settings(vpc):
    """By device: MTU and sysctls."""
    mtus = {link["ifname"]: link["mtu"] for link in show(vpc, "link show")}
    return {dev: [mtus[dev]] + [int(vpc.instance.run(
        ["cat", "/proc/sys/net/ipv4/conf/{}/{}".format(dev, name)]).stdout) for name in NAMES] for dev in vpc.nics}


def set_by_hand(vpc, dev, name, value):
    vpc.instance.sysctl("net/ipv4/conf/{}/{}".format(dev, name), value)


@pytest.fixture
def host(make_vpc, make_agent, tmp_path):
    """``host(text)``: a VPC of three ENIs whose links have settings of their own, and an agent so configured."""
    def make(text, tree=None):
        vpc = make_vpc(tree or make_tree(ipv6=True))
        for dev in set(vpc.nics) & {"eth1"}:
            set_by_hand(vpc, dev, "rp_filter", 1)
        set_by_hand(vpc, "eth0", "arp_ignore", 2)
        path = tmp_path / "eni-bootstrap.yaml"
        path.write_text(text)
        return vpc, Configured(make_agent(vpc), path)
    return make


def test_without_being_asked_nothing_is_set(host):
    vpc, agent = host("# nothing\n")
    before = settings(vpc)
    assert agent().code == 0
    assert settings(vpc) == before


def test_what_is_asked_for_is_set_and_put_back(host):
    """The first entry that names a link and a setting counts. A second run writes nothing."""
    vpc, agent = host(ASKED)
    before, whole = settings(vpc), kernel(vpc)
    assert before["eth1"][:2] == [1500, 1]
    result = agent()
    assert result.code == 0, result
    assert settings(vpc) == {"eth0": [1500, 0, 1, 2], "eth1": [8500, 2, 1, 2], "eth2": [1500, 0, 1, 2]}
    with watch(vpc) as said:
        assert "0 things changed" in agent().out
    assert said == []
    assert_every_eni_answers(vpc)
    assert agent("remove").code == 0
    assert settings(vpc) == before
    assert difference(whole, kernel(vpc)) == ([], [])


def test_what_is_no_longer_asked_for_is_put_back(host):
    vpc, agent = host(ASKED)
    before = settings(vpc)
    assert agent().code == 0
    agent.config("links:\n  - {eni: eth1, mtu: 9000}\n")
    assert agent().code == 0
    assert settings(vpc) == dict(before, eth1=[9000] + before["eth1"][1:])
    agent.config("# nothing\n")
    assert agent().code == 0
    assert settings(vpc) == before
    assert "0 things changed" in agent().out


def test_what_somebody_has_set_since_stays(host):
    """While it is asked for, what is asked for holds."""
    vpc, agent = host(ASKED)
    assert agent().code == 0
    set_by_hand(vpc, "eth2", "arp_ignore", 8)
    agent.config("# nothing\n")
    assert agent().code == agent("remove").code == 0
    assert settings(vpc)["eth2"][2] == 8
    agent.config(ASKED)
    assert agent().code == 0
    assert settings(vpc)["eth2"][2] == 1


def test_a_primary_eni_that_is_alone(host):
    vpc, agent = host("links:\n  - {eni: eth0, mtu: 8500, rp-filter: 2}\n", make_tree(1))
    assert agent().code == 0
    assert settings(vpc)["eth0"][:2] == [8500, 2]
    assert agent("remove").code == 0
    assert settings(vpc)["eth0"][:2] == [1500, 0]


def test_an_eni_that_is_not_there_is_named_by_the_entry_s_line(host):
    vpc, agent = host("links:\n  - {eni: eth1, mtu: 8500}\n  - {eni: eth7, mtu: 8500}\n")
    result = agent()
    assert result.code == 1 and "links on line 3: no ENI is named eth7" in result.out
    assert settings(vpc)["eth1"][0] == 8500


def test_a_sick_eni_keeps_its_settings(host):
    vpc, agent = host(ASKED)
    assert agent().code == 0
    there = settings(vpc)
    del list(macs_of(vpc.tree).values())[1]["gateway"]
    agent("apply", "--timeout", "1")
    assert settings(vpc) == there


def test_killed_at_any_message_the_settings_are_known(make_agent, monkeypatch):
    """``remove`` finds them, whatever was the last that was done."""
    for cut in range(1, 14, 2):
        with Vpc(make_tree()) as vpc:
            monkeypatch.setenv("RUNTIME_DIRECTORY", "{}/{}".format(make_agent(vpc).directory, cut))
            before, sent = settings(vpc), []

            def told(change):
                sent.append(change)
                if len(sent) == cut:
                    raise Killed()

            with pytest.raises(Killed):
                run_step(vpc, ASKED, told)
            run_step(vpc, ASKED, lambda change: None, commands.remove)
            assert settings(vpc) == before


def test_an_eni_that_is_unplugged_while_it_is_looked_at_is_nobody_else_s_trouble(host, monkeypatch):
    """After its link was listed, before its settings are read."""
    text = "links: [{eni: eth2, mtu: 1400, rp-filter: 2}]\n"
    vpc, agent = host(text, make_tree())
    read = Kernel.settings

    def unplugged(self, asked):
        if "eth2" in vpc.nics:
            vpc.detach("eth2")
        return read(self, asked)

    monkeypatch.setattr(Kernel, "settings", unplugged)
    run_step(vpc, text, lambda change: None)
    assert "eth2" not in vpc.nics and leaves_by(vpc, vpc.address("eth1"), OUTSIDE[4]) == "eth1"


def test_pasting_the_plan_sets_them_too(host):
    vpc, agent = host(ASKED)
    vpc.instance.run(["sh", "-e"], input=agent("plan").out)
    assert "nothing to do" in agent("plan").out
    assert settings(vpc)["eth1"] == [8500, 2, 1, 2] and ip(vpc, "rule")
