//! What Carrel does, behaviour by behaviour.

#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod callers;
mod cli;
mod config;
mod connections;
mod docs;
mod fuel;
mod guests;
mod hostile;
mod http;
mod isolation;
mod limits;
mod loading;
mod model;
mod parking;
mod rollback;
mod sessions;
mod siblings;
