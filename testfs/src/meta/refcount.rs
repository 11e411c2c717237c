//! How many files own a block.
//!
//! Owns the reference count items: one for every run of blocks with more than one owner. Blocks of
//! extents without such an item have one owner, which keeps the common case free of cost. Whose they
//! are is not recorded; [`check`](crate::check) counts.

use iomap_core::error::{Corrupt, FsError, Result};

use super::{Txn, View};
use crate::format::item::RefcountItem;
use crate::format::{DiskBlock, DiskRun, Ino, Key, Kind};

impl View<'_> {
    /// How many owners the first block of `run` has, and for how many blocks of it that holds.
    pub(super) fn owners(&self, run: DiskRun) -> Result<(u64, u32)> {
        if let Some((item, count)) = self.refcount_before(run.start)?
            && item.end() > run.start
        {
            let len = item.end().since(run.start).min(run.len);
            return Ok((len, count));
        }
        let (from, to) = (
            Key::refcount(run.start),
            Key::refcount(run.start.plus(run.len - 1)),
        );
        let next = self.first(from, to, RefcountItem::decode)?;
        let len = next.map_or(run.len, |(key, _)| key.offset - run.start.get());
        Ok((len, 1))
    }

    fn refcount_before(&self, block: DiskBlock) -> Result<Option<(DiskRun, u32)>> {
        let from = Key::new(Ino::GLOBAL, Kind::Refcount, 0);
        let found = self.last(from, Key::refcount(block), RefcountItem::decode)?;
        let Some((key, item)) = found else {
            return Ok(None);
        };
        let run = DiskRun::new(DiskBlock::new(key.offset), item.len);
        if !self.geometry().contains(run) {
            return Err(Corrupt::new(format!("reference count of {run}: out of range")).into());
        }
        Ok(Some((run, item.count)))
    }
}

impl Txn<'_> {
    /// One more owner for every block of `run`.
    pub(super) fn add_owner(&mut self, run: DiskRun) -> Result<()> {
        self.for_each_count(run, |txn, part, count| {
            let count = count.checked_add(1).ok_or(FsError::NoSpace)?;
            txn.set_count(part, count)
        })
    }

    /// One owner less for every block of `run`; frees those that had one.
    pub(super) fn drop_owner(&mut self, run: DiskRun) -> Result<()> {
        self.for_each_count(run, |txn, part, count| {
            if count == 1 {
                txn.free_blocks(part);
                return Ok(());
            }
            if count == 2 {
                txn.left_alone(part);
            }
            txn.set_count(part, count - 1)
        })
    }

    fn for_each_count(
        &mut self,
        run: DiskRun,
        mut f: impl FnMut(&mut Self, DiskRun, u32) -> Result<()>,
    ) -> Result<()> {
        let mut rest = run;
        while rest.len > 0 {
            let (len, count) = self.view().owners(rest)?;
            f(self, rest.take(len), count)?;
            rest = rest.skip(len);
        }
        Ok(())
    }

    /// Sets the owners of `run`, which all have as many now; merges with equal neighbours.
    fn set_count(&mut self, run: DiskRun, count: u32) -> Result<()> {
        if let Some((old, had)) = self.view().refcount_before(run.start)?
            && old.end() > run.start
        {
            let (head, tail) = (run.start.since(old.start), old.end().since(run.end()));
            self.remove_known(&Key::refcount(old.start))?;
            self.insert_count(old.take(head), had)?;
            self.insert_count(old.skip(old.len - tail), had)?;
        }
        if count < 2 {
            return Ok(());
        }
        let mut whole = run;
        if let Some((left, n)) = self.view().refcount_before(run.start)?
            && left.end() == run.start
            && n == count
        {
            self.remove_known(&Key::refcount(left.start))?;
            whole = DiskRun::new(left.start, left.len + whole.len);
        }
        if let Some((right, n)) = self.view().refcount_before(run.end())?
            && right.start == run.end()
            && n == count
        {
            self.remove_known(&Key::refcount(right.start))?;
            whole.len += right.len;
        }
        self.insert_count(whole, count)
    }

    fn insert_count(&mut self, run: DiskRun, count: u32) -> Result<()> {
        if run.len == 0 {
            return Ok(());
        }
        let item = RefcountItem {
            len: run.len,
            count,
        };
        self.insert(Key::refcount(run.start), &item.encode())
    }
}
