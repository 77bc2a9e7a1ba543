"""Puts the program and what it imports into one file that Python runs: eni-bootstrap.pyz.

    python3 pyz.py --source DIR --wheels DIR [--python PATH]... [--interpreter LINE] FILE

Inside: ``__main__.py`` (launcher.py); for both lines of dependencies a folder of sources, ``py36`` and ``py39``, named
after the oldest Python that it is for; for each Python found on this machine its byte code, ``code/cpython-3xx``. The
same sources, wheels and Pythons give the same bytes.
"""

import argparse
import concurrent.futures
import glob
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile

HERE = os.path.dirname(os.path.abspath(__file__))
LINES = ("py36", "py39")
_ASK = "import sys; print(sys.implementation.cache_tag, '%d.%02d.%02d' % sys.version_info[:3])"
_LEFT_OUT = ("certifi-", "importlib_metadata-", "pip-", "typing_extensions-", "zipp-")
"""Ours stands for certifi; pip is for the wheelhouse; the others pyroute2 0.7 asks for and does not import."""
_BESIDE = ("yaml/",)
"""What these have of machine code they do without."""
_LICENCE = re.compile(r"[^/]+\.dist-info/(.*/)?(LICEN[CS]E|COPYING|NOTICE|AUTHORS)[^/]*$")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--source", required=True, metavar="DIR", help="where eni_bootstrap is")
    parser.add_argument("--wheels", required=True, metavar="DIR", help="with the folders " + " and ".join(LINES))
    parser.add_argument("--python", action="append", metavar="PATH", help="byte code for these only")
    parser.add_argument("--interpreter", default="/usr/bin/env python3", metavar="LINE", help="the first line's")
    parser.add_argument("file")
    parsed = parser.parse_args()
    sys.dont_write_bytecode = True
    sys.path.insert(0, parsed.source)
    from eni_bootstrap.host import zipapp

    with tempfile.TemporaryDirectory() as folder:
        for line in LINES:
            lay_out(os.path.join(folder, line), parsed.source, os.path.join(parsed.wheels, line))
        program = pack(parsed.interpreter, folder)
    pythons = chosen(parsed.python or installed_pythons())
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as at_once:
        members = dict(at_once.map(lambda python: zipapp.byte_code(program, python), pythons))
    program = zipapp.with_members(program, members)
    with open(parsed.file, "wb") as file:
        file.write(program)
    os.chmod(parsed.file, 0o755)
    print("{}: {:,} bytes, with {}".format(parsed.file, len(program), ", ".join(members)))


def lay_out(folder, source, wheels):
    """The modules and the licences of all wheels, and ours."""
    for name in sorted(name for name in os.listdir(wheels) if not name.startswith(_LEFT_OUT)):
        with zipfile.ZipFile(os.path.join(wheels, name)) as wheel:
            for member in wheel.namelist():
                if member.endswith(".py") or _LICENCE.match(member):
                    wheel.extract(member, folder)
                elif member.endswith((".so", ".pyd")) and not member.startswith(_BESIDE):
                    sys.exit("{} is not pure Python: {}".format(name, member))
    os.mkdir(os.path.join(folder, "certifi"))
    shutil.copy(os.path.join(HERE, "certifi.py"), os.path.join(folder, "certifi", "__init__.py"))
    shutil.copytree(os.path.join(source, "eni_bootstrap"), os.path.join(folder, "eni_bootstrap"),
                    ignore=shutil.ignore_patterns("__pycache__"))


def installed_pythons():
    """pyenv's and those on the path."""
    pyenv = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    found = sorted(glob.glob(os.path.join(pyenv, "versions", "3.*", "bin", "python3")))
    for folder in os.get_exec_path():
        found += sorted(glob.glob(os.path.join(folder, "python3")) + glob.glob(os.path.join(folder, "python3.[0-9]*")))
    return [path for path in found if os.access(path, os.X_OK) and re.search(r"python3[.0-9]*$", path)]


def chosen(pythons):
    """The newest of each kind of CPython, the oldest kind first."""
    newest = {}
    for python in pythons:
        asked = subprocess.run([python, "-c", _ASK], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        tag, _, version = asked.stdout.decode().strip().partition(" ")
        # Else one of pyenv's place-holders, or PyPy.
        if asked.returncode == 0 and tag.startswith("cpython-") and version >= "3.06":
            newest.setdefault(tag, []).append((version, python))
    return [python for _, python in sorted(max(found, key=lambda each: each[0]) for found in newest.values())]


def pack(interpreter, folder):
    # Zip knows no dates before 1980.
    date = time.gmtime(max(int(os.environ.get("SOURCE_DATE_EPOCH", 0)), 315532800))[:6]
    file = io.BytesIO()
    file.write("#!{}\n".format(interpreter).encode())
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:

        def add(name, path):
            member = zipfile.ZipInfo(name, date)
            member.compress_type = zipfile.ZIP_DEFLATED
            member.external_attr = 0o100644 << 16
            with open(path, "rb") as source:
                archive.writestr(member, source.read())

        add("__main__.py", os.path.join(HERE, "launcher.py"))
        for here, folders, names in os.walk(folder):
            folders.sort()
            for name in sorted(names):
                path = os.path.join(here, name)
                add(os.path.relpath(path, folder), path)
    return file.getvalue()


if __name__ == "__main__":
    main()
