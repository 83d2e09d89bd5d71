//! Finds the pages of a range that take memory, by asking the kernel.

use crate::PAGE;
use std::{fs::File, io, ops::Range, os::unix::fs::FileExt};

/// Bytes of the kernel's entry for each page.
const ENTRY: usize = 8;
/// Pages read at once.
const AT_ONCE: usize = 512;
/// The page is in memory, or swapped out. A page that was only ever read may be reported too.
const POPULATED: u64 = 1 << 63 | 1 << 62;

/// The kernel's file of this process's pages.
#[derive(Debug)]
pub(crate) struct Populated(Option<File>);

impl Populated {
    /// Opens the kernel's file. Without `/proc`, all pages are reported as taking memory.
    pub(crate) fn new() -> Self {
        Self(File::open("/proc/self/pagemap").ok())
    }

    /// Calls `found` with the address ranges of the runs of pages that take memory, in order.
    pub(crate) fn find(&self, addresses: Range<usize>, mut found: impl FnMut(Range<usize>)) {
        if self.ask(addresses.clone(), &mut found).is_err() {
            found(addresses);
        }
    }

    fn ask(&self, addresses: Range<usize>, found: &mut impl FnMut(Range<usize>)) -> io::Result<()> {
        let file = self.0.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let mut told = Vec::new();
        let mut entries = [0; AT_ONCE * ENTRY];
        let mut run = addresses.start..addresses.start;
        let mut start = addresses.start;
        while start < addresses.end {
            let pages = ((addresses.end - start) / PAGE).min(AT_ONCE);
            let entries = &mut entries[..pages * ENTRY];
            file.read_exact_at(entries, (start / PAGE * ENTRY) as u64)?;
            for entry in entries.chunks_exact(ENTRY) {
                let bits = entry.try_into().map_or(POPULATED, u64::from_ne_bytes);
                if bits & POPULATED != 0 {
                    if run.end != start {
                        told.push(std::mem::replace(&mut run, start..start));
                    }
                    run.end += PAGE;
                }
                start += PAGE;
            }
        }
        told.push(run);
        told.into_iter().filter(|run| !run.is_empty()).for_each(found);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::Region;

    #[test]
    fn pages_that_were_written_to_are_told_and_others_are_not() {
        let pages = 2 * AT_ONCE + 10;
        let region = Region::reserve(pages * PAGE).unwrap();
        region.open(0, pages * PAGE).unwrap();
        let start = region.at(0).as_ptr() as usize;
        let written = [0..1, 5..9, AT_ONCE - 1..AT_ONCE + 1, pages - 1..pages];
        for page in written.iter().cloned().flatten() {
            // SAFETY: the region is the test's own, and open.
            unsafe { region.at(page * PAGE).write(0) };
        }
        let mut found = Vec::new();
        Populated::new().find(start..start + pages * PAGE, |run| {
            found.push((run.start - start) / PAGE..(run.end - start) / PAGE);
        });
        assert_eq!(found, written);
    }

    #[test]
    fn where_the_kernel_does_not_tell_all_may_take_memory() {
        let mut found = Vec::new();
        Populated(None).find(PAGE..9 * PAGE, |run| found.push(run));
        assert_eq!((found.len(), found.pop()), (1, Some(PAGE..9 * PAGE)));
    }
}
