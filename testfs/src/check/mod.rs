//! Checking a file system: everything that can be wrong with it, each with its place.
//!
//! Owns the walk over an unmounted image and the comparison of what is stored with what is counted.
//! Changes nothing: what a mount can repair (orphans) it repairs itself, and free space is not
//! stored, so it cannot be wrong. Takes nothing for granted: any bytes give a report or an error,
//! in time and memory bounded by the size of the image.
//!
//! | Looks at | in |
//! |---|---|
//! | nodes: place, version, checksum, key order, key ranges, depth | [`walk`] |
//! | items of one inode: values, sizes, extents, attributes, names | [`inode`], [`items`] |
//! | blocks: owners against reference counts, blocks used twice | [`blocks`] |
//! | names: link counts, parents, directories that are not below the root | [`names`] |

mod blocks;
mod finding;
mod inode;
mod items;
mod names;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
mod walk;

use std::sync::Arc;

use iomap_core::device::BlockDevice;

pub use finding::{Finding, Severity};

use crate::format::superblock::SLOT_ADDRS;
use crate::format::{Ino, Superblock};
use crate::meta::OpenError;
use crate::meta::open::{admit, newest_superblock, read_slot};
use blocks::Usage;
use inode::Inodes;
use walk::Walk;

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What is wrong, in the order of discovery: [`Report::MAX_FINDINGS`] at most.
    pub findings: Vec<Finding>,
    /// How many more there were.
    pub omitted: u64,
    /// What there is.
    pub census: Census,
}

/// What there is in a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// The generation that was checked.
    pub generation: u64,
    /// Inodes.
    pub inodes: u64,
    /// Directories among them.
    pub directories: u64,
    /// Names.
    pub entries: u64,
    /// Extents of files.
    pub extents: u64,
    /// Nodes of the tree.
    pub nodes: u64,
    /// Blocks in use, superblocks and nodes included.
    pub used_blocks: u64,
    /// Blocks that belong to several files.
    pub shared_blocks: u64,
    /// Inodes that the next mount deletes or cuts.
    pub orphans: u64,
}

impl Report {
    /// Findings kept in a report.
    pub const MAX_FINDINGS: usize = 10_000;

    /// Whether nothing is wrong. Notes are not wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.errors().next().is_none()
    }

    /// What is wrong.
    pub fn errors(&self) -> impl Iterator<Item = &Finding> {
        self.findings
            .iter()
            .filter(|finding| finding.severity() == Severity::Error)
    }
}

/// Collects findings.
#[derive(Debug, Default)]
struct Findings {
    kept: Vec<Finding>,
    omitted: u64,
}

impl Findings {
    fn add(&mut self, finding: Finding) {
        if self.kept.len() < Report::MAX_FINDINGS {
            self.kept.push(finding);
        } else {
            self.omitted += 1;
        }
    }
}

/// Checks the file system on `device`, which is not mounted for writing.
///
/// # Errors
///
/// [`OpenError`] if there is no file system to look at: no valid superblock, an unknown version or
/// feature, an image that is cut short. Failing reads of single nodes are findings.
pub fn check(device: Arc<dyn BlockDevice>) -> Result<Report, OpenError> {
    let mut findings = Findings::default();
    let (superblock, _) = newest_superblock(&*device)?;
    admit(&superblock, &*device, true)?;
    check_slots(&*device, &superblock, &mut findings)?;
    let mut usage = Usage::new(superblock.geometry);
    let mut inodes = Inodes::new(&superblock);
    let walk = Walk::new(device, superblock.geometry);
    walk.run(&superblock, &mut findings, |event, findings| match event {
        walk::Event::Node(block) => usage.node(block),
        walk::Event::Item(key, value) if key.ino == Ino::GLOBAL => {
            inodes.global(key, value, &mut usage, findings);
        }
        walk::Event::Item(key, value) => inodes.item(key, value, &mut usage, findings),
    });
    let mut census = Census {
        generation: superblock.generation,
        ..Census::default()
    };
    let facts = inodes.finish(&mut census, &mut findings);
    names::check(&facts, &mut census, &mut findings);
    usage.check(&mut census, &mut findings);
    check_counters(&superblock, &census, &facts, &mut findings);
    Ok(Report {
        findings: findings.kept,
        omitted: findings.omitted,
        census,
    })
}

/// Notes a slot that cannot be used: a commit was interrupted, or it is damaged.
fn check_slots(
    device: &dyn BlockDevice,
    newest: &Superblock,
    findings: &mut Findings,
) -> Result<(), OpenError> {
    for (slot, addr) in SLOT_ADDRS.into_iter().enumerate() {
        match Superblock::decode(&read_slot(device, addr)?) {
            Ok(other) if other.uuid != newest.uuid || other.geometry != newest.geometry => {
                findings.add(Finding::ForeignSlot { slot });
            }
            Ok(_) => {}
            Err(error) => findings.add(Finding::BadSlot { slot, error }),
        }
    }
    Ok(())
}

/// Compares the numbers in the superblock with what was counted. Pointless if nodes are missing.
fn check_counters(
    superblock: &Superblock,
    census: &Census,
    facts: &inode::Facts,
    findings: &mut Findings,
) {
    let incomplete = findings
        .kept
        .iter()
        .any(|finding| matches!(finding, Finding::Node { .. }));
    if incomplete || findings.omitted > 0 {
        return;
    }
    let last = facts
        .inodes
        .last_key_value()
        .map_or(0, |(ino, _)| ino.get());
    if superblock.next_ino.get() <= last {
        findings.add(Finding::NextIno {
            stored: superblock.next_ino,
            highest: Ino::new(last),
        });
    }
    let counters = [
        ("inodes", superblock.inodes, census.inodes),
        ("used blocks", superblock.used_blocks, census.used_blocks),
    ];
    for (name, stored, counted) in counters {
        if stored != counted {
            findings.add(Finding::Counter {
                name,
                stored,
                counted,
            });
        }
    }
}
