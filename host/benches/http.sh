#!/usr/bin/env bash
# Carrel and the same service in native Rust (native/), over HTTP on this machine, in one run.
#
#   host/benches/http.sh [ROUNDS [SECONDS]]        by default 3 rounds of 5 seconds for each case and server
#
# Builds both, starts both on ports of 127.0.0.1 that the system chooses, looks whether they give the same answers, and
# lets wrk ask one after the other, in turns, so that what else the machine does meets both. The Markdown table goes to
# stdout, the rest to stderr. It fails if any answer is wrong, is not a 200, or does not come.
#
# wrk runs on the same cores as the servers. The CPU that a server needs for a request, as the kernel counts it, is the
# figure to trust; requests per second depend on what wrk leaves of the machine.
set -euo pipefail

readonly STATS='{"command":"stats"}'
readonly LIST='{"command":"note","action":"list"}'
readonly ADD='{"command":"note","action":"add","param1":"milk"}'
readonly USERS=1000
readonly NOTES=5
# Name, body, users.
readonly CASES=(
    "stats, one user|$STATS|1"
    "stats, $USERS users in turn|$STATS|$USERS"
    "note list ($NOTES notes), $USERS users in turn|$LIST|$USERS"
)

say() { echo "$*" >&2; }
fail() { say "error: $*"; exit 1; }

readonly ROUNDS=${1:-3} SECONDS_EACH=${2:-5}
[[ $# -le 2 && $ROUNDS =~ ^[1-9][0-9]?$ && $SECONDS_EACH =~ ^[1-9][0-9]?$ ]] ||
    fail "usage: $0 [ROUNDS [SECONDS]], each from 1 to 99"
command -v wrk >/dev/null || fail "wrk is needed: Debian and Ubuntu have it as the package wrk, Homebrew as well"
command -v curl >/dev/null || fail "curl is needed"
[[ -r /proc/self/stat ]] || fail "the CPU that a server used is read from /proc, which is Linux's"

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
cd "$root"
work=$(mktemp -d)
declare -A pid=() url=()

finish() {
    local server
    for server in "${!pid[@]}"; do
        kill "${pid[$server]}" 2>/dev/null || true
        wait "${pid[$server]}" 2>/dev/null || true
    done
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# In two steps, so that Carrel is built as it is shipped: examples are built with the features of the tests, too. That
# gives tokio and hyper parts that the native server does not use.
say "building"
cargo build --release --package carrel --bin carrel >&2
cargo build --release --package carrel --example native_server >&2
built=${CARGO_TARGET_DIR:-target}/release

# start NAME COMMAND..: starts a server, and waits until it says where it listens.
start() {
    local server=$1 log=$work/$1.log
    shift
    "$@" >"$log" 2>&1 &
    pid[$server]=$!
    for _ in $(seq 300); do
        url[$server]=$(grep -oE -m1 'http://127\.0\.0\.1:[0-9]+' "$log" || true)
        if [[ -n ${url[$server]} ]] && curl -sf "${url[$server]}/health" >/dev/null; then
            say "$server: process ${pid[$server]}, ${url[$server]}"
            return
        fi
        kill -0 "${pid[$server]}" 2>/dev/null || break
        sleep 0.1
    done
    cat "$log" >&2
    fail "$server did not start"
}

# ask SERVER USER BODY: the answer, and its status in a line of its own.
ask() {
    curl -sS -m 10 -w '\n%{http_code}\n' -H 'Content-Type: application/json' -b "nat-session=$2" -d "$3" \
        "${url[$1]}/generate"
}

check_answers() {
    local body native carrel
    local dialogue=(
        "$STATS" "$ADD" "$LIST"
        '{"command":"note","action":"count"}' '{"command":"NOTE","action":"Add"}'
        '{"command":"pref","action":"set","param1":"color","param2":"blue"}'
        '{"command":"pref","action":"get","param1":"theme"}' '{"command":"pref","action":"list"}'
        '{"command":"help"}' '{"command":"nope"}' '{"command":"note","action":"clear"}'
    )
    for body in "${dialogue[@]}"; do
        native=$(ask native checked "$body")
        carrel=$(ask carrel checked "$body")
        [[ $native == "$carrel" && $native == *$'\n200' ]] ||
            fail "the answers to $body are not the same 200: native says $native, Carrel says $carrel"
    done
    carrel=$(ask carrel checked "$STATS")
    [[ $carrel == '{"success":true,"message":"Session statistics: 12 commands executed","data":{"commands_executed":12}}'$'\n200' ]] ||
        fail "Carrel's answer to $STATS is $carrel"
}

# Gives each user the notes that will be listed.
seed() {
    local server=$1 user note made
    for user in $(seq "$USERS"); do
        for note in $(seq "$NOTES"); do
            printf 'url = "%s/generate"\n' "${url[$server]}"
            printf 'header = "Content-Type: application/json"\ncookie = "nat-session=user-%s"\n' "$user"
            printf 'data = "%s"\n' "${ADD//\"/\\\"}"
            printf 'output = "/dev/null"\nwrite-out = "%%{http_code}\\n"\nnext\n'
        done
    done | sed '$d' >"$work/seed"
    made=$(curl -sS -K "$work/seed" | grep -c '^200$')
    [[ $made -eq $((USERS * NOTES)) ]] || fail "$server took only $made of $((USERS * NOTES)) notes"
}

# Clock ticks of CPU that a process has used: the fields utime and stime, counted after the name, which may hold spaces.
ticks() {
    local stat fields
    stat=$(<"/proc/$1/stat")
    read -ra fields <<<"${stat##*) }"
    echo $((fields[11] + fields[12]))
}

# load SERVER SECONDS BODY USERS [check]: sets requests, took, p50, p99, in microseconds, and cpu, in ticks.
load() {
    local server=$1 seconds=$2 before out bad
    shift 2
    before=$(ticks "${pid[$server]}")
    out=$(wrk -t2 -c32 -d"${seconds}s" --timeout 5s -s "$here/http.lua" "${url[$server]}/generate" -- "$@")
    cpu=$(($(ticks "${pid[$server]}") - before))
    read -r requests took p50 p99 bad < <(sed -n 's/^result //p' <<<"$out") || { say "$out"; fail "wrk gave no result"; }
    if [[ $requests -eq 0 || $bad -ne 0 ]]; then
        say "$out"
        fail "$bad of the $requests answers of $server were not as they should be"
    fi
}

start native "$built/examples/native_server"
start carrel "$built/carrel" serve --config_file=configs/config.yml --host=127.0.0.1 --port=0
check_answers
say "both give the same answers"
seed native
seed carrel

per_second=$(getconf CLK_TCK)
for number in "${!CASES[@]}"; do
    IFS='|' read -r name body users <<<"${CASES[$number]}"
    for server in native carrel; do
        load "$server" 1 "$body" "$users" check
    done
    for ((round = 1; round <= ROUNDS; round++)); do
        # Who goes first takes turns as well.
        if ((round % 2)); then order=(native carrel); else order=(carrel native); fi
        for server in "${order[@]}"; do
            load "$server" "$SECONDS_EACH" "$body" "$users"
            echo "$number $server $requests $took $p50 $p99 $cpu $per_second" >>"$work/runs"
            say "$name: $server, round $round: $((requests * 1000000 / took)) req/s," \
                "$((cpu * 1000000 / per_second / requests)) us of CPU each"
        done
    done
done

names=("${CASES[@]%%|*}")
printf '%s\n' "${names[@]}" >"$work/names"
awk '
    # The middle one of the values in a text; of an even number, the mean of the two in the middle.
    function median(text,    values, n, i, j, swap) {
        n = split(text, values, " ")
        for (i = 2; i <= n; i++)
            for (j = i; j > 1 && values[j - 1] + 0 > values[j] + 0; j--) {
                swap = values[j]; values[j] = values[j - 1]; values[j - 1] = swap
            }
        return (values[int((n + 1) / 2)] + values[int(n / 2) + 1]) / 2
    }
    function row(number, server, title,    key, base) {
        key = number " " server
        base = number " native"
        printf "| %s | %s | %d | %.2f ms | %.2f ms | %.1f | %.2f | %.2f |\n", name[number], title, median(rate[key]),
            median(p50[key]) / 1000, median(p99[key]) / 1000, median(cpu[key]),
            median(cpu[key]) / median(cpu[base]), median(rate[key]) / median(rate[base])
    }
    FNR == NR { name[cases++] = $0; next }
    {
        key = $1 " " $2
        rate[key] = rate[key] " " $3 / $4 * 1000000
        p50[key] = p50[key] " " $5
        p99[key] = p99[key] " " $6
        cpu[key] = cpu[key] " " $7 / $8 * 1000000 / $3
    }
    END {
        print "| case | server | req/s | p50 | p99 | CPU us/request | CPU / native | req/s / native |"
        print "|---|---|---:|---:|---:|---:|---:|---:|"
        for (number = 0; number < cases; number++) {
            row(number, "native", "native")
            row(number, "carrel", "Carrel")
        }
    }
' "$work/names" "$work/runs"
