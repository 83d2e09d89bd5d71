//! A caller's own JSON, to be sent back as NAT's server sends it: compact, in the order in which it came, and of two
//! equal names the last.
//!
//! Numbers are sent back as they came, to the byte: whoever looks for the mistake finds what was sent. NAT does so with
//! whole numbers of any size; a fraction it writes anew (`1.10` as `1.1`), and at `1e400` it fails. `serde_json` could
//! keep numbers for a whole program only, with its feature `arbitrary_precision`; here it costs nothing but where an
//! input was refused.

use crate::function::schema::Step;
use serde_json::Value;
use std::collections::HashMap;

/// A value in a caller's JSON.
#[derive(Debug)]
pub(super) enum Echo<'a> {
    /// `null`, `true` or `false`.
    Word(&'a str),
    Number(&'a str),
    /// A string as it is written, with quotes and escapes.
    Text(String),
    Array(Vec<Echo<'a>>),
    Object(Members<'a>),
}

/// Names and values, in the order of the first of equal names.
#[derive(Debug, Default)]
pub(super) struct Members<'a> {
    places: HashMap<String, usize>,
    members: Vec<(String, Echo<'a>)>,
}

impl<'a> Echo<'a> {
    /// Reads a document. `None`: it is not JSON, or nested too deeply, as [`json::check`](super::json::check) tells.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        super::json::check(text).ok()?;
        Reader { text, at: 0 }.value()
    }

    /// The value to which a path leads.
    pub(super) fn at(&self, path: &[Step]) -> Option<&Self> {
        path.iter().try_fold(self, |value, step| match (value, step) {
            (Self::Object(object), Step::Name(name)) => Some(&object.members.get(*object.places.get(name)?)?.1),
            (Self::Array(items), Step::Index(index)) => items.get(*index),
            _ => None,
        })
    }

    /// A copy for code that looks at values, with numbers of the machine's size.
    pub(super) fn value(&self) -> Value {
        match self {
            Self::Word(text) | Self::Number(text) => serde_json::from_str(text).unwrap_or_else(|_| {
                let largest = if text.starts_with('-') { f64::MIN } else { f64::MAX };
                largest.into()
            }),
            Self::Text(text) => serde_json::from_str(text).unwrap_or_default(),
            Self::Array(items) => items.iter().map(Self::value).collect(),
            Self::Object(object) => {
                object.members.iter().map(|(name, value)| (name.clone(), value.value())).collect::<Value>()
            }
        }
    }

    /// Writes it as NAT's server does.
    pub(super) fn write(&self, out: &mut String) {
        match self {
            Self::Word(text) | Self::Number(text) => out.push_str(text),
            Self::Text(text) => out.push_str(text),
            Self::Array(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    item.write(out);
                }
                out.push(']');
            }
            Self::Object(object) => {
                out.push('{');
                for (index, (name, value)) in object.members.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    out.push_str(&Value::from(name.as_str()).to_string());
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
        }
    }
}

/// Reads text that was found to be JSON, and no deeper than this can recurse.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn value(&mut self) -> Option<Echo<'a>> {
        match self.peek()? {
            b'"' => {
                let text = self.string()?;
                Some(Echo::Text(serde_json::from_str::<Value>(text).ok()?.to_string()))
            }
            b'[' => {
                let mut items = Vec::new();
                self.at += 1;
                while self.peek()? != b']' {
                    items.push(self.value()?);
                    self.comma()?;
                }
                self.at += 1;
                Some(Echo::Array(items))
            }
            b'{' => {
                let mut object = Members::default();
                self.at += 1;
                while self.peek()? != b'}' {
                    let name: String = serde_json::from_str(self.string()?).ok()?;
                    // The colon.
                    self.peek()?;
                    self.at += 1;
                    let value = self.value()?;
                    object.set(name, value);
                    self.comma()?;
                }
                self.at += 1;
                Some(Echo::Object(object))
            }
            first => {
                let rest = self.text.get(self.at..)?;
                let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c))).unwrap_or(rest.len());
                self.at += end;
                let text = &rest[..end];
                Some(if first.is_ascii_alphabetic() { Echo::Word(text) } else { Echo::Number(text) })
            }
        }
    }

    /// The next byte after any space.
    fn peek(&mut self) -> Option<u8> {
        let rest = self.text.as_bytes().get(self.at..)?;
        self.at += rest.iter().position(|byte| !byte.is_ascii_whitespace())?;
        self.text.as_bytes().get(self.at).copied()
    }

    /// Steps over the comma between two items, if there is another one.
    fn comma(&mut self) -> Option<()> {
        if self.peek()? == b',' {
            self.at += 1;
        }
        Some(())
    }

    /// A string, with its quotes.
    fn string(&mut self) -> Option<&'a str> {
        self.peek()?;
        let rest = self.text.get(self.at..)?;
        let mut escaped = false;
        let end = rest.bytes().skip(1).position(|byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        })?;
        self.at += end + 2;
        rest.get(..end + 2)
    }
}

impl<'a> Members<'a> {
    fn set(&mut self, name: String, value: Echo<'a>) {
        match self.places.get(&name) {
            Some(place) => self.members[*place].1 = value,
            None => {
                self.places.insert(name.clone(), self.members.len());
                self.members.push((name, value));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echoed(text: &str) -> Option<String> {
        let mut out = String::new();
        Echo::parse(text)?.write(&mut out);
        Some(out)
    }

    #[test]
    fn numbers_are_sent_back_as_they_came() {
        for text in [
            "123456789012345678901",
            "-123456789012345678901234567890",
            "9007199254740993",
            "9007199254740993.0",
            "1.10",
            "-0",
            "-0.0",
            "0.1e1",
            "1E5",
            "1e22",
            "0.00001",
            "123456789.123456789",
            "5e-324",
            "1e-400",
            "1e400",
            "-1.50E+999",
        ] {
            assert_eq!(echoed(text).as_deref(), Some(text));
            assert_eq!(echoed(&format!(" [ {text},{{\"a\":{text}}} ]")), Some(format!("[{text},{{\"a\":{text}}}]")));
        }
    }

    #[test]
    fn all_but_numbers_is_as_serde_json_has_it() {
        for text in [
            "null",
            " [ true , false, [ ] , { } ] ",
            r#"{"b":1,"a":{"b":"\u00e9\ud83d\ude00\/\u001f\"\\","":[]},"b":[2,"]}, "]}"#,
            "\"\u{e9}\u{7f}\\n\\b\"",
            "\t{\r\n\"x\" :\"\\\\\" ,\"y\": \"\\\\\\\"\"}",
        ] {
            let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(echoed(text), Some(value.to_string()));
            assert_eq!(Echo::parse(text).map(|it| it.value()), Some(value));
        }
        for broken in ["", "{", "[1,]", "01", "1 2"] {
            assert!(Echo::parse(broken).is_none(), "{broken}");
        }
        let deep = format!("{}{}", "[".repeat(127), "]".repeat(127));
        assert_eq!(echoed(&deep), Some(deep));
    }

    #[test]
    fn a_path_leads_to_its_part() {
        let (name, index) = (|name: &str| Step::Name(name.into()), Step::Index);
        let echo = Echo::parse(r#"{"a":[1,{"b":2.50}],"a":[1,{"b":3.50,"b":1e999}]}"#);
        let at = |path: &[Step]| {
            let mut out = String::new();
            echo.as_ref()?.at(path)?.write(&mut out);
            Some(out)
        };
        assert_eq!(at(&[name("a"), index(1), name("b")]).as_deref(), Some("1e999"));
        assert_eq!(at(&[name("a")]).as_deref(), Some(r#"[1,{"b":1e999}]"#));
        assert_eq!((at(&[name("c")]), at(&[index(0)]), at(&[name("a"), name("b")])), (None, None, None));
        assert_eq!(echo.map(|it| it.value()["a"][1]["b"].clone()), Some(f64::MAX.into()));
    }
}
