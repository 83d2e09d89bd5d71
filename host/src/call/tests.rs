//! Tests of calls without a socket.

#![allow(clippy::unwrap_used)]

use super::{Answer, Call, Failure};
use crate::{
    Host,
    config::Config,
    identity::User,
    limits::{Limits, Reached},
    scheduler::Permit,
    session::{Handle, Slot, waited_too_long},
};
use std::{path::Path, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};

async fn host() -> Arc<Host> {
    let text = "{workflow: {_type: per_user_notepad}, limits: {max_sessions: 1, deadline: 10s}}";
    Host::start(Config::parse(Path::new("test.yml"), text).unwrap(), 2).await.unwrap()
}

fn session(host: &Host, user: &str) -> Handle {
    host.registry().session(User::from_credential(user)).unwrap()
}

async fn call(handle: Handle) -> Answer {
    handle.call(0, Arc::new(r#"{"action":"count"}"#.to_owned()), None).await
}

#[track_caller]
fn refused(answer: &Answer, reached: Reached) {
    assert_eq!(answer.result, Err(Failure::Refused(reached)));
    assert_eq!((answer.bill.fuel, answer.bill.waited.as_secs()), (0, 10));
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_the_turn_and_that_for_a_place_end_at_one_deadline() {
    let host = host().await;
    assert!(call(session(&host, "alice")).await.result.is_ok());
    // An evictor that counts as running, and never answers.
    let _evicting = host.registry().shared().pressure.evicting();
    let other = session(&host, "bob");
    let turn = other.session().turn_if_free().unwrap();
    let waiting = tokio::spawn(call(session(&host, "bob")));
    sleep(Duration::from_secs(6)).await;
    drop(turn);
    refused(&waiting.await.unwrap(), Limits::MAX_SESSIONS.reached("1 sessions are live and in use"));
    // A call whose deadline passes before its turn is refused, and asks for no place.
    let turn = other.session().turn_if_free().unwrap();
    let waiting = tokio::spawn(call(session(&host, "bob")));
    sleep(Duration::from_secs(11)).await;
    refused(&waiting.await.unwrap(), waited_too_long());
    drop(turn);
    assert!(call(session(&host, "alice")).await.result.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_wait_in_the_slow_lane_ends_at_the_calls_deadline() {
    let host = host().await;
    let permit = || Arc::new(Permit::new(host.registry().shared().lane.clone(), 0));
    let (long, begins) = (permit(), permit());
    long.clone().next_turn().await;
    begins.begin().await;
    let other = session(&host, "alice");
    let turn = other.session().turn_if_free().unwrap();
    let waiting = tokio::spawn(call(session(&host, "alice")));
    sleep(Duration::from_secs(6)).await;
    drop(turn);
    refused(&waiting.await.unwrap(), waited_too_long());
    drop((long, begins));
    assert!(call(session(&host, "alice")).await.result.is_ok(), "it left no place behind");
}

/// A call that changes something.
async fn add(handle: Handle) -> Answer {
    handle.call(0, Arc::new(r#"{"action":"add","note":"milk"}"#.to_owned()), None).await
}

#[tokio::test]
async fn state_that_was_lost_between_two_calls_is_told_by_the_next_one_that_has_a_caller() {
    let host = host().await;
    assert!(add(session(&host, "alice")).await.result.is_ok());
    let alice = session(&host, "alice");
    *alice.session().slot(0) = Slot::Lost;
    assert_eq!(alice.session().holds().instances, 0);
    // A caller who has gone away in the middle of the call was not told.
    {
        let call = Call::new(alice.session().clone(), Instant::now() + Duration::from_secs(10), None);
        drop(call.take(0, 0).unwrap());
        let lost = call.end().lost;
        assert_eq!(lost, [0]);
        alice.session().note_lost(&lost);
    }
    let answer = call(session(&host, "alice")).await;
    assert!(answer.result.unwrap().contains("\"count\":0"));
    assert_eq!(answer.dropped, [Arc::from("workflow")]);
    let answer = call(session(&host, "alice")).await;
    assert!(answer.dropped.is_empty(), "once");
}

#[tokio::test]
async fn a_session_whose_state_was_lost_is_parked_and_still_tells() {
    let host = host().await;
    assert!(add(session(&host, "alice")).await.result.is_ok());
    *session(&host, "alice").session().slot(0) = Slot::Lost;
    assert_eq!(host.registry().park_idle(Duration::ZERO).await, 1);
    assert_eq!(call(session(&host, "alice")).await.dropped.len(), 1);
}

#[tokio::test]
async fn a_call_is_gone_after_its_end_however_it_ends() {
    let host = host().await;
    let alice = session(&host, "alice");
    let references = || Arc::strong_count(alice.session());
    let before = references();
    assert!(add(session(&host, "alice")).await.result.is_ok());
    // It is live now, and listed as such.
    let live = references();
    assert_eq!(live, before + 1);
    for input in [r#"{"action":"count"}"#, r#"{"action":"no such"}"#, "no JSON"] {
        let _ = session(&host, "alice").call(0, Arc::new(input.to_owned()), None).await;
        assert_eq!(references(), live, "after {input}");
    }
    // A caller who goes away before the call has its turn, and one while it could run.
    let turn = alice.session().turn_if_free().unwrap();
    let waiting = tokio::spawn(call(session(&host, "alice")));
    tokio::task::yield_now().await;
    waiting.abort();
    assert!(waiting.await.is_err());
    drop(turn);
    let ready = session(&host, "alice").turn().await.unwrap();
    drop(ready.run(0, Arc::new(r#"{"action":"count"}"#.to_owned()), None));
    assert_eq!(references(), live);
    assert!(call(session(&host, "alice")).await.result.is_ok());
}
