#!/usr/bin/env bash
# All figures of host/docs/performance.md, in one run: Markdown tables on stdout, everything else on stderr.
#
#   host/benches/all.sh [full|quick|smoke] [PART..]
#
# full, the default, takes some 30 minutes and most of 24 GiB of memory; quick some five minutes; smoke, which only
# shows whether all of it works, a minute. Parts are hot, rollback, live, parked, waiting, fair, hostile, large
# and rate; all by default.
#
# With CARREL_BEFORE=PATH another binary of Carrel's, such as the one before a change, takes part in the rounds of hot,
# and a table has what a request costs against it.
#
# It builds Carrel as it is shipped, the native server and the program that measures (figures/). The latter starts and
# ends the servers, each on a port of 127.0.0.1 that the system chooses, and stops by itself when it takes too long, or
# memory runs low. Exit code 1: a figure could not be measured, or is not what it should be at least.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# In two steps, so that Carrel is built as it is shipped: examples are built with the features of the tests, too. That
# gives tokio and hyper parts that the other servers do not use.
cargo build --release --package carrel --bin carrel >&2
cargo build --release --package carrel --example native_server --example figures >&2
exec "${CARGO_TARGET_DIR:-target}/release/examples/figures" "$@"
