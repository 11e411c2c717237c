//! Where the log of a server goes.
//!
//! In the foreground to the standard error. In the background to the file of `-o log=`, else to the
//! system log, because the terminal is gone. What is logged is others'; nobody's data ever is.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;

use tracing_subscriber::fmt::MakeWriter;

use super::code;
use super::serve::Place;
use crate::failure::{Failure, Outcome};

/// The socket of the system log.
const SYSLOG: &str = "/dev/log";
/// Facility daemon, severity notice.
const PRIORITY: u32 = 3 << 3 | 5;

/// Starts logging.
pub(super) fn start(place: Place, file: Option<&Path>) -> Outcome<()> {
    let level = tracing::Level::INFO;
    if let Some(path) = file {
        let file = File::options().append(true).create(true).open(path);
        let file = file.map_err(|error| Failure::host(path, error).code(code::FAILED))?;
        let writer = Arc::new(file);
        tracing_subscriber::fmt()
            .with_max_level(level)
            .with_ansi(false)
            .with_writer(writer)
            .init();
    } else if place == Place::Foreground {
        let color = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        tracing_subscriber::fmt()
            .with_max_level(level)
            .with_ansi(color)
            .with_writer(io::stderr)
            .init();
    } else if let Ok(socket) = connect() {
        let writer = Syslog(Arc::new(socket));
        tracing_subscriber::fmt()
            .with_max_level(level)
            .with_ansi(false)
            .without_time()
            .with_writer(writer)
            .init();
    }
    Ok(())
}

fn connect() -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(SYSLOG)?;
    // A log that does not keep up must not stop a file system.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Writes lines to the system log.
#[derive(Clone)]
struct Syslog(Arc<UnixDatagram>);

impl Write for Syslog {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut message = format!("<{PRIORITY}>iomapfs[{}]: ", std::process::id()).into_bytes();
        message.extend_from_slice(line.trim_ascii_end());
        // Lost if nobody takes it.
        let _ = self.0.send(&message);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Syslog {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
