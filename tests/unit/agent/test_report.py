"""What a report tells of the ENIs that it is about."""

import pytest

from eni_bootstrap.agent.report import Report
from eni_bootstrap.model.eni import SickInterface
from tests.build import ETH1, PRIMARY, decision, link, mac, two_enis


@pytest.mark.parametrize("is_sick", [False, True])
def test_its_devices_are_those_of_all_enis_sick_or_not(is_sick):
    """A change of any of them starts the next run: also of the port, without which its master has no carrier."""
    bond = link(1, "bond0", kind="bond")._replace(ifindex=9)
    sick = [SickInterface("eni-1", mac(1), False, "no gateway", True)] if is_sick else []
    made = decision(two_enis(links=[link(0), link(1, master=9), bond]), *[PRIMARY, ETH1][:2 - is_sick], sick=sick)
    assert Report(made).devs == {"eth0", "bond0", "eth1"}
