//! The cost of reusing a slot: how many of its bytes are best zeroed by writing when it is freed, and how many slots
//! may keep theirs.
//!
//!     cargo bench -p carrel-arena --bench reuse
//!
//! The figures behind `KEEP` and `RESIDENT` in `src/memories.rs` are from here.
#![allow(missing_docs, clippy::unwrap_used)]

use carrel_arena::{Memories, Stacks};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use std::time::Duration;
use wasmtime::{Config, Engine, InstancePre, Linker, MemoryCreator, MemoryType, Module, Store};

const WASM_PAGE: usize = 65536;
const KIB: usize = 1 << 10;
/// Pages that each instance writes to, evenly spread over its memory.
const DIRTY: usize = 8;
/// Instances that live at once: those of one size of slot would keep 256 MiB.
const POPULATION: usize = 2_000;

criterion_main!(benches);
criterion_group!(benches, keep, resident);

fn memories(of_each: usize, of_all: usize) -> Memories {
    Memories::with_keep(1 << 20, of_each, of_all).unwrap()
}

/// A guest with this much memory, set up as the host sets them up, whose start function dirties it.
fn guest(memories: &Memories, size: usize) -> InstancePre<()> {
    let mut config = Config::new();
    carrel_arena::configure(&mut config, memories, &Stacks::new(256 * KIB).unwrap());
    config.consume_fuel(true).epoch_interruption(true).max_wasm_stack(128 * KIB).concurrency_support(false);
    let engine = Engine::new(&config).unwrap();
    let stores: String = (0..DIRTY)
        .map(|page| format!("(i64.store (i32.const {}) (i64.const -1))", page * (size / DIRTY) + 8))
        .collect();
    let wat = format!("(module (memory {}) (func $start {stores}) (start $start))", size / WASM_PAGE);
    let module = Module::new(&engine, wat::parse_str(wat).unwrap()).unwrap();
    Linker::new(&engine).instantiate_pre(&module).unwrap()
}

fn instance(guest: &InstancePre<()>) -> Store<()> {
    let mut store = Store::new(guest.module().engine(), ());
    store.set_fuel(1 << 40).unwrap();
    store.set_epoch_deadline(1 << 40);
    guest.instantiate(&mut store).unwrap();
    store
}

/// One slot, used again and again.
fn keep(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("keep");
    group.measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500)).sample_size(50);
    for size in [64 * KIB, 128 * KIB, 256 * KIB] {
        for of_each in [0, 64 * KIB, 128 * KIB, 256 * KIB].into_iter().filter(|of_each| *of_each <= size) {
            let memories = memories(of_each, 1 << 30);
            let name =
                |what| BenchmarkId::new(format!("{what} of {} KiB", size / KIB), format!("{} KiB", of_each / KIB));
            let of_type = MemoryType::new((size / WASM_PAGE) as u32, None);
            group.bench_function(name("memory"), |bencher| {
                bencher.iter(|| {
                    let memory = memories.new_memory(of_type.clone(), size, None, None, 0).unwrap();
                    for page in 0..DIRTY {
                        // SAFETY: the bytes are within the memory, which nobody else knows.
                        unsafe { memory.as_ptr().add(page * (size / DIRTY)).write_volatile(1) };
                    }
                });
            });
            let guest = guest(&memories, size);
            group.bench_function(name("instance"), |bencher| bencher.iter(|| instance(&guest)));
        }
    }
}

/// Many slots, used and freed together: their pages are cold, and not all slots may keep theirs.
fn resident(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("resident");
    group.measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_millis(500)).sample_size(10);
    for of_each in [0, 64 * KIB, 128 * KIB] {
        for of_all in [64 << 20, 1 << 30] {
            let memories = memories(of_each, of_all);
            let guest = guest(&memories, 128 * KIB);
            let name = format!("{POPULATION} of 128 KiB, {} KiB each", of_each / KIB);
            let id = BenchmarkId::new(name, format!("{} MiB in all", of_all >> 20));
            group.throughput(criterion::Throughput::Elements(POPULATION as u64));
            group.bench_function(id, |bencher| {
                bencher.iter(|| (0..POPULATION).map(|_| instance(&guest)).collect::<Vec<_>>());
            });
        }
    }
}
