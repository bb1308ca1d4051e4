"""Where an address is reachable from: its own machine, or others."""

import ipaddress


def own_address(host: str) -> str:
    """Where what listens on ``host`` is reached from its own machine, as it stands in a URL."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:  # all addresses
        return "127.0.0.1" if address.version == 4 else "[::1]"
    return str(address) if address.version == 4 else f"[{address}]"


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine and no other can reach it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
