//! A socket, and a shutdown that drains.

use super::{
    app::{App, Calls},
    error::Error,
    front,
    held::CONNECTION,
    listeners::{Arrived, Listeners, turn_away},
    progress::Progress,
    wire::{self, BUFFER, Wire},
};
use crate::{Host, limits::memory::Charge};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout_at},
};

/// Serves until `shutdown` ends; then takes no more requests, and ends when all calls have ended or
/// `general.drain_timeout` is over. Returns the number of calls left running.
///
/// The host's upkeep begins now, before the future is first polled.
pub fn serve(
    listeners: impl Into<Listeners>,
    host: Arc<Host>,
    app: App,
    shutdown: impl Future<Output = ()>,
) -> impl Future<Output = usize> {
    let (upkeep, mut listeners) = (host.upkeep(), listeners.into());
    async move {
        let _upkeep = upkeep;
        let general = &host.config().general;
        let entrance = Entrance::new(&host, app, false);
        let stopped = async {
            shutdown.await;
            if !general.drain_delay.is_zero() {
                host.leave();
                let delay = humantime::format_duration(general.drain_delay);
                tracing::info!(
                    "stopping: /health says so, and requests are taken for {delay} more (general.drain_delay)"
                );
                sleep(general.drain_delay).await;
            }
        };
        tokio::select! {
            never = entrance.let_in(&mut listeners) => match never {},
            () = stopped => {}
        }
        drop(listeners);
        host.drain();
        tracing::info!(calls = host.registry().in_use(), "stopping: no more requests are taken");
        let end = Instant::now() + general.drain_timeout;
        // Connections end with their last answer; calls whose callers went away have none.
        let _ = timeout_at(end, entrance.connections.shutdown()).await;
        while host.registry().in_use() > 0 && Instant::now() < end {
            sleep(Duration::from_millis(5)).await;
        }
        host.registry().in_use()
    }
}

/// Serves the operator's routes, for ever.
pub async fn serve_operator(mut listeners: Listeners, host: Arc<Host>) -> Infallible {
    let app = App::new(super::admin(host.clone()), Calls::default());
    Entrance::new(&host, app, true).let_in(&mut listeners).await
}

/// The parts that all connections of a listener share.
struct Entrance {
    hall: Hall,
    connections: GracefulShutdown,
    /// True if callers are let in even without memory for them.
    always: bool,
    places: Arc<Semaphore>,
    most: usize,
}

/// The parts that each connection needs.
#[derive(Clone)]
struct Hall {
    host: Arc<Host>,
    app: App,
    /// The longest time for which a connection may be idle, send a request's headers, or not take sent bytes.
    quiet: Duration,
}

impl Entrance {
    fn new(host: &Arc<Host>, app: App, always: bool) -> Self {
        let most = host.limits().connections;
        Self {
            hall: Hall { host: host.clone(), app, quiet: host.config().general.front_end.keep_alive_timeout },
            connections: GracefulShutdown::new(),
            always,
            places: Arc::new(Semaphore::new(most)),
            most,
        }
    }

    async fn let_in(&self, listeners: &mut Listeners) -> Infallible {
        loop {
            match listeners.accept().await {
                Arrived::Connection(stream) => match self.places.clone().try_acquire_owned() {
                    Ok(place) => self.charge(stream, place),
                    Err(_) => {
                        turn_away(stream, &Error::too_many_connections(self.most));
                    }
                },
                Arrived::NoDescriptors(stream) => {
                    turn_away(stream, &Error::no_descriptors());
                    listeners.restore();
                }
            }
        }
    }

    /// Charges a connection's memory. If there is none, idle sessions are parked first; other connections do not wait
    /// for that.
    fn charge(&self, stream: TcpStream, place: OwnedSemaphorePermit) {
        let (memory, watcher) = (self.hall.host.memory(), self.connections.watcher());
        match memory.try_charge(CONNECTION) {
            Ok(charge) => self.hall.serve(stream, place, charge, watcher),
            Err(_) if self.always => self.hall.serve(stream, place, memory.charge(CONNECTION), watcher),
            Err(_) => {
                let (hall, mut charge) = (self.hall.clone(), memory.charge(0));
                tokio::spawn(async move {
                    let pressure = &hall.host.registry().shared().pressure;
                    // No longer than a call may wait.
                    let deadline = Instant::now() + hall.host.limits().deadline;
                    match pressure.grow(&mut charge, CONNECTION, None, deadline).await {
                        Ok(()) => hall.serve(stream, place, charge, watcher),
                        Err(_) => turn_away(stream, &Error::full_at_the_door()),
                    }
                });
            }
        }
    }
}

impl Hall {
    fn serve(&self, stream: TcpStream, place: OwnedSemaphorePermit, charge: Charge, watcher: Watcher) {
        // Answers are small and written at once: waiting for more would only delay them.
        let _ = stream.set_nodelay(true);
        let progress = Arc::new(Progress::default());
        let (wire, socket) = Wire::new(stream, progress.clone(), charge);
        let (app, working) = (self.app.clone(), progress.clone());
        let service = service_fn(move |request| {
            let (app, working) = (app.clone(), working.clone());
            async move { front::answer(&app, &working, request).await }
        });
        let connection = http1::Builder::new()
            // A timer of the library's for each request would cost more than all of this.
            .header_read_timeout(None)
            .max_buf_size(BUFFER)
            // A caller that has closed its sending side may wait for the answer: `wire` finds out.
            .half_close(true)
            .serve_connection(wire, service);
        let connection = watcher.watch(connection);
        let (quiet, host) = (self.quiet, self.host.clone());
        tokio::spawn(async move {
            let _place = place;
            let socket = (*socket).as_ref();
            tokio::select! {
                biased;
                ended = connection => {
                    if let Err(error) = ended {
                        tracing::debug!("a connection ended early: {error}");
                    }
                    wire::linger(socket, &progress, host.memory()).await;
                }
                () = wire::left(socket, &progress) => tracing::debug!("a caller has gone away"),
                () = progress.stands_still(quiet) => tracing::debug!("a connection was closed: nothing came of it"),
            }
        });
    }
}
