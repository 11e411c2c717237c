//! What a file may contain when its device fails at random.
//!
//! Owns, per byte, the set of values it may have, and which of them must still be reported. Works on
//! the narrow patterns of [`stamp`](super::stamp), whose values fit a 64-bit set.
//!
//! The rules that are checked:
//!
//! | A byte, or the size, | may |
//! |---|---|
//! | written and made durable since | have that value, and no other |
//! | written since the last report | have an older value; then the next sync of the open file reports an error, and so does an unmount |
//! | written before a report | have that value or an older one |
//! | of a write that failed | have the new value or an older one |
//! | touched by a change of layout that failed | have an older value or be zero |
//! | the size | be what the calls said; after a remount that of what was lost at the end at the least |

use super::ranges::Ranges;
use crate::model::FileBytes;

/// The possible values of the bytes of a file, and the state of the error report.
#[derive(Debug, Default)]
pub struct Doubt {
    /// By position; zero beyond the end.
    sets: Vec<u64>,
    /// Written, not known to be on the device, and no loss was reported since.
    pending: Ranges,
    /// The device has at least this size.
    disk_size: u64,
    /// An old value showed in `pending`: an error has to be reported.
    owed: Option<u64>,
    /// Another open file was told of an error: one that is opened from now on is not.
    told_elsewhere: bool,
}

const fn bit(byte: u8) -> u64 {
    1 << (byte & 63)
}

const ZERO: u64 = bit(0);

/// What is kept lies in memory: fits.
fn index(at: u64) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

impl Doubt {
    /// The sets of a range; what was never written is zero.
    fn sets_mut(&mut self, start: u64, end: u64) -> &mut [u64] {
        let (start, end) = (index(start), index(end).max(index(start)));
        if self.sets.len() < end {
            self.sets.resize(end, ZERO);
        }
        &mut self.sets[start..end]
    }

    /// The sets of a range as far as something was written there.
    fn known_mut(&mut self, start: u64, end: u64) -> &mut [u64] {
        let end = index(end).min(self.sets.len());
        self.sets.get_mut(index(start)..end).unwrap_or_default()
    }

    fn set(&self, at: u64) -> u64 {
        self.sets.get(index(at)).copied().unwrap_or(ZERO)
    }

    fn show(&mut self, pos: u64, bytes: &[u8]) -> u64 {
        let end = pos + bytes.len() as u64;
        for (set, byte) in self.sets_mut(pos, end).iter_mut().zip(bytes) {
            *set |= bit(*byte);
        }
        end
    }

    /// These bytes were accepted at `pos`.
    pub fn written(&mut self, pos: u64, bytes: &[u8]) {
        let end = self.show(pos, bytes);
        self.pending.add(pos, end);
    }

    /// A write of these bytes failed, and its caller was told: they may show all the same.
    pub fn may_show(&mut self, pos: u64, bytes: &[u8]) {
        let end = self.show(pos, bytes);
        self.pending.remove(pos, end);
    }

    /// The open file whose syncs are looked at was told of an error, or somebody who asked for the
    /// whole file system.
    pub fn reported(&mut self) {
        self.pending.take();
        self.owed = None;
    }

    /// Another open file was told of an error.
    pub const fn told_elsewhere(&mut self) {
        self.told_elsewhere = true;
    }

    /// The file was closed. An error somebody was told of is not told to who opens it next.
    pub fn closed(&mut self) {
        if std::mem::take(&mut self.told_elsewhere) {
            self.reported();
        }
    }

    /// A sync succeeded while nobody wrote: what was written since the last report is on the device.
    ///
    /// # Errors
    ///
    /// An old value had shown for which no error was reported.
    pub fn synced(&mut self, now: &FileBytes) -> Result<(), String> {
        if let Some(at) = self.owed {
            return Err(format!(
                "byte {at} went back to an old value, yet a sync reported no error"
            ));
        }
        self.durable_size(self.pending.end().min(now.size()));
        for (start, end) in self.pending.take() {
            let bytes = now.slice(start, end - start);
            for (set, byte) in self.sets_mut(start, end).iter_mut().zip(bytes) {
                *set = bit(byte);
            }
        }
        Ok(())
    }

    /// The device has this size at least.
    pub fn durable_size(&mut self, size: u64) {
        self.disk_size = self.disk_size.max(size);
    }

    /// Whether a file of `size` bytes may have `real` when it comes from the device again. Then that
    /// is what the device has.
    pub fn allows_size(&mut self, size: u64, real: u64) -> bool {
        let allowed = (self.disk_size.min(size)..=size).contains(&real);
        self.resized(real);
        allowed
    }

    /// The size was set, in memory and on the device.
    pub fn resized(&mut self, size: u64) {
        self.resize_failed(size);
        self.disk_size = size;
    }

    /// Setting the size failed, and it is `real`: what was cut off is gone for good.
    pub fn resize_failed(&mut self, real: u64) {
        self.sets.truncate(index(real));
        self.pending.remove(real, u64::MAX);
        self.disk_size = self.disk_size.min(real);
    }

    /// A range was made zero: whole blocks on the device, the edges in memory.
    pub fn zeroed(&mut self, start: u64, end: u64, block: u64) {
        if start >= end {
            return;
        }
        let first = start.next_multiple_of(block).min(end);
        let last = (end / block * block).max(first);
        self.known_mut(start, end)
            .iter_mut()
            .for_each(|set| *set |= ZERO);
        self.known_mut(first, last).fill(ZERO);
        self.pending.remove(first, last);
        self.pending.add(start, first);
        self.pending.add(last, end);
    }

    /// Making a range zero failed, and the caller was told.
    pub fn half_zeroed(&mut self, start: u64, end: u64) {
        self.known_mut(start, end)
            .iter_mut()
            .for_each(|set| *set |= ZERO);
        self.pending.remove(start, end);
    }

    /// A range was taken out.
    pub fn collapsed(&mut self, pos: u64, len: u64, size: u64) {
        let end = index(pos + len).min(self.sets.len());
        if index(pos) < end {
            self.sets.drain(index(pos)..end);
        }
        self.pending.collapse(pos, pos + len);
        self.disk_size = size;
    }

    /// Zeroes were put in.
    pub fn inserted(&mut self, pos: u64, len: u64, size: u64) {
        if index(pos) < self.sets.len() {
            let tail = self.sets.split_off(index(pos));
            self.sets.resize(index(pos + len), ZERO);
            self.sets.extend(tail);
        }
        self.pending.insert(pos, len);
        self.disk_size = size;
    }

    /// Bytes that have these values show at `at`, from the device.
    pub fn copied(&mut self, at: u64, values: &[u64]) {
        let end = at + values.len() as u64;
        self.sets_mut(at, end).copy_from_slice(values);
        self.pending.remove(at, end);
        self.durable_size(end);
    }

    /// The values a copy of these bytes may have: that of the device, where they are known to be.
    ///
    /// # Errors
    ///
    /// An old value showed there, and no error was reported.
    pub fn copy(&self, pos: u64, bytes: &[u8]) -> Result<Vec<u64>, String> {
        let end = pos + bytes.len() as u64;
        if let Some(at) = self.owed.filter(|at| (pos..end).contains(at)) {
            return Err(format!(
                "byte {at} went back to an old value, yet it was copied without an error"
            ));
        }
        let value = |(at, byte): (u64, &u8)| match self.pending.contains(at) {
            true => bit(*byte),
            false => self.set(at) | bit(*byte),
        };
        Ok((pos..).zip(bytes).map(value).collect())
    }

    /// Takes over what was read at `pos` in place of `bytes`, if that can be.
    ///
    /// # Errors
    ///
    /// The byte and its value that cannot be there.
    pub fn adopt(&mut self, bytes: &mut FileBytes, pos: u64, got: &[u8]) -> Result<(), String> {
        let known = bytes.slice(pos, got.len() as u64);
        for (at, (i, byte)) in (pos..).zip(got.iter().enumerate()) {
            if known.get(i) == Some(byte) {
                continue;
            }
            if *byte > 63 || self.set(at) & bit(*byte) == 0 {
                return Err(format!(
                    "byte {at} is {byte:#04x}, expected {:#04x}, or of the set {:#x}",
                    known.get(i).copied().unwrap_or(0),
                    self.set(at)
                ));
            }
            if self.pending.contains(at) {
                self.owed = Some(at);
            }
        }
        bytes.write(pos, got);
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> (Doubt, FileBytes) {
        let (mut doubt, mut now) = (Doubt::default(), FileBytes::new());
        write(&mut doubt, &mut now, 0, bytes);
        doubt.synced(&now).unwrap();
        (doubt, now)
    }

    fn write(doubt: &mut Doubt, now: &mut FileBytes, pos: u64, bytes: &[u8]) {
        now.write(pos, bytes);
        doubt.written(pos, bytes);
    }

    #[test]
    fn a_lost_write_must_be_reported() {
        let (mut doubt, mut now) = file(&[1, 1]);
        write(&mut doubt, &mut now, 0, &[2]);
        doubt.adopt(&mut now, 0, &[1]).unwrap();
        assert!(doubt.synced(&now).is_err());
        doubt.reported();
        doubt.synced(&now).unwrap();
    }

    #[test]
    fn an_older_report_does_not_excuse_a_write_that_came_after_it() {
        let (mut doubt, mut now) = file(&[1, 1]);
        doubt.reported();
        write(&mut doubt, &mut now, 0, &[2]);
        doubt.adopt(&mut now, 0, &[1]).unwrap();
        assert!(doubt.synced(&now).is_err());
    }

    #[test]
    fn a_report_to_another_open_file_excuses_only_who_opens_later() {
        let (mut doubt, mut now) = file(&[1, 1]);
        write(&mut doubt, &mut now, 0, &[2]);
        doubt.told_elsewhere();
        doubt.adopt(&mut now, 0, &[1]).unwrap();
        assert!(doubt.synced(&now).is_err());
        doubt.closed();
        doubt.synced(&now).unwrap();
    }

    #[test]
    fn what_was_reported_lost_may_show_either_way_until_it_is_written_again() {
        let (mut doubt, mut now) = file(&[1, 1]);
        write(&mut doubt, &mut now, 0, &[2]);
        doubt.reported();
        doubt.synced(&now).unwrap();
        doubt.adopt(&mut now, 0, &[1]).unwrap();
        doubt.adopt(&mut now, 0, &[2]).unwrap();
        write(&mut doubt, &mut now, 0, &[3]);
        doubt.synced(&now).unwrap();
        assert!(doubt.adopt(&mut now, 0, &[2]).is_err());
    }

    #[test]
    fn a_settled_byte_cannot_go_back() {
        let (mut doubt, mut now) = file(&[1, 1]);
        write(&mut doubt, &mut now, 0, &[2]);
        doubt.synced(&now).unwrap();
        assert!(doubt.adopt(&mut now, 0, &[1]).is_err());
    }

    #[test]
    fn a_value_nobody_wrote_there_is_never_allowed() {
        let (mut doubt, mut now) = file(&[1, 2]);
        doubt.reported();
        assert!(doubt.adopt(&mut now, 0, &[9]).is_err());
        assert!(doubt.adopt(&mut now, 0, &[70]).is_err());
        assert!(doubt.adopt(&mut now, 0, &[2]).is_err());
    }

    #[test]
    fn what_was_cut_off_does_not_come_back() {
        let (mut doubt, mut now) = file(&[1, 2, 3]);
        now.set_size(1);
        doubt.resize_failed(1);
        now.set_size(3);
        assert!(doubt.adopt(&mut now, 1, &[2]).is_err());
        doubt.adopt(&mut now, 1, &[0, 0]).unwrap();
    }

    #[test]
    fn whole_blocks_are_zero_for_good_and_edges_when_synced() {
        let (mut doubt, mut now) = file(&[1; 12]);
        now.zero(2, 8);
        doubt.zeroed(2, 10, 4);
        assert!(doubt.adopt(&mut now, 4, &[1]).is_err());
        doubt.adopt(&mut now, 2, &[1]).unwrap();
        assert!(doubt.synced(&now).is_err());
    }

    #[test]
    fn a_copy_has_what_the_device_has() {
        let (mut doubt, mut now) = file(&[1, 2, 3]);
        write(&mut doubt, &mut now, 0, &[4]);
        doubt.reported();
        write(&mut doubt, &mut now, 1, &[5]);
        let values = doubt.copy(0, &[4, 5, 3]).unwrap();
        assert_eq!(values, [bit(1) | bit(4), bit(5), bit(3)]);
        doubt.adopt(&mut now, 1, &[2]).unwrap();
        assert!(doubt.copy(0, &[4, 2, 3]).is_err());
    }

    #[test]
    fn only_what_was_lost_at_the_end_may_be_missing_after_a_remount() {
        let (mut doubt, mut now) = file(&[1, 2, 3]);
        write(&mut doubt, &mut now, 3, &[4, 4]);
        assert!(doubt.allows_size(5, 3));
        let (mut doubt, mut now) = file(&[1, 2, 3]);
        write(&mut doubt, &mut now, 3, &[4, 4]);
        doubt.synced(&now).unwrap();
        assert!(!doubt.allows_size(5, 3));
    }
}
