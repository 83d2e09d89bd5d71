;; The guest whose table grows: `carrel prove` attacks with it. What a table takes lies outside of the linear memory.
;;
;; The input's first number is how many elements the table shall have. It grows a few at a time, and the guest crashes
;; where it is given no more. The output is `{"elements":N}`, N being how many there are.
(component
    (core module $m
        (memory (export "memory") 1)
        (table $table 1 funcref)
        ;; 0x10 description, 0x40 result of `configure`, 0x50 result of `call`, 0x60 the end of what the host gives,
        ;; which begins at 0x1000 and is taken back after each call, 0x100 texts, 0x300 output.
        (data (i32.const 0x10) (i32 0x100 6 0x110 20 0x130 17 0x150 2 0x130 17))
        (data (i32.const 0x60) (i32 0x1000))
        (data (i32.const 0x100) "tables")
        (data (i32.const 0x110) "Has a table grow on.")
        (data (i32.const 0x130) "{\"type\":\"object\"}")
        (data (i32.const 0x150) "{}")
        (data (i32.const 0x300) "{\"elements\":")
        (func (export "realloc")
            (param $old i32) (param $old-size i32) (param $align i32) (param $size i32) (result i32)
            (local $new i32)
            (local.set $new (i32.and
                (i32.add (i32.load (i32.const 0x60)) (i32.sub (local.get $align) (i32.const 1)))
                (i32.sub (i32.const 0) (local.get $align))))
            (i32.store (i32.const 0x60) (i32.add (local.get $new) (local.get $size)))
            (memory.copy (local.get $new) (local.get $old) (local.get $old-size))
            (local.get $new))
        (func (export "reset") (param i32) (i32.store (i32.const 0x60) (i32.const 0x1000)))
        (func (export "describe") (result i32) (i32.const 0x10))
        (func (export "configure") (param i32 i32) (result i32) (i32.const 0x40))
        (func (export "call") (param $input i32) (param $length i32) (result i32)
            (local $elements i32)
            (local.set $elements (call $number (local.get $input) (local.get $length)))
            (block $enough
                (loop $next
                    (br_if $enough (i32.ge_u (table.size $table) (local.get $elements)))
                    (if (i32.eq (table.grow $table (ref.null func) (i32.const 4096)) (i32.const -1))
                        (then (unreachable)))
                    (br $next)))
            (i32.store (i32.const 0x50) (i32.const 0))
            (i32.store (i32.const 0x54) (i32.const 0x300))
            (i32.store (i32.const 0x58) (call $write (table.size $table)))
            (i32.const 0x50))
        ;; The first number of a text; 0, if there is none.
        (func $number (param $at i32) (param $length i32) (result i32)
            (local $end i32) (local $value i32) (local $digit i32) (local $found i32)
            (local.set $end (i32.add (local.get $at) (local.get $length)))
            (block $done
                (loop $next
                    (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
                    (local.set $digit (i32.sub (i32.load8_u (local.get $at)) (i32.const 0x30)))
                    (local.set $at (i32.add (local.get $at) (i32.const 1)))
                    (if (i32.gt_u (local.get $digit) (i32.const 9))
                        (then (br_if $done (local.get $found)) (br $next)))
                    (local.set $found (i32.const 1))
                    (local.set $value (i32.add (i32.mul (local.get $value) (i32.const 10)) (local.get $digit)))
                    (br $next)))
            (local.get $value))
        ;; Writes a number and `}` behind the output's beginning, and gives the output's length.
        (func $write (param $value i32) (result i32)
            (local $end i32) (local $at i32) (local $rest i32)
            (local.set $end (i32.const 0x30c))
            ;; As many digits as it has, and then these from the last to the first.
            (local.set $rest (local.get $value))
            (loop $digit
                (local.set $end (i32.add (local.get $end) (i32.const 1)))
                (local.set $rest (i32.div_u (local.get $rest) (i32.const 10)))
                (br_if $digit (local.get $rest)))
            (local.set $at (local.get $end))
            (loop $digit
                (local.set $at (i32.sub (local.get $at) (i32.const 1)))
                (i32.store8 (local.get $at)
                    (i32.add (i32.rem_u (local.get $value) (i32.const 10)) (i32.const 0x30)))
                (local.set $value (i32.div_u (local.get $value) (i32.const 10)))
                (br_if $digit (local.get $value)))
            (i32.store8 (local.get $end) (i32.const 0x7d))
            (i32.sub (local.get $end) (i32.const 0x2ff)))
    )
    (core instance $i (instantiate $m))
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
