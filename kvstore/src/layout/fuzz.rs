//! Entry points for the fuzz targets (`kvstore/fuzz`) and for the same tests under proptest
//! (`tests/parse.rs`). They feed arbitrary bytes to the parsers, which must not panic, and check
//! that writing an accepted value again gives the same bytes. Random bytes never have a valid
//! checksum, so the same bytes are tried once more with correct checksums and fixed fields.

use super::index::{Frame, Reader, Role, encode_file_header, encode_frame, make_frames_right};
use super::record::{FIXED_LEN, Header, MAX_HEADER, Prefix, make_right};

/// A record's header region.
pub fn header(bytes: &[u8]) {
    header_as_it_is(bytes);
    let mut right = bytes.to_vec();
    if make_right(&mut right) {
        header_as_it_is(&right);
    }
}

fn header_as_it_is(bytes: &[u8]) {
    if let Ok(prefix) = Prefix::decode(bytes) {
        assert!(prefix.header_len >= FIXED_LEN as u64 && prefix.header_len <= MAX_HEADER);
    }
    if let Ok(header) = Header::decode(bytes) {
        let layout = header.layout().expect("a header that decodes is within the limits");
        assert!(layout.parts.len() == header.parts.len());
        let again = header.encode().expect("and can be written again");
        let used = FIXED_LEN + 8 * header.parts.len() + header.witness.len();
        // The checksum covers reserved fields, but decoding drops them, so they come back as zeros.
        assert_eq!(Header::decode(&again), Ok(header));
        assert_eq!(again[FIXED_LEN..used], bytes[FIXED_LEN..used]);
    }
}

/// An index file.
pub fn index(bytes: &[u8]) {
    index_as_it_is(bytes);
    for role in [Role::Snapshot, Role::Log] {
        let mut right = encode_file_header(role, bytes.len() as u64).to_vec();
        let frames = right.len();
        right.extend_from_slice(bytes);
        make_frames_right(&mut right[frames..]);
        index_as_it_is(&right);
    }
}

fn index_as_it_is(bytes: &[u8]) {
    for role in [Role::Snapshot, Role::Log] {
        let Some(reader) = Reader::new(bytes, role) else { continue };
        let generation = reader.generation;
        let frames: Vec<Frame> = reader.collect();
        let mut again = encode_file_header(role, generation).to_vec();
        frames.iter().for_each(|frame| encode_frame(frame, &mut again));
        assert!(again.len() <= bytes.len());
        let reread: Vec<Frame> = Reader::new(&again, role).expect("just written").collect();
        assert_eq!(reread, frames);
    }
}
