//! What a file may contain when its device fails at random.
//!
//! Owns, per byte, the set of values it may have: a write that was accepted but not yet made
//! durable may be lost with an error, and then the old value shows again. Works on the narrow
//! patterns of [`stamp`](super::stamp), whose values fit a 64-bit set.
//!
//! The rule that is checked: a value other than the newest may only show if an error was, or at the
//! latest by the next sync or unmount is, reported.

use crate::model::FileBytes;

/// The possible values of the bytes of a file, and the state of the error report.
#[derive(Debug, Default)]
pub struct Doubt {
    sets: Vec<u64>,
    /// Ranges written since the last error: a clean sync settles them.
    fresh: Vec<(u64, u64)>,
    /// Sizes the file may have: from, to.
    sizes: Vec<(u64, u64)>,
    /// An old value showed and no error has been reported since it was overwritten.
    owed: Option<u64>,
    /// Errors reported for the file.
    errors: u64,
    /// An operation failed half way: anything may be there.
    unknown: bool,
}

const fn bit(byte: u8) -> u64 {
    1 << (byte & 63)
}

impl Doubt {
    /// These bytes were taken at `pos`.
    pub fn written(&mut self, pos: u64, bytes: &[u8]) {
        let start = usize::try_from(pos).unwrap_or(usize::MAX);
        let end = start + bytes.len();
        if self.sets.len() < end {
            self.sets.resize(end, bit(0));
        }
        for (set, byte) in self.sets[start..end].iter_mut().zip(bytes) {
            *set |= bit(*byte);
        }
        self.fresh.push((pos, end as u64));
    }

    /// A change of layout succeeded: every byte may be what it was, zero, or what it is now.
    ///
    /// What was shifted is counted from its new place, so that an old value shows as that of the
    /// whole file: with shifts, nothing narrower is known.
    pub fn reshaped(&mut self, now: &FileBytes) {
        let len = usize::try_from(now.size().min(super::op::FILE_SPAN * 8)).unwrap_or(0);
        let all = self.sets.iter().fold(bit(0), |all, set| all | set);
        let mut bytes = vec![0; len];
        now.read(0, &mut bytes);
        self.sets.clear();
        self.sets.extend(bytes.iter().map(|b| all | bit(*b)));
        self.fresh.push((0, len as u64));
        self.sizes.push((now.size(), now.size()));
    }

    /// An operation failed and may have done part of its work.
    pub fn failed(&mut self, half_done: bool) {
        self.errors += 1;
        self.owed = None;
        self.fresh.clear();
        self.unknown |= half_done;
    }

    /// A sync succeeded while nobody wrote: what was written since the last error is settled.
    ///
    /// # Errors
    ///
    /// An old value had shown for which no error was ever reported.
    pub fn synced(&mut self, now: &FileBytes) -> Result<(), String> {
        if let Some(at) = self.owed {
            return Err(format!(
                "byte {at} went back to an old value, yet a sync reported no error"
            ));
        }
        for (start, end) in std::mem::take(&mut self.fresh) {
            let bytes = now.slice(start, end - start);
            let start = usize::try_from(start).unwrap_or(usize::MAX);
            for (set, byte) in self.sets.iter_mut().skip(start).zip(bytes) {
                *set = bit(byte);
            }
        }
        self.sizes.clear();
        self.sizes.push((now.size(), now.size()));
        Ok(())
    }

    /// Whether the file may have this size: only after an error, one it had since the last sync.
    pub fn allows_size(&mut self, size: u64) -> bool {
        let known = self
            .sizes
            .iter()
            .any(|(from, to)| (*from..=*to).contains(&size));
        // What was appended meanwhile lies somewhere else then.
        self.unknown |= known || self.errors > 0;
        self.unknown
    }

    /// A write that failed may have moved the size anywhere between.
    pub fn may_have_size(&mut self, from: u64, to: u64) {
        self.sizes.push((from.min(to), to));
    }

    /// Takes over what was read at `pos` in place of `bytes`, if that can be.
    ///
    /// # Errors
    ///
    /// The byte and its value that nobody ever wrote there.
    pub fn adopt(&mut self, bytes: &mut FileBytes, pos: u64, got: &[u8]) -> Result<(), String> {
        let known = bytes.slice(pos, got.len() as u64);
        for (at, (i, byte)) in (pos..).zip(got.iter().enumerate()) {
            if known.get(i) == Some(byte) {
                continue;
            }
            let set = usize::try_from(at).ok().and_then(|i| self.sets.get(i));
            let set = set.copied().unwrap_or(bit(0));
            if !self.unknown && (*byte > 63 || set & bit(*byte) == 0) {
                return Err(format!("byte {at} is {byte:#04x}, which was never there"));
            }
            if self.errors == 0 {
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
        now.write(0, bytes);
        doubt.written(0, bytes);
        doubt.synced(&now).unwrap();
        (doubt, now)
    }

    #[test]
    fn a_lost_write_must_be_reported() {
        let (mut doubt, mut now) = file(&[1, 1]);
        now.write(0, &[2]);
        doubt.written(0, &[2]);
        doubt.adopt(&mut now, 0, &[1]).unwrap();
        assert!(doubt.synced(&now).is_err());
        doubt.failed(false);
        doubt.synced(&now).unwrap();
    }

    #[test]
    fn a_settled_byte_cannot_go_back() {
        let (mut doubt, mut now) = file(&[1, 1]);
        now.write(0, &[2]);
        doubt.written(0, &[2]);
        doubt.synced(&now).unwrap();
        assert!(doubt.adopt(&mut now, 0, &[1]).is_err());
    }

    #[test]
    fn a_value_nobody_wrote_is_never_allowed() {
        let (mut doubt, mut now) = file(&[1, 1]);
        doubt.failed(false);
        assert!(doubt.adopt(&mut now, 0, &[9]).is_err());
        assert!(doubt.adopt(&mut now, 0, &[70]).is_err());
    }
}
