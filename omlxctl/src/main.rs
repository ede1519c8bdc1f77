//! omlxctl: operate a running omlxd.
#![forbid(unsafe_code)]

mod api;
mod bench;
mod cache;
mod chat;
mod cli;
mod commands;
mod context;
mod doctor;
mod exit;
mod logs;
mod models;
mod output;
mod service;
mod top;

use std::process::ExitCode;

use clap::Parser;

use exit::Exit;
use output::Output;

fn main() -> ExitCode {
    // clap itself exits: 0 for --help and --version, 2 for a wrong command line.
    let cli = cli::Cli::parse();
    let output = Output::new(cli.global.json, cli.global.quiet, cli.global.no_color);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            output.error(&format!("cannot start: {error}"), None);
            return Exit::Failed.into();
        }
    };
    let Err(error) = runtime.block_on(commands::run(cli, output)) else { return Exit::Ok.into() };
    let exit = error.exit();
    if exit != Exit::Ok && !matches!(error, exit::CommandError::Negative) {
        output.error(&exit::with_sources(&error), error.hint());
    }
    exit.into()
}
