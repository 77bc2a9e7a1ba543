"""The whole command line on a Windows that is a fake: what is there before, what after, and what is said."""

import contextlib
import json

import pytest

from eni_bootstrap.config import loader
from eni_bootstrap.model.errors import MetadataError
from tests.build import interface, subnet
from tests.windows.host import V4, V6, Instance, Killed

PRIMARY = interface(0, subnet("172.16.10.0/24", "172.16.10.10"), primary=True)
ETH1 = interface(1, subnet("172.16.12.0/24", "172.16.12.76"))
ETH2 = interface(2, subnet("172.16.10.0/24", "172.16.10.30"))
SIX = subnet("2001:db8::/64", "2001:db8::10"), subnet("2001:db8:1::/64", "2001:db8:1::20")


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """No adapters yet."""
    return Instance(tmp_path, monkeypatch)


@pytest.fixture
def instance(bare):
    """The vendor's example: the primary by DHCP, and interface 6, 172.16.12.76, which has no default route."""
    bare.windows.plug(0, "172.16.10.10/24", gateway="172.16.10.253")
    bare.windows.plug(1, "172.16.12.76/24", index=6)
    bare.list(PRIMARY, ETH1)
    return bare


def ours(instance):
    return {(each["prefix"], each["index"], each["gateway"], each["metric"]) for each in instance.state["routes"]}


def test_the_vendor_s_example(instance):
    """``route add -p 0.0.0.0 mask 0.0.0.0 172.16.12.253 if 6 metric 1``"""
    planned = instance("plan")
    assert planned.code == 0 and planned.out.splitlines() == [
        "New-NetRoute -DestinationPrefix '0.0.0.0/0' -InterfaceIndex 6 -NextHop '172.16.12.253' -RouteMetric 1 "
        "-Confirm:$false"]
    done = instance("apply")
    assert done.code == 0, done
    assert instance.windows.active == {(V4, 5, "172.16.10.253"): 0, (V4, 6, "172.16.12.253"): 1}
    assert instance.windows.persistent == {(V4, 6, "172.16.12.253"): 1}
    assert "eni-1 (00:16:3e:00:00:01, Ethernet 2): 1 source, via 172.16.12.253, ok" in done.out
    assert "1 thing changed; 5 of 5 look-ups are as they should be" in done.out and "table" not in done.out


def test_a_second_run_changes_nothing(instance):
    instance("apply")
    before = instance.windows.state()
    instance.windows.commands.clear()
    assert "0 things changed" in instance("apply").out and not instance.windows.commands
    assert instance("plan").out == "# nothing to do\n"
    assert instance("apply", "--unattended").out == "nothing to change; 5 look-ups as they should be\n"
    assert instance.windows.state() == before


@pytest.mark.parametrize("form", ["lists", "names", "bare"])
def test_every_form_of_powershell_s_answer(instance, form):
    instance.windows.form = form
    assert instance("apply").code == 0 and instance("verify").code == 0
    assert ours(instance) == {(V4, 6, "172.16.12.253", 1)}


@pytest.mark.parametrize("primary, secondary, own_metric, metric", [
    (15, 15, 0, 1), (15, 15, 256, 257), (25, 15, 0, 11), (15, 25, 0, 1), (15, 5, 10, 21), (5000, 1, 0, 5000),
])
def test_the_metric_is_the_smallest_that_is_worse_than_the_primary_s(bare, primary, secondary, own_metric, metric):
    bare.windows.plug(0, "172.16.10.10/24", gateway="172.16.10.253", metric=primary, own_metric=own_metric)
    bare.windows.plug(1, "172.16.12.76/24", index=6, metric=secondary)
    bare.list(PRIMARY, ETH1)
    assert bare("apply").code == 0
    assert bare.windows.persistent == {(V4, 6, "172.16.12.253"): metric}


def test_a_metric_that_windows_does_not_have_is_a_problem(bare):
    bare.windows.plug(0, "172.16.10.10/24", gateway="172.16.10.253", metric=9999, own_metric=9999)
    bare.windows.plug(1, "172.16.12.76/24", index=6)
    bare.list(PRIMARY, ETH1)
    done = bare("apply")
    assert done.code == 1 and "would have to have metric 19984" in done.out and not bare.windows.persistent


def test_a_primary_without_a_default_route_counts_as_one_typed_by_hand(bare):
    bare.windows.plug(0, "172.16.10.10/24")
    bare.windows.plug(1, "172.16.12.76/24", index=6)
    bare.list(PRIMARY, ETH1)
    done = bare("apply")
    assert ("remark: eni-0 (00:16:3e:00:00:00, Ethernet): has no IPv4 default route, whose metric is counted as the "
            "256 that Windows gives a gateway typed by hand\n") in done.out
    assert bare.windows.persistent == {(V4, 6, "172.16.12.253"): 257}


def test_the_metric_follows_the_primary_s(instance):
    instance("apply")
    instance.windows.metrics[5, 4] = 20
    assert "Set-NetRoute -DestinationPrefix '0.0.0.0/0' -InterfaceIndex 6 -NextHop '172.16.12.253' -RouteMetric 6 " \
        "-Confirm:$false\n" == instance("plan").out
    assert instance("apply").code == 0
    assert instance.windows.persistent == {(V4, 6, "172.16.12.253"): 6}
    assert ours(instance) == {(V4, 6, "172.16.12.253", 6)}


def test_three_enis_in_one_vswitch(bare):
    for number, address in enumerate(("10", "20", "30")):
        bare.windows.plug(number, "172.16.10.{}/24".format(address), gateway=None if number else "172.16.10.253")
    bare.list(*(interface(number, subnet("172.16.10.0/24", "172.16.10.{}".format(address)), primary=not number)
                for number, address in enumerate(("10", "20", "30"))))
    assert bare("apply").code == 0
    assert bare.windows.persistent == {(V4, 6, "172.16.10.253"): 1, (V4, 7, "172.16.10.253"): 1}
    assert bare("verify").code == 0


def test_three_enis_in_three_vswitches_with_both_ip_versions(bare):
    enis = []
    for number in range(3):
        four, six = "172.16.{}.10/24".format(number), "2001:db8:{}::10/64".format(number)
        bare.windows.plug(number, four, six, gateway=None if number else "172.16.0.253")
        enis.append(interface(number, subnet("172.16.{}.0/24".format(number), four[:-3]),
                              subnet("2001:db8:{}::/64".format(number), six[:-3]), primary=not number))
    bare.windows.type_route(V6, 5, "fe80::1", 256, persistent=False)
    bare.list(*enis)
    assert bare("apply").code == 0
    assert len(bare.windows.persistent) == 4 and {metric for key, metric in bare.windows.persistent.items()
                                                  if key[0] == V6} == {257}
    checked = bare("verify", "--json")
    assert checked.code == 0 and len(checked.json["verdicts"]) == 20
    assert [each["table"] for each in checked.json["enis"]] == [None, None, None]


def test_json_of_a_plan(instance):
    planned = instance("plan", "--json").json
    assert planned["changes"] == [{"action": "add", "object": "route", "command": instance("plan").out.strip()}]


def test_what_dhcp_has_made_is_left_alone(bare):
    """It may be as good as the primary's; that is said and nothing else."""
    bare.windows.plug(0, "172.16.10.10/24", gateway="172.16.10.253")
    bare.windows.plug(1, "172.16.12.76/24", index=6, gateway="172.16.12.253")
    bare.list(PRIMARY, ETH1)
    done = bare("apply")
    assert done.code == 0 and "0 things changed" in done.out and not bare.windows.persistent
    assert "remark: eni-1 (00:16:3e:00:00:01, Ethernet 2): Windows' own default route is not worse" in done.out
    assert "internet, no source" not in bare("verify").out, "by which of two is not ours to say"


def test_a_router_s_advertisement_will_do(bare):
    bare.windows.plug(0, "2001:db8::10/64", gateway="fe80::1", own_metric=10)
    bare.windows.plug(1, "2001:db8:1::20/64", gateway="fe80::2", own_metric=256)
    bare.list(interface(0, SIX[0], primary=True), interface(1, SIX[1]))
    done = bare("apply")
    assert done.code == 0 and not bare.windows.commands and "remark" not in done.out


def test_what_dhcp_takes_over_is_windows_own_and_the_copy_for_the_next_boot_stays_ours(instance):
    key = V4, 6, "172.16.12.253"
    assert instance("apply").code == 0
    instance.windows.own[key] = instance.windows.active[key] = 0
    instance.windows.commands.clear()
    done = instance("apply")
    assert done.code == 0 and "Windows' own default route is not worse than the primary's" in done.out
    assert not instance.windows.commands and instance("verify").code == 0
    instance.windows.reboot()
    assert instance("apply").code == 0 and not instance.windows.commands
    assert instance("remove").code == 0
    assert instance.windows.active[key] == 0 and not instance.windows.persistent


def test_what_was_typed_by_the_vendor_s_page_stays_whose_it_is(instance):
    instance.windows.type_route(V4, 6, "172.16.12.253", 1)
    before = instance.windows.state()
    assert instance("apply").code == 0 and instance("remove").code == 0
    assert instance.windows.state() == before and not instance.windows.commands


@pytest.mark.parametrize("gateway, metric, persistent", [
    ("172.16.12.1", 500, True), ("172.16.12.1", 500, False), ("172.16.12.253", 0, True)])
def test_somebody_else_s_route_in_our_place_is_named_and_the_others_are_done(instance, gateway, metric, persistent):
    instance.windows.plug(2, "172.16.10.30/24")
    instance.list(PRIMARY, ETH1, ETH2)
    instance.windows.type_route(V4, 6, gateway, metric, persistent)
    before = instance.windows.active[V4, 6, gateway]
    done = instance("apply")
    assert done.code == 1
    assert "PROBLEM: eni-1 (00:16:3e:00:00:01, Ethernet 2): somebody else's default route is in the place" in done.out
    assert instance.windows.active[V4, 6, gateway] == before
    assert ours(instance) == {(V4, 7, "172.16.10.253", 1)}
    instance.windows.commands.clear()
    assert instance("apply").code == 1 and not instance.windows.commands


def test_an_adapter_that_comes_late_is_waited_for(instance):
    instance.list(PRIMARY, ETH1, ETH2)
    instance.while_waiting = [lambda: None, lambda: instance.windows.plug(2, "172.16.10.30/24")]
    done = instance("apply")
    assert done.code == 0 and 1 < instance.clock.now < 5
    assert len(ours(instance)) == 2


def test_who_is_overtaken_before_and_after_a_pause_looks_again_both_times(instance):
    """DHCP makes the very route in the moment before we do; the next look finds it."""
    windows = instance.windows
    instance.list(PRIMARY, ETH1, ETH2)
    overtake = [lambda: windows.type_route(V4, 6, "172.16.12.253", 9),
                lambda: windows.type_route(V4, 7, "172.16.10.253", 9)]
    windows.before = lambda: overtake.pop(0)() if overtake else None
    instance.while_waiting = [lambda: None, lambda: None, lambda: windows.plug(2, "172.16.10.30/24")]
    done = instance("apply")
    assert (done.code, "PROBLEM" in done.out, overtake) == (0, False, []), done
    assert instance.clock.slept.count(0) == 2


def test_an_adapter_that_does_not_come_is_named_and_waited_for_once(instance):
    instance.list(PRIMARY, ETH1, ETH2)
    done = instance("apply", "--unattended")
    assert done.code == 1 and "eni-2 (00:16:3e:00:00:02): no adapter has this MAC" in done.out
    assert 19 < instance.clock.now < 22 and len(ours(instance)) == 1
    waited = instance.clock.now
    assert instance("apply", "--unattended").code == 1 and instance.clock.now == waited
    assert instance("apply").code == 1 and instance.clock.now > waited + 19, "who types it may wait for it"


def test_a_disabled_adapter_is_named_and_keeps_what_it_has(instance):
    instance("apply")
    instance.windows.disable(6)
    done = instance("apply")
    assert done.code == 1 and "the adapter is disabled" in done.out
    assert instance.windows.persistent == {(V4, 6, "172.16.12.253"): 1}
    instance.windows.enable(6)
    instance.windows.commands.clear()
    assert instance("apply").code == 0 and not instance.windows.commands
    assert instance("remove").code == 0 and not instance.windows.persistent


def test_two_adapters_with_one_mac_are_named_and_left(instance):
    instance.windows.plug(1, index=9, name="vEthernet (switch)")
    done = instance("apply")
    assert done.code == 1 and "several adapters have this MAC" in done.out and "vEthernet (switch)" in done.out
    assert not instance.windows.commands


def test_a_primary_behind_a_hyper_v_switch_does_not_keep_the_others_from_their_routes(instance):
    instance.windows.plug(0, index=9, name="vEthernet (switch)")
    done = instance("apply")
    assert done.code == 1 and ours(instance) == {(V4, 6, "172.16.12.253", 1)}


def test_a_gateway_outside_the_vswitch_is_not_reached_by_windows(instance):
    instance.list(PRIMARY, interface(1, subnet("172.16.12.0/24", "172.16.12.76", gateway="172.16.99.253")))
    done = instance("apply")
    assert done.code == 1 and "its gateway 172.16.99.253 is outside its vSwitch" in done.out
    assert not instance.windows.commands


@pytest.mark.parametrize("four, six, words, route", [
    (ETH1.subnets[0], subnet("2001:db8:1::/64", "2001:db8:1::20", gateway="2001:db8:9::1"),
     "its gateway 2001:db8:9::1 is outside its vSwitch", (V4, 6, "172.16.12.253", 1)),
    (ETH1.subnets[0], subnet("2001:db8:1::/64", "2001:db8:9::20"),
     "metadata gives it 2001:db8:9::20, which is outside its vSwitch", (V4, 6, "172.16.12.253", 1)),
    (subnet("172.16.12.0/24", "172.16.12.76", gateway="172.16.99.253"), SIX[1],
     "its gateway 172.16.99.253 is outside its vSwitch", (V6, 6, str(SIX[1].gateway), 257)),
    (subnet("172.16.12.0/24", "8.8.8.8"), SIX[1], "metadata gives it 8.8.8.8, which is outside its vSwitch",
     (V6, 6, str(SIX[1].gateway), 257)),
])
def test_what_is_wrong_with_one_ip_version_costs_the_other_one_nothing(instance, four, six, words, route):
    instance.windows.addresses += [(5, "2001:db8::10", 64), (6, "2001:db8:1::20", 64)]
    instance.list(interface(0, PRIMARY.subnets[0], SIX[0], primary=True), interface(1, four, six))
    done = instance("apply", "--unattended")
    assert done.code == 1 and words in done.out and instance.clock.now < 2
    assert ours(instance) == {route}


def test_what_the_bad_ip_version_has_stays(instance):
    instance.windows.addresses += [(5, "2001:db8::10", 64), (6, "2001:db8:1::20", 64)]
    primary = interface(0, PRIMARY.subnets[0], SIX[0], primary=True)
    instance.list(primary, interface(1, ETH1.subnets[0], SIX[1]))
    instance("apply")
    assert len(ours(instance)) == 2
    before = instance.windows.state()
    instance.list(primary, interface(1, ETH1.subnets[0], subnet("2001:db8:1::/64", "2001:db8:1::20", "2001:db8:9::20")))
    assert "2001:db8:9::20, which is outside" in instance("apply").out and instance.windows.state() == before


def test_an_adapter_without_an_address_is_waited_for(instance):
    instance.windows.plug(2, "169.254.7.7/16", "fe80::7%7/64")
    instance.list(PRIMARY, ETH1, ETH2)
    instance.while_waiting = [lambda: None,
                              lambda: instance.windows.addresses.append((7, "172.16.10.30", 24))]
    assert instance("apply").code == 0 and instance.clock.now < 5 and len(ours(instance)) == 2


@pytest.mark.parametrize("form", ["lists", "names"])
def test_an_address_that_windows_does_not_use_yet_is_waited_for(instance, form):
    """Get-NetIPAddress: a tentative one is not used for communication, its uniqueness is being verified."""
    instance.windows.form = form
    instance.windows.tentative.add("172.16.12.76")
    instance.while_waiting = [lambda: None, instance.windows.tentative.clear]
    done = instance("apply")
    assert done.code == 0 and 1 < instance.clock.now < 5 and len(ours(instance)) == 1, done


def test_an_address_that_does_not_come_is_a_problem(instance):
    instance.windows.plug(2, "169.254.7.7/16")
    instance.list(PRIMARY, ETH1, ETH2)
    done = instance("apply", "--unattended")
    assert done.code == 1 and "Ethernet 3): the link has no IPv4 address" in done.out
    assert 9 < instance.clock.now < 13 and len(ours(instance)) == 1
    waited = instance.clock.now
    instance("apply", "--unattended")
    assert instance.clock.now == waited


def test_ipv6_that_is_unbound_is_left_out(instance):
    instance.list(interface(0, PRIMARY.subnets[0], SIX[0], primary=True), interface(1, ETH1.subnets[0], SIX[1]))
    del instance.windows.metrics[6, 6]
    done = instance("apply")
    assert "IPv6 is switched off on the adapter and left out" in done.out
    assert ours(instance) == {(V4, 6, "172.16.12.253", 1)}


@pytest.mark.parametrize("four, six, words", [
    (subnet("172.16.12.0/24", "172.16.12.76"), subnet("2001:db8:1::/64", "2001:db8:9::20"), ""),
    (subnet("172.16.12.0/24", "8.8.8.8"), SIX[1], "8.8.8.8, which is outside its vSwitch"),
])
def test_nobody_misses_ipv6_where_it_is_unbound_nor_waits_for_it(instance, four, six, words):
    """Whatever metadata says of it, and of IPv4."""
    instance.list(PRIMARY, interface(1, four, six))
    del instance.windows.metrics[6, 6]
    done = instance("apply", "--unattended")
    assert done.code == bool(words) and words in done.out and "2001:db8:9::20" not in done.out
    assert "IPv6 is switched off on the adapter and left out" in instance("apply").out
    assert instance.clock.now < 2 and len(instance.windows.persistent) == (not words)


def test_an_adapter_that_is_not_bound_yet_is_waited_for(instance):
    metric = instance.windows.metrics.pop((6, 4)), instance.windows.metrics.pop((6, 6))
    instance.while_waiting = [lambda: instance.windows.metrics.update({(6, 4): metric[0], (6, 6): metric[1]})]
    assert instance("apply").code == 0 and instance.clock.now < 3


def test_weak_host_sending_is_named(instance):
    instance.windows.weak.add((6, 4))
    done = instance("apply")
    assert done.code == 1 and "-InterfaceIndex 6 -AddressFamily IPv4 -WeakHostSend Disabled" in done.out
    assert not instance.windows.persistent


def test_with_one_eni_there_is_nothing_to_do_or_say(bare):
    bare.windows.plug(0, "172.16.10.10/24", gateway="172.16.10.253")
    bare.windows.weak.add((5, 4))
    bare.list(PRIMARY)
    for command in ("apply", "verify", "plan", "status", "remove"):
        done = bare(command)
        assert done.code == 0 and "PROBLEM" not in done.out and "remark" not in done.out
    assert not bare.windows.commands


def test_a_renamed_adapter_is_the_same(instance):
    instance("apply")
    instance.windows.rename(6, "以太网 'zwei'")
    instance.windows.commands.clear()
    done = instance("apply")
    assert done.code == 0 and not instance.windows.commands
    assert instance("remove").code == 0 and not instance.windows.persistent


def test_an_eni_that_was_detached_leaves_nothing_behind(instance):
    before = instance.windows.persistent.copy()
    instance("apply")
    instance.windows.unplug(6)
    instance.list(PRIMARY)
    done = instance("apply")
    assert done.code == 0 and instance.windows.persistent == before and not instance.state["routes"]


def test_an_eni_that_metadata_lists_no_more_keeps_what_it_has_while_its_adapter_is_there(instance):
    instance("apply")
    instance.list(PRIMARY)
    done = instance("apply")
    assert done.code == 0 and "metadata does not list it any more" in done.out
    assert instance.windows.persistent == {(V4, 6, "172.16.12.253"): 1}


def test_an_eni_that_is_listed_keeps_what_it_has_while_its_adapter_is_gone(instance):
    instance("apply")
    instance.windows.unplug(6)
    assert instance("apply").code == 1
    assert instance.windows.persistent == {(V4, 6, "172.16.12.253"): 1}


def test_an_eni_that_comes_back_in_another_place(instance):
    instance("apply")
    instance.windows.unplug(6)
    instance.windows.plug(1, "172.16.12.76/24", index=8)
    assert instance("apply").code == 0
    assert instance.windows.persistent == {(V4, 8, "172.16.12.253"): 1}
    assert ours(instance) == {(V4, 8, "172.16.12.253", 1)}


def test_another_gateway(instance):
    instance("apply")
    instance.windows.commands.clear()
    instance.list(PRIMARY, interface(1, subnet("172.16.12.0/24", "172.16.12.76", gateway="172.16.12.1")))
    assert instance("apply").code == 0
    assert instance.windows.persistent == {(V4, 6, "172.16.12.1"): 1}
    assert instance.windows.commands[0].startswith("New-NetRoute"), "additions come first"


def test_failed_metadata_removes_nothing(instance):
    instance("apply")
    before = instance.windows.state()
    instance.failure = MetadataError("no answer")
    for command in ("apply", "plan", "verify"):
        assert instance(command).code == 3
    assert instance("status").code == 0, "it needs none"
    assert instance.windows.state() == before


def test_after_a_reboot_all_is_still_there(instance):
    instance("apply")
    instance.windows.commands.clear()
    instance.windows.reboot()
    assert instance("verify").code == 0 and instance("apply").code == 0 and not instance.windows.commands


def test_after_a_reboot_the_indexes_may_be_others(instance):
    """Microsoft: an index may change when the computer is restarted."""
    instance("apply")
    instance.windows.commands.clear()
    instance.windows.reboot({5: 15, 6: 5})
    assert instance("apply").code == 0 and not instance.windows.commands
    assert ours(instance) == {(V4, 5, "172.16.12.253", 1)}
    assert instance("remove").code == 0 and not instance.windows.persistent


def test_a_route_that_is_missing_in_one_store_is_put_there(instance):
    instance("apply")
    key = (V4, 6, "172.16.12.253")
    whole = instance.windows.state()
    del instance.windows.active[key]
    assert instance("apply").code == 0 and instance.windows.state() == whole
    del instance.windows.persistent[key]
    assert instance("apply").code == 0 and instance.windows.state() == whole


@pytest.mark.parametrize("metric", [0, 7])
def test_what_somebody_has_changed_is_his(instance, metric):
    instance("apply")
    key = (V4, 6, "172.16.12.253")
    instance.windows.active[key] = instance.windows.persistent[key] = metric
    done = instance("apply")
    assert done.code == (0 if metric else 1), "worse than the primary's it will do"
    assert instance("remove").code == 0
    assert instance.windows.persistent == {key: metric} and not instance.state["routes"]


def test_remove_leaves_exactly_what_was_there_before(instance):
    instance.windows.type_route(V4, 5, "172.16.10.1", 400)
    instance.windows.plug(2, "172.16.10.30/24", gateway="172.16.10.253")
    instance.list(PRIMARY, ETH1, ETH2)
    before = instance.windows.state()
    assert instance("apply").code == 0 and instance.windows.state() != before
    done = instance("remove")
    assert done.code == 0 and "2 things taken back" in done.out, "one of each store"
    assert instance.windows.state() == before and not instance.state["routes"]


def test_what_was_taken_back_stays_away_until_the_next_boot(instance):
    instance("apply")
    instance("remove")
    done = instance("apply", "--unattended")
    assert done.code == 0 and "remove has taken back" in done.out and not instance.windows.persistent
    instance.windows.boot += 3  # somebody has set the clock
    instance("apply", "--unattended")
    assert not instance.windows.persistent and "remove has taken back" in instance("status").out
    instance.windows.reboot()
    assert instance("apply", "--unattended").code == 0 and instance.windows.persistent


def test_who_types_apply_wants_it_again(instance):
    instance("apply")
    instance("remove")
    assert instance("apply").code == 0 and instance.windows.persistent
    assert instance.state["taken_back"] is None


def test_a_removal_while_apply_waits_is_the_last_word(instance):
    instance.list(PRIMARY, ETH1, ETH2)
    instance.while_waiting = [lambda: instance("remove")]
    done = instance("apply")
    assert done.code == 0 and "remove has taken back" in done.out and not instance.windows.persistent
    assert instance("apply", "--unattended").code == 0 and not instance.windows.persistent


def test_without_rights_nothing_is_tried(instance):
    instance.windows.elevated = False
    for command in ("apply", "remove", "install", "uninstall"):
        done = instance(command)
        assert done.code == 4 and "administrator" in done.err
    assert not (instance.folder / "data").exists() and not instance.windows.tools and not instance.windows.commands
    assert instance("plan").code == 0
    assert instance("status").code == 0
    assert instance("verify").code == 1, "nothing is set up yet"
    assert not (instance.folder / "data").exists()


def test_adopt_is_not_here(instance):
    done = instance("adopt")
    assert done.code == 2 and "not on Windows" in done.err


def test_status(instance):
    assert instance("status").out == "nothing is set up\n"
    instance("apply")
    done = instance("status")
    assert done.code == 0
    assert done.out == "ENI (00:16:3e:00:00:01, Ethernet 2): 1 source, via 172.16.12.253, ok\n"
    instance.windows.active.clear()
    done = instance("status")
    assert done.code == 1 and "WRONG" in done.out
    instance.windows.persistent.clear()
    done = instance("status")
    assert done.code == 1 and "is not there any more" in done.out


def test_the_primary_s_routes_are_never_touched(instance):
    instance("apply")
    assert not [command for command in instance.windows.commands if command.split()[2] != "6"]


def test_what_windows_refuses_is_said_and_looked_at_again(instance):
    """Somebody types the same route between our look and our command: it is his."""
    instance.windows.before = lambda: instance.windows.type_route(V4, 6, "172.16.12.253", 9)
    done = instance("apply")
    assert done.code == 0, done
    assert not instance.state["routes"] and instance.windows.persistent == {(V4, 6, "172.16.12.253"): 9}


def killed(instance, command, steps):
    """A run that dies after so many commands to Windows, or ends if it has fewer."""
    instance.windows.commands.clear()
    instance.windows.kill_after = steps
    with contextlib.suppress(Killed):
        instance(command)
    instance.windows.kill_after = None


@pytest.mark.parametrize("steps", range(3))
def test_a_run_that_is_killed_after_any_command_is_finished_by_the_next(instance, steps):
    def story(kill_at=None):
        """From nothing; then the primary's metric changes; one ENI gets another gateway; then it goes."""
        worlds = []
        for number, change in enumerate((
                lambda: instance.list(PRIMARY, ETH1, ETH2),
                lambda: instance.windows.metrics.update({(5, 4): 30}),
                lambda: instance.list(PRIMARY, interface(1, subnet("172.16.12.0/24", "172.16.12.76",
                                                                   gateway="172.16.12.1")), ETH2),
                lambda: (instance.windows.unplug(7), instance.list(PRIMARY, ETH1)))):
            change()
            if kill_at is not None:
                killed(instance, "apply", kill_at)
            assert instance("apply").code == 0
            worlds.append((instance.windows.state(), ours(instance)))
        assert instance("remove").code == 0
        return worlds + [instance.windows.state()]

    instance.windows.plug(2, "172.16.10.30/24")
    usual = story()
    instance.windows.metrics[5, 4] = 15
    instance.windows.plug(2, "172.16.10.30/24")
    assert story(steps) == usual


@pytest.mark.parametrize("steps", range(4))
def test_a_removal_that_is_killed_is_finished_by_the_next(instance, steps):
    instance.windows.plug(2, "172.16.10.30/24")
    instance.list(PRIMARY, ETH1, ETH2)
    before = instance.windows.state()
    instance("apply")
    killed(instance, "remove", steps)
    assert instance("remove").code == 0 and instance.windows.state() == before


def test_what_the_configuration_asks_for_and_windows_has_not(instance, tmp_path):
    file = tmp_path / "asked.yaml"
    file.write_text("assign: all\nprimary: full\nprefixes: local\nnumbers: {table: 3000}\n")
    done = instance("apply", "--config", str(file))
    assert done.code == 1 and done.out.count("not on Windows, which has no") == 3 and "assign: all" in done.out
    assert instance.windows.persistent, "the rest is done"


def test_an_ignored_eni_is_left_alone_and_loses_what_was_ours(instance, tmp_path):
    file = tmp_path / "asked.yaml"
    file.write_text("ignore: [eni-1]\n")
    instance("apply")
    done = instance("apply", "--config", str(file))
    assert done.code == 0 and "left alone, as the configuration says" in done.out and not instance.windows.persistent


def test_an_eni_that_would_steal_is_refused(instance):
    instance.list(PRIMARY, interface(1, subnet("172.16.12.0/24", "172.16.12.76", "172.16.10.10")))
    done = instance("apply")
    assert done.code == 1 and not instance.windows.commands


def test_a_folder_that_a_user_has_made_is_put_aside(instance):
    instance("apply")
    instance("remove")
    planted = instance.folder / "data" / "eni-bootstrap" / "state.json"
    planted.write_text(json.dumps({"routes": [
        {"mac": "00:16:3e:00:00:00", "guid": instance.windows.adapters[5][2].lower(), "prefix": V4, "index": 5,
         "gateway": "172.16.10.253", "metric": 0}]}))
    instance.windows.owner = "S-1-5-21-1-2-3-1001"
    done = instance("remove")
    assert done.code == 0 and "was not made by an administrator" in done.err
    assert (V4, 5, "172.16.10.253") in instance.windows.active
    assert len(list((instance.folder / "data").iterdir())) == 2


def test_a_record_in_a_folder_that_was_open_is_not_heeded(instance):
    """An administrator has made it, for the configuration; then everybody may put files in."""
    folder = instance.folder / "data" / "eni-bootstrap"
    folder.mkdir(parents=True)
    instance.windows.owner = "S-1-5-32-544"
    (folder / "state.json").write_text(json.dumps({"routes": [
        {"mac": "00:16:3e:00:00:00", "guid": instance.windows.adapters[5][2].lower(), "prefix": V4, "index": 5,
         "gateway": "172.16.10.253", "metric": 0}]}))
    assert instance("remove").code == 0 and (V4, 5, "172.16.10.253") in instance.windows.active


@pytest.mark.parametrize("whose", ["owner", "config_owner"])
def test_a_configuration_that_a_user_may_have_written_is_refused(instance, monkeypatch, whose):
    folder = instance.folder / "data" / "eni-bootstrap"
    folder.mkdir(parents=True)
    (folder / "eni-bootstrap.yaml").write_text("ignore: [eni-1]\n")
    monkeypatch.setattr(loader, "PATH", str(folder / "eni-bootstrap.yaml"))
    instance.windows.owner = "S-1-5-32-544"
    assert instance("apply").code == 0 and not instance.windows.commands
    setattr(instance.windows, whose, "S-1-5-21-1-2-3-1001")
    done = instance("apply")
    assert done.code == 1 and "belongs to a user" in done.err
    assert "left alone" in instance("plan").out, "which changes nothing"


@pytest.mark.parametrize("more", [(), ("--metadata-url", "http://127.0.0.1:1")])
def test_a_configuration_that_goes_before_it_is_looked_at_is_refused(instance, monkeypatch, more):
    """It was read before anybody could tell whose it was."""
    folder = instance.folder / "data" / "eni-bootstrap"
    folder.mkdir(parents=True)
    file = folder / "eni-bootstrap.yaml"
    file.write_text("ignore: [eni-1]\n")
    monkeypatch.setattr(loader, "PATH", str(file))
    instance.windows.owner, instance.windows.config_owner = "S-1-5-32-544", ""
    usual = instance.windows.run

    def run(script, timeout):
        if file.exists():
            file.unlink()
        return usual(script, timeout)

    monkeypatch.setattr("eni_bootstrap.windows.powershell.run", run)
    done = instance("apply", *more)
    assert done.code == 1 and "was changed" in done.err and not instance.windows.commands
    done = instance("apply", "--unattended", "--timeout", "50", *more)
    assert done.code == 0 and instance.windows.commands, "now there is none"


def test_a_configuration_that_comes_while_the_folder_is_being_closed_is_refused(instance, monkeypatch):
    folder = instance.folder / "data" / "eni-bootstrap"
    monkeypatch.setattr(loader, "PATH", str(folder / "eni-bootstrap.yaml"))
    folder.mkdir(parents=True)
    instance.windows.owner = "S-1-5-32-544"
    usual = instance.windows.tool

    def tool(command, timeout=60.0):
        (folder / "eni-bootstrap.yaml").write_text("")
        return usual(command, timeout)

    monkeypatch.setattr("eni_bootstrap.windows.powershell.tool", tool)
    done = instance("apply")
    assert done.code == 1 and "was changed" in done.err and not instance.windows.commands


def test_the_folder_is_closed_to_others(instance):
    instance("apply")
    folder = str(instance.folder / "data" / "eni-bootstrap")
    assert instance.windows.tools == [
        ["icacls.exe", folder, "/setowner", "*S-1-5-32-544", "/Q"],
        ["icacls.exe", folder, "/inheritance:r", "/grant:r", "*S-1-5-18:(OI)(CI)F", "*S-1-5-32-544:(OI)(CI)F",
         "*S-1-5-32-545:(OI)(CI)RX", "/Q"],
        ["icacls.exe", folder + "/lock", "/setowner", "*S-1-5-32-544", "/Q"],
        ["icacls.exe", folder + "/lock", "/reset", "/Q"],
        ["icacls.exe", folder + "/lock", "/inheritance:r", "/grant:r", "*S-1-5-18:F", "*S-1-5-32-544:F", "/Q"]]
    del instance.windows.tools[:]
    instance("apply")
    assert len(instance.windows.tools) == 3, "once"


def test_a_damaged_record_is_said_and_nothing_is_removed(instance):
    instance("apply")
    (instance.folder / "data" / "eni-bootstrap" / "state.json").write_text("{")
    done = instance("apply")
    assert done.code == 0 and "which routes are ours is not known any more" in done.err
    assert instance.windows.persistent == {(V4, 6, "172.16.12.253"): 1}
