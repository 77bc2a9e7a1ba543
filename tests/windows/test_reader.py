"""What PowerShell prints, in the forms that are documented, as values; what is none of them is refused."""

import json
from ipaddress import ip_address, ip_network

import pytest

from eni_bootstrap.model.errors import BootstrapError
from eni_bootstrap.windows import reader
from eni_bootstrap.windows.model import Adapter, Folder, Interface, WindowsRoute

# The property values of MSFT_NetAdapter, MSFT_NetIPInterface, MSFT_NetIPAddress and MSFT_NetRoute as Microsoft
# documents their types, by PowerShell 7: numbers, and lists whatever their length.
SEVEN = """{"elevated":true,"boot":1700000000,"owner":"S-1-5-32-544","closed":true,
"config_owner":"S-1-5-21-1-2-3-500","adapters":[
{"InterfaceIndex":5,"Name":"\u4ee5\u592a\u7f51","PermanentAddress":"00163E0E0000","NetworkAddresses":["00163E0E0000"],
 "InterfaceGuid":"{0C1E5D04-0000-4F7E-9C1D-000000000005}","InterfaceAdminStatus":1},
{"InterfaceIndex":6,"Name":"Ethernet 2","PermanentAddress":"00163E0E0001","NetworkAddresses":["00163E0E0001"],
 "InterfaceGuid":"{0C1E5D04-0000-4F7E-9C1D-000000000006}","InterfaceAdminStatus":2},
{"InterfaceIndex":9,"Name":"Tunnel","PermanentAddress":null,"NetworkAddresses":null,"InterfaceGuid":"{9}",
 "InterfaceAdminStatus":1}],
"interfaces":[{"InterfaceIndex":5,"AddressFamily":2,"InterfaceMetric":15,"WeakHostSend":0},
{"InterfaceIndex":5,"AddressFamily":23,"InterfaceMetric":15,"WeakHostSend":1},
{"InterfaceIndex":1,"AddressFamily":2,"InterfaceMetric":75,"WeakHostSend":0}],
"addresses":[{"InterfaceIndex":5,"IPAddress":"172.16.10.10","PrefixLength":24,"AddressState":4},
{"InterfaceIndex":5,"IPAddress":"fe80::1c2d%5","PrefixLength":64,"AddressState":4},
{"InterfaceIndex":5,"IPAddress":"2001:db8::10","PrefixLength":128,"AddressState":3},
{"InterfaceIndex":6,"IPAddress":"169.254.3.4","PrefixLength":16,"AddressState":1},
{"InterfaceIndex":6,"IPAddress":"172.16.12.76","PrefixLength":24,"AddressState":2},
{"InterfaceIndex":1,"IPAddress":"127.0.0.1","PrefixLength":8,"AddressState":4}],
"active":[{"DestinationPrefix":"0.0.0.0/0","InterfaceIndex":5,"NextHop":"172.16.10.253","RouteMetric":0},
{"DestinationPrefix":"::/0","InterfaceIndex":5,"NextHop":"fe80::1%5","RouteMetric":256}],
"persistent":[]}"""

# The same host in PowerShell 5.1: what a type adapter has made of enumerations, one object for a list of one.
FIVE = """\ufeff{"persistent":null,"active":{"value":[
{"RouteMetric":0,"NextHop":"172.16.10.253","InterfaceIndex":5,"DestinationPrefix":"0.0.0.0/0"},
{"RouteMetric":256,"NextHop":"fe80::1","InterfaceIndex":5,"DestinationPrefix":"::/0"}],"Count":2},
"boot":1700000000,"owner":"S-1-5-18","config_owner":null,"closed":true,"elevated":true,
"adapters":[{"InterfaceIndex":5,"Name":"\u4ee5\u592a\u7f51","PermanentAddress":"00-16-3E-0E-00-00",
"NetworkAddresses":"00-16-3E-0E-00-00","InterfaceGuid":"{0c1e5d04-0000-4f7e-9c1d-000000000005}",
"InterfaceAdminStatus":"Up"},
{"InterfaceIndex":6,"Name":"Ethernet 2","PermanentAddress":"","NetworkAddresses":"00:16:3e:0e:00:01",
"InterfaceGuid":"{0c1e5d04-0000-4f7e-9c1d-000000000006}","InterfaceAdminStatus":"Down"},
{"InterfaceIndex":9,"Name":"Tunnel","PermanentAddress":"00000000000000E0","InterfaceGuid":"{9}",
"InterfaceAdminStatus":"Up"}],
"interfaces":[{"InterfaceIndex":5,"AddressFamily":"IPv4","InterfaceMetric":15,"WeakHostSend":"Disabled"},
{"InterfaceIndex":5,"AddressFamily":"IPv6","InterfaceMetric":15,"WeakHostSend":"Enabled"},
{"InterfaceIndex":1,"AddressFamily":"IPv4","InterfaceMetric":75,"WeakHostSend":"Disabled"}],
"addresses":[{"InterfaceIndex":5,"IPAddress":"172.16.10.10","PrefixLength":24,"AddressState":"Preferred"},
{"InterfaceIndex":5,"IPAddress":"2001:db8::10","PrefixLength":128,"AddressState":"Deprecated"}]}"""


@pytest.mark.parametrize("text", [SEVEN, FIVE], ids=["7", "5.1"])
def test_both_forms_are_the_same_host(text):
    found = reader.snapshot(text)
    assert (found.elevated, found.folder, found.boot) == (True, Folder(True, True, False), 1700000000)
    assert found.adapters == (
        Adapter(5, "以太网", "00:16:3e:0e:00:00", "{0c1e5d04-0000-4f7e-9c1d-000000000005}", True),
        Adapter(6, "Ethernet 2", "00:16:3e:0e:00:01", "{0c1e5d04-0000-4f7e-9c1d-000000000006}", False),
        Adapter(9, "Tunnel", "", "{9}", True))
    assert found.interfaces == (Interface(5, 4, 15, False), Interface(5, 6, 15, True), Interface(1, 4, 75, False))
    assert [str(each) for each in found.addresses] == ["172.16.10.10/24 dev 以太网", "2001:db8::10/128 dev 以太网"]
    assert found.active == (
        WindowsRoute(ip_network("0.0.0.0/0"), 5, ip_address("172.16.10.253"), 0),
        WindowsRoute(ip_network("::/0"), 5, ip_address("fe80::1"), 256))
    assert found.persistent == ()


def test_one_object_in_place_of_a_list():
    content = json.loads(SEVEN)
    content.update({name: content[name][0] for name in ("adapters", "interfaces", "addresses", "active")})
    found = reader.snapshot(json.dumps(content))
    assert len(found.adapters) == len(found.interfaces) == len(found.addresses) == len(found.active) == 1


@pytest.mark.parametrize("change", [
    {"elevated": "True"}, {"boot": None}, {"adapters": [{}]}, {"adapters": ["x"]}, {"active": [{"NextHop": "here"}]},
    {"interfaces": [{"InterfaceIndex": 5, "AddressFamily": 3, "InterfaceMetric": 15, "WeakHostSend": 0}]},
    {"interfaces": [{"InterfaceIndex": 5, "AddressFamily": 2, "InterfaceMetric": 15, "WeakHostSend": "Activé"}]},
    {"interfaces": [{"InterfaceIndex": 5, "AddressFamily": 2, "InterfaceMetric": 15, "WeakHostSend": True}]},
    {"addresses": [{"InterfaceIndex": 5, "IPAddress": "10.0.0.1", "PrefixLength": 24, "AddressState": "Bevorzugt"}]},
    {"addresses": [{"InterfaceIndex": 5, "IPAddress": "172.16.10.10", "PrefixLength": 24, "AddressState": 17}]},
    {"adapters": [{"InterfaceIndex": 5, "Name": "x", "PermanentAddress": "unbekannt!", "InterfaceGuid": "{}",
                   "InterfaceAdminStatus": 1}]},
])
def test_what_is_not_as_documented_is_refused(change):
    content = json.loads(SEVEN)
    content.update(change)
    with pytest.raises(BootstrapError) as caught:
        reader.snapshot(json.dumps(content))
    assert "can't be understood" in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "{}", "null", "3"])
def test_other_json_is_refused(text):
    with pytest.raises(BootstrapError):
        reader.snapshot(text)


def test_an_error_is_said_in_the_system_s_words():
    with pytest.raises(BootstrapError) as caught:
        reader.value('{"error": "Zugriff verweigert", "id": "HRESULT 0x80041003,Get-NetAdapter"}')
    assert str(caught.value) == "PowerShell says: Zugriff verweigert"


def test_a_windows_that_is_too_old():
    with pytest.raises(BootstrapError) as caught:
        reader.value('{"error": "The term \'Get-NetAdapter\' is not recognized", "id": "CommandNotFoundException"}')
    assert "lacks the cmdlets for routes: it takes Windows Server 2012 R2 or newer" in str(caught.value)


@pytest.mark.parametrize("text, said", [("", "nothing"), ("Get-NetAdapter : oops\n", "Get-NetAdapter : oops")])
def test_what_is_not_json(text, said):
    with pytest.raises(BootstrapError) as caught:
        reader.value(text)
    assert str(caught.value) == "PowerShell has answered what is not JSON: " + said


def test_what_became_of_changes():
    assert reader.errors('["","Access\\r\\n is denied. "]', 2) == ["", "Access is denied."]
    assert reader.errors('""', 1) == [""], "a list of one"
    for text, count in (('[""]', 2), ('[null]', 1), ("null", 1)):
        with pytest.raises(BootstrapError):
            reader.errors(text, count)


def test_answers():
    assert reader.answers('[{"index":6,"gateway":"172.16.12.253"},{"gateway":"0.0.0.0","index":5},{"error":"no"},'
                          '{"index":6,"gateway":"fe80::1%6"}]', 4) == [
        reader.Answer(6, ip_address("172.16.12.253")), reader.Answer(5), reader.Answer(error="no"),
        reader.Answer(6, ip_address("fe80::1"))]
    assert reader.answers('{"error":"no"}', 1) == [reader.Answer(error="no")]
    for text, count in (("[]", 1), ('[{"index":null,"gateway":null}]', 1), ("[3]", 1)):
        with pytest.raises(BootstrapError):
            reader.answers(text, count)
