//! Tags of the formats in [`super::pairs`], including tags that a model misspelt, omitted or
//! repeated.

use super::input::{Input, Marker, Sought, Stands};
use super::layout::{Layout, MAX_NAME_BYTES};
use super::tools::Tools;

/// Limit on a tag. A longer one is ordinary text.
const MAX_TAG_BYTES: usize = 64;
/// The words in openers of a function, in any format.
const FUNCTION_WORDS: [&str; 2] = ["function", "invoke"];
/// The word in openers of a parameter.
const PARAMETER_WORD: &str = "parameter";

/// The end of a value. The value is the text before the result of [`seek_end`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// At its own end, correct or misspelt. The text after that begins at this byte of the seen
    /// text.
    Value(usize),
    /// Before a tag, at this byte, that would come after the end.
    Here(usize),
    /// Unknown yet.
    Maybe,
    /// Not in this text.
    Nothing,
}

/// The known facts about the call that a value belongs to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<'c> {
    pub(super) function: &'c str,
    /// The parameters that it has so far; the last one is the value's.
    pub(super) keys: &'c [String],
    /// The value begins where the input begins.
    pub(super) at_start: bool,
}

/// The tag at the current position.
enum Tag<'t> {
    /// Its word, whether it is a closing tag, and the number of bytes up to the end of the word.
    Word(&'t str, bool, usize),
    Maybe,
    No,
}

/// Reads `<WORD` or `</WORD`, with or without the layout's prefix before the word.
fn tag<'t>(prefix: Option<Marker>, input: &'t Input) -> Tag<'t> {
    let ahead = input.ahead();
    let Some(rest) = ahead.strip_prefix('<') else {
        let is_open = ahead.is_empty() && !input.ended;
        return if is_open { Tag::Maybe } else { Tag::No };
    };
    let (rest, closes) = rest.strip_prefix('/').map_or((rest, false), |rest| (rest, true));
    let text = prefix.map_or("", |prefix| prefix.text);
    if !input.ended && !text.is_empty() && text.starts_with(rest) {
        return Tag::Maybe;
    }
    let rest = rest.strip_prefix(text).unwrap_or(rest);
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '-' | '.');
    let length = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
    if length > MAX_TAG_BYTES {
        return Tag::No;
    }
    if length == rest.len() && !input.ended {
        Tag::Maybe
    } else {
        Tag::Word(&rest[..length], closes, ahead.len() - rest.len() + length)
    }
}

/// Whether a function begins here: the text before its name.
pub(super) fn function(begin: Marker, input: &Input) -> Stands {
    input.stands(&begin).or(opener(None, &FUNCTION_WORDS, input))
}

/// Whether a parameter begins here: the text before its key.
pub(super) fn parameter(layout: &Layout, input: &Input) -> Stands {
    let key = layout.key.0;
    let variant = match layout.name {
        Some(_) => opener(layout.prefix, &[PARAMETER_WORD], input),
        None => Stands::No,
    };
    input.stands(&key).or(variant)
}

/// Whether a parameter begins here with a tag `<KEY>`, if the schema names it and the call does not
/// have it yet: the text before the key.
pub(super) fn bare_key(
    layout: &Layout,
    function: &str,
    keys: &[String],
    input: &Input,
    tools: &Tools,
) -> Stands {
    if layout.name.is_none() {
        return Stands::No;
    }
    match tag(layout.prefix, input) {
        Tag::Maybe => Stands::Maybe,
        Tag::Word(word, false, length)
            if input.ahead()[length..].starts_with('>')
                && keys.iter().all(|has| has != word)
                && tools.names(function, word) =>
        {
            Stands::Yes(length - word.len())
        }
        _ => Stands::No,
    }
}

/// Whether a marker is ahead, optionally after space: the number of bytes up to its end.
pub(super) fn past_space(marker: Marker, input: &mut Input) -> Stands {
    let at = input.seen().len();
    let more = !input.skip_whitespace();
    let space = input.seen().len() - at;
    let stands = if more { Stands::Maybe } else { input.stands(&marker) };
    input.go_to(at);
    match stands {
        Stands::Yes(length) => Stands::Yes(space + length),
        other => other,
    }
}

/// An opening tag with one of these words and a name after it: `<word=` or `<word name=`.
fn opener(prefix: Option<Marker>, words: &[&str], input: &Input) -> Stands {
    match tag(prefix, input) {
        Tag::Word(word, false, length) if words.iter().any(|proper| similar(word, proper)) => {
            let rest = &input.ahead()[length..];
            for between in ["=", " name=", " "] {
                if rest.starts_with(between) {
                    let is_short = between == " " && !input.ended && " name=".starts_with(rest);
                    return if is_short {
                        Stands::Maybe
                    } else {
                        Stands::Yes(length + between.len())
                    };
                }
            }
            Stands::No
        }
        Tag::Maybe => Stands::Maybe,
        _ => Stands::No,
    }
}

/// Whether a closing tag of the layout is ahead, correct or misspelt.
pub(super) fn closing(layout: &Layout, input: &Input) -> Stands {
    let inner = [layout.key.1, layout.value_end];
    let mut ends: Vec<Marker> = inner.into_iter().chain(layout.function_end).collect();
    if layout.name.is_some() {
        ends.extend(FUNCTION_WORDS.map(Marker::spelled));
    }
    match like(&ends, input) {
        Stands::Yes(_) if !input.ahead().starts_with("</") => Stands::No,
        stands => stands,
    }
}

/// Whether a tag ahead resembles one of `markers`, opening or closing.
pub(super) fn like(markers: &[Marker], input: &Input) -> Stands {
    match tag(None, input) {
        Tag::Maybe => Stands::Maybe,
        Tag::Word(word, ..) if markers.iter().any(|marker| similar(word, word_of(*marker))) => {
            whole_tag(input)
        }
        _ => prefixed(markers, input),
    }
}

/// The same for tags with DeepSeek's prefix.
fn prefixed(markers: &[Marker], input: &Input) -> Stands {
    let Some(prefix) = markers.iter().find_map(|marker| {
        let rest = marker.text.trim_start_matches(['<', '/']);
        let end = rest.rfind(|c: char| !c.is_ascii())? + '\u{ff5c}'.len_utf8();
        Some(Marker::spelled(&rest[..end]))
    }) else {
        return Stands::No;
    };
    match tag(Some(prefix), input) {
        Tag::Maybe => Stands::Maybe,
        Tag::Word(word, ..) if markers.iter().any(|marker| similar(word, word_of(*marker))) => {
            whole_tag(input)
        }
        _ => Stands::No,
    }
}

/// The length of the tag at the current position, including its `>` if it has one.
fn whole_tag(input: &Input) -> Stands {
    let ahead = input.ahead();
    match ahead[1..].find(['>', '\n', '<']) {
        Some(at) if at > MAX_TAG_BYTES => Stands::No,
        Some(at) => Stands::Yes(1 + at + usize::from(ahead.as_bytes()[1 + at] == b'>')),
        None if input.ended => Stands::Yes(ahead.len()),
        None if ahead.len() > MAX_TAG_BYTES => Stands::No,
        None => Stands::Maybe,
    }
}

/// The word of a marker such as `</parameter>`.
fn word_of(marker: Marker) -> &'static str {
    let text = marker.text.trim_matches(['<', '/', '>']);
    text.rsplit('\u{ff5c}').next().unwrap_or(text)
}

/// Whether a word is this one, shortened or with one or two mistakes.
fn similar(word: &str, proper: &str) -> bool {
    let word = word.to_ascii_lowercase();
    let is_short = word.len() >= 3 && proper.starts_with(&word);
    word == proper || is_short || (word.len() >= 5 && distance(&word, proper) <= 2)
}

/// The edit distance: letters to add, remove or change to turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let cost = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// Looks for the end of a value. Returns the number of bytes before it and the type of end.
pub(super) fn seek_end(
    layout: &Layout,
    known: Known<'_>,
    input: &mut Input,
    tools: &Tools,
) -> (usize, End) {
    let mut ends = vec![layout.value_end, layout.close, Marker::spelled("<")];
    // Of markers at the same position the first in the list wins.
    ends.splice(1..1, layout.function_end);
    ends.splice(1..1, layout.value.map(|_| layout.key.0));
    loop {
        let sought = input.seek(&ends);
        let end = input.seen().len();
        let Sought::Marker(number, length) = sought else { return (end, End::Nothing) };
        let marker = ends[number];
        let found = if marker == layout.value_end {
            input.skip(length);
            let after = input.seen().len();
            answer(followed(layout, known, false, input, tools), End::Value(after))
        } else if Some(marker) == layout.function_end {
            input.skip(length);
            let after = input.seen().len();
            match ends_function(layout, input) {
                // It takes the place of the value's end.
                Stands::No => {
                    input.go_to(after);
                    if input.skip_whitespace() {
                        answer(names_next(layout, known, input, tools), End::Value(after))
                    } else {
                        End::Maybe
                    }
                }
                stands => answer(stands, End::Here(end)),
            }
        } else if marker == layout.close {
            input.skip(length);
            answer(ends_answer(layout, input), End::Here(end))
        } else {
            misspelt(layout, known, input, tools)
        };
        if found != End::Nothing {
            return (end, found);
        }
        // The tag is part of the value.
        input.go_to(end + length);
    }
}

fn answer(stands: Stands, end: End) -> End {
    match stands {
        Stands::Yes(_) => end,
        Stands::Maybe => End::Maybe,
        Stands::No => End::Nothing,
    }
}

/// Whether any other tag at the current position ends the value.
fn misspelt(layout: &Layout, known: Known<'_>, input: &mut Input, tools: &Tools) -> End {
    let end = input.seen().len();
    if input.ahead().starts_with("</") || input.ahead() == "<" {
        let own = known.keys.last().map_or("", String::as_str);
        let is_own = matches!(tag(None, input), Tag::Word(word, true, _) if word == own);
        let mut ends = vec![layout.value_end];
        ends.extend(Some(layout.key.1).filter(|end| end.text.starts_with("</")));
        let value = if is_own { whole_tag(input) } else { like(&ends, input) };
        let function = layout.function_end.map_or(Stands::No, |end| like(&[end], input));
        return match (value, function) {
            (Stands::Yes(length), _) => {
                input.skip(length);
                let after = input.seen().len();
                let follows = followed(layout, known, true, input, tools);
                answer(follows, End::Value(after))
            }
            (_, Stands::Yes(length)) => {
                input.skip(length);
                answer(ends_function(layout, input), End::Here(end))
            }
            (Stands::Maybe, _) | (_, Stands::Maybe) => End::Maybe,
            _ => End::Nothing,
        };
    }
    let before = input.seen().trim_end_matches([' ', '\t']);
    let is_line = before.ends_with('\n') || (before.is_empty() && known.at_start);
    if is_line || layout.key.0.id.is_some() {
        answer(names_next(layout, known, input, tools), End::Here(end))
    } else {
        End::Nothing
    }
}

/// Whether a parameter begins ahead that the schema names and the call does not have.
fn names_next(layout: &Layout, known: Known<'_>, input: &Input, tools: &Tools) -> Stands {
    let length = match parameter(layout, input) {
        Stands::Yes(length) => length,
        other => return other,
    };
    let rest = &input.ahead()[length..];
    let Some(end) = rest.find(['>', '\n', '<']) else {
        let is_open = !input.ended && rest.len() <= MAX_NAME_BYTES;
        return if is_open { Stands::Maybe } else { Stands::No };
    };
    let key = rest[..end].trim().trim_start_matches(['"', '\'']);
    let key = key.split(['"', '\'']).next().unwrap_or(key);
    let is_new = known.keys.iter().all(|has| has != key);
    if is_new && tools.names(known.function, key) { Stands::Yes(length) } else { Stands::No }
}

/// Whether the text after an end of a value confirms it: the next parameter or the end of the
/// function must follow, and not more of a text about this format. After a misspelt end a correct
/// one must not follow.
fn followed(
    layout: &Layout,
    known: Known<'_>,
    is_misspelt: bool,
    input: &mut Input,
    tools: &Tools,
) -> Stands {
    loop {
        if !input.skip_whitespace() {
            return Stands::Maybe;
        }
        if input.is_tag_cut() || (input.ended && input.ahead().is_empty()) {
            return Stands::Yes(0);
        }
        let again = input.stands(&layout.value_end);
        if is_misspelt && again != Stands::No {
            return if again == Stands::Maybe { again } else { Stands::No };
        }
        let key = if is_misspelt { Stands::No } else { input.stands(&layout.key.0) };
        let key = key.or(names_next(layout, known, input, tools));
        let key = key.or(bare_key(layout, known.function, known.keys, input, tools));
        let function = layout.name.map_or(Stands::No, |(begin, _)| input.stands(&begin));
        let mut next = vec![layout.close, layout.open];
        next.extend(layout.function_end);
        let ends = next.iter().map(|marker| input.stands(marker)).fold(Stands::No, Stands::or);
        match ends.or(key).or(function) {
            Stands::No => {}
            stands => return stands,
        }
        match closing(layout, input) {
            Stands::Yes(length) => input.skip(length),
            other => return other,
        }
    }
}

/// Whether the text after an end of a function confirms it.
fn ends_function(layout: &Layout, input: &mut Input) -> Stands {
    if !input.skip_whitespace() {
        return Stands::Maybe;
    }
    if input.is_tag_cut() || (input.ended && input.ahead().is_empty()) {
        return Stands::Yes(0);
    }
    let function = layout.name.map_or(Stands::No, |(begin, _)| input.stands(&begin));
    input.stands(&layout.close).or(input.stands(&layout.open)).or(function)
}

/// Whether only calls, or nothing, follow an end of calls.
fn ends_answer(layout: &Layout, input: &mut Input) -> Stands {
    if !input.skip_whitespace() {
        return Stands::Maybe;
    }
    if input.ended && input.ahead().is_empty() {
        Stands::Yes(0)
    } else {
        input.stands(&layout.open)
    }
}
