//! Signals: taken from the process's first step on, by a thread of their own.
//!
//! As process 1 of a container a process has no default actions: a signal without a handler is lost for ever. So the
//! handlers are set before anything is read or compiled.
//!
//! | signal | before the host serves | while it serves |
//! |---|---|---|
//! | SIGTERM, SIGINT | the process ends at once, with the exit code that a shell tells of a process that the signal ended: 143, 130 | no more requests are taken, and calls end; a second one ends the process, with exit code 1 |
//! | SIGHUP | is kept until it serves | key files are read again |
//!
//! At once is: after a compiled guest that is being written is whole, and before another one is begun.

use super::{error::Error, tell};
use crate::function::finish_writing;
use std::{
    process,
    sync::{Arc, Mutex, PoisonError},
    thread,
};
use tokio::{
    runtime,
    signal::unix::{Signal as Stream, SignalKind, signal},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};

/// The request that a signal makes of a host that serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    Stop,
    /// Read key files again.
    Reload,
}

/// The signals of this process.
pub(super) struct Signals {
    serves: Arc<Mutex<bool>>,
    taken: UnboundedReceiver<Signal>,
}

struct Streams {
    terminate: Stream,
    interrupt: Stream,
    hangup: Stream,
}

impl Signals {
    /// Takes signals from now on.
    pub(super) fn take() -> Result<Self, Error> {
        let unavailable = |error| Error::Other(format!("signals cannot be handled: {error}"));
        let runtime = runtime::Builder::new_current_thread().enable_io().build().map_err(unavailable)?;
        let streams = {
            let _inside = runtime.enter();
            let open = |kind| signal(kind).map_err(unavailable);
            Streams {
                terminate: open(SignalKind::terminate())?,
                interrupt: open(SignalKind::interrupt())?,
                hangup: open(SignalKind::hangup())?,
            }
        };
        let serves = Arc::new(Mutex::new(false));
        let (sender, taken) = unbounded_channel();
        let shared = serves.clone();
        let listening = move || runtime.block_on(listen(streams, &shared, &sender));
        thread::Builder::new().name("carrel-signals".into()).spawn(listening).map_err(unavailable)?;
        Ok(Self { serves, taken })
    }

    /// Passes signals to the serving host from now on.
    pub(super) fn serve(self) -> UnboundedReceiver<Signal> {
        *self.serves.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.taken
    }
}

async fn listen(mut streams: Streams, serves: &Mutex<bool>, taken: &UnboundedSender<Signal>) {
    loop {
        let (signal, name, number) = tokio::select! {
            _ = streams.terminate.recv() => (Signal::Stop, "SIGTERM", 15),
            _ = streams.interrupt.recv() => (Signal::Stop, "SIGINT", 2),
            _ = streams.hangup.recv() => (Signal::Reload, "SIGHUP", 1),
        };
        // Held while it is followed: the host begins to serve before that, or not at all.
        let serves = serves.lock().unwrap_or_else(PoisonError::into_inner);
        if signal == Signal::Stop && !*serves {
            let _whole = finish_writing();
            tell::note(&format!("stopped by {name} before it was done"));
            process::exit(128 + number);
        }
        // Nobody is there to follow it only when the process ends anyhow.
        let _ = taken.send(signal);
    }
}
