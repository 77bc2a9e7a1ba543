"""In the single file's place of certifi: the host's own certificates, as distributions have it.

requests asks for the bundle's path at each start, and certifi would unpack its own into a temporary file each time. It
is of no use for the metadata service, which is plain HTTP.
"""

import os

_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Red Hat's descendants
    "/etc/ssl/ca-bundle.pem",  # SUSE
)


def where():
    return next((path for path in _BUNDLES if os.path.exists(path)), _BUNDLES[0])


def contents():
    with open(where(), encoding="utf-8") as bundle:
        return bundle.read()
