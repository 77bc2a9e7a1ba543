#!/bin/sh
# iproute2 6.1.0 (Debian 12), kernel 6.18: `ip route show table all` lists IPv6 routes, too; `ip route show` does not.
#
# Guess: without -4 or -6 `ip route` is about IPv4, whatever table is asked for (ip-route(8), ip(8): -family).
# Seen: a single table, or none, is IPv4's alone; `table all` is of all families. Who takes `ip route show table all` and
# `ip -6 route show table all` one after the other has all IPv6 routes twice, from two moments; who flushes or compares
# «IPv4» by it touches both.
# So: our lab's dump says -4 and -6. It had called a state settled by one half of a dump while the other had not been.
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
unshare --map-root-user --net sh -c '
    ip=$1
    $ip link add d1 type veth peer name d2 && $ip link set d1 up && $ip link set d2 up
    $ip address add 10.20.17.11/24 dev d1 && $ip -6 route add 2001:db8:77::/64 dev d1 table 77
    $ip route add 198.51.100.0/24 dev d1 table 77
    $ip route show table all > all; $ip route show table 77 > one; $ip route show > main' sh "$ip"
echo "-- ip route show table 77"; cat one
echo "-- ip route show table all, of it 2001:db8:77::/64 and 198.51.100.0/24"; grep "table 77" all
grep -q "^198.51.100.0/24" one && ! grep -q ":" one || { echo "CHANGED: a single table"; exit 1; }
! grep -q ":" main || { echo "CHANGED: no table"; exit 1; }
grep -q "^2001:db8:77::/64" all && grep -q "^198.51.100.0/24" all || { echo "CHANGED: table all"; exit 1; }
echo "as stated"
