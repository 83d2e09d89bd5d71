//! Fetches an issuer's keys from where it publishes them.
//!
//! One request on a connection of its own: keys are fetched once in a quarter of an hour. A redirect is not followed,
//! since it leads away from the place that the operator trusts.

use http::{Request, Uri, header, uri::Scheme};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::rustls::pki_types::ServerName;

/// Fetches the body at an address, of at most the given number of bytes.
///
/// # Errors
///
/// In words: the address cannot be reached in time, or does not answer with 200 and at most so many bytes.
pub(super) async fn fetch(address: &Uri, time: Duration, most: usize) -> Result<Vec<u8>, String> {
    let fetched = timeout(time, request(address, most)).await;
    let why = format!("no answer within {}", humantime::format_duration(time));
    fetched.unwrap_or(Err(why)).map_err(|why| format!("{address} cannot be fetched: {why}"))
}

async fn request(address: &Uri, most: usize) -> Result<Vec<u8>, String> {
    let tls = address.scheme() == Some(&Scheme::HTTPS);
    let host = address.host().unwrap_or_default();
    let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = address.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let stream = TcpStream::connect((name.as_str(), port)).await.map_err(|error| error.to_string())?;
    if !tls {
        return answer(stream, address, most).await;
    }
    let connector = crate::tls::connector().ok_or("TLS cannot be set up")?;
    let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
    let stream = connector.connect(name, stream).await.map_err(|error| error.to_string())?;
    answer(stream, address, most).await
}

async fn answer<S>(stream: S, address: &Uri, most: usize) -> Result<Vec<u8>, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let words = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(words)?;
    let running = tokio::spawn(connection);
    let path = address.path_and_query().map_or("/", |path| path.as_str());
    let authority = address.authority().map_or("", |authority| authority.as_str());
    let request = Request::get(path)
        .header(header::HOST, authority)
        .header(header::ACCEPT, "application/json")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let answered = async {
        let answer = sender.send_request(request).await.map_err(words)?;
        if answer.status() != http::StatusCode::OK {
            return Err(format!("it answers {}", answer.status()));
        }
        let body = Limited::new(answer.into_body(), most).collect().await.map_err(|error| error.to_string())?;
        Ok(body.to_bytes().into())
    };
    let answer = answered.await;
    running.abort();
    answer
}
