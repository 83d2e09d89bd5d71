//! `carrel serve`

use super::{
    error::Error,
    signals::{Signal, Signals},
    startup::{ConfigFile, runtime, start, threads},
    supervisor, tell,
};
use crate::{
    Host,
    config::{Admin, Config, FrontEnd, Own},
    http::{self, Listeners},
    limits::{Amount, Limits, Per, raise_descriptors},
    observe::Log,
};
use clap::Args;
use serde_json::{Value, json};
use std::{
    fmt::Write,
    io::{self, IsTerminal},
    net::SocketAddr,
    process::{self, ExitCode},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc::UnboundedReceiver},
    task::spawn_blocking,
    time::timeout,
};

/// The longest that a start waits for keys that issuers publish.
const FETCH: Duration = Duration::from_secs(5);

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
    /// Threads that run calls, instead of the configuration's
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,
    /// The path under which a proxy serves this host, instead of the configuration's
    #[arg(long = "root_path", visible_alias = "root-path", value_name = "PATH")]
    root_path: Option<String>,
}

pub(super) fn serve(arguments: Arguments, signals: Signals, log: &Log) -> Result<ExitCode, Error> {
    let mut draft = arguments.config.load()?;
    let front_end = &mut draft.config.general.front_end;
    front_end.host = arguments.host.unwrap_or(std::mem::take(&mut front_end.host));
    front_end.port = arguments.port.unwrap_or(front_end.port);
    front_end.workers = arguments.workers.map(usize::from).or(front_end.workers);
    if let Some(path) = arguments.root_path {
        front_end.root_path = FrontEnd::prefix(&path);
    }
    let threads = threads(&draft.config);
    let short = raise_descriptors(draft.config.limits.connections, draft.config.limits.open_files);
    let runtime = runtime(threads)?;
    let host = start(draft, threads, &runtime)?;
    log.count(host.memory());
    let done = runtime.block_on(listen(host, threads, signals, short));
    // A file that does not come, of a network that is gone, does not hold up the end.
    runtime.shutdown_background();
    done
}

/// Whoever waits for the start, a person or a supervisor, is told only when every listener is there.
async fn listen(host: Arc<Host>, threads: usize, signals: Signals, short: Option<String>) -> Result<ExitCode, Error> {
    // Longer than that nobody waits for it: it goes on while the host serves.
    let fetched = timeout(FETCH, host.config().identity.fetch()).await;
    for fetched in fetched.unwrap_or_default() {
        if let Err(why) = fetched.keys {
            let issuer = fetched.issuer;
            tell::warning(&format!(
                "the keys of the issuer {issuer} are not there yet, and are asked for again: {why}"
            ));
        }
    }
    let listeners = bind_callers(&host).await?;
    let operators = match &host.config().admin {
        Some(admin) => Some(bind_admin(admin).await?),
        None => None,
    };
    let callers_at = addresses(&listeners)?;
    let operators_at = operators.as_ref().map(addresses).transpose()?.unwrap_or_default();
    let operators = operators.map(|listeners| tokio::spawn(http::serve_operator(listeners, host.clone())));
    // From here on a signal does not end the process, but waits for the host to follow it.
    let signals = signals.serve();
    announce(&host, &callers_at, &operators_at, threads);
    if let Some(short) = short {
        tell::warning(&short);
    }
    supervisor::ready();
    let following = tokio::spawn(follow(signals, host.clone()));
    let asked = host.clone();
    let shutdown = async move {
        asked.stopped().await;
        supervisor::stopping();
    };
    let left = http::serve(listeners, host.clone(), http::app(host.clone()), shutdown).await;
    following.abort();
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

/// Does what signals ask for, until it is aborted.
async fn follow(mut signals: UnboundedReceiver<Signal>, host: Arc<Host>) {
    let reload = Arc::new(Notify::new());
    tokio::spawn(reload_when_told(reload.clone(), host.clone()));
    let mut told = false;
    while let Some(signal) = signals.recv().await {
        match signal {
            Signal::Reload => reload.notify_one(),
            Signal::Stop if !told && !host.is_draining() => {
                told = true;
                host.stop();
            }
            // Whoever asks a second time does not want to wait.
            Signal::Stop => {
                tell::error("stopped a second time: calls that were running are lost");
                process::exit(1);
            }
        }
    }
}

/// Reads files of keys again, one time after the other: a stop does not wait for it.
async fn reload_when_told(told: Arc<Notify>, host: Arc<Host>) {
    loop {
        told.notified().await;
        supervisor::reloading();
        let host = host.clone();
        // It fails only where the process ends.
        let _ = spawn_blocking(move || reload(&host)).await;
        supervisor::ready();
    }
}

fn reload(host: &Host) {
    let read = host.config().identity.reread();
    if read.is_empty() {
        tracing::info!("SIGHUP: the configuration names no file of keys, so that nothing was read again");
    }
    for read in read {
        match read.keys {
            Ok(keys) => tracing::info!(issuer = read.issuer, keys, "SIGHUP: the issuer's keys were read again"),
            Err(why) => {
                let issuer = read.issuer;
                tracing::error!(issuer, "SIGHUP: the issuer's keys stay as they were: identity.jwt: {why}");
            }
        }
    }
}

/// The callers' listeners. Others than this machine reach them only if they are verified, or the file says so.
async fn bind_callers(host: &Host) -> Result<Listeners, Error> {
    let front_end = &host.config().general.front_end;
    let (name, port) = (&front_end.host, front_end.port);
    let listeners = Listeners::bind(name, port).await.map_err(|error| {
        let hint = "--host and --port choose others, and so do `host` and `port` in `general.front_end`";
        Error::Other(format!("cannot listen on {name}:{port}: {error}; {hint}"))
    })?;
    match reachable(&listeners)? {
        Some(address) if host.config().identity.must_be_said() => Err(Error::Usage(format!(
            "nobody is verified, and {address} can be reached from elsewhere: whoever sends a user's cookie would be \
             that user. Configure `identity`, listen on localhost, or say `identity: open` if that is what you want"
        ))),
        _ => Ok(listeners),
    }
}

/// The operator's listeners. Others than this machine reach them only with a token.
async fn bind_admin(admin: &Admin) -> Result<Listeners, Error> {
    let Admin { host, port, token } = admin;
    let listeners = Listeners::bind(host, *port).await.map_err(|error| {
        Error::Other(format!("cannot listen on {host}:{port}: {error}; `admin` in the configuration chooses another"))
    })?;
    match reachable(&listeners)? {
        Some(address) if token.is_none() => Err(Error::Usage(format!(
            "{address} can be reached from elsewhere, and whoever reaches it could do all that an operator can: give \
             `admin` a `token`, as `carrel key` makes it, or let it listen on localhost"
        ))),
        _ => Ok(listeners),
    }
}

fn addresses(listeners: &Listeners) -> Result<Vec<SocketAddr>, Error> {
    listeners.addresses().map_err(|error| Error::Other(error.to_string()))
}

/// The first address that others than this machine reach.
fn reachable(listeners: &Listeners) -> Result<Option<SocketAddr>, Error> {
    Ok(addresses(listeners)?.into_iter().find(|address| !address.ip().is_loopback()))
}

/// Addresses as links, as people list them.
fn links(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(|address| format!("http://{address}")).collect::<Vec<_>>().join(" and ")
}

/// The listing of the start: what is served, where, and with which limits. In JSON it is one event, and people who look
/// at the terminal that stdout is get theirs all the same.
fn announce(host: &Host, callers: &[SocketAddr], operators: &[SocketAddr], threads: usize) {
    let listing = listing(host, callers, operators, threads);
    // Nobody is there to be told that stderr or stdout is closed.
    let _ = tell::event(&listing, "serving", as_json(host, callers, operators, threads));
    if tell::is_json() && io::stdout().is_terminal() {
        let _ = tell::output(&listing);
    }
    let config = host.config();
    for address in callers.iter().skip(1) {
        tell::note(&format!("it listens on http://{address} as well"));
    }
    for key in &config.ignored {
        tell::note(&format!("`{key}` is a key of NAT's that has no effect here"));
    }
    if host.engine().stacks().guards_are_mappings() {
        tell::note("this kernel is older than 6.13: guard pages cost mappings, so that some 16,000 instances fit");
    }
    if let Some(most) = host.engine().memories().guards_left().filter(|_| config.sessions.rollback) {
        tell::note(&format!(
            "this process may not use userfaultfd: {most} instances with more than 256 KiB of memory can be live at once"
        ));
    }
    if let Some(header) = config.identity.header_of_proxy() {
        tell::warning(&format!(
            "whoever is named in the header `{header}` is that user: let only the proxy reach this host that verifies \
             callers, and that takes away what they send in it."
        ));
    }
    if !config.identity.is_verified() {
        tell::warning(
            "nobody is verified: whoever sends a user's cookie, key or token is that user. Let only callers in whom you \
             trust.",
        );
    }
}

fn listing(host: &Host, callers: &[SocketAddr], operators: &[SocketAddr], threads: usize) -> String {
    let config = host.config();
    let mut out = String::new();
    // Writing to a string does not fail.
    let file = config.source.file.display();
    let _ = writeln!(
        out,
        "Carrel {} serves {file} on {}\n",
        env!("CARGO_PKG_VERSION"),
        links(&callers[..1.min(callers.len())])
    );
    for function in host.catalog().functions() {
        let _ = writeln!(out, "  {:<16} {} ({})", function.name, function.guest.name, function.guest.source);
        for line in function.grants.lines() {
            let _ = writeln!(out, "  {:<16} may use {line}", "");
        }
    }
    out.push('\n');
    for endpoint in http::endpoints(host) {
        let _ = writeln!(out, "  {:<6} {:<24} {}", endpoint.method.as_str(), endpoint.path, endpoint.function);
    }
    let own: Vec<_> = http::served(host).filter(|own| *own != Own::Start).map(Own::path).collect();
    let _ = writeln!(out, "  and each with /stream; {}\n", own.join(", "));
    if !operators.is_empty() {
        let places = links(operators);
        let _ = writeln!(out, "  the operator's routes are on {places}: /tenants, /sessions, /drain, /metrics\n");
    }
    let _ = writeln!(out, "{}", limits(config, threads));
    for (tenant, functions) in tenants(host) {
        let _ = write!(out, "\ntenant {tenant:<16} may call {}", functions.join(", "));
    }
    out
}

/// The tenants that the file names, and the functions that each may call.
fn tenants(host: &Host) -> impl Iterator<Item = (&str, Vec<&str>)> {
    let named = host.config().tenants.iter().any(|tenant| !tenant.key.is_root());
    host.tenants().iter().filter(move |_| named).map(|tenant| {
        let functions = host.catalog().functions().iter().enumerate();
        let names = functions.filter(|(position, _)| tenant.may_call(*position)).map(|(_, function)| &*function.name);
        (&**tenant.name(), names.collect())
    })
}

/// The listing for programs. Limits have the names of the configuration; sizes are bytes, and times seconds.
fn as_json(host: &Host, callers: &[SocketAddr], operators: &[SocketAddr], threads: usize) -> Value {
    let config = host.config();
    let functions = host.catalog().functions().iter().map(|function| {
        json!({
            "name": &*function.name,
            "guest": function.guest.name,
            "source": function.guest.source.to_string(),
            "allow": function.grants.as_json(),
        })
    });
    let routes = http::endpoints(host);
    let routes =
        routes.iter().map(|it| json!({"method": it.method.as_str(), "path": it.path, "function": it.function}));
    let tenants = tenants(host).map(|(tenant, functions)| (tenant.to_owned(), json!(functions)));
    let (limits, general) = (&config.limits, &config.general);
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "config_file": config.source.file.display().to_string(),
        "address": callers.first().map(SocketAddr::to_string),
        "addresses": callers.iter().map(SocketAddr::to_string).collect::<Vec<_>>(),
        "admin": operators.first().map(SocketAddr::to_string),
        "functions": functions.collect::<Vec<_>>(),
        "routes": routes.collect::<Vec<_>>(),
        "tenants": tenants.collect::<serde_json::Map<_, _>>(),
        "limits": limits_as_json(limits),
        "workers": threads,
        "per_user_workflow_timeout": general.per_user_workflow_timeout.as_secs_f64(),
        "per_user_workflow_cleanup_interval": general.per_user_workflow_cleanup_interval.as_secs_f64(),
        "drain_delay": general.drain_delay.as_secs_f64(),
        "drain_timeout": general.drain_timeout.as_secs_f64(),
        "verified": config.identity.is_verified(),
    })
}

/// The section `limits`, with all that is not said; what has no bound is left out.
fn limits_as_json(limits: &Limits) -> Value {
    let mut all = json!({});
    let mut set = |key: &str, value| {
        *key.split('.').skip(1).fold(&mut all, |section, name| &mut section[name]) = value;
    };
    for (limit, amount) in limits.amounts() {
        set(limit.key, amount.as_json());
        if let Amount::Rate(rate) = amount {
            set(&limit.key.replace("_per_second", "_burst"), rate.burst.into());
        }
    }
    all
}

fn limits(config: &Config, threads: usize) -> String {
    let (limits, general) = (&config.limits, &config.general);
    let time = humantime::format_duration;
    let of = |per| {
        let amounts = limits.amounts().filter(move |(limit, _)| limit.per == per);
        amounts.map(|(limit, amount)| amount.told(limit.of)).collect::<Vec<_>>().join(", ")
    };
    let (timeout, interval) = (general.per_user_workflow_timeout, general.per_user_workflow_cleanup_interval);
    let idle = format!("dropped after {} idle (looked for every {})", time(timeout), time(interval));
    let stopping = format!("{threads} threads; {} for running calls when it is stopped", time(general.drain_timeout));
    let lines = [
        ("a call", of(Per::Call)),
        ("an instance", of(Per::Instance)),
        ("a session", format!("{}, {idle}", of(Per::Session))),
        ("a user", of(Per::User)),
        ("a tenant", of(Per::Tenant)),
        ("a guest", of(Per::Guest)),
        ("the host", format!("{}, {stopping}", of(Per::Host))),
    ];
    let lines = lines.into_iter().filter(|(_, told)| !told.is_empty());
    lines.map(|(whose, told)| format!("  {whose:<11}  {told}")).collect::<Vec<_>>().join("\n")
}
