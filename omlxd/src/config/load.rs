//! Putting a configuration together from its sources, and saying what is wrong with them.

use std::fmt;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Config, FromToml, KEYS, Key, MODEL_KEYS, Raw, SECTIONS, per_model};

/// Where values come from besides the defaults.
#[derive(Debug, Default)]
pub struct Sources {
    /// The configuration file, already read.
    pub file: Option<FileText>,
    /// The process's environment.
    pub env: Vec<(String, String)>,
    /// Command line flags.
    pub flags: Vec<Flag>,
}

/// A configuration file's text.
#[derive(Debug)]
pub struct FileText {
    /// Where it was read.
    pub path: PathBuf,
    /// What it holds.
    pub text: String,
}

/// A command line flag that sets a key.
#[derive(Debug)]
pub struct Flag {
    /// As it is typed: `--port`.
    pub flag: &'static str,
    /// The key that it sets: `server.port`.
    pub key: &'static str,
    /// The value as a TOML literal.
    pub value: toml::Value,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The built-in default.
    Default,
    /// A line of the configuration file.
    File {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
    },
    /// An environment variable.
    Env(String),
    /// A command line flag.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => write!(f, "default"),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Env(name) => write!(f, "environment {name}"),
            Origin::Flag(flag) => write!(f, "{flag}"),
        }
    }
}

/// One thing wrong with a configuration, shown on one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it stands.
    pub origin: Origin,
    /// The key as it was written; empty for a text that is not TOML.
    pub key: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            return write!(f, "{}: {}", self.origin, self.message);
        }
        write!(f, "{}: {}: {}", self.origin, self.key, self.message)
    }
}

/// An effective value and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// `section.name`.
    pub key: String,
    /// The value as a TOML literal.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

/// A configuration that holds, with the origin of every value.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The typed values, paths absolute.
    pub config: Config,
    /// One entry for each key, in the order of the table; then those of `[models."<id>"]`.
    pub settings: Vec<Setting>,
}

/// Puts the configuration together.
///
/// # Errors
/// Every problem of every source, in order of file, environment, flags; never just the first.
pub fn load(base_dir: &Path, sources: &Sources) -> Result<Loaded, Vec<Problem>> {
    let mut loading = Loading::new(base_dir);
    if let Some(file) = &sources.file {
        loading.file(file);
    }
    for (name, value) in &sources.env {
        loading.env(name, value);
    }
    for flag in &sources.flags {
        let key = KEYS.iter().position(|key| key.path() == flag.key).expect("a flag names a key");
        loading.text(key, &flag.value.to_string(), Origin::Flag(flag.flag));
    }
    loading.finish()
}

/// The version of the file's format. It changes when a key comes to mean something else; a key that is
/// added or goes is told as any other.
pub(super) const VERSION: usize = 1;

struct Loading {
    config: Config,
    settings: Vec<Setting>,
    problems: Vec<Problem>,
}

impl Loading {
    fn new(base_dir: &Path) -> Self {
        let settings = KEYS
            .iter()
            .map(|key| Setting {
                key: key.path(),
                value: key.default.to_owned(),
                origin: Origin::Default,
            })
            .collect();
        let config = Config { base_dir: base_dir.to_owned(), ..Config::default() };
        Loading { config, settings, problems: Vec::new() }
    }

    fn file(&mut self, file: &FileText) {
        let (root, errors) = DeTable::parse_recoverable(&file.text);
        let broken: Vec<usize> = errors
            .iter()
            .map(|error| line_at(&file.text, error.span().map_or(0, |span| span.start)))
            .collect();
        for (error, line) in errors.iter().zip(&broken) {
            let origin = Origin::File { path: file.path.clone(), line: *line };
            let message = format!("this is not TOML: {}", error.message());
            self.problems.push(Problem { origin, key: String::new(), message });
        }
        for (name, value) in root.get_ref().iter() {
            let line = line_at(&file.text, name.span().start);
            // What stands on a line that is not TOML was reported with it.
            if name.get_ref() == "version" && !broken.contains(&line) {
                self.version(file, line, value.get_ref());
            } else if !broken.contains(&line) {
                self.file_section(file, name.get_ref(), line, value, &broken);
            }
        }
    }

    /// `version = 1`, which a file need not have. A later omlxd may mean something else by what
    /// follows.
    fn version(&mut self, file: &FileText, line: usize, value: &Raw<'_>) {
        let message = match usize::from_toml(value) {
            Ok(VERSION) => return,
            Ok(other) => format!(
                "this file is of version {other}, and this omlxd reads {VERSION}: upgrade omlxd, or move the \
                 file away and let a start write a new one"
            ),
            Err(message) => message,
        };
        let origin = Origin::File { path: file.path.clone(), line };
        self.problem(origin, "version".to_owned(), message);
    }

    fn file_section(
        &mut self,
        file: &FileText,
        section: &str,
        line: usize,
        value: &Spanned<DeValue<'_>>,
        broken: &[usize],
    ) {
        let origin = |line| Origin::File { path: file.path.clone(), line };
        let Some(table) = value.get_ref().as_table() else {
            let message = if SECTIONS.iter().any(|known| known.name == section) {
                format!("this is a section: write [{section}] on a line of its own")
            } else {
                format!("unknown key; the nearest key is {}", nearest_key("", section))
            };
            return self.problem(origin(line), section.to_owned(), message);
        };
        if !SECTIONS.iter().any(|known| known.name == section) {
            let message =
                format!("unknown section; the nearest section is [{}]", nearest_section(section));
            return self.problem(origin(line), section.to_owned(), message);
        }
        for (name, value) in table.iter() {
            let line = line_at(&file.text, name.span().start);
            if broken.contains(&line) {
                continue;
            }
            match position(section, name.get_ref()) {
                Some(key) => {
                    let shown = file.text.get(value.span()).unwrap_or_default();
                    self.set(key, value.get_ref(), shown, origin(line));
                }
                None if section == "models" && value.get_ref().is_table() => {
                    self.file_model(file, name.get_ref(), value.get_ref(), broken);
                }
                None => self.unknown(section, name.get_ref(), origin(line)),
            }
        }
    }

    /// `[models."<id>"]`.
    fn file_model(&mut self, file: &FileText, id: &str, value: &DeValue<'_>, broken: &[usize]) {
        let Some(table) = value.as_table() else { return };
        self.config.per_model.entry(id.to_owned()).or_default();
        for (name, value) in table.iter() {
            let line = line_at(&file.text, name.span().start);
            if broken.contains(&line) {
                continue;
            }
            let origin = Origin::File { path: file.path.clone(), line };
            let path = per_model::path(id, name.get_ref());
            let Some(key) = MODEL_KEYS.iter().find(|key| key.name == name.get_ref().as_ref())
            else {
                let nearest = per_model::nearest_key(name.get_ref());
                let message = format!("unknown key of a model; the nearest key is {nearest}");
                self.problem(origin, path, message);
                continue;
            };
            let settings = self.config.per_model.entry(id.to_owned()).or_default();
            match (key.set)(settings, value.get_ref()) {
                Ok(()) => {
                    let value = file.text.get(value.span()).unwrap_or_default().to_owned();
                    self.settings.push(Setting { key: path, value, origin });
                }
                Err(message) => self.problem(origin, path, message),
            }
        }
    }

    /// `OMLX_<SECTION>_<KEY>`; a value that is not a TOML literal is taken as a text.
    fn env(&mut self, name: &str, value: &str) {
        let Some(rest) = name.strip_prefix("OMLX_").map(str::to_lowercase) else { return };
        let Some((section, key)) = SECTIONS.iter().find_map(|section| {
            Some((section.name, rest.strip_prefix(section.name)?.strip_prefix('_')?))
        }) else {
            return;
        };
        let origin = Origin::Env(name.to_owned());
        match position(section, key) {
            Some(key) if DeValue::parse(value).is_ok() => self.text(key, value, origin),
            Some(key) => self.text(key, &toml::Value::from(value).to_string(), origin),
            None => self.unknown(section, key, origin),
        }
    }

    fn text(&mut self, key: usize, literal: &str, origin: Origin) {
        match DeValue::parse(literal) {
            Ok(raw) => self.set(key, raw.get_ref(), literal, origin),
            Err(error) => {
                self.problem(
                    origin,
                    KEYS[key].path(),
                    format!("this is not TOML: {}", error.message()),
                );
            }
        }
    }

    fn set(&mut self, key: usize, raw: &Raw<'_>, shown: &str, origin: Origin) {
        match (KEYS[key].set)(&mut self.config, raw) {
            Ok(()) => {
                self.settings[key].value = shown.to_owned();
                self.settings[key].origin = origin;
            }
            Err(message) => self.problem(origin, KEYS[key].path(), message),
        }
    }

    fn unknown(&mut self, section: &str, name: &str, origin: Origin) {
        let message = format!("unknown key; the nearest key is {}", nearest_key(section, name));
        self.problem(origin, format!("{section}.{name}"), message);
    }

    fn problem(&mut self, origin: Origin, key: String, message: String) {
        self.problems.push(Problem { origin, key, message });
    }

    fn finish(mut self) -> Result<Loaded, Vec<Problem>> {
        self.config.anchor_paths();
        for (key, message) in self.config.check_together() {
            let setting = self.settings.iter().find(|setting| setting.key == key);
            let origin = setting.map_or(Origin::Default, |setting| setting.origin.clone());
            self.problem(origin, key, message);
        }
        // A table's order is by name; people read a file from the top.
        self.problems.sort_by_key(|problem| match &problem.origin {
            Origin::File { line, .. } => *line,
            _ => usize::MAX,
        });
        if self.problems.is_empty() {
            return Ok(Loaded { config: self.config, settings: self.settings });
        }
        Err(self.problems)
    }
}

fn position(section: &str, name: &str) -> Option<usize> {
    KEYS.iter().position(|key| key.section == section && key.name == name)
}

/// The key that was probably meant: the same name in another section costs one edit.
fn nearest_key(section: &str, name: &str) -> String {
    let path = format!("{section}.{name}");
    let distance = |key: &&Key| {
        let whole = strsim::damerau_levenshtein(&key.path(), &path);
        whole.min(strsim::damerau_levenshtein(key.name, name) + 1)
    };
    KEYS.iter().min_by_key(distance).map(Key::path).unwrap_or_default()
}

fn nearest_section(name: &str) -> &'static str {
    let distance = |section: &&super::Section| strsim::damerau_levenshtein(section.name, name);
    SECTIONS.iter().min_by_key(distance).map_or("", |section| section.name)
}

/// The line, from 1, that holds a byte offset.
fn line_at(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
}
