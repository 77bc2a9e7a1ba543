"""A shell script of ``ip`` commands: what ``apply`` does on a host that it has never seen before. PURE.

What depends on the host is decided where the script runs: whether an ENI is there, whether its link has an address,
whether the system has made a default route by it, and how good the primary's is. A second run changes nothing. What is
not marked as ours is neither replaced nor removed.
"""

import shlex
from typing import Dict, Iterator, List, Mapping, Tuple

from eni_bootstrap.config.settings import Config
from eni_bootstrap.desired.connmark import ruleset
from eni_bootstrap.desired.decide import Decision
from eni_bootstrap.model.changes import Item, Record, Ruleset
from eni_bootstrap.model.eni import Listing, SickInterface
from eni_bootstrap.model.kernel import MAIN, LinkAddress, LinkGroup, LinkSetting, LinkUp, Network, Route, Rule
from eni_bootstrap.plan.diff import plan
from eni_bootstrap.render.assumed_host import File, Owners, bare, comments, headline

_PATH = "/usr/local/sbin/eni-bootstrap-routes"

_USE = (
    "Call it at boot, in rc.local for instance, once the network is there. After a change of ENIs: \"{} remove\", then "
    "the new one. \"remove\" leaves links up, and addresses and links' settings as they are.".format(_PATH),
    "NOT EXPRESSED: routes of your own by an ENI, which nothing is known of here: they hold for what main routes only; "
    "and another table or interface group where somebody else has one of these: that is said, with exit code 1.")

_HEAD = """\

LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH
verb=add failed=0 here=' ' fresh=' '
[ "${{1:-}}" != remove ] || verb=del

# systemd-networkd deletes other people's rules and device-less routes, unless they are marked as the kernel's.
guard={protocol}
if systemctl -q is-active systemd-networkd 2>/dev/null; then guard=kernel; fi

say() {{
    echo "eni-bootstrap: $*" >&2
    failed=1
}}

# COMMAND...: that something is there, or gone, already is no failure.
try() {{
    said=$("$@" 2>&1) && return
    case $verb$said in
    add*'File exists'* | add*'already assigned'*) ;;
    del*'No such file'* | del*'No such process'* | del*'does not exist'*) ;;
    *) say "$*: $said" ;;
    esac
}}

# DEV COMMAND...: for an ENI that is not here; of one that is, what was made while it was not goes.
off() {{
    asked=$verb
    case $here in
    *" $1 "*) verb=del ;;
    esac
    shift
    "$@"
    verb=$asked
}}

# DEV MAC: sees whether the ENI is here.
eni() {{
    case $(ip -o link show dev "$1" 2>/dev/null) in
    *"link/ether $2 "*) here="$here$1 " ;;
    *) say "$1: there is no such link with the MAC $2; it is left out" ;;
    esac
}}

# DEV COMMAND...: for an ENI that is here.
on() {{
    case $here in
    *" $1 "*) shift && "$@" ;;
    esac
}}

# DEV: into the interface group, unless it is in somebody else's.
group() {{
    if [ -n "$(ip -o link show dev "$1" group 0)" ]; then
        try ip link set dev "$1" group {group}
    elif [ -z "$(ip -o link show dev "$1" group {group})" ]; then
        say "$1: somebody else's interface group, which stays: main's routes by it hold for the other ENIs' addresses"
    fi
}}

up() {{
    case $(ip -o link show dev "$1") in
    *[,\\<]UP[,\\>]*) ;;
    *) fresh="$fresh$1 " && try ip link set dev "$1" up ;;
    esac
}}

# FAMILY TABLE TYPE DESTINATION ROUTE...: what is ours is made anew; what is somebody else's stays.
route() {{
    family=$1 table=$2 type=$3 to=$4
    shift 4
    do=add
    for mark in {protocol} "$guard"; do
        present=$(ip "$family" route show table "$table" exact "$to" type "$type" proto "$mark" 2>/dev/null)
        [ -z "$present" ] || do=replace
    done
    said=$(ip "$family" route "$do" "$@" 2>&1) && return
    case $said in
    *'File exists'*) ;;
    *) say "ip $family route $do $*: $said" && return ;;
    esac
    way=${{*%% table *}}
    case "$(ip "$family" route show table "$table" exact "$to" type "$type" 2>/dev/null) " in
    *"${{way#"$to"}} "*) ;;
    *) say "${{way##* }}: table $table has somebody else's $to, which stays; wanted: $way" ;;
    esac
}}

# FAMILY RULE...: the kernel takes one with another mark for another one, so that there would be two.
rule() {{
    family=$1
    shift
    if [ $verb = add ]; then
        said=$(ip "$family" rule add "$@" protocol "$guard" 2>&1) || {{
            case $said in
            *'File exists'*) return ;;
            *) say "ip $family rule add $*: $said" && return ;;
            esac
        }}
    fi
    for mark in {protocol} kernel; do
        case $verb$mark in
        del*) try ip "$family" rule del "$@" protocol "$mark" ;;
        "add$guard") ;;
        *) ip "$family" rule del "$@" protocol "$mark" 2>/dev/null ;;
        esac
    done
}}

# DEV PREFIX COMMAND...: where main has the prefix directly on the link; far: where it has not.
near() {{
    [ -z "$(ip -6 route show table main exact "$2" dev "$1")" ] || {{ shift 2 && "$@"; }}
}}
far() {{
    [ -n "$(ip -6 route show table main exact "$2" dev "$1")" ] || {{ shift 2 && "$@"; }}
}}

# FAMILY: metric and device of each default route in main, the best first.
defaults() {{
    ip -o "$1" route show default table main | awk '{{
        metric = 0
        for (i = 1; i < NF; i++) if ($i == "metric") metric = $(i + 1)
        for (i = 1; i < NF; i++) if ($i == "dev") print metric, $(i + 1)
    }}' | sort -n
}}

# FAMILY METRIC: whether somebody else's default route in main comes before one of this metric.
better() {{
    ip -o "$1" route show default table main | awk -v metric="$2" '!/ proto {protocol} / {{
        other = 0
        for (i = 1; i < NF; i++) if ($i == "metric") other = $(i + 1)
        if (other < metric + 0) found = 1
    }} END {{ exit !found }}'
}}

# DEV FAMILY GATEWAY N: a default route in main where the system has made none, worse than the primary's; none by which
# the host itself would go.
main_default() {{
    present=$(ip "$2" route show default dev "$1" table main proto {protocol})
    case "$present " in
    *' metric '*)
        metric=${{present##* metric }}
        metric=${{metric%% *}}
        case "$present " in
        *" via $3 "*) ;;
        *) try ip "$2" route replace default via "$3" dev "$1" onlink metric "$metric" proto {protocol} ;;
        esac
        better "$2" "$metric" || try ip "$2" route del default dev "$1" metric "$metric" proto {protocol}
        return
        ;;
    esac
    [ -z "$(ip "$2" route show default dev "$1" table main)" ] || return 0
    metric=$(defaults "$2" | awk '$2 == "{primary}" {{ print $1; exit }}')
    metric=${{metric:-{missing}}}
    [ "$metric" -ge {least} ] || metric={least}
    metric=$((metric + {step} * $4))
    while defaults "$2" | grep -q "^$metric "; do metric=$((metric + 1)); done
    better "$2" "$metric" || return 0
    said=$(ip "$2" route add default via "$3" dev "$1" onlink metric "$metric" proto {protocol} 2>&1) && return
    [ "$2" = -6 ] || say "default by $1: $said"  # main may know an IPv6 gateway as another ENI's neighbour
}}

# FAMILY ROUTE...: the primary's own default, where main's best one is another ENI's.
primary_default() {{
    best=$(defaults "$1" | awk 'NR == 1 {{ best = $1 }} $1 == best {{ print $2 }}')
    for dev in $best; do
        case '{secondaries}' in
        *" $dev "*) route "$1" {table} unicast default $2 && return ;;
        esac
    done
}}

# DEV: a strict reverse path filter has to ask with the packet's mark.
heed() {{
    conf=/proc/sys/net/ipv4/conf
    [ "$(cat "$conf/all/rp_filter" "$conf/$1/rp_filter" | sort -n | tail -n 1)" = 1 ] || return 0
    grep -q 1 "$conf/all/src_valid_mark" "$conf/$1/src_valid_mark" || try sysctl -qw "net/ipv4/conf/$1/src_valid_mark=1"
}}

# DEV FAMILY ADDRESS: where nobody else addresses the link, who may take {wait:.0f} s for it, all of them together.
left={wait:.0f}
address() {{
    while [ -z "$(ip -o "$2" address show dev "$1" scope global)" ]; do
        case $fresh$left in
        *" $1 "* | *' 0')
            more "$@"
            return
            ;;
        esac
        left=$((left - 1))
        sleep 1
    done
}}
more() {{
    dev=$1
    shift
    try ip "$1" address add dev "$dev" $2
}}
"""


def render(listing: Listing, names: Mapping[str, str], config: Config) -> List[File]:
    """The script."""
    decision, snapshot = bare(listing, names, config)
    changes = [change.item for change in plan(decision, snapshot, Record(), config).changes]
    owners = Owners(decision)
    lines = _Lines(decision, owners, config)
    near = bare(listing, names, config, on_link=True)[0].routes
    parts: Dict[str, List[str]] = {"links": [], "routes": [], "rules": [], "addresses": []}
    for item in changes:
        if isinstance(item, (LinkGroup, LinkUp, LinkSetting)):
            parts["links"].append(lines.link(item))
        elif isinstance(item, Route):
            part = parts["addresses" if item.is_local_prefix else "routes"]
            part.append(lines.route(item, "" if item in near else "far"))
        elif isinstance(item, Rule):
            parts["rules"].append(lines.rule(item))
        else:
            parts["addresses"].append(lines.address(item))
    parts["routes"] += [lines.route(route, "near") for route in near if route not in decision.routes]
    parts["routes"] += lines.primary_defaults()
    parts["rules"] += [lines.refusal(dev, rule) for dev, rule in _refusals(decision, listing, names, config)]
    text = ["#!/bin/sh"] + comments([*headline(decision, names), *_USE]) + [lines.head()]
    for name in ("links", "routes", "rules", "addresses"):
        text += ["{}() {{".format(name)] + ["    " + line for line in parts[name] or [":"]] + ["}", ""]
    text += lines.tail(ruleset(decision.marked, config))
    return [File(_PATH, "\n".join(text) + "\n", 0o755)]


def _refusals(decision: Decision, listing: Listing, names: Mapping[str, str], config: Config
              ) -> Iterator[Tuple[str, Rule]]:
    """Refusals of the traffic that access entries send by an ENI, for as long as that ENI is not here."""
    present = set(decision.rules)
    for eni in decision.enis if config.entries else ():
        if not eni.primary:
            without = listing._replace(
                interfaces=tuple(each for each in listing.interfaces if each.mac != eni.mac),
                sick=(*listing.sick, SickInterface(eni.interface.eni_id, eni.mac, False, "", False)))
            for rule in bare(without, names, config)[0].rules:
                if rule.action == "unreachable" and rule.priority != config.priority_fence and rule not in present:
                    yield eni.dev, rule


class _Lines:
    """The script's lines for changes."""

    def __init__(self, decision: Decision, owners: Owners, config: Config) -> None:
        self._decision = decision
        self._owners = owners
        self._config = config
        self._primary = [eni for eni in decision.enis if eni.primary]
        self._secondaries = [eni for eni in decision.enis if not eni.primary]
        self._macs = {eni.dev: eni.mac for eni in decision.enis}
        self._macs.update((member.dev, member.mac) for member in decision.unready if member.dev)

    def head(self) -> str:
        config = self._config
        return _HEAD.format(
            protocol=config.protocol, group=config.group, primary=self._primary_dev,
            missing=config.metric_missing, least=config.metric_least, step=config.metric_step,
            secondaries=" " + "".join(eni.dev + " " for eni in self._secondaries), table=config.table_primary,
            wait=config.address_wait)

    @property
    def _primary_dev(self) -> str:
        """The primary's device, also where that ENI is left out: what main has by it counts."""
        devs = [eni.dev for eni in self._primary] + [member.dev for member in self._decision.unready if member.primary]
        return devs[0] if devs else ""

    def link(self, item: Item) -> str:
        if isinstance(item, LinkUp):
            return self._on(item.dev, "up", item.dev)
        if isinstance(item, LinkGroup):
            return self._on(item.dev, "group", item.dev)
        assert isinstance(item, LinkSetting)
        if item.name == "mtu":
            return self._on(item.dev, "try", "ip", "link", "set", "dev", item.dev, "mtu", str(item.value))
        return self._on(item.dev, "try", "sysctl", "-qw", "net/ipv4/conf/{0.dev}/{0.name}={0.value}".format(item))

    def route(self, route: Route, where: str) -> str:
        """``where``: ``near`` or ``far``, only where main has the ENI's IPv6 vSwitch on its link, or has not."""
        dev = self._owners.of(route)
        if route.table == MAIN:
            return self._on(dev, "main_default", dev, _family(route), str(route.hops[0].gateway),
                            str(next(family.number for family in self._decision.families if family.dev == dev)))
        mark = str(self._config.protocol) if route.hops else '"$guard"'
        words = route.text(["proto", mark], ["onlink"] if route.onlink else []).split()
        to = "default" if route.is_default else str(route.dst)
        condition = [where, dev, str(self._vswitch(dev))] if where else []
        return self._on(dev, *condition, "route", _family(route), str(route.table), route.kind, to, *words)

    def rule(self, rule: Rule) -> str:
        return self._on(self._owners.of(rule), "rule", "-{}".format(rule.version), *map(shlex.quote, str(rule).split()))

    def refusal(self, dev: str, rule: Rule) -> str:
        return " ".join(["off", dev, "rule", "-{}".format(rule.version), *map(shlex.quote, str(rule).split())])

    def address(self, held: LinkAddress) -> str:
        """An address; an ENI's first one may be a DHCP client's business, the others are wanted in any case."""
        first = any(held.address in subnet.addresses[:1] for eni in self._decision.enis for subnet in eni.subnets)
        words = "{}/{}".format(held.address, held.prefix_length)
        if held.address.version == 6:
            words += " nodad" + (" preferred_lft 0" if held.deprecated else "")
        return self._on(held.dev, "address" if first else "more", held.dev,
                        "-{}".format(held.address.version), shlex.quote(words))

    def primary_defaults(self) -> List[str]:
        """The primary's default routes: only where there are secondaries and it has no default of its own."""
        if not self._decision.rules or self._config.primary == "full":
            return []
        versions = {rule.version for rule in self._decision.rules}
        default = "default via {} dev {} table {} {}proto {}"
        return [self._on(eni.dev, "primary_default", "-{}".format(subnet.version), shlex.quote(default.format(
            subnet.gateway, eni.dev, self._config.table_primary, "onlink " if subnet.version == 4 else "",
            self._config.protocol))) for eni in self._primary for subnet in eni.subnets if subnet.version in versions]

    def tail(self, marks: str) -> List[str]:
        config = self._config
        own = sorted({route.table for route in self._decision.routes if config.owns_table(route.table)})
        nft = "nft -f - <<'END' || say \"connections are not marked\"\n{}END".format(Ruleset(marks).text)
        lines = ["if [ $verb = del ]; then", "    here=' {} '".format(" ".join(sorted(self._macs))), "    rules"]
        lines += ["    for family in -4 -6; do",
                  "        for table in {}; do".format(" ".join(map(str, own))),
                  "            try ip $family route flush table $table proto {}".format(config.protocol),
                  "            try ip $family route flush table $table type unreachable proto kernel",
                  "        done",
                  "        try ip $family route flush table local type local proto {}".format(config.protocol),
                  "        for dev in $here; do",
                  "            ip link show dev $dev >/dev/null 2>&1 || continue",
                  "            try ip $family route flush exact default dev $dev table main proto {}".format(
                      config.protocol),
                  "        done",
                  "    done"]
        lines += ["    for dev in $here; do",
                  "        [ -z \"$(ip -o link show dev $dev group {} 2>/dev/null)\" ] ||".format(config.group),
                  "            try ip link set dev $dev group 0",
                  "    done"]
        lines += ["    nft delete table inet eni_bootstrap 2>/dev/null"] if marks else []
        lines += ["else"] + ["    eni {} {}".format(*each) for each in self._macs.items()]
        lines += ["    links", "    routes", "    rules"] + ([nft] if marks else [])
        lines += ["    " + self._on(member.dev, "heed", member.dev) for member in self._decision.marked
                  if not member.primary]
        return lines + ["    addresses", "fi", "exit $failed"]

    def _on(self, dev: str, *words: str) -> str:
        """A line of the script: an ENI's line runs where that ENI is there, any other line runs always."""
        return " ".join((["on", dev] if dev in self._macs else []) + list(words))

    def _vswitch(self, dev: str) -> Network:
        return next(subnet.vswitch for eni in self._decision.enis if eni.dev == dev
                    for subnet in eni.subnets if subnet.version == 6)


def _family(route: Route) -> str:
    return "-{}".format(route.version)
