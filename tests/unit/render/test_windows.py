"""What people can run instead: the vendor's commands, and a script that is as good as the agent where it runs."""

import json

import pytest

from eni_bootstrap import cli
from eni_bootstrap.config.settings import Config
from eni_bootstrap.model.eni import Listing, SickInterface
from eni_bootstrap.render import windows as render
from eni_bootstrap.windows import reader, scripts
from tests.build import interface, subnet
from tests.windows.host import V4, FakeWindows, tree

PRIMARY = interface(0, subnet("172.16.10.0/24", "172.16.10.10"), primary=True)
ETH1 = interface(1, subnet("172.16.12.0/24", "172.16.12.76"), subnet("2001:db8:1::/64", "2001:db8:1::20"))
ETH2 = interface(2, subnet("172.16.10.0/24", "172.16.10.30"))
GATEWAY6 = "2001:db8:1:0:ffff:ffff:ffff:fff7"


@pytest.fixture
def windows():
    made = FakeWindows()
    made.plug(0, "172.16.10.10/24", gateway="172.16.10.253")
    made.plug(1, "172.16.12.76/24", "2001:db8:1::20/64", index=6)
    return made


def commands(*interfaces, windows=None, config=Config(), sick=()):
    snapshot = reader.snapshot(windows.run(scripts.READ, 1)) if windows else None
    (file,) = render.route_commands(Listing(interfaces, tuple(sick)), snapshot, config)
    text = file.text
    assert text.startswith("@echo off\n")
    return text, [line for line in text.split("\n")[1:] if line and not line.startswith("rem")]


def test_the_vendor_s_line(windows):
    _, lines = commands(PRIMARY, ETH1, windows=windows)
    assert lines == [
        "route add -p 0.0.0.0 mask 0.0.0.0 172.16.12.253 if 6 metric 1",
        "netsh interface ipv6 add route ::/0 interface=6 nexthop={} metric=257 store=persistent".format(GATEWAY6)]


def test_what_can_t_be_is_said(windows):
    windows.type_route(V4, 6, "172.16.12.1", 5)
    text, lines = commands(PRIMARY, ETH1, ETH2, windows=windows)
    assert len(lines) == 1 and lines[0].startswith("netsh")
    assert "rem eni-2 (00:16:3e:00:00:02): no adapter has this MAC" in text
    assert "somebody else's default route is in the place of ours" in text


@pytest.mark.parametrize("on_the_host", [True, False])
def test_a_gateway_that_windows_does_not_reach_costs_its_ip_version_only(windows, on_the_host):
    far = subnet("2001:db8:1::/64", "2001:db8:1::20", gateway="2001:db8:9::1")
    text, lines = commands(PRIMARY, interface(1, ETH1.subnets[0], far), windows=windows if on_the_host else None)
    assert "its gateway 2001:db8:9::1 is outside its vSwitch, where Windows does not reach it" in text
    assert "172.16.12.253" in lines[-1] and not [line for line in lines if "netsh" in line]


def test_without_the_host_the_script_finds_the_interface_itself():
    text, lines = commands(PRIMARY, ETH1)
    assert lines == [
        "set INDEX=",
        "for /f %%i in ('powershell -NoProfile -Command \"$a = @(Get-NetAdapter | Where-Object MacAddress -eq "
        "'00-16-3E-00-00-01'); if ($a.Count -eq 1) { $a[0].ifIndex }\"') do set INDEX=%%i",
        "if not defined INDEX echo eni-1 (00:16:3e:00:00:01): not exactly one adapter has this MAC",
        "if defined INDEX route add -p 0.0.0.0 mask 0.0.0.0 172.16.12.253 if %INDEX% metric 1",
        "if defined INDEX netsh interface ipv6 add route ::/0 interface=%INDEX% nexthop={} metric=1 store=persistent"
        .format(GATEWAY6)]
    assert "same metric" in text and "PersistentRoutes" not in text


def test_two_enis_with_one_gateway_are_warned_of():
    text, _ = commands(PRIMARY, ETH1, ETH2)
    assert text.count("PersistentRoutes") == 1 and "Several ENIs have the gateway 172.16.10.253" in text


def test_ignored_and_sick_enis_are_named():
    sick = SickInterface("eni-3", "00:16:3e:00:00:03", False, "no gateway & del *", True)
    text, lines = commands(PRIMARY, ETH1, ETH2, config=Config()._replace(ignore=("eni-2",)), sick=[sick])
    assert "rem LEFT OUT: eni-3 (00:16:3e:00:00:03): no gateway _ del *" in text
    assert "rem eni-2 (00:16:3e:00:00:02): left alone, as the configuration says" in text
    assert not [line for line in lines if "00-02" in line]


def test_the_script_has_each_eni_and_quotes_it():
    odd = interface(1, subnet("172.16.12.0/24", "172.16.12.76"))._replace(eni_id="it's `$(x)")
    sick = SickInterface("eni-3", "00:16:3e:00:00:03", False, "it's ill", True)
    text = render.powershell(Listing((PRIMARY, odd), (sick,)), Config())[0].text
    assert "$primaryEni = @{ Label = 'eni-0 (00:16:3e:00:00:00)'; Mac = '00163E000000'; " \
        "Gateways = @('172.16.10.253') }" in text
    assert "@{ Label = 'it''s __(x) (00:16:3e:00:00:01)'; Mac = '00163E000001'; Gateways = @('172.16.12.253') }" in text
    assert "Write-Warning 'eni-3 (00:16:3e:00:00:03): it''s ill'; $failed = $true" in text
    assert "$own + 256" in text and "$metric -gt 9999" in text


def test_a_script_without_a_primary_does_nothing():
    assert render.powershell(Listing((), ()), Config())[0].text.endswith(
        "Write-Warning 'metadata lists no primary ENI'\nexit 1\n")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_tree_that_powershell_has_put_into_a_file(tmp_path, capsys, encoding):
    """``metadata >tree.json`` is UTF-16 with a mark in Windows PowerShell."""
    path = tmp_path / "tree.json"
    path.write_bytes((json.dumps(tree(PRIMARY, ETH1)) + "\r\n").encode(encoding))
    assert cli.main(["render", "windows", "--metadata", str(path)]) == 0
    assert "route add -p 0.0.0.0 mask 0.0.0.0 172.16.12.253 if %INDEX% metric 1" in capsys.readouterr().out
    path.write_bytes(b"\xff\xfe\x00")
    assert cli.main(["render", "windows", "--metadata", str(path)]) == 2
