//! Keywords of strings: lengths, patterns, formats.

use serde_json::{Map, Value, json};

use super::automaton::{Combined, combine, is_decided};
use super::formats;
use super::pass::{Pass, Place, wrong};
use super::rewrite::Parts;
use super::types::Types;
use crate::text::grammar::error::GrammarError;

impl Pass<'_> {
    /// Handles `minLength`, `maxLength`, `pattern` and `format`.
    pub(super) fn text(
        &mut self,
        fields: &Map<String, Value>,
        parts: &mut Parts,
        place: &Place<'_>,
    ) -> Result<(), GrammarError> {
        if !parts.types.has(Types::STRING) {
            return Ok(());
        }
        let least = self.count(fields, "minLength", place)?.filter(|least| *least > 0);
        let most = self.count(fields, "maxLength", place)?;
        if let (Some(least), Some(most)) = (least, most)
            && least > most
        {
            parts.types = parts.types.without(Types::STRING);
            if parts.types == Types::NONE {
                parts.also.push(self.nothing(place, "minLength is more than maxLength"));
            }
            return Ok(());
        }
        for (name, count) in [("minLength", least), ("maxLength", most)] {
            if let Some(count) = count {
                parts.own.insert(name.to_owned(), count.into());
            }
        }
        let mut patterns = self.pattern(fields, place)?;
        let is_base64 = fields.get("contentEncoding").is_some_and(|encoding| encoding == "base64");
        if is_base64 && patterns.is_empty() {
            patterns.push(formats::BASE64.to_owned());
        }
        if let Some(format) = fields.get("format") {
            let place = place.field("format");
            let format = format.as_str().ok_or_else(|| wrong(&place, "a format is a string"))?;
            let whole = |regex: String| format!("^(?:{regex})$");
            if let Some(exact) = formats::regex(format, true).map(whole) {
                let mut all = patterns.clone();
                all.push(exact.clone());
                if least.is_some() || most.is_some() {
                    let most = most.map_or(String::new(), |most| most.to_string());
                    all.push(format!("^(?s:.{{{},{most}}})$", least.unwrap_or(0)));
                }
                let is_decided = all.len() == 1 || is_decided(&all);
                let loose = || formats::regex(format, false).map(whole);
                patterns.extend(if is_decided { Some(exact) } else { loose() });
            }
        }
        if let Some(never) = self.never(fields, parts.types, place)? {
            if patterns.is_empty() {
                patterns.push("^".to_owned());
            }
            match combine(&patterns, &[never]) {
                Ok(Combined::Text(regex)) => patterns = vec![regex],
                Ok(Combined::Nothing) => {
                    let why = "every text is excluded by not";
                    parts.also.push(self.nothing(place, why));
                    return Ok(());
                }
                Ok(Combined::TooComplex) => {
                    self.cannot(place, "not", "it is too complex to be told apart")?;
                }
                Err(error) => return Err(wrong(place, error)),
            }
        }
        let mut patterns = patterns.into_iter();
        if let Some(pattern) = patterns.next() {
            parts.own.insert("pattern".to_owned(), pattern.into());
        }
        let is_text = parts.types == Types::STRING;
        parts.also.extend(patterns.map(|pattern| {
            if is_text {
                json!({"type": "string", "pattern": pattern})
            } else {
                json!({"pattern": pattern})
            }
        }));
        Ok(())
    }

    /// The expression of the texts that `not` excludes, if it excludes only texts and nothing else
    /// handles it.
    pub(super) fn never(
        &self,
        fields: &Map<String, Value>,
        types: Types,
        place: &Place<'_>,
    ) -> Result<Option<String>, GrammarError> {
        let not = fields.get("not").and_then(Value::as_object);
        let is_listed = fields.contains_key("enum") || fields.contains_key("const");
        let Some(not) = not.filter(|_| types == Types::STRING && !is_listed) else {
            return Ok(None);
        };
        let kind = not.get("type").is_none_or(|kind| *kind == "string");
        let others: Vec<&String> = not.keys().filter(|name| *name != "type").collect();
        let values: Vec<&Value> = match others.as_slice() {
            [name] if kind && *name == "pattern" => {
                let patterns = self.pattern(not, &place.field("not"))?;
                // The negation of two restrictions cannot be expressed.
                return Ok(<[String; 1]>::try_from(patterns).ok().map(|[pattern]| pattern));
            }
            [name] if kind && *name == "const" => vec![&not["const"]],
            [name] if kind && *name == "enum" => {
                not["enum"].as_array().into_iter().flatten().collect()
            }
            _ => return Ok(None),
        };
        let texts = values.into_iter().filter_map(Value::as_str);
        let texts: Vec<String> = texts.map(crate::text::grammar::pattern::escaped).collect();
        Ok((!texts.is_empty()).then(|| format!("^(?:{})$", texts.join("|"))))
    }

    /// The regular expressions of `pattern`, all of which must match.
    pub(super) fn pattern(
        &self,
        fields: &Map<String, Value>,
        place: &Place<'_>,
    ) -> Result<Vec<String>, GrammarError> {
        let Some(pattern) = fields.get("pattern") else { return Ok(Vec::new()) };
        let named = place.field("pattern");
        let pattern = pattern.as_str().ok_or_else(|| wrong(&named, "a pattern is a string"))?;
        self.regexes(pattern, place)
    }

    /// Translates a regular expression of JSON Schema (ECMAScript syntax) to Rust expressions, all
    /// of which must match. `None`: it is ignored.
    pub(super) fn regexes(
        &self,
        pattern: &str,
        place: &Place<'_>,
    ) -> Result<Vec<String>, GrammarError> {
        match read(pattern) {
            Ok(regexes) => Ok(regexes),
            Err(Unread::Wrong(what)) => {
                let what = format!("{what} in the pattern '{pattern:.80}'");
                Err(wrong(&place.field("pattern"), what))
            }
            Err(Unread::Unknown(why)) => self.cannot(place, "pattern", why).map(|()| Vec::new()),
        }
    }
}

/// Why a regular expression cannot be read.
enum Unread {
    /// It is invalid.
    Wrong(String),
    /// It has a part that cannot be enforced.
    Unknown(&'static str),
}

const LOOK_AROUND: &str =
    "look-around can be read only at the beginning, right after '^', and ahead";

fn read(pattern: &str) -> Result<Vec<String>, Unread> {
    if let Some(same) = formats::published(pattern) {
        return Ok(vec![same]);
    }
    let (ahead, rest) = looks_ahead(pattern)?;
    if !ahead.is_empty() && has_choice(rest) {
        return Err(Unread::Unknown(LOOK_AROUND));
    }
    let rest = translated(rest)?;
    let mut must = vec![if ahead.is_empty() { rest } else { format!("^{rest}") }];
    let mut never = Vec::new();
    for (is_wanted, inner) in ahead {
        let inner = format!("^(?:{})", translated(inner)?);
        if is_wanted { must.push(inner) } else { never.push(inner) }
    }
    must.iter().chain(&never).try_for_each(|regex| readable(regex))?;
    if !never.is_empty() {
        match combine(&["^".to_owned()], &never) {
            Ok(Combined::Text(regex)) => must.push(regex),
            Ok(Combined::Nothing) => {
                return Err(Unread::Wrong("no text matches the pattern".to_owned()));
            }
            Ok(Combined::TooComplex) => {
                return Err(Unread::Unknown("what it looks ahead for is too complex"));
            }
            Err(error) => return Err(Unread::Wrong(error)),
        }
    }
    Ok(must)
}

fn readable(regex: &str) -> Result<(), Unread> {
    match super::automaton::check(regex) {
        Ok(()) => Ok(()),
        Err(error) if error.contains("lookarounds") => Err(Unread::Unknown(
            "'^' and '$' can be read only where the text begins and ends, and word boundaries not at all",
        )),
        Err(error) => Err(Unread::Wrong(error)),
    }
}

/// A look-ahead: whether its expression must match, and the expression.
type LookAhead<'p> = (bool, &'p str);

/// The look-aheads right after `^`, and the remaining pattern.
fn looks_ahead(pattern: &str) -> Result<(Vec<LookAhead<'_>>, &str), Unread> {
    let Some(mut rest) = pattern.strip_prefix('^') else { return Ok((Vec::new(), pattern)) };
    let mut ahead = Vec::new();
    while let Some(is_wanted) = [("(?=", true), ("(?!", false)]
        .iter()
        .find_map(|(open, wanted)| rest.starts_with(open).then_some(*wanted))
    {
        let unclosed = || Unread::Wrong("a bracket of the pattern is not closed".to_owned());
        let end = closing(rest).ok_or_else(unclosed)?;
        ahead.push((is_wanted, &rest[3..end]));
        rest = &rest[end + 1..];
    }
    if ahead.is_empty() { Ok((ahead, pattern)) } else { Ok((ahead, rest)) }
}

/// Walks through a pattern outside classes and escapes, tracking the depth of brackets.
fn walk(pattern: &str, mut found: impl FnMut(char, usize) -> bool) -> Option<usize> {
    let (mut depth, mut in_class, mut is_escaped) = (0usize, false, false);
    for (at, c) in pattern.char_indices() {
        match c {
            _ if is_escaped => {
                is_escaped = false;
                continue;
            }
            '\\' => {
                is_escaped = true;
                continue;
            }
            ']' => in_class = false,
            _ if in_class => continue,
            '[' => in_class = true,
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if found(c, depth) {
            return Some(at);
        }
    }
    None
}

/// The position at which the first bracket closes.
fn closing(pattern: &str) -> Option<usize> {
    walk(pattern, |c, depth| c == ')' && depth == 0)
}

/// Whether the pattern has alternatives at the top level.
fn has_choice(pattern: &str) -> bool {
    walk(pattern, |c, depth| c == '|' && depth == 0).is_some()
}

/// The white space of ECMAScript.
const SPACES: &str = r"\t\n\x0B\x0C\r\x20\u{A0}\u{1680}\u{2000}-\u{200A}\u{2028}\u{2029}\u{202F}\u{205F}\u{3000}\u{FEFF}";

/// Translates an ECMAScript expression to Rust's syntax.
fn translated(pattern: &str) -> Result<String, Unread> {
    let chars: Vec<char> = pattern.chars().collect();
    let (mut regex, mut at, mut in_class, mut is_counting) = (String::new(), 0, false, false);
    let mut is_negated = false;
    while let Some(&c) = chars.get(at) {
        let rest = &chars[at + 1..];
        at += 1;
        match c {
            '\\' => at += escape(rest, in_class, &mut regex)?,
            ']' if in_class => {
                in_class = false;
                // llguidance assumes that a class with all control characters also has quotes and
                // backslashes.
                regex.push_str(if is_negated { "]" } else { r"]&&[^\x00]]" });
            }
            '[' if in_class => regex.push_str(r"\["),
            '&' | '~' if in_class => regex.extend(['\\', c]),
            c if in_class => regex.push(c),
            '[' => match rest {
                ['^', ']', ..] => {
                    regex.push_str("(?s:.)");
                    at += 2;
                }
                [']', ..] => return Err(Unread::Wrong("a class without characters".to_owned())),
                ['^', ..] => {
                    regex.push_str(r"[^\x00");
                    at += 1;
                    (in_class, is_negated) = (true, true);
                }
                _ => {
                    regex.push_str("[[");
                    (in_class, is_negated) = (true, false);
                }
            },
            '.' => regex.push_str(r"[^\x00\n\r\u{2028}\u{2029}]"),
            '(' => at += group(rest, &mut regex)?,
            '{' if is_count(rest) => {
                is_counting = true;
                regex.push('{');
            }
            '}' if is_counting => {
                is_counting = false;
                regex.push('}');
            }
            '{' | '}' => regex.extend(['\\', c]),
            c => regex.push(c),
        }
    }
    Ok(regex)
}

/// Whether `{` begins a repetition count.
fn is_count(rest: &[char]) -> bool {
    let end = rest.iter().position(|c| *c == '}').unwrap_or(0);
    let inner = &rest[..end];
    inner.first().is_some_and(char::is_ascii_digit)
        && inner.iter().all(|c| c.is_ascii_digit() || *c == ',')
}

/// Translates the text after `(`. Returns the number of characters read.
fn group(rest: &[char], regex: &mut String) -> Result<usize, Unread> {
    match rest {
        ['?', '=' | '!', ..] | ['?', '<', '=' | '!', ..] => Err(Unread::Unknown(LOOK_AROUND)),
        // Group names have another meaning in llguidance.
        ['?', '<', ..] | ['?', 'P', '<', ..] => {
            let end = rest.iter().position(|c| *c == '>');
            let unnamed = || Unread::Wrong("the name of a group does not end".to_owned());
            regex.push_str("(?:");
            Ok(end.ok_or_else(unnamed)? + 1)
        }
        ['?', ..] => {
            regex.push_str("(?");
            Ok(1)
        }
        _ => {
            regex.push_str("(?:");
            Ok(0)
        }
    }
}

/// Translates the text after a backslash. Returns the number of characters read.
fn escape(rest: &[char], in_class: bool, regex: &mut String) -> Result<usize, Unread> {
    let Some(&c) = rest.first() else {
        return Err(Unread::Wrong("the pattern ends in a backslash".to_owned()));
    };
    let mut class = |what: &str, is_not: bool| {
        let brackets = match (in_class, is_not) {
            (true, false) => ["", ""],
            (_, true) => [r"[^\x00", "]"],
            (false, false) => ["[", "]"],
        };
        regex.push_str(brackets[0]);
        regex.push_str(what);
        regex.push_str(brackets[1]);
    };
    match c {
        'd' | 'D' => class("0-9", c == 'D'),
        'w' | 'W' => class("0-9A-Za-z_", c == 'W'),
        's' | 'S' => class(SPACES, c == 'S'),
        'b' if in_class => regex.push_str(r"\x08"),
        'b' | 'B' => return Err(Unread::Unknown("word boundaries cannot be read")),
        '0' => regex.push_str(r"\x00"),
        '1'..='9' | 'k' => return Err(Unread::Unknown("backreferences cannot be read")),
        'c' => {
            let letter = rest.get(1).filter(|c| c.is_ascii_alphabetic());
            let letter = letter.ok_or_else(|| Unread::Wrong(r"\c without a letter".to_owned()))?;
            regex.push_str(&format!(r"\x{:02X}", *letter as u32 % 32));
            return Ok(2);
        }
        'u' if rest.get(1) != Some(&'{') => return code_units(rest, regex),
        'n' | 'r' | 't' | 'f' | 'v' | 'x' | 'u' => regex.extend(['\\', c]),
        'p' | 'P' => {
            // Rust uses the same name; its brackets are not ours.
            let end = rest.iter().position(|c| *c == '}').unwrap_or(0);
            regex.push_str(if in_class { "\\" } else { "[\\" });
            regex.extend(&rest[..=end]);
            regex.push_str(if in_class { "" } else { r"&&[^\x00]]" });
            return Ok(end + 1);
        }
        c if c.is_ascii_punctuation() && !matches!(c, '<' | '>') => regex.extend(['\\', c]),
        c => regex.push(c),
    }
    Ok(1)
}

/// Reads `\uXXXX`, twice for characters beyond the first plane.
fn code_units(rest: &[char], regex: &mut String) -> Result<usize, Unread> {
    let unit = |rest: &[char]| {
        let digits: String = rest.get(1..5)?.iter().collect();
        u16::from_str_radix(&digits, 16).ok().filter(|_| rest[0] == 'u')
    };
    let wrong = || Unread::Wrong(r"\u without the code of a character".to_owned());
    let first = unit(rest).ok_or_else(wrong)?;
    let second = rest.get(5).filter(|c| **c == '\\').and_then(|_| unit(rest.get(6..)?));
    let units: Vec<u16> = [Some(first), second].into_iter().flatten().collect();
    match char::decode_utf16(units).next() {
        Some(Ok(c)) => {
            regex.push_str(&format!(r"\u{{{:X}}}", c as u32));
            Ok(if c as u32 > 0xFFFF { 11 } else { 5 })
        }
        _ => Err(wrong()),
    }
}
