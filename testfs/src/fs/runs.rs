//! A set of blocks of a file, kept as disjoint runs.
//!
//! Owns the splitting and joining of runs. What the blocks are (promised, copied) is
//! [`mapping`](super::mapping)'s.

use std::collections::BTreeMap;

use crate::format::{BlockRange, FileBlock};

/// Blocks of a file: runs that neither overlap nor touch.
#[derive(Debug, Default)]
pub(super) struct Runs {
    /// Length of each run, by its first block.
    runs: BTreeMap<FileBlock, u64>,
    len: u64,
}

impl Runs {
    /// Blocks in the set.
    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    /// The runs, in order.
    pub(super) fn runs(&self) -> impl Iterator<Item = BlockRange> + '_ {
        let run = |(start, len): (&FileBlock, &u64)| BlockRange::at(*start, *len);
        self.runs.iter().map(run)
    }

    /// The blocks in the set from `block` on without a gap; `None` if it is not in the set.
    pub(super) fn at(&self, block: FileBlock) -> Option<BlockRange> {
        let (start, len) = self.runs.range(..=block).next_back()?;
        let run = BlockRange::at(*start, *len);
        run.contains(block)
            .then(|| BlockRange::between(block, run.end()))
    }

    /// The first block of the set at or after `block`, or the end of all files.
    pub(super) fn next(&self, block: FileBlock) -> FileBlock {
        if self.at(block).is_some() {
            return block;
        }
        let next = self.runs.range(block..).next();
        next.map_or(FileBlock::MAX, |(start, _)| *start)
    }

    /// Adds the blocks of `range`. Returns how many were not in the set.
    pub(super) fn insert(&mut self, range: BlockRange) -> u64 {
        if range.is_empty() {
            return 0;
        }
        let had = self.remove(range);
        let (mut start, mut end) = (range.start(), range.end());
        if let Some((left, len)) = self.runs.range(..start).next_back()
            && left.plus(*len) == start
        {
            start = *left;
        }
        if let Some(len) = self.runs.remove(&end) {
            end = end.plus(len);
        }
        self.runs.insert(start, end.since(start));
        self.len += range.len();
        range.len() - had
    }

    /// Removes the blocks of `range`. Returns how many were in the set.
    pub(super) fn remove(&mut self, range: BlockRange) -> u64 {
        let mut removed = 0;
        while let Some((start, len)) = self.last_before(range.end()) {
            let run = BlockRange::at(start, len);
            let part = run.intersect(range);
            if part.is_empty() {
                break;
            }
            self.runs.remove(&start);
            self.put(BlockRange::between(start, part.start()));
            self.put(BlockRange::between(part.end(), run.end()));
            removed += part.len();
        }
        self.len -= removed;
        removed
    }

    fn last_before(&self, block: FileBlock) -> Option<(FileBlock, u64)> {
        let found = self.runs.range(..block).next_back();
        found.map(|(start, len)| (*start, *len))
    }

    fn put(&mut self, run: BlockRange) {
        if !run.is_empty() {
            self.runs.insert(run.start(), run.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn range(start: u64, len: u64) -> BlockRange {
        BlockRange::at(FileBlock::new(start), len)
    }

    proptest! {
        #[test]
        fn runs_are_the_set_of_their_blocks(
            ops in prop::collection::vec((any::<bool>(), 0u64..60, 0u64..20), 1..40)
        ) {
            let mut runs = Runs::default();
            let mut model = BTreeSet::new();
            for (insert, start, len) in ops {
                let before = model.len();
                if insert {
                    model.extend(start..start + len);
                    prop_assert_eq!(runs.insert(range(start, len)), (model.len() - before) as u64);
                } else {
                    model.retain(|b| !(start..start + len).contains(b));
                    prop_assert_eq!(runs.remove(range(start, len)), (before - model.len()) as u64);
                }
                prop_assert_eq!(runs.len(), model.len() as u64);
                for block in 0..85u64 {
                    let run = (block..).take_while(|b| model.contains(b)).count() as u64;
                    let found = runs.at(FileBlock::new(block)).map_or(0, BlockRange::len);
                    prop_assert_eq!(found, run);
                    let next = model.range(block..).next().copied();
                    let expected = next.map_or(FileBlock::MAX, FileBlock::new);
                    prop_assert_eq!(runs.next(FileBlock::new(block)), expected);
                }
            }
        }
    }
}
