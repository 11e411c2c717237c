//! Flushing the cache lines of persistent memory.
//!
//! Owns the instructions: the lines of a range go to the memory controller, then a fence makes the
//! thread wait for them. Only for memory whose mapping the host has promised to keep findable
//! (`MAP_SYNC`); for any other mapping `msync` is the way.

/// Whether this machine has an instruction for it.
#[must_use]
pub(super) fn can_flush() -> bool {
    imp::AVAILABLE
}

/// Makes the stores to `len` bytes at `start` durable. Where [`can_flush`] is false: does nothing.
///
/// # Safety
///
/// The bytes are mapped.
pub(super) unsafe fn flush(start: *const u8, len: usize) {
    // SAFETY: the caller's contract is the one of `imp::flush`.
    unsafe { imp::flush(start, len) }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod imp {
    use std::arch::x86_64::{__cpuid, __cpuid_count, _mm_clflush, _mm_sfence};
    use std::sync::OnceLock;

    pub(super) const AVAILABLE: bool = true;

    /// Bytes of a line. Every x86-64 processor has this size.
    const LINE: usize = 64;

    /// The best instruction the processor has.
    #[derive(Clone, Copy)]
    enum Instruction {
        /// Writes the line back and keeps it.
        Clwb,
        /// Writes it back and drops it, in any order.
        ClflushOpt,
        /// The same, in order.
        Clflush,
    }

    fn instruction() -> Instruction {
        static BEST: OnceLock<Instruction> = OnceLock::new();
        *BEST.get_or_init(|| {
            if __cpuid(0).eax < 7 {
                return Instruction::Clflush;
            }
            let features = __cpuid_count(7, 0).ebx;
            if features & (1 << 24) != 0 {
                Instruction::Clwb
            } else if features & (1 << 23) != 0 {
                Instruction::ClflushOpt
            } else {
                Instruction::Clflush
            }
        })
    }

    /// # Safety
    ///
    /// `start..start + len` is mapped.
    pub(super) unsafe fn flush(start: *const u8, len: usize) {
        let instruction = instruction();
        let skew = start.addr() % LINE;
        for at in (0..len.saturating_add(skew)).step_by(LINE) {
            let line = start.wrapping_sub(skew).wrapping_add(at);
            // SAFETY: a line that holds a mapped byte is mapped whole. The instructions change no
            // byte and no register; the processor has them (`instruction`).
            unsafe {
                match instruction {
                    Instruction::Clwb => std::arch::asm!(
                        "clwb [{}]", in(reg) line, options(nostack, preserves_flags)),
                    Instruction::ClflushOpt => std::arch::asm!(
                        "clflushopt [{}]", in(reg) line, options(nostack, preserves_flags)),
                    Instruction::Clflush => _mm_clflush(line),
                }
            }
        }
        // SAFETY: every x86-64 processor has it.
        unsafe { _mm_sfence() }
    }
}

#[cfg(not(all(target_arch = "x86_64", not(miri))))]
mod imp {
    pub(super) const AVAILABLE: bool = false;

    /// # Safety
    ///
    /// None: it does nothing.
    pub(super) unsafe fn flush(_start: *const u8, _len: usize) {}
}

#[cfg(all(test, not(any(iomap_shuttle, iomap_loom))))]
mod tests {
    #[test]
    fn flushing_changes_no_byte() {
        let bytes: Vec<u8> = (0..1000).map(|n| n as u8).collect();
        // SAFETY: the bytes of a vector are mapped.
        unsafe { super::flush(bytes[3..].as_ptr(), 990) };
        assert!(bytes.iter().enumerate().all(|(n, byte)| *byte == n as u8));
    }
}
