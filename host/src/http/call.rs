//! A route to a function, from bytes to bytes.
//!
//! On the good path the body is not parsed here: it is checked to be UTF-8, and goes to the guest; the guest's output
//! goes back as it is.

use super::{
    bill,
    error::{DROPPED, Error, dropped_header},
    held::{Question, counted, hand_over},
    invalid_input, json,
};
use crate::{
    Host,
    function::Function,
    identity,
    instance::Emitter,
    limits::{memory::Charge, within},
    session::{Answer, Failure, Handle, Tenant},
};
use axum::{
    body::{Body, HttpBody},
    extract::State,
    response::IntoResponse,
};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use std::{pin::pin, sync::Arc, time::Instant};

/// A route to a function.
pub(super) struct Route {
    pub(super) host: Arc<Host>,
    /// The function's place in the catalog.
    pub(super) position: usize,
    /// Whether the body is the input; if not, the input is `null`.
    pub(super) has_body: bool,
}

/// A request that was let in: whose it is, and what the function gets.
pub(super) struct Admitted {
    pub(super) handle: Handle,
    pub(super) input: Arc<String>,
    /// What the input takes of the user's memory.
    pub(super) held: Charge,
    /// Its tenant's place in the configuration.
    pub(super) tenant: u16,
}

pub(super) async fn answer(State(route): State<Arc<Route>>, request: Request<Body>) -> Result<Response<Body>, Error> {
    let Admitted { handle, input, held, tenant } = route.admit(request).await?;
    let (emitter, memory) =
        (Emitter::new(None, handle.session().limits().output_size), handle.session().memory().clone());
    let answer = handle.call(route.position, input.clone(), emitter).await;
    let answer = route.respond(answer, &input).map_err(|error| route.count(Some(tenant), error));
    drop((input, held));
    Ok(counted(answer.into_response(), memory))
}

impl Route {
    pub(super) fn function(&self) -> &Function {
        &self.host.catalog().functions()[self.position]
    }

    /// An error that is about to be answered is counted.
    pub(super) fn count(&self, tenant: Option<u16>, error: Error) -> Error {
        self.host.failed(tenant, error.code());
        error
    }

    /// Reads a request, and finds its user's session. What is refused is counted.
    pub(super) async fn admit(&self, request: Request<Body>) -> Result<Admitted, Error> {
        let mut tenant = None;
        self.let_in(request, &mut tenant).await.map_err(|error| self.count(tenant, error))
    }

    /// The same. Whose tenant it is of is told as soon as it is known.
    async fn let_in(&self, request: Request<Body>, whose: &mut Option<u16>) -> Result<Admitted, Error> {
        if self.host.is_draining() {
            return Err(Error::draining());
        }
        let (parts, body) = request.into_parts();
        let identity = &self.host.config().identity;
        let user = identity.user(&parts.headers);
        // Of whoever is verified and fails at it, nothing more is read.
        if let (Err(error), true) = (&user, identity.is_verified()) {
            return Err(Error::no_user(error));
        }
        *whose = user.as_ref().ok().map(|user| user.tenant());
        let tenant = user.as_ref().ok().map(|user| self.host.tenant(*user));
        if tenant.is_some_and(|tenant| !tenant.may_call(self.position)) {
            return Err(Error::forbidden(&self.function().name));
        }
        let tenant = whose.zip(tenant.map(|tenant| &**tenant));
        let (input, held) = match self.has_body {
            true => self.input(tenant, &parts.headers, body).await?,
            false => ("null".to_owned(), self.host.memory().charge(0)),
        };
        let user = user.map_err(|error| self.no_user(&error, &input))?;
        let handle = self.host.registry().session(user).map_err(|refusal| Error::refused(&refusal))?;
        let held = hand_over(held, handle.session().memory())?;
        Ok(Admitted { handle, input: input.into(), held, tenant: user.tenant() })
    }

    /// The input, as a part of the tenant's memory, or of the host's while that is not known.
    async fn input(
        &self,
        tenant: Option<(u16, &Tenant)>,
        headers: &HeaderMap,
        mut body: Body,
    ) -> Result<(String, Charge), Error> {
        if !is_as_it_is(headers) {
            return Err(Error::encoding_not_supported());
        }
        let limits = tenant.map_or(self.host.limits(), |(_, tenant)| tenant.limits());
        let limit = limits.body_size;
        // Who says before that it is too large need not send it, and is not told to go on.
        if body.size_hint().lower() > limit as u64 {
            return Err(Error::body_too_large(limit));
        }
        let most = body.size_hint().exact().map_or(limit, |exact| exact as usize);
        let memory = tenant.map_or(self.host.memory(), |(_, tenant)| tenant.memory());
        let pressure = &self.host.registry().shared().pressure;
        let mut question = Question::new(memory, tenant.map(|(number, _)| number), most, pressure);
        let until = || Instant::now() + limits.deadline;
        let reading = async {
            while let Some(frame) = body.frame().await {
                let Ok(data) = frame.map_err(|_| Error::body_broken_off())?.into_data() else { continue };
                if data.len() > limit - question.len() {
                    return Err(Error::body_too_large(limit));
                }
                question.add(&data).await?;
            }
            Ok(())
        };
        within(until, pin!(reading)).await.unwrap_or_else(|| Err(Error::body_too_slow()))?;
        let (mut body, charge) = question.into_parts();
        if !body.is_empty() && !is_json(headers) {
            return Err(Error::not_json());
        }
        strip_byte_order_mark(&mut body);
        Ok((String::from_utf8(body).map_err(|_| Error::not_utf8())?, charge))
    }

    /// As with NAT, what is wrong with the body is told first.
    fn no_user(&self, error: &identity::Error, input: &str) -> Error {
        let schema = &self.function().guest.input_schema;
        if self.has_body && !invalid_input::fits(schema, input) {
            return Error::invalid_input(schema, input, "the input does not fit");
        }
        Error::no_user(error)
    }

    pub(super) fn respond(&self, answer: Answer, input: &str) -> Result<Response<Body>, Error> {
        let Answer { result, dropped, bill } = answer;
        let output = result.map_err(|failure| self.error(failure, &dropped, input).bill(bill))?;
        let mut response = json(StatusCode::OK, output);
        bill::write(&bill, response.headers_mut());
        if let Some(dropped) = dropped_header(&dropped) {
            response.headers_mut().insert(DROPPED, dropped);
        }
        Ok(response)
    }

    pub(super) fn error(&self, failure: Failure, dropped: &[Arc<str>], input: &str) -> Error {
        Error::of_call(failure, &self.function().guest.input_schema, input).dropped(dropped)
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

/// True if a body is not compressed, nor coded otherwise.
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
