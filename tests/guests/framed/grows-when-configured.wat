;; It takes 31 pages more when it is configured, if it can have them, and fills them. The value is the memory's size in
;; pages.
        (memory (export "memory") 1)
        (func $configured
            (if (i32.ge_s (memory.grow (i32.const 31)) (i32.const 0)) (then
                (memory.fill (i32.const 0x10000) (i32.const 1) (i32.const 0x1f0000)))))
        (func $value (result i64) (i64.extend_i32_u (memory.size)))
