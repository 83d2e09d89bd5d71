//! Finds the first error in JSON text, and reports it as NAT's server does: with the words and positions of Python's
//! `json` module (its documentation calls them `msg` and `pos`; positions count characters).
//!
//! Runs only on inputs that a guest has refused, so it need not be fast, but it must take any text: it does not
//! recurse. Two things are errors here that Python lets pass: half of a surrogate pair, which is no text, and `NaN`
//! and `Infinity`, which are no JSON.

/// The depth to which a document may be nested: the most that `serde_json`, and with it most guests, can read.
const DEPTH: usize = 127;

/// An error in a text: its position, counted in characters from 0, and its message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotJson {
    pub(super) at: usize,
    pub(super) how: &'static str,
}

/// Checks that a text is a JSON document.
pub(super) fn check(text: &str) -> Result<(), NotJson> {
    let mut scan = Scan { chars: text.chars().collect(), at: 0 };
    scan.document()
}

struct Scan {
    chars: Vec<char>,
    at: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Inside {
    Array,
    Object,
}

impl Scan {
    fn document(&mut self) -> Result<(), NotJson> {
        let mut open: Vec<Inside> = Vec::new();
        self.space();
        loop {
            // Here a value begins.
            match self.peek() {
                Some('{') => {
                    self.enter(&mut open, Inside::Object)?;
                    if self.peek() == Some('}') {
                        self.at += 1;
                        open.pop();
                    } else {
                        self.name()?;
                        continue;
                    }
                }
                Some('[') => {
                    self.enter(&mut open, Inside::Array)?;
                    if self.peek() == Some(']') {
                        self.at += 1;
                        open.pop();
                    } else {
                        continue;
                    }
                }
                _ => self.scalar()?,
            }
            // Here a value has ended, and perhaps those around it.
            loop {
                self.space();
                let Some(inside) = open.last().copied() else {
                    return if self.at == self.chars.len() { Ok(()) } else { self.broken("Extra data") };
                };
                let end = if inside == Inside::Array { ']' } else { '}' };
                match self.peek() {
                    Some(c) if c == end => {
                        self.at += 1;
                        open.pop();
                    }
                    Some(',') => {
                        self.at += 1;
                        self.space();
                        if inside == Inside::Object {
                            self.name()?;
                        }
                        break;
                    }
                    _ => return self.broken("Expecting ',' delimiter"),
                }
            }
        }
    }

    fn enter(&mut self, open: &mut Vec<Inside>, inside: Inside) -> Result<(), NotJson> {
        if open.len() == DEPTH {
            return self.broken("Nested too deeply");
        }
        open.push(inside);
        self.at += 1;
        self.space();
        Ok(())
    }

    /// A name of an object, the colon, and the space after it.
    fn name(&mut self) -> Result<(), NotJson> {
        if self.peek() != Some('"') {
            return self.broken("Expecting property name enclosed in double quotes");
        }
        self.string()?;
        self.space();
        if self.peek() != Some(':') {
            return self.broken("Expecting ':' delimiter");
        }
        self.at += 1;
        self.space();
        Ok(())
    }

    fn scalar(&mut self) -> Result<(), NotJson> {
        match self.peek() {
            Some('"') => self.string(),
            Some('-' | '0'..='9') => self.number(),
            _ => {
                let rest = &self.chars[self.at..];
                let word = ["null", "true", "false"]
                    .into_iter()
                    .find(|word| word.chars().eq(rest.iter().copied().take(word.len())));
                self.at += word.map_or(0, str::len);
                if word.is_some() { Ok(()) } else { self.broken("Expecting value") }
            }
        }
    }

    fn number(&mut self) -> Result<(), NotJson> {
        let start = self.at;
        if self.peek() == Some('-') {
            self.at += 1;
        }
        match self.peek() {
            Some('0') => self.at += 1,
            Some('1'..='9') => self.digits(),
            _ => return Err(NotJson { at: start, how: "Expecting value" }),
        }
        // An incomplete fraction or exponent is not part of the number.
        let before = self.at;
        if self.peek() == Some('.') {
            self.at += 1;
            self.digits();
            if self.at == before + 1 {
                self.at = before;
                return Ok(());
            }
        }
        let before = self.at;
        if matches!(self.peek(), Some('e' | 'E')) {
            self.at += 1;
            if matches!(self.peek(), Some('+' | '-')) {
                self.at += 1;
            }
            let digits = self.at;
            self.digits();
            if self.at == digits {
                self.at = before;
            }
        }
        Ok(())
    }

    fn digits(&mut self) {
        while matches!(self.peek(), Some('0'..='9')) {
            self.at += 1;
        }
    }

    fn string(&mut self) -> Result<(), NotJson> {
        let start = self.at;
        let unterminated = Err(NotJson { at: start, how: "Unterminated string starting at" });
        self.at += 1;
        loop {
            match self.peek() {
                None => return unterminated,
                Some('"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some('\\') => match self.chars.get(self.at + 1) {
                    None => return unterminated,
                    Some('u') => self.unicode_escape()?,
                    Some('"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't') => self.at += 2,
                    Some(_) => return self.broken("Invalid \\escape"),
                },
                Some(c) if c <= '\x1f' => return self.broken("Invalid control character at"),
                Some(_) => self.at += 1,
            }
        }
    }

    fn unicode_escape(&mut self) -> Result<(), NotJson> {
        let unpaired = "Unpaired surrogate in string";
        match self.hex(self.at)? {
            0xd800..=0xdbff => match (self.chars.get(self.at + 6), self.chars.get(self.at + 7)) {
                (Some('\\'), Some('u')) => match self.hex(self.at + 6)? {
                    0xdc00..=0xdfff => self.at += 12,
                    _ => return self.broken(unpaired),
                },
                _ => return self.broken(unpaired),
            },
            0xdc00..=0xdfff => return self.broken(unpaired),
            _ => self.at += 6,
        }
        Ok(())
    }

    /// The four digits of the escape that begins at `start`.
    fn hex(&self, start: usize) -> Result<u32, NotJson> {
        let invalid = NotJson { at: start + 1, how: "Invalid \\uXXXX escape" };
        // As in Python, there must be something after the digits: the string has to end.
        let digits = self.chars.get(start + 2..start + 6).filter(|_| self.chars.len() > start + 6);
        let value = |number: u32, digit: &char| Some(number * 16 + digit.to_digit(16)?);
        digits.and_then(|digits| digits.iter().try_fold(0, value)).ok_or(invalid)
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t' | '\n' | '\r')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn broken<T>(&self, how: &'static str) -> Result<T, NotJson> {
        Err(NotJson { at: self.at, how })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_and_words_are_pythons() {
        // Each as `json.loads` of Python 3.11 tells it.
        for (text, at, how) in [
            ("", 0, "Expecting value"),
            (" ", 1, "Expecting value"),
            ("{", 1, "Expecting property name enclosed in double quotes"),
            ("{\"a\"", 4, "Expecting ':' delimiter"),
            ("{\"a\":", 5, "Expecting value"),
            ("{\"a\":1", 6, "Expecting ',' delimiter"),
            ("{\"a\":1,", 7, "Expecting property name enclosed in double quotes"),
            ("{\"a\":1,}", 7, "Expecting property name enclosed in double quotes"),
            ("[", 1, "Expecting value"),
            ("[1,]", 3, "Expecting value"),
            ("[1 2]", 3, "Expecting ',' delimiter"),
            ("{} {}", 3, "Extra data"),
            ("01", 1, "Extra data"),
            ("1.", 1, "Extra data"),
            ("-", 0, "Expecting value"),
            ("[1.5e]", 4, "Expecting ',' delimiter"),
            ("nul", 0, "Expecting value"),
            ("\"ü\u{1f600}", 0, "Unterminated string starting at"),
            ("[\"ü\u{1f600}\n\"]", 4, "Invalid control character at"),
            ("\"a\\", 0, "Unterminated string starting at"),
            ("\"a\\x\"", 2, "Invalid \\escape"),
            ("\"\\u12\"", 2, "Invalid \\uXXXX escape"),
            ("\"\\u12g4\"", 2, "Invalid \\uXXXX escape"),
        ] {
            assert_eq!(check(text), Err(NotJson { at, how }), "{text:?}");
        }
    }

    #[test]
    fn it_agrees_with_serde_json_on_what_is_json() {
        for text in [
            "null",
            "[]",
            "{}",
            "[[],{}]",
            "{\"a\":[1,-0.5e+3,true],\"b\":{\"c\":\"\\u00e9\\ud83d\\ude00\"}}",
            " 0 ",
            "\"\\ud800\"",
            "\"\\udc00\"",
            "\"\\ud800\\u0041\"",
            "NaN",
            "-Infinity",
            "{\"a\":NaN}",
            "[1,,2]",
            "{,}",
            "'a'",
            "{a:1}",
            "[1}",
            "{\"a\":1]",
            "tru",
            "1 2",
            "\u{7f}",
            "\"\t\"",
        ] {
            assert_eq!(check(text).is_ok(), serde_json::from_str::<serde_json::Value>(text).is_ok(), "{text:?}");
        }
    }

    #[test]
    fn deep_nesting_is_told_and_does_not_overflow_the_stack() {
        let deep = "[".repeat(1_000_000);
        assert_eq!(check(&deep), Err(NotJson { at: DEPTH, how: "Nested too deeply" }));
        let fits = format!("{}{}", "[".repeat(DEPTH), "]".repeat(DEPTH));
        assert_eq!(check(&fits), Ok(()));
        assert!(serde_json::from_str::<serde_json::Value>(&fits).is_ok());
    }
}
