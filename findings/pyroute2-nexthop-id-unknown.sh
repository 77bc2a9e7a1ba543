#!/bin/sh
# pyroute2 0.9.7, kernel 6.18: a route by a nexthop object (`ip route add … nhid 5`) loses its way in get_routes().
#
# Guess: nexthop objects are in the kernel since 5.3, and a library for rtnetlink that is kept up has RTA_NH_ID by name.
# Seen: the attribute comes as "UNKNOWN" of type 30. As long as the sysctl net.ipv4.nexthop_compat_mode is 1 the kernel
# tells device and gateway beside it. With 0 nothing but the id is told: get_routes() returns a route without RTA_OIF
# and without RTA_GATEWAY, and who looks for a default by a device finds that there is none. (0.7.12 is alike.)
# So: we read routes by a codec of our own, which asks for the nexthop objects where a route tells the id alone.
#
# Needs: network, python3-venv, iproute2 5.3 or newer, root or user namespaces. Changes nothing on this machine.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip -q --disable-pip-version-check install pyroute2==0.9.7
cat > look.py <<'PYTHON'
import sys
from pyroute2 import IPRoute, __version__
print("pyroute2", __version__)
for mode in "10":
    with open("/proc/sys/net/ipv4/nexthop_compat_mode", "w") as sysctl:
        sysctl.write(mode)
    with IPRoute() as kernel:
        route, = [route for route in kernel.get_routes(family=2, table=254)
                  if route.get_attr("RTA_DST") == "198.51.100.0"]
    names = [name if name != "UNKNOWN" else "UNKNOWN {}".format(value["header"]["type"]) for name, value in route["attrs"]]
    print("nexthop_compat_mode={}: {}".format(mode, " ".join(names)))
    if "UNKNOWN 30" not in names or ("RTA_OIF" in names) != (mode == "1"):
        sys.exit("CHANGED")
PYTHON
unshare --map-root-user --net sh -ec '
    ip link add d1 type veth peer name d2; ip link set d1 up; ip link set d2 up; ip address add 10.20.17.11/24 dev d1
    ip nexthop add id 5 via 10.20.17.9 dev d1
    ip route add 198.51.100.0/24 nhid 5
    ip route show 198.51.100.0/24
    venv/bin/python look.py'
echo "as stated"
