//! Places: the items of `allow.http`, and the targets of requests that are matched against them.
//!
//! Both are read by the same strict rules, so that there is one way to write a place. Other spellings match nothing:
//! numbers that some libraries take for addresses (`127.1`, `2130706433`, `0x7f.1`), names with a user before them or
//! a dot behind them, and characters that no name has.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

/// A destination that a function may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Destination {
    tls: bool,
    host: Pattern,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Exactly(RemoteHost),
    /// All names with this ending, which begins with a dot.
    Below(String),
}

/// A name, in lower case, or an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RemoteHost {
    Name(String),
    Address(IpAddr),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RequestTarget {
    pub(super) tls: bool,
    pub(super) host: RemoteHost,
    pub(super) port: u16,
}

impl RequestTarget {
    /// Parses a request's scheme and authority; `None` if they break the rules above.
    pub(super) fn parse(tls: bool, authority: &str) -> Option<Self> {
        let (host, port) = split(authority)?;
        Some(Self { tls, host: RemoteHost::parse(host)?, port: port.unwrap_or(default_port(tls)) })
    }

    /// The same target, with an address for the host.
    pub(super) fn at(&self, address: IpAddr) -> Self {
        Self { host: RemoteHost::Address(address), ..*self }
    }
}

impl Destination {
    /// `[scheme://]host[:port]`; the scheme is https unless it is given, and the port the scheme's own.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (tls, authority) = match text.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some(_) => return Err(format!("has a scheme that is not http or https: {text:?}")),
            None => (true, text),
        };
        let wrong = || format!("must be a host with or without a scheme and a port, and is {text:?}");
        let (host, port) = split(authority).ok_or_else(wrong)?;
        let host = match host.strip_prefix("*.") {
            // `*.com` would be half of the world.
            Some(rest) if is_name(rest) && rest.contains('.') => Pattern::Below(format!(".{}", lower(rest))),
            Some(_) => return Err(format!("has less than two parts after the `*`: {text:?}")),
            None => Pattern::Exactly(RemoteHost::parse(host).ok_or_else(wrong)?),
        };
        Ok(Self { tls, host, port: port.unwrap_or(default_port(tls)) })
    }

    pub(super) fn permits(&self, target: &RequestTarget) -> bool {
        let host = match (&self.host, &target.host) {
            (Pattern::Exactly(this), that) => this == that,
            (Pattern::Below(end), RemoteHost::Name(name)) => name.len() > end.len() && name.ends_with(end.as_str()),
            (Pattern::Below(_), RemoteHost::Address(_)) => false,
        };
        host && self.tls == target.tls && self.port == target.port
    }
}

impl RemoteHost {
    fn parse(text: &str) -> Option<Self> {
        if let Some(address) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            return address.parse::<Ipv6Addr>().ok().map(|address| Self::Address(address.into()));
        }
        // Four whole numbers without a zero before them, or no address at all.
        match text.parse() {
            Ok(address) => Some(Self::Address(IpAddr::V4(address))),
            Err(_) => is_name(text).then(|| Self::Name(lower(text))),
        }
    }
}

/// Host and port.
fn split(authority: &str) -> Option<(&str, Option<u16>)> {
    let after_host = authority.rfind(']').map_or(0, |end| end + 1);
    let Some(colon) = authority[after_host..].find(':') else { return Some((authority, None)) };
    let (host, port) = authority.split_at(after_host + colon);
    let port = &port[1..];
    let plain = port.chars().all(|c| c.is_ascii_digit()) && !port.starts_with('0');
    Some((host, Some(port.parse().ok().filter(|_| plain)?)))
}

/// Labels of letters, digits, `-` and `_`. The last one begins with a letter, as in the whole network: otherwise it is
/// a number that somebody could take for an address.
fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        let plain = label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        plain && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= 253 && text.split('.').all(label) && last.starts_with(|c: char| c.is_ascii_alphabetic())
}

fn lower(text: &str) -> String {
    text.to_ascii_lowercase()
}

fn default_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls { "https://" } else { "http://" })?;
        match &self.host {
            Pattern::Exactly(RemoteHost::Name(name)) => f.write_str(name)?,
            Pattern::Exactly(RemoteHost::Address(IpAddr::V6(address))) => write!(f, "[{address}]")?,
            Pattern::Exactly(RemoteHost::Address(address)) => write!(f, "{address}")?,
            Pattern::Below(end) => write!(f, "*{end}")?,
        }
        if self.port == default_port(self.tls) { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn permits(place: &str, target: &str) -> bool {
        let (scheme, authority) = target.split_once("://").unwrap();
        let target = RequestTarget::parse(scheme == "https", authority);
        target.is_some_and(|target| Destination::parse(place).unwrap().permits(&target))
    }

    #[test]
    fn a_place_is_a_scheme_a_host_and_a_port() {
        assert!(permits("api.example.com", "https://api.example.com"));
        assert!(permits("api.example.com", "https://API.Example.com:443"));
        assert!(permits("https://api.example.com:443", "https://api.example.com"));
        assert!(permits("http://api.example.com", "http://api.example.com:80"));
        for target in [
            "http://api.example.com",
            "http://api.example.com:443",
            "https://api.example.com:8443",
            "https://example.com",
            "https://x.api.example.com",
            "https://api.example.com.evil.org",
        ] {
            assert!(!permits("api.example.com", target), "{target}");
        }
    }

    #[test]
    fn a_star_is_all_names_below() {
        assert!(permits("*.example.org:8443", "https://a.example.org:8443"));
        assert!(permits("*.example.org:8443", "https://a.b.example.org:8443"));
        for target in ["https://example.org:8443", "https://evilexample.org:8443", "https://a.example.org"] {
            assert!(!permits("*.example.org:8443", target), "{target}");
        }
    }

    #[test]
    fn an_address_is_written_in_one_way() {
        assert!(permits("http://127.0.0.1:9000", "http://127.0.0.1:9000"));
        assert!(permits("http://[::1]:9000", "http://[0:0::1]:9000"));
        for authority in [
            "127.1:9000",
            "2130706433:9000",
            "0x7f000001:9000",
            "0x7f.0.0.1:9000",
            "0177.0.0.1:9000",
            "127.0.0.01:9000",
            "127.0.0.1.:9000",
            "[::ffff:127.0.0.1]:9000",
            "[::1%25lo]:9000",
            "user@127.0.0.1:9000",
            "user:password@127.0.0.1:9000",
            "127.0.0.1:9000@example.com",
            "127.0.0.1:09000",
            "127.0.0.1:+9000",
            "127.0.0.1:",
            "127.0.0.1",
            "127.0.0.1:9000:9000",
            "%31%32%37.0.0.1:9000",
        ] {
            assert!(!permits("http://127.0.0.1:9000", &format!("http://{authority}")), "{authority}");
        }
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for wrong in [
            "",
            "*",
            "*.com",
            "*.127.0.0.1",
            "a.*.com",
            "127.1",
            "0x7f.1",
            "1.2.3",
            "a b",
            "ftp://a.com",
            "http://a.com/path",
            "http://user@a.com",
            "a.com:0",
            "a.com:65536",
            "a.com:x",
            "a..com",
            "a.com.",
            "-a.com",
            "b\u{fc}cher.example",
            "[::1",
            "::1",
            "[a.com]",
            "[::1]x",
        ] {
            assert!(Destination::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_place_is_told_as_it_is_written() {
        for place in ["https://a.com", "http://a.com", "https://*.a.com:8443", "http://[::1]:9000", "https://1.2.3.4"] {
            assert_eq!(Destination::parse(place).unwrap().to_string(), place);
        }
    }
}
