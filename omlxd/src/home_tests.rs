//! The base directory's rules, each tried on a real one.

use super::*;
use crate::error_chain::Chain;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

fn temp_home() -> (tempfile::TempDir, Home) {
    let temp = tempfile::tempdir().unwrap();
    let home = Home::at(temp.path().join("home"));
    (temp, home)
}

#[test]
fn a_first_start_creates_everything_for_us_alone() {
    let (_temp, home) = temp_home();
    home.prepare().unwrap();
    for dir in ["", "models", "cache", "cache/kv", "run", "logs"] {
        assert_eq!(mode(&home.base().join(dir)), 0o700, "{dir}");
    }
    assert_eq!(fs::read_to_string(home.config_file()).unwrap(), config::default_file());
    assert_eq!(mode(&home.config_file()), 0o600);
    assert!(home.prepare().unwrap().is_empty(), "a second start has nothing to do");
}

#[test]
fn a_cache_folder_that_cannot_be_is_no_reason_not_to_start() {
    for at in ["cache", "cache/kv"] {
        let (_temp, home) = temp_home();
        home.prepare().unwrap();
        fs::remove_dir_all(home.base().join(at)).unwrap();
        fs::write(home.base().join(at), "in the way").unwrap();
        assert!(home.prepare().unwrap().is_empty(), "{at}");
    }
}

#[test]
fn a_key_is_made_once_and_has_the_documented_form() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("api-key");
    let key = api_key(&path).unwrap();
    assert_eq!(mode(&path), 0o600);
    let random = key.strip_prefix(KEY_PREFIX).unwrap();
    assert_eq!(random.len(), 43);
    assert!(random.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
    assert_eq!(api_key(&path).unwrap(), key);
    let rotated = rotate_key(&path).unwrap();
    assert_ne!(rotated, key);
    assert_eq!(api_key(&path).unwrap(), rotated);
    assert_eq!(mode(&path), 0o600);
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("api-key");
    api_key(&path).unwrap();
    for open in [0o640, 0o604, 0o620] {
        fs::set_permissions(&path, fs::Permissions::from_mode(open)).unwrap();
        let error = api_key(&path).unwrap_err();
        assert!(matches!(error, HomeError::OpenKey { .. }), "{error}");
        assert!(error.to_string().contains(&format!("chmod 600 {}", path.display())));
    }
}

#[test]
fn a_file_without_a_key_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    for (n, text) in [
        "",
        "short",
        "has a space in it, this key",
        "\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}",
    ]
    .iter()
    .enumerate()
    {
        let path = temp.path().join(n.to_string());
        write_private(&path, text.as_bytes()).unwrap();
        assert!(matches!(api_key(&path), Err(HomeError::BadKey { .. })), "{text:?}");
    }
}

#[test]
fn our_own_open_directory_is_closed_and_a_strange_one_is_refused() {
    let (_temp, home) = temp_home();
    fs::create_dir(home.base()).unwrap();
    fs::set_permissions(home.base(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(home.base().join("holiday.jpg"), "").unwrap();
    let error = home.prepare().unwrap_err();
    assert!(matches!(error, HomeError::OpenDir { mode: 0o755, .. }), "{error}");
    assert_eq!(mode(home.base()), 0o755, "nothing was changed");

    fs::remove_file(home.base().join("holiday.jpg")).unwrap();
    let notes = home.prepare().unwrap();
    assert!(notes[0].contains("closed"), "{notes:?}");
    assert_eq!(mode(home.base()), 0o700);
}

#[test]
fn one_daemon_at_a_time_and_its_files_go_with_it() {
    let (_temp, home) = temp_home();
    home.prepare().unwrap();
    let lock = home.lock().unwrap();
    let error = home.lock().unwrap_err();
    let HomeError::Running { pid, .. } = &error else { panic!("{error}") };
    assert_eq!(*pid, Some(std::process::id()));

    let listener = lock.bind_socket().unwrap();
    assert_eq!(mode(&home.socket()), 0o600);
    drop(listener);
    // A dropped listener leaves its file, as a killed daemon does: the next one takes its place.
    let _listener = lock.bind_socket().unwrap();
    assert_eq!(lock.left_by(), None);
    drop(lock);
    assert!(!home.socket().exists());
    // A killed one does not empty it.
    fs::write(home.base().join("run/lock"), "4711\n").unwrap();
    assert_eq!(home.lock().unwrap().left_by(), Some(4711));
    assert_eq!(home.lock().unwrap().left_by(), None);
}

#[test]
fn the_lock_holds_when_its_file_is_removed() {
    for gone in ["run", "run/lock"] {
        let (_temp, home) = temp_home();
        home.prepare().unwrap();
        let lock = home.lock().unwrap();
        let path = home.base().join(gone);
        if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }.unwrap();
        home.prepare().unwrap();
        let error = home.lock().unwrap_err();
        assert!(matches!(error, HomeError::Running { is_reachable: false, .. }), "{error}");
        assert!(error.to_string().contains("its socket in run/ was removed"), "{error}");
        drop(lock);
        home.lock().unwrap();
    }
    // The same directory under another name.
    let (temp, home) = temp_home();
    home.prepare().unwrap();
    let _lock = home.lock().unwrap();
    let link = temp.path().join("link");
    std::os::unix::fs::symlink(home.base(), &link).unwrap();
    assert!(matches!(Home::at(link).lock(), Err(HomeError::Running { .. })));
}

#[test]
fn a_lock_that_is_a_link_or_a_pipe_is_refused() {
    let (temp, home) = temp_home();
    home.prepare().unwrap();
    let secret = temp.path().join("secret");
    fs::write(&secret, "theirs").unwrap();
    let path = home.base().join("run/lock");
    std::os::unix::fs::symlink(&secret, &path).unwrap();
    assert!(Chain(&home.lock().unwrap_err()).to_string().contains("a symbolic link"));
    assert_eq!(fs::read_to_string(&secret).unwrap(), "theirs");
    fs::remove_file(&path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    assert!(Chain(&home.lock().unwrap_err()).to_string().contains("a named pipe"));
}

#[test]
fn a_key_at_its_limit() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("api-key");
    for (bytes, fits) in [(KEY_MIN_BYTES - 1, false), (KEY_BYTES, true), (KEY_BYTES + 1, false)] {
        replace_private(&path, "k".repeat(bytes).as_bytes()).unwrap();
        assert_eq!(api_key(&path).is_ok(), fits, "{bytes}");
    }
}

#[test]
fn a_key_file_at_its_limit() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("api-key");
    let limit = usize::try_from(KEY_FILE_BYTES).unwrap();
    for (bytes, fits) in [(limit, true), (limit + 1, false)] {
        let key = "sk-omlx-a-key-of-a-test\n#";
        let text = format!("{key}{}", "x".repeat(bytes - key.len()));
        replace_private(&path, text.as_bytes()).unwrap();
        assert_eq!(api_key(&path).is_ok(), fits, "{bytes}");
        assert_eq!(crate::auth::Keys::from_file(&path).is_ok(), fits, "{bytes}");
    }
}

#[test]
fn a_socket_path_that_macos_cannot_hold_is_refused_before_anything_is_made() {
    let temp = tempfile::tempdir().unwrap();
    let fixed = temp.path().as_os_str().len() + "//run/omlxd.sock".len();
    for (length, fits) in [(SOCKET_PATH_BYTES - 1, true), (SOCKET_PATH_BYTES, false)] {
        let home = Home::at(temp.path().join("x".repeat(length - fixed)));
        assert_eq!(home.socket().as_os_str().len(), length);
        match home.prepare() {
            Ok(_) => assert!(fits),
            Err(error) => {
                assert!(!fits && !home.base().exists());
                assert!(error.to_string().contains("104"), "{error}");
            }
        }
    }
}
