//! Content negotiation: the form of an answer that a request asks for, by `Accept` (RFC 9110, 12.5.1).

use http::{HeaderMap, header};

/// A form that an answer can have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    /// The type, in lower case.
    pub(super) ty: &'static str,
    /// The subtype, in lower case.
    pub(super) subtype: &'static str,
    /// The parameter `version`, if it has one.
    pub(super) version: Option<&'static str>,
}

/// The rank of a form for a request. The form with the greatest rank is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct AcceptRank {
    /// The quality, in thousandths.
    quality: u16,
    /// The exactness of the match: 0 for none, 1 by `*/*`, 2 by the type, 3 by the subtype too, 4 by the version too.
    exact: u8,
}

impl AcceptRank {
    /// True if it is wanted, and by its own name.
    pub(super) fn is_named(self) -> bool {
        self.quality > 0 && self.exact >= 3
    }
}

/// The rank of a form for a request. Without `Accept`, it takes each as well as any other.
pub(super) fn wanted(headers: &HeaderMap, form: Form) -> AcceptRank {
    let mut values = headers.get_all(header::ACCEPT).iter().peekable();
    if values.peek().is_none() {
        return AcceptRank { quality: 1000, exact: 1 };
    }
    let ranges = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let ranges = ranges.filter_map(|range| rank(std::str::from_utf8(range).ok()?, form));
    // The range that names it the most exactly says what it is worth.
    ranges.fold(AcceptRank::default(), |best, range| if range.exact > best.exact { range } else { best })
}

/// The rank that a range gives a form; `None` if the range does not match.
fn rank(range: &str, form: Form) -> Option<AcceptRank> {
    let mut parts = range.split(';').map(str::trim);
    let (ty, subtype) = parts.next()?.split_once('/')?;
    let mut exact = match (ty.eq_ignore_ascii_case(form.ty), subtype.eq_ignore_ascii_case(form.subtype)) {
        (true, true) => 3,
        (true, false) if subtype == "*" => 2,
        (false, _) if ty == "*" && subtype == "*" => 1,
        _ => return None,
    };
    let mut quality = 1000;
    for (name, value) in parts.filter_map(|part| part.split_once('=')) {
        let (name, value) = (name.trim(), value.trim().trim_matches('"'));
        if name.eq_ignore_ascii_case("q") {
            quality = (value.parse::<f32>().ok()?.clamp(0.0, 1.0) * 1000.0) as u16;
        } else if name.eq_ignore_ascii_case("version") && exact == 3 {
            if form.version != Some(value) {
                return None;
            }
            exact = 4;
        }
    }
    Some(AcceptRank { quality, exact })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn the_range_that_names_a_form_most_exactly_says_how_much_it_is_wanted() {
        let form = Form { ty: "text", subtype: "plain", version: Some("0.0.4") };
        for (accept, quality, exact) in [
            ("*/*", 1000, 1),
            ("text/*;q=0.3, */*", 300, 2),
            ("*/*;q=0.9 , TEXT/Plain ; Q=0.25", 250, 3),
            ("text/plain;version=\"0.0.4\";q=0, text/plain", 0, 4),
            ("text/plain;version=1.0.0, */*;q=0.1", 100, 1),
            ("text/html, application/*", 0, 0),
            ("", 0, 0),
            ("nonsense, text/plain;q=x, text/*;q=7", 1000, 2),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            assert_eq!(wanted(&headers, form), AcceptRank { quality, exact }, "{accept}");
        }
        assert!(!wanted(&HeaderMap::new(), form).is_named());
    }
}
