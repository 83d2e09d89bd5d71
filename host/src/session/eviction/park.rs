//! Parks idle sessions: frees their instances, and keeps a snapshot of each.
//!
//! A session is parked when it has been idle for `sessions.park_after`, and earlier if room is needed for others: see
//! `evictor`. It is parked at its own turn, so that a call that comes meanwhile waits for some microseconds; other
//! sessions get theirs in between.
//!
//! An instance that holds something outside of its memory cannot be parked: the instance stays, and so does the
//! session's place, but the session's other instances are parked.

use super::{
    evictor::evictors,
    pressure::{Evicting, Room},
};
use crate::{
    session::{live::Session, pace::Pace, registry::Registry, slot::Slot, tidy::TIDYING},
    state::Parking,
};
use std::{future::pending, sync::Arc, time::Duration};
use tokio::time::{Instant, MissedTickBehavior, interval};

/// The least and the most time between two looks for sessions that have been idle long enough.
const LOOK: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(5));

/// Parks sessions that were idle for `sessions.park_after`, and makes room when it is needed; never returns.
pub(super) async fn park(registry: Arc<Registry>, _evicting: Evicting) {
    // The evictors run beside the timed parking, so that no wish for room waits for it.
    let _evictors = evictors(&registry);
    let Some(after) = registry.shared().policy.park_after else { return pending().await };
    let mut looks = interval((after / 4).clamp(LOOK.0, LOOK.1));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let parked = registry.park_idle(after).await;
        if parked > 0 {
            let (live, all) = (registry.live(), registry.parked());
            tracing::info!(parked, live, all_parked = all, "parked sessions idle for {after:?}");
        }
    }
}

impl Registry {
    /// Parks all sessions that were idle for `time`; returns their number.
    pub async fn park_idle(&self, time: Duration) -> usize {
        // A session that is being tidied does not count as used: wait for it, so that it can be parked as well.
        let (mut tidied, deadline) = (self.shared().tidying.watch(), Instant::now() + TIDYING);
        while tidied.another(deadline).await {}
        let (mut parked, mut pace) = (0, Pace::new());
        for shard in 0..self.shards() {
            for session in self.idle_live(shard, time, None) {
                parked += self.park(&session).await.sessions;
                pace.step().await;
            }
            pace.step().await;
        }
        parked
    }

    /// Parks a session that nobody uses, or as many of its instances as can be; returns the room freed.
    pub(super) async fn park(&self, session: &Arc<Session>) -> Room {
        // It counts from here on, so that those who park at once keep to what there may be.
        let Some(place) = self.place_to_park() else { return Room::default() };
        let Some(_turn) = session.turn_if_free() else { return Room::default() };
        if !session.uses.is_idle() {
            return Room::default();
        }
        let (all, bytes) = session.park().await;
        let is_parked = all && self.parked_one(session, place);
        let freed = Room { sessions: is_parked.into(), bytes };
        self.shared().pressure.was_parked(session.user().tenant(), freed);
        freed
    }
}

impl Session {
    /// Replaces the session's instances by snapshots. Returns true if no instance is left, and the bytes freed.
    /// Called at the session's turn.
    async fn park(&self) -> (bool, usize) {
        let (mut all, mut pace) = (true, Pace::new());
        let before = self.memory().used();
        for position in 0..self.slots.len() {
            while self.undo_a_piece(position) {
                pace.step().await;
            }
            let was = std::mem::replace(&mut *self.slot(position), Slot::Running);
            let parking = match (was, self.image(position)) {
                (Slot::Idle(instance), Some(image)) if !instance.holds_handles() => instance.leave(image).park(image),
                (Slot::Undone(undone), Some(image)) => undone.park(image),
                (was, _) => {
                    all &= !matches!(was, Slot::Idle(_) | Slot::Undone(_));
                    *self.slot(position) = was;
                    continue;
                }
            };
            let mut parked = Parked { session: self, position, parking: Some(parking) };
            while parked.step() {
                pace.step().await;
            }
        }
        (all, before.saturating_sub(self.memory().used()))
    }
}

/// A function that is being parked. Dropping it completes the parking: what is left is done at once.
struct Parked<'a> {
    session: &'a Session,
    position: usize,
    parking: Option<Parking<'a>>,
}

impl Parked<'_> {
    fn step(&mut self) -> bool {
        self.parking.as_mut().is_some_and(Parking::step)
    }
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        if let Some(parking) = self.parking.take() {
            let snapshot = parking.end();
            *self.session.slot(self.position) = Slot::Parked(snapshot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Host, config::Config, http::app, identity::User};
    use axum::body::Body;
    use http::Request;
    use http_body_util::BodyExt;
    use serde_json::{Value, json};
    use std::path::Path;
    use tower::ServiceExt;

    /// Sends a user's command; returns the status and the answer.
    async fn ask(host: &Arc<Host>, user: &str, command: [&str; 4]) -> (u16, Value) {
        let [command, action, param1, param2] = command;
        let input = json!({"command": command, "action": action, "param1": param1, "param2": param2});
        let request = Request::post("/generate").header("content-type", "application/json");
        let request = request.header("cookie", format!("nat-session={user}")).body(Body::from(input.to_string()));
        let response = app(host.clone()).oneshot(request.unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    /// Flips a bit in the middle of the snapshot of a user's function.
    fn flip(host: &Arc<Host>, user: &str, function: &str) {
        let session = host.registry().look(User::from_credential(user)).unwrap().session;
        match &mut *session.slot(host.catalog().position(function).unwrap()) {
            Slot::Parked(snapshot) => {
                let middle = snapshot.len() / 2;
                snapshot.bytes()[middle] ^= 4;
            }
            _ => panic!("it is not parked"),
        };
    }

    const LIST: [&str; 4] = ["note", "list", "", ""];

    #[tokio::test(flavor = "multi_thread")]
    async fn a_damaged_snapshot_is_told_and_kept_and_harms_nobody_else() {
        let text = "functions: {notepad: {_type: per_user_notepad}, preferences: {_type: per_user_preferences}}
workflow: {_type: per_user_assistant}";
        let host = Host::start(Config::parse(Path::new("test.yml"), text).unwrap(), 2).await.unwrap();
        for user in ["alice", "bob"] {
            assert_eq!(ask(&host, user, ["note", "add", user, ""]).await.0, 200);
            assert_eq!(ask(&host, user, ["pref", "set", "name", user]).await.0, 200);
        }
        assert_eq!(host.registry().park_idle(Duration::ZERO).await, 2);
        flip(&host, "alice", "notepad");
        for _ in 0..3 {
            let (status, error) = ask(&host, "alice", LIST).await;
            assert_eq!((status, &error["code"]), (500, &json!("snapshot_broken")));
            assert_eq!((&error["function"], &error["dropped"]), (&json!("notepad"), &json!([])));
            let detail = error["detail"].as_str().unwrap();
            let user = User::from_credential("alice").to_string();
            assert!(detail.contains("`notepad`") && detail.contains(&user) && detail.contains("damaged"), "{detail}");
            assert!(detail.ends_with("Nothing was changed: all is as before the call."), "{detail}");
            host.registry().park_idle(Duration::ZERO).await;
        }
        let (status, other) = ask(&host, "alice", ["pref", "get", "name", ""]).await;
        assert_eq!((status, other["data"]["value"].as_str()), (200, Some("alice")));
        assert_eq!(other["data"]["commands_executed"], 3, "what could not be woken changed nothing");
        assert_eq!(ask(&host, "bob", LIST).await.1["data"]["notes"], json!(["bob"]));
        // It was never replaced by an empty one.
        flip(&host, "alice", "notepad");
        assert_eq!(ask(&host, "alice", LIST).await.1["data"]["notes"], json!(["alice"]));
    }
}
