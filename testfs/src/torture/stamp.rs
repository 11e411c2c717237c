//! The bytes torture writes: each word says which operation wrote it, and where.
//!
//! Owns the pattern and its reading back for messages. With failing devices the values are folded
//! into six bits, so that the set of values a byte may have fits a word.

/// The number of an operation: the thread in the upper bits.
pub type Tag = u64;

const TAG_BITS: u32 = 40;
const WORD_MASK: u64 = (1 << (64 - TAG_BITS)) - 1;

/// The operation `op` (counted from zero) of a thread. Never zero.
#[must_use]
pub const fn tag(thread: u8, op: u64) -> Tag {
    ((thread as u64) << 32 | (op & 0xffff_ffff)) + 1
}

/// Odd: multiplying by it can be undone.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// What undoes [`MIX`], by Newton's method: every step doubles the bits that are right.
const fn unmix() -> u64 {
    let (mut inverse, mut step) = (MIX, 0);
    while step < 5 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(MIX.wrapping_mul(inverse)));
        step += 1;
    }
    inverse
}

/// The word with this number. Mixed, so that none of its bytes is zero more often than others.
const fn word(tag: Tag, index: u64) -> u64 {
    let mixed = (tag << (64 - TAG_BITS) | (index & WORD_MASK)).wrapping_mul(MIX);
    mixed ^ (mixed >> 32)
}

/// The byte an operation writes at `pos`.
#[must_use]
pub fn byte(tag: Tag, pos: u64, narrow: bool) -> u8 {
    let word = word(tag, pos / 8);
    if narrow {
        let mixed = (word ^ pos).wrapping_mul(MIX);
        (mixed >> 58).to_le_bytes()[0]
    } else {
        word.to_le_bytes()[(pos % 8) as usize]
    }
}

/// Fills `buf`, which goes to `pos`.
pub fn fill(tag: Tag, pos: u64, buf: &mut [u8], narrow: bool) {
    if narrow {
        for (at, b) in (pos..).zip(buf) {
            *b = byte(tag, at, true);
        }
        return;
    }
    let head = ((8 - pos % 8) % 8).min(buf.len() as u64) as usize;
    let (first, rest) = buf.split_at_mut(head);
    for (at, b) in (pos..).zip(first) {
        *b = byte(tag, at, false);
    }
    let base = (pos + head as u64) / 8;
    for (index, chunk) in (base..).zip(rest.chunks_mut(8)) {
        let bytes = word(tag, index).to_le_bytes();
        chunk.copy_from_slice(&bytes[..chunk.len()]);
    }
}

/// Says in words who wrote the word around byte `at` of `bytes`, which start at `pos`.
#[must_use]
pub fn describe(bytes: &[u8], pos: u64, at: u64) -> String {
    let start = (at & !7).saturating_sub(pos) as usize;
    let Some(Ok(raw)) = bytes.get(start..start + 8).map(<[u8; 8]>::try_from) else {
        return format!("{:02x?}", bytes.get((at - pos) as usize));
    };
    let word = u64::from_le_bytes(raw);
    if word == 0 {
        return "zeroes".into();
    }
    let raw = (word ^ (word >> 32)).wrapping_mul(unmix());
    let (tag, index) = (raw >> (64 - TAG_BITS), raw & WORD_MASK);
    let tag = tag.wrapping_sub(1);
    format!(
        "{word:016x} (thread {} op {} for position {})",
        tag >> 32,
        tag & 0xffff_ffff,
        index * 8
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filling_agrees_with_single_bytes_at_every_alignment() {
        for narrow in [false, true] {
            for pos in 0..17 {
                for len in 0..30usize {
                    let mut buf = vec![0; len];
                    fill(tag(3, 9), pos, &mut buf, narrow);
                    let want: Vec<_> = (pos..pos + len as u64)
                        .map(|p| byte(tag(3, 9), p, narrow))
                        .collect();
                    assert_eq!(buf, want);
                    assert!(!narrow || buf.iter().all(|b| *b < 64));
                }
            }
        }
    }

    #[test]
    fn a_word_tells_its_writer() {
        let mut buf = vec![0; 64];
        fill(tag(3, 9), 4096, &mut buf, false);
        assert!(describe(&buf, 4096, 4110).contains("thread 3 op 9 for position 4104"));
    }
}
