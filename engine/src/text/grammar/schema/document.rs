//! A schema document, and the names that a `$ref` may use for its parts.

use std::collections::HashMap;

use serde_json::Value;

use super::keywords::{DATA, MAPS};

/// A schema document and the names of its parts.
pub(super) struct Document<'d> {
    pub(super) root: &'d Value,
    /// The pointer to each `$id`, by its text.
    ids: HashMap<&'d str, String>,
    /// The pointer to each anchor.
    anchors: HashMap<&'d str, String>,
}

impl<'d> Document<'d> {
    pub(super) fn new(root: &'d Value) -> Self {
        let mut document = Self { root, ids: HashMap::new(), anchors: HashMap::new() };
        document.index(root, &mut String::new());
        document
    }

    pub(super) fn index(&mut self, value: &'d Value, pointer: &mut String) {
        let Value::Object(fields) = value else { return };
        for name in ["$id", "id"] {
            let Some(id) = fields.get(name).and_then(Value::as_str) else { continue };
            match id.strip_prefix('#') {
                Some(anchor) => self.anchors.entry(anchor).or_insert_with(|| pointer.clone()),
                None => self.ids.entry(id.trim_end_matches('#')).or_insert_with(|| pointer.clone()),
            };
        }
        for name in ["$anchor", "$dynamicAnchor"] {
            if let Some(anchor) = fields.get(name).and_then(Value::as_str) {
                self.anchors.entry(anchor).or_insert_with(|| pointer.clone());
            }
        }
        for (name, value) in fields.iter().filter(|(name, _)| !DATA.contains(&name.as_str())) {
            match value {
                Value::Object(parts) if MAPS.contains(&name.as_str()) => {
                    for (part, value) in parts {
                        self.index_at(value, pointer, &[name, part]);
                    }
                }
                Value::Array(parts) => {
                    for (n, value) in parts.iter().enumerate() {
                        self.index_at(value, pointer, &[name, &n.to_string()]);
                    }
                }
                value => self.index_at(value, pointer, &[name]),
            }
        }
    }

    pub(super) fn index_at(&mut self, value: &'d Value, pointer: &mut String, steps: &[&str]) {
        if !value.is_object() {
            return;
        }
        let length = pointer.len();
        for step in steps {
            pointer.push('/');
            pointer.push_str(&escape(step));
        }
        self.index(value, pointer);
        pointer.truncate(length);
    }

    /// The pointer that a reference resolves to, if its target exists.
    pub(super) fn resolve(&self, reference: &str) -> Option<String> {
        let (base, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let base = match base {
            "" => String::new(),
            base => self.resource(base)?.to_owned(),
        };
        let fragment = percent_decoded(fragment);
        let pointer = match fragment.as_str() {
            "" | "/" => base,
            pointer if pointer.starts_with('/') => base + pointer,
            anchor => self.anchors.get(anchor)?.clone(),
        };
        self.root.pointer(&pointer).map(|_| pointer)
    }

    /// Finds a part by its `$id`. A relative one may match the end of an absolute one.
    pub(super) fn resource(&self, base: &str) -> Option<&String> {
        let is_end = |id: &str| id.strip_suffix(base).is_some_and(|start| start.ends_with('/'));
        let by_end = || self.ids.iter().find(|(id, _)| is_end(id)).map(|(_, pointer)| pointer);
        self.ids.get(base).or_else(by_end)
    }

    /// The schema that a reference resolves to.
    pub(super) fn get(&self, reference: &str) -> Option<&'d Value> {
        self.root.pointer(&self.resolve(reference)?)
    }
}

/// Escapes a name for use in a JSON pointer.
pub(super) fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// Decodes `%2F` and the like.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let decoded = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match decoded.filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}
