//! A wrong configuration is refused before anything is served, with file, line, key and a hint.

use carrel_tests::{HOSTILE, Test};
use serde_json::{Value, json};
use std::path::Path;

/// The errors that `carrel` reports for a file.
async fn told(text: &str) -> String {
    match carrel::config::Config::parse(Path::new("config.yml"), text) {
        Err(error) => error.to_string(),
        Ok(config) => match carrel::Host::start(config, 2).await {
            Err(error) => error.to_string(),
            Ok(_) => panic!("not refused:\n{text}"),
        },
    }
}

const WORKFLOW: &str = "workflow:\n  _type: per_user_assistant\nfunctions:\n  notepad:\n    _type: per_user_notepad\n  \
                        preferences:\n    _type: per_user_preferences\n";

#[tokio::test]
async fn an_unknown_key_is_told_with_the_nearest_known_one() {
    let text = format!("{WORKFLOW}limits:\n  fuel_per_cal: 5\n");
    let told = told(&text).await;
    assert_eq!(told, "config.yml:9: limits.fuel_per_cal: unknown key\n  did you mean `fuel_per_call`?");
}

#[tokio::test]
async fn a_bad_duration_is_told_with_what_it_should_be() {
    let text = format!("general:\n  per_user_workflow_timeout: 2 fortnights\n{WORKFLOW}");
    let told = told(&text).await;
    assert_eq!(
        told,
        "config.yml:2: general.per_user_workflow_timeout: must be a time, such as \"30m\", \"2s\" or a number of seconds, \
         and is the text \"2 fortnights\""
    );
}

#[tokio::test]
async fn an_unknown_type_is_told_with_the_nearest_guest_or_with_all() {
    let near = told(&WORKFLOW.replace("per_user_notepad", "per_user_notpad")).await;
    assert!(near.starts_with("config.yml:5: functions.notepad._type: there is no guest `per_user_notpad`"), "{near}");
    assert!(near.contains("did you mean `per_user_notepad`?"), "{near}");
    let far = told(&WORKFLOW.replace("per_user_notepad", "xyz")).await;
    assert!(far.contains("there are `per_user_assistant`, `per_user_notepad`, `per_user_preferences`"), "{far}");
}

#[tokio::test]
async fn functions_that_refer_to_each_other_in_a_circle_are_refused() {
    let text = "functions:\n  a:\n    _type: per_user_assistant\n    notepad_name: b\n    preferences_name: p\n  b:\n    \
                _type: per_user_assistant\n    notepad_name: a\n    preferences_name: p\n  p:\n    _type: \
                per_user_preferences\nworkflow:\n  _type: per_user_assistant\n  notepad_name: a\n  preferences_name: p\n";
    let told = told(text).await;
    assert!(told.starts_with("config.yml:4: functions.a.notepad_name: "), "{told}");
    assert!(told.contains("in a circle: `a` -> `b` -> `a`"), "{told}");
}

#[tokio::test]
async fn a_reference_to_a_function_that_is_not_there_is_refused_also_one_by_default() {
    let named = told(&WORKFLOW.replace("assistant\n", "assistant\n  notepad_name: notpad\n")).await;
    assert!(named.starts_with("config.yml:3: workflow.notepad_name: there is no function `notpad`"), "{named}");
    assert!(named.contains("did you mean `notepad`?"), "{named}");
    let default = told("workflow:\n  _type: per_user_assistant\n").await;
    assert!(default.contains("workflow.notepad_name: there is no function `notepad`"), "{default}");
}

#[tokio::test]
async fn a_functions_own_keys_are_checked_against_its_schema() {
    let ty = told(&WORKFLOW.replace("per_user_notepad\n", "per_user_notepad\n    max_notes: many\n")).await;
    let expected = "config.yml:6: functions.notepad.max_notes: must be of type integer, and is the text \"many\"";
    assert_eq!(ty, expected);
    let unknown = told(&WORKFLOW.replace("per_user_notepad\n", "per_user_notepad\n    max_note: 5\n")).await;
    assert_eq!(unknown, "config.yml:6: functions.notepad.max_note: unknown key\n  did you mean `max_notes`?");
    let range = told(&WORKFLOW.replace("per_user_notepad\n", "per_user_notepad\n    max_notes: -1\n")).await;
    assert!(
        range.starts_with("config.yml:6: functions.notepad.max_notes: is the number -1: value is less than"),
        "{range}"
    );
}

#[tokio::test]
async fn a_route_that_is_taken_is_refused() {
    let endpoint = |path: &str| json!({"path": path, "method": "POST", "function_name": "notepad", "description": ""});
    for (path, by) in [("/generate", "general.front_end.workflow"), ("/health", "Carrel itself")] {
        let told = Test::new().set("general.front_end.endpoints", json!([endpoint(path)])).refused().await;
        assert!(told.contains(&format!("the route {path} is already taken by")) && told.contains(by), "{told}");
    }
    let twice = json!([endpoint("/notes"), endpoint("/notes/stream")]);
    let told = Test::new().set("general.front_end.endpoints", twice).refused().await;
    assert!(told.contains("/notes/stream is already taken by `general.front_end.endpoints.0`"), "{told}");
    let unknown = Test::new().endpoint("/notes", "notpad").refused().await;
    assert!(unknown.contains("endpoints.0.function_name: there is no function `notpad`"), "{unknown}");
    assert!(unknown.contains("did you mean `notepad`?"), "{unknown}");
}

#[tokio::test]
async fn text_that_is_not_yaml_is_told_with_its_line() {
    for (text, line) in [("a: [1\nb: 2\n", 2), ("workflow:\n\t_type: x\n", 2), ("workflow: {}\nworkflow: {}\n", 1)] {
        let told = told(text).await;
        assert!(told.starts_with(&format!("config.yml:{line}: is not YAML: ")), "{text:?}: {told}");
    }
}

#[tokio::test]
async fn a_limit_of_nothing_is_refused() {
    let limits = [
        "fuel_per_call",
        "deadline",
        "memory_per_instance",
        "output_size",
        "body_size",
        "queue_per_session",
        "max_sessions",
        "call_depth",
    ];
    let text = limits.iter().fold(format!("{WORKFLOW}limits:\n"), |text, limit| format!("{text}  {limit}: 0\n"));
    let told = told(&text).await;
    for (index, limit) in limits.iter().enumerate() {
        let line = 9 + index;
        assert!(told.contains(&format!("config.yml:{line}: limits.{limit}: must be at least ")), "{told}");
    }
}

#[tokio::test]
async fn a_folder_or_file_of_guests_that_cannot_be_used_is_told_with_its_path() {
    let empty = tempfile::tempdir().expect("a folder");
    let nothing = Test::new().set("guests", json!([empty.path()])).refused().await;
    assert!(nothing.contains("guests.0: the folder") && nothing.contains("has no .wasm files"), "{nothing}");
    let missing = Test::new().set("guests", json!([empty.path().join("nope")])).refused().await;
    assert!(missing.contains("nope cannot be read: No such file"), "{missing}");
    let text = empty.path().join("text.wasm");
    std::fs::write(&text, "not wasm").expect("a file");
    let wrong = Test::new().set("guests", json!([empty.path()])).refused().await;
    assert!(wrong.contains("text.wasm is not WebAssembly"), "{wrong}");
    let twice = Test::new().set("guests", json!([HOSTILE, HOSTILE])).refused().await;
    assert!(twice.contains("is named `hostile`, and so is one that is"), "{twice}");
}

#[tokio::test]
async fn a_function_that_refuses_its_configuration_fails_the_start_with_its_name() {
    let told = Test::hostile().set("functions.hostile.refuse", "not on a Monday").refused().await;
    assert!(told.contains("functions.hostile: the guest `hostile` does not take this configuration: not on a Monday"));
    let spins = Test::hostile().set("functions.hostile.spin", true).set("limits.fuel_per_call", "10M");
    let told = spins.refused().await;
    assert!(told.contains("functions.hostile: the function could not be set up: it used up its fuel"), "{told}");
}

#[tokio::test]
async fn rules_for_other_origins_that_browsers_do_not_take_are_refused() {
    let cors = json!({"allow_origins": ["https://a.example"], "allow_credentials": true, "expose_headers": ["*"]});
    let told = Test::new().set("general.front_end.cors", cors).refused().await;
    assert!(told.contains("cors.expose_headers: has no `*` with `allow_credentials`"), "{told}");
    let cors = json!({"allow_origins": ["*"], "allow_credentials": true});
    let told = Test::new().set("general.front_end.cors", cors).refused().await;
    assert!(told.contains("cors.allow_credentials: with `allow_origins: [\"*\"]`"), "{told}");
}

/// With credentials, an origin that anybody can have is refused, however it is allowed.
#[test]
fn credentials_are_for_no_origin_that_anybody_can_have() {
    let told = |key: &str, value: &Value, credentials: bool| {
        let cors = json!({key: value, "allow_credentials": credentials});
        let file = json!({"general": {"front_end": {"cors": cors}}, "workflow": {"_type": "per_user_notepad"}});
        let read = carrel::config::Config::parse(Path::new("config.yml"), &file.to_string());
        read.err().map_or_else(String::new, |error| error.to_string())
    };
    let open = [
        ("allow_origins", json!(["*"])),
        ("allow_origins", json!(["https://app.example.org", "null"])),
        ("allow_origin_regex", json!(".*")),
        ("allow_origin_regex", json!(".+")),
        ("allow_origin_regex", json!("^.*$")),
        ("allow_origin_regex", json!("(?i)https?://.*")),
        ("allow_origin_regex", json!("http.*")),
        ("allow_origin_regex", json!("https://[^/]+")),
        ("allow_origin_regex", json!(r"https://\w+\.\w+")),
        ("allow_origin_regex", json!(r"https://.*\.com")),
        ("allow_origin_regex", json!(r"http://[a-z.]+:\d+")),
        ("allow_origin_regex", json!(r"https://app\.example\.org|.*\.dev")),
        ("allow_origin_regex", json!(r"http://\d+\.\d+\.\d+\.\d+")),
        ("allow_origin_regex", json!("null|https://app")),
        ("allow_origin_regex", json!(r"https://.*example\.com")),
        ("allow_origin_regex", json!(r"https://app\.example\.com.*")),
        ("allow_origin_regex", json!(r"https?://localhost.*")),
        ("allow_origin_regex", json!(r"http://10\..*")),
        ("allow_origin_regex", json!(r"https://.+example.+")),
        ("allow_origin_regex", json!(r"https://.*\.github\.io")),
        ("allow_origin_regex", json!(r"https://[a-z0-9-]+\.co\.jp")),
        ("allow_origin_regex", json!(r"https://.*:\d{5}")),
        ("allow_origin_regex", json!(r"https://[a-z]{1,6}\.com")),
        ("allow_origin_regex", json!(r"chrome-extension://.*")),
        ("allow_origin_regex", json!(r"https://[^.]*-app\.pages\.dev")),
    ];
    for (key, value) in open {
        let refused = told(key, &value, true);
        assert!(refused.contains("cors.allow_credentials: with ") && refused.contains(key), "{value}: {refused}");
        assert_eq!(told(key, &value, false), "");
    }
    let right = [
        r"https://[a-z]+\.example\.org",
        r"https?://(.+\.)?example\.com(:\d+)?",
        r"http://localhost(:\d+)?",
        r"http://127\.0\.0\.1:\d+",
        r"https://pr-\d+-app\.pages\.dev",
        r"https://([a-z0-9-]+\.)*example\.co\.uk(:\d{2,5})?",
        r"https://(app|www)\.example\.com|http://localhost:3000",
        r"chrome-extension://aaaabbbbccccddddaaaabbbbccccdddd",
    ];
    for pattern in right {
        assert_eq!(told("allow_origin_regex", &json!(pattern), true), "", "{pattern}");
    }
}

#[tokio::test]
async fn all_problems_are_told_at_once() {
    let text = WORKFLOW.replace("per_user_notepad", "nope").replace("_type: per_user_preferences", "_type: neither");
    let told = told(&text).await;
    assert_eq!(told.matches("there is no guest").count(), 2, "{told}");
}

#[tokio::test]
async fn nats_keys_that_mean_nothing_here_are_taken_and_listed() {
    let test = Test::new().set("llms.nim._type", "nim").set("general.front_end.use_gunicorn", true);
    assert_eq!(test.config().ignored, ["general.front_end.use_gunicorn", "llms"]);
    test.start().await;
}

/// The errors in `identity` and `tenants`, one a line, without hints.
async fn told_of(more: &str) -> Vec<String> {
    let told = told(&format!("{WORKFLOW}{more}")).await;
    told.lines().filter(|line| !line.starts_with("  ")).map(str::to_owned).collect()
}

const JWT: &str = "identity:\n  jwt:\n    issuer: https://a.example\n    audience: carrel\n";
const LONG: &str = "0123456789abcdef0123456789abcdef";

#[tokio::test]
async fn what_is_wrong_with_an_issuer_is_told_with_the_line_of_its_key() {
    let none = told_of(&format!("{JWT}    leeway: 2h\n")).await;
    assert_eq!(
        none,
        [
            "config.yml:9: identity.jwt: needs exactly one of `secret`, `public_key`, `jwks`, and has none",
            "config.yml:12: identity.jwt.leeway: must be an hour at most",
        ]
    );
    let both = told_of(&format!("{JWT}    secret: {LONG}\n    jwks: keys.json\n")).await;
    assert!(both[0].ends_with("and has `secret`, `jwks`"), "{both:?}");
    let empty = told_of("identity:\n  jwt: {}\n").await;
    assert_eq!(
        empty[..2],
        ["config.yml:9: identity.jwt: has no `issuer`", "config.yml:9: identity.jwt: has no `audience`"]
    );
    let nobody = told_of(&format!("{}    secret: {LONG}\n", JWT.replace("carrel", "[]"))).await;
    assert_eq!(nobody, ["config.yml:11: identity.jwt.audience: must have one at least: else no token is taken"]);
    let algorithms = |names: &str| format!("{JWT}    secret: {LONG}\n    algorithms: {names}\n");
    let of_another_kind = told_of(&algorithms("[RS256]")).await;
    assert_eq!(
        of_another_kind,
        ["config.yml:13: identity.jwt.algorithms: none of them belongs to a key of this issuer"]
    );
    let no_algorithm = told_of(&algorithms("[none]")).await;
    assert_eq!(
        no_algorithm,
        ["config.yml:13: identity.jwt.algorithms: `none` is no algorithm that can be verified here"]
    );
    let twice = "    - {issuer: a, audience: b, secret: 0123456789abcdef0123456789abcdef}\n".repeat(2);
    let twice = told_of(&format!("identity:\n  jwt:\n{twice}")).await;
    assert_eq!(twice, ["config.yml:11: identity.jwt.1.issuer: is there twice: put its keys together, in a `jwks`"]);
}

#[tokio::test]
async fn a_file_of_keys_that_no_token_could_be_verified_with_is_refused() {
    let keys = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/keys/");
    let folder = tempfile::tempdir().expect("a folder");
    let written = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).expect("a file");
        file.display().to_string()
    };
    let set = |key: Value| written("set.json", &json!({"keys": [key]}).to_string());
    let [one, weak] = ["p256.pub.pem", "rsa-1024.pub.pem"]
        .map(|name| std::fs::read_to_string(format!("{keys}{name}")).expect("a key"));
    let one = &*one;
    let in_pem = "is no public key in PEM, of RSA (2048 bits at least), EC (P-256, P-384) or Ed25519";
    for (kind, file, why) in [
        ("public_key", format!("{keys}nowhere.pem"), "cannot be read: No such file"),
        ("public_key", format!("{keys}README.md"), in_pem),
        ("public_key", format!("{keys}p521.pub.pem"), in_pem),
        ("public_key", format!("{keys}rsa-1024.pub.pem"), in_pem),
        ("public_key", "/dev/zero".to_owned(), "cannot be read: it is no file"),
        (
            "public_key",
            written("large.pem", &"x".repeat((1 << 20) + 1)),
            "cannot be read: it has more than 1048576 bytes",
        ),
        ("public_key", format!("{keys}rsa.pem"), "has a private key: only its public part belongs here"),
        ("public_key", format!("{keys}ed25519.pem"), "has a private key"),
        ("public_key", written("one.pem", &one[..one.len() - 20]), "is cut off"),
        ("public_key", written("two.pem", &[one, &one[..one.len() - 20]].concat()), "is cut off"),
        (
            "public_key",
            written("weak.pem", &[one, &weak].concat()),
            "weak.pem: block 2, `PUBLIC KEY`, is no public key in PEM",
        ),
        ("public_key", written("other.pem", &one.replace("PUBLIC KEY", "X509 CRL")), "is no public key in PEM"),
        ("public_key", written("certificate.pem", &one.replace("PUBLIC KEY", "CERTIFICATE")), "the certificate: "),
        ("jwks", format!("{keys}README.md"), "is no JSON Web Key Set"),
        ("jwks", written("empty.json", r#"{"keys": []}"#), "has no key to verify with"),
    ] {
        let told = told_of(&format!("{JWT}    {kind}: {file}\n")).await;
        assert!(told.len() == 1 && told[0].starts_with(&format!("config.yml:12: identity.jwt.{kind}: ")), "{told:?}");
        assert!(told[0].contains(why), "{told:?}");
    }
    let (x, y) = ("yGcon-JPW05dDlkr05LUAOQp-mnhcxn4XHJ7UD_tcCc", "G8bpVxx8zom2vD5b9s94EOTR8-cZuT7q9c-cyuwBzqQ");
    for (key, why) in [
        (json!({"kty": "oct", "k": "c2VjcmV0"}), "has a shared secret"),
        (json!({"kty": "RSA", "use": "enc", "n": "AQAB", "e": "AQAB"}), "has no key to verify with"),
        (json!({"kty": "RSA", "n": "x".repeat(170), "e": "AQAB"}), "has no key to verify with"),
        // Even numbers are none of RSA.
        (json!({"kty": "RSA", "n": "x".repeat(341) + "A", "e": "AQAB"}), "has no key to verify with"),
        (json!({"kty": "RSA", "n": "x".repeat(341) + "Q", "e": "Ag"}), "has no key to verify with"),
        (json!({"kty": "RSA", "n": "x".repeat(1366) + "E", "e": "AQAB"}), "has no key to verify with"),
        (json!({"kty": "OKP", "crv": "Ed25519", "x": "dG9vIHNob3J0"}), "has no key to verify with"),
        (json!({"kty": "EC", "crv": "P-256", "x": y, "y": x}), "has no key to verify with"),
        // A public key is for no algorithm of shared secrets, whatever it says.
        (json!({"kty": "EC", "crv": "P-256", "x": x, "y": y, "alg": "HS256"}), "has no key to verify with"),
    ] {
        let told = told_of(&format!("{JWT}    jwks: {}\n", set(key.clone()))).await;
        assert!(told.len() == 1 && told[0].contains(why), "{key}: {told:?}");
    }
    let right = set(json!({"kty": "EC", "crv": "P-256", "x": x, "y": y}));
    let only = told_of(&format!("{JWT}    jwks: {right}\n    algorithms: [ES384]\n")).await;
    assert_eq!(only, ["config.yml:13: identity.jwt.algorithms: none of them belongs to a key of this issuer"]);
}

#[tokio::test]
async fn no_message_repeats_a_secret_or_a_key() {
    let short = "hunter2-hunter2";
    let cookies = "identity:\n  cookies:\n    secrets: ";
    let api_keys = "identity:\n  api_keys: ";
    let tenant = "identity: {api_keys: []}\ntenants:\n  a:\n    api_keys: ";
    for (text, at) in [
        (
            format!("{JWT}    secret: {short}\n"),
            "config.yml:12: identity.jwt.secret: must have 32 bytes at least, and has 15",
        ),
        (format!("{JWT}    secret: [{short}]\n"), "config.yml:12: identity.jwt.secret: must be a text of 32 bytes"),
        (format!("{cookies}[{short}]\n"), "config.yml:10: identity.cookies.secrets: must have 32 bytes at least"),
        (format!("{cookies}{short}{LONG}\n"), "config.yml:10: identity.cookies.secrets: must be a list"),
        (format!("{cookies}[]\n"), "config.yml:10: identity.cookies.secrets: must have one at least"),
        (format!("{api_keys}{short}\n"), "config.yml:9: identity.api_keys: must be a list"),
        (format!("{api_keys}[{short}]\n"), "config.yml:9: identity.api_keys: must be a key's hash"),
        (format!("{tenant}{short}\n"), "config.yml:11: tenants.a.api_keys: must be a list"),
        (format!("{tenant}[{short}]\n"), "config.yml:11: tenants.a.api_keys: must be a key's hash"),
    ] {
        let told = told(&format!("{WORKFLOW}{text}")).await;
        assert!(told.contains(at) && !told.contains("hunter2"), "{text}: {told}");
    }
}

#[tokio::test]
async fn tenants_are_told_apart_or_the_start_is_refused() {
    let hash = carrel::identity::KeyHash::of("a key");
    let without = told_of("tenants: {a: {}, b: {}}\n").await;
    assert_eq!(without.len(), 1);
    assert!(without[0].contains("identity: must say how tenants are told apart"), "{without:?}");
    let open = told_of("identity: open\ntenants: {a: {}}\n").await;
    assert!(open[0].starts_with("config.yml:8: identity: must say how tenants are told apart"), "{open:?}");
    let odd = told_of("identity: opne\n").await;
    assert!(odd[0].starts_with("config.yml:8: identity: must be `open`, or a map"), "{odd:?}");
    let nobody = told_of("identity: {}\n").await;
    assert!(nobody[0].starts_with("config.yml:8: identity: verifies nobody"), "{nobody:?}");
    let issuer = |more: &str| format!("{JWT}    secret: {LONG}\n{more}tenants: {{a: {{}}, b: {{}}}}\n");
    let which = told_of(&issuer("")).await;
    assert!(which[0].starts_with("config.yml:9: identity.jwt: needs `tenant`, or the `tenant_claim`"), "{which:?}");
    let unknown = told_of(&issuer("    tenant: c\n")).await;
    assert_eq!(unknown, ["config.yml:13: identity.jwt.tenant: there is no tenant `c`"]);
    let both = told_of(&issuer("    tenant: a\n    tenant_claim: org\n")).await;
    assert_eq!(both, ["config.yml:9: identity.jwt: has both `tenant` and `tenant_claim`: a token has one tenant"]);
    let cookies = format!("identity:\n  cookies:\n    secrets: [{LONG}]\n    anonymous: c\ntenants: {{a: {{}}}}\n");
    assert_eq!(told_of(&cookies).await, ["config.yml:11: identity.cookies.anonymous: there is no tenant `c`"]);
    let shared = format!(
        "identity: {{api_keys: []}}\ntenants:\n  a:\n    api_keys: [\"{hash}\"]\n  b:\n    claims: [x, a]\n    api_keys: [\"{hash}\"]\n"
    );
    assert_eq!(
        told_of(&shared).await,
        [
            "config.yml:13: tenants.b.claims: `a` belongs to the tenant `a` already",
            "config.yml:14: tenants.b.api_keys: one of them belongs to the tenant `a` already",
        ]
    );
    let misplaced = told_of(&format!("identity:\n  api_keys: [\"{hash}\"]\ntenants: {{a: {{}}, b: {{}}}}\n")).await;
    assert_eq!(misplaced, ["config.yml:9: identity.api_keys: belong to a tenant: put them into its `api_keys`"]);
    for name in ["a b", "\u{fc}", &"x".repeat(65), ""] {
        let told = told_of(&format!("identity: {{api_keys: []}}\ntenants:\n  \"{name}\": {{}}\n")).await;
        assert!(told[0].contains("a tenant's name has 1 to 64 letters"), "{name:?}: {told:?}");
    }
    let none = told_of("identity: {api_keys: []}\ntenants: {}\n").await;
    assert!(none[0].starts_with("config.yml:9: tenants: has 0 tenants, and must have 1 to 1000"), "{none:?}");
}

#[tokio::test]
async fn what_is_wrong_with_a_tenants_functions_and_limits_is_told() {
    let hash = carrel::identity::KeyHash::of("a key");
    let tenant = |more: &str| format!("identity: {{}}\ntenants:\n  a:\n    api_keys: [\"{hash}\"]\n{more}");
    let function = told(&format!("{WORKFLOW}{}", tenant("    functions: [notepad, preference]\n"))).await;
    assert_eq!(
        function,
        "config.yml:12: tenants.a.functions: there is no function `preference`\n  did you mean `preferences`?"
    );
    let far = told(&format!("{WORKFLOW}{}", tenant("    functions: [xyz]\n"))).await;
    assert!(far.ends_with("there are `notepad`, `preferences`, `workflow`"), "{far}");
    let hosts = told_of(&tenant("    limits: {max_sessions: 5, memory: 1 GiB, calls: 5, connections: 5}\n")).await;
    assert_eq!(hosts.len(), 4, "{hosts:?}");
    assert!(hosts[0].starts_with("config.yml:12: tenants.a.limits.max_sessions: unknown key"), "{hosts:?}");
    let burst = told_of("limits:\n  user:\n    fuel_burst: 5\n  tenant:\n    requests_burst: 5\n").await;
    assert_eq!(
        burst,
        [
            "config.yml:10: limits.user.fuel_burst: without `fuel_per_second` there is nothing that it would be a burst of",
            "config.yml:12: limits.tenant.requests_burst: without `requests_per_second` there is nothing that it would be a burst of",
        ]
    );
    // A tenant can set a burst alone where all have a rate.
    let rated = format!(
        "{WORKFLOW}limits: {{user: {{fuel_per_second: 5}}}}\n{}",
        tenant("    limits: {user: {fuel_burst: 7}}\n")
    );
    let config = carrel::config::Config::parse(Path::new("config.yml"), &rated).expect("a right configuration");
    let fuel = config.tenants[0].limits.user.fuel.map(|rate| (rate.per_second, rate.burst));
    assert_eq!((fuel, config.limits.user.fuel.map(|rate| rate.burst)), (Some((5, 7)), Some(50)));
    let of_users = told_of("limits:\n  user: {calls: 5, sessions: 5, fuel_per_second: 0, memory: 1 KiB}\n").await;
    assert_eq!(of_users.len(), 4, "{of_users:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_could_never_match_is_refused_with_the_one_that_is_meant() {
    let told =
        async |origin: &str| Test::new().set("general.front_end.cors.allow_origins", json!([origin])).refused().await;
    for (wrong, right) in [
        ("https://app.example.org/", "https://app.example.org"),
        ("https://app.example.org/path?x#y", "https://app.example.org"),
        ("app.example.org", "https://app.example.org"),
        ("localhost:3000", "http://localhost:3000"),
        ("127.0.0.1", "http://127.0.0.1"),
        ("https://App.Example.org", "https://app.example.org"),
        ("HTTPS://app.example.org", "https://app.example.org"),
        ("https://app.example.org:443", "https://app.example.org"),
        ("http://app.example.org:80/", "http://app.example.org"),
        ("http://localhost:03000", "http://localhost:3000"),
        (" https://app.example.org", "https://app.example.org"),
        ("https://app.example.org\t", "https://app.example.org"),
        ("https://me@app.example.org", "https://app.example.org"),
        ("http://[0:0:0:0:0:0:0:1]:3000", "http://[::1]:3000"),
    ] {
        let told = told(wrong).await;
        assert!(told.contains("general.front_end.cors.allow_origins"), "{told}");
        assert!(told.contains(&format!("did you mean `{right}`?")), "{wrong:?}: {told}");
    }
    for wrong in [
        "",
        " ",
        "https://",
        "https://b\u{fc}cher.example",
        "https://a b.example",
        "http://a:0",
        "http://a:x",
        "file:///",
        "//app.example.org",
    ] {
        let told = told(wrong).await;
        assert!(told.contains("is no origin: one is a scheme"), "{wrong:?}: {told}");
    }
    assert!(told("https://*.example.org").await.contains("`allow_origin_regex`"));
    let right = [
        "https://app.example.org",
        "http://localhost:3000",
        "http://app.example.org:443",
        "https://xn--bcher-kva.example",
        "http://[::1]:3000",
        "http://127.0.0.1:8080",
        "chrome-extension://abcdefghijklmnop",
        "capacitor://localhost",
        "null",
    ];
    let cors = Test::new().set("general.front_end.cors.allow_origins", json!(right)).config().general.front_end.cors;
    assert_eq!(cors.allow_origins, right);
    assert!(
        !Test::new().set("general.front_end.cors.allow_origins", json!(["*"])).config().general.front_end.cors.is_off()
    );
}
