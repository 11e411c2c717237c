//! Loads and stores through a memory mapping, with the software page table, and of devices that have
//! its pages pinned.
//!
//! Owns what they must find. The mapping is the file's and outlives the operation
//! ([`TestFile::mapping`](super::file::TestFile::mapping)): its pages stay while others write, cut,
//! punch, move and share the blocks. A piece of an access that lies in one page is done or is not.

use std::sync::Arc;
use std::time::Duration;

use iomap_core::error::FaultError;
use iomap_core::mmap::Access;
use iomap_core::mmap::soft::SoftMapping;
use iomap_core::units::FilePos;

use super::data::{Call, buffer};
use super::world::Fail;

const PAGE: u64 = 4096;

/// How long a page stays pinned: others are to come across it.
const PINNED: Duration = Duration::from_micros(200);

/// The parts of `start..end` that lie in one page each.
fn pieces(start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> {
    let mut at = start;
    std::iter::from_fn(move || {
        let from = at;
        at = end.min((from / PAGE + 1) * PAGE);
        (from < end).then_some((from, at))
    })
}

impl Call<'_> {
    /// The mapping, or `None` if it cannot be had, as it may.
    fn mapping(&self) -> Result<Option<Arc<SoftMapping>>, Fail> {
        let Some(_open) = self.handle()? else {
            return Ok(None);
        };
        match self.file.mapping(self.vfs) {
            Ok(mapping) => Ok(Some(mapping)),
            Err(error) => self.excuse(&error, "mmap").map(|()| None),
        }
    }

    /// Stores while nobody writes there. Past the end nothing can be stored.
    pub(super) fn store(self, pos: u64, len: u32) -> Result<(), Fail> {
        self.store_by(pos, len, |mapping, to, bytes| mapping.store(to, bytes))
    }

    /// The same by a device that has each page pinned.
    pub(super) fn pinned_store(self, pos: u64, len: u32) -> Result<(), Fail> {
        self.store_by(pos, len, |mapping, to, bytes| {
            let pin = mapping.pin(to.page(), Access::Store)?;
            std::thread::sleep(PINNED);
            pin.write(to.offset_in_page(), bytes);
            Ok(())
        })
    }

    /// Stores by `store`, which is given what lies in one page.
    fn store_by(
        self,
        pos: u64,
        len: u32,
        store: impl Fn(&SoftMapping, FilePos, &[u8]) -> Result<(), FaultError>,
    ) -> Result<(), Fail> {
        let content = &self.file.content;
        let end = pos + u64::from(len);
        let _range = content.hold(content.shared(), (pos, end), true);
        let Some(mapping) = self.mapping()? else {
            return Ok(());
        };
        let size = content.state().bytes.size();
        let data: Arc<[u8]> = Arc::from(&*self.stamped(pos, len).bytes());
        for (start, end) in pieces(pos, end.min(size)) {
            let bytes: Arc<[u8]> = Arc::from(&data[(start - pos) as usize..(end - pos) as usize]);
            let id = content.begin_write(start, &bytes);
            let result = store(&mapping, FilePos::saturating(start), &bytes);
            content.end_write(id, result.as_ref().map_or(0, |()| bytes.len()));
            if let Err(error) = result {
                self.doubt(|doubt| doubt.may_show(start, &bytes));
                return self.fault_failed(error, "store");
            }
        }
        self.is_refused_past_the_end(size, || {
            let past = FilePos::saturating(size.next_multiple_of(PAGE));
            mapping.store(past, &[1])
        })
    }

    /// Loads while nobody writes there.
    pub(super) fn load(self, pos: u64, len: u32) -> Result<(), Fail> {
        let content = &self.file.content;
        let end = pos + u64::from(len);
        let _range = content.hold(content.shared(), (pos, end), false);
        let Some(mapping) = self.mapping()? else {
            return Ok(());
        };
        let size = content.state().bytes.size();
        let len = end.min(size).saturating_sub(pos);
        let mut buffer = buffer(len as usize);
        let (got, failed) = load_pieces(&mapping, pos, buffer.bytes());
        self.check_bytes(pos, len, &buffer.bytes()[..got], failed.is_some())?;
        if let Some(error) = failed {
            return self.fault_failed(error, "load");
        }
        self.is_refused_past_the_end(size, || {
            let past = FilePos::saturating(size.next_multiple_of(PAGE));
            mapping.load(past, &mut [0])
        })
    }

    /// Loads while others write: every byte must be an old or a new one.
    pub(super) fn racy_load(self, pos: u64, len: u32) -> Result<(), Fail> {
        let Some(mapping) = self.mapping()? else {
            return Ok(());
        };
        let content = &self.file.content;
        let mut buffer = buffer(len as usize);
        let id = content.observe(pos, u64::from(len));
        let (got, failed) = load_pieces(&mapping, pos, buffer.bytes());
        // The page of the end goes on behind it.
        let inside = content.largest_size(id).saturating_sub(pos);
        let got = got.min(usize::try_from(inside).unwrap_or(usize::MAX));
        let failed = failed.filter(|error| !matches!(error, FaultError::BeyondEnd { .. }));
        let judged = (failed.is_none() && !self.world.faulty).then(|| &buffer.bytes()[..got]);
        let seen = content.observed(id, judged, false);
        seen.map_err(|what| self.file.fail(format!("by load: {what}")))?;
        failed.map_or(Ok(()), |error| self.fault_failed(error, "load"))
    }

    /// What a device finds in a page it has pinned, while others write, cut, punch, move and share:
    /// bytes the file had since, never those of another.
    pub(super) fn pinned_load(self, pos: u64) -> Result<(), Fail> {
        let Some(mapping) = self.mapping()? else {
            return Ok(());
        };
        let content = &self.file.content;
        let at = FilePos::saturating(pos / PAGE * PAGE);
        let id = content.observe(at.bytes(), PAGE);
        let pinned = mapping.pin(at.page(), Access::Load);
        let mut bytes = [0; PAGE as usize];
        let failed = match pinned {
            Ok(pin) => {
                std::thread::sleep(PINNED);
                pin.read(0, &mut bytes);
                None
            }
            Err(error) => Some(error),
        };
        let inside = content.largest_size(id).saturating_sub(at.bytes());
        let got = &bytes[..inside.min(PAGE) as usize];
        let judged = (failed.is_none() && !self.world.faulty).then_some(got);
        let seen = content.observed(id, judged, true);
        seen.map_err(|what| self.file.fail(format!("in a pinned page: {what}")))?;
        match failed {
            None | Some(FaultError::BeyondEnd { .. }) => Ok(()),
            Some(error) => self.fault_failed(error, "pin"),
        }
    }

    /// The first page past the end is not there. The caller keeps the size as it is.
    fn is_refused_past_the_end(
        &self,
        size: u64,
        access: impl FnOnce() -> Result<(), FaultError>,
    ) -> Result<(), Fail> {
        match access() {
            Err(FaultError::BeyondEnd { .. } | FaultError::NotMapped { .. }) => Ok(()),
            Err(FaultError::Fs(error)) => self.excuse(&error, "fault"),
            answer => Err(self.file.fail(format!(
                "an access to the page behind the end at {size} was answered with {answer:?}"
            ))),
        }
    }

    fn fault_failed(&self, error: FaultError, what: &str) -> Result<(), Fail> {
        match error {
            FaultError::Fs(error) => self.excuse(&error, what),
            error => Err(self.file.fail(format!("{what}: {error}"))),
        }
    }
}

/// Loads page by page; how many bytes, and why not all.
fn load_pieces(mapping: &SoftMapping, pos: u64, to: &mut [u8]) -> (usize, Option<FaultError>) {
    for (start, end) in pieces(pos, pos + to.len() as u64) {
        let at = (start - pos) as usize;
        let piece = &mut to[at..(end - pos) as usize];
        if let Err(error) = mapping.load(FilePos::saturating(start), piece) {
            return (at, Some(error));
        }
    }
    (to.len(), None)
}
