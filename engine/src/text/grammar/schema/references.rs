//! What a `$ref` leads to.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::keywords::{DATA, MAPS};
use super::{Pass, Place, wrong};
use crate::text::grammar::GrammarError;

/// A schema and the names of its parts.
pub(super) struct Document<'d> {
    root: &'d Value,
    /// The pointer of each `$id`, as it is written.
    ids: HashMap<&'d str, String>,
    /// The pointer of each anchor.
    anchors: HashMap<&'d str, String>,
}

impl<'d> Document<'d> {
    pub(super) fn new(root: &'d Value) -> Self {
        let mut document = Self { root, ids: HashMap::new(), anchors: HashMap::new() };
        document.index(root, &mut String::new());
        document
    }

    fn index(&mut self, value: &'d Value, pointer: &mut String) {
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

    fn index_at(&mut self, value: &'d Value, pointer: &mut String, steps: &[&str]) {
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

    /// The pointer that a reference stands for, where there is something.
    fn resolve(&self, reference: &str) -> Option<String> {
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

    /// A part by its `$id`; a relative one by the end of an absolute one.
    fn resource(&self, base: &str) -> Option<&String> {
        let is_end = |id: &str| id.strip_suffix(base).is_some_and(|start| start.ends_with('/'));
        let by_end = || self.ids.iter().find(|(id, _)| is_end(id)).map(|(_, pointer)| pointer);
        self.ids.get(base).or_else(by_end)
    }

    /// The schema that a reference leads to.
    pub(super) fn get(&self, reference: &str) -> Option<&'d Value> {
        self.root.pointer(&self.resolve(reference)?)
    }
}

impl Pass<'_> {
    /// The reference to a definition, which is written later.
    pub(super) fn reference(
        &mut self,
        value: &Value,
        place: &Place<'_>,
    ) -> Result<Value, GrammarError> {
        let Some(reference) = value.as_str() else {
            return Err(wrong(place, "a reference is a string"));
        };
        let Some(pointer) = self.document.resolve(reference) else {
            let what = format!("'{reference}' leads to nothing in this document");
            return Err(wrong(place, what));
        };
        let known = self.definitions.iter().position(|(known, _)| *known == pointer);
        let n = known.unwrap_or_else(|| {
            self.definitions.push((pointer, None));
            self.definitions.len() - 1
        });
        Ok(json!({"$ref": format!("#/$defs/{n}")}))
    }

    /// All that is referred to, in the order of its numbers.
    pub(super) fn definitions(&mut self) -> Result<Vec<Value>, GrammarError> {
        let mut n = 0;
        while let Some((pointer, _)) = self.definitions.get(n) {
            let pointer = pointer.clone();
            let schema = self.document.root.pointer(&pointer).unwrap_or(&Value::Null);
            let schema = self.schema(schema, &Place::Root(&pointer))?;
            self.definitions[n].1 = Some(schema);
            n += 1;
        }
        let all = std::mem::take(&mut self.definitions);
        Ok(all.into_iter().map(|(_, schema)| schema.unwrap_or(Value::Bool(false))).collect())
    }
}

/// The number of the definition that a part of what we wrote refers to.
pub(super) fn target(reference: &Value) -> Option<usize> {
    reference.as_str()?.strip_prefix("#/$defs/")?.parse().ok()
}

/// A name as a step of a JSON pointer.
pub(super) fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// A text with `%2F` and the like read.
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
