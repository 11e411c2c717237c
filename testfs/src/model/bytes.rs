//! The content of one file: bytes and a size.
//!
//! Owns the meaning of every data operation. Storage (holes, extents, sharing) does not exist here:
//! a hole is a run of zeroes.

/// A file's content. Bytes past what was written are zero without being stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileBytes {
    /// The leading bytes; never longer than `size`.
    data: Vec<u8>,
    size: u64,
}

/// A length or position of stored bytes as an index: what is stored fits the address space.
fn index(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

impl FileBytes {
    /// An empty file.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            data: Vec::new(),
            size: 0,
        }
    }

    /// Bytes in the file.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Copies the bytes from `pos` on; the answer is short at the end of the file.
    pub fn read(&self, pos: u64, to: &mut [u8]) -> usize {
        let n = index(self.size.saturating_sub(pos)).min(to.len());
        let stored = self.data.get(index(pos)..).unwrap_or_default();
        let known = stored.len().min(n);
        to[..known].copy_from_slice(&stored[..known]);
        to[known..n].fill(0);
        n
    }

    /// The bytes of a range, cut at the end of the file.
    #[must_use]
    pub fn slice(&self, pos: u64, len: u64) -> Vec<u8> {
        let mut out = vec![0; index(len.min(self.size.saturating_sub(pos)))];
        self.read(pos, &mut out);
        out
    }

    /// Writes at `pos`; the file grows to the end of the write.
    pub fn write(&mut self, pos: u64, from: &[u8]) {
        if from.is_empty() {
            return;
        }
        let (start, end) = (index(pos), index(pos) + from.len());
        if self.data.len() < end {
            self.data.resize(end, 0);
        }
        self.data[start..end].copy_from_slice(from);
        self.size = self.size.max(end as u64);
    }

    /// Cuts or grows the file. What appears is zero.
    pub fn set_size(&mut self, size: u64) {
        if index(size) < self.data.len() {
            self.data.truncate(index(size));
        }
        self.size = size;
    }

    /// Makes the bytes of a range zero. The size stays.
    pub fn zero(&mut self, pos: u64, len: u64) {
        let end = index(pos.saturating_add(len)).min(self.data.len());
        if index(pos) < end {
            self.data[index(pos)..end].fill(0);
        }
    }

    /// Takes `len` bytes at `pos` out; what follows moves down. The range lies inside the file.
    pub fn collapse(&mut self, pos: u64, len: u64) {
        let end = index(pos + len).min(self.data.len());
        if index(pos) < end {
            self.data.drain(index(pos)..end);
        }
        self.size -= len;
    }

    /// Puts `len` zero bytes in at `pos`, inside the file; what follows moves up.
    pub fn insert(&mut self, pos: u64, len: u64) {
        if index(pos) < self.data.len() {
            let tail = self.data.split_off(index(pos));
            self.data.resize(index(pos + len), 0);
            self.data.extend_from_slice(&tail);
        }
        self.size += len;
    }

    /// The first position at or after `pos` whose byte is not zero.
    #[must_use]
    pub fn next_nonzero(&self, pos: u64) -> Option<u64> {
        let stored = self.data.get(index(pos)..)?;
        // Eight at a time: files are mostly holes or mostly data.
        let words = stored.chunks(64).position(|c| c.iter().any(|b| *b != 0))?;
        let from = words * 64;
        let byte = stored[from..].iter().position(|b| *b != 0)?;
        Some(pos + (from + byte) as u64)
    }

    /// Whether every byte of a range is zero or past the end.
    #[must_use]
    pub fn is_zero(&self, pos: u64, len: u64) -> bool {
        self.next_nonzero(pos)
            .is_none_or(|at| at >= pos.saturating_add(len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> FileBytes {
        let mut file = FileBytes::new();
        file.write(0, bytes);
        file
    }

    #[test]
    fn growing_after_a_cut_shows_zeroes_not_old_bytes() {
        let mut f = file(b"abcdef");
        f.set_size(2);
        f.set_size(5);
        assert_eq!(f.slice(0, 10), b"ab\0\0\0");
    }

    #[test]
    fn a_write_past_the_end_leaves_zeroes_between() {
        let mut f = file(b"ab");
        f.write(4, b"x");
        assert_eq!(f.slice(0, 9), b"ab\0\0x");
    }

    #[test]
    fn collapse_and_insert_are_inverse() {
        let mut f = file(b"abcdef");
        f.set_size(9);
        f.insert(2, 3);
        assert_eq!(f.slice(0, 20), b"ab\0\0\0cdef\0\0\0");
        f.collapse(2, 3);
        assert_eq!(f.slice(0, 20), b"abcdef\0\0\0");
        assert_eq!(f.size(), 9);
    }

    #[test]
    fn collapse_in_the_unstored_tail_only_shrinks() {
        let mut f = file(b"ab");
        f.set_size(100);
        f.collapse(50, 10);
        assert_eq!(f.size(), 90);
        f.insert(60, 10);
        assert_eq!((f.size(), f.slice(0, 2)), (100, b"ab".to_vec()));
    }

    #[test]
    fn nonzero_bytes_are_found_across_chunks() {
        let mut f = FileBytes::new();
        f.set_size(1000);
        assert_eq!(f.next_nonzero(0), None);
        f.write(700, b"x");
        assert_eq!(f.next_nonzero(0), Some(700));
        assert_eq!(f.next_nonzero(701), None);
        f.zero(0, 1000);
        assert!(f.is_zero(0, 1000));
    }
}
