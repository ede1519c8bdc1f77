//! What is restored is what would have been computed: the same tokens, whichever way the KV came.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use engine::{
    ComputeDtype, Engine, EngineConfig, Event, GenerateRequest, KvDtype, LoadOptions, MissReason,
    Model, ReuseConfig, ReuseReport, TokenOutput, Usage,
};
use kvstore::{Store, StoreConfig};
use omlx_tests::fixtures::{Case, FIRST_ORDINARY_TOKEN, VOCAB_TOKENS};

use crate::common::greedy;

const BLOCK: usize = 16;
const ANSWER: usize = 6;
const END_OF_MESSAGE: u32 = 3;

/// A case for each way in which layers keep their past.
const CASES: [&str; 9] = [
    "llama-default-f32",
    "llama-sliding-f32",
    "qwen3-default-f32",
    "qwen2-yarn-f32",
    "qwen3_moe-default-f32",
    "qwen3_5-default-f32",
    "qwen3_5_moe-default-f32",
    "gemma3_text-default-f32",
    "gemma3_text-long-f32",
];

/// Lengths around the borders of blocks.
const CUTS: [usize; 12] = [1, 2, 15, 16, 17, 31, 32, 33, 47, 64, 70, 80];

/// Which memory may help.
#[derive(Debug, Clone, Copy)]
struct Tiers {
    live: bool,
    ram: bool,
    ssd: bool,
}

const COLD: Tiers = Tiers { live: false, ram: false, ssd: false };
const LIVE: Tiers = Tiers { live: true, ram: false, ssd: false };
const RAM: Tiers = Tiers { live: false, ram: true, ssd: true };
const SSD: Tiers = Tiers { live: false, ram: false, ssd: true };
const ALL: Tiers = Tiers { live: true, ram: true, ssd: true };

struct World {
    engine: Engine,
    store: Option<Arc<Store>>,
}

impl World {
    fn open(root: &Path, tiers: Tiers) -> Self {
        Self::open_with(root, tiers, BLOCK)
    }

    fn open_with(root: &Path, tiers: Tiers, block_tokens: usize) -> Self {
        let store = tiers.ssd.then(|| {
            let mut config = StoreConfig::new(root.join("kv"), 1 << 30);
            config.min_free_bytes = 0;
            config.ram_budget_bytes = if tiers.ram { 64 << 20 } else { 0 };
            Arc::new(Store::open(config).expect("a store"))
        });
        let reuse = ReuseConfig {
            store: store.clone(),
            block_tokens,
            live_bytes: if tiers.live { 64 << 20 } else { 0 },
        };
        let compute_dtype = ComputeDtype::Stored;
        let config =
            EngineConfig { compute_dtype, prefill_chunk: BLOCK, reuse, ..EngineConfig::default() };
        Self { engine: Engine::start(config).expect("engine thread"), store }
    }

    async fn load(&self, case: &Case) -> Model {
        crate::common::load(&self.engine, case).await
    }

    fn flush(&self) {
        if let Some(store) = &self.store {
            assert!(store.flush(Duration::from_secs(20)), "the store settles");
        }
    }

    /// Ends as the daemon does: the engine first, then the store.
    fn close(self) {
        self.engine.stop();
        self.engine.join();
        drop(self.engine);
        drop(self.store);
    }
}

/// Pseudo-random ordinary tokens, with the end of a message now and then.
fn tokens(seed: u64, length: usize) -> Vec<u32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let ordinary = u64::from(VOCAB_TOKENS - FIRST_ORDINARY_TOKEN);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 20) % ordinary
    };
    let token = |at: usize, next: u64| match at % 29 {
        28 => END_OF_MESSAGE,
        _ => FIRST_ORDINARY_TOKEN + next as u32,
    };
    (0..length).map(|at| token(at, next())).collect()
}

struct Answer {
    tokens: Vec<TokenOutput>,
    usage: Usage,
    report: ReuseReport,
}

impl Answer {
    fn ids(&self) -> Vec<u32> {
        self.tokens.iter().map(|token| token.id).collect()
    }

    /// The bits of every reported log probability.
    fn bits(&self) -> Vec<u32> {
        let chosen = self.tokens.iter().map(|token| token.logprobs.as_ref().expect("asked for"));
        chosen.map(|logprobs| logprobs.chosen.to_bits()).collect()
    }
}

async fn ask(model: &Model, request: GenerateRequest) -> Answer {
    let mut generation = model.generate(request).expect("accepted");
    let mut tokens = Vec::new();
    loop {
        match generation.next().await.expect("an end") {
            Event::Delta(delta) => tokens.extend(delta.tokens),
            Event::Failed(error) => panic!("{error}"),
            Event::Done(outcome) => {
                let report = generation.reuse().clone();
                return Answer { tokens, usage: outcome.usage, report };
            }
        }
    }
}

fn request(prompt: &[u32]) -> GenerateRequest {
    GenerateRequest { logprobs: Some(0), ..greedy(prompt, ANSWER) }
}

async fn cold(case: &Case, prompts: &[Vec<u32>]) -> Vec<Answer> {
    let folder = tempfile::tempdir().expect("temporary folder");
    let world = World::open(folder.path(), COLD);
    let model = world.load(case).await;
    let mut answers = Vec::new();
    for prompt in prompts {
        let answer = ask(&model, request(prompt)).await;
        assert_eq!(answer.report.reused_tokens(), 0);
        answers.push(answer);
    }
    answers
}

/// The same prompts cold, from live sessions, from RAM, from SSD, after a restart, with and without
/// the RAM tier: one answer.
#[tokio::test]
async fn restored_equals_recomputed() {
    for name in CASES {
        let case = Case::named(name);
        let base = tokens(7, 80);
        let prompts: Vec<Vec<u32>> = CUTS.iter().map(|&cut| base[..cut].to_vec()).collect();
        let expected = cold(&case, &prompts).await;
        for tiers in [LIVE, RAM, SSD, ALL] {
            let folder = tempfile::tempdir().expect("temporary folder");
            let killed = tempfile::tempdir().expect("temporary folder");
            let mut reused = 0;
            for round in 0..4 {
                // Round 2 starts anew on what the others left on disk, and round 3 on what kill -9
                // would have left of round 1.
                let root = if round == 3 { killed.path() } else { folder.path() };
                let world = World::open(root, tiers);
                let model = world.load(&case).await;
                for _ in 0..if round == 0 { 2 } else { 1 } {
                    for (prompt, expected) in prompts.iter().zip(&expected) {
                        let answer = ask(&model, request(prompt)).await;
                        let what =
                            format!("{name}, {tiers:?}, {} tokens, round {round}", prompt.len());
                        assert_eq!(answer.ids(), expected.ids(), "{what}");
                        assert_eq!(
                            answer.usage.cached_tokens_ram + answer.usage.cached_tokens_ssd,
                            answer.report.reused_tokens()
                        );
                        assert!(answer.report.reused_tokens() < prompt.len(), "{what}");
                        reused += answer.report.reused_tokens();
                    }
                }
                world.flush();
                if round == 1 && tiers.ssd {
                    copy_folder(&root.join("kv"), &killed.path().join("kv"));
                }
                world.close();
            }
            assert!(reused > 0, "{name}, {tiers:?}: nothing was ever reused");
        }
    }
}

fn copy_folder(from: &Path, to: &Path) {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().mode(0o700).create(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

/// Where the chunks are the same, so is every bit: two prompts share a system message that ends with
/// a block, and the second takes it from SSD.
#[tokio::test]
async fn the_same_chunks_give_the_same_bits() {
    for name in CASES {
        let case = Case::named(name);
        for blocks in [4, 5, 7] {
            let mut system = tokens(11, blocks * BLOCK);
            system.retain(|token| *token != END_OF_MESSAGE);
            system.resize(blocks * BLOCK - 1, FIRST_ORDINARY_TOKEN);
            system.push(END_OF_MESSAGE);
            let [one, two] = [31, 32].map(|seed| [system.clone(), tokens(seed, 21)].concat());
            let expected = cold(&case, std::slice::from_ref(&two)).await;
            let folder = tempfile::tempdir().expect("temporary folder");
            let world = World::open(folder.path(), SSD);
            let model = world.load(&case).await;
            ask(&model, request(&one)).await;
            world.flush();
            world.close();
            let world = World::open(folder.path(), SSD);
            let model = world.load(&case).await;
            let answer = ask(&model, request(&two)).await;
            assert_eq!(answer.usage.cached_tokens_ssd, system.len(), "{name}, {blocks} blocks");
            assert_eq!(answer.bits(), expected[0].bits(), "{name}, {blocks} blocks from SSD");
        }
    }
}

/// KV that is kept in another type than it is computed in is seen as it is kept from the first token
/// on, so that it is no different when it comes back from SSD.
#[tokio::test]
async fn kv_kept_in_16_bits_gives_the_same_bits() {
    for name in ["llama-default-f32", "llama-sliding-f32", "qwen3_5-default-f32"] {
        let folder = tempfile::tempdir().expect("temporary folder");
        Case::named(name).write(&folder.path().join("model")).expect("fixture");
        let load = async |world: &World, kv_dtype| {
            let options = LoadOptions { kv_dtype, ..LoadOptions::default() };
            let dir = folder.path().join("model");
            world.engine.load_with(&dir, name, options).await.expect("a model")
        };
        let mut system = tokens(11, 5 * BLOCK);
        system.retain(|token| *token != END_OF_MESSAGE);
        system.resize(5 * BLOCK - 1, FIRST_ORDINARY_TOKEN);
        system.push(END_OF_MESSAGE);
        let [one, two] = [31, 32].map(|seed| [system.clone(), tokens(seed, 21)].concat());
        let mut sizes = Vec::new();
        for kv_dtype in [KvDtype::Computed, KvDtype::Float16, KvDtype::Bfloat16] {
            let world = World::open(folder.path(), COLD);
            let model = load(&world, kv_dtype).await;
            let expected = ask(&model, request(&two)).await;
            let world = World::open(folder.path(), SSD);
            let model = load(&world, kv_dtype).await;
            ask(&model, request(&one)).await;
            world.flush();
            world.close();
            let world = World::open(folder.path(), SSD);
            let model = load(&world, kv_dtype).await;
            let answer = ask(&model, request(&two)).await;
            assert_eq!(answer.usage.cached_tokens_ssd, system.len(), "{name}, {kv_dtype:?}");
            assert_eq!(answer.bits(), expected.bits(), "{name}, {kv_dtype:?}");
            sizes.push((model.kv_bytes(4096) - model.kv_bytes(2048), answer.bits()));
            world.close();
        }
        let [(whole, exact), (half, rounded), (other_half, _)] = &sizes[..] else { unreachable!() };
        if name != "llama-sliding-f32" {
            assert_eq!((half * 2, other_half * 2), (*whole, *whole), "{name}");
        }
        assert_ne!(exact, rounded, "{name}: nothing was rounded");
    }
}

/// After a restart the next turn of a conversation costs its new tokens, and less than a block.
#[tokio::test]
async fn a_conversation_goes_on_after_a_restart() {
    for name in CASES {
        let case = Case::named(name);
        let folder = tempfile::tempdir().expect("temporary folder");
        let mut prompt = tokens(3, 70);
        for turn in 0..4 {
            let world = World::open(folder.path(), ALL);
            let model = world.load(&case).await;
            let expected = cold(&case, std::slice::from_ref(&prompt)).await;
            let answer = ask(&model, request(&prompt)).await;
            assert_eq!(answer.ids(), expected[0].ids(), "{name}, turn {turn}");
            if turn > 0 {
                let old = prompt.len() - 9 - 1;
                let reused = answer.usage.cached_tokens_ssd;
                // Of a recurrent state not every position is worth storing.
                let grain = if name.starts_with("qwen3_5") { 64 } else { 0 } + BLOCK;
                assert!(reused + grain >= old, "{name}, turn {turn}: {reused} of {old}");
            }
            prompt.extend(answer.ids());
            prompt.extend(tokens(turn + 20, 9));
            world.close();
        }
    }
}

/// A prompt that is sent again after a restart costs one token, or less than the least that is worth
/// storing.
#[tokio::test]
async fn the_same_prompt_after_a_restart_is_not_computed_again() {
    for name in CASES {
        let case = Case::named(name);
        let folder = tempfile::tempdir().expect("temporary folder");
        let mut prompt = tokens(3, 128 + 100);
        prompt.retain(|token| *token != END_OF_MESSAGE);
        let expected = cold(&case, std::slice::from_ref(&prompt)).await;
        for round in 0..2 {
            let world = World::open_with(folder.path(), ALL, 128);
            let model = world.load(&case).await;
            let answer = ask(&model, request(&prompt)).await;
            assert_eq!(answer.ids(), expected[0].ids(), "{name}");
            let reused = if round == 0 { 0 } else { prompt.len() - 1 };
            assert_eq!(answer.usage.cached_tokens_ssd, reused, "{name}, round {round}");
            world.close();
        }
    }
}

/// The turns of one conversation while the daemon runs: only what is new is computed.
#[tokio::test]
async fn a_live_session_is_continued_to_the_token() {
    for name in CASES {
        let case = Case::named(name);
        let folder = tempfile::tempdir().expect("temporary folder");
        let world = World::open(folder.path(), LIVE);
        let model = world.load(&case).await;
        let mut prompt = tokens(5, 40);
        let first = ask(&model, request(&prompt)).await;
        assert_eq!(first.report.miss, Some(MissReason::Cold));
        let again = ask(&model, request(&prompt)).await;
        assert_eq!(again.ids(), first.ids(), "{name}");
        assert_eq!(again.report.reused_tokens(), prompt.len() - 1, "{name}");
        // The last token was sampled and never computed.
        let known = prompt.len() + ANSWER - 1;
        prompt.extend(again.ids());
        prompt.extend(tokens(6, 5));
        let next = ask(&model, request(&prompt)).await;
        assert_eq!(next.report.reused_tokens(), known, "{name}");
        assert!(next.report.live);
        assert_eq!(next.report.miss, None);
        assert_eq!(next.ids(), cold(&case, &[prompt]).await[0].ids(), "{name}");
    }
}

/// A conversation that branches off an earlier one leaves that one whole.
#[tokio::test]
async fn branches_do_not_disturb_each_other() {
    for name in CASES {
        let case = Case::named(name);
        let folder = tempfile::tempdir().expect("temporary folder");
        let world = World::open(folder.path(), LIVE);
        let model = world.load(&case).await;
        let trunk = tokens(5, 33);
        let mut prompts = Vec::new();
        for branch in 0..3 {
            prompts.push([trunk.clone(), tokens(50 + branch, 20)].concat());
        }
        let expected = cold(&case, &prompts).await;
        for round in 0..3 {
            for (prompt, expected) in prompts.iter().zip(&expected) {
                let answer = ask(&model, request(prompt)).await;
                assert_eq!(answer.ids(), expected.ids(), "{name}, round {round}");
                let least = if round == 0 { 0 } else { prompt.len() - 1 };
                assert!(answer.report.reused_tokens() >= least, "{name}, round {round}");
            }
        }
    }
}

/// A cancelled prefill is not lost: the same prompt goes on behind the blocks that were computed.
#[tokio::test]
async fn a_cancelled_request_leaves_its_blocks() {
    let case = Case::named(CASES[0]);
    let folder = tempfile::tempdir().expect("temporary folder");
    let world = World::open(folder.path(), SSD);
    let model = world.load(&case).await;
    let prompt = tokens(9, 100);
    let mut generation = model.generate(greedy(&prompt, 200)).expect("accepted");
    // The first token says that the prompt is computed.
    assert!(generation.next().await.is_some());
    drop(generation);
    let answer = ask(&model, request(&prompt)).await;
    assert!(answer.report.reused_tokens() >= 96, "{:?}", answer.report);
    assert_eq!(answer.ids(), cold(&case, &[prompt]).await[0].ids());
}

/// Requests with different salts never see each other's KV.
#[tokio::test]
async fn salts_keep_tenants_apart() {
    let case = Case::named(CASES[0]);
    let folder = tempfile::tempdir().expect("temporary folder");
    let world = World::open(folder.path(), ALL);
    let model = world.load(&case).await;
    let prompt = tokens(9, 50);
    let salted = |salt: &str| GenerateRequest { cache_salt: salt.into(), ..request(&prompt) };
    let first = ask(&model, salted("a")).await;
    let other = ask(&model, salted("b")).await;
    assert_eq!((other.report.reused_tokens(), other.report.miss), (0, Some(MissReason::Salt)));
    assert_eq!(other.ids(), first.ids());
    assert_eq!(ask(&model, salted("a")).await.report.reused_tokens(), prompt.len() - 1);
}

/// Models of one name and one shape, but other weights, share nothing.
#[tokio::test]
async fn other_weights_share_nothing() {
    let case = Case::named(CASES[0]);
    let other = Case { seed: case.seed + 1, ..case.clone() };
    let folder = tempfile::tempdir().expect("temporary folder");
    let world = World::open(folder.path(), ALL);
    let prompt = tokens(9, 50);
    let (one, two) = (world.load(&case).await, world.load(&other).await);
    ask(&one, request(&prompt)).await;
    world.flush();
    let answer = ask(&two, request(&prompt)).await;
    assert_eq!(answer.report.reused_tokens(), 0);
    assert_eq!(answer.report.miss, Some(MissReason::Layout));
    assert_eq!(answer.ids(), cold(&other, &[prompt]).await[0].ids());
}

/// Damage of every kind on disk: right answers, and a report that says what happened.
#[tokio::test]
async fn damaged_files_are_computed_again() {
    let case = Case::named(CASES[0]);
    let prompt = tokens(13, 100);
    let expected = cold(&case, std::slice::from_ref(&prompt)).await;
    type Harm = fn(&Path);
    let flip: Harm = |path| {
        let mut bytes = std::fs::read(path).expect("a record");
        let middle = bytes.len() - 100;
        bytes[middle] ^= 4;
        std::fs::write(path, bytes).expect("written");
    };
    let cut: Harm = |path| {
        let file = std::fs::File::options().write(true).open(path).expect("a record");
        file.set_len(5000).expect("cut");
    };
    let remove: Harm = |path| std::fs::remove_file(path).expect("removed");
    for (harm, what) in [(flip, "flipped"), (cut, "cut"), (remove, "removed")] {
        for reopen in [false, true] {
            let folder = tempfile::tempdir().expect("temporary folder");
            let world = World::open(folder.path(), SSD);
            let model = world.load(&case).await;
            ask(&model, request(&prompt)).await;
            world.flush();
            let kept = if reopen {
                drop(model);
                world.close();
                None
            } else {
                Some((world, model))
            };
            let records = records(&folder.path().join("kv"));
            assert!(records.len() >= 6, "{records:?}");
            records.iter().for_each(|path| harm(path));
            let (world, model) = match kept {
                Some(kept) => kept,
                None => {
                    let world = World::open(folder.path(), SSD);
                    let model = world.load(&case).await;
                    (world, model)
                }
            };
            let answer = ask(&model, request(&prompt)).await;
            assert_eq!(answer.ids(), expected[0].ids(), "{what}, reopened: {reopen}");
            // And the store has healed.
            world.flush();
            let healed = ask(&model, request(&prompt)).await;
            assert_eq!(healed.ids(), expected[0].ids(), "{what}");
            assert!(healed.report.reused_tokens() >= 96, "{what}: {:?}", healed.report);
        }
    }
}

/// Every record file under a store's root.
fn records(root: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(records(&path));
        } else if path.metadata().is_ok_and(|metadata| metadata.len() > 8192)
            && !path.file_name().is_some_and(|name| name.to_string_lossy().contains("index"))
        {
            found.push(path);
        }
    }
    found
}
