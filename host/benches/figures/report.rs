//! The figures, their bounds, and the tables.

use crate::{
    Part,
    plan::{Plan, Size},
};
use std::{collections::BTreeMap, fmt, fs, thread};

/// A figure with a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Id {
    HotOff,
    HotOn,
    TurnOff,
    TurnOn,
    ListOff,
    ListOn,
    RollbackStats,
    RollbackAdd,
    First,
    Wake,
    Live,
    Parked,
    Crowd,
    Spinning,
    HealthParking,
    HealthDropping,
    BesideSpinning,
    Shares,
    BesideAttack,
    FuelOfAttack,
    LargeCall,
    LargeCallConfined,
    LargeUndo,
    LargeHeld,
    BesideLarge,
    LargeDeadlines,
    Resident,
    Rate,
    RetryAfter,
}

/// The unit of a figure.
#[derive(Debug, Clone, Copy)]
enum Unit {
    Times,
    Seconds,
    Microseconds,
    Milliseconds,
    Bytes,
}

/// A figure: its bound, its goal, and its value. Less is better.
struct Figure {
    id: Id,
    part: Part,
    name: String,
    unit: Unit,
    least: Option<f64>,
    aim: Option<f64>,
    value: Option<f64>,
    /// A note on the value.
    note: String,
    /// A fault, whatever the value is.
    wrong: String,
}

/// A line of the table of growth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Growth {
    Stats,
    List,
    Memory,
    CountedMemory,
    Mappings,
    First,
    ParkedMemory,
    CountedParkedMemory,
    WakeOne,
    WakeTwo,
}

/// All results.
pub(crate) struct Report {
    head: String,
    figures: Vec<Figure>,
    growth: BTreeMap<Growth, BTreeMap<u64, String>>,
    beside_native: Vec<String>,
    beside_before: Vec<String>,
    latencies: Vec<String>,
    failed: Vec<String>,
}

impl Report {
    pub(crate) fn new(plan: &Plan) -> Self {
        let figure = |id, part, name: String, unit, least, aim| {
            let least = Some(least);
            let (value, note, wrong) = (None, String::new(), String::new());
            Figure { id, part, name, unit, least, aim, value, note, wrong }
        };
        let (turn, idle) = (count(plan.in_turn), count(plan.idle));
        let (live, parked) = (plan.most_live(), plan.most_parked());
        let gib = |gib: f64| gib * f64::from(1 << 30);
        let ratio = "CPU of a request / native";
        let hot = format!("`stats`, one user, rollback off: {ratio}");
        let mut figures = vec![
            figure(Id::HotOff, Part::Hot, hot, Unit::Times, 1.75, None),
            figure(Id::HotOn, Part::Hot, "the same, rollback on".into(), Unit::Times, 1.75, Some(1.4)),
            figure(
                Id::TurnOff,
                Part::Hot,
                format!("`stats`, {turn} users in turn, rollback off: {ratio}"),
                Unit::Times,
                2.25,
                None,
            ),
            figure(Id::TurnOn, Part::Hot, "the same, rollback on".into(), Unit::Times, 2.25, Some(1.75)),
            figure(
                Id::ListOff,
                Part::Hot,
                format!("`note list`, 5 notes, over a sibling, {turn} users in turn, rollback off: {ratio}"),
                Unit::Times,
                3.25,
                None,
            ),
            figure(Id::ListOn, Part::Hot, "the same, rollback on".into(), Unit::Times, 3.25, Some(2.5)),
            figure(
                Id::RollbackStats,
                Part::Rollback,
                "rollback's share of a warm `stats`".into(),
                Unit::Microseconds,
                5.0,
                Some(2.0),
            ),
            figure(
                Id::RollbackAdd,
                Part::Rollback,
                "rollback's share of a warm `note add`".into(),
                Unit::Microseconds,
                10.0,
                Some(4.0),
            ),
            figure(
                Id::First,
                Part::Live,
                "a new user's first `stats` above a warm one".into(),
                Unit::Microseconds,
                150.0,
                Some(60.0),
            ),
            figure(
                Id::Wake,
                Part::Parked,
                "a parked user's `stats` above a warm one".into(),
                Unit::Microseconds,
                150.0,
                Some(60.0),
            ),
            figure(
                Id::Live,
                Part::Live,
                format!("{} live users with three instances each: memory of the process", count(live)),
                Unit::Bytes,
                gib(18.0),
                Some(gib(9.0)),
            ),
            figure(
                Id::Parked,
                Part::Parked,
                format!("{} parked users: memory of the process", count(parked)),
                Unit::Bytes,
                gib(4.0),
                Some(gib(3.0)),
            ),
            figure(
                Id::Crowd,
                Part::Live,
                format!(
                    "`stats` in turn: CPU of a request with {} live users / with {}",
                    count(live),
                    count(plan.live[0])
                ),
                Unit::Times,
                1.5,
                Some(1.2),
            ),
            figure(
                Id::Spinning,
                Part::Waiting,
                "another user's `stats` while 100 guests spin: p99".into(),
                Unit::Milliseconds,
                5.0,
                Some(1.0),
            ),
            figure(
                Id::HealthParking,
                Part::Waiting,
                format!("`/health` while {idle} idle users are parked: p99"),
                Unit::Milliseconds,
                10.0,
                Some(2.0),
            ),
            figure(
                Id::HealthDropping,
                Part::Waiting,
                "`/health` while they are dropped: p99".into(),
                Unit::Milliseconds,
                10.0,
                Some(2.0),
            ),
            figure(
                Id::BesideSpinning,
                Part::Fair,
                "`stats` of a tenant while 100 users of another one spin: p99 / its p99 alone".into(),
                Unit::Times,
                3.0,
                Some(1.5),
            ),
            figure(
                Id::Shares,
                Part::Fair,
                "two tenants that compute, with shares 1 and 3: fuel of the second / three times that of the first, or \
                 the other way round"
                    .into(),
                Unit::Times,
                1.15,
                Some(1.05),
            ),
            figure(
                Id::BesideAttack,
                Part::Hostile,
                "`stats` of a tenant beside the worst of another one's attacks: p99 / its p99 beside ordinary calls".into(),
                Unit::Times,
                3.0,
                None,
            ),
            figure(
                Id::FuelOfAttack,
                Part::Hostile,
                "CPU for a unit of fuel, above that of the requests themselves: the worst of these attacks / a plain loop"
                    .into(),
                Unit::Times,
                10.0,
                Some(3.0),
            ),
            figure(
                Id::LargeCall,
                Part::Large,
                "a call that writes a word: CPU where the guest holds 60 MiB / where it holds little".into(),
                Unit::Times,
                1.5,
                Some(1.1),
            ),
            figure(
                Id::LargeCallConfined,
                Part::Large,
                "the same without userfaultfd".into(),
                Unit::Times,
                3.0,
                Some(1.5),
            ),
            figure(
                Id::LargeUndo,
                Part::Large,
                "undoing a call that has written ten pages of 60 MiB, and the next call: CPU above two other calls".into(),
                Unit::Milliseconds,
                1.0,
                Some(0.2),
            ),
            figure(
                Id::LargeHeld,
                Part::Large,
                "parking 60 MiB, waking them: the longest time for which it holds a thread".into(),
                Unit::Milliseconds,
                1.0,
                Some(0.3),
            ),
            figure(
                Id::BesideLarge,
                Part::Large,
                "`stats` of a tenant beside three users of another one who write to 60 MiB, fail, are parked and woken: p99 \
                 / its p99 beside ordinary calls"
                    .into(),
                Unit::Times,
                3.0,
                Some(1.5),
            ),
            figure(
                Id::LargeDeadlines,
                Part::Large,
                "ten deadlines that come together, of calls that have written to 60 MiB each: how late the last one is".into(),
                Unit::Milliseconds,
                100.0,
                Some(20.0),
            ),
            figure(
                Id::Resident,
                Part::Large,
                "memory of the process above its start, at the worst moment of attacks on memory / `limits.memory`".into(),
                Unit::Times,
                1.15,
                Some(1.05),
            ),
            figure(
                Id::Rate,
                Part::Rate,
                "fuel a second of a tenant that has a rate / the rate, or the other way round".into(),
                Unit::Times,
                1.1,
                Some(1.02),
            ),
            figure(
                Id::RetryAfter,
                Part::Rate,
                "what `Retry-After` says, and when the next request is let in: how far apart".into(),
                Unit::Seconds,
                1.0,
                None,
            ),
        ];
        if plan.size != Size::Full {
            // Those bounds hold for a certain number of users. With few of them, the process's own memory dominates.
            let memory = figures.iter_mut().filter(|figure| matches!(figure.id, Id::Live | Id::Parked));
            memory.for_each(|figure| (figure.least, figure.aim) = (None, None));
        }
        let head = match plan.size {
            Size::Full => machine(),
            Size::Quick => format!("{} A quick run, with fewer users: memory has no bounds.", machine()),
            Size::Smoke => format!("{} A run to try the programs: its figures mean nothing.", machine()),
        };
        let (growth, beside_native, beside_before, latencies, failed) = Default::default();
        Self { head, figures, growth, beside_native, beside_before, latencies, failed }
    }

    /// Sets a figure's value, with a note.
    pub(crate) fn measured(&mut self, id: Id, value: f64, note: impl Into<String>) {
        if let Some(figure) = self.figures.iter_mut().find(|figure| figure.id == id) {
            figure.value = Some(value);
            figure.note = note.into();
            eprintln!("{}: {}{}", figure.name, figure.unit.text(value), in_brackets(&figure.note));
        }
    }

    /// Notes a fault of a figure, whatever its value is.
    pub(crate) fn wrong(&mut self, id: Id, why: impl Into<String>) {
        if let Some(figure) = self.figures.iter_mut().find(|figure| figure.id == id) {
            figure.wrong = why.into();
            eprintln!("{}: {}", figure.name, figure.wrong);
        }
    }

    pub(crate) fn grown(&mut self, line: Growth, users: u64, value: String) {
        eprintln!("{} users: {line}: {value}", count(users));
        self.growth.entry(line).or_default().insert(users, value);
    }

    pub(crate) fn beside_native(&mut self, row: String) {
        eprintln!("{row}");
        self.beside_native.push(row);
    }

    /// Notes the CPU of a request relative to the binary before.
    pub(crate) fn beside_before(&mut self, name: String, ratio: f64) {
        eprintln!("{name}: {ratio:.3} times the binary before");
        self.beside_before.push(format!("| {name} | {ratio:.3} |"));
    }

    pub(crate) fn latency(&mut self, row: String) {
        eprintln!("{row}");
        self.latencies.push(row);
    }

    /// Notes that a part failed.
    pub(crate) fn failed(&mut self, part: &str, why: &str) {
        self.failed.push(format!("{part}: {why}"));
    }

    /// Returns true if all figures of these parts are there and within their bounds.
    pub(crate) fn is_good(&self, parts: &[Part]) -> bool {
        let mut figures = self.figures.iter().filter(|figure| parts.contains(&figure.part));
        self.failed.is_empty() && figures.all(Figure::holds)
    }

    /// The tables.
    pub(crate) fn text(&self) -> String {
        let mut text =
            format!("{}\n\n| figure | value | at least | aim | held |\n|---|---:|---:|---:|---|\n", self.head);
        for figure in &self.figures {
            text += &format!("{figure}\n");
        }
        let sizes: Vec<u64> = self.growth.values().flat_map(|line| line.keys().copied()).collect();
        let sizes = sizes.into_iter().collect::<std::collections::BTreeSet<_>>();
        if !sizes.is_empty() {
            text += "\n| users |";
            sizes.iter().for_each(|size| text += &format!(" {} |", count(*size)));
            text += &format!("\n|---|{}\n", "---:|".repeat(sizes.len()));
            for (line, values) in &self.growth {
                text += &format!("| {line} |");
                sizes.iter().for_each(|size| text += &format!(" {} |", values.get(size).map_or("", |it| it)));
                text.push('\n');
            }
        }
        if !self.beside_native.is_empty() {
            text += "\n| case | server | req/s | p50 ms | p99 ms | CPU us | CPU / native |\n\
                     |---|---|---:|---:|---:|---:|---:|\n";
            self.beside_native.iter().for_each(|row| text += &format!("{row}\n"));
        }
        if !self.beside_before.is_empty() {
            text += "\n| case | CPU / that of the binary before |\n|---|---:|\n";
            self.beside_before.iter().for_each(|row| text += &format!("{row}\n"));
        }
        if !self.latencies.is_empty() {
            text += "\n| when | what | answers | p50 ms | p99 ms | max ms |\n|---|---|---:|---:|---:|---:|\n";
            self.latencies.iter().for_each(|row| text += &format!("{row}\n"));
        }
        for failed in &self.failed {
            text += &format!("\nNot measured to its end: {failed}\n");
        }
        text
    }
}

impl Figure {
    fn holds(&self) -> bool {
        self.wrong.is_empty() && self.value.is_some_and(|value| self.least.is_none_or(|least| value <= least))
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value.map_or("-".into(), |value| self.unit.text(value) + &in_brackets(&self.note));
        let [least, aim] = [self.least, self.aim].map(|bound| bound.map_or("-".into(), |bound| self.unit.text(bound)));
        let held = match (self.value, self.aim) {
            (None, _) => "not measured",
            _ if !self.holds() => "**no**",
            _ if self.least.is_none() => "-",
            (Some(value), Some(aim)) if value > aim => "yes, not the aim",
            _ => "yes",
        };
        let wrong = if self.wrong.is_empty() { String::new() } else { format!(": {}", self.wrong) };
        write!(f, "| {} | {value} | {least} | {aim} | {held}{wrong} |", self.name)
    }
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stats => "`stats` in turn, us of CPU: Carrel / native",
            Self::List => "`note list`, 1 note, in turn, us of CPU: Carrel / native",
            Self::Memory => "memory of a live user, three instances: Carrel / native",
            Self::CountedMemory => "the same, as `limits.memory` counts it",
            Self::Mappings => "mappings of the process",
            Self::First => "a new user's first `stats` above a warm one, us: Carrel / native",
            Self::ParkedMemory => "memory of a parked user",
            Self::CountedParkedMemory => "the same, as `limits.memory` counts it",
            Self::WakeOne => "a parked user's `stats`, one instance, above a warm one, us",
            Self::WakeTwo => "a parked user's `note list`, two instances, above a warm one, us",
        })
    }
}

impl Unit {
    fn text(self, value: f64) -> String {
        match self {
            Self::Times => format!("{value:.2}"),
            Self::Seconds => format!("{value:.2} s"),
            Self::Microseconds => format!("{value:.1} us"),
            Self::Milliseconds => format!("{value:.2} ms"),
            Self::Bytes => bytes(value),
        }
    }
}

fn in_brackets(note: &str) -> String {
    if note.is_empty() { String::new() } else { format!(" ({note})") }
}

/// Bytes, for people.
pub(crate) fn bytes(bytes: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB"];
    let power = (0..3).find(|power| bytes.abs() < 1024_f64.powi(power + 1)).unwrap_or(3);
    format!("{:.*} {}", if power == 3 { 2 } else { 1 }, bytes / 1024_f64.powi(power), units[power as usize])
}

/// A number with commas.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The machine.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let after = |text: &str, key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.map(|line| line.trim_start_matches([' ', '\t', ':']).trim().to_owned()).unwrap_or("unknown".into())
    };
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let memory = after(&read("/proc/meminfo"), "MemTotal").trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0);
    let kernel = read("/proc/sys/kernel/osrelease");
    let kernel = kernel.split(['-', '+']).next().unwrap_or_default().trim();
    let huge = read("/sys/kernel/mm/transparent_hugepage/enabled");
    let huge = huge.split(['[', ']']).nth(1).unwrap_or("unknown").to_owned();
    let processor = after(&read("/proc/cpuinfo"), "model name");
    format!(
        "Carrel {} on {cores} cores ({processor}), {}, Linux {kernel}, huge pages {huge}, vm.max_map_count {}. The \
         load runs on the same cores.",
        env!("CARGO_PKG_VERSION"),
        bytes(memory * 1024.0),
        read("/proc/sys/vm/max_map_count").trim(),
    )
}
