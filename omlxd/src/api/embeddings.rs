//! `/v1/embeddings`, which is refused clearly: only models that generate are served.

use serde_json::{Map, Value};

use super::error::ApiError;
use super::read::{Fields, Path};

/// E3, E4 for a body that is no request for embeddings, else E7.
pub(super) fn refuse(body: &Map<String, Value>) -> ApiError {
    let fields = Fields::new(body, &Path::Root);
    let named = fields.required_string("model").and_then(|model| {
        fields.required("input")?;
        Ok(model)
    });
    match named {
        Ok(model) => {
            let what = format_args!(
                "'{model:.64}' generates text; embeddings are not served by this version of omlxd"
            );
            ApiError::unsupported_value("model", what)
        }
        Err(error) => error,
    }
}
