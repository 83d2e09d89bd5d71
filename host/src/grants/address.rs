//! Public addresses: the only ones that a guest may be connected to, and not those of this machine or its network.
//!
//! The owner of a name that an operator allows can make it stand for any address. Without this check, a guest could
//! so reach the host itself, its neighbours, or the service that tells a cloud machine its keys. The ranges are those
//! of IANA's registries of special-purpose addresses for [IPv4] and [IPv6]; IPv6 addresses outside of the allocated
//! part, 2000::/3, are not public either.
//!
//! [IPv4]: https://www.iana.org/assignments/iana-ipv4-special-registry
//! [IPv6]: https://www.iana.org/assignments/iana-ipv6-special-registry

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A range of addresses: the first one, and the number of leading bits that all share.
type Range<A> = (A, u32);

const IPV4: [Range<Ipv4Addr>; 16] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),       // this host
    (Ipv4Addr::new(10, 0, 0, 0), 8),      // private
    (Ipv4Addr::new(100, 64, 0, 0), 10),   // behind a carrier's NAT
    (Ipv4Addr::new(127, 0, 0, 0), 8),     // loopback
    (Ipv4Addr::new(169, 254, 0, 0), 16),  // link-local
    (Ipv4Addr::new(172, 16, 0, 0), 12),   // private
    (Ipv4Addr::new(192, 0, 0, 0), 24),    // protocols
    (Ipv4Addr::new(192, 0, 2, 0), 24),    // documentation
    (Ipv4Addr::new(192, 88, 99, 0), 24),  // relays from IPv6
    (Ipv4Addr::new(192, 168, 0, 0), 16),  // private
    (Ipv4Addr::new(198, 18, 0, 0), 15),   // benchmarks
    (Ipv4Addr::new(198, 51, 100, 0), 24), // documentation
    (Ipv4Addr::new(203, 0, 113, 0), 24),  // documentation
    (Ipv4Addr::new(224, 0, 0, 0), 4),     // multicast
    (Ipv4Addr::new(240, 0, 0, 0), 4),     // reserved
    (Ipv4Addr::BROADCAST, 32),
];

/// The ranges within 2000::/3 that are not public.
const IPV6: [Range<Ipv6Addr>; 4] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23), // protocols, Teredo's tunnels among them
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32), // documentation
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16), // tunnels to an IPv4 address
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20), // documentation
];

/// The allocated part of IPv6.
const GIVEN_OUT: Range<Ipv6Addr> = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
/// The addresses with an IPv4 address in the last 32 bits, for a network that translates.
const NAT64: Range<Ipv6Addr> = (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);

/// Returns true if an address is public. An IPv6 address that embeds an IPv4 address is judged by the latter.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !IPV4.iter().any(|range| is_in_v4(address, range)),
        IpAddr::V6(address) => match embedded(address) {
            Some(address) => is_public(address.into()),
            None => is_in_v6(address, &GIVEN_OUT) && !IPV6.iter().any(|range| is_in_v6(address, range)),
        },
    }
}

fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let last = Ipv4Addr::from_bits(address.to_bits() as u32);
    address.to_ipv4_mapped().or_else(|| is_in_v6(address, &NAT64).then_some(last))
}

fn is_in_v4(address: Ipv4Addr, (first, bits): &Range<Ipv4Addr>) -> bool {
    (address.to_bits() ^ first.to_bits()).leading_zeros() >= *bits
}

fn is_in_v6(address: Ipv6Addr, (first, bits): &Range<Ipv6Addr>) -> bool {
    (address.to_bits() ^ first.to_bits()).leading_zeros() >= *bits
}

#[cfg(test)]
mod tests;
