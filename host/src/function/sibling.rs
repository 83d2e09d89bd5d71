//! Sibling calls: a function calls another one of the same user.
//!
//! The sibling runs in a store of its own, on a part of the caller's remaining fuel and time. Its crash is an error
//! value for the caller, and the fuel that it used is charged to the caller. A sibling that already runs in this call
//! is refused: a circle would otherwise wait for itself.

use crate::instance::{CallError, Context, GuestError, Json, Phase, UNDO, pay, pay_for_bytes};
use tokio::time::Instant;
use wasmtime::{AsContextMut, StoreContextMut};

/// The import `functions.call`.
///
/// # Errors
///
/// The caller has no fuel left for the host's work here, and is stopped.
pub(crate) async fn call(
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
    let running = match cx.data().running.clone() {
        Some(running) if running.phase == Phase::Call => running,
        _ => return Err(CallError::Stopped("not_in_a_call: siblings can only be called from `call`".into())),
    };
    let Some(session) = running.session else { return Err(CallError::Unknown(format!("no function `{name}`"))) };
    let allowed = |position: &usize| session.tenant().may_call(*position);
    let Some(position) = session.catalog().position(name).filter(allowed) else {
        return Err(CallError::Unknown(format!("no function `{name}` is configured")));
    };
    let limits = session.limits();
    if running.depth >= limits.call_depth {
        return Err(CallError::Stopped(format!(
            "call_too_deep: calls are nested {} deep, which is what `limits.call_depth` allows",
            running.depth
        )));
    }
    if input.len() > limits.body_size {
        return Err(CallError::InvalidInput(format!(
            "the input has {} bytes, and `limits.body_size` allows {}",
            input.len(),
            limits.body_size
        )));
    }
    let Some(taken) = session.take(position, running.undo) else {
        return Err(CallError::Cycle(format!("`{name}` is already running in this call")));
    };
    let mut left = running.allowance;
    left.fuel = cx.as_context_mut().get_fuel().unwrap_or(0);
    let allowance = left.for_sibling(Instant::now());
    let Some(emitter) = running.emitter else { return Err(CallError::Stopped("not_in_a_call".into())) };
    let charged = session.charged();
    let done = session.aside().run(taken, input, allowance, running.depth + 1, emitter).await;
    // The session was already charged for the sibling's run; the caller must not be charged for it again.
    let charged = session.charged().saturating_sub(charged);
    if let Some(running) = &mut cx.data_mut().running {
        running.charged += charged;
    }
    // Fuel is on for every store of the engine.
    let _ = cx.as_context_mut().set_fuel(left.fuel.saturating_sub(done.fuel));
    match done.result {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(GuestError::InvalidInput(why))) => Err(CallError::InvalidInput(why)),
        Ok(Err(GuestError::Failed(why))) => Err(CallError::Failed(why)),
        Err(stop) => Err(CallError::Stopped(stop.to_string())),
    }
}
