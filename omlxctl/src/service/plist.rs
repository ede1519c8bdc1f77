//! The property list of the job: from a template of `launchd/`, with this machine's paths.

use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::{fs, io::Write};

use omlxctl::files::{self, Links};

/// The job's name, and its file's.
pub(crate) const LABEL: &str = "io.github.omlx.omlxd";

/// The job that `brew services` makes of the same program.
pub(crate) const BREW_LABEL: &str = "homebrew.mxcl.omlx";

const AGENT: &str = include_str!("../../../launchd/agent/io.github.omlx.omlxd.plist");
const DAEMON: &str = include_str!("../../../launchd/daemon/io.github.omlx.omlxd.plist");

/// What a template leaves open.
pub(crate) struct Filling<'a> {
    /// omlxd's absolute path.
    pub(crate) omlxd: &'a Path,
    /// The base directory's absolute path.
    pub(crate) base: &'a Path,
    /// The user of a system job; without one it is the caller's own job.
    pub(crate) user: Option<&'a str>,
}

/// The text of the property list.
///
/// # Errors
/// When a path is not UTF-8, which a property list cannot hold.
pub(crate) fn text(filling: &Filling<'_>) -> Result<String, String> {
    let path = |path: &Path| {
        let text = path.to_str().ok_or_else(|| format!("{} is not UTF-8", path.display()))?;
        Ok::<_, String>(escaped(text))
    };
    let template = if filling.user.is_some() { DAEMON } else { AGENT };
    Ok(template
        .replace("@OMLXD@", &path(filling.omlxd)?)
        .replace("@BASE_DIR@", &path(filling.base)?)
        .replace("@USER@", &escaped(filling.user.unwrap_or_default())))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Writes it where launchd looks. launchd refuses a file that others can write.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn write(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let beside = path.with_extension("plist.new");
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o644);
    let mut file = files::open(&beside, &mut options, Links::Refused)?;
    file.write_all(text.as_bytes())?;
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    fs::rename(&beside, path)
}

/// The path of a program that stays the same when Homebrew upgrades it: `opt/NAME` instead of
/// `Cellar/NAME/VERSION`.
pub(crate) fn stable(path: &Path) -> PathBuf {
    let parts: Vec<_> = path.components().collect();
    let Some(cellar) = parts.iter().position(|part| part.as_os_str() == "Cellar") else {
        return path.to_owned();
    };
    let (Some(name), Some(rest)) = (parts.get(cellar + 1), parts.get(cellar + 3..)) else {
        return path.to_owned();
    };
    let prefix: PathBuf = parts[..cellar].iter().collect();
    prefix.join("opt").join(name).join(rest.iter().collect::<PathBuf>())
}
