//! One step of several rows: its graph and its outputs.
//!
//! Order of the rows in a step: decoding rows whose token the step in flight computes, decoding
//! rows whose token is known, then the prompt chunk. Output rows are in the same order.

use std::rc::Rc;
use std::time::{Duration, Instant};

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::ops::concatenate;
use mlx_rs::ops::indexing::take_axis;

use crate::error::Result;
use crate::mlx::backend::Backend;
use crate::models::forward::{Forward, Segment, token_array};
use crate::runtime::reasoning_budget::ReasoningBudget;
use crate::runtime::row::{Next, Row, Sequence};
use crate::runtime::sampling::{Sampled, Sampler, sample};
use crate::sched::RowId;
use crate::text::grammar::MaskState;

/// A step whose graph is built.
#[derive(Debug)]
pub(crate) struct StepGraph {
    pub(crate) model: u64,
    /// Every row in it.
    pub(crate) rows: Vec<RowId>,
    /// Rows that receive a token, in the order of `sampled`.
    pub(crate) outputs: Vec<RowId>,
    /// `None` when no row receives one.
    pub(crate) sampled: Option<Sampled>,
    /// Number of decoding rows.
    pub(crate) decoding: usize,
    /// Number of prompt tokens.
    pub(crate) prompt_tokens: usize,
    /// Number of tokens of the same prompt before them.
    pub(crate) depth: usize,
    /// Caches that no token depends on, which must be evaluated with the step. They are dropped
    /// before the next step is built, so that MLX can write into them in place.
    pub(crate) caches: Vec<Array>,
    /// When building the graph began, and how long it took.
    pub(crate) begin: Instant,
    pub(crate) build: Duration,
}

impl StepGraph {
    /// Every array to evaluate.
    pub(crate) fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.sampled.iter().flat_map(Sampled::arrays).chain(&self.caches)
    }
}

/// A row's part of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// One token.
    Decode,
    /// At most `most` tokens of its prompt.
    Prompt { most: usize },
}

/// Builds the graph of a step. All rows belong to one model, and at most one has a prompt chunk.
/// `in_flight` holds the tokens that the step before computes. Chunks end at multiples of `grid`,
/// so that all sequences have the same chunk ends, however much was restored.
pub(crate) fn build(
    model: u64,
    rows: &mut [(RowId, Row, Part)],
    in_flight: Option<&Array>,
    grid: usize,
) -> Result<StepGraph> {
    let begin = Instant::now();
    #[cfg(test)]
    faults::strike(rows)?;
    // First the rows of the step in flight, then those with known tokens, then the prompt.
    rows.sort_by_key(|(id, row, part)| (rank(row, *part), *id));
    let mut lazy: Vec<u32> = Vec::new();
    let mut known: Vec<u32> = Vec::new();
    let mut lengths: Vec<(usize, bool)> = Vec::with_capacity(rows.len());
    let mut depth = 0;
    for (_, row, part) in rows.iter_mut() {
        let target = row.job.request.prompt.len() + row.generated.len();
        let Row { sequence, job, generated, .. } = row;
        let sequence =
            sequence.as_mut().ok_or_else(|| Exception::custom("the row has no caches"))?;
        match (*part, sequence.next) {
            (Part::Decode, Next::InFlight(index)) => {
                lazy.push(index as u32);
                sequence.has_unread_token = true;
                lengths.push((1, true));
            }
            (Part::Decode, Next::Known(token)) => {
                known.push(token);
                sequence.track.tokens.push(token);
                lengths.push((1, true));
            }
            (Part::Prompt { most }, Next::Prompt) => {
                let from = sequence.track.tokens.len();
                depth = from;
                let end = chunk_end(sequence, from, most, grid).min(target);
                let prompt = job.request.prompt.iter().chain(generated.iter());
                let chunk: Vec<u32> = prompt.skip(from).take(end - from).copied().collect();
                known.extend(&chunk);
                sequence.track.tokens.extend(&chunk);
                lengths.push((chunk.len(), end == target));
            }
            (part, next) => {
                return Err(Exception::custom(format!("a row at {next:?} was asked for {part:?}")));
            }
        }
    }
    let tokens = tokens(in_flight, &lazy, &known)?;
    let loaded = rows.first().map(|(_, row, _)| Rc::clone(&row.model));
    let loaded = loaded.ok_or_else(|| Exception::custom("a step without rows"))?;
    let segments = rows.iter_mut().zip(&lengths).filter_map(|((_, row, _), (length, wants))| {
        let cache = &mut row.sequence.as_mut()?.cache;
        Some(Segment { cache, tokens: *length as i32, outputs: i32::from(*wants) })
    });
    let step = Forward::new(segments.collect(), Backend::current());
    let logits = loaded.architecture.forward(&tokens, step)?;

    let mut outputs = Vec::new();
    let mut samplers: Vec<&mut Sampler> = Vec::new();
    for ((id, row, _), (_, wants)) in rows.iter_mut().zip(&lengths) {
        if let (true, Some(sequence), Some(sampler)) = (*wants, &mut row.sequence, &mut row.sampler)
        {
            let allowed = match &row.constraint {
                Some(MaskState::Ready(constraint)) => constraint.allowed(),
                Some(MaskState::Pending) => {
                    return Err(Exception::custom("a row waits for its mask"));
                }
                None => None,
            };
            sampler.constrain(allowed);
            let forced = row.thoughts.as_ref().and_then(ReasoningBudget::forced);
            // If the grammar does not allow the end marker, no reasoning is open.
            sampler.force(forced.filter(|&id| allowed.is_none_or(|flags| flags[id as usize])));
            sequence.next = Next::InFlight(outputs.len());
            outputs.push(*id);
            samplers.push(sampler);
        }
    }
    let sampled = logits.map(|logits| sample(&logits, &mut samplers)).transpose()?;
    let prompt = rows.last().filter(|(.., part)| *part != Part::Decode);
    let caches = prompt.and_then(|(_, row, _)| row.sequence.as_ref()).map(|sequence| {
        let arrays = sequence.cache.arrays();
        arrays.cloned().collect()
    });
    let prompt_tokens = prompt.map_or(0, |_| lengths.last().map_or(0, |(length, _)| *length));
    Ok(StepGraph {
        model,
        rows: rows.iter().map(|(id, ..)| *id).collect(),
        outputs,
        sampled,
        decoding: rows.len() - usize::from(prompt.is_some()),
        prompt_tokens,
        depth,
        caches: caches.unwrap_or_default(),
        begin,
        build: begin.elapsed(),
    })
}

fn rank(row: &Row, part: Part) -> (usize, usize) {
    match (part, row.sequence.as_ref().map(|sequence| sequence.next)) {
        (Part::Prompt { .. }, _) => (2, 0),
        (_, Some(Next::InFlight(index))) => (0, index),
        _ => (1, 0),
    }
}

/// The end of a chunk of at most `most` tokens that begins at `from`.
fn chunk_end(sequence: &Sequence, from: usize, most: usize, grid: usize) -> usize {
    let end = (from / grid + 1) * grid;
    let end = end.min(from + most.max(1));
    sequence.track.next_stop(from).map_or(end, |stop| end.min(stop))
}

/// The step's tokens, [1, T].
fn tokens(in_flight: Option<&Array>, lazy: &[u32], known: &[u32]) -> Result<Array> {
    let Some(in_flight) = in_flight.filter(|_| !lazy.is_empty()) else {
        return Ok(token_array(known));
    };
    let count = lazy.len() as i32;
    let in_order = lazy.iter().enumerate().all(|(at, &index)| at == index as usize);
    let fed = if in_order && in_flight.shape() == [count] {
        in_flight.reshape(&[1, count])?
    } else {
        take_axis(in_flight, Array::from_slice(lazy, &[count]), 0)?.reshape(&[1, count])?
    };
    match known {
        [] => Ok(fed),
        known => concatenate(&[fed, token_array(known)], 1),
    }
}

/// Fault injection: a step with one of these tokens in a prompt fails.
#[cfg(test)]
pub(crate) mod faults {
    use super::{Exception, Part, Result, Row, RowId};

    /// The step panics.
    pub(crate) const PANIC: u32 = 377;
    /// The step fails with an MLX error.
    pub(crate) const FAIL: u32 = 378;

    pub(super) fn strike(rows: &[(RowId, Row, Part)]) -> Result<()> {
        let holds = |token| rows.iter().any(|(_, row, _)| row.job.request.prompt.contains(&token));
        assert!(!holds(PANIC), "a fault on demand");
        if holds(FAIL) { Err(Exception::custom("a fault on demand")) } else { Ok(()) }
    }
}
