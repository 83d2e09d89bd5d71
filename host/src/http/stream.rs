//! A route to a function, as server-sent events.
//!
//! Each chunk that the function emits is an event at once, and its output the last: `data: {"value": "<JSON text>"}`,
//! the form that NAT gives the output of a workflow. A call that fails before it has emitted anything is answered like
//! any other call, with its own status; one that fails later ends the stream with an event named `error`.
//!
//! What the call has cost is a comment before the last event.
//!
//! `{path}/stream` and `{path}/full` are the same here: in NAT they differ in how they tell the steps of its tracing,
//! which Carrel does not have.

use super::{
    bill,
    call::{Admitted, Route},
    error::Error,
};
use crate::{
    instance::Emitter,
    session::{Answer, Bill},
};
use axum::{
    body::Body,
    extract::State,
    response::{
        IntoResponse,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::stream;
use http::{Request, Response};
use std::{convert::Infallible, sync::Arc};
use tokio::{
    sync::mpsc::{self, Receiver},
    task::JoinHandle,
};

/// Chunks that wait for a slow reader before the function does.
const WAITING: usize = 16;

pub(super) async fn answer(State(route): State<Arc<Route>>, request: Request<Body>) -> Result<Response<Body>, Error> {
    let Admitted { handle, input, tenant } = route.admit(request).await?;
    let failed = |error| route.count(Some(tenant), error);
    let (sender, mut chunks) = mpsc::channel(WAITING);
    let emitter = Emitter::new(Some(sender), handle.session().limits().output_size);
    // Whoever goes away while the call waits is not called for; once it runs, it is a task of its own, which ends with
    // this one.
    let ready = match handle.turn().await {
        Ok(ready) => ready,
        Err(refused) => return route.respond(refused, &input).map_err(failed),
    };
    let mut call = Calling(tokio::spawn(ready.run(route.position, input.clone(), emitter)));
    // The call's end drops the sender, so that the first of both is seen here.
    let Some(first) = chunks.recv().await else {
        let answer = (&mut call.0).await.map_err(|_| failed(Error::internal()))?;
        let last = match answer.result {
            Ok(output) => value(&output),
            Err(_) => return route.respond(answer, &input).map_err(failed),
        };
        let events = [cost(&answer.bill), last].map(Ok::<_, Infallible>);
        return Ok(Sse::new(stream::iter(events)).into_response());
    };
    let state = Streaming { first: Some(first), chunks, call: Some(call), last: None, route, input, tenant };
    let events = stream::unfold(state, |mut state| async { Some((Ok::<_, Infallible>(state.next().await?), state)) });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
}

/// A call that runs. It is given up when nobody listens any more: then it is undone, or, where that cannot be, it goes on
/// to its end.
struct Calling(JoinHandle<Answer>);

impl Drop for Calling {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A stream that has begun.
struct Streaming {
    first: Option<String>,
    chunks: Receiver<String>,
    call: Option<Calling>,
    /// The last event, once the one before it is sent.
    last: Option<Event>,
    route: Arc<Route>,
    input: Arc<String>,
    tenant: u16,
}

impl Streaming {
    async fn next(&mut self) -> Option<Event> {
        if let Some(last) = self.last.take() {
            return Some(last);
        }
        let chunk = match self.first.take() {
            Some(first) => Some(first),
            None => self.chunks.recv().await,
        };
        if let Some(chunk) = chunk {
            return Some(value(&chunk));
        }
        let answer = (&mut self.call.take()?.0).await;
        let Ok(Answer { result, dropped, bill }) = answer else {
            return Some(error(self.route.count(Some(self.tenant), Error::internal())));
        };
        self.last = Some(match result {
            Ok(output) => value(&output),
            Err(failure) => {
                let failure = self.route.error(failure, &dropped, &self.input);
                error(self.route.count(Some(self.tenant), failure))
            }
        });
        Some(cost(&bill))
    }
}

fn value(json: &str) -> Event {
    let text = serde_json::Value::from(json);
    Event::default().data(format!("{{\"value\": {text}}}"))
}

/// What the call has cost: a comment of its own, which readers of events skip.
fn cost(bill: &Bill) -> Event {
    Event::default().comment(bill::line(bill))
}

fn error(error: Error) -> Event {
    Event::default().event("error").data(error.into_event())
}
