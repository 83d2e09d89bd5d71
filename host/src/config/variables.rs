//! `${NAME}` and `${NAME:-default}`: environment variables in a configuration's text, as in NAT.

use super::{KeyPath, Problem, reader::Problems};

/// Puts the variables' values into the text. One that is not set and has no default is a problem, told with its line.
/// A value with a line break in it would move the lines below, so it is one as well.
pub(super) fn substitute(text: &str, get: impl Fn(&str) -> Option<String>, problems: &Problems) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, from) = rest.split_at(start);
        out.push_str(before);
        let Some((inner, after)) = from[2..].split_once('}') else {
            out.push_str(from);
            return out;
        };
        let (name, default) = match inner.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inner, None),
        };
        let set = get(name).filter(|value| !value.is_empty());
        let line = out.rsplit('\n').next().unwrap_or_default();
        let quotes = |before: &str| before.matches(['"', '\'']).count();
        let behind = line.match_indices(" #").any(|(at, _)| quotes(&line[..at]) % 2 == 0);
        let comment = line.trim_start().starts_with('#') || behind;
        match set.or(default.map(str::to_owned)) {
            Some(value) if !value.contains('\n') => out.push_str(&value),
            _ if comment => out.push_str(&from[..from.len() - after.len()]),
            found => {
                let message = match found {
                    Some(_) => format!("the environment variable {name} has a line break in it"),
                    None => format!("the environment variable {name} is not set"),
                };
                let mut problem = Problem::new(KeyPath::root(), message);
                problem.line = Some(out.matches('\n').count() + 1);
                problems.push(problem.hint(format!("set it, or give a default: ${{{name}:-default}}")));
            }
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str) -> (String, Vec<Problem>) {
        let problems = Problems::default();
        let get = |name: &str| match name {
            "PORT" => Some("9000".to_owned()),
            "EMPTY" => Some(String::new()),
            "LINES" => Some("a\nb".to_owned()),
            _ => None,
        };
        let text = substitute(text, get, &problems);
        (text, problems.into_vec())
    }

    #[test]
    fn variables_are_put_in_and_defaults_stand_in_for_those_that_are_not_set() {
        let (text, problems) = with("a: ${PORT}\nb: ${NOPE:-x}\nc: ${EMPTY:-y}\nd: $5 {e} ${open");
        assert_eq!(text, "a: 9000\nb: x\nc: y\nd: $5 {e} ${open");
        assert!(problems.is_empty());
    }

    #[test]
    fn one_that_is_not_set_is_told_with_its_line() {
        let (_, problems) = with("a: 1 # ${BEHIND}\n# ${IN_A_COMMENT}\nb: \"x # ${NOPE}\"\nc: ${LINES}\n");
        let told: Vec<_> = problems.iter().map(|problem| (problem.line, problem.message.as_str())).collect();
        assert_eq!(
            told,
            [
                (Some(3), "the environment variable NOPE is not set"),
                (Some(4), "the environment variable LINES has a line break in it"),
            ]
        );
    }
}
