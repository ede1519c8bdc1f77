//! The daemon's limits on requests and configurations; the engine's are in [`engine::limits`].

engine::limits! {
    /// The bytes of a model's name in a request.
    MODEL_NAME_BYTES: usize = 256, Bytes, Request, "400", "a_model_name_at_its_limit";
    /// The bytes of a cache salt.
    CACHE_SALT_BYTES: usize = 128, Bytes, Request, "400", "a_cache_salt_at_its_limit";
    /// The most likely tokens that can be asked for beside each token of a chat answer.
    TOP_LOGPROBS: i64 = 20, Count, Request, "400", "top_logprobs_at_their_limit";
    /// The paths of ignored fields of a request that are kept for the log.
    IGNORED_PATHS: usize = 256, Count, Request, "counted, but not logged", "ignored_paths_at_their_limit";
}
