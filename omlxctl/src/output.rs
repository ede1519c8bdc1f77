//! Printing: tables and facts for people, JSON for programs.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

use serde::Serialize;

/// How to print.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// JSON instead of text.
    pub(crate) json: bool,
    /// No warnings, no hints.
    pub(crate) quiet: bool,
    /// Escape sequences on standard error.
    color: bool,
}

impl Output {
    /// As the flags, `NO_COLOR` and the terminal say.
    pub(crate) fn new(json: bool, quiet: bool, no_color: bool) -> Self {
        let wanted = !no_color && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let is_terminal = io::stdout().is_terminal();
        let width = crossterm_width().filter(|_| is_terminal);
        // The first one counts; there is only one.
        let _ = STYLE.set(Style { color: wanted && is_terminal, width });
        Output { json, quiet, color: wanted && io::stderr().is_terminal() }
    }

    /// Prints a document: as JSON, or as the text that `human` writes.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(crate) fn document<T: Serialize>(
        &self,
        document: &T,
        human: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        if self.json {
            serde_json::to_writer_pretty(&mut stdout, document)?;
            writeln!(stdout)?;
        } else {
            human(&mut stdout)?;
        }
        stdout.flush()
    }

    /// Says what went wrong, on standard error.
    pub(crate) fn error(&self, message: &str, hint: Option<&str>) {
        self.line("error", "31", message);
        if let Some(hint) = hint.filter(|_| !self.quiet) {
            self.line("hint", "36", hint);
        }
    }

    /// Warns, on standard error.
    pub(crate) fn warning(&self, message: &str) {
        if !self.quiet {
            self.line("warning", "33", message);
        }
    }

    /// Shows how far it has come, on standard error, over what was shown before; on a terminal only.
    /// An empty text takes it away.
    pub(crate) fn progress(&self, text: &str) {
        if !self.quiet && !self.json && io::stderr().is_terminal() {
            let mut stderr = io::stderr().lock();
            let _ = write!(stderr, "\r\x1b[K{}", plain(text)).and_then(|()| stderr.flush());
        }
    }

    fn line(&self, label: &str, color: &str, message: &str) {
        let mut stderr = io::stderr().lock();
        let message = message.lines().map(plain).collect::<Vec<_>>().join("\n");
        // When standard error is gone there is nowhere left to say so.
        let _ = if self.color {
            writeln!(stderr, "\x1b[1;{color}m{label}:\x1b[0m {message}")
        } else {
            writeln!(stderr, "{label}: {message}")
        };
    }
}

/// How standard output is written.
#[derive(Debug, Clone, Copy, Default)]
struct Style {
    /// Escape sequences.
    color: bool,
    /// Columns of the terminal; none when it is not one.
    width: Option<usize>,
}

static STYLE: OnceLock<Style> = OnceLock::new();

fn style() -> Style {
    STYLE.get().copied().unwrap_or_default()
}

fn crossterm_width() -> Option<usize> {
    ratatui::crossterm::terminal::size().ok().map(|(columns, _)| columns.into())
}

/// A word in the color of what it means, when standard output has colors.
pub(crate) fn paint(text: &str) -> String {
    paint_with(style(), text)
}

fn paint_with(style: Style, text: &str) -> String {
    let color = match text.split([',', ' ']).next().unwrap_or_default() {
        "ready" | "pass" | "INFO" => "32",
        "loading" | "draining" | "pulling" | "warn" | "WARN" => "33",
        "failed" | "fail" | "ERROR" => "31",
        _ => return text.to_owned(),
    };
    if style.color { format!("\x1b[{color}m{text}\x1b[0m") } else { text.to_owned() }
}

/// What is beside the matter: dimmed, when standard output has colors.
pub(crate) fn dim(text: &str) -> String {
    if style().color { format!("\x1b[2m{text}\x1b[0m") } else { text.to_owned() }
}

/// Writes names and values, a line each, values aligned.
///
/// # Errors
/// When `out` cannot be written.
pub(crate) fn facts(out: &mut dyn Write, facts: &[(&str, String)]) -> io::Result<()> {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    facts
        .iter()
        .try_for_each(|(name, value)| writeln!(out, "{name:<width$}  {}", paint(&plain(value))))
}

/// Writes rows under a heading, columns aligned; nothing but `none` when there are no rows.
///
/// # Errors
/// When `out` cannot be written.
pub(crate) fn table<const N: usize>(
    out: &mut dyn Write,
    heading: [&str; N],
    rows: &[[String; N]],
    none: &str,
) -> io::Result<()> {
    table_with(style(), out, heading, rows, none)
}

fn table_with<const N: usize>(
    style: Style,
    out: &mut dyn Write,
    heading: [&str; N],
    rows: &[[String; N]],
    none: &str,
) -> io::Result<()> {
    if rows.is_empty() {
        return writeln!(out, "{none}");
    }
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([heading[column].len()]).max().unwrap_or(0)
    };
    let mut widths: [usize; N] = std::array::from_fn(width);
    narrow(&mut widths, heading, style.width);
    let line = |cells: [&str; N], paint: &dyn Fn(&str) -> String| {
        let mut line = String::new();
        for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
            let cell = cut(cell, width);
            let pad = " ".repeat(width.saturating_sub(cell.chars().count()));
            let gap = if column + 1 < N { "  " } else { "" };
            line.push_str(&format!("{}{pad}{gap}", paint(&cell)));
        }
        line.trim_end().to_owned()
    };
    let bold =
        |cell: &str| if style.color { format!("\x1b[1m{cell}\x1b[0m") } else { cell.to_owned() };
    writeln!(out, "{}", line(heading, &bold))?;
    rows.iter().try_for_each(|row| {
        let cells = std::array::from_fn(|column| row[column].as_str());
        writeln!(out, "{}", line(cells, &|cell| paint_with(style, cell)))
    })
}

/// Takes from the widest columns what a terminal has no room for, down to their headings.
fn narrow<const N: usize>(widths: &mut [usize; N], heading: [&str; N], terminal: Option<usize>) {
    let Some(terminal) = terminal else { return };
    let gaps = 2 * N.saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > terminal {
        let shrinkable = (0..N).filter(|&column| widths[column] > heading[column].len().max(8));
        let Some(widest) = shrinkable.max_by_key(|&column| widths[column]) else { return };
        widths[widest] -= 1;
    }
}

fn cut(cell: &str, width: usize) -> String {
    let cell = plain(cell);
    if cell.chars().count() <= width {
        return cell;
    }
    let kept: String = cell.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}\u{2026}")
}

/// A text that does nothing to a terminal, and looks like what it is: names of files may hold control
/// characters and marks that turn the direction of what follows.
pub(crate) fn plain(text: &str) -> String {
    let misleads =
        |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if misleads(c) { '\u{fffd}' } else { c }).collect()
}

/// Bytes as people read them: `512 B`, `1.5 GiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A time as people read it: `0.2s`, `45s`, `3m 20s`, `2h 5m`, `3d 4h`.
pub(crate) fn time(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..10 => format!("{seconds:.1}s"),
        10..60 => format!("{whole}s"),
        60..3600 => format!("{}m {}s", whole / 60, whole % 60),
        3600..86_400 => format!("{}h {}m", whole / 3600, whole / 60 % 60),
        _ => format!("{}d {}h", whole / 86_400, whole / 3600 % 24),
    }
}

/// A count as people read it: `950`, `2.1M`, `7.0B`.
pub(crate) fn count(number: u64) -> String {
    let value = number as f64;
    match number {
        0..1_000 => number.to_string(),
        1_000..1_000_000 => format!("{:.1}K", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1}M", value / 1e6),
        _ => format!("{:.1}B", value / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_says_when_it_is_empty() {
        let mut out = Vec::new();
        let rows = [["a".to_owned(), "1".to_owned()], ["long name".to_owned(), "22".to_owned()]];
        table(&mut out, ["NAME", "SIZE"], &rows, "none").unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "NAME       SIZE\na          1\nlong name  22\n"
        );
        let mut out = Vec::new();
        table(&mut out, ["NAME"], &[["\x1b[2Jgone".to_owned()]], "").unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "NAME\n\u{fffd}[2Jgone\n");
        let mut out = Vec::new();
        table(&mut out, ["NAME"], &[], "No models.").unwrap();
        assert_eq!(out, b"No models.\n");
    }

    #[test]
    fn a_terminal_gets_its_width_and_colors() {
        let mut out = Vec::new();
        let rows = [["ready".to_owned(), "a note that is far too long".to_owned()]];
        let style = Style { color: true, width: Some(24) };
        table_with(style, &mut out, ["STATE", "NOTE"], &rows, "none").unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("\x1b[32mready\x1b[0m"), "{text:?}");
        let plain = text.replace("\x1b[32m", "").replace("\x1b[1m", "").replace("\x1b[0m", "");
        assert!(plain.lines().all(|line| line.chars().count() <= 24), "{plain:?}");
        assert!(plain.contains("a note that is f\u{2026}"), "{plain:?}");
    }

    #[test]
    fn quantities_are_short() {
        assert_eq!([bytes(0), bytes(1023), bytes(3 << 29)], ["0 B", "1023 B", "1.5 GiB"]);
        assert_eq!([time(0.25), time(59.9), time(200.0)], ["0.2s", "59s", "3m 20s"]);
        assert_eq!([time(7500.0), time(3.0 * 86_400.0)], ["2h 5m", "3d 0h"]);
        assert_eq!([count(999), count(2_100_000), count(7_000_000_000)], ["999", "2.1M", "7.0B"]);
    }
}
