;; Its start function grows the memory to its maximum, and crashes where that fails. The value is the size in pages: 3.
        (memory (export "memory") 1 3)
        (start $grow)
        (func $grow (if (i32.lt_s (memory.grow (i32.const 2)) (i32.const 0)) (then (unreachable))))
        (func $configured)
        (func $value (result i64) (i64.extend_i32_u (memory.size)))
