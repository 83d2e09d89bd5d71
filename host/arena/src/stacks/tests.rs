//! Slots of fiber stacks against a plain model, and their edges and ends.

use super::*;
use crate::stack::{Frames, SHALLOW};
use proptest::{prelude::*, sample::Index};
use wasmtime::component::Component;

const SIZE: usize = 128 << 10;

/// Stacks of both kinds, as far as this kernel has them.
fn both(slots: usize) -> Vec<Stacks> {
    let installed = guards_can_be_installed().unwrap().then_some(GuardPages::Installed);
    let kinds = installed.into_iter().chain([GuardPages::Protected]);
    kinds.map(|guard| Stacks::reserve(SIZE, slots, guard).unwrap()).collect()
}

impl Stack {
    #[allow(clippy::mut_from_ref)]
    fn bytes(&self) -> &mut [u8] {
        // SAFETY: the stack is the test's own, and the test keeps one slice of it at a time.
        unsafe { std::slice::from_raw_parts_mut(self.guard_range().end, self.range().len()) }
    }

    fn is_zero(&self) -> bool {
        *self.bytes() == [0; SIZE]
    }

    /// Returns true if a write to the guard page, at this offset, ends the process: a child made for this.
    fn is_guarded_at(&self, offset: usize) -> bool {
        let byte = self.guard_range().start.wrapping_add(offset);
        // SAFETY: `fork` in a test with threads: the child only writes one byte and exits, it calls nothing that
        // could take a lock that another thread held.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: on purpose an invalid write, in a process of its own; `_exit` runs no destructors.
            unsafe {
                libc::signal(libc::SIGSEGV, libc::SIG_DFL);
                byte.write_volatile(1);
                libc::_exit(0);
            }
        }
        let mut status = 0;
        // SAFETY: `child` is the process that was just made, and `status` is a valid place for its end.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV
    }
}

/// The number of mappings of the stacks' region. Adjacent regions of other tests are not counted.
fn mappings(stacks: &Stacks) -> usize {
    let start = stacks.slots.region().at(0).as_ptr() as usize;
    let end = start + MOST_IN_TESTS * stacks.slots.size();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let starts = maps.lines().map(|line| usize::from_str_radix(line.split('-').next().unwrap(), 16).unwrap());
    starts.filter(|it| (start..end).contains(it)).count()
}

const MOST_IN_TESTS: usize = 1000;

#[test]
fn a_stack_is_writable_to_its_edges_and_reused_zeroed() {
    for stacks in both(MOST_IN_TESTS) {
        for _ in 0..3 {
            let stack = stacks.allocate().unwrap();
            let range = stack.range();
            assert_eq!(range.len(), SIZE);
            assert_eq!(range.end, stack.top() as usize);
            assert_eq!(range.start, stack.guard_range().end as usize);
            assert_eq!((range.start % PAGE, stack.guard_range().start as usize % PAGE), (0, 0));
            assert!(stack.is_zero());
            stack.bytes().fill(0xee);
        }
        assert_eq!(stacks.in_use(), 0);
        stacks.slots.check();
    }
}

#[test]
fn what_a_call_has_left_deep_on_a_stack_goes_and_what_is_at_its_top_stays() {
    for stacks in both(MOST_IN_TESTS) {
        let stack = stacks.allocate().unwrap();
        let (deep, region, start) = (SIZE - SHALLOW, stacks.slots.region(), stack.0.start() + PAGE);
        stack.bytes()[deep..].fill(0xaa);
        // SAFETY: nothing runs on it.
        unsafe { stack.0.trim(Frames::Small) };
        assert!(stack.bytes()[deep..].iter().all(|byte| *byte == 0xaa));
        // The whole depth; or only what a small frame leaves in the page that is tested; or what a large frame
        // leaves.
        let all = || (0..deep, 0xbb, Frames::Small);
        let edge = |at: usize| (at..at + 8, 0xbb, Frames::Small);
        let touched = (deep - PAGE..deep - PAGE + 4, 0, Frames::Any);
        for (left, byte, frames) in [all(), edge(deep - 8), edge(deep - PAGE), (0..deep, 0, Frames::Any), touched] {
            stack.bytes()[left.clone()].fill(byte);
            assert!(region.may_be_resident(start + deep - PAGE));
            // SAFETY: nothing runs on it.
            unsafe { stack.0.trim(frames) };
            assert!((0..deep / PAGE).all(|page| !region.may_be_resident(start + page * PAGE)), "{left:?}");
            assert!(stack.bytes()[deep..].iter().all(|byte| *byte == 0xaa));
        }
        drop(stack);
        stacks.slots.check();
    }
}

#[test]
fn touching_a_guard_page_is_a_fault_on_first_use_and_after_reuse() {
    for stacks in both(MOST_IN_TESTS) {
        let mut neighbours = Vec::new();
        for use_of_it in 0..3 {
            let stack = stacks.allocate().unwrap();
            for offset in [0, PAGE / 2, PAGE - 1] {
                assert!(stack.is_guarded_at(offset), "byte {offset} at use {use_of_it}, {:?}", stacks.guard);
            }
            assert!(!stack.is_guarded_at(PAGE), "the stack itself is not guarded");
            stack.bytes().fill(1);
            // Slots beside it are taken and freed, too, beyond where the region was opened first.
            neighbours.extend((0..300).map(|_| stacks.allocate().unwrap()));
            if use_of_it == 1 {
                neighbours.iter().for_each(|stack| stack.bytes().fill(2));
                neighbours.clear();
            }
        }
        for stack in neighbours.iter().step_by(97) {
            assert!(stack.is_guarded_at(PAGE - 1));
        }
    }
}

#[test]
fn installed_guards_cost_no_mappings() {
    for stacks in both(MOST_IN_TESTS) {
        let all: Vec<_> = (0..MOST_IN_TESTS).map(|_| stacks.allocate().unwrap()).collect();
        all.iter().for_each(|stack| stack.bytes()[SIZE - 1] = 1);
        let mappings = mappings(&stacks);
        assert_eq!(stacks.guards_are_mappings(), mappings > 2, "{mappings} mappings");
        assert!(mappings <= 2 * MOST_IN_TESTS + 2);
    }
}

#[test]
fn no_more_stacks_are_made_than_there_are_and_then_they_serve_again() {
    for stacks in both(3) {
        let mut all: Vec<_> = (0..3).map(|_| stacks.allocate().unwrap()).collect();
        for _ in 0..3 {
            assert!(matches!(stacks.allocate(), Err(Error::Exhausted(_))));
            assert_eq!(stacks.in_use(), 3);
            all.swap_remove(1);
            all.push(stacks.allocate().unwrap());
            assert!(all[2].is_zero());
            all[2].bytes().fill(3);
        }
    }
}

#[test]
fn a_stack_whose_guard_page_is_refused_is_an_error_and_serves_later() {
    if !guards_can_be_installed().unwrap() {
        return;
    }
    let stacks = Stacks::reserve(SIZE, 2, GuardPages::Installed).unwrap();
    let first = stacks.allocate().unwrap();
    let second = stacks.slots.size();
    // The kernel installs no guard in locked memory.
    if !stacks.slots.region().lock(second, PAGE, true) {
        return;
    }
    for _ in 0..3 {
        assert!(matches!(stacks.allocate(), Err(Error::Exhausted(_))));
        assert_eq!(stacks.in_use(), 1);
    }
    assert!(stacks.slots.region().lock(second, PAGE, false));
    let stack = stacks.allocate().unwrap();
    assert_eq!(stack.guard_range().start, stacks.slots.region().at(second).as_ptr());
    assert!(stack.is_guarded_at(0) && first.is_guarded_at(0));
    assert_eq!(stacks.in_use(), 2);
}

#[test]
fn a_stack_that_the_kernel_does_not_take_back_is_zeroed_all_the_same() {
    for stacks in both(1) {
        let stack = stacks.allocate().unwrap();
        if !stacks.slots.region().lock(PAGE, SIZE, true) {
            return;
        }
        stack.bytes().fill(0x77);
        drop(stack);
        let stack = stacks.allocate().unwrap();
        assert!(stack.is_zero());
        stack.bytes().fill(0x77);
        assert!(stacks.slots.region().lock(PAGE, SIZE, false));
        drop(stack);
        stacks.slots.check();
        assert!(stacks.allocate().unwrap().is_zero());
    }
}

#[test]
fn a_stack_of_another_size_is_refused() {
    let stacks = Stacks::new(SIZE).unwrap();
    for size in [0, PAGE, SIZE - PAGE, SIZE + 1, SIZE * 2] {
        assert!(stacks.new_stack(size, false).is_err(), "{size}");
    }
    assert_eq!(stacks.new_stack(SIZE - 1, true).unwrap().range().len(), SIZE);
    assert_eq!(stacks.in_use(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

    /// Threads take, dirty and drop stacks: each holds what its thread wrote for as long as it lives, and zeroes before.
    #[test]
    fn stacks_are_never_shared_and_always_zeroed(
        steps in prop::collection::vec(prop::collection::vec((any::<bool>(), any::<Index>(), any::<Index>()), 1..60), 4)
    ) {
        for stacks in both(9) {
            std::thread::scope(|scope| {
                for (thread, steps) in steps.iter().enumerate() {
                    let (stacks, mark) = (&stacks, thread as u8 + 1);
                    scope.spawn(move || {
                        let mut mine = Vec::<(Stack, Vec<u8>)>::new();
                        for (make, which, at) in steps {
                            if *make {
                                if let Ok(stack) = stacks.allocate() {
                                    assert!(stack.is_zero());
                                    stack.bytes()[at.index(SIZE)..].fill(mark);
                                    let expected = stack.bytes().to_vec();
                                    mine.push((stack, expected));
                                }
                            } else if !mine.is_empty() {
                                let (stack, expected) = mine.swap_remove(which.index(mine.len()));
                                assert!(stack.bytes() == expected.as_slice());
                            }
                        }
                        for (stack, expected) in mine {
                            assert!(stack.bytes() == expected.as_slice());
                        }
                    });
                }
            });
            assert_eq!(stacks.in_use(), 0);
            stacks.slots.check();
        }
    }
}

#[test]
fn code_tells_whether_a_function_takes_more_than_a_page() {
    let engine = wasmtime::Engine::default();
    // So many numbers are kept over a call that not all of them can be in registers.
    let function = |numbers: usize| {
        let locals = (0..numbers).map(|n| format!("(local.set {n} (call $f))")).collect::<String>();
        let sum = (0..numbers).map(|n| format!("(i64.add (local.get {n}))")).collect::<String>();
        let types = "i64 ".repeat(numbers);
        format!(
            "(component (core module (import \"h\" \"f\" (func $f (result i64)))
                (func (export \"g\") (result i64) (local {types}) {locals} (call $f) {sum})))"
        )
    };
    for (numbers, frames) in [(4, Frames::Small), (300, Frames::Small), (600, Frames::Any), (5000, Frames::Any)] {
        let component = Component::new(&engine, wat::parse_str(function(numbers)).unwrap()).unwrap();
        // On other architectures the instruction is not known, and any frame may be a large one.
        let frames = if cfg!(target_arch = "x86_64") { frames } else { Frames::Any };
        assert_eq!(Frames::of(&component), frames, "{numbers}");
    }
}
