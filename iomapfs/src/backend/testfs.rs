//! testfs behind the seam.
//!
//! Owns the translation of requests and reports. The file system is the crate `testfs`.

use std::sync::Arc;

use iomap_core::dax::DaxDevice;
use iomap_core::device::BlockDevice;
use iomap_core::error::FsError;
use iomap_core::flusher::FlusherConfig;
use testfs::check::Severity;
use testfs::format::superblock::{MAGIC, SLOT_ADDRS, VERSION};
use testfs::fs::{MountError, MountOptions, TestFs};
use testfs::meta::MkfsOptions;

use super::{CheckReport, Driver, Facts, MkfsRequest, MountRequest, Mounted};
use crate::failure::fs_words;

/// Serves testfs.
pub(super) struct TestfsDriver;

/// Whether one of the two slots has the magic.
pub(super) fn recognises(head: &[u8]) -> bool {
    SLOT_ADDRS.iter().any(|addr| {
        let at = *addr as usize;
        head.get(at..at + MAGIC.len()) == Some(&MAGIC)
    })
}

fn mount_words(error: &MountError) -> String {
    match error {
        MountError::Fs(error) => fs_words(error),
        other => other.to_string(),
    }
}

fn invalid_words(error: &FsError) -> String {
    match error {
        FsError::Invalid(what) => (*what).to_owned(),
        other => fs_words(other),
    }
}

fn mount_options(request: &MountRequest) -> MountOptions {
    let default = MountOptions::default();
    MountOptions {
        cache_bytes: request.cache_bytes,
        read_only: request.read_only,
        flusher: FlusherConfig {
            threads: !request.read_only,
            ..default.flusher
        },
        ..default
    }
}

fn mounted(fs: &Arc<TestFs>) -> Mounted {
    let unmounted = Arc::clone(fs);
    let pool = fs.pool().clone();
    let looked = Arc::downgrade(fs);
    Mounted {
        vfs: fs.clone(),
        unmount: Box::new(move || unmounted.unmount()),
        gauges: Box::new(move || {
            let stats = pool.stats();
            let inodes = looked.upgrade().map_or(0, |fs| fs.inodes_in_memory());
            vec![
                ("budget_pages", stats.budget_pages),
                ("free_pages", stats.free_pages),
                ("nr_pages", stats.nr_pages),
                ("nr_dirty", stats.nr_dirty),
                ("nr_writeback", stats.nr_writeback),
                ("reclaimed", stats.reclaimed),
                ("reclaim_scanned", stats.reclaim_scanned),
                ("reclaim_refused", stats.refused),
                ("allocation_waits", stats.allocation_waits),
                ("inodes_in_memory", inodes as u64),
            ]
        }),
    }
}

impl Driver for TestfsDriver {
    fn mkfs(&self, device: Arc<dyn BlockDevice>, request: &MkfsRequest) -> Result<(), String> {
        let default = MkfsOptions::default();
        let options = MkfsOptions {
            block_size: request.block_size.unwrap_or(default.block_size),
            label: request.label.clone(),
            uuid: request.uuid.unwrap_or(default.uuid),
            root_owner: request.root_owner,
            ..default
        };
        TestFs::mkfs(device, &options).map_err(|error| invalid_words(&error))
    }

    fn mount(
        &self,
        device: Arc<dyn BlockDevice>,
        request: &MountRequest,
    ) -> Result<Mounted, String> {
        let fs =
            TestFs::mount(device, mount_options(request)).map_err(|error| mount_words(&error))?;
        Ok(mounted(&fs))
    }

    fn mount_dax(
        &self,
        device: Arc<dyn DaxDevice>,
        request: &MountRequest,
        all: bool,
    ) -> Result<Mounted, String> {
        let options = MountOptions {
            dax: all,
            ..mount_options(request)
        };
        let fs = TestFs::mount_dax(device, options).map_err(|error| mount_words(&error))?;
        Ok(mounted(&fs))
    }

    fn info(&self, device: Arc<dyn BlockDevice>) -> Result<Facts, String> {
        let options = testfs::meta::OpenOptions {
            read_only: true,
            ..Default::default()
        };
        let meta = testfs::meta::Meta::open(device, options).map_err(|e| mount_words(&e))?;
        let (identity, found) = (meta.identity(), meta.statfs());
        Ok(vec![
            ("version", VERSION.into()),
            ("label", identity.label.clone().into()),
            ("uuid", uuid_text(&identity.uuid).into()),
            ("created_secs", identity.created.into()),
            ("features_compat", identity.features.compat.into()),
            ("features_ro_compat", identity.features.ro_compat.into()),
            ("features_incompat", identity.features.incompat.into()),
            ("generation", meta.newest_generation().into()),
            ("journal", "none: every commit is atomic".into()),
            ("block_size", found.block_size.into()),
            ("blocks", found.blocks.into()),
            ("blocks_free", found.free.into()),
            ("inodes", found.inodes.into()),
        ])
    }

    fn check(&self, device: Arc<dyn BlockDevice>) -> Result<CheckReport, String> {
        let report = testfs::check::check(device).map_err(|error| mount_words(&error))?;
        let of = |severity: Severity| {
            let found = report.findings.iter().filter(|f| f.severity() == severity);
            found.map(ToString::to_string).collect()
        };
        let census = &report.census;
        Ok(CheckReport {
            errors: of(Severity::Error),
            notes: of(Severity::Note),
            omitted: report.omitted,
            census: vec![
                ("generation", census.generation),
                ("inodes", census.inodes),
                ("directories", census.directories),
                ("names", census.entries),
                ("extents", census.extents),
                ("tree_nodes", census.nodes),
                ("used_blocks", census.used_blocks),
                ("shared_blocks", census.shared_blocks),
                ("orphans", census.orphans),
            ],
        })
    }
}

/// `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`.
fn uuid_text(uuid: &[u8; 16]) -> String {
    let hex = crate::out::hex(uuid);
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &hex[part]);
    parts.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_slot_is_enough_to_be_recognised() {
        let mut head = vec![0; 66_000];
        assert!(!recognises(&head));
        head[65_536..65_544].copy_from_slice(&MAGIC);
        assert!(recognises(&head));
        assert!(recognises(&MAGIC));
    }

    #[test]
    fn a_uuid_looks_like_one() {
        let text = uuid_text(&std::array::from_fn(|n| n as u8));
        assert_eq!(text, "00010203-0405-0607-0809-0a0b0c0d0e0f");
    }
}
