//! The import `functions.call`: a function calls another one of the same user.
//!
//! The sibling runs in a store of its own, on a part of the caller's remaining fuel and time. Its crash is an error
//! value for the caller, and the fuel that it used is charged to the caller.

use super::{
    CallError, Context, GuestError, Invocation, Json, NotCalled, Phase, Stop,
    pay::{pay, pay_for_bytes},
    work::UNDO,
};
use wasmtime::{AsContextMut, StoreContextMut};

/// Calls a sibling, and charges the caller for its fuel and for the answer's bytes.
///
/// # Errors
///
/// The caller has no fuel left for the host's work here, and is stopped.
pub(super) async fn call(
    mut cx: StoreContextMut<'_, Context>,
    name: &str,
    input: Json,
) -> wasmtime::Result<Result<String, CallError>> {
    let answer = answer(&mut cx, name, input).await;
    let text = match &answer {
        Ok(text)
        | Err(CallError::Unknown(text) | CallError::Cycle(text) | CallError::InvalidInput(text))
        | Err(CallError::Failed(text) | CallError::Stopped(text)) => text.len(),
    };
    // The answer is copied for the host, and then for the caller.
    pay_for_bytes(&mut cx, 2 * text)?;
    if matches!(answer, Err(CallError::Stopped(_))) {
        pay(&mut cx, UNDO)?;
    }
    Ok(answer)
}

async fn answer(cx: &mut StoreContextMut<'_, Context>, name: &str, input: Json) -> Result<String, CallError> {
    let not_in_a_call = || CallError::Stopped("not_in_a_call: siblings can only be called from `call`".into());
    let running =
        cx.data_mut().running.as_mut().filter(|running| running.phase == Phase::Call).ok_or_else(not_in_a_call)?;
    let services = running.services.clone().ok_or_else(not_in_a_call)?;
    running.stops.called();
    let (mut left, depth, undo_from) = (running.allowance, running.depth, running.undo_from);
    left.fuel = cx.as_context_mut().get_fuel().unwrap_or(0);
    let call = match services.clone().sibling(Invocation { allowance: left, depth, undo_from }, name, input) {
        Ok(call) => call,
        Err(NotCalled::Refused(error)) => return Err(error),
        Err(NotCalled::Stopped(stop)) => return Err(stopped(cx, stop)),
    };
    let charged = services.charged();
    let done = services.relay().run(call).await;
    // The session was already charged for the sibling's run; the caller must not be charged for it again.
    let charged = services.charged().saturating_sub(charged);
    if let Some(running) = &mut cx.data_mut().running {
        running.charged += charged;
    }
    // Fuel is on for every store of the engine.
    let _ = cx.as_context_mut().set_fuel(left.fuel.saturating_sub(done.fuel));
    match done.result {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(GuestError::InvalidInput(why))) => Err(CallError::InvalidInput(why)),
        Ok(Err(GuestError::Failed(why))) => Err(CallError::Failed(why)),
        Ok(Err(GuestError::Stopped(stop))) => Err(stopped(cx, *stop)),
        Err(stop) => Err(stopped(cx, stop)),
    }
}

/// The error for a caller whose sibling was stopped, which can ask for the stop and pass it on.
fn stopped(cx: &mut StoreContextMut<'_, Context>, stop: Stop) -> CallError {
    let text = stop.to_string();
    if let Some(running) = &mut cx.data_mut().running {
        running.stops.add(stop);
    }
    CallError::Stopped(text)
}
