//! One cookie of a request, in two ways.
//!
//! [`find`], where nobody is verified, reads as NAT's server reads (Starlette's `cookie_parser` and Python's
//! `http.cookies`): of several with the same name the last counts, a quoted value is unquoted, `\ooo` and `\c` in it are
//! decoded, and percent signs are left alone. Libraries for cookies follow RFC 6265, which does not have these escapes; a
//! user who has one in the cookie would be another user here than with NAT.
//!
//! [`only`], for cookies that the host has signed, reads as RFC 6265 has it, and what clients of the older RFC 2109 and
//! RFC 2965 send, Java's among them: `$Version="1"; nat-session="..."; $Path="/"`. In these commas separate as well, and
//! what is in quotes is one value. Elsewhere a comma or a quote may be part of another cookie's value, which somebody
//! else can have chosen: it separates nothing there.

use super::credential::{is_space, latin1};
use cookie::Cookie;
use http::{HeaderMap, header::COOKIE};

/// A request gives a cookie two values: whoever put the second one there may be somebody else.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ambiguous;

/// The value of a cookie that is there once, or several times with the same value.
pub(super) fn only(headers: &HeaderMap, name: &str) -> Result<Option<String>, Ambiguous> {
    let mut found: Option<String> = None;
    for header in headers.get_all(COOKIE) {
        let header = latin1(header.as_bytes());
        let is_old = header.trim_start().get(..8).is_some_and(|start| start.eq_ignore_ascii_case("$version"));
        // Beside the session cookie there may be anything: other cookies are none of this host's business.
        for cookie in pairs(&header, is_old).filter_map(|pair| Cookie::parse(pair).ok()) {
            if cookie.name() != name {
                continue;
            }
            let value = cookie.value_trimmed();
            match &found {
                Some(other) if other != value => return Err(Ambiguous),
                Some(_) => {}
                None => found = Some(value.to_owned()),
            }
        }
    }
    Ok(found)
}

/// The pairs of a header, also as the old RFCs have them.
fn pairs(header: &str, is_old: bool) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    header.split(move |c| {
        if is_old && quoted {
            quoted = escaped || c != '"';
            escaped = !escaped && c == '\\';
            return false;
        }
        quoted = c == '"';
        c == ';' || (is_old && c == ',')
    })
}

/// The value of a cookie.
pub(super) fn find(headers: &HeaderMap, name: &str) -> Option<String> {
    let mut found = None;
    for header in headers.get_all(COOKIE) {
        for pair in header.as_bytes().split(|byte| *byte == b';') {
            let equals = pair.iter().position(|byte| *byte == b'=');
            let (key, value) = equals.map_or((&[][..], pair), |at| (&pair[..at], &pair[at + 1..]));
            // Beyond ASCII there are two more spaces.
            let named = || key.trim_ascii() == name.as_bytes();
            if named() || (!key.is_ascii() && latin1(key).trim_matches(is_space) == name) {
                found = Some(value);
            }
        }
    }
    found.map(|value| unquote(latin1(value).trim_matches(is_space)))
}

fn unquote(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else { return value.to_owned() };
    let mut out = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let escape = &rest[at + 1..];
        let octal = escape.as_bytes().first_chunk::<3>().and_then(octal);
        let taken = match (octal, escape.chars().next()) {
            (Some(c), _) => {
                out.push(c);
                3
            }
            (None, Some(c)) => {
                out.push(c);
                c.len_utf8()
            }
            (None, None) => {
                out.push('\\');
                0
            }
        };
        rest = &escape[taken..];
    }
    out.push_str(rest);
    out
}

/// `\000` to `\377`.
fn octal(digits: &[u8; 3]) -> Option<char> {
    let value = |digit: u8| char::from(digit).to_digit(8);
    let [high, middle, low] = digits.map(value);
    char::from_u32(high.filter(|high| *high <= 3)? * 64 + middle? * 8 + low?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn cookie(headers: &[&[u8]]) -> Option<String> {
        let mut map = HeaderMap::new();
        for header in headers {
            map.append(COOKIE, HeaderValue::from_bytes(header).unwrap_or_else(|error| panic!("{error}")));
        }
        find(&map, "nat-session")
    }

    fn signed(headers: &[&str]) -> Result<Option<String>, Ambiguous> {
        let mut map = HeaderMap::new();
        for header in headers {
            map.append(COOKIE, HeaderValue::from_bytes(header.as_bytes()).unwrap_or_else(|error| panic!("{error}")));
        }
        only(&map, "nat-session")
    }

    #[test]
    fn commas_and_quotes_separate_only_as_old_clients_have_them() {
        let is = |value: &str| Ok(Some(value.to_owned()));
        assert_eq!(signed(&[r#"$Version=1; x="a;\"b\\", nat-session="c", y=d"#]), is("c"));
        assert_eq!(signed(&[r#"$Version="1"; x="; nat-session=evil"; nat-session=c; $Path="/""#]), is("c"));
        assert_eq!(signed(&[r#"$version = "1",nat-session=c"#]), is("c"));
        // Else a comma and a quote are parts of a value, whose name is before it.
        assert_eq!(signed(&["x=a, nat-session=evil"]), Ok(None));
        assert_eq!(signed(&[r#"x="a; nat-session=c; y=b""#]), is("c"));
        assert_eq!(signed(&["x=$Version, nat-session=evil; nat-session=c"]), is("c"));
        // Each header is of its own kind.
        assert_eq!(signed(&["$Version=1; y=1", "x=a, nat-session=evil"]), Ok(None));
    }

    #[test]
    fn one_value_is_one_cookie_however_often_and_however_it_is_written() {
        let is = |value: &str| Ok(Some(value.to_owned()));
        assert_eq!(signed(&["nat-session=c; nat-session = \"c\"", "$Version=0; nat-session=c"]), is("c"));
        for two in ["nat-session=c; nat-session=d", "nat-session=c; nat-session=", "nat-session=\"c\"; nat-session=C"] {
            assert_eq!(signed(&[two]), Err(Ambiguous), "{two}");
        }
        assert_eq!(signed(&["NAT-SESSION=c; nat-session; x-nat-session=d"]), Ok(None));
    }

    fn one(header: &str) -> Option<String> {
        cookie(&[header.as_bytes()])
    }

    #[test]
    fn the_last_of_several_counts_also_over_several_headers() {
        assert_eq!(one("nat-session=a; x=1; nat-session=b").as_deref(), Some("b"));
        assert_eq!(cookie(&[b"nat-session=a", b"other=1;nat-session=c"]).as_deref(), Some("c"));
        assert_eq!(one("x-nat-session=a; NAT-SESSION=b; nat-session"), None);
    }

    #[test]
    fn spaces_around_go_and_those_within_stay() {
        assert_eq!(one("nat-session =  g-sp x y ").as_deref(), Some("g-sp x y"));
        assert_eq!(one("nat-session=   ").as_deref(), Some(""));
        assert_eq!(one("nat-session=a==b").as_deref(), Some("a==b"));
    }

    #[test]
    fn quotes_and_escapes_are_decoded_and_percent_is_not() {
        assert_eq!(one(r#"nat-session="g-oct\073\351""#).as_deref(), Some("g-oct;é"));
        assert_eq!(one(r#"nat-session="a\"b\\c\z""#).as_deref(), Some(r#"a"b\cz"#));
        assert_eq!(one(r#"nat-session="\400\08x\""#).as_deref(), Some("40008x\\"));
        assert_eq!(one("nat-session=%41").as_deref(), Some("%41"));
        assert_eq!(one(r#"nat-session=""#).as_deref(), Some("\""));
        assert_eq!(cookie(&[b"nat-session=g-\xc3\xbc"]).as_deref(), Some("g-Ã¼"));
    }
}
