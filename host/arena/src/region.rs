//! One reserved range of addresses, opened from its start as slots are needed.
//!
//! The range is mapped without access, which costs no memory and is not counted by the kernel's overcommit
//! accounting, and is opened chunk by chunk. Neighbouring chunks have the same access, so the kernel keeps them as
//! one mapping: a region is two mappings, however many slots it has.

use crate::PAGE;
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
        // dumps would hold every user's data. Both calls are only advice: an old kernel that refuses them works as
        // well.
        let _ = region.advise(0, len, libc::MADV_NOHUGEPAGE);
        let _ = region.advise(0, len, libc::MADV_DONTDUMP);
        Ok(region)
    }

    /// Makes the bytes before `end`, and perhaps some more, readable and writable. `open` is how many were so before;
    /// returns how many now are.
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

    /// True if this page, in an open part of the region, takes memory or the kernel does not tell.
    pub(crate) fn may_be_resident(&self, page: usize) -> bool {
        let mut found = 0_u8;
        // SAFETY: the page is within the region, and `found` is a byte for it.
        let asked = unsafe { libc::mincore(self.at(page).as_ptr().cast(), PAGE, &raw mut found) };
        asked != 0 || found & 1 != 0
    }

    pub(crate) fn advise(&self, offset: usize, len: usize, advice: libc::c_int) -> io::Result<()> {
        self.check(offset, len);
        if len == 0 {
            return Ok(());
        }
        // SAFETY: the range is within the mapping that `reserve` made. The advice that changes contents or access
        // (`MADV_DONTNEED`, `MADV_GUARD_INSTALL`) is given only by the owner of the slot that the range belongs to, while
        // nothing refers to what is there: before its first use, when it is dropped, or, of a stack, between two calls.
        match unsafe { libc::madvise(self.at(offset).as_ptr().cast(), len, advice) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The bytes of a range that take memory.
    #[cfg(test)]
    pub(crate) fn resident(&self, offset: usize, len: usize) -> usize {
        self.check(offset, len);
        let mut pages = vec![0u8; len.div_ceil(crate::PAGE)];
        // SAFETY: the range is within the mapping that `reserve` made, and `pages` has a byte for each of its pages.
        assert_eq!(unsafe { libc::mincore(self.at(offset).as_ptr().cast(), len, pages.as_mut_ptr()) }, 0);
        pages.iter().filter(|page| **page & 1 == 1).count() * crate::PAGE
    }

    /// Locks memory, so that the kernel refuses to take it back. Returns true if the process may lock so much.
    #[cfg(test)]
    pub(crate) fn lock(&self, offset: usize, len: usize, locked: bool) -> bool {
        self.check(offset, len);
        let (start, call) = (self.at(offset).as_ptr(), if locked { libc::mlock } else { libc::munlock });
        // SAFETY: locking changes neither contents nor access, and the range is within the mapping.
        unsafe { call(start.cast(), len) == 0 }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PAGE;

    /// The lengths and the access of a region's mappings, from `/proc/self/maps`.
    fn mappings(region: &Region) -> Vec<(usize, String)> {
        let (start, end) = (region.base.as_ptr() as usize, region.base.as_ptr() as usize + region.len);
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let ranges = maps.lines().filter_map(|line| {
            let (range, rest) = line.split_once(' ')?;
            let (from, to) = range.split_once('-')?;
            let parse = |it| usize::from_str_radix(it, 16).ok();
            let (from, to) = (parse(from)?.max(start), parse(to)?.min(end));
            (from < to).then(|| (to - from, rest[..3].to_owned()))
        });
        ranges.collect()
    }

    #[test]
    fn a_region_is_two_mappings_however_far_it_is_open() {
        let region = Region::reserve(1 << 40).unwrap();
        assert_eq!(mappings(&region), [(1 << 40, "---".to_owned())]);
        let mut open = 0;
        for chunks in 1..=20 {
            let end = chunks * CHUNK - PAGE;
            open = region.open(open, end).unwrap();
            assert_eq!(open, chunks * CHUNK);
            // It is open to its last byte.
            // SAFETY: the region is the test's own.
            unsafe { region.at(open - 1).write(1) };
            assert_eq!(mappings(&region), [(open, "rw-".to_owned()), ((1 << 40) - open, "---".to_owned())]);
        }
        assert_eq!(region.open(open, 1).unwrap(), open);
        assert_eq!(region.resident(0, open), 20 * PAGE);
    }

    #[test]
    fn a_region_opens_to_its_end_and_no_further() {
        let region = Region::reserve(CHUNK + 3 * PAGE).unwrap();
        assert_eq!(region.open(0, CHUNK + 1).unwrap(), region.len);
        // SAFETY: the region is the test's own, and open.
        unsafe { region.at(region.len - 1).write(1) };
        assert_eq!(mappings(&region), [(region.len, "rw-".to_owned())]);
    }

    #[test]
    fn what_is_outside_is_refused() {
        let region = Region::reserve(4 * PAGE).unwrap();
        fn panics<R>(what: impl FnOnce() -> R) -> bool {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(what)).is_err()
        }
        assert!(panics(|| region.at(4 * PAGE + 1)));
        assert!(!panics(|| region.at(4 * PAGE)));
        assert!(panics(|| region.advise(PAGE, 4 * PAGE, libc::MADV_DONTNEED)));
        assert!(panics(|| region.advise(PAGE, usize::MAX, libc::MADV_DONTNEED)));
        assert!(panics(|| region.protect(5 * PAGE, 0, libc::PROT_NONE)));
    }

    #[test]
    fn a_dropped_region_is_unmapped() {
        let region = Region::reserve(1 << 30).unwrap();
        let same = Region { base: region.base, len: region.len };
        drop(region);
        let left = mappings(&same);
        std::mem::forget(same);
        // Another thread may have mapped something else there since.
        assert!(left.iter().map(|(len, _)| len).sum::<usize>() < 1 << 30);
    }
}
