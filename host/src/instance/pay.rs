//! Payment for the host's work, off a guest's fuel: see [`work`](super::work).

use super::{
    Context,
    work::{BYTE, CALL, Work},
};
use wasmtime::{StoreContextMut, Trap};

/// Takes so many units off the fuel that is left, and what is owed.
///
/// # Errors
///
/// There are not so many left: the guest is stopped, and has used all it had.
pub(crate) fn pay(cx: &mut StoreContextMut<'_, Context>, units: u64) -> wasmtime::Result<()> {
    let units = units.saturating_add(cx.data().work().map_or(0, Work::take));
    if units == 0 {
        return Ok(());
    }
    let left = cx.get_fuel()?.checked_sub(units);
    cx.set_fuel(left.unwrap_or(0))?;
    if left.is_some() { Ok(()) } else { Err(Trap::OutOfFuel.into()) }
}

/// Like [`pay`], for bytes that are copied.
pub(crate) fn pay_for_bytes(cx: &mut StoreContextMut<'_, Context>, bytes: usize) -> wasmtime::Result<()> {
    pay(cx, BYTE.saturating_mul(bytes as u64))
}

/// Like [`pay`], for a call of an import that copies so many bytes.
pub(super) fn pay_for_call(cx: &mut StoreContextMut<'_, Context>, bytes: usize) -> wasmtime::Result<()> {
    pay(cx, BYTE.saturating_mul(bytes as u64).saturating_add(CALL))
}
