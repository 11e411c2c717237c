//! The memory a request's bytes pass through.
//!
//! Owns one buffer for each serving thread, aligned as direct I/O wants it. It grows to the largest
//! request seen and stays.

use std::cell::RefCell;

/// Alignment of the bytes lent, enough for any device.
const ALIGN: usize = 4096;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with `len` bytes of undefined content, aligned to 4 KiB.
pub(crate) fn with_buffer<T>(len: usize, f: impl FnOnce(&mut [u8]) -> T) -> T {
    BUFFER.with(|buffer| match buffer.try_borrow_mut() {
        Ok(mut buffer) => {
            if buffer.len() < len + ALIGN {
                buffer.resize(len + ALIGN, 0);
            }
            f(aligned(&mut buffer, len))
        }
        // A request inside a request of the same thread: does not happen, and costs only memory.
        Err(_) => f(aligned(&mut vec![0; len + ALIGN], len)),
    })
}

fn aligned(bytes: &mut [u8], len: usize) -> &mut [u8] {
    let skip = bytes.as_ptr().align_offset(ALIGN).min(ALIGN);
    &mut bytes[skip..skip + len]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lends_aligned_bytes_of_the_length_asked_for_and_can_be_nested() {
        for len in [0, 1, 4096, 5000, 1 << 20] {
            with_buffer(len, |outer| {
                assert_eq!(outer.len(), len);
                assert_eq!(outer.as_ptr().align_offset(ALIGN), 0);
                outer.fill(1);
                with_buffer(len, |inner| inner.fill(2));
                assert!(outer.iter().all(|b| *b == 1));
            });
        }
    }
}
