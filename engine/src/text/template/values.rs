//! Bounded values: inputs of a rendering, values that a template stores, and the cost of walking
//! them.
//!
//! The functions are called where `guard.rs` inserts them. A value that has passed one of them is
//! nested no deeper than [`TEMPLATE_VALUE_LEVELS`] and contains nothing opaque. Code that walks it
//! later (minijinja prints, compares and drops by recursion) therefore stays within the stack.
//! Namespaces and macros are leaves: their content is not reached through them, so namespaces that
//! contain each other form no cycle in memory.

use crate::text::template::namespace::Attributes;
use std::collections::HashMap;
use std::sync::Arc;

use minijinja::value::{
    DynObject, Enumerator, Kwargs, Object, ObjectRepr, Rest, Tuple, Value, ValueKind,
};
use minijinja::{Environment, Error, ErrorKind, State};

use super::namespace::{NAMESPACES, Namespace, attributes, with_namespace};
use super::{clock, python};
use crate::limits::TEMPLATE_VALUE_LEVELS;

/// The prefix of the functions' names.
pub(super) const PREFIX: &str = "omlx__";
/// Bytes of text that count as one value, because one unit of fuel pays for them.
const BYTES_PER_UNIT: usize = 64;

/// minijinja's type of macros.
const MACRO: &str = "macro_object::Macro";

pub(super) fn install(environment: &mut Environment<'static>) {
    let mut add = |name: &str, function: fn(&State<'_, '_>, &Value) -> Result<Value, Error>| {
        environment.add_function(format!("{PREFIX}{name}"), function);
    };
    add("checked", |state, value| Walk { state, weighs: false, bare: true }.settled(value));
    add("weighed", |state, value| Walk { state, weighs: true, bare: false }.settled(value));
    add("key", key);
    add("hashed", |state, value| match value.kind() {
        ValueKind::Seq if value.is_tuple() => key(state, value),
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => {
            Err(invalid("a list or a dict cannot be a key"))
        }
        _ => key(state, value),
    });
    add("looped", looped);
    add("stepped", |state, value| {
        // minijinja splits it into characters, 4 bytes each.
        clock::burn(state, value.as_str().map_or(0, str::len) / 8)?;
        Ok(value.clone())
    });
    add("text", |state, value| match value.kind() {
        ValueKind::Undefined => Ok(Value::from("")),
        _ => python::string(state, value),
    });
    environment.add_function(format!("{PREFIX}set"), set);
    environment.add_test("callable", |value: &Value| {
        let is_macro = value.as_object().is_some_and(|object| object.type_name().ends_with(MACRO));
        is_macro || (value.kind() == ValueKind::Plain && attributes(value).is_none())
    });
    environment.add_function("namespace", namespace);
    environment.add_function("joiner", |state: &State<'_, '_>, sep: Option<&Value>| {
        let sep = sep.map(|sep| held(state, sep)).transpose()?;
        Ok::<_, Error>(minijinja_contrib::globals::joiner(sep))
    });
    environment.add_function("cycler", |state: &State<'_, '_>, items: Rest<Value>| {
        let items = items.iter().map(|item| held(state, item)).collect::<Result<Vec<_>, _>>()?;
        minijinja_contrib::globals::cycler(items)
    });
}

fn invalid(what: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what)
}

/// Charges fuel for walking all of the values.
pub(super) fn weigh(state: &State<'_, '_>, values: &[Value]) -> Result<(), Error> {
    let walk = Walk { state, weighs: true, bare: true };
    values
        .iter()
        .filter(|value| !value.is_kwargs())
        .try_for_each(|value| walk.settled(value).map(drop))
}

/// A value in the form in which a list, a namespace or the like may store it.
fn held(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    Walk { state, weighs: false, bare: false }.settled(value)
}

/// Walks a value.
struct Walk<'a, 't, 'e> {
    state: &'a State<'t, 'e>,
    /// Charges for the whole value, and not only for its new parts.
    weighs: bool,
    /// The value itself may be opaque, such as a loop or a function.
    bare: bool,
}

impl Walk<'_, '_, '_> {
    /// Returns the value with iterators replaced by lists.
    fn settled(&self, value: &Value) -> Result<Value, Error> {
        Ok(self.changed(value, 0)?.unwrap_or_else(|| value.clone()))
    }

    /// Returns the replacement of a value, if it needs one.
    fn changed(&self, value: &Value, depth: usize) -> Result<Option<Value>, Error> {
        let deep = |levels: usize| {
            if depth + levels > TEMPLATE_VALUE_LEVELS {
                Err(invalid(format!(
                    "lists and dicts may be nested {TEMPLATE_VALUE_LEVELS} levels deep, and these are deeper"
                )))
            } else {
                Ok(())
            }
        };
        if let Some(text) = value.as_str() {
            self.burn(if self.weighs { 1 + text.len() / BYTES_PER_UNIT } else { 1 })?;
            return Ok(None);
        }
        let Some(object) = value.as_object() else {
            return self.burn(1).map(|()| None);
        };
        if let Some(size) = given(value) {
            self.burn(if self.weighs { size.weight } else { 1 })?;
            return deep(size.levels).map(|()| None);
        }
        deep(1)?;
        self.burn(1)?;
        match value.kind() {
            ValueKind::Map if is_dict(object) => self.dict(value, depth),
            ValueKind::Seq | ValueKind::Iterable => {
                let is_list = object.downcast_ref::<Vec<Value>>().is_some();
                if (is_list || value.is_tuple()) && !self.items_change(value, depth)? {
                    return Ok(None);
                }
                let items = self.items(value, depth)?;
                let is_tuple = value.is_tuple();
                Ok(Some(if is_tuple { Value::from(Tuple::new(items)) } else { Value::from(items) }))
            }
            _ if is_leaf(value, object) || (self.bare && depth == 0) => Ok(None),
            _ => Err(invalid("a list, a dict or a namespace cannot hold a loop or a function")),
        }
    }

    fn items_change(&self, value: &Value, depth: usize) -> Result<bool, Error> {
        let mut is_changed = false;
        for item in value.try_iter()? {
            is_changed |= self.changed(&item, depth + 1)?.is_some();
        }
        Ok(is_changed)
    }

    fn items(&self, value: &Value, depth: usize) -> Result<Vec<Value>, Error> {
        let mut items = Vec::new();
        for item in value.try_iter()? {
            self.burn(1)?;
            items.push(self.changed(&item, depth + 1)?.unwrap_or(item));
        }
        Ok(items)
    }

    fn dict(&self, value: &Value, depth: usize) -> Result<Option<Value>, Error> {
        let mut pairs = Vec::new();
        let mut is_changed = false;
        for key in value.try_iter()? {
            let item = value.get_item(&key)?;
            self.changed(&key, depth + 1)?;
            let changed = self.changed(&item, depth + 1)?;
            is_changed |= changed.is_some();
            pairs.push((key, changed.unwrap_or(item)));
        }
        Ok(is_changed.then(|| pairs.into_iter().collect()))
    }

    fn burn(&self, units: usize) -> Result<(), Error> {
        clock::burn(self.state, units)
    }
}

/// True for minijinja's own dicts: its loops, macros and modules look like dicts, too.
fn is_dict(object: &DynObject) -> bool {
    ["indexmap::", "alloc::collections::", "std::collections::"]
        .iter()
        .any(|path| object.type_name().starts_with(path))
}

/// True for values that contain no others.
fn is_leaf(value: &Value, object: &DynObject) -> bool {
    value.downcast_object_ref::<Namespace>().is_some() || object.type_name().ends_with(MACRO)
}

/// Checks and charges for the key of a lookup in a dict or a list.
fn key(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    Walk { state, weighs: true, bare: false }.settled(value)
}

/// Returns the items of a loop as a list.
fn looped(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::None => Err(invalid("None cannot be looped over")),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            clock::burn(state, text.len())?;
            Ok(text.chars().map(Value::from).collect())
        }
        ValueKind::Map
            if value.as_object().is_some_and(|o| given(value).is_none() && !is_dict(o)) =>
        {
            Err(invalid("a loop or a macro cannot be looped over"))
        }
        _ => held(state, value),
    }
}

/// Sets an attribute of a namespace.
fn set(state: &State<'_, '_>, target: &Value, name: &str, value: &Value) -> Result<(), Error> {
    let Some(namespace) = target.downcast_object_ref::<Namespace>() else {
        return Err(invalid("only a namespace can be given an attribute"));
    };
    let value = held(state, value)?;
    with_namespace(namespace, |fields| fields.put(name, value));
    Ok(())
}

/// Creates a namespace: `namespace(dict, name=value)`.
fn namespace(state: &State<'_, '_>, from: Option<&Value>, named: Kwargs) -> Result<Value, Error> {
    let mut fields = Attributes::default();
    if let Some(from) = from.filter(|from| !from.is_undefined()) {
        for key in from.try_iter()? {
            let name = key.as_str().ok_or_else(|| invalid("the names in a namespace are texts"))?;
            fields.put(name, held(state, &from.get_item(&key)?)?);
        }
    }
    for name in named.args() {
        fields.put(name, held(state, &named.get::<Value>(name)?)?);
    }
    let index = NAMESPACES.with_borrow_mut(|all| {
        all.push(fields);
        all.len() - 1
    });
    Ok(Value::from_object(Namespace(index)))
}

/// The size of an input value.
#[derive(Debug, Clone, Copy)]
struct Size {
    /// Units of fuel for walking it.
    weight: usize,
    /// Nesting levels of lists and dicts.
    levels: usize,
}

fn given(value: &Value) -> Option<Size> {
    let list = value.downcast_object_ref::<List>().map(|list| list.size);
    list.or_else(|| value.downcast_object_ref::<Dict>().map(|dict| dict.size))
}

/// A list in the input of a rendering.
#[derive(Debug)]
struct List {
    items: Vec<Value>,
    size: Size,
}

impl Object for List {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.items.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.items.len())
    }
}

/// A dict in the input of a rendering.
#[derive(Debug)]
struct Dict {
    pairs: Vec<(Value, Value)>,
    /// Indices in `pairs`, if there are many.
    places: HashMap<Arc<str>, usize>,
    size: Size,
}

impl Dict {
    /// A dict with more keys than this has an index.
    const FEW: usize = 12;
}

impl Object for Dict {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        let at = if self.pairs.len() <= Self::FEW {
            self.pairs.iter().position(|(name, _)| name.as_str() == Some(key))?
        } else {
            *self.places.get(key)?
        };
        Some(self.pairs[at].1.clone())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.pairs.iter().map(|(name, _)| name.clone()).collect())
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.pairs.len())
    }
}

/// An input value of a rendering. The JSON parser has bounded its depth.
pub(super) fn from_json(value: &serde_json::Value) -> Value {
    sized(value).0
}

/// A list of input values of a rendering.
pub(super) fn from_list<'v>(values: impl IntoIterator<Item = &'v serde_json::Value>) -> Value {
    list(values.into_iter().map(sized)).0
}

fn list(values: impl Iterator<Item = (Value, Size)>) -> (Value, Size) {
    let mut size = Size { weight: 1, levels: 0 };
    let items = values.map(|(value, of)| size.add(of, value)).collect();
    size.levels += 1;
    (Value::from_object(List { items, size }), size)
}

impl Size {
    fn add(&mut self, of: Self, value: Value) -> Value {
        self.weight += of.weight;
        self.levels = self.levels.max(of.levels);
        value
    }
}

fn sized(value: &serde_json::Value) -> (Value, Size) {
    use serde_json::Value as Json;
    let one = Size { weight: 1, levels: 0 };
    match value {
        Json::Null => (Value::from(()), one),
        Json::Bool(value) => (Value::from(*value), one),
        Json::Number(number) => {
            let integer =
                number.as_i64().map(Value::from).or_else(|| number.as_u64().map(Value::from));
            (integer.unwrap_or_else(|| Value::from(number.as_f64().unwrap_or_default())), one)
        }
        Json::String(text) => (
            Value::from(text.as_str()),
            Size { weight: 1 + text.len() / BYTES_PER_UNIT, levels: 0 },
        ),
        Json::Array(values) => list(values.iter().map(sized)),
        Json::Object(fields) => {
            let mut size = one;
            let mut pairs = Vec::with_capacity(fields.len());
            let mut places = HashMap::new();
            for (name, value) in fields {
                let (value, of) = sized(value);
                if fields.len() > Dict::FEW {
                    places.insert(Arc::from(name.as_str()), pairs.len());
                }
                size.weight += 1 + name.len() / BYTES_PER_UNIT;
                pairs.push((Value::from(name.as_str()), size.add(of, value)));
            }
            size.levels += 1;
            (Value::from_object(Dict { pairs, places, size }), size)
        }
    }
}
