//! Replacements for a guest without the standard library: an allocator and a panic handler.
#![allow(unsafe_code)]

use core::{
    alloc::{GlobalAlloc, Layout},
    arch::wasm32,
    ffi::c_void,
    panic::PanicInfo,
    ptr,
};

// The target's C library, whose allocator the standard library uses as well. It begins with the rest of the last page
// of 64 KiB, and asks for more when that is full.
#[link(name = "c")]
unsafe extern "C" {
    fn malloc(size: usize) -> *mut c_void;
    fn calloc(count: usize, size: usize) -> *mut c_void;
    fn realloc(memory: *mut c_void, size: usize) -> *mut c_void;
    fn aligned_alloc(align: usize, size: usize) -> *mut c_void;
    fn free(memory: *mut c_void);
}

/// The alignment of `malloc`'s blocks.
const ALIGN: usize = 16;

struct Libc;

#[global_allocator]
static LIBC: Libc = Libc;

// SAFETY: these functions are what the trait asks for, by the C standard: blocks of at least `size` bytes that do not
// overlap, aligned to `ALIGN`, or to what `aligned_alloc` is told; null if there is no memory; and `realloc` keeps what
// is in them. None of them panics.
unsafe impl GlobalAlloc for Libc {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match layout.align() {
            // SAFETY: they take any size, and the alignment is a power of two that divides the size.
            ..=ALIGN => unsafe { malloc(layout.size()) }.cast(),
            align => unsafe { aligned_alloc(align, layout.size().next_multiple_of(align)) }.cast(),
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= ALIGN {
            // SAFETY: it takes any size.
            return unsafe { calloc(layout.size(), 1) }.cast();
        }
        // SAFETY: the caller's promise of `layout` is passed on, and the block that is filled is that large.
        unsafe {
            let memory = self.alloc(layout);
            if !memory.is_null() {
                memory.write_bytes(0, layout.size());
            }
            memory
        }
    }

    unsafe fn dealloc(&self, memory: *mut u8, _: Layout) {
        // SAFETY: the caller got it from this allocator, which gets all from the C library.
        unsafe { free(memory.cast()) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if layout.align() <= ALIGN {
            // SAFETY: as in `dealloc`.
            return unsafe { realloc(memory.cast(), size) }.cast();
        }
        // SAFETY: the caller promises that `size` makes a layout; both blocks are as large as what is copied.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                new.copy_from_nonoverlapping(memory, layout.size().min(size));
                self.dealloc(memory, layout);
            }
            new
        }
    }
}

/// Allocates memory for the values that the host passes, as the component model requires. With the standard library,
/// the C library has this function.
///
/// # Safety
///
/// `align` is a power of two, and `old` is what this has given for `old_size` and `align`.
#[unsafe(no_mangle)]
unsafe extern "C" fn cabi_realloc(old: *mut u8, old_size: usize, align: usize, size: usize) -> *mut u8 {
    // SAFETY: the caller's promise. A size that does not make a layout is more than there is memory, and gives null.
    let memory = match (old_size, size) {
        (_, 0) => return ptr::without_provenance_mut(align),
        (0, _) => unsafe { LIBC.alloc(Layout::from_size_align_unchecked(size, align)) },
        _ => unsafe { LIBC.realloc(old, Layout::from_size_align_unchecked(old_size, align), size) },
    };
    if memory.is_null() { wasm32::unreachable() } else { memory }
}

/// Makes a panic a trap, without a message: the text would take room in the memory of each instance.
#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    wasm32::unreachable()
}
