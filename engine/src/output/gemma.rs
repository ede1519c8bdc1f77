//! Gemma's calls: `<|tool_call>call:NAME{key:<|"|>text<|"|>,other:[1,true]}<tool_call|>`, where a
//! marker stands for quotes, so that nothing in a text needs escaping. FunctionGemma writes the same
//! with other markers.

use super::Progress;
use super::emit::Emitter;
use super::input::{Input, Marker, Sought, Stands};
use super::json::MAX_DEPTH;

/// A name, key, number or word that is longer is none.
const MAX_WORD_BYTES: usize = 1024;
const START: Marker = Marker::spelled("call:");

/// Reads one call, after its opening marker.
#[derive(Debug, Clone)]
pub(super) struct Gemma {
    quote: Marker,
    close: Marker,
    place: Place,
    /// The containers that are open: `}` or `]`, as they will be closed.
    stack: Vec<char>,
    /// Nothing was read yet in the innermost one.
    is_first: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Start,
    /// In the name, which begins at this byte of what was seen.
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
    /// After a value.
    After,
    /// After the arguments.
    End,
}

impl Gemma {
    pub(super) fn new(quote: Marker, close: Marker) -> Self {
        Self { quote, close, place: Place::Start, stack: Vec::new(), is_first: true }
    }

    pub(super) fn read(&mut self, input: &mut Input, out: &mut Emitter) -> Progress {
        loop {
            let progress = match self.place {
                Place::Start => self.start(input),
                Place::Name(from) => self.name(from, input, out),
                Place::Text { key } => self.text(key, input, out),
                Place::End => self.end(input),
                Place::Key | Place::Colon | Place::Value | Place::After => self.within(input, out),
            };
            if let Some(progress) = progress {
                return progress;
            }
        }
    }

    fn go(&mut self, place: Place) -> Option<Progress> {
        self.place = place;
        None
    }

    fn start(&mut self, input: &mut Input) -> Option<Progress> {
        match input.stands(&START) {
            Stands::Yes(length) => {
                input.skip(length);
                self.go(Place::Name(input.seen().len()))
            }
            Stands::Maybe => Some(Progress::More),
            Stands::No => Some(Progress::NotACall),
        }
    }

    fn name(&mut self, from: usize, input: &mut Input, out: &mut Emitter) -> Option<Progress> {
        let sought = input.seek(&[Marker::spelled("{")]);
        let name = input.seen()[from..].trim().to_owned();
        if sought == Sought::Nothing && !input.ended && name.len() <= MAX_WORD_BYTES {
            return Some(Progress::More);
        }
        if sought == Sought::Nothing || !out.offers(&name) {
            return Some(Progress::NotACall);
        }
        input.skip(1);
        input.take();
        out.start(&name);
        out.arguments("{");
        self.stack.push('}');
        self.go(Place::Key)
    }

    /// One step between the texts of the arguments.
    fn within(&mut self, input: &mut Input, out: &mut Emitter) -> Option<Progress> {
        input.skip_whitespace();
        input.take();
        match input.stands(&self.quote) {
            Stands::Yes(length) if matches!(self.place, Place::Key | Place::Value) => {
                input.skip(length);
                input.take();
                self.comma(out);
                out.arguments("\"");
                return self.go(Place::Text { key: self.place == Place::Key });
            }
            Stands::Maybe => return self.wait(input, out),
            _ => {}
        }
        let Some(c) = input.peek() else { return self.wait(input, out) };
        match (self.place, c) {
            (Place::Key, '}') | (Place::Value, ']') | (Place::After, '}' | ']') => {
                self.close_container(c, input, out)
            }
            (Place::Colon, ':') => {
                input.skip(1);
                input.take();
                out.arguments(": ");
                self.is_first = true;
                self.go(Place::Value)
            }
            (Place::After, ',') => {
                input.skip(1);
                input.take();
                self.is_first = false;
                let in_object = self.stack.last() == Some(&'}');
                self.go(if in_object { Place::Key } else { Place::Value })
            }
            (Place::Value, '{' | '[') if self.stack.len() < MAX_DEPTH => {
                input.skip(1);
                input.take();
                self.comma(out);
                out.arguments(if c == '{' { "{" } else { "[" });
                self.stack.push(if c == '{' { '}' } else { ']' });
                self.is_first = true;
                self.go(if c == '{' { Place::Key } else { Place::Value })
            }
            (Place::Key | Place::Value, _) => self.word(input, out),
            _ => broken(input, out),
        }
    }

    /// A bare key, number or word, which ends where a mark of structure stands.
    fn word(&mut self, input: &mut Input, out: &mut Emitter) -> Option<Progress> {
        let ahead = input.ahead();
        let end = match self.place {
            Place::Key => ahead.find(':'),
            _ => ahead.find([',', '}', ']']),
        };
        let Some(end) = end.filter(|end| *end <= MAX_WORD_BYTES) else {
            let hopeless = ahead.len() > MAX_WORD_BYTES;
            return if hopeless { broken(input, out) } else { self.wait(input, out) };
        };
        let word = ahead[..end].trim().to_owned();
        let text = match self.place {
            Place::Key => serde_json::Value::from(word).to_string(),
            _ => match super::json::whole_value(&word) {
                Some(value) => value,
                None => return broken(input, out),
            },
        };
        input.skip(end);
        input.take();
        self.comma(out);
        out.arguments(&text);
        self.go(if self.place == Place::Key { Place::Colon } else { Place::After })
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
        out.arguments(if c == '}' { "}" } else { "]" });
        if self.stack.is_empty() {
            out.end();
            return self.go(Place::End);
        }
        self.go(Place::After)
    }

    fn text(&mut self, key: bool, input: &mut Input, out: &mut Emitter) -> Option<Progress> {
        let sought = input.seek(&[self.quote]);
        let quoted = serde_json::Value::from(input.take()).to_string();
        out.arguments(&quoted[1..quoted.len() - 1]);
        match sought {
            Sought::Marker(_, length) => {
                input.skip(length);
                input.take();
                out.arguments("\"");
                self.go(if key { Place::Colon } else { Place::After })
            }
            Sought::Nothing => self.wait(input, out),
        }
    }

    fn end(&mut self, input: &mut Input) -> Option<Progress> {
        if !input.skip_whitespace() {
            input.rewind();
            return Some(Progress::More);
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

    /// More text is needed; at the end of the answer there is none.
    fn wait(&self, input: &mut Input, out: &mut Emitter) -> Option<Progress> {
        if input.ended { broken(input, out) } else { Some(Progress::More) }
    }
}

/// The announced call does not go on. What is ahead is text.
fn broken(input: &mut Input, out: &mut Emitter) -> Option<Progress> {
    input.rewind();
    out.cut();
    Some(Progress::Done)
}
