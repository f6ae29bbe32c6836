"""Which internet addresses are public: the only ones that a link may lead to.

Named one by one, because what Python calls private, global or reserved has changed between its
versions, and none of the words covers everything that leads back into a network.
"""

import ipaddress

_V4_CLOSED = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8",  # "this" network; 0.0.0.0 is this computer
            "10.0.0.0/8",
            "100.64.0.0/10",  # carriers' own; one cloud's metadata
            "127.0.0.0/8",
            "168.63.129.16/32",  # looks public, and is a cloud's metadata
            "169.254.0.0/16",  # link-local; most clouds' metadata
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",  # documentation
            "192.31.196.0/24",
            "192.52.193.0/24",
            "192.88.99.0/24",  # relays into IPv6
            "192.168.0.0/16",
            "192.175.48.0/24",
            "198.18.0.0/15",  # tests of equipment
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, and broadcast
        ),
    )
)

_V6_OPEN = ipaddress.IPv6Network("2000::/3")
"""Everything public is in here. Loopback, unspecified, link- and site-local, unique local,
multicast, IPv4 as IPv6 (``::ffff:…``, ``::…``) and NAT64 (``64:ff9b::…``) are not."""

_V6_CLOSED = tuple(
    map(
        ipaddress.IPv6Network,
        (
            "2001::/23",  # protocols' own: Teredo holds an IPv4 address
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4 holds an IPv4 address
            "2620:4f:8000::/48",
            "3fff::/20",  # documentation
        ),
    )
)


def is_public(address: str) -> bool:
    """Whether ``address``, as a resolver or the kernel writes it, is on the open internet."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv4Address):
        return not any(parsed in closed for closed in _V4_CLOSED)
    if parsed.scope_id is not None:  # an address of one cable
        return False
    return parsed in _V6_OPEN and not any(parsed in closed for closed in _V6_CLOSED)
