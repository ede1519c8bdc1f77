//! Model folders that say one thing in several ways, or hold more than the model: the tokens stay those of
//! the golden.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::common::{engine, greedy, ids};
use engine::{ComputeDtype, Engine, EngineConfig, LoadError};
use omlx_tests::fixtures::Case;
use omlx_tests::golden::Golden;
use serde_json::{Map, Value, json};

/// Writes the golden's model folder.
fn write(golden: &Golden, dir: &Path) {
    golden.case.write(dir).expect("fixture");
}

/// The tokens that the folder's model gives for the golden's prompts are the golden's.
async fn assert_golden(engine: &Engine, golden: &Golden, dir: &Path, what: &str) {
    let name = &golden.case.name;
    let model = engine.load(dir, name).await.unwrap_or_else(|e| panic!("{name}, {what}: {e}"));
    for path in &golden.paths {
        let got = ids(&model, greedy(&path.prompt, path.tokens.len())).await;
        assert_eq!(got, path.tokens, "{name}, {what}");
    }
}

/// The same with another config.json.
async fn assert_config(engine: &Engine, name: &str, change: impl FnOnce(&mut Map<String, Value>)) {
    let golden = Golden::named(name);
    let dir = tempfile::tempdir().expect("temporary folder");
    write(&golden, dir.path());
    let mut config = golden.case.config.clone();
    change(&mut config);
    let text = serde_json::to_string(&config).expect("JSON");
    fs::write(dir.path().join("config.json"), &text).expect("written");
    assert_golden(engine, &golden, dir.path(), &text).await;
}

#[tokio::test]
async fn the_newer_key_wins() {
    let engine = engine();
    // A stale older key beside the newer one.
    for (name, older) in [
        ("qwen3-rope-parameters-f32", json!({"rope_theta": 10_000.0})),
        ("qwen3-rope-parameters-f32", json!({"rope_scaling": {"type": "linear", "factor": 8.0}})),
        ("qwen3-rope-parameters-f32", json!({"rope_scaling": {"rope_theta": 10_000.0}})),
        (
            "qwen3_5-default-f32",
            json!({"rope_theta": 5.0, "partial_rotary_factor": 1.0, "rope_scaling": {"type": "linear", "factor": 8.0}}),
        ),
        ("qwen3_moe-default-f32", json!({"num_local_experts": 3})),
    ] {
        assert_config(&engine, name, |config| {
            let text = match config.get_mut("text_config") {
                Some(Value::Object(text)) => text,
                _ => config,
            };
            text.extend(older.as_object().expect("an object").clone());
        })
        .await;
    }
    // The newer key alone, or with an older one that it overrides.
    for (name, older, newer) in [
        ("qwen3-yarn-f32", "rope_scaling", "rope_parameters"),
        ("llama-linear-f32", "rope_scaling", "rope_parameters"),
        ("llama-llama3-f32", "rope_scaling", "rope_parameters"),
        ("qwen3_moe-default-f32", "num_experts", "num_local_experts"),
        ("gemma3_text-default-f32", "sliding_window_pattern", "_sliding_window_pattern"),
    ] {
        assert_config(&engine, name, |config| {
            let value = config.remove(older).expect(older);
            config.insert(newer.to_owned(), value);
        })
        .await;
    }
    assert_config(&engine, "llama-default-f32", |config| {
        let theta = config.insert("rope_theta".into(), json!(77.0));
        config.insert("rope_parameters".into(), json!({"rope_theta": theta, "rope_type": null}));
    })
    .await;
    assert_config(&engine, "gemma3_text-default-f32", |config| {
        let full = json!({"rope_theta": 1_000_000.0, "rope_type": "default"});
        let sliding = json!({"rope_theta": 10_000.0, "rope_type": "default"});
        let both = json!({"full_attention": full, "sliding_attention": sliding});
        config.insert("rope_parameters".into(), both);
        config.insert("rope_theta".into(), json!(3.0));
        config.insert("rope_local_base_freq".into(), json!(4.0));
    })
    .await;
}

#[tokio::test]
async fn what_is_nested_wins_over_the_top() {
    let engine = engine();
    assert_config(&engine, "qwen3_5-default-f32", |config| {
        let top = json!({
            "rope_theta": 5.0, "hidden_size": 96, "tie_word_embeddings": true, "head_dim": 8,
            "rope_scaling": {"type": "linear", "factor": 8.0}, "layer_types": ["full_attention"],
            "num_local_experts": 7,
        });
        config.extend(top.as_object().expect("an object").clone());
    })
    .await;
    // Older keys that are nested win over newer ones at the top.
    assert_config(&engine, "qwen3_5-default-f32", |config| {
        config.insert(
            "rope_parameters".into(),
            json!({"rope_theta": 5.0, "partial_rotary_factor": 1.0}),
        );
        let text = config["text_config"].as_object_mut().expect("an object");
        text.remove("rope_parameters");
        text.extend([
            ("rope_theta".to_owned(), json!(100_000.0)),
            ("partial_rotary_factor".to_owned(), json!(0.25)),
        ]);
    })
    .await;
}

#[tokio::test]
async fn numbers_that_only_python_writes_do_no_harm() {
    let engine = engine();
    let golden = Golden::named("llama-default-f32");
    let dir = tempfile::tempdir().expect("temporary folder");
    write(&golden, dir.path());
    let config = dir.path().join("config.json");
    let text = fs::read_to_string(&config).expect("read");
    let with = |extra: &str| text.replacen('{', &format!("{{{extra}, "), 1);
    fs::write(&config, with(r#""router_z": NaN, "limits": [-Infinity, Infinity]"#))
        .expect("written");
    assert_golden(&engine, &golden, dir.path(), "NaN").await;
    for extra in [r#""rope_scaling": {"rope_theta": NaN}"#, r#""sliding_window": Infinity"#] {
        fs::write(&config, with(extra)).expect("written");
        let error = engine.load(dir.path(), "nan").await.expect_err("no number").to_string();
        assert!(error.contains("config.json"), "{error}");
        assert!(error.contains("NaN") || error.contains("Infinity"), "{error}");
    }
}

#[tokio::test]
async fn bits_of_a_layer_are_found_wherever_its_override_stands() {
    let engine = engine();
    for name in ["qwen3-q4-overrides-f16", "qwen3_5_moe-q4-g64-bf16", "qwen3_moe-q4-g64-bf16"] {
        for root in ["model.language_model", "language_model.model", "model", "", "gone"] {
            assert_config(&engine, name, |config| {
                let old = config["quantization"].as_object().expect("an object").clone();
                let moved = old.into_iter().filter_map(|(key, value)| {
                    let mut rest = key.as_str();
                    for known in ["language_model.model.", "language_model.", "model."] {
                        rest = rest.strip_prefix(known).unwrap_or(rest);
                    }
                    match root {
                        _ if value.is_number() => Some((key, value)),
                        // Neither an override nor `false`: the tensors themselves tell.
                        "gone" => None,
                        "" => Some((rest.to_owned(), value)),
                        _ if rest == "lm_head" => Some((rest.to_owned(), value)),
                        root => Some((format!("{root}.{rest}"), value)),
                    }
                });
                let moved: Map<String, Value> = moved.collect();
                // mlx-lm writes both; the older one is what Hugging Face reads.
                config.insert("quantization_config".into(), json!({"quant_method": "gptq"}));
                config.insert("quantization".into(), Value::Object(moved));
            })
            .await;
        }
    }
}

#[tokio::test]
async fn sixteen_bits_are_widened_where_that_is_faster() {
    let auto = Engine::start(EngineConfig::default()).expect("engine thread");
    let stored = engine();
    for name in
        ["qwen2-q4-g64-f16", "qwen3-q4-overrides-f16", "llama-q4-g64-bf16", "qwen3_moe-q4-g64-bf16"]
    {
        let golden = Golden::named(name);
        let dir = tempfile::tempdir().expect("temporary folder");
        write(&golden, dir.path());
        let [auto, stored] = [&auto, &stored].map(|engine| engine.load(dir.path(), name));
        let (auto, stored) = (auto.await.expect("loads"), stored.await.expect("loads"));
        if engine::has_metal() {
            assert_eq!(auto.info().dtype, stored.info().dtype, "{name}");
            continue;
        }
        assert_ne!(stored.info().dtype, "float32", "{name}");
        assert_eq!(auto.info().dtype, "float32", "{name}");
        assert!(auto.info().weight_bytes > stored.info().weight_bytes, "{name}");
        let facts = engine::inspect(dir.path(), ComputeDtype::Auto).expect("inspected");
        assert_eq!(facts.weight_bytes, auto.info().weight_bytes, "{name}");
        assert_eq!(facts.parameters, auto.info().parameters, "{name}");
        if golden.agrees_in_float32 {
            for path in &golden.paths {
                let got = ids(&auto, greedy(&path.prompt, path.tokens.len())).await;
                assert_eq!(got, path.tokens, "{name}");
            }
        }
    }
}

#[tokio::test]
async fn a_stale_index_or_other_files_do_no_harm() {
    let engine = engine();
    let whole = Golden::named("llama-default-f32");
    let sharded = Golden::named("llama-sharded-bf16");
    let index = "model.safetensors.index.json";
    let other = Case::named("qwen2-default-f32");
    for (golden, what) in [
        (&whole, "an index of shards that are gone"),
        (&whole, "an index that is no JSON"),
        (&whole, "an index that leads out of the folder"),
        (&whole, "other files"),
        (&sharded, "no index"),
        (&sharded, "an index of one shard"),
        (&sharded, "a whole file of another model and a torn one"),
    ] {
        let dir = tempfile::tempdir().expect("temporary folder");
        write(golden, dir.path());
        let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).expect("written");
        let map = |name: &str| json!({"weight_map": {"model.norm.weight": name}}).to_string();
        match what {
            "an index of shards that are gone" => {
                put(index, &map("model-00001-of-00002.safetensors"))
            }
            "an index that is no JSON" => put(index, "<!DOCTYPE html>"),
            "an index that leads out of the folder" => put(index, &map("../../secret.safetensors")),
            "other files" => {
                other.write(&dir.path().join("other")).expect("fixture");
                let theirs = dir.path().join("other/model.safetensors");
                for name in ["consolidated.safetensors", "model-00001-of-00001.safetensors"] {
                    fs::copy(&theirs, dir.path().join(name)).expect("copied");
                }
                put("model-00001-of-00009.safetensors", "torn");
            }
            "no index" => fs::remove_file(dir.path().join(index)).expect("removed"),
            "an index of one shard" => put(index, &map("model-00001-of-00003.safetensors")),
            _ => {
                other.write(&dir.path().join("other")).expect("fixture");
                let theirs = dir.path().join("other/model.safetensors");
                fs::copy(&theirs, dir.path().join("model.safetensors")).expect("copied");
                put("model-old.safetensors", "torn");
            }
        }
        assert_golden(&engine, golden, dir.path(), what).await;
    }
    // A part of what the index names is missing: that is no stale index.
    let dir = tempfile::tempdir().expect("temporary folder");
    write(&sharded, dir.path());
    fs::remove_file(dir.path().join("model-00002-of-00003.safetensors")).expect("removed");
    whole.case.write(&dir.path().join("whole")).expect("fixture");
    fs::copy(dir.path().join("whole/model.safetensors"), dir.path().join("model.safetensors"))
        .expect("copied");
    let error = engine.load(dir.path(), "torn").await.expect_err("a shard is missing");
    assert!(
        matches!(&error, LoadError::Missing { path, .. } if path.ends_with("model-00002-of-00003.safetensors")),
        "{error}"
    );
}

/// What an error says in all.
fn whole_text(error: &LoadError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

#[tokio::test]
async fn nothing_outside_the_folder_is_read_or_told() {
    let engine = engine();
    let golden = Golden::named("llama-default-f32");
    let temp = tempfile::tempdir().expect("temporary folder");
    let secret = temp.path().join("secret");
    fs::write(&secret, "{\"secret\": \"hunter2\"}").expect("written");
    for file in [
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "chat_template.jinja",
        "model.safetensors.index.json",
    ] {
        let dir = temp.path().join(format!("model-{file}"));
        write(&golden, &dir);
        let link = dir.join(file);
        drop(fs::remove_file(&link));
        symlink(&secret, &link).expect("linked");
        let text = whole_text(&engine.load(&dir, file).await.expect_err(file));
        assert!(text.contains("leads out") && text.contains(file), "{file}: {text}");
        // The same bytes as a file of the folder's own are no model, and are not repeated either.
        fs::remove_file(&link).expect("removed");
        fs::write(&link, "hunter2 hunter2 hunter2").expect("written");
        if let Err(error) = engine.load(&dir, file).await {
            let text = whole_text(&error);
            let number = u64::from_le_bytes(*b"hunter2 ").to_string();
            assert!(!text.contains("hunter2") && !text.contains(&number), "{file}: {text}");
        }
    }
    // A folder that is a link as a whole is its owner's choice.
    let dir = temp.path().join("real");
    write(&golden, &dir);
    symlink(&dir, temp.path().join("linked")).expect("linked");
    assert_golden(&engine, &golden, &temp.path().join("linked"), "a linked folder").await;
    // The hub's cache.
    let repo = temp.path().join("hub/models--a--b");
    let snapshot = repo.join("snapshots/0123");
    fs::create_dir_all(repo.join("blobs")).expect("made");
    fs::create_dir_all(&snapshot).expect("made");
    for entry in fs::read_dir(&dir).expect("listed") {
        let name = entry.expect("an entry").file_name();
        fs::copy(dir.join(&name), repo.join("blobs").join(&name)).expect("copied");
        symlink(Path::new("../../blobs").join(&name), snapshot.join(&name)).expect("linked");
    }
    assert_golden(&engine, &golden, &snapshot, "a snapshot").await;
}
