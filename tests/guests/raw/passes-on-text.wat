;; A guest of two components, of which one passes texts to the other: each call passes a text of 1 MiB in UTF-8 ten times
;; to one that takes UTF-16, and each copy takes 2 MiB. It gives `{}`.
(component
    (component $receiver
        (core module $m
            (memory (export "memory") 40)
            (func (export "give") (param i32 i32 i32 i32) (result i32) (i32.const 0x1000))
            (func (export "take") (param i32 i32)))
        (core instance $i (instantiate $m))
        (func (export "take") (param "text" string)
            (canon lift (core func $i "take") (memory (core memory $i "memory")) (realloc (core func $i "give"))
                string-encoding=utf16)))
    (instance $receiver (instantiate $receiver))
    (component $main
        (import "take" (func $take (param "text" string)))
        (core module $memory
            ;; 0x10 description, 0x40 result of `configure`, 0x50 result of `call`, 0x100 texts, 0x1000 what the host gives,
            ;; in 32 KiB, 0x10000 the text.
            (memory (export "memory") 17)
            (data (i32.const 0x10) (i32
                0x100 14  0x140 20  0x200 17  0x220 2  0x200 17))
            (data (i32.const 0x50) (i32 0 0x220 2))
            (data (i32.const 0x100) "passes_on_text")
            (data (i32.const 0x140) "Passes texts around.")
            (data (i32.const 0x200) "{\"type\":\"object\"}")
            (data (i32.const 0x220) "{}")
            (func (export "realloc") (param i32 i32 i32 i32) (result i32)
                (if (i32.gt_u (local.get 3) (i32.const 0x8000)) (then (unreachable)))
                (i32.const 0x1000)))
        (core instance $memory (instantiate $memory))
        (core func $lowered (canon lower (func $take) (memory (core memory $memory "memory"))))
        (core module $m
            (import "receiver" "take" (func $take (param i32 i32)))
            (func (export "describe") (result i32) (i32.const 0x10))
            (func (export "configure") (param i32 i32) (result i32) (i32.const 0x40))
            (func (export "call") (param i32 i32) (result i32)
                (local $left i32)
                (local.set $left (i32.const 10))
                (loop $more
                    (call $take (i32.const 0x10000) (i32.const 0x100000))
                    (local.set $left (i32.sub (local.get $left) (i32.const 1)))
                    (br_if $more (local.get $left)))
                (i32.const 0x50)))
        (core instance $i (instantiate $m (with "receiver" (instance (export "take" (func $lowered))))))

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
        (alias core export $memory "memory" (core memory $memory))
        (alias core export $memory "realloc" (core func $realloc))
        (func $describe (result $description-type)
            (canon lift (core func $i "describe") (memory $memory) (realloc $realloc)))
        (func $configure (param "config" string) (result (result (error string)))
            (canon lift (core func $i "configure") (memory $memory) (realloc $realloc)))
        (func $call (param "input" string) (result (result string (error $error-type)))
            (canon lift (core func $i "call") (memory $memory) (realloc $realloc)))
        (instance $function (instantiate $contract
            (with "error" (type $error-type)) (with "description" (type $description-type))
            (with "describe" (func $describe)) (with "configure" (func $configure)) (with "call" (func $call))))
        (export "carrel:function/function@0.1.0" (instance $function))
    )
    (instance $main (instantiate $main (with "take" (func $receiver "take"))))
    (export "carrel:function/function@0.1.0" (instance $main "carrel:function/function@0.1.0"))
)
