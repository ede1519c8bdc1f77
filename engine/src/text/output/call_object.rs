//! A call written as one JSON object, `{"name": .., "arguments": {..}}`.

use super::emit::Emitter;
use super::json::{Scanner, Step, whole_value};

/// Reads a call object, one character at a time. The call is started when its name is known to be a
/// tool's and its arguments begin; from then on the arguments are forwarded as they arrive.
///
/// `parameters` is another name for `arguments`. Arguments may be absent or null (then they are
/// empty), may come before the name, and may be an object inside a string. Other members are
/// skipped.
#[derive(Debug, Clone)]
pub(super) struct CallObject {
    state: State,
    scanner: Scanner,
    /// The part of the current key or value that was read.
    text: String,
    name: Option<String>,
    /// Arguments that came before the name.
    early: Option<String>,
    /// The call was started.
    begun: bool,
    /// Its arguments are complete.
    complete: bool,
    /// If set, a name and, under this key, arguments are required, and only an id and a type are
    /// allowed besides.
    strict: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    KeyOrEnd,
    Key,
    Colon,
    Value(Member),
    CommaOrEnd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Member {
    Name,
    Arguments,
    Other,
}

impl CallObject {
    pub(super) fn new(strict: Option<&'static str>) -> Self {
        Self {
            strict,
            state: State::Open,
            scanner: Scanner::new(),
            text: String::new(),
            name: None,
            early: None,
            begun: false,
            complete: false,
        }
    }

    /// Whether the call was started, so that it cannot be taken back.
    pub(super) fn begun(&self) -> bool {
        self.begun
    }

    /// Whether all arguments were forwarded.
    pub(super) fn complete(&self) -> bool {
        self.complete
    }

    /// Whether the next character belongs to a string.
    pub(super) fn in_text(&self) -> bool {
        matches!(self.state, State::Key | State::Value(_)) && self.scanner.in_text()
    }

    /// Closes open brackets of the arguments, if only brackets are missing.
    pub(super) fn close(&mut self, out: &mut Emitter) {
        if self.begun && self.state == State::Value(Member::Arguments) {
            self.complete = self.scanner.close_all(&mut self.text);
            self.hand_on(out);
        }
    }

    /// Reads `c`. Returns `More`, `Done` or `Invalid`.
    pub(super) fn push(&mut self, c: char, out: &mut Emitter) -> Step {
        let space = matches!(c, ' ' | '\t' | '\n' | '\r');
        match (self.state, c) {
            (State::Key | State::Value(_), _) => self.scan(c, out),
            _ if space => Step::More,
            (State::Open, '{') => self.go(State::KeyOrEnd),
            (State::Colon, ':') => match self.member() {
                Some(member) => self.go(State::Value(member)),
                None => Step::Invalid,
            },
            (State::CommaOrEnd, ',') => self.go(State::KeyOrEnd),
            (State::KeyOrEnd | State::CommaOrEnd, '}') => self.end(out),
            (State::KeyOrEnd, '"' | '\'') => {
                self.go(State::Key);
                self.scan(c, out)
            }
            _ => Step::Invalid,
        }
    }

    fn go(&mut self, state: State) -> Step {
        if matches!(state, State::Key | State::Value(_)) {
            self.scanner = Scanner::new();
            self.text.clear();
        }
        self.state = state;
        Step::More
    }

    /// The member of a call that the key stands for. `None`: another member.
    fn member(&self) -> Option<Member> {
        let wants_arguments = self.early.is_none() && !self.begun;
        let key = self.text.trim_matches('"');
        let is_arguments = match self.strict {
            Some(strict) => key == strict,
            None => ["arguments", "parameters"].contains(&key),
        };
        match key {
            "name" if self.name.is_none() => Some(Member::Name),
            _ if is_arguments && wants_arguments => Some(Member::Arguments),
            "id" | "type" => Some(Member::Other),
            _ => self.strict.is_none().then_some(Member::Other),
        }
    }

    fn scan(&mut self, c: char, out: &mut Emitter) -> Step {
        let step = self.scanner.push(c, &mut self.text);
        if step == Step::Invalid {
            return step;
        }
        if self.state == State::Value(Member::Arguments) {
            self.hand_on(out);
        }
        match (step, self.state) {
            (Step::More, _) => Step::More,
            (_, State::Value(member)) => {
                if !self.value_read(member, out) {
                    return Step::Invalid;
                }
                self.state = State::CommaOrEnd;
                if step == Step::DoneBefore { self.push(c, out) } else { Step::More }
            }
            _ => {
                self.state = State::Colon;
                Step::More
            }
        }
    }

    /// Forwards the arguments object of a known function as it arrives.
    fn hand_on(&mut self, out: &mut Emitter) {
        if !self.begun && self.text.starts_with('{') {
            let Some(name) = &self.name else { return };
            out.start(name);
            self.begun = true;
        }
        if self.begun {
            out.arguments(&self.text);
            self.text.clear();
        }
    }

    /// Handles a complete value. Returns false when the object cannot be a call.
    fn value_read(&mut self, member: Member, out: &mut Emitter) -> bool {
        match member {
            Member::Other => {}
            Member::Arguments if self.begun => self.complete = true,
            Member::Arguments => match (as_object(&self.text), &self.name) {
                (Some(arguments), None) => self.early = Some(arguments),
                (Some(arguments), Some(name)) => self.whole(&name.clone(), &arguments, out),
                (None, _) => return false,
            },
            Member::Name => {
                let name = serde_json::from_str::<String>(&self.text).ok();
                let Some(name) = name.filter(|name| out.offers(name)) else { return false };
                if let Some(arguments) = self.early.clone() {
                    self.whole(&name, &arguments, out);
                }
                self.name = Some(name);
            }
        }
        true
    }

    fn end(&mut self, out: &mut Emitter) -> Step {
        if !self.begun {
            let name = self.name.clone().filter(|_| self.strict.is_none());
            let Some(name) = name else { return Step::Invalid };
            self.whole(&name, "{}", out);
        }
        Step::Done
    }

    fn whole(&mut self, name: &str, arguments: &str, out: &mut Emitter) {
        out.start(name);
        out.arguments(arguments);
        (self.begun, self.complete) = (true, true);
    }
}

/// The arguments object of a value that was read completely.
pub(super) fn as_object(text: &str) -> Option<String> {
    match text.as_bytes().first()? {
        b'{' => Some(text.to_owned()),
        b'n' => Some("{}".to_owned()),
        b'"' => {
            let inner = serde_json::from_str::<String>(text).ok()?;
            let inner = inner.trim();
            if inner.is_empty() {
                return Some("{}".to_owned());
            }
            whole_value(inner).filter(|value| value.starts_with('{'))
        }
        _ => None,
    }
}
