//! A guest's pollables.

use super::work::{LISTED, Work};
use wasmtime::component::{Resource, ResourceTable};
use wasmtime_wasi::p2::{DynPollable, bindings::io::poll};

/// A guest's pollables, and what it owes for polling them.
pub(super) struct Polls<'a> {
    pub(super) table: &'a mut ResourceTable,
    pub(super) work: &'a Work,
}

impl poll::Host for Polls<'_> {
    async fn poll(&mut self, list: Vec<Resource<DynPollable>>) -> wasmtime::Result<Vec<u32>> {
        self.work.add(LISTED * list.len() as u64);
        poll::Host::poll(self.table, list).await
    }
}

impl poll::HostPollable for Polls<'_> {
    async fn ready(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<bool> {
        poll::HostPollable::ready(self.table, pollable).await
    }

    async fn block(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        poll::HostPollable::block(self.table, pollable).await
    }

    fn drop(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        poll::HostPollable::drop(self.table, pollable)
    }
}
