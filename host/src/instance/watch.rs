//! Notes of an instance of which an image is made.

use std::sync::{Arc, atomic::AtomicBool};

/// Flags that a guest was told something that differs between instances or tenants.
pub(super) struct Watch {
    pub(super) differs: Arc<AtomicBool>,
    pub(super) asked_for_functions: Arc<AtomicBool>,
    /// The seed for the guest's hash maps.
    pub(super) seed: u128,
}
