//! Methods of Python's texts, lists and dicts that minijinja lacks or implements differently.

use minijinja::value::{Kwargs, Tuple, Value, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State};
use minijinja_contrib::pycompat;

use super::clock;

/// Adds Python's methods, and Python's white space for `trim`.
pub(super) fn install(environment: &mut Environment<'static>) {
    environment.set_unknown_method_callback(call);
    environment.add_filter("trim", |value: &Value, chars: Option<&str>, named: Kwargs| {
        let chars = chars.or(named.get("chars")?);
        named.assert_all_used()?;
        Ok::<_, Error>(strip(&value.to_string(), chars, true, true).to_owned())
    });
}

fn call(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    // minijinja has charged for the text, and the guard for the arguments.
    clock::burn(state, 1)?;
    let own = match value.kind() {
        ValueKind::String => text(state, value.as_str().unwrap_or_default(), method, args)?,
        ValueKind::Seq | ValueKind::Map if method == "copy" => {
            let () = from_args(args)?;
            Some(value.clone())
        }
        ValueKind::Seq if method == "index" => {
            let (what,): (&Value,) = from_args(args)?;
            let at = value.try_iter()?.position(|item| item == *what);
            Some(Value::from(at.ok_or_else(|| failed("it is not in the list"))?))
        }
        _ => None,
    };
    match own {
        Some(result) => Ok(result),
        None => pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn failed(what: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, what)
}

/// A method of a text, or `None` where minijinja's is the same.
fn text(
    state: &State<'_, '_>,
    s: &str,
    method: &str,
    args: &[Value],
) -> Result<Option<Value>, Error> {
    let result = match method {
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            Value::from(strip(s, chars, method != "rstrip", method != "lstrip"))
        }
        "split" | "rsplit" => split(state, s, args, method == "rsplit")?,
        "splitlines" => lines(state, s, args)?,
        "partition" | "rpartition" => partition(s, args, method == "rpartition")?,
        "find" | "rfind" | "index" | "rindex" => find(s, method, args)?,
        "startswith" | "endswith" => affix(s, method == "endswith", args)?,
        "removeprefix" | "removesuffix" => {
            let (affix,): (&str,) = from_args(args)?;
            let rest = if method == "removeprefix" {
                s.strip_prefix(affix)
            } else {
                s.strip_suffix(affix)
            };
            Value::from(rest.unwrap_or(s))
        }
        "zfill" | "ljust" | "rjust" | "center" => pad(state, s, method, args)?,
        "title" | "swapcase" => {
            let () = from_args(args)?;
            Value::from(if method == "title" { title(s) } else { swap_case(s) })
        }
        "format" => {
            bounded_format(state, s)?;
            return Ok(None);
        }
        "join" => {
            let (items,): (&Value,) = from_args(args)?;
            // Each of its characters is read as a value.
            clock::burn(state, items.as_str().map_or(0, str::len))?;
            if items.try_iter()?.any(|item| item.as_str().is_none()) {
                return Err(failed("only texts can be joined"));
            }
            return Ok(None);
        }
        _ => return Ok(None),
    };
    Ok(Some(result))
}

/// Charges for the widths in a format string, to which values are padded.
fn bounded_format(state: &State<'_, '_>, s: &str) -> Result<(), Error> {
    let mut rest = s;
    while let Some(at) = rest.find('{') {
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('{') {
            rest = after;
            continue;
        }
        let Some(end) = rest.find(['{', '}']) else { break };
        if rest[end..].starts_with('{') {
            return Err(failed("a format whose width is an argument is not supported"));
        }
        for digits in rest[..end].split(|c: char| !c.is_ascii_digit()) {
            let width = if digits.is_empty() { 0 } else { digits.parse().unwrap_or(usize::MAX) };
            clock::burn(state, width / 64)?;
        }
        rest = &rest[end + 1..];
    }
    Ok(())
}

/// Python counts the four separators of ASCII as white space.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn strip<'s>(s: &'s str, chars: Option<&str>, left: bool, right: bool) -> &'s str {
    let drop = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let s = if left { s.trim_start_matches(drop) } else { s };
    if right { s.trim_end_matches(drop) } else { s }
}

fn split(state: &State<'_, '_>, s: &str, args: &[Value], from_right: bool) -> Result<Value, Error> {
    let (sep, most, named): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
    let sep = sep.or(named.get("sep")?).filter(|sep| !sep.is_none());
    let most = most.or(named.get("maxsplit")?).unwrap_or(-1);
    named.assert_all_used()?;
    // There is one more piece than there are cuts.
    let pieces = usize::try_from(most).map_or(usize::MAX, |cuts| cuts.saturating_add(1));
    let Some(sep) = sep else { return words(state, s, pieces, from_right) };
    let sep = sep.as_str().filter(|sep| !sep.is_empty());
    let sep = sep.ok_or_else(|| failed("a separator is a text that is not empty"))?;
    let mut found = Pieces { state, texts: Vec::new() };
    if from_right {
        s.rsplitn(pieces, sep).try_for_each(|piece| found.push(piece))?;
        found.texts.reverse();
    } else {
        s.splitn(pieces, sep).try_for_each(|piece| found.push(piece))?;
    }
    Ok(Value::from(found.texts))
}

/// Splits at white space; the last piece keeps its inner white space.
fn words(state: &State<'_, '_>, s: &str, pieces: usize, from_right: bool) -> Result<Value, Error> {
    let mut found = Pieces { state, texts: Vec::new() };
    let mut rest = strip(s, None, true, true);
    while !rest.is_empty() {
        let cut = if from_right { rest.rfind(is_space) } else { rest.find(is_space) };
        let Some(cut) = cut.filter(|_| found.texts.len() + 1 < pieces) else {
            found.push(rest)?;
            break;
        };
        let (before, after) = rest.split_at(cut);
        let (word, left) = if from_right { (after, before) } else { (before, after) };
        found.push(strip(word, None, true, true))?;
        rest = strip(left, None, !from_right, from_right);
    }
    if from_right {
        found.texts.reverse();
    }
    Ok(Value::from(found.texts))
}

fn lines(state: &State<'_, '_>, s: &str, args: &[Value]) -> Result<Value, Error> {
    const ENDS: [char; 10] = [
        '\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}',
        '\u{2029}',
    ];
    let (keep, named): (Option<bool>, Kwargs) = from_args(args)?;
    let keep = keep.or(named.get("keepends")?).unwrap_or(false);
    named.assert_all_used()?;
    let (mut found, mut rest) = (Pieces { state, texts: Vec::new() }, s);
    while !rest.is_empty() {
        let end = rest.find(ENDS).unwrap_or(rest.len());
        let length = match &rest[end..] {
            after if after.starts_with("\r\n") => 2,
            after => after.chars().next().map_or(0, char::len_utf8),
        };
        found.push(&rest[..if keep { end + length } else { end }])?;
        rest = &rest[end + length..];
    }
    Ok(Value::from(found.texts))
}

/// The pieces of a split text.
struct Pieces<'a, 't, 'e> {
    state: &'a State<'t, 'e>,
    texts: Vec<Value>,
}

impl Pieces<'_, '_, '_> {
    /// Adds a piece if there is fuel for it: even an empty text takes tens of bytes as a value.
    fn push(&mut self, piece: &str) -> Result<(), Error> {
        clock::burn(self.state, 2 + piece.len() / 64)?;
        self.texts.push(Value::from(piece));
        Ok(())
    }
}

fn partition(s: &str, args: &[Value], from_right: bool) -> Result<Value, Error> {
    let (sep,): (&str,) = from_args(args)?;
    if sep.is_empty() {
        return Err(failed("a separator is not empty"));
    }
    let cut = if from_right { s.rsplit_once(sep) } else { s.split_once(sep) };
    let parts = match cut {
        Some((before, after)) => [before, sep, after],
        None if from_right => ["", "", s],
        None => [s, "", ""],
    };
    Ok(Value::from(Tuple::from(parts.map(Value::from))))
}

/// The part of a text between two positions, counted in characters as in a slice, and the number of
/// characters before it.
fn part(s: &str, start: Option<i64>, end: Option<i64>) -> (&str, usize) {
    let length = s.chars().count();
    let place = |at: i64| match usize::try_from(at) {
        Ok(at) => at.min(length),
        Err(_) => length.saturating_sub(at.unsigned_abs() as usize),
    };
    let start = start.map_or(0, place);
    let end = end.map_or(length, place).max(start);
    let byte = |at: usize| s.char_indices().nth(at).map_or(s.len(), |(byte, _)| byte);
    (&s[byte(start)..byte(end)], start)
}

fn find(s: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (what, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
    let (within, before) = part(s, start, end);
    let at = if method.starts_with('r') { within.rfind(what) } else { within.find(what) };
    match at {
        Some(byte) => Ok(Value::from(before + within[..byte].chars().count())),
        None if method.ends_with("find") => Ok(Value::from(-1)),
        None => Err(failed("the text is not in it")),
    }
}

fn affix(s: &str, at_end: bool, args: &[Value]) -> Result<Value, Error> {
    let (what, start, end): (&Value, Option<i64>, Option<i64>) = from_args(args)?;
    let (within, _) = part(s, start, end);
    let holds = |affix: &Value| match affix.as_str() {
        Some(affix) if at_end => Ok(within.ends_with(affix)),
        Some(affix) => Ok(within.starts_with(affix)),
        None => Err(failed("startswith and endswith take a text or a tuple of texts")),
    };
    if !what.is_tuple() {
        return holds(what).map(Value::from);
    }
    for affix in what.try_iter()? {
        if holds(&affix)? {
            return Ok(Value::from(true));
        }
    }
    Ok(Value::from(false))
}

fn pad(state: &State<'_, '_>, s: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (width, fill): (usize, Option<char>) = from_args(args)?;
    let missing = width.saturating_sub(s.chars().count());
    clock::burn(state, missing / 64)?;
    let fill = fill.unwrap_or(if method == "zfill" { '0' } else { ' ' });
    let run = |count: usize| fill.to_string().repeat(count);
    Ok(Value::from(match method {
        "ljust" => s.to_owned() + &run(missing),
        "rjust" => run(missing) + s,
        "zfill" => match s.strip_prefix(['+', '-']) {
            Some(digits) => format!("{}{}{digits}", &s[..1], run(missing)),
            None => run(missing) + s,
        },
        _ => {
            // If the two sides cannot be equal, Python decides by the width.
            let left = missing / 2 + (missing & width & 1);
            run(left) + s + &run(missing - left)
        }
    }))
}

/// Makes each letter after a character that is not a letter a capital.
fn title(s: &str) -> String {
    let (mut out, mut inside) = (String::with_capacity(s.len()), false);
    for c in s.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_lowercase() || c.is_uppercase();
    }
    out
}

fn swap_case(s: &str) -> String {
    let mut out = String::with_capacity(s.len());
    for c in s.chars() {
        if c.is_uppercase() {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
    }
    out
}
