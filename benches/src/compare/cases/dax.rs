//! Reads and writes of a DAX file by call, against a copy of plain memory of the same size.
//!
//! The device is a file of `/dev/shm`, mapped whole in small pages, and so is the memory of the
//! floor. Leaves out allocation and making the bytes durable.

use std::os::unix::fs::FileExt;

use iomap_core::vfs::IoFlags;

use super::{Case, MIB, len, plot, read_all, size_name, text, timed, write_all};
use crate::compare::sample::Clock;
use crate::compare::{Effort, Group, Ops, Role, Side};
use crate::{DaxBed, Memory, PAGE, Positions, noise};

const SET: u64 = 128 * MIB;

/// What is done.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Read,
    Write,
}

pub(super) fn cases(effort: Effort) -> Vec<Case> {
    let sizes: &[u64] = if effort.wide {
        &[PAGE, 16 * PAGE, MIB]
    } else {
        &[PAGE, MIB]
    };
    let mut cases = Vec::new();
    for (name, way) in [("dax/read", Way::Read), ("dax/write", Way::Write)] {
        for &size in sizes {
            let id = format!("{name} {}", size_name(size));
            cases.push(Case::new(id, move |id| group(id, way, size)));
        }
    }
    cases
}

fn group(id: String, way: Way, size: u64) -> Group {
    let (picture, verb) = match way {
        Way::Read => ("DAX read, 128 MiB", "read"),
        Way::Write => ("DAX write, 128 MiB", "overwrite"),
    };
    Group {
        id,
        operation: format!("{verb} {} at a random multiple of it", size_name(size)),
        excludes: "allocation, making the bytes durable",
        bytes: size,
        ops: Ops::Fit,
        plot: Some(plot(picture, size)),
        sides: vec![
            Side::new("memcpy", Role::Floor, move || memcpy(way, size)),
            Side::new("testfs", Role::Ours, move || testfs(way, size)),
            Side::new("kernel", Role::Kernel, move || kernel(way, size)),
        ],
    }
}

/// Calls at random places, with a buffer of that size.
fn calls(
    size: u64,
    mut call: impl FnMut(u64, &mut [u8]) -> Result<(), String>,
) -> impl FnMut(u64, &mut Clock) -> Result<(), String> {
    let mut buffer = noise(len(size));
    let mut positions = Positions::new(SET, size);
    move |count, clock| timed(count, clock, || call(positions.draw(), &mut buffer))
}

fn memcpy(
    way: Way,
    size: u64,
) -> Result<impl FnMut(u64, &mut Clock) -> Result<(), String>, String> {
    let mut memory = Memory::noise(len(SET), false).map_err(text)?;
    Ok(calls(size, move |at, buffer| {
        let at = len(at);
        let memory = &mut memory.bytes_mut()[at..at + buffer.len()];
        match way {
            Way::Read => buffer.copy_from_slice(memory),
            Way::Write => memory.copy_from_slice(buffer),
        }
        std::hint::black_box((buffer, memory));
        Ok(())
    }))
}

fn testfs(
    way: Way,
    size: u64,
) -> Result<impl FnMut(u64, &mut Clock) -> Result<(), String>, String> {
    let bed = DaxBed::new(len(SET))?;
    Ok(calls(size, move |at, buffer| match way {
        Way::Read => read_all(&*bed.file, at, buffer, IoFlags::empty()),
        Way::Write => write_all(&*bed.file, at, buffer, IoFlags::empty()),
    }))
}

fn kernel(
    way: Way,
    size: u64,
) -> Result<impl FnMut(u64, &mut Clock) -> Result<(), String>, String> {
    let bed = DaxBed::new(len(MIB))?;
    let file = bed.host_file().map_err(text)?;
    file.write_all_at(&noise(len(SET)), 0).map_err(text)?;
    Ok(calls(size, move |at, buffer| {
        let _bed = &bed;
        match way {
            Way::Read => file.read_exact_at(buffer, at).map_err(text),
            Way::Write => file.write_all_at(buffer, at).map_err(text),
        }
    }))
}
