//! `omlxctl top`: the daemon as it changes, drawn on a terminal, as text elsewhere.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use omlxctl::protocol::{Activity, CacheStatus, Loaded, Request, Requests, Status, Tier};
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style};
use ratatui::widgets::{Block, Cell, Gauge, Paragraph, Row, Table};
use serde::Serialize;

use crate::cli::Top;
use crate::context::{Context, Done};
use crate::output::{bytes, count, time};

/// One look at the daemon.
#[derive(Debug, Serialize)]
struct Look {
    status: Status,
    models: Loaded,
    requests: Requests,
    activity: Activity,
    rates: Rates,
}

/// What changed since the look before, a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
struct Rates {
    generated_tokens_per_second: f64,
    computed_tokens_per_second: f64,
    cached_tokens_per_second: f64,
}

/// Watches until `q`, Ctrl-C, or the count is reached.
pub(crate) async fn run(context: &Context, options: Top) -> Done {
    let is_text = context.output.json || options.count.is_some() || !io::stdout().is_terminal();
    if is_text {
        return print(context, &options).await;
    }
    let mut before = None;
    let first = look(context, &mut before).await?;
    let mut terminal = ratatui::init();
    let watched = watch(context, &options, &mut terminal, first, &mut before).await;
    ratatui::restore();
    watched
}

async fn watch(
    context: &Context,
    options: &Top,
    terminal: &mut ratatui::DefaultTerminal,
    mut current: Look,
    before: &mut Option<(Activity, Instant)>,
) -> Done {
    loop {
        terminal.draw(|frame| draw(frame, &current))?;
        let next = Instant::now() + options.interval;
        while let Some(left) = next.checked_duration_since(Instant::now()) {
            if event::poll(left.min(Duration::from_millis(100)))? {
                match event::read()? {
                    Event::Key(key) if key.kind == KeyEventKind::Press => match key.code {
                        KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                            return Ok(());
                        }
                        _ => {}
                    },
                    Event::Resize(..) => {
                        terminal.draw(|frame| draw(frame, &current))?;
                    }
                    _ => {}
                }
            }
        }
        current = look(context, before).await?;
    }
}

async fn print(context: &Context, options: &Top) -> Done {
    let mut before = None;
    look(context, &mut before).await?;
    for number in 0..options.count.unwrap_or(1) {
        tokio::time::sleep(options.interval).await;
        let look = look(context, &mut before).await?;
        context.output.document(&look, |out| {
            if number > 0 {
                writeln!(out)?;
            }
            lines(&look).iter().try_for_each(|line| writeln!(out, "{line}"))
        })?;
    }
    Ok(())
}

async fn look(
    context: &Context,
    before: &mut Option<(Activity, Instant)>,
) -> Result<Look, crate::exit::CommandError> {
    let status = context.get("/status").await?;
    let models = context.get("/ps").await?;
    let requests = context.get("/requests").await?;
    let activity: Activity = context.get("/activity").await?;
    let now = Instant::now();
    let rates = before.map_or_else(Rates::default, |(then, at)| rates(&then, &activity, now - at));
    *before = Some((activity, now));
    Ok(Look { status, models, requests, activity, rates })
}

fn rates(then: &Activity, now: &Activity, elapsed: Duration) -> Rates {
    // A daemon that was started again counts from 0.
    let change = |now: u64, then: u64| now.saturating_sub(then) as f64 / elapsed.as_secs_f64();
    let cached = |activity: &Activity| activity.ram_tokens + activity.ssd_tokens;
    let computed = |activity: &Activity| activity.prompt_tokens.saturating_sub(cached(activity));
    Rates {
        generated_tokens_per_second: change(now.generated_tokens, then.generated_tokens),
        computed_tokens_per_second: change(computed(now), computed(then)),
        cached_tokens_per_second: change(cached(now), cached(then)),
    }
}

/// The head: what stands above the tables, and all that a pipe gets of it.
fn head(look: &Look) -> Vec<String> {
    let Look { status, activity, rates, .. } = look;
    let cached = activity.ram_tokens + activity.ssd_tokens;
    let share = 100.0 * cached as f64 / activity.prompt_tokens.max(1) as f64;
    let mut lines = vec![
        format!(
            "omlxd {} up {}, {} running, {} waiting, {} answered",
            status.version,
            time(status.uptime_seconds),
            status.requests_running,
            status.requests_waiting,
            activity.requests
        ),
        format!(
            "tokens/s   {:.1} generated, {:.0} of prompts computed, {:.0} from the cache",
            rates.generated_tokens_per_second,
            rates.computed_tokens_per_second,
            rates.cached_tokens_per_second
        ),
        format!(
            "prompts    {} tokens: {} from RAM, {} from SSD, {} computed ({share:.0}% cached)",
            count(activity.prompt_tokens),
            count(activity.ram_tokens),
            count(activity.ssd_tokens),
            count(activity.prompt_tokens.saturating_sub(cached)),
        ),
    ];
    if status.pulls > 0 {
        lines.push(format!("pulls      {} (`omlxctl models list`)", status.pulls));
    }
    lines
}

/// What is full by how much: name, used, capacity.
fn gauges(status: &Status) -> Vec<(&'static str, u64, u64)> {
    let mut gauges = Vec::new();
    if let Some(budget) = &status.budget {
        gauges.push(("models", budget.used_bytes, budget.budget_bytes));
    }
    if let Some(CacheStatus { live, ram, ssd, .. }) = &status.cache {
        gauges.push(("live sessions", live.used_bytes, live.capacity_bytes));
        let tier = |tier: &Tier| (tier.used_bytes, tier.capacity_bytes);
        for (name, used) in [("RAM tier", ram), ("SSD tier", ssd)] {
            gauges.extend(used.as_ref().map(tier).map(|(used, all)| (name, used, all)));
        }
    }
    gauges
}

fn gauge_text(used: u64, capacity: u64) -> String {
    let share = 100.0 * used as f64 / capacity.max(1) as f64;
    format!("{} of {} ({share:.0}%)", bytes(used), bytes(capacity))
}

fn model_rows(look: &Look) -> Vec<[String; 5]> {
    let models = look.models.models.iter();
    models
        .map(|model| {
            let pinned = if model.pinned { ", pinned" } else { "" };
            [
                model.id.clone(),
                format!("{}{pinned}", model.state),
                bytes(model.weight_bytes),
                format!("{} + {}", model.requests, model.waiting),
                time(model.idle_seconds),
            ]
        })
        .collect()
}

fn request_rows(requests: &[Request]) -> Vec<[String; 6]> {
    let row = |request: &Request| {
        [
            request.id.clone(),
            request.model.clone(),
            request.phase.clone(),
            request.prompt_tokens.to_string(),
            request.completion_tokens.to_string(),
            time(request.age_seconds),
        ]
    };
    requests.iter().map(row).collect()
}

const MODELS: [&str; 5] = ["MODEL", "STATE", "SIZE", "REQUESTS", "IDLE"];
const REQUESTS: [&str; 6] = ["REQUEST", "MODEL", "PHASE", "PROMPT", "GENERATED", "AGE"];

/// All of it as text.
fn lines(look: &Look) -> Vec<String> {
    let mut lines = head(look);
    for (name, used, capacity) in gauges(&look.status) {
        lines.push(format!("{name:<14} {}", gauge_text(used, capacity)));
    }
    let mut text = Vec::new();
    let models = crate::output::table(&mut text, MODELS, &model_rows(look), "No model is loaded.");
    let rows = request_rows(&look.requests.requests);
    let requests = crate::output::table(&mut text, REQUESTS, &rows, "No request is in flight.");
    if models.and(requests).is_ok() {
        lines.extend(String::from_utf8_lossy(&text).lines().map(str::to_owned));
    }
    lines
}

fn draw(frame: &mut Frame<'_>, look: &Look) {
    let gauges = gauges(&look.status);
    let models = model_rows(look);
    let heads = head(look);
    let areas = Layout::vertical([
        Constraint::Length(heads.len() as u16 + 1),
        Constraint::Length(gauges.len() as u16),
        Constraint::Length(models.len().min(8) as u16 + 3),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .split(frame.area());
    frame.render_widget(Paragraph::new(heads.join("\n")), areas[0]);
    let rows = Layout::vertical(gauges.iter().map(|_| Constraint::Length(1))).split(areas[1]);
    for ((name, used, capacity), area) in gauges.into_iter().zip(rows.iter()) {
        draw_gauge(frame, *area, name, used, capacity);
    }
    draw_table(frame, areas[2], "Models", MODELS, &models);
    let requests = request_rows(&look.requests.requests);
    draw_table(frame, areas[3], "Requests", REQUESTS, &requests);
    frame.render_widget(Paragraph::new("q quits"), areas[4]);
}

fn draw_gauge(frame: &mut Frame<'_>, area: Rect, name: &str, used: u64, capacity: u64) {
    let [label, bar] =
        Layout::horizontal([Constraint::Length(15), Constraint::Min(10)]).areas(area);
    let share = (used as f64 / capacity.max(1) as f64).clamp(0.0, 1.0);
    let color = if share > 0.9 { Color::Yellow } else { Color::Green };
    let gauge = Gauge::default().ratio(share).label(gauge_text(used, capacity));
    frame.render_widget(Paragraph::new(name.to_owned()), label);
    frame.render_widget(gauge.gauge_style(Style::new().fg(color)), bar);
}

fn draw_table<const N: usize>(
    frame: &mut Frame<'_>,
    area: Rect,
    title: &str,
    heading: [&str; N],
    rows: &[[String; N]],
) {
    let widths: [Constraint; N] = std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        let width = cells.chain([heading[column].len()]).max().unwrap_or(0);
        Constraint::Max(width as u16 + 1)
    });
    let rows = rows.iter().map(|row| Row::new(row.iter().map(|cell| Cell::from(cell.as_str()))));
    let table = Table::new(rows, widths)
        .header(Row::new(heading).style(Style::new().bold()))
        .block(Block::bordered().title(title.to_owned()));
    frame.render_widget(table, area);
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    use super::*;

    fn example() -> Look {
        let tier = json!({"used_bytes": 512 << 20, "capacity_bytes": 2048u64 << 20, "blocks": 1,
            "windows": 0, "states": 0});
        let status = serde_json::from_value(json!({
            "version": "0.1.0", "pid": 7, "uptime_seconds": 75.0, "state": "ready",
            "base_dir": "/b", "http": "127.0.0.1:1337", "loaded_models": ["acme/agent"],
            "known_models": 2, "requests_running": 1, "requests_waiting": 2,
            "memory": {"active_bytes": 1, "cache_bytes": 0, "peak_bytes": 2},
            "budget": {"budget_bytes": 8u64 << 30, "used_bytes": 6u64 << 30}, "pulls": 1,
            "busy": true, "last_progress_seconds": 0.1,
            "cache": {"enabled": true, "problem": null, "paused": null, "ram": tier, "ssd": tier,
                "live": {"sessions": 1, "used_bytes": 0, "capacity_bytes": 1u64 << 30}},
        }));
        let models = serde_json::from_value(json!({"models": [{
            "id": "acme/agent", "architecture": "qwen3", "parameters": 8u64, "state": "ready",
            "weight_bytes": 6u64 << 30, "context_tokens": 4096, "dtype": "bfloat16",
            "quantization": null, "load_seconds": 1.0, "requests": 1, "pinned": true,
            "idle_seconds": 0.0, "waiting": 2,
        }]}));
        let requests = serde_json::from_value(json!({"requests": [{
            "id": "req_1", "model": "acme/agent", "endpoint": "chat.completions",
            "phase": "decode", "prompt_tokens": 900, "completion_tokens": 12, "age_seconds": 3.5,
        }]}));
        let then = Activity { generated_tokens: 100, ..Activity::default() };
        let activity = Activity {
            prompt_tokens: 1000,
            ram_tokens: 600,
            ssd_tokens: 300,
            generated_tokens: 150,
            requests: 9,
        };
        Look {
            status: status.unwrap(),
            models: models.unwrap(),
            requests: requests.unwrap(),
            rates: rates(&then, &activity, Duration::from_secs(2)),
            activity,
        }
    }

    #[test]
    fn it_is_drawn_and_written_with_the_same_numbers() {
        let look = example();
        insta::assert_snapshot!("top_text", lines(&look).join("\n"));
        let mut terminal = Terminal::new(TestBackend::new(90, 24)).unwrap();
        terminal.draw(|frame| draw(frame, &look)).unwrap();
        insta::assert_snapshot!("top_screen", terminal.backend().to_string());
        // Too small a terminal is no reason to fail.
        let mut small = Terminal::new(TestBackend::new(10, 4)).unwrap();
        small.draw(|frame| draw(frame, &look)).unwrap();
    }

    #[test]
    fn a_daemon_that_began_anew_has_no_negative_rates() {
        let then = Activity { prompt_tokens: 10, generated_tokens: 10, ..Activity::default() };
        let rates = rates(&then, &Activity::default(), Duration::from_secs(1));
        assert_eq!(rates, Rates::default());
    }
}
