;; Calls itself two thousand times, one inside of the other, in each call. The value is how often.
        (memory (export "memory") 1)
        (func $configured)
        (func $deep (param $left i64) (result i64)
            (if (i64.eqz (local.get $left)) (then (return (i64.const 0))))
            (i64.add (i64.const 1) (call $deep (i64.sub (local.get $left) (i64.const 1)))))
        (func $value (result i64) (call $deep (i64.const 2000)))
