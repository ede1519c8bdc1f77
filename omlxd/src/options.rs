//! The command line, and the configuration that it, the environment and the file make together.

use std::io;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use omlxctl::files;

use crate::config::{self, FileText, Flag, Loaded, Origin, Problem, Sources};
use crate::home::Home;
use crate::limits::CONFIG_FILE_BYTES;

/// The LLM inference daemon of omlx. It runs in the foreground until it is stopped.
#[derive(Debug, Clone, Parser)]
#[command(name = "omlxd", version, disable_help_subcommand = true)]
pub struct Options {
    /// Where configuration, key, models and cache are [default: ~/.omlx]
    #[arg(long, global = true, value_name = "DIR", env = "OMLX_BASE_DIR", hide_env_values = true)]
    pub base_dir: Option<PathBuf>,
    /// Configuration file [default: config.toml in the base directory]
    #[arg(long, global = true, value_name = "FILE", env = "OMLX_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// Folder with models, instead of those in models.dirs; may be repeated
    #[arg(long = "model-dir", global = true, value_name = "DIR")]
    pub model_dirs: Vec<PathBuf>,
    /// Address to listen on
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub host: Option<String>,
    /// Port to listen on; 0 picks a free one
    #[arg(long, global = true, value_name = "PORT")]
    pub port: Option<u16>,
    /// Shape of log lines: text or json
    #[arg(long, global = true, value_name = "FORMAT", value_parser = ["text", "json"])]
    pub log_format: Option<String>,
    /// What to do
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Serve until told to stop (what omlxd does when nothing is said)
    Serve,
    /// Print every problem of the configuration, one line each; exit 78 when there is one
    CheckConfig,
}

impl Options {
    /// The base directory's layout: `--base-dir`, else `OMLX_BASE_DIR`, else `~/.omlx`.
    ///
    /// # Errors
    /// When there is no home directory to put it into, or no current one to start from.
    pub fn home(&self) -> io::Result<Home> {
        let base = match &self.base_dir {
            Some(base) => base.clone(),
            None => std::env::home_dir()
                .filter(|home| !home.as_os_str().is_empty())
                .map(|home| home.join(".omlx"))
                .ok_or_else(|| io::Error::other("there is no home directory: name a --base-dir"))?,
        };
        Ok(Home::at(std::path::absolute(base)?))
    }

    /// The configuration file.
    pub fn config_file(&self, home: &Home) -> PathBuf {
        self.config.clone().unwrap_or_else(|| home.config_file())
    }

    /// Reads the configuration from all its sources, as they are now.
    ///
    /// # Errors
    /// Every problem that there is. A file that [`Options::config`] names must exist.
    pub fn load(&self, home: &Home) -> Result<Loaded, Vec<Problem>> {
        let path = self.config_file(home);
        let problem = |message| {
            let origin = Origin::File { path: path.clone(), line: 1 };
            vec![Problem { origin, key: String::new(), message }]
        };
        let file = match files::read_text(&path, CONFIG_FILE_BYTES) {
            Ok(text) => Some(FileText { path: path.clone(), text }),
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.config.is_none() => None,
            Err(error) => return Err(problem(format!("cannot read this file: {error}"))),
        };
        let flags = self.flags().map_err(|error| problem(error.to_string()))?;
        // A variable whose name or value is not UTF-8 cannot be one of ours.
        let env = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        config::load(home.base(), &Sources { file, env, flags })
    }

    fn flags(&self) -> io::Result<Vec<Flag>> {
        let mut flags = Vec::new();
        if let Some(host) = &self.host {
            let value = host.as_str().into();
            flags.push(Flag { flag: "--host", key: "server.host", value });
        }
        if let Some(port) = self.port {
            let value = i64::from(port).into();
            flags.push(Flag { flag: "--port", key: "server.port", value });
        }
        if let Some(format) = &self.log_format {
            let value = format.as_str().into();
            flags.push(Flag { flag: "--log-format", key: "log.format", value });
        }
        if !self.model_dirs.is_empty() {
            // Where the shell stands, not the base directory, is what a flag's path starts from.
            let absolute = |dir: &PathBuf| {
                let dir = std::path::absolute(dir)?.into_os_string().into_string();
                dir.map(toml::Value::from).map_err(|dir| {
                    io::Error::other(format!("--model-dir {}: this is not UTF-8", dir.display()))
                })
            };
            let dirs = self.model_dirs.iter().map(absolute).collect::<io::Result<Vec<_>>>()?;
            let value = dirs.into();
            flags.push(Flag { flag: "--model-dir", key: "models.dirs", value });
        }
        Ok(flags)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Options::command().debug_assert();
    }

    #[test]
    fn flags_stand_before_or_after_the_command() {
        for args in [["omlxd", "--port", "0", "serve"], ["omlxd", "serve", "--port", "0"]] {
            let options = Options::parse_from(args);
            assert_eq!((options.port, options.command), (Some(0), Some(Command::Serve)));
        }
    }

    #[test]
    fn flags_set_their_keys() {
        let temp = tempfile::tempdir().unwrap();
        let options = Options::parse_from([
            "omlxd",
            "--port=7",
            "--host=::1",
            "--log-format=json",
            "--model-dir=/a",
            "--model-dir=/b",
        ]);
        let loaded = options.load(&Home::at(temp.path().into())).unwrap();
        assert_eq!(loaded.config.server.port, 7);
        assert!(loaded.config.server.host.is_ipv6());
        assert_eq!(loaded.config.log.format, config::LogFormat::Json);
        assert_eq!(loaded.config.models.dirs, ["/a", "/b"].map(PathBuf::from));
    }

    #[test]
    fn a_file_that_is_named_must_exist() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::at(temp.path().into());
        let missing = temp.path().join("missing.toml");
        let options = Options::parse_from([
            "omlxd".into(),
            "--config".into(),
            missing.clone().into_os_string(),
        ]);
        let problems = options.load(&home).unwrap_err();
        let start = format!("{}:1: cannot read this file: ", missing.display());
        assert!(problems[0].to_string().starts_with(&start), "{}", problems[0]);
        Options::parse_from(["omlxd"]).load(&home).expect("the default file may be missing");
    }

    #[test]
    fn a_configuration_file_at_its_limit() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::at(temp.path().into());
        let path = home.config_file();
        let load = || Options::parse_from(["omlxd"]).load(&home);
        let limit = usize::try_from(CONFIG_FILE_BYTES).unwrap();
        for (bytes, fits) in [(limit, true), (limit + 1, false)] {
            std::fs::write(&path, "#".repeat(bytes)).unwrap();
            assert_eq!(load().is_ok(), fits, "{bytes}");
        }
        let problem = |words: &str| {
            let problems = load().unwrap_err();
            assert!(problems.len() == 1 && problems[0].to_string().contains(words), "{problems:?}");
        };
        problem("cannot read this file: it has more than 1048576 bytes");
        std::fs::write(&path, [0xff]).unwrap();
        problem("it is not UTF-8");
        std::fs::remove_file(&path).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        problem("cannot read this file: it is a named pipe");
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        problem("it is a device");
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        problem("it is a directory");
    }
}
