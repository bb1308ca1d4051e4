"""Whether an address is reachable from other machines."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine and no other can reach it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
