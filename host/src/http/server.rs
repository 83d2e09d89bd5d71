//! A socket, and a shutdown that drains.

use super::progress::{Progress, Watched};
use crate::{Host, session};
use axum::Router;
use hyper::{
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{rt::TokioIo, server::graceful::GracefulShutdown, service::TowerToHyperService};
use serde_json::json;
use std::{future::Future, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream, lookup_host},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout_at},
};

/// How long a connection may be idle between requests, take to send a request's headers, or not take what is sent.
const QUIET: Duration = Duration::from_secs(60);
/// Bytes of a request's line and headers.
const HEADERS_SIZE: usize = 64 << 10;
/// How long to wait when the system has no more file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// Listens on the first address that a name has, those of IPv4 before those of IPv6.
///
/// # Errors
///
/// The name has no address, or none of them can be listened on.
pub async fn bind(host: &str, port: u16) -> io::Result<TcpListener> {
    let mut addresses: Vec<SocketAddr> = lookup_host((host, port)).await?.collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    TcpListener::bind(addresses.as_slice()).await
}

/// Serves until `shutdown` ends; then takes no more requests, and ends when all calls have ended or
/// `general.drain_timeout` is over. Gives the number of calls that it left running.
pub async fn serve(listener: TcpListener, host: Arc<Host>, app: Router, shutdown: impl Future<Output = ()>) -> usize {
    let general = &host.config().general;
    let sweeping = tokio::spawn(session::sweep(
        host.registry().clone(),
        general.per_user_workflow_timeout,
        general.per_user_workflow_cleanup_interval,
    ));
    let policy = &host.config().sessions;
    let parking = policy.makes_room().then(|| tokio::spawn(session::park(host.registry().clone(), policy.park_after)));
    let connections = GracefulShutdown::new();
    let most = host.limits().connections;
    let places = Arc::new(Semaphore::new(most));
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => break,
        };
        match accepted {
            Ok((stream, _)) => match places.clone().try_acquire_owned() {
                Ok(place) => serve_connection(stream, &app, &connections, place),
                Err(_) => turn_away(&stream, most),
            },
            Err(error) => {
                tracing::warn!("a connection could not be accepted: {error}");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
    drop(listener);
    host.drain();
    tracing::info!(calls = host.registry().in_use(), "stopping: no more requests are taken");
    let end = Instant::now() + general.drain_timeout;
    // Connections end with their last answer; calls whose callers went away have none.
    let _ = timeout_at(end, connections.shutdown()).await;
    while host.registry().in_use() > 0 && Instant::now() < end {
        sleep(Duration::from_millis(5)).await;
    }
    sweeping.abort();
    if let Some(parking) = parking {
        parking.abort();
    }
    host.registry().in_use()
}

/// As many connections are open as may: this one is told, as far as its buffer takes it, and closed.
fn turn_away(stream: &TcpStream, most: usize) {
    let detail = format!("{most} connections are open, which is what `limits.connections` allows");
    let body = json!({"detail": detail, "code": "too_many_connections", "setting": "limits.connections"}).to_string();
    let head = "HTTP/1.1 503 Service Unavailable\r\ncarrel-error: too_many_connections\r\nretry-after: 1\r\n\
                content-type: application/json\r\nconnection: close\r\n";
    let _ = stream.try_write(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes());
}

fn serve_connection(stream: TcpStream, app: &Router, connections: &GracefulShutdown, place: OwnedSemaphorePermit) {
    // Answers are small and written at once: waiting for more would only delay them.
    let _ = stream.set_nodelay(true);
    let (app, progress) = (TowerToHyperService::new(app.clone()), Arc::new(Progress::default()));
    let working = progress.clone();
    let service = service_fn(move |request| {
        let (app, working) = (app.clone(), working.clone());
        async move {
            working.begins();
            let response = app.call(request).await;
            working.ends();
            response
        }
    });
    let connection = http1::Builder::new()
        // A timer of the library's for each request would cost more than all of this.
        .header_read_timeout(None)
        .max_buf_size(HEADERS_SIZE)
        .serve_connection(Watched { io: TokioIo::new(stream), progress: progress.clone() }, service);
    let connection = connections.watch(connection);
    tokio::spawn(async move {
        let _place = place;
        tokio::select! {
            biased;
            ended = connection => {
                if let Err(error) = ended {
                    tracing::debug!("a connection ended early: {error}");
                }
            }
            () = progress.stands_still(QUIET) => tracing::debug!("a connection was closed: nothing came of it"),
        }
    });
}
