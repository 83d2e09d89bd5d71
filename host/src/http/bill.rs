//! The cost of a call, as headers of its answer.

use crate::limits::Bill;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::time::Duration;

/// Units of fuel.
const FUEL: HeaderName = HeaderName::from_static("carrel-fuel");
/// Functions that were run: the one that was called, and all that were called in it.
const FUNCTIONS: HeaderName = HeaderName::from_static("carrel-functions");
/// The call's times (<https://www.w3.org/TR/server-timing/>), in milliseconds.
const TIMING: HeaderName = HeaderName::from_static("server-timing");

pub(super) fn write(bill: &Bill, headers: &mut HeaderMap) {
    headers.insert(FUEL, HeaderValue::from(bill.fuel));
    headers.insert(FUNCTIONS, HeaderValue::from(bill.functions));
    if let Ok(timing) = HeaderValue::try_from(timing(bill)) {
        headers.insert(TIMING, timing);
    }
}

/// Formats a bill as a line, for a stream, whose headers are sent before the cost is known.
pub(super) fn line(bill: &Bill) -> String {
    format!("{FUEL}: {}; {FUNCTIONS}: {}; {TIMING}: {}", bill.fuel, bill.functions, timing(bill))
}

fn timing(bill: &Bill) -> String {
    let mut timing = String::with_capacity(96);
    add(&mut timing, "queue;dur=", bill.waited);
    add(&mut timing, ", instantiate;dur=", bill.made);
    add(&mut timing, ", call;dur=", bill.ran.saturating_sub(bill.made));
    timing
}

/// Adds a name and a time in milliseconds, to the microsecond. Every answer has three of them, and with `std::fmt`
/// they would cost more than finding the session.
fn add(timing: &mut String, name: &str, time: Duration) {
    let mut digits = itoa::Buffer::new();
    timing.push_str(name);
    timing.push_str(digits.format(time.as_millis()));
    timing.push('.');
    // Three digits: the zeroes before the number are those that it has behind the 1.
    timing.push_str(&digits.format(1000 + time.subsec_micros() % 1000)[1..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_milliseconds_with_three_places() {
        let us = Duration::from_micros;
        let bill = Bill { waited: us(7), made: us(61_050), ran: us(100_061_053), ..Bill::default() };
        assert_eq!(timing(&bill), "queue;dur=0.007, instantiate;dur=61.050, call;dur=100000.003");
    }
}
