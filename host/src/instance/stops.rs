//! The import `stops`: stops of siblings as values, which their caller can pass on.

use super::{
    Context,
    contract::carrel::function::stops::Stop as Told,
    pay::{pay_for_bytes, pay_for_call},
};
use wasmtime::StoreContextMut;

/// The stop that the newest sibling call of the function ended with.
///
/// # Errors
///
/// The guest has no fuel left for it, and is stopped.
pub(super) fn last(mut cx: StoreContextMut<'_, Context>) -> wasmtime::Result<Option<Told>> {
    pay_for_call(&mut cx, 0)?;
    let Some((number, stop)) = cx.data().running.as_ref().and_then(|running| running.stops.last()) else {
        return Ok(None);
    };
    // Its texts are short: those of guests are cut.
    let told = Told {
        number,
        code: stop.kind.code().into(),
        function: (*stop.function).into(),
        setting: stop.kind.limit().map(|limit| limit.key.into()),
        text: stop.to_string(),
    };
    pay_for_bytes(&mut cx, told.code.len() + told.function.len() + told.text.len())?;
    Ok(Some(told))
}

/// Passes a stop on, should the running call fail; false if the function was not told of it, or is not any more.
///
/// # Errors
///
/// The guest has no fuel left for it, and is stopped.
pub(super) fn pass_on(mut cx: StoreContextMut<'_, Context>, number: u64) -> wasmtime::Result<bool> {
    pay_for_call(&mut cx, 0)?;
    Ok(cx.data_mut().running.as_mut().is_some_and(|running| running.stops.pass_on(number)))
}
