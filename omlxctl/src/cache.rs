//! `omlxctl cache`.

use std::collections::BTreeMap;
use std::io::{self, BufRead, IsTerminal, Write};

use omlxctl::client::ClientError;
use omlxctl::protocol::{
    CacheStats, CacheStatus, Cleared, Demoted, Explanation, PromptReuse, StoreStats, Verified,
    VerifyEvent,
};

use crate::cli::Cache;
use crate::context::{Context, Done, check_request_id};
use crate::exit::CommandError;
use crate::output::{bytes, count, table, time};

/// Does what `omlxctl cache` was told.
pub(crate) async fn run(context: &Context, command: Cache) -> Done {
    match command {
        Cache::Stats => stats(context).await,
        Cache::Verify => verify(context).await,
        Cache::Demote => {
            let demoted: Demoted = context.post("/cache/demote").await?;
            let Demoted { records, live_sessions } = demoted;
            context.output.document(&demoted, |out| {
                writeln!(out, "{records} records and {live_sessions} live sessions left memory")
            })?;
            Ok(())
        }
        Cache::Clear { model, yes } => clear(context, model.as_deref(), yes).await,
        Cache::Explain { request_id } => explain(context, &request_id).await,
    }
}

/// The cache in a line.
pub(crate) fn summary(cache: &CacheStatus) -> String {
    if !cache.enabled {
        return "off (cache.enabled)".to_owned();
    }
    let live = &cache.live;
    let live = format!(
        "{} of {} in {} live sessions",
        bytes(live.used_bytes),
        bytes(live.capacity_bytes),
        live.sessions
    );
    let (Some(ram), Some(ssd)) = (&cache.ram, &cache.ssd) else {
        let problem = cache.problem.as_deref().unwrap_or("unknown");
        return format!("{live}; nothing is stored: {problem}");
    };
    let of = |used, capacity| format!("{} of {}", bytes(used), bytes(capacity));
    let ram = of(ram.used_bytes, ram.capacity_bytes);
    let ssd = of(ssd.used_bytes, ssd.capacity_bytes);
    let paused = cache.paused.as_ref().map(|why| format!("; saving is paused: {why}"));
    format!("{ram} in RAM, {ssd} on SSD, {live}{}", paused.unwrap_or_default())
}

async fn stats(context: &Context) -> Done {
    let stats: CacheStats = context.get("/cache").await?;
    context.output.document(&stats, |out| {
        writeln!(out, "cache     {}", summary(&stats.status))?;
        writeln!(out, "folder    {}", stats.dir.display())?;
        writeln!(out, "blocks    {} tokens each", stats.block_tokens)?;
        if let Some(store) = &stats.store {
            numbers(out, store)?;
        }
        if let (Some(ram), Some(ssd)) = (&stats.status.ram, &stats.status.ssd) {
            let rows = [("ram", ram), ("ssd", ssd)].map(|(name, tier)| {
                [
                    name.to_owned(),
                    bytes(tier.used_bytes),
                    bytes(tier.capacity_bytes),
                    tier.blocks.to_string(),
                    tier.windows.to_string(),
                    tier.states.to_string(),
                ]
            });
            writeln!(out)?;
            table(out, ["TIER", "USED", "OF", "BLOCKS", "WINDOWS", "STATES"], &rows, "")?;
        }
        writeln!(out)?;
        models(out, &stats)?;
        let namespaces = stats.store.iter().flat_map(|store| &store.namespaces);
        let rows: Vec<_> = namespaces
            .map(|own| {
                let name = own
                    .namespace
                    .as_deref()
                    .map_or("others", |name| name.get(..12).unwrap_or(name));
                let model = own.model.as_deref().unwrap_or("not loaded since the start");
                [name.to_owned(), model.to_owned(), bytes(own.used_bytes)]
            })
            .collect();
        if rows.is_empty() {
            return Ok(());
        }
        writeln!(out)?;
        table(out, ["NAMESPACE", "MODEL", "ON SSD"], &rows, "")
    })?;
    Ok(())
}

fn numbers(out: &mut dyn Write, store: &StoreStats) -> io::Result<()> {
    let free = store.free_disk_bytes.map_or("an unknown space".to_owned(), bytes);
    let left = store.write_budget_remaining_bytes.map_or("no limit".to_owned(), bytes);
    writeln!(out, "disk      {free} free, of which {} stay", bytes(store.min_free_bytes))?;
    writeln!(
        out,
        "written   {}, {left} left for today, {} records waiting",
        bytes(store.written_bytes),
        store.waiting_saves
    )?;
    writeln!(
        out,
        "read      {}; {} records found in RAM, {} on SSD",
        bytes(store.read_bytes),
        store.hits_ram,
        store.hits_ssd
    )?;
    match store.recovery_seconds {
        Some(took) => writeln!(
            out,
            "start     {} records found again, all looked at within {}",
            store.recovered_records,
            time(took)
        )?,
        None => writeln!(out, "start     still looking through the files; nothing is saved yet")?,
    }
    if store.unindexed_bytes > 0 {
        writeln!(out, "unusable  {}", bytes(store.unindexed_bytes))?;
    }
    let events = [
        ("not saved", &store.dropped),
        ("removed  ", &store.evicted),
        ("damaged  ", &store.verify_failures),
        ("errors   ", &store.io_errors),
    ];
    events
        .iter()
        .filter(|(_, counts)| !counts.is_empty())
        .try_for_each(|(what, counts)| writeln!(out, "{what} {}", counted(counts)))
}

fn models(out: &mut dyn Write, stats: &CacheStats) -> io::Result<()> {
    let rows: Vec<_> = stats
        .models
        .iter()
        .map(|model| {
            let reused = model.ram_tokens + model.ssd_tokens;
            [
                model.model.clone(),
                count(model.prompt_tokens),
                count(model.ram_tokens),
                count(model.ssd_tokens),
                count(model.prompt_tokens.saturating_sub(reused)),
                counted(&model.misses),
            ]
        })
        .collect();
    let heading = ["MODEL", "PROMPT TOKENS", "FROM RAM", "FROM SSD", "COMPUTED", "WHY NOT MORE"];
    table(out, heading, &rows, "No prompt was computed since omlxd started.")
}

fn counted(counts: &BTreeMap<String, u64>) -> String {
    let each: Vec<_> = counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
    each.join(", ")
}

async fn verify(context: &Context) -> Done {
    let answer = context.client.post_lines("/cache/verify", |event: VerifyEvent| match event {
        VerifyEvent::Progress(so_far) => {
            let text = format!("{} of {} records checked", so_far.done, so_far.total);
            context.output.progress(&text);
            None
        }
        VerifyEvent::Done(report) => Some(Ok(report)),
        VerifyEvent::Error(error) => Some(Err(error)),
    });
    let answer = answer.await;
    context.output.progress("");
    let answer = answer?;
    context.warn_of_other_version(&answer.daemon_version);
    let report: Verified = answer.value.map_err(|error| {
        CommandError::Client(ClientError::Refused { code: error.code, message: error.message })
    })?;
    let bad = report.damaged + report.unreadable;
    context.output.document(&report, |out| {
        let Verified { done, damaged, unreadable, .. } = report;
        writeln!(
            out,
            "{done} records checked ({}): {damaged} damaged, {unreadable} unreadable",
            bytes(report.bytes)
        )?;
        if damaged > 0 {
            writeln!(out, "what was damaged was set aside; it is computed again when wanted")?;
        }
        Ok(())
    })?;
    if bad == 0 { Ok(()) } else { Err(CommandError::Negative) }
}

async fn clear(context: &Context, model: Option<&str>, yes: bool) -> Done {
    if model == Some("") {
        return Err(CommandError::Usage("--model needs a model's id".to_owned()));
    }
    let what = model.map_or("everything cached".to_owned(), |id| format!("what {id} has cached"));
    if !yes && !confirmed(&what)? {
        context.output.warning("nothing was removed");
        return Err(CommandError::Negative);
    }
    let path = match model {
        None => "/cache/clear".to_owned(),
        Some(id) => format!("/cache/clear/{}", encoded(id)),
    };
    let cleared: Cleared = context.post(&path).await?;
    context.output.document(&cleared, |out| {
        writeln!(
            out,
            "removed {} records ({} on SSD) and {} live sessions",
            cleared.records,
            bytes(cleared.bytes),
            cleared.live_sessions
        )
    })?;
    Ok(())
}

/// Asks on a terminal; elsewhere nobody can be asked.
fn confirmed(what: &str) -> Result<bool, CommandError> {
    let mut stdin = io::stdin().lock();
    if !stdin.is_terminal() {
        let message = format!("this removes {what}: confirm it with --yes");
        return Err(CommandError::Usage(message));
    }
    let mut stderr = io::stderr().lock();
    write!(stderr, "Remove {what}? It is computed again when it is wanted. [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    stdin.read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// A model's id as one part of a path.
pub(crate) fn encoded(id: &str) -> String {
    id.bytes().fold(String::new(), |mut text, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => text.push(byte as char),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
        text
    })
}

async fn explain(context: &Context, id: &str) -> Done {
    check_request_id(id)?;
    let explanation: Explanation = context.get(&format!("/cache/explain/{id}")).await?;
    context.output.document(&explanation, |out| {
        writeln!(out, "request   {}", explanation.id)?;
        writeln!(out, "model     {}", explanation.model)?;
        explanation.prompts.iter().try_for_each(|prompt| explain_prompt(out, prompt))
    })?;
    Ok(())
}

fn explain_prompt(out: &mut dyn Write, prompt: &PromptReuse) -> io::Result<()> {
    let memory = if prompt.live { "a live session" } else { "RAM" };
    writeln!(
        out,
        "prompt    {} tokens: {} from {memory}, {} from SSD, {} computed",
        prompt.prompt_tokens, prompt.ram_tokens, prompt.ssd_tokens, prompt.computed_tokens
    )?;
    let reason = prompt.reason.as_deref().unwrap_or("reused");
    writeln!(out, "reason    {reason}: {}", prompt.because)?;
    let Some(at) = &prompt.divergence else { return Ok(()) };
    writeln!(
        out,
        "differs   at token {} ({:?}, id {}, was {}), in block {} of {} tokens each",
        at.position, at.token, at.token_id, at.earlier_token_id, at.block, prompt.block_tokens
    )?;
    writeln!(out, "  before  {:?}", at.before)?;
    writeln!(out, "  earlier {:?}", at.earlier)?;
    writeln!(out, "  now     {:?}", at.now)?;
    at.cause.iter().try_for_each(|cause| writeln!(out, "cause     {cause}"))
}

#[cfg(test)]
mod tests {
    use omlxctl::protocol::{Divergence, LiveSessions, Tier};

    use super::*;

    #[test]
    fn ids_are_one_part_of_a_path() {
        assert_eq!(encoded("org/Name-1.5_b"), "org%2FName-1.5_b");
        assert_eq!(encoded("é %"), "%C3%A9%20%25");
    }

    #[test]
    fn a_cache_in_a_line() {
        let live = LiveSessions { sessions: 2, used_bytes: 1 << 20, capacity_bytes: 1 << 30 };
        let tier = |used_bytes, capacity_bytes| {
            Some(Tier { used_bytes, capacity_bytes, blocks: 1, windows: 0, states: 0 })
        };
        let mut cache = CacheStatus {
            enabled: true,
            problem: None,
            live,
            ram: tier(0, 1 << 30),
            ssd: tier(2 << 30, 10 << 30),
            paused: Some("the disk is full".to_owned()),
        };
        assert_eq!(
            summary(&cache),
            "0 B of 1.0 GiB in RAM, 2.0 GiB of 10.0 GiB on SSD, 1.0 MiB of 1.0 GiB in 2 live \
             sessions; saving is paused: the disk is full"
        );
        (cache.ram, cache.ssd) = (None, None);
        cache.problem = Some("no folder".to_owned());
        assert!(summary(&cache).ends_with("2 live sessions; nothing is stored: no folder"));
        cache.enabled = false;
        assert_eq!(summary(&cache), "off (cache.enabled)");
    }

    #[test]
    fn an_explanation_shows_both_texts() {
        let prompt = PromptReuse {
            prompt_tokens: 100,
            ram_tokens: 0,
            ssd_tokens: 64,
            computed_tokens: 36,
            live: false,
            block_tokens: 32,
            reason: Some("diverged".to_owned()),
            because: "it differs".to_owned(),
            divergence: Some(Divergence {
                position: 70,
                block: 2,
                token_id: 7,
                token: "b".to_owned(),
                earlier_token_id: 9,
                before: "a\n".to_owned(),
                earlier: "c".to_owned(),
                now: "bd".to_owned(),
                cause: Some("a date".to_owned()),
            }),
        };
        let mut out = Vec::new();
        explain_prompt(&mut out, &prompt).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "prompt    100 tokens: 0 from RAM, 64 from SSD, 36 computed\n\
             reason    diverged: it differs\n\
             differs   at token 70 (\"b\", id 7, was 9), in block 2 of 32 tokens each\n\
             \x20 before  \"a\\n\"\n\
             \x20 earlier \"c\"\n\
             \x20 now     \"bd\"\n\
             cause     a date\n"
        );
    }
}
