//! What a call has cost, as headers of its answer.

use crate::session::Bill;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::{fmt::Write, time::Duration};

/// Units of fuel.
const FUEL: HeaderName = HeaderName::from_static("carrel-fuel");
/// Functions that were run: the one that was called, and all that were called in it.
const FUNCTIONS: HeaderName = HeaderName::from_static("carrel-functions");
/// Where the time went (<https://www.w3.org/TR/server-timing/>), in milliseconds.
const TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Writes a bill.
pub(super) fn write(bill: &Bill, headers: &mut HeaderMap) {
    headers.insert(FUEL, HeaderValue::from(bill.fuel));
    headers.insert(FUNCTIONS, HeaderValue::from(bill.functions));
    if let Ok(timing) = HeaderValue::try_from(timing(bill)) {
        headers.insert(TIMING, timing);
    }
}

/// The same as a line, for a stream, whose headers are sent before it is known.
pub(super) fn line(bill: &Bill) -> String {
    format!("{FUEL}: {}; {FUNCTIONS}: {}; {TIMING}: {}", bill.fuel, bill.functions, timing(bill))
}

fn timing(bill: &Bill) -> String {
    let mut timing = String::with_capacity(64);
    let parts = [("queue", bill.waited), ("instantiate", bill.made), ("call", bill.ran.saturating_sub(bill.made))];
    for (index, (name, time)) in parts.into_iter().enumerate() {
        // Writing to a string does not fail.
        let _ = write!(timing, "{}{name};dur={}", if index > 0 { ", " } else { "" }, Milliseconds(time));
    }
    timing
}

/// To the microsecond, without the cost of a floating-point number.
struct Milliseconds(Duration);

impl std::fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:03}", self.0.as_millis(), self.0.subsec_micros() % 1000)
    }
}
