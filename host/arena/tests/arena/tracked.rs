//! A [`Tracked`] store knows its own memories, whatever else happens on its threads.

use crate::{Host, WASM_PAGE, block_on, is_zero};
use carrel_arena::{Error, Tracked};
use proptest::{prelude::*, sample::Index};
use std::{
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
};
use wasmtime::{AsContextMut, Instance, Linker, Memory, Store};

const LARGEST: usize = 4 << 20;

/// Ready when it is polled for the second time.
async fn pause() {
    let mut paused = false;
    poll_fn(move |_| if std::mem::replace(&mut paused, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

/// Imports for guests whose start functions pause, or panic.
fn linker<T: Send + 'static>(host: &Host) -> Linker<T> {
    let mut linker = Linker::new(&host.engine);
    linker.func_wrap_async("host", "pause", |_, _: ()| Box::new(pause())).unwrap();
    linker.func_wrap("host", "panic", || -> () { panic!("on purpose") }).unwrap();
    linker
}

fn sizes<T: Send>(store: &mut Tracked<T>) -> Vec<usize> {
    store.memories().map(|memory| memory.len() / WASM_PAGE).collect()
}

/// Asserts that each memory is the one that the instance exports under this name.
fn assert_same<T: Send>(store: &mut Tracked<T>, memories: &[(Instance, &str)]) {
    let exported: Vec<Memory> =
        memories.iter().map(|(instance, name)| instance.get_memory(store.context(), name).unwrap()).collect();
    let theirs: Vec<_> = exported.iter().map(|memory| memory.data_ptr(store.look()).cast_const()).collect();
    assert_eq!(store.memories().map(|memory| memory.as_ptr()).collect::<Vec<_>>(), theirs);
    assert_eq!(store.memories_len(), memories.len());
}

#[test]
fn memories_come_in_the_order_in_which_they_were_made() {
    let host = Host::new(LARGEST, 20, 5);
    let two = host.module(r#"(module (memory (export "a") 1) (memory (export "b") 3))"#);
    let none = host.module("(module)");
    let one = host.module(r#"(module (memory (export "a") 2))"#);
    let linker = Linker::new(&host.engine);
    let mut store = host.store(());
    let mut made = Vec::new();
    for module in [&two, &none, &one, &two] {
        // Other stores' memories come between.
        let other = host.instance(&two, &[]).unwrap();
        let instance =
            block_on(crate::by(&mut store, &[], async |cx| linker.instantiate_async(cx, module).await)).unwrap();
        made.push(instance);
        drop(other);
        let _not_tracked = Instance::new(&mut Store::new(&host.engine, ()), &one, &[]).unwrap();
    }
    assert_eq!(sizes(&mut store), [1, 3, 2, 1, 3]);
    assert_same(&mut store, &[(made[0], "a"), (made[0], "b"), (made[2], "a"), (made[3], "a"), (made[3], "b")]);
    assert_eq!(host.memories.in_use(), 5);
    drop(store);
    assert_eq!(host.memories.in_use(), 0);
}

#[test]
fn what_the_host_writes_is_what_the_guest_reads_and_the_other_way_round() {
    let host = Host::new(LARGEST, 5, 5);
    let module = host.module(
        r#"(module
            (memory (export "memory") 1)
            (func (export "read") (param i32) (result i32) (i32.load8_u (local.get 0)))
            (func (export "write") (param i32 i32) (i32.store8 (local.get 0) (local.get 1)))
            (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))"#,
    );
    let mut guest = host.instance(&module, &[]).unwrap();
    for (grow, size) in [(0u32, 1), (2, 3), (1, 4), (1, 5), (11, 16), (1, 17), (47, 64)] {
        guest.call::<_, u32>("grow", grow).unwrap();
        assert_eq!(sizes(&mut guest.store), [size]);
        let last = size * WASM_PAGE - 1;
        guest.memory(0)[last] = size as u8;
        assert_eq!(guest.call::<_, u32>("read", last as u32).unwrap(), size as u32);
        guest.call::<_, ()>("write", (last as u32 - 1, size as u32 + 100)).unwrap();
        assert_eq!(guest.memory(0)[last - 1], size as u8 + 100);
        // All that was written before growing is still there.
        for size in [1, 3, 4, 5, 16, 17, 64].into_iter().take_while(|before| *before <= size) {
            assert_eq!(guest.memory(0)[size * WASM_PAGE - 2..size * WASM_PAGE], [size as u8 + 100, size as u8]);
        }
    }
    assert_eq!(guest.call::<_, u32>("grow", 1u32).unwrap(), u32::MAX);
    assert_eq!(host.memories.in_use(), 1);
}

#[test]
fn a_memory_has_the_size_that_it_is_restored_with() {
    let host = Host::new(LARGEST, 20, 20);
    let module = host.module(r#"(module (memory 1 20) (memory 2) (data (i32.const 0) "1"))"#);
    for (wanted, got) in [
        (vec![], [1, 2]),
        (vec![0, 0], [1, 2]),
        (vec![1, 1], [1, 2]),
        (vec![4], [4, 2]),
        (vec![0, 5], [1, 5]),
        (vec![20, 64], [20, 64]),
        // Sizes left over are not used for the next instance.
        (vec![3, 4, 5, 6], [3, 4]),
        (vec![], [1, 2]),
    ] {
        let wanted: Vec<_> = wanted.into_iter().map(|pages: usize| pages * WASM_PAGE).collect();
        let mut guest = host.instance(&module, &wanted).unwrap();
        assert_eq!(sizes(&mut guest.store), got);
        assert!(guest.memory(0)[0] == b'1' && is_zero(&guest.memory(0)[1..]) && is_zero(guest.memory(1)));
        // Sizes are those of one call.
        let pre = Linker::new(&host.engine).instantiate_pre(&module).unwrap();
        block_on(crate::by(&mut guest.store, &[2 * WASM_PAGE], async |cx| pre.instantiate_async(cx).await)).unwrap();
        assert_eq!(sizes(&mut guest.store), [got[0], got[1], 2, 2]);
        guest.store.memories().for_each(|memory| memory.fill(0xee));
    }
    assert_eq!(host.memories.in_use(), 0);
}

#[test]
fn a_size_that_a_memory_cannot_have_is_an_error() {
    let host = Host::new(LARGEST, 20, 20);
    let module = host.module("(module (memory 1 20))");
    for size in [LARGEST + WASM_PAGE, usize::MAX, WASM_PAGE + 1, WASM_PAGE + 4096, 21 * WASM_PAGE] {
        let error = host.instance(&module, &[size]).err().unwrap();
        assert!(!Error::is_exhausted(&error), "{size}: {error:?}");
        assert_eq!(host.memories.in_use(), 0);
    }
    assert!(host.instance(&module, &[20 * WASM_PAGE]).is_ok());
}

#[test]
fn a_memory_that_wasmtime_has_dropped_again_is_not_lent() {
    let host = Host::new(1 << 20, 1, 5);
    let module = host.module("(module (memory 1) (memory 1) (memory 1))");
    let linker = Linker::<()>::new(&host.engine);
    let mut store = host.store(());
    for _ in 0..3 {
        let done = block_on(crate::by(&mut store, &[], async |cx| linker.instantiate_async(cx, &module).await));
        assert!(Error::is_exhausted(&done.err().unwrap()));
        assert_eq!((store.memories_len(), host.memories.in_use()), (0, 0));
    }
    let one = host.module("(module (memory 3))");
    block_on(crate::by(&mut store, &[], async |cx| linker.instantiate_async(cx, &one).await)).unwrap();
    assert_eq!(sizes(&mut store), [3]);
}

#[test]
fn an_instance_whose_start_fails_keeps_its_memory_until_the_store_is_dropped() {
    let host = Host::new(LARGEST, 5, 5);
    let module = host.module("(module (memory 1) (func $start unreachable) (start $start))");
    let linker = Linker::<()>::new(&host.engine);
    let mut store = host.store(());
    let done = block_on(crate::by(&mut store, &[], async |cx| linker.instantiate_async(cx, &module).await));
    assert!(done.is_err());
    assert_eq!(store.memories_len(), host.memories.in_use());
    store.memories().for_each(|memory| memory.fill(1));
    drop(store);
    assert_eq!(host.memories.in_use(), 0);
    assert!(is_zero(host.instance(&host.module("(module (memory 1))"), &[]).unwrap().memory(0)));
}

/// The making of one store's instances, one after the other, while others are made.
type Making = Pin<Box<dyn Future<Output = Tracked<()>> + Send>>;

fn making(host: &Host, linker: &Linker<()>, pages: &[usize]) -> Making {
    // Its start function pauses once its memory is made.
    let module = host.module(
        r#"(module
            (import "host" "pause" (func $pause))
            (memory (export "memory") 1)
            (start $pause))"#,
    );
    let (pre, mut store) = (linker.instantiate_pre(&module).unwrap(), host.store(()));
    let wanted: Vec<_> = pages.iter().map(|pages| pages * WASM_PAGE).collect();
    Box::pin(async move {
        let mut made = Vec::new();
        crate::by(&mut store, &wanted, async |mut cx| {
            for _ in &wanted {
                pause().await;
                made.push((pre.instantiate_async(cx.as_context_mut()).await.unwrap(), "memory"));
            }
        })
        .await;
        assert_same(&mut store, &made);
        store
    })
}

fn poll(making: &mut Making) -> Option<Tracked<()>> {
    match making.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(store) => Some(store),
        Poll::Pending => None,
    }
}

/// Polls these futures in the order of `turns` until all are done; here, or on threads in turn.
fn interleave(all: Vec<Making>, turns: &[Index], threads: bool) -> Vec<Tracked<()>> {
    let mut left: Vec<_> = all.into_iter().enumerate().collect();
    let mut done = Vec::new();
    let mut turns = turns.iter().cycle();
    while !left.is_empty() {
        let which = turns.next().unwrap().index(left.len());
        let (_, making) = &mut left[which];
        let polled = match threads {
            true => std::thread::scope(|scope| scope.spawn(|| poll(making)).join().unwrap()),
            false => poll(making),
        };
        if let Some(store) = polled {
            done.push((left.swap_remove(which).0, store));
        }
    }
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, store)| store).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) })]

    #[test]
    fn stores_that_are_made_by_turns_know_their_own_memories(
        pages in prop::collection::vec(prop::collection::vec(1..8usize, 0..5), 1..5),
        turns in prop::collection::vec(any::<Index>(), 1..20),
        threads in any::<bool>(),
    ) {
        let host = Host::new(LARGEST, 20, 10);
        let linker = linker(&host);
        let all = pages.iter().map(|pages| making(&host, &linker, pages)).collect();
        let mut stores = interleave(all, &turns, threads);
        for (store, pages) in stores.iter_mut().zip(&pages) {
            prop_assert_eq!(&sizes(store), pages);
        }
        drop(stores);
        prop_assert_eq!((host.memories.in_use(), host.stacks.in_use()), (0, 0));
    }
}

#[test]
fn stores_that_are_made_within_the_making_of_others_know_their_own_memories() {
    let host = Arc::new(Host::new(LARGEST, 20, 20));
    // The number of memories of each store, by the depth at which it was made.
    let found = Arc::new(Mutex::new(Vec::new()));
    nest(&host, 3, &found);
    assert_eq!(*found.lock().unwrap(), [vec![1, 9], vec![2, 10], vec![3, 11], vec![4, 12]]);
    assert_eq!((host.memories.in_use(), host.stacks.in_use()), (0, 0));
}

/// Makes a store of two instances; the first one's start function makes another such store, and so on.
fn nest(host: &Arc<Host>, depth: usize, found: &Arc<Mutex<Vec<Vec<usize>>>>) {
    let pages = depth + 1;
    let module = host.module(&format!(r#"(module (import "" "nest" (func $nest)) (memory {pages}) (start $nest))"#));
    let after = host.module(&format!("(module (memory {}))", pages + 8));
    let mut linker = Linker::<()>::new(&host.engine);
    let (inner_host, inner_found) = (host.clone(), found.clone());
    // By an async host function and by another one, in turn.
    match depth {
        0 => linker.func_wrap("", "nest", || ()),
        1 | 3 => linker.func_wrap("", "nest", move || nest(&inner_host, depth - 1, &inner_found)),
        _ => linker.func_wrap_async("", "nest", move |_, _: ()| {
            let (host, found) = (inner_host.clone(), inner_found.clone());
            Box::new(async move {
                pause().await;
                nest(&host, depth - 1, &found);
                pause().await;
            })
        }),
    }
    .unwrap();
    let mut store = host.store(());
    let instances = crate::by(&mut store, &[], async |mut cx| {
        linker.instantiate_async(cx.as_context_mut(), &module).await?;
        linker.instantiate_async(cx, &after).await
    });
    block_on(instances).unwrap();
    found.lock().unwrap().push(sizes(&mut store));
}

/// Asserts that a memory made outside of a tracked store belongs to none, and has the size it asks for.
fn assert_nothing_is_heard(host: &Host) {
    assert_eq!(host.memories.in_use(), 0);
    let mut store = Store::new(&host.engine, ());
    store.set_fuel(crate::FUEL).unwrap();
    store.set_epoch_deadline(1 << 40);
    let module = host.module(r#"(module (memory (export "memory") 1))"#);
    let instance = Instance::new(&mut store, &module, &[]).unwrap();
    assert_eq!(instance.get_memory(&mut store, "memory").unwrap().data_size(&store), WASM_PAGE);
    drop(store);
    assert_eq!(host.memories.in_use(), 0, "nobody holds on to it");
}

#[test]
fn a_panic_while_a_store_is_made_leaves_nothing_behind() {
    let host = Host::new(LARGEST, 20, 20);
    let linker = linker::<()>(&host);
    let module = host.module(
        r#"(module
            (import "host" "panic" (func $panic))
            (memory 1)
            (start $panic))"#,
    );
    let fine = host.module("(module (memory 1))");
    for first in [true, false] {
        let mut store = host.store(());
        let making = crate::by(&mut store, &[5 * WASM_PAGE, 6 * WASM_PAGE, 7 * WASM_PAGE], async |mut cx| {
            linker.instantiate_async(cx.as_context_mut(), &fine).await.unwrap();
            pause().await;
            if first {
                panic!("on purpose");
            }
            linker.instantiate_async(cx, &module).await.unwrap();
        });
        assert!(catch_unwind(AssertUnwindSafe(|| block_on(making))).is_err());
        // The store itself knows its memories.
        assert_eq!(sizes(&mut store), if first { vec![5] } else { vec![5, 6] });
        let fresh = block_on(crate::by(&mut store, &[], async |cx| linker.instantiate_async(cx, &fine).await));
        assert!(fresh.is_ok());
        assert_eq!(sizes(&mut store), if first { vec![5, 1] } else { vec![5, 6, 1] });
        drop(store);
        assert_nothing_is_heard(&host);
        let mut guest = host.instance(&fine, &[]).unwrap();
        assert_eq!(sizes(&mut guest.store), [1]);
    }
}

#[test]
fn a_panic_within_the_making_of_another_store_leaves_that_one_as_it_was() {
    let host = Host::new(LARGEST, 20, 20);
    let linker = linker::<()>(&host);
    let fine = host.module("(module (memory 1))");
    let panics = host.module(r#"(module (import "host" "panic" (func $panic)) (memory 1) (start $panic))"#);
    let mut outer = host.store(());
    let making = crate::by(&mut outer, &[2 * WASM_PAGE, 3 * WASM_PAGE], async |mut cx| {
        linker.instantiate_async(cx.as_context_mut(), &fine).await.unwrap();
        let mut inner = host.store(());
        let making = crate::by(&mut inner, &[9 * WASM_PAGE], async |cx| linker.instantiate_async(cx, &panics).await);
        assert!(catch_unwind(AssertUnwindSafe(|| block_on(making))).is_err());
        assert_eq!(sizes(&mut inner), [9]);
        linker.instantiate_async(cx, &fine).await.unwrap();
    });
    block_on(making);
    assert_eq!(sizes(&mut outer), [2, 3]);
    drop(outer);
    assert_nothing_is_heard(&host);
}

#[test]
fn a_store_whose_making_was_given_up_knows_what_it_has() {
    let host = Host::new(LARGEST, 20, 20);
    let linker = linker::<()>(&host);
    let module = host.module(r#"(module (import "host" "pause" (func $pause)) (memory 1) (start $pause))"#);
    let mut store = host.store(());
    for given_up in 1..4 {
        let wanted = [given_up * WASM_PAGE; 2];
        let mut making =
            Box::pin(crate::by(&mut store, &wanted, async |cx| linker.instantiate_async(cx, &module).await));
        assert!(making.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(making);
        assert_eq!(sizes(&mut store), (1..=given_up).collect::<Vec<_>>());
    }
    drop(store);
    assert_eq!(host.stacks.in_use(), 0);
    assert_nothing_is_heard(&host);
}

/// The closure may do something before it gives its future.
#[test]
fn what_is_made_before_the_first_poll_is_the_stores_own_as_well() {
    let host = Host::new(LARGEST, 20, 20);
    let module = host.module("(module (memory 1))");
    let pre = Linker::<()>::new(&host.engine).instantiate_pre(&module).unwrap();
    let mut store = host.store(());
    let called = AtomicBool::new(false);
    let made = crate::by(&mut store, &[2 * WASM_PAGE], |mut cx: wasmtime::StoreContextMut<'_, ()>| {
        called.store(true, Relaxed);
        let made = pre.instantiate(cx.as_context_mut());
        std::future::ready(made.is_ok())
    });
    assert!(!called.load(Relaxed));
    assert!(block_on(made));
    assert_eq!(sizes(&mut store), [2]);
}
