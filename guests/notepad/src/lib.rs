//! `per_user_notepad`: one user's notes, in the order in which they were added.
#![cfg_attr(target_family = "wasm", no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::{format, rc::Rc, string::String, vec::Vec};
use carrel_guest::{Context, Error, Function};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Configuration of the notepad.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NotepadConfig {
    /// The most notes that a user can have.
    #[serde(default = "hundred")]
    pub max_notes: usize,
}

fn hundred() -> usize {
    100
}

/// Input for note operations.
#[derive(Deserialize, JsonSchema)]
pub struct NoteInput {
    /// What to do: 'add', 'list', 'clear' or 'count', in any case
    pub action: String,
    /// The note's text, for 'add'
    #[serde(default)]
    pub content: String,
}

/// Output of note operations.
#[derive(Debug, PartialEq, Serialize, JsonSchema)]
pub struct NoteOutput {
    /// Whether it was done
    pub success: bool,
    /// What was done, or why not
    pub message: String,
    /// All notes, for 'list'
    pub notes: Rc<Vec<String>>,
    /// How many notes there are
    pub count: usize,
}

/// One user's notes.
pub struct Notepad {
    max_notes: usize,
    /// Shared with the answer that lists them, while that is written.
    notes: Rc<Vec<String>>,
    /// The notes of an answer that lists none.
    none: Rc<Vec<String>>,
}

impl Notepad {
    fn answer(&self, success: bool, message: impl Into<String>) -> NoteOutput {
        NoteOutput { success, message: message.into(), notes: self.none.clone(), count: self.notes.len() }
    }

    fn add(&mut self, content: String) -> NoteOutput {
        if content.is_empty() {
            return self.answer(false, "Content is required for 'add' action");
        }
        if self.notes.len() >= self.max_notes {
            return self.answer(false, format!("Maximum notes ({}) reached", self.max_notes));
        }
        Rc::make_mut(&mut self.notes).push(content);
        self.answer(true, "Note added successfully")
    }

    fn list(&self) -> NoteOutput {
        let answer = self.answer(true, format!("Found {} notes", self.notes.len()));
        NoteOutput { notes: self.notes.clone(), ..answer }
    }

    fn clear(&mut self) -> NoteOutput {
        let cleared = self.notes.len();
        self.notes = self.none.clone();
        self.answer(true, format!("Cleared {cleared} notes"))
    }
}

impl Function for Notepad {
    const NAME: &'static str = "per_user_notepad";
    const SUMMARY: &'static str = "Keeps one user's notes.";
    type Config = NotepadConfig;
    type Input = NoteInput;
    type Output = NoteOutput;

    fn new(config: NotepadConfig, _: &Context) -> Result<Self, Error> {
        let none = Rc::default();
        Ok(Self { max_notes: config.max_notes, notes: Rc::clone(&none), none })
    }

    fn call(&mut self, input: NoteInput, _: &Context) -> Result<NoteOutput, Error> {
        let action = carrel_guest::to_lowercase(&input.action);
        Ok(match action.as_str() {
            "add" => self.add(input.content),
            "list" => self.list(),
            "clear" => self.clear(),
            "count" => self.answer(true, format!("You have {} notes", self.notes.len())),
            _ => self.answer(false, format!("Unknown action: {action}. Use 'add', 'list', 'clear', or 'count'")),
        })
    }
}

carrel_guest::export!(Notepad);

#[cfg(test)]
mod tests {
    use super::*;

    fn notepad(max_notes: usize) -> impl FnMut(&str, &str) -> NoteOutput {
        let mut notepad = Notepad::new(NotepadConfig { max_notes }, &Context::test()).unwrap();
        move |action, content| {
            let input = NoteInput { action: action.into(), content: content.into() };
            notepad.call(input, &Context::test()).unwrap()
        }
    }

    #[test]
    fn notes_are_kept_in_order_until_they_are_cleared() {
        let mut note = notepad(10);
        assert_eq!(note("add", "one").count, 1);
        assert_eq!(note("ADD", "two").count, 2);
        assert_eq!(*note("list", "").notes, ["one", "two"]);
        assert_eq!(note("clear", "").message, "Cleared 2 notes");
        assert_eq!(*note("list", "").notes, Vec::<String>::new());
    }

    #[test]
    fn no_more_than_max_notes_fit() {
        let mut note = notepad(1);
        assert!(note("add", "one").success);
        let refused = note("add", "two");
        assert_eq!((refused.success, refused.message.as_str()), (false, "Maximum notes (1) reached"));
        assert_eq!(note("count", "").message, "You have 1 notes");
    }

    #[test]
    fn an_unknown_action_is_named_in_lower_case_and_not_trimmed() {
        assert_eq!(notepad(1)(" ADD", "x").message, "Unknown action:  add. Use 'add', 'list', 'clear', or 'count'");
    }
}
