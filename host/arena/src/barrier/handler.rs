//! The handler of the signals raised by writes to closed pages.
//!
//! The handler finds the guard by the address: each region of slots has a table with an entry for each slot, and all
//! tables are in one list that never moves. The handler takes no lock and waits for nothing. A signal that is no
//! write to a closed page goes to the previous handler: wasmtime's, which turns some into traps, or the system's,
//! which ends the process.

use super::guard::Guard;
use crate::{PAGE, region::Region};
use std::{
    cell::UnsafeCell,
    io,
    mem::MaybeUninit,
    ptr::NonNull,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicPtr, AtomicUsize, Ordering},
    },
};

/// Regions that there may be at a time in a process; each engine has three.
const REGIONS: usize = 1024;

/// A region that has a table. An entry never changes and is never freed: a handler may read one at any time.
struct Listed {
    /// The region's addresses.
    start: usize,
    end: usize,
    /// Bytes of a slot.
    size: usize,
    /// The table's first entry.
    entries: *const AtomicPtr<Guard>,
}

static LISTED: [AtomicPtr<Listed>; REGIONS] = [const { AtomicPtr::new(std::ptr::null_mut()) }; REGIONS];
/// Places of the list that were ever used.
static USED: AtomicUsize = AtomicUsize::new(0);
/// Held while the list changes.
static CHANGING: Mutex<()> = Mutex::new(());

/// The guards of a region's slots.
#[derive(Debug)]
pub(crate) struct Table {
    /// Pointers, null at first. They take memory only where there is one.
    entries: Region,
    /// The table's place in the list.
    place: usize,
    count: usize,
}

impl Table {
    /// Makes the table of a region of `count` slots of `size` bytes. Each table ever made takes 32 bytes until the
    /// process ends.
    ///
    /// # Errors
    ///
    /// There are too few addresses, or too many regions.
    pub(crate) fn new(region: &Region, size: usize, count: usize) -> io::Result<Self> {
        let len = (count * size_of::<AtomicPtr<Guard>>()).next_multiple_of(PAGE);
        let entries = Region::reserve(len)?;
        entries.open(0, len)?;
        let _changing = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
        let used = USED.load(Ordering::Relaxed);
        let free = LISTED[..used].iter().position(|listed| listed.load(Ordering::Relaxed).is_null());
        let place = free.unwrap_or(used);
        let free = LISTED.get(place).ok_or_else(|| io::Error::other("too many regions of memories"))?;
        let start = region.at(0).as_ptr() as usize;
        let listed = Listed { start, end: start + size * count, size, entries: entries.at(0).as_ptr().cast() };
        free.store(Box::into_raw(Box::new(listed)), Ordering::Release);
        USED.fetch_max(place + 1, Ordering::Release);
        Ok(Self { entries, place, count })
    }

    /// Sets the guard of a slot.
    ///
    /// # Safety
    ///
    /// The guard must live until it is taken out again, and be of the memory in this slot.
    pub(super) unsafe fn set(&self, index: usize, guard: Option<NonNull<Guard>>) {
        assert!(index < self.count, "a slot of the region");
        // SAFETY: the table is open, zeroed at first, and has an entry for each slot. An atomic pointer of zeroes is null.
        let entry = unsafe { &*self.entries.at(0).as_ptr().cast::<AtomicPtr<Guard>>().add(index) };
        entry.store(guard.map_or(std::ptr::null_mut(), NonNull::as_ptr), Ordering::Release);
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        let _changing = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
        LISTED[self.place].store(std::ptr::null_mut(), Ordering::Release);
    }
}

/// The guard of the slot that an address is in, if it has one.
fn find(address: usize) -> Option<NonNull<Guard>> {
    for listed in &LISTED[..USED.load(Ordering::Acquire).min(REGIONS)] {
        // SAFETY: what is listed is never freed.
        let Some(listed) = (unsafe { listed.load(Ordering::Acquire).as_ref() }) else { continue };
        if !(listed.start..listed.end).contains(&address) {
            continue;
        }
        let index = (address - listed.start) / listed.size;
        // SAFETY: a memory of the region is being written to, so its table lives, and has an entry for each slot.
        return NonNull::new(unsafe { &*listed.entries.add(index) }.load(Ordering::Acquire));
    }
    None
}

struct PreviousHandlers(UnsafeCell<[MaybeUninit<libc::sigaction>; 2]>);

// SAFETY: it is written once, under `INSTALLED`, before the handler that reads it is installed.
unsafe impl Sync for PreviousHandlers {}

static BEFORE: PreviousHandlers = PreviousHandlers(UnsafeCell::new([MaybeUninit::uninit(); 2]));
static INSTALLED: Mutex<[bool; 2]> = Mutex::new([false; 2]);
const SIGNALS: [libc::c_int; 2] = [libc::SIGBUS, libc::SIGSEGV];

/// Installs the handler for a signal, once in a process. For `SIGSEGV` this must be done after an engine was made, so
/// that this handler runs before wasmtime's.
///
/// # Errors
///
/// The system refuses it.
pub(super) fn install(signal: libc::c_int) -> io::Result<()> {
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    let index = usize::from(signal == SIGNALS[1]);
    if installed[index] {
        return Ok(());
    }
    let mut before = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: the calls are given structures of the right type; the handler is a function of the right type, and may run
    // on any thread from then on: it does nothing for addresses that are in no table. What was there before is written
    // before the handler can be called for this signal, and never again.
    unsafe {
        if libc::sigaction(signal, std::ptr::null(), before.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        (*BEFORE.0.get())[index] = before;
        let mut action = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
        action.sa_sigaction = handle as *const () as usize;
        // On the thread's own stack for signals, where it has one; as wasmtime's, it may be met again while it runs.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        libc::sigemptyset(&raw mut action.sa_mask);
        if libc::sigaction(signal, &raw const action, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    installed[index] = true;
    Ok(())
}

/// The handler.
extern "C" fn handle(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel gives a valid `info`, and `errno` is this thread's own.
    let (address, errno) = unsafe { ((*info).si_addr() as usize, libc::__errno_location()) };
    // SAFETY: as above.
    let error = unsafe { *errno };
    // SAFETY: the guard is of a memory that this thread writes to, so that it has the memory's store: nobody else uses the
    // guard, nor lets the memory go.
    let met = find(address).is_some_and(|mut guard| unsafe { guard.as_mut().met(address) });
    // SAFETY: as above.
    unsafe { *errno = error };
    if !met {
        // SAFETY: with what the kernel gave.
        unsafe { pass_on(signal, info, context) };
    }
}

/// Passes a signal on to the previous handler.
///
/// # Safety
///
/// The arguments must be those that the kernel gave to the handler.
unsafe fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let index = usize::from(signal == SIGNALS[1]);
    // SAFETY: written before this handler was installed, and never again.
    let before = unsafe { (*BEFORE.0.get())[index].assume_init() };
    match before.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => {
            // The instruction runs again, and the system's default action follows.
            // SAFETY: the structure is what the kernel gave.
            unsafe { libc::sigaction(signal, &raw const before, std::ptr::null_mut()) };
        }
        // SAFETY: a handler's address is what the kernel gave for the flag that tells its type.
        handler if before.sa_flags & libc::SA_SIGINFO != 0 => unsafe {
            let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                std::mem::transmute(handler);
            handler(signal, info, context);
        },
        // SAFETY: as above.
        handler => unsafe {
            let handler: extern "C" fn(libc::c_int) = std::mem::transmute(handler);
            handler(signal);
        },
    }
}
