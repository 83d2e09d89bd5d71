//! The fuel of the built-in functions' commands, pinned.
//!
//! Fuel is the same for the same call, on every machine, for as long as neither wasmtime nor the guests nor the prices
//! of the host's work change. Where one of these did, and the new figures are as they should be:
//!
//!     UPDATE_GOLDEN=1 cargo test --test all fuel::

use carrel_tests::Test;
use serde_json::{Value, json};
use std::{fs, path::Path};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/fuel.txt");
const LOCK: &str = include_str!("../../Cargo.lock");

/// Each is called twice by a new user: the first call makes the instances.
fn commands() -> Vec<(&'static str, Value)> {
    let assistant =
        |words: [&str; 4]| json!({"command": words[0], "action": words[1], "param1": words[2], "param2": words[3]});
    let notepad = |action: &str, content: &str| json!({"action": action, "content": content});
    let preferences = |action: &str, key: &str, value: &str| json!({"action": action, "key": key, "value": value});
    vec![
        ("generate", json!({"command": "help"})),
        ("generate", json!({"command": "stats"})),
        ("generate", json!({"command": "nope"})),
        ("generate", assistant(["note", "add", "milk", ""])),
        ("generate", assistant(["note", "list", "", ""])),
        ("generate", assistant(["note", "count", "", ""])),
        ("generate", assistant(["note", "clear", "", ""])),
        ("generate", assistant(["pref", "set", "theme", "light"])),
        ("generate", assistant(["pref", "get", "theme", ""])),
        ("generate", assistant(["pref", "list", "", ""])),
        ("notepad", notepad("add", "milk")),
        ("notepad", notepad("add", &"milk ".repeat(1000))),
        ("notepad", notepad("list", "")),
        ("notepad", notepad("count", "")),
        ("notepad", notepad("clear", "")),
        ("preferences", preferences("set", "theme", "light")),
        ("preferences", preferences("get", "theme", "")),
        ("preferences", preferences("list", "", "")),
    ]
}

fn wasmtime() -> &'static str {
    let after = LOCK.split("name = \"wasmtime\"\nversion = \"").nth(1).expect("wasmtime is in Cargo.lock");
    after.split('"').next().expect("a version")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_command_costs_what_it_did() {
    let server = Test::new().endpoint("/notepad", "notepad").endpoint("/preferences", "preferences").start().await;
    let mut told = format!("wasmtime {}\n\n   first    again\n", wasmtime());
    for (n, (path, input)) in commands().into_iter().enumerate() {
        let mut costs = Vec::new();
        for user in ["one", "another"] {
            let caller = server.user(&format!("{user}-{n}")).at(&format!("/{path}"));
            for _ in 0..2 {
                let reply = caller.call(input.clone()).await;
                reply.ok();
                costs.push(reply.header("carrel-fuel").to_owned());
            }
        }
        assert_eq!(costs[..2], costs[2..], "{input}: it depends on the user");
        let mut input = input.to_string();
        if input.len() > 100 {
            input = format!("{} bytes", input.len());
        }
        told += &format!("{:>8} {:>8}  /{path} {input}\n", costs[0], costs[1]);
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(Path::new(GOLDEN).parent().expect("a folder")).expect("the folder");
        fs::write(GOLDEN, &told).expect("the file");
    }
    let golden = fs::read_to_string(GOLDEN).unwrap_or_default();
    assert_eq!(
        golden, told,
        "tests/golden/fuel.txt says otherwise. If wasmtime, a guest or a price was changed, and this is as it should \
         be: UPDATE_GOLDEN=1 cargo test --test all fuel::"
    );
}
