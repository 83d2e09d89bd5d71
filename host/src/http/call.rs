//! A route to a function, from bytes to bytes.
//!
//! On the good path the body is not parsed here: it is checked to be UTF-8, and goes to the guest; the guest's output
//! goes back as it is.

use super::{
    answer::json,
    asked::AskedCall,
    bill,
    error::{DROPPED, Error, dropped_header},
    held::{counted, held},
    invalid_input,
};
use crate::{
    Host,
    call::{Admission, Answer, Failure, NotAdmitted},
    function::Function,
    limits::{memory::Charge, within},
    session::Handle,
};
use axum::{
    BoxError,
    body::{Body, HttpBody},
    extract::State,
    response::IntoResponse,
};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use std::{pin::pin, sync::Arc};

/// A request's body, from wherever it comes.
pub trait RequestBody: HttpBody<Data = Bytes, Error: Into<BoxError> + Send> + Send + Unpin + 'static {}

impl<B: HttpBody<Data = Bytes, Error: Into<BoxError> + Send> + Send + Unpin + 'static> RequestBody for B {}

/// A route to a function.
pub(super) struct Route {
    pub(super) host: Arc<Host>,
    /// The function's place in the catalog.
    pub(super) position: usize,
    /// True if the body is the input; if not, the input is `null`.
    pub(super) has_body: bool,
}

/// An admitted request: its session, and what was asked.
pub(super) struct Admitted {
    pub(super) handle: Handle,
    pub(super) asked: AskedCall,
    /// The input's part of the user's memory.
    pub(super) held: Charge,
}

pub(super) async fn answer(State(route): State<Arc<Route>>, request: Request<Body>) -> Result<Response<Body>, Error> {
    route.answer(request).await
}

impl Route {
    /// Answers a request with what the function gives.
    pub(super) async fn answer(&self, request: Request<impl RequestBody>) -> Result<Response<Body>, Error> {
        let Admitted { handle, asked, held } = self.admit(request).await?;
        let answer = handle.call(self.position, asked.input.clone(), None).await;
        Ok(self.respond(answer, &asked, held).await)
    }

    pub(super) fn function(&self) -> &Function {
        &self.host.catalog().functions()[self.position]
    }

    /// Counts an error that is about to be answered.
    pub(super) fn count(&self, tenant: Option<u16>, error: Error) -> Error {
        self.host.failed(tenant, error.code());
        error
    }

    /// Reads a request, and finds its user's session. Counts refusals.
    pub(super) async fn admit(&self, request: Request<impl RequestBody>) -> Result<Admitted, Error> {
        let mut tenant = None;
        self.let_in(request, &mut tenant).await.map_err(|error| self.count(tenant, error))
    }

    /// Like `admit`, but reports the tenant early, so that later errors are counted against it.
    async fn let_in(&self, request: Request<impl RequestBody>, whose: &mut Option<u16>) -> Result<Admitted, Error> {
        let (parts, body) = request.into_parts();
        // Without a user nothing more is read: its memory could not be charged to anybody.
        let user = self.host.config().identity.user(&parts.headers).map_err(|error| Error::no_user(&error))?;
        *whose = Some(user.tenant());
        let refused = |refused| self.refused(refused);
        let admission = Admission::new(self.host.registry(), user, self.position).map_err(refused)?;
        let (input, held) = match self.has_body {
            true => self.input(&admission, &parts.headers, body).await?,
            false => ("null".to_owned(), admission.input(0).into_parts().1),
        };
        let asked = AskedCall { input: input.into(), tenant: user.tenant(), deadline: admission.deadline() };
        let (handle, held) = admission.enter(held).await.map_err(refused)?;
        Ok(Admitted { handle, asked, held })
    }

    fn refused(&self, refused: NotAdmitted) -> Error {
        match refused {
            NotAdmitted::Draining => Error::draining(),
            NotAdmitted::Forbidden => Error::forbidden(&self.function().name),
            NotAdmitted::Limit(reached) => Error::refused(&reached),
            NotAdmitted::Memory(full) => Error::no_memory(full),
        }
    }

    /// Reads the input.
    async fn input(
        &self,
        admission: &Admission<'_>,
        headers: &HeaderMap,
        mut body: impl RequestBody,
    ) -> Result<(String, Charge), Error> {
        if !is_as_it_is(headers) {
            return Err(Error::encoding_not_supported());
        }
        let limit = admission.input_size();
        // A body that announces too large a size need not be sent: there is no `100 Continue`.
        if body.size_hint().lower() > limit as u64 {
            return Err(Error::body_too_large(limit));
        }
        let most = body.size_hint().exact().map_or(limit, |exact| exact as usize);
        let mut incoming = admission.input(most);
        let reading = async {
            while let Some(frame) = body.frame().await {
                let Ok(data) = frame.map_err(|_| Error::body_broken_off())?.into_data() else { continue };
                if data.len() > limit - incoming.len() {
                    return Err(Error::body_too_large(limit));
                }
                incoming.add(&data).await.map_err(|refused| self.refused(refused))?;
            }
            Ok(())
        };
        within(|| admission.deadline(), pin!(reading)).await.unwrap_or_else(|| Err(Error::body_too_slow()))?;
        let (mut body, charge) = incoming.into_parts();
        if !body.is_empty() && !is_json(headers) {
            return Err(Error::not_json());
        }
        strip_byte_order_mark(&mut body);
        Ok((String::from_utf8(body).map_err(|_| Error::not_utf8())?, charge))
    }

    /// The response to a call, charged to its user. Counts errors.
    pub(super) async fn respond(&self, answer: Answer, asked: &AskedCall, charge: Charge) -> Response<Body> {
        let Answer { result, dropped, bill } = answer;
        let output = match result {
            Ok(output) => output,
            // Boxed: most calls give an output.
            Err(failure) => {
                let error = Box::pin(self.error(failure, &dropped, asked)).await;
                return counted(self.count(Some(asked.tenant), error.bill(bill)).into_response(), charge);
            }
        };
        let mut response = json(StatusCode::OK, held(output, charge));
        bill::write(&bill, response.headers_mut());
        if let Some(dropped) = dropped_header(&dropped) {
            response.headers_mut().insert(DROPPED, dropped);
        }
        response
    }

    pub(super) async fn error(&self, failure: Failure, dropped: &[Arc<str>], asked: &AskedCall) -> Error {
        let error = match failure {
            Failure::InvalidInput(why) => {
                Error::invalid_input(&invalid_input::detail(&self.host, self.position, asked, &why).await)
            }
            failure => Error::of_call(failure),
        };
        error.dropped(dropped)
    }
}

/// `application/json`, or anything that ends in `+json`, as NAT takes it.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(content_type) = headers.get(header::CONTENT_TYPE) else { return false };
    if content_type == "application/json" {
        return true;
    }
    let content_type = content_type.to_str().unwrap_or_default().to_ascii_lowercase();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.strip_prefix("application/").is_some_and(|subtype| subtype == "json" || subtype.ends_with("+json"))
}

/// Returns true if a body is neither compressed nor otherwise encoded.
fn is_as_it_is(headers: &HeaderMap) -> bool {
    let plain = |coding: &[u8]| coding.trim_ascii().is_empty() || coding.trim_ascii().eq_ignore_ascii_case(b"identity");
    headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .all(|codings| codings.as_bytes().split(|it| *it == b',').all(plain))
}

fn strip_byte_order_mark(body: &mut Vec<u8>) {
    const MARK: &[u8] = b"\xef\xbb\xbf";
    if body.starts_with(MARK) {
        body.drain(..MARK.len());
    }
}
