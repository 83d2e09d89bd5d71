//! There are no guard pages between memories: only the bounds checks in the code that wasmtime compiles confine a
//! guest. Here every kind of access is tried at every edge, with guests on both sides whose memories must not change.

use crate::{Guest, Host, WASM_PAGE};
use std::fmt::Write;
use wasmtime::Trap;

/// Names, and how many bytes they access.
const LOADS: [(&str, u64); 33] = [
    ("i32.load8_s", 1),
    ("i32.load8_u", 1),
    ("i32.load16_s", 2),
    ("i32.load16_u", 2),
    ("i32.load", 4),
    ("i64.load8_s", 1),
    ("i64.load8_u", 1),
    ("i64.load16_s", 2),
    ("i64.load16_u", 2),
    ("i64.load32_s", 4),
    ("i64.load32_u", 4),
    ("i64.load", 8),
    ("f32.load", 4),
    ("f64.load", 8),
    ("v128.load", 16),
    ("v128.load8x8_s", 8),
    ("v128.load8x8_u", 8),
    ("v128.load16x4_s", 8),
    ("v128.load16x4_u", 8),
    ("v128.load32x2_s", 8),
    ("v128.load32x2_u", 8),
    ("v128.load8_splat", 1),
    ("v128.load16_splat", 2),
    ("v128.load32_splat", 4),
    ("v128.load64_splat", 8),
    ("v128.load32_zero", 4),
    ("v128.load64_zero", 8),
    // Aligned accesses may be compiled otherwise than others.
    ("i64.load align=1", 8),
    ("v128.load align=1", 16),
    ("v128.load8_lane", 1),
    ("v128.load16_lane", 2),
    ("v128.load32_lane", 4),
    ("v128.load64_lane", 8),
];
const STORES: [(&str, u64); 16] = [
    ("i32.store8", 1),
    ("i32.store16", 2),
    ("i32.store", 4),
    ("i64.store8", 1),
    ("i64.store16", 2),
    ("i64.store32", 4),
    ("i64.store", 8),
    ("f32.store", 4),
    ("f64.store", 8),
    ("v128.store", 16),
    ("i64.store align=1", 8),
    ("v128.store align=1", 16),
    ("v128.store8_lane", 1),
    ("v128.store16_lane", 2),
    ("v128.store32_lane", 4),
    ("v128.store64_lane", 8),
];
/// The value that every store instruction writes to every byte.
const STORED: u8 = 0xc3;
/// The bytes that fill the victim's memory and its neighbours'.
const OWN: u8 = 0x11;
const BELOW: u8 = 0x5a;
const ABOVE: u8 = 0xa5;

/// Offsets that are part of an instruction.
const OFFSETS: [u64; 10] = [0, 1, 7, 15, 0xffff, 0x1_0000, 0x4_0000, 0x7fff_ffff, 0xffff_fff8, 0xffff_ffff];
const OFFSETS_OF_64: [u64; 5] = [0x1_0000_0000, 1 << 47, 1 << 63, u64::MAX - 7, u64::MAX];

/// The type of addresses.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Addresses {
    Of32,
    Of64,
}

impl Addresses {
    fn name(self) -> &'static str {
        if self == Self::Of32 { "i32" } else { "i64" }
    }

    fn largest(self) -> u64 {
        if self == Self::Of32 { u32::MAX.into() } else { u64::MAX }
    }

    fn offsets(self) -> impl Iterator<Item = u64> {
        let larger = if self == Self::Of32 { &[] } else { OFFSETS_OF_64.as_slice() };
        OFFSETS.into_iter().chain(larger.iter().copied())
    }

    /// The addresses at which to access `width` bytes of a memory of `size` bytes, by an instruction that adds
    /// `offset`.
    fn edges(self, size: u64, capacity: u64, width: u64, offset: u64) -> Vec<u64> {
        let around = |at: u64| (at.saturating_sub(width + 1)..=at + width).collect::<Vec<_>>();
        let mut wanted = [around(0), around(size), around(capacity), around(1 << 32)].concat();
        wanted.extend([capacity * 2, capacity * 3 - 1, 1 << 31]);
        let mut edges: Vec<_> = wanted.iter().filter_map(|at| at.checked_sub(offset)).collect();
        // Addresses that the offset would wrap to the memory's beginning without a check.
        edges.extend(wanted.iter().map(|at| at.wrapping_sub(offset) & self.largest()));
        edges.extend(around(self.largest() - 16 - 1));
        edges.extend([self.largest(), self.largest() - 1, self.largest() / 2, self.largest() / 2 + 1]);
        edges.retain(|at| *at <= self.largest());
        edges.sort_unstable();
        edges.dedup();
        edges
    }
}

/// A guest with a function for each instruction with each offset, and for bulk operations.
fn attacker(addresses: Addresses, minimum: usize, maximum: Option<usize>) -> String {
    let (a, maximum) = (addresses.name(), maximum.map_or(String::new(), |it| it.to_string()));
    let memory_of = if a == "i64" { "i64 " } else { "" };
    let mut wat = format!(
        r#"(module
            (memory (export "memory") {memory_of}{minimum} {maximum})
            (data $bytes "0123456789abcdef")
            (func (export "grow") (param {a}) (result {a}) (memory.grow (local.get 0)))
            (func (export "fill") (param {a} i32 {a})
                (memory.fill (local.get 0) (local.get 1) (local.get 2)))
            (func (export "copy") (param {a} {a} {a})
                (memory.copy (local.get 0) (local.get 1) (local.get 2)))
            (func (export "init") (param {a} i32 i32)
                (memory.init $bytes (local.get 0) (local.get 1) (local.get 2)))
        "#
    );
    for offset in addresses.offsets() {
        for (load, _) in LOADS {
            let (name, align) = load.split_once(' ').unwrap_or((load, ""));
            let (lane, vector) = match name.ends_with("_lane") {
                true => ("0", "(v128.const i64x2 0 0)"),
                false => ("", ""),
            };
            writeln!(
                wat,
                r#"(func (export "{load}+{offset}") (param {a})
                    (drop ({name} offset={offset} {align} {lane} (local.get 0) {vector})))"#
            )
            .unwrap();
        }
        for (store, _) in STORES {
            let (name, align) = store.split_once(' ').unwrap_or((store, ""));
            let lane = if name.ends_with("_lane") { "1" } else { "" };
            let value = match &name[..4] {
                "i32." => "(i32.const 0xc3c3c3c3)",
                "i64." => "(i64.const 0xc3c3c3c3c3c3c3c3)",
                "f32." => "(f32.reinterpret_i32 (i32.const 0xc3c3c3c3))",
                "f64." => "(f64.reinterpret_i64 (i64.const 0xc3c3c3c3c3c3c3c3))",
                _ => "(v128.const i64x2 0xc3c3c3c3c3c3c3c3 0xc3c3c3c3c3c3c3c3)",
            };
            writeln!(
                wat,
                r#"(func (export "{store}+{offset}") (param {a})
                    ({name} offset={offset} {align} {lane} (local.get 0) {value}))"#
            )
            .unwrap();
        }
    }
    wat + ")"
}

/// A guest whose memory is as large as its slot.
const NEIGHBOUR: &str = r#"(module (memory (export "memory") 0))"#;

/// Three guests in adjacent slots, the outer two of which fill theirs.
struct Siege {
    below: Guest,
    victim: Guest,
    above: Guest,
    capacity: usize,
    addresses: Addresses,
}

impl Siege {
    /// The victim has `pages` pages in the end: it starts with the larger of `minimum` and `restored`, and grows by
    /// the rest. Its slot then has `capacity` bytes.
    fn new(
        addresses: Addresses,
        memory: (usize, Option<usize>),
        restored: usize,
        pages: usize,
        capacity: usize,
    ) -> Self {
        // Larger than any memory, so that a slot of the wrong size would be found, not refused.
        let host = Host::new(capacity * 4, 3, 3);
        let neighbour = host.module(NEIGHBOUR);
        let module = host.module(&attacker(addresses, memory.0, memory.1));
        let below = host.instance(&neighbour, &[capacity]).unwrap();
        let mut victim = host.instance(&module, &[restored * WASM_PAGE]).unwrap();
        let begun = victim.memory(0).len() / WASM_PAGE;
        assert_eq!(begun, memory.0.max(restored));
        for (page, so_far) in (begun..pages).enumerate() {
            victim.memory(0)[page * 7] = 1;
            let before = match addresses {
                Addresses::Of32 => u64::from(victim.call::<_, u32>("grow", 1u32).unwrap()),
                Addresses::Of64 => victim.call::<_, u64>("grow", 1u64).unwrap(),
            };
            assert_eq!(before as usize, so_far);
            assert_eq!(victim.memory(0)[page * 7], 1);
        }
        let above = host.instance(&neighbour, &[capacity]).unwrap();
        let mut siege = Self { below, victim, above, capacity, addresses };
        assert_eq!(siege.size() as usize, pages * WASM_PAGE);
        siege.below.memory(0).fill(BELOW);
        siege.victim.memory(0).fill(OWN);
        siege.above.memory(0).fill(ABOVE);
        let [below, victim, above] = siege.bases();
        assert_eq!([victim - below, above - victim], [capacity, capacity], "they are neighbours");
        assert_eq!(siege.below.memory(0).len(), capacity);
        siege
    }

    fn bases(&mut self) -> [usize; 3] {
        [&mut self.below, &mut self.victim, &mut self.above].map(|guest| guest.memory(0).as_ptr() as usize)
    }

    fn size(&mut self) -> u64 {
        self.victim.memory(0).len() as u64
    }

    /// Asserts that nothing but the victim's own memory has changed and, if that should not have, that it has not
    /// either.
    #[track_caller]
    fn check(&mut self, own: &[u8], what: &str) {
        assert!(self.victim.memory(0) == own, "{what}: the guest's own memory");
        assert!(all(self.below.memory(0), BELOW), "{what}: the neighbour below");
        assert!(all(self.above.memory(0), ABOVE), "{what}: the neighbour above");
        let size = own.len();
        let end = self.victim.memory(0).as_mut_ptr_range().end;
        // SAFETY: the rest of the guest's slot, up to its neighbour, is open, and nothing writes there.
        let rest = unsafe { std::slice::from_raw_parts(end, self.capacity - size) };
        assert!(crate::is_zero(rest), "{what}: the rest of the slot");
    }

    /// Every instruction, at every edge.
    fn accesses(&mut self) -> usize {
        let (size, capacity, addresses) = (self.size(), self.capacity as u64, self.addresses);
        let own = vec![OWN; size as usize];
        let mut tried = 0;
        for offset in addresses.offsets() {
            for (is_store, (name, width)) in LOADS.map(|it| (false, it)).into_iter().chain(STORES.map(|it| (true, it)))
            {
                let what = format!("{name}+{offset}");
                let mut narrow = (addresses == Addresses::Of32).then(|| self.victim.function::<u32, ()>(&what));
                let mut wide = narrow.is_none().then(|| self.victim.function::<u64, ()>(&what));
                for at in addresses.edges(size, capacity, width, offset) {
                    let done = match (&mut narrow, &mut wide) {
                        (Some(narrow), _) => self.victim.run(narrow, u32::try_from(at).unwrap()),
                        (_, Some(wide)) => self.victim.run(wide, at),
                        _ => unreachable!(),
                    };
                    tried += 1;
                    let start = u128::from(at) + u128::from(offset);
                    let inside = start + u128::from(width) <= size.into();
                    outcome(done, inside, || format!("{what} at {at:#x} of {size:#x}"));
                    if inside && is_store {
                        let start = start as usize;
                        let written = &mut self.victim.memory(0)[start..start + width as usize];
                        assert!(all(written, STORED), "{what} at {at:#x}");
                        written.fill(OWN);
                    }
                }
                self.check(&own, &what);
            }
        }
        tried
    }

    /// Every bulk operation, with every combination of ranges within and beyond bounds.
    fn bulk(&mut self) -> usize {
        let (size, capacity, largest) = (self.size(), self.capacity as u64, self.addresses.largest());
        let mut places =
            vec![0, 1, size / 2, size.saturating_sub(1), size, size + 1, capacity, capacity + 1, capacity * 2];
        places.extend([largest / 2 + 1, (largest - size).saturating_add(1), largest - 1, largest]);
        places.retain(|at| *at <= largest);
        places.sort_unstable();
        places.dedup();
        let inside = |start: u64, len: u64, size: u64| u128::from(start) + u128::from(len) <= size.into();
        let mut own = vec![OWN; size as usize];
        // Each byte differs from the next, to see which were copied.
        own.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at % 251) as u8);
        self.victim.memory(0).copy_from_slice(&own);
        let mut tried = 0;
        for &to in &places {
            for &len in &places {
                tried += 1;
                let what = format!("fill {to:#x}, {len:#x} bytes");
                let done = self.call("fill", to, 0x77, len);
                bulk_outcome(done, inside(to, len, size), len, || what.clone());
                if inside(to, len, size) {
                    own[to as usize..][..len as usize].fill(0x77);
                }
                self.check(&own, &what);
                for &from in &places {
                    tried += 1;
                    let what = format!("copy {to:#x}, {from:#x}, {len:#x} bytes");
                    let inside = inside(to, len, size) && inside(from, len, size);
                    let done = self.copy(to, from, len);
                    bulk_outcome(done, inside, len, || what.clone());
                    if inside {
                        own.copy_within(from as usize..(from + len) as usize, to as usize);
                    }
                    if inside || from == 0 {
                        self.check(&own, &what);
                    }
                }
                self.check(&own, "copies");
            }
            for from in [0, 1, 15, 16, 17, u32::MAX - 1, u32::MAX] {
                for len in [0, 1, 15, 16, 17, u32::MAX / 2, u32::MAX - 15, u32::MAX] {
                    tried += 1;
                    let what = format!("init {to:#x}, {from:#x}, {len:#x} bytes");
                    let inside = inside(to, len.into(), size) && inside(from.into(), len.into(), 16);
                    self.victim.refuel();
                    let done = match self.addresses {
                        Addresses::Of32 => self.victim.call("init", (to as u32, from, len)),
                        Addresses::Of64 => self.victim.call("init", (to, from, len)),
                    };
                    outcome(done, inside, || what.clone());
                    if inside {
                        let bytes = &b"0123456789abcdef"[from as usize..][..len as usize];
                        own[to as usize..][..len as usize].copy_from_slice(bytes);
                    }
                }
            }
            self.check(&own, "init");
        }
        own.fill(OWN);
        self.victim.memory(0).fill(OWN);
        tried
    }

    fn call(&mut self, name: &str, to: u64, value: u32, len: u64) -> wasmtime::Result<()> {
        self.victim.refuel();
        match self.addresses {
            Addresses::Of32 => self.victim.call(name, (to as u32, value, len as u32)),
            Addresses::Of64 => self.victim.call(name, (to, value, len)),
        }
    }

    fn copy(&mut self, to: u64, from: u64, len: u64) -> wasmtime::Result<()> {
        self.victim.refuel();
        match self.addresses {
            Addresses::Of32 => self.victim.call("copy", (to as u32, from as u32, len as u32)),
            Addresses::Of64 => self.victim.call("copy", (to, from, len)),
        }
    }
}

fn all(bytes: &[u8], byte: u8) -> bool {
    // By `memcmp`: each byte is the next one's neighbour's equal.
    bytes.is_empty() || (bytes[0] == byte && bytes[1..] == bytes[..bytes.len() - 1])
}

#[track_caller]
fn outcome(done: wasmtime::Result<()>, inside: bool, what: impl FnOnce() -> String) {
    match done {
        Ok(()) => assert!(inside, "{} is outside and was done", what()),
        Err(error) => {
            let trap = error.downcast_ref::<Trap>();
            assert!(!inside, "{} is inside and failed: {error:?}", what());
            assert_eq!(trap, Some(&Trap::MemoryOutOfBounds), "{}: {error:?}", what());
        }
    }
}

/// Like [`outcome`], for a bulk operation: one of huge length may run out of fuel, which is charged before the bounds
/// check.
#[track_caller]
fn bulk_outcome(done: wasmtime::Result<()>, inside: bool, len: u64, what: impl FnOnce() -> String) {
    match done {
        Err(error) if !inside && len > 1 << 62 && error.downcast_ref() == Some(&Trap::OutOfFuel) => (),
        done => outcome(done, inside, what),
    }
}

/// Runs a siege: the memory's limits, the size it is restored with, the size it grows to, and the slot it is then in.
fn siege(addresses: Addresses, memory: (usize, Option<usize>), restored: usize, pages: usize, capacity: usize) {
    let mut siege = Siege::new(addresses, memory, restored, pages, capacity);
    let tried = siege.accesses() + siege.bulk();
    println!("{addresses:?}, {memory:?} pages, restored with {restored}, grown to {pages}: {tried} accesses");
}

const SMALL: usize = 256 << 10;
const MIDDLE: usize = 1 << 20;

#[test]
fn nothing_passes_the_end_of_a_small_memory() {
    siege(Addresses::Of32, (1, None), 0, 1, SMALL);
}

#[test]
fn nothing_passes_the_end_of_a_memory_of_fixed_size() {
    siege(Addresses::Of32, (2, Some(2)), 0, 2, SMALL);
}

#[test]
fn nothing_passes_the_end_of_an_empty_memory() {
    siege(Addresses::Of32, (0, Some(0)), 0, 0, SMALL);
    siege(Addresses::Of64, (0, None), 0, 0, SMALL);
}

#[test]
fn nothing_passes_the_end_of_a_memory_as_large_as_its_slot() {
    siege(Addresses::Of32, (4, Some(4)), 0, 4, SMALL);
}

#[test]
fn nothing_passes_the_end_of_a_memory_that_has_grown_in_its_slot() {
    siege(Addresses::Of32, (1, Some(100)), 0, 3, SMALL);
    siege(Addresses::Of64, (1, Some(100)), 0, 4, SMALL);
}

#[test]
fn nothing_passes_the_end_of_a_memory_that_has_moved_to_a_larger_slot() {
    siege(Addresses::Of32, (1, None), 0, 5, MIDDLE);
    siege(Addresses::Of64, (3, None), 0, 16, MIDDLE);
}

#[test]
fn nothing_passes_the_end_of_a_memory_that_was_restored_with_more() {
    siege(Addresses::Of32, (1, None), 3, 3, SMALL);
    siege(Addresses::Of64, (1, None), 4, 4, SMALL);
}

#[test]
fn nothing_passes_the_end_of_a_memory_that_was_restored_with_more_and_has_grown() {
    siege(Addresses::Of32, (1, Some(16)), 4, 16, MIDDLE);
}

#[test]
fn nothing_passes_the_end_of_a_small_memory_with_wide_addresses() {
    siege(Addresses::Of64, (1, Some(1)), 0, 1, SMALL);
}

/// The largest memory there is, at whose end 32 bits wrap.
#[test]
fn nothing_passes_the_end_of_four_gibibytes() {
    const SIZE: u64 = 1 << 32;
    let host = Host::new(SIZE as usize, 3, 3);
    let mut below = host.instance(&host.module(NEIGHBOUR), &[SIZE as usize - WASM_PAGE]).unwrap();
    let mut victim = host.instance(&host.module(&attacker(Addresses::Of32, 65536, None)), &[]).unwrap();
    let mut above = host.instance(&host.module(NEIGHBOUR), &[SIZE as usize - WASM_PAGE]).unwrap();
    let bases = [&mut below, &mut victim, &mut above].map(|guest| guest.memory(0).as_ptr() as u64);
    assert_eq!([bases[1] - bases[0], bases[2] - bases[1]], [SIZE, SIZE]);
    // The first bytes of its own memory are where a wrapped access would go.
    above.memory(0)[..WASM_PAGE].fill(ABOVE);
    victim.memory(0)[..WASM_PAGE].fill(OWN);
    for offset in Addresses::Of32.offsets() {
        for (is_store, (name, width)) in LOADS.map(|it| (false, it)).into_iter().chain(STORES.map(|it| (true, it))) {
            let function = victim.function::<u32, ()>(&format!("{name}+{offset}"));
            for at in Addresses::Of32.edges(SIZE, SIZE, width, offset) {
                let inside = at + offset + width <= SIZE;
                outcome(victim.run(&function, at as u32), inside, || format!("{name}+{offset} at {at:#x}"));
                if inside && is_store {
                    let start = (at + offset) as usize;
                    let before = if start < WASM_PAGE { OWN } else { 0 };
                    victim.memory(0)[start..start + width as usize].fill(before);
                }
            }
        }
    }
    for (to, len) in [(u32::MAX, 1), (u32::MAX, 2), (1, u32::MAX), (2, u32::MAX), (u32::MAX, u32::MAX)] {
        let inside = u64::from(to) + u64::from(len) <= SIZE;
        if !inside {
            outcome(victim.call("fill", (to, 1u32, len)), false, || format!("fill {to}, {len}"));
            outcome(victim.call("copy", (to, 0u32, len)), false, || format!("copy {to}, {len}"));
            outcome(victim.call("copy", (0u32, to, len)), false, || format!("copy from {to}, {len}"));
        }
    }
    assert_eq!(victim.call::<_, u32>("grow", 1u32).unwrap(), u32::MAX);
    assert!(all(&above.memory(0)[..WASM_PAGE], ABOVE) && all(&victim.memory(0)[..WASM_PAGE], OWN));
}

/// Bytes are copied from one memory of a guest to another one, which have different ends.
#[test]
fn nothing_passes_the_end_of_either_memory_of_a_guest_that_has_two() {
    let host = Host::new(MIDDLE, 4, 4);
    let module = host.module(
        r#"(module
            (memory $one 1) (memory $two 3 3)
            (func (export "there") (param i32 i32 i32)
                (memory.copy $two $one (local.get 0) (local.get 1) (local.get 2)))
            (func (export "back") (param i32 i32 i32)
                (memory.copy $one $two (local.get 0) (local.get 1) (local.get 2)))
            (func (export "store one") (param i32) (i64.store $one (local.get 0) (i64.const -1)))
            (func (export "store two") (param i32) (i64.store $two (local.get 0) (i64.const -1))))"#,
    );
    let mut guest = host.instance(&module, &[]).unwrap();
    let sizes = [WASM_PAGE, 3 * WASM_PAGE];
    assert_eq!(guest.store.memories().map(|memory| memory.len()).collect::<Vec<_>>(), sizes);
    let mut other = host.instance(&host.module(NEIGHBOUR), &[SMALL]).unwrap();
    other.memory(0).fill(ABOVE);
    let places = [0, 1, WASM_PAGE - 1, WASM_PAGE, WASM_PAGE + 1, 3 * WASM_PAGE, SMALL, SMALL + 1, u32::MAX as usize];
    for (name, to_size, from_size) in [("there", sizes[1], sizes[0]), ("back", sizes[0], sizes[1])] {
        for (to, from, len) in triples(&places) {
            let inside = to + len <= to_size && from + len <= from_size;
            let done = guest.call(name, (to as u32, from as u32, len as u32));
            outcome(done, inside, || format!("{name} {to}, {from}, {len}"));
        }
    }
    for (name, size) in [("store one", sizes[0]), ("store two", sizes[1])] {
        for at in size - 9..size + 9 {
            outcome(guest.call(name, at as u32), at + 8 <= size, || format!("{name} at {at}"));
        }
    }
    let ones = guest.store.memories().map(|memory| memory.iter().filter(|byte| **byte == 0xff).count());
    assert_eq!(ones.collect::<Vec<_>>(), [9, 9], "two stores of eight bytes were inside, one byte apart");
    assert!(all(other.memory(0), ABOVE));
}

fn triples(places: &[usize]) -> impl Iterator<Item = (usize, usize, usize)> {
    let pairs = places.iter().flat_map(move |one| places.iter().map(move |two| (*one, *two)));
    pairs.flat_map(move |(one, two)| places.iter().map(move |three| (one, two, *three)))
}

/// If a guest's own data does not fit in its memory, nothing is written beside it, and nothing stays.
#[test]
fn data_that_does_not_fit_is_an_error() {
    let host = Host::new(MIDDLE, 3, 3);
    let mut neighbour = host.instance(&host.module(NEIGHBOUR), &[SMALL]).unwrap();
    neighbour.memory(0).fill(BELOW);
    for at in [65535u32, 65536, 262_143, 262_144, u32::MAX] {
        let module = host.module(&format!(r#"(module (memory 1) (data (i32.const {at}) "12"))"#));
        let error = host.instance(&module, &[]).err().unwrap();
        assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::MemoryOutOfBounds), "{error:?}");
        assert_eq!(host.memories.in_use(), 1);
    }
    assert!(all(neighbour.memory(0), BELOW));
}

/// If these are ever switched on, they need to be tried as well.
#[test]
fn what_is_not_tried_here_is_switched_off() {
    let host = Host::new(MIDDLE, 1, 1);
    for module in [
        "(module (memory 1 1 shared))",
        "(module (memory 1) (func (drop (i32.atomic.load (i32.const 0)))))",
        "(module (memory 1 (pagesize 1)))",
    ] {
        let module = wasmtime::Module::new(&host.engine, wat::parse_str(module).unwrap());
        assert!(module.is_err());
    }
}
