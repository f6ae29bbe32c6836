"""Only public internet addresses are opened, whatever way of writing or wrapping one is used."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_deploy.links.addresses import is_public

PUBLIC = [
    "8.8.8.8", "1.1.1.1", "93.184.215.14", "142.250.185.78", "223.255.255.1", "172.15.0.1",
    "172.32.0.1", "100.63.255.255", "100.128.0.1", "169.253.0.1", "192.167.0.1", "198.17.0.1",
    "2606:4700:4700::1111", "2a00:1450:4001:80e::200e", "2001:4860:4860::8888", "2400:cb00::1",
]  # fmt: skip

CLOSED = [
    # this computer and this network
    "0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1",
    "172.31.255.255", "192.168.1.1", "169.254.0.1", "::", "::1", "fe80::1", "fe80::1%eth0", "2606:4700:4700::1111%eth0",
    "febf::1", "fec0::1", "fc00::1", "fdff::1",
    # clouds' metadata
    "169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16", "192.0.0.192",
    "fd00:ec2::254", "fd20:ce::254",
    # nobody's, or everybody's
    "100.64.0.1", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.19.255.255", "198.51.100.1",
    "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "ff02::1",
    "ff0e::1", "2001:db8::1", "3fff::1", "100::1", "5f00::1", "4000::1", "0100::",
    # an IPv4 address in an IPv6 address
    "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:10.0.0.1", "::127.0.0.1", "::8.8.8.8",
    "::ffff:0:127.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::8.8.8.8", "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::7f00:1", "2002:7f00:1::1", "2002:a9fe:a9fe::", "2001:0:7f00:1::", "2001::1",
    # no addresses
    "", "localhost", "127.1", "0x7f000001", "2130706433", "017700000001", "8.8.8.8:80", "[::1]",
    "8.8.8.8/32", " 8.8.8.8", "8.8.8.8\n", "010.0.0.1",
]  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_open(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", CLOSED)
def test_all_others_are_closed(address: str) -> None:
    assert not is_public(address)


@given(st.ip_addresses() | st.ip_addresses(v=4))
def test_what_python_calls_closed_is_closed(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    closed = (
        address.is_private
        or address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or not address.is_global
    )
    if closed:
        assert not is_public(str(address))


@given(st.ip_addresses(v=4), st.sampled_from(["::ffff:", "::", "64:ff9b::", "::ffff:0:"]))
def test_no_ipv4_address_comes_through_in_an_ipv6_address(
    address: ipaddress.IPv4Address, prefix: str
) -> None:
    assert not is_public(f"{prefix}{address}")


@given(st.ip_addresses(v=4))
def test_no_ipv4_address_comes_through_6to4_or_teredo(address: ipaddress.IPv4Address) -> None:
    high, low = divmod(int(address), 1 << 16)
    assert not is_public(f"2002:{high:x}:{low:x}::1")
    assert not is_public(f"2001:0:{high:x}:{low:x}::1")
