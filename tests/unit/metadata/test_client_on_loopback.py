"""The client against a real server on loopback with every fault that can be switched on."""

import http.client
import json
import time
from concurrent import futures
from contextlib import contextmanager

import pytest

from eni_bootstrap.lab.service import Answer, MetadataService
from eni_bootstrap.metadata.client import MAX_BYTES, MetadataClient
from eni_bootstrap.metadata.parser import LEAVES, VSWITCH_ID, parse_interfaces
from eni_bootstrap.model.deadline import Deadline
from eni_bootstrap.model.errors import MetadataError, NotReady

FIRST, SECOND = "00:16:3e:00:00:00", "00:16:3e:00:00:01"


def eni(number):
    return {
        "network-interface-id": "eni-{}".format(number),
        "primary-ip-address": "10.0.{}.2".format(number),
        "private-ipv4s": '["10.0.{0}.3","10.0.{0}.2"]'.format(number),
        "ipv4-prefixes": "10.0.{}.16/28".format(number),
        "netmask": "255.255.255.0",
        "gateway": "10.0.{}.253".format(number),
        "vpc-id": "vpc-1",
        "vpc-cidr-block": "10.0.0.0/16",
        "vswitch-cidr-block": "10.0.{}.0/24".format(number),
        "ipv6s": "[2001:db8:0:{0}::2, 2001:db8:0:{0}::3]".format(number),
        "ipv6-prefixes": "2001:db8:0:{}:1::/80".format(number),
        "ipv6-gateway": "2001:db8:0:{}::1".format(number),
        "vswitch-ipv6-cidr-block": "2001:db8:0:{}::/64".format(number),
        "vpc-ipv6-cidr-blocks": "[2001:db8::/56]",
    }


def tree(enis=3):
    macs = {"00:16:3e:00:00:{:02x}".format(number): eni(number) for number in range(enis)}
    nameservers = {"nameservers": "100.100.2.136\r\n100.100.2.138"}
    return {"dns-conf": nameservers, "mac": FIRST, "network": {"interfaces": {"macs": macs}}}


@contextmanager
def asking(service, seconds=10.0, sleep=time.sleep):
    client = MetadataClient(service.url, Deadline(seconds), sleep)
    try:
        yield client
    finally:
        client.close()


def hurry(seconds):
    """Pauses of a fiftieth: what is tested is what happens after them."""
    time.sleep(seconds / 50)


def read(service, seconds=10.0):
    with asking(service, seconds, hurry) as client:
        return parse_interfaces(client.fetch())


def failure(service, seconds):
    with asking(service, seconds) as client, pytest.raises(MetadataError) as caught:
        client.fetch()
    assert not isinstance(caught.value, NotReady)
    assert service.url in str(caught.value)
    return str(caught.value)


def macs(client):
    return set(client.fetch()["network"]["interfaces"]["macs"])


@pytest.fixture
def serve():
    services = []

    def start(content=None, address=("127.0.0.1", 0), **faults):
        services.append(MetadataService(tree() if content is None else content, address, **faults))
        return services[-1].start()

    yield start
    for service in services:
        service.close()


def test_two_requests_suffice(serve):
    service = serve(tree(33))
    assert len(read(service).interfaces) == 33
    assert [request.method for request in service.requests] == ["PUT", "GET"]
    assert service.connections == 2


@pytest.mark.parametrize("keep_alive", [True, False])
def test_a_walk_asks_for_what_is_needed_over_eight_connections(serve, keep_alive):
    service = serve(tree(5), all_answer=404, keep_alive=keep_alive, delay=0.005)
    assert read(service) == parse_interfaces(tree(5))
    assert len(service.requests) == 4 + (1 + len(LEAVES)) * 5 == 4 + 14 * 5
    assert 2 <= service.max_open <= 8
    assert (service.connections <= 9) is keep_alive


def test_the_vswitch_s_id_is_fetched_only_where_it_is_asked_for(serve):
    named = tree()
    for leaves in named["network"]["interfaces"]["macs"].values():
        leaves["vswitch-id"] = "vsw-1"
    service = serve(named, all_answer=404)
    client = MetadataClient(service.url, Deadline(10), hurry, leaves=LEAVES | {VSWITCH_ID})
    assert parse_interfaces(client.fetch()) == parse_interfaces(named) != read(service)
    client.close()


@pytest.mark.parametrize(
    "faults",
    [
        {},
        {"trailing_newline": True},
        {"listing_slash": False},
        {"crlf": True},
        {"crlf": True, "trailing_newline": True, "listing_slash": False},
        {"macs_reversed": True},
        {"keep_alive": True},
        {"missing": {SECOND: ["gateway", "ipv6s"]}},
        {"missing": {SECOND: ["gateway"]}, "still_listed": True},
        {"empty": {SECOND: ["ipv6s", "ipv6-prefixes", "network-interface-id"]}},
        {"detaching": [SECOND]},
        {"detaching": [FIRST, SECOND]},
    ],
    ids=str,
)
def test_all_and_the_walk_tell_the_same(serve, faults):
    by_all, by_walk = read(serve(**faults)), read(serve(all_answer=404, **faults))
    assert by_all == by_walk
    assert len({eni.mac for eni in by_all.interfaces + by_all.sick}) == 3
    assert len(by_all.sick) == len(faults.get("missing", ())) + len(list(faults.get("detaching", ())))


def test_a_detaching_eni_is_empty_and_may_pass(serve):
    sick = read(serve(all_answer=404, detaching=[SECOND])).sick
    assert [(eni.mac, eni.transient) for eni in sick] == [(SECOND, True)]


@pytest.mark.parametrize("leaf", ["private-ipv4s", "ipv4-prefixes", "ipv6s", "ipv6-prefixes"])
@pytest.mark.parametrize("status", [200, 404])
def test_a_leaf_that_was_absent_once_is_there(serve, leaf, status):
    service = serve(all_answer=404, instead={"{}/{}".format(SECOND, leaf): [Answer(status)]})
    assert read(service) == parse_interfaces(tree())


@pytest.mark.parametrize("leaf", ["private-ipv4s", "ipv4-prefixes", "ipv6s", "ipv6-prefixes"])
def test_an_eni_whose_listing_names_what_is_not_there_is_sick_and_may_get_well(serve, leaf):
    found = read(serve(all_answer=404, missing={SECOND: [leaf]}, still_listed=True))
    assert [(eni.mac, eni.transient, eni.reason.split(" is ")[0]) for eni in found.sick] == [(SECOND, True, leaf)]
    assert [eni.version for eni in found.sick] == [6 if "ipv6" in leaf else 4]
    (rest,) = [eni for eni in found.interfaces if eni.mac == SECOND]
    assert [subnet.version for subnet in rest.subnets] == [4 if "ipv6" in leaf else 6]


def test_an_empty_list_of_ipv4_addresses_contradicts_the_primary_address(serve):
    """As one that is not there does; without a primary address it does not."""
    assert [eni.mac for eni in read(serve(all_answer=404, empty={SECOND: ["private-ipv4s"]})).sick] == [SECOND]
    none = ["primary-ip-address", "private-ipv4s", "ipv4-prefixes"]
    assert not read(serve(all_answer=404, empty={SECOND: none})).sick


def test_a_leaf_that_is_not_listed_is_absent_and_not_asked_for(serve):
    service = serve(all_answer=404, missing={SECOND: ["ipv6s", "ipv6-prefixes", "ipv4-prefixes"]})
    found = read(service)
    assert not found.sick and [len(eni.subnets) for eni in found.interfaces] == [2, 1, 2]
    assert not [path for path in service.paths() if path.endswith((SECOND + "/ipv6s", SECOND + "/ipv4-prefixes"))]


@pytest.mark.parametrize("all_answer", [404, 400, "<html>", json.dumps(tree())[:500], "[]", '{"mac": null}'])
def test_a_broken_all_is_replaced_by_a_walk(serve, all_answer):
    assert read(serve(all_answer=all_answer)) == parse_interfaces(tree())


def test_an_all_that_only_ever_fails_leaves_time_for_the_walk(serve):
    """One broken answer of the service is no reason to leave the instance as it is."""
    assert read(serve(tree(), all_answer=500), seconds=4) == parse_interfaces(tree())


@pytest.mark.parametrize("faults", [{"late": {SECOND: 0.3}}, {"late_requests": {SECOND: 4}}], ids=str)
@pytest.mark.parametrize("all_answer", [None, 404])
def test_an_eni_that_comes_late_is_seen_by_a_later_fetch(serve, faults, all_answer):
    service = serve(all_answer=all_answer, **faults)
    with asking(service) as client:
        assert SECOND not in macs(client)
        end = time.monotonic() + 5
        while SECOND not in macs(client):
            assert time.monotonic() < end, "never seen"
            time.sleep(0.05)
    assert [request.method for request in service.requests].count("PUT") == 1


def test_the_proxy_of_the_environment_is_ignored(serve, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert read(serve(), 2) == parse_interfaces(tree())


def test_ipv6_literals(serve):
    try:
        service = serve(address=("::1", 0))
    except OSError as error:
        pytest.skip("no IPv6 loopback here: {}".format(error))
    assert service.url.startswith("http://[::1]:")
    assert read(service) == parse_interfaces(tree())


@pytest.mark.parametrize("all_answer", [None, 404])
@pytest.mark.parametrize(
    "faults",
    [
        {"hardened": True},
        {"hardened": True, "token_uses": 4},
        {"hardened": True, "token_uses": 1},
        {"token_status": 404},
        {"token_status": 405},
        {"token_status": 403},
        {"fail_first": 2, "fail_status": 429},
        {"fail_first": 2, "fail_status": 500},
        {"fail_first": 2, "fail_status": 503},
        {"drop_first": 2},
        {"delay": 0.02},
        {"drip": 0.00001},
        {"not_before": 0.5},
    ],
    ids=str,
)
def test_trouble_that_passes_is_survived(serve, faults, all_answer):
    assert read(serve(tree(), all_answer=all_answer, **faults), 20) == parse_interfaces(tree())


def test_a_new_token_is_fetched_once_for_all_who_wait(serve):
    """No token is replaced before it is used up, although eight connections are refused at about the same time."""
    service = serve(all_answer=404, token_uses=4, delay=0.002)
    assert read(service) == parse_interfaces(tree())
    gets = 3 + 14 * 3
    assert [request.method for request in service.requests].count("PUT") == -(-gets // 4)


def test_a_token_that_expires_on_the_way_is_replaced(serve):
    """The service's clock goes by a second with each request, so that nothing depends on how fast this machine is.

    Between a new token and its first use each of the seven other connections can come once with the old one: nine
    seconds are enough for that first use, whatever the order.
    """
    service = serve(all_answer=404, hardened=True, token_seconds=9)
    service.clock = lambda: len(service.requests)
    assert read(service) == parse_interfaces(tree())
    gets = 3 + 14 * 3
    assert [request.method for request in service.requests].count("PUT") >= -(-gets // 8)


@pytest.mark.parametrize("fault, count", [("fail_first", 9), ("drop_first", 9)])
def test_single_requests_of_a_walk_are_repeated_not_the_walk(serve, fault, count):
    service = serve(all_answer=404)
    with asking(service, 20, hurry) as client:
        client.fetch()
        service.requests.clear()
        setattr(service.faults, fault, count)
        assert parse_interfaces(client.fetch()) == parse_interfaces(tree())
    answered = 2 + 14 * 3
    assert len(service.requests) == answered + (count if fault == "fail_first" else 0)


LASTING = [
    ({"always": 503}, "503 Service Unavailable", False),
    ({"always": 429}, "429 Too Many Requests", False),
    ({"stall": True}, "timed out", True),
    ({"drip": 0.1}, "timed out", True),
    ({"drip": 0.1, "drip_headers": True}, "timed out", True),
    ({"drip": 0.1, "all_answer": 404}, "timed out", True),
    ({"drip": 0.1, "endless": True}, "timed out", True),
    ({"delay": 5}, "timed out", True),
    ({"drop_first": 1000}, "connection dropped", True),
    ({"garbage": b"SSH-2.0-OpenSSH\r\n"}, "not proper HTTP", False),
    ({"garbage": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"}, "connection dropped", True),
    ({"garbage": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort"}, "connection dropped", True),
    ({"garbage": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n"}, "not proper HTTP", False),
    ({"garbage": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nxxxx"}, "not proper HTTP", False),
    ({"not_before": 60}, "connection refused", True),
]
"""Trouble that stays; what is said of it; whether Tailscale is named as what may be in the way."""


@pytest.fixture(scope="module")
def in_the_end():
    """Faults → what becomes of a client with a second of time, and when. All at once, as each takes that second."""

    def outcome(faults):
        with MetadataService(tree(), **faults) as service:
            start = time.monotonic()
            return failure(service, 1), time.monotonic() - start

    with futures.ThreadPoolExecutor(len(LASTING)) as at_once:
        return {str(faults): at_once.submit(outcome, faults) for faults, _, _ in LASTING}


@pytest.mark.parametrize("faults, words, advice", LASTING, ids=str)
def test_trouble_that_stays_is_named_at_the_deadline(in_the_end, faults, words, advice):
    message, seconds = in_the_end[str(faults)].result()
    assert 0.5 < seconds < 2
    assert words in message and "gave up after 1 s" in message
    assert ("Tailscale" in message) is advice


@pytest.mark.parametrize(
    "faults, words",
    [
        ({"disabled": True}, "hardened-only or disabled"),
        ({"hardened": True, "token_status": 404}, "hardened-only or disabled"),
        ({"token_uses": 0}, "401, even a fresh token is refused"),
        ({"always": 400}, "400 Bad Request"),
        ({"redirect": "http://127.0.0.1:1/x"}, "redirected to 'http://127.0.0.1:1/x'"),
        ({"redirect": "http://[::1"}, "redirected to 'http://[::1'"),
        ({"redirect": "/x", "endless": True}, "redirected to '/x'"),
        ({"endless": True}, "too large"),
        ({"huge": MAX_BYTES + 1}, "too large"),
        ({"all_answer": " " * (MAX_BYTES + 1)}, "too large"),
        ({"all_answer": 403}, "disabled"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_can_not_get_better_is_named_at_once(serve, faults, words):
    service = serve(**faults)
    start = time.monotonic()
    message = failure(service, 30)
    assert time.monotonic() - start < 2
    assert words in message
    assert len(service.requests) <= 4


def test_refused_after_the_service_has_gone(serve):
    service = serve()
    service.close()
    assert "connection refused" in failure(service, 0.5)


# -- the simulator itself keeps the documented rules --


@pytest.mark.parametrize(
    "method, path, headers, status",
    [
        ("PUT", "/latest/api/token", {"X-aliyun-ecs-metadata-token-ttl-seconds": "1"}, 200),
        ("PUT", "/latest/api/token", {"X-aliyun-ecs-metadata-token-ttl-seconds": "21600"}, 200),
        ("PUT", "/latest/api/token", {"X-aliyun-ecs-metadata-token-ttl-seconds": "21601"}, 400),
        ("PUT", "/latest/api/token", {"X-aliyun-ecs-metadata-token-ttl-seconds": "0"}, 400),
        ("PUT", "/latest/api/token", {}, 400),
        ("PUT", "/latest/api/token", {"X-Forwarded-For": "192.0.2.1"}, 403),
        ("GET", "/latest/api/token", {}, 405),
        ("GET", "/latest/meta-data/mac", {}, 200),
        ("GET", "/latest/meta-data/mac", {"X-aliyun-ecs-metadata-token": "no"}, 401),
        ("GET", "/latest/meta-data/nothing", {}, 404),
        ("GET", "/latest/meta-data/mac/below", {}, 404),
        ("GET", "/2020-01-01/meta-data/mac", {}, 404),
        ("GET", "/latest/user-data", {}, 404),
    ],
)
def test_the_simulator_answers_as_documented(serve, method, path, headers, status):
    assert ask(serve(), method, path, headers)[0] == status


@pytest.mark.parametrize(
    "path, body",
    [
        ("/", "2016-01-01\nlatest"),
        ("/latest/", "meta-data/"),
        ("/latest/meta-data", "dns-conf/\nmac\nnetwork/"),
        ("/2016-01-01/meta-data/", "dns-conf/\nmac\nnetwork/"),
        ("/latest/meta-data/mac", FIRST),
        ("/latest/meta-data/dns-conf/nameservers", "100.100.2.136\r\n100.100.2.138"),
        ("/latest/meta-data/network/interfaces/macs", FIRST + "/\n" + SECOND + "/\n00:16:3e:00:00:02/"),
        ("/latest/meta-data/all", json.dumps(tree())),
    ],
)
def test_the_simulator_lists_and_tells(serve, path, body):
    assert ask(serve(), "GET", path, {}) == (200, body)


def test_a_hardened_simulator_wants_a_token(serve):
    service = serve(hardened=True)
    assert ask(service, "GET", "/latest/meta-data/mac", {})[0] == 403
    token = ask(service, "PUT", "/latest/api/token", {"X-aliyun-ecs-metadata-token-ttl-seconds": "60"})[1]
    assert ask(service, "GET", "/latest/meta-data/mac", {"X-aliyun-ecs-metadata-token": token}) == (200, FIRST)


def test_a_misspelt_fault_is_an_error():
    with pytest.raises(TypeError):
        MetadataService({}, hardned=True)


def test_a_stalled_simulator_closes_at_once():
    with MetadataService(tree(), stall=True) as service:
        failure(service, 0.3)
        start = time.monotonic()
    assert time.monotonic() - start < 0.5


def ask(service, method, path, headers):
    connection = http.client.HTTPConnection(service.url[len("http://"):], timeout=5)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()
