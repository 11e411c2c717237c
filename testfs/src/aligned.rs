//! Memory as direct I/O needs it.

/// Bytes that begin at a page.
pub(crate) struct Aligned {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    /// `len` bytes, each of them `byte`.
    pub(crate) fn new(len: usize, byte: u8) -> Self {
        let memory = vec![byte; len + 4096];
        let start = memory.as_ptr().align_offset(4096).min(4096);
        Self { memory, start, len }
    }

    /// The bytes.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}
