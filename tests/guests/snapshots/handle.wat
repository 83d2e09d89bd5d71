;; State in the host: a handle of one of its resources, here a pollable, of which the guest keeps the number.
;;
;; With the word "take" in the input it takes a pollable, if it has none, with "drop" it drops it; each call uses the
;; one that it has. It gives `{"count":3,"held":1}`; without a pollable the second is 0. With the word "trap" it does
;; all that, and then crashes.
;;
;; A host that parks instances must see that it cannot park this one while it holds something: in another instance the
;; number means nothing, and using it crashes.
(component
    (import "wasi:io/poll@0.2.0" (instance $poll
        (export "pollable" (type $pollable (sub resource)))
        (export "[method]pollable.ready" (func (param "self" (borrow $pollable)) (result bool)))))
    (alias export $poll "pollable" (type $pollable))
    (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
        (export "pollable" (type $its-pollable (eq $pollable)))
        (export "subscribe-duration" (func (param "when" u64) (result (own $its-pollable))))))
    (core func $subscribe (canon lower (func $clock "subscribe-duration")))
    (core func $ready (canon lower (func $poll "[method]pollable.ready")))
    (core func $drop (canon resource.drop $pollable))
    (core module $m
        (import "wasi" "subscribe-duration" (func $subscribe (param i64) (result i32)))
        (import "wasi" "ready" (func $ready (param i32) (result i32)))
        (import "wasi" "drop" (func $drop (param i32)))
        ;; 0x10 description, 0x40 result of `configure`, 0x50 result of `call`, 0x100 texts, 0x300 output, 0x400 state,
        ;; 0x1000 what the host gives, taken back after each call.
        (memory (export "memory") 1)
        (global $heap (mut i32) (i32.const 0x1000))

        ;; The description: five texts, each an address and a length, and the texts.
        (data (i32.const 0x10) (i32
            0x100 6  0x140 29  0x200 17  0x220 2  0x200 17))
        (data (i32.const 0x100) "handle")
        (data (i32.const 0x140) "Keeps a resource of the host.")
        (data (i32.const 0x200) "{\"type\":\"object\"}")
        (data (i32.const 0x220) "{}")
        (data (i32.const 0x240) "\"count\":")
        (data (i32.const 0x250) "\"held\":")

        (func (export "realloc")
            (param $old i32) (param $old-size i32) (param $align i32) (param $size i32) (result i32)
            (local $new i32)
            (local.set $new (i32.and
                (i32.add (global.get $heap) (i32.sub (local.get $align) (i32.const 1)))
                (i32.sub (i32.const 0) (local.get $align))))
            (global.set $heap (i32.add (local.get $new) (local.get $size)))
            (block $enough
                (loop $more
                    (br_if $enough (i32.le_u (global.get $heap) (i32.mul (memory.size) (i32.const 0x10000))))
                    (br_if $more (i32.ge_s (memory.grow (i32.const 1)) (i32.const 0))))
                (unreachable))
            (memory.copy (local.get $new) (local.get $old) (local.get $old-size))
            (local.get $new))
        (func (export "reset") (param i32) (global.set $heap (i32.const 0x1000)))

        (func (export "describe") (result i32) (i32.const 0x10))
        (func (export "configure") (param i32 i32) (result i32) (i32.const 0x40))

        ;; Changes the state, traps if the input says so, and gives the state.
        (func (export "call") (param $input i32) (param $length i32) (result i32)
            (local $at i32)
            (i64.store (i32.const 0x400) (i64.add (i64.load (i32.const 0x400)) (i64.const 1)))
            ;; 0x408 is the handle, 0 if it has none: no handle is 0.
            (if (call $says (local.get $input) (local.get $length) (i32.const 0x656b6174)) (then
                (if (i32.eqz (i32.load (i32.const 0x408))) (then
                    (i32.store (i32.const 0x408) (call $subscribe (i64.const 0)))))))
            (if (call $says (local.get $input) (local.get $length) (i32.const 0x706f7264)) (then
                (if (i32.load (i32.const 0x408)) (then
                    (call $drop (i32.load (i32.const 0x408)))
                    (i32.store (i32.const 0x408) (i32.const 0))))))
            (if (i32.load (i32.const 0x408)) (then
                (drop (call $ready (i32.load (i32.const 0x408))))))
            (if (call $says (local.get $input) (local.get $length) (i32.const 0x70617274)) (then (unreachable)))
            (local.set $at (call $field (i32.const 0x300) (i32.const 0x240) (i32.const 8) (i64.load (i32.const 0x400))))
            (local.set $at (call $field (local.get $at) (i32.const 0x250) (i32.const 7)
                (i64.extend_i32_u (i32.ne (i32.load (i32.const 0x408)) (i32.const 0)))))
            (call $finish (local.get $at)))

        ;; Whether the input has a word of four letters in it: as a number, its bytes are in reverse.
        (func $says (param $input i32) (param $length i32) (param $word i32) (result i32)
            (local $end i32)
            (local.set $end (i32.add (local.get $input) (local.get $length)))
            (block $no
                (loop $next
                    (br_if $no (i32.gt_u (i32.add (local.get $input) (i32.const 4)) (local.get $end)))
                    (if (i32.eq (i32.load align=1 (local.get $input)) (local.get $word))
                        (then (return (i32.const 1))))
                    (local.set $input (i32.add (local.get $input) (i32.const 1)))
                    (br $next)))
            (i32.const 0))
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
    (core instance $i (instantiate $m (with "wasi" (instance
        (export "subscribe-duration" (func $subscribe)) (export "ready" (func $ready)) (export "drop" (func $drop))))))

    ;; The contract, as in every file of this folder: what `wit/carrel.wit` says of the exports.
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
    (alias core export $i "memory" (core memory $memory))
    (alias core export $i "realloc" (core func $realloc))
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
