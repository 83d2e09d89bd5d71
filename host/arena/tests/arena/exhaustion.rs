//! Exhausting a resource is an error, never an abort, and it is available again once others free theirs.

use crate::{Guest, Host, WASM_PAGE, block_on, is_zero};
use carrel_arena::{Error, Memories};
use std::{hint::black_box, os::unix::process::ExitStatusExt, process::Command};
use wasmtime::{Engine, Instance, Linker, Module, Store};

const SMALL: usize = 256 << 10;
const MIDDLE: usize = 1 << 20;

/// A guest with a start function, without which it would have a stack only from its first call on.
const GUEST: &str = r#"(module
    (memory (export "memory") 1)
    (func $start)
    (start $start)
    (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
    (func (export "touch") (param i32) (i32.store (local.get 0) (i32.const -1))))"#;

#[test]
fn an_arena_without_a_slot_refuses_instances_until_one_is_dropped() {
    let host = Host::new(MIDDLE, 2, 100);
    let module = host.module(GUEST);
    // Two in slots of their size, two in slots of the next.
    let mut guests: Vec<_> = (0..4).map(|_| host.instance(&module, &[]).unwrap()).collect();
    for _ in 0..20 {
        for _ in 0..3 {
            let error = host.instance(&module, &[]).err().unwrap();
            assert!(Error::is_exhausted(&error), "{error:?}");
            assert_eq!(host.memories.in_use(), 4);
        }
        // The others do not notice.
        for guest in &mut guests {
            guest.call::<_, ()>("touch", 0u32).unwrap();
        }
        guests.remove(0);
        guests.push(host.instance(&module, &[]).unwrap());
        assert!(is_zero(guests[3].memory(0)));
    }
    guests.clear();
    assert_eq!((host.memories.in_use(), host.stacks.in_use()), (0, 0));
}

#[test]
fn a_memory_that_finds_no_larger_slot_does_not_grow_and_stays_as_it_is() {
    let host = Host::new(MIDDLE, 1, 100);
    let module = host.module(GUEST);
    let mut small = host.instance(&module, &[]).unwrap();
    let large = host.instance(&module, &[MIDDLE]).unwrap();
    let grow = |guest: &mut Guest, by: u32| guest.call::<_, i32>("grow", by).unwrap();
    for _ in 0..10 {
        small.memory(0).fill(7);
        assert_eq!((grow(&mut small, 4), grow(&mut small, 16), grow(&mut small, u32::MAX)), (-1, -1, -1));
        assert!(small.memory(0).iter().all(|byte| *byte == 7) && small.memory(0).len() == WASM_PAGE);
    }
    assert_eq!(grow(&mut small, 3), 1);
    assert_eq!((grow(&mut small, 1), small.memory(0).len()), (-1, SMALL));
    drop(large);
    assert_eq!((grow(&mut small, 1), small.memory(0).len()), (4, SMALL + WASM_PAGE));
    assert!(small.memory(0)[..WASM_PAGE].iter().all(|byte| *byte == 7) && is_zero(&small.memory(0)[WASM_PAGE..]));
    // The small slot is free again.
    assert_eq!(host.memories.in_use(), 1);
    assert!(is_zero(host.instance(&module, &[SMALL]).unwrap().memory(0)));
    assert_eq!(grow(&mut small, 11), 5);
    assert_eq!(grow(&mut small, 1), -1, "there are no larger slots");
}

#[test]
fn a_store_that_finds_no_stack_refuses_calls_until_one_is_dropped() {
    let host = Host::new(MIDDLE, 100, 2);
    let module = host.module(GUEST);
    let mut guests: Vec<_> = (0..2).map(|_| host.instance(&module, &[]).unwrap()).collect();
    for _ in 0..20 {
        for _ in 0..3 {
            let error = host.instance(&module, &[]).err().unwrap();
            assert!(Error::is_exhausted(&error), "{error:?}");
            assert_eq!((host.memories.in_use(), host.stacks.in_use()), (2, 2));
        }
        for guest in &mut guests {
            guest.call::<_, ()>("touch", 0u32).unwrap();
        }
        guests.remove(0);
        guests.push(host.instance(&module, &[]).unwrap());
    }
}

#[test]
fn threads_that_want_more_than_there_is_meet_errors_only() {
    let host = &Host::new(MIDDLE, 3, 5);
    let module = &host.module(GUEST);
    let (mut made, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(move || {
                    let (mut made, mut refused) = (0, 0);
                    let mut held = std::collections::VecDeque::new();
                    for turn in 0..2_000 {
                        match host.instance(module, &[turn % 5 * WASM_PAGE]) {
                            Ok(mut guest) => {
                                made += 1;
                                assert!(is_zero(guest.memory(0)));
                                let grown = guest.call::<_, i32>("grow", (turn % 7) as u32).unwrap();
                                assert!(grown == -1 || is_zero(guest.memory(0)));
                                guest.memory(0).fill(0xbd);
                                held.push_back(guest);
                            }
                            Err(error) => {
                                refused += 1;
                                assert!(Error::is_exhausted(&error), "{error:?}");
                                held.pop_front();
                            }
                        }
                    }
                    (made, refused)
                })
            })
            .collect();
        for thread in threads {
            let (one_made, one_refused) = thread.join().unwrap();
            (made, refused) = (made + one_made, refused + one_refused);
        }
    });
    assert!(made > 100 && refused > 100, "{made} made, {refused} refused");
    assert_eq!((host.memories.in_use(), host.stacks.in_use()), (0, 0));
}

#[test]
fn an_engine_that_would_need_guard_pages_gets_no_memory() {
    let host = Host::new(MIDDLE, 1, 1);
    for (reservation, guard) in [(1 << 32, 0), (0, 65536), (1 << 32, 1 << 31)] {
        let mut config = crate::config(&host.memories, &host.stacks);
        config.memory_reservation(reservation).memory_guard_size(guard);
        let engine = Engine::new(&config).unwrap();
        let module = Module::new(&engine, wat::parse_str("(module (memory 1))").unwrap()).unwrap();
        let error = Instance::new(&mut Store::new(&engine, ()), &module, &[]).unwrap_err();
        assert!(format!("{error:?}").contains("memory_reservation(0)"), "{error:?}");
        assert_eq!(host.memories.in_use(), 0);
    }
}

#[test]
fn a_process_with_few_addresses_gets_fewer_slots_or_an_error() {
    // More than any process has.
    assert!(Memories::new(usize::MAX).is_err());
    assert!(carrel_arena::Stacks::new(1 << 50).is_err());
}

/// Set in the process that is made to overflow its stack.
const OVERFLOW: &str = "CARREL_ARENA_TEST_OVERFLOWS";

/// The memory below a stack is another guest's: an overflow must end the process.
#[test]
fn a_host_function_that_overflows_its_stack_ends_the_process() {
    if std::env::var_os(OVERFLOW).is_some() {
        overflow();
        std::process::exit(0);
    }
    let name = "exhaustion::a_host_function_that_overflows_its_stack_ends_the_process";
    let mut child = Command::new(std::env::current_exe().unwrap());
    let child = child.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(OVERFLOW, "1").output().unwrap();
    let (out, error) = (String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    let signal = child.status.signal();
    assert!(out.contains("now it overflows"), "{out}{error}");
    assert!(matches!(signal, Some(libc::SIGSEGV | libc::SIGABRT)), "{:?}: {out}{error}", child.status);
}

fn overflow() {
    let host = Host::new(MIDDLE, 5, 5);
    let mut linker = Linker::new(&host.engine);
    linker
        .func_wrap("", "overflow", || {
            println!("now it overflows");
            black_box(recurse(black_box(1)));
        })
        .unwrap();
    let module = host.module(r#"(module (import "" "overflow" (func $overflow)) (start $overflow))"#);
    // Stacks on both sides.
    let _below = host.instance(&host.module(GUEST), &[]).unwrap();
    let mut store = host.store(());
    let running = crate::by(&mut store, &[], async |cx| {
        let _above = host.instance(&host.module(GUEST), &[]).unwrap();
        linker.instantiate_async(cx, &module).await
    });
    let _ = block_on(running);
}

#[allow(unconditional_recursion)]
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    recurse(depth + 1) + frame[black_box(7)]
}

/// A guest that recurses without end is stopped long before, and that is its own error.
#[test]
fn a_guest_that_overflows_its_stack_traps() {
    let host = Host::new(MIDDLE, 5, 5);
    let module = host.module(r#"(module (memory 1) (func $again (export "again") (call $again)))"#);
    let mut guest = host.instance(&module, &[]).unwrap();
    for _ in 0..100 {
        let error = guest.call::<_, ()>("again", ()).unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&wasmtime::Trap::StackOverflow));
        guest.refuel();
    }
}
