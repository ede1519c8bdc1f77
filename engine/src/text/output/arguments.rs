//! The arguments of a call whose name comes first, as one JSON object.

use super::emit::Emitter;
use super::input::{Input, Marker, Stands};
use super::json::{Scanner, Step};

/// Forwards an arguments object as it arrives.
#[derive(Debug, Clone)]
pub(super) struct Arguments {
    scanner: Scanner,
}

/// The progress of the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handed {
    /// It is incomplete.
    More,
    /// It is complete, and the call has ended.
    Whole,
    /// It was cut off, and the call has ended.
    Broken,
}

impl Arguments {
    /// Starts a call of `name`, whose object begins at the current position.
    pub(super) fn begin(name: &str, input: &mut Input, out: &mut Emitter) -> Self {
        input.take();
        out.start(name);
        Self::announced()
    }

    /// Reads the object of a call that was already started.
    pub(super) fn announced() -> Self {
        Self { scanner: Scanner::new() }
    }

    /// Reads the available part of the object. The end of a call, or the start of the next one,
    /// closes brackets that were left open. An end also cuts a string that cannot contain it.
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
