//! Session cookies that the host itself signs.

use super::*;

/// The token in a cookie, signed anew with changed claims.
fn forged(cookie: &str, secret: &str, change: impl FnOnce(&mut Header, &mut Value)) -> String {
    let token = cookie.strip_prefix("nat-session=").expect("the session cookie");
    let TokenData { mut header, mut claims } = insecure_decode::<Value>(token).expect("a token");
    change(&mut header, &mut claims);
    let key = EncodingKey::from_secret(secret.as_bytes());
    format!("nat-session={}", encode(&header, &claims, &key).expect("a token"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_cookie_is_the_same_user_as_the_credential_that_it_was_given_for() {
    let server = tenants().start().await;
    let alice = server.bearer(&of("https://red.example", "alice", None));
    assert_eq!(count(&alice).await, 1);
    let (given, cookie) = session(&alice).await;
    assert_eq!(given.ok(), json!({"user_id": who(&alice).await, "expires_in": 12 * 60 * 60}));
    assert_eq!(given.header("cache-control"), "no-store");
    let token = cookie.strip_prefix("nat-session=").expect("the cookie");
    let payload = String::from_utf8(URL_SAFE_NO_PAD.decode(parts(token)[1]).expect("base64")).expect("text");
    assert!(!payload.contains("alice") && !payload.contains("red.example"), "{payload}");
    let by_cookie = server.nobody().with("cookie", &format!("theme=\u{fc}; {cookie}; a=b=c; x"));
    assert_eq!(count(&by_cookie).await, 3, "as alice, beside cookies that are none of the host's business");
    let (_, newer) = session(&by_cookie).await;
    assert_eq!(count(&server.nobody().with("cookie", &newer)).await, 4);
    // An explicit credential comes before one that a browser sends by itself.
    let (_, of_key) = session(&server.key("blue-key").with("cookie", &cookie)).await;
    assert_eq!(who(&server.nobody().with("cookie", &of_key)).await, who(&server.key("blue-key")).await);
    server.nobody().ask(Method::POST, "/session").await.error(401, "identity_required");
    server.key("nobody's").ask(Method::POST, "/session").await.error(401, "identity_invalid");
    let gone = server.nobody().with("cookie", &cookie).ask(Method::DELETE, "/session").await;
    assert_eq!((gone.status.as_u16(), gone.body.len()), (204, 0));
    let header = gone.header("set-cookie");
    assert!(
        header.starts_with("nat-session=; ") && header.contains("Max-Age=0") && header.contains("Path=/"),
        "{header}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_is_read_however_a_client_writes_it() {
    let server = tenants().start().await;
    let listening = server.listen().await;
    let alice = server.bearer(&of("https://red.example", "alice", None));
    let (id, cookie) = (who(&alice).await, session(&alice).await.1);
    let token = cookie.strip_prefix("nat-session=").expect("the cookie");
    let call = async |headers: &[String]| {
        let mut request = Request::post("/hostile").header("content-type", "application/json");
        for header in headers {
            request = request.header("cookie", header);
        }
        listening.send(request.body(Body::from(r#"{"do":"who"}"#)).expect("a request")).await
    };
    for right in [
        // RFC 6265: quotes around the value are not of the value.
        format!("nat-session=\"{token}\""),
        format!("theme=\"dark\"; nat-session=\"{token}\"; a=b"),
        format!(" nat-session = {token} ;a=b;"),
        // Java's CookieManager; Apache HttpClient 3 and 4; with commas, as RFC 2109 has it.
        format!(r#"$Version="1"; nat-session="{token}";$Path="/";$Domain="localhost.local""#),
        format!("$Version=0; nat-session={token}; $Path=/"),
        format!(r#"$Version=1; theme="a;b"; $Path="/"; nat-session="{token}"; $Path="/"; $Domain="localhost""#),
        format!(r#"$Version="1", nat-session="{token}", $Path="/", theme="dark""#),
        // A cookie that is there twice is one.
        format!("nat-session={token}; a=b; nat-session=\"{token}\""),
    ] {
        assert_eq!(call(std::slice::from_ref(&right)).await.ok()["said"], id, "{right}");
    }
    let twice = [cookie.clone(), format!("$Version=1; nat-session=\"{token}\"")];
    assert_eq!(call(&twice).await.ok()["said"], id);
    // If two differ, or one is part of another cookie's value, no identity is accepted.
    let none = "the session cookie is none of this host's";
    let two = "there are two session cookies";
    for (wrong, why) in [
        (format!("nat-session={token}; nat-session=\"{token}x\""), two),
        (format!("$Version=1, nat-session={token}, nat-session=alice"), two),
        (format!("nat-session=\"{token}"), none),
        (format!("nat-session='{token}'"), none),
        (format!("nat-session={token}, a=b"), none),
    ] {
        is_refused(&call(&[wrong]).await, why);
    }
    call(&[format!("theme=a, nat-session={token}")]).await.error(401, "identity_required");
    call(&[format!(r#"$Version=1; theme="a; nat-session={token}""#)]).await.error(401, "identity_required");
    listening.stop().await.expect("no panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_that_the_host_did_not_sign_or_whose_time_is_over_is_refused() {
    let server = tenants().start().await;
    let alice = server.bearer(&of("https://red.example", "alice", None));
    let (_, cookie) = session(&alice).await;
    let send = async |cookie: &str| server.nobody().with("cookie", cookie).call(json!({"command": "stats"})).await;
    send(&forged(&cookie, SECRET, |_, _| {})).await.ok();
    let none = "the session cookie is none of this host's";
    // Signed with the secret, and still wrong.
    let later = |_: &mut Header, claims: &mut Value| claims["exp"] = json!(now() - 1);
    is_refused(&send(&forged(&cookie, SECRET, later)).await, "the session cookie has expired");
    for (claim, value) in [
        ("aud", json!("carrel")),
        ("aud", Value::Null),
        ("exp", Value::Null),
        ("sub", json!("alice")),
        ("sub", Value::Null),
        ("tenant", json!("green")),
        ("tenant", json!("Blue Ltd.")),
        ("tenant", Value::Null),
    ] {
        is_refused(&send(&forged(&cookie, SECRET, |_, claims| claims[claim] = value)).await, none);
    }
    is_refused(&send(&forged(&cookie, SECRET, |header, _| header.kid = None)).await, none);
    is_refused(&send(&forged(&cookie, SECRET, |header, _| header.alg = Algorithm::HS384)).await, none);
    // Signed without it: other claims under the old signature, another secret, no signature.
    is_refused(&send(&forged(&cookie, OTHER_SECRET, |_, _| {})).await, none);
    let blue = forged(&cookie, OTHER_SECRET, |_, claims| claims["tenant"] = json!("blue"));
    is_refused(&send(&blue).await, none);
    let [header, _, signature] = parts(&cookie);
    is_refused(&send(&format!("{header}.{}.{signature}", parts(&blue)[1])).await, none);
    let payload = parts(&cookie)[1];
    is_refused(&send(&format!("nat-session={}.{payload}.", part(&json!({"alg": "none"})))).await, none);
    // A token is no cookie, though the secret is the same, and a cookie is no token.
    is_refused(&send(&format!("nat-session={}", of("https://red.example", "alice", None))).await, none);
    let token = cookie.strip_prefix("nat-session=").expect("the cookie");
    is_refused(&server.bearer(token).call(json!({})).await, "no JWT with the claim `iss`");
    for odd in ["nat-session=", "nat-session=alice", "nat-session=..", "nat-session=\u{fc}.\u{fc}.\u{fc}"] {
        is_refused(&send(odd).await, none);
    }
}

/// A browser sends a cookie for as long as it has it: whoever sends a right credential besides is served.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_cookie_does_not_shadow_a_right_credential() {
    let server = tenants().start().await;
    let token = of("https://red.example", "alice", None);
    let (alice, key) = (server.bearer(&token), server.key("blue-key"));
    let cookie = session(&alice).await.1;
    let expired = forged(&cookie, SECRET, |_, claims| claims["exp"] = json!(now() - 1));
    let of_a_key_that_is_gone = forged(&cookie, SECRET, |_, claims| claims["given"]["by"] = json!(1));
    let twice = format!("{cookie}; {}", session(&key).await.1);
    let other_secret = forged(&cookie, OTHER_SECRET, |_, _| {});
    for wrong in [&*expired, &of_a_key_that_is_gone, &twice, &other_secret, "nat-session=alice", "nat-session="] {
        let with = |caller: &Caller| caller.clone().with("cookie", wrong);
        assert_eq!(who(&with(&alice)).await, who(&alice).await, "{wrong}");
        assert_eq!(who(&with(&key)).await, who(&key).await, "{wrong}");
        assert_eq!(who(&with(&server.bearer("blue-key"))).await, who(&key).await, "{wrong}");
        // A wrong credential is refused, and so is none.
        is_refused(&with(&server.bearer("nobody's")).call(json!({})).await, "the API key is none");
        is_refused(&with(&server.nobody()).call(json!({})).await, "cookie");
    }
    // A right cookie still comes first.
    assert_eq!(who(&key.clone().with("cookie", &cookie)).await, who(&alice).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_exchanged_without_anybody_noticing_and_one_that_is_taken_away_ends_its_cookies() {
    let with = async |secrets: Value| tenants().set("identity.cookies.secrets", secrets).start().await;
    let old = with(json!([SECRET])).await;
    let both = with(json!([OTHER_SECRET, SECRET])).await;
    let new = with(json!([OTHER_SECRET])).await;
    let alice = of("https://red.example", "alice", None);
    let (_, of_old) = session(&old.bearer(&alice)).await;
    let (_, of_both) = session(&both.bearer(&alice)).await;
    let send = async |server: &Server, cookie: &str| {
        server.nobody().with("cookie", cookie).call(json!({"command": "stats"})).await
    };
    send(&old, &of_old).await.ok();
    send(&both, &of_old).await.ok();
    send(&both, &of_both).await.ok();
    send(&new, &of_both).await.ok();
    is_refused(&send(&new, &of_old).await, "none of this host's");
    is_refused(&send(&old, &of_both).await, "none of this host's");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_is_for_the_browser_alone_and_for_tls_if_it_came_so() {
    let attributes = async |server: &Server, proto: Option<&str>| {
        let mut alice = server.bearer(&of("https://red.example", "alice", None));
        if let Some(proto) = proto {
            alice = alice.with("x-forwarded-proto", proto);
        }
        let given = session(&alice).await.0.header("set-cookie").to_owned();
        let ended = alice.ask(Method::DELETE, "/session").await.header("set-cookie").to_owned();
        for header in [&given, &ended] {
            assert!(header.contains("; HttpOnly") && header.contains("; Path=/"), "{header}");
            assert_eq!(header.contains("; Secure"), given.contains("; Secure"), "{header}");
        }
        given
    };
    let server = tenants().set("identity.cookies.lifetime", "90s").start().await;
    for (proto, secure) in [
        (None, false),
        (Some("http"), false),
        (Some("https"), true),
        (Some("HTTPS"), true),
        (Some("https, http"), true),
        (Some("http, https"), false),
        (Some("httpsx"), false),
    ] {
        let given = attributes(&server, proto).await;
        assert_eq!(given.contains("; Secure"), secure, "{proto:?}: {given}");
        assert!(given.contains("; SameSite=Lax") && given.contains("; Max-Age=90"), "{given}");
    }
    let never = tenants().set("identity.cookies.secure", false).set("identity.cookies.same_site", "strict");
    let given = attributes(&never.start().await, Some("https")).await;
    assert!(!given.contains("; Secure") && given.contains("; SameSite=Strict"), "{given}");
    let always = tenants().set("identity.cookies.secure", true).start().await;
    assert!(attributes(&always, None).await.contains("; Secure"));
    // Browsers take no cookie for other sites that is not for TLS.
    let none = tenants().set("identity.cookies.secure", false).set("identity.cookies.same_site", "none");
    let given = attributes(&none.start().await, None).await;
    assert!(given.contains("; Secure") && given.contains("; SameSite=None"), "{given}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_credential_there_is_a_cookie_only_where_it_is_said_and_each_is_a_new_user() {
    let test = Test::hostile().set("identity.cookies", json!({"secrets": [SECRET]}));
    let off = test.start().await;
    off.nobody().ask(Method::POST, "/session").await.error(401, "identity_required");
    let on = test.set("identity.cookies.anonymous", "default").start().await;
    on.nobody().call(json!({})).await.error(401, "identity_required");
    let (one, other) = (session(&on.nobody()).await.1, session(&on.nobody()).await.1);
    let (one, other) = (on.nobody().with("cookie", &one), on.nobody().with("cookie", &other));
    assert_eq!((count(&one).await, count(&one).await, count(&other).await), (json!(1), json!(2), json!(1)));
    // Headers of which the configuration has no kind are not looked at: a proxy may have sent them.
    let behind = one.clone().with("authorization", "Basic cHJveHk6cHJveHk=").with("x-api-key", "a proxy's");
    assert_eq!(count(&behind).await, 3);
    assert_eq!(count(&on.nobody().with("cookie", &session(&behind).await.1)).await, 4);
    // Without cookies in the configuration, there is no such route.
    let without = Test::hostile().set("identity.api_keys", json!([hash(KEY)])).start().await;
    without.key(KEY).ask(Method::POST, "/session").await.error(404, "not_found");
    Test::hostile().start().await.user("alice").ask(Method::DELETE, "/session").await.error(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_ends_with_what_it_was_given_for() {
    let both = Test::hostile()
        .set("identity.cookies.secrets", json!([SECRET]))
        .set("identity.cookies.anonymous", "default")
        .set("identity.api_keys", json!([hash(KEY), hash("another key")]))
        .set("identity.jwt", json!({"issuer": "https://one.example", "audience": "carrel", "secret": SECRET}));
    let server = both.start().await;
    let token = of("https://one.example", "alice", None);
    let cookies =
        [session(&server.key(KEY)).await.1, session(&server.bearer(&token)).await.1, session(&server.nobody()).await.1];
    let taken = async |server: &Server| {
        let mut taken = Vec::new();
        for cookie in &cookies {
            let caller = server.nobody().with("cookie", cookie);
            let renewed = caller.ask(Method::POST, "/session").await;
            let called = caller.call(json!({"command": "stats"})).await;
            assert_eq!(renewed.status, called.status, "what cannot be used cannot be exchanged either");
            if called.status != 200 {
                is_refused(&called, "not valid any more");
            }
            taken.push(called.status == 200);
        }
        taken
    };
    assert_eq!(taken(&server).await, [true; 3]);
    let without_key = both.clone().set("identity.api_keys", json!([hash("another key")])).start().await;
    assert_eq!(taken(&without_key).await, [false, true, true]);
    let other_issuer = both.clone().set("identity.jwt.issuer", "https://two.example").start().await;
    assert_eq!(taken(&other_issuer).await, [true, false, true]);
    let nobody_else = both.clone().set("identity.cookies.anonymous", false).start().await;
    assert_eq!(taken(&nobody_else).await, [true, true, false]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_is_exchanged_for_a_newer_one_for_some_time_after_the_credential_was_shown() {
    let test = Test::hostile()
        .set("identity.cookies.secrets", json!([SECRET]))
        .set("identity.cookies.anonymous", "default")
        .set("identity.cookies.lifetime", "1h")
        .set("identity.cookies.renewable", "3h")
        .set("identity.api_keys", json!([hash(KEY)]));
    let server = test.start().await;
    let lasts = async |cookie: &str| {
        let renewed = server.nobody().with("cookie", cookie).ask(Method::POST, "/session").await;
        let lasts = renewed.ok()["expires_in"].as_u64().expect("seconds");
        assert!(renewed.header("set-cookie").contains(&format!("; Max-Age={lasts}")));
        lasts
    };
    let (of_key, of_nobody) = (session(&server.key(KEY)).await.1, session(&server.nobody()).await.1);
    assert_eq!(lasts(&of_key).await, 60 * 60);
    // A cookie as if given two and a half hours ago, when the credential was shown.
    let later = forged(&of_key, SECRET, |_, claims| claims["given"]["until"] = json!(now() + 30 * 60));
    assert!((30 * 60 - 5..=30 * 60).contains(&lasts(&later).await));
    let (_, again) = session(&server.nobody().with("cookie", &later)).await;
    assert!((30 * 60 - 5..=30 * 60).contains(&lasts(&again).await), "the time is kept from one to the next");
    // A user who never had another credential cannot show it.
    assert_eq!(lasts(&of_nobody).await, 60 * 60);
    // With the credential it begins anew.
    assert_eq!(lasts(&session(&server.key(KEY).with("cookie", &later)).await.1).await, 60 * 60);
}
