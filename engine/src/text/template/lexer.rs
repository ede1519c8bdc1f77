//! Finds a template's tags and their tokens with the same rules as minijinja's lexer: text that one
//! of the two takes for a tag must not be plain text for the other.

use std::ops::Range;

/// The kind of a token, as far as the guard needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A name or a keyword.
    Word,
    Number,
    /// A text in quotes.
    Text,
    /// An operator or a bracket.
    Sign,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    /// Bytes of the source.
    pub(super) at: Range<usize>,
    /// For a bracket: the index of the matching one in the list of tokens.
    pub(super) mate: Option<usize>,
}

/// `{{ .. }}` or `{% .. %}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tag {
    pub(super) is_statement: bool,
    /// Range in the source, including the delimiters.
    pub(super) at: Range<usize>,
    pub(super) tokens: Vec<Token>,
    /// Maximum number of open brackets.
    pub(super) depth: usize,
}

const SIGNS: [&str; 6] = ["//", "**", "==", "!=", ">=", "<="];

/// Returns all tags of a template in order. Comments and raw blocks are text.
///
/// # Errors
/// Describes what is not closed, with its line.
pub(super) fn tags(source: &str) -> Result<Vec<Tag>, String> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(start) = next_opening(source, at) {
        let unclosed = |what: &str| format!("{what} in line {} does not end", line(source, start));
        let flag = usize::from(source[start + 2..].starts_with(['-', '+']));
        let inside = start + 2 + flag;
        at = match &source[start..start + 2] {
            "{#" => {
                let end = source[inside..].find("#}").ok_or_else(|| unclosed("the comment"))?;
                inside + end + 2
            }
            opening => match basic_tag(&source[inside..], "raw") {
                Some(length) if opening == "{%" => {
                    let length = raw_end(&source[inside + length..])
                        .map(|end| length + end)
                        .ok_or_else(|| unclosed("the raw block"))?;
                    inside + length
                }
                _ => {
                    let mut reader = Reader {
                        source,
                        at: inside,
                        tokens: Vec::new(),
                        open: Vec::new(),
                        depth: 0,
                    };
                    let closing = if opening == "{%" { "%}" } else { "}}" };
                    if !reader.read(closing)? {
                        return Err(unclosed("the tag"));
                    }
                    let Reader { at: end, tokens, depth, .. } = reader;
                    found.push(Tag {
                        is_statement: opening == "{%",
                        at: start..end,
                        tokens,
                        depth,
                    });
                    end
                }
            },
        };
    }
    Ok(found)
}

/// The line of a position, counted from one.
pub(super) fn line(source: &str, at: usize) -> usize {
    1 + source[..at].matches('\n').count()
}

fn next_opening(source: &str, from: usize) -> Option<usize> {
    let mut from = from;
    loop {
        let at = from + source[from..].find('{')?;
        if source[at + 1..].starts_with(['{', '%', '#']) {
            return Some(at);
        }
        from = at + 1;
    }
}

/// The length of the text after `{%` if the tag is `name` and nothing else.
fn basic_tag(text: &str, name: &str) -> Option<usize> {
    let space = |c: char| c.is_ascii_whitespace();
    let rest = text.trim_start_matches(space).strip_prefix(name)?.trim_start_matches(space);
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest).strip_prefix("%}")?;
    Some(text.len() - rest.len())
}

/// The position after `{% endraw %}`.
fn raw_end(text: &str) -> Option<usize> {
    let mut at = 0;
    loop {
        at += text[at..].find("{%")? + 2;
        let inside = &text[at..];
        let flag = usize::from(inside.starts_with(['-', '+']));
        if let Some(length) = basic_tag(&inside[flag..], "endraw") {
            return Some(at + flag + length);
        }
    }
}

struct Reader<'s> {
    source: &'s str,
    at: usize,
    tokens: Vec<Token>,
    /// Indices of the open brackets in `tokens`.
    open: Vec<usize>,
    depth: usize,
}

impl Reader<'_> {
    /// Reads up to and including `closing`. Returns whether it was found.
    fn read(&mut self, closing: &str) -> Result<bool, String> {
        loop {
            let rest = &self.source[self.at..];
            let trimmed = rest.trim_start_matches(|c: char| c.is_ascii_whitespace());
            self.at += rest.len() - trimmed.len();
            let Some(first) = trimmed.chars().next() else { return Ok(false) };
            let flag = usize::from(trimmed.starts_with(['-', '+']));
            if self.open.is_empty() && trimmed[flag..].starts_with(closing) {
                self.at += flag + closing.len();
                return Ok(true);
            }
            let (kind, length) = match first {
                '\'' | '"' => match text_length(trimmed) {
                    Some(length) => (Kind::Text, length),
                    None => return Err(self.says("a text in quotes does not end")),
                },
                '0'..='9' => (Kind::Number, self.number_length(trimmed)),
                c if is_word(c) => {
                    (Kind::Word, trimmed.find(|c: char| !is_word(c)).unwrap_or(trimmed.len()))
                }
                c if c.is_ascii() => {
                    let long = SIGNS.iter().any(|sign| trimmed.starts_with(sign));
                    (Kind::Sign, if long { 2 } else { 1 })
                }
                c => {
                    return Err(self.says(&format!("the character {c:?} stands outside of quotes")));
                }
            };
            self.push(kind, length)?;
        }
    }

    fn push(&mut self, kind: Kind, length: usize) -> Result<(), String> {
        let at = self.at..self.at + length;
        let place = self.tokens.len();
        let mut mate = None;
        if kind == Kind::Sign {
            match &self.source[at.clone()] {
                "(" | "[" | "{" => {
                    self.open.push(place);
                    self.depth = self.depth.max(self.open.len());
                }
                sign @ (")" | "]" | "}") => {
                    let opening = self.open.pop().map(|open| (open, &self.tokens[open].at));
                    let opening = opening.map(|(open, at)| (open, &self.source[at.clone()]));
                    match (opening, sign) {
                        (Some((open, "(")), ")")
                        | (Some((open, "[")), "]")
                        | (Some((open, "{")), "}") => {
                            self.tokens[open].mate = Some(place);
                            mate = Some(open);
                        }
                        _ => return Err(self.says(&format!("{sign:?} closes nothing"))),
                    }
                }
                _ => {}
            }
        }
        self.tokens.push(Token { kind, at, mate });
        self.at += length;
        Ok(())
    }

    fn says(&self, what: &str) -> String {
        format!("{what} in line {}", line(self.source, self.at))
    }

    /// The length of a number with its fraction and exponent. After a dot it is an index, without
    /// either.
    fn number_length(&self, text: &str) -> usize {
        let bytes = text.as_bytes();
        let digits = |from: usize| {
            bytes[from..].iter().take_while(|b| b.is_ascii_digit() || **b == b'_').count()
        };
        if bytes[0] == b'0' && matches!(bytes.get(1), Some(b'x' | b'X' | b'b' | b'B' | b'o' | b'O'))
        {
            let is_digit = |b: &&u8| b.is_ascii_hexdigit() || **b == b'_';
            return 2 + bytes[2..].iter().take_while(is_digit).count();
        }
        let mut length = digits(0);
        if self.source.as_bytes()[..self.at].last() == Some(&b'.') {
            return length;
        }
        if bytes.get(length) == Some(&b'.') && bytes.get(length + 1).is_some_and(u8::is_ascii_digit)
        {
            length += 1 + digits(length + 1);
        }
        if matches!(bytes.get(length), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(length + 1), Some(b'+' | b'-')));
            let exponent = digits((length + 1 + sign).min(bytes.len()));
            length += if exponent > 0 { 1 + sign + exponent } else { 0 };
        }
        length
    }
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_ascii_alphanumeric() || (!c.is_ascii() && c.is_alphanumeric()) || is_mark(c)
}

/// Combining marks, which may be part of a name.
fn is_mark(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}' | '\u{93e}'..='\u{94d}' | '\u{e31}'..='\u{e4e}')
}

/// The length of a text with its quotes, if it ends.
fn text_length(text: &str) -> Option<usize> {
    let quote = text.as_bytes()[0];
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            byte if byte == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(source: &str) -> Vec<Vec<&str>> {
        let tags = tags(source).unwrap();
        let texts = |tag: &Tag| tag.tokens.iter().map(|t| &source[t.at.clone()]).collect();
        tags.iter().map(texts).collect()
    }

    #[test]
    fn tags_are_what_the_dependency_takes_for_tags() {
        assert_eq!(
            words("a {{ b }} { {# {{ c }} #} {%- if d -%} }}"),
            [vec!["b"], vec!["if", "d"]]
        );
        assert_eq!(words("{%+ raw -%} {{ a }} {%- endraw %}{{ b }}"), [["b"]]);
        assert_eq!(
            words("{{ '}}' ~ {'a': {}} }}"),
            [["'}}'", "~", "{", "'a'", ":", "{", "}", "}"]]
        );
        assert_eq!(
            words("{{ 1.5e-3-2 }}{{ a.1.0 }}{{ 0xfe-1 }}"),
            [vec!["1.5e-3", "-", "2"], vec!["a", ".", "1", ".", "0"], vec!["0xfe", "-", "1"]]
        );
        assert_eq!(
            words("{{ gr\u{f6}\u{df}e\u{301}//x }}"),
            [["gr\u{f6}\u{df}e\u{301}", "//", "x"]]
        );
        for broken in [
            "{{ a",
            "{# a",
            "{% raw %} {% end %}",
            "{{ 'a }}",
            "{{ (] }}",
            "{{ ) }}",
            "{{ \u{2192} }}",
        ] {
            assert!(tags(broken).is_err(), "{broken}");
        }
    }
}
