//! gpt-oss: every answer is a row of messages, each on a channel.
//!
//! ```text
//! <|channel|>analysis<|message|>thoughts<|end|>
//! <|start|>assistant<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{..}<|call|>
//! <|start|>assistant<|channel|>final<|message|>text<|return|>
//! ```
//!
//! All markers are tokens of their own. What is said on the commentary channel to nobody is text, as
//! what is said on `final`. A message to a function that is not offered is text too.

use super::arguments::{Arguments, Handed};
use super::emit::Emitter;
use super::input::{Input, Marker, Sought, Stands};

/// A header that is longer is none: what stands there is text.
const MAX_HEADER_BYTES: usize = 1024;

/// The markers of the format.
#[derive(Debug, Clone, Copy)]
pub(super) struct Markers {
    pub(super) start: Marker,
    pub(super) channel: Marker,
    pub(super) message: Marker,
    pub(super) constrain: Marker,
    /// What ends a message.
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
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
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
    /// Up to the end of the message.
    Rest,
}

impl Harmony {
    pub(super) fn new(markers: Markers) -> Self {
        Self { markers, place: Place::Header }
    }

    pub(super) fn is_thinking(&self) -> bool {
        matches!(self.place, Place::Body { thinking: true })
    }

    /// Takes what there is.
    pub(super) fn read(&mut self, input: &mut Input, out: &mut Emitter) {
        while match &mut self.place {
            Place::Header => self.header(input, out),
            Place::Body { thinking } => {
                let thinking = *thinking;
                self.body(thinking, input, out)
            }
            Place::Call(_) => self.call(input, out),
        } {}
    }

    fn header(&mut self, input: &mut Input, out: &mut Emitter) -> bool {
        if input.seen().is_empty() {
            match self.begins(input) {
                Stands::Yes(_) => {}
                Stands::Maybe => return false,
                // Without a header all is text.
                Stands::No => {
                    self.place = Place::Body { thinking: false };
                    return !input.ahead().is_empty();
                }
            }
        }
        let sought = input.seek(&[self.markers.message]);
        let length = input.seen().len();
        if let Sought::Marker(_, marker) = sought {
            let header = input.take_to(length);
            input.skip(marker);
            input.take();
            self.place = self.message(&header, out);
            return true;
        }
        if length > MAX_HEADER_BYTES {
            input.rewind();
            self.place = Place::Body { thinking: false };
            // It would be taken for the start of the next message.
            out.text(&input.take_first());
            return true;
        }
        if input.ended {
            // A header that was cut off says nothing.
            input.take();
        }
        false
    }

    /// Whether a header stands ahead.
    fn begins(&self, input: &Input) -> Stands {
        let Markers { channel, start, .. } = self.markers;
        let [to, also_to, role] = [" to=", "to=", "assistant"].map(Marker::spelled);
        let begins = [channel, start, to, also_to, role];
        begins.iter().map(|marker| input.stands(marker)).fold(Stands::No, Stands::or)
    }

    /// What a message with this header is.
    fn message(&self, header: &str, out: &Emitter) -> Place {
        let word = |text: &str| {
            let end = text.find(|c: char| c.is_whitespace() || c == '<').unwrap_or(text.len());
            text[..end].to_owned()
        };
        let after = |marker: &str| header.split_once(marker).map(|(_, rest)| word(rest));
        let recipient = after("to=").unwrap_or_default();
        if let Some(name) = recipient.strip_prefix("functions.").filter(|name| out.offers(name)) {
            return Place::Call(Call::Before(name.to_owned()));
        }
        let thinking =
            after(self.markers.channel.text).is_some_and(|channel| channel == "analysis");
        Place::Body { thinking }
    }

    fn body(&mut self, thinking: bool, input: &mut Input, out: &mut Emitter) -> bool {
        let sought = self.seek_end(input);
        let text = input.take();
        match thinking {
            true => out.reasoning(&text),
            false => out.text(&text),
        }
        self.ended(sought, input)
    }

    fn call(&mut self, input: &mut Input, out: &mut Emitter) -> bool {
        let Place::Call(call) = &mut self.place else { return false };
        match call {
            Call::Before(name) => {
                if !input.skip_whitespace() {
                    return false;
                }
                if input.peek() != Some('{') {
                    input.rewind();
                    self.place = Place::Body { thinking: false };
                    return true;
                }
                *call = Call::Arguments(Arguments::begin(name, input, out));
                true
            }
            Call::Arguments(arguments) => match arguments.read(input, out) {
                Handed::More => false,
                Handed::Whole => {
                    *call = Call::Rest;
                    true
                }
                Handed::Broken => {
                    self.place = Place::Body { thinking: false };
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

    fn seek_end(&self, input: &mut Input) -> Sought {
        let Markers { start, channel, ends, .. } = self.markers;
        // A message that was not ended is ended by the next one.
        input.seek(&[ends[0], ends[1], ends[2], start, channel])
    }

    /// After a message.
    fn ended(&mut self, sought: Sought, input: &mut Input) -> bool {
        let Sought::Marker(number, length) = sought else { return false };
        if number < self.markers.ends.len() {
            input.skip(length);
            input.take();
        }
        self.place = Place::Header;
        true
    }
}
