;; Its start function computes for 540 million units of fuel. The value is what it has counted: 60,000,000.
        (memory (export "memory") 1)
        (start $spin)
        (func $spin
            (local $n i64)
            (block $out
                (loop $again
                    (br_if $out (i64.eq (local.get $n) (i64.const 60000000)))
                    (local.set $n (i64.add (local.get $n) (i64.const 1)))
                    (br $again)))
            (i64.store (i32.const 0x100) (local.get $n)))
        (func $configured)
        (func $value (result i64) (i64.load (i32.const 0x100)))
