//! The configurations of the hosts to attack.
//!
//! On each host some limits are under attack, and the others leave room, so that no other limit stops the attack
//! first. A limit under attack has the value of the configuration, or a lower one if this machine could not reach it,
//! or not soon: the mechanism is the same.

use crate::{
    config::Config,
    limits::{Amount, Limit, Limits, Quota, Rate},
};
use std::time::Duration;

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
const ROOM: usize = 4 * MOST_BYTES;
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
pub(super) fn only(config: &Config, attacked: &[&Limit]) -> Config {
    let mut config = config.clone();
    for limits in all(&mut config) {
        let given = std::mem::replace(limits, roomy(limits));
        for limit in attacked {
            set(limits, &given, limit);
        }
    }
    config
}

/// The configuration of a host with enough fuel to measure what a unit costs.
pub(super) fn priced(config: &Config) -> Config {
    let mut config = only(config, &[]);
    for limits in all(&mut config) {
        limits.fuel_per_call = MEASURED_FUEL;
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
        memory: ROOM,
        max_sessions: COUNT,
        calls: COUNT,
        connections: COUNT,
        open_files: FILES,
        ..given.clone()
    }
}

/// Sets a limit to what it is tried at. One that is not configured stays without a bound.
fn set(limits: &mut Limits, given: &Limits, limit: &Limit) {
    let Some(amount) = given.amount(limit) else { return };
    let is = |any: &[&Limit]| any.contains(&limit);
    let tried = match amount {
        Amount::Size(bytes) if is(&[Limits::MEMORY]) => Amount::Size(bytes.min(2 * MOST_BYTES)),
        Amount::Size(bytes) if is(&[Quota::USER_MEMORY]) => Amount::Size(bytes.min(MOST_BYTES / 2)),
        Amount::Size(bytes) if is(&[Limits::OUTPUT_SIZE, Limits::BODY_SIZE]) => Amount::Size(bytes.min(MOST_BYTES / 8)),
        Amount::Size(bytes) => Amount::Size(bytes.min(MOST_BYTES)),
        Amount::Count(units) if is(&[Limits::FUEL_PER_CALL]) => Amount::Count(units.min(MOST_FUEL)),
        Amount::Count(count) if is(&[Limits::CONNECTIONS]) => Amount::Count(count.min(3 * MOST as u64)),
        Amount::Count(count) if ["calls", "sessions"].contains(&limit.of) => Amount::Count(count.min(MOST as u64 / 4)),
        Amount::Count(count) => Amount::Count(count.min(MOST as u64)),
        Amount::Time(time) => Amount::Time(time.min(MOST_TIME)),
        Amount::Rate(rate) if is(&[Quota::USER_FUEL, Quota::TENANT_FUEL]) => {
            Amount::Rate(Rate { burst: rate.burst.min(MOST_OF_BUCKET), ..rate })
        }
        Amount::Rate(rate) => {
            let (per_second, burst) = (rate.per_second.min(MOST_REQUESTS), rate.burst.min(MOST as u64));
            Amount::Rate(Rate { per_second, burst })
        }
    };
    limits.set(limit, tried);
    if is(&[Limits::DEADLINE]) {
        limits.fuel_per_call = ENDLESS;
    }
    // A bucket is emptied by several calls, so that it is seen that they are added up.
    for rate in [limits.user.fuel, limits.tenant.fuel].into_iter().flatten() {
        limits.fuel_per_call = limits.fuel_per_call.min((rate.burst / 4).max(1));
    }
}
