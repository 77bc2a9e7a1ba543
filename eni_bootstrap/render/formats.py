"""The renderer of each format. PURE."""

from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Tuple

from eni_bootstrap.agent.waiting import findings_of
from eni_bootstrap.config.settings import Config
from eni_bootstrap.metadata import dump
from eni_bootstrap.metadata.dump import Saved
from eni_bootstrap.model.eni import Listing
from eni_bootstrap.model.finding import ERROR, Finding
from eni_bootstrap.render import ifcfg, netplan, networkd, networkmanager, shell, windows
from eni_bootstrap.render.assumed_host import File, Outline, bare, configured
from eni_bootstrap.windows.reader import snapshot_of


class Known(NamedTuple):
    """The input of a format."""

    listing: Listing
    names: Mapping[str, str]
    """MAC → name of the link, where it is known."""
    windows: Any
    """PowerShell's answers about the host, if it was asked."""
    config: Config


def _configured(render: Callable[[Outline, Config], List[File]]) -> Callable[[Known], List[File]]:
    """The files of a network manager; none where there is one ENI, which works without them."""

    def files(known: Known) -> List[File]:
        outline = configured(known.listing, known.names, known.config)
        return render(outline, known.config) if outline.all_rules else []

    return files


RENDERERS: Dict[str, Callable[[Known], List[File]]] = {
    "ip": lambda known: shell.render(known.listing, known.names, known.config),
    "netplan": _configured(netplan.render),
    "networkd": _configured(networkd.render),
    "networkmanager": _configured(networkmanager.render),
    "ifcfg": _configured(ifcfg.render),
    "windows": lambda known: windows.route_commands(
        known.listing, snapshot_of(known.windows) if known.windows is not None else None, known.config),
    "powershell": lambda known: windows.powershell(known.listing, known.config),
}


def render(name: str, what: Saved, config: Config) -> Tuple[List[File], List[Finding]]:
    """The files of one format, and the decision's problems."""
    names = dump.links(what)
    known = Known(what.listing, names, what.host.get("windows"), config)
    if name in ("windows", "powershell"):
        return RENDERERS[name](known), windows.left_out(what.listing, config)
    decision, _ = bare(what.listing, names, config)
    return RENDERERS[name](known), [finding for finding in findings_of(decision) if finding.severity == ERROR]
