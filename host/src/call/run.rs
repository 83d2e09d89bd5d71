//! One function's run in a call.

use super::{object::Call, transaction::Frame};
use crate::{
    instance::{GuestError, Invocation, Json, Metered, STOPPED, Services, StopKind, UnclaimedFuel},
    limits::Allowance,
    session::{Room, Scope},
};
use std::sync::Arc;
use tokio::time::Instant;

/// Runs a function, called from outside or by another one, in its instance or in a new one.
pub(super) async fn run(
    mut frame: Frame,
    input: &Json,
    allowance: Allowance,
    depth: usize,
) -> Metered<Result<String, GuestError>> {
    let call = frame.call().clone();
    let mut left = allowance;
    let services: Arc<dyn Services> = call.clone();
    let mut unclaimed = UnclaimedFuel::new(&*services, 0);
    frame.settle().await;
    if !matches!(frame.begin(true), Ok(true)) {
        let began = Instant::now();
        // Boxed: most calls find an instance and room, and need no place for what it takes to make them.
        let prepared = Box::pin(prepare(&mut frame, &call, allowance, depth)).await;
        call.effects().tally.made += began.elapsed();
        left.fuel = left.fuel.saturating_sub(prepared.fuel);
        unclaimed.add(prepared.fuel);
        if let Err(stop) = prepared.result {
            frame.stopped(&stop);
            unclaimed.add(frame.abort());
            return Metered { result: Err(stop), fuel: unclaimed.claim().max(least(&call, depth)) };
        }
    }
    let undo_from = frame.undo_from();
    let mut done = match frame.instance() {
        Some(instance) => instance.call(input, &services, Invocation { allowance: left, depth, undo_from }).await,
        None => Metered { result: Err(frame.stop(StopKind::HostFull)), fuel: 0 },
    };
    done.fuel += unclaimed.claim();
    match &done.result {
        // Its caller is told of a stop, so it is undone as after a stop of its own. Nobody loses state for that.
        Ok(Err(GuestError::Stopped(_))) if frame.can_be_undone() => {
            call.effects().tally.undone = depth == 1;
            done.fuel += frame.abort();
            done.fuel = done.fuel.max(least(&call, depth));
        }
        Ok(_) => done.fuel += frame.commit(),
        Err(stop) => {
            frame.stopped(stop);
            let stop = stop.clone();
            done.fuel += frame.abort();
            done.fuel = done.fuel.max(least(&call, depth));
            // A guest that was refused memory was stopped; room is made for the next call.
            if let Some(scope) = full_scope(&call, &stop.kind, Room::default()) {
                call.session.pressure().ask_for_room(scope, Room::default());
            }
        }
    }
    done
}

/// The least units of fuel that a stopped function costs at this depth of a call. For a sibling there is no least:
/// its caller pays.
fn least(call: &Call, depth: usize) -> u64 {
    if depth == 1 { STOPPED.min(call.limits().fuel_per_call) } else { 0 }
}

/// The scope in which others can make the room that a stopped function lacked.
fn full_scope(call: &Call, kind: &StopKind, need: Room) -> Option<Scope> {
    Scope::of(kind.full()?, Some(call.session.user().tenant()), need)
}

/// Makes a function's instance, if it has none, and begins the call. The caller pays for a new instance, but not for
/// restoring a parked one. If there is no room, idle sessions are parked, and it is tried again: the caller pays for
/// attempts that failed for want of room.
async fn prepare(frame: &mut Frame, call: &Arc<Call>, allowance: Allowance, depth: usize) -> Metered<()> {
    let (mut failed, mut tidied) = (UnclaimedFuel::new(&**call, 0), call.session.tidying().watch());
    loop {
        let left = Allowance { fuel: allowance.fuel.saturating_sub(failed.units()), ..allowance };
        let (woken, mut result) = (frame.is_parked(), Ok(()));
        if frame.instance().is_none() {
            let made = frame.make(left, depth).await;
            if made.result.is_ok() && woken {
                call.session.pressure().woke();
            } else {
                failed.add(made.fuel);
            }
            result = made.result;
            frame.settle().await;
        }
        let begun = result.and_then(|()| frame.begin(true).map_err(|full| frame.stop(full.into())));
        let Err(stop) = begun else { return Metered { result: Ok(()), fuel: failed.claim() } };
        let need = Room::bytes(frame.needs());
        let is_freed = match full_scope(call, &stop.kind, need) {
            Some(scope) => {
                let freed = call.session.pressure().make_room(scope, need, allowance.deadline).await;
                !freed.is_none() || tidied.another(allowance.deadline).await
            }
            None => false,
        };
        if !is_freed {
            // Most calls change little, so this one may well end without the room for its undo logs.
            let begun = frame.begin(false).is_ok_and(|begun| begun);
            return Metered { result: if begun { Ok(()) } else { Err(stop) }, fuel: failed.claim() };
        }
    }
}
