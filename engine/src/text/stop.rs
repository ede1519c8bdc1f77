//! Finds stop strings in a stream of text.

/// What to do with new text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// Send this text; the remaining text is held back, because it may begin a stop string.
    Send(String),
    /// A stop string is complete: send this text, which ends before it, and end the answer.
    Stop(String),
}

/// Finds the first of several strings in a text that arrives in pieces. No part of that string is
/// returned.
#[derive(Debug, Default)]
pub(crate) struct StopMatcher {
    stops: Vec<String>,
    held: String,
    /// Index in `stops` of the string that was found.
    found: Option<usize>,
}

impl StopMatcher {
    /// Empty strings are ignored.
    pub(crate) fn new(mut stops: Vec<String>) -> Self {
        stops.retain(|stop| !stop.is_empty());
        Self { stops, held: String::new(), found: None }
    }

    /// The stop string that ended the text.
    pub(crate) fn found(&self) -> Option<&str> {
        self.found.map(|index| self.stops[index].as_str())
    }

    /// Number of bytes held back.
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    /// Adds text. `whole`: ranges, counted from the first byte held back, that must be sent
    /// completely or not at all.
    pub(crate) fn push(&mut self, text: &str, whole: &[(usize, usize)]) -> Stopped {
        if self.stops.is_empty() {
            return Stopped::Send(text.to_owned());
        }
        self.held.push_str(text);
        let places = self.stops.iter().enumerate();
        let found =
            places.filter_map(|(index, stop)| Some((self.held.find(stop.as_str())?, index)));
        if let Some((at, index)) = found.min() {
            self.found = Some(index);
            self.held.truncate(at);
            return Stopped::Stop(std::mem::take(&mut self.held));
        }
        let keep = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let at = self.held.len() - keep;
        let cut = whole.iter().find(|(start, end)| *start < at && at < *end);
        let rest = self.held.split_off(cut.map_or(at, |(start, _)| *start));
        Stopped::Send(std::mem::replace(&mut self.held, rest))
    }

    /// Returns the text held back, at the end of the stream.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// The length in bytes of the longest proper prefix of `stop` at the end of `text`.
pub(crate) fn overlap(text: &str, stop: &str) -> usize {
    let longest = text.len().min(stop.len() - 1);
    let fits = |&n: &usize| {
        text.is_char_boundary(text.len() - n) && text.as_bytes().ends_with(&stop.as_bytes()[..n])
    };
    (1..=longest).rev().find(fits).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The output for `text` when it arrives in pieces of `size` characters.
    fn run(text: &str, stops: &[&str], size: usize) -> (String, bool) {
        let mut matcher = StopMatcher::new(stops.iter().map(|s| (*s).to_owned()).collect());
        let characters: Vec<char> = text.chars().collect();
        let mut out = String::new();
        for piece in characters.chunks(size) {
            match matcher.push(&piece.iter().collect::<String>(), &[]) {
                Stopped::Send(text) => out.push_str(&text),
                Stopped::Stop(text) => return (out + &text, true),
            }
        }
        (out + &matcher.finish(), false)
    }

    #[test]
    fn every_cut_gives_the_same_text() {
        let cases: [(&str, &[&str], &str, bool); 7] = [
            ("one two three", &["two"], "one ", true),
            ("aaab", &["aab"], "a", true),
            ("ends with sto", &["stop"], "ends with sto", false),
            ("\u{1f980} crab \u{1f980}!", &["\u{1f980}!"], "\u{1f980} crab ", true),
            ("abcabd", &["abd", "bc"], "a", true),
            ("nothing", &[""], "nothing", false),
            ("x\n\ny", &["\n\n"], "x", true),
        ];
        for (text, stops, expected, stopped) in cases {
            for size in 1..=text.len() {
                assert_eq!(run(text, stops, size), (expected.to_owned(), stopped), "{text} {size}");
            }
        }
    }

    #[test]
    fn reports_the_stop_string_that_was_found() {
        let mut matcher = StopMatcher::new(vec!["b".to_owned(), String::new(), "ab".to_owned()]);
        assert_eq!(
            (matcher.push("xa", &[]), matcher.found()),
            (Stopped::Send("x".to_owned()), None)
        );
        assert_eq!(matcher.push("b", &[]), Stopped::Stop(String::new()));
        assert_eq!(matcher.found(), Some("ab"));
    }

    #[test]
    fn holds_back_only_a_possible_stop_string() {
        let mut matcher = StopMatcher::new(vec!["END".to_owned()]);
        assert_eq!(matcher.push("text E", &[]), Stopped::Send("text ".to_owned()));
        assert_eq!(matcher.push("A", &[]), Stopped::Send("EA".to_owned()));
    }

    #[test]
    fn a_marker_is_never_cut() {
        let mut matcher = StopMatcher::new(vec!["call>x".to_owned()]);
        assert_eq!(matcher.push("a<call>", &[(1, 7)]), Stopped::Send("a".to_owned()));
        assert_eq!(matcher.held(), 6);
        assert_eq!(matcher.push("y", &[(0, 6)]), Stopped::Send("<call>y".to_owned()));
    }
}
