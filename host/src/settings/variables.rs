//! `${NAME}` and its other forms: environment variables in a configuration's text, as in NAT.
//!
//! The forms are those of the library that NAT uses, `expandvars` (<https://pypi.org/project/expandvars/>), which are the
//! shell's: `${A}`, `${A:-x}` and `${A-x}`, `${A:=x}`, `${A:+x}`, `${A:?x}`, `${A:1:2}`, `${#A}`, `${!A}`, `${$}`, one in
//! another, and `$A` within them. Three things are stricter: a variable that is not set and has no default is an error,
//! not nothing; in a comment there are no variables; and one ends in the line in which it begins. Backslashes elsewhere
//! are as YAML has them, while NAT takes one of two away.
//!
//! Variables are put into the text before parsing, as a value may be a number or a list. But only parsing tells what
//! is a comment. So the text is first parsed with a unique name in the place of each variable: a variable whose name
//! is in no scalar stands in a comment.

use super::{KeyPath, Problem, reader::Problems, yaml};
use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

/// A variable in the text.
struct VariableReference {
    /// The range from the backslashes before `$` to after `}`.
    span: Range<usize>,
    backslashes: usize,
    /// The text between the braces; `None`, if there is no closing one in the line.
    inner: Option<Range<usize>>,
}

/// Puts the variables' values into the text. Each wrong variable is a problem, reported with its line.
pub(super) fn substitute(text: &str, get: &dyn Fn(&str) -> Option<String>, problems: &Problems) -> String {
    let references = references(text);
    if references.is_empty() {
        return text.to_owned();
    }
    let in_comments = in_comments(text, &references);
    let mut environment = Environment { get, set: HashMap::new() };
    let mut out = String::with_capacity(text.len());
    let (mut rest, mut line, mut counted) = (0, 1, 0);
    for (reference, in_comment) in references.iter().zip(in_comments) {
        out.push_str(&text[rest..reference.span.start]);
        rest = reference.span.end;
        line += text[counted..reference.span.start].matches('\n').count();
        counted = reference.span.start;
        let whole = &text[reference.span.clone()];
        if in_comment {
            out.push_str(whole);
            continue;
        }
        let value = match &reference.inner {
            None => Err(Wrong::new("`${` has no `}` in its line")),
            Some(inner) => environment.value(&text[inner.clone()], reference.backslashes),
        };
        match value {
            Ok(value) => out.push_str(&value),
            Err(Wrong { message, hint }) => {
                let mut problem = Problem::new(KeyPath::root(), message);
                problem.line = Some(line);
                problem.hint = hint;
                problems.push(problem);
            }
        }
    }
    out.push_str(&text[rest..]);
    out
}

/// The most bytes between a variable's braces.
const LONGEST: usize = 4096;

/// All variables of a text, those in comments too.
fn references(text: &str) -> Vec<VariableReference> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = text[from..].find("${").map(|at| from + at) {
        let before = &text[from..at];
        let backslashes = before.len() - before.trim_end_matches('\\').len();
        let inner = closing(&text[at + 2..]).map(|end| at + 2..at + 2 + end);
        let end = inner.as_ref().map_or(at + 2, |inner| inner.end + 1);
        found.push(VariableReference { span: at - backslashes..end, backslashes, inner });
        from = end;
    }
    found
}

/// The position of the brace that closes one opened before the text, in the same line.
fn closing(text: &str) -> Option<usize> {
    let mut open = 0_usize;
    for (at, byte) in text.bytes().enumerate().take(LONGEST) {
        match byte {
            b'{' => open += 1,
            b'}' if open == 0 => return Some(at),
            b'}' => open -= 1,
            b'\n' | b'\r' => return None,
            _ => {}
        }
    }
    None
}

/// Finds the variables that stand in comments.
fn in_comments(text: &str, references: &[VariableReference]) -> Vec<bool> {
    // Characters for private use are plain ones to YAML, and a file has none between which a number stands.
    let name = |index: usize| format!("\u{e0c1}{index}\u{e0c2}");
    let mut named = String::with_capacity(text.len());
    let mut rest = 0;
    for (index, reference) in references.iter().enumerate() {
        named.push_str(&text[rest..reference.span.start]);
        named.push_str(&name(index));
        rest = reference.span.end;
    }
    named.push_str(&text[rest..]);
    let (scalars, all) = yaml::scalars(&named);
    let used: HashSet<&str> = scalars.iter().flat_map(|scalar| names(scalar)).collect();
    let mut line = ScannedLine::default();
    let mut rest = 0;
    let is_comment = |(index, reference): (usize, &VariableReference)| {
        line.goes_on(&text[rest..reference.span.start]);
        rest = reference.span.start;
        // A text that is not YAML yet may become YAML with the variables' values.
        if all { line.has_comment && !used.contains(&*index.to_string()) } else { line.is_comment }
    };
    references.iter().enumerate().map(is_comment).collect()
}

/// The numbers of the variables whose names stand in a scalar.
fn names(scalar: &str) -> impl Iterator<Item = &str> {
    scalar.split('\u{e0c1}').skip(1).filter_map(|rest| rest.split_once('\u{e0c2}').map(|(number, _)| number))
}

/// The part of a line that has been looked at.
struct ScannedLine {
    /// A `#` stands in it where a comment could begin.
    has_comment: bool,
    /// The whole line is a comment.
    is_comment: bool,
    /// There was nothing but space so far.
    is_empty: bool,
    /// The last character was a space, or there was none.
    after_space: bool,
}

impl Default for ScannedLine {
    fn default() -> Self {
        Self { has_comment: false, is_comment: false, is_empty: true, after_space: true }
    }
}

impl ScannedLine {
    fn goes_on(&mut self, text: &str) {
        for byte in text.bytes() {
            match byte {
                b'\n' | b'\r' => *self = Self::default(),
                b' ' | b'\t' => self.after_space = true,
                b'#' if self.after_space => {
                    self.is_comment |= self.is_empty;
                    self.has_comment = true;
                    (self.is_empty, self.after_space) = (false, false);
                }
                _ => (self.is_empty, self.after_space) = (false, false),
            }
        }
    }
}

/// A mistake in a variable, and what helps.
struct Wrong {
    message: String,
    hint: Option<String>,
}

impl Wrong {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// The variables, and those that `${A:=x}` has set.
struct Environment<'a> {
    get: &'a dyn Fn(&str) -> Option<String>,
    set: HashMap<String, String>,
}

/// The most variables that may be nested in one another.
const DEPTH: usize = 16;

impl Environment<'_> {
    fn get(&self, name: &str) -> Option<String> {
        match name {
            "$" => Some(std::process::id().to_string()),
            _ => self.set.get(name).cloned().or_else(|| (self.get)(name)),
        }
    }

    /// The value of a variable after the given backslashes.
    ///
    /// NAT expands twice: the text, and then each text value. Each time, a backslash before `$` or before another
    /// backslash is removed. So one before `${A}` only delays the expansion, and three prevent it.
    fn value(&mut self, inner: &str, backslashes: usize) -> Result<String, Wrong> {
        let left = backslashes / 2;
        if backslashes % 2 == 1 {
            let kept = "\\".repeat(left / 2);
            return match left % 2 {
                1 => Ok(format!("{kept}${{{inner}}}")),
                _ => Ok(format!("{kept}{}", self.expanded(inner, 0)?)),
            };
        }
        let value = self.expanded(inner, 0)?;
        // Variables within a value are expanded the second time. A `${` without an end stays, as in a password.
        let closed = value.match_indices("${").all(|(at, _)| closing(&value[at + 2..]).is_some());
        let again = if value.contains("${") && closed { self.text(&value, 1)? } else { value };
        Ok(format!("{}{again}", "\\".repeat(left.div_ceil(2))))
    }

    /// The value of an expression between the braces, without a line break.
    fn expanded(&mut self, inner: &str, depth: usize) -> Result<String, Wrong> {
        if depth == DEPTH {
            return Err(Wrong::new(format!("`${{{inner}}}` is nested too deeply")));
        }
        let (value, name) = self.form(inner, depth)?;
        // Python ends lines at all of these, and YAML at some; other control characters have no place in YAML at all.
        let breaks = |c: char| (c.is_control() && c != '\t') || matches!(c, '\u{2028}' | '\u{2029}');
        match value.chars().find(|c| breaks(*c)) {
            None => Ok(value),
            Some(c) => {
                let what = match c {
                    '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}' => "line break",
                    _ => "control character",
                };
                let wrong = format!("the environment variable {name} has a {what} in it (U+{:04X})", u32::from(c));
                Err(Wrong::new(wrong).hint(match c {
                    '\r' => "it may come from a file with the line ends of Windows",
                    _ => "a value is put into one line of the file",
                }))
            }
        }
    }

    /// The value, and the variable's name.
    fn form<'t>(&mut self, inner: &'t str, depth: usize) -> Result<(String, &'t str), Wrong> {
        let no_form = || {
            Wrong::new(format!("`${{{inner}}}` is no form of a variable")).hint(
                "the forms are `${A}`, `${A:-default}`, `${A:=default}`, `${A:+instead}`, `${A:?message}`, `${A:1:2}`, \
                 `${#A}` and `${!A}`",
            )
        };
        let (prefix, rest) = match inner.as_bytes().first() {
            Some(b'!' | b'#') => inner.split_at(1),
            _ => ("", inner),
        };
        let end = match rest.strip_prefix('$') {
            Some(_) => 1,
            None => rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len()),
        };
        let (name, form) = rest.split_at(end);
        if name.is_empty() {
            return Err(no_form());
        }
        let unset = |name: &str| {
            Wrong::new(format!("the environment variable {name} is not set"))
                .hint(format!("set it, or give a default: ${{{name}:-default}}"))
        };
        let mut value = self.get(name);
        if prefix == "!" {
            let other = value.ok_or_else(|| unset(name))?;
            value = self.get(&other);
            if value.is_none() && form.is_empty() {
                return Err(unset(&other));
            }
        }
        if prefix == "#" {
            return match form {
                "" => Ok((value.unwrap_or_default().chars().count().to_string(), name)),
                _ => Err(no_form()),
            };
        }
        let given = value.clone().filter(|value| !value.is_empty());
        let form = form.strip_prefix(':').unwrap_or(form);
        let mut chars = form.chars();
        let kind = chars.next();
        let word = chars.as_str();
        let value = match (kind, given) {
            (None, _) if rest.len() > name.len() => return Err(no_form()),
            (None, _) => value.ok_or_else(|| unset(name))?,
            (Some('-' | '=' | '?'), Some(given)) => given,
            (Some('-'), None) => self.text(word, depth + 1)?,
            (Some('='), None) => {
                let word = self.text(word, depth + 1)?;
                self.set.insert(name.to_owned(), word.clone());
                word
            }
            (Some('?'), None) => {
                let word = self.text(word, depth + 1)?;
                let why = if word.is_empty() { "is not set, or empty".to_owned() } else { word };
                return Err(Wrong::new(format!("the environment variable {name}: {why}")).hint("set it"));
            }
            (Some('+'), Some(_)) => self.text(word, depth + 1)?,
            (Some('+'), None) => String::new(),
            (Some(_), _) => {
                let form = self.text(form, depth + 1)?;
                let (from, length) = form.split_once(':').map_or((&*form, None), |(from, length)| (from, Some(length)));
                let number = |text: &str| match text.trim() {
                    "" => Some(0),
                    text => text.parse::<i64>().ok(),
                };
                let from = number(from).ok_or_else(no_form)?;
                let length =
                    length.map(|length| number(length).filter(|it| *it >= 0).ok_or_else(no_form)).transpose()?;
                slice(&value.ok_or_else(|| unset(name))?, from, length)
            }
        };
        Ok((value, name))
    }

    /// A text within a variable's braces, in which `$A` is a variable as well.
    fn text(&mut self, text: &str, depth: usize) -> Result<String, Wrong> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find(['$', '\\']) {
            out.push_str(&rest[..at]);
            let after = &rest[at + 1..];
            let next = after.chars().next();
            if rest.as_bytes()[at] == b'\\' {
                // A backslash goes before `$` and another one, and stays before anything else.
                match next {
                    Some(c @ ('$' | '\\')) => {
                        out.push(c);
                        rest = &after[1..];
                    }
                    _ => {
                        out.push('\\');
                        rest = after;
                    }
                }
                continue;
            }
            match next {
                Some('{') => {
                    let inner = &after[1..];
                    let end = closing(inner).ok_or_else(|| Wrong::new(format!("`{rest}` has no `}}`")))?;
                    out.push_str(&self.expanded(&inner[..end], depth)?);
                    rest = &inner[end + 1..];
                }
                Some(c) if c.is_alphanumeric() || c == '_' || c == '$' => {
                    let end = match c {
                        '$' => 1,
                        _ => after.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(after.len()),
                    };
                    out.push_str(&self.expanded(&after[..end], depth)?);
                    rest = &after[end..];
                }
                _ => {
                    out.push('$');
                    rest = after;
                }
            }
        }
        out.push_str(rest);
        Ok(out)
    }
}

/// The characters `[from:from + length]`, as in Python: a negative index counts from the end.
fn slice(text: &str, from: i64, length: Option<i64>) -> String {
    let chars: Vec<char> = text.chars().collect();
    let count = chars.len() as i64;
    let place = |at: i64| (if at < 0 { at.saturating_add(count) } else { at }).clamp(0, count) as usize;
    let (start, end) = (place(from), length.map_or(count as usize, |length| place(from.saturating_add(length))));
    chars.get(start..end.max(start)).unwrap_or_default().iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str) -> (String, Vec<Problem>) {
        let problems = Problems::default();
        let get = |name: &str| match name {
            "PORT" => Some("9000".to_owned()),
            "EMPTY" => Some(String::new()),
            "WORD" => Some("hélène".to_owned()),
            "NAME" => Some("WORD".to_owned()),
            "OTHER" => Some("${PORT}".to_owned()),
            "HALF" => Some("pa${ss".to_owned()),
            "INDIRECT" => Some("x${NOPE}y".to_owned()),
            "LINES" => Some("a\nb".to_owned()),
            "WINDOWS" => Some("token\r".to_owned()),
            "NEL" => Some("a\u{85}b".to_owned()),
            "SEPARATED" => Some("a\u{2028}b".to_owned()),
            "BELL" => Some("a\u{7}b".to_owned()),
            _ => None,
        };
        let text = substitute(text, &get, &problems);
        (text, problems.into_vec())
    }

    /// Asserts that a text without mistakes becomes this.
    #[track_caller]
    fn becomes(text: &str, expected: &str) {
        let (out, problems) = with(text);
        assert_eq!((out.as_str(), problems.len()), (expected, 0), "{text}: {problems:?}");
    }

    #[test]
    fn every_form_has_nats_meaning() {
        // Each as `expandvars` 1.1.2 gives it, in NAT's way.
        for (form, value) in [
            ("${PORT}", "9000"),
            ("${EMPTY}", ""),
            ("${NOPE:-x}", "x"),
            ("${NOPE-x}", "x"),
            ("${EMPTY:-y}", "y"),
            ("${EMPTY-y}", "y"),
            ("${PORT:-x}", "9000"),
            ("${NOPE:-}", ""),
            ("${NOPE:-${PORT:-x}}", "9000"),
            ("${NOPE:-${NEITHER:-x}}", "x"),
            ("${NOPE:-a${PORT}b${NEITHER-c}d}", "a9000bcd"),
            ("${NOPE:-$PORT-1}", "9000-1"),
            ("${NOPE:-{x}}", "{x}"),
            ("${NOPE:-a: b}", "a: b"),
            ("${NOPE:-a # b}", "a # b"),
            ("${PORT:+x}", "x"),
            ("${PORT+x}", "x"),
            ("${EMPTY:+x}", ""),
            ("${NOPE+x}", ""),
            ("${NEW:=x}${NEW}", "xx"),
            ("${NEW=${PORT}}-${NEW:-y}", "9000-9000"),
            ("${PORT:?must be there}", "9000"),
            ("${PORT:1}", "000"),
            ("${WORD:1:2}", "él"),
            ("${WORD: -3}", "ène"),
            ("${WORD:-3}", "hélène"),
            ("${WORD:0:0}", ""),
            ("${WORD::2}", "hé"),
            ("${#WORD}", "6"),
            ("${#NOPE}", "0"),
            ("${!NAME}", "hélène"),
            ("${OTHER}", "9000"),
            ("${HALF}", "pa${ss"),
            ("${NOPE:-\\$PORT}", "$PORT"),
            ("\\${PORT}", "9000"),
            ("\\\\${PORT}", "\\9000"),
            ("\\\\\\${PORT}", "${PORT}"),
            ("$PORT $5 {e} $", "$PORT $5 {e} $"),
        ] {
            becomes(&format!("a: {form}\nb: 1\n"), &format!("a: {value}\nb: 1\n"));
        }
        becomes("a: ${$}\n", &format!("a: {}\n", std::process::id()));
    }

    #[test]
    fn in_comments_there_are_no_variables() {
        for comment in [
            "# ${NOPE}",
            "b: {\nc: 1 # ${NOPE}\n}",
            "b: \"x\ny\" # ${NOPE}",
            "   # ${NOPE",
            "a: it's # ${NOPE}",
            "a: \"it's\" # ${NOPE} and ${",
            "a: 'it''s' # '${NOPE}",
            "a: [1, 2] # ${NOPE:-",
            "a: \"x # y\" # ${LINES}",
            "a: x\t# ${NOPE}",
            "a: &b x # ${NOPE}",
            "a:\n  - x # don't ${NOPE}\n  - y",
            "a: {b: c} # \"${NOPE}",
            "a: |\n  text\n# ${NOPE}",
        ] {
            becomes(&format!("{comment}\nz: ${{PORT}}\n"), &format!("{comment}\nz: 9000\n"));
        }
        for (text, expected) in [
            ("a: \"x # ${PORT}\"\n", "a: \"x # 9000\"\n"),
            ("a: 'x # ${PORT}'\n", "a: 'x # 9000'\n"),
            ("a: x#${PORT}\n", "a: x#9000\n"),
            ("a: |\n  # ${PORT}\n", "a: |\n  # 9000\n"),
            ("a: >\n  x # ${PORT}\n", "a: >\n  x # 9000\n"),
            ("a: \"x\n  # ${PORT}\"\n", "a: \"x\n  # 9000\"\n"),
            ("${PORT}: 1\n", "9000: 1\n"),
            ("a: [${PORT}, {b: ${PORT}}]\n", "a: [9000, {b: 9000}]\n"),
        ] {
            becomes(text, expected);
        }
    }

    /// Guards against a search for each variable in all of the text, which once took minutes.
    #[test]
    fn many_variables_in_a_line_or_in_many_are_put_in_soon() {
        let many = 50_000;
        for (one, becomes) in [
            ("\"${U:-1}\",", "\"1\","),
            ("\"a # ${U:-1}\",\n  ", "\"a # 1\",\n  "),
            (" # ${NOPE} ${\n  ", " # ${NOPE} ${\n  "),
        ] {
            let (text, problems) = with(&format!("a: [{}]\n", one.repeat(many)));
            assert!(text == format!("a: [{}]\n", becomes.repeat(many)) && problems.is_empty(), "{one}");
        }
        let (_, problems) = with(&format!("a: [{}]\n", "${NOPE},\n".repeat(many)));
        assert_eq!((problems.len(), problems[many - 1].line), (many, Some(many)));
        assert_eq!(with(&format!("a: {}\n", "${".repeat(2000))).1.len(), 2000);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, line, message) in [
            ("a: 1 # ${BEHIND}\n# ${IN}\nb: \"x # ${NOPE}\"\n", 3, "the environment variable NOPE is not set"),
            ("a: 1\nb: ${NOPE:-${NEITHER}}\n", 2, "the environment variable NEITHER is not set"),
            ("a: 1\nb: ${NOPE:-$NEITHER}\n", 2, "the environment variable NEITHER is not set"),
            ("a: ${!NOPE}\n", 1, "the environment variable NOPE is not set"),
            ("a: ${NOPE:1}\n", 1, "the environment variable NOPE is not set"),
            ("a: ${NOPE:?set me}\n", 1, "the environment variable NOPE: set me"),
            ("a: ${EMPTY:?}\n", 1, "the environment variable EMPTY: is not set, or empty"),
            ("a: 1\nb: ${PORT\nc: }\n", 2, "`${` has no `}` in its line"),
            ("a: ${}\n", 1, "`${}` is no form of a variable"),
            ("a: ${PORT.x}\n", 1, "`${PORT.x}` is no form of a variable"),
            ("a: ${PORT:}\n", 1, "`${PORT:}` is no form of a variable"),
            ("a: ${NOPE:-x\n  y}\n", 1, "`${` has no `}` in its line"),
            ("a: ${PORT:1:-1}\n", 1, "`${PORT:1:-1}` is no form of a variable"),
            ("a: ${#PORT:-x}\n", 1, "`${#PORT:-x}` is no form of a variable"),
            ("a: ${LINES}\n", 1, "the environment variable LINES has a line break in it (U+000A)"),
            ("a: ${WINDOWS}\n", 1, "the environment variable WINDOWS has a line break in it (U+000D)"),
            ("a: \"${NEL}\"\n", 1, "the environment variable NEL has a line break in it (U+0085)"),
            ("a: ${SEPARATED}\n", 1, "the environment variable SEPARATED has a line break in it (U+2028)"),
            ("a: ${NOPE:-${WINDOWS}}\n", 1, "the environment variable WINDOWS has a line break in it (U+000D)"),
            ("a: ${BELL}\n", 1, "the environment variable BELL has a control character in it (U+0007)"),
        ] {
            let (_, problems) = with(text);
            let told: Vec<_> = problems.iter().map(|problem| (problem.line, problem.message.as_str())).collect();
            assert_eq!(told, [(Some(line), message)], "{text}");
        }
        let (_, problems) = with("a: ${INDIRECT}\n");
        assert_eq!(problems[0].message, "the environment variable NOPE is not set", "in the value of another one");
        let deep = format!("a: {}x{}\n", "${NOPE:-".repeat(100), "}".repeat(100));
        assert!(with(&deep).1[0].message.contains("nested too deeply"));
    }
}
