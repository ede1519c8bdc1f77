//! The arguments of a call whose name stands before them, as one JSON object.

use super::emit::Emitter;
use super::input::{Input, Marker, Stands};
use super::json::{Scanner, Step};

/// Hands on an arguments object as it comes.
#[derive(Debug, Clone)]
pub(super) struct Arguments {
    scanner: Scanner,
}

/// How far the object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handed {
    /// There is more to come.
    More,
    /// It is complete, and the call is ended.
    Whole,
    /// It broke off, and the call with it.
    Broken,
}

impl Arguments {
    /// Announces a call of `name`; its object begins right ahead.
    pub(super) fn begin(name: &str, input: &mut Input, out: &mut Emitter) -> Self {
        input.take();
        out.start(name);
        Self::announced()
    }

    /// The object of a call that was announced begins right ahead.
    pub(super) fn announced() -> Self {
        Self { scanner: Scanner::new() }
    }

    /// Takes what there is of the object. What ends a call, or begins the next one, closes the
    /// brackets that were left open; an end also cuts a string that it cannot be part of.
    pub(super) fn read(
        &mut self,
        ends: &[Marker],
        openers: &[Marker],
        input: &mut Input,
        out: &mut Emitter,
    ) -> Handed {
        let mut text = String::new();
        let mut handed = Handed::More;
        while let Some(c) = input.peek().filter(|_| handed == Handed::More) {
            let in_text = self.scanner.in_text();
            let ahead = if in_text {
                let near = ends.iter().filter(|end| end.text.starts_with(c));
                near.map(|end| input.stands_last(end, ends)).fold(Stands::No, Stands::or)
            } else {
                let all = ends.iter().chain(openers).filter(|end| end.text.starts_with(c));
                all.map(|end| input.stands(end)).fold(Stands::No, Stands::or)
            };
            match ahead {
                Stands::Maybe => break,
                Stands::Yes(_) if in_text => {
                    handed = Handed::Broken;
                    continue;
                }
                Stands::Yes(_) if self.scanner.close_all(&mut text) => {
                    handed = Handed::Whole;
                    continue;
                }
                _ => {}
            }
            match self.scanner.push(c, &mut text) {
                Step::More => input.skip(c.len_utf8()),
                Step::Done => {
                    input.skip(c.len_utf8());
                    handed = Handed::Whole;
                }
                Step::DoneBefore | Step::Invalid => handed = Handed::Broken,
            }
        }
        if input.ended && handed == Handed::More {
            handed = Handed::Broken;
        }
        input.take();
        out.arguments(&text);
        match handed {
            Handed::More => {}
            Handed::Whole => out.end(),
            Handed::Broken => out.cut(),
        }
        handed
    }
}
