"""What cloud-init is given: valid by its own judgement, and doing what it says."""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from tests.agent import ROOT
from tests.unit.host.test_installer import tree, write

HERE = pathlib.Path(ROOT) / "cloud-init"
CONFIGS = sorted(path.name for path in HERE.iterdir() if path.suffix in (".yaml", ".cfg"))
LARGEST = 32 * 1024
"""Bytes of user data that ECS takes, before they are encoded."""

AGENT = """\
import os, sys
with open(os.environ["SAID"], "a") as said:
    said.write(" ".join(sys.argv[1:]) + "\\n")
"""


@pytest.mark.once
@pytest.mark.parametrize("name", CONFIGS)
def test_cloud_init_itself_finds_no_fault(name):
    if not shutil.which("cloud-init"):
        assert not os.environ.get("CI"), "cloud-init is not installed, although CI is set"
        pytest.skip("cloud-init is not installed")
    done = subprocess.run(["cloud-init", "schema", "--config-file", str(HERE / name)], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    assert (done.returncode, done.stdout.decode().strip()) == (0, "Valid cloud-config: {}".format(HERE / name))


@pytest.mark.parametrize("name", [name for name in CONFIGS if name.startswith("user-data")])
def test_user_data_fits(name):
    assert (HERE / name).stat().st_size < LARGEST


def commands(name, fetched):
    """The script in user data, with the values that a user fills in."""
    lines = (HERE / name).read_text().split("  - |\n")[1].splitlines()
    assert all(line.startswith("    ") for line in lines)
    script = "\n".join(line[4:] for line in lines) + "\n"
    for key, value in (("url", fetched.as_uri()), ("sha256", digest(fetched))):
        (line,) = [line for line in script.splitlines() if line.startswith(key + "=")]
        script = script.replace(line, "{}={}".format(key, value))
    return script


def run(script, tmp_path):
    """Its exit code, and the arguments of the agent's runs."""
    said = tmp_path / "said"
    done = subprocess.run(["sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, env=dict(
        os.environ, SAID=str(said), PATH="{}:{}".format(os.path.dirname(sys.executable), os.environ["PATH"]),
        TMPDIR=str(tmp_path)), cwd=str(tmp_path))
    return done.returncode, said.read_text().splitlines() if said.exists() else [], done.stdout.decode()


@pytest.mark.parametrize("damaged", [False, True])
def test_the_single_file_is_fetched_checked_and_installed(tmp_path, damaged):
    program = write(tmp_path, "program", AGENT)
    script = commands("user-data-file.yaml", program)
    script = script.replace("/usr/local/sbin/eni-bootstrap", str(program))
    if damaged:
        program.write_text(AGENT + "#")
    code, said, output = run(script, tmp_path)
    if damaged:
        assert code != 0 and said == [] and "WARNING" in output
    else:
        assert (code, said) == (0, ["install", "apply --unattended"]), output
    assert sorted(os.listdir(str(tmp_path))) == sorted(["program"] + ([] if damaged else ["said"]))


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


STAYS = {
    "etc/hostname": "vm\n",
    "etc/netplan/01-mine.yaml": "network: {}\n",
    "etc/systemd/network/10-mine.network": "[Match]\n",
    "etc/sysconfig/network-scripts/ifcfg-eth0": "BOOTPROTO=dhcp\n",
    "var/lib/cloud/seed/nocloud/meta-data": "x: y\n",
    "etc/ssh/sshd_config": "PermitRootLogin no\n",
}
GOES = [
    "var/lib/dbus/machine-id", "var/lib/systemd/random-seed", "etc/ssh/ssh_host_ed25519_key",
    "etc/ssh/ssh_host_ed25519_key.pub", "var/lib/cloud/instances/i-1/user-data.txt", "var/lib/cloud/sem/x",
    "var/lib/cloud/data/instance-id", "var/log/cloud-init.log", "var/log/cloud-init-output.log",
    "etc/netplan/50-cloud-init.yaml", "etc/network/interfaces.d/50-cloud-init", "run/eni-bootstrap/state.json",
    "etc/systemd/network/10-cloud-init-eth1.network", "etc/udev/rules.d/70-persistent-net.rules",
    "etc/NetworkManager/system-connections/cloud-init-eth1.nmconnection", "var/lib/dhcp/dhclient.eth0.leases",
    "var/lib/NetworkManager/internal-1-eth0.lease", "var/lib/NetworkManager/secret_key",
    "var/log/journal/0123/system.journal", "var/lib/systemd/network/x", "var/lib/dhcpcd/duid",
    "var/lib/dhcpcd/eth0.lease",
]


@pytest.fixture
def root(tmp_path):
    """The root file system of a machine that has been running."""
    root = tmp_path / "root"
    for path, text in STAYS.items():
        write(root, path, text)
    for path in GOES:
        write(root, path, "of one machine\n", 0o600)
    write(root, "etc/machine-id", "0123456789abcdef0123456789abcdef\n")
    write(root, "etc/sysconfig/network-scripts/ifcfg-eth1", "# Created by cloud-init automatically, do not edit.\n")
    (root / "var/lib/cloud/instance").symlink_to("instances/i-1")
    for path in ("usr/lib/systemd/systemd", "usr/bin/python3", "etc/cloud/cloud.cfg"):
        write(root, path, "")
    return root


def contents(root):
    return {path: content for path, (_, content) in tree(root).items() if content is not None}


def test_clean_takes_out_one_machine_s_state_and_nothing_else(root):
    subprocess.run([str(HERE / "clean"), str(root)], check=True)
    left = contents(root)
    assert b"of one machine\n" not in left.values()
    assert left["etc/machine-id"] == b""
    assert "etc/sysconfig/network-scripts/ifcfg-eth1" not in left and "var/lib/cloud/instance" not in left
    assert {path: left[path].decode() for path in STAYS} == STAYS
    subprocess.run([str(HERE / "clean"), str(root)], check=True)
    assert contents(root) == left


NETWORK = [path for path in GOES if path.startswith("etc/") and "ssh" not in path]


@pytest.mark.parametrize("path, text", [
    ("etc/cloud/cloud.cfg.d/99-network.cfg", "network: {config: disabled}\n"), ("etc/cloud/cloud-init.disabled", "")])
def test_what_nobody_would_make_anew_stays(root, path, text):
    write(root, path, text)
    done = subprocess.run([str(HERE / "clean"), str(root)], check=True, stdout=subprocess.PIPE)
    assert b"the network's configuration stays" in done.stdout
    left = contents(root)
    assert set(NETWORK) <= set(left) and "etc/sysconfig/network-scripts/ifcfg-eth1" in left
    assert ("etc/ssh/ssh_host_ed25519_key" in left) == path.endswith("disabled")


def test_without_cloud_init_host_keys_go_only_where_new_ones_are_made(root):
    shutil.rmtree(str(root / "etc/cloud"))
    assert b"host keys stay" in subprocess.run([str(HERE / "clean"), str(root)], stdout=subprocess.PIPE).stdout
    assert (root / "etc/ssh/ssh_host_ed25519_key").exists()
    write(root, "usr/lib/systemd/system/sshd-keygen.target", "")
    subprocess.run([str(HERE / "clean"), str(root)], check=True)
    assert not (root / "etc/ssh/ssh_host_ed25519_key").exists()


@pytest.mark.parametrize("link", ["var/log", "var/lib/dhcp", "etc/machine-id", "etc/ssh"])
def test_a_link_that_leads_out_of_the_image_is_not_followed(root, tmp_path, link):
    other = tmp_path / "other"
    moved = root / link
    moved.rename(other)
    moved.symlink_to(other)
    before = tree(tmp_path)
    done = subprocess.run([str(HERE / "clean"), str(root)], stderr=subprocess.PIPE)
    assert done.returncode == 1 and b"leads out of there: nothing was cleaned" in done.stderr
    assert tree(tmp_path) == before


def test_bake_leaves_what_a_package_has_put_there(root, tmp_path):
    write(root, "usr/lib/systemd/system/eni-bootstrap.service", "")
    subprocess.run([str(HERE / "bake"), str(write(tmp_path, "agent", AGENT)), str(root)], check=True,
                   env=dict(os.environ, SAID=str(tmp_path / "said")))
    assert not (tmp_path / "said").exists() and b"of one machine\n" not in contents(root).values()


def test_bake_leaves_an_image_ready(root, tmp_path):
    agent = write(tmp_path, "agent", AGENT)
    for _ in range(2):
        subprocess.run([str(HERE / "bake"), str(agent), str(root)], check=True,
                       env=dict(os.environ, SAID=str(tmp_path / "said")))
    assert (tmp_path / "said").read_text() == "install --root {}/\n".format(root) * 2
    left = contents(root)
    assert left["etc/cloud/cloud.cfg.d/99-eni-bootstrap.cfg"] == (HERE / "99-eni-bootstrap.cfg").read_bytes()
    assert os.access(str(root / "var/lib/cloud/scripts/per-boot/eni-bootstrap"), os.X_OK)
    assert b"of one machine\n" not in left.values()


@pytest.mark.parametrize("program", ["bake", "clean"])
@pytest.mark.parametrize("arguments", [[], ["/nowhere"], ["/nowhere", "/nowhere"]])
def test_used_wrongly_they_say_how_and_do_nothing(program, arguments):
    done = subprocess.run([str(HERE / program)] + arguments, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert "cloud-init/{} ".format(program) in done.stderr.decode()
