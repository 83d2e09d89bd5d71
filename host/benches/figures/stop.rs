//! Reasons that end a run early. All loops that wait call [`check`] again and again.

use crate::Result;
use std::{
    fs,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::{Duration, Instant},
};
use tokio::signal::unix::{SignalKind, signal};

/// Memory that must stay available on the machine.
const KEPT: u64 = 1 << 30;
const EVERY: Duration = Duration::from_millis(100);

/// The reason to end the run.
static ALL: OnceLock<String> = OnceLock::new();
/// The reason to end the running part: the next one may still be possible.
static PART: Mutex<Option<String>> = Mutex::new(None);

/// Fails with the reason if the running part has to end.
pub(crate) fn check() -> Result<()> {
    match ALL.get().cloned().or_else(|| part().clone()) {
        Some(why) => Err(why),
        None => Ok(()),
    }
}

/// Begins another part.
pub(crate) fn next_part() {
    *part() = None;
}

fn part() -> MutexGuard<'static, Option<String>> {
    PART.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins to watch for reasons to end.
pub(crate) fn watch(limit: Duration) -> Result<()> {
    let cannot = |error| format!("signals cannot be handled: {error}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot)?;
    let entered = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    drop(entered);
    let end = Instant::now() + limit;
    thread::spawn(move || {
        let why = runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => return "stopped by a signal".to_owned(),
                    _ = terminate.recv() => return "stopped by a signal".to_owned(),
                    () = tokio::time::sleep(EVERY) => {}
                }
                if Instant::now() > end {
                    return format!("the run took longer than {} minutes", limit.as_secs() / 60);
                }
                let low = available().filter(|left| *left < KEPT);
                if let (Some(left), Ok(())) = (low, check()) {
                    let why = format!("memory runs low: {} MiB are left of this machine's", left >> 20);
                    eprintln!("stopping this part: {why}");
                    *part() = Some(why);
                }
            }
        });
        eprintln!("stopping: {why}");
        let _ = ALL.set(why);
    });
    Ok(())
}

/// Bytes of memory that are still available.
fn available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}
