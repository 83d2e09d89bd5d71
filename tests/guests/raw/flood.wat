;; Asks the host for as much as it is told to, as often as it is told to, in the plainest way: what a guest's language
;; would never do.
;;
;; Its input is a text of a letter and two numbers, `"r 64 1000"`: what, how much, how often.
;;
;;   r  random bytes             p  pollables, which it keeps      b  pollables, which it drops
;;   l  polls one pollable that is in the list so many times       w  bytes to stdout       z  zeroes to stdout
;;   m  pages of memory          t  elements of a table            n  an output of so many `[`
;;   x  crashes, after all that
;;
;; It gives `{"count":3,"grown":7}`: its calls, and how often memory or table grew.
(component
    (import "wasi:io/error@0.2.0" (instance $errors (export "error" (type (sub resource)))))
    (alias export $errors "error" (type $error))
    (import "wasi:io/poll@0.2.0" (instance $poll
        (export "pollable" (type $pollable (sub resource)))
        (export "poll" (func (param "in" (list (borrow $pollable))) (result (list u32))))))
    (alias export $poll "pollable" (type $pollable))
    (import "wasi:io/streams@0.2.0" (instance $streams
        (export "output-stream" (type $output-stream (sub resource)))
        (alias outer 1 $error (type $outer-error))
        (export "error" (type $its-error (eq $outer-error)))
        (type $failure (variant (case "last-operation-failed" (own $its-error)) (case "closed")))
        (export "stream-error" (type $stream-error (eq $failure)))
        (export "[method]output-stream.write"
            (func (param "self" (borrow $output-stream)) (param "contents" (list u8)) (result (result (error $stream-error)))))
        (export "[method]output-stream.write-zeroes"
            (func (param "self" (borrow $output-stream)) (param "len" u64) (result (result (error $stream-error)))))))
    (alias export $streams "output-stream" (type $output-stream))
    (import "wasi:cli/stdout@0.2.0" (instance $stdout
        (alias outer 1 $output-stream (type $outer-stream))
        (export "output-stream" (type $its-stream (eq $outer-stream)))
        (export "get-stdout" (func (result (own $its-stream))))))
    (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
        (alias outer 1 $pollable (type $outer-pollable))
        (export "pollable" (type $its-pollable (eq $outer-pollable)))
        (export "subscribe-duration" (func (param "when" u64) (result (own $its-pollable))))))
    (import "wasi:random/random@0.2.0" (instance $random
        (export "get-random-bytes" (func (param "len" u64) (result (list u8))))))
    ;; The memory of its own, since the host's functions need it before there is an instance to export it.
    (core module $memory
        (memory (export "memory") 4)
        ;; What the host gives begins at 0x1000, and is taken back before each of its functions. Where it ends is kept
        ;; at 0x500, since a global that modules share could not be undone.
        (data (i32.const 0x500) (i32 0x1000))
        (func (export "realloc") (param i32 i32) (param $align i32) (param $size i32) (result i32)
            (local $new i32)
            (local.set $new (i32.and
                (i32.add (i32.load (i32.const 0x500)) (i32.sub (local.get $align) (i32.const 1)))
                (i32.sub (i32.const 0) (local.get $align))))
            (i32.store (i32.const 0x500) (i32.add (local.get $new) (local.get $size)))
            (block $enough
                (loop $more
                    (br_if $enough (i32.le_u (i32.load (i32.const 0x500)) (i32.mul (memory.size) (i32.const 0x10000))))
                    (br_if $more (i32.ge_s (memory.grow (i32.const 1)) (i32.const 0))))
                (unreachable))
            (local.get $new)))
    (core instance $memory (instantiate $memory))
    (alias core export $memory "memory" (core memory $memory))
    (alias core export $memory "realloc" (core func $realloc))
    (core func $random (canon lower (func $random "get-random-bytes") (memory $memory) (realloc $realloc)))
    (core func $subscribe (canon lower (func $clock "subscribe-duration")))
    (core func $poll (canon lower (func $poll "poll") (memory $memory) (realloc $realloc)))
    (core func $drop (canon resource.drop $pollable))
    (core func $stdout (canon lower (func $stdout "get-stdout")))
    (core func $write (canon lower (func $streams "[method]output-stream.write") (memory $memory)))
    (core func $zeroes (canon lower (func $streams "[method]output-stream.write-zeroes") (memory $memory)))
    (core func $drop-stream (canon resource.drop $output-stream))
    (core module $m
        (import "own" "memory" (memory 4))
        (import "wasi" "random" (func $random (param i64 i32)))
        (import "wasi" "subscribe" (func $subscribe (param i64) (result i32)))
        (import "wasi" "poll" (func $poll (param i32 i32 i32)))
        (import "wasi" "drop" (func $drop (param i32)))
        (import "wasi" "stdout" (func $stdout (result i32)))
        (import "wasi" "write" (func $write (param i32 i32 i32 i32)))
        (import "wasi" "zeroes" (func $zeroes (param i32 i64 i32)))
        (import "wasi" "drop-stream" (func $drop-stream (param i32)))
        ;; A table that grows could not be undone either: only a test that wants it reads what follows `;;table`.
        ;;table (table $table 1 funcref)
        ;; 0x10 description, 0x40 result of `configure`, 0x50 result of `call`, 0x60 results of the host, 0x100 texts,
        ;; 0x300 output, 0x400 state, 0x40000 lists.
        (data (i32.const 0x10) (i32
            0x100 5  0x140 30  0x200 17  0x220 2  0x200 17))
        (data (i32.const 0x100) "flood")
        (data (i32.const 0x140) "Asks for as much as it is told.")
        (data (i32.const 0x200) "{\"type\":\"object\"}")
        (data (i32.const 0x220) "{}")
        (data (i32.const 0x240) "\"count\":")
        (data (i32.const 0x250) "\"grown\":")
        (global $at (mut i32) (i32.const 0))

        (func (export "reset") (param i32) (i32.store (i32.const 0x500) (i32.const 0x1000)))
        (func (export "describe") (result i32) (i32.const 0x10))
        (func (export "configure") (param i32 i32) (result i32) (i32.const 0x40))

        (func (export "call") (param $input i32) (param $length i32) (result i32)
            (local $what i32) (local $much i32) (local $often i32) (local $handle i32) (local $grown i32)
            (i64.store (i32.const 0x400) (i64.add (i64.load (i32.const 0x400)) (i64.const 1)))
            (local.set $what (i32.load8_u (i32.add (local.get $input) (i32.const 1))))
            (global.set $at (local.get $input))
            (local.set $much (call $number (i32.add (local.get $input) (local.get $length))))
            (local.set $often (call $number (i32.add (local.get $input) (local.get $length))))
            (if (call $is (local.get $what) (i32.const 0x6c)) (then
                (local.set $handle (call $subscribe (i64.const 0)))
                (call $reach (i32.mul (local.get $much) (i32.const 4)))
                (local.set $length (i32.const 0))
                (loop $next
                    (i32.store (i32.add (i32.const 0x40000) (i32.mul (local.get $length) (i32.const 4))) (local.get $handle))
                    (local.set $length (i32.add (local.get $length) (i32.const 1)))
                    (br_if $next (i32.lt_u (local.get $length) (local.get $much))))))
            (if (i32.or (call $is (local.get $what) (i32.const 0x77)) (call $is (local.get $what) (i32.const 0x7a))) (then
                (local.set $handle (call $stdout))
                (if (call $is (local.get $what) (i32.const 0x77)) (then
                    (call $reach (local.get $much))
                    (memory.fill (i32.const 0x40000) (i32.const 0x78) (local.get $much))))))
            (if (call $is (local.get $what) (i32.const 0x6e)) (then
                (call $reach (local.get $much))
                (memory.fill (i32.const 0x40000) (i32.const 0x5b) (local.get $much))
                (i32.store (i32.const 0x50) (i32.const 0))
                (i32.store (i32.const 0x54) (i32.const 0x40000))
                (i32.store (i32.const 0x58) (local.get $much))
                (return (i32.const 0x50))))
            (block $enough
                (loop $again
                    (br_if $enough (i32.eqz (local.get $often)))
                    (local.set $often (i32.sub (local.get $often) (i32.const 1)))
                    (i32.store (i32.const 0x500) (i32.const 0x1000))
                    (if (call $is (local.get $what) (i32.const 0x72)) (then
                        (call $random (i64.extend_i32_u (local.get $much)) (i32.const 0x60))))
                    (if (call $is (local.get $what) (i32.const 0x70)) (then
                        (drop (call $subscribe (i64.extend_i32_u (local.get $much))))))
                    (if (call $is (local.get $what) (i32.const 0x62)) (then
                        (call $drop (call $subscribe (i64.extend_i32_u (local.get $much))))))
                    (if (call $is (local.get $what) (i32.const 0x6c)) (then
                        (call $poll (i32.const 0x40000) (local.get $much) (i32.const 0x60))))
                    (if (call $is (local.get $what) (i32.const 0x77)) (then
                        (call $write (local.get $handle) (i32.const 0x40000) (local.get $much) (i32.const 0x60))))
                    (if (call $is (local.get $what) (i32.const 0x7a)) (then
                        (call $zeroes (local.get $handle) (i64.extend_i32_u (local.get $much)) (i32.const 0x60))))
                    (if (call $is (local.get $what) (i32.const 0x6d)) (then
                        (local.set $grown (i32.add (local.get $grown)
                            (i32.ge_s (memory.grow (local.get $much)) (i32.const 0))))))
                    ;;table (if (call $is (local.get $what) (i32.const 0x74)) (then (local.set $grown (i32.add (local.get $grown)
                    ;;table     (i32.ge_s (table.grow $table (ref.null func) (local.get $much)) (i32.const 0))))))
                    (br $again)))
            (if (call $is (local.get $what) (i32.const 0x6c)) (then (call $drop (local.get $handle))))
            (if (i32.or (call $is (local.get $what) (i32.const 0x77)) (call $is (local.get $what) (i32.const 0x7a)))
                (then (call $drop-stream (local.get $handle))))
            (if (call $is (local.get $what) (i32.const 0x78)) (then (unreachable)))
            (local.set $length (call $field (i32.const 0x300) (i32.const 0x240) (i32.const 8) (i64.load (i32.const 0x400))))
            (call $finish (call $field (local.get $length) (i32.const 0x250) (i32.const 8)
                (i64.extend_i32_u (local.get $grown)))))

        (func $is (param i32 i32) (result i32) (i32.eq (local.get 0) (local.get 1)))
        ;; The next number of the input, 0 if there is none.
        (func $number (param $end i32) (result i32)
            (local $digit i32) (local $number i32) (local $begun i32)
            (block $ended
                (loop $next
                    (br_if $ended (i32.ge_u (global.get $at) (local.get $end)))
                    (local.set $digit (i32.sub (i32.load8_u (global.get $at)) (i32.const 0x30)))
                    (global.set $at (i32.add (global.get $at) (i32.const 1)))
                    (if (i32.gt_u (local.get $digit) (i32.const 9))
                        (then (br_if $ended (local.get $begun)) (br $next)))
                    (local.set $begun (i32.const 1))
                    (local.set $number (i32.add (i32.mul (local.get $number) (i32.const 10)) (local.get $digit)))
                    (br $next)))
            (local.get $number))
        ;; Makes the memory so large that a list of so many bytes is in it.
        (func $reach (param $bytes i32)
            (local $pages i32)
            (local.set $pages (i32.shr_u (i32.add (local.get $bytes) (i32.const 0x5ffff)) (i32.const 16)))
            (if (i32.gt_u (local.get $pages) (memory.size)) (then
                (if (i32.lt_s (memory.grow (i32.sub (local.get $pages) (memory.size))) (i32.const 0))
                    (then (unreachable))))))
        ;; Writes `,"key":value` at an address, and gives the address after it.
        (func $field (param $at i32) (param $key i32) (param $length i32) (param $value i64) (result i32)
            (local $rest i64)
            (i32.store8 (local.get $at) (i32.const 0x2c))
            (memory.copy (i32.add (local.get $at) (i32.const 1)) (local.get $key) (local.get $length))
            (local.set $at (i32.add (local.get $at) (i32.add (local.get $length) (i32.const 1))))
            ;; As many digits as it has, and then these from the last to the first.
            (local.set $rest (local.get $value))
            (loop $digit
                (local.set $at (i32.add (local.get $at) (i32.const 1)))
                (local.set $rest (i64.div_u (local.get $rest) (i64.const 10)))
                (br_if $digit (i64.ne (local.get $rest) (i64.const 0))))
            (local.set $key (local.get $at))
            (loop $digit
                (local.set $key (i32.sub (local.get $key) (i32.const 1)))
                (i64.store8 (local.get $key)
                    (i64.add (i64.rem_u (local.get $value) (i64.const 10)) (i64.const 0x30)))
                (local.set $value (i64.div_u (local.get $value) (i64.const 10)))
                (br_if $digit (i64.ne (local.get $value) (i64.const 0))))
            (local.get $at))
        ;; Makes the fields, written from 0x300, an object, and gives the result of `call`: ok, and the text.
        (func $finish (param $end i32) (result i32)
            (i32.store8 (i32.const 0x300) (i32.const 0x7b))
            (i32.store8 (local.get $end) (i32.const 0x7d))
            (i32.store (i32.const 0x50) (i32.const 0))
            (i32.store (i32.const 0x54) (i32.const 0x300))
            (i32.store (i32.const 0x58) (i32.sub (local.get $end) (i32.const 0x2ff)))
            (i32.const 0x50))
    )
    (core instance $i (instantiate $m
        (with "own" (instance $memory))
        (with "wasi" (instance
            (export "random" (func $random)) (export "subscribe" (func $subscribe)) (export "poll" (func $poll))
            (export "drop" (func $drop)) (export "stdout" (func $stdout)) (export "write" (func $write))
            (export "zeroes" (func $zeroes)) (export "drop-stream" (func $drop-stream))))))

    ;; The contract, what `wit/carrel.wit` says of the exports.
    (type $error-type (variant (case "invalid-input" string) (case "failed" string)))
    (type $description-type (record (field "name" string) (field "summary" string)
        (field "config-schema" string) (field "input-schema" string) (field "output-schema" string)))
    (component $contract
        (import "error" (type $error (eq $error-type)))
        (import "description" (type $description (eq $description-type)))
        (import "describe" (func $describe (result $description)))
        (import "configure" (func $configure (param "config" string) (result (result (error string)))))
        (import "call" (func $call (param "input" string) (result (result string (error $error)))))
        (export $error-out "error" (type $error))
        (export $description-out "description" (type $description))
        (export "describe" (func $describe) (func (result $description-out)))
        (export "configure" (func $configure))
        (export "call" (func $call) (func (param "input" string) (result (result string (error $error-out)))))
    )
    (func $describe (result $description-type)
        (canon lift (core func $i "describe") (memory $memory) (realloc $realloc)))
    (func $configure (param "config" string) (result (result (error string)))
        (canon lift (core func $i "configure") (memory $memory) (realloc $realloc)
            (post-return (core func $i "reset"))))
    (func $call (param "input" string) (result (result string (error $error-type)))
        (canon lift (core func $i "call") (memory $memory) (realloc $realloc)
            (post-return (core func $i "reset"))))
    (instance $function (instantiate $contract
        (with "error" (type $error-type)) (with "description" (type $description-type))
        (with "describe" (func $describe)) (with "configure" (func $configure)) (with "call" (func $call))))
    (export "carrel:function/function@0.1.0" (instance $function))
)
