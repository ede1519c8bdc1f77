//! Keys, namespaces and the kinds of record.

use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

/// The name of one block inside a namespace: 32 opaque bytes that the caller derives from content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub [u8; 32]);

/// The scope of a key (one model, one layout, one tenant): 32 opaque bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Namespace(pub [u8; 32]);

/// The type of data in a record. The store treats all kinds alike but counts them separately.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Attention keys and values of one block of tokens.
    Kv,
    /// Attention keys and values of layers with a sliding window.
    Rotating,
    /// A recurrent state, which is usable only at its exact position. Its label is `state`.
    Recurrent,
}

impl Kind {
    /// Every kind, in the order that [`Kind::index`] counts them.
    pub const ALL: [Kind; 3] = [Kind::Kv, Kind::Rotating, Kind::Recurrent];

    /// The kind's index in [`Kind::ALL`].
    pub fn index(self) -> usize {
        match self {
            Kind::Kv => 0,
            Kind::Rotating => 1,
            Kind::Recurrent => 2,
        }
    }

    /// The kind's label in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Kv => "kv",
            Kind::Rotating => "rotating",
            Kind::Recurrent => "state",
        }
    }
}

/// A block's id inside one open store: a small number replaces the namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BlockId {
    /// Index into the store's table of namespaces.
    pub(crate) space: u32,
    pub(crate) key: Key,
}

/// Hashes block ids for the store's own tables. Keys are digests already, so mixing suffices; it
/// does not resist chosen keys, because they come from our own process.
#[derive(Clone, Copy, Default)]
pub(crate) struct IdHasher(u64);

/// Builds [`IdHasher`]s.
pub(crate) type IdHash = BuildHasherDefault<IdHasher>;

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(23) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

macro_rules! hex_name {
    ($name:ident) => {
        impl $name {
            /// Parses 64 lower-case hexadecimal digits, as [`fmt::Display`] writes them.
            pub fn from_hex(text: &str) -> Option<Self> {
                let digits = text.as_bytes();
                if digits.len() != 64 {
                    return None;
                }
                let mut out = [0; 32];
                for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
                    *byte = (nibble(pair[0])? << 4) | nibble(pair[1])?;
                }
                Some(Self(out))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}(", stringify!($name))?;
                self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                f.write_str("..)")
            }
        }
    };
}

hex_name!(Key);
hex_name!(Namespace);

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trips_and_refuses_everything_else() {
        let key = Key(std::array::from_fn(|i| (i * 37) as u8));
        assert_eq!(Key::from_hex(&key.to_string()), Some(key));
        assert_eq!(Key::from_hex(&key.to_string().to_uppercase()), None);
        assert_eq!(Key::from_hex(&key.to_string()[1..]), None);
        assert_eq!(Key::from_hex(&"g".repeat(64)), None);
    }
}
