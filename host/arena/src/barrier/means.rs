//! The means by which the kernel tells of writes, and their calls.

use crate::region::Region;
use std::{
    io,
    ops::Range,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

#[derive(Debug)]
pub(super) enum Means {
    Userfaults(OwnedFd),
    Protection,
}

// From `linux/userfaultfd.h`.
const USER_MODE_ONLY: libc::c_int = 1;
const API: u64 = 0xaa;
const FEATURES: u64 = FEATURE_WP | FEATURE_SIGBUS | FEATURE_WP_UNPOPULATED;
const FEATURE_WP: u64 = 1;
const FEATURE_SIGBUS: u64 = 1 << 7;
const FEATURE_WP_UNPOPULATED: u64 = 1 << 13;
const MODE_WP: u64 = 2;
const WRITEPROTECT_WP: u64 = 1;
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
const UFFDIO_WRITEPROTECT: libc::c_ulong = 0xc018_aa06;

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

impl Means {
    pub(super) fn userfaults() -> Option<Self> {
        // SAFETY: the call takes no memory, and gives a file of its own or -1.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK | USER_MODE_ONLY) };
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
        // SAFETY: the file was just opened, and nobody else has it.
        let userfaults = unsafe { OwnedFd::from_raw_fd(fd) };
        ask(&userfaults, UFFDIO_API, &mut Api { api: API, features: FEATURES, ioctls: 0 }).ok()?;
        Some(Self::Userfaults(userfaults))
    }

    /// Registers a region, so that its pages can be closed.
    pub(super) fn register(&self, region: &Region, len: usize) -> io::Result<()> {
        let Self::Userfaults(userfaults) = self else { return Ok(()) };
        let start = region.at(0).as_ptr() as u64;
        ask(userfaults, UFFDIO_REGISTER, &mut Register { start, len: len as u64, mode: MODE_WP, ioctls: 0 })
    }

    /// The signal raised by a write to a closed page.
    pub(super) fn signal(&self) -> libc::c_int {
        match self {
            Self::Userfaults(_) => libc::SIGBUS,
            Self::Protection => libc::SIGSEGV,
        }
    }

    /// Closes pages: the first write to each of them is noticed from now on.
    pub(super) fn close(&self, addresses: Range<usize>) -> io::Result<()> {
        self.set(addresses, true)
    }

    /// Opens pages: writes to them are no longer noticed.
    pub(super) fn open(&self, addresses: Range<usize>) -> io::Result<()> {
        self.set(addresses, false)
    }

    /// Closes or opens pages, by one system call. The signal handler calls this too.
    pub(super) fn set(&self, addresses: Range<usize>, closed: bool) -> io::Result<()> {
        if addresses.is_empty() {
            return Ok(());
        }
        match self {
            Self::Userfaults(userfaults) => {
                let (start, len) = (addresses.start as u64, addresses.len() as u64);
                let mode = if closed { WRITEPROTECT_WP } else { 0 };
                ask(userfaults, UFFDIO_WRITEPROTECT, &mut WriteProtect { start, len, mode })
            }
            Self::Protection => {
                let access = if closed { libc::PROT_READ } else { libc::PROT_READ | libc::PROT_WRITE };
                // SAFETY: the pages are those of one slot that is in use, open for reading and writing but for this, and
                // a write to one that is closed is met by the handler. What they hold does not change.
                match unsafe { libc::mprotect(addresses.start as *mut libc::c_void, addresses.len(), access) } {
                    0 => Ok(()),
                    _ => Err(io::Error::last_os_error()),
                }
            }
        }
    }
}

fn ask<T>(userfaults: &OwnedFd, request: libc::c_ulong, argument: &mut T) -> io::Result<()> {
    // SAFETY: `argument` is of the type that the request takes, and lives until the call is over. None of the requests
    // changes what memory holds.
    match unsafe { libc::ioctl(userfaults.as_raw_fd(), request, std::ptr::from_mut(argument)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
