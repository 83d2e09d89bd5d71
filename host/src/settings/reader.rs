//! Reads sections of a configuration, key by key, and collects the problems of all of them.
//!
//! A reader asks for the keys that it knows, in plain code, and then declares that there are no others. So an
//! operator who starts a host sees every mistake at once, each with its line, and for an unknown key the nearest
//! known one.

use super::{KeyPath, Problem, document::Node};
use bytesize::ByteSize;
use serde_json::{Map, Value};
use speedate::{Duration as Span, MicrosecondsPrecisionOverflowBehavior, TimeConfigBuilder};
use std::{
    cell::RefCell,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// The problems found so far, and the document in which they are.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    found: RefCell<Vec<Problem>>,
    document: Option<Arc<Node>>,
}

impl Problems {
    /// Starts without problems, for a document.
    pub(super) fn of(document: Arc<Node>) -> Self {
        Self { found: RefCell::default(), document: Some(document) }
    }

    /// Resolves a path given at a key: relative to the folder of the file that has the key.
    pub(crate) fn beside(&self, key: &KeyPath, path: &str) -> PathBuf {
        let file = self.document.as_ref().map(|document| &document.place(key).file);
        file.and_then(|file| file.parent()).unwrap_or(Path::new("")).join(path)
    }

    pub(crate) fn add(&self, path: &KeyPath, message: impl Into<String>) {
        self.found.borrow_mut().push(Problem::new(path.clone(), message));
    }

    pub(crate) fn push(&self, problem: Problem) {
        self.found.borrow_mut().push(problem);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.found.borrow().is_empty()
    }

    pub(crate) fn into_vec(self) -> Vec<Problem> {
        self.found.into_inner()
    }
}

/// One map of the file.
pub(crate) struct Section<'a> {
    path: KeyPath,
    map: Map<String, Value>,
    known: Vec<&'static str>,
    problems: &'a Problems,
}

impl<'a> Section<'a> {
    /// Makes a section of a value that should be a map; anything else is a problem, and makes an empty section.
    pub(crate) fn new(path: KeyPath, value: Value, problems: &'a Problems) -> Self {
        let map = match value {
            Value::Object(map) => map,
            Value::Null => Map::new(),
            other => {
                problems.add(&path, format!("must be a map of keys, and is {}", describe(&other)));
                Map::new()
            }
        };
        Self { path, map, known: Vec::new(), problems }
    }

    pub(crate) fn path(&self) -> &KeyPath {
        &self.path
    }

    pub(crate) fn problems(&self) -> &'a Problems {
        self.problems
    }

    /// The value of a key. `null` counts as not given.
    pub(crate) fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.map.shift_remove(key).filter(|value| !value.is_null())
    }

    /// A section within this one; an empty one if it is not given.
    pub(crate) fn section(&mut self, key: &'static str) -> Section<'a> {
        let value = self.take(key).unwrap_or(Value::Null);
        Section::new(self.path.with(key), value, self.problems)
    }

    /// Reads a key's value with `read`.
    pub(crate) fn read<T>(
        &mut self,
        key: &'static str,
        default: T,
        read: impl FnOnce(&Value) -> Result<T, String>,
    ) -> T {
        let Some(value) = self.take(key) else { return default };
        read(&value).unwrap_or_else(|message| {
            self.problems.add(&self.path.with(key), message);
            default
        })
    }

    /// Returns true if a key is given.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(|value| !value.is_null())
    }

    /// Adds a problem if a key is not given.
    pub(crate) fn require(&self, key: &str) {
        if !self.has(key) {
            self.problems.add(&self.path, format!("has no `{key}`"));
        }
    }

    /// Takes a NAT key that means nothing here. Returns its name if it is given.
    pub(crate) fn ignore(&mut self, key: &'static str) -> Option<String> {
        self.take(key).map(|_| self.path.with(key).to_string())
    }

    /// Takes all remaining keys, whatever their names.
    pub(crate) fn rest(&mut self) -> Map<String, Value> {
        std::mem::take(&mut self.map)
    }

    /// Adds a problem for each remaining key.
    pub(crate) fn finish(self) {
        for key in self.map.keys() {
            let mut problem = Problem::new(self.path.with(key), "unknown key");
            problem.hint = Some(match nearest(key, self.known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the keys here are {}", list(self.known.iter().copied())),
            });
            self.problems.push(problem);
        }
    }
}

/// The known name that a misspelt one is most likely meant to be.
pub(crate) fn nearest<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = known.map(|name| (strsim::jaro_winkler(wrong, name), name));
    let (likeness, name) = near.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (likeness > 0.8).then_some(name)
}

/// Names as people list them: the first ones, if there are many.
pub(crate) fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const SHOWN: usize = 50;
    let names: Vec<_> = names.collect();
    if names.is_empty() {
        return "none".into();
    }
    let shown: Vec<_> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    let more = names.len() - shown.len();
    if more == 0 { shown.join(", ") } else { format!("{}, and {more} more", shown.join(", ")) }
}

/// Describes a value as an operator wrote it.
pub(crate) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "empty".into(),
        Value::Bool(it) => format!("`{it}`"),
        Value::Number(it) => format!("the number {it}"),
        Value::String(it) => format!("the text {it:?}"),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "a map".into(),
    }
}

pub(crate) fn text(value: &Value) -> Result<String, String> {
    match value {
        Value::String(it) => Ok(it.clone()),
        other => Err(format!("must be text, and is {}", describe(other))),
    }
}

/// `true` or `false`, in any form that pydantic takes, and with it NAT.
pub(crate) fn boolean(value: &Value) -> Result<bool, String> {
    as_boolean(value).ok_or_else(|| format!("must be `true` or `false`, and is {}", describe(value)))
}

/// A boolean, a word for one, or 0 or 1.
pub(crate) fn as_boolean(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(it) => Some(*it),
        Value::String(it) => match it.to_ascii_lowercase().as_str() {
            "true" | "t" | "yes" | "y" | "on" | "1" => Some(true),
            "false" | "f" | "no" | "n" | "off" | "0" => Some(false),
            _ => None,
        },
        Value::Number(it) => match it.as_f64() {
            Some(1.0) => Some(true),
            Some(0.0) => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// A whole number: as such, with a fraction of nothing, or as text, in any form that pydantic takes.
pub(crate) fn as_integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(it) => it.as_i64().or_else(|| whole(it.as_f64()?)),
        Value::String(it) => {
            let digits = digits(it)?;
            let (whole, fraction) = digits.split_once('.').unwrap_or((&digits, "0"));
            let nothing = !fraction.is_empty() && fraction.bytes().all(|digit| digit == b'0');
            // Other signs and forms are read elsewhere, or not at all.
            whole.parse().ok().filter(|_| nothing)
        }
        _ => None,
    }
}

/// A number, or one in quotes.
pub(crate) fn as_number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(it) => it.as_f64(),
        Value::String(it) => digits(it)?.parse::<f64>().ok().filter(|it| it.is_finite()),
        _ => None,
    }
}

/// A number's text without the spaces around it, and single `_` between its digits.
fn digits(text: &str) -> Option<String> {
    let text = text.trim();
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let between = |at: usize| at > 0 && digit(at - 1) && digit(at + 1);
    let right = text.bytes().enumerate().all(|(at, byte)| byte != b'_' || between(at));
    right.then(|| text.replace('_', ""))
}

/// A number that has no fraction, as far as it is exact.
fn whole(number: f64) -> Option<i64> {
    const EXACT: f64 = (1_u64 << 53) as f64;
    (number.fract() == 0.0 && number.abs() <= EXACT).then_some(number as i64)
}

/// A list, each item read by `read`.
pub(crate) fn list_of<T>(read: impl Fn(&Value) -> Result<T, String>) -> impl Fn(&Value) -> Result<Vec<T>, String> {
    move |value| match value {
        Value::Array(items) => items.iter().map(&read).collect(),
        other => Err(format!("must be a list, and is {}", describe(other))),
    }
}

/// Like `list_of`, for secrets: no message repeats an item, nor a value in place of the list.
pub(crate) fn secret_list_of<T>(
    read: impl Fn(&Value) -> Result<T, String>,
) -> impl Fn(&Value) -> Result<Vec<T>, String> {
    move |value| match value {
        Value::Array(items) => items.iter().map(&read).collect(),
        _ => Err("must be a list".into()),
    }
}

/// A number that counts something, at least `least`.
pub(crate) fn count(least: u64, most: u64) -> impl Fn(&Value) -> Result<u64, String> {
    move |value| {
        let number = match value {
            Value::Number(it) => it.as_u64().or_else(|| u64::try_from(as_integer(value)?).ok()),
            Value::String(it) => as_integer(value).and_then(|it| it.try_into().ok()).or_else(|| short_number(it)),
            _ => None,
        };
        let number = number.ok_or_else(|| {
            format!("must be a whole number, such as 500, \"20k\" or \"1.5M\", and is {}", describe(value))
        })?;
        in_range(number, least, most, |number| number.to_string())
    }
}

/// A number of things that the machine can hold: like [`count`].
pub(crate) fn number(least: u64, most: u64) -> impl Fn(&Value) -> Result<usize, String> {
    move |value| usize::try_from(count(least, most)(value)?).map_err(|error| error.to_string())
}

/// `20k`, `1.5M`, `2G`: thousands, millions, thousands of millions. The result must be whole.
fn short_number(text: &str) -> Option<u64> {
    let text = digits(text)?;
    let (digits, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
    let places: usize = match unit {
        "" => 0,
        "k" | "K" => 3,
        "M" => 6,
        "G" => 9,
        _ => return None,
    };
    let (whole, fraction) = digits.trim().split_once('.').unwrap_or((digits.trim(), ""));
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > places || digits.trim().ends_with('.') {
        return None;
    }
    let all = |text: &str| text.bytes().all(|digit| digit.is_ascii_digit());
    let some = !whole.is_empty() && all(whole) && all(fraction);
    some.then(|| format!("{whole}{fraction:0<places$}").parse().ok()).flatten()
}

/// A size in bytes: a number, or text with a unit.
pub(crate) fn size(least: u64, most: u64) -> impl Fn(&Value) -> Result<usize, String> {
    move |value| {
        let bytes = match value {
            Value::Number(it) => it.as_u64().or_else(|| u64::try_from(as_integer(value)?).ok()),
            Value::String(it) => it.parse::<ByteSize>().ok().map(|it| it.as_u64()),
            _ => None,
        };
        let bytes = bytes.ok_or_else(|| {
            format!("must be a size, such as \"64 MiB\" or a number of bytes, and is {}", describe(value))
        })?;
        let bytes = in_range(bytes, least, most, |bytes| ByteSize::b(bytes).to_string())?;
        usize::try_from(bytes).map_err(|e| e.to_string())
    }
}

/// A time: a number of seconds, or text such as `30m`, `500ms`, `1h 30m`.
pub(crate) fn duration(least: Duration) -> impl Fn(&Value) -> Result<Duration, String> {
    move |value| {
        let time = match value {
            Value::Number(it) => it.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
            Value::String(it) => time(it)?,
            _ => None,
        };
        let time = time.ok_or_else(|| {
            format!("must be a time, such as \"30m\", \"2s\" or a number of seconds, and is {}", describe(value))
        })?;
        if time < least {
            return Err(format!(
                "must be at least {}, and is {}",
                humantime::format_duration(least),
                humantime::format_duration(time)
            ));
        }
        // Far beyond any use, and still far from where adding it to a clock would overflow.
        Ok(time.min(Duration::from_secs(100 * 365 * 24 * 3600)))
    }
}

/// Reads a time from text. `None`: the text is no time.
///
/// Three forms are tried. First NAT's, by the library that pydantic has for it: `01:30` is an hour and a half,
/// `PT30M` half an hour, `3 days, 01:30:00`. Then one with units; and last a number of seconds, in quotes.
fn time(text: &str) -> Result<Option<Duration>, String> {
    // Like pydantic, without what is finer than a microsecond.
    let finest = MicrosecondsPrecisionOverflowBehavior::Truncate;
    let config = TimeConfigBuilder::new().microseconds_precision_overflow_behavior(finest).build();
    if let Ok(span) = Span::parse_bytes_with_config(text.as_bytes(), &config) {
        if !span.positive && span.signed_total_seconds() < 0 {
            return Err(format!("must be a time, and is one before now: the text {text:?}"));
        }
        let seconds = u64::from(span.day) * 24 * 60 * 60 + u64::from(span.second);
        return Ok(Some(Duration::new(seconds, span.microsecond * 1000)));
    }
    if let Ok(time) = humantime::parse_duration(text) {
        return Ok(Some(time));
    }
    if text.contains(':') {
        let forms = "\"01:30\" is hours and minutes, \"00:01:30\" hours, minutes and seconds, with two digits each";
        return Err(format!("must be a time, and is the text {text:?}: {forms}"));
    }
    let seconds = as_number(&Value::from(text));
    Ok(seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()))
}

fn in_range(number: u64, least: u64, most: u64, show: impl Fn(u64) -> String) -> Result<u64, String> {
    if number < least {
        return Err(format!("must be at least {}, and is {}", show(least), show(number)));
    }
    if number > most {
        return Err(format!("must be at most {}, and is {}", show(most), show(number)));
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn times_are_seconds_or_text_with_a_unit() {
        let read = duration(Duration::from_millis(1));
        assert_eq!(read(&json!(1800)), Ok(Duration::from_secs(1800)));
        assert_eq!(read(&json!(0.5)), Ok(Duration::from_millis(500)));
        assert_eq!(read(&json!("30m")), Ok(Duration::from_secs(1800)));
        for (text, seconds) in [
            // Each as pydantic 2.14 reads it.
            ("00:30:00", 1800.0),
            ("01:30", 5400.0),
            ("1:30:00", 5400.0),
            ("100:00", 360_000.0),
            ("01:30:00.5", 5400.5),
            ("10:00:00.1234567", 36_000.123_456),
            ("+01:30", 5400.0),
            ("3 days, 01:30", 264_600.0),
            ("1 day 2:03:04", 93_784.0),
            ("1d,01:00", 90_000.0),
            ("30d", 2_592_000.0),
            ("PT30M", 1800.0),
            ("PT1H30M", 5400.0),
            ("P1DT2H", 93_600.0),
            ("P2W3D", 1_468_800.0),
            ("P1Y", 31_536_000.0),
            ("P1M", 2_592_000.0),
            ("P0.5D", 43_200.0),
            ("PT1,5S", 1.5),
            // These only here.
            ("1h 30m", 5400.0),
            ("500ms", 0.5),
            ("1800", 1800.0),
            ("0.5", 0.5),
        ] {
            assert_eq!(read(&json!(text)), Ok(Duration::from_secs_f64(seconds)), "{text}");
        }
        for wrong in ["1:30", "01:60", "1:2:3", "-01:30", "-PT30M", "pt30m", "PT", "PT30", "01:30Z", "12:34:56.", "inf"]
        {
            assert!(read(&json!(wrong)).is_err(), "{wrong}");
        }
        assert!(read(&json!("1:30")).is_err_and(|why| why.contains("\"01:30\" is hours and minutes")));
        for wrong in [json!("soon"), json!(-1), json!(0), json!([1]), json!("10 parsecs"), json!(1e300)] {
            assert!(read(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_and_counts_are_numbers_or_text_with_a_unit() {
        assert_eq!(size(1, u64::MAX)(&json!("64 MiB")), Ok(64 << 20));
        assert_eq!(size(1, u64::MAX)(&json!(65536)), Ok(65536));
        assert!(size(65536, u64::MAX)(&json!("1 KiB")).is_err_and(|why| why.contains("at least 64.0 KiB")));
        assert_eq!(count(1, u64::MAX)(&json!("1.5M")), Ok(1_500_000));
        for (right, number) in [
            (json!("1_000"), 1000),
            (json!("50"), 50),
            (json!(" 50 "), 50),
            (json!("50.0"), 50),
            (json!(50.0), 50),
            (json!("010"), 10),
            (json!("+5"), 5),
            (json!("1.25k"), 1250),
            (json!("0.5G"), 500_000_000),
            (json!("1.50k"), 1500),
        ] {
            assert_eq!(count(1, u64::MAX)(&right), Ok(number), "{right}");
        }
        for wrong in [
            json!(1.7),
            json!("1.7"),
            json!("1.2345k"),
            json!("0x10"),
            json!("1e3"),
            json!("1__0"),
            json!("_1"),
            json!("5."),
            json!(-1),
            json!("-1"),
            json!(true),
            json!(1e300),
            json!("k"),
            json!(".5k"),
            json!("99999999999G"),
        ] {
            assert!(count(1, u64::MAX)(&wrong).is_err(), "{wrong}");
        }
        assert!(
            count(1, 9)(&json!(0)).is_err() && count(1, 9)(&json!(10)).is_err() && count(1, 9)(&json!("x")).is_err()
        );
    }

    #[test]
    fn booleans_are_words_too() {
        for (right, it) in [
            (json!(true), true),
            (json!("true"), true),
            (json!("YES"), true),
            (json!("y"), true),
            (json!("On"), true),
            (json!("1"), true),
            (json!(1), true),
            (json!("off"), false),
            (json!("n"), false),
            (json!("F"), false),
            (json!(0.0), false),
        ] {
            assert_eq!(boolean(&right), Ok(it), "{right}");
        }
        for wrong in [json!(" true"), json!("2"), json!(2), json!(""), json!("1.0"), json!([true])] {
            assert!(boolean(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_unknown_key_is_told_with_the_nearest_known_one() {
        let problems = Problems::default();
        let mut section = Section::new(KeyPath::parse("limits"), json!({"dedline": 1, "zzz": 2}), &problems);
        section.take("deadline");
        section.take("body_size");
        section.finish();
        let hints: Vec<_> = problems.into_vec().into_iter().filter_map(|problem| problem.hint).collect();
        assert_eq!(hints, ["did you mean `deadline`?", "the keys here are `deadline`, `body_size`"]);
    }
}
