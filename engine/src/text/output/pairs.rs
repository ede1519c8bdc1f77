//! Calls with a name and separate parameters, whose values are plain text and not JSON: Qwen3-Coder
//! and its successors, MiniMax M2, GLM 4.5 and later, DeepSeek V3.2.
//!
//! ```text
//! Qwen     <tool_call>\n<function=NAME>\n<parameter=KEY>\nVALUE\n</parameter>\n</function>\n</tool_call>
//! MiniMax  <minimax:tool_call>\n<invoke name="NAME">\n<parameter name="KEY">VALUE</parameter>\n</invoke>..
//! GLM      <tool_call>NAME\n<arg_key>KEY</arg_key>\n<arg_value>VALUE</arg_value>\n</tool_call>
//! DeepSeek <DSML:function_calls>\n<DSML:invoke name="NAME">\n<DSML:parameter name="KEY" string="true">VALUE..
//! ```
//! (where `DSML:` stands for `\u{ff5c}DSML\u{ff5c}`).
//!
//! The tool's schema determines the type of a value; DeepSeek's `string="false"` marks JSON. A
//! string is returned as it arrives, any other value when it is complete.
//!
//! Models omit and misspell tags. A value therefore also ends before the opener of a parameter at
//! the start of a line, if the schema names that parameter and the call does not have it yet; at a
//! misspelt end; and before the end of the calls if nothing follows it. See [`super::tags`].

use super::arguments::{Arguments, Handed};
use super::emit::Emitter;
use super::input::{Input, Marker, Sought, Stands};
use super::json_calls::JsonCalls;
use super::kinds::Kinds;
use super::layout::Layout;
use super::part::Progress;
use super::tags::{self, End};
use crate::text::output::layout::MAX_NAME_BYTES;

/// The text after a key in quotes that tells whether its value is text; `true"` or `false"`
/// follows.
const IS_TEXT: [&str; 2] = ["\" string=\"", "' string='"];

/// Reads calls, after the opening marker.
#[derive(Debug, Clone)]
pub(super) struct Pairs {
    layout: Layout,
    state: State,
    function: String,
    /// The parameters that the call has so far.
    keys: Vec<String>,
}

#[derive(Debug, Clone)]
enum State {
    /// Before a function, or the end of the calls.
    Function,
    /// In a name, which begins at this byte of the seen text.
    Name(usize),
    /// Before a parameter, or the end of the function.
    Parameter,
    /// In a key, which begins at this byte of the seen text.
    Key(usize),
    /// Between key and value.
    ValueStart(String),
    /// In a value.
    Value(Value),
    /// In arguments that are written as one JSON object.
    Json(Arguments),
    /// After such arguments.
    AfterJson,
    /// In calls that are written as JSON objects.
    Objects(JsonCalls),
    /// After the end of the calls, which may be repeated or followed by other ends.
    Closed,
}

/// A value that is being read.
#[derive(Debug, Clone)]
struct Value {
    kinds: Kinds,
    /// The text so far, for a value that is not forwarded before its end.
    text: String,
    /// A line break at the beginning must still be dropped.
    at_start: bool,
    /// Its beginning was forwarded.
    begun: bool,
}

impl Pairs {
    pub(super) fn new(layout: Layout) -> Self {
        Self { layout, state: State::Function, function: String::new(), keys: Vec::new() }
    }

    pub(super) fn read(&mut self, input: &mut Input, out: &mut Emitter) -> Progress {
        loop {
            let progress = match &mut self.state {
                State::Function => self.function(input),
                State::Name(from) => {
                    let from = *from;
                    self.name(from, input, out)
                }
                State::Parameter => self.parameter(input, out),
                State::Key(from) => {
                    let from = *from;
                    self.key(from, input, out)
                }
                State::ValueStart(key) => {
                    let key = key.clone();
                    self.value_start(key, input, out)
                }
                State::Value(_) => self.value(input, out),
                State::Json(arguments) => {
                    match arguments.read(&[self.layout.close], &[], input, out) {
                        Handed::More => Some(Progress::More),
                        Handed::Whole => self.go(State::AfterJson),
                        // The end of the calls cut it off.
                        Handed::Broken
                            if matches!(input.stands(&self.layout.close), Stands::Yes(_)) =>
                        {
                            self.go(State::AfterJson)
                        }
                        Handed::Broken => Some(Progress::Done),
                    }
                }
                State::AfterJson => self.after_json(input),
                State::Objects(objects) => {
                    let progress = objects.read(input, out);
                    match objects.functions().filter(|_| progress == Progress::Functions) {
                        None => return progress,
                        Some(layout) => {
                            *self = Self::new(layout);
                            None
                        }
                    }
                }
                State::Closed => self.closed(input),
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

    fn function(&mut self, input: &mut Input) -> Option<Progress> {
        if !input.skip_whitespace() {
            return Some(Progress::More);
        }
        let Layout { open, close, name, .. } = self.layout;
        let (again, closes) = (input.stands(&open), input.stands(&close));
        let named = match name {
            Some((begin, _)) => tags::function(begin, input),
            None => Stands::No,
        };
        let any = !self.function.is_empty();
        match (named, again, closes) {
            (Stands::Yes(length), ..) => {
                input.skip(length);
                self.go(State::Name(input.seen().len()))
            }
            // The marker was written twice.
            (_, Stands::Yes(length), _) if !any => {
                input.skip(length);
                None
            }
            (.., Stands::Yes(length)) if any => {
                input.skip(length);
                input.take();
                self.go(State::Closed)
            }
            (Stands::Maybe, ..) | (_, Stands::Maybe, _) | (.., Stands::Maybe) => {
                Some(Progress::More)
            }
            _ if !any && matches!(input.peek(), Some('{' | '[')) => {
                self.go(State::Objects(JsonCalls::new(Some((open, close)))))
            }
            _ if name.is_none() && !any => self.go(State::Name(input.seen().len())),
            // Calls were read, and their closing marker is missing.
            _ if any => Some(Progress::Done),
            _ => Some(Progress::NotACall),
        }
    }

    fn name(&mut self, from: usize, input: &mut Input, out: &mut Emitter) -> Option<Progress> {
        let Layout { name: around, key, close, .. } = self.layout;
        let (line, tag) = (Marker::spelled("\n"), Marker::spelled("<"));
        let ends = match around {
            Some((_, end)) => vec![end, line, tag],
            None => vec![line, key.0, close, Marker::spelled("{")],
        };
        let sought = input.seek(&ends);
        // Some versions of the format have quotes here and others do not.
        let name = input.seen()[from..].trim().trim_matches(['"', '\'']).to_owned();
        let has_end = around.is_some();
        match sought {
            // Only the name is there.
            Sought::Nothing if has_end || !input.ended || input.cut => {
                let hopeless = input.ended || name.len() > MAX_NAME_BYTES;
                return Some(if hopeless { Progress::NotACall } else { Progress::More });
            }
            _ if !out.offers(&name) => return Some(Progress::NotACall),
            Sought::Marker(0, length) if has_end => input.skip(length),
            Sought::Marker(..) => match around.map(|(_, end)| tags::past_space(end, input)) {
                Some(Stands::Yes(length)) => input.skip(length),
                Some(Stands::Maybe) => return Some(Progress::More),
                _ => {}
            },
            Sought::Nothing => {}
        }
        input.take();
        out.start(&name);
        self.function = name;
        self.keys.clear();
        self.go(State::Parameter)
    }

    fn parameter(&mut self, input: &mut Input, out: &mut Emitter) -> Option<Progress> {
        if !input.skip_whitespace() {
            return Some(Progress::More);
        }
        if input.ended && input.ahead().is_empty() {
            // All required parameters are there; only the end is missing.
            return if input.cut { self.cut(input, out) } else { self.complete(0, input, out) };
        }
        let Layout { open, name, function_end, close, .. } = self.layout;
        let end = function_end.map_or(Stands::No, |end| input.stands(&end));
        let closes = input.stands(&close);
        let next = name.map_or(Stands::No, |(begin, _)| tags::function(begin, input));
        let next = next.or(input.stands(&open));
        let named = tags::bare_key(&self.layout, &self.function, &self.keys, input, out.tools());
        let key = tags::parameter(&self.layout, input).or(named);
        match (end, closes, next, key) {
            (Stands::Yes(length), ..) => {
                self.complete(length, input, out);
                self.go(State::Function)
            }
            (_, Stands::Yes(length), ..) => {
                self.complete(length, input, out);
                self.go(State::Closed)
            }
            (_, _, Stands::Yes(_), _) => {
                self.complete(0, input, out);
                self.go(State::Function)
            }
            (.., Stands::Yes(length)) => {
                input.skip(length);
                self.go(State::Key(input.seen().len()))
            }
            (Stands::Maybe, ..)
            | (_, Stands::Maybe, ..)
            | (_, _, Stands::Maybe, _)
            | (.., Stands::Maybe) => Some(Progress::More),
            _ => self.stray(input, out),
        }
    }

    /// Handles unexpected text in the place of a parameter or an end.
    fn stray(&mut self, input: &mut Input, out: &mut Emitter) -> Option<Progress> {
        if self.keys.is_empty() && input.peek() == Some('{') {
            input.take();
            return self.go(State::Json(Arguments::announced()));
        }
        match tags::closing(&self.layout, input) {
            // An extra or misspelt end.
            Stands::Yes(length) => {
                input.skip(length);
                input.take();
                None
            }
            Stands::Maybe => Some(Progress::More),
            Stands::No => self.cut(input, out),
        }
    }

    /// Completes the call, whose end has `length` bytes.
    fn complete(
        &mut self,
        length: usize,
        input: &mut Input,
        out: &mut Emitter,
    ) -> Option<Progress> {
        input.skip(length);
        input.take();
        out.arguments(if self.keys.is_empty() { "{}" } else { "}" });
        out.end();
        Some(Progress::Done)
    }

    /// Cuts off the call. The text ahead is plain text, except for a tag that was truncated at the
    /// end of the answer.
    fn cut(&mut self, input: &mut Input, out: &mut Emitter) -> Option<Progress> {
        let in_key = matches!(self.state, State::Key(_));
        input.rewind();
        if input.is_tag_cut() || (input.ended && input.cut && in_key) {
            input.skip(input.ahead().len());
            input.take();
        }
        if self.keys.is_empty() {
            out.arguments("{");
        }
        out.cut();
        Some(Progress::Done)
    }

    fn key(&mut self, from: usize, input: &mut Input, out: &mut Emitter) -> Option<Progress> {
        let end = self.layout.key.1;
        let ends = [end, Marker::spelled("\n"), Marker::spelled("<")];
        let sought = input.seek(&ends);
        let key = input.seen()[from..].trim().trim_matches(['"', '\'']).to_owned();
        match sought {
            _ if key.len() > MAX_NAME_BYTES => self.cut(input, out),
            Sought::Marker(0, length) => {
                input.skip(length);
                input.take();
                self.go(State::ValueStart(key))
            }
            // The end is missing, unless it is about to arrive.
            Sought::Marker(..) if tags::past_space(end, input) == Stands::Maybe => {
                Some(Progress::More)
            }
            Sought::Marker(..) if !key.is_empty() => {
                if let Stands::Yes(length) = tags::past_space(end, input) {
                    input.skip(length);
                }
                input.take();
                self.go(State::ValueStart(key))
            }
            Sought::Nothing if !input.ended => Some(Progress::More),
            _ => self.cut(input, out),
        }
    }

    fn value_start(
        &mut self,
        key: String,
        input: &mut Input,
        out: &mut Emitter,
    ) -> Option<Progress> {
        if let Some(open) = self.layout.value {
            // A misspelt end of the key may come before it, too.
            let strays = [self.layout.key.1, open];
            if !input.skip_whitespace() {
                return Some(Progress::More);
            }
            match input.stands(&open).or(tags::like(&strays, input)) {
                Stands::Yes(length) => {
                    let is_open = input.ahead().as_bytes().get(1) != Some(&b'/');
                    input.skip(length);
                    if !is_open {
                        input.take();
                        return None;
                    }
                }
                Stands::Maybe => return Some(Progress::More),
                // The marker is missing.
                Stands::No => {}
            }
        }
        input.take();
        let (key, marked) = match IS_TEXT.iter().find_map(|mark| key.split_once(mark)) {
            Some((key, "true")) => (key, Some(Kinds::TEXT)),
            Some((key, "false")) => (key, Some(Kinds::JSON)),
            Some((key, _)) => (key, None),
            None => (key.as_str(), None),
        };
        let kinds = marked.unwrap_or_else(|| out.tools().kinds(&self.function, key));
        let before = if self.keys.is_empty() { "{" } else { ", " };
        out.arguments(&format!("{before}{}: ", quoted(key)));
        self.keys.push(key.to_owned());
        if kinds.is_text() {
            out.arguments("\"");
        }
        let at_start = self.layout.lines;
        self.go(State::Value(Value { kinds, text: String::new(), at_start, begun: false }))
    }

    fn value(&mut self, input: &mut Input, out: &mut Emitter) -> Option<Progress> {
        let State::Value(value) = &mut self.state else { return None };
        if value.at_start {
            match input.peek() {
                Some('\n') => input.skip(1),
                None if !input.ended => return Some(Progress::More),
                _ => {}
            }
            input.take();
            value.at_start = false;
        }
        let at_start = !value.begun;
        let known = tags::Known { function: &self.function, keys: &self.keys, at_start };
        let (end, found) = tags::seek_end(&self.layout, known, input, out.tools());
        let is_over = input.ended && found == End::Nothing;
        let before = &input.seen()[..end];
        // A line break before the end is not part of the value. Whether it is before the end is
        // unknown yet or depends on the format.
        let kept = match found {
            _ if is_over && input.cut => end - self.layout.cut_marker(before),
            _ if is_over => end,
            End::Value(_) if !self.layout.lines => end,
            End::Value(_) => before.strip_suffix('\n').map_or(end, str::len),
            _ => {
                let line = before.trim_end_matches([' ', '\t']);
                line.strip_suffix('\n').map_or(end, str::len)
            }
        };
        match found {
            End::Value(at) | End::Here(at) => {
                input.go_to(at);
                let text = input.take_to(kept);
                input.take();
                value.push(&text, out);
                value.finish(out);
                self.go(State::Parameter)
            }
            End::Maybe | End::Nothing => {
                // The text before it is certain.
                value.push(&input.take_to(kept), out);
                if is_over && input.cut {
                    input.take();
                }
                input.rewind();
                if !input.ended {
                    return Some(Progress::More);
                }
                value.break_off(out);
                out.cut();
                Some(Progress::Done)
            }
        }
    }

    fn after_json(&mut self, input: &mut Input) -> Option<Progress> {
        if !input.skip_whitespace() {
            input.rewind();
            return Some(Progress::More);
        }
        let close = input.stands(&self.layout.close);
        match (close, tags::closing(&self.layout, input)) {
            (Stands::No, Stands::Yes(length)) => {
                input.skip(length);
                input.take();
                None
            }
            (Stands::Maybe, _) | (_, Stands::Maybe) => {
                input.rewind();
                Some(Progress::More)
            }
            _ => self.go(State::Function),
        }
    }
}

impl Pairs {
    fn closed(&mut self, input: &mut Input) -> Option<Progress> {
        if !input.skip_whitespace() {
            input.rewind();
            return Some(Progress::More);
        }
        match input.stands(&self.layout.close).or(tags::closing(&self.layout, input)) {
            Stands::Yes(length) => {
                input.skip(length);
                input.take();
                None
            }
            Stands::Maybe => {
                input.rewind();
                Some(Progress::More)
            }
            Stands::No => Some(Progress::Done),
        }
    }
}

impl Value {
    fn push(&mut self, text: &str, out: &mut Emitter) {
        self.begun |= !text.is_empty();
        if self.kinds.is_text() {
            let quoted = quoted(text);
            out.arguments(&quoted[1..quoted.len() - 1]);
        } else {
            self.text.push_str(text)
        }
    }

    fn finish(&self, out: &mut Emitter) {
        if self.kinds.is_text() {
            out.arguments("\"")
        } else {
            out.arguments(&self.kinds.value(&self.text))
        }
    }

    /// Ends a value without an end marker. The available part is forwarded as it is.
    fn break_off(&self, out: &mut Emitter) {
        out.arguments(&self.text);
    }
}

/// A JSON string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
