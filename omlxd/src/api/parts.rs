//! Parts of messages that are not plain text, in every API: what is no text at all, and thoughts under all
//! the names that servers have given them.

use serde_json::Value;

use super::conversation::unseal;
use super::read::Path;
use crate::error::ApiError;

/// Puts a note in place of a part of this kind, so that a conversation with a picture can continue. E15
/// where the user asks about it now.
pub(super) fn note(
    text: &mut String,
    kind: &str,
    path: &Path<'_>,
    is_asked: bool,
) -> Result<(), ApiError> {
    if is_asked {
        let what = format_args!("'{kind}': this model takes text only");
        return Err(ApiError::unsupported_value(path.field("type"), what));
    }
    let name = match kind {
        _ if kind.contains("image") || kind.contains("screenshot") => "an image",
        _ if kind.contains("audio") => "a sound",
        _ if kind.contains("video") => "a video",
        _ => "a file",
    };
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&format!("[{name} was left out: this model reads text only]\n"));
    Ok(())
}

/// The thoughts in a value: a text, a list of texts and blocks, or a block that holds them in the clear or
/// as we sealed them. Empty for what only another server can read.
pub(super) fn thoughts(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => {
            let mut all = String::new();
            for item in list {
                let text = thoughts(item);
                // Blocks of thoughts are wholes; anything else is a piece of one.
                if item["type"] == "thinking" && !all.is_empty() && !text.is_empty() {
                    all.push_str("\n\n");
                }
                all.push_str(&text);
            }
            all
        }
        Value::Object(block) => {
            let shown = ["thinking", "text", "reasoning", "content", "summary"];
            let shown = shown.iter().filter_map(|name| block.get(*name)).map(thoughts);
            let sealed = ["signature", "data", "encrypted_content"];
            let sealed = sealed.iter().filter_map(|name| block.get(*name)?.as_str());
            let mut found = shown.chain(sealed.filter_map(unseal)).filter(|text| !text.is_empty());
            found.next().unwrap_or_default()
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::conversation::seal;
    use super::*;
    use serde_json::json;

    #[test]
    fn thoughts_are_found_under_every_name() {
        for value in [
            json!("hm"),
            json!(["h", "m"]),
            json!([{"type": "thinking", "thinking": "hm", "signature": "xyz"}]),
            json!([{"type": "redacted_thinking", "data": "xyz"}, {"type": "thinking", "thinking": "hm"}]),
            json!({"type": "thinking", "thinking": "", "signature": seal("hm")}),
            json!({"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}),
            json!([{"type": "reasoning.text", "text": "h"}, {"type": "reasoning.text", "text": "m"}]),
            json!([{"type": "reasoning.summary", "summary": "hm"},
                   {"type": "reasoning.encrypted", "data": "xyz"}]),
        ] {
            assert_eq!(thoughts(&value), "hm", "{value}");
        }
        for value in
            [json!(null), json!(3), json!([]), json!({"type": "redacted_thinking", "data": "x"})]
        {
            assert_eq!(thoughts(&value), "", "{value}");
        }
    }
}
