"""The same decision in other systems' words, for images whose owners want their system's own files instead of an agent.

Each format is a pure function of what metadata tells. What a format can't express is said in it, at its place, with the
consequence. A boot does not pay for any of this: only the names are imported with the command line.
"""

FORMATS = {
    "ip": "a shell script, for rc.local",
    "netplan": "one file for netplan",
    "networkd": "files for systemd-networkd",
    "networkmanager": "keyfiles for NetworkManager",
    "ifcfg": "route- and rule- files for network-scripts",
    "windows": "route and netsh commands, for cmd",
    "powershell": "a script for PowerShell",
}
"""Format -> description."""
