"""Other numbers than the usual ones (``numbers``): what they may be."""

from itertools import product

import pytest

from eni_bootstrap.config import file as config_file
from eni_bootstrap.config.settings import Config
from eni_bootstrap.model.changes import Numbering

OTHER = "numbers: {table: 3000, priority: 9000, metric-step: 7, protocol: 240, group: 77}\n"
USUAL = "# the usual ones\n"


def configured(text):
    """The settings that a file makes, and its problems as text."""
    config, problems = config_file.read(text.encode())
    return config, ["{}: {}".format(problem.line, problem) for problem in problems]


def test_the_bands_move_as_a_whole():
    config, problems = configured(OTHER)
    assert not problems and config.numbering == Numbering(3000, 9000, 240, 77)
    assert (config.metric_step, config.protocol_networkd_safe) == (7, 240)
    usual = Config()
    for name in usual._fields:
        shift = 2000 if name.startswith(("table_", "priority_")) else 0
        if shift:
            assert getattr(config, name) - getattr(usual, name) == shift, name


def test_without_numbers_nothing_moves():
    assert configured(USUAL)[0] == Config()
    assert configured("numbers: {}\n")[0] == Config()
    assert configured("numbers: {table: 1000, priority: 7000, protocol: 235, group: 60235, metric-step: 100}\n")[0] == \
        Config()


@pytest.mark.parametrize("key, value", [
    *product(["table"], [0, 200, 253, 254, 255, 4294967295, "0x10z", -5]),
    *product(["priority"], [0, 1, 500, 1000, 31767, 32766, 70000]),
    *product(["protocol"], [0, 2, 3, 4, 8, 11, 16, 18, 42, 99, 186, 192, 196, 256, "dhcp"]),
    *product(["group"], [0, 4294967296, "eni"]), ("metric-step", 0),
])
def test_what_overlaps_is_refused_by_its_line(key, value):
    _, problems = configured("# numbers\nnumbers:\n  {}: {}\n".format(key, value))
    assert len(problems) == 1 and problems[0].startswith("3: numbers.{}: ".format(key)), problems


@pytest.mark.parametrize("value", [5, 7, 19, 43, 100, 199, 235, 255])
def test_a_protocol_that_is_nobody_s(value):
    assert configured("numbers: {{protocol: {}}}\n".format(value))[0].protocol == value


@pytest.mark.parametrize("value", [1001, 31766])
def test_a_band_between_a_vrf_s_rule_and_main_s(value):
    config = configured("numbers: {{priority: {}}}\n".format(value))[0]
    assert 1000 < config.priority_first and config.priority_last < 32766
