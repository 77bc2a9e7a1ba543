"""What is rendered, as the kernel takes it, and from the instance itself."""

import re
import subprocess

from eni_bootstrap.lab.vpc import make_tree
from eni_bootstrap.metadata import dump
from eni_bootstrap.metadata.parser import parse_interfaces
from tests import oracle
from tests.oracle import assert_every_eni_answers
from tests.unit.render.test_formats import render


def test_the_kernel_takes_each_line_as_network_scripts_give_them(make_vpc, make_agent):
    vpc = make_vpc(make_tree(3, ipv6=True))
    files = render("ifcfg", vpc.tree)
    for path, text in sorted(files.items()):
        kind, version = re.search(r"/(route|rule)(6?)-", path).groups()
        for line in text.splitlines():
            if not line.startswith("#"):
                try:
                    oracle.ip(vpc, "-{} {} add {}".format(version or "4", kind, line))
                except subprocess.CalledProcessError:
                    # What main has of IPv6, others may have made already.
                    assert "table main" in line
    assert_every_eni_answers(vpc)
    assert make_agent(vpc)("verify").code == 0


def test_on_the_instance_itself_names_are_the_kernels(make_vpc, make_agent, tmp_path):
    vpc = make_vpc(names=["ens5", "ens6", "ens7"], os="down")
    agent = make_agent(vpc)
    done = agent("metadata")
    assert done.code == 0
    assert done.json["host"] == {"links": {eni.mac: name for name, eni in vpc.nics.items()}}
    path = tmp_path / "saved.json"
    path.write_text(done.out)
    there, here = agent("render", "ip"), agent("render", "ip", "--metadata", path)
    assert there.code == 0 and there.out == here.out and "ens6" in there.out
    assert dump.read(str(path)).listing == parse_interfaces(vpc.tree)


def test_what_is_saved_holds_no_secrets(make_vpc, make_agent):
    tree = make_tree()
    tree["ram"] = {"security-credentials": {"role": '{"AccessKeySecret": "sesame", "SecurityToken": "sesame"}'}}
    tree["public-keys"] = {"0": {"openssh-key": "ssh-ed25519 sesame"}}
    tree["network"]["interfaces"]["macs"]["00:16:3e:0e:00:02"]["tags"] = "sesame"
    done = make_agent(make_vpc(tree))("metadata")
    assert done.code == 0 and "sesame" not in done.out


def test_without_a_metadata_service(make_vpc, make_agent):
    vpc = make_vpc(service=False)
    done = make_agent(vpc)("render", "ip", "--timeout", "0.5")
    assert done.code == 3 and done.out == ""
    assert make_agent(vpc)("metadata", "--timeout", "0.5").code == 3
