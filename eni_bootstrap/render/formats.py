"""Which formats there are. PURE."""

from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Tuple

from eni_bootstrap import saved
from eni_bootstrap.config import Config
from eni_bootstrap.model import Listing
from eni_bootstrap.patience import unfit_text
from eni_bootstrap.render import ifcfg, netplan, networkd, networkmanager, script
from eni_bootstrap.render.outline import File, Outline, bare, configured
from eni_bootstrap.saved import Saved


class Known(NamedTuple):
    """All that a format is made of."""

    listing: Listing
    names: Mapping[str, str]
    """MAC → name of the link, where it is known."""
    windows: Any
    """What PowerShell told of the host, if it was asked."""
    config: Config


class Format(NamedTuple):
    render: Callable[[Known], List[File]]
    help: str


def _configured(render: Callable[[Outline, Config], List[File]]) -> Callable[[Known], List[File]]:
    return lambda known: render(configured(known.listing, known.names, known.config), known.config)


FORMATS: Dict[str, Format] = {
    "ip": Format(lambda known: script.render(known.listing, known.names, known.config),
                 "a shell script, for rc.local"),
    "netplan": Format(_configured(netplan.render), "one file for netplan"),
    "networkd": Format(_configured(networkd.render), "files for systemd-networkd"),
    "networkmanager": Format(_configured(networkmanager.render), "keyfiles for NetworkManager"),
    "ifcfg": Format(_configured(ifcfg.render), "route- and rule- files for network-scripts"),
}


def render(name: str, what: Saved, config: Config) -> Tuple[List[File], List[str]]:
    """The files of one format, and what can't be had on whatever system."""
    names = saved.links(what)
    decision, _ = bare(what.listing, names, config)
    known = Known(what.listing, names, what.host.get("windows"), config)
    return FORMATS[name].render(known), [*map(unfit_text, decision.unfit), *decision.problems]
