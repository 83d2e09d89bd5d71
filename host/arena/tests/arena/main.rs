//! The arena's promises, with real guests: core modules in wasmtime stores, set up as the host sets them up.

mod barrier;
mod bounds;
mod exhaustion;
mod isolation;
mod tracked;

use carrel_arena::{Lent, LogRoom, Memories, PAGE, Stacks, Tracked};
use std::{
    future::Future,
    io,
    pin::pin,
    sync::{Arc, Once},
    task::{Context, Poll, Waker},
};
use wasmtime::{Config, Engine, Instance, Linker, Module, Store, StoreContextMut, TypedFunc, WasmParams, WasmResults};

/// The size of a page of a guest's memory.
const WASM_PAGE: usize = 65536;
/// Bytes of a fiber stack.
const STACK: usize = 256 << 10;
/// Enough for anything.
const FUEL: u64 = u64::MAX;

/// Turns backtraces of errors off: each takes milliseconds, and there are hundreds of thousands of errors here.
static NO_BACKTRACES: Once = Once::new();

/// An engine, and its guests' memories and stacks.
struct Host {
    engine: Engine,
    memories: Memories,
    stacks: Stacks,
}

impl Host {
    /// Makes a host for memories of up to `largest` bytes, with `memories` slots of each size, and for `stacks`
    /// stacks.
    fn new(largest: usize, memories: usize, stacks: usize) -> Self {
        Self::with(Memories::with_slots(largest, memories).unwrap(), stacks)
    }

    /// Like `new`, in a process that may not use userfaultfd.
    fn without_userfaults(largest: usize, memories: usize, stacks: usize) -> Self {
        Self::with(Memories::without_userfaults(largest, memories).unwrap(), stacks)
    }

    fn with(memories: Memories, stacks: usize) -> Self {
        // SAFETY: nothing in this process reads the environment but by `std`, which does so under a lock.
        NO_BACKTRACES.call_once(|| unsafe { std::env::set_var("RUST_LIB_BACKTRACE", "0") });
        let stacks = Stacks::with_slots(STACK, stacks).unwrap();
        let engine = Engine::new(&config(&memories, &stacks)).unwrap();
        Self { engine, memories, stacks }
    }

    fn module(&self, wat: &str) -> Module {
        Module::new(&self.engine, wat::parse_str(wat).unwrap()).unwrap()
    }

    fn store<T: Send + 'static>(&self, data: T) -> Tracked<T> {
        let mut store = Store::new(&self.engine, data);
        store.set_fuel(FUEL).unwrap();
        store.set_epoch_deadline(1 << 40);
        Tracked::new(store)
    }

    /// An instance that imports nothing, in a store of its own.
    fn instance(&self, module: &Module, sizes: &[usize]) -> wasmtime::Result<Guest> {
        let pre = Linker::new(&self.engine).instantiate_pre(module)?;
        let mut store = self.store(());
        let instance = block_on(store.instantiate(sizes, &pre))?;
        Ok(Guest { store, instance })
    }
}

/// With fuel, epochs and one call at a time, as the host's own.
fn config(memories: &Memories, stacks: &Stacks) -> Config {
    let mut config = Config::new();
    carrel_arena::configure(&mut config, memories, stacks);
    config.consume_fuel(true).epoch_interruption(true).max_wasm_stack(STACK / 2).concurrency_support(false);
    config
}

/// An instance in a store of its own.
struct Guest {
    store: Tracked<()>,
    instance: Instance,
}

impl Guest {
    fn function<P: WasmParams, R: WasmResults>(&mut self, name: &str) -> TypedFunc<P, R> {
        self.instance.get_typed_func(self.store.context(), name).unwrap()
    }

    fn call<P: WasmParams + Sync, R: WasmResults + Sync>(&mut self, name: &str, params: P) -> wasmtime::Result<R> {
        let function = self.function::<P, R>(name);
        self.run(&function, params)
    }

    fn run<P: WasmParams + Sync, R: WasmResults + Sync>(
        &mut self,
        function: &TypedFunc<P, R>,
        params: P,
    ) -> wasmtime::Result<R> {
        block_on(function.call_async(self.store.context(), params))
    }

    fn refuel(&mut self) {
        self.store.context().set_fuel(FUEL).unwrap();
    }

    /// Lends the guest's n-th memory.
    fn memory_of(&mut self, index: usize) -> Lent<'_> {
        self.store.memory(index).unwrap()
    }

    /// The bytes of the guest's n-th memory.
    fn memory(&mut self, index: usize) -> &mut [u8] {
        self.store.memories().nth(index).unwrap()
    }
}

/// Instantiates in other ways than the host does.
fn by<'a, T: Send + 'static, R: 'a>(
    store: &'a mut Tracked<T>,
    sizes: &'a [usize],
    instantiate: impl AsyncFnOnce(StoreContextMut<'_, T>) -> R + 'a,
) -> impl Future<Output = R> + 'a {
    // SAFETY: these tests make instances in the store that they are given, or in one that is tracked, too.
    unsafe { store.instantiate_by(sizes, instantiate) }
}

/// Room for logs without an end.
struct Unlimited;

impl LogRoom for Unlimited {
    fn take(&self, _: usize) {}

    fn give_back(&self, _: usize) {}
}

/// Guards a memory from a page on, to its end.
fn guard_all(lent: &mut Lent<'_>, from: usize, room: Arc<dyn LogRoom>) -> io::Result<()> {
    lent.guard(from, room)?;
    lent.extend_guard(lent.size() / PAGE)
}

/// Polls until it is ready. Nothing here waits for anything but itself.
fn block_on<R>(future: impl Future<Output = R>) -> R {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(done) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return done;
        }
    }
}

/// Returns true if all bytes are zero, by `memcmp`: these tests read gigabytes, and run without optimisation.
fn is_zero(bytes: &[u8]) -> bool {
    const ZEROES: &[u8] = &[0; WASM_PAGE];
    bytes.chunks(ZEROES.len()).all(|chunk| *chunk == ZEROES[..chunk.len()])
}
