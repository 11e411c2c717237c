//! Reads, and the comparison of what they return with what should be there.

use iomap_core::error::{Errno, FsError};
use iomap_core::units::FilePos;
use iomap_core::vfs::IoFlags;

use super::content::State;
use super::data::{Call, buffer, misaligned};
use super::stamp;
use super::world::Fail;

/// As for writes.
const SECTOR: u64 = 4096;

impl Call<'_> {
    /// Reads while nobody writes there.
    pub(super) fn read(self, pos: u64, len: u32, flags: IoFlags) -> Result<(), Fail> {
        let Some((handle, _)) = self.handle_for(flags)? else {
            return Ok(());
        };
        let content = &self.file.content;
        let _range = content.hold(content.shared(), (pos, pos + u64::from(len)), false);
        let mut buffer = buffer(len as usize);
        let result = handle.read_at(FilePos::saturating(pos), buffer.bytes(), flags);
        match result {
            Ok(n) if n > len as usize => Err(self.file.fail(format!("read {n} of {len} bytes"))),
            Ok(n) => {
                // A failing device ends a read early as well.
                let short = flags.contains(IoFlags::NOWAIT) || self.world.faulty;
                self.check_bytes(pos, u64::from(len), &buffer.bytes()[..n], short)
            }
            Err(error) => self.read_failed(&error, pos, u64::from(len), flags),
        }
    }

    fn read_failed(&self, error: &FsError, pos: u64, len: u64, flags: IoFlags) -> Result<(), Fail> {
        let direct = flags.contains(IoFlags::DIRECT);
        match error {
            FsError::WouldBlock if flags.contains(IoFlags::NOWAIT) => Ok(()),
            e if e.errno() == Errno::INVAL && direct && misaligned(pos, len, SECTOR) => Ok(()),
            e if self.world.faulty && self.world.tolerates(e) => Ok(()),
            e => Err(self.file.fail(format!("read of {len} at {pos}: {e}"))),
        }
    }

    /// Compares what was read with what should be there. The caller holds the range.
    pub(super) fn check_bytes(
        &self,
        pos: u64,
        len: u64,
        got: &[u8],
        short: bool,
    ) -> Result<(), Fail> {
        let mut state = self.file.content.state();
        let mut want = state.bytes.slice(pos, len);
        if short && got.len() < want.len() {
            want.truncate(got.len());
        }
        if got == want {
            return Ok(());
        }
        let State { bytes, doubt, .. } = &mut *state;
        let wrong = match doubt {
            Some(doubt) if got.len() == want.len() => match doubt.adopt(bytes, pos, got) {
                Ok(()) => return Ok(()),
                Err(wrong) => format!("read of {len} at {pos}: {wrong}"),
            },
            _ if got.len() == want.len() => difference(pos, got, &want),
            _ => format!(
                "read of {len} at {pos} returned {} bytes, expected {}",
                got.len(),
                want.len()
            ),
        };
        drop(state);
        Err(self.file.fail(wrong))
    }

    /// Reads while others write: every byte must be an old or a new one.
    pub(super) fn racy_read(self, pos: u64, len: u32, flags: IoFlags) -> Result<(), Fail> {
        let Some((handle, _)) = self.handle_for(flags)? else {
            return Ok(());
        };
        let content = &self.file.content;
        let mut buffer = buffer(len as usize);
        let id = content.observe(pos, u64::from(len));
        let result = handle.read_at(FilePos::saturating(pos), buffer.bytes(), flags);
        let got = result.as_ref().ok().map(|n| &buffer.bytes()[..*n]);
        let got = if self.world.faulty { None } else { got };
        let seen = content.observed(id, got, flags.contains(IoFlags::NOWAIT));
        seen.map_err(|what| self.file.fail(what))?;
        result.map_or_else(
            |error| self.read_failed(&error, pos, u64::from(len), flags),
            |_| Ok(()),
        )
    }
}

/// Says where and how two runs of bytes differ.
fn difference(pos: u64, got: &[u8], want: &[u8]) -> String {
    let differs = |i: &usize| got[*i] != want[*i];
    let n = got.len().min(want.len());
    let first = (0..n).find(differs).unwrap_or(0);
    let last = (0..n).rev().find(differs).unwrap_or(0);
    let count = (0..n).filter(differs).count();
    let at = pos + first as u64;
    format!(
        "wrong bytes: {count} differ in {at}..{} (page {} offset {}): got {}, expected {}",
        pos + last as u64 + 1,
        at / 4096,
        at % 4096,
        stamp::describe(got, pos, at),
        stamp::describe(want, pos, at)
    )
}
