//! Mounting: from a device to the newest durable state.
//!
//! Owns the choice of the superblock, the walk that rebuilds the free map, and what is said when
//! there is no testfs. Finding *all* damage is [`check`](crate::check)'s; a mount stops at the
//! first.
//!
//! # The walk
//!
//! Free space is not stored: a mount reads every node once, and what no node, extent or superblock
//! occupies is free. That costs reading all metadata (about 1 % of the data in the worst case, and
//! nothing for the holes), and buys commits without any free space bookkeeping to keep consistent.

use std::sync::Arc;

use iomap_core::device::{BlockDevice, bytes};
use iomap_core::error::{Corrupt, DeviceError, Errno, FsError, Result};
use iomap_core::units::DevAddr;

use super::node::Node;
use super::space::free_map::FreeMap;
use super::store::NodeStore;
use super::tree::Tree;
use super::view::corrupt_item;
use super::{Identity, Meta, Version};
use crate::format::item::{ExtentItem, RefcountItem};
use crate::format::superblock::{SLOT_ADDRS, SLOT_BYTES, SlotError};
use crate::format::{DiskBlock, DiskRun, Features, Geometry, Kind, Superblock};

/// Clean nodes kept in memory, unless told otherwise.
pub(super) const DEFAULT_NODES: usize = 16384;

/// How to mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    /// Refuse changes, and leave orphans alone.
    pub read_only: bool,
    /// Clean tree nodes to keep in memory.
    pub cached_nodes: usize,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            cached_nodes: DEFAULT_NODES,
        }
    }
}

/// Why a device cannot be mounted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Something else is there, or nothing.
    #[error("not a testfs: {}", .found.unwrap_or("nothing known was recognised"))]
    NotTestfs {
        /// What was recognised instead.
        found: Option<&'static str>,
    },
    /// The device is smaller than the file system on it.
    #[error("the image is cut short: {have} of {need} bytes are there")]
    Truncated {
        /// Bytes of the device.
        have: u64,
        /// Bytes of the file system.
        need: u64,
    },
    /// A version of the format this program does not know.
    #[error("format version {0} is not supported")]
    Version(u32),
    /// Feature bits this program does not know.
    #[error("features {bits:#x} are not supported{}", if *.read_only_possible { "; mount read-only" } else { "" })]
    Features {
        /// The unknown bits.
        bits: u64,
        /// Whether a read-only mount is possible.
        read_only_possible: bool,
    },
    /// Damage: what and where.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Anything else that stopped the mount.
    #[error(transparent)]
    Fs(FsError),
}

/// What [`OpenError::NotTestfs`] names a start of nothing but zeroes.
pub(crate) const BLANK: &str = "blank space";

impl From<FsError> for OpenError {
    fn from(error: FsError) -> Self {
        match error {
            FsError::Corrupt(corrupt) => Self::Corrupt(corrupt),
            FsError::Device(device) => Self::Device(device),
            other => Self::Fs(other),
        }
    }
}

impl OpenError {
    /// The errno `mount` would return.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NotTestfs { .. } | Self::Version(_) => Errno::INVAL,
            Self::Features {
                read_only_possible, ..
            } if *read_only_possible => Errno::ROFS,
            Self::Features { .. } => Errno::INVAL,
            Self::Truncated { .. } | Self::Corrupt(_) => Errno::UCLEAN,
            Self::Device(error) => error.errno,
            Self::Fs(error) => error.errno(),
        }
    }
}

/// Reads both superblock slots: the newest whole one, and which it is.
pub(crate) fn newest_superblock(
    device: &dyn BlockDevice,
) -> Result<(Superblock, usize), OpenError> {
    let mut best: Option<(Superblock, usize)> = None;
    let mut worst = SlotError::Magic;
    for (slot, addr) in SLOT_ADDRS.into_iter().enumerate() {
        match Superblock::decode(&read_slot(device, addr)?) {
            Ok(found) => {
                if best
                    .as_ref()
                    .is_none_or(|(b, _)| b.generation < found.generation)
                {
                    best = Some((found, slot));
                }
            }
            Err(SlotError::Magic) => {}
            Err(error) => worst = error,
        }
    }
    match (best, worst) {
        (Some(best), _) => Ok(best),
        (None, SlotError::Magic) => Err(OpenError::NotTestfs {
            found: recognise(device)?,
        }),
        (None, SlotError::Version(version)) => Err(OpenError::Version(version)),
        (None, error) => Err(OpenError::Corrupt(error.into())),
    }
}

/// The bytes of a slot; short or empty if the device ends before.
pub(crate) fn read_slot(device: &dyn BlockDevice, addr: u64) -> Result<Vec<u8>, DeviceError> {
    let block = device.limits().block_size.max(1);
    let have = device.size().saturating_sub(addr).min(SLOT_BYTES as u64);
    let mut slot = vec![0; (have / block * block) as usize];
    if !slot.is_empty() {
        bytes::read_bytes(device, DevAddr::new(addr), &mut slot)?;
    }
    Ok(slot)
}

/// Checks what a superblock asks of this program and of the device.
pub(crate) fn admit(
    superblock: &Superblock,
    device: &dyn BlockDevice,
    read_only: bool,
) -> Result<(), OpenError> {
    let (has, known) = (superblock.features, Features::KNOWN);
    let incompat = has.incompat & !known.incompat;
    let ro_compat = has.ro_compat & !known.ro_compat;
    if incompat != 0 || (ro_compat != 0 && !read_only) {
        return Err(OpenError::Features {
            bits: incompat | ro_compat,
            read_only_possible: incompat == 0,
        });
    }
    let (have, need) = (device.size(), superblock.geometry.bytes());
    if have < need {
        return Err(OpenError::Truncated { have, need });
    }
    if (superblock.geometry.block_size() as u64) < device.limits().block_size {
        let what = "blocks smaller than the device's";
        return Err(OpenError::Fs(FsError::Unsupported(what)));
    }
    Ok(())
}

impl Meta {
    /// Mounts the file system on `device`. Unless read-only, finishes what was being deleted.
    ///
    /// # Errors
    ///
    /// Why it cannot be mounted.
    pub fn open(device: Arc<dyn BlockDevice>, options: OpenOptions) -> Result<Self, OpenError> {
        let (superblock, slot) = newest_superblock(&*device)?;
        admit(&superblock, &*device, options.read_only)?;
        let geometry = superblock.geometry;
        let store = NodeStore::new(device, geometry, options.cached_nodes);
        let tree = Tree::on_disk(superblock.root, superblock.root_level);
        let map = rebuild(&tree, &store)?;
        let version = Version {
            tree,
            next_ino: superblock.next_ino,
            inodes: superblock.inodes,
        };
        let identity = Identity {
            features: superblock.features,
            uuid: superblock.uuid,
            label: superblock.label,
            created: superblock.created,
            hash_seed: superblock.hash_seed,
            geometry,
        };
        let durable = superblock.generation;
        let running = durable
            .checked_add(1)
            .ok_or_else(|| Corrupt::new("superblock: generation at its end"))?;
        let meta = Self::assemble(
            identity,
            store,
            version,
            map,
            running,
            (durable, slot),
            options.read_only,
        );
        if !options.read_only {
            meta.process_orphans()?;
        }
        Ok(meta)
    }
}

/// Walks the whole tree for the blocks in use.
fn rebuild(tree: &Tree, store: &NodeStore) -> Result<FreeMap> {
    let geometry = store.geometry();
    let mut used = Vec::new();
    let mut shared = Vec::new();
    tree.walk_nodes(store, &mut |ptr, node| {
        used.push(DiskRun::new(ptr.addr, 1));
        let Node::Leaf(leaf) = node else {
            return Ok(());
        };
        for (key, value) in leaf.iter() {
            match key.kind {
                Kind::Extent => {
                    let extent =
                        ExtentItem::decode(value).map_err(|error| corrupt_item(key, error))?;
                    used.push(extent.run);
                }
                Kind::Refcount => {
                    let item =
                        RefcountItem::decode(value).map_err(|error| corrupt_item(key, error))?;
                    shared.push(DiskRun::new(DiskBlock::new(key.offset), item.len));
                }
                _ => {}
            }
        }
        Ok(())
    })?;
    free_map_without(geometry, used, &shared)
}

/// The free map of a device on which `used` and the superblocks are in use. Runs may overlap inside
/// `shared`, which is in order, only.
pub(super) fn free_map_without(
    geometry: Geometry,
    mut used: Vec<DiskRun>,
    shared: &[DiskRun],
) -> Result<FreeMap> {
    used.extend(geometry.superblock_runs());
    used.sort_unstable();
    let mut map = FreeMap::default();
    let mut end = DiskBlock::new(0);
    for run in used {
        if !geometry.contains(run) {
            return Err(Corrupt::new(format!("blocks {run}: outside of the file system")).into());
        }
        if run.start < end {
            let twice = DiskRun::new(run.start, end.min(run.end()).since(run.start));
            if !covered(twice, shared) {
                return Err(Corrupt::new(format!("blocks {twice}: in use twice")).into());
            }
        }
        free(&mut map, end, run.start);
        end = end.max(run.end());
    }
    free(&mut map, end, DiskBlock::new(geometry.blocks()));
    Ok(map)
}

fn free(map: &mut FreeMap, from: DiskBlock, to: DiskBlock) {
    let released = map.release(DiskRun::new(from, to.since(from)));
    debug_assert!(released, "gaps between used runs do not overlap");
}

/// Whether every block of `run` lies in one of the runs of `shared`, which are in order.
fn covered(run: DiskRun, shared: &[DiskRun]) -> bool {
    let mut at = run.start;
    let first = shared.partition_point(|s| s.end() <= at);
    for s in &shared[first..] {
        if s.start > at {
            return false;
        }
        at = s.end();
        if at >= run.end() {
            return true;
        }
    }
    false
}

/// Names what is on a device, by the magic numbers of common formats.
///
/// # Errors
///
/// What the device says.
pub fn recognise(device: &dyn BlockDevice) -> Result<Option<&'static str>, DeviceError> {
    const SIGNATURES: [(usize, &[u8], &str); 17] = [
        (0, &crate::format::superblock::MAGIC, "testfs"),
        (1080, b"\x53\xef", "an ext2, ext3 or ext4 file system"),
        (65536, b"\x01\x16\x19\x70", "a gfs2 file system"),
        (0, b"XFSB", "an XFS file system"),
        (65600, b"_BHRfS_M", "a btrfs file system"),
        (0, b"hsqs", "a squashfs image"),
        (0, b"LUKS\xba\xbe", "a LUKS volume"),
        (1024, b"\x10\x20\xf5\xf2", "an F2FS file system"),
        (1024, b"\xe2\xe1\xf5\xe0", "an EROFS image"),
        (3, b"NTFS    ", "an NTFS file system"),
        (3, b"EXFAT   ", "an exFAT file system"),
        (82, b"FAT32", "a FAT file system"),
        (54, b"FAT1", "a FAT file system"),
        (4086, b"SWAPSPACE2", "swap space"),
        (32769, b"CD001", "an ISO 9660 image"),
        (0, b"QFI\xfb", "a qcow2 image"),
        (512, b"EFI PART", "a GPT partition table"),
    ];
    let mut head = read_slot(device, 0)?;
    head.resize(SLOT_BYTES, 0);
    let mut second = read_slot(device, SLOT_ADDRS[1])?;
    second.resize(SLOT_BYTES, 0);
    let mut iso = read_slot(device, 32768)?;
    iso.resize(SLOT_BYTES, 0);
    for (at, magic, name) in SIGNATURES {
        let (bytes, base) = match at {
            65536.. => (&second, 65536),
            32768.. => (&iso, 32768),
            _ => (&head, 0),
        };
        if bytes[at - base..].starts_with(magic) {
            return Ok(Some(name));
        }
    }
    if head[510..512] == [0x55, 0xaa] {
        return Ok(Some("an MBR partition table or boot sector"));
    }
    let blank = head.iter().chain(&second).all(|b| *b == 0);
    Ok(blank.then_some(BLANK))
}
