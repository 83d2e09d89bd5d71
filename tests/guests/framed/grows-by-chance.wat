;; Its start function grows the memory by up to 31 pages, as many as a random number says. The value is the memory's
;; size in pages.
        (memory (export "memory") 1)
        (start $grow)
        (func $grow (drop (memory.grow (i32.wrap_i64 (i64.and (call $draw) (i64.const 31))))))
        (func $configured)
        (func $value (result i64) (i64.extend_i32_u (memory.size)))
