//! The first request: what the kernel and we agree on.

use fuser::{InitFlags, KernelConfig};

use super::Shared;
use crate::options::{CachePolicy, MountOptions};

/// Asks for what the options need. What this kernel does not know is done without.
pub(super) fn agree(options: &MountOptions, shared: &Shared, config: &mut KernelConfig) {
    let wanted = options.capabilities();
    let _ = config.add_capabilities(wanted & config.capabilities());
    if options.cache == CachePolicy::Kernel
        && !config
            .capabilities()
            .contains(InitFlags::FUSE_WRITEBACK_CACHE)
    {
        tracing::warn!(target: "iomap_fuse", "this kernel has no write-back cache for FUSE");
    }
    if options.acl {
        let needed = InitFlags::FUSE_POSIX_ACL | InitFlags::FUSE_DONT_MASK;
        if config.add_capabilities(needed).is_ok() {
            shared.keep_acl();
        } else {
            tracing::warn!(target: "iomap_fuse", "this kernel has no access control lists for FUSE");
        }
    }
    let max = options.max_request.clamp(4096, 16 << 20);
    if let Err(nearest) = config.set_max_write(max) {
        let _ = config.set_max_write(nearest);
    }
    if let Err(nearest) = config.set_max_readahead(max) {
        let _ = config.set_max_readahead(nearest);
    }
    let _ = config.set_max_background(64);
}
