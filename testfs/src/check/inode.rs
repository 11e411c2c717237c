//! Inodes one after the other.
//!
//! Owns which item belongs to which inode, the inode item, and the facts that concern several inodes:
//! names, link counts, orphans. The other items of one inode: [`items`](super::items).

use std::collections::{BTreeMap, BTreeSet};

use super::blocks::Usage;
use super::items::{Current, decoded, misfit};
use super::{Census, Finding, Findings};
use crate::format::item::{Body, FileType, Inode, OrphanItem, RefcountItem};
use crate::format::{DiskBlock, DiskRun, Geometry, Ino, Key, Kind, Superblock};
use crate::meta::extents::cut::blocks_past;

/// What the walk has found out, by inode.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) inodes: BTreeMap<Ino, Known>,
    pub(super) names: Vec<Name>,
    pub(super) orphans: BTreeMap<Ino, OrphanItem>,
}

/// An inode.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) file_type: FileType,
    pub(super) nlink: u32,
    pub(super) parent: Ino,
}

/// A name.
#[derive(Debug)]
pub(super) struct Name {
    pub(super) dir: Ino,
    pub(super) name: Box<[u8]>,
    pub(super) ino: Ino,
    pub(super) file_type: FileType,
}

/// Reads the items.
#[derive(Debug)]
pub(super) struct Inodes {
    geometry: Geometry,
    seed: [u8; 16],
    facts: Facts,
    current: Option<Current>,
    /// Inodes whose items stand there without an inode item: reported once each.
    strays: BTreeSet<Ino>,
    extents: u64,
}

impl Inodes {
    pub(super) fn new(superblock: &Superblock) -> Self {
        Self {
            geometry: superblock.geometry,
            seed: superblock.hash_seed,
            facts: Facts::default(),
            current: None,
            strays: BTreeSet::new(),
            extents: 0,
        }
    }

    /// An item of no inode.
    pub(super) fn global(
        &mut self,
        key: Key,
        value: &[u8],
        usage: &mut Usage,
        findings: &mut Findings,
    ) {
        match key.kind {
            Kind::Orphan => {
                if let Some(item) = decoded(key, OrphanItem::decode(value), findings) {
                    self.facts.orphans.insert(Ino::new(key.offset), item);
                }
            }
            Kind::Refcount => {
                let Some(item) = decoded(key, RefcountItem::decode(value), findings) else {
                    return;
                };
                let run = DiskRun::new(DiskBlock::new(key.offset), item.len);
                if !usage.refcount(run, item.count) {
                    let ino = Ino::GLOBAL;
                    findings.add(Finding::OutOfRange { ino, run });
                }
            }
            _ => misfit(key, "belongs to no inode", findings),
        }
    }

    /// An item of an inode.
    pub(super) fn item(
        &mut self,
        key: Key,
        value: &[u8],
        usage: &mut Usage,
        findings: &mut Findings,
    ) {
        if self.current.as_ref().is_none_or(|c| c.ino != key.ino) {
            self.end_inode(findings);
        }
        if key.kind == Kind::Inode {
            return self.begin_inode(key, value, findings);
        }
        let Some(current) = &mut self.current else {
            if self.strays.insert(key.ino) {
                misfit(key, "its inode does not exist", findings);
            }
            return;
        };
        match key.kind {
            Kind::Symlink => current.symlink(key, value, findings),
            Kind::Xattr => current.xattr(key, value, &self.seed, findings),
            Kind::Dirent => {
                let name = current.dirent(key, value, &self.seed, findings);
                self.facts.names.extend(name);
            }
            Kind::Extent => {
                self.extents += 1;
                current.extent(key, value, usage, findings);
            }
            Kind::Inode | Kind::Orphan | Kind::Refcount => {
                misfit(key, "of a kind no inode has", findings);
            }
        }
    }

    /// Ends the last inode and gives the facts.
    pub(super) fn finish(mut self, census: &mut Census, findings: &mut Findings) -> Facts {
        self.end_inode(findings);
        census.inodes = self.facts.inodes.len() as u64;
        census.extents = self.extents;
        census.entries = self.facts.names.len() as u64;
        census.orphans = self.facts.orphans.len() as u64;
        self.facts
    }

    fn begin_inode(&mut self, key: Key, value: &[u8], findings: &mut Findings) {
        if key.offset != 0 {
            return misfit(key, "a second inode item", findings);
        }
        let Some(inode) = decoded(key, Inode::decode(value), findings) else {
            // Reported already: its other items need no finding of their own.
            self.strays.insert(key.ino);
            return;
        };
        self.judge_fields(key.ino, &inode, findings);
        let known = Known {
            file_type: inode.file_type(),
            nlink: inode.nlink,
            parent: inode.parent,
        };
        self.facts.inodes.insert(key.ino, known);
        self.current = Some(Current::new(key.ino, inode));
    }

    fn judge_fields(&self, ino: Ino, inode: &Inode, findings: &mut Findings) {
        let file_type = inode.file_type();
        let mut wrong = |is: bool, what| {
            if is {
                findings.add(Finding::Inode { ino, what });
            }
        };
        let has_size = matches!(file_type, FileType::Regular | FileType::Symlink);
        wrong(!has_size && inode.size != 0, "a size without data");
        wrong(
            file_type != FileType::Directory && inode.parent != Ino::GLOBAL,
            "a parent, though it is no directory",
        );
        wrong(
            file_type != FileType::Directory && inode.entries != 0,
            "entries, though it is no directory",
        );
        if let Body::Inline(data) = &inode.body {
            wrong(file_type != FileType::Regular, "inline data in no file");
            wrong(
                data.len() > self.geometry.inline_max(),
                "more inline data than may be",
            );
        }
    }

    fn end_inode(&mut self, findings: &mut Findings) {
        let Some(mut current) = self.current.take() else {
            return;
        };
        current.end_value(findings);
        let ino = current.ino;
        let inode = &current.inode;
        let mut count = |what, stored, counted| {
            if stored != counted {
                findings.add(Finding::InodeCount {
                    ino,
                    what,
                    stored,
                    counted,
                });
            }
        };
        count("number of blocks", inode.blocks, current.blocks);
        count("number of entries", inode.entries, current.entries);
        if inode.file_type() == FileType::Symlink {
            count("length of the target", inode.size, current.target);
        }
        let cut = self.facts.orphans.contains_key(&ino);
        let past = blocks_past(inode.size, self.geometry.bits());
        if inode.file_type() == FileType::Regular && !cut && current.written_end > past.start() {
            let at = past.start();
            findings.add(Finding::WrittenPastEnd { ino, at });
        }
    }
}
