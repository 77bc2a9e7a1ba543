#!/bin/sh
# iproute2 6.1.0 (Debian 12), kernel 6.18: `ip -json route show` tells the tunnel's destination as the route's own.
#
# Guess: the JSON of a route with `encap ip … dst B` has B inside an object of the encapsulation, and `dst` is the route's.
# Seen: the encapsulation's members stand beside the route's; `dst` is there twice, and whoever parses JSON gets the last
# one, the tunnel's end. The route's own destination is lost: 198.51.100.0/24 reads as 10.20.17.200. The text has both.
# So: who compares routes by `ip -json` must take the text where a route has an encapsulation.
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
said=$(unshare --map-root-user --net sh -c '
    ip=$1
    $ip link add d1 type veth peer name d2 && $ip link set d1 up && $ip link set d2 up
    $ip address add 10.20.17.11/24 dev d1
    $ip route add 198.51.100.0/24 encap ip id 7 dst 10.20.17.200 via 10.20.17.253 dev d1
    $ip route show 198.51.100.0/24
    $ip -json route show 198.51.100.0/24' sh "$ip")
echo "$said"
text=$(echo "$said" | head -1)
json=$(echo "$said" | tail -1)
case $text in "198.51.100.0/24 "*"dst 10.20.17.200"*) ;; *) echo "CHANGED: the text"; exit 1 ;; esac
read=$(echo "$json" | python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["dst"])')
echo "a JSON parser reads dst: $read"
[ "$read" = 10.20.17.200 ] || { echo "CHANGED: the route's destination is told"; exit 1; }
echo "as stated"
