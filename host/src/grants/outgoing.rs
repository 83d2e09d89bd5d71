//! Outgoing requests of guests, from the check to the answer.
//!
//! # What must always hold
//!
//! * A request's target is checked here and nowhere else: scheme, host and port are on the function's list, and the
//!   address is public, or on the list itself.
//! * The host resolves the name once, and connects to an address that it has checked: the name's owner cannot swap
//!   the address in between. Over TLS the certificate must be the name's.
//! * The host follows no redirect. A guest can send another request instead, which is checked as well.
//! * A request ends with the call that sent it, if not before. The number of requests at once is bounded for an
//!   instance, which is refused more, and for a function, where they wait for each other.
//! * A request that a guest has not sent yet takes host memory that is not counted, so each piece is bounded: its
//!   headers, its texts, and the part of a body that is on its way.

use super::{
    address,
    destination::{RemoteHost, RequestTarget},
    granted::Grants,
};
use crate::{
    limits::{Descriptor, Descriptors},
    tls,
};
use futures_util::{
    FutureExt,
    future::{BoxFuture, FusedFuture},
};
use http::{HeaderValue, Method, Request, Response, Uri, uri::Scheme};
use http_body_util::BodyExt;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::rustls::{self, pki_types::ServerName};
use tower_http::timeout::{TimeoutBody, TimeoutError};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};
/// Requests of one instance that are under way.
const REQUESTS: usize = 16;
/// Bytes that headers may take.
pub(crate) const FIELDS: usize = 32 << 10;
/// Bytes of a request's method, host or path.
pub(crate) const TEXT: usize = 8 << 10;
/// Bytes of a body that are written at once.
const CHUNK: usize = 16 << 10;
/// Bytes of an answer, with its headers, that are kept until the guest reads them; hyper takes no less than 8 KiB.
const BUFFER: usize = 64 << 10;

/// Sends an instance's requests.
pub(crate) struct Outgoing {
    grants: Arc<Grants>,
    requests: Arc<Semaphore>,
    /// Set when something is sent, since answers differ between instances.
    differs: Option<Arc<AtomicBool>>,
    /// The running call's deadline; outside of a call nothing is sent.
    pub(crate) deadline: Option<Instant>,
    /// The account of which a connection takes one descriptor.
    pub(crate) descriptors: Option<Descriptors>,
}

/// A connection's permit, one of those that its function, and its user, may have at once.
type ConnectionPermit = Arc<(OwnedSemaphorePermit, Descriptor)>;

type Exchange = (Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>);

impl Outgoing {
    pub(crate) fn new(grants: Arc<Grants>, differs: Option<Arc<AtomicBool>>) -> Self {
        Self { grants, requests: Arc::new(Semaphore::new(REQUESTS)), differs, deadline: None, descriptors: None }
    }

    /// Returns the target of a request, if the grants permit it.
    fn permitted(&self, request: &Request<WasiBody>) -> Option<RequestTarget> {
        let tls = match request.uri().scheme()? {
            scheme if *scheme == Scheme::HTTPS => true,
            scheme if *scheme == Scheme::HTTP => false,
            _ => return None,
        };
        let target = RequestTarget::parse(tls, request.uri().authority()?.as_str())?;
        // A tunnel would turn the permitted host into a proxy to others.
        let tunnel = request.method() == Method::CONNECT;
        (!tunnel && self.grants.http.permits(&target)).then_some(target)
    }
}

impl WasiHttpHooks for Outgoing {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Exchange, Error>> + Send> {
        if let Some(differs) = &self.differs {
            differs.store(true, Ordering::Relaxed);
        }
        let (Some(target), Some(deadline)) = (self.permitted(&request), self.deadline) else {
            tracing::debug!(uri = %request.uri().authority().map_or("", |it| it.as_str()), "a request is denied");
            return Box::new(async { Err(Error::HttpRequestDenied) });
        };
        let Ok(one_of_the_instance) = self.requests.clone().try_acquire_owned() else {
            return Box::new(async { Err(Error::ConnectionLimitReached) });
        };
        let (grants, descriptors) = (self.grants.clone(), self.descriptors.clone());
        let sent = async move {
            let one_of_all = grants.http.connections.clone().acquire_owned().await;
            let one_of_all = one_of_all.map_err(|_| Error::ConnectionLimitReached)?;
            let descriptor = descriptors.and_then(|it| it.take()).ok_or(Error::ConnectionLimitReached)?;
            let permit: ConnectionPermit = Arc::new((one_of_all, descriptor));
            let (answer, connection) = send(&grants, &target, request, options, &permit).await?;
            let connection = async move {
                let done = timeout_at(deadline, connection).await.unwrap_or(Err(Error::HttpResponseTimeout));
                drop((one_of_the_instance, permit));
                done
            };
            Ok((answer, Box::new(connection) as Box<dyn Future<Output = _> + Send>))
        };
        Box::new(async move { timeout_at(deadline, sent).await.unwrap_or(Err(Error::ConnectionTimeout)) })
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK
    }
}

/// Sends a request. Returns the answer, and the future that must run for the answer's body to arrive.
async fn send(
    grants: &Grants,
    target: &RequestTarget,
    mut request: Request<WasiBody>,
    options: Option<RequestOptions>,
    permit: &ConnectionPermit,
) -> Result<(Response<WasiBody>, BoxFuture<'static, Result<(), Error>>), Error> {
    let options = options.unwrap_or_default();
    // To an origin, only the path is sent; the host is in a header already.
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse::<Uri>().map_err(|_| Error::HttpRequestUriInvalid)?;
    // Kept alive, the connection would be of no use: it is this request's only.
    request.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    let connected = async {
        let stream = connect(grants, target, permit).await?;
        let stream: Box<dyn Connection> = match target.tls {
            true => Box::new(encrypt(stream, &target.host).await?),
            false => Box::new(stream),
        };
        let mut http = http1::Builder::new();
        http.max_buf_size(BUFFER).handshake::<_, WasiBody>(TokioIo::new(stream)).await.map_err(error_of)
    };
    let (mut sender, connection) =
        within(options.connect_timeout, connected).await.unwrap_or(Err(Error::ConnectionTimeout))?;
    let mut connection = connection.map(|done| done.map_err(error_of)).boxed().fuse();
    let mut answer = pin!(sender.send_request(request));
    // The answer comes only while the connection runs; that may be done before it, and have it ready.
    let answered = async {
        tokio::select! {
            biased;
            answer = &mut answer => answer.map_err(error_of),
            done = &mut connection => {
                done?;
                answer.await.map_err(error_of)
            }
        }
    };
    let answer = within(options.first_byte_timeout, answered).await.unwrap_or(Err(Error::ConnectionReadTimeout))?;
    let body = |body: Incoming| match options.between_bytes_timeout {
        Some(time) => TimeoutBody::new(time, body).map_err(error_between_bytes).boxed_unsync(),
        None => body.map_err(error_of).boxed_unsync(),
    };
    let connection = async move { if connection.is_terminated() { Ok(()) } else { connection.await } };
    Ok((answer.map(body), connection.boxed()))
}

trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Waits for a future; `None` if it takes too long.
async fn within<T>(time: Option<Duration>, what: impl Future<Output = T>) -> Option<T> {
    match time {
        Some(time) => timeout(time, what).await.ok(),
        None => Some(what.await),
    }
}

/// Connects to a checked address of those that a name stands for, trying them in turn.
async fn connect(grants: &Grants, target: &RequestTarget, permit: &ConnectionPermit) -> Result<TcpStream, Error> {
    let addresses = match &target.host {
        RemoteHost::Address(address) => vec![*address],
        RemoteHost::Name(name) => resolve(name.clone(), permit.clone()).await?,
    };
    let may = |address: &IpAddr| address::is_public(*address) || grants.http.names(*address, target);
    let mut last = Error::DestinationIpProhibited;
    for address in addresses.into_iter().filter(may) {
        match timeout(ATTEMPT, TcpStream::connect(SocketAddr::new(address, target.port))).await {
            Ok(Ok(stream)) => {
                // A guest's bytes go out at once; if the option fails, the stream is only slower.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => last = Error::ConnectionRefused,
            Ok(Err(_)) => last = Error::DestinationUnavailable,
            Err(_) => last = Error::ConnectionTimeout,
        }
    }
    Err(last)
}

/// The time for which each address is tried.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Resolves a name. The system's resolver keeps a thread until it is done, even if the caller has gone; until then it
/// counts as a request of the function.
async fn resolve(name: String, permit: ConnectionPermit) -> Result<Vec<IpAddr>, Error> {
    let looked_up = tokio::spawn(async move {
        let found = lookup_host((name, 0)).await.map(|found| found.map(|it| it.ip()).collect::<Vec<_>>());
        drop(permit);
        found
    });
    let found = looked_up.await.ok().and_then(Result::ok).filter(|found| !found.is_empty());
    found.ok_or(Error::DnsError { rcode: None, info_code: None })
}

async fn encrypt(stream: TcpStream, host: &RemoteHost) -> Result<impl Connection + use<>, Error> {
    let connector = tls::connector().ok_or(Error::ConfigurationError)?;
    let name = match host {
        RemoteHost::Name(name) => ServerName::try_from(name.clone()).map_err(|_| Error::HttpRequestUriInvalid)?,
        RemoteHost::Address(address) => ServerName::IpAddress((*address).into()),
    };
    connector.connect(name, stream).await.map_err(|error| {
        let certificate = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
        match certificate {
            Some(rustls::Error::InvalidCertificate(_)) => Error::TlsCertificateError,
            _ => Error::TlsProtocolError,
        }
    })
}

fn error_of(error: hyper::Error) -> Error {
    if error.is_incomplete_message() { Error::HttpResponseIncomplete } else { Error::HttpProtocolError }
}

fn error_between_bytes(error: tower_http::BoxError) -> Error {
    match error.downcast::<hyper::Error>() {
        Ok(error) => error_of(*error),
        Err(error) if error.is::<TimeoutError>() => Error::ConnectionReadTimeout,
        Err(_) => Error::HttpProtocolError,
    }
}
