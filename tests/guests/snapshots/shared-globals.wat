;; The guest of linkage-tables.wat, but that its modules share two globals which change with each call. What is shared
;; cannot be moved to a linear memory, so that it cannot be parked nor rolled back.
;;
;; Each call counts in the memory, at the address that a global holds; counts in a global of the other module; and calls
;; one of two functions by its place in the table, which the memory holds. It gives `{"count":3,"global":3,"turn":1}`:
;; the turn of an odd count is 1, that of an even one is 2. With the word "trap" in the input it does all that, and then
;; crashes.
;;
;; The table does not change after the start, so that a copy of memory and globals is a copy of everything. What the
;; globals hold is in no module's text: an instance of which only the memory was put back has no address to count at.
(component
    ;; What the library is linked against. The globals named GOT begin as 0.
    (core module $main
        ;; 0x10 description, 0x40 result of `configure`, 0x50 result of `call`, 0x100 texts, 0x300 output, 0x400 state,
        ;; 0x1000 what the host gives, taken back after each call.
        (memory (export "memory") 1)
        ;; Two places that nobody uses, as a linker leaves the first free, and then the library's.
        (table (export "__indirect_function_table") 4 funcref)
        (global (export "__memory_base") i32 (i32.const 0x400))
        (global (export "__table_base") i32 (i32.const 2))
        (global (export "heap") (mut i32) (i32.const 0x1000))
        (global (export "GOT.mem.count") (mut i32) (i32.const 0))
        (global (export "GOT.mem.turn") (mut i32) (i32.const 0))
        (global (export "GOT.func.odd") (mut i32) (i32.const 0))
        (global (export "GOT.func.even") (mut i32) (i32.const 0))
        (global (export "calls") (mut i64) (i64.const 0))

        ;; The description: five texts, each an address and a length, and the texts.
        (data (i32.const 0x10) (i32
            0x100 14  0x140 59  0x200 17  0x220 2  0x200 17))
        (data (i32.const 0x100) "shared_globals")
        (data (i32.const 0x140) "Counts in a library that is linked when it is instantiated.")
        (data (i32.const 0x200) "{\"type\":\"object\"}")
        (data (i32.const 0x220) "{}")
        (data (i32.const 0x240) "\"count\":")
        (data (i32.const 0x250) "\"global\":")
        (data (i32.const 0x260) "\"turn\":")
    )
    (core instance $main (instantiate $main))

    ;; The library: it knows its own things by their distance from the bases, and finds them through the globals.
    (core module $library
        (import "env" "memory" (memory 1))
        (import "env" "__indirect_function_table" (table $table 4 funcref))
        (import "env" "__memory_base" (global $memory-base i32))
        (import "env" "__table_base" (global $table-base i32))
        (import "env" "heap" (global $heap (mut i32)))
        (import "env" "calls" (global $calls (mut i64)))
        (import "GOT.mem" "count" (global $count-at (mut i32)))
        (import "GOT.mem" "turn" (global $turn-at (mut i32)))
        (import "GOT.func" "odd" (global $odd-at (mut i32)))
        (import "GOT.func" "even" (global $even-at (mut i32)))
        (type $turn (func (result i64)))

        ;; Its part of the table, and of the memory: a count and a turn.
        (elem $functions (table $table) (global.get $table-base) func $odd $even)
        (data $state (global.get $memory-base) (i64 0 0))
        ;; Where its things are within these parts.
        (global (export "count") i32 (i32.const 0))
        (global (export "turn") i32 (i32.const 8))
        (global (export "odd") i32 (i32.const 0))
        (global (export "even") i32 (i32.const 1))

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
            (i32.store (global.get $turn-at) (global.get $odd-at))
            (i32.const 0x40))

        ;; Changes the state, traps if the input says so, and gives the state.
        (func (export "call") (param $input i32) (param $length i32) (result i32)
            (local $at i32)
            (local $turn i64)
            (i64.store (global.get $count-at) (i64.add (i64.load (global.get $count-at)) (i64.const 1)))
            (global.set $calls (i64.add (global.get $calls) (i64.const 1)))
            (local.set $turn (call_indirect $table (type $turn) (i32.load (global.get $turn-at))))
            (if (call $says-trap (local.get $input) (local.get $length)) (then (unreachable)))
            (local.set $at (call $field (i32.const 0x300) (i32.const 0x240) (i32.const 8)
                (i64.load (global.get $count-at))))
            (local.set $at (call $field (local.get $at) (i32.const 0x250) (i32.const 9) (global.get $calls)))
            (local.set $at (call $field (local.get $at) (i32.const 0x260) (i32.const 7) (local.get $turn)))
            (call $finish (local.get $at)))
        ;; Each gives its turn, and says whose turn is next.
        (func $odd (type $turn) (i32.store (global.get $turn-at) (global.get $even-at)) (i64.const 1))
        (func $even (type $turn) (i32.store (global.get $turn-at) (global.get $odd-at)) (i64.const 2))

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
    (core instance $got-mem
        (export "count" (global $main "GOT.mem.count")) (export "turn" (global $main "GOT.mem.turn")))
    (core instance $got-func
        (export "odd" (global $main "GOT.func.odd")) (export "even" (global $main "GOT.func.even")))
    (core instance $library (instantiate $library
        (with "env" (instance $main)) (with "GOT.mem" (instance $got-mem)) (with "GOT.func" (instance $got-func))))

    ;; Puts the addresses into the globals.
    (core module $linker
        (import "env" "__memory_base" (global $memory-base i32))
        (import "env" "__table_base" (global $table-base i32))
        (import "library" "count" (global $count i32))
        (import "library" "turn" (global $turn i32))
        (import "library" "odd" (global $odd i32))
        (import "library" "even" (global $even i32))
        (import "env" "GOT.mem.count" (global $count-at (mut i32)))
        (import "env" "GOT.mem.turn" (global $turn-at (mut i32)))
        (import "env" "GOT.func.odd" (global $odd-at (mut i32)))
        (import "env" "GOT.func.even" (global $even-at (mut i32)))
        (start $link)
        (func $link
            (global.set $count-at (i32.add (global.get $memory-base) (global.get $count)))
            (global.set $turn-at (i32.add (global.get $memory-base) (global.get $turn)))
            (global.set $odd-at (i32.add (global.get $table-base) (global.get $odd)))
            (global.set $even-at (i32.add (global.get $table-base) (global.get $even))))
    )
    (core instance (instantiate $linker (with "env" (instance $main)) (with "library" (instance $library))))

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
    (alias core export $main "memory" (core memory $memory))
    (alias core export $library "realloc" (core func $realloc))
    (func $describe (result $description-type)
        (canon lift (core func $library "describe") (memory $memory) (realloc $realloc)))
    (func $configure (param "config" string) (result (result (error string)))
        (canon lift (core func $library "configure") (memory $memory) (realloc $realloc)
            (post-return (core func $library "reset"))))
    (func $call (param "input" string) (result (result string (error $error-type)))
        (canon lift (core func $library "call") (memory $memory) (realloc $realloc)
            (post-return (core func $library "reset"))))
    (instance $function (instantiate $contract
        (with "error" (type $error-type)) (with "description" (type $description-type))
        (with "describe" (func $describe)) (with "configure" (func $configure)) (with "call" (func $call))))
    (export "carrel:function/function@0.1.0" (instance $function))
)
