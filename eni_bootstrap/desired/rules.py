"""The policy rules of an ENI. PURE."""

from typing import List

from eni_bootstrap.config.settings import Config
from eni_bootstrap.model.eni import EniFamily
from eni_bootstrap.model.kernel import MAIN, Rule


def main_rule(version: int, with_ifgroup: bool, config: Config) -> Rule:
    """The suppress rule: main's specific routes hold for every source, but not those by an ENI (``suppress_ifgroup``).
    """
    return Rule(version, config.priority_main, table=MAIN, suppress_prefixlength=0,
                suppress_ifgroup=config.group if with_ifgroup else None)


def family_rules(family: EniFamily, with_ifgroup: bool, config: Config) -> List[Rule]:
    """The rules that lead an ENI's packets to its table.

    Without an interface group main's specific routes by an ENI can't be told from others, so that the table's own
    specific routes must come before all of main's.
    """
    version, table = family.version, family.table
    rules: List[Rule] = []
    for src in family.sources:
        if not with_ifgroup:
            rules.append(Rule(version, config.priority_without_ifgroup, src, table=table, suppress_prefixlength=0))
        if family.primary:
            rules.append(Rule(version, config.priority_primary, src, table=table))
            continue
        is_address = src.prefixlen == src.max_prefixlen
        priority = config.priority_address if is_address else config.priority_prefix
        rules.append(Rule(version, priority, src, table=table))
        if version == 6:
            rules.append(Rule(version, config.priority_fence, src, action="unreachable"))
    if not family.primary:
        rules.append(Rule(version, config.priority_device, oif=family.dev, table=table))
    return rules
