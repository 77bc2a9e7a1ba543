"""What the client makes of each single answer; no network, no waiting."""

import json

import pytest
import requests
import responses

from eni_bootstrap.metadata.client import ALL, MAC, MACS, MAX_BYTES, TOKEN, MetadataClient
from eni_bootstrap.model.deadline import Deadline
from eni_bootstrap.model.errors import MetadataError, NotReady, UsageError
from tests.fakes import Clock

URL = "http://100.100.100.200"
ENI = "00:16:3e:12:e7:27"
TREE = {"mac": ENI, "network": {"interfaces": {"macs": {ENI: {"gateway": "10.0.0.1"}}}}}


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def client(clock):
    client = MetadataClient(URL, Deadline(10, clock), clock.sleep)
    yield client
    client.close()


@pytest.fixture
def service():
    """Answers are given in the order in which they were added, the last one for ever."""
    with responses.RequestsMock(assert_all_requests_are_fired=True) as mock:
        yield mock


def token(service, name="t1"):
    service.add("PUT", URL + TOKEN, body=name)


def whole(service, body=None, **answer):
    service.add("GET", URL + ALL, body=json.dumps(TREE) if body is None else body, **answer)


def leaf(service, path, body="", **answer):
    service.add("GET", URL + path, body=body, **answer)


def walk(service, listing="gateway\nprivate-ipv4s\nvpc-id\n"):
    leaf(service, MAC, ENI + "\n")
    leaf(service, MACS, ENI + "/\n")
    leaf(service, MACS + ENI + "/", listing)


def sent_tokens(service):
    headers = [call.request.headers for call in service.calls if call.request.method == "GET"]
    return [header.get("X-aliyun-ecs-metadata-token") for header in headers]


def failure(client):
    with pytest.raises(MetadataError) as caught:
        client.fetch()
    assert not isinstance(caught.value, NotReady)
    assert URL in str(caught.value)
    return str(caught.value)


def test_a_token_and_one_answer(client, service, clock):
    token(service)
    whole(service)
    assert client.fetch() == TREE
    put = service.calls[0].request
    assert 1 <= int(put.headers["X-aliyun-ecs-metadata-token-ttl-seconds"]) <= 21600
    assert sent_tokens(service) == ["t1"]
    assert clock.slept == []


class TestIpv6:
    SIX = "http://[fd00:100::100:200]"

    @pytest.fixture
    def asking(self, clock):
        clients = []

        def make(ipv6_only):
            clients.append(MetadataClient(URL, Deadline(10, clock), clock.sleep, self.SIX, ipv6_only))
            return clients[-1]
        yield make
        for client in clients:
            client.close()

    def test_a_host_without_ipv4_asks_at_once(self, asking, service, clock):
        service.add("PUT", URL + TOKEN, body=requests.ConnectionError(OSError(101, "")))
        service.add("PUT", self.SIX + TOKEN, body="t1")
        service.add("GET", self.SIX + ALL, body=json.dumps(TREE))
        assert asking(lambda: True).fetch() == TREE
        assert clock.slept == []

    def test_where_the_service_answers_nobody_is_asked_about_ipv4(self, asking, service):
        token(service)
        whole(service)
        assert asking(lambda: pytest.fail("asked")).fetch() == TREE

    @pytest.mark.parametrize("answer", [{"status": 404}, {"status": 500}, {"status": 302}, {"body": "no token"},
                                        {"body": requests.ConnectionError(OSError(101, ""))}], ids=str)
    def test_without_a_token_by_ipv6_the_usual_address_counts(self, asking, service, answer):
        """IPv4 may still come."""
        service.add("PUT", URL + TOKEN, body=requests.ConnectionError(OSError(101, "")))
        service.add("PUT", self.SIX + TOKEN, **answer)
        whole(service)
        found = asking(lambda: [service.replace("PUT", URL + TOKEN, body="t1")] != [])
        assert found.fetch() == TREE


def test_every_fetch_sees_the_world_anew_with_the_same_token(client, service):
    token(service)
    whole(service)
    whole(service, json.dumps(dict(TREE, later="1")))
    assert "later" not in client.fetch()
    assert "later" in client.fetch()
    assert sent_tokens(service) == ["t1", "t1"]


@pytest.mark.parametrize("status", [403, 404, 405])
def test_without_a_token_endpoint_it_goes_without(client, service, status):
    service.add("PUT", URL + TOKEN, status=status)
    whole(service)
    client.fetch()
    client.fetch()
    assert sent_tokens(service) == [None, None]
    assert len(service.calls) == 3


def test_a_token_request_that_is_called_wrong_is_final(client, service, clock):
    service.add("PUT", URL + TOKEN, status=400)
    assert "400 Bad Request" in failure(client)
    assert clock.slept == []


@pytest.mark.parametrize("body", ["", "<html>a page</html>", "two\nlines", "t" * 5000])
def test_what_is_no_token_is_not_sent_back(client, service, body):
    token(service, body)
    assert "not a token" in failure(client)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_service_is_asked_again(client, service, clock, status):
    token(service)
    whole(service, status=status)
    whole(service)
    assert client.fetch() == TREE
    assert len(clock.slept) == 1


def test_a_service_that_stays_busy_is_named_at_the_deadline(client, service, clock):
    token(service)
    whole(service, status=429)
    assert failure(client) == "no metadata: GET {}{}: 429 Too Many Requests; gave up after 10 s".format(URL, ALL)
    assert 9.5 < clock.now < 10


def test_a_service_that_goes_on_failing_is_asked_in_both_ways_and_named_at_the_deadline(client, service, clock):
    token(service)
    whole(service, status=503)
    leaf(service, MAC, status=503)
    assert failure(client) == "no metadata: GET {}{}: 503 Service Unavailable; gave up after 10 s".format(URL, MAC)
    assert 9.5 < clock.now < 10


def test_a_refused_token_is_replaced_once(client, service, clock):
    token(service, "t1")
    whole(service, status=401)
    token(service, "t2")
    whole(service)
    assert client.fetch() == TREE
    assert sent_tokens(service) == ["t1", "t2"]
    assert clock.slept == []


def test_a_fresh_token_that_is_refused_is_final(client, service, clock):
    token(service)
    whole(service, status=401)
    assert "401, even a fresh token is refused" in failure(client)
    assert len(service.calls) == 4 and clock.slept == []


def test_forbidden_without_a_token_means_hardened_or_disabled(client, service):
    service.add("PUT", URL + TOKEN, status=403)
    whole(service, status=403)
    assert "hardened-only or disabled" in failure(client)
    assert len(service.calls) == 2


def test_forbidden_with_a_token_is_final(client, service):
    token(service)
    whole(service, status=403)
    assert "403, the metadata service is disabled" in failure(client)


@pytest.mark.parametrize("status", [400, 404, 410])
def test_without_all_the_tree_is_walked_for_the_leaves_that_matter(client, service, status):
    token(service)
    whole(service, status=status)
    walk(service)
    leaf(service, MACS + ENI + "/gateway", "10.0.0.1\r\n")
    leaf(service, MACS + ENI + "/private-ipv4s", '["10.0.0.2"]')
    macs = {ENI: {"gateway": "10.0.0.1", "private-ipv4s": '["10.0.0.2"]'}}
    expected = {"mac": ENI, "network": {"interfaces": {"macs": macs}}}
    assert client.fetch() == expected
    assert len(service.calls) == 7
    assert client.fetch() == expected
    assert len(service.calls) == 12, "all is not asked for again, nor the token"


@pytest.mark.parametrize(
    "body",
    ["", "<html>", json.dumps(TREE)[:-1], "[]", "{}", "7", '{"mac": 7}', '{"mac": "", "network": []}', "[" * 200000]
    + ['{"mac": "", "network": {"interfaces": {"macs": []}}}'],
)
def test_what_is_not_the_expected_json_is_not_used(client, service, body):
    token(service)
    whole(service, body)
    walk(service, "")
    assert client.fetch() == {"mac": ENI, "network": {"interfaces": {"macs": {ENI: {}}}}}


def test_garbage_for_all_may_pass(client, service):
    token(service)
    whole(service, "<html>")
    walk(service, "")
    whole(service)
    client.fetch()
    assert client.fetch() == TREE


@pytest.mark.parametrize("answer", [{"status": 404}, {"body": ""}, {"body": "\n"}])
def test_an_absent_leaf_is_absent(client, service, answer):
    token(service)
    whole(service, status=404)
    walk(service, "gateway")
    leaf(service, MACS + ENI + "/gateway", **answer)
    assert client.fetch()["network"]["interfaces"]["macs"] == {ENI: {}}


@pytest.mark.parametrize("first", [{"status": 404}, {"body": ""}])
@pytest.mark.parametrize("again", [True, False])
def test_what_a_listing_names_and_is_not_there_is_asked_for_again(client, service, clock, first, again):
    """Only of a list a client could think that there is just nothing in it."""
    token(service)
    whole(service, status=404)
    walk(service, "primary-ip-address\nprivate-ipv4s")
    leaf(service, MACS + ENI + "/primary-ip-address", "10.0.0.2")
    leaf(service, MACS + ENI + "/private-ipv4s", **first)
    if again:
        leaf(service, MACS + ENI + "/private-ipv4s", '["10.0.0.2"]')
    leaves = client.fetch()["network"]["interfaces"]["macs"][ENI]
    assert leaves["private-ipv4s"] == ('["10.0.0.2"]' if again else "(listed and not there)")
    assert len(service.calls) == 8 and len(clock.slept) == 1


def test_another_status_of_a_leaf_is_final(client, service):
    token(service)
    whole(service, status=404)
    walk(service, "gateway")
    leaf(service, MACS + ENI + "/gateway", status=410)
    assert "/gateway: 410 Gone" in failure(client)


def test_bytes_that_are_no_utf8_are_read_leniently(client, service):
    token(service)
    whole(service, json.dumps(dict(TREE, name="?")).encode().replace(b"?", b"\xff"))
    assert client.fetch()["name"] == "\ufffd"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_named_and_not_followed(client, service, status):
    token(service)
    whole(service, status=status, headers={"Location": "http://192.0.2.1/evil"})
    assert "redirected to 'http://192.0.2.1/evil'" in failure(client)
    assert len(service.calls) == 2


def test_an_answer_may_not_be_too_large(client, service):
    token(service)
    whole(service, " " * (MAX_BYTES + 1))
    assert "too large" in failure(client)


@pytest.mark.parametrize(
    "error, words",
    [
        (requests.ConnectionError(ConnectionRefusedError(111, "refused")), "connection refused"),
        (requests.ConnectionError(OSError(101, "no")), "network is unreachable"),
        (requests.ConnectionError(OSError(113, "no")), "network is unreachable"),
        (requests.ConnectionError(PermissionError(1, "no")), "own firewall"),
        (requests.ConnectionError(ConnectionResetError(104, "reset")), "connection dropped"),
        (requests.ConnectTimeout(), "timed out"),
        (requests.ReadTimeout(), "timed out"),
    ],
)
def test_no_contact_is_tried_again_and_explained_at_the_deadline(client, service, clock, error, words):
    token(service)
    service.add("GET", URL + ALL, body=error)
    message = failure(client)
    assert words in message and "Tailscale (100.64.0.0/10)" in message
    assert len(clock.slept) > 3


@pytest.mark.parametrize("error", [requests.exceptions.ContentDecodingError("x"), ValueError("x"), AssertionError("x")])
def test_whatever_the_library_raises_becomes_an_error_of_ours(client, service, error):
    token(service)
    service.add("GET", URL + ALL, body=error)
    assert "not proper HTTP" in failure(client)


@pytest.mark.parametrize(
    "url",
    ["", "100.100.100.200", "ftp://host", "http://", "http://host:99999", "http://[::1", "file:///x"]
    + ["http://host:port", "http://ho st", "http://host/?query", "http://host/#x", "http://*x", "http://\n"],
)
def test_a_malformed_url_is_a_mistake_of_the_user(url):
    with pytest.raises(UsageError) as caught:
        MetadataClient(url, Deadline(1))
    assert repr(url) in str(caught.value)


def test_a_slash_at_the_end_of_the_url_does_not_matter(service, clock):
    token(service)
    whole(service)
    client = MetadataClient(URL + "/", Deadline(10, clock), clock.sleep)
    assert client.fetch() == TREE
    client.close()


def test_after_the_deadline_nothing_is_asked(clock):
    deadline = Deadline(1, clock)
    client = MetadataClient(URL, deadline, clock.sleep)
    clock.now += 2
    assert "no time to ask" in failure(client)
