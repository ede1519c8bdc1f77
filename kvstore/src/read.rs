//! Reads a record from disk and makes every check of the format before it returns a byte.

use crate::buffer::{Buffer, MemoryShare};
use crate::crypt::Cipher;
use crate::disk::{Disk, ReadFile};
use crate::key::{Key, Namespace};
use crate::layout::record::{FIXED_LEN, Header, Layout, Prefix};
use crate::layout::{ALIGN, Damage};
use crate::paths;
use crate::record::{MappedBlock, Resident, memory_len};
use std::io;
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3;

/// Number of bytes copied at a time. They are hashed while they are in the processor's cache.
const CHUNK: usize = 256 << 10;

/// Why a record could not be read.
#[derive(Debug)]
pub(crate) enum LoadError {
    Damaged(Damage),
    WitnessDiffers,
    /// Only one of record and store is encrypted. The record is not damaged, but of no use.
    OtherSecrecy,
    NoMemory,
    /// It can only be read by copy: it is encrypted, or too many files are mapped.
    NotMappable,
    Io(io::Error),
}

impl From<Damage> for LoadError {
    fn from(damage: Damage) -> Self {
        LoadError::Damaged(damage)
    }
}

impl From<io::Error> for LoadError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::OutOfMemory => LoadError::NoMemory,
            _ => LoadError::Io(error),
        }
    }
}

/// The record to read, and the identity it must have.
pub(crate) struct Wanted<'a> {
    pub(crate) namespace: Namespace,
    pub(crate) key: Key,
    /// `None` skips the comparison: for reads ahead and verification.
    pub(crate) witness: Option<&'a [u8]>,
}

impl Wanted<'_> {
    /// Compares a header with the requested record and decrypts its witness.
    fn check(&self, header: &mut Header, cipher: Option<&Cipher>) -> Result<(), LoadError> {
        if header.namespace != self.namespace || header.key != self.key {
            return Err(Damage::Namespace.into());
        }
        match (cipher, header.seal.is_some()) {
            (None, false) => {}
            (Some(cipher), true) if cipher.open_witness(header) => {}
            (Some(_), true) => return Err(Damage::Checksum.into()),
            _ => return Err(LoadError::OtherSecrecy),
        }
        match self.witness {
            Some(witness) if witness != header.witness => Err(LoadError::WitnessDiffers),
            _ => Ok(()),
        }
    }
}

/// Reads only the header of a record's file.
pub(crate) fn read_header(file: &dyn ReadFile) -> Result<(Header, Layout), LoadError> {
    let mut bytes = vec![0; file.len().min(ALIGN) as usize];
    read_all(file, &mut bytes, 0)?;
    let prefix = Prefix::decode(&bytes)?;
    if prefix.header_len > file.len() {
        return Err(Damage::ShortRead.into());
    }
    if prefix.header_len as usize > bytes.len() {
        let have = bytes.len();
        bytes.resize(prefix.header_len as usize, 0);
        read_all(file, &mut bytes[have..], have as u64)?;
    }
    let header = Header::decode(&bytes)?;
    let layout = header.layout().ok_or(Damage::Header)?;
    if layout.file_len() != file.len() {
        return Err(Damage::ShortRead.into());
    }
    Ok((header, layout))
}

/// Reads a record into our own memory and verifies that copy, so that later changes to the file do
/// not affect it.
pub(crate) fn read_copy(
    disk: &dyn Disk,
    cipher: Option<&Cipher>,
    wanted: &Wanted<'_>,
    mut share: MemoryShare,
) -> Result<Arc<Resident>, LoadError> {
    let file = disk.open_whole(&paths::block(&wanted.namespace, &wanted.key))?;
    let (mut header, layout) = read_header(&*file)?;
    wanted.check(&mut header, cipher)?;
    share.shrink_to(memory_len(&layout, header.witness.len()));
    let mut payload = Buffer::new(layout.payload_len as usize, share).ok_or(LoadError::NoMemory)?;
    let mut hash = Xxh3::new();
    let mut at = layout.header_len;
    for chunk in payload.bytes_mut().chunks_mut(CHUNK) {
        read_all(&*file, chunk, at)?;
        hash.update(chunk);
        at += chunk.len() as u64;
    }
    if hash.digest128() != header.payload_checksum {
        return Err(Damage::Checksum.into());
    }
    if let Some(cipher) = cipher
        && !cipher.open_payload(&header, payload.bytes_mut())
    {
        return Err(Damage::Checksum.into());
    }
    Ok(Arc::new(Resident {
        kind: header.kind,
        parent: header.parent,
        witness: header.witness.into(),
        layout,
        payload,
    }))
}

/// Maps a record and verifies it once, through the mapping. Encrypted records cannot be mapped, so
/// a store with a key only reads by copy.
pub(crate) fn read_mapped(
    disk: &dyn Disk,
    cipher: Option<&Cipher>,
    wanted: &Wanted<'_>,
) -> Result<Arc<MappedBlock>, LoadError> {
    if cipher.is_some() {
        return Err(LoadError::NotMappable);
    }
    let map = match disk.map(&paths::block(&wanted.namespace, &wanted.key)) {
        Err(error) if error.kind() == io::ErrorKind::QuotaExceeded => {
            return Err(LoadError::NotMappable);
        }
        map => map?,
    };
    let checked = (|| -> Result<(Header, Layout), LoadError> {
        let mut header = Header::decode(map.bytes())?;
        let layout = header.layout().ok_or(Damage::Header)?;
        if layout.file_len() != map.bytes().len() as u64 {
            return Err(Damage::ShortRead.into());
        }
        wanted.check(&mut header, cipher)?;
        let mut hash = Xxh3::new();
        map.bytes()[layout.header_len as usize..].chunks(CHUNK).for_each(|c| hash.update(c));
        if hash.digest128() != header.payload_checksum {
            return Err(Damage::Checksum.into());
        }
        Ok((header, layout))
    })();
    // A missing page reads as zeros, so the file is at fault, not the check that failed.
    if !map.is_intact() {
        return Err(Damage::ShortRead.into());
    }
    let (header, layout) = checked?;
    Ok(Arc::new(MappedBlock { kind: header.kind, witness: header.witness.into(), layout, map }))
}

/// Verifies a stored record without keeping it. For an encrypted record this verifies the checksum
/// of the bytes as stored.
pub(crate) fn verify(disk: &dyn Disk, namespace: Namespace, key: Key) -> Result<u64, LoadError> {
    let file = disk.open_whole(&paths::block(&namespace, &key))?;
    let (header, layout) = read_header(&*file)?;
    if header.namespace != namespace || header.key != key {
        return Err(Damage::Namespace.into());
    }
    let mut hash = Xxh3::new();
    let mut chunk = vec![0; CHUNK.min(layout.payload_len as usize)];
    let mut at = layout.header_len;
    while at < layout.file_len() {
        let len = chunk.len().min((layout.file_len() - at) as usize);
        read_all(&*file, &mut chunk[..len], at)?;
        hash.update(&chunk[..len]);
        at += len as u64;
    }
    if hash.digest128() == header.payload_checksum {
        Ok(layout.file_len())
    } else {
        Err(Damage::Checksum.into())
    }
}

/// What a file under a block's name contains.
pub(crate) enum Identified {
    /// A complete record of this version (its payload is not read).
    Record(Box<(Header, Layout)>),
    /// A record of an unknown version.
    Newer,
    /// A torn record, or a file that is not a record of this name.
    Unusable,
}

/// Reads the header of a file that is not in the index.
pub(crate) fn identify(disk: &dyn Disk, namespace: Namespace, key: Key) -> io::Result<Identified> {
    let file = disk.open(&paths::block(&namespace, &key))?;
    match read_header(&*file) {
        Ok((header, layout)) if header.namespace == namespace && header.key == key => {
            return Ok(Identified::Record(Box::new((header, layout))));
        }
        Err(LoadError::Io(error)) => return Err(error),
        _ => {}
    }
    let mut first = [0; FIXED_LEN];
    let read = file.read_at(&mut first, 0)?;
    Ok(if Prefix::is_newer(&first[..read]) { Identified::Newer } else { Identified::Unusable })
}

fn read_all(file: &dyn ReadFile, buffer: &mut [u8], offset: u64) -> Result<(), LoadError> {
    if file.read_at(buffer, offset)? == buffer.len() {
        Ok(())
    } else {
        Err(Damage::ShortRead.into())
    }
}
