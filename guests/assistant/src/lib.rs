//! `per_user_assistant`: one entrance to a user's notepad and preferences. It counts the commands that it was given.
#![cfg_attr(target_family = "wasm", no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::{boxed::Box, format, string::String};
use carrel_guest::{Context, Error, Function, FunctionName, IndexMap, serde_json::value::RawValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Configuration of the assistant.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AssistantConfig {
    /// The function that keeps the notes.
    #[serde(default = "notepad")]
    pub notepad_name: FunctionName,
    /// The function that keeps the preferences.
    #[serde(default = "preferences")]
    pub preferences_name: FunctionName,
}

fn notepad() -> FunctionName {
    "notepad".into()
}

fn preferences() -> FunctionName {
    "preferences".into()
}

/// Input for the user assistant.
#[derive(Deserialize, JsonSchema)]
pub struct UserAssistantInput {
    /// What to do: 'note', 'pref', 'stats' or 'help', in any case
    pub command: String,
    /// The command's action
    #[serde(default)]
    pub action: String,
    /// The first parameter: a note's content or a preference's key
    #[serde(default)]
    pub param1: String,
    /// The second parameter: a preference's value
    #[serde(default)]
    pub param2: String,
}

/// Output of the user assistant.
#[derive(Debug, Serialize, JsonSchema)]
pub struct UserAssistantOutput {
    /// Whether the command was done
    pub success: bool,
    /// What was done, or why not
    pub message: String,
    /// What the command gives besides, and how many commands there were
    #[schemars(with = "IndexMap<String, carrel_guest::serde_json::Value>")]
    pub data: Data,
}

/// A command's result besides its message.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Data {
    /// The result of `note`.
    Notes {
        /// The notes, for `list`, as the notepad has written them.
        notes: Box<RawValue>,
        /// The number of notes.
        count: u64,
        /// Commands so far.
        commands_executed: u64,
    },
    /// The result of `pref`.
    Preferences {
        /// The value, for `get`, as the preferences have written it.
        value: Box<RawValue>,
        /// The preferences, for `set` and `list`, as above.
        preferences: Box<RawValue>,
        /// Commands so far.
        commands_executed: u64,
    },
    /// The result of other commands.
    Count {
        /// Commands so far.
        commands_executed: u64,
    },
}

#[derive(Serialize)]
struct NoteInput {
    action: String,
    content: String,
}

#[derive(Deserialize)]
struct NoteOutput {
    success: bool,
    message: String,
    notes: Box<RawValue>,
    count: u64,
}

#[derive(Serialize)]
struct PreferenceInput {
    action: String,
    key: String,
    value: String,
}

#[derive(Deserialize)]
struct PreferenceOutput {
    success: bool,
    message: String,
    value: Box<RawValue>,
    preferences: Box<RawValue>,
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
pub struct Assistant {
    config: AssistantConfig,
    commands_executed: u64,
}

impl Function for Assistant {
    const NAME: &'static str = "per_user_assistant";
    const SUMMARY: &'static str = "Takes commands for one user's notepad and preferences.";
    type Config = AssistantConfig;
    type Input = UserAssistantInput;
    type Output = UserAssistantOutput;

    fn new(config: AssistantConfig, _: &Context) -> Result<Self, Error> {
        Ok(Self { config, commands_executed: 0 })
    }

    fn call(&mut self, input: UserAssistantInput, cx: &Context) -> Result<UserAssistantOutput, Error> {
        // Every command counts, a failed one too.
        self.commands_executed += 1;
        let commands_executed = self.commands_executed;
        let command = carrel_guest::to_lowercase(&input.command);
        let say = |success, message: String| UserAssistantOutput {
            success,
            message,
            data: Data::Count { commands_executed },
        };
        Ok(match command.as_str() {
            "help" => say(true, HELP.into()),
            "stats" => say(true, format!("Session statistics: {commands_executed} commands executed")),
            "note" => {
                let note = NoteInput { action: input.action, content: input.param1 };
                let NoteOutput { success, message, notes, count } = cx.call(&self.config.notepad_name, &note)?;
                UserAssistantOutput { success, message, data: Data::Notes { notes, count, commands_executed } }
            }
            "pref" => {
                let pref = PreferenceInput { action: input.action, key: input.param1, value: input.param2 };
                let PreferenceOutput { success, message, value, preferences } =
                    cx.call(&self.config.preferences_name, &pref)?;
                UserAssistantOutput {
                    success,
                    message,
                    data: Data::Preferences { value, preferences, commands_executed },
                }
            }
            _ => say(false, format!("Unknown command: {command}. Use 'help' to see available commands.")),
        })
    }
}

carrel_guest::export!(Assistant);

#[cfg(test)]
mod tests {
    use super::*;
    use carrel_guest::{CallError, Stop, serde_json::Value, serde_json::json};

    fn ask(assistant: &mut Assistant, cx: &Context, input: Value) -> Result<String, Error> {
        let input = carrel_guest::serde_json::from_value(input).unwrap();
        assistant.call(input, cx).map(|output| carrel_guest::serde_json::to_string(&output).unwrap())
    }

    fn assistant() -> Assistant {
        let config = AssistantConfig { notepad_name: notepad(), preferences_name: preferences() };
        Assistant::new(config, &Context::test()).unwrap()
    }

    #[test]
    fn every_command_counts_an_unknown_one_too() {
        let (mut it, cx) = (assistant(), Context::test());
        ask(&mut it, &cx, json!({"command": "nope"})).unwrap();
        let stats = ask(&mut it, &cx, json!({"command": "STATS"})).unwrap();
        assert_eq!(
            stats,
            r#"{"success":true,"message":"Session statistics: 2 commands executed","data":{"commands_executed":2}}"#
        );
    }

    #[test]
    fn a_note_goes_to_the_configured_notepad() {
        let cx = Context::test().with_function("notepad", |input: Value| {
            assert_eq!(input, json!({"action": "add", "content": "milk"}));
            Ok(json!({"success": true, "message": "ok", "notes": [], "count": 7}))
        });
        let answer = ask(&mut assistant(), &cx, json!({"command": "note", "action": "add", "param1": "milk"}));
        let data = r#"{"notes":[],"count":7,"commands_executed":1}"#;
        assert_eq!(answer.unwrap(), format!(r#"{{"success":true,"message":"ok","data":{data}}}"#));
    }

    #[test]
    fn a_stopped_notepad_fails_the_command_and_the_assistant_goes_on() {
        let stop = Stop::of("notepad", "fuel_exhausted: notepad");
        let stopped = CallError::Stopped(stop.clone());
        let cx = Context::test().with_function("notepad", move |_: Value| Err::<Value, _>(stopped.clone()));
        let mut it = assistant();
        let error = ask(&mut it, &cx, json!({"command": "note", "action": "list"})).unwrap_err();
        assert_eq!(error, Error::Stopped(stop));
        assert!(ask(&mut it, &cx, json!({"command": "stats"})).unwrap().contains("2 commands"));
    }
}
