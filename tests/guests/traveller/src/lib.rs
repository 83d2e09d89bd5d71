//! A guest that looks for a way out of its sandbox, and tells what it found: for the tests of what is granted.

use carrel_guest::{
    Context, Error, Function,
    serde_json::{Value, json},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, io};
use wasip2::{
    filesystem::{
        preopens::get_directories,
        types::{Descriptor, DescriptorFlags, DirectoryEntryStream, ErrorCode as FileError, OpenFlags, PathFlags},
    },
    http::{
        outgoing_handler,
        types::{ErrorCode, Fields, IncomingResponse, Method, OutgoingBody, OutgoingRequest, RequestOptions, Scheme},
    },
    io::streams::{InputStream, StreamError},
};

/// What it does when it is set up.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Keeps what this variable says.
    #[serde(default)]
    pub variable: Option<String>,
    /// Keeps what is in this file.
    #[serde(default)]
    pub file: Option<String>,
    /// Keeps what is answered there.
    #[serde(default)]
    pub place: Option<String>,
}

/// What it tries in a call.
#[derive(Deserialize, JsonSchema)]
#[serde(tag = "try", rename_all = "snake_case")]
pub enum Input {
    /// Nothing: tells what it kept when it was set up.
    Kept,
    /// Tells all variables of its environment, and its arguments.
    Environment,
    /// Reads a file.
    Read {
        /// Which.
        path: String,
    },
    /// Lists a folder.
    List {
        /// Which.
        path: String,
    },
    /// Opens a file, and keeps it, as a stream too. Tells how often that succeeded, and what kept it from more.
    Open {
        /// Which, by its path in the first folder that is granted.
        path: String,
        /// How often.
        times: usize,
    },
    /// Lists the first folder that is granted as far as its first name, and keeps the listing. Tells the same.
    Peek {
        /// How often.
        times: usize,
    },
    /// Tells how many names the first folder that is granted has.
    Count,
    /// Closes what it keeps of files; of a file its handle, and then its stream.
    Close {
        /// Leaves the streams.
        streams_stay: bool,
    },
    /// Changes a file or a folder in every way that there is. Tells which succeeded.
    Change {
        /// A file that is there.
        file: String,
        /// The folder that it is in.
        folder: String,
    },
    /// Sends a request.
    Send {
        /// `http`, `https` or another.
        scheme: String,
        /// Host and port.
        authority: String,
        /// Path and query.
        path: String,
        /// `GET`, unless it is given.
        #[serde(default)]
        method: Option<String>,
        /// What to send.
        #[serde(default)]
        body: Option<String>,
    },
    /// Sends many requests at once, to `/slow`, and tells of each whether it was answered.
    Flood {
        /// How many.
        times: usize,
        /// Host and port.
        authority: String,
    },
    /// Sends a request, to `/slow`, and neither waits for the answer nor forgets it.
    Leave {
        /// Host and port.
        authority: String,
    },
    /// Makes a request with texts and headers of a size, and tells which were refused.
    Swell {
        /// Bytes.
        bytes: usize,
    },
}

/// What came of it.
#[derive(Serialize, JsonSchema)]
pub struct Output {
    /// What it found.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub found: Value,
    /// What kept it from finding something.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub refused: Value,
}

/// The state: what it found when it was set up, and what it holds.
pub struct Traveller {
    kept: Value,
    left: Vec<outgoing_handler::FutureIncomingResponse>,
    files: Vec<Descriptor>,
    streams: Vec<InputStream>,
    listings: Vec<DirectoryEntryStream>,
}

impl Function for Traveller {
    const NAME: &'static str = "traveller";
    const SUMMARY: &'static str = "Looks for a way out of its sandbox.";
    type Config = Config;
    type Input = Input;
    type Output = Output;

    fn new(config: Config, _: &Context) -> Result<Self, Error> {
        let file = config.file.map(|file| fs::read_to_string(file).unwrap_or_else(|error| error.to_string()));
        let variable = config.variable.map(|name| std::env::var(name).unwrap_or_default());
        let answer = config.place.map(|place| match send("http", &place, "/", None, None) {
            Ok(answer) => answer["body"].clone(),
            Err(error) => error.into(),
        });
        Ok(Self {
            kept: json!({"file": file, "variable": variable, "answer": answer}),
            left: Vec::new(),
            files: Vec::new(),
            streams: Vec::new(),
            listings: Vec::new(),
        })
    }

    fn call(&mut self, input: Input, _: &Context) -> Result<Output, Error> {
        let found: Result<Value, String> = match input {
            Input::Kept => Ok(self.kept.clone()),
            Input::Environment => Ok(json!({
                "variables": std::env::vars().collect::<BTreeMap<_, _>>(),
                "arguments": std::env::args().collect::<Vec<_>>(),
            })),
            Input::Read { path } => fs::read_to_string(path).map(Value::from).map_err(|error| error.to_string()),
            Input::List { path } => list(&path).map_err(|error| error.to_string()),
            Input::Open { path, times } => Ok(self.open(&path, times)),
            Input::Peek { times } => Ok(self.peek(times)),
            Input::Count => count().map(Value::from).map_err(|error| error.name().to_owned()),
            Input::Close { streams_stay } => {
                self.files.clear();
                self.listings.clear();
                if !streams_stay {
                    self.streams.clear();
                }
                Ok("closed".into())
            }
            Input::Change { file, folder } => Ok(change(&file, &folder)),
            Input::Send { scheme, authority, path, method, body } => send(&scheme, &authority, &path, method, body),
            Input::Flood { times, authority } => {
                let sent: Result<Vec<_>, _> =
                    (0..times).map(|_| start("http", &authority, "/slow", None, None)).collect();
                sent.map(|sent| {
                    sent.iter().map(|it| wait(it).map_or_else(Value::from, |_| "answered".into())).collect()
                })
            }
            Input::Leave { authority } => {
                start("http", &authority, "/slow", None, None).map(|sent| self.left.push(sent)).map(|()| "left".into())
            }
            Input::Swell { bytes } => Ok(swell(bytes)),
        };
        Ok(match found {
            Ok(found) => Output { found, refused: Value::Null },
            Err(why) => Output { found: Value::Null, refused: why.into() },
        })
    }
}

impl Traveller {
    fn open(&mut self, path: &str, times: usize) -> Value {
        let Some(folder) = granted() else { return Value::Null };
        for opened in 0..times {
            let file = folder.open_at(PathFlags::empty(), path, OpenFlags::empty(), DescriptorFlags::READ);
            let both = file.and_then(|file| Ok((file.read_via_stream(0)?, file)));
            match both {
                Ok((stream, file)) => {
                    self.streams.push(stream);
                    self.files.push(file);
                }
                Err(error) => return json!([opened, error.name()]),
            }
        }
        json!([times, null])
    }

    fn peek(&mut self, times: usize) -> Value {
        let Some(folder) = granted() else { return Value::Null };
        for peeked in 0..times {
            let listing = folder.read_directory();
            match listing.and_then(|listing| listing.read_directory_entry().map(|_| listing)) {
                Ok(listing) => self.listings.push(listing),
                Err(error) => return json!([peeked, error.name()]),
            }
        }
        json!([times, null])
    }
}

/// The first folder that is granted.
fn granted() -> Option<Descriptor> {
    get_directories().into_iter().next().map(|(folder, _)| folder)
}

fn count() -> Result<usize, FileError> {
    let Some(folder) = granted() else { return Ok(0) };
    let listing = folder.read_directory()?;
    let mut names = 0;
    while listing.read_directory_entry()?.is_some() {
        names += 1;
    }
    Ok(names)
}

fn list(path: &str) -> io::Result<Value> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names.into())
}

/// The ways of changing something that succeeded.
fn change(file: &str, folder: &str) -> Value {
    let new = format!("{folder}/new");
    let ways = [
        ("write", fs::write(file, "changed")),
        ("truncate", fs::OpenOptions::new().write(true).truncate(true).open(file).map(drop)),
        ("append", fs::OpenOptions::new().append(true).open(file).map(drop)),
        ("create", fs::write(&new, "new")),
        ("make a folder", fs::create_dir(&new)),
        ("rename", fs::rename(file, &new)),
        ("link", fs::hard_link(file, &new)),
        ("remove", fs::remove_file(file)),
        ("remove a folder", fs::remove_dir(folder)),
        ("touch", fs::File::open(file).and_then(|file| file.set_modified(std::time::SystemTime::UNIX_EPOCH))),
        ("resize", fs::File::open(file).and_then(|file| file.set_len(0))),
    ];
    ways.into_iter().filter(|(_, done)| done.is_ok()).map(|(way, _)| way).collect()
}

fn send(
    scheme: &str,
    authority: &str,
    path: &str,
    method: Option<String>,
    body: Option<String>,
) -> Result<Value, String> {
    let answer = wait(&start(scheme, authority, path, method, body)?)?;
    let headers: BTreeMap<_, _> = answer.headers().entries().into_iter().collect();
    let headers: BTreeMap<_, _> = headers.into_iter().map(|(name, value)| (name, text(value))).collect();
    Ok(json!({"status": answer.status(), "headers": headers, "body": read(&answer)?}))
}

fn start(
    scheme: &str,
    authority: &str,
    path: &str,
    method: Option<String>,
    body: Option<String>,
) -> Result<outgoing_handler::FutureIncomingResponse, String> {
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.into()),
    };
    let request = OutgoingRequest::new(Fields::new());
    let wrong = |what: &'static str| move |()| format!("{what} is not taken");
    request.set_scheme(Some(&scheme)).map_err(wrong("the scheme"))?;
    request.set_authority(Some(authority)).map_err(wrong("the authority"))?;
    request.set_path_with_query(Some(path)).map_err(wrong("the path"))?;
    if let Some(method) = method {
        request.set_method(&method_of(method)).map_err(wrong("the method"))?;
    }
    let options = RequestOptions::new();
    options.set_connect_timeout(Some(5_000_000_000)).map_err(wrong("the time"))?;
    options.set_between_bytes_timeout(Some(5_000_000_000)).map_err(wrong("the time"))?;
    let out = request.body().map_err(wrong("a body"))?;
    let answer = outgoing_handler::handle(request, Some(options)).map_err(name)?;
    if let Some(body) = body {
        let stream = out.write().map_err(wrong("a body"))?;
        for chunk in body.as_bytes().chunks(4096) {
            stream.blocking_write_and_flush(chunk).map_err(|error| error.to_string())?;
        }
    }
    // A denied request's body cannot be finished, and the answer says why.
    let _ = OutgoingBody::finish(out, None);
    Ok(answer)
}

fn method_of(name: String) -> Method {
    match name.as_str() {
        "CONNECT" => Method::Connect,
        "POST" => Method::Post,
        _ => Method::Other(name),
    }
}

fn wait(answer: &outgoing_handler::FutureIncomingResponse) -> Result<IncomingResponse, String> {
    answer.subscribe().block();
    match answer.get() {
        Some(Ok(answer)) => answer.map_err(name),
        other => Err(format!("{other:?}")),
    }
}

fn read(answer: &IncomingResponse) -> Result<String, String> {
    let body = answer.consume().map_err(|()| "the body is gone")?;
    let stream = body.stream().map_err(|()| "the stream is gone")?;
    let mut bytes = Vec::new();
    loop {
        match stream.blocking_read(16 << 10) {
            Ok(chunk) => bytes.extend(chunk),
            Err(StreamError::Closed) => return Ok(text(bytes)),
            Err(StreamError::LastOperationFailed(error)) => return Err(error.to_debug_string()),
        }
    }
}

fn swell(bytes: usize) -> Value {
    let request = OutgoingRequest::new(Fields::new());
    let long = "x".repeat(bytes);
    let ways = [
        ("method", request.set_method(&Method::Other(long.clone())).is_err()),
        ("authority", request.set_authority(Some(&long)).is_err()),
        ("path", request.set_path_with_query(Some(&format!("/{long}"))).is_err()),
    ];
    ways.into_iter().filter(|(_, refused)| *refused).map(|(way, _)| way).collect()
}

fn name(error: ErrorCode) -> String {
    format!("{error:?}")
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

carrel_guest::export!(Traveller);
