//! The tensors of each model family, as `tests/oracle/fixtures.py` makes them.

use serde_json::{Map, Value};

use crate::fixtures::{Case, Layout};
use crate::weights::{Builder, Tensor};

/// All tensors of a case.
pub(crate) fn tensors(case: &Case) -> Vec<Tensor> {
    let quantization = case.config.get("quantization").and_then(Value::as_object);
    let mut out = Builder::new(case.seed, case.dtype, quantization);
    let model = Model::new(case);
    let (hidden, vocab) = (model.required("hidden_size"), model.required("vocab_size"));
    let gemma = model.family.starts_with("gemma3");
    // Rows of unit deviation: the gain undoes the division by sqrt(hidden). Gemma multiplies by it
    // again.
    let gain = if gemma { 1.0 } else { (hidden as f64).sqrt() };
    out.matrix(&format!("{}.embed_tokens", model.root), vocab, hidden, gain);
    for layer in 0..model.required("num_hidden_layers") {
        let at = format!("{}.layers.{layer}", model.root);
        match model.family {
            family if family.starts_with("qwen3_5") => model.qwen3_5_layer(&mut out, &at, layer),
            _ if gemma => model.gemma3_layer(&mut out, &at),
            _ => model.dense_layer(&mut out, &at, layer),
        }
    }
    let from_one = gemma || (model.published && model.family.starts_with("qwen3_5"));
    let centre = if from_one { 0.0 } else { 1.0 };
    out.vector(format!("{}.norm.weight", model.root), hidden, centre);
    if !model.flag("tie_word_embeddings") {
        out.matrix(model.head, vocab, hidden, 3.0);
    }
    if model.published && case.config.contains_key("text_config") {
        // What a text model must leave alone.
        out.vector("model.visual.patch_embed.proj.weight".into(), 8, 0.0);
        out.vector("mtp.norm.weight".into(), hidden, 0.0);
    }
    out.tensors
}

/// What a case's config says of the text model.
struct Model<'a> {
    name: &'a str,
    family: &'a str,
    text: &'a Map<String, Value>,
    published: bool,
    /// Where the decoder's tensors lie.
    root: &'static str,
    /// Where the output head lies.
    head: &'static str,
}

impl<'a> Model<'a> {
    fn new(case: &'a Case) -> Self {
        let nested = case.config.get("text_config").and_then(Value::as_object);
        let published = case.layout == Layout::Published;
        let (root, head) = match (nested.is_some(), published) {
            (false, _) => ("model", "lm_head"),
            (true, true) => ("model.language_model", "lm_head"),
            (true, false) => ("language_model.model", "language_model.lm_head"),
        };
        Self {
            name: &case.name,
            family: case.config.get("model_type").and_then(Value::as_str).unwrap_or_default(),
            text: nested.unwrap_or(&case.config),
            published,
            root,
            head,
        }
    }

    fn number(&self, key: &str) -> Option<usize> {
        self.text.get(key).and_then(Value::as_u64).map(|n| n as usize)
    }

    fn required(&self, key: &str) -> usize {
        self.number(key).unwrap_or_else(|| panic!("case {}: config lacks {key}", self.name))
    }

    fn flag(&self, key: &str) -> bool {
        self.text.get(key).and_then(Value::as_bool).unwrap_or(false)
    }

    /// (heads, key and value heads, head_dim)
    fn heads(&self) -> (usize, usize, usize) {
        let heads = self.required("num_attention_heads");
        let head_dim = self.number("head_dim");
        let head_dim = head_dim.unwrap_or_else(|| self.required("hidden_size") / heads);
        (heads, self.number("num_key_value_heads").unwrap_or(heads), head_dim)
    }

    /// Llama, mistral, qwen2, qwen3, and qwen3 with experts.
    fn dense_layer(&self, out: &mut Builder<'_>, at: &str, layer: usize) {
        let hidden = self.required("hidden_size");
        let (heads, kv_heads, head_dim) = self.heads();
        let qkv_bias = self.family == "qwen2" || self.flag("attention_bias");
        let o_bias = self.family != "qwen2" && self.flag("attention_bias");

        out.vector(format!("{at}.input_layernorm.weight"), hidden, 1.0);
        let attention = format!("{at}.self_attn");
        out.linear(&format!("{attention}.q_proj"), heads * head_dim, hidden, qkv_bias);
        out.linear(&format!("{attention}.k_proj"), kv_heads * head_dim, hidden, qkv_bias);
        out.linear(&format!("{attention}.v_proj"), kv_heads * head_dim, hidden, qkv_bias);
        out.linear(&format!("{attention}.o_proj"), hidden, heads * head_dim, o_bias);
        if matches!(self.family, "qwen3" | "qwen3_moe") {
            out.vector(format!("{attention}.q_norm.weight"), head_dim, 1.0);
            out.vector(format!("{attention}.k_norm.weight"), head_dim, 1.0);
        }
        out.vector(format!("{at}.post_attention_layernorm.weight"), hidden, 1.0);
        if self.is_sparse(layer) {
            self.experts(out, &format!("{at}.mlp"));
        } else {
            let sizes = [hidden, self.required("intermediate_size")];
            mlp(out, &format!("{at}.mlp"), sizes, self.flag("mlp_bias"));
        }
    }

    fn is_sparse(&self, layer: usize) -> bool {
        let only = self.text.get("mlp_only_layers").and_then(Value::as_array);
        self.family == "qwen3_moe"
            && !only.is_some_and(|only| only.contains(&layer.into()))
            && (layer + 1).is_multiple_of(self.required("decoder_sparse_step"))
    }

    /// A router and experts: stacked as mlx-lm writes them; or as published, which is one by one for
    /// qwen3_moe, and stacked with gate above up for qwen3_5_moe.
    fn experts(&self, out: &mut Builder<'_>, at: &str) {
        let (hidden, count) = (self.required("hidden_size"), self.required("num_experts"));
        let inner = self.required("moe_intermediate_size");
        let shared = self.number("shared_expert_intermediate_size");
        out.linear(&format!("{at}.gate"), count, hidden, false);
        match (self.published, shared) {
            (true, Some(_)) => {
                let [both, down] = [[count, 2 * inner, hidden], [count, hidden, inner]];
                out.plain(format!("{at}.experts.gate_up_proj"), &both, hidden, 2.0);
                out.plain(format!("{at}.experts.down_proj"), &down, inner, 2.0);
            }
            (true, None) => {
                for expert in 0..count {
                    mlp(out, &format!("{at}.experts.{expert}"), [hidden, inner], false);
                }
            }
            (false, _) => {
                let stacked = format!("{at}.switch_mlp");
                out.matrices(&format!("{stacked}.gate_proj"), &[count, inner, hidden], 2.0);
                out.matrices(&format!("{stacked}.up_proj"), &[count, inner, hidden], 2.0);
                out.matrices(&format!("{stacked}.down_proj"), &[count, hidden, inner], 2.0);
            }
        }
        if let Some(shared) = shared {
            mlp(out, &format!("{at}.shared_expert"), [hidden, shared], false);
            out.linear(&format!("{at}.shared_expert_gate"), 1, hidden, false);
        }
    }

    /// Qwen3.5. As published, norms are stored as their distance from 1.
    fn qwen3_5_layer(&self, out: &mut Builder<'_>, at: &str, layer: usize) {
        let hidden = self.required("hidden_size");
        let centre = if self.published { 0.0 } else { 1.0 };
        out.vector(format!("{at}.input_layernorm.weight"), hidden, centre);
        if (layer + 1).is_multiple_of(self.required("full_attention_interval")) {
            let (heads, kv_heads, head_dim) = self.heads();
            let attention = format!("{at}.self_attn");
            out.linear(&format!("{attention}.q_proj"), 2 * heads * head_dim, hidden, false);
            out.linear(&format!("{attention}.k_proj"), kv_heads * head_dim, hidden, false);
            out.linear(&format!("{attention}.v_proj"), kv_heads * head_dim, hidden, false);
            out.linear(&format!("{attention}.o_proj"), hidden, heads * head_dim, false);
            out.vector(format!("{attention}.q_norm.weight"), head_dim, centre);
            out.vector(format!("{attention}.k_norm.weight"), head_dim, centre);
        } else {
            self.delta_net(out, &format!("{at}.linear_attn"));
        }
        out.vector(format!("{at}.post_attention_layernorm.weight"), hidden, centre);
        match self.number("num_experts") {
            Some(_) => self.experts(out, &format!("{at}.mlp")),
            None => {
                let sizes = [hidden, self.required("intermediate_size")];
                mlp(out, &format!("{at}.mlp"), sizes, false);
            }
        }
    }

    fn delta_net(&self, out: &mut Builder<'_>, at: &str) {
        let (hidden, heads) =
            (self.required("hidden_size"), self.required("linear_num_value_heads"));
        let value_dim = self.required("linear_value_head_dim");
        let keys = self.required("linear_num_key_heads") * self.required("linear_key_head_dim");
        let (values, kernel) = (heads * value_dim, self.required("linear_conv_kernel_dim"));
        let channels = 2 * keys + values;
        let shape = if self.published { [channels, 1, kernel] } else { [channels, kernel, 1] };
        out.plain(format!("{at}.conv1d.weight"), &shape, kernel, 2.0);
        out.linear(&format!("{at}.in_proj_qkv"), channels, hidden, false);
        out.linear(&format!("{at}.in_proj_z"), values, hidden, false);
        out.linear(&format!("{at}.in_proj_b"), heads, hidden, false);
        out.linear(&format!("{at}.in_proj_a"), heads, hidden, false);
        // Decays that leave something of a token after a few dozen others.
        out.vector(format!("{at}.dt_bias"), heads, -3.0);
        out.vector(format!("{at}.A_log"), heads, 0.0);
        out.vector(format!("{at}.norm.weight"), value_dim, 1.0);
        out.linear(&format!("{at}.out_proj"), hidden, values, false);
    }

    /// Gemma 3. Norms are stored as their distance from 1; those behind a sublayer are larger, so
    /// that the tied head does not only repeat the last token.
    fn gemma3_layer(&self, out: &mut Builder<'_>, at: &str) {
        let hidden = self.required("hidden_size");
        let (heads, kv_heads, head_dim) = self.heads();
        let attention = format!("{at}.self_attn");
        out.vector(format!("{at}.input_layernorm.weight"), hidden, 0.0);
        out.linear(&format!("{attention}.q_proj"), heads * head_dim, hidden, false);
        out.linear(&format!("{attention}.k_proj"), kv_heads * head_dim, hidden, false);
        out.linear(&format!("{attention}.v_proj"), kv_heads * head_dim, hidden, false);
        out.linear(&format!("{attention}.o_proj"), hidden, heads * head_dim, false);
        out.vector(format!("{attention}.q_norm.weight"), head_dim, 0.0);
        out.vector(format!("{attention}.k_norm.weight"), head_dim, 0.0);
        out.vector(format!("{at}.post_attention_layernorm.weight"), hidden, 2.0);
        out.vector(format!("{at}.pre_feedforward_layernorm.weight"), hidden, 0.0);
        out.vector(format!("{at}.post_feedforward_layernorm.weight"), hidden, 2.0);
        mlp(out, &format!("{at}.mlp"), [hidden, self.required("intermediate_size")], false);
    }
}

fn mlp(out: &mut Builder<'_>, at: &str, [hidden, inner]: [usize; 2], bias: bool) {
    out.linear(&format!("{at}.gate_proj"), inner, hidden, bias);
    out.linear(&format!("{at}.up_proj"), inner, hidden, bias);
    out.linear(&format!("{at}.down_proj"), hidden, inner, bias);
}
