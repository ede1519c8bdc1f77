//! Combines regular expressions: what matches all of some and none of others.

use std::collections::HashMap;

use llguidance::derivre::{ExprRef, Regex, RegexAst, RegexBuilder};

/// Limit on derivre's steps for one expression, which take milliseconds.
const FUEL: u64 = 20_000;
/// Limit on the states of an automaton that is written back as an expression.
const STATES: usize = 48;
/// Limit on the length of a written expression, in bytes.
const WRITTEN_BYTES: usize = 16 << 10;
/// Limit on the length of an enumerated name, in bytes.
const NAME_BYTES: usize = 128;

/// The result of combining several expressions.
pub(super) enum Combined {
    /// No text matches.
    Nothing,
    /// The texts that match this expression.
    Text(String),
    /// The result would have too many states.
    TooComplex,
}

/// A builder and the parsed expressions.
fn parsed(builder: &mut RegexBuilder, regexes: &[String]) -> Result<Vec<RegexAst>, String> {
    let one = |regex: &String| match builder.mk_regex_for_serach(regex) {
        Ok(expression) => Ok(RegexAst::ExprRef(expression)),
        Err(error) => Err(last_line(&error.to_string())),
    };
    regexes.iter().map(one).collect()
}

/// The message of a regex parser error, without its drawing.
fn last_line(error: &str) -> String {
    let line = error.lines().next_back().unwrap_or_default();
    line.trim_start_matches("error: ").to_owned()
}

/// Checks that an expression is valid.
pub(super) fn check(regex: &str) -> Result<(), String> {
    parsed(&mut RegexBuilder::new(), &[regex.to_owned()]).map(|_| ())
}

fn machine(must: &[String], never: &[String]) -> Result<Option<Regex>, String> {
    let mut builder = RegexBuilder::new();
    let mut all = parsed(&mut builder, must)?;
    let never = parsed(&mut builder, never)?;
    all.extend(never.into_iter().map(|regex| RegexAst::Not(Box::new(regex))));
    let all = builder.mk(&RegexAst::And(all)).map_err(|error| last_line(&error.to_string()))?;
    if all == ExprRef::NO_MATCH {
        return Ok(None);
    }
    Ok(builder.into_regex_limited(all, FUEL).ok())
}

/// Whether a text can match both. `None`: deciding this takes too long.
pub(super) fn overlap(one: &str, other: &str) -> Option<bool> {
    let both = [one.to_owned(), other.to_owned()];
    let mut builder = RegexBuilder::new();
    let all = parsed(&mut builder, &both).ok()?;
    let all = builder.mk(&RegexAst::And(all)).ok()?;
    if all == ExprRef::NO_MATCH {
        return Some(false);
    }
    Some(!builder.into_regex_limited(all, FUEL).ok()?.always_empty())
}

/// Whether llguidance, which allows half as many steps, can decide if a text matches all of these.
pub(super) fn is_decided(regexes: &[String]) -> bool {
    let mut builder = RegexBuilder::new();
    let all = parsed(&mut builder, regexes);
    let all = all.ok().and_then(|all| builder.mk(&RegexAst::And(all)).ok());
    all.and_then(|all| builder.into_regex_limited(all, FUEL / 2).ok()).is_some()
}

/// Whether an expression matches any part of the text.
pub(super) fn matches(regex: &str, text: &str) -> bool {
    let mut builder = RegexBuilder::new();
    let Ok(expression) = builder.mk_regex_for_serach(regex) else { return false };
    builder.into_regex_limited(expression, FUEL).is_ok_and(|mut machine| machine.is_match(text))
}

/// All texts that an expression matches, if there are at most `most`.
pub(super) fn all_texts(regex: &str, most: usize) -> Option<Vec<String>> {
    let mut builder = RegexBuilder::new();
    let expression = builder.mk_regex_for_serach(regex).ok()?;
    let mut machine = builder.into_regex_limited(expression, FUEL).ok()?;
    let mut found = Vec::new();
    let mut open = vec![(machine.initial_state(), Vec::new())];
    while let Some((state, text)) = open.pop() {
        if machine.is_accepting(state) {
            found.push(String::from_utf8(text.clone()).ok()?);
        }
        if found.len() > most || open.len() > most * 256 || text.len() > NAME_BYTES {
            return None;
        }
        for byte in (0..=u8::MAX).rev() {
            let next = machine.transition(state, byte);
            if !next.is_dead() {
                let text = text.iter().copied().chain([byte]).collect();
                open.push((next, text));
            }
        }
    }
    Some(found)
}

/// Combines expressions into one that matches what all of `must` and none of `never` match.
///
/// # Errors
/// If one of them is not a valid regular expression.
pub(super) fn combine(must: &[String], never: &[String]) -> Result<Combined, String> {
    // Among characters beyond ASCII, only those used by translated patterns are distinguished.
    let is_plain =
        |regex: &String| regex.is_ascii() && !regex.contains(r"\p") && !regex.contains(r"\P");
    if !must.iter().chain(never).all(is_plain) {
        return Ok(Combined::TooComplex);
    }
    let Some(mut machine) = machine(must, never)? else { return Ok(Combined::Nothing) };
    if machine.always_empty() {
        return Ok(Combined::Nothing);
    }
    Ok(match Graph::of(&mut machine).and_then(Graph::regex) {
        Some(regex) => Combined::Text(format!("^(?:{regex})$")),
        None => Combined::TooComplex,
    })
}

/// Characters beyond ASCII that translated patterns distinguish: first and last of each range.
const APART: [(u32, u32); 9] = [
    (0xA0, 0xA0),
    (0x1680, 0x1680),
    (0x2000, 0x200A),
    (0x2028, 0x2029),
    (0x202F, 0x202F),
    (0x205F, 0x205F),
    (0x3000, 0x3000),
    (0xFEFF, 0xFEFF),
    (0x80, 0x9F),
];

/// Ranges of characters that all lead to the same state.
fn symbols() -> Vec<(u32, u32)> {
    // 0 is excluded, because llguidance assumes that a class with all control characters also has
    // quotes and backslashes.
    let mut ends: Vec<u32> = (1..=0x80).collect();
    ends.extend(APART.iter().flat_map(|(first, last)| [*first, *last + 1]));
    ends.extend([0xD800, 0xE000, 0x10000, 0x11_0000]);
    ends.sort_unstable();
    ends.dedup();
    let ranges = ends.windows(2).map(|pair| (pair[0], pair[1] - 1));
    ranges.filter(|(first, _)| *first != 0xD800).collect()
}

/// The states of an automaton and the transitions between them.
struct Graph {
    accepts: Vec<bool>,
    /// The ranges of characters that lead from each state to another.
    transitions: Vec<HashMap<usize, Vec<(u32, u32)>>>,
}

impl Graph {
    fn of(machine: &mut Regex) -> Option<Self> {
        let symbols = symbols();
        let mut states = vec![machine.initial_state()];
        let mut graph = Self { accepts: Vec::new(), transitions: Vec::new() };
        while let Some(&state) = states.get(graph.transitions.len()) {
            let mut transitions: HashMap<usize, Vec<(u32, u32)>> = HashMap::new();
            for &(first, last) in &symbols {
                let mut next = |code: u32| {
                    let c = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
                    machine.transition_bytes(state, c.encode_utf8(&mut [0; 4]).as_bytes())
                };
                let middle = first + (last - first) / 2;
                let next = [next(first), next(middle), next(last)];
                if next[0] != next[1] || next[0] != next[2] {
                    return None;
                }
                if next[0].is_dead() {
                    continue;
                }
                let known = states.iter().position(|known| *known == next[0]);
                let to = known.unwrap_or_else(|| {
                    states.push(next[0]);
                    states.len() - 1
                });
                transitions.entry(to).or_default().push((first, last));
            }
            if states.len() > STATES {
                return None;
            }
            graph.accepts.push(machine.is_accepting(state));
            graph.transitions.push(transitions);
        }
        Some(graph)
    }

    /// Converts the automaton to an expression: removes one state after the other, and each time
    /// writes the paths through it as an expression.
    fn regex(self) -> Option<String> {
        let (begin, end) = (self.transitions.len(), self.transitions.len() + 1);
        let mut transitions: HashMap<(usize, usize), String> = HashMap::new();
        for (from, to) in self.transitions.iter().enumerate() {
            for (to, ranges) in to {
                transitions.insert((from, *to), class(ranges));
            }
        }
        transitions.insert((begin, 0), String::new());
        for (state, _) in self.accepts.iter().enumerate().filter(|(_, accepts)| **accepts) {
            transitions.insert((state, end), String::new());
        }
        let mut left: Vec<usize> = (0..begin).collect();
        while !left.is_empty() {
            let cost = |state: usize| {
                let into = transitions.keys().filter(|(_, to)| *to == state).count();
                into * transitions.keys().filter(|(from, _)| *from == state).count()
            };
            let at = (0..left.len()).min_by_key(|at| cost(left[*at]))?;
            take_out(left.swap_remove(at), &mut transitions);
            if transitions.values().map(String::len).sum::<usize>() > WRITTEN_BYTES {
                return None;
            }
        }
        transitions.remove(&(begin, end))
    }
}

fn take_out(state: usize, transitions: &mut HashMap<(usize, usize), String>) {
    let around = match transitions.remove(&(state, state)) {
        Some(text) => format!("(?:{text})*"),
        None => String::new(),
    };
    let mut taken = |is_in: bool| {
        let here = |(from, to): &(usize, usize)| if is_in { *to == state } else { *from == state };
        let mut keys: Vec<(usize, usize)> = transitions.keys().copied().filter(here).collect();
        keys.sort_unstable();
        keys.into_iter()
            .filter_map(|key| Some((key, transitions.remove(&key)?)))
            .collect::<Vec<_>>()
    };
    let (into, out) = (taken(true), taken(false));
    for ((from, _), head) in &into {
        for ((_, to), tail) in &out {
            let through = format!("{}{around}{}", grouped(head), grouped(tail));
            let path = transitions.entry((*from, *to));
            path.and_modify(|text| *text = format!("{text}|{through}")).or_insert(through);
        }
    }
}

fn grouped(text: &str) -> String {
    if text.contains('|') { format!("(?:{text})") } else { text.to_owned() }
}

/// A class of characters.
fn class(ranges: &[(u32, u32)]) -> String {
    let mut ranges = ranges.to_vec();
    ranges.sort_unstable();
    let mut joined: Vec<(u32, u32)> = Vec::new();
    for (first, last) in ranges {
        match joined.last_mut() {
            // A gap without any valid character does not count.
            Some(before) if before.1 + 1 == first || (before.1, first) == (0xD7FF, 0xE000) => {
                before.1 = last;
            }
            _ => joined.push((first, last)),
        }
    }
    let one = |code: u32| match char::from_u32(code) {
        Some(c) if c.is_ascii_alphanumeric() => c.to_string(),
        _ => format!(r"\u{{{code:X}}}"),
    };
    let text = joined.iter().map(|&(first, last)| {
        if first == last { one(first) } else { format!("{}-{}", one(first), one(last)) }
    });
    format!("[{}]", text.collect::<String>())
}
