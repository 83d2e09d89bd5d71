//! Random calls, failures, callers who go away and sessions that are parked, against a model in plain Rust: a user
//! sees what the model says, to the byte.

use carrel_tests::{Caller, Reply, Server, Test};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

const USERS: usize = 20;
const MAX_NOTES: usize = 6;
/// The unit that long texts repeat.
const LONG: &str = "long ";

/// A command for the assistant.
#[derive(Debug, Clone)]
struct Ask {
    command: String,
    action: String,
    param1: String,
    param2: String,
}

/// An action of the hostile function before its end.
#[derive(Debug, Clone)]
enum Does {
    /// Asks the assistant.
    Asks(Ask),
    /// Lets another hostile function count.
    Counts,
}

/// The end of the hostile function.
#[derive(Debug, Clone)]
enum Ends {
    /// Well.
    Well,
    /// With an error of its own.
    Refusing,
    /// In one of the ways to fail.
    Failing(usize),
    /// Well, after another one has failed.
    Despite(usize),
    /// By passing on how another one has failed.
    PassingOn(usize),
    /// Its caller goes away before.
    Abandoned,
}

#[derive(Debug, Clone)]
enum Step {
    Ask(Ask),
    Hostile(Vec<Does>, Ends),
    /// Everybody who is idle is parked.
    Park,
}

/// The ways to fail, and their codes.
const WAYS: [(&str, &str); 8] = [
    (r#"{"do":"panic"}"#, "function_crashed"),
    (r#"{"do":"exit","status":0}"#, "function_crashed"),
    (r#"{"do":"recurse"}"#, "function_crashed"),
    (r#"{"do":"wild"}"#, "function_crashed"),
    (r#"{"do":"garble"}"#, "function_crashed"),
    (r#"{"do":"spin"}"#, "fuel_exhausted"),
    (r#"{"do":"all","of":[{"do":"take","bytes":300000},{"do":"take","bytes":2000000000}]}"#, "memory_exhausted"),
    (r#"{"do":"emit","chunks":10000,"bytes":100}"#, "output_too_large"),
];

fn way(way: usize) -> (Value, &'static str) {
    let (input, code) = WAYS[way % WAYS.len()];
    (serde_json::from_str(input).expect("JSON"), code)
}

impl Ask {
    /// With long texts that are much longer.
    fn longer(mut self) -> Self {
        for text in [&mut self.param1, &mut self.param2] {
            if text.starts_with(LONG) {
                *text = text.repeat(200);
            }
        }
        self
    }

    fn input(&self) -> Value {
        json!({"command": self.command, "action": self.action, "param1": self.param1, "param2": self.param2})
    }
}

/// A host's limits, and whether the model can predict their effect.
#[derive(Debug, Clone, Copy)]
struct Limits {
    output: usize,
    fuel: u64,
    /// True if fuel is so scarce that any call may run out of it.
    scarce: bool,
}

/// One user's functions.
#[derive(Debug, Clone)]
struct Model {
    notes: Vec<String>,
    preferences: Vec<(String, String)>,
    commands: u64,
    hostile: u64,
    h1: u64,
}

/// A function was stopped for the size of its output.
#[derive(Debug)]
struct TooLarge {
    function: &'static str,
    size: usize,
}

impl Default for Model {
    fn default() -> Self {
        let preferences = [("theme", "dark"), ("language", "en"), ("notifications", "enabled")];
        let preferences = preferences.map(|(key, value)| (key.into(), value.into())).into();
        Self { notes: Vec::new(), preferences, commands: 0, hostile: 0, h1: 0 }
    }
}

impl Model {
    fn notepad(&mut self, action: &str, content: &str) -> (bool, String, Vec<String>) {
        let none = Vec::new();
        match action {
            "add" if content.is_empty() => (false, "Content is required for 'add' action".into(), none),
            "add" if self.notes.len() >= MAX_NOTES => (false, format!("Maximum notes ({MAX_NOTES}) reached"), none),
            "add" => {
                self.notes.push(content.into());
                (true, "Note added successfully".into(), none)
            }
            "list" => (true, format!("Found {} notes", self.notes.len()), self.notes.clone()),
            "clear" => (true, format!("Cleared {} notes", self.notes.drain(..).count()), none),
            "count" => (true, format!("You have {} notes", self.notes.len()), none),
            _ => (false, format!("Unknown action: {action}. Use 'add', 'list', 'clear', or 'count'"), none),
        }
    }

    fn preferences(&mut self, action: &str, key: &str, value: &str) -> (bool, String, String, Value) {
        let all = |it: &Self| it.preferences.iter().map(|(key, value)| (key.clone(), json!(value))).collect::<Value>();
        let (nothing, none) = (String::new(), json!({}));
        let found = self.preferences.iter().position(|(it, _)| it == key);
        match (action, found) {
            ("set" | "get", _) if key.is_empty() => {
                (false, format!("Key is required for '{action}' action"), nothing, none)
            }
            ("set", found) => {
                match found {
                    Some(found) => self.preferences[found].1 = value.into(),
                    None => self.preferences.push((key.into(), value.into())),
                }
                (true, format!("Preference '{key}' set to '{value}'"), nothing, all(self))
            }
            ("get", Some(found)) => {
                let value = self.preferences[found].1.clone();
                (true, format!("Preference '{key}' = '{value}'"), value, none)
            }
            ("get", None) => (false, format!("Preference '{key}' not found"), nothing, none),
            ("list", _) => (true, format!("Found {} preferences", self.preferences.len()), nothing, all(self)),
            _ => (false, format!("Unknown action: {action}. Use 'set', 'get', or 'list'"), nothing, none),
        }
    }

    /// The assistant's answer, or the function whose output was too large. Then the notepad and the preferences are
    /// as before, and so is the assistant, if the output was its own.
    fn ask(&mut self, ask: &Ask, limits: Limits) -> Result<Value, TooLarge> {
        let before = self.clone();
        let fits = |function: &'static str, output: &Value| match output.to_string().len() {
            size if size > limits.output => Err(TooLarge { function, size }),
            _ => Ok(()),
        };
        let action = ask.action.to_lowercase();
        self.commands += 1;
        let commands = self.commands;
        let mut inner = Ok(());
        let (success, message, data) = match ask.command.to_lowercase().as_str() {
            "note" => {
                let (success, message, notes) = self.notepad(&action, &ask.param1);
                let count = self.notes.len();
                let output = json!({"success": success, "message": message, "notes": notes, "count": count});
                inner = fits("notepad", &output);
                (success, message, json!({"notes": notes, "count": count, "commands_executed": commands}))
            }
            "pref" => {
                let (success, message, value, all) = self.preferences(&action, &ask.param1, &ask.param2);
                let output = json!({"success": success, "message": message, "value": value, "preferences": all});
                inner = fits("preferences", &output);
                (success, message, json!({"value": value, "preferences": all, "commands_executed": commands}))
            }
            "stats" => (
                true,
                format!("Session statistics: {commands} commands executed"),
                json!({"commands_executed": commands}),
            ),
            "help" => (true, HELP.into(), json!({"commands_executed": commands})),
            unknown => {
                let message = format!("Unknown command: {unknown}. Use 'help' to see available commands.");
                (false, message, json!({"commands_executed": commands}))
            }
        };
        // The assistant passes the stop on.
        inner.inspect_err(|_| *self = before.clone())?;
        let output = json!({"success": success, "message": message, "data": data});
        fits("workflow", &output).inspect_err(|_| *self = before)?;
        Ok(output)
    }
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

impl TooLarge {
    /// The hostile function's report of the failure.
    fn said(&self, limits: Limits) -> Value {
        let Self { function, size } = self;
        let limit = limits.output;
        let words = format!(
            "output_too_large: function `{function}` gave {size} bytes of output, and `limits.output_size` allows {limit}"
        );
        format!("Stopped({words:?})").into()
    }
}

/// A user, and the model of their state.
struct User {
    caller: Caller,
    limits: Limits,
    model: Model,
}

fn undone(reply: &Reply, code: &str) {
    assert_eq!(reply.header("carrel-error"), code, "{reply:?}");
    reply.undone();
}

impl User {
    fn ran_out(&self, reply: &Reply) -> bool {
        self.limits.scarce && reply.header("carrel-error") == "fuel_exhausted"
    }

    async fn ask(&mut self, ask: &Ask) {
        let reply = self.caller.call(ask.input()).await;
        if self.ran_out(&reply) {
            return undone(&reply, "fuel_exhausted");
        }
        let mut after = self.model.clone();
        match after.ask(ask, self.limits) {
            Ok(output) => {
                assert_eq!((reply.status.as_u16(), reply.text()), (200, output.to_string().as_str()));
                self.model = after;
            }
            Err(TooLarge { function, .. }) => {
                undone(&reply, "output_too_large");
                assert_eq!(reply.json()["function"], function);
            }
        }
    }

    async fn hostile(&mut self, does: &[Does], ends: &Ends) {
        let mut of: Vec<_> = does
            .iter()
            .map(|does| match does {
                Does::Asks(ask) => json!({"do": "call", "name": "workflow", "input": ask.input()}),
                Does::Counts => json!({"do": "call", "name": "h1", "input": {"do": "count"}}),
            })
            .collect();
        let h1 = |action: &str, input: Value| json!({"do": action, "name": "h1", "input": input});
        of.extend(match ends {
            Ends::Well => None,
            // The outcome of the rest would not be reported.
            Ends::Refusing if self.limits.scarce => None,
            Ends::Refusing => Some(json!({"do": "refuse", "why": "not that"})),
            Ends::Failing(n) => Some(way(*n).0),
            Ends::Despite(n) => Some(h1("call", way(*n).0)),
            Ends::PassingOn(n) => Some(h1("relay", way(*n).0)),
            Ends::Abandoned => Some(json!({"do": "sleep", "milliseconds": 60_000})),
        });
        let input = json!({"do": "all", "of": of});
        let caller = self.caller.clone().at("/hostile");
        if let Ends::Abandoned = ends {
            if !self.limits.scarce {
                caller.abandon(input).await;
            }
            return;
        }
        let reply = caller.call(input).await;
        if self.ran_out(&reply) {
            return undone(&reply, "fuel_exhausted");
        }
        let mut after = self.model.clone();
        after.hostile += 1;
        let told = if reply.status == 200 { reply.json()["said"].clone() } else { Value::Null };
        let mut said = Vec::new();
        for (n, does) in does.iter().enumerate() {
            let told = told[n].as_str().filter(|_| self.limits.scarce).unwrap_or_default();
            said.push(match does {
                // The assistant was stopped, or passes on that one that it called was, and is undone as well.
                Does::Asks(_) if told.starts_with("Stopped(\"fuel_exhausted: function `") => told.into(),
                Does::Asks(ask) => match after.ask(ask, self.limits) {
                    Ok(output) => output,
                    Err(too_large) => too_large.said(self.limits),
                },
                Does::Counts if told.starts_with("Stopped(\"fuel_exhausted: function `h1`") => told.into(),
                Does::Counts => {
                    after.h1 += 1;
                    json!({"calls": after.h1, "said": null})
                }
            });
        }
        match ends {
            Ends::Refusing if !self.limits.scarce => {
                assert_eq!(reply.error(422, "invalid_input")["detail"][0]["msg"], "not that");
                self.model = after;
                return;
            }
            Ends::Failing(n) | Ends::PassingOn(n) => return undone(&reply, way(*n).1),
            Ends::Despite(n) => {
                let last = told[does.len()].clone();
                let is_told = |last: &str| {
                    let code = last.strip_prefix("Stopped(\"").and_then(|stop| stop.split(':').next());
                    code == Some(way(*n).1) || self.limits.scarce && code == Some("fuel_exhausted")
                };
                let stopped = last.as_str().is_some_and(is_told);
                assert!(reply.status != 200 || stopped, "{reply:?}");
                // The model does not know the length of its words.
                said.push(if stopped { last } else { "x".repeat(100).into() });
            }
            _ => {}
        }
        let output = json!({"calls": after.hostile, "said": said}).to_string();
        if output.len() > self.limits.output {
            undone(&reply, "output_too_large");
            assert_eq!(reply.json()["function"], "hostile");
        } else if !matches!(ends, Ends::Despite(_)) || reply.status == 200 {
            assert_eq!((reply.status.as_u16(), reply.text()), (200, output.as_str()));
            self.model = after;
        } else {
            undone(&reply, "output_too_large");
        }
    }

    /// All of the state, as far as limits let it be seen.
    async fn look(&mut self) {
        for (command, action) in [("note", "count"), ("note", "list"), ("pref", "list"), ("stats", "")] {
            self.ask(&Ask {
                command: command.into(),
                action: action.into(),
                param1: String::new(),
                param2: String::new(),
            })
            .await;
        }
        for n in 0..self.model.preferences.len() {
            let (param1, param2) = (self.model.preferences[n].0.clone(), String::new());
            self.ask(&Ask { command: "pref".into(), action: "get".into(), param1, param2 }).await;
        }
        self.hostile(&[Does::Counts], &Ends::Well).await;
    }
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        1 => Just(String::new()),
        4 => "[a-d]{1,3}",
        2 => "[ -~]{0,30}",
        1 => "\\PC{0,12}",
        1 => any::<String>(),
        2 => (1..100usize).prop_map(|times| LONG.repeat(times)),
    ]
}

/// A word in any case, or another one.
fn word(words: &'static [&'static str]) -> impl Strategy<Value = String> {
    let known = prop::sample::select(words);
    prop_oneof![
        12 => known.clone().prop_map(str::to_owned),
        3 => (known, any::<u32>()).prop_map(|(word, upper)| {
            let upper = |(n, letter): (usize, char)| {
                if upper >> n & 1 == 1 { letter.to_ascii_uppercase() } else { letter }
            };
            word.chars().enumerate().map(upper).collect()
        }),
        1 => "\\PC{0,8}",
    ]
}

fn ask() -> impl Strategy<Value = Ask> {
    let commands = word(&["note", "note", "note", "pref", "pref", "pref", "stats", "help"]);
    let actions = word(&["add", "add", "add", "list", "count", "clear", "set", "set", "set", "get", "get"]);
    (commands, actions, text(), text()).prop_map(|(command, action, param1, param2)| Ask {
        command,
        action,
        param1,
        param2,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let does = prop_oneof![4 => ask().prop_map(Does::Asks), 1 => Just(Does::Counts)];
    let ends = prop_oneof![
        3 => Just(Ends::Well),
        1 => Just(Ends::Refusing),
        3 => any::<usize>().prop_map(Ends::Failing),
        2 => any::<usize>().prop_map(Ends::Despite),
        2 => any::<usize>().prop_map(Ends::PassingOn),
        2 => Just(Ends::Abandoned),
    ];
    prop_oneof![
        10 => ask().prop_map(Step::Ask),
        6 => (prop::collection::vec(does, 0..4), ends).prop_map(|(does, ends)| Step::Hostile(does, ends)),
        1 => Just(Step::Park),
    ]
}

/// Steps of users, on one of the hosts; in their order, or all users at once.
#[derive(Debug, Clone)]
struct Case {
    host: usize,
    steps: Vec<(usize, Step)>,
    at_once: bool,
}

fn case(hosts: usize) -> impl Strategy<Value = Case> {
    // Some have much more to do than others.
    let user = prop_oneof![0..3usize, 0..USERS];
    let steps = prop::collection::vec((user, step()), 400..700);
    (0..hosts, steps, any::<bool>()).prop_map(|(host, steps, at_once)| Case { host, steps, at_once })
}

async fn take(server: &Server, user: &mut User, step: &Step) {
    match step {
        // If fuel is scarce, some commands are long, and run out of it.
        Step::Ask(ask) if user.limits.scarce => user.ask(&ask.clone().longer()).await,
        Step::Ask(ask) => user.ask(ask).await,
        Step::Hostile(does, ends) => user.hostile(does, ends).await,
        Step::Park => drop(server.park().await),
    }
}

async fn run(case: Case, server: &Server, limits: Limits) {
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    let user = |n: usize| User { caller: server.user(&format!("{run}-{n}")), limits, model: Model::default() };
    let mut users: Vec<_> = (0..USERS).map(user).collect();
    if case.at_once {
        let done = Arc::new(AtomicBool::new(false));
        let parking = {
            let (server, done) = (server.clone(), done.clone());
            tokio::spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    server.park().await;
                    // With a shorter pause it would take most of the processor from those whom it parks.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            })
        };
        let running: Vec<_> = users
            .into_iter()
            .enumerate()
            .map(|(n, mut user)| {
                let server = server.clone();
                let steps: Vec<_> =
                    case.steps.iter().filter(|(of, _)| *of == n).map(|(_, step)| step.clone()).collect();
                tokio::spawn(async move {
                    for step in &steps {
                        take(&server, &mut user, step).await;
                    }
                    user
                })
            })
            .collect();
        users = Vec::new();
        for running in running {
            users.push(running.await.expect("a user's steps gave what the model says"));
        }
        done.store(true, Ordering::Relaxed);
        parking.await.expect("parking ends");
    } else {
        for (n, step) in &case.steps {
            take(server, &mut users[*n], step).await;
        }
    }
    for user in &mut users {
        user.look().await;
    }
}

#[test]
fn whatever_happens_a_user_sees_what_the_model_says() {
    let hosts = [
        Limits { output: 64 << 10, fuel: 20_000_000, scarce: false },
        Limits { output: 600, fuel: 20_000_000, scarce: false },
        Limits { output: 1 << 20, fuel: 3_000_000, scarce: true },
    ];
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().expect("a runtime");
    let servers = hosts.map(|limits| {
        let test = Test::hostile()
            .set("functions.h1", json!({"_type": "hostile"}))
            .set("functions.notepad.max_notes", MAX_NOTES)
            .set("limits.memory_per_instance", "2 MiB")
            .set("limits.output_size", limits.output)
            .set("limits.fuel_per_call", limits.fuel);
        runtime.block_on(test.start())
    });
    let steps = AtomicUsize::new(0);
    let config = Config { cases: 22, failure_persistence: None, max_shrink_iters: 100, ..Config::default() };
    let checked = TestRunner::new(config).run(&case(hosts.len()), |case| {
        steps.fetch_add(case.steps.len(), Ordering::Relaxed);
        let host = case.host;
        runtime.block_on(run(case, &servers[host], hosts[host]));
        Ok(())
    });
    checked.unwrap_or_else(|failed| panic!("{failed}"));
    let steps = steps.into_inner();
    assert!(steps >= 10_000, "{steps} steps");
}
