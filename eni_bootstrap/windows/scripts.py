"""The PowerShell that reads, changes and asks: for Windows PowerShell 4 (Server 2012 R2) and newer. PURE.

Each script prints one JSON value and nothing else: what was asked for, or {"error": ..., "id": ...}. What is read are
the properties as WMI has them (``CimInstanceProperties``): what the cmdlets' own views print is in the system's
language. All of it is ASCII, because it goes through a pipe whose encoding the system chooses; what comes back is
UTF-8, written as bytes for the same reason. Whatever goes into a script goes through ``quoted`` or is a number.
"""

from typing import Iterable, Optional, Sequence, Tuple

from eni_bootstrap.model.kernel import Address
from eni_bootstrap.windows.model import WindowsRoute

BOTH, ACTIVE, PERSISTENT = "", "ActiveStore", "PersistentStore"
"""The stores; New-NetRoute and Set-NetRoute take only the first two of these (New-NetRoute's documentation)."""

OLDEST = "Windows Server 2012 R2"
"""Has PowerShell 4 and the cmdlets; Server 2008 R2 has neither."""

_FRAME = """\
# Global, because functions of modules, which these cmdlets are, see no other scope of ours.
$global:ErrorActionPreference = 'Stop'
$global:ProgressPreference = 'SilentlyContinue'
$global:WarningPreference = 'SilentlyContinue'
function Value($row, $name) {{
    $property = $row.CimInstanceProperties[$name]
    if ($null -ne $property) {{ $property.Value }}
}}
function Table($rows, $names) {{
    foreach ($row in $rows) {{
        $made = @{{}}
        foreach ($name in $names) {{ $made[$name] = Value $row $name }}
        $made
    }}
}}
function Say($value) {{
    $bytes = [Text.Encoding]::UTF8.GetBytes((ConvertTo-Json -InputObject $value -Depth 4 -Compress))
    $out = [Console]::OpenStandardOutput()
    $out.Write($bytes, 0, $bytes.Length)
    $out.Flush()
}}
if ($PSVersionTable.PSVersion.Major -lt 4) {{
    '{{"error": "PowerShell is older than 4", "id": "CommandNotFoundException"}}'
    exit
}}
try {{
{}
}} catch {{
    Say @{{ error = [string]$_.Exception.Message; id = [string]$_.FullyQualifiedErrorId }}
}}
"""

READ = _FRAME.format("""\
    function Routes($store) {
        # That there is none is an error to the cmdlet.
        $rows = try { Get-NetRoute -PolicyStore $store } catch {
            if ($_.FullyQualifiedErrorId -notlike 'CmdletizationQuery_NotFound*') { throw }
        }
        $defaults = $rows | Where-Object { '0.0.0.0/0', '::/0' -contains (Value $_ 'DestinationPrefix') }
        Table $defaults @('DestinationPrefix', 'InterfaceIndex', 'NextHop', 'RouteMetric')
    }
    $principal = New-Object Security.Principal.WindowsPrincipal([Security.Principal.WindowsIdentity]::GetCurrent())
    $started = Value (Get-CimInstance -ClassName Win32_OperatingSystem) 'LastBootUpTime'
    $folder = Join-Path $env:ProgramData 'eni-bootstrap'
    function Owner($path) {
        try { (Get-Acl -LiteralPath $path).GetOwner([Security.Principal.SecurityIdentifier]).Value } catch { '' }
    }
    $closed = try { (Get-Acl -LiteralPath $folder).AreAccessRulesProtected } catch { $false }
    Say @{
        elevated = $principal.IsInRole([Security.Principal.WindowsBuiltInRole]::Administrator)
        boot = [long]($started.ToUniversalTime() - [datetime]'1970-01-01').TotalSeconds
        owner = Owner $folder
        closed = $closed
        config_owner = Owner (Join-Path $folder 'eni-bootstrap.yaml')
        adapters = @(Table (Get-NetAdapter) @(
            'InterfaceIndex', 'Name', 'PermanentAddress', 'NetworkAddresses', 'InterfaceGuid', 'InterfaceAdminStatus'))
        interfaces = @(Table (Get-NetIPInterface) @(
            'InterfaceIndex', 'AddressFamily', 'InterfaceMetric', 'WeakHostSend'))
        addresses = @(Table (Get-NetIPAddress) @('InterfaceIndex', 'IPAddress', 'PrefixLength', 'AddressState'))
        active = @(Routes 'ActiveStore')
        persistent = @(Routes 'PersistentStore')
    }""")


def quoted(text: object) -> str:
    """A text as a string that PowerShell takes literally."""
    return "'{}'".format(str(text).replace("'", "''"))


def command(verb: str, route: WindowsRoute, store: str = BOTH) -> str:
    """The command for one route: ``add``, ``set`` (its metric) or ``remove``. It can be pasted."""
    words = [_CMDLETS[verb], "-DestinationPrefix", quoted(route.dst), "-InterfaceIndex", str(int(route.ifindex)),
             "-NextHop", quoted(route.gateway)]
    if verb != "remove":
        words += ["-RouteMetric", str(int(route.metric))]
    if store:
        words += ["-PolicyStore", store]
    return " ".join(words + ["-Confirm:$false"])


_CMDLETS = {"add": "New-NetRoute", "set": "Set-NetRoute", "remove": "Remove-NetRoute"}


def change(commands: Iterable[str]) -> str:
    """A script that runs all commands; it prints a list with "" or the error for each."""
    lines = ["        try {{ {} | Out-Null; '' }} catch {{ [string]$_.Exception.Message }}".format(each)
             for each in commands]
    return _FRAME.format("    Say @(\n{}\n    )".format("\n".join(lines)))


def ask(questions: Sequence[Tuple[Address, Optional[Address]]]) -> str:
    """Asks by which route a packet to an address would go, sent from another or from none that was chosen; prints a
    list of {"index", "gateway"} or {"error"}."""
    lines = []
    for dst, src in questions:
        local = " -LocalIPAddress {}".format(quoted(src)) if src is not None else ""
        lines.append("        try {{ Answer (Find-NetRoute -RemoteIPAddress {}{}) }} catch "
                     "{{ @{{ error = [string]$_.Exception.Message }} }}".format(quoted(dst), local))
    return _FRAME.format("""\
    function Answer($found) {{
        # The address that would be the source comes first, then the route.
        $route = @($found | Where-Object {{ $_.CimSystemProperties.ClassName -eq 'MSFT_NetRoute' }})[0]
        @{{ index = Value $route 'InterfaceIndex'; gateway = Value $route 'NextHop' }}
    }}
    Say @(
{}
    )""".format("\n".join(lines)))
