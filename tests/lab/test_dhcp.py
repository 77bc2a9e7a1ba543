"""The simulated VPC's DHCP server: one lease for each ENI, given to whom it belongs."""

import fcntl
import os
import socket
import struct
import time

import pytest

from eni_bootstrap.lab import wire
from eni_bootstrap.lab.vpc import REAL
from tests.unit.lab.test_dhcp import DISCOVER, MAC, REQUEST, read, request


def converse(vpc, name, packet):
    """What comes back on an ENI's link after this packet; None: nothing."""
    mac = vpc.nics[name].mac
    with vpc.instance:
        talking = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
    with talking:
        talking.bind((name, 0x0800))
        talking.settimeout(0.5)
        talking.send(b"\xff" * 6 + wire.mac(mac) + wire.IPV4 + packet.data)
        try:
            frame = talking.recv(65536)
        except socket.timeout:
            return None
    assert frame[:6] == wire.mac(mac)
    return read(frame[14:], mac)


@pytest.fixture
def real(make_vpc):
    """A VPC whose instance configures its links by itself; here just up."""
    vpc = make_vpc(os=REAL)
    assert "172.16." not in vpc.instance.run(["ip", "-4", "address"]).stdout
    for name in vpc.nics:
        vpc.set_link(name, True)
    return vpc


@pytest.mark.parametrize("name, address", [
    ("eth0", "172.16.10.10"), ("eth1", "172.16.20.10"), ("eth2", "172.16.10.11")])
def test_each_eni_is_leased_its_primary_address(real, name, address):
    assert converse(real, name, request(DISCOVER, mac=real.nics[name].mac))[2] == address
    assert real.fabric.ports[name].counters["leased"] == 1


def test_a_renewal_that_leaves_by_a_wrong_eni_fails_the_source_check(real):
    """And is counted there: DHCP is spared by no check that the cloud makes."""
    wrong = request(REQUEST, src="172.16.10.10", dst="172.16.10.253", client="172.16.10.10")
    with real.fabric.capture() as seen:
        assert converse(real, "eth1", wrong) is None
    assert [(packet.port, packet.verdict) for packet in seen] == [("eth1", "source check")]


def test_a_silent_gateway_leases_nothing(real):
    real.fabric.silence("172.16.20.253")
    assert converse(real, "eth1", request(DISCOVER)) is None
    real.fabric.silence("172.16.20.253", False)
    assert converse(real, "eth1", request(DISCOVER))[2] == "172.16.20.10"


@pytest.mark.skipif(not os.access("/dev/net/tun", os.R_OK | os.W_OK), reason="/dev/net/tun is not for this user")
def test_a_tap_is_a_port_like_the_others(make_vpc):
    """As qemu uses it: what is written into the tap's file comes from the machine, what is read goes to it."""
    vpc = make_vpc(os=REAL, taps=True)
    assert vpc.instance.run(["ip", "-o", "link"]).stdout.count("\n") == 1  # its links are elsewhere
    with vpc.fabric.namespace:  # a tap belongs to the namespace in which the file was opened
        tap = open("/dev/net/tun", "r+b", buffering=0)
        name = vpc.fabric.ports["eth1"].device.encode()
        fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH22x", name, 0x1002))  # TUNSETIFF, IFF_TAP | IFF_NO_PI
    os.set_blocking(tap.fileno(), False)
    with tap:
        tap.write(b"\xff" * 6 + wire.mac(MAC) + wire.IPV4 + request(DISCOVER).data)
        frame, end = None, time.monotonic() + 3
        while not frame or frame[12:14] != wire.IPV4:
            assert time.monotonic() < end
            time.sleep(0.01)
            frame = tap.read(65536)
    assert read(frame[14:])[2] == "172.16.20.10"


def test_where_the_operating_system_is_simulated_nobody_leases(vpc):
    assert converse(vpc, "eth1", request(DISCOVER)) is None
