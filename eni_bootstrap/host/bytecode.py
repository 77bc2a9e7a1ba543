"""Compiles a folder of modules to standard output, as the launcher reads it. Run by each Python that it is for.

    python bytecode.py FOLDER >MEMBER

First the magic number of this Python's byte code, and two numbers of four bytes, little end first: how long the rest is
when unpacked, and where its table is. The rest is packed (zlib): each module's code as marshal has it, and the table,
name: (path, whether it is a package, start, end).
"""

import marshal
import os
import sys
import zlib
from importlib.util import MAGIC_NUMBER


def compiled(folder):
    paths = sorted(os.path.relpath(os.path.join(here, name), folder)
                   for here, _, names in os.walk(folder) for name in names if name.endswith(".py"))
    code, table = bytearray(), {}
    for path in paths:
        parts = path[:-len(".py")].split(os.sep)
        is_package = parts[-1] == "__init__"
        with open(os.path.join(folder, path), "rb") as source:
            text = source.read()
        # A name without the folder, so that the same bytes come out wherever it is built; no -O: assertions stay.
        module = marshal.dumps(compile(text, "eni-bootstrap/" + path, "exec", dont_inherit=True, optimize=0))
        name = ".".join(parts[:-1] if is_package else parts)
        table[name] = (path, is_package, len(code), len(code) + len(module))
        code += module
    whole = bytes(code) + marshal.dumps(table)
    return b"".join((MAGIC_NUMBER, len(whole).to_bytes(4, "little"), len(code).to_bytes(4, "little"),
                     zlib.compress(whole, 9)))


if __name__ == "__main__":
    sys.stdout.buffer.write(compiled(sys.argv[1]))
