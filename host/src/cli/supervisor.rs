//! Notices to the supervisor that started the process: systemd, or who else sets `NOTIFY_SOCKET` (see sd_notify(3)).
//!
//! With `Type=notify` a service counts as started only when it can be reached, and one that depends on it is not started
//! before. With `Type=notify-reload`, `systemctl reload` sends SIGHUP and waits until keys are read again.
//!
//! A message is a datagram with a line for each value. The crate `sd-notify` sends the same, but to no socket with an
//! abstract name, which is what containers and user services have.

use rustix::time::{ClockId, clock_gettime};
use std::{
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

/// The longest wait for a supervisor that does not read what it is told: nobody else waits for it longer than that.
const PATIENCE: Duration = Duration::from_millis(100);

/// All listeners are there, and what was to be read again has been.
pub(super) fn ready() {
    tell("READY=1\n");
}

/// No more requests are taken.
pub(super) fn stopping() {
    tell("STOPPING=1\n");
}

/// Files are being read again. The time, microseconds of the monotonic clock, tells this reload from those before.
pub(super) fn reloading() {
    let now = clock_gettime(ClockId::Monotonic);
    let microseconds = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
    tell(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}\n"));
}

/// Without a supervisor, nothing.
fn tell(state: &str) {
    let Some(name) = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return };
    if let Err(error) = send(&name, state) {
        tracing::warn!("the supervisor cannot be told anything (NOTIFY_SOCKET): {error}");
    }
}

fn send(name: &OsStr, state: &str) -> io::Result<()> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
}
