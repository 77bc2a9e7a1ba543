"""The policy rules of an ENI. PURE."""

from typing import List, Set

from eni_bootstrap.config.settings import Config
from eni_bootstrap.model.eni import Eni
from eni_bootstrap.model.kernel import Network, Rule


def eni_rules(eni: Eni, table: int, sources: List[Network], versions: Set[int], without_ifgroup: bool, config: Config
              ) -> List[Rule]:
    """What leads an ENI's packets to its table.

    ``without_ifgroup``: without an interface group main's specific routes can't be told apart, so that the table's own specific
    ones must come before them.
    """
    rules: List[Rule] = []
    for src in sources:
        version = src.version
        if version not in versions:
            continue
        if without_ifgroup:
            rules.append(Rule(version, config.priority_without_ifgroup, src, table=table, suppress_prefixlength=0))
        if eni.primary:
            rules.append(Rule(version, config.priority_primary, src, table=table))
            continue
        whole = src.prefixlen == src.max_prefixlen
        priority = config.priority_address if whole else config.priority_prefix
        rules.append(Rule(version, priority, src, table=table))
        if version == 6:
            rules.append(Rule(version, config.priority_fence, src, action="unreachable"))
    if not eni.primary:
        rules += [Rule(subnet.version, config.priority_device, oif=eni.dev, table=table)
                  for subnet in eni.interface.subnets]
    return rules
