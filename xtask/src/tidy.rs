//! The source rules of `docs/STYLE.md` that a program can check.
//!
//! Each rule is a function from one file to its findings; a finding says what to write instead.
//! Two rules compare a document with the code: the lock ladder, and the claims with their tests.
//! [`UNSAFE_FILES`] is the one table of the files that may contain `unsafe`.

use std::path::Path;

use crate::source::{self, Source, has_word};

/// Lines of a file without its tests.
const FILE_LINES: usize = 500;
/// Lines of a function, from its name to its closing bracket.
const FUNCTION_LINES: usize = 70;
/// A `SAFETY` proof stands at most this many lines above its `unsafe`.
const PROOF_DISTANCE: usize = 14;

/// The files that may contain `unsafe`: a path, or a prefix that ends in `*`.
const UNSAFE_FILES: &[&str] = &[
    "iomap-core/src/folio/bytes.rs",
    "iomap-core/src/folio/copy.rs",
    "iomap-core/src/folio/arena.rs",
    "iomap-core/src/folio/state_ptr.rs",
    "iomap-core/src/folio/foreign.rs",
    "iomap-core/src/mmap/real/*",
    "iomap-core/src/device/bio.rs",
    "iomap-core/src/device/bytes.rs",
    "iomap-core/src/direct/buffer.rs",
    "iomap-core/src/device/ring*",
    "iomap-core/src/device/file*",
    "iomap-core/src/device/raw*",
    "iomap-core/src/device/tokio.rs",
    "benches/src/memory.rs",
    "benches/src/raw_ring.rs",
    // userfaultfd without the library, and loads and stores of memory mappings.
    "benches/src/bare_uffd.rs",
    "benches/src/compare/cases/mapping.rs",
    "benches/src/compare/cases/dax_mapping.rs",
    // The bytes of a mapped device, and the instructions that flush them.
    "iomap-core/src/dax/memory.rs",
    "iomap-core/src/dax/lines.rs",
    "iomap-core/src/dax/file.rs",
    // Mappings and file handles of the tests.
    "iomap-fuse/tests/mount/raw.rs",
    // A descriptor of a connection for another thread, and memory lent to the kernel.
    "iomap-fuse/src/transport/device.rs",
    "iomap-fuse/src/transport/ring.rs",
];

/// Findings that are known and not mended yet: (rule, file). An entry that is not needed any more
/// is a finding itself.
const RATCHET: &[(&str, &str)] = &[];

/// Files of the core that name a lock or an atomic of the standard library: what they use it for is
/// no part of any protocol, so no model checker needs to see it.
const PLAIN_SYNC_FILES: &[(&str, &str)] = &[
    (
        "iomap-core/src/folio/copy.rs",
        "file bytes, seen as atomic bytes",
    ),
    (
        "iomap-core/src/stats.rs",
        "which shard of the counters a thread uses",
    ),
    (
        "iomap-core/src/folio/pool/retired.rs",
        "the process-wide list of retired pools",
    ),
];

type Findings = Vec<(&'static str, String)>;

/// Checks every Rust file of the workspace, `docs/LOCKING.md` and `docs/SEMANTICS.md`.
pub(crate) fn check(root: &Path) -> Vec<String> {
    let sources = source::workspace(root);
    let mut findings: Vec<(&str, String, String)> = Vec::new();
    for source in &sources {
        let of_file = check_file(source);
        findings.extend(
            of_file
                .into_iter()
                .map(|(rule, text)| (rule, source.path.clone(), text)),
        );
    }
    let known = |rule: &str, path: &str| RATCHET.contains(&(rule, path));
    let stale = RATCHET
        .iter()
        .filter(|(rule, path)| !findings.iter().any(|f| f.0 == *rule && f.1 == *path))
        .map(|(rule, path)| format!("{path}: {rule}: mended, take it off RATCHET"));
    let fresh = findings.iter().filter(|(rule, path, _)| !known(rule, path));
    let fresh = fresh.map(|(rule, path, text)| format!("{path}{text} ({rule})"));
    fresh
        .chain(stale)
        .chain(ladder(root))
        .chain(claims(root, &sources))
        .collect()
}

fn check_file(source: &Source) -> Findings {
    [
        file_length(source),
        function_length(source),
        module_doc(source),
        banned_words(source),
        ignored_tests(source),
        unsafe_code(source),
        sync_imports(source),
    ]
    .concat()
}

fn file_length(source: &Source) -> Findings {
    let lines = source.product_lines().count();
    if lines <= FILE_LINES {
        return Vec::new();
    }
    vec![(
        "file-length",
        format!(
            ": {lines} lines without tests, at most {FILE_LINES}: split it by the reader's question"
        ),
    )]
}

fn function_length(source: &Source) -> Findings {
    let mut findings = Vec::new();
    for (line, name, length) in functions(source) {
        if length > FUNCTION_LINES {
            let text = format!(
                ":{line}: fn {name} has {length} lines, at most {FUNCTION_LINES}: helper, body, loop"
            );
            findings.push(("function-length", text));
        }
    }
    findings
}

/// The functions with a body outside tests: line, name, number of lines.
fn functions(source: &Source) -> Vec<(usize, String, usize)> {
    let mut found = Vec::new();
    for (number, line) in source.product_lines() {
        let Some(name) = function_name(line) else {
            continue;
        };
        if let Some(end) = body_end(&source.code, number - 1) {
            found.push((number, name, end + 2 - number));
        }
    }
    found
}

fn function_name(line: &str) -> Option<String> {
    let at = line.match_indices("fn ").find(|(at, _)| {
        let before = line[..*at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })?;
    let rest = &line[at.0 + 3..];
    let name: String = rest
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect();
    (!name.is_empty()).then_some(name)
}

/// The index of the line that closes the body of the function that starts at `start`; `None` for
/// a declaration without a body.
fn body_end(code: &[String], start: usize) -> Option<usize> {
    let (mut braces, mut others) = (0_i32, 0_i32);
    for (index, line) in code.iter().enumerate().skip(start) {
        let from = if index == start {
            line.find("fn ").unwrap_or(0)
        } else {
            0
        };
        for c in line[from..].chars() {
            match c {
                '(' | '[' => others += 1,
                ')' | ']' => others -= 1,
                '{' => braces += 1,
                ';' if braces == 0 && others == 0 => return None,
                '}' => {
                    braces -= 1;
                    if braces == 0 && others == 0 {
                        return Some(index);
                    }
                }
                _ => {}
            }
        }
    }
    None
}

fn module_doc(source: &Source) -> Findings {
    let first = source.lines.iter().find(|line| !line.trim().is_empty());
    let opens = first.is_some_and(|line| line.starts_with("//!") || line.starts_with("#!["));
    if opens || source.lines.len() <= 20 {
        return Vec::new();
    }
    vec![(
        "module-doc",
        ":1: open the file with `//!`: what it owns, what it does not".to_owned(),
    )]
}

fn banned_words(source: &Source) -> Findings {
    // Assembled, so that this file does not contain what it forbids.
    let open = ["to", "do!("].concat();
    let later = ["FIX", "ME"].concat();
    let mut findings = Vec::new();
    for (index, line) in source.code.iter().enumerate() {
        let number = index + 1;
        for (word, instead) in [
            (open.as_str(), "write it, or leave it out"),
            ("unimplemented!(", "return a typed error"),
            ("dbg!(", "trace it"),
        ] {
            if line.contains(word) {
                findings.push(("banned-word", format!(":{number}: {word}): {instead}")));
            }
        }
        if source.lines[index].contains(&later) {
            let text = format!(":{number}: {later}: mend it, or state the limit in the docs");
            findings.push(("banned-word", text));
        }
        if !source.test[index] && line.contains(".unwrap()") {
            let text = format!(":{number}: .unwrap(): a typed error, or expect(\"why not\")");
            findings.push(("unwrap", text));
        }
    }
    findings
}

fn ignored_tests(source: &Source) -> Findings {
    let lines = source.code.iter().enumerate();
    let bare = lines.filter(|(_, line)| line.replace(' ', "").contains("#[ignore]"));
    bare.map(|(index, _)| {
        let text = format!(":{}: give the reason: #[ignore = \"…\"]", index + 1);
        ("ignore-reason", text)
    })
    .collect()
}

fn unsafe_code(source: &Source) -> Findings {
    let allowed = UNSAFE_FILES
        .iter()
        .any(|path| match path.strip_suffix('*') {
            Some(prefix) => source.path.starts_with(prefix),
            None => source.path == *path,
        });
    let mut findings = Vec::new();
    for (index, line) in source.code.iter().enumerate() {
        if !has_word(line, "unsafe") {
            continue;
        }
        let number = index + 1;
        if !allowed && !source.test[index] {
            let text = format!(":{number}: unsafe outside UNSAFE_FILES of xtask/src/tidy.rs");
            findings.push(("unsafe-file", text));
        }
        let above = &source.lines[index.saturating_sub(PROOF_DISTANCE)..=index];
        let proved = above
            .iter()
            .any(|l| l.contains("SAFETY") || l.contains("# Safety"));
        if !proved {
            let text = format!(":{number}: unsafe without a SAFETY proof above it");
            findings.push(("unsafe-proof", text));
        }
    }
    findings
}

/// In the core, locks and atomics are named in `sync/` only, where the model checkers swap them.
fn sync_imports(source: &Source) -> Findings {
    let core = source.path.starts_with("iomap-core/src/");
    let plain = PLAIN_SYNC_FILES
        .iter()
        .any(|(path, _)| source.path == *path);
    if !core || plain || source.path.starts_with("iomap-core/src/sync/") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (number, line) in source.product_lines() {
        let std_sync = line.contains("std::sync::")
            && ["Mutex", "RwLock", "Condvar", "atomic", "Barrier", "mpsc"]
                .iter()
                .any(|name| has_word(line, name));
        // These two touch no other thread: there is nothing in them for a model checker.
        let harmless = ["std::thread::panicking", "std::thread::sleep"];
        let std_thread = line.contains("std::thread") && !harmless.iter().any(|h| line.contains(h));
        if std_sync || std_thread || line.contains("parking_lot") {
            findings.push(("sync-import", format!(":{number}: use crate::sync")));
        }
    }
    findings
}

/// The ladder drawn in `docs/LOCKING.md` is the `Rank` enum, rung by rung.
fn ladder(root: &Path) -> Vec<String> {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
    let drawn = drawn_ladder(&read("docs/LOCKING.md"));
    let declared = declared_ladder(&read("iomap-core/src/sync/rank.rs"));
    if drawn == declared && !declared.is_empty() {
        return Vec::new();
    }
    let first = (0..drawn.len().max(declared.len())).find(|i| drawn.get(*i) != declared.get(*i));
    let at = first.unwrap_or(0);
    let name = |ladder: &[String]| {
        ladder
            .get(at)
            .cloned()
            .unwrap_or_else(|| "nothing".to_owned())
    };
    vec![format!(
        "docs/LOCKING.md: rung {} is {}, in iomap-core/src/sync/rank.rs it is {} (lock-ladder)",
        at + 1,
        name(&drawn),
        name(&declared)
    )]
}

/// The first word of every line of the fenced block marked `ladder`.
fn drawn_ladder(text: &str) -> Vec<String> {
    let block = text
        .lines()
        .skip_while(|line| *line != "```text ladder")
        .skip(1);
    let rungs = block.take_while(|line| !line.starts_with("```"));
    rungs
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

/// The variants of `enum Rank`, in order.
fn declared_ladder(text: &str) -> Vec<String> {
    let body = text
        .lines()
        .skip_while(|line| !line.contains("enum Rank {"))
        .skip(1);
    let lines = body
        .take_while(|line| !line.starts_with('}'))
        .map(str::trim);
    let variants = lines.filter(|line| !line.starts_with(['/', '#']));
    variants
        .filter_map(|line| line.strip_suffix(','))
        .map(str::to_owned)
        .collect()
}

/// Every claim of `docs/SEMANTICS.md` names a test that exists: the last two quoted words of its
/// row are a file and a function in it.
fn claims(root: &Path, sources: &[Source]) -> Vec<String> {
    let text = std::fs::read_to_string(root.join("docs/SEMANTICS.md")).unwrap_or_default();
    let mut findings = Vec::new();
    for (index, row) in text.lines().enumerate() {
        let header = row.starts_with("| Claim") || row.starts_with("|---");
        if !row.starts_with('|') || header {
            continue;
        }
        let quoted: Vec<&str> = row.split('`').skip(1).step_by(2).collect();
        let found = matches!(quoted.as_slice(), [.., file, test] if sources
            .iter()
            .filter(|source| source.path == *file)
            .any(|source| source.code.iter().any(|line| line.contains(&format!("fn {test}(")))));
        if !found {
            let line = index + 1;
            findings.push(format!(
                "docs/SEMANTICS.md:{line}: no such test: prove the claim or drop it (claim-test)"
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules_broken(path: &str, text: &str) -> Vec<&'static str> {
        let source = Source::new(path.to_owned(), text);
        check_file(&source)
            .into_iter()
            .map(|(rule, _)| rule)
            .collect()
    }

    #[test]
    fn the_workspace_is_tidy() {
        let findings = check(&crate::workspace());
        assert!(findings.is_empty(), "{}", findings.join("\n"));
    }

    #[test]
    fn each_rule_finds_what_it_is_for() {
        let long = |n: usize| format!("fn a() {{\n{}}}\n", "    b();\n".repeat(n));
        let wide = format!("//! Doc.\n{}", "const A: u8 = 1;\n".repeat(500));
        let banned = format!("fn a() {{ {}{}) }}", "to", "do!(");
        for (rule, text) in [
            ("file-length", wide.as_str()),
            ("function-length", &format!("//! Doc.\n{}", long(69))),
            ("module-doc", &long(20)),
            ("banned-word", &banned),
            ("unwrap", "fn a() { b.unwrap() }"),
            ("ignore-reason", "#[test]\n#[ignore]\nfn a() {}"),
            ("unsafe-proof", "fn a() { unsafe { b() } }"),
            ("unsafe-file", "// SAFETY: none.\nfn a() { unsafe { b() } }"),
            ("sync-import", "use std::sync::{Arc, Mutex};"),
        ] {
            let broken = rules_broken("iomap-core/src/units.rs", text);
            assert!(broken.contains(&rule), "{rule}: {broken:?}");
        }
    }

    #[test]
    fn what_the_rules_allow_passes() {
        let longest = format!("//! Doc.\nfn a() {{\n{}}}\n", "    b();\n".repeat(68));
        for text in [
            longest.as_str(),
            "#[test]\n#[ignore = \"slow\"]\nfn a() {}",
            "use std::sync::Arc;",
            "// `unsafe` and .unwrap() in a comment\nfn a() { \"dbg!(\" }",
            "#[cfg(test)]\nmod tests {\n fn a() { b.unwrap() }\n}",
            "trait A {\n fn a(&self, b: [u8; 4]);\n}",
        ] {
            let broken = rules_broken("iomap-core/src/units.rs", text);
            assert!(broken.is_empty(), "{text}: {broken:?}");
        }
        let proved = "// SAFETY: owned.\nfn a() { unsafe { b() } }";
        assert!(rules_broken("iomap-core/src/folio/bytes.rs", proved).is_empty());
    }

    #[test]
    fn ladders_are_read_from_both_places() {
        let drawn = "# L\n```text ladder\nA  what\n  B  what\n```\nC";
        let declared = "pub enum Rank {\n    /// Doc.\n    A,\n    B,\n}\nC,";
        assert_eq!(drawn_ladder(drawn), ["A", "B"]);
        assert_eq!(declared_ladder(declared), ["A", "B"]);
    }
}
