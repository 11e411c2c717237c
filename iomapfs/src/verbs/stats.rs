//! `stats`: the counters of a mount, from the hidden folder in it.
//!
//! Owns the table, the JSON and the lines of `-w`. The counters are told by the server
//! ([`observed`](crate::mount::observed)).

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::cli::StatsArgs;
use crate::failure::{Failure, Outcome, words};
use crate::mount::observed::{FOLDER, JSON};
use crate::out::{self, human};

/// Tells the counters.
pub(crate) fn run(args: &StatsArgs) -> Outcome {
    let first = read(&args.dir)?;
    match (args.watch, args.json.json) {
        (true, _) => watch(args, first),
        (false, true) => {
            out::json("stats", first)?;
            Ok(0)
        }
        (false, false) => {
            print(&first)?;
            Ok(0)
        }
    }
}

fn read(dir: &Path) -> Outcome<Value> {
    let path = dir.join(FOLDER).join(JSON);
    let text = std::fs::read(&path).map_err(|error| no_mount(dir, &error))?;
    serde_json::from_slice(&text).map_err(|error| Failure::of(path.display(), error))
}

/// Why there are no counters.
fn no_mount(dir: &Path, error: &std::io::Error) -> Failure {
    match std::fs::metadata(dir) {
        Err(error) => Failure::host(dir, error),
        Ok(meta) if !meta.is_dir() => Failure::of(dir.display(), "is no mount point")
            .hint("the mount point of an image is a directory"),
        Ok(_) if error.kind() == std::io::ErrorKind::NotFound => {
            Failure::of(dir.display(), "no image is mounted there by iomapfs")
                .hint("findmnt -t fuse,fuse.iomapfs lists the mounts")
        }
        Ok(_) => Failure::of(dir.display(), words(error)),
    }
}

/// The numbers under `key`, in the order they are told.
fn numbers<'a>(stats: &'a Value, key: &str) -> impl Iterator<Item = (&'a String, u64)> {
    let object = stats.get(key).and_then(Value::as_object);
    let pairs = object.into_iter().flat_map(Map::iter);
    pairs.map(|(name, value)| (name, value.as_u64().unwrap_or(0)))
}

fn print(stats: &Value) -> Outcome<()> {
    let mut output = out::stdout();
    for (name, n) in numbers(stats, "counters").chain(numbers(stats, "gauges")) {
        let unit = if name.ends_with("_bytes") {
            format!("  ({})", human(n))
        } else {
            String::new()
        };
        writeln!(output, "{name:<28}{n:>16}{unit}")?;
    }
    output.flush()?;
    Ok(())
}

/// One line for each interval, until the mount or the reader goes away.
fn watch(args: &StatsArgs, mut before: Value) -> Outcome {
    let interval = Duration::from_secs(args.interval.get().into());
    let mut output = out::stdout();
    for line in 0_u64.. {
        std::thread::sleep(interval);
        let now = read(&args.dir)?;
        if args.json.json {
            let line = serde_json::to_string(&now).map_err(|error| Failure::of("json", error))?;
            writeln!(output, "{line}")?;
        } else {
            if line % 20 == 0 {
                writeln!(output, "{HEADER}")?;
            }
            writeln!(output, "{}", rates(&before, &now, args.interval.get()))?;
        }
        output.flush()?;
        before = now;
    }
    Ok(0)
}

const HEADER: &str =
    "   read/s  write/s dio rd/s dio wr/s  hit%  dev wr/s    dirty  cached  syncs/s throttled/s";

/// What happened in one interval.
fn rates(before: &Value, now: &Value, seconds: u32) -> String {
    let get = |stats: &Value, group: &str, name: &str| {
        let found = numbers(stats, group).find(|(key, _)| *key == name);
        found.map_or(0, |(_, n)| n)
    };
    let since =
        |name: &str| get(now, "counters", name).saturating_sub(get(before, "counters", name));
    let rate = |name: &str| since(name) / u64::from(seconds.max(1));
    let pages = |name: &str| human(get(now, "gauges", name).saturating_mul(4096));
    let (hits, misses) = (since("cache_hits"), since("cache_misses"));
    let hit_rate = match hits + misses {
        0 => "-".to_owned(),
        all => format!("{}", hits * 100 / all),
    };
    format!(
        "{:>9}{:>9}{:>9}{:>9}{hit_rate:>6}{:>10}{:>9}{:>8}{:>9}{:>12}",
        human(rate("buffered_read_bytes")),
        human(rate("buffered_write_bytes")),
        human(rate("direct_read_bytes")),
        human(rate("direct_write_bytes")),
        human(rate("written_back_bytes")),
        pages("nr_dirty"),
        pages("nr_pages"),
        rate("syncs"),
        rate("throttled"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rates_are_differences_over_the_interval() {
        let stats = |bytes: u64, hits: u64| {
            json!({
                "counters": { "buffered_read_bytes": bytes, "cache_hits": hits, "cache_misses": 1 },
                "gauges": { "nr_dirty": 256 },
            })
        };
        let line = rates(&stats(0, 0), &stats(4 << 20, 3), 2);
        let columns: Vec<_> = line.split_whitespace().collect();
        assert_eq!(
            (columns[0], columns[4], columns[6]),
            ("2.0M", "100", "1.0M"),
            "{line}"
        );
    }
}
