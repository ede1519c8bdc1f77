//! Calls in a section, each with markers around its name and its arguments: DeepSeek and Kimi K2.
//!
//! ```text
//! DeepSeek V3.1   <calls begin><call begin>NAME<sep>{..}<call end>..<calls end>
//! DeepSeek V3     <calls begin><call begin>function<sep>NAME\n```json\n{..}\n```<call end>..
//! Kimi K2         <section begin><call begin>functions.NAME:0<argument begin>{..}<call end>..
//! ```

use super::arguments::{Arguments, Handed};
use super::emit::Emitter;
use super::input::{Input, Marker, Sought, Stands};
use super::json_calls::fence;
use super::part::Progress;

/// Limit on a name. A longer one is invalid.
const MAX_NAME_BYTES: usize = 1024;
/// The word that DeepSeek V3 writes in the place of V3.1's name.
const KIND: &str = "function";
/// The marker around DeepSeek V3's arguments.
const FENCE: &str = "```";

/// The markers of a section.
#[derive(Debug, Clone, Copy)]
pub(super) struct Markers {
    pub(super) open: Marker,
    pub(super) call: Marker,
    pub(super) separator: Marker,
    pub(super) call_end: Marker,
    pub(super) close: Marker,
}

impl Markers {
    pub(super) fn all(&self) -> [Marker; 5] {
        [self.open, self.call, self.separator, self.call_end, self.close]
    }
}

/// Reads the calls of a section, after its opening marker.
#[derive(Debug, Clone)]
pub(super) struct Sectioned {
    markers: Markers,
    state: State,
    /// A call was started.
    any: bool,
}

#[derive(Debug, Clone)]
enum State {
    /// Before a call, or the end of the section.
    Between,
    /// In the text before the separator, which begins at this byte of the seen text.
    Head(usize),
    /// In the line with DeepSeek V3's name.
    NameLine(usize),
    /// Before the arguments.
    Before(String),
    Arguments(Arguments),
    /// Before the end of a call.
    After,
}

impl Sectioned {
    pub(super) fn new(markers: Markers) -> Self {
        Self { markers, state: State::Between, any: false }
    }

    pub(super) fn read(&mut self, input: &mut Input, out: &mut Emitter) -> Progress {
        loop {
            let progress = match &mut self.state {
                State::Between => self.between(input),
                State::Head(from) => {
                    let from = *from;
                    self.head(from, input)
                }
                State::NameLine(from) => {
                    let from = *from;
                    self.name_line(from, input)
                }
                State::Before(_) => self.before(input, out),
                State::Arguments(arguments) => {
                    let Markers { call, call_end, close, .. } = self.markers;
                    match arguments.read(&[call_end, close], &[call], input, out) {
                        Handed::More => Some(Progress::More),
                        Handed::Whole => self.go(State::After),
                        // The end of the call cut it off.
                        Handed::Broken
                            if [call_end, close]
                                .iter()
                                .any(|end| matches!(input.stands(end), Stands::Yes(_))) =>
                        {
                            self.go(State::After)
                        }
                        Handed::Broken => Some(Progress::Done),
                    }
                }
                State::After => self.after(input),
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

    fn between(&mut self, input: &mut Input) -> Option<Progress> {
        if !input.skip_whitespace() {
            return Some(Progress::More);
        }
        let Markers { open, call, call_end, close, .. } = self.markers;
        let [again, call, end, close] =
            [open, call, call_end, close].map(|marker| input.stands(&marker));
        match (call, close, again, end) {
            (Stands::Yes(length), ..) => {
                input.skip(length);
                self.go(State::Head(input.seen().len()))
            }
            (_, Stands::Yes(length), ..) if self.any => {
                input.skip(length);
                input.take();
                Some(Progress::Done)
            }
            // The marker was written twice.
            (_, _, Stands::Yes(length), _) if !self.any => {
                input.skip(length);
                None
            }
            (.., Stands::Yes(length)) if self.any => {
                input.skip(length);
                input.take();
                None
            }
            (Stands::Maybe, ..)
            | (_, Stands::Maybe, ..)
            | (_, _, Stands::Maybe, _)
            | (.., Stands::Maybe) => {
                if self.any {
                    input.rewind();
                }
                Some(Progress::More)
            }
            // The end of the section is missing.
            _ if self.any => Some(Progress::Done),
            // The marker that begins a call is missing.
            _ => self.go(State::Head(input.seen().len())),
        }
    }

    fn head(&mut self, from: usize, input: &mut Input) -> Option<Progress> {
        let Markers { separator, call_end, close, .. } = self.markers;
        // The separator may be missing.
        let ends = [separator, call_end, close, Marker::spelled("{"), Marker::spelled(FENCE)];
        let sought = input.seek(&ends);
        let head = &input.seen()[from..];
        let (number, length) = match sought {
            Sought::Marker(0, length) => (0, length),
            Sought::Marker(number, _) => (number, 0),
            Sought::Nothing => return too_long(head, input),
        };
        if head.len() > MAX_NAME_BYTES {
            return Some(Progress::NotACall);
        }
        let head = head.trim();
        let next = input.peek_after(length);
        if head == KIND && number == 0 && next != Some('{') {
            // Only the next character shows whether the name follows.
            if next.is_none() && !input.ended {
                return Some(Progress::More);
            }
            input.skip(length);
            return self.go(State::NameLine(input.seen().len()));
        }
        // Kimi: functions.NAME:NUMBER
        let name = head.strip_prefix("functions.").unwrap_or(head);
        let numbered = name.rsplit_once(':').filter(|(_, number)| {
            !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
        });
        let name = numbered.map_or(name, |(name, _)| name).to_owned();
        input.skip(length);
        self.go(State::Before(name))
    }

    fn name_line(&mut self, from: usize, input: &mut Input) -> Option<Progress> {
        let Sought::Marker(_, length) = input.seek(&[Marker::spelled("\n")]) else {
            return too_long(&input.seen()[from..], input);
        };
        let name = input.seen()[from..].trim().to_owned();
        input.skip(length);
        self.go(State::Before(name))
    }

    fn before(&mut self, input: &mut Input, out: &mut Emitter) -> Option<Progress> {
        let State::Before(name) = &self.state else { return None };
        if !out.offers(name) {
            return Some(Progress::NotACall);
        }
        if !input.skip_whitespace() {
            return Some(Progress::More);
        }
        match fence(input) {
            Stands::Yes(length) => {
                input.skip(length);
                return None;
            }
            Stands::Maybe => return Some(Progress::More),
            Stands::No => {}
        }
        match (input.peek(), input.stands(&self.markers.call_end)) {
            (Some('{'), _) => {}
            // The call has no arguments.
            (_, Stands::Yes(_)) => {
                input.take();
                out.start(name);
                out.arguments("{}");
                out.end();
                self.any = true;
                return self.go(State::After);
            }
            (_, Stands::Maybe) => return Some(Progress::More),
            _ => return Some(Progress::NotACall),
        }
        let arguments = Arguments::begin(name, input, out);
        self.any = true;
        self.go(State::Arguments(arguments))
    }

    fn after(&mut self, input: &mut Input) -> Option<Progress> {
        if !input.skip_whitespace() {
            input.rewind();
            return Some(Progress::More);
        }
        match (input.stands(&self.markers.call_end), input.stands(&Marker::spelled(FENCE))) {
            (Stands::Yes(length), _) => {
                input.skip(length);
                input.take();
                self.go(State::Between)
            }
            (_, Stands::Yes(length)) => {
                input.skip(length);
                input.take();
                None
            }
            (Stands::Maybe, _) | (_, Stands::Maybe) => {
                input.rewind();
                Some(Progress::More)
            }
            // The end of the call is missing.
            _ => self.go(State::Between),
        }
    }
}

/// Ends the reader if the name is too long.
fn too_long(head: &str, input: &Input) -> Option<Progress> {
    let hopeless = input.ended || head.len() > MAX_NAME_BYTES;
    Some(if hopeless { Progress::NotACall } else { Progress::More })
}
