"""The simulated VPC is honest: the vendor's symptom shows in it, the vendor's cure works, the cloud's rules hold."""

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from typing import Any, Callable, Dict, List

import pytest

from eni_bootstrap.lab import probe
from eni_bootstrap.lab.namespace import Namespace
from eni_bootstrap.lab.vpc import macs_of, make_tree
from tests.agent import ROOT

ETH1 = "172.16.20.10"
QUESTIONS: Dict[str, Callable[..., Any]] = {"ping": probe.ping, "tcp": probe.tcp, "udp": probe.udp}


def ip(vpc, command):
    return vpc.instance.run(["ip"] + command.split()).stdout


def wait_until(condition, seconds=3):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(params=QUESTIONS)
def ask(request):
    return QUESTIONS[request.param]


# namespaces


def test_a_namespace_holds_only_the_thread_that_entered_it():
    def here():
        return os.readlink("/proc/thread-self/ns/net")

    outside = here()
    elsewhere: List[str] = []

    def work():
        other.run(["true"])
        elsewhere.append(here())

    one, other = Namespace(), Namespace()
    with one:
        inside = here()
        assert [name for _, name in socket.if_nameindex()] == ["lo"]
        assert one.run(["readlink", "/proc/self/ns/net"]).stdout.strip() == inside
        assert os.readlink(one.path) == inside
        with other:
            assert here() not in (inside, outside)
        assert here() == inside
        thread = threading.Thread(target=work)
    assert here() == outside
    thread.start()
    thread.join()
    assert elsewhere == [outside]
    one.close()
    other.close()
    other.close()


_AS_ORDINARY_USER = """
import ctypes, os
from eni_bootstrap.model.errors import NotPermitted
from eni_bootstrap.lab import probe
from eni_bootstrap.lab.namespace import isolate
from eni_bootstrap.lab.vpc import Vpc, make_tree
if os.getuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    PR_SET_DUMPABLE = 4  # lost with the user id, and with it the right to write to /proc/self
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
try:
    isolate()
except NotPermitted as error:
    print(error)
    raise SystemExit(77)
with Vpc(make_tree(ipv6=True)) as vpc:
    assert probe.ping(vpc.client, vpc.eips["eth0"])
    assert not probe.ping(vpc.client, vpc.eips["eth1"], timeout=0.2)
    assert probe.ping(vpc.client, vpc.address("eth0", 6))
"""


def test_an_ordinary_user_can_have_a_lab_too():
    done = subprocess.run(
        [sys.executable, "-c", _AS_ORDINARY_USER], cwd="/", env={"PYTHONPATH": ROOT},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True,
    )
    if done.returncode == 77 and not os.environ.get("CI"):
        pytest.skip(done.stdout)
    assert done.returncode == 0, done.stdout


# the vendor's symptom and the vendor's cure


def test_the_reply_of_a_secondary_eni_leaves_by_the_primary_and_is_lost(vpc, ask):
    with probe.echo_server(vpc.instance), vpc.fabric.capture() as seen:
        assert ask(vpc.client, vpc.eips["eth0"])
        assert not ask(vpc.client, vpc.eips["eth1"], timeout=0.5)
    its_own = {vpc.eips["eth1"], vpc.address("eth1")}
    steps = [
        (packet.port, packet.direction, str(packet.src), str(packet.dst), packet.verdict)
        for packet in seen if its_own & {packet.src, packet.dst}
    ][:3]
    assert steps == [
        ("client", "from", "203.0.113.50", "198.51.100.2", "forwarded"),
        ("eth1", "to", "203.0.113.50", ETH1, "forwarded"),
        ("eth0", "from", ETH1, "203.0.113.50", "source check"),
    ]
    assert vpc.fabric.ports["eth0"].counters["source check"] >= 1


def test_the_vendors_two_commands_cure_it(vpc, ask):
    ip(vpc, "-4 route add default via 172.16.20.253 dev eth1 table 1001")
    ip(vpc, f"-4 rule add from {ETH1} lookup 1001")
    with probe.echo_server(vpc.instance), vpc.fabric.capture() as seen:
        assert ask(vpc.client, vpc.eips["eth1"])
    assert {packet.port for packet in seen} == {"client", "eth1"}
    assert {packet.verdict for packet in seen} == {"forwarded"}


def test_the_same_symptom_and_cure_with_ipv6(make_vpc, ask):
    vpc = make_vpc(make_tree(ipv6=True))
    eth1 = vpc.subnet("eth1", 6)
    with probe.echo_server(vpc.instance):
        assert ask(vpc.client, vpc.address("eth0", 6))
        assert not ask(vpc.client, eth1.addresses[0], timeout=0.5)
        ip(vpc, f"-6 route add default via {eth1.gateway} dev eth1 onlink table 1001")
        ip(vpc, f"-6 rule add from {eth1.vswitch} lookup 1001")
        assert ask(vpc.client, eth1.addresses[0])


# the cloud's rules


def test_an_eni_can_send_from_its_own_addresses_only(vpc, ask):
    ip(vpc, "address add 172.16.20.99/32 dev eth0")
    with probe.echo_server(vpc.client):
        with vpc.fabric.capture() as seen:
            assert not ask(vpc.instance, vpc.client.ipv4, src="172.16.20.99", timeout=0.5)
        assert {(packet.port, packet.verdict) for packet in seen} == {("eth0", "source check")}
        assert ask(vpc.instance, vpc.client.ipv4, src=vpc.address("eth0"))


def test_the_client_sees_the_eip_and_never_the_private_address(vpc, ask):
    with probe.echo_server(vpc.client), vpc.fabric.capture() as seen:
        assert ask(vpc.instance, vpc.client.ipv4)
    sources = {packet.src for packet in seen if (packet.port, packet.direction) == ("client", "to")}
    assert sources == {vpc.eips["eth0"]}


def test_an_icmp_error_reaches_the_one_whom_it_concerns(vpc):
    with vpc.client:
        talking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with talking:
        talking.settimeout(2)
        talking.connect((str(vpc.eips["eth0"]), 9))  # nobody listens
        talking.send(b"?")
        with pytest.raises(ConnectionRefusedError):
            talking.recv(1)


def test_large_transfers_arrive_whole(vpc):
    data = os.urandom(300000)
    received = bytearray()

    def serve():
        connection = listening.accept()[0]
        with connection:
            connection.settimeout(5)
            while len(received) < len(data):
                received.extend(connection.recv(65536))

    with vpc.client:
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with vpc.instance:
        sending = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with listening, sending:
        listening.bind((str(vpc.client.ipv4), 5000))
        listening.listen(1)
        thread = threading.Thread(target=serve)
        thread.start()
        sending.settimeout(5)
        sending.connect((str(vpc.client.ipv4), 5000))
        sending.sendall(data)
        thread.join()
    assert received == data


@pytest.mark.parametrize("device", ["eth0", "eth1", "eth2"])
def test_gateways_answer_pings(make_vpc, device):
    vpc = make_vpc(make_tree(ipv6=True), ipv6_onlink=True)
    for version in (4, 6):
        assert probe.ping(vpc.instance, vpc.subnet(device, version).gateway, device=device)


def test_addresses_and_prefixes_lead_to_their_eni(make_vpc):
    vpc = make_vpc(make_tree(addresses=3, ipv6=True, prefix=True))
    with vpc.fabric.capture() as seen:
        for version in (4, 6):
            subnet = vpc.subnet("eth1", version)
            for address in [*subnet.addresses, subnet.prefixes[0][5]]:
                probe.ping(vpc.client, address, timeout=0.05)
                arrived = [packet.port for packet in seen if packet.dst == address and packet.direction == "to"]
                assert arrived == ["eth1"]
        probe.ping(vpc.client, "172.31.0.1", timeout=0.05)
    assert seen[-1].verdict == "no route"


def test_the_instance_reaches_its_metadata(make_vpc):
    for service, expected in ((True, b"00:16:3e:0e:00:01"), (False, None)):
        vpc = make_vpc(service=service)
        with vpc.instance:
            connection = http.client.HTTPConnection("100.100.100.200", timeout=2)
            try:
                if expected is None:
                    with pytest.raises(ConnectionRefusedError):
                        connection.connect()
                else:
                    connection.request("GET", "/latest/meta-data/mac")
                    assert connection.getresponse().read().strip() == expected
            finally:
                connection.close()


def test_a_neighbour_in_the_vswitch(vpc, ask):
    neighbour = vpc.neighbour("172.16.20.0/24")
    assert vpc.neighbour("eth1") is neighbour
    with probe.echo_server(vpc.instance), vpc.fabric.capture() as seen:
        assert ask(neighbour, ETH1)
    assert {packet.port for packet in seen} == {"eth1", "neighbour in 172.16.20.0/24"}


def test_a_silent_gateway_answers_nothing_and_carries_nothing(make_vpc):
    vpc = make_vpc(make_tree(ipv6=True))
    gateway = vpc.subnet("eth0", 6).gateway
    vpc.fabric.silence(gateway)
    assert not probe.ping(vpc.client, vpc.address("eth0", 6), timeout=0.2)
    assert probe.ping(vpc.client, vpc.eips["eth0"])
    vpc.fabric.silence(gateway, False)
    assert probe.ping(vpc.client, vpc.address("eth0", 6), timeout=3)
    vpc.fabric.silence("eth0")
    assert not probe.ping(vpc.client, vpc.eips["eth0"], timeout=0.2)


# the probes


def test_udp_without_packet_info_answers_from_the_wrong_address(vpc):
    ip(vpc, "-4 route add default via 172.16.20.253 dev eth1 table 1001")
    ip(vpc, f"-4 rule add from {ETH1} lookup 1001")
    with probe.echo_server(vpc.instance, pktinfo=False):
        assert probe.udp(vpc.client, vpc.eips["eth0"])
        assert not probe.udp(vpc.client, vpc.eips["eth1"], timeout=0.3)
    with probe.echo_server(vpc.instance, address=ETH1, pktinfo=False):
        assert probe.udp(vpc.client, vpc.eips["eth1"])


def test_servers_and_clients_bound_to_a_device(vpc):
    # Bound to a device, a socket uses this device's routes: the OS made a default for each.
    with probe.echo_server(vpc.instance, device="eth1"):
        assert probe.tcp(vpc.client, vpc.eips["eth1"])
        assert probe.udp(vpc.client, vpc.eips["eth1"])
        assert not probe.tcp(vpc.client, vpc.eips["eth0"], timeout=0.3)
    with probe.echo_server(vpc.client), vpc.fabric.capture() as seen:
        for ask in QUESTIONS.values():
            assert ask(vpc.instance, vpc.client.ipv4, device="eth1")
    assert {packet.src for packet in seen if packet.port == "client" and packet.direction == "to"} == {
        vpc.eips["eth1"]
    }


def test_a_source_that_is_on_no_link_is_a_mistake(vpc):
    with pytest.raises(OSError):
        probe.ping(vpc.instance, vpc.client.ipv4, src="192.0.2.1")


# what the operating system did, and what happens later


def test_what_the_operating_system_did_with_the_links(make_vpc):
    vpc = make_vpc(make_tree(ipv6=True), names=["ens5", "enp0s6", "enp0s7"], os={"enp0s6": "up", "enp0s7": "down"})
    assert vpc.primary == "ens5"
    defaults = ip(vpc, "route show default") + ip(vpc, "-6 route show default")
    assert "dev ens5 proto dhcp src 172.16.10.10 metric 100" in defaults
    assert "enp0s" not in defaults
    assert f"inet {ETH1}/24" in ip(vpc, "address show enp0s6")
    down = ip(vpc, "address show enp0s7")
    assert "inet" not in down and "UP" not in down and "00:16:3e:0e:00:03" in down


def test_an_operating_system_for_all_spares_the_primary(make_vpc):
    vpc = make_vpc(os="down")
    assert ip(vpc, "-4 route show").count("\n") == 2
    assert "dev eth0" in ip(vpc, "-4 route show")


def test_an_eni_comes_and_goes(make_vpc):
    tree = make_tree(4, vswitches=[0, 1, 0, 2])
    mac, leaves = list(macs_of(tree).items())[-1]
    del macs_of(tree)[mac]
    vpc = make_vpc(tree)
    before = vpc.dump()
    assert vpc.attach(mac, leaves) == "eth3"
    assert mac in macs_of(vpc.tree)
    assert probe.ping(vpc.neighbour("eth3"), vpc.address("eth3"))
    assert vpc.dump() != before
    vpc.detach("eth3")
    assert mac not in macs_of(vpc.tree)
    assert vpc.dump() == before
    assert probe.ping(vpc.client, vpc.eips["eth0"])


def test_an_address_that_is_assigned_later(vpc):
    leaves = list(macs_of(vpc.tree).values())[0]
    ip(vpc, "address add 172.16.10.77/32 dev eth0")
    eip = vpc.eip("172.16.10.77")
    assert not probe.ping(vpc.client, eip, timeout=0.1)
    leaves["private-ipv4s"] = '["172.16.10.10","172.16.10.77"]'
    vpc.refresh()
    assert probe.ping(vpc.client, eip)


def test_links_and_cables(vpc):
    def state():
        return ip(vpc, "link show eth1")

    vpc.set_link("eth1", False)
    assert ",UP" not in state()
    vpc.set_link("eth1", True)
    vpc.fabric.carrier("eth1", False)
    wait_until(lambda: "NO-CARRIER" in state())
    vpc.fabric.carrier("eth1", True)
    wait_until(lambda: "LOWER_UP" in state())
    assert probe.ping(vpc.neighbour("eth1"), ETH1)


def test_assigned_addresses_are_on_the_links(make_vpc):
    vpc = make_vpc(make_tree(addresses=2), assign=True)
    assert "172.16.20.11/24" in ip(vpc, "address show eth1")


def test_thirty_two_enis_are_there_in_no_time(make_vpc):
    started = time.monotonic()
    vpc = make_vpc(make_tree(32, addresses=10, ipv6=True, vswitches="own"))
    took = time.monotonic() - started
    print(f"32 ENIs in {took:.2f} s")
    assert took < 15
    assert probe.ping(vpc.neighbour("eth31"), vpc.address("eth31"))
