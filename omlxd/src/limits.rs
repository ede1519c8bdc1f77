//! The daemon's limits on requests and configurations; the engine's are in [`engine::limits`].

engine::limits! {
    /// The bytes of a model's name in a request.
    MODEL_NAME_BYTES: usize = 256, Bytes, Request, "400", "a_model_name_at_its_limit";
}
