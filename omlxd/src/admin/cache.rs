//! The admin routes of the KV cache.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use engine::{Cause, LostThought, MissReason, ReuseReport};
use hyper::StatusCode;
use kvstore::stats::{DropReason, EvictReason, Op};
use kvstore::{Damage, Kind, Namespace, Stats, VerifyReport};
use omlxctl::protocol::{
    CacheStats, CacheStatus, Cleared, Demoted, Divergence, ErrorCode, ErrorDetail, Explanation,
    LiveSessions, ModelReuse, NamespaceUse, PromptReuse, StoreStats, Tier, Verified, VerifyEvent,
};

use super::answer::{AdminError, Answer, Asked, Events, json};
use super::peer::AdminPeer;
use crate::cache::RequestReport;
use crate::daemon::Daemon;

/// Pause between two reports of progress.
const PROGRESS: Duration = Duration::from_millis(200);
/// Longest wait for records that are still to be written.
const DEMOTE_FLUSH: Duration = Duration::from_secs(5);

pub(super) fn stats(_: AdminPeer, daemon: &Daemon, _: &Asked) -> Answer {
    let app = &daemon.app;
    let stats = app.cache.store.as_ref().map(|store| store.stats());
    let models = app.registry.catalog().list().into_iter().filter_map(|entry| {
        let totals = app.metrics.add_model(&entry.id).reuse_totals();
        (totals.prompt_tokens > 0).then(|| ModelReuse {
            model: entry.id,
            prompt_tokens: totals.prompt_tokens,
            ram_tokens: totals.ram_tokens,
            ssd_tokens: totals.ssd_tokens,
            misses: counted(MissReason::ALL.map(MissReason::name).into_iter().zip(totals.misses)),
        })
    });
    json(&CacheStats {
        status: status_of(daemon, stats.as_ref()),
        dir: app.cache.dir.clone(),
        block_tokens: app.cache.reuse.block_tokens,
        models: models.collect(),
        store: stats.map(|stats| store_stats(daemon, &stats)),
    })
}

/// The cache in short, for `GET /status`.
pub(super) fn status(daemon: &Daemon) -> CacheStatus {
    let stats = daemon.app.cache.store.as_ref().map(|store| store.stats());
    status_of(daemon, stats.as_ref())
}

fn status_of(daemon: &Daemon, stats: Option<&Stats>) -> CacheStatus {
    let app = &daemon.app;
    let (sessions, used_bytes) = app.engine.live_sessions();
    let capacity_bytes = app.cache.reuse.live_bytes as u64;
    let tier = |index: usize, used_bytes, capacity_bytes, stats: &Stats| {
        let of = |kind: Kind| stats.blocks[index][kind.index()];
        let (blocks, windows, states) = (of(Kind::Kv), of(Kind::Rotating), of(Kind::Recurrent));
        Tier { used_bytes, capacity_bytes, blocks, windows, states }
    };
    let paused = stats.filter(|stats| stats.saving_paused);
    let paused = paused.map(|_| "the disk is full, or below cache.ssd_min_free".to_owned());
    CacheStatus {
        enabled: app.config.cache.enabled,
        problem: app.cache.problem.clone(),
        live: LiveSessions { sessions, used_bytes, capacity_bytes },
        ram: stats.map(|s| tier(0, s.ram_used_bytes, s.ram_capacity_bytes, s)),
        ssd: stats.map(|s| tier(1, s.physical_bytes, s.quota_bytes, s)),
        paused,
    }
}

fn store_stats(daemon: &Daemon, stats: &Stats) -> StoreStats {
    let counters = &stats.counters;
    let models = daemon.app.engine.namespaces();
    let model_of = |namespace: &Namespace| {
        let found = models.iter().find(|(_, own)| own.contains(namespace));
        found.map(|(model, _)| model.clone())
    };
    let namespaces = stats.namespaces.iter().filter(|space| space.physical_bytes > 0);
    let namespaces = namespaces.map(|space| NamespaceUse {
        namespace: space.namespace.map(|namespace| namespace.to_string()),
        model: space.namespace.as_ref().and_then(model_of),
        used_bytes: space.physical_bytes,
    });
    let bytes = |of: fn(&kvstore::stats::NamespaceStats) -> &[u64; 3]| {
        stats.namespaces.iter().flat_map(of).sum()
    };
    let io_errors = counters.io_errors.map(|classes| classes.iter().sum::<u64>());
    let failures = Damage::ALL.map(Damage::name).into_iter().zip(counters.verify_failures);
    StoreStats {
        unindexed_bytes: stats.unindexed_bytes,
        free_disk_bytes: stats.free_disk_bytes,
        min_free_bytes: daemon.app.cache.min_free_bytes,
        write_budget_remaining_bytes: stats.write_budget_remaining_bytes,
        written_bytes: bytes(|space| &space.write_bytes),
        read_bytes: bytes(|space| &space.read_bytes),
        waiting_saves: stats.queue_depth[kvstore::stats::Queue::Save as usize],
        hits_ram: counters.hits[0],
        hits_ssd: counters.hits[1],
        dropped: counted(DropReason::ALL.iter().map(|r| r.name()).zip(counters.dropped)),
        evicted: counted(EvictReason::ALL.iter().map(|r| r.name()).zip(counters.evictions)),
        verify_failures: counted(failures.chain([("tokens", counters.witness_failures)])),
        io_errors: counted(Op::ALL.iter().map(|op| op.name()).zip(io_errors)),
        recovery_seconds: counters.recovery.map(|took| took.as_secs_f64()),
        recovered_records: counters.recovered_blocks,
        namespaces: namespaces.collect(),
    }
}

/// Those that happened.
fn counted<'a>(counts: impl Iterator<Item = (&'a str, u64)>) -> BTreeMap<String, u64> {
    let happened = counts.filter(|(_, count)| *count > 0);
    happened.map(|(name, count)| (name.to_owned(), count)).collect()
}

/// Reads every record on disk. Ends early if the client disconnects.
pub(super) fn verify(_: AdminPeer, daemon: &Daemon, _: &Asked, events: &Events) {
    let app = &daemon.app;
    let Some(store) = &app.cache.store else {
        let message = match &app.cache.problem {
            Some(problem) => format!("there is no store to check: {problem}"),
            None => "there is no store to check: cache.enabled is false".to_owned(),
        };
        let detail = ErrorDetail { code: ErrorCode::Failed, message };
        events.send(&VerifyEvent::Error(detail));
        return;
    };
    let mut told = Instant::now();
    let mut stopped = false;
    let report = store.verify(|report| {
        stopped = app.shutdown.is_cancelled();
        let is_due = told.elapsed() >= PROGRESS;
        if is_due {
            told = Instant::now();
            stopped |= !events.send(&VerifyEvent::Progress(verified(report)));
        }
        if stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    if report.damaged + report.unreadable > 0 {
        let (damaged, unreadable) = (report.damaged, report.unreadable);
        tracing::warn!(damaged, unreadable, "a check of the cache found damage");
    }
    events.send(&if stopped {
        VerifyEvent::Error(ErrorDetail {
            code: ErrorCode::Failed,
            message: format!(
                "omlxd stops; {} of {} records were checked, {} of them damaged",
                report.done, report.total, report.damaged
            ),
        })
    } else {
        VerifyEvent::Done(verified(&report))
    });
}

fn verified(report: &VerifyReport) -> Verified {
    let VerifyReport { total, done, bytes, damaged, unreadable } = *report;
    Verified { total, done, bytes, damaged, unreadable }
}

/// Removes everything, or what was computed by one model.
pub(super) fn clear(_: AdminPeer, daemon: &Daemon, asked: &Asked) -> Answer {
    let app = &daemon.app;
    let model = Some(asked.id.clone()).filter(|model| !model.is_empty());
    let namespaces = match &model {
        None => None,
        Some(model) => Some(app.engine.namespaces().remove(model).ok_or_else(|| {
            let message = format!(
                "{model} was not loaded since omlxd started, so its records cannot be told from \
                 others: send it a request first, or clear everything"
            );
            AdminError::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, message)
        })?),
    };
    let (live_sessions, _) = app.engine.live_sessions();
    app.engine.clear_live_sessions();
    let mut gone = kvstore::Cleared::default();
    if let Some(store) = &app.cache.store {
        let cleared = match &namespaces {
            None => vec![store.clear(None)],
            Some(namespaces) => namespaces.iter().map(|own| store.clear(Some(own))).collect(),
        };
        for cleared in cleared {
            gone.blocks += cleared.blocks;
            gone.physical_bytes += cleared.physical_bytes;
        }
    }
    tracing::info!(model, records = gone.blocks, live_sessions, "the cache was cleared");
    json(&Cleared { model, records: gone.blocks, bytes: gone.physical_bytes, live_sessions })
}

/// Leaves on SSD only what is in memory, as a restart would: for measuring.
pub(super) fn demote(_: AdminPeer, daemon: &Daemon, _: &Asked) -> Answer {
    let app = &daemon.app;
    let (live_sessions, _) = app.engine.live_sessions();
    app.engine.clear_live_sessions();
    let mut records = 0;
    if let Some(store) = &app.cache.store {
        store.flush(DEMOTE_FLUSH);
        records = store.demote_all() as u64;
    }
    json(&Demoted { records, live_sessions })
}

/// Removes what a model computed. `None` when that cannot be told from others.
pub(super) fn clear_model(daemon: &Daemon, model: &str) -> Option<u64> {
    let app = &daemon.app;
    let namespaces = app.engine.namespaces().remove(model)?;
    app.engine.clear_live_sessions();
    let store = app.cache.store.as_ref()?;
    Some(namespaces.iter().map(|own| store.clear(Some(own)).blocks).sum())
}

/// What was reused for a request. Its answer's id (`chatcmpl-..`) does as well as its own.
pub(super) fn explain(_: AdminPeer, daemon: &Daemon, asked: &Asked) -> Answer {
    let id = asked.id.as_str();
    let digits = id.strip_prefix("chatcmpl-").or_else(|| id.strip_prefix("cmpl-"));
    let id = digits.map_or_else(|| id.to_owned(), |digits| format!("req_{digits}"));
    let Some(report) = daemon.app.cache.report(&id) else {
        let message = format!(
            "nothing is known of request {id}: the last {} that had their first token since omlxd \
             started are remembered; the header x-request-id of an answer has its id",
            crate::cache::MAX_REPORTS
        );
        return Err(AdminError::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, message));
    };
    let prompts = report.prompts.iter().map(|prompt| prompt_reuse(prompt, &report)).collect();
    json(&Explanation { id: report.id, model: report.model, prompts })
}

fn prompt_reuse(report: &ReuseReport, request: &RequestReport) -> PromptReuse {
    let RequestReport { tokenizer, format, template, .. } = request;
    let text = |tokens: &[u32]| {
        readable(&tokens.iter().flat_map(|id| tokenizer.token_bytes(*id)).collect::<Vec<u8>>())
    };
    let says = |word: &str| template.as_ref().is_some_and(|template| template.mentions(word));
    let divergence = report.divergence.as_ref().and_then(|at| {
        Some(Divergence {
            position: at.position,
            block: at.block,
            token_id: *at.now.first()?,
            token: text(at.now.get(..1)?),
            earlier_token_id: *at.earlier.first()?,
            before: text(&at.before),
            earlier: text(&at.earlier),
            now: text(&at.now),
            cause: at.cause(tokenizer, format).map(|cause| cause_text(cause, says)),
        })
    });
    PromptReuse {
        prompt_tokens: report.prompt_tokens,
        ram_tokens: report.ram_tokens,
        ssd_tokens: report.ssd_tokens,
        computed_tokens: report.prompt_tokens.saturating_sub(report.reused_tokens()),
        live: report.live,
        block_tokens: report.block_tokens,
        reason: report.miss.map(|reason| reason.name().to_owned()),
        because: because(report),
        divergence,
    }
}

/// Text, with bytes that are no UTF-8 as `\xNN`: two tokens that differ should look different.
fn readable(bytes: &[u8]) -> String {
    bytes.utf8_chunks().fold(String::new(), |mut text, chunk| {
        text.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02X}")));
        text
    })
}

fn because(report: &ReuseReport) -> String {
    let Some(reason) = report.miss else {
        return "everything that could be reused was; the rest is new".to_owned();
    };
    let sentence = match reason {
        MissReason::Cold => {
            "no prompt that starts like this one was computed since omlxd started, and none is \
             stored"
        }
        MissReason::Evicted => {
            "it was computed before, but its records are gone: evicted, cleared or never saved \
             (`omlxctl cache stats` counts which)"
        }
        MissReason::Diverged => match &report.divergence {
            Some(at) => {
                return format!(
                    "token {}, in block {}, differs from the earlier prompt that starts most like \
                     this one",
                    at.position, at.block
                );
            }
            None => "it differs from the earlier prompt that starts most like this one",
        },
        MissReason::Layout => {
            "it was computed before by a model of this name with other weights, types or layout, \
             whose records do not fit"
        }
        MissReason::VerifyFailed => {
            "a stored record failed its checks; it was set aside, and its tokens computed again"
        }
        MissReason::LoadFailed => {
            "a stored record could not be read or used; its tokens were computed again"
        }
        MissReason::Salt => {
            "it was computed before for another API key or with another cache_salt, which share \
             nothing"
        }
        MissReason::TooShort => {
            return format!(
                "it is shorter than a block of {} tokens, the least that is stored",
                report.block_tokens
            );
        }
    };
    sentence.to_owned()
}

/// Variables by which templates keep the thoughts of earlier turns, and their values for that.
const KEEP_THOUGHTS: [(&str, bool); 3] =
    [("preserve_thinking", true), ("clear_thinking", false), ("truncate_history_thinking", false)];
/// Where templates look for a message's thoughts.
const THOUGHT_FIELDS: [&str; 3] = ["reasoning_content", ".thinking", ".reasoning"];

/// What two prompts differ in, and what to do about it. The model's template `says` what it holds.
fn cause_text(cause: Cause, says: impl Fn(&str) -> bool) -> String {
    let Cause::Thought(lost) = cause else {
        return "it lies before the first user message: the system message, the tools, or what the \
                chat template writes beside them (a date, for one) is not the same; keep what \
                changes behind what does not"
            .to_owned();
    };
    let variable = KEEP_THOUGHTS.iter().find(|(name, _)| says(name));
    let (what, thoughts) = match lost {
        LostThought::Written if !THOUGHT_FIELDS.iter().any(|field| says(field)) => {
            return "the model's thoughts follow in the earlier prompt and not in this one: this \
                    model's chat template has no place for those of earlier turns, so what comes \
                    after them is computed again"
                .to_owned();
        }
        LostThought::Written => (
            "the model's thoughts follow in the earlier prompt and not in this one; send them back \
             as reasoning_content of the assistant's messages",
            "thoughts",
        ),
        LostThought::Empty => (
            "an empty thought, which tells a model not to think, follows in the earlier prompt and \
             not in this one",
            "it",
        ),
    };
    match variable {
        Some((name, value)) => format!(
            "{what}; chat_template_kwargs {{\"{name}\": {value}}} lets this model's chat template \
             keep {thoughts}"
        ),
        None => format!(
            "{what}; this model's chat template is not known to have a variable that keeps \
             {thoughts} in earlier turns"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_text_stays_readable() {
        assert_eq!(readable("é\n".as_bytes()), "é\n");
        assert_eq!(readable(b"a\xc3b\xff"), "a\\xC3b\\xFF");
    }

    #[test]
    fn a_cause_says_what_to_do_with_this_template() {
        let text =
            |lost, template: &str| cause_text(Cause::Thought(lost), |word| template.contains(word));
        let keeps = "{{ message.reasoning_content if preserve_thinking }}";
        let kept = text(LostThought::Written, keeps);
        assert!(kept.contains("send them back as reasoning_content"), "{kept}");
        assert!(kept.contains("{\"preserve_thinking\": true} lets"), "{kept}");
        let drops = text(LostThought::Written, "{{ message.reasoning_content }}");
        assert!(drops.ends_with("a variable that keeps thoughts in earlier turns"), "{drops}");
        let never = text(LostThought::Written, "{{ message.content }}");
        assert!(never.contains("has no place for") && !never.contains("send"), "{never}");
        let empty = text(LostThought::Empty, "{% if not clear_thinking %}");
        assert!(
            empty.ends_with("{\"clear_thinking\": false} lets this model's chat template keep it")
        );
        assert!(cause_text(Cause::Head, |_| false).contains("before the first user message"));
    }

    #[test]
    fn every_reason_has_a_sentence_of_its_own() {
        let said: std::collections::BTreeSet<String> = [None]
            .into_iter()
            .chain(MissReason::ALL.map(Some))
            .map(|miss| because(&ReuseReport { miss, ..ReuseReport::default() }))
            .collect();
        assert_eq!(said.len(), MissReason::ALL.len() + 1);
    }
}
