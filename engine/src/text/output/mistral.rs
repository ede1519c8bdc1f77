//! Mistral's calls: `[TOOL_CALLS]NAME[ARGS]{..}`, repeated. Some versions write `[CALL_ID]ID`
//! before the arguments or omit `[ARGS]`; older ones write an array of call objects.

use super::arguments::{Arguments, Handed};
use super::emit::Emitter;
use super::input::{Input, Marker, Sought, Stands};
use super::json_calls::JsonCalls;
use super::part::Progress;

/// Limit on a name. A longer one is invalid.
const MAX_NAME_BYTES: usize = 1024;

/// Reads the text after `[TOOL_CALLS]`.
#[derive(Debug, Clone)]
pub(super) struct Mistral {
    open: Marker,
    args: Marker,
    id: Marker,
    state: State,
}

#[derive(Debug, Clone)]
enum State {
    Start,
    Array(JsonCalls),
    /// In the name, which begins at this byte of the seen text.
    Name(usize),
    /// In the call's id.
    Id(String),
    Before(String),
    /// After `[ARGS]`.
    BeforeOrEnd(String),
    Arguments(Arguments),
}

impl Mistral {
    /// `open`: `[TOOL_CALLS]`; `args`: `[ARGS]`; `id`: `[CALL_ID]`.
    pub(super) fn new(open: Marker, args: Marker, id: Marker) -> Self {
        Self { open, args, id, state: State::Start }
    }

    pub(super) fn read(&mut self, input: &mut Input, out: &mut Emitter) -> Progress {
        loop {
            let progress = match &mut self.state {
                State::Start => self.start(input),
                State::Array(array) => return array.read(input, out),
                State::Name(from) => {
                    let from = *from;
                    self.name(from, input, out)
                }
                State::Id(name) => {
                    let name = std::mem::take(name);
                    self.id(name, input)
                }
                State::Before(name) => {
                    let name = std::mem::take(name);
                    self.before(name, false, input, out)
                }
                State::BeforeOrEnd(name) => {
                    let name = std::mem::take(name);
                    self.before(name, true, input, out)
                }
                State::Arguments(arguments) => {
                    Some(match arguments.read(&[], &[self.open], input, out) {
                        Handed::More => Progress::More,
                        Handed::Whole | Handed::Broken => Progress::Done,
                    })
                }
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
        match (input.stands(&self.open), input.peek()) {
            // The marker was written twice.
            (Stands::Yes(length), _) => {
                input.skip(length);
                None
            }
            (Stands::Maybe, _) => Some(Progress::More),
            (_, Some('[' | '{')) => self.go(State::Array(JsonCalls::new(None))),
            _ => self.go(State::Name(input.seen().len())),
        }
    }

    fn name(&mut self, from: usize, input: &mut Input, out: &Emitter) -> Option<Progress> {
        let sought = input.seek(&[self.args, self.id, Marker::spelled("{")]);
        let name = input.seen()[from..].trim();
        let Sought::Marker(number, length) = sought else {
            let hopeless = input.ended || name.len() > MAX_NAME_BYTES;
            return Some(if hopeless { Progress::NotACall } else { Progress::More });
        };
        if !out.offers(name) {
            return Some(Progress::NotACall);
        }
        let name = name.to_owned();
        match number {
            0 => {
                input.skip(length);
                return self.go(State::BeforeOrEnd(name));
            }
            1 => {
                input.skip(length);
                return self.go(State::Id(name));
            }
            _ => {}
        }
        self.go(State::Before(name))
    }

    /// Skips the call's id: the client gets one that we generate.
    fn id(&mut self, name: String, input: &mut Input) -> Option<Progress> {
        match input.seek(&[self.args]) {
            Sought::Marker(_, length) => {
                input.skip(length);
                self.go(State::BeforeOrEnd(name))
            }
            Sought::Nothing if input.ended => Some(Progress::NotACall),
            Sought::Nothing => {
                self.state = State::Id(name);
                Some(Progress::More)
            }
        }
    }

    /// Before the arguments. With `may_end` there may be none.
    fn before(
        &mut self,
        name: String,
        may_end: bool,
        input: &mut Input,
        out: &mut Emitter,
    ) -> Option<Progress> {
        let blank = !input.skip_whitespace();
        let next = if may_end { input.stands(&self.open) } else { Stands::No };
        if blank || next == Stands::Maybe {
            let state = if may_end { State::BeforeOrEnd } else { State::Before };
            self.state = state(name);
            return Some(Progress::More);
        }
        let ended = input.ahead().is_empty() && !input.cut;
        if may_end && (ended || next != Stands::No) {
            input.take();
            out.start(&name);
            out.arguments("{}");
            out.end();
            return Some(Progress::Done);
        }
        if input.peek() != Some('{') {
            return Some(Progress::NotACall);
        }
        let arguments = Arguments::begin(&name, input, out);
        self.go(State::Arguments(arguments))
    }
}
