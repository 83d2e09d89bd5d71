#!/bin/sh
# Makes keeper.wasm of keeper.js. It needs node and npm; the tests do not, since keeper.wasm is kept in the repository.
#
# componentize-qjs runs the script's top level in QuickJS when it compiles, and keeps what is in memory then. The seeds
# of that run are in it too, so that the file differs a little each time.
set -eu
cd "$(dirname "$0")"
npx --yes componentize-qjs@0.4.5 --sync --opt-size --wit ../../../wit --world guest --js keeper.js --output keeper.wasm
