//! `per_user_assistant`, with the notepad and the preferences as its fields.

use crate::{
    notepad::{NoteInput, NoteOutput, Notepad},
    preferences::{PreferenceInput, PreferenceOutput, Preferences},
};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
pub(crate) struct Input {
    command: String,
    #[serde(default)]
    action: String,
    #[serde(default)]
    param1: String,
    #[serde(default)]
    param2: String,
}

#[derive(Serialize)]
pub(crate) struct Output {
    success: bool,
    message: String,
    data: Data,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Data {
    Notes { notes: Vec<String>, count: usize, commands_executed: u64 },
    Preferences { value: String, preferences: IndexMap<String, String>, commands_executed: u64 },
    Count { commands_executed: u64 },
}

const HELP: &str = "\
Available commands:
- note add <content>: Add a note
- note list: List all notes
- note clear: Clear all notes
- note count: Count notes
- pref set <key> <value>: Set a preference
- pref get <key>: Get a preference
- pref list: List all preferences
- stats: Show session statistics
- help: Show this help message";

/// One user's assistant.
#[derive(Default)]
pub(crate) struct Assistant {
    notepad: Notepad,
    preferences: Preferences,
    commands_executed: u64,
}

impl Assistant {
    pub(crate) fn run(&mut self, input: Input) -> Output {
        self.commands_executed += 1;
        let commands_executed = self.commands_executed;
        let command = input.command.to_lowercase();
        let say = |success, message: String| Output { success, message, data: Data::Count { commands_executed } };
        match command.as_str() {
            "help" => say(true, HELP.into()),
            "stats" => say(true, format!("Session statistics: {commands_executed} commands executed")),
            "note" => {
                let note = NoteInput { action: input.action, content: input.param1 };
                let NoteOutput { success, message, notes, count } = self.notepad.run(note);
                Output { success, message, data: Data::Notes { notes, count, commands_executed } }
            }
            "pref" => {
                let pref = PreferenceInput { action: input.action, key: input.param1, value: input.param2 };
                let PreferenceOutput { success, message, value, preferences } = self.preferences.run(pref);
                Output { success, message, data: Data::Preferences { value, preferences, commands_executed } }
            }
            _ => say(false, format!("Unknown command: {command}. Use 'help' to see available commands.")),
        }
    }
}
