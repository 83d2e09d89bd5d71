//! Places for inputs that guests have refused, and that the host reads to find out why.
//!
//! Reading an input is the host's work, which no fuel pays for, so only a few are read at once.

use std::sync::Arc;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// Inputs that are read at once.
const AT_ONCE: usize = 2;
/// Inputs of one tenant that are read at once, so that other tenants need not wait for all of them.
const OF_TENANT: usize = 1;

/// The places of a host.
pub(crate) struct Readings {
    all: Arc<Semaphore>,
    tenants: Vec<Arc<Semaphore>>,
}

impl Readings {
    /// Makes the places for so many tenants.
    pub(crate) fn new(tenants: usize) -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self { all: semaphore(AT_ONCE), tenants: (0..tenants).map(|_| semaphore(OF_TENANT)).collect() }
    }

    /// Waits for a place for a tenant's input: first behind the tenant's own, so that these do not block other
    /// tenants.
    pub(crate) async fn place(&self, tenant: u16) -> Option<[OwnedSemaphorePermit; 2]> {
        let take = async |semaphore: Arc<Semaphore>| -> Result<_, AcquireError> { semaphore.acquire_owned().await };
        let own = take(self.tenants.get(usize::from(tenant))?.clone()).await.ok()?;
        Some([own, take(self.all.clone()).await.ok()?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn a_tenant_has_a_place_though_another_one_wants_all_of_them() {
        let readings = Readings::new(3);
        let first = readings.place(0).await;
        let mut waiting: Vec<_> = (0..100).map(|_| Box::pin(readings.place(0))).collect();
        assert!(first.is_some() && waiting.iter_mut().all(|place| place.now_or_never().is_none()));
        let other = readings.place(1).now_or_never().flatten();
        assert!(other.is_some() && readings.place(2).now_or_never().is_none(), "two at once, and no more");
        drop(first);
        assert!(readings.place(2).now_or_never().flatten().is_some());
    }
}
