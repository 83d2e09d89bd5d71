;; A memory of 60 MiB, which is written to and read on demand. The input is a list of numbers:
;;
;; [1, address, count, step, value]  writes `value` to `count` words, each `step` bytes after the one before
;; [2, address, count, step]         adds up so many words: that is the value
;; [3, pages]                        grows the memory; the value is what it was, in pages
;; [4]                               tells how many pages there are
;; [5, address, size, value]         fills a range with a byte, by one instruction
;; [6, address, count, step, value]  as 1, and then computes for ever
;; [7, address, count, seed]         writes so many words that look like chance, one after the other
;;
;; With "trap" at the end, it crashes after that. Addresses are to be from 65536 on.
        (memory (export "memory") 960)
        (func $configured)
        ;; The n-th number of the input, which the host has written to 0x4000.
        (func $number (param $n i32) (result i64)
            (local $at i32) (local $value i64) (local $byte i32)
            (local.set $at (i32.const 0x4001))
            (block $found (loop $skip
                (br_if $found (i32.eqz (local.get $n)))
                (local.set $byte (i32.load8_u (local.get $at)))
                (if (i32.or (i32.eq (local.get $byte) (i32.const 0x5d)) (i32.eq (local.get $byte) (i32.const 0x22)))
                    (then (return (i64.const 0))))
                (if (i32.eq (local.get $byte) (i32.const 0x2c))
                    (then (local.set $n (i32.sub (local.get $n) (i32.const 1)))))
                (local.set $at (i32.add (local.get $at) (i32.const 1)))
                (br $skip)))
            (block $end (loop $digit
                (local.set $byte (i32.sub (i32.load8_u (local.get $at)) (i32.const 0x30)))
                (br_if $end (i32.gt_u (local.get $byte) (i32.const 9)))
                (local.set $value (i64.add (i64.mul (local.get $value) (i64.const 10))
                    (i64.extend_i32_u (local.get $byte))))
                (local.set $at (i32.add (local.get $at) (i32.const 1)))
                (br $digit)))
            (local.get $value))
        (func $word (param $n i32) (result i32) (i32.wrap_i64 (call $number (local.get $n))))
        (func $write
            (local $at i32) (local $left i32) (local $step i32) (local $value i64)
            (local.set $at (call $word (i32.const 1)))
            (local.set $left (call $word (i32.const 2)))
            (local.set $step (call $word (i32.const 3)))
            (local.set $value (call $number (i32.const 4)))
            (block $end (loop $next
                (br_if $end (i32.eqz (local.get $left)))
                (i64.store (local.get $at) (local.get $value))
                (local.set $at (i32.add (local.get $at) (local.get $step)))
                (local.set $left (i32.sub (local.get $left) (i32.const 1)))
                (br $next))))
        (func $scramble
            (local $at i32) (local $left i32) (local $x i64)
            (local.set $at (call $word (i32.const 1)))
            (local.set $left (call $word (i32.const 2)))
            (local.set $x (i64.or (call $number (i32.const 3)) (i64.const 1)))
            (block $end (loop $next
                (br_if $end (i32.eqz (local.get $left)))
                (local.set $x (i64.xor (local.get $x) (i64.shl (local.get $x) (i64.const 13))))
                (local.set $x (i64.xor (local.get $x) (i64.shr_u (local.get $x) (i64.const 7))))
                (local.set $x (i64.xor (local.get $x) (i64.shl (local.get $x) (i64.const 17))))
                (i64.store (local.get $at) (local.get $x))
                (local.set $at (i32.add (local.get $at) (i32.const 8)))
                (local.set $left (i32.sub (local.get $left) (i32.const 1)))
                (br $next))))
        (func $sum (result i64)
            (local $at i32) (local $left i32) (local $step i32) (local $sum i64)
            (local.set $at (call $word (i32.const 1)))
            (local.set $left (call $word (i32.const 2)))
            (local.set $step (call $word (i32.const 3)))
            (block $end (loop $next
                (br_if $end (i32.eqz (local.get $left)))
                (local.set $sum (i64.add (local.get $sum) (i64.load (local.get $at))))
                (local.set $at (i32.add (local.get $at) (local.get $step)))
                (local.set $left (i32.sub (local.get $left) (i32.const 1)))
                (br $next)))
            (local.get $sum))
        (func $value (result i64)
            (local $what i32)
            (local.set $what (call $word (i32.const 0)))
            (if (i32.eq (local.get $what) (i32.const 1)) (then (call $write)))
            (if (i32.eq (local.get $what) (i32.const 2)) (then (return (call $sum))))
            (if (i32.eq (local.get $what) (i32.const 3))
                (then (return (i64.extend_i32_u (memory.grow (call $word (i32.const 1)))))))
            (if (i32.eq (local.get $what) (i32.const 4)) (then (return (i64.extend_i32_u (memory.size)))))
            (if (i32.eq (local.get $what) (i32.const 5))
                (then (memory.fill (call $word (i32.const 1)) (call $word (i32.const 3)) (call $word (i32.const 2)))))
            (if (i32.eq (local.get $what) (i32.const 7)) (then (call $scramble)))
            (if (i32.eq (local.get $what) (i32.const 6)) (then (call $write) (loop $ever (br $ever))))
            (i64.const 0))
