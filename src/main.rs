//! The `alipay-sidecar` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    alipay_sidecar::cli::run(std::env::args_os()).into()
}
