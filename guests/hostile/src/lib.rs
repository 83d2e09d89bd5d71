//! A guest that does what it is told, whatever it is: the attacker, and the witness, of the tests.
//!
//! The guest testifies about its own memory: how often this instance was called, and whether it holds bytes that
//! another user's instance wrote.

#![allow(clippy::panic, clippy::print_stdout)]

use carrel_guest::{
    CallError, Context, Error, Function, FunctionName, Level, log,
    serde_json::{Value, json},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    fs::{File, ReadDir},
    hint::black_box,
    io::ErrorKind,
    thread::sleep,
    time::{Duration, Instant},
};

/// What it is set up to do.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Refuses its configuration, with this text.
    #[serde(default)]
    pub refuse: Option<String>,
    /// Spins for ever in `configure`.
    #[serde(default)]
    pub spin: bool,
    /// Takes all the memory that it is given in `configure`.
    #[serde(default)]
    pub take: bool,
    /// Asks in `configure` whether there is such a function.
    #[serde(default)]
    pub ask: Option<String>,
    /// Another function, for circles by configuration.
    #[serde(default)]
    pub next: Option<FunctionName>,
}

/// What it is told to do in a call.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Input {
    /// Nothing: only counts.
    Count,
    /// Computes for ever.
    Spin,
    /// Computes for a while, and then waits on a clock.
    Work {
        /// How long it computes.
        milliseconds: u64,
        /// How long it waits.
        #[serde(default)]
        sleep: u64,
    },
    /// Asks for more memory than there is, takes no for an answer, and then spins.
    Probe,
    /// Waits on a clock.
    Sleep {
        /// How long.
        milliseconds: u64,
    },
    /// Calls itself, in its own code, without end.
    Recurse,
    /// Takes memory at once, and keeps it.
    Take {
        /// How much.
        bytes: usize,
    },
    /// Takes memory bit by bit, without end.
    Hoard,
    /// Takes memory at once, and keeps it, but writes to none of it.
    Reserve {
        /// How much.
        bytes: usize,
    },
    /// Writes to all that it keeps, also to what it has only reserved: bytes that no compression makes fewer.
    Overwrite {
        /// For how long: once, and then again until so much time is over.
        #[serde(default)]
        milliseconds: u64,
    },
    /// Adds up all that it keeps.
    Sum,
    /// Does one thing again and again, for ever, whatever comes of it.
    Repeat {
        /// This.
        #[schemars(with = "Value")]
        of: Box<Input>,
    },
    /// Panics.
    Panic,
    /// Aborts, without a word.
    Abort,
    /// Goes where no code is.
    Unreachable,
    /// Writes to where it has no memory.
    Wild,
    /// Answers with what is no text.
    Garble,
    /// Ends the process that it thinks it is.
    Exit {
        /// With this status.
        status: i32,
    },
    /// Divides by zero, in the way that traps.
    Divide,
    /// Fails, in words.
    Fail {
        /// These.
        why: String,
    },
    /// Refuses the input, in words.
    Refuse {
        /// These.
        why: String,
    },
    /// Answers with so much text.
    Answer {
        /// How much.
        bytes: usize,
    },
    /// Emits chunks.
    Emit {
        /// How many.
        chunks: usize,
        /// How large each is.
        bytes: usize,
        /// And then panics.
        #[serde(default)]
        panic: bool,
    },
    /// Writes to stdout and stderr.
    Print {
        /// What.
        text: String,
        /// How often.
        times: usize,
    },
    /// Writes to the log, by the contract's own import.
    Log {
        /// At which level.
        level: String,
        /// The text.
        text: String,
        /// So many times.
        times: usize,
        /// And then panics.
        #[serde(default)]
        panic: bool,
    },
    /// Calls another function, and tells what came of it.
    Call {
        /// Which.
        name: String,
        /// With what.
        input: Value,
    },
    /// Tells whether there is a function.
    Exists {
        /// Which.
        name: String,
    },
    /// Calls another function, and fails with its very words if that fails.
    Relay {
        /// Which.
        name: String,
        /// With what.
        input: Value,
    },
    /// Calls another function that is stopped, does other things, and then passes that stop on.
    PassOn {
        /// Which.
        name: String,
        /// With what.
        input: Value,
        /// The other things.
        #[schemars(with = "Vec<Value>")]
        after: Vec<Input>,
    },
    /// Calls another function, and keeps the stop that it ends with.
    KeepStop {
        /// Which.
        name: String,
        /// With what.
        input: Value,
    },
    /// Passes on the stop that it has kept from an earlier call.
    PassOnKept,
    /// Does several things in order, in one call, and tells what came of each.
    All {
        /// These.
        #[schemars(with = "Vec<Value>")]
        of: Vec<Input>,
    },
    /// Tells how many bytes it keeps, and of how many pages its memory is.
    Holds,
    /// Fills fresh memory with one byte.
    Fill {
        /// Which.
        byte: u8,
        /// How much.
        bytes: usize,
    },
    /// Looks through all of its memory for runs of one byte.
    Look {
        /// Which.
        byte: u8,
    },
    /// Opens a file again and again, and keeps what it has opened. Says so where there are no more to be had.
    Open {
        /// Which.
        path: String,
        /// How often.
        times: usize,
    },
    /// Begins to list a folder again and again, and keeps the listings. Says so where there are no more to be had.
    List {
        /// Which.
        path: String,
        /// How often.
        times: usize,
    },
    /// Tells the user's id.
    Who,
    /// Tries files, environment, arguments and sockets, and tells which gave anything.
    Escape,
}

/// What it says.
#[derive(Serialize, JsonSchema)]
pub struct Output {
    /// How many calls this very instance has had.
    pub calls: u64,
    /// What came of it.
    pub said: Value,
}

/// The state: what testifies.
pub struct Hostile {
    calls: u64,
    /// The answer to its question in `configure`.
    told: Option<bool>,
    kept: Vec<Vec<u8>>,
    files: Vec<File>,
    listings: Vec<ReadDir>,
    stop: Option<CallError>,
}

/// Longer than any other run of equal bytes, except zeroes, in the guest's memory.
#[cfg(target_family = "wasm")]
const RUN: usize = 64;

impl Function for Hostile {
    const NAME: &'static str = "hostile";
    const SUMMARY: &'static str = "Does what it is told, whatever it is.";
    type Config = Config;
    type Input = Input;
    type Output = Output;

    fn new(config: Config, cx: &Context) -> Result<Self, Error> {
        if let Some(why) = config.refuse {
            return Err(Error::failed(why));
        }
        if config.spin {
            spin();
        }
        while config.take && grow(1) {}
        let told = config.ask.map(|name| cx.exists(&name));
        Ok(Self { calls: 0, told, kept: Vec::new(), files: Vec::new(), listings: Vec::new(), stop: None })
    }

    fn call(&mut self, input: Input, cx: &Context) -> Result<Output, Error> {
        self.calls += 1;
        let said = self.obey(input, cx)?;
        Ok(Output { calls: self.calls, said })
    }
}

impl Hostile {
    fn obey(&mut self, input: Input, cx: &Context) -> Result<Value, Error> {
        Ok(match input {
            Input::Count => Value::Null,
            Input::Spin => spin(),
            Input::Work { milliseconds, sleep: wait } => {
                let began = Instant::now();
                while began.elapsed() < Duration::from_millis(milliseconds) {
                    black_box(began);
                }
                sleep(Duration::from_millis(wait));
                Value::Null
            }
            Input::Probe => {
                assert!(!grow(60_000), "there is so much memory");
                spin()
            }
            Input::Sleep { milliseconds } => {
                sleep(Duration::from_millis(milliseconds));
                Value::Null
            }
            Input::Recurse => recurse(1).into(),
            Input::Take { bytes } => {
                self.kept.push(vec![1; bytes]);
                Value::Null
            }
            Input::Hoard => loop {
                self.kept.push(vec![1; 64 << 10]);
            },
            Input::Reserve { bytes } => {
                self.kept.push(Vec::with_capacity(bytes));
                Value::Null
            }
            Input::Overwrite { milliseconds } => {
                let began = Instant::now();
                loop {
                    self.kept.iter_mut().for_each(overwrite);
                    if began.elapsed() >= Duration::from_millis(milliseconds) {
                        break Value::Null;
                    }
                }
            }
            Input::Sum => {
                let bytes = self.kept.iter().flatten();
                bytes.fold(0u64, |sum, byte| sum.rotate_left(5) ^ u64::from(*byte)).to_string().into()
            }
            Input::Repeat { of } => loop {
                black_box(self.obey((*of).clone(), cx).is_ok());
            },
            Input::Panic => panic!("told to"),
            Input::Abort => std::process::abort(),
            Input::Unreachable => unreachable(),
            Input::Wild => wild(),
            Input::Garble => garbled().into(),
            Input::Exit { status } => std::process::exit(status),
            Input::Divide => (black_box(1) / black_box(0)).into(),
            Input::Fail { why } => return Err(Error::failed(why)),
            Input::Refuse { why } => return Err(Error::invalid_input(why)),
            Input::Answer { bytes } => "x".repeat(bytes).into(),
            Input::Emit { chunks, bytes, panic } => {
                for chunk in 0..chunks {
                    cx.emit(&format!("{chunk}{}", "x".repeat(bytes)))?;
                }
                assert!(!panic, "told to");
                chunks.into()
            }
            Input::Print { text, times } => {
                for _ in 0..times {
                    println!("{text}");
                    eprintln!("{text}");
                }
                Value::Null
            }
            Input::Log { level, text, times, panic } => {
                let levels = [Level::Trace, Level::Debug, Level::Info, Level::Warn, Level::Error];
                let level = levels.into_iter().find(|it| format!("{it:?}").eq_ignore_ascii_case(&level));
                let level = level.ok_or_else(|| Error::invalid_input("there is no such level"))?;
                (0..times).for_each(|_| log!(level, "{text}"));
                assert!(!panic, "told to");
                Value::Null
            }
            Input::Call { name, input } => match cx.call::<Value>(&name, &input) {
                Ok(output) => output,
                Err(error) => format!("{error:?}").into(),
            },
            Input::Exists { name } => cx.exists(&name).into(),
            Input::Relay { name, input } => cx.call(&name, &input)?,
            Input::KeepStop { name, input } => {
                self.stop = cx.call::<Value>(&name, &input).err();
                Value::Null
            }
            Input::PassOnKept => return Err(self.stop.clone().ok_or_else(|| Error::failed("none is kept"))?.into()),
            Input::PassOn { name, input, after } => match cx.call(&name, &input) {
                Ok(output) => output,
                Err(stopped) => {
                    for input in after {
                        self.obey(input, cx)?;
                    }
                    return Err(stopped.into());
                }
            },
            Input::All { of } => {
                let said: Result<Vec<_>, _> = of.into_iter().map(|input| self.obey(input, cx)).collect();
                said?.into()
            }
            Input::Holds => {
                json!({"kept": self.kept.iter().map(Vec::len).sum::<usize>(), "pages": pages(), "told": self.told})
            }
            Input::Fill { byte, bytes } => {
                self.kept.push(vec![byte; bytes]);
                Value::Null
            }
            Input::Look { byte } => runs_of(byte).into(),
            Input::Open { path, times } => {
                for _ in 0..times {
                    self.files.push(File::open(&path).map_err(|error| no_more(&error))?);
                }
                times.into()
            }
            Input::List { path, times } => {
                for _ in 0..times {
                    let mut listing = std::fs::read_dir(&path).map_err(|error| no_more(&error))?;
                    listing.next().transpose().map_err(|error| no_more(&error))?;
                    self.listings.push(listing);
                }
                times.into()
            }
            Input::Who => cx.user_id().into(),
            Input::Escape => escape(),
        })
    }
}

/// The error for a file, or a listing, that was not given.
fn no_more(error: &std::io::Error) -> Error {
    match error.kind() {
        ErrorKind::OutOfMemory => Error::failed("no more files are given"),
        _ => Error::failed(error.to_string()),
    }
}

/// Fills bytes, and what they have reserved, with numbers that follow each other without a pattern (Marsaglia, "Xorshift
/// RNGs", 2003).
fn overwrite(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.capacity(), 0);
    let mut number = 0x9e37_79b9_7f4a_7c15u64 ^ bytes.len() as u64;
    // The earlier bytes are the seed, so that no two times are alike.
    number = number.wrapping_add(bytes.first().map_or(0, |byte| u64::from(*byte))) | 1;
    for word in bytes.chunks_exact_mut(8) {
        number ^= number << 13;
        number ^= number >> 7;
        number ^= number << 17;
        word.copy_from_slice(&number.to_le_bytes());
    }
}

/// Grows the instance's memory by so many pages; true if that succeeded.
#[cfg(target_family = "wasm")]
fn grow(pages: usize) -> bool {
    core::arch::wasm32::memory_grow(0, pages) != usize::MAX
}

#[cfg(not(target_family = "wasm"))]
fn grow(_: usize) -> bool {
    false
}

#[cfg(target_family = "wasm")]
fn pages() -> usize {
    core::arch::wasm32::memory_size(0)
}

#[cfg(not(target_family = "wasm"))]
fn pages() -> usize {
    0
}

#[cfg(target_family = "wasm")]
fn unreachable() -> ! {
    core::arch::wasm32::unreachable()
}

#[cfg(not(target_family = "wasm"))]
fn unreachable() -> ! {
    unreachable!("told to")
}

/// Writes to the last address that there can be, which traps unless the memory has all of its 4 GiB.
#[cfg(target_family = "wasm")]
#[allow(unsafe_code)]
fn wild() -> Value {
    // SAFETY: it is not: this is an attack on the sandbox.
    unsafe { black_box(u32::MAX as *mut u8).write_volatile(1) };
    Value::Null
}

#[cfg(not(target_family = "wasm"))]
fn wild() -> Value {
    Value::Null
}

#[allow(unsafe_code)]
fn garbled() -> String {
    // SAFETY: it is no UTF-8, for the host to see. Nothing here looks at it but what copies its bytes.
    unsafe { String::from_utf8_unchecked(black_box(vec![b'x', 0xff, b'x'])) }
}

fn spin() -> ! {
    let mut turns = 0u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

#[allow(unconditional_recursion)]
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    black_box(recurse(depth + 1)) + frame[(depth % 64) as usize]
}

/// The number of runs of a byte in this instance's memory, from its first byte to its last.
#[cfg(target_family = "wasm")]
#[allow(unsafe_code)]
fn runs_of(byte: u8) -> usize {
    let len = core::arch::wasm32::memory_size(0) << 16;
    let (mut runs, mut run) = (0, 0);
    for address in 1..len {
        // SAFETY: the address is within the instance's memory. Nothing is written meanwhile, and it is read one byte
        // at a time, so that no reference to what other code owns is made.
        let found = unsafe { (address as *const u8).read_volatile() };
        run = if found == byte { run + 1 } else { 0 };
        runs += usize::from(run == RUN);
    }
    runs
}

#[cfg(not(target_family = "wasm"))]
fn runs_of(_: u8) -> usize {
    0
}

fn escape() -> Value {
    let mut got = Vec::new();
    if std::fs::read_dir("/").is_ok() || std::fs::read("/etc/passwd").is_ok() || std::fs::write("x", "x").is_ok() {
        got.push("files");
    }
    if std::env::vars().next().is_some() {
        got.push("environment");
    }
    if std::env::args().next().is_some() {
        got.push("arguments");
    }
    if std::net::TcpStream::connect("127.0.0.1:1").is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused)
        || std::net::TcpListener::bind("127.0.0.1:0").is_ok()
        || std::net::UdpSocket::bind("127.0.0.1:0").is_ok()
    {
        got.push("sockets");
    }
    if std::net::ToSocketAddrs::to_socket_addrs("localhost:1").is_ok() {
        got.push("names");
    }
    let mut line = String::new();
    if std::io::stdin().read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
        got.push("stdin");
    }
    got.into()
}

carrel_guest::export!(Hostile);
