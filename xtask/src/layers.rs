//! The layer rule of `iomap-core`: a module uses its own level and those below, never one above.
//!
//! Owns the table of levels. Reads `crate::` and `super::` paths in product code; tests may look
//! anywhere. `lib.rs` re-exports from everywhere and is left out.

use std::path::Path;

use crate::source::{self, Source};

/// The modules of the crate, lowest level first. A level is a step inside a layer of
/// `docs/ARCHITECTURE.md`; modules of one level may use each other.
const LEVELS: &[(&str, &[&str])] = &[
    (
        "layer 0, values",
        &[
            "units", "error", "iomap", "trace", "sync", "stats", "mutation", "affinity",
        ],
    ),
    ("layer 1, devices", &["device"]),
    // One level: a pool owns the index nodes, and a folio leads back to the index it is in.
    ("layer 1, memory", &["folio", "page_cache", "mmap", "dax"]),
    // One level: an inode knows who writes it in the background.
    ("layer 1, inode and flusher", &["inode", "flusher"]),
    ("layer 2, contract and iterator", &["user", "ops", "iter"]),
    (
        "layer 3, operations",
        &[
            "read",
            "write",
            "fault",
            "zero",
            "unshare",
            "delalloc",
            "folio_write",
            "resize",
            "writeback",
            "ioend",
            "fsync",
            "commit",
            "direct",
            "dax_io",
            "seek",
            "fiemap",
            "swapfile",
            "readahead",
            "bio_read",
        ],
    ),
    ("layer 4, files", &["file", "aio", "vfs"]),
];

const SRC: &str = "iomap-core/src/";

/// Checks every file of `iomap-core`; a finding names both files.
pub(crate) fn check(root: &Path) -> Vec<String> {
    findings(&source::workspace(root))
}

fn findings(sources: &[Source]) -> Vec<String> {
    let inside = sources.iter().filter(|s| s.path.starts_with(SRC));
    let mut findings = Vec::new();
    for source in inside {
        let module = module_path(&source.path);
        let Some(own) = module.first() else { continue };
        let Some(level) = level(own) else {
            findings.push(format!(
                "{}: module {own} is in no layer: add it to LEVELS in xtask/src/layers.rs",
                source.path
            ));
            continue;
        };
        for (line, used) in uses(source, &module) {
            match self::level(&used) {
                Some(above) if above > level => findings.push(format!(
                    "{}:{line}: uses {} ({}), which is above it ({}): move the shared part down",
                    source.path,
                    file_of(sources, &used),
                    LEVELS[above].0,
                    LEVELS[level].0,
                )),
                Some(_) => {}
                None => findings.push(format!(
                    "{}:{line}: crate::{used} is no module in a layer: name the module it comes from",
                    source.path
                )),
            }
        }
    }
    findings
}

fn level(module: &str) -> Option<usize> {
    LEVELS
        .iter()
        .position(|(_, modules)| modules.contains(&module))
}

/// `iomap-core/src/folio/state.rs` is `[folio, state]`; `lib.rs` is `[]`.
fn module_path(path: &str) -> Vec<String> {
    let path = path.trim_start_matches(SRC).trim_end_matches(".rs");
    let parts = path
        .split('/')
        .filter(|part| !matches!(*part, "mod" | "lib"));
    parts.map(str::to_owned).collect()
}

fn file_of(sources: &[Source], module: &str) -> String {
    let names = [format!("{SRC}{module}.rs"), format!("{SRC}{module}/mod.rs")];
    let found = names
        .iter()
        .find(|name| sources.iter().any(|s| s.path == **name));
    found.unwrap_or(&names[0]).clone()
}

/// The top-level modules that the product code of a file names, with the line.
fn uses(source: &Source, module: &[String]) -> Vec<(usize, String)> {
    // One text with line numbers kept, because a `use` group may span lines.
    let mut text = String::new();
    for (line, test) in source.code.iter().zip(&source.test) {
        text.push_str(if *test { "" } else { line });
        text.push('\n');
    }
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let before = text[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let line = text[..at].matches('\n').count() + 1;
        let heads = heads(&text[at + "crate::".len()..]);
        found.extend(heads.into_iter().map(|head| (line, head)));
    }
    for (at, _) in text.match_indices("super::") {
        if text[..at].ends_with("super::") {
            continue;
        }
        let ups = text[at..]
            .split("::")
            .take_while(|part| *part == "super")
            .count();
        // One `super` for each part of the module's path leads to the root of the crate.
        if ups == module.len() {
            let line = text[..at].matches('\n').count() + 1;
            let heads = heads(&text[at + ups * "super::".len()..]);
            found.extend(heads.into_iter().map(|head| (line, head)));
        }
    }
    found
}

/// The first names of a path or of a braced group of paths.
fn heads(path: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        let text = text.trim_start();
        text.chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect()
    };
    let Some(group) = path.strip_prefix('{') else {
        return vec![name(path)];
    };
    let mut heads = vec![name(group)];
    let mut depth = 0;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.push(name(&group[at + 1..])),
            _ => {}
        }
    }
    heads.retain(|head| !head.is_empty());
    heads
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings_in(path: &str, text: &str) -> Vec<String> {
        findings(&[Source::new(format!("{SRC}{path}"), text)])
    }

    #[test]
    fn the_core_keeps_its_layers() {
        let findings = check(&crate::workspace());
        assert!(findings.is_empty(), "{}", findings.join("\n"));
    }

    #[test]
    fn a_use_of_a_higher_layer_is_found_and_both_files_are_named() {
        let found = findings_in("folio/state.rs", "use crate::write::Write;");
        assert!(
            found[0].contains("iomap-core/src/folio/state.rs:1"),
            "{found:?}"
        );
        assert!(found[0].contains("iomap-core/src/write.rs"), "{found:?}");
    }

    #[test]
    fn groups_nested_groups_and_super_are_read() {
        let text = "use crate::{\n    units::{FilePos, Len},\n    iter::Iter,\n};\nuse super::super::ops::X;";
        assert_eq!(findings_in("folio/state.rs", text).len(), 2);
        assert_eq!(
            findings_in("folio/state.rs", "use super::state::X;").len(),
            0
        );
    }

    #[test]
    fn tests_comments_and_lower_layers_may_be_named() {
        let text = "//! See [`crate::write`].\nuse crate::units::Len;\n#[cfg(test)]\nmod tests {\n use crate::write::W;\n}";
        assert_eq!(findings_in("folio/mod.rs", text), Vec::<String>::new());
    }
}
