//! An instance's state as bytes: how its linear memories differ from its function's image.
//!
//! # Format
//!
//! A snapshot is a list of pieces, each of at most [`PIECE`] pages, so that neither parking nor waking holds a thread
//! for long, however much there is. A piece is a byte for the version, 16 bytes that identify the image (the guest,
//! the function's configuration, and the bytes of a new instance), 8 bytes of a hash over all else, and the body,
//! compressed with LZ4. The body has the piece's number, 1 if it is the last one and 0 if not, and a number for each
//! linear memory, its size in pages; after them, for each run of bytes that differ: how many bytes lie between it and
//! the run before, its length, and the bytes. Offsets count through all memories, one after the other. Numbers are
//! LEB128.
//!
//! A piece is checked before anything is made of it: one that is cut short, changed, of another function, or out of
//! its place is an error. An instance that is made of pieces is nobody's before the last one is in it.

use super::{
    image::{Image, Key},
    numbers::Numbers,
};
use crate::limits::memory::{self, Charge};
use carrel_arena::PAGE;
use std::ops::Deref;

const VERSION: u8 = 2;
const CHECK: usize = 8;
const HEAD: usize = 1 + size_of::<Key>() + CHECK;
/// The longest gap of equal bytes that is kept in a run instead of ending it.
const GAP: usize = 16;
/// The most pages of a piece: 128 KiB.
pub(crate) const PIECE: usize = 32;
/// Bytes that a run begins and ends with.
const GRAIN: usize = 8;
/// Bytes that are compared before the grains in them are: most of a page that was written to is as it was.
const BLOCK: usize = 256;
const _: () = assert!(PAGE.is_multiple_of(BLOCK) && BLOCK.is_multiple_of(GRAIN));

/// An instance's state, without the instance.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pieces: Vec<Box<[u8]>>,
    /// Bytes of the instance's memories.
    memory: usize,
    /// The snapshot's charge on its user's memory.
    charge: Charge,
}

/// A piece that was checked.
#[derive(Debug)]
pub(crate) struct Piece {
    /// Bytes of each linear memory.
    pub(crate) sizes: Vec<usize>,
    /// True if it is the last one.
    pub(crate) is_last: bool,
    body: Vec<u8>,
    /// The offset of the runs in the body.
    runs: usize,
}

/// Why a snapshot cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    /// It was written by another version of Carrel.
    #[error("its format is version {0}, and this host reads version {VERSION}")]
    Version(u8),
    /// It is of another guest, of another configuration, or of another version of either.
    #[error("it is of another guest, or of another configuration of it")]
    Other,
    /// It is not what was written.
    #[error("it is damaged")]
    Damaged,
}

impl Snapshot {
    /// Makes a snapshot without pieces, of memories of so many bytes in all.
    pub(crate) fn new(memory: usize, charge: Charge) -> Self {
        Self { pieces: Vec::new(), memory, charge }
    }

    /// Adds the next piece, of memories of these sizes. `pages` are those that may differ from the image, by memory
    /// and number, in order, and after those of the piece before.
    pub(crate) fn add<'a>(
        &mut self,
        image: &Image,
        sizes: &[usize],
        pages: impl Iterator<Item = (usize, usize, &'a [u8])>,
        is_last: bool,
    ) {
        let mut body = Vec::with_capacity(1024);
        number(&mut body, self.pieces.len());
        number(&mut body, usize::from(is_last));
        for size in sizes {
            number(&mut body, size / PAGE);
        }
        let mut runs = Runs { body, end: 0, memory: 0, run: 0..0, bytes: Vec::with_capacity(1024) };
        let starts: Vec<usize> = sizes.iter().scan(0, |at, size| Some(std::mem::replace(at, *at + size))).collect();
        for (memory, page, now) in pages {
            let at = starts[memory] + page * PAGE;
            let first = image.page(memory, page);
            for block in (0..PAGE).step_by(BLOCK) {
                if now[block..block + BLOCK] == first[block..block + BLOCK] {
                    continue;
                }
                for grain in (block..block + BLOCK).step_by(GRAIN) {
                    let bytes = &now[grain..grain + GRAIN];
                    if *bytes != first[grain..grain + GRAIN] {
                        // Runs are joined only over a gap within this page.
                        runs.add(memory, at + grain, bytes, &now[..grain]);
                    }
                }
            }
        }
        let compressed = lz4_flex::block::compress_prepend_size_with_dict(&runs.finish(), image.dictionary());
        let mut piece = Vec::with_capacity(HEAD + compressed.len());
        piece.push(VERSION);
        piece.extend_from_slice(image.key());
        piece.extend_from_slice(&[0; CHECK]);
        piece.extend_from_slice(&compressed);
        let check = check(&piece);
        piece[HEAD - CHECK..HEAD].copy_from_slice(&check);
        self.charge.set(self.charge.bytes() + memory::SNAPSHOT + piece.len());
        self.pieces.push(piece.into());
    }

    /// Bytes that it takes.
    pub(crate) fn len(&self) -> usize {
        self.pieces.iter().map(|piece| piece.len()).sum()
    }

    /// Bytes of the instance's memories.
    pub(crate) fn memory(&self) -> usize {
        self.memory
    }

    /// Stops counting the snapshot, since the instance made from it counts, until the result is dropped.
    pub(crate) fn uncounted(&mut self) -> Uncounted<'_> {
        let bytes = self.charge.bytes();
        self.charge.set(0);
        Uncounted { snapshot: self, bytes }
    }

    /// Reads a piece, after checking that it is whole and of this image.
    pub(crate) fn piece(&self, image: &Image, index: usize) -> Result<Piece, Broken> {
        let bytes = self.pieces.get(index).ok_or(Broken::Damaged)?;
        let (&version, rest) = bytes.split_first().ok_or(Broken::Damaged)?;
        if version != VERSION {
            return Err(Broken::Version(version));
        }
        let (key, rest) = rest.split_at_checked(size_of::<Key>()).ok_or(Broken::Damaged)?;
        let (seal, compressed) = rest.split_at_checked(CHECK).ok_or(Broken::Damaged)?;
        if check(bytes) != *seal {
            return Err(Broken::Damaged);
        }
        if key != image.key() {
            return Err(Broken::Other);
        }
        let body = lz4_flex::block::decompress_size_prepended_with_dict(compressed, image.dictionary())
            .map_err(|_| Broken::Damaged)?;
        let mut left = body.as_slice();
        let is_last = (read_number(&mut left), read_number(&mut left));
        let is_last = match is_last {
            (Some(number), Some(last @ 0..=1)) if number == index => last == 1,
            _ => return Err(Broken::Damaged),
        };
        let mut sizes = Vec::new();
        for first in image.sizes() {
            let size = read_number(&mut left).and_then(|pages| pages.checked_mul(PAGE)).ok_or(Broken::Damaged)?;
            // Start code may grow memories by chance: then instances begin with other sizes.
            if size < first && image.is_configured() {
                return Err(Broken::Damaged);
            }
            sizes.push(size);
        }
        let runs = body.len() - left.len();
        let piece = Piece { sizes, is_last, body, runs };
        piece.each(|_, _| ()).ok_or(Broken::Damaged)?;
        Ok(piece)
    }

    /// The bytes of the first piece, to be damaged on purpose.
    #[cfg(test)]
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        &mut self.pieces[0]
    }
}

/// A snapshot that does not count, since the instance made from it does. If this is dropped before
/// [`Uncounted::end`], making failed, and the snapshot counts again, whether there is room for it or not.
pub(crate) struct Uncounted<'a> {
    snapshot: &'a mut Snapshot,
    bytes: usize,
}

impl Uncounted<'_> {
    /// Ends the restore: the instance is made, and the snapshot is to be dropped.
    pub(crate) fn end(mut self) {
        self.bytes = 0;
    }
}

impl Deref for Uncounted<'_> {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        self.snapshot
    }
}

impl Drop for Uncounted<'_> {
    fn drop(&mut self) {
        self.snapshot.charge.set(self.bytes);
    }
}

impl Piece {
    /// Writes the runs to memories of the right sizes that hold the image, and notes the pages of each that they
    /// touch.
    pub(crate) fn apply<'a>(&self, memories: impl Iterator<Item = &'a mut [u8]>, touched: &mut Vec<Numbers>) {
        let mut memories: Vec<_> = memories.collect();
        touched.resize(memories.len(), Numbers::default());
        self.each(|(memory, offset), bytes| {
            if let Some(target) = memories.get_mut(memory).and_then(|it| it.get_mut(offset..offset + bytes.len())) {
                target.copy_from_slice(bytes);
                touched[memory].extend(offset / PAGE..(offset + bytes.len()).div_ceil(PAGE));
            }
        });
    }

    /// Visits all runs: memory, offset in it, and bytes. Returns `None` if one is not within its memory.
    fn each(&self, mut run: impl FnMut((usize, usize), &[u8])) -> Option<()> {
        let mut left = &self.body[self.runs..];
        let (mut memory, mut offset) = (0, 0usize);
        while !left.is_empty() {
            offset = offset.checked_add(read_number(&mut left)?)?;
            let len = read_number(&mut left)?;
            while offset >= *self.sizes.get(memory)? {
                offset -= self.sizes[memory];
                memory += 1;
            }
            let end = offset.checked_add(len).filter(|end| *end <= self.sizes[memory])?;
            let (bytes, rest) = left.split_at_checked(len)?;
            run((memory, offset), bytes);
            left = rest;
            offset = end;
        }
        Some(())
    }
}

/// Runs that are being written.
struct Runs {
    body: Vec<u8>,
    /// The end of the last run that was written.
    end: usize,
    memory: usize,
    /// The run that is not written yet.
    run: std::ops::Range<usize>,
    bytes: Vec<u8>,
}

impl Runs {
    /// Adds bytes at an offset, after those that were added before. `before` holds the bytes before them in their
    /// page.
    fn add(&mut self, memory: usize, at: usize, bytes: &[u8], before: &[u8]) {
        let gap = at - self.run.end;
        if self.bytes.is_empty() || gap > GAP || memory != self.memory || gap > before.len() {
            self.flush();
            self.run = at..at;
            self.memory = memory;
        } else {
            self.bytes.extend_from_slice(&before[before.len() - gap..]);
        }
        self.bytes.extend_from_slice(bytes);
        self.run.end = at + bytes.len();
    }

    fn flush(&mut self) {
        if self.bytes.is_empty() {
            return;
        }
        number(&mut self.body, self.run.start - self.end);
        number(&mut self.body, self.bytes.len());
        self.body.append(&mut self.bytes);
        self.end = self.run.end;
    }

    fn finish(mut self) -> Vec<u8> {
        self.flush();
        self.body
    }
}

/// The hash over all but itself.
fn check(snapshot: &[u8]) -> [u8; CHECK] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&snapshot[..HEAD - CHECK]).update(&snapshot[HEAD..]);
    let mut check = [0; CHECK];
    hasher.finalize_xof().fill(&mut check);
    check
}

/// Writes a number as LEB128.
fn number(bytes: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn read_number(bytes: &mut &[u8]) -> Option<usize> {
    let mut number = 0usize;
    for shift in (0..usize::BITS).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= (usize::from(byte & 0x7f)).checked_shl(shift)?;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::memory::Memory;
    use proptest::{collection::vec, prelude::*};

    type Memories = Vec<Vec<u8>>;

    fn slices(memories: &mut Memories) -> impl Iterator<Item = &mut [u8]> {
        memories.iter_mut().map(Vec::as_mut_slice)
    }

    fn image(memories: Memories, identity: &str) -> Image {
        Image::new(&memories, true, 0, blake3::hash(identity.as_bytes()).as_bytes()).unwrap()
    }

    /// A snapshot of these pages of each memory, two in a piece.
    fn of_pages(image: &Image, memories: &Memories, pages: &[Numbers]) -> Snapshot {
        let sizes: Vec<_> = memories.iter().map(Vec::len).collect();
        let pages = pages.iter().enumerate().flat_map(|(memory, pages)| {
            pages.iter().map(move |page| (memory, page, &memories[memory][page * PAGE..(page + 1) * PAGE]))
        });
        let pages: Vec<_> = pages.collect();
        let mut snapshot = Snapshot::new(sizes.iter().sum(), Memory::new(usize::MAX).charge(0));
        let pieces = pages.len().div_ceil(2).max(1);
        for piece in 0..pieces {
            let pages = pages.iter().skip(2 * piece).take(2).copied();
            snapshot.add(image, &sizes, pages, piece + 1 == pieces);
        }
        snapshot
    }

    /// A snapshot, taken as of an instance.
    fn taken(image: &Image, now: &Memories) -> Snapshot {
        let differing = now.iter().enumerate().map(|(memory, bytes)| {
            let mut pages = Numbers::default();
            image.find_differing(memory, bytes, 0..bytes.len() / PAGE, &mut pages);
            pages
        });
        of_pages(image, now, &differing.collect::<Vec<_>>())
    }

    /// The memories, restored as for an instance.
    fn restored(image: &Image, snapshot: &Snapshot) -> Result<Memories, Broken> {
        let sizes = snapshot.piece(image, 0)?.sizes;
        let mut memories: Memories = sizes.iter().map(|size| vec![0; *size]).collect();
        image.apply(slices(&mut memories), 0..image.pages());
        let mut touched = Vec::new();
        for index in 0.. {
            let piece = snapshot.piece(image, index)?;
            assert_eq!(piece.sizes, sizes);
            piece.apply(slices(&mut memories), &mut touched);
            if piece.is_last {
                assert_eq!(index + 1, snapshot.pieces.len());
                break;
            }
        }
        // Pages not written are known to be unchanged: a second snapshot needs no other pages.
        assert_eq!(of_pages(image, &memories, &touched).pieces, snapshot.pieces);
        Ok(memories)
    }

    fn of(bytes: &[u8]) -> Snapshot {
        Snapshot { pieces: vec![bytes.into()], memory: 0, charge: Memory::new(usize::MAX).charge(0) }
    }

    /// A snapshot with the right key and hash, whatever the body is.
    fn sealed(image: &Image, version: u8, body: &[u8]) -> Snapshot {
        let mut bytes = [&[version], image.key().as_slice(), &[0; CHECK]].concat();
        bytes.extend(lz4_flex::block::compress_prepend_size_with_dict(body, image.dictionary()));
        let check = check(&bytes);
        bytes[HEAD - CHECK..HEAD].copy_from_slice(&check);
        of(&bytes)
    }

    /// A write to memories: memory, offset, length and byte.
    type Write = (usize, usize, usize, u8);

    fn written(memories: &mut Memories, writes: &[Write]) {
        for (memory, offset, len, byte) in writes {
            let len_of = memories.len();
            let memory = &mut memories[memory % len_of];
            let start = offset % memory.len();
            let end = (start + len).min(memory.len());
            memory[start..end].fill(*byte);
        }
    }

    fn writes() -> impl Strategy<Value = Vec<Write>> {
        let near_an_edge = (0..7usize, 0..40usize).prop_map(|(page, offset)| (page * PAGE + offset).saturating_sub(20));
        let offset = prop_oneof![near_an_edge, any::<usize>()];
        let len = prop_oneof![4 => 1..40usize, 1 => 1..3 * PAGE];
        vec((any::<usize>(), offset, len, prop_oneof![Just(0), any::<u8>()]), 0..30)
    }

    /// The memories of a new instance, and what they have become: they may have grown.
    fn states() -> impl Strategy<Value = (Memories, Memories)> {
        let sizes = vec((0..5usize, 0..3usize), 1..4)
            .prop_filter("something is there", |sizes| sizes.iter().all(|(pages, more)| pages + more > 0));
        (sizes, writes(), writes()).prop_map(|(sizes, first, then)| {
            let mut start: Memories = sizes.iter().map(|(pages, _)| vec![0; pages * PAGE]).collect();
            if start.iter().all(|memory| !memory.is_empty()) {
                written(&mut start, &first);
            }
            let mut now = start.clone();
            for (memory, (_, more)) in now.iter_mut().zip(sizes) {
                memory.resize(memory.len() + more * PAGE, 0);
            }
            written(&mut now, &then);
            (start, now)
        })
    }

    /// An image and a state of two memories, one of which has grown.
    fn example() -> (Image, Memories) {
        let mut start = vec![vec![0; 3 * PAGE], vec![0; PAGE]];
        written(&mut start, &[(0, 100, 300, 7), (1, 4000, 96, 9)]);
        let mut now = start.clone();
        now[0].resize(5 * PAGE, 0);
        written(&mut now, &[(0, 90, 20, 1), (0, PAGE - 8, 16, 2), (0, 4 * PAGE + 5, 70, 3), (1, 4000, 96, 0)]);
        for (index, byte) in now[0][2 * PAGE..2 * PAGE + 200].iter_mut().enumerate() {
            *byte = (index * index % 251) as u8;
        }
        (image(start, "a guest"), now)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_state_is_the_same_after_both_ways((start, now) in states()) {
            let image = image(start, "a guest");
            prop_assert_eq!(restored(&image, &taken(&image, &now)), Ok(now));
        }

        /// A body that no host has written, but with the right hash: an error, or a state within its own bounds.
        #[test]
        fn any_body_is_read_within_its_bounds(body in vec(prop_oneof![0..20u8, any::<u8>()], 0..60), (start, _) in states()) {
            let image = image(start, "a guest");
            let body = [&[0, 1], body.as_slice()].concat();
            let Ok(checked) = sealed(&image, VERSION, &body).piece(&image, 0) else { return Ok(()) };
            let within = |(memory, offset): (usize, usize), bytes: &[u8]| {
                assert!(offset + bytes.len() <= checked.sizes[memory]);
            };
            prop_assert!(checked.each(within).is_some());
            if checked.sizes.iter().all(|size| *size < 1 << 20) {
                let mut memories: Memories = checked.sizes.iter().map(|size| vec![0; *size]).collect();
                checked.apply(slices(&mut memories), &mut Vec::new());
            }
        }

        #[test]
        fn any_bytes_are_no_snapshot(bytes in vec(any::<u8>(), 0..200)) {
            prop_assert!(of(&bytes).piece(&example().0, 0).is_err());
        }
    }

    #[test]
    fn a_state_like_the_image_takes_no_more_than_its_head() {
        let start = vec![vec![7; 16 * PAGE], vec![0; PAGE]];
        let image = image(start.clone(), "a guest");
        assert!(taken(&image, &start).len() < HEAD + 16);
    }

    #[test]
    fn a_snapshot_with_any_bit_flipped_is_an_error() {
        let (image, now) = example();
        let whole = taken(&image, &now);
        assert_eq!(restored(&image, &whole), Ok(now));
        for bit in 0..whole.pieces[0].len() * 8 {
            let mut flipped = of(&whole.pieces[0]);
            flipped.bytes()[bit / 8] ^= 1 << (bit % 8);
            let expected = if bit < 8 { Broken::Version(VERSION ^ 1 << bit) } else { Broken::Damaged };
            assert_eq!(flipped.piece(&image, 0).unwrap_err(), expected, "bit {bit}");
        }
    }

    #[test]
    fn a_snapshot_that_is_cut_or_continued_is_an_error() {
        let (image, now) = example();
        let whole = taken(&image, &now);
        for len in 0..whole.pieces[0].len() {
            assert_eq!(of(&whole.pieces[0][..len]).piece(&image, 0).unwrap_err(), Broken::Damaged, "{len} bytes");
        }
        for more in [0, 1, 255] {
            assert_eq!(of(&[&whole.pieces[0], &[more][..]].concat()).piece(&image, 0).unwrap_err(), Broken::Damaged);
        }
    }

    #[test]
    fn pieces_that_are_missing_or_out_of_their_places_are_an_error() {
        let (image, now) = example();
        let mut whole = taken(&image, &now);
        assert!(whole.pieces.len() > 2, "{whole:?}");
        whole.pieces.swap(1, 2);
        assert_eq!(restored(&image, &whole), Err(Broken::Damaged));
        whole.pieces.swap(1, 2);
        let last = whole.pieces.pop();
        assert_eq!(restored(&image, &whole), Err(Broken::Damaged));
        whole.pieces.extend(last);
        assert_eq!(restored(&image, &whole), Ok(now));
        whole.pieces.remove(0);
        assert_eq!(restored(&image, &whole), Err(Broken::Damaged));
    }

    #[test]
    fn a_snapshot_of_another_guest_configuration_or_image_is_told() {
        let (of_it, now) = example();
        let snapshot = taken(&of_it, &now);
        let (other_bytes, other_guest) = (vec![vec![0; 3 * PAGE], vec![0; PAGE]], "another guest");
        for other in [image(other_bytes, "a guest"), image(now, other_guest)] {
            assert_eq!(snapshot.piece(&other, 0).unwrap_err(), Broken::Other);
        }
        assert_eq!(sealed(&of_it, VERSION + 1, b"").piece(&of_it, 0).unwrap_err(), Broken::Version(VERSION + 1));
    }

    #[test]
    fn memories_never_shrink_and_no_run_lies_outside_of_them() {
        let (image, _) = example();
        let check = |body: &[u8]| {
            sealed(&image, VERSION, &[&[0, 1], body].concat()).piece(&image, 0).map(|checked| checked.sizes)
        };
        assert_eq!(check(&[3, 1]), Ok(vec![3 * PAGE, PAGE]));
        assert_eq!(check(&[3, 2, 0, 1, 9]), Ok(vec![3 * PAGE, 2 * PAGE]));
        let endless = [0xff; 11];
        let far = [3, 1, 0xff, 0xff, 1, 1, 9];
        // The last byte of the first memory, and the first of the second.
        let across = [3, 1, 0xff, 0x5f, 2, 9, 9];
        assert!(check(&[3, 1, 0xff, 0x5f, 1, 9, 0, 1, 9]).is_ok());
        // Sizes that are missing, too small or too large; runs without a length, without bytes, and beyond the end.
        let sizes: [&[u8]; 5] = [&[], &[3], &[2, 1], &[3, 0], &endless];
        let runs: [&[u8]; 4] = [&[3, 1, 0], &[3, 1, 0, 5, 1, 2], &far, &across];
        for body in sizes.into_iter().chain(runs) {
            assert_eq!(check(body), Err(Broken::Damaged), "{body:?}");
        }
    }
}
