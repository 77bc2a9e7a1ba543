"""Byte code of the single file's modules, for the Python that runs this. It is a program of its own, and imports
nothing of ours: packaging runs it on many Pythons, ``install`` on the host's.

    python bytecode.py <eni-bootstrap.pyz

It prints a line, the name of the zip's member for this Python, ``code/cpython-3xx``, and behind it the member, as the
launcher reads it: first the magic number of this Python's byte code, and two numbers of four bytes, little end first:
how long the rest is when unpacked, and where its table is. The rest is packed (zlib): each module's code as marshal has
it, and the table, name: (path, whether it is a package, start, end). Where the file has that member, only the line.
"""

import io
import marshal
import sys
import zipfile
import zlib
from importlib.util import MAGIC_NUMBER
from typing import BinaryIO, Dict


def compiled(modules: Dict[str, bytes]) -> bytes:
    """The content of the member for these modules. ``modules``: path -> source."""
    code, table = bytearray(), {}
    for path, text in sorted(modules.items()):
        parts = path[:-len(".py")].split("/")
        is_package = parts[-1] == "__init__"
        # A name without the folder, so that the same bytes come out wherever it is built; no -O: assertions stay.
        module = marshal.dumps(compile(text, "eni-bootstrap/" + path, "exec", dont_inherit=True, optimize=0))
        name = ".".join(parts[:-1] if is_package else parts)
        table[name] = (path, is_package, len(code), len(code) + len(module))
        code += module
    whole = bytes(code) + marshal.dumps(table)
    return b"".join((MAGIC_NUMBER, len(whole).to_bytes(4, "little"), len(code).to_bytes(4, "little"),
                     zlib.compress(whole, 9)))


def main(file: BinaryIO, output: BinaryIO) -> None:
    member = "code/{}".format(sys.implementation.cache_tag)
    line = "py36/" if sys.version_info < (3, 9) else "py39/"
    output.write(member.encode() + b"\n")
    with zipfile.ZipFile(io.BytesIO(file.read())) as archive:
        names = archive.namelist()
        if member not in names:
            output.write(compiled({name[len(line):]: archive.read(name) for name in names
                                   if name.startswith(line) and name.endswith(".py")}))


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
