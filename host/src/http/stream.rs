//! A route to a function, as server-sent events.
//!
//! Each chunk that the function emits is an event at once, and its output the last: `data: {"value": "<JSON text>"}`,
//! the form that NAT gives the output of a workflow. The call's cost is a comment before the last event.
//!
//! A call that fails soon, before it has emitted anything, is answered like any other call, with its own status. The
//! headers do not wait for longer than [`PATIENCE`]: then they are sent, comments keep the connection alive, and a
//! failure ends the stream with an event named `error`, as one after the first chunk does.
//!
//! A browser's `EventSource` takes the end of a stream for a broken connection, and asks again every few seconds. So
//! the last event of a stream that it can ask for, which is one without a body, has an id. A request that names this
//! id as the last one seen gets a 204, which ends the retries, and the function is not run again.
//!
//! `{path}/stream` and `{path}/full` are the same here: in NAT they differ in how they tell the steps of its tracing,
//! which Carrel does not have.

use super::{
    asked::AskedCall,
    bill,
    call::{Admitted, Route},
    error::Error,
    held::counted,
};
use crate::{
    call::Answer,
    instance::Chunk,
    limits::{Bill, memory::Charge},
    session::Handle,
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
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use std::{convert::Infallible, mem, pin::Pin, sync::Arc, time::Duration};
use tokio::{
    sync::mpsc::{self, Receiver, Sender},
    task::JoinHandle,
    time::timeout,
};

/// Chunks that wait for a slow reader before the function does.
const WAITING: usize = 16;
/// The longest time that the headers wait for the first chunk or a failure. With less, fewer failures have their own
/// status; with more, callers and proxies take the host for dead.
const PATIENCE: Duration = Duration::from_millis(500);
/// The last event's id.
const END: &str = "end";
/// The last id that an `EventSource` has seen.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Tells nginx, and proxies that have learnt it from there, to pass each event on at once.
const BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

pub(super) async fn answer(State(route): State<Arc<Route>>, request: Request<Body>) -> Result<Response<Body>, Error> {
    if !route.has_body && request.headers().get(LAST_EVENT_ID).is_some_and(|id| id == END) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        return Ok(response);
    }
    let Admitted { handle, asked, held } = route.admit(request).await?;
    let memory = handle.session().memory().clone();
    let (sender, chunks) = mpsc::channel(WAITING);
    let mut beginning: Beginning = Box::pin(begin(handle, route.position, asked.input.clone(), (sender, chunks)));
    let stage = match timeout(PATIENCE, &mut beginning).await {
        Ok(StreamStage::Over(Some(answer))) if answer.result.is_err() => {
            return Ok(route.respond(answer, &asked, held).await);
        }
        Ok(StreamStage::Over(None)) => return Err(route.count(Some(asked.tenant), Error::internal())),
        Ok(stage) => stage,
        Err(_) => StreamStage::Beginning(beginning),
    };
    let state = Streaming { stage, last: None, route, asked, _held: held };
    let events = stream::unfold(state, |mut state| async { Some((Ok::<_, Infallible>(state.next().await?), state)) });
    let mut response = Sse::new(events).keep_alive(KeepAlive::default()).into_response();
    response.headers_mut().insert(BUFFERING, HeaderValue::from_static("no"));
    Ok(counted(response, memory.charge(0)))
}

/// Waits for the call's turn, and runs it until it has emitted something or is over.
///
/// If the caller goes away while the call waits, the call is not run. Once it runs, it is a task of its own, which is
/// aborted when the returned stage is dropped.
async fn begin(
    handle: Handle,
    position: usize,
    input: Arc<String>,
    (listener, mut chunks): (Sender<Chunk>, Receiver<Chunk>),
) -> StreamStage {
    let ready = match handle.turn().await {
        Ok(ready) => ready,
        Err(refused) => return StreamStage::Over(Some(refused)),
    };
    let mut call = Calling(tokio::spawn(ready.run(position, input, Some(listener))));
    // The call's end drops the sender, so that the first of both is seen here.
    match chunks.recv().await {
        Some(first) => StreamStage::Running { next: Some(first), chunks, call },
        None => StreamStage::Over((&mut call.0).await.ok()),
    }
}

type Beginning = Pin<Box<dyn Future<Output = StreamStage> + Send>>;

/// The state of a call.
enum StreamStage {
    /// The call waits, or has emitted nothing yet.
    Beginning(Beginning),
    /// The call has emitted something.
    Running { next: Option<Chunk>, chunks: Receiver<Chunk>, call: Calling },
    /// The call has ended; without an answer if that is the host's own mistake.
    Over(Option<Answer>),
    /// All events are sent.
    Told,
}

/// A call that runs. Dropping this aborts the call: it is undone, or, if that is impossible, goes on to its end.
struct Calling(JoinHandle<Answer>);

impl Drop for Calling {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A stream that has begun.
struct Streaming {
    stage: StreamStage,
    /// The last event, once the one before it is sent.
    last: Option<Event>,
    route: Arc<Route>,
    asked: AskedCall,
    _held: Charge,
}

impl Streaming {
    async fn next(&mut self) -> Option<Event> {
        if let Some(last) = self.last.take() {
            return Some(last);
        }
        loop {
            match mem::replace(&mut self.stage, StreamStage::Told) {
                StreamStage::Beginning(beginning) => self.stage = beginning.await,
                StreamStage::Running { next, mut chunks, mut call } => {
                    let chunk = match next {
                        Some(chunk) => Some(chunk),
                        None => chunks.recv().await,
                    };
                    if let Some(chunk) = chunk {
                        self.stage = StreamStage::Running { next: None, chunks, call };
                        return Some(value(&chunk.text));
                    }
                    self.stage = StreamStage::Over((&mut call.0).await.ok());
                }
                StreamStage::Over(Some(Answer { result, dropped, bill })) => {
                    let last = match result {
                        Ok(output) => value(&output),
                        Err(failure) => {
                            let (route, asked) = (self.route.clone(), self.asked.clone());
                            let error = route.error(failure, &dropped, &asked).await;
                            self.failed(error)
                        }
                    };
                    self.last = Some(self.marked(last));
                    return Some(cost(&bill));
                }
                StreamStage::Over(None) => return Some(self.marked(self.failed(Error::internal()))),
                StreamStage::Told => return None,
            }
        }
    }

    fn failed(&self, error: Error) -> Event {
        Event::default().event("error").data(self.route.count(Some(self.asked.tenant), error).into_event())
    }

    /// The last event, so that an `EventSource` that has seen it is known again.
    fn marked(&self, last: Event) -> Event {
        if self.route.has_body { last } else { last.id(END) }
    }
}

fn value(json: &str) -> Event {
    let text = serde_json::Value::from(json);
    Event::default().data(format!("{{\"value\": {text}}}"))
}

/// The call's cost: a comment of its own, which readers of events skip.
fn cost(bill: &Bill) -> Event {
    Event::default().comment(bill::line(bill))
}
