//! Checks of SEEK_DATA, SEEK_HOLE and fiemap: wherever a byte is not zero there must be data.

use iomap_core::error::SeekError;
use iomap_core::fiemap::ExtentFlags;
use iomap_core::seek::Whence;
use iomap_core::units::{FilePos, FileRange};

use super::data::Call;
use super::world::Fail;

/// Seeks, with the content standing still.
pub(super) fn seek(call: Call<'_>, pos: u64, whence: Whence) -> Result<(), Fail> {
    let Some(handle) = call.handle()? else {
        return Ok(());
    };
    let content = &call.file.content;
    let _range = content.hold(content.shared(), (0, u64::MAX), false);
    let answer = handle.seek(FilePos::saturating(pos), whence);
    let state = content.state();
    let (size, next) = (state.bytes.size(), state.bytes.next_nonzero(pos));
    drop(state);
    let wrong = |why: &str| {
        let at = answer.as_ref().map(|p| p.bytes());
        call.file.fail(format!(
            "seek {whence:?} at {pos} of {size} answered {at:?}: {why} (next non-zero byte {next:?})"
        ))
    };
    match (&answer, whence) {
        // What a failing device lost may be a hole by now.
        (Ok(_) | Err(SeekError::NoSuchRegion), _) if call.world.faulty => Ok(()),
        (Err(SeekError::Fs(error)), _) => call.excuse(error, "seek"),
        (Err(_), _) if pos >= size => Ok(()),
        (Err(_), Whence::Data) if next.is_none() => Ok(()),
        (Err(_), _) => Err(wrong("nothing found")),
        (Ok(_), _) if pos >= size => Err(wrong("past the end")),
        (Ok(at), _) if at.bytes() < pos || at.bytes() > size => Err(wrong("out of range")),
        (Ok(at), Whence::Data) if next.is_some_and(|n| n < at.bytes()) => {
            Err(wrong("data was skipped"))
        }
        (Ok(at), Whence::Hole) if at.bytes() < size && next == Some(at.bytes()) => {
            Err(wrong("there is data"))
        }
        _ => Ok(()),
    }
}

/// Maps, with the content standing still.
pub(super) fn fiemap(call: Call<'_>, pos: u64, len: u64, sync: bool) -> Result<(), Fail> {
    let Some(handle) = call.handle()? else {
        return Ok(());
    };
    let content = &call.file.content;
    let _range = content.hold(content.shared(), (0, u64::MAX), false);
    let asked = FileRange::at_most(FilePos::saturating(pos), len);
    let extents = match handle.fiemap(asked, sync) {
        Ok(extents) => extents,
        Err(error) => return call.excuse(&error, "fiemap"),
    };
    let state = content.state();
    let end = state.bytes.size().min(pos + len);
    let mut at = pos;
    let mut last_end = 0;
    let mut wrong = None;
    for extent in &extents {
        let (start, stop) = (extent.range.start().bytes(), extent.range.end().bytes());
        if start < last_end || stop <= start {
            wrong = Some(format!("extents are not ascending at {start}"));
        }
        last_end = stop;
        // Synced, nothing that is not zero may lie in an unwritten extent.
        if sync && extent.flags.contains(ExtentFlags::UNWRITTEN) {
            continue;
        }
        if let Some(lost) = state.bytes.next_nonzero(at).filter(|n| *n < start.min(end)) {
            wrong = Some(format!("byte {lost} is not zero, yet in no extent"));
            break;
        }
        at = at.max(stop);
    }
    if let Some(lost) = state.bytes.next_nonzero(at).filter(|n| *n < end) {
        wrong = wrong.or(Some(format!("byte {lost} is not zero, yet in no extent")));
    }
    drop(state);
    match wrong {
        Some(why) if !call.world.faulty => Err(call.file.fail(format!(
            "fiemap of {asked} (sync {sync}): {why}; extents {:?}",
            extents
                .iter()
                .map(|e| (e.range, e.flags))
                .collect::<Vec<_>>()
        ))),
        _ => Ok(()),
    }
}
