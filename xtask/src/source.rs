//! Rust source text, prepared for the rules: comments and strings blanked, tests marked.
//!
//! A lexer, not a parser: it knows comments, string and character literals, attributes and
//! brackets, and nothing of types or macros.

use std::path::{Path, PathBuf};

/// One source file.
#[derive(Debug)]
pub(crate) struct Source {
    /// Path from the workspace, with `/`.
    pub(crate) path: String,
    /// The lines as written.
    pub(crate) lines: Vec<String>,
    /// The same lines with comments and literals replaced by blanks.
    pub(crate) code: Vec<String>,
    /// Whether a line belongs to an item under `#[cfg(test)]`, or the whole file is a test.
    pub(crate) test: Vec<bool>,
}

impl Source {
    pub(crate) fn new(path: String, text: &str) -> Self {
        let code: Vec<String> = blank(text).lines().map(str::to_owned).collect();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let test = if is_test_path(&path) {
            vec![true; lines.len()]
        } else {
            test_lines(&code)
        };
        Self {
            path,
            lines,
            code,
            test,
        }
    }

    /// The blanked code of the lines that are not tests, with their numbers from 1.
    pub(crate) fn product_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.code.iter().zip(&self.test).enumerate();
        lines.filter_map(|(i, (line, test))| (!test).then_some((i + 1, line.as_str())))
    }

    /// The modules declared under `#[cfg(test)]` in files of their own.
    fn test_modules(&self) -> Vec<String> {
        let path = Path::new(&self.path);
        let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or("");
        let folder = path.parent().unwrap_or(Path::new(""));
        let folder = match stem {
            "mod" | "lib" | "main" => folder.to_path_buf(),
            _ => folder.join(stem),
        };
        let lines = self.code.iter().zip(&self.test).filter(|(_, test)| **test);
        let names = lines.filter_map(|(line, _)| {
            let line = line.trim().trim_start_matches("pub(crate) ");
            line.strip_prefix("mod ")?.strip_suffix(';')
        });
        names
            .flat_map(|name| [format!("{name}.rs"), format!("{name}/")])
            .map(|name| folder.join(name).display().to_string())
            .collect()
    }
}

/// Every Rust file of the workspace that is under version control or could be: `target` and
/// hidden folders are left out.
pub(crate) fn workspace(root: &Path) -> Vec<Source> {
    let mut paths = Vec::new();
    collect(root, &mut paths);
    paths.sort();
    let mut sources: Vec<Source> = paths
        .iter()
        .filter_map(|path| {
            let text = std::fs::read_to_string(path).ok()?;
            let path = path.strip_prefix(root).unwrap_or(path);
            Some(Source::new(path.display().to_string(), &text))
        })
        .collect();
    let tests: Vec<String> = sources.iter().flat_map(Source::test_modules).collect();
    for source in &mut sources {
        let named = |test: &String| {
            source.path == *test || (test.ends_with('/') && source.path.starts_with(test.as_str()))
        };
        if tests.iter().any(named) {
            source.test.fill(true);
        }
    }
    sources
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            collect(&path, paths);
        } else if path.extension().is_some_and(|e| e == "rs") {
            paths.push(path);
        }
    }
}

fn is_test_path(path: &str) -> bool {
    let in_folder = ["/tests/", "/benches/", "/examples/", "/fuzz_targets/"]
        .iter()
        .any(|folder| path.contains(folder));
    in_folder || path.ends_with("/tests.rs") || path.ends_with("_tests.rs")
}

/// Marks the attribute `#[cfg(test)]` (or any `cfg` that asks for `test`) and the item after it.
fn test_lines(code: &[String]) -> Vec<bool> {
    let mut marks = vec![false; code.len()];
    let mut line = 0;
    while line < code.len() {
        let text = code[line].trim_start();
        let asks_for_test = text.starts_with("#[cfg(")
            && has_word(text, "test")
            && !text.contains("not(test)")
            && !text.contains("any(test");
        if asks_for_test {
            let end = item_end(code, line);
            marks[line..=end].fill(true);
            line = end;
        }
        line += 1;
    }
    marks
}

/// The last line of the item whose attributes begin at `start`.
fn item_end(code: &[String], start: usize) -> usize {
    let mut depth = 0_i32;
    for (line, text) in code.iter().enumerate().skip(start) {
        for c in text.chars() {
            match c {
                '{' | '(' | '[' => depth += 1,
                ')' | ']' => depth -= 1,
                '}' => {
                    depth -= 1;
                    if depth == 0 {
                        return line;
                    }
                }
                ';' if depth == 0 => return line,
                _ => {}
            }
        }
    }
    code.len() - 1
}

/// Whether `word` stands in `text` with no letter, digit or underscore beside it.
pub(crate) fn has_word(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word)
        .any(|(at, _)| !text[..at].ends_with(part) && !text[at + word.len()..].starts_with(part))
}

/// Replaces comments and the contents of literals by blanks; line ends stay.
fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = skipped(&chars, at).unwrap_or(at).min(chars.len());
        if end == at {
            out.push(chars[at]);
            at += 1;
            continue;
        }
        for &c in &chars[at..end] {
            out.push(if c == '\n' { '\n' } else { ' ' });
        }
        at = end;
    }
    out
}

/// The end of the comment or literal that begins at `at`, if one does.
fn skipped(chars: &[char], at: usize) -> Option<usize> {
    let rest = &chars[at..];
    let inside_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    match rest {
        ['/', '/', ..] => Some(at + find(rest, |c| c == '\n')),
        ['/', '*', ..] => Some(at + block_comment(rest)),
        ['"', ..] => Some(at + string(rest)),
        ['r' | 'b' | 'c', ..] if !inside_word => raw_string(rest).map(|len| at + len),
        ['\'', '\\', _, tail @ ..] => Some(at + 3 + find(tail, |c| c == '\'') + 1),
        ['\'', _, '\'', ..] => Some(at + 3),
        _ => None,
    }
}

fn find(chars: &[char], wanted: impl Fn(char) -> bool) -> usize {
    chars.iter().position(|&c| wanted(c)).unwrap_or(chars.len())
}

fn block_comment(chars: &[char]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => depth += 1,
            ('*', '/') => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

fn string(chars: &[char]) -> usize {
    let mut at = 1;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// The length of a raw string (`r"…"`, `br#"…"#`) at the start of `chars`, if there is one.
fn raw_string(chars: &[char]) -> Option<usize> {
    let prefix = find(chars, |c| !matches!(c, 'r' | 'b' | 'c'));
    if prefix > 2 || chars[..prefix].last() != Some(&'r') {
        return None;
    }
    let hashes = find(&chars[prefix..], |c| c != '#');
    let open = prefix + hashes;
    if chars.get(open) != Some(&'"') {
        return None;
    }
    let mut at = open + 1;
    while at < chars.len() {
        let after = &chars[at + 1..];
        if chars[at] == '"' && find(after, |c| c != '#') >= hashes {
            return Some(at + 1 + hashes);
        }
        at += 1;
    }
    Some(chars.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blank_and_lifetimes_stay() {
        let text = "a /* x /* y */ z */ b // c\n\"s\\\"t\" r#\"u\"v\"# 'w' '\\n' &'x y b\"q\" bar";
        let code = blank(text);
        for gone in ["z", "c", "s", "t", "u", "v", "w", "n", "q"] {
            assert!(!has_word(&code, gone), "{gone} in {code}");
        }
        assert!(code.contains("&'x y") && code.contains("bar"), "{code}");
        assert_eq!(code.lines().count(), 2);
    }

    #[test]
    fn the_item_after_cfg_test_is_a_test_and_the_next_is_not() {
        let text = "fn a() {}\n#[cfg(test)]\n#[expect(x, reason = \"y\")]\nmod t {\n fn b() {}\n}\nfn c() {}\n#[cfg(test)]\nmod u;\n#[cfg(not(test))]\nfn d() {}";
        let source = Source::new("x/src/lib.rs".into(), text);
        let lines: Vec<usize> = source.product_lines().map(|(line, _)| line).collect();
        assert_eq!(lines, [1, 7, 10, 11]);
        assert_eq!(source.test_modules(), ["x/src/u.rs", "x/src/u/"]);
    }
}
