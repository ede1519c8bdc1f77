//! Reads JSON values that arrive in pieces.

/// Limit on nested containers. Deeper values are invalid: models do not produce them on purpose,
/// and JSON readers reject them.
pub(super) const MAX_DEPTH: usize = 100;

/// Returns `text` as one JSON value with its mistakes repaired, or `None` if it is none.
pub(super) fn whole_value(text: &str) -> Option<String> {
    let mut scanner = Scanner::new();
    let mut out = String::with_capacity(text.len());
    let mut done = false;
    for c in text.chars() {
        if done {
            if c.is_ascii_whitespace() {
                continue;
            }
            return None;
        }
        match scanner.push(c, &mut out) {
            Step::More => {}
            Step::Done => done = true,
            Step::DoneBefore if c.is_ascii_whitespace() => done = true,
            Step::DoneBefore | Step::Invalid => return None,
        }
    }
    (done || scanner.end(&mut out)).then_some(out)
}

/// Whether `word` is a number that JSON cannot express, or that JSON readers reject as too large.
pub(super) fn is_beyond_numbers(word: &str) -> bool {
    let digits = word.strip_prefix('-').unwrap_or(word);
    let is_named = ["NaN", "nan", "Infinity", "inf"].contains(&digits);
    let is_number = digits.starts_with(|c: char| c.is_ascii_digit());
    is_named || (is_number && digits.parse::<f64>().is_ok_and(f64::is_infinite))
}

/// The effect of a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It belongs to the value, which continues.
    More,
    /// It is the value's last character.
    Done,
    /// The value ended before it (as numbers and words do).
    DoneBefore,
    /// The text is not a value.
    Invalid,
}

/// Reads one JSON value, one character at a time, and writes it as it reads.
///
/// Valid JSON is written unchanged, including spaces. Unambiguous mistakes of models are repaired:
/// line breaks and other control characters in strings, escapes that do not exist (`\d`, `\'`),
/// lone surrogates, strings in single quotes, a comma before a closing bracket, and Python's
/// `True`, `False` and `None`. `NaN`, `Infinity` and numbers that are too large become `null`.
/// Anything else is [`Step::Invalid`].
#[derive(Debug, Clone)]
pub(super) struct Scanner {
    stack: Vec<Container>,
    state: State,
    /// A number or word while it is read; otherwise a comma and the space after it.
    held: String,
    /// The digits of an incomplete character code after `\u`.
    code: Option<String>,
    /// The digits of the first half of a surrogate pair.
    high: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Container {
    Array,
    Object,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before a value; in an empty array, or after a comma, also before its end.
    Value {
        or_end: bool,
    },
    /// Before a key or the end of an object, after a comma or an opening brace.
    Key,
    Colon,
    /// Inside a string, of a key or a value.
    Text {
        quote: char,
        key: bool,
    },
    Escape {
        quote: char,
        key: bool,
    },
    /// A number or word.
    Word,
    /// A comma or the end of a container.
    After,
}

impl Scanner {
    pub(super) fn new() -> Self {
        let state = State::Value { or_end: false };
        Self { stack: Vec::new(), state, held: String::new(), code: None, high: None }
    }

    /// Reads `c` and appends to `out` the text that is certain.
    pub(super) fn push(&mut self, c: char, out: &mut String) -> Step {
        match self.state {
            State::Text { quote, key } => self.text(c, quote, key, out),
            State::Escape { quote, key } => self.escape(c, quote, key, out),
            State::Word => self.word(c, out),
            _ if matches!(c, ' ' | '\t' | '\n' | '\r') => {
                // Space before a value is not part of it.
                if !self.stack.is_empty() {
                    self.hold_or_write(c, out);
                }
                Step::More
            }
            State::Value { or_end } => self.value(c, or_end, out),
            State::Key => self.key(c, out),
            State::Colon if c == ':' => {
                out.push(c);
                self.state = State::Value { or_end: false };
                Step::More
            }
            State::Colon => Step::Invalid,
            State::After => self.after(c, out),
        }
    }

    /// Whether a value is complete at the end of the text, as a number or a word may be.
    pub(super) fn end(&mut self, out: &mut String) -> bool {
        self.stack.is_empty() && self.state == State::Word && self.finish_word(out)
    }

    /// Whether the next character belongs to a string.
    pub(super) fn in_text(&self) -> bool {
        matches!(self.state, State::Text { .. } | State::Escape { .. })
    }

    /// Closes all containers if only their ends are missing.
    pub(super) fn close_all(&mut self, out: &mut String) -> bool {
        let may = match self.state {
            State::Word => self.finish_word(out),
            State::After | State::Key => true,
            State::Value { or_end } => or_end,
            State::Colon | State::Text { .. } | State::Escape { .. } => false,
        };
        if may {
            self.held.clear();
            while let Some(container) = self.stack.pop() {
                out.push(if container == Container::Array { ']' } else { '}' });
            }
        }
        may
    }

    /// Holds back text after a comma until the comma is known to be correct.
    fn hold_or_write(&mut self, c: char, out: &mut String) {
        if self.held.is_empty() { out.push(c) } else { self.held.push(c) }
    }

    fn flush_comma(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
    }

    fn value(&mut self, c: char, or_end: bool, out: &mut String) -> Step {
        if c == ']' && or_end {
            return self.close(Container::Array, c, out);
        }
        self.flush_comma(out);
        match c {
            '{' => self.open(Container::Object, c, out),
            '[' => self.open(Container::Array, c, out),
            '"' | '\'' => {
                out.push('"');
                self.state = State::Text { quote: c, key: false };
                Step::More
            }
            '-' | '0'..='9' | 'a'..='z' | 'A'..='Z' => {
                self.held.push(c);
                self.state = State::Word;
                Step::More
            }
            _ => Step::Invalid,
        }
    }

    fn key(&mut self, c: char, out: &mut String) -> Step {
        match c {
            '}' => self.close(Container::Object, c, out),
            '"' | '\'' => {
                self.flush_comma(out);
                out.push('"');
                self.state = State::Text { quote: c, key: true };
                Step::More
            }
            _ => Step::Invalid,
        }
    }

    fn open(&mut self, container: Container, c: char, out: &mut String) -> Step {
        if self.stack.len() == MAX_DEPTH {
            return Step::Invalid;
        }
        self.stack.push(container);
        out.push(c);
        self.state = match container {
            Container::Array => State::Value { or_end: true },
            Container::Object => State::Key,
        };
        Step::More
    }

    /// A comma that is still held back was a mistake; the space after it stays.
    fn close(&mut self, container: Container, c: char, out: &mut String) -> Step {
        if self.stack.pop() != Some(container) {
            return Step::Invalid;
        }
        out.push_str(self.held.trim_start_matches(','));
        self.held.clear();
        out.push(c);
        self.completed()
    }

    fn completed(&mut self) -> Step {
        self.state = State::After;
        if self.stack.is_empty() { Step::Done } else { Step::More }
    }

    fn after(&mut self, c: char, out: &mut String) -> Step {
        match (c, self.stack.last()) {
            (',', Some(container)) => {
                self.held.push(',');
                self.state = match container {
                    Container::Array => State::Value { or_end: true },
                    Container::Object => State::Key,
                };
                Step::More
            }
            (']', _) => self.close(Container::Array, c, out),
            ('}', _) => self.close(Container::Object, c, out),
            _ => Step::Invalid,
        }
    }

    fn word(&mut self, c: char, out: &mut String) -> Step {
        if c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '-') {
            self.held.push(c);
            return Step::More;
        }
        if !self.finish_word(out) {
            return Step::Invalid;
        }
        if self.stack.is_empty() {
            return Step::DoneBefore;
        }
        self.state = State::After;
        self.push(c, out)
    }

    fn finish_word(&mut self, out: &mut String) -> bool {
        let word = match self.held.as_str() {
            "True" => "true",
            "False" => "false",
            "None" => "null",
            word if is_beyond_numbers(word) => "null",
            word => word,
        };
        let valid = serde_json::from_str::<serde::de::IgnoredAny>(word).is_ok();
        if valid {
            out.push_str(word);
        }
        self.held.clear();
        valid
    }

    fn text(&mut self, c: char, quote: char, key: bool, out: &mut String) -> Step {
        if let Some(mut digits) = self.code.take() {
            if !c.is_ascii_hexdigit() {
                return Step::Invalid;
            }
            digits.push(c);
            match digits.len() {
                4 => self.write_code(digits, out),
                _ => self.code = Some(digits),
            }
            return Step::More;
        }
        if c == '\\' {
            self.state = State::Escape { quote, key };
            return Step::More;
        }
        self.lone_surrogate(out);
        match c {
            _ if c == quote => {
                out.push('"');
                if !key {
                    return self.completed();
                }
                self.state = State::Colon;
            }
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..='\u{1f}' => out.push_str(&format!("\\u{:04x}", c as u32)),
            _ => out.push(c),
        }
        Step::More
    }

    fn escape(&mut self, c: char, quote: char, key: bool, out: &mut String) -> Step {
        self.state = State::Text { quote, key };
        if c == 'u' {
            self.code = Some(String::new());
            return Step::More;
        }
        self.lone_surrogate(out);
        match c {
            '"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't' => out.extend(['\\', c]),
            '\'' => out.push(c),
            // The backslash was meant literally, for instance in a pattern or a path.
            _ => {
                out.push_str("\\\\");
                return self.text(c, quote, key, out);
            }
        }
        Step::More
    }

    fn write_code(&mut self, digits: String, out: &mut String) {
        let value = u16::from_str_radix(&digits, 16).unwrap_or_default();
        match (self.high.take(), value) {
            (Some(high), 0xDC00..=0xDFFF) => out.push_str(&format!("\\u{high}\\u{digits}")),
            (before, _) => {
                if before.is_some() {
                    out.push_str("\\ufffd");
                }
                match value {
                    0xD800..=0xDBFF => self.high = Some(digits),
                    0xDC00..=0xDFFF => out.push_str("\\ufffd"),
                    _ => out.push_str(&format!("\\u{digits}")),
                }
            }
        }
    }

    fn lone_surrogate(&mut self, out: &mut String) {
        if self.high.take().is_some() {
            out.push_str("\\ufffd");
        }
    }
}
