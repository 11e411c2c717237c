//! The items of one inode, in key order.
//!
//! Owns what can be said about an inode's extents, attributes, entries and target from these items
//! alone, and counts what the inode item claims.

use super::blocks::Usage;
use super::inode::Name;
use super::{Finding, Findings};
use crate::format::hash::{PROBES, dirent_offset, xattr_offset};
use crate::format::item::{BadItem, Body, Dirent, ExtentItem, FileType, Inode, XattrItem};
use crate::format::{DiskRun, FileBlock, Ino, Key};

/// Key offsets from one attribute to the next.
const XATTR_STEP: u64 = 1 << 16;

/// The inode the walk is at, and what was counted of it.
#[derive(Debug)]
pub(super) struct Current {
    pub(super) ino: Ino,
    pub(super) inode: Inode,
    pub(super) blocks: u64,
    pub(super) entries: u64,
    /// Bytes of the symbolic link's target.
    pub(super) target: u64,
    /// Where the last written extent ends.
    pub(super) written_end: FileBlock,
    extents_end: FileBlock,
    /// The probe keys the last entry is among, and the names seen there.
    bucket: (u64, Vec<Vec<u8>>),
    value: Option<Value>,
}

/// A long attribute value, and how much of it has not been seen.
#[derive(Clone, Copy, Debug)]
struct Value {
    head: Key,
    next: u64,
    missing: usize,
}

impl Current {
    pub(super) fn new(ino: Ino, inode: Inode) -> Self {
        Self {
            ino,
            inode,
            blocks: 0,
            entries: 0,
            target: 0,
            written_end: FileBlock::ZERO,
            extents_end: FileBlock::ZERO,
            bucket: (0, Vec::new()),
            value: None,
        }
    }

    pub(super) fn symlink(&mut self, key: Key, value: &[u8], findings: &mut Findings) {
        if self.inode.file_type() != FileType::Symlink {
            return misfit(key, "a target, but no symbolic link", findings);
        }
        if value.is_empty() {
            misfit(key, "an empty piece", findings);
        }
        self.target += value.len() as u64;
    }

    pub(super) fn extent(
        &mut self,
        key: Key,
        value: &[u8],
        usage: &mut Usage,
        findings: &mut Findings,
    ) {
        let Some(item) = decoded(key, ExtentItem::decode(value), findings) else {
            return;
        };
        let ino = self.ino;
        if self.inode.file_type() != FileType::Regular || self.inode.body != Body::Extents {
            misfit(key, "an extent, but no file with extents", findings);
        }
        let end = key.offset.checked_add(item.run.len);
        let Some(end) = end.filter(|end| *end <= FileBlock::MAX.get()) else {
            return misfit(key, "past the largest file", findings);
        };
        let at = FileBlock::new(key.offset);
        if at < self.extents_end {
            findings.add(Finding::ExtentOverlap { ino, at });
        }
        self.extents_end = self.extents_end.max(FileBlock::new(end));
        if !item.unwritten {
            self.written_end = self.extents_end;
        }
        self.blocks += item.run.len;
        let run: DiskRun = item.run;
        if !usage.data(run) {
            findings.add(Finding::OutOfRange { ino, run });
        }
        if item.unwritten {
            usage.unwritten(run);
        }
    }

    /// Judges an entry, and gives the name.
    pub(super) fn dirent(
        &mut self,
        key: Key,
        value: &[u8],
        seed: &[u8; 16],
        findings: &mut Findings,
    ) -> Option<Name> {
        let entry = decoded(key, Dirent::decode(value), findings)?;
        if !self.inode.is_dir() {
            misfit(key, "an entry, but no directory", findings);
            return None;
        }
        let first = dirent_offset(seed, &entry.name);
        if key.offset / PROBES != first / PROBES {
            misfit(key, "not where its name hashes to", findings);
        }
        if self.bucket.0 != key.offset / PROBES {
            self.bucket = (key.offset / PROBES, Vec::new());
        }
        if self.bucket.1.contains(&entry.name) {
            findings.add(Finding::DuplicateName {
                dir: self.ino,
                name: String::from_utf8_lossy(&entry.name).into_owned(),
            });
        }
        self.bucket.1.push(entry.name.clone());
        self.entries += 1;
        Some(Name {
            dir: self.ino,
            name: entry.name.into_boxed_slice(),
            ino: entry.ino,
            file_type: entry.file_type,
        })
    }

    pub(super) fn xattr(
        &mut self,
        key: Key,
        value: &[u8],
        seed: &[u8; 16],
        findings: &mut Findings,
    ) {
        if !key.offset.is_multiple_of(XATTR_STEP) {
            return self.xattr_piece(key, value, findings);
        }
        self.end_value(findings);
        let Some(head) = decoded(key, XattrItem::decode(value), findings) else {
            return;
        };
        let first = xattr_offset(seed, &head.name);
        if key.offset / (XATTR_STEP * PROBES) != first / (XATTR_STEP * PROBES) {
            misfit(key, "not where its name hashes to", findings);
        }
        if head.inline.is_none() {
            self.value = Some(Value {
                head: key,
                next: key.offset + 1,
                missing: head.len,
            });
        }
    }

    fn xattr_piece(&mut self, key: Key, value: &[u8], findings: &mut Findings) {
        match &mut self.value {
            Some(v) if v.next == key.offset && value.len() <= v.missing && !value.is_empty() => {
                v.next += 1;
                v.missing -= value.len();
            }
            _ => misfit(key, "a piece of no attribute", findings),
        }
    }

    /// The last long value must have been whole.
    pub(super) fn end_value(&mut self, findings: &mut Findings) {
        if let Some(value) = self.value.take()
            && value.missing > 0
        {
            misfit(value.head, "its value is cut short", findings);
        }
    }
}

/// The value, or a finding.
pub(super) fn decoded<T>(key: Key, item: Result<T, BadItem>, findings: &mut Findings) -> Option<T> {
    item.map_err(|error| findings.add(Finding::Item { key, error }))
        .ok()
}

/// An item that cannot exist beside the others.
pub(super) fn misfit(key: Key, what: &'static str, findings: &mut Findings) {
    findings.add(Finding::Misfit { key, what });
}
