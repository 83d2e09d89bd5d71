;; It takes 31 pages more when it is configured, if it can have them. The value is the memory's size in pages.
        (memory (export "memory") 1)
        (func $configured (drop (memory.grow (i32.const 31))))
        (func $value (result i64) (i64.extend_i32_u (memory.size)))
