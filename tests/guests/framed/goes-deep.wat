;; Calls itself two thousand times, one inside of the other, in each call. The value is how often. If the input is a text,
;; it then computes for ever, down there.
        (memory (export "memory") 1)
        (func $configured)
        (func $stay (result i64)
            (loop $on (br_if $on (i32.eq (i32.load8_u (i32.const 0x4000)) (i32.const 0x22))))
            (i64.const 0))
        (func $deep (param $left i64) (result i64)
            (if (i64.eqz (local.get $left)) (then (return (call $stay))))
            (i64.add (i64.const 1) (call $deep (i64.sub (local.get $left) (i64.const 1)))))
        (func $value (result i64) (call $deep (i64.const 2000)))
