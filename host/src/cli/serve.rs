//! `carrel serve`

use super::{ConfigFile, Error, runtime, say, start, threads};
use crate::{
    Host,
    config::{Admin, Config},
    http::{self, Listeners},
    identity::Identity,
};
use clap::Args;
use std::{net::SocketAddr, process::ExitCode, sync::Arc};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigFile,
    /// The address to listen on, instead of the configuration's
    #[arg(long, value_name = "NAME OR ADDRESS")]
    host: Option<String>,
    /// The port to listen on, instead of the configuration's; 0 lets the system choose one
    #[arg(long)]
    port: Option<u16>,
}

pub(super) fn serve(arguments: Arguments) -> Result<ExitCode, Error> {
    let mut draft = arguments.config.load()?;
    let front_end = &mut draft.config.general.front_end;
    front_end.host = arguments.host.unwrap_or(std::mem::take(&mut front_end.host));
    front_end.port = arguments.port.unwrap_or(front_end.port);
    let threads = threads(&draft.config);
    let short = http::raise_descriptors(draft.config.limits.connections);
    let runtime = runtime(threads)?;
    let host = start(draft, threads, &runtime)?;
    runtime.block_on(listen(host, threads, short))
}

async fn listen(host: Arc<Host>, threads: usize, short: Option<String>) -> Result<ExitCode, Error> {
    let front_end = &host.config().general.front_end;
    let (name, port) = (&front_end.host, front_end.port);
    let listeners = Listeners::bind(name, port).await.map_err(|error| {
        let hint = "--host and --port choose others, and so do `host` and `port` in `general.front_end`";
        Error::Other(format!("cannot listen on {name}:{port}: {error}; {hint}"))
    })?;
    let addresses = addresses(&listeners)?;
    let reachable = addresses.iter().find(|address| !address.ip().is_loopback());
    if let (Identity::Open { said: false }, Some(address)) = (&host.config().identity, reachable) {
        return Err(Error::Usage(format!(
            "nobody is verified, and {address} can be reached from elsewhere: whoever sends a user's cookie would be \
             that user. Configure `identity`, listen on localhost, or say `identity: open` if that is what you want"
        )));
    }
    let unavailable = |error| Error::Other(format!("signals cannot be handled: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(unavailable)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(unavailable)?;
    announce(&host, &addresses, threads, short);
    let operators = match &host.config().admin {
        Some(admin) => Some(tokio::spawn(http::serve_operator(bind_admin(admin).await?, host.clone()))),
        None => None,
    };
    let asked = host.clone();
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = asked.stopped() => {}
        }
        // Whoever asks a second time does not want to wait.
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            say("error: stopped a second time: calls that were running are lost");
            std::process::exit(1);
        });
    };
    let left = http::serve(listeners, host.clone(), http::app(host.clone()), shutdown).await;
    if let Some(operators) = operators {
        operators.abort();
    }
    if left > 0 {
        let timeout = humantime::format_duration(host.config().general.drain_timeout);
        return Err(Error::Other(format!(
            "{left} calls had not ended {timeout} after the stop (general.drain_timeout)"
        )));
    }
    Ok(ExitCode::SUCCESS)
}

/// The operator's listener. Others than this machine reach it only with a token.
async fn bind_admin(admin: &Admin) -> Result<Listeners, Error> {
    let Admin { host, port, token } = admin;
    let listeners = Listeners::bind(host, *port).await.map_err(|error| {
        Error::Other(format!("cannot listen on {host}:{port}: {error}; `admin` in the configuration chooses another"))
    })?;
    let addresses = addresses(&listeners)?;
    let reachable = addresses.iter().find(|address| !address.ip().is_loopback());
    if let (Some(address), None) = (reachable, token) {
        return Err(Error::Usage(format!(
            "{address} can be reached from elsewhere, and whoever reaches it could do all that an operator can: give \
             `admin` a `token`, as `carrel key` makes it, or let it listen on localhost"
        )));
    }
    let places: Vec<_> = addresses.iter().map(|address| format!("http://{address}")).collect();
    say(&format!("the operator's routes are on {}: /tenants, /sessions, /drain, /metrics", places.join(" and ")));
    Ok(listeners)
}

fn addresses(listeners: &Listeners) -> Result<Vec<SocketAddr>, Error> {
    listeners.addresses().map_err(|error| Error::Other(error.to_string()))
}

/// What is served, where, and with which limits.
fn announce(host: &Host, addresses: &[SocketAddr], threads: usize, short: Option<String>) {
    let config = host.config();
    let mut addresses = addresses.iter();
    let Some(address) = addresses.next() else { return };
    say(&format!("Carrel {} serves {} on http://{address}", env!("CARGO_PKG_VERSION"), config.source.file.display()));
    say("");
    for function in host.catalog().functions() {
        say(&format!("  {:<16} {} ({})", function.name, function.guest.name, function.guest.source));
        for line in function.grants.lines() {
            say(&format!("  {:<16} may use {line}", ""));
        }
    }
    say("");
    for endpoint in http::endpoints(host) {
        say(&format!("  {:<6} {:<24} {}", endpoint.method.as_str(), endpoint.path, endpoint.function));
    }
    let monitor = if config.general.enable_per_user_monitoring { ", /monitor/users" } else { "" };
    say(&format!("  and each with /stream; /health, /docs, /openapi.json{monitor}"));
    say("");
    say(&limits(config, threads));
    say("");
    for address in addresses {
        say(&format!("note: it listens on http://{address} as well"));
    }
    for key in &config.ignored {
        say(&format!("note: `{key}` is a key of NAT's that has no effect here"));
    }
    if host.engine().stacks().guards_are_mappings() {
        say("note: this kernel is older than 6.13: guard pages cost mappings, so that some 16,000 instances fit");
    }
    for tenant in host.tenants().iter().filter(|_| config.tenants.iter().any(|tenant| !tenant.key.is_root())) {
        let functions = host.catalog().functions().iter().enumerate();
        let names: Vec<_> = functions.filter(|(it, _)| tenant.may_call(*it)).map(|(_, it)| &*it.name).collect();
        say(&format!("tenant {:<16} may call {}", tenant.name(), names.join(", ")));
    }
    if let Some(short) = short {
        say(&format!("warning: {short}"));
    }
    if !config.identity.is_verified() {
        say(
            "warning: nobody is verified: whoever sends a user's cookie, key or token is that user. Let only callers in \
             whom you trust.",
        );
    }
}

fn limits(config: &Config, threads: usize) -> String {
    let limits = &config.limits;
    let size = |bytes: usize| bytesize::ByteSize::b(bytes as u64).to_string();
    let time = humantime::format_duration;
    format!(
        "  a call       {} units of fuel, {}, {} of output, {} of body, {} of log lines, {} deep\n  \
           an instance  {} of memory\n  \
           a session    {} waiting calls, dropped after {} idle (looked for every {})\n  \
           the host     {} sessions, {threads} threads; {} for running calls when it is stopped",
        limits.fuel_per_call,
        time(limits.deadline),
        size(limits.output_size),
        size(limits.body_size),
        size(limits.log_size),
        limits.call_depth,
        size(limits.memory_per_instance),
        limits.queue_per_session,
        time(config.general.per_user_workflow_timeout),
        time(config.general.per_user_workflow_cleanup_interval),
        limits.max_sessions,
        time(config.general.drain_timeout),
    )
}
