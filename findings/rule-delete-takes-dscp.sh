#!/bin/sh
# Kernel 6.18 (FRA_DSCP since 6.14) with iproute2 6.1.0 (Debian 12), which does not know that selector: a rule without a
# DSCP deletes, and keeps out, one that has it.
#
# Guess: two rules are one only when all their selectors are equal, so that `ip rule del from A lookup T` leaves a rule
# `from A dscp 8 lookup T` alone, and adding the plain one beside it works.
# Seen: an attribute that a request does not have is not compared. The plain delete takes the DSCP rule when that comes
# first; the plain add is refused with «File exists» while the DSCP rule is there.
# So: a program must name all that it reads of a rule when it deletes it, and must not delete by what it can read only.
#
# Needs: apt, root or user namespaces. Changes nothing on this machine: a network namespace of its own.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get -qq download iproute2=6.1.0-3 2>/dev/null
dpkg-deb -x iproute2_6.1.0-3_*.deb .
ip=$folder/bin/ip
[ -x "$ip" ] || ip=$folder/sbin/ip
"$ip" -V
uname -r
cat >add.py <<'END'
"""from 10.20.17.11 dscp 8 lookup 1001, priority 100: struct fib_rule_hdr and its attributes, as linux/fib_rules.h has them."""
import socket
import struct

def attribute(kind, data):
    return struct.pack("=HH", 4 + len(data), kind) + data + b"\0" * (-len(data) % 4)

body = struct.pack("=8BI", socket.AF_INET, 0, 32, 0, 0, 0, 0, 1, 0)
body += attribute(2, socket.inet_aton("10.20.17.11")) + attribute(6, struct.pack("=I", 100))
body += attribute(15, struct.pack("=I", 1001)) + attribute(25, b"\x08")
netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
netlink.send(struct.pack("=IHHII", 16 + len(body), 32, 0x1 | 0x4 | 0x200 | 0x400, 1, 0) + body)
print("add: errno", -struct.unpack_from("=i", netlink.recv(4096), 16)[0])
END
said=$(unshare --map-root-user --net sh -c '
    ip=$1
    python3 add.py
    echo "rules: $($ip -o rule show priority 100 | wc -l)"
    $ip rule add from 10.20.17.11 lookup 1001 priority 100 2>&1 && echo added || echo refused
    $ip rule del from 10.20.17.11 lookup 1001 && echo deleted
    echo "rules: $($ip -o rule show priority 100 | wc -l)"' sh "$ip")
echo "$said"
expected='add: errno 0
rules: 1
RTNETLINK answers: File exists
refused
deleted
rules: 0'
[ "$said" = "$expected" ] || { echo "CHANGED (or a kernel without FRA_DSCP)"; exit 1; }
echo "as stated"
