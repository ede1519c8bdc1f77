//! `namespace()`: objects whose attributes a template sets.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use minijinja::value::{DynObject, Object, ObjectRepr, Value};

thread_local! {
    /// The attributes of a rendering's namespaces. A namespace is an index into this list, so that
    /// a value that contains it does not own its attributes.
    pub(super) static NAMESPACES: RefCell<Vec<Attributes>> = const { RefCell::new(Vec::new()) };
}

/// Drops the namespaces of the rendering that ends.
pub(super) fn forget_namespaces() {
    let _ = NAMESPACES.take();
}

#[derive(Default)]
pub(super) struct Attributes {
    /// Each value, with the number of names that were set before it.
    pub(super) by_name: BTreeMap<Arc<str>, (usize, Value)>,
}

impl Attributes {
    pub(super) fn put(&mut self, name: &str, value: Value) {
        match self.by_name.get_mut(name) {
            Some((_, old)) => *old = value,
            None => {
                self.by_name.insert(name.into(), (self.by_name.len(), value));
            }
        }
    }
}

pub(super) fn with_namespace<T>(
    namespace: &Namespace,
    run: impl FnOnce(&mut Attributes) -> T,
) -> T {
    // A replaced value must not be dropped while the list is borrowed. Dropping a value does not
    // access the list, because namespaces are only indices.
    NAMESPACES.with_borrow_mut(|all| match all.get_mut(namespace.0) {
        Some(fields) => run(fields),
        None => run(&mut Attributes::default()),
    })
}

/// A namespace's names and values in the order in which they were set; `None` for other values.
pub(super) fn attributes(value: &Value) -> Option<Vec<(Value, Value)>> {
    let namespace = value.downcast_object_ref::<Namespace>()?;
    let mut found = with_namespace(namespace, |fields| {
        let fields = fields.by_name.iter();
        fields
            .map(|(name, (at, value))| (*at, Value::from(name.clone()), value.clone()))
            .collect::<Vec<_>>()
    });
    found.sort_by_key(|(at, ..)| *at);
    Some(found.into_iter().map(|(_, name, value)| (name, value)).collect())
}

/// The value of `namespace()`.
#[derive(Debug)]
pub(super) struct Namespace(pub(super) usize);

impl Object for Namespace {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        with_namespace(self, |fields| fields.by_name.get(key).map(|(_, value)| value.clone()))
    }

    fn custom_cmp(self: &Arc<Self>, other: &DynObject) -> Option<Ordering> {
        Some(self.0.cmp(&other.downcast_ref::<Namespace>()?.0))
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<Namespace>")
    }
}
