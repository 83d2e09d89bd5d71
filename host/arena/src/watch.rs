//! Which pages were written to, as the kernel tells.
//!
//! The pages of a memory are write-protected once (userfaultfd, in its asynchronous mode: the kernel itself lifts the
//! protection of a page that is written to, and nobody waits for anybody). From then on one call of `PAGEMAP_SCAN` says
//! which pages have lost it. A page that was written to once stays unprotected, so that the next writes cost nothing.
//!
//! Both need Linux 6.7, and a process that may use userfaultfd; a container may be kept from it. Where it is not to be
//! had, [`Watch::new`] gives none, and pages have to be compared.

use crate::{PAGE, region::Region};
use std::{
    fs::File,
    io,
    ops::Range,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// The kernel's two files for it.
#[derive(Debug)]
pub(crate) struct Watch {
    userfaults: OwnedFd,
    pagemap: File,
}

// From `linux/userfaultfd.h`.
const USER_MODE_ONLY: libc::c_int = 1;
const API: u64 = 0xaa;
const FEATURES: u64 = FEATURE_WP | FEATURE_WP_UNPOPULATED | FEATURE_WP_ASYNC;
const FEATURE_WP: u64 = 1;
const FEATURE_WP_UNPOPULATED: u64 = 1 << 13;
const FEATURE_WP_ASYNC: u64 = 1 << 15;
const MODE_WP: u64 = 2;
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
const UFFDIO_WRITEPROTECT: libc::c_ulong = 0xc018_aa06;
// From `linux/fs.h`.
const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;
const IS_WRITTEN: u64 = 2;
const PROTECT: u64 = 1;
const FAIL_IF_NOT_ASYNC: u64 = 2;

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct WriteProtect {
    start: u64,
    len: u64,
    mode: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Pages {
    start: u64,
    end: u64,
    categories: u64,
}

#[repr(C)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

impl Watch {
    /// None, where the kernel cannot do it or the process may not.
    pub(crate) fn new() -> Option<Self> {
        // SAFETY: the call takes no memory, and gives a file of its own or -1.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK | USER_MODE_ONLY) };
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
        // SAFETY: the file was just opened, and nobody else has it.
        let userfaults = unsafe { OwnedFd::from_raw_fd(fd) };
        let watch = Self { userfaults, pagemap: File::open("/proc/self/pagemap").ok()? };
        watch.ask(UFFDIO_API, &mut Api { api: API, features: FEATURES, ioctls: 0 }).ok()?;
        watch.works().then_some(watch)
    }

    /// Whether one page, written to after it was protected, is told, and another one is not.
    fn works(&self) -> bool {
        let Ok(region) = Region::reserve(2 * PAGE) else { return false };
        if region.open(0, 2 * PAGE).is_err() || self.register(&region, 2 * PAGE).is_err() {
            return false;
        }
        let start = region.at(0);
        let range = start.as_ptr() as usize..start.as_ptr() as usize + 2 * PAGE;
        // SAFETY: both pages are the region's own, and open.
        unsafe { start.write_bytes(1, 2 * PAGE) };
        if self.protect(range.clone()).is_err() {
            return false;
        }
        // SAFETY: as above.
        unsafe { region.at(PAGE).write_volatile(2) };
        let mut found = Vec::new();
        let second = range.start + PAGE..range.end;
        self.written(range, |pages| found.push(pages)).is_ok() && found == [second]
    }

    /// Makes a region's pages such as can be watched.
    pub(crate) fn register(&self, region: &Region, len: usize) -> io::Result<()> {
        let start = region.at(0).as_ptr() as u64;
        self.ask(UFFDIO_REGISTER, &mut Register { start, len: len as u64, mode: MODE_WP, ioctls: 0 })
    }

    /// From now on, writes to these addresses are noted.
    pub(crate) fn protect(&self, addresses: Range<usize>) -> io::Result<()> {
        self.scan(addresses, PROTECT | FAIL_IF_NOT_ASYNC, |_| ())
    }

    /// No longer: the next writes cost nothing.
    pub(crate) fn release(&self, addresses: Range<usize>) -> io::Result<()> {
        let (start, len) = (addresses.start as u64, addresses.len() as u64);
        self.ask(UFFDIO_WRITEPROTECT, &mut WriteProtect { start, len, mode: 0 })
    }

    /// Tells the addresses of pages that were written to since they were protected.
    pub(crate) fn written(&self, addresses: Range<usize>, found: impl FnMut(Range<usize>)) -> io::Result<()> {
        self.scan(addresses, 0, found)
    }

    fn scan(&self, addresses: Range<usize>, flags: u64, mut found: impl FnMut(Range<usize>)) -> io::Result<()> {
        let mut pages = [Pages::default(); 16];
        let mut start = addresses.start as u64;
        while start < addresses.end as u64 {
            let mut scan = Scan {
                size: size_of::<Scan>() as u64,
                flags,
                start,
                end: addresses.end as u64,
                walk_end: 0,
                vec: pages.as_mut_ptr() as u64,
                vec_len: pages.len() as u64,
                max_pages: 0,
                category_inverted: 0,
                category_mask: IS_WRITTEN,
                category_anyof_mask: 0,
                return_mask: IS_WRITTEN,
            };
            // SAFETY: `scan` and `pages` live until the call is over, which writes no more to either than they hold.
            // It changes no memory of the range, only how the kernel notes writes to it.
            let count = unsafe { libc::ioctl(self.pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut scan) };
            let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
            for pages in &pages[..count] {
                found(pages.start as usize..pages.end as usize);
            }
            if scan.walk_end <= start {
                return Err(io::Error::other("the kernel's scan does not go on"));
            }
            start = scan.walk_end;
        }
        Ok(())
    }

    fn ask<T>(&self, request: libc::c_ulong, argument: &mut T) -> io::Result<()> {
        // SAFETY: `argument` is of the type that the request takes, and lives until the call is over. None of the
        // requests changes what memory holds.
        match unsafe { libc::ioctl(self.userfaults.as_raw_fd(), request, std::ptr::from_mut(argument)) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
