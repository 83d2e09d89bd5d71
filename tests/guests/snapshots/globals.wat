;; State in mutable globals of every type of number: nothing of it is in the memory.
;;
;; Each call counts in five globals, each in a way that needs the whole width of its type, and gives
;; `{"count":3,"i64":3,"f32":3,"f64":3,"v128":3}`: always five times the same. With the word "trap" in the input it
;; counts, and then crashes.
(component
    (core module $m
        ;; 0x10 description, 0x40 result of `configure`, 0x50 result of `call`, 0x100 texts, 0x300 output, 0x400 state,
        ;; 0x1000 what the host gives, taken back after each call.
        (memory (export "memory") 1)
        (global $heap (mut i32) (i32.const 0x1000))

        ;; The count itself.
        (global $i32 (mut i32) (i32.const 0))
        ;; The count in the upper half, and ones in the lower.
        (global $i64 (mut i64) (i64.const 0xffffffff))
        ;; Quarters and 1024ths: neither survives a way through whole numbers.
        (global $f32 (mut f32) (f32.const 0))
        (global $f64 (mut f64) (f64.const 0))
        ;; The count in the last of four lanes, and marks in the others.
        (global $v128 (mut v128) (v128.const i32x4 0x11111111 0x22222222 0x33333333 0))

        ;; The description: five texts, each an address and a length, and the texts.
        (data (i32.const 0x10) (i32
            0x100 7  0x140 18  0x200 17  0x220 2  0x200 17))
        (data (i32.const 0x100) "globals")
        (data (i32.const 0x140) "Counts in globals.")
        (data (i32.const 0x200) "{\"type\":\"object\"}")
        (data (i32.const 0x220) "{}")
        (data (i32.const 0x240) "\"count\":")
        (data (i32.const 0x250) "\"i64\":")
        (data (i32.const 0x260) "\"f32\":")
        (data (i32.const 0x270) "\"f64\":")
        (data (i32.const 0x280) "\"v128\":")

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

        ;; Named as if it gave back what `call` takes, and never called: a host that believes names takes $i32 for balanced.
        (func (export "cabi_post_call") (param i32) (global.set $i32 (i32.sub (global.get $i32) (i32.const 1))))
        (func (export "describe") (result i32) (i32.const 0x10))
        (func (export "configure") (param i32 i32) (result i32) (i32.const 0x40))

        ;; Changes the state, traps if the input says so, and gives the state.
        (func (export "call") (param $input i32) (param $length i32) (result i32)
            (local $at i32)
            (global.set $i32 (i32.add (global.get $i32) (i32.const 1)))
            (global.set $i64 (i64.add (global.get $i64) (i64.const 0x100000000)))
            (global.set $f32 (f32.add (global.get $f32) (f32.const 0.25)))
            (global.set $f64 (f64.add (global.get $f64) (f64.const 0x1p-10)))
            (global.set $v128 (i32x4.add (global.get $v128) (v128.const i32x4 0 0 0 1)))
            (if (call $says-trap (local.get $input) (local.get $length)) (then (unreachable)))
            (local.set $at (call $field (i32.const 0x300) (i32.const 0x240) (i32.const 8)
                (i64.extend_i32_u (global.get $i32))))
            (local.set $at (call $field (local.get $at) (i32.const 0x250) (i32.const 6) (call $i64-count)))
            (local.set $at (call $field (local.get $at) (i32.const 0x260) (i32.const 6)
                (i64.trunc_f32_u (f32.mul (global.get $f32) (f32.const 4)))))
            (local.set $at (call $field (local.get $at) (i32.const 0x270) (i32.const 6)
                (i64.trunc_f64_u (f64.mul (global.get $f64) (f64.const 0x1p10)))))
            (local.set $at (call $field (local.get $at) (i32.const 0x280) (i32.const 7) (call $v128-count)))
            (call $finish (local.get $at)))
        ;; The counts of the two globals with marks, or 999 if a mark is gone.
        (func $i64-count (result i64)
            (select (i64.shr_u (global.get $i64) (i64.const 32)) (i64.const 999)
                (i32.eq (i32.wrap_i64 (global.get $i64)) (i32.const -1))))
        (func $v128-count (result i64)
            (select (i64.extend_i32_u (i32x4.extract_lane 3 (global.get $v128))) (i64.const 999)
                (i32x4.all_true (i32x4.eq (global.get $v128)
                    (i32x4.replace_lane 3
                        (v128.const i32x4 0x11111111 0x22222222 0x33333333 0)
                        (i32x4.extract_lane 3 (global.get $v128)))))))

        ;; Whether the input has the word "trap" in it: as a number, the bytes of a word are in reverse.
        (func $says-trap (param $input i32) (param $length i32) (result i32)
            (local $end i32)
            (local.set $end (i32.add (local.get $input) (local.get $length)))
            (block $no
                (loop $next
                    (br_if $no (i32.gt_u (i32.add (local.get $input) (i32.const 4)) (local.get $end)))
                    (if (i32.eq (i32.load align=1 (local.get $input)) (i32.const 0x70617274))
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
    (core instance $i (instantiate $m))

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
