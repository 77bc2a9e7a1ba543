"""The record of what the kernel can't remember, and the lock."""

import json
import os

import pytest

from eni_bootstrap.desired.decide import Record
from eni_bootstrap.kernel import record as kernel_record
from eni_bootstrap.model.changes import Change, Numbering
from eni_bootstrap.model.deadline import Deadline
from eni_bootstrap.model.errors import BootstrapError
from eni_bootstrap.model.kernel import LinkGroup, LinkUp, SeenAddress
from tests.build import address, link
from tests.oracle import ip, kernel

LINKS = (link(0), link(1), link(2))
MADE = Record(frozenset(["eth1"]), (LinkGroup("eth0", 0), LinkGroup("eth1", 5)),
              frozenset([address("eth1", "172.16.20.20/24"), address("eth1", "2001:db8::1/128")]))


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    path = tmp_path / "run"
    path.mkdir()
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(path))
    return path


def test_what_is_saved_is_loaded():
    kernel_record.save(MADE, LINKS)
    assert kernel_record.load(LINKS) == MADE


def test_nothing_recorded_is_no_trouble():
    assert kernel_record.load(LINKS) == Record()


def test_a_link_is_known_by_its_index_whatever_its_name():
    kernel_record.save(MADE, LINKS)
    renamed = (link(0), link(1, "ens5"))
    assert kernel_record.load(renamed).ups == {"ens5"}


def test_a_link_that_has_gone_is_forgotten():
    kernel_record.save(MADE, LINKS)
    again = (link(0), link(1)._replace(ifindex=77))
    assert kernel_record.load(again) == Record(groups=(LinkGroup("eth0", 0),))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"links": 3}', '{"links": {"x": {}}}', '{"links": {"3": []}}',
                                     '{"links": {"3": {"addresses": ["x"]}}}', '{"links": {"3": {"group": 1e999}}}',
                                     '{"links": {"3": {"addresses": [], "as_set": {"10.0.0.1/24": [0]}}}}',
                                     '{"links": {"3": {"group": -5}}}', "[" * 100000], ids=lambda text: text[:40])
def test_a_broken_record_is_said_and_survived(directory, caplog, content):
    (directory / "state.json").write_text(content)
    assert kernel_record.load(LINKS) == Record()
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
    made = kernel_record.load(LINKS)
    assert made.ups == {"eth1"} and made.numberings == (Numbering(*FEW),)
    assert "out of bounds" in caplog.text and str(numbers) in caplog.text


def test_the_kernels_mark_is_taken_for_used_where_a_record_does_not_tell(directory):
    """Versions that used it did not note it."""
    assert not kernel_record.load(LINKS).kernel_marks
    (directory / "state.json").write_text('{"links": {}}')
    assert kernel_record.load(LINKS).kernel_marks
    for used in (True, False):
        kernel_record.save(Record(kernel_marks=used), LINKS)
        assert kernel_record.load(LINKS) == Record(kernel_marks=used)


def test_what_is_written_has_a_version(directory):
    kernel_record.save(MADE, LINKS)
    assert json.loads((directory / "state.json").read_text())["version"] == 1


def test_a_record_without_a_version_is_read(directory):
    kernel_record.save(MADE, LINKS)
    content = json.loads((directory / "state.json").read_text())
    del content["version"]
    (directory / "state.json").write_text(json.dumps(content))
    assert kernel_record.load(LINKS) == MADE


@pytest.mark.parametrize("content", [{"version": 2}, {"version": 1000, "links": {"3": {"up": True}}},
                                     {"version": 2, "links": "of another shape"}], ids=str)
def test_a_record_of_a_newer_version_is_refused_whatever_is_in_it(directory, content):
    (directory / "state.json").write_text(json.dumps(content))
    for links in (LINKS, ()):
        with pytest.raises(BootstrapError, match="was written by a newer eni-bootstrap; install that one, or run its "
                                                 "remove first") as refused:
            kernel_record.load(links)
        assert refused.value.exit_code == 1 and str(directory / "state.json") in str(refused.value)


@pytest.mark.parametrize("version", ["1", None, 1.5, [], {}], ids=str)
def test_a_version_that_is_no_number_is_a_broken_record(directory, caplog, version):
    (directory / "state.json").write_text(json.dumps({"version": version, "links": {"3": {"up": True}}}))
    assert kernel_record.load(LINKS) == Record()
    assert "can't be read" in caplog.text


@pytest.mark.kernel
@pytest.mark.parametrize("command", ["apply", "apply --unattended", "plan", "verify", "status", "adopt --yes",
                                     "remove"])
def test_no_command_touches_what_a_newer_one_has_made(vpc, make_agent, directory, command):
    agent = make_agent(vpc)
    assert agent().code == 0
    kept = directory / "state.json"
    kept.write_text(json.dumps(dict(json.loads(kept.read_text()), version=2)))
    ip(vpc, "rule del priority 7100")
    before, recorded = kernel(vpc), kept.read_text()
    result = agent(*command.split())
    assert result.code == 1 and "newer eni-bootstrap" in result.err and not result.out, result
    assert (kernel(vpc), kept.read_text()) == (before, recorded)


def test_it_is_written_whole_or_not_at_all(directory, monkeypatch):
    kernel_record.save(MADE, LINKS)
    monkeypatch.setattr(json, "dump", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(BootstrapError, match="No space left"):
        kernel_record.save(Record(), LINKS)
    assert kernel_record.load(LINKS) == MADE


def test_root_s_runs_and_the_sandboxed_service_s_share_the_files(directory):
    """Each may be another user, with a umask of its own, and either may be cut off."""
    (directory / "state.json.new").symlink_to("/etc/hostname")  # what can't be written through, as another's file
    former = os.umask(0o077)
    try:
        with kernel_record.lock(Deadline(5)):
            kernel_record.save(MADE, LINKS)
    finally:
        os.umask(former)
    assert {name: os.stat(str(directory / name)).st_mode & 0o777 for name in os.listdir(str(directory))} == {
        "lock": 0o644, "state.json": 0o644}
    assert kernel_record.load(LINKS) == MADE


NAMES = ["lock", "taken-back", "state.json", "state.json.new"]
"""The directory is a less privileged user's, who may put anything there."""


@pytest.mark.parametrize("name", NAMES)
def test_a_directory_in_a_file_s_place_is_named(directory, name):
    (directory / name).mkdir()
    said = ""
    try:
        with kernel_record.lock(Deadline(1)):
            kernel_record.load(LINKS)
            kernel_record.save(MADE, LINKS)
            kernel_record.set_removed_flag()
    except BootstrapError as error:
        said = str(error)
    assert str(directory / name) in said and "irectory" in said or "no regular file" in said


def test_a_link_is_no_mark_of_a_removal(directory, secret):
    (directory / "taken-back").symlink_to(secret)
    assert not kernel_record.removed_flag()
    kernel_record.set_removed_flag()
    assert kernel_record.removed_flag() and not (directory / "taken-back").is_symlink()


def test_a_record_without_end_is_not_read(directory, caplog):
    with open(str(directory / "state.json"), "w") as handle:
        handle.truncate(1 << 40)
    assert kernel_record.load(LINKS) == Record()
    assert "can't be read" in caplog.text


def test_the_mark_of_a_removal_stays_until_somebody_asks_again(directory):
    kernel_record.clear_removed_flag()
    assert not kernel_record.removed_flag()
    kernel_record.set_removed_flag()
    kernel_record.save(MADE, LINKS)
    assert kernel_record.removed_flag()
    kernel_record.clear_removed_flag()
    assert not kernel_record.removed_flag() and os.listdir(str(directory)) == ["state.json"]


def test_what_is_about_to_be_done_is_recorded_before_and_what_is_undone_forgotten_after():
    up, group = LinkUp("eth2"), LinkGroup("eth2", 60235)
    held = address("eth2", "172.16.10.30/24")
    add = [Change("add", item, 235) for item in (up, group, held)]
    made = kernel_record.before(Record(), add, LINKS, (), 60235)
    assert made == Record(frozenset(["eth2"]), (LinkGroup("eth2", 0),), frozenset([held]))
    assert kernel_record.before(made, add, LINKS, (), 60235) == made, "the group that it had is not forgotten"
    undo = [Change("remove", up, 235), Change("add", LinkGroup("eth2", 0), 235), Change("remove", held, 235)]
    assert kernel_record.after(made, undo, 60235) == Record()


def test_how_an_address_was_set_is_recorded_after_it_was_and_tells_whose_it_is():
    held, six = address("eth2", "172.16.10.30/24"), address("eth2", "2001:db8::1/128")
    add = [Change("add", item, 235) for item in (held, six)]
    made = kernel_record.before(Record(), add, LINKS, (), 60235)
    assert made.as_set == frozenset()
    four, unmarked = SeenAddress(held, 235, 700), SeenAddress(six, 0, 701)
    kernel_record.save(made, LINKS)
    assert kernel_record.load(LINKS) == made
    killed = kernel_record.still_ours(made, (four, unmarked), {235})
    assert (killed.addresses, killed.as_set) == ({held}, {four}), "of the other nobody knows"
    made = kernel_record.with_seen(made, add, (four, unmarked))
    assert made.as_set == {four, unmarked}
    kernel_record.save(made, LINKS)
    assert kernel_record.load(LINKS) == made == kernel_record.still_ours(made, (four, unmarked), {235})
    for other in (four._replace(set_at=800), four._replace(protocol=0)):
        assert kernel_record.still_ours(made, (other, unmarked), {235}).addresses == {six}
    assert kernel_record.still_ours(made, (), {235}) == made, "it may come back, and it is known as what"
    assert kernel_record.before(made, add[:1], LINKS, (), 60235).as_set == {unmarked}
    assert kernel_record.after(made, [Change("remove", held, 235)], 60235).as_set == {unmarked}


def test_a_record_of_a_former_version_is_believed_about_what_is_there(directory):
    """Which did not write down how the addresses were set."""
    (directory / "state.json").write_text(json.dumps({"links": {"3": {
        "addresses": ["172.16.20.20/24", "2001:db8::1/128 deprecated"], "group": 0, "up": True}},
        "marked": False, "missed": [], "numbers": []}))
    held = address("eth1", "172.16.20.20/24")
    made = kernel_record.load(LINKS)
    assert held in made.addresses and len(made.addresses) == 2
    kernel_record.save(made, LINKS)
    assert kernel_record.load(LINKS) == made
    seen = SeenAddress(held, 0, 900)
    there = kernel_record.still_ours(made, (seen,), {235})
    assert len(there.addresses) == 2 and there.as_set == {seen}
    assert kernel_record.still_ours(there, (seen._replace(set_at=901),), {235}).addresses == made.addresses - {held}


def test_an_address_that_somebody_else_was_faster_with_is_not_ours():
    held = address("eth2", "172.16.10.30/24")
    add = [Change("add", held, 235)]
    assert kernel_record.after(kernel_record.before(Record(), add, LINKS, (), 60235), [], 60235, add) == Record()


def test_the_lock_is_held_by_one_and_the_other_gives_up_at_its_deadline():
    with kernel_record.lock(Deadline(5)):
        with pytest.raises(BootstrapError, match="another run has been at work"):
            with kernel_record.lock(Deadline(0.2)):
                pass
    with kernel_record.lock(Deadline(0.2)):
        pass
