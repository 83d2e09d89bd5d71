//! Origins that anybody can have: what a pattern of origins must not match, where those may act as their visitors.
//!
//! A pattern is tried with origins that no operator means. Some are of all forms that there are. Others are made of the
//! pattern's own texts, and find what is mostly forgotten: the `$` after a name, or the `\\.` before it. If one of them
//! matches, so does that of a page that anybody can set up. A pattern that none of them matches may still be too wide.

use regex::Regex;
use regex_syntax::hir::{Hir, HirKind};

/// A label that is nobody's.
const NOBODY: &str = "zqvxkjw";
/// Labels of different forms.
const NAMES: [&str; 10] = [
    NOBODY,
    "zqvxkjw-7",
    "zqvxkjw7",
    "7",
    "1984",
    "z",
    "zqv",
    "www.zqvxkjw",
    "a.b.zqvxkjw",
    "zqvxkjwqpwzmbxkvqjhzqvxkjwqpwzmbxkvqjh",
];
/// Domains below which anybody can have a name: of registries, and of hosts for pages.
const PARENTS: [&str; 74] = [
    "com",
    "org",
    "net",
    "io",
    "dev",
    "app",
    "ai",
    "co",
    "me",
    "info",
    "biz",
    "xyz",
    "site",
    "online",
    "shop",
    "store",
    "tech",
    "cloud",
    "top",
    "eu",
    "uk",
    "co.uk",
    "us",
    "ca",
    "de",
    "fr",
    "nl",
    "be",
    "ch",
    "at",
    "it",
    "es",
    "pt",
    "pl",
    "se",
    "no",
    "dk",
    "fi",
    "cz",
    "ru",
    "cn",
    "jp",
    "co.jp",
    "kr",
    "in",
    "co.in",
    "com.br",
    "com.au",
    "co.nz",
    "co.za",
    "mx",
    "tr",
    "github.io",
    "gitlab.io",
    "pages.dev",
    "workers.dev",
    "vercel.app",
    "netlify.app",
    "herokuapp.com",
    "onrender.com",
    "fly.dev",
    "web.app",
    "firebaseapp.com",
    "appspot.com",
    "run.app",
    "azurewebsites.net",
    "azurestaticapps.net",
    "cloudfront.net",
    "amazonaws.com",
    "ngrok.io",
    "ngrok-free.app",
    "trycloudflare.com",
    "blogspot.com",
    "wordpress.com",
];
const PORTS: [&str; 4] = ["", ":8443", ":3000", ":50123"];
/// Hosts without a name.
const ADDRESSES: [&str; 2] = ["203.0.113.77", "[2001:db8::77]"];
/// Origins of other forms: a frame in a sandbox, and extensions of browsers.
const OTHERS: [&str; 3] = [
    "null",
    "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
    "moz-extension://0b8cbd5f-1c3c-4a6d-8f0a-7d1f0c2b9e11",
];

/// An origin that a pattern matches and that anybody can have, if one is found.
pub(super) fn match_of(pattern: &Regex) -> Option<String> {
    let all = NAMES.iter().flat_map(|name| PARENTS.map(|parent| format!("{name}.{parent}")));
    let all = all.chain(ADDRESSES.map(str::to_owned));
    let all = all.flat_map(|host| PORTS.map(|port| format!("{host}{port}"))).flat_map(|host| both(&host));
    let others = OTHERS.into_iter().map(str::to_owned);
    all.chain(others).chain(near(pattern)).find(|origin| pattern.is_match(origin))
}

fn both(host: &str) -> [String; 2] {
    ["https", "http"].map(|scheme| format!("{scheme}://{host}"))
}

/// Origins that look like those that a pattern means.
fn near(pattern: &Regex) -> Vec<String> {
    let mut texts = Vec::new();
    // The pattern was read before.
    if let Ok(parsed) = regex_syntax::parse(pattern.as_str()) {
        collect(&parsed, &mut texts);
    }
    let mut near = Vec::new();
    for text in texts {
        match text.split_once("://") {
            // All of an origin's beginning, which may go on.
            Some((_, host)) if !host.is_empty() => {
                near.extend(["", ".", "-"].map(|between| format!("{text}{between}{NOBODY}.com")));
            }
            Some(_) => {}
            None => {
                let after = text.trim_start_matches('.');
                near.extend(both(&format!("{after}.{NOBODY}.com")));
                near.extend(both(&format!("{NOBODY}{after}.{NOBODY}.com")));
                // Another one's name that ends in this one.
                if !text.starts_with(['.', ':', '/']) {
                    near.extend(both(&format!("{NOBODY}{text}")));
                }
            }
        }
    }
    near
}

/// The texts in a pattern, without those of one character, and the same with what follows them.
fn collect(pattern: &Hir, texts: &mut Vec<String>) {
    match pattern.kind() {
        HirKind::Literal(literal) => {
            let text = std::str::from_utf8(&literal.0).unwrap_or_default();
            if text.chars().count() > 1 {
                texts.push(text.to_owned());
            }
        }
        HirKind::Capture(of) => collect(&of.sub, texts),
        HirKind::Repetition(of) => collect(&of.sub, texts),
        HirKind::Concat(parts) => {
            parts.iter().for_each(|part| collect(part, texts));
            // `https?://localhost` is three parts.
            let beginnings = beginnings(parts);
            texts.extend(beginnings);
        }
        HirKind::Alternation(parts) => parts.iter().for_each(|part| collect(part, texts)),
        HirKind::Empty | HirKind::Class(_) | HirKind::Look(_) => {}
    }
}

/// The texts that a sequence can begin with, as far as they are texts.
fn beginnings(parts: &[Hir]) -> Vec<String> {
    let mut all = vec![String::new()];
    for part in parts {
        let next: Vec<String> = match part.kind() {
            HirKind::Look(_) => continue,
            HirKind::Literal(literal) => vec![String::from_utf8_lossy(&literal.0).into_owned()],
            HirKind::Repetition(of) if of.min == 0 && of.max == Some(1) => match of.sub.kind() {
                HirKind::Literal(literal) => vec![String::new(), String::from_utf8_lossy(&literal.0).into_owned()],
                _ => break,
            },
            _ => break,
        };
        if all.len() * next.len() > 16 {
            break;
        }
        all = all.iter().flat_map(|begin| next.iter().map(move |next| format!("{begin}{next}"))).collect();
    }
    all
}
