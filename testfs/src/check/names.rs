//! Names and the inodes they lead to.
//!
//! Owns link counts, parents, and the search for what no path leads to.

use std::collections::{BTreeMap, BTreeSet};

use super::inode::{Facts, Known};
use super::{Census, Finding, Findings};
use crate::format::Ino;
use crate::format::item::{FileType, OrphanItem};

/// What names say about an inode.
#[derive(Clone, Copy, Debug, Default)]
struct Named {
    /// Names that point to it.
    names: u64,
    /// Directories that are entries of it.
    subdirectories: u64,
    /// The last directory it was found in.
    parent: Ino,
}

/// Compares names and inodes.
pub(super) fn check(facts: &Facts, census: &mut Census, findings: &mut Findings) {
    let named = count(facts, findings);
    for (ino, known) in &facts.inodes {
        let seen = named.get(ino).copied().unwrap_or_default();
        if known.file_type == FileType::Directory {
            census.directories += 1;
            check_directory(*ino, known, seen, facts, findings);
        } else {
            check_links(*ino, known, seen.names, facts, findings);
        }
    }
    if facts
        .inodes
        .get(&Ino::ROOT)
        .is_none_or(|root| root.file_type != FileType::Directory)
    {
        let (ino, what) = (Ino::ROOT, "the root directory is missing");
        findings.add(Finding::Inode { ino, what });
    }
    check_orphans(facts, findings);
    check_reachable(facts, findings);
}

fn count(facts: &Facts, findings: &mut Findings) -> BTreeMap<Ino, Named> {
    let mut named: BTreeMap<Ino, Named> = BTreeMap::new();
    for name in &facts.names {
        let text = || String::from_utf8_lossy(&name.name).into_owned();
        let Some(known) = facts.inodes.get(&name.ino) else {
            findings.add(Finding::Dangling {
                dir: name.dir,
                name: text(),
                ino: name.ino,
            });
            continue;
        };
        if known.file_type != name.file_type {
            findings.add(Finding::EntryType {
                dir: name.dir,
                name: text(),
                stored: name.file_type,
                found: known.file_type,
            });
        }
        let seen = named.entry(name.ino).or_default();
        seen.names += 1;
        seen.parent = name.dir;
        if known.file_type == FileType::Directory {
            named.entry(name.dir).or_default().subdirectories += 1;
        }
    }
    named
}

fn is_unlinked(facts: &Facts, ino: Ino) -> bool {
    facts.orphans.get(&ino) == Some(&OrphanItem::Unlinked)
}

fn check_links(ino: Ino, known: &Known, counted: u64, facts: &Facts, findings: &mut Findings) {
    let stored = u64::from(known.nlink);
    if stored != counted {
        findings.add(Finding::InodeCount {
            ino,
            what: "link count",
            stored,
            counted,
        });
    } else if counted == 0 && !is_unlinked(facts, ino) {
        findings.add(Finding::Unreachable { ino });
    }
}

fn check_directory(ino: Ino, known: &Known, seen: Named, facts: &Facts, findings: &mut Findings) {
    let is_root = ino == Ino::ROOT;
    let counted = match seen.names {
        0 if !is_root => 0,
        _ => 2 + seen.subdirectories,
    };
    if u64::from(known.nlink) != counted {
        findings.add(Finding::InodeCount {
            ino,
            what: "link count",
            stored: known.nlink.into(),
            counted,
        });
    }
    if seen.names > u64::from(!is_root) {
        let what = "a directory with more than one name";
        findings.add(Finding::Inode { ino, what });
    }
    if seen.names == 0 && !is_root && !is_unlinked(facts, ino) {
        findings.add(Finding::Unreachable { ino });
    }
    let found = if is_root { ino } else { seen.parent };
    if (seen.names > 0 || is_root) && known.parent != found {
        findings.add(Finding::Parent {
            ino,
            stored: known.parent,
            found,
        });
    }
}

fn check_orphans(facts: &Facts, findings: &mut Findings) {
    for (ino, reason) in &facts.orphans {
        let ino = *ino;
        let what = match (facts.inodes.get(&ino), reason) {
            (None, _) => "there is no such inode",
            (Some(known), OrphanItem::Unlinked) if known.nlink > 0 => "the inode has links",
            (Some(known), OrphanItem::Truncate) if known.file_type != FileType::Regular => {
                "the inode is no file"
            }
            (Some(_), _) => {
                findings.add(Finding::PendingOrphan { ino });
                continue;
            }
        };
        findings.add(Finding::Orphan { ino, what });
    }
}

/// Finds directories whose chain of parents does not end at the root: loops, which no other check
/// sees, because everything in them has a name.
fn check_reachable(facts: &Facts, findings: &mut Findings) {
    let is_dir = |ino: &Ino| {
        let known = facts.inodes.get(ino)?;
        (known.file_type == FileType::Directory && known.nlink > 0).then_some(known.parent)
    };
    let mut good: BTreeSet<Ino> = BTreeSet::from([Ino::ROOT]);
    let mut bad: BTreeSet<Ino> = BTreeSet::new();
    for start in facts.inodes.keys().filter(|ino| is_dir(ino).is_some()) {
        let mut path = BTreeSet::new();
        let mut at = *start;
        let reaches = loop {
            if good.contains(&at) {
                break true;
            }
            if bad.contains(&at) || !path.insert(at) {
                break false;
            }
            match is_dir(&at) {
                Some(parent) => at = parent,
                None => break false,
            }
        };
        if reaches {
            good.append(&mut path);
            continue;
        }
        for ino in path.difference(&bad) {
            findings.add(Finding::Unreachable { ino: *ino });
        }
        bad.append(&mut path);
    }
}
