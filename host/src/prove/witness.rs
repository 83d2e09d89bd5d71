//! Witnesses of an attack: the machine and a neighbour, observed while it goes on.
//!
//! A host's own count cannot show that it miscounts. So a [`Sampler`] reads the system's figures of this process beside
//! the host's own, and a [`Neighbour`] calls an ordinary function all the while, and measures how long that takes.
//!
//! # What must always hold
//!
//! * Each witness has a thread of its own, and the neighbour a runtime of its own: an attack that blocks all of the
//!   host's threads delays neither a sample nor the start of a neighbour's measured wait.
//! * A figure that cannot be read is missing, and never zero: no limit is reported as held because of it.

use super::{
    report::{Figure, Measured, Notice},
    stage::Caller,
};
use crate::{Host, identity::User};
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use std::{
    fs, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::{sync::oneshot, time::sleep};

/// The time between two samples. A guest writes some 4 MiB meanwhile, which is far less than what is tolerated.
const SAMPLE: Duration = Duration::from_millis(2);
/// The time between two calls of the neighbour.
const PACE: Duration = Duration::from_millis(5);
/// The time that a neighbour may wait for an answer: in practice some milliseconds. This allows for a busy machine,
/// and is far less than the attackers' deadline.
pub(super) const SERVED_WITHIN: Duration = Duration::from_secs(1);

/// The part of a limit by which memory may exceed it. The host counts pages, and an allocator takes some more. And a
/// guest that writes, and so fills the undo log, takes memory, counted and resident, until the clock's next tick
/// stops it.
pub(super) const TOLERANCE: f64 = 0.15;
/// Bytes tolerated whatever the limit is: code that is paged in when it first runs, the data of the attackers, who
/// are in this process as well, and freed memory that the system has not taken back yet.
pub(super) const FLOOR: usize = 32 << 20;
/// Bytes by which the host's own count may exceed a limit, besides [`TOLERANCE`]: small charges that are never
/// refused, such as sessions and the beginnings of connections.
pub(super) const UNREFUSED: usize = 1 << 20;
/// Descriptors of the process that may be beyond a limit: both ends of each connection of the attackers and the
/// neighbour, some of which are just being closed.
pub(super) const DESCRIPTORS: usize = 48;

/// The level at which the count of memory is looked at.
#[derive(Debug, Clone, Copy)]
pub(super) enum Counter {
    Host,
    /// A tenant's, by its place in the configuration.
    Tenant(usize),
    User(User),
}

/// The most that the limits under attack allow of each measured figure.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// The account of memory that is looked at, and its maximum.
    pub(super) counter: Counter,
    pub(super) counted: usize,
    /// Bytes by which the process may grow for the guests' sake, before what is tolerated.
    pub(super) resident: usize,
    /// Descriptors that guests may hold, and those of the process that are more than before, before what is tolerated;
    /// none, where they are not attacked.
    pub(super) files: Option<[usize; 2]>,
    /// Sessions that may be live; none, where they are not attacked.
    pub(super) live: Option<usize>,
}

/// Takes samples until it is [read](Meter::read).
pub(super) struct Sampler {
    over: Arc<AtomicBool>,
    peaks: oneshot::Receiver<Peaks>,
    before: Option<Sample>,
    bounds: Bounds,
}

/// The maximum of each figure.
#[derive(Default)]
struct Peaks {
    samples: usize,
    most: Sample,
    /// A sample could not be taken.
    blind: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    /// Bytes of the process that are resident.
    resident: usize,
    /// Bytes that the host counts.
    counted: usize,
    /// Descriptors that the host counts, and those of the process.
    files: [usize; 2],
    /// Sessions that are live.
    live: usize,
}

impl Sample {
    fn take(host: &Host, bounds: &Bounds) -> Option<Self> {
        let files = match bounds.files {
            Some(_) => [host.registry().open_files().0, descriptors()?],
            None => [0, 0],
        };
        let live = host.registry().live();
        Some(Self { resident: resident()?, counted: counted(host, bounds.counter), files, live })
    }

    fn rise_to(&mut self, other: Self) {
        self.resident = self.resident.max(other.resident);
        self.counted = self.counted.max(other.counted);
        self.live = self.live.max(other.live);
        self.files = [self.files[0].max(other.files[0]), self.files[1].max(other.files[1])];
    }
}

impl Sampler {
    /// Begins, on a thread of its own.
    pub(super) fn start(host: &Arc<Host>, bounds: Bounds) -> io::Result<Self> {
        let (over, host) = (Arc::new(AtomicBool::new(false)), host.clone());
        let (told, peaks) = oneshot::channel();
        let before = Sample::take(&host, &bounds);
        let ended = over.clone();
        thread::Builder::new().name("carrel-meter".into()).spawn(move || {
            let mut peaks = Peaks::default();
            loop {
                // However soon an attack is over, there is a sample.
                let is_last = ended.load(Ordering::Relaxed);
                match Sample::take(&host, &bounds) {
                    Some(sample) => peaks.most.rise_to(sample),
                    None => peaks.blind = true,
                }
                peaks.samples += 1;
                if is_last {
                    break;
                }
                thread::sleep(SAMPLE);
            }
            // Nobody waits for it any more where the attack was given up.
            let _ = told.send(peaks);
        })?;
        Ok(Self { over, peaks, before, bounds })
    }

    /// Ends, and returns the maxima beside the allowed ones.
    pub(super) async fn finish(self) -> Measured {
        self.over.store(true, Ordering::Relaxed);
        let peaks = self.peaks.await.ok().filter(|peaks| !peaks.blind);
        let (Some(Peaks { samples, most, .. }), Some(before)) = (peaks, self.before) else {
            return Measured::default();
        };
        let Bounds { counted, resident, files, live, .. } = self.bounds;
        let tolerated =
            |limit: usize, floor: usize| ((limit as f64 * (1.0 + TOLERANCE)) as usize).saturating_add(floor);
        let more = |now: usize, before: usize| now.saturating_sub(before);
        Measured {
            samples,
            resident: Some(Figure {
                seen: more(most.resident, before.resident),
                limit: resident,
                most: tolerated(resident, FLOOR),
            }),
            counted: Some(Figure { seen: most.counted, limit: counted, most: tolerated(counted, UNREFUSED) }),
            live: live.map(|limit| Figure { seen: most.live, limit, most: limit }),
            open_files: files.map(|[limit, _]| Figure { seen: most.files[0], limit, most: limit }),
            descriptors: files.map(|[_, limit]| Figure {
                seen: more(most.files[1], before.files[1]),
                limit,
                most: limit + DESCRIPTORS,
            }),
        }
    }
}

fn counted(host: &Host, counter: Counter) -> usize {
    match counter {
        Counter::Host => host.registry().memory().0,
        Counter::Tenant(tenant) => host.tenants().get(tenant).map_or(0, |tenant| tenant.memory_used()),
        Counter::User(user) => host.registry().look(user).map_or(0, |seen| seen.session.memory().used()),
    }
}

/// Bytes of this process that are in memory, by `/proc/self/status`.
pub(super) fn resident() -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    Some(kib << 10)
}

/// Open descriptors of this process.
fn descriptors() -> Option<usize> {
    // The descriptor that reads them is among them.
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1))
}

/// The time of processors that this process has used.
pub(super) fn processor_time() -> Duration {
    // The system counts from 0 on.
    clock_gettime(ClockId::ProcessCPUTime).try_into().unwrap_or_default()
}

/// A caller of an ordinary function, which calls again as soon as the last call is answered.
pub(super) struct Neighbour {
    over: Arc<AtomicBool>,
    noticed: oneshot::Receiver<Notice>,
}

/// The most that a neighbour must put up with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// The code with which it may be refused: that of a limit which it shares with the attacker.
    pub(super) refusal: Option<&'static str>,
    /// The time that it may wait.
    pub(super) longest: Duration,
}

impl Neighbour {
    /// Begins, on a thread of its own, and waits for the first answer.
    pub(super) async fn start(caller: Caller, patience: Patience) -> io::Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let (told, noticed) = oneshot::channel();
        let (ready, first) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let ended = over.clone();
        thread::Builder::new().name("carrel-neighbour".into()).spawn(move || {
            // Nobody waits for it any more where the attack was given up.
            let _ = told.send(runtime.block_on(call_until(&caller, patience, &ended, ready)));
        })?;
        // A failure of the first call is noticed like any other.
        let _ = first.await;
        Ok(Self { over, noticed })
    }

    /// Ends with a call that begins after the attack, and returns the observations.
    pub(super) async fn ask(self) -> Notice {
        self.over.store(true, Ordering::Relaxed);
        self.noticed.await.unwrap_or_else(|_| Notice {
            wrong: Some("the neighbour's thread has ended".to_owned()),
            ..Notice::default()
        })
    }
}

async fn call_until(caller: &Caller, patience: Patience, over: &AtomicBool, first: oneshot::Sender<()>) -> Notice {
    let (mut noticed, mut last, mut first) = (Notice::default(), None, Some(first));
    loop {
        // Also an attack that is over at once is followed by a call.
        let is_last = over.load(Ordering::Relaxed);
        let began = Instant::now();
        let answer = caller.call(&json!({"do": "count"})).await;
        let waited = began.elapsed();
        noticed.longest = noticed.longest.max(waited);
        match answer {
            Ok(answer) if answer.status == 200 => {
                noticed.answers += 1;
                let count = answer.body["calls"].as_u64();
                if count.is_none() || last.is_some_and(|last: u64| count != Some(last + 1)) {
                    noticed.wrong = Some(format!("its count went to {:?} after {last:?}", answer.body["calls"]));
                }
                last = count;
            }
            Ok(answer) if patience.refusal == Some(&answer.code) => noticed.refused += 1,
            Ok(answer) => {
                let detail = answer.body["detail"].as_str().unwrap_or_default();
                noticed.wrong = Some(format!("it was answered {} {}: {detail}", answer.status, answer.code));
            }
            Err(why) => noticed.wrong = Some(format!("it had no answer: {why}")),
        }
        if waited > patience.longest {
            noticed.wrong = Some(format!("it waited for {:.2} s", waited.as_secs_f64()));
        }
        if let Some(first) = first.take() {
            // Whoever waited for it may have given up.
            let _ = first.send(());
        }
        if is_last {
            return noticed;
        }
        sleep(PACE).await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::Config;
    use std::path::Path;

    #[tokio::test(flavor = "multi_thread")]
    async fn memory_that_the_host_does_not_count_is_seen() {
        let config = Config::parse(Path::new("test.yml"), "{workflow: {_type: per_user_notepad}}").unwrap();
        let host = Host::start(config, 2).await.unwrap();
        let bounds = Bounds { counter: Counter::Host, counted: usize::MAX, resident: 1 << 20, files: None, live: None };
        let meter = Sampler::start(&host, bounds).unwrap();
        // Other tests of this process may take memory meanwhile, and give some back: this is more than that.
        let uncounted = vec![1u8; 512 << 20];
        thread::sleep(10 * SAMPLE);
        let seen = meter.finish().await;
        drop(uncounted);
        let (resident, counted) = (seen.resident.unwrap(), seen.counted.unwrap());
        assert!(resident.seen > 256 << 20 && resident.seen > resident.most, "{seen:?}");
        assert!(counted.seen < 16 << 20 && seen.samples > 1, "{seen:?}");
        assert!(processor_time() > Duration::ZERO && descriptors().unwrap() > 3);
    }
}
