//! The switches that turn a rule off, to show that a test notices.
//!
//! Owns the list of rules that have a switch, and whether each is off in this process. Does not own
//! the rules: each lives where it is obeyed, as `if !mutation::off(Rule::O1) { … }`. Without the
//! feature `mutation` every answer is a constant `false` and the compiler removes the question;
//! with it a build without debug assertions is refused, so that no release has a switch.
//!
//! A rule is off for a whole process, from its start: `IOMAP_WITHOUT=O1,O3` in the environment.
//! `cargo xtask mutate` runs the tests named beside each rule in `xtask/src/mutate` that way.

#[cfg(all(feature = "mutation", not(debug_assertions)))]
compile_error!("the feature `mutation` turns rules off: it belongs to test builds only");

/// Declares [`Rule`]: a name, and the sentence that is no longer true when the rule is off.
macro_rules! rules {
    ($($name:ident = $text:literal,)*) => {
        /// A rule with a switch. The names are those of the semantics reference: J journal commits,
        /// F folio hooks, V validity of mappings, D pins and layout changes, O direct I/O order,
        /// S synchronous faults, B bugs that others had, C crashes of testfs and of the core.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Rule {
            $(#[doc = $text] $name,)*
        }

        impl Rule {
            /// Every rule, in the order of the list.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The short name, such as `O1`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// What holds while the rule is on.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

rules! {
    J1 = "from the flush phase to a durable commit record no byte of a block in the committing transaction changes, unless a frozen copy is what is written",
    J2 = "a write fault during a commit joins the next transaction or gets a frozen copy",
    J3 = "a write fault registers inode and range with the transaction even if every block is mapped",
    J4 = "a folio stays dirty if it belongs to the next transaction too",
    J5 = "the hooks of a commit run without a journal lock that writeback needs, and the inode stays while they run",
    J6 = "ordered data is durable before the commit record that exposes its block",
    F1 = "the done hook runs with the folio locked, in the cache and referenced",
    F2 = "every prepare has exactly one done, on every path",
    F3 = "the done hook gets the bytes really accepted",
    F4 = "a prepare that failed leaves nothing held",
    F5 = "a step of a size extension that needs another folio runs after this folio is unlocked",
    F6 = "the size is updated before the folio is unlocked",
    V1 = "no mapping is used on a folio unless it was validated with this folio locked",
    V2 = "a stale mapping claims no progress and loses no byte of the caller",
    V3 = "writeback validates its mapping for each range",
    D1 = "no block is freed or moved while its page is pinned",
    D2 = "unmapping comes before the search for pins",
    D3 = "the invalidate lock is dropped while a pin is waited for, then everything is looked at again",
    D4 = "the inode lock is held across the wait for pins",
    D5 = "a wait for pins that was interrupted has freed nothing",
    D6 = "every operation that moves or frees blocks waits for pins",
    O1 = "the in-flight count is raised before the cache is looked at, for reads too",
    O2 = "a full fence stands between raising the in-flight count and looking at the cache",
    O3 = "a full fence stands between a folio that is locked and dirty, and reading the in-flight count",
    O4 = "write faults and writeback read the in-flight count with the folio locked",
    O5 = "unwritten blocks are converted after their data is durable, never for failed I/O",
    O6 = "truncate and punch wait for the in-flight count with the inode locked, before they free",
    O7 = "every exit of direct I/O lowers the in-flight count once",
    O8 = "the invalidation after a direct write comes after the conversion",
    O9 = "the buffered fall-back of direct I/O flushes and invalidates before it answers",
    O10 = "the shared lock is for aligned overwrites within the size, and for unaligned ones over written blocks",
    S1 = "a synchronous mapping has no writable page whose block is not durably mapped",
    S2 = "an entry of a synchronous fault is clean until it is made writable",
    S3 = "no transaction is open while a fault syncs",
    S4 = "a mapping counts as not durable also for changes that come at the end of the I/O",
    S5 = "a fault looks at its entry again after the sync",
    S6 = "a safe move of blocks unmaps between the sync and the move",
    B8 = "zeroing an unwritten range sees dirty folios over it",
    B10 = "zeroing from a batch waits for stable folios as the normal path does",
    B21 = "dirty bits go on every exit of a failed writeback",
    B22 = "a range of no bytes changes no block bit",
    B23 = "only the reader of a folio ends its read",
    B26 = "a folio under read is not unlocked before its last request is issued",
    B27 = "the writeback bit stays until the last request of the folio is issued and done",
    B29 = "a failed write gives back only reservations under clean folios",
    B30 = "a failed write gives back every reservation beyond the end of the file",
    B36 = "bytes accepted before an error are kept and counted",
    B37 = "a short copy into a block that was not read is not accepted",
    B39 = "the size on disk never covers bytes that were not written",
    B40 = "the size of an ioend beyond a lowered end of file does not underflow",
    B41 = "bytes beyond the end of file are zeroed at every writeback",
    B45 = "unwritten blocks of failed writeback are not converted",
    B51 = "nothing stale stays in the cache after a direct write over unwritten blocks",
    B53 = "a context for completions exists for every kind of I/O that may need one",
    B55 = "the first error of a direct I/O wins and stops further requests",
    B56 = "the rest of a new block is zeroed on every exit of a direct write",
    B62 = "a buffered fall-back waits for direct I/O in flight",
    B69 = "everyone who waits for a removed DAX entry is woken",
    C1 = "a commit flushes its nodes, and the data before them, before it writes the root",
    C2 = "the root is on stable storage when a commit ends",
    C3 = "the root goes into the slot that does not hold the newest durable one",
    C4 = "freed blocks are not used again before the commit that frees them is durable",
    C5 = "a sync that finds its metadata durable flushes the device",
    C6 = "blocks are not written in place while a durable tree gives them to two files",
    C7 = "a move of blocks inside a file is durable before they are written in their new place",
    C8 = "new blocks read as zeroes until their data is on the device",
    C9 = "a private copy becomes part of its file when it has been written, not before",
    C10 = "a cut zeroes the rest of its last block on the device before the size shrinks",
    C11 = "a sync of data alone commits what is needed to find it",
    C12 = "a sync of data alone commits data that lives in the inode",
    C13 = "a direct write is durable by FUA alone only if what finds its block is durable",
    C14 = "a sync has waited for the data when it commits",
    C15 = "what a failed commit left is written by the next one",
    C16 = "an inode without a name is recorded in the transaction that takes the name",
    C17 = "a hole punched through the end of a file tells the tree the size",
}

/// Whether `rule` is turned off in this process. Constant `false` without the feature `mutation`.
#[cfg(not(feature = "mutation"))]
#[inline(always)]
#[must_use]
pub const fn off(_rule: Rule) -> bool {
    false
}

/// Whether `rule` is turned off in this process.
#[cfg(feature = "mutation")]
#[must_use]
pub fn off(rule: Rule) -> bool {
    switches::off(rule)
}

#[cfg(feature = "mutation")]
mod switches {
    //! Read once: a rule that changed in the middle of an operation would show nothing.

    use std::sync::OnceLock;

    use crate::mutation::Rule;

    static OFF: OnceLock<Vec<bool>> = OnceLock::new();

    /// # Panics
    ///
    /// If `IOMAP_WITHOUT` names no rule: a switch that turns nothing off would prove nothing.
    pub(super) fn off(rule: Rule) -> bool {
        OFF.get_or_init(read)[rule as usize]
    }

    fn read() -> Vec<bool> {
        let names = std::env::var("IOMAP_WITHOUT").unwrap_or_default();
        let mut off = vec![false; Rule::ALL.len()];
        for name in names.split(',').map(str::trim).filter(|n| !n.is_empty()) {
            match Rule::ALL.iter().find(|r| r.name() == name) {
                Some(&rule) => off[rule as usize] = true,
                None => panic!("IOMAP_WITHOUT: no rule is called {name}"),
            }
        }
        off
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_rule_is_on_unless_the_environment_says_otherwise() {
        let names: std::collections::BTreeSet<_> = Rule::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), Rule::ALL.len());
        let without = std::env::var("IOMAP_WITHOUT").unwrap_or_default();
        for &rule in Rule::ALL {
            let named = cfg!(feature = "mutation") && without.split(',').any(|n| n == rule.name());
            assert_eq!(off(rule), named, "{}", rule.name());
        }
    }
}
