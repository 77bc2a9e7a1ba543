"""The record of what the kernel can't remember, and the lock."""

import json
import os

import pytest

from eni_bootstrap import state
from eni_bootstrap.errors import BootstrapError
from eni_bootstrap.model import LinkGroup, LinkUp, Numbering
from eni_bootstrap.plan import Change
from eni_bootstrap.retry import Deadline
from eni_bootstrap.routing import Made
from tests.build import address, link

LINKS = (link(0), link(1), link(2))
MADE = Made(frozenset(["eth1"]), (LinkGroup("eth0", 0), LinkGroup("eth1", 5)),
            frozenset([address("eth1", "172.16.20.20/24"), address("eth1", "2001:db8::1/128")]))


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    path = tmp_path / "run"
    path.mkdir()
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(path))
    return path


def test_what_is_saved_is_loaded():
    state.save(MADE, LINKS)
    assert state.load(LINKS) == MADE


def test_nothing_recorded_is_no_trouble():
    assert state.load(LINKS) == Made()


def test_a_link_is_known_by_its_index_whatever_its_name():
    state.save(MADE, LINKS)
    renamed = (link(0), link(1, "ens5"))
    assert state.load(renamed).ups == {"ens5"}


def test_a_link_that_has_gone_is_forgotten():
    state.save(MADE, LINKS)
    again = (link(0), link(1)._replace(ifindex=77))
    assert state.load(again) == Made(groups=(LinkGroup("eth0", 0),))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"links": 3}', '{"links": {"x": {}}}', '{"links": {"3": []}}',
                                     '{"links": {"3": {"addresses": ["x"]}}}', '{"links": {"3": {"group": 1e999}}}',
                                     '{"links": {"3": {"group": -5}}}', "[" * 100000], ids=lambda text: text[:40])
def test_a_broken_record_is_said_and_survived(directory, caplog, content):
    (directory / "state.json").write_text(content)
    assert state.load(LINKS) == Made()
    assert "can't be read" in caplog.text


FEW = [1000, 7000, 235, 60235]


@pytest.mark.parametrize("numbers", [
    [5000, 0, 98, 9], [0, 9000, 2, 9], [100, 9000, 16, 9], [-1000, 7000, 235, 9], [3000, -9000, 98, 9],
    [3000, 9000, -98, 9], [3000, 9000, 98, -9], [3000, 1000, 98, 9], [3000, 31767, 98, 9], [4294966297, 9000, 98, 9],
    [3000, 9000, 256, 9], [3000, 9000, 98, 4294967296], [3000, 9000, 98], [3000, 9000, 98, 9, 9], [3000.0, 9000, 98, 9],
    ["3000", 9000, 98, 9], [None] * 4, [], None, 3, "abcd", {"table": 3000},
], ids=str)
def test_numbers_that_no_configuration_may_have_are_dropped_and_said(directory, caplog, numbers):
    """The rest of the record, and other numbers, are heeded."""
    record = {"links": {"3": {"up": True}}, "numbers": [numbers, FEW]}
    (directory / "state.json").write_text(json.dumps(record))
    made = state.load(LINKS)
    assert made.ups == {"eth1"} and made.numberings == (Numbering(*FEW),)
    assert "out of bounds" in caplog.text and str(numbers) in caplog.text


def test_the_kernels_mark_is_taken_for_used_where_a_record_does_not_tell(directory):
    """Versions that used it did not note it."""
    assert not state.load(LINKS).kernel_marks
    (directory / "state.json").write_text('{"links": {}}')
    assert state.load(LINKS).kernel_marks
    for used in (True, False):
        state.save(Made(kernel_marks=used), LINKS)
        assert state.load(LINKS) == Made(kernel_marks=used)


def test_it_is_written_whole_or_not_at_all(directory, monkeypatch):
    state.save(MADE, LINKS)
    monkeypatch.setattr(json, "dump", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(BootstrapError, match="No space left"):
        state.save(Made(), LINKS)
    assert state.load(LINKS) == MADE


def test_root_s_runs_and_the_sandboxed_service_s_share_the_files(directory):
    """Each may be another user, with a umask of its own, and either may be cut off."""
    (directory / "state.json.new").symlink_to("/etc/hostname")  # what can't be written through, as another's file
    former = os.umask(0o077)
    try:
        with state.lock(Deadline(5)):
            state.save(MADE, LINKS)
    finally:
        os.umask(former)
    assert {name: os.stat(str(directory / name)).st_mode & 0o777 for name in os.listdir(str(directory))} == {
        "lock": 0o644, "state.json": 0o644}
    assert state.load(LINKS) == MADE


def test_the_mark_of_a_removal_stays_until_somebody_asks_again(directory):
    state.ask_again()
    assert not state.taken_back()
    state.take_back()
    state.save(MADE, LINKS)
    assert state.taken_back()
    state.ask_again()
    assert not state.taken_back() and os.listdir(str(directory)) == ["state.json"]


def test_what_is_about_to_be_done_is_recorded_before_and_what_is_undone_forgotten_after():
    up, group = LinkUp("eth2"), LinkGroup("eth2", 60235)
    held = address("eth2", "172.16.10.30/24")
    add = [Change("add", item, 235) for item in (up, group, held)]
    made = state.before(Made(), add, LINKS, (), 60235)
    assert made == Made(frozenset(["eth2"]), (LinkGroup("eth2", 0),), frozenset([held]))
    assert state.before(made, add, LINKS, (), 60235) == made, "the group that it had is not forgotten"
    undo = [Change("remove", up, 235), Change("add", LinkGroup("eth2", 0), 235), Change("remove", held, 235)]
    assert state.after(made, undo, 60235) == Made()


def test_an_address_that_somebody_else_was_faster_with_is_not_ours():
    held = address("eth2", "172.16.10.30/24")
    add = [Change("add", held, 235)]
    assert state.after(state.before(Made(), add, LINKS, (), 60235), [], 60235, add) == Made()


def test_the_lock_is_held_by_one_and_the_other_gives_up_at_its_deadline():
    with state.lock(Deadline(5)):
        with pytest.raises(BootstrapError, match="another run has been at work"):
            with state.lock(Deadline(0.2)):
                pass
    with state.lock(Deadline(0.2)):
        pass
