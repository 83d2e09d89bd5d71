//! Slots of linear memories against a plain model, and their edges and ends.

use super::*;
use proptest::{prelude::*, sample::Index};
use std::ops::Range;

#[allow(clippy::mut_from_ref)]
fn slice(slot: &MemorySlot) -> &mut [u8] {
    // SAFETY: the slot is the test's own, and the test keeps one slice of it at a time.
    unsafe { std::slice::from_raw_parts_mut(slot.base().as_ptr(), slot.size) }
}

/// Returns true if all bytes are zero, by `memcmp`: these tests read gigabytes, and run without optimisation.
fn zero(bytes: &[u8]) -> bool {
    const ZEROES: &[u8] = &[0; 1 << 20];
    bytes.chunks(ZEROES.len()).all(|chunk| *chunk == ZEROES[..chunk.len()])
}

fn memory(memories: &Memories, size: usize) -> Result<ArenaMemory, Error> {
    Ok(ArenaMemory { memories: memories.clone(), slot: Arc::new(SharedSlot::new(memories.allocate(size)?)) })
}

impl ArenaMemory {
    #[allow(clippy::mut_from_ref)]
    fn bytes(&self) -> &mut [u8] {
        let (base, size) = self.slot.place();
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(base.as_ptr(), size) }
    }

    /// The whole slot, of which `bytes` are the beginning.
    fn slot_range(&self) -> Range<usize> {
        self.as_ptr() as usize..self.as_ptr() as usize + self.byte_capacity()
    }
}

#[test]
fn a_slot_reads_as_zeroes_whoever_had_it_before() {
    let memories = Memories::new(4 << 20).unwrap();
    for size in [65536, KEEP, KEEP + 65536, 256 << 10, 1 << 20, 3 << 20] {
        for _ in 0..3 {
            let slot = memories.allocate(size).unwrap();
            assert!(zero(slice(&slot)), "{size} bytes");
            slice(&slot).fill(0xa5);
        }
    }
    assert_eq!(memories.in_use(), 0);
}

#[test]
fn a_growing_memory_keeps_its_bytes_and_gains_zeroes() {
    let memories = Memories::new(4 << 20).unwrap();
    drop(memories.allocate(4 << 20).map(|slot| slice(&slot).fill(0xff)));
    let mut memory = memory(&memories, 65536).unwrap();
    for size in [65536, 256 << 10, 320 << 10, 1 << 20, (1 << 20) + 65536, 4 << 20] {
        let before = memory.byte_size();
        memory.grow_to(size).unwrap();
        assert!(zero(&memory.bytes()[before.min(size)..]), "{size} bytes");
        assert!(before == size || memory.bytes()[before - 1] == 7 || before == 65536);
        memory.bytes()[size - 1] = 7;
    }
    assert!(memory.grow_to((4 << 20) + 65536).is_err());
    assert_eq!(memories.in_use(), 1);
}

#[test]
fn a_full_arena_is_an_error_and_then_serves_again() {
    let memories = Memories::with_slots(SMALLER[0], 2).unwrap();
    let first = memories.allocate(1).unwrap();
    let _second = memories.allocate(1).unwrap();
    assert!(matches!(memories.allocate(1), Err(Error::Exhausted(_))));
    drop(first);
    assert!(memories.allocate(1).is_ok());
}

#[test]
fn a_memory_that_finds_no_slot_of_its_size_gets_a_larger_one() {
    let memories = Memories::with_slots(4 << 20, 1).unwrap();
    let mut small = memory(&memories, 1).unwrap();
    let middle = memory(&memories, 1).unwrap();
    let large = memory(&memories, 1).unwrap();
    assert_eq!([&small, &middle, &large].map(|it| it.byte_capacity()), [256 << 10, 1 << 20, 4 << 20]);
    assert!(memory(&memories, 1).is_err());
    // A memory that cannot grow stays as it was.
    small.bytes().fill(1);
    assert!(Error::is_exhausted(&small.grow_to(SMALLER[0] + 1).unwrap_err()));
    assert_eq!(small.bytes(), [1]);
    small.grow_to(SMALLER[0]).unwrap();
    assert_eq!((small.bytes()[0], zero(&small.bytes()[1..])), (1, true));
    drop(large);
    small.grow_to(SMALLER[0] + 1).unwrap();
    assert_eq!(small.byte_capacity(), 4 << 20);
    assert_eq!((small.bytes()[0], zero(&small.bytes()[1..])), (1, true));
    assert_eq!(memories.in_use(), 2);
}

#[test]
fn a_slot_that_the_kernel_does_not_take_back_is_zeroed_all_the_same() {
    let memories = Memories::with_slots(4 << 20, 1).unwrap();
    for size in [KEEP + 65536, 1 << 20] {
        let slot = memories.allocate(size).unwrap();
        let (of, offset) = (slot.of.clone(), slot.of.slots.offset(slot.index));
        if !of.slots.region().lock(offset, size, true) {
            return;
        }
        slice(&slot).fill(0x77);
        drop(slot);
        let again = memories.allocate(size).unwrap();
        assert_eq!(again.base(), of.slots.region().at(offset));
        assert!(zero(slice(&again)), "{size} bytes");
        assert!(of.slots.region().lock(offset, size, false));
        slice(&again).fill(0x77);
        drop(again);
        of.slots.check();
        assert!(zero(slice(&memories.allocate(size).unwrap())));
    }
}

/// Most of a million reuses: the others are by guests, in `tests/arena/isolation.rs`.
#[test]
fn seven_hundred_thousand_reuses_find_zeroes() {
    const THREADS: u64 = 2;
    const REUSES: usize = 700_000;
    let memories = &Memories::new(4 << 20).unwrap();
    std::thread::scope(|scope| {
        for thread in 1..=THREADS {
            scope.spawn(move || {
                let mut random = Random(thread);
                let mut held = std::collections::VecDeque::new();
                for turn in 0..REUSES / THREADS as usize {
                    // Most guests have one page or two; the more a slot costs, the rarer it is.
                    let size = match turn % 1000 {
                        0 => (1 << 20) + random.below(3 << 20),
                        1..10 => (256 << 10) + random.below(768 << 10),
                        10..30 => KEEP + random.below(KEEP),
                        30..200 => KEEP,
                        _ => 65536,
                    };
                    let memory = memory(memories, size).unwrap();
                    assert!(zero(memory.bytes()), "{size} bytes at turn {turn}");
                    let bytes = memory.bytes();
                    for _ in 0..8 {
                        bytes[random.below(size)] = thread as u8;
                    }
                    (bytes[0], bytes[size - 1]) = (thread as u8, thread as u8);
                    // A few live at a time, so that each thread's slots go to the other as well.
                    held.push_back(memory);
                    if held.len() > 1 + turn % 7 {
                        held.pop_front();
                    }
                }
            });
        }
    });
    assert_eq!(memories.in_use(), 0);
    memories.sizes.iter().for_each(|of| of.slots.check());
}

/// A small xorshift generator.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

#[derive(Debug, Clone)]
enum Step {
    Make { size: usize },
    Write { which: Index, at: Index, byte: u8 },
    Fill { which: Index, byte: u8 },
    Grow { which: Index, by: usize },
    Drop { which: Index },
}

/// Sizes around the borders of slots, of pages, and of the kept bytes.
fn sizes() -> impl Strategy<Value = usize> + Clone {
    prop_oneof![
        2 => prop::sample::select(vec![0, 1, 4095, 4096, 65536, KEEP, KEEP + 1, SMALLER[0], SMALLER[0] + 1, 1 << 20]),
        3 => (0..6usize).prop_map(|pages| pages << 16),
        1 => 0..(5usize << 20),
    ]
}

fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let which = any::<Index>;
    let step = prop_oneof![
        3 => sizes().prop_map(|size| Step::Make { size }),
        4 => (which(), which(), 1..=255u8).prop_map(|(which, at, byte)| Step::Write { which, at, byte }),
        1 => (which(), 1..=255u8).prop_map(|(which, byte)| Step::Fill { which, byte }),
        2 => (which(), sizes()).prop_map(|(which, by)| Step::Grow { which, by }),
        2 => which().prop_map(|which| Step::Drop { which }),
    ];
    prop::collection::vec(step, 1..most)
}

const LARGEST: usize = 4 << 20;
const SLOTS: usize = 3;
/// Bounds so low that the tests reach them.
const FEW: Keep = Keep { of_each: KEEP, of_all: KEEP + 65536 + 4096 };

/// The model: memories as plain vectors, and the number of slots of each size in use.
#[derive(Default)]
struct Model {
    lives: Vec<(ArenaMemory, Vec<u8>)>,
    used: [usize; 3],
}

/// The slot sizes of [`LARGEST`].
const CAPACITIES: [usize; 3] = [SMALLER[0], 4 * SMALLER[0], 16 * SMALLER[0]];

impl Model {
    fn run(&mut self, memories: &Memories, step: &Step, alone: bool) {
        match step {
            Step::Make { size } => {
                let made = memory(memories, *size);
                if alone {
                    assert_eq!(made.as_ref().map(|it| it.byte_capacity()).ok(), self.expected(*size));
                }
                if let Ok(memory) = made {
                    assert_eq!(memory.byte_size(), *size);
                    assert!(zero(memory.bytes()));
                    self.count(memory.byte_capacity(), 1);
                    self.lives.push((memory, vec![0; *size]));
                }
            }
            Step::Write { which, at, byte } => {
                if let Some(which) = self.pick(which).filter(|which| !self.lives[*which].1.is_empty()) {
                    let (memory, bytes) = &mut self.lives[which];
                    let at = at.index(bytes.len());
                    (memory.bytes()[at], bytes[at]) = (*byte, *byte);
                }
            }
            Step::Fill { which, byte } => {
                if let Some(which) = self.pick(which) {
                    let (memory, bytes) = &mut self.lives[which];
                    memory.bytes().fill(*byte);
                    bytes.fill(*byte);
                }
            }
            Step::Grow { which, by } => {
                if let Some(which) = self.pick(which) {
                    let (before, size) = (self.lives[which].0.byte_capacity(), self.lives[which].1.len() + by);
                    let expected = if size <= before { Some(before) } else { self.expected(size) };
                    let (memory, bytes) = &mut self.lives[which];
                    let grown = memory.grow_to(size);
                    if alone {
                        assert_eq!(grown.is_ok().then(|| memory.byte_capacity()), expected);
                    }
                    let after = memory.byte_capacity();
                    match grown {
                        Ok(()) => bytes.resize(size, 0),
                        Err(_) => assert_eq!(after, before),
                    }
                    assert!(memory.bytes() == bytes.as_slice(), "bytes are kept, and gained ones are zero");
                    self.count(before, -1);
                    self.count(after, 1);
                }
            }
            Step::Drop { which } => {
                if let Some(which) = self.pick(which) {
                    let (memory, bytes) = self.lives.swap_remove(which);
                    assert!(memory.bytes() == bytes.as_slice());
                    self.count(memory.byte_capacity(), -1);
                }
            }
        }
    }

    fn check(&self) {
        let mut ranges: Vec<_> = self.lives.iter().map(|(memory, _)| memory.slot_range()).collect();
        ranges.sort_by_key(|range| range.start);
        assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start), "slots overlap");
    }

    fn end(self) {
        for (memory, bytes) in self.lives {
            assert!(memory.bytes() == bytes.as_slice());
        }
    }

    fn pick(&self, which: &Index) -> Option<usize> {
        (!self.lives.is_empty()).then(|| which.index(self.lives.len()))
    }

    /// The capacity of the slot that the next memory of this size gets.
    fn expected(&self, size: usize) -> Option<usize> {
        let free = CAPACITIES.iter().zip(self.used).find(|(capacity, used)| **capacity >= size && *used < SLOTS);
        Some(*free?.0)
    }

    fn count(&mut self, capacity: usize, by: isize) {
        let which = CAPACITIES.iter().position(|it| *it == capacity).unwrap();
        self.used[which] = self.used[which].checked_add_signed(by).unwrap();
    }
}

fn few() -> Memories {
    Memories::reserve(LARGEST, SLOTS, FEW).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(150) })]

    #[test]
    fn memories_are_as_if_each_were_a_vector(steps in steps(80)) {
        let memories = few();
        let mut model = Model::default();
        for step in &steps {
            model.run(&memories, step, true);
            model.check();
            for (of, used) in memories.sizes.iter().zip(model.used) {
                of.slots.check();
                assert_eq!(of.slots.used(), used);
            }
            assert_eq!(memories.in_use(), model.lives.len());
        }
        model.end();
        assert_eq!(memories.in_use(), 0);
        memories.sizes.iter().for_each(|of| of.slots.check());
    }

    #[test]
    fn memories_of_several_threads_are_as_if_each_were_a_vector(steps in prop::collection::vec(steps(60), 4)) {
        let memories = &few();
        std::thread::scope(|scope| {
            for steps in &steps {
                scope.spawn(move || {
                    let mut model = Model::default();
                    for step in steps {
                        model.run(memories, step, false);
                    }
                    model.end();
                });
            }
        });
        assert_eq!(memories.in_use(), 0);
        memories.sizes.iter().for_each(|of| of.slots.check());
    }
}
