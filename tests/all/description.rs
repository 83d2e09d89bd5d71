//! Other people's tools and `/openapi.json`: a validator, a client generator, and Schemathesis, which calls each operation
//! as its description says and looks whether the answer is as it says.
//!
//! They come from PyPI, in fixed versions, and are kept beside the build. Without `python3` they are left out.

use carrel::identity::KeyHash;
use carrel_tests::{Server, Test};
use serde_json::json;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

const TOOLS: [&str; 3] = ["openapi-spec-validator==0.9.0", "openapi-python-client==0.29.1", "schemathesis==4.32.5"];

/// Runs a program to its end, for ten minutes at most, and gives what it says.
pub(super) fn run(command: &mut Command, folder: &Path) -> String {
    let log = folder.join("log");
    let file = fs::File::create(&log).expect("a log");
    let errors = file.try_clone().expect("the same log");
    let mut child = command.stdin(Stdio::null()).stdout(file).stderr(errors).spawn().expect("a program");
    let until = Instant::now() + Duration::from_secs(600);
    let status = loop {
        match child.try_wait().expect("a child") {
            Some(status) => break Some(status),
            None if Instant::now() > until => {
                child.kill().expect("a child");
                child.wait().expect("a child");
                break None;
            }
            None => sleep(Duration::from_millis(20)),
        }
    };
    let said = fs::read_to_string(&log).expect("text");
    assert!(status.is_some_and(|status| status.success()), "{command:?}: {status:?}\n{said}");
    said
}

/// The tools' folder of programs; they are fetched if they are not there yet. `None`: there is no Python.
fn tools(log: &Path) -> Option<PathBuf> {
    let found = Command::new("python3").arg("--version").stdout(Stdio::null()).status().is_ok();
    assert!(found || std::env::var_os("CI").is_none(), "python3 is needed to hold the description against tools");
    if !found {
        println!(
            "NOT TESTED: /openapi.json with a validator, a client generator and Schemathesis, for want of python3"
        );
        return None;
    }
    Some(venv(&TOOLS, log))
}

/// The folder of programs of a Python of its own with these packages, which are fetched if they are not there yet.
pub(super) fn venv(packages: &[&str], log: &Path) -> PathBuf {
    let versions: Vec<_> = packages.iter().map(|package| package.replace("==", "-")).collect();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(versions.join("_"));
    let programs = folder.join("bin");
    let ready = folder.join("ready");
    if !ready.exists() {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder), log);
        let mut pip = Command::new(programs.join("pip"));
        run(pip.args(["install", "--quiet", "--disable-pip-version-check", "--no-compile"]).args(packages), log);
        fs::write(ready, "").expect("a mark");
    }
    programs
}

/// Holds a host's description against each of the tools. The header is a right credential.
async fn hold(programs: &Path, server: Server, header: &str, more: &[&str]) {
    let folder = tempfile::tempdir().expect("a folder");
    let description = folder.path().join("openapi.json");
    fs::write(&description, &server.get("/openapi.json").await.body).expect("a file");
    let listening = server.listen().await;
    let address = format!("http://{}/openapi.json", listening.address);
    let (programs, header) = (programs.to_owned(), header.to_owned());
    let more: Vec<String> = more.iter().map(|it| (*it).to_owned()).collect();
    let tested = tokio::task::spawn_blocking(move || {
        let folder = folder.path();
        let path = std::env::var("PATH").unwrap_or_default();
        let tool = |name: &str| {
            let mut tool = Command::new(programs.join(name));
            // The generator formats what it makes with a program of the same folder.
            tool.env("PATH", format!("{}:{path}", programs.display())).current_dir(folder);
            tool
        };
        run(tool("openapi-spec-validator").arg(&description), folder);
        let mut generate = tool("openapi-python-client");
        generate.args(["generate", "--meta=none", "--fail-on-warning", "--output-path=client", "--path"]);
        run(generate.arg(&description), folder);
        // Each operation has a module of its own.
        let modules = fs::read_dir(folder.join("client/api/default")).expect("modules");
        let modules = modules.filter(|it| it.as_ref().is_ok_and(|it| it.file_name() != "__init__.py")).count();
        let said: serde_json::Value =
            serde_json::from_slice(&fs::read(&description).expect("a file")).expect("a description");
        let operations = said["paths"].as_object().expect("paths").values();
        let operations = operations.map(|item| item.as_object().map_or(0, serde_json::Map::len)).sum::<usize>();
        assert_eq!(modules, operations, "modules of the client, and operations");
        run(
            Command::new(programs.join("python")).args(["-m", "compileall", "-q", "client"]).current_dir(folder),
            folder,
        );
        let mut schemathesis = tool("schemathesis");
        schemathesis.args(["run", &address, "--header", &header, "--no-color", "--seed=1"]);
        schemathesis.args(["--max-examples=3", "--request-timeout=30"]);
        let told = run(schemathesis.args(more), folder);
        assert!(told.contains(&format!("Tested: {operations}")), "{told}");
    });
    tested.await.expect("no panic");
    listening.stop().await.expect("no panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_tools_take_the_description_and_find_it_true() {
    let log = tempfile::tempdir().expect("a folder");
    let Some(programs) = tools(log.path()) else { return };
    let endpoint = |path: &str, method: &str, function: &str| json!({"path": path, "method": method, "description": "x", "function_name": function});
    let test = Test::fixture("globals").set(
        "general.front_end.endpoints",
        json!([
            endpoint("/a-b", "GET", "it"),
            endpoint("/a_b", "GET", "it"),
            endpoint("/a.b", "DELETE", "it"),
            endpoint("/a/b", "POST", "notepad"),
            endpoint("/a-b", "PUT", "preferences"),
        ]),
    );
    // Without verification, any credential is accepted.
    let open = test.clone().start().await;
    let all = "--phases=examples,coverage,fuzzing";
    hold(&programs, open, "Cookie: nat-session=alice", &[all, "--exclude-checks=ignored_auth"]).await;
    let verified = test.set("identity.api_keys", json!([KeyHash::of("a key of the tests").to_string()]));
    hold(&programs, verified.clone().start().await, "X-API-Key: a key of the tests", &[all]).await;
    // A wrong cookie beside a right key is ignored, and so the key's user is served. In all else this is the host before.
    let cookies = verified.set("identity.cookies.secrets", json!(["a secret of the tests, which everybody knows"]));
    let cookies = cookies.start().await;
    let few = "--phases=examples,fuzzing";
    hold(&programs, cookies, "X-API-Key: a key of the tests", &[few, "--exclude-checks=ignored_auth"]).await;
}
