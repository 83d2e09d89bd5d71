//! The words of a command, on stderr, and its output, on stdout.
//!
//! With `--log-format=json` each line on stderr is a JSON object of the form that the log's lines have, whatever it
//! says: then one reader is enough for all of them. The form is chosen before the arguments are parsed, since what is
//! wrong with them is told as well.

use super::error::Error;
use crate::{
    config,
    observe::{LogFormat, timestamp},
};
use serde_json::{Map, Value, json};
use std::{
    backtrace::{Backtrace, BacktraceStatus},
    ffi::OsString,
    io::{self, Write},
    panic,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::SystemTime,
};
use tracing::Level;

/// A process has one stderr, and a panic can come from anywhere.
static JSON: AtomicBool = AtomicBool::new(false);

/// The form that arguments ask for, which may be wrong otherwise.
pub(super) fn format_in(arguments: impl Iterator<Item = OsString>) -> LogFormat {
    let mut before = OsString::new();
    for argument in arguments.take_while(|argument| argument != "--") {
        if argument == "--log-format=json" || (before == "--log-format" && argument == "json") {
            return LogFormat::Json;
        }
        before = argument;
    }
    LogFormat::Text
}

/// Sets the form of all messages from now on, panics too.
pub(super) fn set(format: LogFormat) {
    let json = format == LogFormat::Json;
    if json && !JSON.swap(true, Ordering::Relaxed) {
        panic::set_hook(Box::new(|panic| {
            let place = panic.location().map(ToString::to_string);
            let thread = thread::current().name().map(str::to_owned);
            let mut fields = json!({"message": "panic", "place": place, "thread": thread});
            if let Some(said) = panic.payload_as_str() {
                fields["message"] = format!("panic: {said}").into();
            }
            // Captured where RUST_BACKTRACE asks for it, as without this hook.
            let backtrace = Backtrace::capture();
            if backtrace.status() == BacktraceStatus::Captured {
                fields["backtrace"] = backtrace.to_string().into();
            }
            let _ = write(&line(Level::ERROR, fields));
        }));
    }
}

pub(super) fn is_json() -> bool {
    JSON.load(Ordering::Relaxed)
}

/// Prints a note.
pub(super) fn note(text: &str) {
    say(Level::INFO, "note: ", text);
}

/// Prints a warning.
pub(super) fn warning(text: &str) {
    say(Level::WARN, "warning: ", text);
}

/// Prints the reason why the command has failed.
pub(super) fn error(text: &str) {
    say(Level::ERROR, "error: ", text);
}

/// Prints the problems of a configuration; in JSON a line for each.
pub(super) fn problems(error: &config::Error) {
    if !is_json() {
        return self::error(&error.to_string());
    }
    for problem in &error.problems {
        let mut fields = Map::new();
        fields.insert("message".into(), problem.message.clone().into());
        fields.insert("file".into(), error.file.display().to_string().into());
        let line_of_file = problem.line.map(Value::from);
        let key = Some(problem.path.to_string()).filter(|key| !key.is_empty()).map(Value::from);
        let others = [("line", line_of_file), ("key", key), ("hint", problem.hint.clone().map(Value::from))];
        fields.extend(others.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        let _ = write(&line(Level::ERROR, fields.into()));
    }
}

/// Prints a text for people, or an event for programs.
pub(super) fn event(text: &str, message: &str, fields: Value) -> io::Result<()> {
    if !is_json() {
        return write(text);
    }
    let mut all = json!({"message": message});
    if let (Value::Object(all), Value::Object(fields)) = (&mut all, fields) {
        all.extend(fields);
    }
    write(&line(Level::INFO, all))
}

fn say(level: Level, prefix: &str, text: &str) {
    // Nobody is there to be told that stderr is closed.
    let _ = match is_json() {
        true => write(&line(level, json!({"message": text}))),
        false => write(&format!("{prefix}{text}")),
    };
}

/// A line of the form that `tracing_subscriber`'s JSON has.
fn line(level: Level, fields: Value) -> String {
    let timestamp = timestamp(SystemTime::now());
    json!({"timestamp": timestamp, "level": level.as_str(), "fields": fields, "target": "carrel"}).to_string()
}

/// At once, so that lines of other threads are not in between.
fn write(line: &str) -> io::Result<()> {
    io::stderr().write_all(format!("{line}\n").as_bytes())
}

/// Writes a command's output to stdout. A reader that has gone away is no error.
///
/// # Errors
///
/// The output could not be written completely.
pub(super) fn print(text: &str) -> Result<(), Error> {
    match output(text) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| unwritten(&error)),
    }
}

/// Like `output`, but a reader that has gone away is an error, too.
pub(super) fn output(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(format!("{text}\n").as_bytes())?;
    stdout.flush()
}

/// The error of output that could not be written.
pub(super) fn unwritten(error: &io::Error) -> Error {
    Error::Other(format!("the output could not be written to stdout: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_found_in_arguments_whatever_else_is_wrong_with_them() {
        let json = |arguments: &[&str]| format_in(arguments.iter().map(OsString::from)) == LogFormat::Json;
        assert!(json(&["carrel", "--log-format=json"]));
        assert!(json(&["carrel", "serve", "--nonsense", "--log-format", "json"]));
        assert!(!json(&["carrel", "serve"]));
        assert!(!json(&["carrel", "--log-format=text"]));
        assert!(!json(&["carrel", "--log-format=jsonl"]));
        assert!(!json(&["carrel", "json", "--log-format"]));
        assert!(!json(&["carrel", "--", "--log-format=json"]));
    }
}
