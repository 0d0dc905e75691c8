//! Parses the command line, calls the library, and leaves with an exit code.

/// Measured against the C library's allocator: a twentieth less CPU for events that come in batches, a tenth for
/// single ones.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    postrider::cli::run(std::env::args_os())
}
