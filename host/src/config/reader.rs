//! Reads sections of a configuration, key by key, and collects what is wrong with all of them.
//!
//! A reader asks for the keys that it knows, in plain code, and then says that there should be no others. An operator
//! who starts a host sees every mistake at once, each with its line, and for a key that nobody asked for the nearest
//! one that somebody did.

use super::{KeyPath, Problem};
use bytesize::ByteSize;
use serde_json::{Map, Value};
use std::{cell::RefCell, time::Duration};

/// What is wrong, so far.
#[derive(Debug, Default)]
pub(crate) struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    pub(crate) fn add(&self, path: &KeyPath, message: impl Into<String>) {
        self.0.borrow_mut().push(Problem::new(path.clone(), message));
    }

    pub(crate) fn push(&self, problem: Problem) {
        self.0.borrow_mut().push(problem);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    pub(crate) fn into_vec(self) -> Vec<Problem> {
        self.0.into_inner()
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
    /// A section from a value that should be a map; anything else is a problem, and then an empty one.
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

    /// A key whose value `read` makes something of.
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

    /// Whether a key is given.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(|value| !value.is_null())
    }

    /// Says so if a key is not given.
    pub(crate) fn require(&self, key: &str) {
        if !self.has(key) {
            self.problems.add(&self.path, format!("has no `{key}`"));
        }
    }

    /// A NAT key that means nothing here. Gives its name if it is given.
    pub(crate) fn ignore(&mut self, key: &'static str) -> Option<String> {
        self.take(key).map(|_| self.path.with(key).to_string())
    }

    /// All that is left, whatever the keys are called.
    pub(crate) fn rest(&mut self) -> Map<String, Value> {
        std::mem::take(&mut self.map)
    }

    /// Says that there should be no other keys.
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

/// Names as people list them.
pub(crate) fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.map(|name| format!("`{name}`")).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

/// What a value is, as an operator wrote it.
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

/// A text.
pub(crate) fn text(value: &Value) -> Result<String, String> {
    match value {
        Value::String(it) => Ok(it.clone()),
        other => Err(format!("must be text, and is {}", describe(other))),
    }
}

/// `true` or `false`.
pub(crate) fn boolean(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| format!("must be `true` or `false`, and is {}", describe(value)))
}

/// A list, each item read by `read`.
pub(crate) fn list_of<T>(read: impl Fn(&Value) -> Result<T, String>) -> impl Fn(&Value) -> Result<Vec<T>, String> {
    move |value| match value {
        Value::Array(items) => items.iter().map(&read).collect(),
        other => Err(format!("must be a list, and is {}", describe(other))),
    }
}

/// The same of what must not be repeated in a message, nor what stands in the list's place.
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
            Value::Number(it) => it.as_u64(),
            Value::String(it) => short_number(it),
            _ => None,
        };
        let number = number.ok_or_else(|| {
            format!("must be a whole number, such as 500, \"20k\" or \"1.5M\", and is {}", describe(value))
        })?;
        in_range(number, least, most, |number| number.to_string())
    }
}

/// `20k`, `1.5M`, `2G`, `1_000`: thousands, millions, thousands of millions.
fn short_number(text: &str) -> Option<u64> {
    let text = text.trim().replace('_', "");
    let (digits, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
    let unit: u64 = match unit {
        "" => 1,
        "k" | "K" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        _ => return None,
    };
    let digits = digits.trim();
    match digits.parse::<u64>() {
        Ok(number) => number.checked_mul(unit),
        Err(_) => digits.parse::<f64>().ok().filter(|it| *it >= 0.0 && *it < 1e9).map(|it| (it * unit as f64) as u64),
    }
}

/// A size in bytes: a number, or text with a unit.
pub(crate) fn size(least: u64, most: u64) -> impl Fn(&Value) -> Result<usize, String> {
    move |value| {
        let bytes = match value {
            Value::Number(it) => it.as_u64(),
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
            Value::String(it) => humantime::parse_duration(it).ok().or_else(|| clock_time(it)),
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

/// `[[hours:]minutes:]seconds`, which NAT takes as well.
fn clock_time(text: &str) -> Option<Duration> {
    let seconds = text.split(':').try_fold(0u64, |sum, part| sum.checked_mul(60)?.checked_add(part.parse().ok()?))?;
    text.contains(':').then(|| Duration::from_secs(seconds))
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
        assert_eq!(read(&json!("00:30:00")), Ok(Duration::from_secs(1800)));
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
        assert_eq!(count(1, u64::MAX)(&json!("1_000")), Ok(1000));
        assert!(
            count(1, 9)(&json!(0)).is_err() && count(1, 9)(&json!(10)).is_err() && count(1, 9)(&json!("x")).is_err()
        );
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
