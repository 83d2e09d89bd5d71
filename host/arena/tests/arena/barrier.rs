//! Guarded memories: writes by real guests and by the host are logged with the previous contents.

use crate::{Guest, Host, Unlimited, WASM_PAGE, block_on, guard_all, is_zero};
use carrel_arena::{LogRoom, PAGE, WriteLog};
use proptest::{prelude::*, sample::Index};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use wasmtime::{Linker, Module};

const LARGEST: usize = 4 << 20;
const TWO: &str = r#"(module
    (memory $one (export "one") 1)
    (memory $two (export "two") 2)
    (func (export "write one") (param i32) (i32.store8 $one (local.get 0) (i32.const 0)))
    (func (export "write two") (param i32) (i32.store8 $two (local.get 0) (i32.const 0)))
    (func (export "read one") (param i32) (drop (i32.load8_u $one (local.get 0))))
    (func (export "read two") (param i32) (drop (i32.load8_u $two (local.get 0))))
    (func (export "fill one") (param i32 i32) (memory.fill $one (local.get 0) (i32.const 7) (local.get 1)))
    (func (export "fill two") (param i32 i32) (memory.fill $two (local.get 0) (i32.const 7) (local.get 1)))
    (func (export "copy one") (param i32 i32 i32)
        (memory.copy $one $one (local.get 0) (local.get 1) (local.get 2)))
    (func (export "copy two") (param i32 i32 i32)
        (memory.copy $two $two (local.get 0) (local.get 1) (local.get 2)))
    (func (export "grow one") (param i32) (result i32) (memory.grow $one (local.get 0)))
    (func (export "grow two") (param i32) (result i32) (memory.grow $two (local.get 0)))
    (func (export "trap") (param i32) (i32.store8 $two (local.get 0) (i32.const 9)) unreachable))"#;
const NAMES: [&str; 2] = ["one", "two"];

#[derive(Debug, Clone)]
enum Step {
    /// The guest writes a zero, even over a zero.
    Write(usize, Index),
    Fill(usize, Index, Index),
    Copy(usize, Index, Index, Index),
    Read(usize, Index),
    Host(usize, Index, u8),
    Grow(usize, u32),
    Guard(usize, usize),
    /// The log is taken, and all of its pages are closed again, or every second one.
    Take(usize, bool),
    /// All is restored to the last taking of the logs, in a new store.
    Undo,
    /// The guest traps after a write; its memories go to another store.
    Trap(Index),
    /// The guest is dropped, and another one gets its slots.
    Again,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (which, at) = (|| 0..2usize, any::<Index>);
    let step = prop_oneof![
        6 => (which(), at()).prop_map(|(which, at)| Step::Write(which, at)),
        2 => (which(), at(), at()).prop_map(|(which, from, to)| Step::Fill(which, from, to)),
        2 => (which(), at(), at(), at()).prop_map(|(which, from, to, len)| Step::Copy(which, from, to, len)),
        2 => (which(), at()).prop_map(|(which, at)| Step::Read(which, at)),
        2 => (which(), at(), any::<u8>()).prop_map(|(which, at, byte)| Step::Host(which, at, byte)),
        2 => (which(), 0..30u32).prop_map(|(which, by)| Step::Grow(which, by)),
        3 => (which(), 0..20usize).prop_map(|(which, skip)| Step::Guard(which, skip)),
        3 => (which(), any::<bool>()).prop_map(|(which, all)| Step::Take(which, all)),
        2 => Just(Step::Undo),
        1 => at().prop_map(Step::Trap),
        1 => Just(Step::Again),
    ];
    prop::collection::vec(step, 1..60)
}

/// The model of a memory.
#[derive(Debug, Default, Clone)]
struct Model {
    /// The bytes that it holds.
    now: Vec<u8>,
    guarded: Option<Known>,
}

/// The model of a guarded memory.
#[derive(Debug, Clone)]
struct Known {
    skip: usize,
    /// The bytes that it held when its log was last taken.
    then: Vec<u8>,
    /// Pages that were open then: writes to them are not logged.
    open: Vec<bool>,
    /// Pages that were written to since then.
    written: Vec<bool>,
}

impl Model {
    fn wrote(&mut self, at: usize, bytes: &[u8]) {
        self.now[at..at + bytes.len()].copy_from_slice(bytes);
        if let Some(known) = &mut self.guarded {
            for page in at / PAGE..(at + bytes.len()).div_ceil(PAGE) {
                if page < known.written.len() {
                    known.written[page] = true;
                }
            }
        }
    }

    /// The pages of an exact log: those that were closed and have been written to.
    fn expected(&self) -> BTreeMap<usize, Vec<u8>> {
        let Some(known) = &self.guarded else { return BTreeMap::new() };
        let pages = known.skip..known.then.len() / PAGE;
        let noted = pages.filter(|page| known.written[*page] && !known.open[*page]);
        noted.map(|page| (page, known.then[page * PAGE..(page + 1) * PAGE].to_vec())).collect()
    }
}

fn told(log: &WriteLog) -> BTreeMap<usize, Vec<u8>> {
    log.pages().map(|(page, held)| (page, held.map_or(vec![0; PAGE], <[u8]>::to_vec))).collect()
}

/// Moves a guest's memories, with their contents, to a new store.
fn move_on(host: &Host, module: &Module, guest: Guest, sizes: Option<[usize; 2]>) -> Guest {
    let pre = Linker::new(&host.engine).instantiate_pre(module).unwrap();
    let mut held = guest.store.into_memories();
    for (held, size) in held.iter_mut().zip(sizes.into_iter().flatten()) {
        held.truncate(size).unwrap();
    }
    let mut store = host.store(());
    let instance = block_on(store.instantiate_in(held, &pre)).unwrap();
    Guest { store, instance }
}

fn run(host: &Host, steps: Vec<Step>, exact: bool) {
    let module = host.module(TWO);
    let new = || [1, 2].map(|pages| Model { now: vec![0; pages * WASM_PAGE], guarded: None });
    let mut guest = host.instance(&module, &[]).unwrap();
    let mut model = new();
    for step in steps {
        match step {
            Step::Write(which, at) => {
                let at = at.index(model[which].now.len());
                guest.call::<_, ()>(&format!("write {}", NAMES[which]), at as u32).unwrap();
                model[which].wrote(at, &[0]);
            }
            Step::Fill(which, from, to) => {
                let size = model[which].now.len();
                let (from, to) = (from.index(size), to.index(size));
                let (from, to) = (from.min(to), from.max(to));
                guest.call::<_, ()>(&format!("fill {}", NAMES[which]), (from as u32, (to - from) as u32)).unwrap();
                model[which].wrote(from, &vec![7; to - from]);
            }
            Step::Copy(which, from, to, len) => {
                let size = model[which].now.len();
                let (from, to) = (from.index(size), to.index(size));
                let len = len.index(size - from.max(to));
                let asked = (to as u32, from as u32, len as u32);
                guest.call::<_, ()>(&format!("copy {}", NAMES[which]), asked).unwrap();
                let bytes = model[which].now[from..from + len].to_vec();
                model[which].wrote(to, &bytes);
            }
            Step::Read(which, at) => {
                let at = at.index(model[which].now.len()) as u32;
                guest.call::<_, ()>(&format!("read {}", NAMES[which]), at).unwrap();
            }
            Step::Host(which, at, byte) => {
                let at = at.index(model[which].now.len());
                guest.memory(which)[at] = byte;
                model[which].wrote(at, &[byte]);
            }
            Step::Grow(which, by) => {
                let grown = guest.call::<_, i32>(&format!("grow {}", NAMES[which]), by).unwrap();
                if grown != -1 {
                    let size = model[which].now.len() + by as usize * WASM_PAGE;
                    model[which].now.resize(size, 0);
                }
            }
            Step::Guard(which, skip) => {
                if model[which].guarded.is_none() {
                    guard_all(&mut guest.memory_of(which), skip, Arc::new(Unlimited)).unwrap();
                    let then = model[which].now.clone();
                    let pages = then.len() / PAGE;
                    let (open, written) = (vec![false; pages], vec![false; pages]);
                    model[which].guarded = Some(Known { skip, then, open, written });
                }
            }
            Step::Take(which, all) => {
                let mut lent = guest.memory_of(which);
                let log = lent.take_log();
                assert_eq!(log.is_some(), model[which].guarded.is_some());
                let Some(log) = log else { continue };
                let expected = model[which].expected();
                let told = told(&log);
                assert!(expected.iter().all(|(page, held)| told.get(page) == Some(held)));
                // Sequential writes open some pages ahead, but not more than were written to.
                assert!(!exact || told.len() <= 2 * expected.len(), "{:?} {:?}", told.keys(), expected.keys());
                assert!(log.is_whole());
                let now = model[which].now.clone();
                let known = model[which].guarded.as_mut().unwrap();
                for (nth, page) in told.keys().enumerate() {
                    known.open[*page] = true;
                    if all || nth % 2 == 0 {
                        lent.close(*page..*page + 1).unwrap();
                        known.open[*page] = false;
                    }
                }
                // The pages that it has grown by are guarded from now on, and those written to are returned.
                let old = known.then.len() / PAGE;
                let mut grown = Vec::new();
                let (end, size) = (lent.guarded_end(), lent.size() / PAGE);
                lent.populated(end..size, |run| grown.extend(run));
                lent.extend_guard(size).unwrap();
                for page in old..now.len() / PAGE {
                    let zero = is_zero(&now[page * PAGE..(page + 1) * PAGE]);
                    assert!(zero || grown.contains(&page), "page {page} of what it has grown by was written to");
                }
                assert!(grown.iter().all(|page| (old..now.len() / PAGE).contains(page)));
                known.open.resize(now.len() / PAGE, false);
                known.written = vec![false; now.len() / PAGE];
                known.then = now;
            }
            Step::Undo => {
                // Only where all writes are logged: those to open or skipped pages are not.
                let undoes = |model: &Model| {
                    let known = model.guarded.as_ref();
                    known.is_some_and(|known| known.skip == 0 && !known.open.contains(&true))
                };
                if !model.iter().all(undoes) {
                    continue;
                }
                let sizes = [0, 1].map(|which| model[which].guarded.as_ref().unwrap().then.len());
                for which in [0, 1] {
                    let mut lent = guest.memory_of(which);
                    let log = lent.take_log().unwrap();
                    for (page, held) in log.pages() {
                        let bytes = &mut lent.bytes()[page * PAGE..(page + 1) * PAGE];
                        match held {
                            Some(held) => bytes.copy_from_slice(held),
                            None => bytes.fill(0),
                        }
                    }
                    for (page, _) in log.pages() {
                        lent.close(page..page + 1).unwrap();
                    }
                    let known = model[which].guarded.as_mut().unwrap();
                    known.written.fill(false);
                    let then = known.then.clone();
                    model[which].now = then;
                }
                guest = move_on(host, &module, guest, Some(sizes));
            }
            Step::Trap(at) => {
                let at = at.index(model[1].now.len());
                assert!(guest.call::<_, ()>("trap", at as u32).is_err());
                model[1].wrote(at, &[9]);
                guest = move_on(host, &module, guest, None);
            }
            Step::Again => {
                drop(guest);
                guest = host.instance(&module, &[]).unwrap();
                assert!(guest.store.memories().all(|memory| is_zero(memory)));
                model = new();
            }
        }
        for (which, model) in model.iter().enumerate() {
            assert!(guest.memory(which) == model.now, "memory {which}");
        }
    }
    drop(guest);
    assert_eq!(host.memories.in_use(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

    #[test]
    fn what_is_written_to_is_noted_with_what_it_held(steps in steps()) {
        let host = Host::new(LARGEST, 5, 5);
        let exact = host.memories.guards_left().is_none();
        run(&host, steps, exact);
    }

    #[test]
    fn and_so_it_is_without_userfaultfd(steps in steps()) {
        run(&Host::without_userfaults(LARGEST, 5, 5), steps, false);
    }
}

/// Returns true if this process may use userfaultfd, and this kernel's can what is needed, by asking it.
fn kernel_has_userfaultfd() -> bool {
    const USER_MODE_ONLY: libc::c_int = 1;
    const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
    const WRITE_PROTECTION: u64 = 1;
    const SIGBUS: u64 = 1 << 7;
    const OF_PAGES_THAT_ARE_NOT_THERE: u64 = 1 << 13;
    let mut asked: [u64; 3] = [0xaa, WRITE_PROTECTION | SIGBUS | OF_PAGES_THAT_ARE_NOT_THERE, 0];
    // SAFETY: the calls give a file or -1, take a structure of three such numbers, and close what was opened.
    unsafe {
        let fd = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | USER_MODE_ONLY) as libc::c_int;
        fd >= 0 && {
            let has = libc::ioctl(fd, UFFDIO_API, asked.as_mut_ptr()) == 0;
            libc::close(fd);
            has
        }
    }
}

#[test]
fn userfaultfd_is_used_where_the_kernel_has_it() {
    assert_eq!(Host::new(1 << 20, 1, 1).memories.guards_left().is_none(), kernel_has_userfaultfd());
}

/// Guarding slots leaves neighbouring slots, mappings and later users unchanged.
#[test]
fn guarding_costs_no_mappings_where_there_is_userfaultfd() {
    let host = Host::new(1 << 20, 2_000, 10);
    if host.memories.guards_left().is_some() {
        return;
    }
    let module = host.module(r#"(module (memory 1))"#);
    let mappings = || std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    let before = mappings();
    let mut guests: Vec<_> = (0..1_000).map(|_| host.instance(&module, &[]).unwrap()).collect();
    for (turn, guest) in guests.iter_mut().enumerate() {
        guard_all(&mut guest.memory_of(0), turn % 3, Arc::new(Unlimited)).unwrap();
        guest.memory(0)[turn * 61 % WASM_PAGE] = 1;
    }
    // Other tests make some at the same time.
    assert!(mappings() < before + 500, "{before} before, {} now", mappings());
}

/// Few memories are guarded where that costs mappings, and one that is written to all over has a bounded number of
/// them.
#[test]
fn without_userfaultfd_a_memory_has_few_mappings_and_few_are_guarded() {
    let host = Host::without_userfaults(4 << 20, 1_000, 10);
    let module = host.module(r#"(module (memory 20))"#);
    let mut guest = host.instance(&module, &[]).unwrap();
    guard_all(&mut guest.memory_of(0), 0, Arc::new(Unlimited)).unwrap();
    let range = guest.memory(0).as_ptr_range();
    let (start, end) = (range.start as usize, range.end as usize);
    let mappings = || {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let parse = |it| usize::from_str_radix(it, 16).unwrap();
        let ranges = maps.lines().map(|line| line.split(' ').next().unwrap().split_once('-').unwrap());
        ranges.filter(|(from, to)| parse(from) < end && parse(to) > start).count()
    };
    for page in (0..20 * WASM_PAGE / PAGE).map(|nth| nth * 7 % 320) {
        guest.memory(0)[page * PAGE] = 1;
        assert!(mappings() <= 2 * 64 + 1, "{} mappings", mappings());
    }
    assert_eq!(guest.memory_of(0).take_log().unwrap().len(), 320);
    let mut others = Vec::new();
    while host.memories.guards_left() != Some(0) {
        let mut guest = host.instance(&module, &[]).unwrap();
        guard_all(&mut guest.memory_of(0), 0, Arc::new(Unlimited)).unwrap();
        others.push(guest);
    }
    let mut another = host.instance(&module, &[]).unwrap();
    assert!(guard_all(&mut another.memory_of(0), 0, Arc::new(Unlimited)).is_err());
    another.memory(0).fill(1);
    drop(others);
    guard_all(&mut another.memory_of(0), 0, Arc::new(Unlimited)).unwrap();
}

/// Memory of logs is counted while they live.
#[test]
fn what_a_log_takes_is_counted_and_given_back() {
    #[derive(Default)]
    struct Count(AtomicUsize);
    impl LogRoom for Count {
        fn take(&self, bytes: usize) {
            self.0.fetch_add(bytes, Ordering::Relaxed);
        }
        fn give_back(&self, bytes: usize) {
            self.0.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
    let host = Host::new(LARGEST, 5, 5);
    let module = host.module(r#"(module (memory (export "memory") 40))"#);
    let mut guest = host.instance(&module, &[]).unwrap();
    guest.memory(0).fill(3);
    let count = Arc::new(Count::default());
    guard_all(&mut guest.memory_of(0), 0, count.clone()).unwrap();
    assert_eq!(count.0.load(Ordering::Relaxed), 0);
    for pages in [1, 17, 300] {
        guest.memory(0)[..pages * PAGE].fill(4);
        let log = guest.memory_of(0).take_log().unwrap();
        assert!((pages..=(2 * pages).min(pages + 31)).contains(&log.len()), "{pages} pages: {}", log.len());
        let taken = count.0.load(Ordering::Relaxed);
        let (noted, pages) = (log.len(), pages + 31);
        let exact = noted * (PAGE + 8);
        assert!((exact..exact + 64 * PAGE + pages * 16 + 256).contains(&taken), "{pages} pages: {taken} bytes");
        guest.memory_of(0).close(0..pages).unwrap();
        drop(log);
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
        guest.memory(0)[..pages * PAGE].fill(3);
        drop(guest.memory_of(0).take_log());
        guest.memory_of(0).close(0..pages).unwrap();
    }
    // A page of zeroes takes no copy.
    let mut other = host.instance(&module, &[]).unwrap();
    guard_all(&mut other.memory_of(0), 0, count.clone()).unwrap();
    other.memory(0).fill(5);
    assert!(count.0.load(Ordering::Relaxed) < 640 * 24);
    drop((guest, other));
    assert_eq!(count.0.load(Ordering::Relaxed), 0);
}

/// A store whose instantiation fails gives back the memories that it was given.
#[test]
fn memories_that_no_instance_took_are_given_back() {
    let host = Host::new(LARGEST, 5, 5);
    let module = host.module(r#"(module (memory 1) (memory 1) (func (export "f")))"#);
    let mut guest = host.instance(&module, &[]).unwrap();
    guest.memory(0)[7] = 1;
    guest.memory(1)[7] = 2;
    let held = guest.store.into_memories();
    assert_eq!(held.len(), 2);
    // The second memory is too small for this module.
    let larger = host.module(r#"(module (memory 1) (memory 2))"#);
    let pre = Linker::new(&host.engine).instantiate_pre(&larger).unwrap();
    let mut store = host.store(());
    let made = block_on(store.instantiate_in(held, &pre));
    assert!(made.is_err());
    let mut held = store.into_memories();
    assert_eq!(held.len(), 2);
    assert_eq!([held[0].lend().bytes()[7], held[1].lend().bytes()[7]], [1, 2]);
    drop(held);
    assert_eq!(host.memories.in_use(), 0);
}

/// Sequential writes fault less often than once a page; all others fault each time.
#[test]
fn writes_from_page_to_page_open_some_ahead() {
    let host = Host::new(LARGEST, 5, 5);
    let module = host.module(r#"(module (memory (export "memory") 40))"#);
    let mut guest = host.instance(&module, &[]).unwrap();
    guard_all(&mut guest.memory_of(0), 0, Arc::new(Unlimited)).unwrap();
    let mut noted = |pages: &[usize]| {
        pages.iter().for_each(|page| guest.memory(0)[page * PAGE] = 1);
        let log = guest.memory_of(0).take_log().unwrap();
        let told: Vec<usize> = log.pages().map(|(page, _)| page).collect();
        guest.memory_of(0).close(0..640).unwrap();
        told
    };
    assert_eq!(noted(&[5, 7, 9, 8]), [5, 7, 9, 8]);
    assert_eq!(noted(&[9, 8, 7]), [9, 8, 7]);
    assert_eq!(noted(&[1, 2]), [1, 2, 3]);
    assert_eq!(noted(&[10, 11, 12, 13, 14]), (10..17).collect::<Vec<_>>());
    assert_eq!(noted(&[638, 639]), [638, 639]);
}
