#!/usr/bin/env bash
# Counts what a request does, where the machine's mood does not matter: a Markdown table on stdout.
#
#   host/benches/counts.sh [CARREL]
#
# Carrel runs under valgrind's callgrind, which counts instructions, calls of functions and, by the program's
# disassembly, atomic instructions. Each figure is the difference of two runs of the same requests, one with more of
# them, divided by the number that it had more: what a start costs, and the first requests, is in neither. `CARREL` is
# a binary to count in; by default the release build of this checkout, which is made first.
#
# It needs valgrind, curl and objdump, and takes some five minutes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

fewer=400
more=1400
users=100

for tool in valgrind curl objdump; do
    command -v "$tool" >/dev/null || { echo "counts.sh needs $tool" >&2; exit 1; }
done
if [ $# -eq 0 ]; then
    cargo build --release --package carrel --bin carrel >&2
fi
carrel=${1:-${CARGO_TARGET_DIR:-target}/release/carrel}
folder=$(mktemp -d)
server=
finish() {
    if [ -n "$server" ]; then kill -KILL "$server" 2>/dev/null || true; fi
    rm -rf "$folder"
}
trap finish EXIT

# The requests of a case, for curl, over one connection: N of them, of so many users in turn.
requests() { # body users n
    local n
    for ((n = 0; n < $3; n++)); do
        [ "$n" = 0 ] || echo next
        printf 'url = "http://%s/generate"\nsilent\nfail\noutput = "/dev/null"\n' "$address"
        printf 'header = "Content-Type: application/json"\ncookie = "nat-session=user%d"\n' $((n % $2))
        printf 'data = "%s"\n' "${1//\"/\\\"}"
    done
}

# Runs the requests of a case under callgrind; the profile is in the folder, by the name.
profile() { # name body users n
    valgrind --tool=callgrind --separate-threads=yes --dump-instr=yes --compress-strings=no --compress-pos=no \
        --callgrind-out-file="$folder/$1.out" \
        "$carrel" serve --config_file=configs/config.yml --host 127.0.0.1 --port 0 2>"$folder/$1.err" >/dev/null &
    server=$!
    address=
    for _ in $(seq 600); do
        address=$(sed -n 's|.* on http://\([0-9.:]*\)$|\1|p' "$folder/$1.err" | head -1)
        [ -z "$address" ] || break
        kill -0 "$server" 2>/dev/null || { cat "$folder/$1.err" >&2; exit 1; }
        sleep 0.5
    done
    [ -n "$address" ] || { echo "it does not start under valgrind" >&2; exit 1; }
    requests "$2" "$3" "$4" >"$folder/requests"
    timeout 600 curl --config "$folder/requests" >&2
    kill -TERM "$server"
    wait "$server" || true
    server=
}

# The addresses of atomic instructions.
objdump --disassemble --no-show-raw-insn "$carrel" | awk '
    /^ *[0-9a-f]+:/ && (/\tlock / || /\txchg .*\(/) { sub(":", "", $1); print $1 }' >"$folder/atomic"

# Sums of some profiles: a name and a number on each line.
sums() { # profiles
    awk -v atomic="$folder/atomic" -v binary="$(realpath "$carrel")" '
        BEGIN { while ((getline address < atomic) > 0) is_atomic[address] = 1 }
        /^ob=/ { object = substr($0, 4); next }
        /^(fn|cob|cfi|cfl|fl|fi|fe|jump|jcnd)=/ { next }
        /^cfn=/ { callee = substr($0, 5); next }
        /^calls=/ {
            split(substr($0, 7), parts, " ")
            name = callee
            sub(/@.*/, "", name); sub(/\x27[0-9]+$/, "", name)
            calls[name] += parts[1]
            skip = 1
            next
        }
        /^0x[0-9a-f]+ / {
            # The line after a call has what the callee took.
            if (skip) { skip = 0; next }
            instructions += $3
            if (object == binary && substr($1, 3) in is_atomic) atomics += $3
        }
        END {
            print "instructions", instructions
            print "atomics", atomics
            for (name in calls) print name, calls[name]
        }' "$@"
}

# The rows of the table: what is counted, and a pattern of the functions whose calls it is.
rows='instructions in user space|instructions
atomic instructions of the binary|atomics
allocations|_rjem_(malloc|mallocx|calloc)
reallocations|_rjem_(realloc|rallocx|xallocx)
memory given back|_rjem_(sdallocx|free|dallocx)
copies and fills of memory|(__)?mem(cpy|move|set)(_.*)?
clock reads|(__)?clock_gettime
reads of sockets|recv|recvfrom|read|readv
writes to sockets|send|sendto|write|writev
waits for events|epoll_p?wait
system calls for locks and wake-ups|syscall'

declare -A case_body=([stats]='{"command":"stats"}' [list]='{"command":"note","action":"list"}')
declare -A counted
cases=("stats 1" "stats $users" "list 1" "list $users")
for it in "${cases[@]}"; do
    read -r what of <<<"$it"
    for n in "$fewer" "$more"; do
        echo "counting $what, $of users, $n requests" >&2
        profile "$what-$of-$n" "${case_body[$what]}" "$of" "$n"
        # Of the threads that wait for events: what the clock's thread does goes by time, and not by requests.
        mapfile -t workers < <(grep -l 'cfn=epoll_p\?wait' "$folder/$what-$of-$n.out"*)
        sums "${workers[@]}" >"$folder/$what-$of-$n"
        rm "$folder/$what-$of-$n.out"*
    done
done

echo "| a request | \`stats\`, one user | \`stats\`, $users users in turn | \`note list\`, one user | \`note list\`, $users users in turn |"
echo "|---|---:|---:|---:|---:|"
while IFS='|' read -r title pattern; do
    line="| $title |"
    for it in "${cases[@]}"; do
        read -r what of <<<"$it"
        value=$(awk -v pattern="^($pattern)\$" -v by=$((more - fewer)) '
            $1 ~ pattern { if (FILENAME == ARGV[1]) fewer += $NF; else more += $NF }
            END { printf "%.*f", (more - fewer) / by < 100 ? 1 : 0, (more - fewer) / by }' \
            "$folder/$what-$of-$fewer" "$folder/$what-$of-$more")
        line+=" $value |"
    done
    echo "$line"
done <<<"$rows"
