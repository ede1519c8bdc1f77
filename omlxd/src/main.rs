//! omlxd: the LLM inference daemon of omlx.
#![forbid(unsafe_code)]

use clap::Parser;

use omlxd::options::{Command, Options};
use omlxd::serve;

fn main() {
    // clap itself exits: 0 for --help and --version, 2 for a wrong command line.
    let options = Options::parse();
    let exit = match options.command {
        Some(Command::CheckConfig) => serve::check_config(&options),
        Some(Command::Serve) | None => serve::run(options),
    };
    // Everything that is to be kept was written by now.
    exit.now()
}
