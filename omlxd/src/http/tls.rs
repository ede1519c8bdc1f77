//! TLS, for addresses that other machines reach: a certificate and its key from files, read again on
//! SIGHUP.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use omlxctl::files;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::limits::TLS_FILE_BYTES;

/// What every TLS connection begins with: the content type of a handshake.
const HANDSHAKE: u8 = 0x16;

/// Why TLS cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others can read the key.
    #[error("{path} has mode {mode:04o}, so others can read the TLS key: run `chmod 600 {path}`")]
    OpenKey {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// What a file should hold is not there.
    #[error("{path} holds no usable {what} in PEM: {problem}")]
    Content {
        /// Which file.
        path: PathBuf,
        /// `certificate` or `private key`.
        what: &'static str,
        /// What is wrong.
        problem: String,
    },
}

/// The certificate in use.
#[derive(Debug)]
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    config: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads both files.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn open(certificate: &Path, key: &Path) -> Result<Tls, TlsError> {
        let config = RwLock::new(read(certificate, key)?);
        Ok(Tls { certificate: certificate.to_owned(), key: key.to_owned(), config })
    }

    /// Reads both files again; connections from now on get what they hold. What cannot be used
    /// changes nothing.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn reload(&self) -> Result<(), TlsError> {
        let config = read(&self.certificate, &self.key)?;
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone().into()
    }
}

/// Whether the client begins a TLS connection. Waits for its first byte.
pub(crate) async fn is_wanted(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    Ok(stream.peek(&mut first).await? == 1 && first[0] == HANDSHAKE)
}

fn read(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let what = "certificate";
    let pem = bytes(certificate, |_| Ok(()))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.map_err(|error| content(certificate, what, error))?;
    if chain.is_empty() {
        return Err(content(certificate, what, pem::Error::NoItemsFound));
    }
    let pem = bytes(key, |data| match data.mode() & 0o777 {
        mode if mode & 0o077 != 0 => Err(TlsError::OpenKey { path: key.to_owned(), mode }),
        _ => Ok(()),
    })?;
    let what = "private key";
    let secret = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| content(key, what, error))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| content(key, what, error))?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(|error| content(key, what, error))?;
    Ok(Arc::new(config))
}

fn content(path: &Path, what: &'static str, error: impl ToString) -> TlsError {
    TlsError::Content { path: path.to_owned(), what, problem: error.to_string() }
}

/// A file's bytes, unless `check` objects to what it is.
fn bytes(
    path: &Path,
    check: impl Fn(&std::fs::Metadata) -> Result<(), TlsError>,
) -> Result<Vec<u8>, TlsError> {
    let io = |source| TlsError::Io { path: path.to_owned(), source };
    let file = files::open_to_read(path).map_err(io)?;
    check(&file.metadata().map_err(io)?)?;
    files::read_from(file, TLS_FILE_BYTES).map_err(io)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const CERTIFICATE: &str = include_str!("../../tests/tls/cert.pem");
    const KEY: &str = include_str!("../../tests/tls/key.pem");

    #[test]
    fn what_cannot_be_used_is_told_and_changes_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let (cert, key) = (temp.path().join("cert"), temp.path().join("key"));
        let missing = Tls::open(&cert, &key).unwrap_err();
        assert!(matches!(missing, TlsError::Io { .. }), "{missing}");
        fs::write(&cert, CERTIFICATE).unwrap();
        fs::write(&key, KEY).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        let open = Tls::open(&cert, &key).unwrap_err().to_string();
        assert!(open.contains("0640") && open.contains("chmod 600"), "{open}");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let tls = Tls::open(&cert, &key).unwrap();
        tls.reload().unwrap();
        for (path, text, what) in [
            (&cert, "", "no usable certificate"),
            (
                &cert,
                "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
                "no usable cert",
            ),
            (&key, CERTIFICATE, "no usable private key"),
        ] {
            let good = fs::read(path).unwrap();
            fs::write(path, text).unwrap();
            let error = tls.reload().unwrap_err().to_string();
            assert!(error.contains(what) && !error.contains("BEGIN"), "{error}");
            fs::write(path, good).unwrap();
        }
        tls.acceptor();
    }

    #[test]
    fn a_certificate_file_at_its_limit() {
        let temp = tempfile::tempdir().unwrap();
        let (cert, key) = (temp.path().join("cert"), temp.path().join("key"));
        fs::write(&key, KEY).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let limit = usize::try_from(TLS_FILE_BYTES).unwrap();
        for (bytes, fits) in [(limit, true), (limit + 1, false)] {
            let mut text = CERTIFICATE.as_bytes().to_vec();
            text.resize(bytes, b'\n');
            fs::write(&cert, text).unwrap();
            assert_eq!(Tls::open(&cert, &key).is_ok(), fits, "{bytes}");
        }
        for path in [&cert, &key] {
            let good = fs::read(path).unwrap();
            fs::remove_file(path).unwrap();
            assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
            let error = Tls::open(&cert, &key).unwrap_err();
            let source = std::error::Error::source(&error).unwrap().to_string();
            assert!(source.contains("a named pipe"), "{source}");
            fs::remove_file(path).unwrap();
            fs::write(path, &good[..good.len().min(limit)]).unwrap();
        }
    }
}
