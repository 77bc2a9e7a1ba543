"""The packages: built as ``packaging/build`` does, and looked into. Byte code for this Python alone, which is quick."""

import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

import eni_bootstrap
from eni_bootstrap import cli
from eni_bootstrap.host import zipapp
from eni_bootstrap.host.units import RETRY, SERVICE, SETTLE, SOCKET, TIMER, packaged
from eni_bootstrap.model.errors import BootstrapError
from tests import docs
from tests.agent import ROOT

BUILD = os.path.join(ROOT, "packaging", "build")
PROGRAM = "/usr/sbin/eni-bootstrap"
DEBIANS = "/etc/network/|/etc/networkd-dispatcher/|/etc/dhcp/.*/eni-bootstrap$"
RED_HATS = "/etc/dhcp/.*/eni-bootstrap.sh$"
TAG = sys.implementation.cache_tag

pytestmark = pytest.mark.xdist_group("packages")


def once(test):
    return pytest.mark.once(pytest.mark.skipif(sys.version_info < (3, 10), reason="the same on newer Pythons")(test))


def need(*tools):
    """A tool that is missing is a failure where CI is set."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("not installed: " + ", ".join(missing))


def run(*command, **options):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True,
                          timeout=300, **options)


def said(*command, **options):
    done = run(*command, **options)
    assert done.returncode == 0, done.stdout
    return done.stdout


def build(output, *what, date="1700000000", umask="022"):
    said("sh", "-c", 'umask {}; exec "$0" "$@"'.format(umask), BUILD, "--output", str(output), "--python",
         sys.executable, "--for", "{}.{}".format(*sys.version_info), *what,
         env=dict(os.environ, SOURCE_DATE_EPOCH=date))
    return output


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """What differs from Python to Python, or is installed by it."""
    return build(tmp_path_factory.mktemp("built"), "wheel", "pyz", "wheelhouse")


@pytest.fixture(scope="module")
def distributed(tmp_path_factory):
    """What is the same for all Pythons, as far as it can be built here."""
    return build(tmp_path_factory.mktemp("distributed"), "sdist", *(
        name for name, tool in (("deb", "dpkg-deb"), ("rpm", "rpmbuild")) if shutil.which(tool)))


@pytest.fixture(scope="module")
def pyz(built):
    return str(built / "eni-bootstrap.pyz")


@pytest.fixture(scope="module")
def deb(distributed):
    need("dpkg-deb")
    return str(next(distributed.glob("*.deb")))


@pytest.fixture(scope="module")
def rpm(distributed):
    need("rpmbuild", "rpm")
    return str(next(distributed.glob("*.rpm")))


@pytest.fixture(scope="module")
def deb_tree(deb, tmp_path_factory):
    tree = tmp_path_factory.mktemp("deb")
    said("dpkg-deb", "--raw-extract", deb, str(tree))
    return tree


def wanted(but):
    """Path: mode and content, of all files but those that are of use on other distributions only."""
    return {file.path: (file.mode, file.data) for file in packaged([PROGRAM]) if not re.match(but, file.path)}


# ---- the single file

def test_single_file_runs_by_its_first_line(pyz, tmp_path):
    assert said(pyz, "--version", cwd=str(tmp_path)) == "eni-bootstrap {}\n".format(eni_bootstrap.__version__)
    with open(pyz, "rb") as handle:
        assert handle.readline() == b"#!/usr/bin/env python3\n"


@pytest.mark.parametrize("options", [[], ["-I"], ["-W", "error"]])
def test_single_file_runs_however_python_is_started(pyz, options):
    """By a relative name too, and with nothing but what is inside: no site-packages, no certificates unpacked."""
    done = run(sys.executable, *options, os.path.basename(pyz), "plan", "--timeout", "1.5", "--metadata-url",
               "http://127.0.0.1:1", cwd=os.path.dirname(pyz))
    assert done.returncode == 3, done.stdout
    assert "connection refused" in done.stdout and done.stdout.count("\n") == 1


def test_single_file_imports_all_that_is_inside_and_nothing_from_the_host(pyz, tmp_path):
    """Each module by byte code, with its source for tracebacks; ours in place of certifi."""
    script = tmp_path / "script.py"
    script.write_text(
        "import importlib, os, sys, zipimport\n"
        "zip = zipimport.zipimporter({pyz!r})\n"
        "start = zip.get_source('__main__').replace('main(__loader__)', 'main(zip)')\n"
        "start = start.replace('from eni_bootstrap.__main__ import run', 'run = lambda: None')\n"
        "exec(start)\n"
        "library = sys.meta_path[0]\n"
        "for name in ('eni_bootstrap.cli', 'eni_bootstrap.lab.demo', 'certifi', 'pyroute2', 'requests', 'tenacity'):\n"
        "    module = importlib.import_module(name)\n"
        "    assert module.__spec__.loader is library, module\n"
        "    assert library.archive == {pyz!r} and module.__file__.startswith({pyz!r}), module.__file__\n"
        "    assert library.get_source(name).strip(), name\n"
        "assert not [m for m in sys.modules.values() if 'site-packages' in (getattr(m, '__file__', None) or '')]\n"
        "assert len(library._modules) > 300\n".format(pyz=pyz))
    said(sys.executable, "-S", str(script))


def test_single_file_without_byte_code_for_a_python_runs_from_its_sources(pyz, tmp_path):
    less = tmp_path / "less.pyz"
    with zipfile.ZipFile(pyz) as whole, zipfile.ZipFile(str(less), "w") as rest:
        for member in whole.infolist():
            if not member.filename.startswith("code/"):
                rest.writestr(member, whole.read(member))
            elif member.filename == "code/" + TAG:
                rest.writestr(member, b"another Python's")
    assert eni_bootstrap.__version__ in said(sys.executable, str(less), "--version")


def test_single_file_gets_byte_code_for_a_python_that_its_builder_did_not_have(pyz, tmp_path):
    """Once, and the same each time; then it is what runs."""
    with zipfile.ZipFile(pyz) as whole:
        code = whole.read("code/" + TAG)
        with zipfile.ZipFile(str(tmp_path / "less.pyz"), "w") as rest:
            for member in whole.infolist():
                if not member.filename.startswith("code/"):
                    rest.writestr(member, whole.read(member))
    less = (tmp_path / "less.pyz").read_bytes()
    assert zipapp.byte_code(less, sys.executable) == ("code/" + TAG, code)
    more = zipapp.with_byte_code(less, sys.executable, "/")
    assert zipapp.with_byte_code(more, sys.executable, "/") == more
    (tmp_path / "more.pyz").write_bytes(more)
    said = run(sys.executable, "-v", str(tmp_path / "more.pyz"), "--version").stdout
    assert "eni-bootstrap {}\n".format(eni_bootstrap.__version__) in said
    assert not re.search("import '(requests|pyroute2|eni_bootstrap)'.*zipimporter", said)
    assert re.search("import 'eni_bootstrap'.*Library", said)


@pytest.mark.parametrize("python, words", [
    ("/bin/false", "can't compile the program: 1"), ("/nonexistent", "can't be run"), ("/bin/ls", "can't compile")])
def test_what_is_no_python_is_named(python, words):
    with pytest.raises(BootstrapError, match=words):
        zipapp.byte_code(b"", python)


def test_single_file_can_be_installed_into_an_image(pyz, tmp_path):
    (tmp_path / "usr" / "bin").mkdir(parents=True)
    (tmp_path / "usr" / "bin" / "python3").write_text("")
    said(sys.executable, pyz, "install", "--root", str(tmp_path))
    with open(pyz, "rb") as one, open(str(tmp_path / "usr/local/sbin/eni-bootstrap"), "rb") as other:
        assert one.read() == other.read()


def test_single_file_holds_both_lines_of_libraries_and_their_licences(pyz):
    names = zipfile.ZipFile(pyz).namelist()
    assert [name for name in names if name.startswith("code/")] == ["code/" + TAG]
    for line in ("py36", "py39"):
        for package, called in (("eni_bootstrap", ""), ("pyroute2", "pyroute2"), ("requests", "requests"),
                                ("tenacity", "tenacity"), ("urllib3", "urllib3"), ("idna", "idna"),
                                ("charset_normalizer", "charset_normalizer"), ("yaml", "(?i)pyyaml")):
            assert "{}/{}/__init__.py".format(line, package) in names
            assert not called or [name for name in names if re.match(
                called + r"-.*\.dist-info/.*LICENSE", name[len(line) + 1:])]
    assert not [name for name in names if name.endswith((".so", ".pem")) or "__pycache__" in name]


@pytest.mark.parametrize("lines, python", [
    (["py36"], "3.6"), (["py36"], "3.8"), (["py39"], "3.9"), (["py39"], "3.15"), (["py39", "py310"], "3.15")], ids=str)
def test_pinned_libraries_are_what_setup_cfg_asks_for(lines, python):
    markers = pytest.importorskip("packaging.requirements")
    pinned = {}
    for line in lines:
        with open(os.path.join(ROOT, "packaging", "requirements-{}.txt".format(line))) as file:
            pinned.update(re.match(r"([\w.-]+)==(\S+) --hash", each).groups() for each in file if each[0] != "#")
    with open(os.path.join(ROOT, "setup.cfg")) as config:
        asked = re.search(r"^install_requires =\n((?:    .*\n)+)", config.read(), re.M).group(1)
    for requirement in map(markers.Requirement, asked.split("\n")[:-1]):
        if requirement.marker.evaluate({"python_version": python}):
            assert requirement.specifier.contains(pinned[requirement.name]), requirement


# ---- for pip

@once
def test_wheel_holds_the_program_and_nothing_else(built):
    names = zipfile.ZipFile(str(next(built.glob("*.whl")))).namelist()
    ours = {os.path.relpath(os.path.join(here, name), ROOT)
            for here, _, found in os.walk(os.path.join(ROOT, "eni_bootstrap"))
            for name in found if name.endswith(".py")}
    assert {name for name in names if ".dist-info/" not in name} == ours


@once
def test_sdist_holds_all_that_building_and_testing_takes(distributed):
    names = said("tar", "-tzf", str(next(distributed.glob("eni_bootstrap-*.tar.gz")))).split()
    inside = {name.partition("/")[2] for name in names}
    assert {"setup.py", "setup.cfg", "LICENSE", "packaging/build", "packaging/debian/control", "tests/run",
            "tests/venv", "Makefile", "tests/conftest.py", "eni_bootstrap/host/units.py", "cloud-init/"} <= inside
    assert set(docs.pages()) <= inside
    assert not [name for name in inside if "__pycache__" in name or name.startswith(".")]


def test_wheelhouse_is_enough_without_any_index(built, tmp_path):
    """Nor does the host need pip."""
    said("tar", "-xzf", str(built / "eni-bootstrap-wheelhouse.tar.gz"), "-C", str(tmp_path))
    wheels = tmp_path / "eni-bootstrap-wheelhouse"
    said(sys.executable, "-S", "-m", "pip", "install", "--isolated", "--no-index", "--find-links", str(wheels),
         "--target", str(tmp_path / "lib"), "eni-bootstrap",
         env=dict(os.environ, PYTHONPATH=str(next(wheels.glob("pip-*.whl")))))
    assert eni_bootstrap.__version__ in said(sys.executable, "-S", "-m", "eni_bootstrap", "--version",
                                             cwd=str(tmp_path / "lib"))


# ---- for distributions

@once
def test_deb_holds_what_files_lists(deb_tree):
    listed = wanted(RED_HATS)
    found = {}
    for here, folders, names in os.walk(str(deb_tree)):
        inside = here[len(str(deb_tree)):]
        if inside.startswith("/DEBIAN") or not inside:
            continue
        for name in names:
            path = os.path.join(here, name)
            with open(path, "rb") as handle:
                found[inside + "/" + name] = (os.stat(path).st_mode & 0o7777, handle.read())
    assert {path: found[path] for path in listed} == listed
    assert found[PROGRAM][0] == 0o755 and found[PROGRAM][1].startswith(b"#!/usr/bin/python3\n")
    assert {path for path in set(found) - set(listed) if not path.startswith("/usr/share/")} == {PROGRAM}
    conffiles = (deb_tree / "DEBIAN" / "conffiles").read_text().split()
    assert conffiles == sorted(path for path in listed if path.startswith("/etc/"))


@once
def test_rpm_holds_what_files_lists(rpm):
    listed = wanted(DEBIANS)
    lines = said("rpm", "-qp", "--qf", "[%{FILENAMES} %{FILEMODES:octal} %{FILEFLAGS:fflags}\n]", rpm).splitlines()
    found = {line.split(" ")[0]: line.split(" ")[1:] for line in lines if line.split(" ")[1].startswith("100")}
    for path, (mode, _) in listed.items():
        assert found[path] == ["100{:o}".format(mode), "cn" if path.startswith("/etc/") else ""]
    assert found[PROGRAM] == ["100755", ""]
    others = {path for path in set(found) - set(listed) if not path.startswith("/usr/share/")}
    assert others == {PROGRAM, "/usr/lib/systemd/system-preset/80-eni-bootstrap.preset"}


@once
def test_scripts_of_packages_know_all_units(deb_tree, rpm):
    units = {SERVICE, SOCKET, TIMER, RETRY, SETTLE}
    removing = [(deb_tree / "DEBIAN" / "prerm").read_text(), said("rpm", "-qp", "--qf", "%{PREUN}", rpm)]
    for script in removing:
        assert set(re.findall(r"eni-bootstrap[\w-]*\.(?:service|socket|timer)", script)) == units


@once
def test_scripts_do_no_harm_where_there_is_no_systemd(deb_tree, tmp_path):
    """Nor where nothing else is: a chroot, a container."""
    if os.path.isdir("/run/systemd/system") or os.path.isdir("/run/eni-bootstrap"):
        pytest.skip("it would touch this very host")
    for tool in ("rm", "sh"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    for script, words in (("postinst", "configure"), ("prerm", "remove"), ("prerm", "upgrade 1"), ("postrm", "remove"),
                          ("postrm", "purge"), ("postrm", "upgrade 1")):
        assert said(shutil.which("sh"), str(deb_tree / "DEBIAN" / script), *words.split(),
                    env={"PATH": str(tmp_path)}) == ""


@once
def test_deb_has_no_lint(deb):
    need("lintian")
    assert said("lintian", "--allow-root", "--fail-on", "error,warning", deb) == ""


@once
def test_rpm_has_no_lint(rpm):
    need("rpmlint")
    assert " 0 errors" in said("rpmlint", "-c", os.path.join(ROOT, "packaging", "rpm", "rpmlint.toml"), rpm)


@once
def test_rpm_comes_and_goes_cleanly(rpm, tmp_path):
    """In an empty root, where its scripts can't be run; --nodeps because no python3 is there."""
    if os.geteuid():
        pytest.skip("rpm --root wants root")
    base = ["rpm", "--root", str(tmp_path)]
    run(*base, "--initdb")
    for folder in ("etc", "usr/lib/systemd/system", "usr/lib/udev", "usr/sbin", "usr/share/man/man8",
                   "usr/share/licenses", "var/tmp"):
        os.makedirs(str(tmp_path / folder))
    before = tree(tmp_path)
    said(*base, "-i", "--nodeps", "--noscripts", rpm)
    assert (tmp_path / "usr/sbin/eni-bootstrap").exists()
    said(*base, "-V", "--nodeps", "eni-bootstrap")
    said(*base, "-e", "--noscripts", "eni-bootstrap")
    assert set(tree(tmp_path)) - set(before) <= {"/etc/dhcp"}  # which %postun takes away


def tree(root):
    return sorted((here + "/" + name)[len(str(root)):] for here, folders, names in os.walk(str(root))
                  for name in folders + names if ".rpmdb" not in here and "/var/lib/rpm" not in here)


# ---- all of them

@once
def test_same_source_same_bytes(built, distributed, tmp_path):
    what = [name for name, tool in (("sdist", "sh"), ("wheel", "sh"), ("pyz", "sh"), ("deb", "dpkg-deb"),
                                    ("rpm", "rpmbuild")) if shutil.which(tool)]
    again = build(tmp_path, *what, umask="077")
    assert len(os.listdir(str(again))) == len(what)
    for name in os.listdir(str(again)):
        before = built if (built / name).exists() else distributed
        assert (again / name).read_bytes() == (before / name).read_bytes(), name


@once
def test_missing_tool_is_named(tmp_path):
    for tool in ("sh", "dirname", "sed", "cat"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    done = run(shutil.which("sh"), BUILD, "rpm", env={"PATH": str(tmp_path)})
    assert done.returncode == 1 and "rpmbuild is not installed" in done.stdout


def test_manual_page_names_every_command_and_option():
    with open(os.path.join(ROOT, "packaging", "eni-bootstrap.8")) as handle:
        page = handle.read().replace("\\-", "-")
    names = set()
    for parser in [cli._parser()] + list(cli._parser()._subparsers._group_actions[0].choices.values()):
        for action in parser._actions:
            names.update(action.option_strings or action.choices or ())
    assert len(names) > 15 and not [name for name in names if not re.search(r"(?<![\w-])" + name + r"(?![\w-])", page)]
