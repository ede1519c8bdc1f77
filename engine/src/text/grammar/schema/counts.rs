//! Limits on the number of an object's properties.

use serde_json::{Map, Value, json};

use super::objects::Properties;
use super::pass::{Pass, Place, wrong};
use super::rewrite::Parts;
use super::types::Types;
use crate::limits::{SCHEMA_OPTIONAL, SCHEMA_VARIANTS};
use crate::text::grammar::error::GrammarError;

/// With more optional properties than this, their selections are not written out.
const MOST_OPTIONAL: usize = 6;
/// With more optional properties than this, not even one of them can be required, because the
/// parser would hold the state of each in as many objects at once.
const MOST_DEMANDED: usize = 20;

impl Pass<'_> {
    /// `minProperties` and `maxProperties`. The selections of the optional properties are written
    /// out as a choice. Undeclared names may repeat, so one of them can be required, but not
    /// several.
    pub(super) fn counts(
        &mut self,
        properties: &Properties,
        (least, most): (u64, Option<u64>),
        parts: &mut Parts,
        place: &Place<'_>,
    ) -> Result<(), GrammarError> {
        let needed = properties.required.len() as u64;
        let optional: Vec<&String> = properties
            .declared
            .iter()
            .filter(|(name, schema)| {
                **schema != Value::Bool(false) && !properties.required.contains(name)
            })
            .map(|(name, _)| name)
            .collect();
        if optional.len() > SCHEMA_OPTIONAL {
            let what = format!("more than {SCHEMA_OPTIONAL} optional properties in one object");
            return Err(wrong(place, what));
        }
        let is_open = properties.is_open();
        let largest = (!is_open).then_some(needed + optional.len() as u64);
        let least = (least > needed).then_some(least);
        let most = most.filter(|most| largest.is_none_or(|largest| largest > *most));
        let is_empty = most.is_some_and(|most| most < needed.max(least.unwrap_or(0)))
            || largest.zip(least).is_some_and(|(largest, least)| largest < least);
        if is_empty {
            parts.types = parts.types.without(Types::OBJECT);
            if parts.types == Types::NONE {
                parts.also.push(self.nothing(place, "no object has so many properties"));
            }
            return Ok(());
        }
        match (least, most) {
            (None, None) => Ok(()),
            // llguidance supports this case: one of the optional properties is required.
            (Some(one), None)
                if !is_open && one == needed + 1 && optional.len() <= MOST_DEMANDED =>
            {
                parts.own.insert("minProperties".to_owned(), one.into());
                Ok(())
            }
            (Some(least), None) if !is_open => {
                let chosen = selections(&optional, (least - needed) as usize);
                match chosen.filter(|chosen| self.may_write(chosen.len())) {
                    Some(chosen) => {
                        let one = |names: Vec<&String>| json!({"required": names});
                        parts.also.push(
                            json!({"anyOf": chosen.into_iter().map(one).collect::<Vec<_>>()}),
                        );
                        Ok(())
                    }
                    None => self.cannot(place, "minProperties", "there are too many selections"),
                }
            }
            (Some(one), None)
                if one == needed + 1
                    && (MOST_OPTIONAL + 1..=MOST_DEMANDED).contains(&optional.len())
                    && self.may_write(optional.len() + 1) =>
            {
                parts.also.push(one_more(&optional, one));
                Ok(())
            }
            (least, most) => {
                let all =
                    self.variants(&optional, needed, (least, most), (is_open, parts.types), place)?;
                parts.also.extend(all);
                Ok(())
            }
        }
    }

    fn may_write(&mut self, variants: usize) -> bool {
        self.variants += variants;
        self.variants <= SCHEMA_VARIANTS
    }

    /// A choice of schemas, one for each selection of the optional properties.
    fn variants(
        &mut self,
        optional: &[&String],
        needed: u64,
        (least, most): (Option<u64>, Option<u64>),
        (is_open, types): (bool, Types),
        place: &Place<'_>,
    ) -> Result<Option<Value>, GrammarError> {
        let keyword = if least.is_some() { "minProperties" } else { "maxProperties" };
        if optional.len() > MOST_OPTIONAL || !self.may_write(1 << optional.len()) {
            self.cannot(place, keyword, "there are too many optional properties beside it")?;
            return Ok(None);
        }
        let mut all = Vec::new();
        // The largest selections come first, so that a model that has begun with one can add more.
        for chosen in (0..1usize << optional.len()).rev() {
            let there = |n: &usize| chosen >> n & 1 == 1;
            let names: Vec<&String> =
                (0..optional.len()).filter(there).map(|n| optional[n]).collect();
            let count = needed + names.len() as u64;
            let missing = least.unwrap_or(0).saturating_sub(count);
            if most.is_some_and(|most| count > most)
                || missing > u64::from(is_open)
                || most.is_some_and(|most| count + missing > most)
            {
                continue;
            }
            let absent = optional.iter().filter(|name| !names.contains(name));
            let absent: Map<String, Value> =
                absent.map(|name| ((*name).clone(), Value::Bool(false))).collect();
            let mut variant = json!({"type": "object"});
            if !names.is_empty() {
                variant["required"] = json!(names);
            }
            if !absent.is_empty() {
                variant["properties"] = Value::Object(absent);
            }
            if is_open {
                let least = least.filter(|_| missing > 0);
                for (name, count) in [("minProperties", least), ("maxProperties", most)] {
                    if let Some(count) = count {
                        variant[name] = count.into();
                    }
                }
            }
            all.push(variant);
        }
        if all.is_empty() {
            let why =
                "a name outside 'properties' can come twice, so that several cannot be demanded";
            self.cannot(place, keyword, why)?;
            return Ok(None);
        }
        all.extend(
            types
                .without(Types::OBJECT)
                .write()
                .filter(|_| types != Types::OBJECT)
                .map(|others| json!({"type": others})),
        );
        Ok(Some(json!({"anyOf": all})))
    }
}

/// Requires one of the optional properties, or one that is not declared.
fn one_more(optional: &[&String], least: u64) -> Value {
    let absent: Map<String, Value> =
        optional.iter().map(|name| ((*name).clone(), Value::Bool(false))).collect();
    let other = json!({"properties": absent, "minProperties": least});
    let all = optional.iter().map(|name| json!({"required": [name]})).chain([other]);
    json!({"anyOf": all.collect::<Vec<_>>()})
}

/// All selections of `count` of these names, unless there are too many.
fn selections<'a>(names: &[&'a String], count: usize) -> Option<Vec<Vec<&'a String>>> {
    let mut all: Vec<(usize, Vec<&String>)> = vec![(0, Vec::new())];
    for _ in 0..count {
        let longer = all.iter().flat_map(|(from, chosen)| {
            (*from..names.len()).map(move |n| {
                let chosen = chosen.iter().copied().chain([names[n]]).collect();
                (n + 1, chosen)
            })
        });
        all = longer.take(SCHEMA_VARIANTS * 16 + 1).collect();
        if all.len() > SCHEMA_VARIANTS * 16 {
            return None;
        }
    }
    let all: Vec<Vec<&String>> = all.into_iter().map(|(_, chosen)| chosen).collect();
    (all.len() <= SCHEMA_VARIANTS).then_some(all)
}
