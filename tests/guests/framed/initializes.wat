;; A guest as C's compilers make them: `_initialize` allocates, and is called by the start function of another module, as
;; tools that make components arrange it. Its allocator takes what is beyond the memory, as `sbrk` does, and aborts if
;; there is nothing. The value is the page at which the allocation begins times 1000, the size in pages times 10,
;; and what is written there, added up: 1037.
        (memory (export "memory") 1)
        (func (export "_initialize")
            (local $at i32)
            (local.set $at (memory.grow (i32.const 2)))
            (if (i32.lt_s (local.get $at) (i32.const 0)) (then (unreachable)))
            (i32.store (i32.const 0x100) (local.get $at))
            (i32.store (i32.shl (local.get $at) (i32.const 16)) (i32.const 7)))
        (func $configured)
        (func $value (result i64)
            (i64.extend_i32_u (i32.add
                (i32.mul (i32.load (i32.const 0x100)) (i32.const 1000))
                (i32.add
                    (i32.mul (memory.size) (i32.const 10))
                    (i32.load (i32.shl (i32.load (i32.const 0x100)) (i32.const 16)))))))
;;; component
    (core module $fixups (import "" "_initialize" (func $initialize)) (start $initialize))
    (core instance (instantiate $fixups (with "" (instance (export "_initialize" (func $i "_initialize"))))))
