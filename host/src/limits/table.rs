//! The section `limits`: all keys, with their defaults and ranges.

use super::{
    machine,
    quota::{Level, Quota},
};
use crate::settings::reader::{Section, count, duration, size};
use std::time::Duration;

/// `limits`: all of them, with their defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Fuel that a call and all that it calls may use together. A unit is about one WebAssembly instruction.
    pub fuel_per_call: u64,
    /// The time from a call's arrival to its end: for all that it waits for, and its run.
    pub deadline: Duration,
    /// Bytes of linear memory and tables of one instance.
    pub memory_per_instance: usize,
    /// Bytes of a call's output, and of all that it emits.
    pub output_size: usize,
    /// Bytes of a request's body, and of the input of a sibling call.
    pub body_size: usize,
    /// Bytes of what a guest writes to stdout and stderr in one call; what is beyond is dropped.
    pub log_size: usize,
    /// Calls of one session that may wait for their turn.
    pub queue_per_session: usize,
    /// The depth to which calls may be nested: 1 lets no function call another.
    pub call_depth: usize,
    /// The quota of each user.
    pub user: Quota,
    /// The quota of each tenant.
    pub tenant: Quota,
    /// Bytes that all instances and snapshots may take together.
    pub memory: usize,
    /// Sessions that may be live at once.
    pub max_sessions: usize,
    /// Calls that may wait or run at once.
    pub calls: usize,
    /// Connections that may be open at once.
    pub connections: usize,
    /// Files and connections that all guests may have open at once.
    pub open_files: usize,
    /// Bytes of a guest's file.
    pub guest_size: usize,
    /// Bytes of a function's code, in a guest.
    pub guest_function_size: usize,
    /// The time that compiling a guest may take.
    pub guest_compile_time: Duration,
}

/// Connections that there may be where nothing else is said.
const CONNECTIONS: usize = 10_000;
/// Files and connections that a user's guests may have open where nothing else is said.
const OPEN_FILES: usize = 64;

impl Default for Limits {
    fn default() -> Self {
        Self {
            fuel_per_call: 1_000_000_000,
            deadline: Duration::from_secs(10),
            memory_per_instance: 64 << 20,
            output_size: 1 << 20,
            body_size: 1 << 20,
            log_size: 64 << 10,
            queue_per_session: 128,
            call_depth: 8,
            user: Quota { open_files: Some(OPEN_FILES), ..Quota::default() },
            tenant: Quota::default(),
            memory: machine::memory() / 4 * 3,
            max_sessions: 100_000,
            calls: 20_000,
            connections: CONNECTIONS,
            open_files: machine::descriptors_for_guests(CONNECTIONS),
            guest_size: 32 << 20,
            guest_function_size: 256 << 10,
            guest_compile_time: Duration::from_secs(60),
        }
    }
}

impl Limits {
    /// `limits`.
    pub(crate) fn read(mut section: Section<'_>) -> Self {
        let mut limits = Self::default();
        limits.read_shared(&mut section);
        limits.memory = section.read("memory", limits.memory, size(1 << 20, 1 << 50));
        limits.max_sessions = counted(&mut section, "max_sessions", limits.max_sessions, 1_000_000);
        limits.calls = counted(&mut section, "calls", limits.calls, 10_000_000);
        limits.connections = counted(&mut section, "connections", limits.connections, 10_000_000);
        let left = machine::descriptors_for_guests(limits.connections);
        limits.open_files = counted(&mut section, "open_files", left, 10_000_000);
        limits.guest_size = section.read("guest_size", limits.guest_size, size(1024, 1 << 30));
        let function_size = size(1024, 1 << 30);
        limits.guest_function_size = section.read("guest_function_size", limits.guest_function_size, function_size);
        let compile_time = duration(Duration::from_millis(10));
        limits.guest_compile_time = section.read("guest_compile_time", limits.guest_compile_time, compile_time);
        section.finish();
        limits
    }

    /// Reads the `limits` of a tenant; a key that is not given is as for all.
    pub(crate) fn read_of_tenant(&self, mut section: Section<'_>) -> Self {
        let mut limits = self.clone();
        limits.read_shared(&mut section);
        section.finish();
        limits
    }

    /// Reads the keys that a tenant may set for itself.
    fn read_shared(&mut self, section: &mut Section<'_>) {
        let gib = 1 << 30;
        self.fuel_per_call = section.read("fuel_per_call", self.fuel_per_call, count(1, u64::MAX / 2));
        self.deadline = section.read("deadline", self.deadline, duration(Duration::from_millis(10)));
        self.memory_per_instance = section.read("memory_per_instance", self.memory_per_instance, size(65536, 4 * gib));
        self.output_size = section.read("output_size", self.output_size, size(1, gib));
        self.body_size = section.read("body_size", self.body_size, size(1, gib));
        self.log_size = section.read("log_size", self.log_size, size(0, gib));
        self.queue_per_session = counted(section, "queue_per_session", self.queue_per_session, 1_000_000);
        self.call_depth = counted(section, "call_depth", self.call_depth, 64);
        self.user = Quota::read(section.section("user"), &self.user, Level::User);
        self.tenant = Quota::read(section.section("tenant"), &self.tenant, Level::Tenant);
    }
}

fn counted(section: &mut Section<'_>, key: &'static str, default: usize, most: u64) -> usize {
    section.read(key, default as u64, count(1, most)) as usize
}
