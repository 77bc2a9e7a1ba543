"""The user data for hosts without a package index, with a wheelhouse."""

import ensurepip
import glob
import os
import shutil
import tarfile
import zipfile

from tests.unit.cloud_init.test_scripts import AGENT, commands, run


def test_the_wheelhouse_is_installed_without_any_index(tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    # A folder that was installed over holds the pips of several releases.
    pips = glob.glob(os.path.join(os.path.dirname(ensurepip.__file__), "_bundled", "pip-*.whl")) or \
        glob.glob("/usr/share/python-wheels/pip-*.whl")
    shutil.copy(sorted(pips)[-1], str(wheels))
    with zipfile.ZipFile(str(wheels / "eni_bootstrap-0.1.0-py3-none-any.whl"), "w") as wheel:
        info = "eni_bootstrap-0.1.0.dist-info/"
        wheel.writestr("stub.py", "def run():\n" + "".join("    " + line + "\n" for line in AGENT.splitlines()))
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: eni-bootstrap\nVersion: 0.1.0\n")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(info + "entry_points.txt", "[console_scripts]\neni-bootstrap = stub:run\n")
        wheel.writestr(info + "RECORD", "")
    archive = tmp_path / "wheels.tar.gz"
    with tarfile.open(str(archive), "w:gz") as packed:
        packed.add(str(wheels), "eni-bootstrap-wheelhouse")
    script = commands("user-data-wheelhouse.yaml", archive)
    code, said, output = run(script.replace("/opt/eni-bootstrap", str(tmp_path / "opt")), tmp_path)
    assert (code, said) == (0, ["install", "apply --unattended"]), output
