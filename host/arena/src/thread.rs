//! A thread and the processor: how soon it gets one, and for how long it has had one.

use std::{io, time::Duration};

/// The structure that `sched_setattr` takes, in its first version: see `sched(7)`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Asks the system to let this thread run for `slice` at a time (0.1 to 100 ms), and therefore sooner: Linux first
/// runs the thread with the earliest virtual deadline and, from version 6.12 on, lets a thread with a short slice
/// preempt one with a long slice. The thread's share of the processor does not change.
///
/// # Errors
///
/// The system does not know such a request, or does not allow it. Nothing was changed.
pub fn run_sooner(slice: Duration) -> io::Result<()> {
    let size = size_of::<Attributes>() as u32;
    let mut attributes = Attributes { size, ..Attributes::default() };
    // SAFETY: the system writes so many bytes as it is told that there are, to plain integers; 0 is the calling thread.
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    if got != 0 {
        return Err(io::Error::last_os_error());
    }
    attributes.runtime = slice.as_nanos() as u64;
    // SAFETY: the system only reads so many bytes as `size` says, which is the size of what it is given.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The time for which this thread has had a processor so far, in steps of a nanosecond (`clock_gettime(2)`). A call of
/// the system, some 0.2 us.
pub fn processor_time() -> Duration {
    read(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// A thread's clock of the time for which it has had a processor, which any thread of the process may read.
#[derive(Debug, Clone, Copy)]
pub struct ThreadClock(libc::clockid_t);

impl ThreadClock {
    /// The clock of the thread that asks.
    ///
    /// # Errors
    ///
    /// The system has no such clocks.
    pub fn of_this_thread() -> io::Result<Self> {
        let mut clock = 0;
        // SAFETY: this thread is there, and the system writes to the number that it is given.
        match unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) } {
            0 => Ok(Self(clock)),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// The time so far, in steps of a nanosecond. Once the thread has ended it is nothing, or that of another thread of
    /// the process which the system has given the same number.
    pub fn read(self) -> Duration {
        read(self.0)
    }
}

/// The time of a clock; nothing if there is no such clock.
fn read(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the system writes to the structure that it is given, or leaves it as it is.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::{fs, time::Instant};

    #[test]
    fn a_threads_time_goes_on_while_it_computes_and_stands_still_while_it_sleeps() {
        let (began, before) = (Instant::now(), processor_time());
        let spent = Duration::from_millis(5);
        while processor_time() - before < spent {}
        assert!(began.elapsed() >= spent);
        std::thread::sleep(Duration::from_millis(50));
        assert!(processor_time() - before < Duration::from_millis(40));
    }

    #[test]
    fn one_thread_reads_anothers_time() {
        let (say, said) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            say.send(ThreadClock::of_this_thread().unwrap()).unwrap();
            while ended.try_recv().is_err() {}
        });
        let clock = said.recv().unwrap();
        while clock.read() < Duration::from_millis(5) {}
        end.send(()).unwrap();
        thread.join().unwrap();
        assert!(ThreadClock::of_this_thread().unwrap().read() <= processor_time());
    }

    #[test]
    fn a_thread_that_asks_is_told_so_by_the_system() {
        // Each test has a thread of its own.
        run_sooner(Duration::from_micros(300)).unwrap();
        // Older systems, or those built without it, show nothing.
        let known = fs::read_to_string("/proc/thread-self/sched").unwrap_or_default();
        if let Some(line) = known.lines().find(|line| line.starts_with("se.slice")) {
            assert!(line.ends_with(" 300000"), "{line}");
        }
    }
}
