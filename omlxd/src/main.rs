//! omlxd: the LLM inference daemon of omlx.
#![forbid(unsafe_code)]

use clap::Parser;

use omlxd::daemon;
use omlxd::options::{Command, Options};

fn main() {
    // clap itself exits: 0 for --help and --version, 2 for a wrong command line.
    let options = Options::parse();
    let exit = match options.command {
        Some(Command::CheckConfig) => daemon::check_config(&options),
        Some(Command::Serve) | None => daemon::run(options),
    };
    // Everything that is to be kept was written by now.
    exit.now()
}
