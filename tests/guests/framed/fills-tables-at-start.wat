;; Its start function puts functions into a table that another function calls, and drops the segment that it took one
;; from, after it has counted in the memory. The value is what both functions give, and the count: 1201.
        (memory (export "memory") 1)
        (type $gives (func (result i64)))
        (table $table 2 funcref)
        (elem $segment func $two-hundred)
        (elem declare func $thousand)
        (start $fill)
        (func $thousand (type $gives) (i64.const 1000))
        (func $two-hundred (type $gives) (i64.const 200))
        (func $fill
            (i64.store (i32.const 0x100) (i64.add (i64.load (i32.const 0x100)) (i64.const 1)))
            (table.set $table (i32.const 0) (ref.func $thousand))
            (table.init $table $segment (i32.const 1) (i32.const 0) (i32.const 1))
            (elem.drop $segment))
        (func $configured)
        (func $value (result i64)
            (i64.add (i64.load (i32.const 0x100))
                (i64.add
                    (call_indirect $table (type $gives) (i32.const 0))
                    (call_indirect $table (type $gives) (i32.const 1)))))
