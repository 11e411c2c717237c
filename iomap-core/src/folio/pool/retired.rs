//! Pools nobody uses, kept for the next one of the same configuration.

pub(super) use imp::{data, put, take};

#[cfg(not(any(iomap_shuttle, iomap_loom)))]
mod imp {
    use std::sync::LazyLock;

    use super::super::{Pool, PoolConfig};
    use crate::error::Errno;
    use crate::folio::arena::Data;
    use crate::sync::{Mutex, Rank};

    /// Innermost: a pool may retire wherever a folio may be freed.
    static POOLS: LazyLock<Mutex<Vec<&'static Pool>>> =
        LazyLock::new(|| Mutex::new(Rank::Wait, Vec::new()));

    /// A retired pool of this configuration.
    pub(in super::super) fn take(config: &PoolConfig) -> Option<&'static Pool> {
        let mut pools = POOLS.lock();
        let at = pools.iter().position(|pool| pool.config() == config)?;
        Some(pools.swap_remove(at))
    }

    /// Keeps a pool that nobody uses.
    pub(in super::super) fn put(pool: &'static Pool) {
        POOLS.lock().push(pool);
    }

    /// Memory for a new pool.
    pub(in super::super) fn data(pages: u32, huge: bool) -> Result<Data, Errno> {
        Data::new(pages, huge)
    }
}

/// In a model the pool itself is forgotten (its atomics belong to the run), its data used again. A
/// model runs all its threads in one.
#[cfg(any(iomap_shuttle, iomap_loom))]
mod imp {
    use std::cell::RefCell;

    use super::super::{Pool, PoolConfig};
    use crate::error::Errno;
    use crate::folio::arena::Data;

    thread_local! {
        static DATA: RefCell<Vec<Data>> = const { RefCell::new(Vec::new()) };
    }

    /// Never one.
    pub(in super::super) fn take(_config: &PoolConfig) -> Option<&'static Pool> {
        None
    }

    /// Keeps the memory of a pool that nobody uses.
    pub(in super::super) fn put(pool: &'static Pool) {
        DATA.with(|data| data.borrow_mut().push(pool.data().again()));
    }

    /// Memory for a new pool.
    pub(in super::super) fn data(pages: u32, huge: bool) -> Result<Data, Errno> {
        let kept = DATA.with(|data| {
            let mut data = data.borrow_mut();
            let at = data.iter().position(|data| data.pages() == pages)?;
            Some(data.swap_remove(at))
        });
        kept.map_or_else(|| Data::new(pages, huge), Ok)
    }
}
