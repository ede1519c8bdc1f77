//! `omlxctl logs`: the daemon's own log file, whether or not it runs.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use omlxctl::files;
use serde_json::Value;

use crate::cli::Logs;
use crate::context::Done;
use crate::exit::CommandError;
use crate::output::{Output, paint, plain};

/// Pause between two looks for new lines.
const POLL: Duration = Duration::from_millis(200);
/// The file before the current one.
const OLDER: &str = "omlxd.log.1";
const CURRENT: &str = "omlxd.log";

/// Prints the last lines, and with `--follow` those to come.
pub(crate) async fn run(base: &Path, options: Logs, output: Output) -> Done {
    let dir = base.join("logs");
    let path = dir.join(CURRENT);
    let mut last: VecDeque<String> = VecDeque::new();
    let mut keep = |line: String| {
        last.push_back(line);
        if last.len() > options.lines {
            last.pop_front();
        }
    };
    if let Ok(older) = files::open_to_read(&dir.join(OLDER)) {
        BufReader::new(older).lines().map_while(Result::ok).for_each(&mut keep);
    }
    let mut current = match Tail::open(&path) {
        Ok(current) => Some(current),
        Err(error) if error.kind() == io::ErrorKind::NotFound && options.follow => None,
        Err(error) => return Err(cannot_read(&path, &error)),
    };
    if let Some(current) = &mut current {
        current.lines()?.into_iter().for_each(&mut keep);
    }
    last.iter().try_for_each(|line| print(line, output))?;
    if !options.follow {
        return Ok(());
    }
    loop {
        tokio::time::sleep(POLL).await;
        if let Some(current) = &mut current {
            current.lines()?.iter().try_for_each(|line| print(line, output))?;
        }
        if current.as_ref().is_none_or(|current| !current.is_still_there(&path)) {
            // Rotated, or just made: what the old one still got was printed above.
            current = Tail::open(&path).ok();
        }
    }
}

fn cannot_read(path: &Path, error: &io::Error) -> CommandError {
    let path = path.display();
    CommandError::Failed(match error.kind() {
        io::ErrorKind::NotFound => format!(
            "there is no log at {path}: no daemon has run with this base directory yet (another one \
             is named with --base-dir)"
        ),
        _ => format!("cannot read {path}: {error}"),
    })
}

/// A file that grows.
struct Tail {
    reader: BufReader<File>,
    inode: u64,
    /// The start of a line whose end is not written yet.
    rest: String,
}

impl Tail {
    fn open(path: &Path) -> io::Result<Tail> {
        let file = files::open_to_read(path)?;
        let inode = file.metadata()?.ino();
        Ok(Tail { reader: BufReader::new(file), inode, rest: String::new() })
    }

    /// The whole lines that have come.
    fn lines(&mut self) -> io::Result<Vec<String>> {
        let mut lines = Vec::new();
        loop {
            let mut bytes = Vec::new();
            if self.reader.read_until(b'\n', &mut bytes)? == 0 {
                return Ok(lines);
            }
            self.rest.push_str(&String::from_utf8_lossy(&bytes));
            if self.rest.ends_with('\n') {
                lines.push(std::mem::take(&mut self.rest).trim_end().to_owned());
            }
        }
    }

    fn is_still_there(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|now| now.ino() == self.inode)
    }
}

fn print(line: &str, output: Output) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let shown = if output.json { None } else { readable(line) };
    writeln!(stdout, "{}", shown.as_deref().unwrap_or(line))?;
    stdout.flush()
}

/// A line of JSON as people read it: time, level, message, then the other fields.
fn readable(line: &str) -> Option<String> {
    let Value::Object(mut fields) = serde_json::from_str(line).ok()? else { return None };
    let mut take = |name: &str| match fields.shift_remove(name) {
        Some(Value::String(text)) => text,
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let (time, level, message) = (take("timestamp"), take("level"), take("message"));
    let time = time.get(..19).unwrap_or(&time).replace('T', " ");
    take("target");
    let level = paint(&format!("{:<5}", plain(&level)));
    let mut text = format!("{} {level} {}", plain(&time), plain(&message));
    for (name, value) in &fields {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        text.push_str(&format!(" {}={}", plain(name), plain(&value)));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_made_readable_and_anything_else_left_as_it_is() {
        let line = r#"{"timestamp":"2026-01-02T03:04:05.678Z","level":"INFO","message":"ready","http":"127.0.0.1:1","target":"omlxd","n":3}"#;
        let shown = readable(line).unwrap();
        assert_eq!(shown, "2026-01-02 03:04:05 INFO  ready http=127.0.0.1:1 n=3");
        assert_eq!(readable("not json"), None);
        let shown = readable(r#"{"message":"\u001b[2J","x":"\n"}"#).unwrap();
        assert!(!shown.contains('\u{1b}') && !shown.contains('\n'), "{shown:?}");
    }

    #[test]
    fn a_tail_gives_whole_lines_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, "one\ntw").unwrap();
        let mut tail = Tail::open(&path).unwrap();
        assert_eq!(tail.lines().unwrap(), ["one"]);
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"o\nthree\n").unwrap();
        assert_eq!(tail.lines().unwrap(), ["two", "three"]);
        assert!(tail.is_still_there(&path));
        fs::rename(&path, dir.path().join("log.1")).unwrap();
        fs::write(&path, "").unwrap();
        assert!(!tail.is_still_there(&path));
    }
}
