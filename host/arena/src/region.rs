//! One reserved range of addresses, opened from its start as slots are needed.
//!
//! The range is mapped without access, which costs no memory and is not counted by the kernel's overcommit
//! accounting, and is opened chunk by chunk. Neighbouring chunks have the same access, so the kernel keeps them as
//! one mapping: a region is two mappings, however many slots it has.

use std::{io, ptr::NonNull};

/// Bytes that are opened at a time.
const CHUNK: usize = 64 << 20;

/// A reserved range of addresses. It stays reserved until the region is dropped.
#[derive(Debug)]
pub(crate) struct Region {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: a `Region` is a range of addresses; it never reads or writes what is there. Its methods only call the
// kernel, which is safe from any thread.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Reserves `len` bytes of addresses, without access.
    pub(crate) fn reserve(len: usize) -> io::Result<Self> {
        // SAFETY: an anonymous mapping at an address that the kernel chooses touches no existing mapping.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast::<u8>()).ok_or_else(|| io::Error::other("mmap gave address zero"))?;
        let region = Self { base, len };
        // Slots are small beside a huge page, and mostly empty: a huge page would make each of them cost 2 MiB. Core
        // dumps would hold every user's data. Both are wishes: an old kernel that refuses them works as well.
        let _ = region.advise(0, len, libc::MADV_NOHUGEPAGE);
        let _ = region.advise(0, len, libc::MADV_DONTDUMP);
        Ok(region)
    }

    /// Makes the bytes before `end` readable and writable, and perhaps some more; gives how many now are.
    /// `open` is how many already were.
    pub(crate) fn open(&self, open: usize, end: usize) -> io::Result<usize> {
        if end <= open {
            return Ok(open);
        }
        let new = end.next_multiple_of(CHUNK).min(self.len);
        self.protect(open, new - open, libc::PROT_READ | libc::PROT_WRITE)?;
        Ok(new)
    }

    /// The address of a byte of the region.
    pub(crate) fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset <= self.len, "an offset within the region");
        // SAFETY: `offset` is within the mapping that `reserve` made, or its end.
        unsafe { self.base.add(offset) }
    }

    pub(crate) fn protect(&self, offset: usize, len: usize, access: libc::c_int) -> io::Result<()> {
        self.check(offset, len);
        // SAFETY: the range is within the mapping that `reserve` made, which nothing but this crate's slots uses.
        // Access is only ever widened for a range that no slot has yet, or taken from a guard page.
        match unsafe { libc::mprotect(self.at(offset).as_ptr().cast(), len, access) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    pub(crate) fn advise(&self, offset: usize, len: usize, advice: libc::c_int) -> io::Result<()> {
        self.check(offset, len);
        // SAFETY: the range is within the mapping that `reserve` made. The advice that changes contents
        // (`MADV_DONTNEED`) is given only by the owner of the slot that the range belongs to, or by its drop.
        match unsafe { libc::madvise(self.at(offset).as_ptr().cast(), len, advice) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn check(&self, offset: usize, len: usize) {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.len), "a range within the region");
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: `base` and `len` are those of the mapping that `reserve` made. Each memory and stack holds an
        // `Arc` of what owns the region, so none is left that could use it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}
