;; It has a stack pointer, which each function leaves as it found it, and keeps a count below it, at an address that is a
;; constant. The value is that count.
        (memory (export "memory") 1)
        (global $stack-pointer (mut i32) (i32.const 0x3000))
        (func (export "framed") (local $frame i32)
            (local.set $frame (i32.sub (global.get $stack-pointer) (i32.const 16)))
            (global.set $stack-pointer (local.get $frame))
            (i32.store (local.get $frame) (i32.const 0))
            (global.set $stack-pointer (i32.add (local.get $frame) (i32.const 16))))
        (func $configured)
        (func $value (result i64)
            (i64.store (i32.const 0x100) (i64.add (i64.load (i32.const 0x100)) (i64.const 1)))
            (i64.load (i32.const 0x100)))
