;; Its start function grows the memory by a page. The value is the memory's size in pages: 2.
        (memory (export "memory") 1)
        (start $grow)
        (func $grow (drop (memory.grow (i32.const 1))))
        (func $configured)
        (func $value (result i64) (i64.extend_i32_u (memory.size)))
