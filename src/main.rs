//! Parses the command line, calls the library, and leaves with an exit code.

fn main() -> std::process::ExitCode {
    postrider::cli::run(std::env::args_os())
}
