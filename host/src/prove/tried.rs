//! The configurations of the hosts to attack.
//!
//! On each host some limits are under attack, and the others leave room, so that no other limit stops the attack
//! first. A limit under attack has the value of the configuration, or a lower one if this machine could not reach it,
//! or not soon: the mechanism is the same.

use crate::{
    config::Config,
    limits::{Limits, Quota, Rate},
};
use std::time::Duration;

/// Not a limit: the processor time of a unit of fuel.
pub(super) const PRICE: &str = "the price of fuel";

/// The most that is tried of limits that count something.
const MOST: usize = 100;
/// The most bytes that are tried of one instance and of a tenant; of the host it is twice as much.
const MOST_BYTES: usize = 64 << 20;
/// The most that is tried of a call's fuel: a tenth of a second.
const MOST_FUEL: u64 = 500_000_000;
/// The longest deadline that is waited for.
const MOST_TIME: Duration = Duration::from_secs(2);
/// The most fuel that is used up to empty a bucket, and the most requests a second that one caller exceeds.
const MOST_OF_BUCKET: u64 = 200_000_000;
const MOST_REQUESTS: u64 = 20;

/// The deadline of attacks on other limits: enough for all of them to end on a busy machine.
const TIME: Duration = Duration::from_secs(10);
/// Some 0.3 s on one processor.
const FUEL: u64 = 2_000_000_000;
/// The deadline where deadlines are attacked, by guests that compute: more than there is until then.
const ENDLESS: u64 = 1 << 50;
/// Fuel that is used up to measure the cost of a unit: enough to be measured, and not too much for a debug build.
const MEASURED_FUEL: u64 = 100_000_000;
/// Memory that the host has: some instances of [`MOST_BYTES`], with what rollback keeps of them.
const MEMORY: usize = 4 * MOST_BYTES;
/// Bytes of inputs, and of the answers to the attackers' calls.
const TEXT: usize = 64 << 10;
/// Whatever is counted.
const COUNT: usize = 10 * MOST;
const FILES: usize = 5 * MOST;
const DEPTH: usize = 4;

/// The limits of the host and of all tenants.
pub(super) fn all(config: &mut Config) -> impl Iterator<Item = &mut Limits> {
    config.tenants.iter_mut().map(|tenant| &mut tenant.limits).chain([&mut config.limits])
}

/// The configuration with some of its limits under attack, and room in all others.
pub(super) fn only(config: &Config, keys: &[&str]) -> Config {
    let mut config = config.clone();
    for limits in all(&mut config) {
        let given = std::mem::replace(limits, roomy(limits));
        for key in keys {
            set(limits, &given, key);
        }
    }
    config
}

fn roomy(given: &Limits) -> Limits {
    Limits {
        fuel_per_call: FUEL,
        deadline: TIME,
        memory_per_instance: MOST_BYTES,
        output_size: given.output_size.clamp(TEXT, MOST_BYTES / 8),
        body_size: given.body_size.clamp(TEXT, MOST_BYTES / 8),
        queue_per_session: given.queue_per_session.clamp(DEPTH, MOST),
        call_depth: given.call_depth.max(DEPTH),
        user: Quota::default(),
        tenant: Quota::default(),
        memory: MEMORY,
        max_sessions: COUNT,
        calls: COUNT,
        connections: COUNT,
        open_files: FILES,
        ..given.clone()
    }
}

/// Sets a limit to what it is tried at.
fn set(limits: &mut Limits, given: &Limits, key: &str) {
    let least = |given: Option<usize>, most: usize| given.map(|given| given.min(most));
    let fuel = |rate: Rate| Rate { burst: rate.burst.min(MOST_OF_BUCKET), ..rate };
    let requests =
        |rate: Rate| Rate { per_second: rate.per_second.min(MOST_REQUESTS), burst: rate.burst.min(MOST as u64) };
    match key {
        "limits.memory" => limits.memory = given.memory.min(2 * MOST_BYTES),
        "limits.tenant.memory" => limits.tenant.memory = least(given.tenant.memory, MOST_BYTES),
        "limits.user.memory" => limits.user.memory = least(given.user.memory, MOST_BYTES / 2),
        "limits.memory_per_instance" => limits.memory_per_instance = given.memory_per_instance.min(MOST_BYTES),
        "limits.fuel_per_call" => limits.fuel_per_call = given.fuel_per_call.min(MOST_FUEL),
        PRICE => limits.fuel_per_call = MEASURED_FUEL,
        "limits.deadline" => (limits.deadline, limits.fuel_per_call) = (given.deadline.min(MOST_TIME), ENDLESS),
        "limits.output_size" => limits.output_size = given.output_size.min(MOST_BYTES / 8),
        "limits.body_size" => limits.body_size = given.body_size.min(MOST_BYTES / 8),
        "limits.queue_per_session" => limits.queue_per_session = given.queue_per_session.min(MOST),
        "limits.call_depth" => limits.call_depth = given.call_depth,
        "limits.calls" => limits.calls = given.calls.min(MOST / 4),
        "limits.tenant.calls" => limits.tenant.calls = least(given.tenant.calls, MOST / 4),
        "limits.max_sessions" => limits.max_sessions = given.max_sessions.min(MOST / 4),
        "limits.tenant.sessions" => limits.tenant.sessions = least(given.tenant.sessions, MOST / 4),
        "limits.connections" => limits.connections = given.connections.min(3 * MOST),
        "limits.open_files" => limits.open_files = given.open_files.min(MOST),
        "limits.tenant.open_files" => limits.tenant.open_files = least(given.tenant.open_files, MOST),
        "limits.user.open_files" => limits.user.open_files = least(given.user.open_files, MOST),
        "limits.user.fuel_per_second" => limits.user.fuel = given.user.fuel.map(fuel),
        "limits.tenant.fuel_per_second" => limits.tenant.fuel = given.tenant.fuel.map(fuel),
        "limits.user.requests_per_second" => limits.user.requests = given.user.requests.map(requests),
        "limits.tenant.requests_per_second" => limits.tenant.requests = given.tenant.requests.map(requests),
        _ => {}
    }
    // A bucket is emptied by several calls, so that it is seen that they are added up.
    for rate in [limits.user.fuel, limits.tenant.fuel].into_iter().flatten() {
        limits.fuel_per_call = limits.fuel_per_call.min((rate.burst / 4).max(1));
    }
}
