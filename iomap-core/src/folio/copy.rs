//! Moving bytes that other threads and devices may be changing.
//!
//! Owns the instructions: [`copy`] and [`zero`]. On x86-64 they are assembly that the compiler cannot
//! see into; elsewhere, and under Miri, loops of relaxed atomic bytes. Knows nothing of folios, and
//! checks nothing: that is [`bytes`](super::bytes).
//!
//! # Why not the string instruction alone
//!
//! `rep movsb` is as fast as memory while source and destination lie well. Where the destination
//! lies a few bytes above the source, counted within a page, processors take another way: twice as
//! slow at 16 bytes, which is where an allocator puts a large buffer beside a page of the cache,
//! and 28 times at 8 (measured on an AMD EPYC of 2023; `docs/PERFORMANCE.md`). Wide loads and
//! stores do not care.

pub(super) use imp::{copy, prefetch, zero};

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod imp {
    use std::arch::asm;

    /// Bytes of one step of the wide copy.
    const BLOCK: usize = 128;
    /// Cache lines a hint is given for; the processor sees the pattern by then.
    const LINES: usize = 4;

    /// # Safety
    ///
    /// `src..src + len` readable, `dst..dst + len` writable, no overlap.
    #[inline]
    pub(in crate::folio) unsafe fn copy(dst: *mut u8, src: *const u8, len: usize) {
        if len >= BLOCK && std::arch::is_x86_feature_detected!("avx") {
            // SAFETY: the caller's contract; the processor has the instructions, and there is a
            // block at least.
            unsafe { wide(dst, src, len) }
        } else {
            // SAFETY: the caller's contract.
            unsafe { string(dst, src, len) }
        }
    }

    /// # Safety
    ///
    /// `src..src + len` readable, `dst..dst + len` writable, no overlap.
    #[inline]
    unsafe fn string(dst: *mut u8, src: *const u8, len: usize) {
        // SAFETY: the caller vouches for the memory; the ABI keeps the direction flag clear; the
        // instruction changes the three registers named and memory, nothing else.
        unsafe {
            asm!(
                "rep movsb",
                inout("rcx") len => _,
                inout("rdi") dst => _,
                inout("rsi") src => _,
                options(nostack, preserves_flags),
            );
        }
    }

    /// # Safety
    ///
    /// As for `copy`; the processor has AVX, and `len` is one block at least.
    unsafe fn wide(dst: *mut u8, src: *const u8, len: usize) {
        let rest = len % BLOCK;
        let whole = len - rest;
        // SAFETY: the whole blocks, and what is behind them, lie in the caller's memory. No byte is
        // moved twice: one that a memory mapping stored to meanwhile is not taken back.
        unsafe {
            blocks(dst, src, whole / BLOCK);
            if rest > 0 {
                string(dst.add(whole), src.add(whole), rest);
            }
        }
    }

    /// Copies `count` blocks; not zero.
    ///
    /// # Safety
    ///
    /// As for `copy`, with `count * BLOCK` bytes; the processor has AVX, and `count` is not zero.
    #[inline]
    unsafe fn blocks(dst: *mut u8, src: *const u8, count: usize) {
        // SAFETY: the loop touches `count` blocks at both addresses, which the caller vouches for;
        // it ends because the count goes down to zero from a number that is not. Every vector
        // register, whose upper halves `vzeroupper` clears, is named by the ABI's list.
        unsafe {
            asm!(
                "2:",
                "vmovups ymm0, [rsi]",
                "vmovups ymm1, [rsi + 32]",
                "vmovups ymm2, [rsi + 64]",
                "vmovups ymm3, [rsi + 96]",
                "vmovups [rdi], ymm0",
                "vmovups [rdi + 32], ymm1",
                "vmovups [rdi + 64], ymm2",
                "vmovups [rdi + 96], ymm3",
                "sub rsi, -128",
                "sub rdi, -128",
                "dec rcx",
                "jnz 2b",
                "vzeroupper",
                inout("rcx") count => _,
                inout("rdi") dst => _,
                inout("rsi") src => _,
                clobber_abi("sysv64"),
                options(nostack),
            );
        }
    }

    /// Begins to load the lines at `at`. Any address will do: one that is not mapped is ignored.
    #[inline]
    pub(in crate::folio) fn prefetch(at: *const u8) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        for line in 0..LINES {
            // SAFETY: SSE is part of x86-64; the instruction neither faults nor changes memory.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(line * 64).cast()) };
        }
    }

    /// # Safety
    ///
    /// `dst..dst + len` writable.
    pub(in crate::folio) unsafe fn zero(dst: *mut u8, len: usize) {
        // SAFETY: as for `string`.
        unsafe {
            asm!(
                "rep stosb",
                inout("rcx") len => _,
                inout("rdi") dst => _,
                in("al") 0u8,
                options(nostack, preserves_flags),
            );
        }
    }
}

#[cfg(not(all(target_arch = "x86_64", not(miri))))]
mod imp {
    // Plain memory seen as atomic bytes, not a synchronisation variable: the models need not see it.
    use core::sync::atomic::{AtomicU8, Ordering};

    /// # Safety
    ///
    /// `src..src + len` readable, `dst..dst + len` writable, no overlap.
    #[inline]
    pub(in crate::folio) unsafe fn copy(dst: *mut u8, src: *const u8, len: usize) {
        for at in 0..len {
            // SAFETY: `at < len`, so both addresses lie in the memory the caller vouches for. Every
            // access to the shared side is atomic or a device's.
            unsafe {
                let byte = AtomicU8::from_ptr(src.add(at).cast_mut()).load(Ordering::Relaxed);
                AtomicU8::from_ptr(dst.add(at)).store(byte, Ordering::Relaxed);
            }
        }
    }

    pub(in crate::folio) fn prefetch(_at: *const u8) {}

    /// # Safety
    ///
    /// `dst..dst + len` writable.
    pub(in crate::folio) unsafe fn zero(dst: *mut u8, len: usize) {
        for at in 0..len {
            // SAFETY: `at < len`; as for `copy`.
            unsafe { AtomicU8::from_ptr(dst.add(at)).store(0, Ordering::Relaxed) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every length around the steps of the copy, at every distance of source and destination.
    #[test]
    fn a_copy_moves_its_bytes_and_no_others() {
        const EDGE: usize = 64;
        let from: Vec<u8> = (0..2048u32).map(|n| (n % 251) as u8).collect();
        let lens = [
            0, 1, 15, 64, 127, 128, 129, 255, 256, 257, 300, 511, 1024, 1500,
        ];
        for len in lens {
            for (src, dst) in [(0, 0), (0, 8), (3, 1), (16, 0), (31, 63)] {
                let mut to = vec![0xee; EDGE + dst + len + EDGE];
                // SAFETY: both ranges lie in vectors of this function, which are different ones.
                unsafe { copy(to.as_mut_ptr().add(EDGE + dst), from.as_ptr().add(src), len) };
                let (before, rest) = to.split_at(EDGE + dst);
                let (moved, after) = rest.split_at(len);
                assert_eq!(
                    moved,
                    &from[src..src + len],
                    "{len} bytes from {src} to {dst}"
                );
                assert!(before.iter().chain(after).all(|byte| *byte == 0xee));
            }
        }
    }

    #[test]
    fn zeroing_stops_at_its_end() {
        let mut to = vec![0xee_u8; 300];
        // SAFETY: the range lies in the vector.
        unsafe { zero(to.as_mut_ptr().add(7), 200) };
        assert!(to[7..207].iter().all(|byte| *byte == 0));
        assert!(to[..7].iter().chain(&to[207..]).all(|byte| *byte == 0xee));
    }
}
