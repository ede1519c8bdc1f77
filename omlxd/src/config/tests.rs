//! Each rule of the configuration, as a table of good and bad texts.

use super::*;

fn load_text(text: &str) -> Result<Loaded, Vec<Problem>> {
    let file = FileText { path: PathBuf::from("config.toml"), text: text.to_owned() };
    load(Path::new("/base"), &Sources { file: Some(file), ..Sources::default() })
}

use std::path::Path;
