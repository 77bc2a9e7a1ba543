"""The documentation: it can be found and read, and its commands exist."""

import argparse
import fnmatch
import os
import re
import shlex

import pytest

import eni_bootstrap
from eni_bootstrap import cli
from eni_bootstrap.config import file as config_file, loader
from eni_bootstrap.config.settings import Config
from eni_bootstrap.host import install as host_install, installer, units as unit_files
from eni_bootstrap.metadata.parser import LEAVES, VSWITCH_ID
from eni_bootstrap.model.errors import BootstrapError
from eni_bootstrap.render import FORMATS
from tests import docs
from tests.agent import ROOT

PAGES = docs.pages()
WHOLE = "\n".join(map(docs.read, PAGES))
CONFIGURATION = docs.read("docs/configuration.md")
INSTALL = docs.read("docs/install.md")

MOST_LINES = 150
"""What a newcomer reads in one go."""


def spans(text):
    """What is set as code within sentences and tables."""
    for block in re.findall(r"^```.*?^```$", text, re.MULTILINE | re.DOTALL):
        text = text.replace(block, "")
    return re.findall(r"`([^`\n]+)`", text)


def lines_of_code(text):
    """What a page has people type: samples without their outputs, other blocks, code within sentences."""
    for block in docs.blocks(text):
        lines = block.splitlines()
        typed = [line[2:] for line in lines if line.startswith("$ ")]
        yield from typed or [line.strip() for line in lines]
    yield from spans(text)


def programs(text):
    """The commands in it, each as words: program and arguments."""
    for line in lines_of_code(text):
        for piece in re.split(r"&&|[|;]|[0-9]?>\S*", line):
            try:
                words = shlex.split(piece, comments=True)
            except ValueError:  # prose, or the middle of a script
                continue
            while words and words[0] in ("python", "python3", "sudo"):
                words.pop(0)
            if words:
                yield words


def agents_arguments(text):
    for program, *arguments in programs(text):
        if os.path.basename(program) in ("eni-bootstrap", "eni-bootstrap.pyz"):
            yield arguments


def subparsers(parser):
    """All parsers, by the command's name; the whole program's by none."""
    yield "", parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def anchors(page):
    """As GitHub names a page's headings."""
    headings = re.findall(r"^#+ (.*)$", docs.read(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


# it can be found, and is there


def test_readme_is_short():
    assert docs.read("README.md").count("\n") <= MOST_LINES


def test_readme_leads_to_every_page():
    linked = {link.split("#")[0] for link in docs.links(docs.read("README.md"))}
    assert {page for page in PAGES if page != "README.md"} <= linked


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in docs.links(docs.read(page)):
        if link.startswith("http"):
            continue
        target, _, anchor = link.partition("#")
        target = os.path.normpath(os.path.join(os.path.dirname(page), target)) if target else page
        assert os.path.exists(os.path.join(ROOT, target)), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES)
def test_paths_of_the_repository_are_there(page):
    """``tests/run`` and the like, in code."""
    for words in programs(docs.read(page)):
        for word in words:
            if re.match(r"(\./)?(packaging|tests|cloud-init|docs|\.ci|eni_bootstrap)/[\w./-]+$", word):
                assert os.path.exists(os.path.join(ROOT, word)), word


def test_what_cloud_init_has_is_in_the_page():
    for name in os.listdir(os.path.join(ROOT, "cloud-init")):
        assert re.search(r"`{}\b".format(re.escape(name)), INSTALL), name


# its samples


def test_readme_has_one_sample_each_of_status_and_verify():
    typed = [command for sample in docs.samples("README.md") for command in sample.commands]
    assert typed == ["eni-bootstrap status", "eni-bootstrap verify"]


def test_every_sample_is_found():
    """A marker that is misspelt, or not right in front of its block, would be a sample that nobody runs."""
    for page in PAGES:
        text = docs.read(page)
        shown = [block for block in docs.blocks(text) if re.search(r"^\$ ", block, re.MULTILINE)]
        assert [sample.text for sample in docs.samples(page)] == shown, page
        assert text.count("\n<!-- ") == len(re.findall(r"\n<!-- (?:sample|file): .* -->\n```", text)), page


def test_only_the_time_that_something_took_may_differ():
    assert docs.normal("exit code 0 after 0.43 s") == docs.normal("exit code 0 after 12.05 s")
    for one, other in (("3 s more", "4 s more"), ("table 1001", "table 1002"), ("0.43 ms", "0.44 ms")):
        assert docs.normal(one) != docs.normal(other)


def test_samples_are_written_in_their_places(monkeypatch, tmp_path):
    (tmp_path / "page.md").write_text(
        "# One\n\n<!-- sample: windows -->\n```\n$ a\nold\n```\n\n<!-- file: name -->\n```yaml\nx: 1\n```\n\n"
        "<!-- sample: typed, after: b -->\n```\n$ a\nold\n```\n\n# Two\n\n<!-- sample: ipv6 -->\n```\n$ c\n```\n")
    monkeypatch.setattr(docs, "ROOT", str(tmp_path))
    monkeypatch.setattr(docs, "written", lambda sample: "$ {}\nnew {}\n".format(sample.commands[0], sample.number))
    one, two, three = docs.samples("page.md")
    assert (one.world, one.before, one.files) == ("windows", "", ())
    assert (two.world, two.before, two.files) == ("typed", "b", (("name", "x: 1\n"),))
    assert (three.text, three.files) == ("$ c\n", ())
    monkeypatch.setattr(docs, "isolate", lambda: None)
    assert docs.main([]) == 1 and "old" in (tmp_path / "page.md").read_text()
    assert docs.main(["--write"]) == 0 and docs.main([]) == 0
    text = (tmp_path / "page.md").read_text()
    assert "old" not in text and re.findall("new .", text) == ["new 1", "new 2", "new 3"]
    assert text.endswith("<!-- sample: ipv6 -->\n```\n$ c\nnew 3\n```\n")


# its commands


@pytest.mark.parametrize("page", PAGES)
def test_the_parser_accepts_every_command_line(page, capsys):
    names = dict(subparsers(cli._parser()))
    for arguments in agents_arguments(docs.read(page)):
        if len(arguments) == 1 and arguments[0] in names:
            continue  # a command by its name, maybe without what it needs
        try:
            cli._parser().parse_args(cli._with_default_command(arguments, cli._parser()))
        except SystemExit as stop:
            assert stop.code == 0, (arguments, capsys.readouterr().err)


def test_command_lines_are_found():
    """What the test above looks at."""
    text = """Say `eni-bootstrap verify` or

    ./eni-bootstrap.pyz plan  # that
    b && sudo eni-bootstrap remove

```
$ python eni-bootstrap.pyz config check 2>&1 | tail
eni-bootstrap: an output
```
"""
    assert sorted(agents_arguments(text)) == [["config", "check"], ["plan"], ["remove"], ["verify"]]
    assert len(list(agents_arguments(WHOLE))) > 50


def test_every_command_and_option_is_in_the_documentation():
    words = {word for text in spans(WHOLE) + list(docs.blocks(WHOLE)) for word in re.split(r"[\s,]+", text)}
    for name, parser in subparsers(cli._parser()):
        assert not name or name in words
        options = [option for action in parser._actions if action.help != argparse.SUPPRESS
                   for option in action.option_strings]
        assert set(options) <= words, name


def test_every_format_is_in_the_page():
    assert set(FORMATS) <= set(spans(docs.read("docs/render.md")))


def exit_codes():
    return {0, 130} | {error.exit_code for error in [BootstrapError] + BootstrapError.__subclasses__()}


def test_every_exit_code_is_in_the_documentation():
    codes = sorted(map(str, exit_codes()), key=int)
    assert re.findall(r"^\| (\d+) \|", docs.read("README.md"), re.MULTILINE) == codes
    assert re.findall(r"^### (\d+): ", docs.read("docs/commands.md"), re.MULTILINE) == codes
    with open(os.path.join(ROOT, "packaging", "eni-bootstrap.8")) as page:
        assert re.findall(r"^\.B (\d+)$", page.read(), re.MULTILINE) == codes
    assert re.findall(r"(\d+) [a-z]", cli._parser().epilog) == codes


def test_an_interrupted_run_ends_with_130(monkeypatch, capsys):
    def interrupt(parsed):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_show_config", interrupt)
    assert cli.main(["config", "check"]) == 130
    assert "interrupted" in capsys.readouterr().err


# the configuration


def keys(schema):
    """All keys that a JSON Schema allows, at any depth."""
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
        for value in schema.values():
            yield from keys(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from keys(value)


def test_every_key_of_the_configuration_is_in_the_page():
    named = {word for span in spans(CONFIGURATION) for word in re.findall(r"[\w-]+", span)}
    assert set(keys(config_file.json_schema())) <= named


def test_every_configuration_in_the_page_is_right():
    blocks = re.findall(r"^```yaml\n(.*?)^```$", CONFIGURATION, re.MULTILINE | re.DOTALL)
    assert len(blocks) > 8
    for block in blocks:
        assert config_file.read(block.encode())[1] == [], block


def test_the_page_of_routing_has_the_numbers_that_are_used():
    page = docs.read("docs/routing.md").replace(",", "")
    spans = [(int(first), int(last)) for first, last in re.findall(r"\b(\d{4})–(\d{4})\b", page)]
    spans += [(int(number), int(number)) for number in re.findall(r"\b\d+\b", page)]
    used = {name: number for name, number in Config()._asdict().items()
            if name.startswith(("priority_", "table_", "protocol", "group", "copies"))}
    missing = ["{} {}".format(name, number) for name, number in used.items()
               if not [first for first, last in spans if first <= number <= last]]
    assert missing == [], "docs/routing.md does not have " + ", ".join(missing)


def test_the_page_of_metadata_has_the_leaves_that_are_read():
    table = docs.read("docs/metadata.md").split("\n| Leaf of an ENI |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| (.*?) \|", table, re.MULTILINE)
    assert {leaf for row in rows for leaf in spans(row)} == LEAVES | {VSWITCH_ID}


# packages and files


def test_names_of_packages_are_those_that_are_built():
    with open(os.path.join(ROOT, "packaging", "build")) as script:
        build = script.read()
    with open(os.path.join(ROOT, "packaging", "rpm", "eni-bootstrap.spec")) as spec:
        release = re.search(r"^Release: *(\S+)$", spec.read(), re.MULTILINE).group(1)
    made = re.findall(r'"\$output/(eni[\w.$-]+)"', build) + re.findall(r'"_rpmfilename (.*?)"', build)
    made.append("eni_bootstrap-$version-*.whl")  # setuptools knows the rest of its name
    for variable, value in (("$version", eni_bootstrap.__version__), ("%{version}", eni_bootstrap.__version__),
                            ("%{name}", "eni-bootstrap"), ("%{release}", release)):
        made = [name.replace(variable, value) for name in made]
    told = set(re.findall(r"\beni[-_]bootstrap(?:[-_][\w.-]*)?\.(?:deb|rpm|whl|pyz|tar\.gz)\b", WHOLE))
    assert {name for name in made for each in told if fnmatch.fnmatch(each, name)} == set(made)
    assert {each for each in told for name in made if fnmatch.fnmatch(each, name)} == told


def test_what_to_install_is_what_ci_installs():
    with open(os.path.join(ROOT, ".ci", "run")) as script:
        installed = re.search(r"apt-get -qq install (.*?)>", script.read(), re.DOTALL).group(1).split()
    asked = [words[2:] for words in programs(WHOLE) if words[:2] == ["apt", "install"]]
    packages = {word for words in asked for word in words if not word.startswith("./")}
    assert {"python3-venv", "iproute2", "nftables", "make"} == packages <= set(installed)


def test_every_file_that_is_installed_is_in_the_page():
    paths = [file.path for file in unit_files.installed(["x"]) + [unit_files.sysctls()]]
    assert {path for path in paths + [host_install.PROGRAM, installer.RECORD, loader.PATH]} <= set(spans(INSTALL))


def test_no_unit_is_named_that_is_not_there():
    units = {os.path.basename(file.path) for file in unit_files.packaged(["x"])}
    assert set(re.findall(r"\beni-bootstrap[\w-]*\.(?:service|socket|timer)\b", WHOLE)) <= units


def test_no_command_is_told_that_only_one_python_has():
    """tests/venv names an environment after the Python's version."""
    assert re.findall(r"\.venv-tests/\S*", WHOLE) == []


def test_make_knows_what_contributors_are_told():
    with open(os.path.join(ROOT, "Makefile")) as makefile:
        targets = set(re.findall(r"^([\w-]+):", makefile.read(), re.MULTILINE))
    told = {word for words in programs(WHOLE) if words[0] == "make" for word in words[1:] if "=" not in word}
    assert told and told <= targets
