//! Plain scalars of YAML 1.1: what a text without quotes means.
//!
//! NAT reads its files with PyYAML, which keeps to YAML 1.1 (<https://yaml.org/type/>): `yes` and `off` are booleans,
//! `010` is eight, `0x1F` is 31, `1_000` is a thousand, and `1:30` is ninety, by sixties. A reader of YAML 1.2 takes most
//! of these for texts, and a file would silently mean something else.

use regex::Regex;
use serde_json::{Number, Value};
use std::sync::LazyLock;

/// A plain scalar's value: `null`, a boolean, a number, or the text itself.
///
/// # Errors
///
/// The text of a number that JSON does not have: infinite, or not a number.
pub(super) fn resolve(text: &str) -> Result<Value, String> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => return Ok(true.into()),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => return Ok(false.into()),
        _ => {}
    }
    // Most texts are no numbers, and need not be looked at twice.
    if !text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) {
        return Ok(text.into());
    }
    let is = |pattern: &Option<Regex>| pattern.as_ref().is_some_and(|pattern| pattern.is_match(text));
    if is(&FLOAT) {
        let number = float(text).and_then(Number::from_f64);
        return number.map(Value::Number).ok_or_else(|| text.to_owned());
    }
    if is(&INTEGER)
        && let Some(number) = integer(text)
    {
        return Ok(number);
    }
    Ok(text.into())
}

/// <https://yaml.org/type/float.html>, with PyYAML's sign for exponents.
static FLOAT: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r"^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
    )
    .ok()
});

/// <https://yaml.org/type/int.html>
static INTEGER: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r"^(?:[-+]?0b[01_]+|[-+]?0[0-7_]+|[-+]?(?:0|[1-9][0-9_]*)|[-+]?0x[0-9a-fA-F_]+|[-+]?[1-9][0-9_]*(?::[0-5]?[0-9])+)$",
    )
    .ok()
});

/// The text without its sign, and true if that is a minus.
fn unsigned(text: &str) -> (bool, &str) {
    match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    }
}

fn float(text: &str) -> Option<f64> {
    let text = text.replace('_', "").to_ascii_lowercase();
    let (negative, digits) = unsigned(&text);
    let number = match digits {
        ".inf" => f64::INFINITY,
        ".nan" => f64::NAN,
        _ => digits.split(':').try_fold(0.0, |sum, part| Some(sum * 60.0 + part.parse::<f64>().ok()?))?,
    };
    Some(if negative { -number } else { number })
}

/// `None`: there are no digits in it, such as in `0x_`.
fn integer(text: &str) -> Option<Value> {
    let text = text.replace('_', "");
    let (negative, digits) = unsigned(&text);
    let of_base = |digits: &str, base| u128::from_str_radix(digits, base).ok();
    let number = if let Some(digits) = digits.strip_prefix("0b") {
        of_base(digits, 2)
    } else if let Some(digits) = digits.strip_prefix("0x") {
        of_base(digits, 16)
    } else if digits.len() > 1 && digits.starts_with('0') {
        of_base(digits, 8)
    } else {
        digits.split(':').try_fold(0_u128, |sum, part| sum.checked_mul(60)?.checked_add(part.parse().ok()?))
    };
    match number {
        Some(number) => Some(match (u64::try_from(number), i64::try_from(number)) {
            (Ok(number), _) if !negative => number.into(),
            (_, Ok(number)) if negative => (-number).into(),
            // JSON has it as a number with a fraction, as far as that goes.
            _ => (if negative { -(number as f64) } else { number as f64 }).into(),
        }),
        None => digits.parse::<f64>().ok().filter(|number| number.is_finite()).map(Value::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn plain_texts_mean_what_pyyaml_reads() {
        // Each as `yaml.safe_load` of PyYAML 6.0 reads it.
        for (text, value) in [
            ("yes", json!(true)),
            ("Off", json!(false)),
            ("ON", json!(true)),
            ("y", json!("y")),
            ("tRue", json!("tRue")),
            ("~", json!(null)),
            ("", json!(null)),
            ("nULL", json!("nULL")),
            ("010", json!(8)),
            ("-010", json!(-8)),
            ("0o10", json!("0o10")),
            ("08", json!("08")),
            ("0x1F", json!(31)),
            ("+0x1f", json!(31)),
            ("0b11", json!(3)),
            ("0x_", json!("0x_")),
            ("1_000", json!(1000)),
            ("1_", json!(1)),
            ("_1", json!("_1")),
            ("1:30", json!(90)),
            ("01:30", json!("01:30")),
            ("0:30", json!("0:30")),
            ("1:60", json!("1:60")),
            ("190:20:30", json!(685_230)),
            ("-1:30", json!(-90)),
            ("1:30.5", json!(90.5)),
            ("1e3", json!("1e3")),
            ("1.0e3", json!("1.0e3")),
            ("1.0e+3", json!(1000.0)),
            ("-1.0E-2", json!(-0.01)),
            ("5.", json!(5.0)),
            (".5", json!(0.5)),
            ("1_0.5", json!(10.5)),
            ("-0", json!(0)),
            ("--1", json!("--1")),
            ("2001-01-01", json!("2001-01-01")),
            ("18446744073709551615", json!(u64::MAX)),
            ("-9223372036854775808", json!(-9_223_372_036_854_775_808.0)),
            ("123456789012345678901", json!(123_456_789_012_345_678_901.0)),
        ] {
            assert_eq!(resolve(text), Ok(value), "{text}");
        }
        for text in [".inf", "-.INF", ".nan"] {
            assert_eq!(resolve(text), Err(text.to_owned()));
        }
    }
}
