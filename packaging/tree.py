"""Lays out the files of the .deb and the .rpm: the program, what starts it, the manual page.

    python3 tree.py --source DIR --program FILE ROOT
"""

import argparse
import gzip
import os
import shutil
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
PROGRAM = "/usr/sbin/eni-bootstrap"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--source", required=True, metavar="DIR", help="where eni_bootstrap is")
    parser.add_argument("--program", required=True, metavar="FILE", help="the single file")
    parser.add_argument("root")
    parsed = parser.parse_args()
    sys.dont_write_bytecode = True
    sys.path.insert(0, parsed.source)
    from eni_bootstrap.host import units

    os.umask(0o022)
    for file in units.packaged([PROGRAM]):
        with open(place(parsed.root, file.path), "wb") as target:
            target.write(file.data)
        os.chmod(target.name, file.mode)
    shutil.copy(parsed.program, place(parsed.root, PROGRAM))
    with open(os.path.join(HERE, "eni-bootstrap.8"), "rb") as page:
        with open(place(parsed.root, "/usr/share/man/man8/eni-bootstrap.8.gz"), "wb") as target:
            target.write(gzip.compress(page.read(), 9, mtime=0))


def place(root, path):
    inside = root + path
    os.makedirs(os.path.dirname(inside), exist_ok=True)
    return inside


if __name__ == "__main__":
    main()
