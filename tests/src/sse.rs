//! Server-sent events, parsed as they arrive.

use std::io::{self, Read};

/// The `data` of one event, or a comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// `data:` lines, joined.
    Data(String),
    /// A line that began with a colon, such as a keep-alive.
    Comment(String),
}

/// Takes bytes in pieces of any size.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    data: Option<String>,
}

impl Parser {
    /// Adds bytes; returns the events that they complete.
    ///
    /// # Errors
    /// When a line is not UTF-8: a piece of text was cut inside a character.
    pub fn push(&mut self, bytes: &[u8]) -> io::Result<Vec<Event>> {
        let mut events = Vec::new();
        for &byte in bytes {
            if byte != b'\n' {
                self.line.push(byte);
                continue;
            }
            let line = String::from_utf8(std::mem::take(&mut self.line))
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            events.extend(self.line(line.trim_end_matches('\r')));
        }
        Ok(events)
    }

    /// Whether the bytes so far end between two events.
    pub fn is_between_events(&self) -> bool {
        self.line.is_empty() && self.data.is_none()
    }

    fn line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            return self.data.take().map(Event::Data);
        }
        if let Some(comment) = line.strip_prefix(':') {
            return Some(Event::Comment(comment.trim().to_string()));
        }
        if let Some(value) = line.strip_prefix("data:") {
            let value = value.strip_prefix(' ').unwrap_or(value);
            match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_string()),
            }
        }
        None
    }
}

/// Calls `each` for every event until it returns false or the body ends.
///
/// # Errors
/// When reading fails, or the body ends in the middle of an event.
pub fn for_each(mut body: impl Read, mut each: impl FnMut(Event) -> bool) -> io::Result<()> {
    let mut parser = Parser::default();
    let mut buffer = [0; 16 * 1024];
    loop {
        let read = body.read(&mut buffer)?;
        if read == 0 {
            let whole = parser.is_between_events();
            return if whole { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
        for event in parser.push(&buffer[..read])? {
            if !each(event) {
                return Ok(());
            }
        }
    }
}
