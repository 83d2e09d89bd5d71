//! Which pages of a store's memories were written to, as the kernel tells.

use crate::{Guest, Host, WASM_PAGE, is_zero};
use carrel_arena::PAGE;
use proptest::{prelude::*, sample::Index};
use std::collections::BTreeSet;

const LARGEST: usize = 4 << 20;
const TWO: &str = r#"(module
    (memory $one (export "one") 1)
    (memory $two (export "two") 2)
    (func (export "write one") (param i32) (i32.store8 $one (local.get 0) (i32.const 0)))
    (func (export "write two") (param i32) (i32.store8 $two (local.get 0) (i32.const 0)))
    (func (export "read one") (param i32) (drop (i32.load8_u $one (local.get 0))))
    (func (export "read two") (param i32) (drop (i32.load8_u $two (local.get 0))))
    (func (export "fill one") (param i32 i32) (memory.fill $one (local.get 0) (i32.const 1) (local.get 1)))
    (func (export "fill two") (param i32 i32) (memory.fill $two (local.get 0) (i32.const 1) (local.get 1)))
    (func (export "grow one") (param i32) (result i32) (memory.grow $one (local.get 0)))
    (func (export "grow two") (param i32) (result i32) (memory.grow $two (local.get 0))))"#;
const NAMES: [&str; 2] = ["one", "two"];

/// The pages that were written to: memory, and number of the page. None, if that is not known.
fn written(guest: &mut Guest) -> Option<BTreeSet<(usize, usize)>> {
    let mut found = BTreeSet::new();
    let mut last = (0, 0);
    let known = guest.store.written(|memory, bytes| {
        assert!(bytes.start % PAGE == 0 && bytes.end % PAGE == 0 && !bytes.is_empty());
        assert!((memory, bytes.start) >= last, "in order");
        last = (memory, bytes.end);
        found.extend((bytes.start / PAGE..bytes.end / PAGE).map(|page| (memory, page)));
    });
    known.then_some(found)
}

#[derive(Debug, Clone)]
enum Step {
    /// What the guest writes, even if it was that before.
    Write(usize, Index),
    Fill(usize, Index, Index),
    Read(usize, Index),
    Host(usize, Index),
    Grow(usize, u32),
    Watch,
    /// The guest is dropped, and another one gets its slots.
    Again,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (which, at) = (|| 0..2usize, any::<Index>);
    let step = prop_oneof![
        6 => (which(), at()).prop_map(|(which, at)| Step::Write(which, at)),
        2 => (which(), at(), at()).prop_map(|(which, from, to)| Step::Fill(which, from, to)),
        4 => (which(), at()).prop_map(|(which, at)| Step::Read(which, at)),
        2 => (which(), at()).prop_map(|(which, at)| Step::Host(which, at)),
        1 => (which(), 0..6u32).prop_map(|(which, by)| Step::Grow(which, by)),
        3 => Just(Step::Watch),
        1 => Just(Step::Again),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) })]

    #[test]
    fn pages_are_told_that_were_written_to_and_no_others(steps in steps(), skip in 0..20usize) {
        let host = Host::new(LARGEST, 5, 5);
        if !host.memories.writes_are_noted() {
            return Ok(());
        }
        let module = host.module(TWO);
        let mut guest = host.instance(&module, &[]).unwrap();
        // None, if it is not to be known.
        let mut expected = None::<BTreeSet<(usize, usize)>>;
        for step in steps {
            let mut sizes = [0, 0];
            for (size, memory) in sizes.iter_mut().zip(guest.store.memories()) {
                *size = memory.len();
            }
            let mut wrote = None;
            match step {
                Step::Write(which, at) => {
                    let at = at.index(sizes[which]);
                    guest.call::<_, ()>(&format!("write {}", NAMES[which]), at as u32).unwrap();
                    wrote = Some((which, at..at + 1));
                }
                Step::Fill(which, from, to) => {
                    let (from, to) = (from.index(sizes[which]), to.index(sizes[which]));
                    let (from, to) = (from.min(to), from.max(to));
                    guest.call::<_, ()>(&format!("fill {}", NAMES[which]), (from as u32, (to - from) as u32)).unwrap();
                    wrote = (from < to).then_some((which, from..to));
                }
                Step::Read(which, at) => {
                    let at = at.index(sizes[which]) as u32;
                    guest.call::<_, ()>(&format!("read {}", NAMES[which]), at).unwrap();
                }
                Step::Host(which, at) => {
                    let at = at.index(sizes[which]);
                    guest.memory(which)[at] = 9;
                    wrote = Some((which, at..at + 1));
                }
                Step::Grow(which, by) => {
                    let grown = guest.call::<_, i32>(&format!("grow {}", NAMES[which]), by).unwrap();
                    if by > 0 && grown != -1 {
                        expected = None;
                    }
                }
                Step::Watch => {
                    guest.store.watch(skip * PAGE);
                    expected = Some(BTreeSet::new());
                }
                Step::Again => {
                    drop(guest);
                    guest = host.instance(&module, &[]).unwrap();
                    prop_assert!(guest.store.memories().all(|memory| is_zero(memory)));
                    expected = None;
                }
            }
            if let (Some(expected), Some((which, bytes))) = (&mut expected, wrote) {
                let pages = bytes.start / PAGE..bytes.end.div_ceil(PAGE);
                let pages = pages.filter(|page| which != 0 || *page >= skip);
                expected.extend(pages.map(|page| (which, page)));
            }
            prop_assert_eq!(&written(&mut guest), &expected);
        }
    }
}

/// Watching slots leaves their neighbours, the mappings, and what comes after as they are.
#[test]
fn watching_costs_no_mappings() {
    let host = Host::new(1 << 20, 2_000, 10);
    let module = host.module(r#"(module (memory 1))"#);
    let mappings = || std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    let before = mappings();
    let mut guests: Vec<_> = (0..1_000).map(|_| host.instance(&module, &[]).unwrap()).collect();
    for (turn, guest) in guests.iter_mut().enumerate() {
        guest.store.watch(turn % 3 * PAGE);
        guest.memory(0)[turn * 61 % WASM_PAGE] = 1;
    }
    // Other tests make some at the same time.
    assert!(mappings() < before + 500, "{before} before, {} now", mappings());
}
