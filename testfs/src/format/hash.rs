//! The hash of names: SipHash-2-4 with the seed of the file system as key.
//!
//! Owns how a name becomes the offset of a key. The seed is secret as far as the image is, so nobody
//! can make up names that collide.

/// Keys that names of the same hash may have: the low bits of an offset count them.
pub const PROBES: u64 = 256;

/// SipHash-2-4 of `data`.
#[must_use]
pub fn siphash24(key: &[u8; 16], data: &[u8]) -> u64 {
    let k0 = u64::from_le_bytes(std::array::from_fn(|n| key[n]));
    let k1 = u64::from_le_bytes(std::array::from_fn(|n| key[n + 8]));
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let mut absorb = |word: u64| {
        v[3] ^= word;
        round(&mut v);
        round(&mut v);
        v[0] ^= word;
    };
    let mut chunks = data.chunks_exact(8);
    for chunk in &mut chunks {
        absorb(u64::from_le_bytes(std::array::from_fn(|n| chunk[n])));
    }
    let rest = chunks.remainder();
    let mut last = (data.len() as u64) << 56;
    for (n, byte) in rest.iter().enumerate() {
        last |= u64::from(*byte) << (8 * n);
    }
    absorb(last);
    v[2] ^= 0xff;
    for _ in 0..4 {
        round(&mut v);
    }
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

/// The first of the [`PROBES`] key offsets a directory entry of this name may have.
///
/// From 256 to `i64::MAX - 255`: smaller numbers stay free for the cookies of `.` and `..`, and every
/// cookie fits a signed offset.
#[must_use]
pub fn dirent_offset(seed: &[u8; 16], name: &[u8]) -> u64 {
    ((siphash24(seed, name) >> 9) << 8).max(PROBES)
}

/// The first of the [`PROBES`] key offsets an attribute of this name may have; they are
/// `1 << 16` apart, which leaves room for the pieces of each.
#[must_use]
pub fn xattr_offset(seed: &[u8; 16], name: &[u8]) -> u64 {
    (siphash24(seed, name) >> 24) << 24
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_published_vectors() {
        // From the SipHash paper and its reference vectors: key 00..0f, data 00.., by length.
        let key: [u8; 16] = std::array::from_fn(|n| n as u8);
        let data: Vec<u8> = (0..15).collect();
        assert_eq!(siphash24(&key, &data[..0]), 0x726f_db47_dd0e_0e31);
        assert_eq!(siphash24(&key, &data[..1]), 0x74f8_39c5_93dc_67fd);
        assert_eq!(siphash24(&key, &data), 0xa129_ca61_49be_45e5);
    }

    #[test]
    fn offsets_leave_room_for_probes_and_pieces() {
        for n in 0..1000u32 {
            let name = n.to_le_bytes();
            let at = dirent_offset(&[1; 16], &name);
            assert!(
                at.is_multiple_of(PROBES) && at >= PROBES && at + PROBES - 1 <= i64::MAX as u64
            );
            assert_eq!(xattr_offset(&[1; 16], &name) % (PROBES << 16), 0);
        }
    }
}
