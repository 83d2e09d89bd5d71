//! A guest that finds anything but its own data and zeroes traps, and there are guests that leave as much behind as they
//! can. A million slots are reused: 700,000 by the unit tests of `memories`, the others by these guests.

use crate::{Host, STACK, Unlimited, WASM_PAGE, guard_all};
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};
use wasmtime::StackCreator;

const GUESTS: usize = 300_000;
const THREADS: usize = 2;

/// A guest whose start function checks all of its memory. `dirty` grows the memory by some pages, checks those, and
/// leaves random bytes, the same for the same seed, in the old and the new pages.
const SPY: &str = r#"(module
    (memory (export "memory") 1)
    ;; A page that is its own data, from 8192 to 8320.
    (data (i32.const 8192) "carrel!!carrel!!carrel!!carrel!!carrel!!carrel!!carrel!!carrel!!")
    (data (i32.const 8256) "carrel!!carrel!!carrel!!carrel!!carrel!!carrel!!carrel!!carrel!!")

    ;; Traps unless all is zero. Both are multiples of 128.
    (func $zero (param $at i32) (param $end i32)
        (local $seen v128)
        (block $done
            (loop $next
                (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
                (local.set $seen (v128.or (local.get $seen)
                    (v128.or
                        (v128.or
                            (v128.or (v128.load offset=0 (local.get $at)) (v128.load offset=16 (local.get $at)))
                            (v128.or (v128.load offset=32 (local.get $at)) (v128.load offset=48 (local.get $at))))
                        (v128.or
                            (v128.or (v128.load offset=64 (local.get $at)) (v128.load offset=80 (local.get $at)))
                            (v128.or (v128.load offset=96 (local.get $at)) (v128.load offset=112 (local.get $at)))))))
                (local.set $at (i32.add (local.get $at) (i32.const 128)))
                (br $next)))
        (if (v128.any_true (local.get $seen)) (then unreachable)))

    ;; Traps unless its data is there.
    (func $own (local $at i32)
        (local.set $at (i32.const 8192))
        (loop $next
            (if (i64.ne (i64.load (local.get $at)) (i64.const 0x21216c6572726163)) (then unreachable))
            (br_if $next (i32.lt_u
                (local.tee $at (i32.add (local.get $at) (i32.const 8)))
                (i32.const 8320)))))

    (func $size (result i32) (i32.mul (memory.size) (i32.const 65536)))

    (func $look
        (call $zero (i32.const 0) (i32.const 8192))
        (call $own)
        (call $zero (i32.const 8320) (call $size)))
    (start $look)

    (global $random (mut i64) (i64.const 1))
    ;; A random place, for eight bytes.
    (func $place (result i32)
        (global.set $random (i64.xor (global.get $random) (i64.shl (global.get $random) (i64.const 13))))
        (global.set $random (i64.xor (global.get $random) (i64.shr_u (global.get $random) (i64.const 7))))
        (global.set $random (i64.xor (global.get $random) (i64.shl (global.get $random) (i64.const 17))))
        (i32.wrap_i64 (i64.rem_u (global.get $random) (i64.extend_i32_u (i32.sub (call $size) (i32.const 7))))))

    (func $write (param $count i32)
        (loop $next
            (i64.store (call $place) (i64.or (global.get $random) (i64.const 1)))
            (br_if $next (local.tee $count (i32.sub (local.get $count) (i32.const 1)))))
        ;; The edges.
        (i64.store (i32.const 0) (i64.const -1))
        (i64.store (i32.sub (call $size) (i32.const 8)) (i64.const -1)))

    (func (export "dirty") (param $seed i64) (param $pages i32) (param $writes i32)
        (local $before i32)
        (global.set $random (i64.or (local.get $seed) (i64.const 1)))
        (call $write (local.get $writes))
        (if (local.get $pages) (then
            (local.set $before (memory.grow (local.get $pages)))
            (if (i32.eq (local.get $before) (i32.const -1)) (then unreachable))
            (local.set $before (i32.mul (local.get $before) (i32.const 65536)))
            (call $zero (local.get $before) (call $size))
            (if (i64.ne (i64.load (i32.const 0)) (i64.const -1)) (then unreachable))
            (if (i64.ne (i64.load (i32.sub (local.get $before) (i32.const 8))) (i64.const -1)) (then unreachable))
            (call $write (local.get $writes)))))

    ;; Leaves what it knows on the stack: as many frames as this, each with eight of them.
    (func $deep (export "deep") (param $depth i32) (param $secret i64) (result i64)
        (local $a i64) (local $b i64) (local $c i64) (local $d i64)
        (if (i32.eqz (local.get $depth)) (then (return (local.get $secret))))
        (local.set $a (i64.add (local.get $secret) (i64.extend_i32_u (local.get $depth))))
        (local.set $b (i64.xor (local.get $secret) (i64.extend_i32_u (local.get $depth))))
        (local.set $c (i64.mul (local.get $secret) (i64.extend_i32_u (local.get $depth))))
        (local.set $d (call $deep (i32.sub (local.get $depth) (i32.const 1)) (local.get $secret)))
        (i64.add (i64.add (local.get $a) (local.get $b)) (i64.add (local.get $c) (local.get $d)))))"#;

#[test]
fn three_hundred_thousand_guests_find_their_own_data_and_zeroes() {
    let host = &Host::new(4 << 20, 1000, 1000);
    let spy = &host.module(SPY);
    let grown = &AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                let mut held = VecDeque::new();
                for turn in 0..GUESTS / THREADS {
                    // Most stay small, as real ones do; the larger, the rarer.
                    let (restored, pages) = match turn % 500 {
                        0 => (1, 20 + turn / 500 % 30),
                        1 => (30, 10),
                        2 => (1, 0),
                        3..13 => (1, 4 + turn % 6),
                        13..23 => (5 + turn % 5, 2),
                        23..73 => (1, 1 + turn % 3),
                        73..123 => (1 + turn % 4, 0),
                        _ => (1, 0),
                    };
                    let sizes = [restored * WASM_PAGE];
                    let mut guest = match host.instance(spy, &sizes) {
                        Ok(guest) => guest,
                        Err(error) => panic!("guest {turn} with {restored} pages found something: {error:?}"),
                    };
                    // Logging its writes makes no difference either.
                    if turn % 20 == 0 {
                        guard_all(&mut guest.memory_of(0), turn % 3, Arc::new(Unlimited)).unwrap();
                    }
                    let seed = (thread * GUESTS + turn) as i64 * 0x9e37_79b9;
                    if let Err(error) = guest.call::<_, ()>("dirty", (seed, pages as u32, 12u32)) {
                        panic!("guest {turn} with {restored} and {pages} more found something: {error:?}");
                    }
                    grown.fetch_add(usize::from(pages > 0), Relaxed);
                    // Bytes that the host writes have to go as well.
                    if turn % 10 == 0 {
                        let (memory, from) = (guest.memory(0), turn * 37 % WASM_PAGE);
                        memory[from..].fill(0xdb);
                    }
                    held.push_back(guest);
                    if held.len() > 1 + turn % 5 {
                        held.pop_front();
                    }
                }
            });
        }
    });
    assert!(grown.load(Relaxed) > GUESTS / 10);
    assert_eq!((host.memories.in_use(), host.stacks.in_use()), (0, 0));
}

/// The spy finds bytes that are there: otherwise the test above proves nothing.
#[test]
fn the_spy_sees_every_byte() {
    let host = Host::new(4 << 20, 10, 10);
    let spy = host.module(&SPY.replace("(start $look)", r#"(export "look" (func $look))"#));
    let mut guest = host.instance(&spy, &[2 * WASM_PAGE]).unwrap();
    guest.call::<_, ()>("look", ()).unwrap();
    for at in (0..2 * WASM_PAGE).step_by(61).chain([8191, 8192, 8319, 8320, 2 * WASM_PAGE - 1]) {
        guest.memory(0)[at] ^= 1;
        assert!(guest.call::<_, ()>("look", ()).is_err(), "byte {at}");
        guest.memory(0)[at] ^= 1;
    }
    guest.call::<_, ()>("look", ()).unwrap();
}

#[test]
fn a_stack_that_a_guest_has_used_is_zero_for_the_next_one() {
    let host = Host::new(4 << 20, 10, 3);
    let spy = host.module(SPY);
    let mut deepest = 0;
    for turn in 0..2_000u32 {
        let mut guests: Vec<_> = (0..1 + turn as usize % 3).map(|_| host.instance(&spy, &[]).unwrap()).collect();
        for guest in &mut guests {
            // Some overflow what a guest may use.
            let done = guest.call::<_, i64>("deep", (turn % 1500, 0x5ec2_e75e_c2e7_5ec2_i64));
            deepest = if done.is_ok() { deepest.max(turn % 1500) } else { deepest };
        }
        let used = guests.len();
        drop(guests);
        // The same slots, the last one first.
        let stacks: Vec<_> = (0..used).map(|_| host.stacks.new_stack(STACK, true).unwrap()).collect();
        for stack in &stacks {
            // SAFETY: the stack is the test's own, open from end to end, and nothing runs on it.
            let bytes = unsafe { std::slice::from_raw_parts_mut(stack.range().start as *mut u8, STACK) };
            assert!(crate::is_zero(bytes), "turn {turn}");
            bytes[turn as usize * 131 % STACK..].fill(0xbb);
        }
    }
    assert!(deepest > 500, "{deepest} frames");
    assert_eq!(host.stacks.in_use(), 0);
}
