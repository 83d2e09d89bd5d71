//! Guests' sources of randomness and time: the host's own, the same for all instances. Drawn numbers are paid for.
//!
//! The monotonic clock counts from the start of the host, not of an instance: an instance that is parked and restored
//! must not see its clock go back.

use super::work::{DRAW, Work};
use rand::{RngExt, TryRng};
use std::{
    convert::Infallible,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtxBuilder};

/// Gives a guest's WASI its sources. `watch` is set once the guest asks one of them.
pub(super) fn give(wasi: &mut WasiCtxBuilder, work: &Arc<Work>, watch: Option<Arc<AtomicBool>>) {
    let random = Random { work: work.clone(), differs: watch.clone() };
    wasi.secure_random(random.clone()).insecure_random(random);
    match watch {
        // Types without fields: a box of one of these takes no memory.
        None => wasi.wall_clock(TrueSources).monotonic_clock(TrueSources),
        Some(flag) => {
            let watched = WatchedSources(flag);
            wasi.wall_clock(watched.clone()).monotonic_clock(watched)
        }
    };
}

/// A source of random numbers that notes how many are drawn.
#[derive(Debug, Clone)]
struct Random {
    work: Arc<Work>,
    differs: Option<Arc<AtomicBool>>,
}

impl Random {
    fn draw(&self, numbers: usize) {
        self.work.add(DRAW * numbers as u64);
        if let Some(differs) = &self.differs {
            differs.store(true, Ordering::Relaxed);
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct TrueSources;

/// The host's clocks, which note that they were asked.
#[derive(Debug, Clone)]
struct WatchedSources(Arc<AtomicBool>);

impl WatchedSources {
    fn host(&self) -> TrueSources {
        self.0.store(true, Ordering::Relaxed);
        TrueSources
    }
}

impl TryRng for Random {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.draw(1);
        Ok(rand::rng().random())
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.draw(1);
        Ok(rand::rng().random())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.draw(bytes.len());
        rand::rng().fill(bytes);
        Ok(())
    }
}

impl HostWallClock for TrueSources {
    fn resolution(&self) -> Duration {
        Duration::from_micros(1)
    }

    fn now(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

impl HostMonotonicClock for TrueSources {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        u64::try_from(BEGAN.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl HostWallClock for WatchedSources {
    fn resolution(&self) -> Duration {
        HostWallClock::resolution(&TrueSources)
    }

    fn now(&self) -> Duration {
        HostWallClock::now(&self.host())
    }
}

impl HostMonotonicClock for WatchedSources {
    fn resolution(&self) -> u64 {
        HostMonotonicClock::resolution(&TrueSources)
    }

    fn now(&self) -> u64 {
        HostMonotonicClock::now(&self.host())
    }
}
