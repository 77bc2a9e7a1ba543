"""What Python runs of the single file: its ``__main__``.

The byte code of all modules for one Python is one member of the zip (eni_bootstrap/host/bytecode.py), read and unpacked
at once. So many members, one for each module, would take a fifth longer to import than files on disk; like this it is as
fast. A Python for which there is none compiles the sources, which are members as usual, anew at each start: four times as
long. ``install`` adds the host's.
"""

import marshal
import os
import sys
import zlib
from importlib.machinery import ModuleSpec
from importlib.util import MAGIC_NUMBER


class Library:
    """Imports modules out of one member. ``archive`` is what zipimport's own importers have, too."""

    def __init__(self, zip, folder, packed):
        self.archive, self._zip, self._folder = os.path.dirname(folder), zip, folder
        size, table = int.from_bytes(packed[4:8], "little"), int.from_bytes(packed[8:12], "little")
        self._code = memoryview(zlib.decompress(packed[12:], 15, size))
        self._modules = marshal.loads(self._code[table:])

    def find_spec(self, name, path=None, target=None):
        if name not in self._modules:
            return None
        member, is_package, _, _ = self._modules[name]
        spec = ModuleSpec(name, self, origin=os.path.join(self._folder, member), is_package=is_package)
        spec.has_location = True
        if is_package:
            spec.submodule_search_locations.append(os.path.dirname(spec.origin))
        return spec

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        exec(self.get_code(module.__name__), module.__dict__)

    def get_code(self, name):
        _, _, start, end = self._modules[name]
        return marshal.loads(self._code[start:end])

    def get_source(self, name):
        """For tracebacks."""
        return self.get_data(os.path.join(self._folder, self._modules[name][0])).decode()

    def get_data(self, path):
        return self._zip.get_data(os.path.relpath(path, self.archive))


def main(zip):
    folder = os.path.join(os.path.abspath(zip.archive), "py36" if sys.version_info < (3, 9) else "py39")
    # What pip has installed on the host, of other versions maybe, is none of ours.
    others = ("site-packages", "dist-packages")
    sys.path[:] = [folder] + [path for path in sys.path[1:] if os.path.basename(path) not in others]
    try:
        packed = zip.get_data("code/{}".format(sys.implementation.cache_tag))
    except OSError:
        packed = b""
    if packed.startswith(MAGIC_NUMBER):
        sys.meta_path.insert(0, Library(zip, folder, packed))
    from eni_bootstrap.__main__ import run
    run()


main(__loader__)  # noqa: F821
