;; A guest that has cost much by the time that it finds no memory: when it is configured, it counts up to a hundred
;; thousand, takes two mebibytes, and crashes if there are none.
;;
;; It draws a random number first, so that the host does not keep it as it is configured, and each new instance does all
;; that. It gives `{}`.
(component
    (import "wasi:random/random@0.2.0" (instance $random (export "get-random-u64" (func (result u64)))))
    (core func $get-random-u64 (canon lower (func $random "get-random-u64")))
    (core module $m
        (import "wasi:random/random@0.2.0" "get-random-u64" (func $draw (result i64)))
        ;; 0x10 description, 0x40 result of `configure`, 0x50 result of `call`, 0x100 texts, 0x1000 what the host gives,
        ;; taken back after each call.
        (memory (export "memory") 1)
        (global $heap (mut i32) (i32.const 0x1000))

        ;; The description: five texts, each an address and a length, and the texts. The output: ok, and the text.
        (data (i32.const 0x10) (i32
            0x100 10  0x140 43  0x200 17  0x220 2  0x200 17))
        (data (i32.const 0x50) (i32 0 0x220 2))
        (data (i32.const 0x100) "dear_setup")
        (data (i32.const 0x140) "Computes, and then needs memory, to set up.")
        (data (i32.const 0x200) "{\"type\":\"object\"}")
        (data (i32.const 0x220) "{}")

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
        (func (export "configure") (param i32 i32) (result i32)
            (local $count i32)
            (drop (call $draw))
            (loop $more
                (local.set $count (i32.add (local.get $count) (i32.const 1)))
                (br_if $more (i32.lt_u (local.get $count) (i32.const 100000))))
            (if (i32.lt_s (memory.grow (i32.const 32)) (i32.const 0)) (then (unreachable)))
            (i32.const 0x40))
        (func (export "call") (param i32 i32) (result i32) (i32.const 0x50))
    )
    (core instance $i (instantiate $m
        (with "wasi:random/random@0.2.0" (instance (export "get-random-u64" (func $get-random-u64))))))

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
