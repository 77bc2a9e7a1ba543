"""What the parts say by themselves: what is ours, what is on record after failures, what an answer means."""

from ipaddress import ip_address, ip_network

import pytest

from eni_bootstrap.config.settings import Config
from eni_bootstrap.lab.service import MetadataService
from eni_bootstrap.model import deadline
from eni_bootstrap.model.eni import Listing
from eni_bootstrap.model.kernel import LinkAddress
from eni_bootstrap.windows import agent, proof
from eni_bootstrap.windows.desired import decide, owned
from eni_bootstrap.windows.model import Adapter, Folder, Interface, Recorded, Snapshot, WindowsRoute
from eni_bootstrap.windows.plan import Plan, RouteChange, plan, settled
from eni_bootstrap.windows.reader import Answer
from tests.build import interface, mac, subnet
from tests.windows.host import Instance, tree

PRIMARY = interface(0, subnet("172.16.10.0/24", "172.16.10.10"), primary=True)
SECOND = interface(1, subnet("172.16.10.0/24", "172.16.10.20", "172.16.10.21"))


def default(index, gateway="172.16.10.253", metric=1):
    return WindowsRoute(ip_network("0.0.0.0/0"), index, ip_address(gateway), metric)


def snapshot(active=(), persistent=(), **more):
    """The primary is interface 5, ENI 1 is 6."""
    found = Snapshot(
        True, Folder(True, True, True), 0,
        (Adapter(5, "Ethernet", mac(0), "{5}", True), Adapter(6, "Ethernet 2", mac(1), "{6}", True)),
        (Interface(5, 4, 15, False), Interface(6, 4, 15, False)),
        (LinkAddress("Ethernet", ip_address("172.16.10.10"), 24),
         LinkAddress("Ethernet 2", ip_address("172.16.10.20"), 24)),
        (default(5, metric=0),) + tuple(active), tuple(persistent))
    return found._replace(**more)


MADE = Recorded(mac(1), "{6}", default(6))
BOTH = snapshot([MADE.route], [MADE.route])


@pytest.mark.parametrize("found, is_ours", [
    (BOTH, True), (snapshot([MADE.route]), True), (snapshot((), [MADE.route]), True), (snapshot(), False),
    (snapshot([default(6, metric=0)], [MADE.route]), True),  # DHCP has taken over what is in force
    (snapshot([MADE.route], [default(6, metric=2)]), False), (snapshot([default(6, metric=2)]), False),
    (snapshot([default(6, gateway="172.16.10.1")]), False)])
def test_ours_is_what_still_is_as_it_was_recorded(found, is_ours):
    assert owned([MADE], found) == ([MADE] if is_ours else [])


def test_an_index_that_another_adapter_has_now_is_not_ours():
    assert not owned([MADE], BOTH._replace(adapters=(Adapter(6, "Ethernet 9", mac(1), "{9}", True),)))
    assert owned([MADE], BOTH._replace(adapters=())) == [MADE], "it is gone, what it left is ours"


def test_a_change_of_the_metric_that_was_cut_off_half_way_is_ours():
    former = MADE._replace(route=default(6, metric=7))
    for active, persistent in ((7, 1), (1, 7)):
        found = snapshot([default(6, metric=active)], [default(6, metric=persistent)])
        assert [entry.route.metric for entry in owned([former, MADE], found)] == [active]
        assert owned([MADE], found) == ([MADE] if persistent == 1 else [])


def test_what_could_not_be_made_or_removed():
    add, gone = (RouteChange(verb, MADE.route, "", "Ethernet 2") for verb in ("add", "remove"))
    assert settled(Plan((add,), (MADE,)), [add], snapshot()) == ()
    assert settled(Plan((add,), (MADE,)), [], snapshot()) == (MADE,)
    assert settled(Plan((gone,), (MADE,)), [gone], BOTH) == (MADE,)
    assert settled(Plan((gone,), (MADE,)), [], BOTH) == ()
    change = RouteChange("set", default(6, metric=7), "", "Ethernet 2")
    both = (MADE, MADE._replace(route=change.route))
    assert settled(Plan((change,), both), [change], BOTH) == both[:1]
    assert settled(Plan((change,), both), [], BOTH) == both[1:]


def test_what_a_disabled_adapter_has_stays_on_record_even_if_windows_does_not_list_it():
    asleep = snapshot(adapters=(Adapter(6, "Ethernet 2", mac(1), "{6}", False),))
    assert settled(Plan((), (MADE,)), [], asleep) == (MADE,)
    assert settled(Plan((), (MADE,)), [], snapshot()) == (), "somebody has removed it"


def test_a_change_that_was_cut_off_half_way_is_finished_with_both_on_record():
    former = MADE._replace(route=default(6, metric=7))
    found = snapshot([MADE.route], [former.route])
    listing = Listing((PRIMARY, SECOND), ())
    todo = plan(listing, decide(listing, found, [former, MADE], Config()), found, [former, MADE])
    assert [(change.verb, change.route.metric) for change in todo.changes] == [("set", 1)]
    assert set(todo.during) == {former, MADE} and settled(todo, [], found) == (MADE,)


def decision(found, recorded=()):
    return decide(Listing((PRIMARY, SECOND), ()), found, recorded, Config())


def asked(found, answers, which=proof.few):
    questions = which(decision(found, [MADE]), found, [MADE.route])
    return [(verdict.source, verdict.target, verdict.ok, verdict.why)
            for verdict in proof.judge(questions, answers(questions), found)]


def by(index, gateway="172.16.10.253"):
    return Answer(index, ip_address(gateway) if gateway else None)


def test_the_interface_and_the_next_hop_must_be_the_eni_s():
    """In one vSwitch the gateway alone tells nothing."""
    good = asked(BOTH, lambda questions: [by(5), by(6), by(6, ""), by(5)])
    assert [each[1:3] for each in good] == [
        ("internet", True), ("internet", True), ("own vSwitch", True), ("internet, no source", True)]
    bad = asked(BOTH, lambda questions: [by(6), by(5), by(5, ""), by(6)])
    assert [each[2] for each in bad] == [False] * 4 and "another interface is chosen" in bad[0][3]
    other = asked(BOTH, lambda questions: [by(5), by(6, "172.16.10.1"), by(6, ""), Answer(error="none")])
    assert [each[2:] for each in other[1:]] == [
        (False, "somebody else's route leads there"), (True, ""), (False, "no route; run apply")]


def test_verify_asks_about_every_address_that_is_there():
    held = BOTH.addresses + (LinkAddress("Ethernet 2", ip_address("172.16.10.21"), 24),)
    whole = BOTH._replace(addresses=held)
    targets = [(str(question.src), question.target) for question in proof.all_of_them(
        decision(whole, [MADE]), whole, [MADE.route])]
    assert targets == [("172.16.10.10", "internet"), ("172.16.10.20", "internet"), ("172.16.10.20", "own vSwitch"),
                       ("172.16.10.21", "internet"), ("172.16.10.21", "own vSwitch"), ("None", "internet, no source")]
    assert [found.text for found in proof.unprovable(decision(BOTH, [MADE]), BOTH)] == [
        "eni-1 (00:16:3e:00:00:01, Ethernet 2): 1 of its 2 addresses is not on its adapter"]
    assert not proof.unprovable(decision(whole, [MADE]), whole)


def test_a_vpn_s_default_route_is_its_own_affair():
    vpn = BOTH._replace(active=BOTH.active + (default(77, "10.8.0.1", 0),))
    assert "internet, no source" not in [question.target for question in proof.few(
        decision(vpn, [MADE]), vpn, [MADE.route])]


def test_a_primary_with_weak_host_sending_is_named():
    weak = BOTH._replace(interfaces=(Interface(5, 4, 15, True), Interface(6, 4, 15, False)))
    assert "Ethernet): weak host sending is switched on for IPv4" in decision(weak, [MADE]).problems[0]


def test_the_whole_with_a_metadata_service(tmp_path):
    """The client is the one that Linux has."""
    with pytest.MonkeyPatch.context() as usual:
        client = agent.client
        instance = Instance(tmp_path, usual)
        usual.setattr(agent, "client", client)
        usual.setattr(agent, "Deadline", deadline.Deadline)
        instance.windows.plug(0, "172.16.10.10/24", gateway="172.16.10.253")
        instance.windows.plug(1, "172.16.10.20/24")
        with MetadataService(tree(PRIMARY, SECOND), ("127.0.0.1", 0)) as service:
            assert instance("--metadata-url", service.url).code == 0
            done = instance("verify", "--json", "--metadata-url", service.url)
            assert done.code == 0 and done.json["remarks"] == [
                "eni-1 (00:16:3e:00:00:01, Ethernet 2): 1 of its 2 addresses is not on its adapter"]
            done = instance("metadata", "--metadata-url", service.url)
            assert done.json["host"]["windows"]["adapters"][1]["Name"] == "Ethernet 2"
            saved = tmp_path / "saved.json"
            saved.write_text(done.out)
            rendered = instance("render", "windows", "--metadata-url", service.url)
            assert rendered.code == 0 and "\nroute add -p 0.0.0.0 mask 0.0.0.0 172.16.10.253 if " in rendered.out
            assert instance("render", "windows", "--metadata", str(saved)) == rendered
        assert instance("verify", "--timeout", "0.5", "--metadata-url", "http://127.0.0.1:1").code == 3
