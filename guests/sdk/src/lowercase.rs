//! `str::to_lowercase` without its tables.
//!
//! The standard library's tables are 13 KiB of data, and each instance has its own copy of all data. Code is shared
//! by all instances: `build.rs` asks the standard library about each character, and writes the answers as code.

use alloc::string::String;
use rules::{is_cased, is_ignorable, lower_of};

#[allow(clippy::all)]
mod rules {
    include!(concat!(env!("OUT_DIR"), "/lowercase.rs"));
}

/// Returns the same as [`str::to_lowercase`], by the same rules of Unicode, in a guest that is 13 KiB smaller.
pub fn to_lowercase(text: &str) -> String {
    let mut lower = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        match c {
            'Σ' => lower.push(sigma(&text[..at], &text[at + c.len_utf8()..])),
            'İ' => lower.push_str("i\u{307}"),
            c if c.is_ascii() => lower.push(c.to_ascii_lowercase()),
            c => lower.push(char::from_u32(lower_of(c.into())).unwrap_or(c)),
        }
    }
    lower
}

/// The lower case of a sigma, the only rule with context: at the end of a word it has another form.
fn sigma(before: &str, after: &str) -> char {
    let ends_a_word = is_letter(before.chars().rev()) && !is_letter(after.chars());
    if ends_a_word { 'ς' } else { 'σ' }
}

/// Returns true if the first character that is not ignored is a letter with a case.
fn is_letter(characters: impl Iterator<Item = char>) -> bool {
    characters.map(u32::from).find(|&c| !is_ignorable(c)).is_some_and(is_cased)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_is_made_lower_case_as_the_standard_library_does() {
        for c in '\0'..=char::MAX {
            let text = c.to_string();
            assert_eq!(to_lowercase(&text), text.to_lowercase(), "{c:?}");
        }
    }

    #[test]
    fn so_is_a_sigma_next_to_every_character() {
        let same = |c| {
            for text in [format!("{c}Σ"), format!("A{c}Σ"), format!("AΣ{c}"), format!("AΣ{c}A"), format!("{c}AΣ-{c}Σ")]
            {
                assert_eq!(to_lowercase(&text), text.to_lowercase(), "{text:?}");
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| ('\0'..'\u{80000}').for_each(same));
            ('\u{80000}'..=char::MAX).for_each(same);
        });
    }
}
