//! The program `testfs`. See [`testfs::cli`].

fn main() -> std::process::ExitCode {
    testfs::cli::main()
}
