//! What is printed: lines, colours, JSON, and how numbers, modes, times and names look.
//!
//! Owns the rule that colours appear on a terminal only, and not with `NO_COLOR`; that a name never
//! sends control characters to a terminal; and the envelope of `--json`. Does not decide what is
//! printed.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU8, Ordering};

use anstyle::{AnsiColor, Style};
use iomap_core::vfs::{Attr, FileType, Timestamp};
use serde_json::{Map, Value};

use crate::failure::Outcome;

/// The version of the JSON the program prints. Grows when a key changes its meaning or goes away,
/// not when one is added.
pub(crate) const SCHEMA: u32 = 1;

/// When to use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ColorWhen {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// 0: not chosen, so ask the terminal; 1: always; 2: never. Set once before anything is printed.
static COLOR: AtomicU8 = AtomicU8::new(0);

/// Sets when colours are used.
pub(crate) fn choose_color(when: ColorWhen) {
    let (value, choice) = match when {
        ColorWhen::Auto => (0, anstream::ColorChoice::Auto),
        ColorWhen::Always => (1, anstream::ColorChoice::Always),
        ColorWhen::Never => (2, anstream::ColorChoice::Never),
    };
    COLOR.store(value, Ordering::Relaxed);
    choice.write_global();
}

/// Whether the standard output is a terminal: then names are made harmless.
pub(crate) fn on_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// The standard output, which drops colours where there shall be none.
pub(crate) fn stdout() -> impl Write {
    std::io::BufWriter::with_capacity(1 << 16, anstream::stdout())
}

/// Prints one line on the standard error. Nothing can be done if that fails.
pub(crate) fn warn_line(text: &str) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// A style for a kind of file.
pub(crate) fn style(attr: &Attr) -> Style {
    let bold = Style::new().bold();
    let color = |color: AnsiColor| bold.fg_color(Some(color.into()));
    match attr.kind {
        FileType::Directory => color(AnsiColor::Blue),
        FileType::Symlink => color(AnsiColor::Cyan),
        FileType::Fifo => Style::new().fg_color(Some(AnsiColor::Yellow.into())),
        FileType::Socket => color(AnsiColor::Magenta),
        FileType::CharDevice | FileType::BlockDevice => color(AnsiColor::Yellow),
        FileType::Regular if attr.mode & 0o111 != 0 => color(AnsiColor::Green),
        FileType::Regular => Style::new(),
    }
}

/// Text in a style.
pub(crate) fn styled(style: Style, text: &str) -> String {
    if style == Style::new() {
        return text.to_owned();
    }
    format!("{style}{text}{style:#}")
}

/// A name as it goes to the standard output: as it is, but harmless on a terminal.
pub(crate) fn name(bytes: &[u8]) -> String {
    if on_terminal() {
        return printable(bytes);
    }
    // Bytes that are no UTF-8 are escaped as well: a line of text stays one.
    match str::from_utf8(bytes) {
        Ok(text) if !text.contains('\n') => text.to_owned(),
        _ => printable(bytes),
    }
}

/// A name with everything escaped that could do harm: control characters, and bytes that are no
/// UTF-8.
pub(crate) fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() {
                text.extend(c.escape_default());
            } else {
                text.push(c);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// Prints one JSON object: `schema`, `verb`, and the fields of `value`.
pub(crate) fn json(verb: &str, value: Value) -> Outcome<()> {
    let mut object = Map::new();
    object.insert("schema".to_owned(), SCHEMA.into());
    object.insert("verb".to_owned(), verb.into());
    match value {
        Value::Object(fields) => object.extend(fields),
        other => {
            object.insert("value".to_owned(), other);
        }
    }
    let mut out = stdout();
    let text = serde_json::to_string_pretty(&Value::Object(object))
        .map_err(|error| crate::failure::Failure::of("json", error))?;
    writeln!(out, "{text}")?;
    out.flush()?;
    Ok(())
}

/// Puts bytes into a JSON object as text under `key`; bytes that are no UTF-8 go under `key_hex` as
/// well, whole.
pub(crate) fn put_bytes(object: &mut Map<String, Value>, key: &str, bytes: &[u8]) {
    object.insert(key.to_owned(), String::from_utf8_lossy(bytes).into());
    if str::from_utf8(bytes).is_err() {
        object.insert(format!("{key}_hex"), hex(bytes).into());
    }
}

/// Two digits for each byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The attributes as JSON.
pub(crate) fn attr_json(attr: &Attr) -> Map<String, Value> {
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
    put("ino", attr.ino.0.into());
    put("type", kind_name(attr.kind).into());
    put("mode", format!("{:04o}", attr.mode).into());
    put("nlink", attr.nlink.into());
    put("uid", attr.uid.into());
    put("gid", attr.gid.into());
    put("size", attr.size.into());
    put("blocks", attr.blocks.into());
    if matches!(attr.kind, FileType::CharDevice | FileType::BlockDevice) {
        put("rdev_major", rustix::fs::major(attr.rdev).into());
        put("rdev_minor", rustix::fs::minor(attr.rdev).into());
    }
    for (key, time) in [
        ("atime", attr.atime),
        ("mtime", attr.mtime),
        ("ctime", attr.ctime),
        ("btime", attr.btime),
    ] {
        put(key, time_json(time));
    }
    object
}

fn time_json(time: Timestamp) -> Value {
    serde_json::json!({ "secs": time.secs, "nanos": time.nanos })
}

/// The type in words, as stat(1) has them.
pub(crate) const fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::Regular => "regular file",
        FileType::Directory => "directory",
        FileType::Symlink => "symbolic link",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::CharDevice => "character device",
        FileType::BlockDevice => "block device",
    }
}

/// `drwxr-xr-x`.
pub(crate) fn mode(attr: &Attr) -> String {
    let kind = match attr.kind {
        FileType::Regular => '-',
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
        FileType::CharDevice => 'c',
        FileType::BlockDevice => 'b',
    };
    let bit = |shift: u16, c: char| if attr.mode >> shift & 1 == 1 { c } else { '-' };
    let exec = |shift: u16, special: u16, set: char, plain: char| match (
        attr.mode >> special & 1 == 1,
        attr.mode >> shift & 1 == 1,
    ) {
        (true, true) => set,
        (true, false) => set.to_ascii_uppercase(),
        (false, true) => plain,
        (false, false) => '-',
    };
    [
        kind,
        bit(8, 'r'),
        bit(7, 'w'),
        exec(6, 11, 's', 'x'),
        bit(5, 'r'),
        bit(4, 'w'),
        exec(3, 10, 's', 'x'),
        bit(2, 'r'),
        bit(1, 'w'),
        exec(0, 9, 't', 'x'),
    ]
    .iter()
    .collect()
}

/// `1.5G` as `ls -h` rounds: up, with one digit below ten.
pub(crate) fn human(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["K", "M", "G", "T", "P", "E"];
    if bytes < 1024 {
        return bytes.to_string();
    }
    let mut shift = 10;
    let mut unit = 0;
    while unit + 1 < UNITS.len() && bytes >> shift >= 1024 {
        shift += 10;
        unit += 1;
    }
    let tenths = (u128::from(bytes) * 10).div_ceil(1 << shift);
    match tenths {
        0..100 => format!("{}.{}{}", tenths / 10, tenths % 10, UNITS[unit]),
        _ => format!("{}{}", tenths.div_ceil(10), UNITS[unit]),
    }
}

/// `2026-11-21 06:50:42.123456789 +0000`, in the time zone of the user.
pub(crate) fn time_long(time: Timestamp) -> String {
    format_time(time, "%Y-%m-%d %H:%M:%S.%9f %z")
}

/// `2026-11-21 06:50`.
pub(crate) fn time_short(time: Timestamp) -> String {
    format_time(time, "%Y-%m-%d %H:%M")
}

fn format_time(time: Timestamp, format: &str) -> String {
    let nanos = i32::try_from(time.nanos).unwrap_or(0);
    match jiff::Timestamp::new(time.secs, nanos) {
        Ok(stamp) => stamp
            .to_zoned(jiff::tz::TimeZone::system())
            .strftime(format)
            .to_string(),
        // Outside of what calendars agree on.
        Err(_) => format!("@{}.{:09}", time.secs, time.nanos),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iomap_core::vfs::Ino;

    fn attr(kind: FileType, mode: u16) -> Attr {
        Attr {
            ino: Ino(2),
            generation: 0,
            kind,
            mode,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 0,
            blocks: 0,
            block_size: 4096,
            atime: Timestamp::default(),
            mtime: Timestamp::default(),
            ctime: Timestamp::default(),
            btime: Timestamp::default(),
        }
    }

    #[test]
    fn modes_look_as_ls_has_them() {
        for (kind, bits, text) in [
            (FileType::Regular, 0o644, "-rw-r--r--"),
            (FileType::Directory, 0o1777, "drwxrwxrwt"),
            (FileType::Regular, 0o6755, "-rwsr-sr-x"),
            (FileType::Regular, 0o7000, "---S--S--T"),
            (FileType::Symlink, 0o777, "lrwxrwxrwx"),
        ] {
            assert_eq!(mode(&attr(kind, bits)), text);
        }
    }

    #[test]
    fn sizes_round_up_as_ls_has_them() {
        for (bytes, text) in [
            (0, "0"),
            (1023, "1023"),
            (1024, "1.0K"),
            (1025, "1.1K"),
            (10 << 10, "10K"),
            (1 << 30, "1.0G"),
            ((1 << 30) - 1, "1024M"),
            (u64::MAX, "16E"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }

    #[test]
    fn names_cannot_drive_the_terminal() {
        assert_eq!(printable(b"a\x1b[2Jb\n"), "a\\u{1b}[2Jb\\n");
        assert_eq!(printable("grün".as_bytes()), "grün");
        assert_eq!(printable(b"\xff\xfe"), "\\xff\\xfe");
    }

    #[test]
    fn times_nobody_has_a_calendar_for_are_numbers() {
        let far = Timestamp {
            secs: i64::MAX,
            nanos: 5,
        };
        assert_eq!(time_long(far), format!("@{}.000000005", i64::MAX));
    }
}
