"""What people can run on Windows instead of the agent: route and netsh commands, or a PowerShell script. PURE."""

import re
from typing import List, Optional, Sequence, Set, Tuple

from eni_bootstrap.config.settings import Config
from eni_bootstrap.desired.selection import leave_ignored
from eni_bootstrap.desired.validation import refuse_stealing
from eni_bootstrap.model.eni import Eni, Listing, SkippedEni, Subnet, UnreadyEni, label
from eni_bootstrap.model.finding import Finding
from eni_bootstrap.model.kernel import EVERYWHERE, Address, Link, Route
from eni_bootstrap.render.assumed_host import ORIGIN, File, comments
from eni_bootstrap.windows.desired import decide, not_here, reached
from eni_bootstrap.windows.model import GATEWAY_METRIC, WORST_METRIC, Snapshot
from eni_bootstrap.windows.scripts import quoted

_CMD_HEAD = "@echo off\n" + "\n".join(comments([ORIGIN], "rem")) + """
rem Gives each secondary ENI a default route of its own, by which Windows answers from its addresses. To be run as
rem administrator. A route that is there already makes its command fail, which does no harm.
"""

_SHARED = """\
rem
rem Several ENIs have the gateway {}. After a reboot Windows may put what "route -p" has made on the wrong
rem one: what it keeps (PersistentRoutes in the registry) has no interface. Use the format powershell here.
"""

_FIND = """\
set INDEX=
for /f %%i in ('powershell -NoProfile -Command "$a = @(Get-NetAdapter | Where-Object MacAddress -eq '{}'); \
if ($a.Count -eq 1) {{ $a[0].ifIndex }}"') do set INDEX=%%i
if not defined INDEX echo {}: not exactly one adapter has this MAC
"""

_PS_HEAD = "\n".join(comments([ORIGIN])) + """
#Requires -Version 4
#Requires -RunAsAdministrator
# Gives each secondary ENI a default route of its own, by which Windows answers from its addresses: worse than the
# primary's, in force now and after each boot. Run again it changes nothing. Exit code 1: something could not be done.
$ErrorActionPreference = 'Stop'  # functions of modules, as the cmdlets for routes are, do not see it
$failed = $false
"""

_PS_BODY = """\

function Complain($text) {
    Write-Warning $text
    $script:failed = $true
}

function Value($row, $name) { $row.CimInstanceProperties[$name].Value }

# The adapters with an ENI's MAC; a warning where that is not one that is enabled.
function Adapters($eni) {
    $found = @(Get-NetAdapter -ErrorAction Stop | Where-Object {
        (Value $_ 'PermanentAddress') -replace '[-:]', '' -eq $eni.Mac
    })
    if ($found.Count -eq 0) { Complain "$($eni.Label): no adapter has this MAC" }
    elseif ($found.Count -gt 1) {
        $names = $found.Name -join ', '
        Complain "$($eni.Label): several adapters have this MAC (a Hyper-V switch, or a team): $names"
    }
    elseif ((Value $found[0] 'InterfaceAdminStatus') -ne 1) { Complain "$($eni.Label): the adapter is disabled" }
    $found
}

# The default routes of an interface in one store: that there is none is an error to the cmdlet.
function Defaults($index, $prefix, $store) {
    try { Get-NetRoute -InterfaceIndex $index -DestinationPrefix $prefix -PolicyStore $store -ErrorAction Stop } catch {
        if ($_.FullyQualifiedErrorId -notlike 'CmdletizationQuery_NotFound*') { throw }
    }
}

# One IP version on an interface; nothing where it is switched off.
function IpInterface($index, $family) {
    try { Get-NetIPInterface -InterfaceIndex $index -AddressFamily $family -ErrorAction Stop } catch {
        if ($_.FullyQualifiedErrorId -notlike 'CmdletizationQuery_NotFound*') { throw }
    }
}

# The effective metric than which the others' must be worse: of the primary's best default route, else what Windows
# would give one that is typed by hand.
function BestMetric($adapters, $prefix, $family) {
    $best = @()
    $typed = @()
    foreach ($adapter in $adapters) {
        $interface = IpInterface $adapter.ifIndex $family
        if ($null -eq $interface) { continue }
        $own = Value $interface 'InterfaceMetric'
        $typed += $own + GATEWAY_METRIC
        foreach ($route in @(Defaults $adapter.ifIndex $prefix 'ActiveStore')) {
            $best += $own + (Value $route 'RouteMetric')
        }
    }
    if ($best.Count -eq 0) { $best = $typed }
    if ($best.Count -eq 0) { return 0 }
    ($best | Measure-Object -Minimum).Minimum
}

function GiveDefault($eni, $index, $gateway, $base) {
    $family, $prefix = if ($gateway -like '*:*') { 'IPv6', '::/0' } else { 'IPv4', '0.0.0.0/0' }
    $interface = IpInterface $index $family
    if ($null -eq $interface) {
        return Write-Warning "$($eni.Label): $family is switched off on the adapter and left out"
    }
    if ((Value $interface 'WeakHostSend') -eq 1) {
        return Complain "$($eni.Label): weak host sending is switched on for $family"
    }
    $own = Value $interface 'InterfaceMetric'
    $metric = [int][Math]::Max(1, $base[$family] + 1 - $own)
    $persistent = @(Defaults $index $prefix 'PersistentStore')
    $there = $persistent + @(Defaults $index $prefix 'ActiveStore')
    foreach ($route in $there) {
        $hop = Value $route 'NextHop'
        $typed = $persistent -contains $route -or ($hop -ne $gateway -and $hop -notlike 'fe80:*')
        $ahead = (Value $route 'RouteMetric') + $own -le $base[$family]
        if ($typed -and ($hop -ne $gateway -or $ahead)) {
            return Complain "$($eni.Label): somebody else's default route is in the place of ours: by $hop"
        }
    }
    if ($there.Count -gt 0) { return }
    if ($metric -gt WORST_METRIC) { return Complain "$($eni.Label): it would take the metric $metric" }
    New-NetRoute -DestinationPrefix $prefix -InterfaceIndex $index -NextHop $gateway -RouteMetric $metric `
        -Confirm:$false -ErrorAction Stop | Out-Null
    Write-Output "$($eni.Label): default route by $gateway, metric $metric"
}

$primaries = @(Adapters $primaryEni)
if ($primaries.Count -eq 0) { exit 1 }
$base = @{ IPv4 = BestMetric $primaries '0.0.0.0/0' 'IPv4'; IPv6 = BestMetric $primaries '::/0' 'IPv6' }
foreach ($eni in $secondaries) {
    $found = @(Adapters $eni)
    if ($found.Count -ne 1 -or (Value $found[0] 'InterfaceAdminStatus') -ne 1) { continue }
    foreach ($gateway in $eni.Gateways) {
        try { GiveDefault $eni $found[0].ifIndex $gateway $base } catch {
            Complain "$($eni.Label): $($_.Exception.Message)"
        }
    }
}
if ($failed) { exit 1 }
""".replace("GATEWAY_METRIC", str(GATEWAY_METRIC)).replace("WORST_METRIC", str(WORST_METRIC))


def route_commands(listing: Listing, snapshot: Optional[Snapshot], config: Config) -> List[File]:
    """The vendor's commands, as a .cmd. Without a snapshot it finds the interfaces itself and takes the metric that is
    right where all have the same."""
    return [File("eni-bootstrap-routes.cmd", _route_commands(listing, snapshot, config), newline="\r\n")]


def powershell(listing: Listing, config: Config) -> List[File]:
    """A script that does on any Windows what the agent would, as far as it can without knowing what is its own."""
    return [File("eni-bootstrap-routes.ps1", _powershell(listing, config), newline="\r\n")]


def left_out(listing: Listing, config: Config) -> List[Finding]:
    """What the configuration asks for and no Windows can have."""
    return _chosen(listing, config)[1]


def _route_commands(listing: Listing, snapshot: Optional[Snapshot], config: Config) -> str:
    parts = [_CMD_HEAD]
    if snapshot is None:
        enis, said = _remarks(listing, config)
        parts += ["rem The metric 1 is worse than the primary's where all interfaces have the same metric, as Windows\n"
                  "rem gives links of one speed.\n"]
        parts += [_SHARED.format(gateway) for gateway in _shared(enis)]
        parts += [_remark(text) for text in said]
        for eni in enis:
            if not eni.primary:
                parts += [_remark(eni.label), _FIND.format(_dashed(eni.mac), _safe(eni.label))]
                parts += ["if defined INDEX {}\n".format(_command(subnet.gateway, "%INDEX%", 1))
                          for subnet in eni.subnets]
        return "".join(parts)
    decision = decide(listing, _without_ways(listing, snapshot), (), config)
    parts += [_SHARED.format(gateway) for gateway in _shared(decision.enis)]
    parts += [_remark(text) for text in decision.problems + decision.remarks]
    parts += [_remark(member.finding.text) for member in decision.unready]
    for eni in decision.enis:
        if not eni.primary:
            parts.append(_remark(eni.label))
            parts += [_command_of(subnet, eni, decision.routes) for subnet in eni.subnets]
    return "".join(parts)


def _powershell(listing: Listing, config: Config) -> str:
    enis, said = _remarks(listing, config)
    lines = ["# {}\n".format(_safe(text)) for text in said]
    primary = [_table(eni) for eni in enis if eni.primary] or [
        _hash(label(member.eni_id, member.mac, ""), member.mac, ()) for member in listing.sick if member.primary]
    if not primary:
        return _PS_HEAD + "".join(lines) + "Write-Warning 'metadata lists no primary ENI'\nexit 1\n"
    lines.append("$primaryEni = {}\n".format(primary[0]))
    lines.append("$secondaries = @(\n{})\n".format("".join(
        "    {}\n".format(_table(eni)) for eni in enis if not eni.primary)))
    lines += ["Write-Warning {}; $failed = $true\n".format(quoted("{}: {}".format(
        label(member.eni_id, member.mac, ""), member.reason))) for member in listing.sick]
    return _PS_HEAD + "".join(lines) + _PS_BODY


def _remarks(listing: Listing, config: Config) -> Tuple[List[Eni], List[str]]:
    """The ENIs that can be set up, and remarks on the others."""
    fit, problems, left = _chosen(listing, config)
    return fit, ["LEFT OUT: " + finding.text if finding.eni else finding.text for finding in problems] + [
        member.finding.text for member in left]


def _chosen(listing: Listing, config: Config) -> Tuple[List[Eni], List[Finding], List[SkippedEni]]:
    """The ENIs that can be set up, as far as metadata tells; what can't be had; what is not wanted."""
    enis = [Eni(interface, Link(0, "", interface.mac), "") for interface in listing.interfaces]
    sick = [UnreadyEni(each.eni_id, each.mac, each.primary, each.reason, each.transient) for each in listing.sick]
    fit, unready = refuse_stealing(sorted(enis, key=lambda eni: not eni.primary), sick, ())
    fit, far = reached(fit)
    fit, unready, left = leave_ignored(fit, sick + unready + far, config.ignore, config.only)
    return fit, not_here(config) + [member.finding for member in unready], left


def _shared(enis: Sequence[Eni]) -> List[Address]:
    """The IPv4 gateways that several ENIs share."""
    seen: Set[Address] = set()
    shared: List[Address] = []
    for gateway in [subnet.gateway for eni in enis for subnet in eni.subnets if subnet.version == 4]:
        shared += [gateway] if gateway in seen and gateway not in shared else []
        seen.add(gateway)
    return shared


def _without_ways(listing: Listing, snapshot: Snapshot) -> Snapshot:
    """As if the secondaries had no default route by their own gateways: the commands are for a host that has none, and
    do no harm where they are."""
    own = {(adapter.ifindex, subnet.gateway) for each in listing.interfaces if not each.primary
           for subnet in each.subnets for adapter in snapshot.adapters if adapter.mac == each.mac}
    active, persistent = (tuple(route for route in store if (route.ifindex, route.gateway) not in own)
                          for store in (snapshot.active, snapshot.persistent))
    return snapshot._replace(active=active, persistent=persistent)


def _command_of(subnet: Subnet, eni: Eni, routes: Sequence[Route]) -> str:
    for route in routes:
        if route.devs() == (eni.dev,) and route.version == subnet.version:
            return _command(subnet.gateway, str(eni.link.ifindex), route.metric) + "\n"
    return _remark("IPv{}: nothing that can be done, see above".format(subnet.version))


def _command(gateway: Address, index: str, metric: int) -> str:
    if gateway.version == 4:
        return "route add -p 0.0.0.0 mask 0.0.0.0 {} if {} metric {}".format(gateway, index, metric)
    return "netsh interface ipv6 add route {} interface={} nexthop={} metric={} store=persistent".format(
        EVERYWHERE[6], index, gateway, metric)


def _table(eni: Eni) -> str:
    return _hash(eni.label, eni.mac, [str(subnet.gateway) for subnet in eni.subnets])


def _hash(name: str, mac: str, gateways: Sequence[str]) -> str:
    return "@{{ Label = {}; Mac = {}; Gateways = @({}) }}".format(
        quoted(_safe(name)), quoted(mac.replace(":", "").upper()), ", ".join(map(quoted, gateways)))


def _dashed(mac: str) -> str:
    """A MAC as Get-NetAdapter shows it: 00-16-3E-0E-00-01."""
    return mac.replace(":", "-").upper()


def _remark(text: str) -> str:
    return "rem\nrem {}\n".format(_safe(text))


def _safe(text: str) -> str:
    """Without what means something to cmd or ends a comment: names are other people's. In ASCII, because cmd reads a
    file in the console's own code page."""
    return re.sub(r"[^\w .,:;/()'{}=*+-]", "_", text, flags=re.ASCII)
