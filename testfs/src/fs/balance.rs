//! Whether everything that was taken was given back.
//!
//! Owns the comparison of what files hold with what the account of the mount says. For tests, with
//! nothing in progress; who takes what is [`mapping`](super::mapping)'s and
//! [`space`](crate::meta)'s.

use iomap_core::units::FileRange;

use super::TestFs;
use super::inode::TestInode;

impl TestFs {
    /// Compares promises, copies and counts of all files in memory with the account, with no system
    /// call in progress. Waits for writeback that is on its way.
    ///
    /// # Errors
    ///
    /// In words: what does not balance.
    pub fn check_balance(&self) -> Result<(), String> {
        let (mut promised, mut granted) = (0, 0);
        for inode in self.table.all() {
            inode.core.cache().wait_writeback(FileRange::ALL);
            let holds = inode.holds();
            let (files, copies) = holds.map_err(|what| format!("inode {}: {what}", inode.ino))?;
            promised += files;
            granted += copies;
        }
        let account = self.meta().promises();
        if account == (promised, granted) {
            return Ok(());
        }
        Err(format!(
            "files hold {promised} promised blocks and {granted} of copies, the account has {account:?}"
        ))
    }
}

impl TestInode {
    /// The blocks promised to the file, and those of its copies; or what is wrong.
    fn holds(&self) -> Result<(u64, u64), String> {
        if self.core.direct().is_busy_after_fence() {
            return Err("direct I/O counted in, and none in flight".into());
        }
        let map = self.mapping.read();
        let room = map.reservation().map_or(0, |room| room.blocks());
        let needed = map.promised_blocks();
        let inline = u64::from(self.inline.is_used());
        if room < needed || room > needed + inline {
            return Err(format!("{room} blocks are reserved for {needed} promised"));
        }
        for run in map.promised_runs() {
            let bytes = self.bytes_of(run);
            if !self.core.cache().has_dirty(bytes) {
                return Err(format!("blocks {run} are promised to no dirty data"));
            }
        }
        Ok((room, map.granted_blocks()))
    }
}
