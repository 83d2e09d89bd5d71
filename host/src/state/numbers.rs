//! Sets of pages.

use smallvec::SmallVec;
use std::ops::Range;

/// A set of pages of one memory, by their numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Numbers {
    /// Of most memories all are within the set itself.
    words: SmallVec<[u64; 2]>,
    len: usize,
}

impl Numbers {
    /// Adds a page; returns true if it was not there.
    pub(crate) fn insert(&mut self, page: usize) -> bool {
        let word = page / 64;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let bit = 1 << (page % 64);
        let new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.len += usize::from(new);
        new
    }

    pub(super) fn remove(&mut self, page: usize) {
        let Some(word) = self.words.get_mut(page / 64) else { return };
        let bit = 1 << (page % 64);
        self.len -= usize::from(*word & bit != 0);
        *word &= !bit;
    }

    /// Adds pages.
    pub(crate) fn extend(&mut self, pages: impl IntoIterator<Item = usize>) {
        for page in pages {
            self.insert(page);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The pages, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> {
        self.within(0..self.words.len() * 64)
    }

    /// The set's pages within a range, in order.
    pub(crate) fn within(&self, pages: Range<usize>) -> impl Iterator<Item = usize> {
        let words = pages.start / 64..pages.end.div_ceil(64).min(self.words.len());
        let words = self.words.get(words.clone()).unwrap_or_default().iter().zip(words.start..);
        let all = words.flat_map(|(word, index)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = left.trailing_zeros() as usize;
                left &= left.checked_sub(1)?;
                Some(index * 64 + bit)
            })
        });
        all.filter(move |page| pages.contains(page))
    }

    /// Forgets the pages from `end` on.
    pub(super) fn truncate(&mut self, end: usize) {
        let cut: Vec<_> = self.within(end..self.words.len() * 64).collect();
        cut.into_iter().for_each(|page| self.remove(page));
    }
}
