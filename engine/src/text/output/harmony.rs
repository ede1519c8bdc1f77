//! gpt-oss: every answer is a sequence of messages, each on a channel.
//!
//! ```text
//! <|channel|>analysis<|message|>thoughts<|end|>
//! <|start|>assistant<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{..}<|call|>
//! <|start|>assistant<|channel|>final<|message|>text<|return|>
//! ```
//!
//! All markers are tokens. A message without a recipient on the commentary channel is text, as on
//! `final`. A message to a function that is not offered is text too.

use super::arguments::{Arguments, Handed};
use super::call_object::as_object;
use super::emit::Emitter;
use super::input::{Input, Marker, Sought, Stands};
use super::json::whole_value;

/// The prefix of a function's name.
const NAMESPACE: &str = "functions.";
/// Limit on a header. A longer one is treated as text.
const MAX_HEADER_BYTES: usize = 1024;

/// The markers of the format.
#[derive(Debug, Clone, Copy)]
pub(super) struct Markers {
    pub(super) start: Marker,
    pub(super) channel: Marker,
    pub(super) message: Marker,
    pub(super) constrain: Marker,
    /// The markers that end a message.
    pub(super) ends: [Marker; 3],
}

impl Markers {
    pub(super) fn all(&self) -> Vec<Marker> {
        let Self { start, channel, message, constrain, ends } = *self;
        [&[start, channel, message, constrain], &ends[..]].concat()
    }
}

/// Reads a whole answer.
#[derive(Debug, Clone)]
pub(super) struct Harmony {
    markers: Markers,
    state: State,
}

#[derive(Debug, Clone)]
enum State {
    /// Before a message's text.
    Header,
    /// In a message.
    Body { thinking: bool },
    /// In a message to a function.
    Call(Call),
}

#[derive(Debug, Clone)]
enum Call {
    Before(String),
    Arguments(Arguments),
    /// Skips to the end of the message.
    Rest,
}

impl Harmony {
    pub(super) fn new(markers: Markers) -> Self {
        Self { markers, state: State::Header }
    }

    pub(super) fn is_thinking(&self) -> bool {
        matches!(self.state, State::Body { thinking: true })
    }

    /// Reads the available text.
    pub(super) fn read(&mut self, input: &mut Input, out: &mut Emitter) {
        while match &mut self.state {
            State::Header => self.header(input, out),
            State::Body { thinking } => {
                let thinking = *thinking;
                self.body(thinking, input, out)
            }
            State::Call(_) => self.call(input, out),
        } {}
    }

    fn header(&mut self, input: &mut Input, out: &mut Emitter) -> bool {
        if input.seen().is_empty() {
            match self.begins(input) {
                Stands::Yes(_) => {}
                Stands::Maybe => return false,
                // Without a header everything is text.
                Stands::No => {
                    self.state = State::Body { thinking: false };
                    return !input.ahead().is_empty();
                }
            }
        }
        let Markers { message, ends, .. } = self.markers;
        let sought = input.seek(&[message, ends[0], ends[1], ends[2]]);
        let length = input.seen().len();
        match sought {
            Sought::Marker(0, marker) => {
                let header = input.take_to(length);
                input.skip(marker);
                input.take();
                self.state = self.message(&header, out);
                return true;
            }
            // The marker before the body is missing.
            Sought::Marker(..) => return self.without_marker(input, out),
            Sought::Nothing if input.ended => return self.without_marker(input, out),
            Sought::Nothing => {}
        }
        if length > MAX_HEADER_BYTES {
            input.rewind();
            self.state = State::Body { thinking: false };
            // Otherwise it would be taken for the start of the next message.
            out.text(&input.take_first());
            return true;
        }
        false
    }

    /// Reads a header and a body with no marker between them, up to the current position.
    fn without_marker(&mut self, input: &mut Input, out: &Emitter) -> bool {
        let body = self.header_words(input.seen());
        let header = input.take_to(body);
        input.rewind();
        self.state = self.message(&header, out);
        // A header that was cut off has no meaning.
        let is_over = input.ended && input.ahead().is_empty();
        if is_over && !matches!(self.state, State::Call(_)) {
            self.state = State::Body { thinking: false };
        }
        !input.ahead().is_empty() || matches!(self.state, State::Call(_))
    }

    /// The number of bytes of `text` that can be a header: markers and the words after them.
    fn header_words(&self, text: &str) -> usize {
        let Markers { start, channel, constrain, .. } = self.markers;
        let mut at = 0;
        loop {
            let blank = text[at..].len() - text[at..].trim_start().len();
            let rest = &text[at + blank..];
            let word = rest.find(|c: char| c.is_whitespace() || "<{[".contains(c));
            let word = word.unwrap_or(rest.len());
            let marker = [start, channel, constrain].into_iter().find(|m| rest.starts_with(m.text));
            let length = match marker {
                Some(marker) => {
                    let after = &rest[marker.text.len()..];
                    let word = after.find(|c: char| c.is_whitespace() || "<{[".contains(c));
                    marker.text.len() + word.unwrap_or(after.len())
                }
                None if rest.starts_with("to=") => word,
                None if ["assistant", "json"].contains(&&rest[..word]) => word,
                None => return at,
            };
            at += blank + length;
        }
    }

    /// Whether a header begins at the current position.
    fn begins(&self, input: &Input) -> Stands {
        let Markers { channel, start, .. } = self.markers;
        let [to, also_to, role] = [" to=", "to=", "assistant"].map(Marker::spelled);
        let begins = [channel, start, to, also_to, role];
        begins.iter().map(|marker| input.stands(marker)).fold(Stands::No, Stands::or)
    }

    /// The kind of message that has this header.
    fn message(&self, header: &str, out: &Emitter) -> State {
        let word = |text: &str| {
            let end = text.find(|c: char| c.is_whitespace() || c == '<').unwrap_or(text.len());
            text[..end].to_owned()
        };
        let after = |marker: &str| header.split_once(marker).map(|(_, rest)| word(rest));
        let recipient = after("to=").unwrap_or_default();
        // Models sometimes omit the namespace.
        let name = recipient.strip_prefix(NAMESPACE).filter(|name| out.offers(name));
        let name = name.unwrap_or(&recipient);
        if out.offers(name) {
            return State::Call(Call::Before(name.to_owned()));
        }
        let thinking =
            after(self.markers.channel.text).is_some_and(|channel| channel == "analysis");
        State::Body { thinking }
    }

    fn body(&mut self, thinking: bool, input: &mut Input, out: &mut Emitter) -> bool {
        let sought = self.seek_end(input);
        let text = input.take();
        if thinking {
            out.reasoning(&text)
        } else {
            out.text(&text)
        }
        self.ended(sought, input)
    }

    fn call(&mut self, input: &mut Input, out: &mut Emitter) -> bool {
        let State::Call(call) = &mut self.state else { return false };
        match call {
            Call::Before(name) => {
                if !input.skip_whitespace() {
                    return false;
                }
                let Markers { start, channel, ends: [end, call_end, last], .. } = self.markers;
                let over = [end, call_end, last, start, channel];
                let over = over.iter().map(|marker| input.stands(marker));
                let over = match over.fold(Stands::No, Stands::or) {
                    Stands::Maybe if !input.ended => return false,
                    over => over != Stands::No,
                };
                if over || (input.ahead().is_empty() && !input.cut) {
                    // A call without arguments.
                    out.start(name);
                    out.arguments("{}");
                    out.end();
                    *call = Call::Rest;
                    return true;
                }
                if input.peek() != Some('{') {
                    let name = name.clone();
                    return self.indirect(&name, input, out);
                }
                *call = Call::Arguments(Arguments::begin(name, input, out));
                true
            }
            Call::Arguments(arguments) => match arguments.read(&self.markers.ends, &[], input, out)
            {
                Handed::More => false,
                Handed::Whole => {
                    *call = Call::Rest;
                    true
                }
                Handed::Broken => {
                    self.state = State::Body { thinking: false };
                    true
                }
            },
            Call::Rest => {
                let sought = self.seek_end(input);
                let text = input.take();
                if !text.trim().is_empty() {
                    out.text(&text);
                }
                self.ended(sought, input)
            }
        }
    }

    /// Reads a body that is not an object: `null`, or an object inside a string, is still a call.
    fn indirect(&mut self, name: &str, input: &mut Input, out: &mut Emitter) -> bool {
        let (body, from) = (input.ahead(), input.seen().len());
        if body.starts_with(['"', '\'']) || body.starts_with("null") || "null".starts_with(body) {
            let sought = self.seek_end(input);
            if sought == Sought::Nothing && !input.ended {
                input.rewind();
                return false;
            }
            let is_over = sought != Sought::Nothing || !input.cut;
            let value = whole_value(&input.seen()[from..]).filter(|_| is_over);
            if let Some(arguments) = value.and_then(|value| as_object(&value)) {
                input.take();
                out.start(name);
                out.arguments(&arguments);
                out.end();
                self.state = State::Call(Call::Rest);
                return true;
            }
        }
        input.rewind();
        self.state = State::Body { thinking: false };
        true
    }

    fn seek_end(&self, input: &mut Input) -> Sought {
        let Markers { start, channel, ends, .. } = self.markers;
        // The next message ends a message without an end marker.
        input.seek(&[ends[0], ends[1], ends[2], start, channel])
    }

    /// Continues after a message.
    fn ended(&mut self, sought: Sought, input: &mut Input) -> bool {
        let Sought::Marker(number, length) = sought else { return false };
        if number < self.markers.ends.len() {
            input.skip(length);
            input.take();
        }
        self.state = State::Header;
        true
    }
}
