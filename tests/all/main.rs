//! Tests of Carrel, behaviour by behaviour.

#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout)]

/// The binary's own allocator, because the memory of processes is measured.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

mod admin;
mod bill;
mod callers;
mod cli;
mod clients;
mod config;
mod connections;
mod container;
mod dependencies;
mod description;
mod descriptors;
mod docs;
mod fairness;
mod files;
mod fuel;
mod grants;
mod guests;
mod held;
mod hostile;
mod http;
mod identity;
mod isolation;
mod limits;
mod loading;
mod memory;
mod model;
mod parking;
mod process;
mod prove;
mod rollback;
mod served;
mod sessions;
mod siblings;
mod state;
mod streams;
mod structure;
mod tenants;
mod waits;
mod waking;
mod wire;
