//! Steps: builds one while MLX computes the previous one, and delivers their tokens.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use mlx_rs::transforms::{async_eval, eval};

use super::{InFlightStep, MAX_DUTY_PAUSE, MAX_FAILED_STEPS, WAITED, Worker, guarded};
use crate::error::{GenerateError, Result};
use crate::panic_text;
use crate::runtime::batch::{Part, StepGraph, build};
use crate::runtime::report::{Phase, StepReport};
use crate::runtime::row::{Row, Sequence, read_logprobs};
use crate::runtime::status::CurrentStep;
use crate::sched::{RowId, StepCost, StepPlan};
use crate::types::ModelId;

impl Worker {
    /// Computes a step and delivers the tokens of the previous one.
    pub(super) fn step(&mut self, plan: &StepPlan) {
        self.store_full_blocks(plan);
        let mut rows: Vec<(RowId, Row, Part)> = Vec::with_capacity(plan.decode.len() + 1);
        let prompt = plan.prefill.map(|(id, most)| (id, Part::Prompt { most }));
        for (id, part) in plan.decode.iter().map(|id| (*id, Part::Decode)).chain(prompt) {
            if let Some(row) = self.rows.remove(&id) {
                rows.push((id, row, part));
            }
        }
        let grid = self.config.prefill_chunk.max(1);
        let before = self.in_flight.take();
        let same = before.as_ref().filter(|before| before.built.model == plan.model);
        let tokens = same.and_then(|before| Some(&before.built.sampled.as_ref()?.tokens));
        let built = attempt(|| build(plan.model, &mut rows, tokens, grid));
        let ids: Vec<RowId> = rows.iter().map(|(id, ..)| *id).collect();
        self.rows.extend(rows.into_iter().map(|(id, row, _)| (id, row)));
        match built {
            Ok(built) => self.compute(before, built),
            Err(error) => {
                if let Some(before) = before {
                    self.finish(before);
                }
                self.on_step_failed(&ids, error);
            }
        }
    }

    /// Hands finished blocks to the store before the caches advance.
    fn store_full_blocks(&mut self, plan: &StepPlan) {
        let prompt = plan.prefill.map(|(id, _)| id);
        for id in plan.decode.iter().copied().chain(prompt) {
            let Some(Row { sequence: Some(sequence), model, .. }) = self.rows.get_mut(&id) else {
                continue;
            };
            let Sequence { cache, track, .. } = sequence;
            if !self.reuse.has_blocks_to_store(track) {
                continue;
            }
            let reuse = &self.reuse;
            let stored_blocks = guarded("storing a KV block", || {
                reuse.store_full_blocks(&model.reuse, cache, track)
            });
            // A block that cannot be stored does not fail the request.
            if let Some(Err(error)) = stored_blocks {
                tracing::warn!(error = error.what(), "a KV block was not stored");
            }
        }
    }

    /// Waits for the previous step, starts the new one, then delivers the previous step's tokens.
    fn compute(&mut self, before: Option<InFlightStep>, mut built: StepGraph) {
        self.note_step(&built);
        let mut before = before;
        if self.overlap {
            // The previous tokens may still be in computation: MLX queues the next ones after them.
            if let Err(error) = attempt(|| async_eval(built.arrays())) {
                before.into_iter().for_each(|before| self.finish(before));
                return self.on_step_failed(&built.rows, error);
            }
        }
        if let Some(before) = &mut before
            && let Err(error) = self.wait(before)
        {
            let mut ids = before.built.rows.clone();
            ids.extend(built.rows.iter().filter(|id| !before.built.rows.contains(id)));
            return self.on_step_failed(&ids, error);
        }
        for id in &built.rows {
            let prompt = built.prompt_tokens > 0 && built.rows.last() == Some(id);
            self.scheduler.computing(*id, if prompt { built.prompt_tokens } else { 1 });
        }
        let wait_now = built.sampled.is_none();
        let handed = attempt(|| match (wait_now, self.overlap) {
            // Without a token to wait for there is nothing else to do meanwhile.
            (true, _) => eval(built.arrays()),
            (false, false) => async_eval(built.arrays()),
            (false, true) => Ok(()),
        });
        built.caches.clear();
        let rows = built.rows.clone();
        let next = InFlightStep { built, handed_over: Instant::now() };
        match handed {
            Ok(()) if wait_now => {
                before.into_iter().for_each(|before| self.deliver(before));
                self.report(&next, next.built.begin.elapsed(), Duration::ZERO, next.built.build);
            }
            Ok(()) => {
                // The new step is recorded before rows of the old one end in it.
                self.in_flight = Some(next);
                before.into_iter().for_each(|before| self.deliver(before));
            }
            Err(error) => {
                before.into_iter().for_each(|before| self.deliver(before));
                self.on_step_failed(&rows, error);
            }
        }
    }

    /// Waits for a step's tokens. Its inputs are dropped first, because the next step writes there.
    fn wait(&mut self, step: &mut InFlightStep) -> Result<(), Fault> {
        step.built.caches.clear();
        let begin = Instant::now();
        attempt(|| eval(step.built.arrays()))?;
        let now = Instant::now();
        let waited = now - begin;
        // The step was complete before the wait, and MLX had no other work. It is unknown since
        // when, but at most since the step was handed over.
        let idle = if !self.overlap && waited < WAITED {
            step.handed_over.elapsed()
        } else {
            Duration::ZERO
        };
        let since = self.last_end.unwrap_or(step.built.begin).max(step.built.begin);
        let duration = now.saturating_duration_since(since);
        self.report(step, duration, waited, idle);
        Ok(())
    }

    /// Reports a completed step.
    fn report(
        &mut self,
        step: &InFlightStep,
        duration: Duration,
        waited: Duration,
        idle: Duration,
    ) {
        let StepGraph { model, decoding, prompt_tokens, depth, ref outputs, build, .. } =
            step.built;
        self.last_end = Some(Instant::now());
        self.status.step_done();
        self.status.alive();
        self.scheduler.observe(model, StepCost { decoding, prompt_tokens, depth, duration });
        if prompt_tokens > 0 {
            self.account.note_staging();
        }
        let host =
            if waited.is_zero() { build } else { duration.saturating_sub(waited).min(duration) };
        // Its rows may have ended meanwhile, and the model may be unloaded.
        let name = self.models.get(&ModelId(model)).map_or("", |model| &model.reuse.name);
        self.config.observer.step(
            name,
            &StepReport {
                phase: if decoding > 0 { Phase::Decode } else { Phase::Prefill },
                rows: step.built.rows.len(),
                prompt_tokens,
                new_tokens: outputs.len(),
                duration,
                host,
                idle,
            },
        );
        self.pause_for_duty_cycle(duration);
    }

    /// Pauses for the fraction of time that the duty cycle leaves to other programs.
    fn pause_for_duty_cycle(&mut self, computed: Duration) {
        let share = self.config.duty_cycle.clamp(0.05, 1.0);
        if share < 1.0 {
            std::thread::sleep(computed.mul_f64((1.0 - share) / share).min(MAX_DUTY_PAUSE));
            self.last_end = None;
        }
    }

    /// Waits for a step and delivers its tokens.
    fn finish(&mut self, mut step: InFlightStep) {
        match self.wait(&mut step) {
            Ok(()) => self.deliver(step),
            Err(fault) => self.on_step_failed(&step.built.rows, fault),
        }
    }

    /// Finishes the step in flight.
    pub(super) fn drain(&mut self) {
        if let Some(step) = self.in_flight.take() {
            self.finish(step);
        }
    }

    /// Delivers the tokens of an evaluated step.
    fn deliver(&mut self, step: InFlightStep) {
        let StepGraph { rows, outputs, sampled, .. } = step.built;
        let Some(sampled) = sampled else { return };
        let alone = rows.len() == 1;
        let tokens = sampled.tokens.as_slice::<u32>();
        let is_nan = sampled.is_nan.as_ref().map(|is_nan| is_nan.as_slice::<bool>());
        for (index, &id) in outputs.iter().enumerate() {
            let Some(row) = self.rows.get_mut(&id) else { continue };
            if is_nan.is_some_and(|is_nan| is_nan[index]) {
                self.not_a_number(id);
                continue;
            }
            let logprobs = sampled.logprobs[index].as_ref().map(read_logprobs).transpose();
            let logprobs = match logprobs {
                Ok(logprobs) => logprobs,
                Err(error) => {
                    self.on_step_failed(&[id], Fault::Mlx(error.what().to_owned()));
                    continue;
                }
            };
            if alone {
                self.scheduler.trust(id);
            }
            match row.take(tokens[index], logprobs) {
                Some(finish) => self.complete(id, finish),
                None => {
                    if !row.flush() {
                        self.scheduler.set_blocked(id, true);
                    }
                    self.constrain(id, tokens[index]);
                }
            }
        }
    }

    /// Ends a request whose logits contain NaN, and drops the blocks that it stored.
    fn not_a_number(&mut self, id: RowId) {
        self.scheduler.end(id);
        let Some(row) = self.rows.remove(&id) else { return };
        if let Some(sequence) = &row.sequence {
            self.reuse.distrust(&sequence.track);
        }
        let found = row.model.weights.find_not_finite();
        let what = found.unwrap_or_else(|| "no weight holds one".to_owned());
        row.fail(GenerateError::NotANumber { what });
    }

    /// Handles a failed step with these rows. A row that was alone in it is at fault. With several
    /// rows the fault is unknown: each row starts over from its known tokens and computes alone
    /// until it has completed a step.
    fn on_step_failed(&mut self, ids: &[RowId], fault: Fault) {
        let alone = ids.len() == 1;
        tracing::error!(rows = ids.len(), fault = fault.text(), "a step of the engine failed");
        let models: Vec<ModelId> =
            ids.iter().filter_map(|id| self.rows.get(id)).map(|row| row.job.model).collect();
        for &id in ids {
            let Some(mut row) = self.rows.remove(&id) else { continue };
            row.failed_steps += 1;
            if alone || row.failed_steps > MAX_FAILED_STEPS {
                self.scheduler.end(id);
                row.fail(fault.error());
            } else {
                self.requeue(id, row, true);
            }
        }
        // A live session may hold arrays of the failed graph.
        for model in models {
            self.reuse.drop_live(model);
        }
        self.note_live();
    }

    fn note_step(&mut self, built: &StepGraph) {
        let name = self.rows.get(built.rows.first().unwrap_or(&0));
        let model = name.map(|row| row.model.reuse.name.clone()).unwrap_or_default();
        self.at_work = true;
        self.config.observer.begins(&model, built.decoding, built.prompt_tokens);
        self.status.step_begins(CurrentStep {
            model,
            decoding: built.decoding,
            prompt_tokens: built.prompt_tokens,
            begin: Instant::now(),
        });
    }
}

/// Why a step failed.
#[derive(Debug, Clone)]
enum Fault {
    Mlx(String),
    Panic(String),
}

impl Fault {
    fn text(&self) -> &str {
        match self {
            Self::Mlx(text) | Self::Panic(text) => text,
        }
    }

    fn error(&self) -> GenerateError {
        match self {
            Self::Mlx(what) => GenerateError::Mlx(what.clone()),
            Self::Panic(_) => GenerateError::Internal,
        }
    }
}

/// Runs a part of a step and catches panics.
fn attempt<T>(run: impl FnOnce() -> Result<T>) -> Result<T, Fault> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(Fault::Mlx(error.what().to_owned())),
        Err(panic) => Err(Fault::Panic(panic_text(&*panic))),
    }
}
