//! Parses the command line, calls the library, and leaves with an exit code.

/// Measured: a tenth less CPU for a delivered event than with the C library's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    postrider::cli::run(std::env::args_os())
}
