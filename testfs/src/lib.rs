//! testfs: a complete file system on [`iomap_core`], written to be read.
//!
//! | Module | Owns |
//! |---|---|
//! | [`format`](mod@format) | the bytes on the device |
//! | [`meta`] | the tree of metadata, transactions, space, commit |
//! | [`fs`] | the mounted file system: what it supplies to the framework |
//! | [`check`](mod@check) | finding every inconsistency of an image |
//! | [`device`] | simulated devices: deferred, faulty, recording, slow, counting |
//! | [`model`] | the reference: what a file system must look like |
//! | [`torture`] | all operations mixed, from many threads, against the model |
//! | [`crash`] | every power cut of a workload, replayed and judged |
//! | [`faults`] | each thing fails in turn, and everything balances |
//! | [`race`] | the races of the discussions, as schedules that replay and are searched for |
//! | [`run`] | the demonstration: every path, verified and measured |
//! | [`cli`] | the program `testfs` |
//!
//! Start with [`fs`].

mod aligned;
pub mod check;
pub mod cli;
pub mod crash;
pub mod device;
pub mod faults;
pub mod format;
pub mod fs;
pub mod meta;
pub mod model;
pub mod race;
pub mod run;
pub mod torture;
