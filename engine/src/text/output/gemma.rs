//! Gemma's calls: `<|tool_call>call:NAME{key:<|"|>text<|"|>,other:[1,true]}<tool_call|>`. A marker
//! takes the place of quotes, so that texts need no escaping. FunctionGemma uses the same format
//! with other markers.
//!
//! Common mistakes of models are accepted too: JSON's quotes, `=` for `:`, words without quotes
//! where a text is allowed, parentheses around the arguments, an object inside them, and call
//! objects of other formats. The closing marker closes brackets that were left open.

use super::emit::Emitter;
use super::input::{Input, Marker, Sought, Stands};
use super::json::{MAX_DEPTH, Scanner, Step, whole_value};
use super::json_calls::JsonCalls;
use super::part::Progress;
use crate::text::stop::overlap;

/// Limit on a name, key, number or word. A longer one is invalid.
const MAX_WORD_BYTES: usize = 1024;
const START: Marker = Marker::spelled("call:");

/// Reads one call, after its opening marker.
#[derive(Debug, Clone)]
pub(super) struct Gemma {
    open: Marker,
    quote: Marker,
    close: Marker,
    state: State,
    /// The open containers, each as its closing character `}` or `]`.
    stack: Vec<char>,
    /// Nothing was read yet in the innermost container.
    is_first: bool,
    function: String,
    /// The current parameter.
    key: String,
    /// An object is enclosed in parentheses.
    wrapped: bool,
    /// The scanner for a text or key in JSON's quotes.
    scanner: Scanner,
    objects: JsonCalls,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    /// In call objects of another format.
    Objects,
    /// In the name, which begins at this byte of the seen text.
    Name(usize),
    /// Before a key or the end of an object.
    Key,
    /// Before the colon.
    Colon,
    /// Before a value, or the end of an array.
    Value,
    /// In a text, a key or a value.
    Text {
        key: bool,
    },
    /// In a text, a key or a value in JSON's quotes.
    Quoted {
        key: bool,
    },
    /// After a value.
    After,
    /// After the arguments.
    End,
}

impl Gemma {
    pub(super) fn new(open: Marker, quote: Marker, close: Marker) -> Self {
        Self {
            open,
            quote,
            close,
            state: State::Start,
            stack: Vec::new(),
            is_first: true,
            function: String::new(),
            key: String::new(),
            wrapped: false,
            scanner: Scanner::new(),
            objects: JsonCalls::new(Some((open, close))),
        }
    }

    pub(super) fn read(&mut self, input: &mut Input, out: &mut Emitter) -> Progress {
        loop {
            let progress = match self.state {
                State::Start => self.start(input),
                State::Name(from) => self.name(from, input, out),
                State::Objects => return self.objects.read(input, out),
                State::Text { key } => self.text(key, input, out),
                State::Quoted { key } => self.quoted(key, input, out),
                State::End => self.end(input),
                State::Key | State::Colon | State::Value | State::After => self.within(input, out),
            };
            if let Some(progress) = progress {
                return progress;
            }
        }
    }

    fn go(&mut self, state: State) -> Option<Progress> {
        self.state = state;
        None
    }

    fn start(&mut self, input: &mut Input) -> Option<Progress> {
        if !input.skip_whitespace() {
            return Some(Progress::More);
        }
        match (input.stands(&START), input.stands(&self.open)) {
            // The marker was written twice.
            (_, Stands::Yes(length)) => {
                input.skip(length);
                None
            }
            (Stands::Yes(length), _) => {
                input.skip(length);
                self.go(State::Name(input.seen().len()))
            }
            (Stands::Maybe, _) | (_, Stands::Maybe) => Some(Progress::More),
            _ if matches!(input.peek(), Some('{' | '[')) => self.go(State::Objects),
            _ => self.go(State::Name(input.seen().len())),
        }
    }

    fn name(&mut self, from: usize, input: &mut Input, out: &mut Emitter) -> Option<Progress> {
        let sought = input.seek(&[Marker::spelled("{"), Marker::spelled("("), self.close]);
        let name = input.seen()[from..].trim().to_owned();
        if sought == Sought::Nothing && !input.ended && name.len() <= MAX_WORD_BYTES {
            return Some(Progress::More);
        }
        let Sought::Marker(number, _) = sought else { return Some(Progress::NotACall) };
        if !out.offers(&name) {
            return Some(Progress::NotACall);
        }
        let ahead = input.ahead();
        let inner = ahead[1..].trim_start();
        let (length, end) = match number {
            0 => (1, '}'),
            // Only the next character shows whether the parentheses contain an object.
            1 if inner.is_empty() && !input.ended => return Some(Progress::More),
            1 if inner.starts_with('{') => (ahead.len() - inner.len() + 1, '}'),
            1 => (1, ')'),
            _ => (0, '}'),
        };
        self.wrapped = length > 1;
        input.skip(length);
        input.take();
        out.start(&name);
        self.function = name;
        if number == 2 {
            out.arguments("{}");
            out.end();
            return self.go(State::End);
        }
        out.arguments("{");
        self.stack.push(end);
        self.go(State::Key)
    }

    /// Does one step of the arguments, outside texts.
    fn within(&mut self, input: &mut Input, out: &mut Emitter) -> Option<Progress> {
        input.skip_whitespace();
        input.take();
        match input.stands(&self.quote) {
            Stands::Yes(length) if matches!(self.state, State::Key | State::Value) => {
                input.skip(length);
                input.take();
                self.comma(out);
                out.arguments("\"");
                if self.state == State::Key {
                    self.key.clear();
                }
                return self.go(State::Text { key: self.state == State::Key });
            }
            Stands::Maybe => return self.wait(input, out),
            _ => {}
        }
        match input.stands(&self.close) {
            // Only the brackets are missing.
            Stands::Yes(_) if matches!(self.state, State::Key | State::After) => {
                while let Some(end) = self.stack.pop() {
                    out.arguments(bracket(end));
                }
                out.end();
                return self.go(State::End);
            }
            Stands::Maybe => return self.wait(input, out),
            _ => {}
        }
        let Some(c) = input.peek() else { return self.wait(input, out) };
        match (self.state, c) {
            (State::Key, '}' | ')') | (State::Value, ']') | (State::After, '}' | ']' | ')') => {
                self.close_container(c, input, out)
            }
            (State::Key | State::Value, '"' | '\'') => {
                self.comma(out);
                self.scanner = Scanner::new();
                self.key.clear();
                self.go(State::Quoted { key: self.state == State::Key })
            }
            (State::Colon, ':' | '=') => {
                input.skip(1);
                input.take();
                out.arguments(": ");
                self.is_first = true;
                self.go(State::Value)
            }
            (State::After, ',') => {
                input.skip(1);
                input.take();
                self.is_first = false;
                let in_object = self.stack.last() != Some(&']');
                self.go(if in_object { State::Key } else { State::Value })
            }
            (State::Value, '{' | '[') if self.stack.len() < MAX_DEPTH => {
                input.skip(1);
                input.take();
                self.comma(out);
                out.arguments(if c == '{' { "{" } else { "[" });
                self.stack.push(if c == '{' { '}' } else { ']' });
                self.is_first = true;
                self.go(if c == '{' { State::Key } else { State::Value })
            }
            (State::Key | State::Value, _) => self.word(input, out),
            _ => broken(input, out),
        }
    }

    /// Reads a bare key, number or word, which ends at a structural character.
    fn word(&mut self, input: &mut Input, out: &mut Emitter) -> Option<Progress> {
        let ahead = input.ahead();
        let is_key = self.state == State::Key;
        let end = if is_key {
            ahead.find([':', '='])
        } else {
            ahead.find([',', '}', ']', ')', '<', '"', '\n'])
        };
        let Some(end) = end.filter(|end| *end <= MAX_WORD_BYTES) else {
            let hopeless = ahead.len() > MAX_WORD_BYTES;
            return if hopeless { broken(input, out) } else { self.wait(input, out) };
        };
        let word = ahead[..end].trim().to_owned();
        let text = if is_key {
            Some(serde_json::Value::from(word.as_str()).to_string())
        } else {
            whole_value(&word).or_else(|| self.bare_text(&word, &ahead[end..], out))
        };
        let Some(text) = text else { return broken(input, out) };
        if is_key {
            self.key = word;
        }
        input.skip(end);
        input.take();
        self.comma(out);
        out.arguments(&text);
        self.go(if is_key { State::Colon } else { State::After })
    }

    /// Reads a text without quotes, where a parameter may be text.
    fn bare_text(&self, word: &str, rest: &str, out: &Emitter) -> Option<String> {
        let may_be = match self.stack.len() {
            1 => out.tools().kinds(&self.function, &self.key).may_be_text(),
            _ => true,
        };
        let is_text = !word.is_empty() && !rest.starts_with(['"', '\n']) && !word.contains('(');
        (may_be && is_text).then(|| serde_json::Value::from(word).to_string())
    }

    fn comma(&mut self, out: &mut Emitter) {
        if !std::mem::replace(&mut self.is_first, true) {
            out.arguments(", ");
        }
    }

    fn close_container(
        &mut self,
        c: char,
        input: &mut Input,
        out: &mut Emitter,
    ) -> Option<Progress> {
        if self.stack.pop() != Some(c) {
            return broken(input, out);
        }
        input.skip(1);
        input.take();
        out.arguments(bracket(c));
        if self.stack.is_empty() {
            out.end();
            return self.go(State::End);
        }
        self.go(State::After)
    }

    fn text(&mut self, key: bool, input: &mut Input, out: &mut Emitter) -> Option<Progress> {
        let mut sought = input.seek(&[self.quote, self.close]);
        while let Sought::Marker(1, length) = sought {
            match input.stands_last(&self.close, &[self.close]) {
                Stands::Yes(_) => break,
                Stands::Maybe => {
                    sought = Sought::Nothing;
                }
                Stands::No => {
                    input.skip(length);
                    sought = input.seek(&[self.quote, self.close]);
                }
            }
        }
        let mut text = input.take();
        if input.ended && input.cut && sought == Sought::Nothing && self.quote.id.is_none() {
            text.truncate(text.len() - overlap(&text, self.quote.text));
        }
        if key {
            self.key.push_str(&text);
        }
        let quoted = serde_json::Value::from(text).to_string();
        out.arguments(&quoted[1..quoted.len() - 1]);
        match sought {
            Sought::Marker(1, length) => closed_within(length, input, out),
            Sought::Marker(_, length) => {
                input.skip(length);
                input.take();
                out.arguments("\"");
                self.go(if key { State::Colon } else { State::After })
            }
            Sought::Nothing => self.wait(input, out),
        }
    }

    /// Reads a text or key in JSON's quotes, with JSON's escapes.
    fn quoted(&mut self, key: bool, input: &mut Input, out: &mut Emitter) -> Option<Progress> {
        let mut text = String::new();
        let mut step = Step::More;
        let mut closes = None;
        while let Some(c) = input.peek().filter(|_| step == Step::More) {
            if self.close.text.starts_with(c) {
                match input.stands_last(&self.close, &[self.close]) {
                    Stands::Yes(length) => {
                        closes = Some(length);
                        break;
                    }
                    Stands::Maybe => break,
                    Stands::No => {}
                }
            }
            step = self.scanner.push(c, &mut text);
            if step == Step::Invalid {
                break;
            }
            input.skip(c.len_utf8());
        }
        input.take();
        out.arguments(&text);
        if key {
            self.key.push_str(&text);
        }
        if let Some(length) = closes {
            return closed_within(length, input, out);
        }
        match step {
            Step::More => self.wait(input, out),
            Step::Done => {
                if key {
                    self.key = serde_json::from_str(&self.key).unwrap_or_default();
                }
                self.go(if key { State::Colon } else { State::After })
            }
            Step::DoneBefore | Step::Invalid => broken(input, out),
        }
    }

    fn end(&mut self, input: &mut Input) -> Option<Progress> {
        if !input.skip_whitespace() {
            input.rewind();
            return Some(Progress::More);
        }
        if input.peek() == Some(')') && std::mem::take(&mut self.wrapped) {
            input.skip(1);
            input.take();
            return None;
        }
        match input.stands(&self.close) {
            Stands::Yes(length) => {
                input.skip(length);
                input.take();
                Some(Progress::Done)
            }
            Stands::Maybe => {
                input.rewind();
                Some(Progress::More)
            }
            Stands::No => Some(Progress::Done),
        }
    }

    /// Waits for more text. At the end of the answer, ends the call.
    fn wait(&self, input: &mut Input, out: &mut Emitter) -> Option<Progress> {
        if !input.ended {
            return Some(Progress::More);
        }
        if input.cut {
            // The incomplete part is not returned as text.
            input.skip(input.ahead().len());
            input.take();
        }
        broken(input, out)
    }
}

/// Handles the closing marker of `length` bytes inside a text without an end.
fn closed_within(length: usize, input: &mut Input, out: &mut Emitter) -> Option<Progress> {
    input.skip(length);
    input.take();
    out.cut();
    Some(Progress::Done)
}

/// Cuts off the started call. The text ahead is plain text.
fn broken(input: &mut Input, out: &mut Emitter) -> Option<Progress> {
    input.rewind();
    out.cut();
    Some(Progress::Done)
}

/// The JSON bracket for a container that ends with this character in the call.
fn bracket(end: char) -> &'static str {
    if end == ']' { "]" } else { "}" }
}
