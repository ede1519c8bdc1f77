//! Optional encryption at rest of witness and payload with XChaCha20-Poly1305, whose nonces are
//! long enough to be drawn at random for every record.

use crate::error::OpenError;
use crate::layout::record::{Header, Seal};
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use zeroize::Zeroizing;

const KEY_LEN: usize = 32;

/// Which of a record's two secrets a nonce is for. The last byte of the nonce differs.
#[derive(Clone, Copy)]
enum Secret {
    Witness = 0,
    Payload = 1,
}

pub(crate) struct Cipher(XChaCha20Poly1305);

impl Cipher {
    /// Reads the key file, or creates it (mode 0600) if it is missing.
    pub(crate) fn from_key_file(path: &Path) -> Result<Cipher, OpenError> {
        let error = |what: &str| OpenError::KeyFile { path: path.into(), what: what.into() };
        let io_error = |source: io::Error| error(&format!("{source}; check its owner and folder"));
        let mut key = Zeroizing::new([0; KEY_LEN]);
        // Opening a pipe must not wait for a writer.
        let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        match OpenOptions::new().read(true).custom_flags(flags).open(path) {
            Ok(mut file) => {
                let meta = file.metadata().map_err(io_error)?;
                if !meta.is_file() {
                    return Err(error("it is not a regular file"));
                }
                if meta.mode() & 0o077 != 0 {
                    return Err(error("others may read it; run chmod 600 on it"));
                }
                if meta.len() != KEY_LEN as u64 {
                    return Err(error("it is not 32 bytes long; remove it to have a new one made"));
                }
                file.read_exact(key.as_mut_slice()).map_err(io_error)?;
            }
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
                getrandom::fill(key.as_mut_slice())
                    .map_err(|_| error("the system gives no random bytes; try again"))?;
                publish(path, key.as_slice()).map_err(io_error)?;
            }
            Err(other) => return Err(io_error(other)),
        }
        let cipher = XChaCha20Poly1305::new_from_slice(key.as_slice());
        cipher.map(Cipher).map_err(|_| error("it is not 32 bytes long"))
    }

    /// Encrypts `header.witness` and `payload` in place and puts the seal into the header. Returns
    /// false when the system has no random bytes.
    pub(crate) fn seal(&self, header: &mut Header, payload: &mut [u8]) -> bool {
        let mut nonce = [0; 24];
        if getrandom::fill(&mut nonce).is_err() {
            return false;
        }
        let identity = header.identity();
        let encrypt = |secret, bytes: &mut [u8]| {
            self.0.encrypt_inout_detached(&nonce_for(nonce, secret), &identity, bytes.into()).ok()
        };
        let witness_tag = encrypt(Secret::Witness, &mut header.witness);
        let payload_tag = encrypt(Secret::Payload, payload);
        let (Some(witness_tag), Some(payload_tag)) = (witness_tag, payload_tag) else {
            return false;
        };
        header.seal =
            Some(Seal { nonce, payload_tag: payload_tag.into(), witness_tag: witness_tag.into() });
        true
    }

    /// Decrypts `header.witness` in place.
    pub(crate) fn open_witness(&self, header: &mut Header) -> bool {
        let Some(seal) = header.seal else { return false };
        let mut witness = std::mem::take(&mut header.witness);
        let identity = header.identity();
        let nonce = nonce_for(seal.nonce, Secret::Witness);
        let tag = Tag::from(seal.witness_tag);
        let opened = self
            .0
            .decrypt_inout_detached(&nonce, &identity, witness.as_mut_slice().into(), &tag)
            .is_ok();
        header.witness = witness;
        opened
    }

    /// Decrypts the payload region in place.
    pub(crate) fn open_payload(&self, header: &Header, payload: &mut [u8]) -> bool {
        let Some(seal) = header.seal else { return false };
        let nonce = nonce_for(seal.nonce, Secret::Payload);
        let tag = Tag::from(seal.payload_tag);
        self.0.decrypt_inout_detached(&nonce, &header.identity(), payload.into(), &tag).is_ok()
    }
}

/// Writes the key file atomically, so that a crash never leaves a partial one. An existing key file
/// is never replaced, because records may be sealed with it.
fn publish(path: &Path, key: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = Path::new(&name);
    match fs::remove_file(new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new)?;
    file.write_all(key)?;
    file.sync_all()?;
    fs::hard_link(new, path)?;
    fs::remove_file(new)
}

fn nonce_for(mut nonce: [u8; 24], secret: Secret) -> XNonce {
    nonce[23] = secret as u8;
    XNonce::from(nonce)
}
