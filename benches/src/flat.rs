//! The library path without a file system: one file whose bytes lie on the device in order.
//!
//! What a row "iomap-core" measures: the core's own cost, with the cheapest mapping there can be. The
//! file system is the one of `iomap-core/examples/flat_file.rs`.

use std::sync::Arc;

use iomap_core::device::BlockDevice;
use iomap_core::error::Result;
use iomap_core::folio::{Pool, PoolConfig};

#[expect(dead_code, reason = "the example's own main is not run here")]
#[path = "../../iomap-core/examples/flat_file.rs"]
mod flat_file;

pub use flat_file::Flat;

/// The bytes of `device` as a file, with `cache` bytes of page cache in folios of at most
/// `1 << max_order` pages.
///
/// # Errors
///
/// No memory for the cache.
pub fn flat(device: Arc<dyn BlockDevice>, cache: u64, max_order: u32) -> Result<Arc<Flat>> {
    let pool = Pool::new(PoolConfig {
        max_order,
        ..PoolConfig::with_budget(cache)
    })?;
    Ok(Flat::new(device, 0, pool))
}
