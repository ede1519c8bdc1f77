//! Bounds and divisors of numbers.

use serde_json::{Map, Number, Value};

use super::keywords::DATA;
use super::pass::{Pass, Place, wrong};
use super::rewrite::{EXACT, Parts};
use super::types::Types;
use crate::limits::SCHEMA_DIVISOR;
use crate::text::grammar::error::GrammarError;

/// A bound of a range: the number, and whether it is exclusive.
type End = Option<(f64, bool)>;

impl Pass<'_> {
    /// Handles `minimum`, `maximum`, their exclusive forms, and `multipleOf`.
    pub(super) fn numbers(
        &mut self,
        fields: &Map<String, Value>,
        parts: &mut Parts,
        place: &Place<'_>,
    ) -> Result<(), GrammarError> {
        if !parts.types.has(Types::NUMBER) {
            return Ok(());
        }
        let mut low = end(fields, ("minimum", "exclusiveMinimum"), 1.0, place)?;
        let mut high = end(fields, ("maximum", "exclusiveMaximum"), -1.0, place)?;
        let (integer, number) = (Types::INTEGER, Types::NUMBER);
        if parts.types.and(number) == integer {
            low = low.map(|(n, out)| (if out { (n + 1.0).floor() } else { n.ceil() }, false));
            high = high.map(|(n, out)| (if out { (n - 1.0).ceil() } else { n.floor() }, false));
        }
        (low, high) = without_whole_ends(low, high);
        let divisor = self.divisor(fields, place)?;
        let step = divisor.and_then(decimal);
        if divisor.is_some() {
            // Readers lose digits of longer numbers, so divisibility would be wrong.
            low = low.or(Some((-EXACT, false)));
            high = high.or(Some((EXACT, false)));
        }
        if !has_value(low, high, step, parts.types.and(number) == integer) {
            let why = "no number is within minimum, maximum and multipleOf";
            parts.types = parts.types.without(number);
            if parts.types == Types::NONE {
                parts.also.push(self.nothing(place, why));
            }
            return Ok(());
        }
        let mut put = |end: End, names: [&str; 2]| {
            if let Some((n, is_outside)) = end {
                let whole = n.fract() == 0.0;
                let n = if whole { Value::from(n as i64) } else { Value::from(n) };
                parts.own.insert(names[usize::from(is_outside)].to_owned(), n);
            }
        };
        put(low, ["minimum", "exclusiveMinimum"]);
        put(high, ["maximum", "exclusiveMaximum"]);
        if let Some(divisor) = divisor {
            parts.own.insert("multipleOf".to_owned(), divisor.clone().into());
        }
        Ok(())
    }

    /// The `multipleOf` of a schema, if it can be enforced.
    fn divisor<'v>(
        &self,
        fields: &'v Map<String, Value>,
        place: &Place<'_>,
    ) -> Result<Option<&'v Number>, GrammarError> {
        let Some(value) = fields.get("multipleOf") else { return Ok(None) };
        let Some(number) = value.as_number() else {
            return Err(wrong(&place.field("multipleOf"), format!("{value} is not a number")));
        };
        if is_countable(number) && is_read_alike(number) {
            return Ok(Some(number));
        }
        let why = format!("{number} is not what can be enforced, above 0 and of up to 5 digits");
        self.cannot(place, "multipleOf", &why).map(|()| None)
    }
}

/// The stricter of two bounds. `sign` is 1 for the lower bound. Bounds beyond [`EXACT`] are
/// clamped.
fn end(
    fields: &Map<String, Value>,
    (name, exclusive): (&str, &str),
    sign: f64,
    place: &Place<'_>,
) -> Result<End, GrammarError> {
    let read = |name: &str| match fields.get(name) {
        None | Some(Value::Bool(false)) => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or_else(|| {
            let place = place.field(name);
            wrong(&place, format!("{value} is not a number"))
        }),
    };
    let inner = read(name)?.map(|n| (n, false));
    let outer = match fields.get(exclusive) {
        Some(Value::Bool(true)) => inner.map(|(n, _)| (n, true)),
        _ => read(exclusive)?.map(|n| (n, true)),
    };
    let nearer = match (inner, outer) {
        (Some(inner), Some(outer)) if (outer.0 - inner.0) * sign < 0.0 => Some(inner),
        (inner, outer) => outer.or(inner),
    };
    Ok(nearer.map(|(n, out)| if n * sign < -EXACT { (-EXACT * sign, false) } else { (n, out) }))
}

/// llguidance treats an exclusive whole-number bound as inclusive if the other bound is less than 1
/// away. Such a bound is moved inwards a little.
fn without_whole_ends(low: End, high: End) -> (End, End) {
    const LITTLE: f64 = 1e-9;
    let (Some((from, from_out)), Some((to, to_out))) = (low, high) else { return (low, high) };
    if to - from >= 1.0 || to <= from {
        return (low, high);
    }
    let little = LITTLE.min((to - from) / 4.0);
    let low =
        if from_out && from.fract() == 0.0 { (from + little, false) } else { (from, from_out) };
    let high = if to_out && to.fract() == 0.0 { (to - little, false) } else { (to, to_out) };
    (Some(low), Some(high))
}

/// Whether the range contains a number that can be written.
fn has_value(low: End, high: End, step: Option<(u128, u32)>, is_integer: bool) -> bool {
    let (from, from_out) = low.unwrap_or((-EXACT, false));
    let (to, to_out) = high.unwrap_or((EXACT, false));
    if from > to || (from == to && (from_out || to_out)) || from > EXACT || to < -EXACT {
        return false;
    }
    let Some((units, scale)) = step else { return true };
    let scale = 10f64.powi(scale as i32);
    let mut step = units as f64 / scale;
    if is_integer {
        step = units as f64 / gcd(units, scale as u128) as f64;
    }
    let mut first = (from / step).ceil();
    if from_out && first * step <= from {
        first += 1.0;
    }
    first * step < to || (first * step == to && !to_out)
}

/// Rejects divisors that may apply together, where schemas are combined, and would then take too
/// long: llguidance tracks every remainder, without a limit of its own.
pub(super) fn check_divisors(schema: &Value) -> Result<(), GrammarError> {
    let (mut found, mut are_combined) = (Vec::new(), false);
    collect_divisors(schema, &mut found, &mut are_combined);
    let all = found.into_iter().filter(|number| is_countable(number)).filter_map(decimal);
    let all: Vec<(u128, u32)> = all.collect();
    let scale = all.iter().map(|(_, scale)| *scale).max().unwrap_or(0);
    let multiple = all.iter().try_fold(1, |multiple: u128, (units, own)| {
        let units = units.checked_mul(10_u128.checked_pow(scale - own)?)?;
        Some(multiple / gcd(multiple, units) * units).filter(|multiple| *multiple <= SCHEMA_DIVISOR)
    });
    if are_combined && multiple.is_none() {
        let what = "the least common multiple of all multipleOf below the root is more than what \
                        can be enforced, a number of up to 5 digits";
        Err(GrammarError::Invalid(what.to_owned()))
    } else {
        Ok(())
    }
}

fn is_countable(number: &Number) -> bool {
    decimal(number).is_some_and(|(units, _)| (1..=SCHEMA_DIVISOR).contains(&units))
}

/// Whether llguidance reads this number exactly: it multiplies a float by ten until no fraction is
/// left.
fn is_read_alike(number: &Number) -> bool {
    const MOST_DIGITS: u32 = 20;
    let mut value = number.as_f64().unwrap_or(0.0);
    let mut scale = 0;
    while value.fract() != 0.0 && scale < MOST_DIGITS {
        value *= 10.0;
        scale += 1;
    }
    decimal(number).is_some_and(|(units, own)| {
        own <= scale && units.checked_mul(10_u128.pow(scale - own)) == Some(value as u128)
    })
}

/// Collects every `multipleOf`, and whether any two may apply to the same number.
fn collect_divisors<'a>(schema: &'a Value, found: &mut Vec<&'a Number>, are_combined: &mut bool) {
    match schema {
        Value::Array(items) => {
            items.iter().for_each(|item| collect_divisors(item, found, are_combined));
        }
        Value::Object(fields) => {
            for (name, value) in fields.iter().filter(|(name, _)| !DATA.contains(&name.as_str())) {
                *are_combined |=
                    ["allOf", "anyOf", "oneOf", "$ref", "patternProperties", "propertyNames"]
                        .contains(&name.as_str());
                match value {
                    Value::Number(number) if name == "multipleOf" => found.push(number),
                    _ => collect_divisors(value, found, are_combined),
                }
            }
        }
        _ => {}
    }
}

/// A number as an integer and a negative power of ten. `None` for numbers that are negative or too
/// long.
fn decimal(number: &Number) -> Option<(u128, u32)> {
    let text = number.to_string();
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let fraction = fraction.trim_end_matches('0');
    let units: u128 = format!("{whole}{fraction}").parse().ok()?;
    let scale = fraction.len() as i32 - exponent.parse::<i32>().ok()?;
    match u32::try_from(scale) {
        Ok(scale) => Some((units, scale)),
        Err(_) => Some((units.checked_mul(10_u128.checked_pow(scale.unsigned_abs())?)?, 0)),
    }
}

fn gcd(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { gcd(b, a % b) }
}
