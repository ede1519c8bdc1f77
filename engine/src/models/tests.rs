//! Tests that every family must pass, on the small fixtures.

use std::path::Path;

use mlx_rs::Array;
use serde_json::{Value, json};

use crate::kv::slots::SequenceCache;
use crate::kv::slots::SlotSpec;
use crate::mlx::attention::{Masks, Sdpa};
use crate::mlx::backend::Backend;
use crate::models::forward::{CausalLm, Forward, Segment, token_array};
use crate::models::{load, text_fields};
use crate::runtime::files::ModelFiles;
use crate::weights::Weights;
use omlx_tests::fixtures::Case;

/// One segment of a step: a cache, its tokens, and whether logits are requested.
type Part<'a> = (&'a mut SequenceCache, &'a [u32], bool);

fn load_case(name: &str) -> Box<dyn CausalLm> {
    load_written(&Case::named(name))
}

fn load_written(case: &Case) -> Box<dyn CausalLm> {
    let dir = tempfile::tempdir().unwrap();
    case.write(dir.path()).unwrap();
    load_folder(dir.path())
}

fn load_folder(dir: &Path) -> Box<dyn CausalLm> {
    let folder = ModelFiles::read(dir).unwrap();
    let mut weights = Weights::open(dir, folder.quantization.clone()).unwrap();
    load(&folder.config_file(), &mut weights).unwrap()
}

/// Runs a step. Returns one row of logits for each part that requests them.
fn run(model: &dyn CausalLm, parts: Vec<Part<'_>>) -> Vec<Vec<f32>> {
    run_on(model, parts, Backend::current())
}

fn run_on(model: &dyn CausalLm, parts: Vec<Part<'_>>, backend: Backend) -> Vec<Vec<f32>> {
    let tokens: Vec<u32> = parts.iter().flat_map(|(_, tokens, _)| tokens.to_vec()).collect();
    let segments = parts.into_iter().map(|(cache, tokens, wants_logits)| Segment {
        cache,
        tokens: tokens.len() as i32,
        outputs: i32::from(wants_logits),
    });
    let step = Forward::new(segments.collect(), backend);
    let logits = model.forward(&token_array(&tokens), step).unwrap();
    let Some(logits) = logits else { return Vec::new() };
    let vocab = logits.shape()[2] as usize;
    let logits = logits.contiguous().unwrap();
    logits.as_slice::<f32>().chunks(vocab).map(<[f32]>::to_vec).collect()
}

fn assert_close(got: &[f32], wanted: &[f32], what: &str) {
    assert_eq!(got.len(), wanted.len(), "{what}");
    let worst = got.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-3, "{what}: logits differ by {worst}");
}

#[test]
fn a_segment_does_not_depend_on_the_others() {
    crate::mlx::bridge::init().unwrap();
    let long: Vec<u32> = (0..90).map(|i| 10 + i * 37 % 350).collect();
    let short: Vec<u32> = (0..5).map(|i| 20 + i * 53 % 350).collect();
    for name in [
        "llama-sliding-f32",
        "qwen3-default-f32",
        "qwen3_moe-default-f32",
        "qwen3_5-default-f32",
        "qwen3_5-flat-tied-f32",
        "qwen3_5_moe-published-f32",
        "gemma3_text-default-f32",
    ] {
        let model = load_case(name);
        let model = model.as_ref();
        let cache = || SequenceCache::new(&model.slots(), 1);
        let alone = |tokens: &[u32]| run(model, vec![(&mut cache(), tokens, true)]).remove(0);

        let (mut a, mut b) = (cache(), cache());
        assert!(run(model, vec![(&mut a, &long[..70], false)]).is_empty());
        let first = run(model, vec![(&mut a, &long[70..80], false), (&mut b, &short[..4], true)]);
        assert_close(&first[0], &alone(&short[..4]), &format!("{name}, prefill"));
        let second = run(model, vec![(&mut b, &short[4..], true), (&mut a, &long[80..], true)]);
        assert_close(&second[0], &alone(&short), &format!("{name}, decode"));
        assert_close(&second[1], &alone(&long), &format!("{name}, end of the prompt"));
        assert_eq!((a.offset, b.offset), (90, 5), "{name}");
    }
}

#[test]
fn a_cloned_state_is_a_snapshot() {
    crate::mlx::bridge::init().unwrap();
    // Its last layer is recurrent, and a middle layer attends.
    let model = load_case("qwen3_5-flat-tied-f32");
    let mut cache = SequenceCache::new(&model.slots(), 1);
    run(model.as_ref(), vec![(&mut cache, &[10, 11, 12], false)]);
    let before = cache.state(0).unwrap().clone();
    let read = |a: &Array| a.contiguous().unwrap().as_slice::<f32>().to_vec();
    let held: Vec<_> = before.arrays().unwrap().iter().map(read).collect();
    run(model.as_ref(), vec![(&mut cache, &[13, 14, 15, 16, 17], false)]);
    mlx_rs::transforms::eval(cache.arrays()).unwrap();
    let after = cache.state(0).unwrap();
    assert_eq!(before.arrays().unwrap().iter().map(read).collect::<Vec<_>>(), held);
    assert_ne!(after.arrays().unwrap().iter().map(read).collect::<Vec<_>>(), held);
}

#[test]
fn limits_and_ends_are_read_from_a_nested_config() {
    let read = |case: &Case| {
        let dir = tempfile::tempdir().unwrap();
        case.write(dir.path()).unwrap();
        ModelFiles::read(dir.path()).unwrap()
    };
    let mut case = Case::named("qwen3_5-default-f32");
    let text = case.config["text_config"].as_object_mut().unwrap();
    text.insert("eos_token_id".into(), json!([77, 78]));
    text.insert("max_position_embeddings".into(), json!(1234));
    case.config.insert("eos_token_id".into(), json!(79));
    let folder = read(&case);
    assert_eq!((folder.context_tokens, folder.vocab_tokens), (1234, 384));
    // The fixtures' generation_config.json names others; it overrides ordinary tokens.
    assert_eq!(*folder.eos, [0, 3]);
    case.config.insert("eos_token_id".into(), json!([79, 5]));
    assert_eq!(*read(&case).eos, [0, 3, 5], "5 is an added token");
    let dir = tempfile::tempdir().unwrap();
    case.write(dir.path()).unwrap();
    std::fs::write(dir.path().join("generation_config.json"), "{}").unwrap();
    let folder = ModelFiles::read(dir.path()).unwrap();
    assert!([77, 78, 79].iter().all(|id| folder.eos.contains(id)), "{:?}", folder.eos);
    // The result includes its linear scaling by 4.
    assert_eq!(read(&Case::named("gemma3-linear-f32")).context_tokens, 256);
    assert_eq!(read(&Case::named("llama-linear-f32")).context_tokens, 1024);
}

#[test]
fn a_softcap_bends_the_logits() {
    crate::mlx::bridge::init().unwrap();
    let case = Case::named("gemma3_text-default-f32");
    let capped = case.clone().with_config(json!({"final_logit_softcapping": 0.5}));
    let [plain, capped] = [case, capped].map(|case| {
        let model = load_written(&case);
        let mut cache = SequenceCache::new(&model.slots(), 1);
        run(model.as_ref(), vec![(&mut cache, &[10, 11, 12], true)]).remove(0)
    });
    assert!(plain.iter().any(|logit| logit.abs() > 0.5));
    let wanted: Vec<f32> = plain.iter().map(|logit| (logit / 0.5).tanh() * 0.5).collect();
    assert_close(&capped, &wanted, "capped at 0.5");
}

#[test]
fn layer_types_win_over_intervals() {
    crate::mlx::bridge::init().unwrap();
    let types = |names: [&str; 4]| names.map(|name| format!("{name}_attention"));
    let (linear, sliding, full) = ("linear", "sliding", "full");
    for (name, changes) in [
        (
            "qwen3_5-default-f32",
            json!({"layer_types": types([linear, full, linear, full]), "full_attention_interval": 3}),
        ),
        (
            "gemma3_text-default-f32",
            json!({
                "layer_types": types([sliding, sliding, full, sliding]),
                "sliding_window_pattern": 2,
            }),
        ),
    ] {
        let case = Case::named(name);
        let mut changed = case.clone();
        let text = match changed.config.get_mut("text_config") {
            Some(Value::Object(text)) => text,
            _ => &mut changed.config,
        };
        let written = {
            text.extend(changes.as_object().unwrap().clone());
            // The weights are those of the unchanged config.
            let dir = tempfile::tempdir().unwrap();
            case.write(dir.path()).unwrap();
            let config = serde_json::to_string(&changed.config).unwrap();
            std::fs::write(dir.path().join("config.json"), config).unwrap();
            load_folder(dir.path())
        };
        assert_eq!(written.slots(), load_case(name).slots(), "{name}");
    }
}

#[test]
fn a_nested_config_overrides_the_top_level_and_defaults() {
    let fields = json!({
        "model_type": "gemma3", "eos_token_id": 1, "vocab_size": 10, "head_dim": 8,
        "text_config": {
            "model_type": "gemma3_text", "head_dim": 16, "num_attention_heads": null,
        },
    });
    let text = text_fields(fields.as_object().unwrap());
    let wanted = json!({
        "model_type": "gemma3", "eos_token_id": 1, "vocab_size": 10, "head_dim": 16,
        "max_position_embeddings": 131_072, "num_attention_heads": 8,
        "num_key_value_heads": 4,
    });
    assert_eq!(Value::Object(text), wanted);
}

/// The Metal and CPU backends, as far as this machine has them.
fn backends() -> [Backend; 2] {
    [Backend::CPU, Backend { kernels: crate::mlx::bridge::metal_is_available(), ..Backend::METAL }]
}

/// The operations of a step in which `rows` sequences of different lengths decode.
fn decode_operations(model: &dyn CausalLm, rows: usize, backend: Backend) -> Vec<String> {
    let mut caches: Vec<SequenceCache> =
        (0..rows).map(|_| SequenceCache::new(&model.slots(), 1)).collect();
    for (row, cache) in caches.iter_mut().enumerate() {
        let tokens: Vec<u32> = (0..70 + 3 * row as u32).map(|i| 10 + i * 37 % 350).collect();
        run_on(model, vec![(cache, &tokens, false)], backend);
    }
    // In the second step the rows already share their states.
    for _ in 0..2 {
        for cache in &caches {
            mlx_rs::transforms::eval(cache.arrays()).unwrap();
        }
        let tokens = vec![20; rows];
        let segments = caches.iter_mut().map(|cache| Segment { cache, tokens: 1, outputs: 1 });
        let step = Forward::new(segments.collect(), backend);
        let logits = model.forward(&token_array(&tokens), step).unwrap().unwrap();
        let operations = crate::mlx::bridge::operations(std::slice::from_ref(&logits));
        logits.eval().unwrap();
        if caches[0].offset == 72 {
            return operations;
        }
    }
    unreachable!("two steps")
}

/// Number of operations in one row's attention: it writes its keys and values and reads all of
/// them.
fn attention_operations(backend: Backend) -> usize {
    let (heads, kv_heads, dim) = (4, 2, 16);
    let noise = |heads: i32, length: i32| {
        Array::from_iter(
            (0..heads * length * dim).map(|i| (i as f32).sin()),
            &[1, heads, length, dim],
        )
    };
    let mut cache = SequenceCache::new(&[SlotSpec::Kv { window: None }], 1);
    let mut masks = Masks::new(backend);
    cache.update(0, &noise(kv_heads, 70), &noise(kv_heads, 70)).unwrap();
    cache.offset = 70;
    mlx_rs::transforms::eval(cache.arrays()).unwrap();
    let (q, kv) = (noise(heads, 1), noise(kv_heads, 1));
    let (keys, values) = cache.update(0, &kv, &kv).unwrap();
    let sdpa = Sdpa { scale: 0.25, window: None };
    let y = sdpa.forward(&q, &keys, &values, &mut masks).unwrap();
    crate::mlx::bridge::operations(&[y]).len()
}

#[test]
fn a_decode_step_of_many_rows_has_few_more_operations_than_of_one() {
    crate::mlx::bridge::init().unwrap();
    for (name, attention_layers) in [
        ("llama-bf16", 2),
        ("qwen3-default-f32", 2),
        ("qwen3_moe-default-f32", 2),
        ("qwen3_5-default-f32", 2),
        ("gemma3_text-default-f32", 4),
    ] {
        let model = load_case(name);
        for backend in backends() {
            let own = attention_layers * attention_operations(backend);
            let one = decode_operations(model.as_ref(), 1, backend).len() - own;
            let eight = decode_operations(model.as_ref(), 8, backend).len() - 8 * own;
            let what =
                format!("{name}, {backend:?}: {one} and {eight} operations, attention {own}");
            assert!(eight as f64 <= 1.3 * one as f64, "{what}");
        }
    }
}

#[test]
fn a_decoding_row_has_the_same_bits_alone_and_beside_others() {
    crate::mlx::bridge::init().unwrap();
    for name in [
        "llama-sliding-f32",
        "llama-dynamic-f32",
        "qwen3-default-f32",
        "qwen3_moe-default-f32",
        "qwen3_5-default-f32",
        "qwen3_5_moe-published-f32",
        "gemma3_text-default-f32",
    ] {
        let model = load_case(name);
        let model = model.as_ref();
        for backend in backends() {
            let prefilled = |row: u32| {
                let mut cache = SequenceCache::new(&model.slots(), 1);
                let tokens: Vec<u32> = (0..60 + 7 * row).map(|i| 10 + i * 37 % 350).collect();
                run_on(model, vec![(&mut cache, &tokens, false)], backend);
                cache
            };
            let feed = |row: usize, step: usize| [(15 + 31 * row + 7 * step) as u32 % 350];
            let mut together: Vec<SequenceCache> = (0..5).map(prefilled).collect();
            let mut alone: Vec<SequenceCache> = (0..5).map(prefilled).collect();
            for step in 0..6 {
                // Rows leave and return, so their states are split and joined again.
                let present: Vec<usize> =
                    (0..5).filter(|row| step < 2 || row % 2 == step % 2).collect();
                let tokens: Vec<[u32; 1]> = present.iter().map(|&row| feed(row, step)).collect();
                let caches = together.iter_mut().enumerate();
                let caches = caches.filter(|(row, _)| present.contains(row));
                let parts =
                    caches.zip(&tokens).map(|((_, cache), token)| (cache, &token[..], true));
                let got = run_on(model, parts.collect(), backend);
                for ((&row, token), got) in present.iter().zip(&tokens).zip(got) {
                    let wanted = run_on(model, vec![(&mut alone[row], token, true)], backend);
                    assert!(got == wanted[0], "{name}, {backend:?}, row {row}, step {step}");
                }
            }
        }
    }
}

#[test]
fn a_segment_gives_as_many_logits_as_it_asks_for() {
    crate::mlx::bridge::init().unwrap();
    let tokens: Vec<u32> = (0..12).map(|i| 10 + i * 37 % 350).collect();
    for name in ["qwen3-default-f32", "qwen3_5-default-f32"] {
        let model = load_case(name);
        let cache = || SequenceCache::new(&model.slots(), 1);
        let several = |outputs| {
            let mut cache = cache();
            let segment = Segment { cache: &mut cache, tokens: 12, outputs };
            let step = Forward::new(vec![segment], Backend::current());
            let logits = model.forward(&token_array(&tokens), step).unwrap();
            logits.map(|logits| logits.contiguous().unwrap())
        };
        assert!(several(0).is_none());
        let logits = several(3).unwrap();
        let vocab = logits.shape()[2] as usize;
        assert_eq!(logits.shape()[1], 3);
        for (row, end) in logits.as_slice::<f32>().chunks(vocab).zip(10..) {
            let wanted = run(model.as_ref(), vec![(&mut cache(), &tokens[..end], true)]).remove(0);
            assert_close(row, &wanted, &format!("{name}, {end} tokens"));
        }
    }
}
