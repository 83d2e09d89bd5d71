;; What the guests of `framed` have in common: the contract, and a count.
;;
;; A file there has the fields of the core module that are its own, and after a line `;;; component` what follows the
;; module's instance. It has a memory, exported as "memory", whose first 12 KiB are its own; a function `$configured`,
;; which is called once by `configure`; and a function `$value`, which gives a number. `%name%` is the file's name.
;;
;; Each call counts in the memory, and gives `{"count":3,"value":7}`. With the word "trap" in the input it does all
;; that, and then crashes. No global is used for it, so that those of a file are all that there are.
(component
    (import "wasi:random/random@0.2.0" (instance $random (export "get-random-u64" (func (result u64)))))
    (core func $get-random-u64 (canon lower (func $random "get-random-u64")))
    (core module $m
        (import "random" "get-random-u64" (func $draw (result i64)))
        ;; 0x3010 description, 0x3040 result of `configure`, 0x3050 result of `call`, 0x3060 the end of what the host gives,
        ;; which begins at 0x4000 and is taken back after each call, 0x3100 texts, 0x3300 output, 0x3400 the count.
        (data (i32.const 0x3010) (i32 0x3100 %length% 0x3140 6 0x3200 17 0x3220 2 0x3200 17))
        (data (i32.const 0x3060) (i32 0x4000))
        (data (i32.const 0x3100) "%name%")
        (data (i32.const 0x3140) "Starts")
        (data (i32.const 0x3200) "{\"type\":\"object\"}")
        (data (i32.const 0x3220) "{}")
        (data (i32.const 0x3240) "\"count\":")
        (data (i32.const 0x3250) "\"value\":")
%core%
        (func (export "realloc")
            (param $old i32) (param $old-size i32) (param $align i32) (param $size i32) (result i32)
            (local $new i32)
            (local.set $new (i32.and
                (i32.add (i32.load (i32.const 0x3060)) (i32.sub (local.get $align) (i32.const 1)))
                (i32.sub (i32.const 0) (local.get $align))))
            (i32.store (i32.const 0x3060) (i32.add (local.get $new) (local.get $size)))
            (memory.copy (local.get $new) (local.get $old) (local.get $old-size))
            (local.get $new))
        (func (export "reset") (param i32) (i32.store (i32.const 0x3060) (i32.const 0x4000)))

        (func (export "describe") (result i32) (i32.const 0x3010))
        (func (export "configure") (param i32 i32) (result i32) (call $configured) (i32.const 0x3040))
        (func (export "call") (param $input i32) (param $length i32) (result i32)
            (local $at i32)
            (i64.store (i32.const 0x3400) (i64.add (i64.load (i32.const 0x3400)) (i64.const 1)))
            (local.set $at (call $field (i32.const 0x3300) (i32.const 0x3240) (i32.const 8)
                (i64.load (i32.const 0x3400))))
            (local.set $at (call $field (local.get $at) (i32.const 0x3250) (i32.const 8) (call $value)))
            (if (call $says-trap (local.get $input) (local.get $length)) (then (unreachable)))
            ;; The fields, written from 0x3300, are an object: the result is ok, and the text.
            (i32.store8 (i32.const 0x3300) (i32.const 0x7b))
            (i32.store8 (local.get $at) (i32.const 0x7d))
            (i32.store (i32.const 0x3050) (i32.const 0))
            (i32.store (i32.const 0x3054) (i32.const 0x3300))
            (i32.store (i32.const 0x3058) (i32.sub (local.get $at) (i32.const 0x32ff)))
            (i32.const 0x3050))

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
    )
    (core instance $i (instantiate $m (with "random" (instance (export "get-random-u64" (func $get-random-u64))))))
%component%
    ;; What `wit/carrel.wit` says of the exports.
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
