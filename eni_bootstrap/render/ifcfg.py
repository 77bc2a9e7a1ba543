"""The route- and rule- files of network-scripts. PURE.

Red Hat's systems up to 8 have them, and so Alibaba Cloud Linux 2 and 3. ``ifup-routes`` gives each line to
``ip route add`` or ``ip rule add``, ``ifdown-routes`` to ``del``. What configures the link, ``ifcfg-eth1``, stays as it
is; what has to be in it is said.
"""

from typing import List

from eni_bootstrap.config.settings import Config
from eni_bootstrap.render.assumed_host import File, Member, Outline, also_sent, comments, other_settings

_PATH = "/etc/sysconfig/network-scripts/{}-{}"


def render(outline: Outline, config: Config) -> List[File]:
    """The files; what belongs to no ENI is in the first ENI's: the primary's unless that one is left out."""
    files: List[File] = []
    for member in outline.members:
        others = outline if member is outline.members[0] else outline._replace(routes=(), rules=())
        for version, suffix in ((4, ""), (6, "6")):
            head = comments(outline.headline) + comments([member.eni.label + ":", *_notes(member, version, config)])
            routes = [each.text(each=["onlink"] if each.onlink else []) for each in [*member.routes, *others.routes]
                      if each.version == version]
            rules = [str(each) for each in [*member.rules, *others.rules] if each.version == version]
            for kind, lines in (("route", routes), ("rule", rules)):
                if lines:
                    files.append(File(_PATH.format(kind + suffix, member.dev), "\n".join(head + lines) + "\n"))
    return files


def _notes(member: Member, version: int, config: Config) -> List[str]:
    """Notes on what these files can't say."""
    notes = ["For network-scripts; where NetworkManager reads such files, use the format networkmanager."]
    if member.eni.primary:
        return notes
    held = ["{}/{}".format(each.address, each.prefix_length) for each in member.addresses
            if each.address.version == version]
    if version == 6 and held:
        notes.append("NOT EXPRESSED: ifcfg-{} needs IPV6INIT=yes, IPV6_AUTOCONF=no, IPV6ADDR={}; else nothing is "
                     "reached.".format(member.dev, held[0]))
        held = held[1:]
    if held:
        notes.append("NOT EXPRESSED: more addresses of the link: {}; else they can't be bound to".format(
            ", ".join(held)))
    notes += ["NOT EXPRESSED: MTU={} in ifcfg-{}; else it stays as it is.".format(each.value, each.dev)
              for each in member.settings if version == 4 and each.name == "mtu"]
    notes += other_settings(member) if version == 4 else []
    return notes + ["NOT EXPRESSED: what stays after ifdown. Until ifup packets from the ENI's addresses leave by "
                    "another one, and the cloud drops them. While the link has no carrier they are refused.",
                    *also_sent(config)]
