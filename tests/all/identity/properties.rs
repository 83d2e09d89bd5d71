//! Any bytes at all: nobody is taken for somebody else, and nothing panics.

use super::*;

fn headers(name: &'static str, values: &[Vec<u8>]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append(name, HeaderValue::from_bytes(value).expect("bytes that a header may have"));
    }
    headers
}

/// Bytes that a header may have, made of what cookies are made of.
fn header_bytes() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => Just(b"nat-session=".to_vec()),
        1 => Just(b"nat-session".to_vec()),
        4 => Just(b"\"".to_vec()),
        2 => Just(b"; ".to_vec()),
        2 => Just(b"\\".to_vec()),
        2 => "\\\\[0-4][0-8][0-8]".prop_map(String::into_bytes),
        2 => "[a-c=; \t\\\\\"0-9%]".prop_map(String::into_bytes),
        1 => prop_oneof![32u8..127, 128u8..=255].prop_map(|byte| vec![byte]),
    ];
    vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// Text as Python strips it.
fn strip(text: &[char]) -> &[char] {
    let space = |c: &char| matches!(c, '\t'..='\r' | '\x1c'..='\x1f' | ' ' | '\u{85}' | '\u{a0}');
    let from = text.iter().position(|c| !space(c)).unwrap_or(text.len());
    let to = text.iter().rposition(|c| !space(c)).map_or(from, |last| last + 1);
    &text[from..to]
}

/// `http.cookies._unquote`, character by character.
fn unquote(text: &[char]) -> String {
    if text.len() < 2 || text[0] != '"' || text[text.len() - 1] != '"' {
        return text.iter().collect();
    }
    let (text, mut out, mut at) = (&text[1..text.len() - 1], String::new(), 0);
    while at < text.len() {
        let digit = |ahead: usize, most: char| text.get(at + ahead).filter(|c| ('0'..=most).contains(*c));
        match (text[at], digit(1, '3'), digit(2, '7'), digit(3, '7')) {
            ('\\', Some(a), Some(b), Some(c)) => {
                let number = u32::from_str_radix(&String::from_iter([a, b, c]), 8).expect("octal digits");
                out.push(char::from_u32(number).expect("a character"));
                at += 4;
            }
            ('\\', ..) if at + 1 < text.len() => {
                out.push(text[at + 1]);
                at += 2;
            }
            (c, ..) => {
                out.push(c);
                at += 1;
            }
        }
    }
    out
}

/// The session cookie, as Starlette's `cookie_parser` reads it.
fn session_cookie(values: &[Vec<u8>]) -> Option<String> {
    let mut cookies = HashMap::new();
    for value in values {
        let text: Vec<char> = value.iter().map(|byte| char::from(*byte)).collect();
        for chunk in text.split(|c| *c == ';') {
            let (key, value) = match chunk.iter().position(|c| *c == '=') {
                Some(at) => (&chunk[..at], &chunk[at + 1..]),
                None => (&chunk[..0], chunk),
            };
            cookies.insert(strip(key).iter().collect::<String>(), unquote(strip(value)));
        }
    }
    cookies.remove("nat-session").filter(|cookie| !cookie.is_empty())
}

fn credential_bytes() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"Bearer ".to_vec()),
        Just(b"Basic ".to_vec()),
        Just(b".".to_vec()),
        Just(b"eyJhbGciOiJub25lIn0".to_vec()),
        Just(b"eyJpc3MiOiJodHRwczovL3JlZC5leGFtcGxlIn0".to_vec()),
        Just(b"YTpi".to_vec()),
        prop_oneof![32u8..127, 128u8..=255].prop_map(|byte| vec![byte]),
    ];
    vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn where_nobody_is_verified_any_cookie_is_read_as_python_reads_it(values in vec(header_bytes(), 0..3)) {
        let identity = carrel::identity::Identity::open();
        let user = identity.user(&headers("cookie", &values));
        match session_cookie(&values) {
            Some(credential) => prop_assert_eq!(user, Ok(User::from_credential(&credential))),
            None => prop_assert!(matches!(user, Err(Error::Required(_)))),
        }
    }

    #[test]
    fn where_nobody_is_verified_other_credentials_are_other_users(one in vec(header_bytes(), 1..3), other in vec(header_bytes(), 1..3)) {
        let identity = carrel::identity::Identity::open();
        if let (Some(a), Some(b)) = (session_cookie(&one), session_cookie(&other)) {
            let users = [one, other].map(|values| identity.user(&headers("cookie", &values)));
            prop_assert_eq!(a == b, users[0] == users[1]);
        }
    }

    #[test]
    fn where_nobody_is_verified_any_header_is_read_without_a_panic(
        values in vec(credential_bytes(), 1..3),
        name in prop::sample::select(vec!["authorization", "x-api-key"]),
    ) {
        let identity = carrel::identity::Identity::open();
        let text: String = values[0].iter().map(|byte| char::from(*byte)).collect();
        let user = identity.user(&headers(name, &values));
        if name == "x-api-key" && !text.is_empty() {
            prop_assert_eq!(user, Ok(User::from_credential(&text)));
        }
    }
}

#[test]
fn whatever_is_verified_any_bytes_are_refused_and_nothing_panics() {
    let identity = tenants().config().identity;
    let names = ["authorization", "x-api-key", "cookie"];
    let any = prop_oneof![header_bytes(), credential_bytes()];
    proptest!(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3000) }, |(
        values in vec(any, 1..3),
        name in prop::sample::select(names.to_vec()),
    )| {
        prop_assert!(identity.user(&headers(name, &values)).is_err());
    });
}

#[test]
fn a_credential_of_which_one_byte_is_another_is_nobodys() {
    let test = tenants();
    let identity = test.config().identity;
    let token = of("https://red.example", "alice", None);
    let folder = tempfile::tempdir().expect("a folder");
    let curves: Vec<_> = ISSUERS.iter().map(|issuer| issuer.trusted(&folder)).collect();
    let curves = test.set(
        "identity.jwt",
        curves
            .into_iter()
            .map(|mut it| {
                it["tenant"] = json!("red");
                it
            })
            .collect::<Vec<_>>(),
    );
    let curves = curves.config().identity;
    let by_curve = ISSUERS[4].token("alice");
    let right = [
        (&identity, "authorization", "Bearer ", token),
        (&identity, "authorization", "Bearer ", "red-key".to_owned()),
        (&identity, "x-api-key", "", "blue-key".to_owned()),
        (&curves, "authorization", "Bearer ", by_curve),
    ];
    for (identity, name, before, credential) in &right {
        let user = |credential: &[u8]| identity.user(&headers(name, &[[before.as_bytes(), credential].concat()]));
        assert!(user(credential.as_bytes()).is_ok(), "{name}");
        let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) };
        proptest!(config, |(at in any::<Index>(), byte in prop_oneof![33u8..127, 128u8..=255])| {
            let mut changed = credential.clone().into_bytes();
            let at = at.index(changed.len());
            let same = std::mem::replace(&mut changed[at], byte) == byte;
            prop_assert_eq!(user(&changed).is_ok(), same);
        });
    }
}
