//! Generates code that makes characters lower case as the standard library does: see `src/lowercase.rs`.

use std::{env, fmt::Write as _, fs, path::Path};

/// Characters from `first` to `last` that have the same answer.
struct Range {
    first: u32,
    last: u32,
    answer: String,
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let mut code = String::new();
    function(&mut code, "lower_of", "u32", "c", &mappings());
    function(&mut code, "is_ignorable", "bool", "false", &characters(is_ignorable));
    function(&mut code, "is_cased", "bool", "false", &characters(is_cased));
    let out = env::var_os("OUT_DIR").unwrap_or_default();
    let written = fs::write(Path::new(&out).join("lowercase.rs"), code);
    if let Err(error) = written {
        println!("cargo::error=lowercase.rs: {error}");
    }
}

/// The characters with a single other character as lower case. U+0130, which has two, is left out.
fn mappings() -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    for c in '\0'..=char::MAX {
        let mut lower = c.to_lowercase();
        let (Some(lower), None) = (lower.next(), lower.next()) else { continue };
        if lower == c {
            continue;
        }
        let (c, lower) = (u32::from(c), u32::from(lower));
        // In many scripts each capital is followed by its small letter; elsewhere the distance is constant.
        let pair = if c % 2 == 0 { "c | 1" } else { "c + (c & 1)" };
        let distance = format!("c.wrapping_add({})", lower.wrapping_sub(c));
        let is_pair = lower == c + 1;
        match ranges.last_mut() {
            Some(last) if is_pair && last.answer == pair && last.last + 1 == c => last.last = lower,
            Some(last) if !is_pair && last.answer == distance && last.last + 1 == c => last.last = c,
            _ if is_pair => ranges.push(Range { first: c, last: lower, answer: pair.into() }),
            _ => ranges.push(Range { first: c, last: c, answer: distance }),
        }
    }
    ranges
}

/// The ranges of all characters for which `are_so` is true.
fn characters(are_so: fn(char) -> bool) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    for c in ('\0'..=char::MAX).filter(|&c| are_so(c)).map(u32::from) {
        match ranges.last_mut() {
            Some(last) if last.last + 1 == c => last.last = c,
            _ => ranges.push(Range { first: c, last: c, answer: "true".into() }),
        }
    }
    ranges
}

/// Returns true if a sigma after this character can end a word. This is asked of the nearest character that is not
/// ignored.
fn is_cased(c: char) -> bool {
    format!("{c}Σ").to_lowercase().ends_with('ς')
}

/// Returns true if that search skips this character.
fn is_ignorable(c: char) -> bool {
    !is_cased(c) && format!("A{c}Σ").to_lowercase().ends_with('ς')
}

/// Writes a function that looks a character up by binary search.
fn function(code: &mut String, name: &str, gives: &str, otherwise: &str, ranges: &[Range]) {
    let _ = writeln!(code, "pub(super) fn {name}(c: u32) -> {gives} {{");
    look_up(code, otherwise, ranges);
    let _ = writeln!(code, "}}");
}

fn look_up(code: &mut String, otherwise: &str, ranges: &[Range]) {
    let (left, right) = ranges.split_at(ranges.len() / 2);
    match (left, right) {
        (_, []) => {
            let _ = writeln!(code, "{otherwise}");
        }
        ([], [Range { first, last, answer }, ..]) => {
            let _ = writeln!(code, "if c >= {first} && c <= {last} {{ {answer} }} else {{ {otherwise} }}");
        }
        (_, [Range { first, .. }, ..]) => {
            let _ = writeln!(code, "if c < {first} {{");
            look_up(code, otherwise, left);
            let _ = writeln!(code, "}} else {{");
            look_up(code, otherwise, right);
            let _ = writeln!(code, "}}");
        }
    }
}
