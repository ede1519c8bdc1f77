//! Filters and tests that walk whole values, which are charged first.

use minijinja::value::{Kwargs, Rest, Value, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, State, filters, tests};

use super::clock;
use super::python::string;
use super::values::weigh;

pub(super) fn install(environment: &mut Environment<'static>) {
    // The maximum number of bytes that each makes of one byte, and whether it may make a value of
    // each character of a text, or a new list of a list's items.
    let walkers = [
        ("sort", 1, true, Value::from_function(filters::sort)),
        ("unique", 1, true, Value::from_function(filters::unique)),
        ("groupby", 1, true, Value::from_function(filters::groupby)),
        ("dictsort", 1, false, Value::from_function(filters::dictsort)),
        ("min", 1, true, Value::from_function(filters::min)),
        ("max", 1, true, Value::from_function(filters::max)),
        ("sum", 1, true, Value::from_function(filters::sum)),
        ("join", 1, true, Value::from_function(filters::join)),
        ("format", 1, false, Value::from_function(filters::format)),
        ("upper", 3, false, Value::from_function(filters::upper)),
        ("lower", 3, false, Value::from_function(filters::lower)),
        ("title", 3, false, Value::from_function(filters::title)),
        ("capitalize", 3, false, Value::from_function(filters::capitalize)),
        ("split", 1, true, Value::from_function(filters::split)),
        ("lines", 1, true, Value::from_function(filters::lines)),
        ("escape", 6, false, Value::from_function(filters::escape)),
        ("e", 6, false, Value::from_function(filters::escape)),
        ("pprint", 6, false, Value::from_function(filters::pprint)),
        ("list", 0, true, Value::from_function(filters::list)),
        ("batch", 0, true, Value::from_function(filters::batch)),
        ("slice", 0, true, Value::from_function(filters::slice)),
    ];
    for (name, growth, by_character, filter) in walkers {
        environment.add_filter(
            name,
            move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
                let args = args.into_values();
                for _ in 0..growth {
                    weigh(state, &args)?;
                }
                if by_character {
                    clock::burn(state, args.first().and_then(Value::len).unwrap_or(0))?;
                }
                filter.call(state, &args)
            },
        );
    }
    for (names, test) in comparisons() {
        for name in names {
            environment.add_test(*name, move |state: &State<'_, '_>, a: &Value, b: &Value| {
                weigh(state, std::slice::from_ref(b))?;
                Ok::<_, Error>(test(a, b))
            });
        }
    }
    for (name, test) in
        [("lower", tests::is_lower as fn(&Value) -> bool), ("upper", tests::is_upper)]
    {
        environment.add_test(name, move |state: &State<'_, '_>, value: &Value| {
            weigh(state, std::slice::from_ref(value))?;
            Ok::<_, Error>(test(value))
        });
    }
    for (name, at_end) in [("startingwith", false), ("endingwith", true)] {
        environment.add_test(name, move |state: &State<'_, '_>, value: &Value, affix: &Value| {
            weigh(state, &[value.clone(), affix.clone()])?;
            let (value, affix) = (string(state, value)?, string(state, affix)?);
            let (value, affix) = (text_of(&value), text_of(&affix));
            Ok::<_, Error>(if at_end { value.ends_with(affix) } else { value.starts_with(affix) })
        });
    }
    environment.add_test("in", |state: &State<'_, '_>, value: &Value, within: &Value| {
        weigh(state, &[value.clone(), within.clone()])?;
        tests::is_in(state, value, within)
    });
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_filter("replace", replace);
    environment.add_filter("indent", indent);
}

type Comparison = (&'static [&'static str], fn(&Value, &Value) -> bool);

fn comparisons() -> [Comparison; 6] {
    [
        (&["eq", "equalto", "=="], |a, b| a == b),
        (&["ne", "!="], |a, b| a != b),
        (&["lt", "lessthan", "<"], |a, b| a < b),
        (&["le", "<="], |a, b| a <= b),
        (&["gt", "greaterthan", ">"], |a, b| a > b),
        (&["ge", ">="], |a, b| a >= b),
    ]
}

/// Jinja's `int(value, default, base)`. A value that is not a number gives the default.
fn int(
    value: &Value,
    default: Option<Value>,
    base: Option<u32>,
    named: Kwargs,
) -> Result<Value, Error> {
    let default = default.or(named.get("default")?).unwrap_or_else(|| Value::from(0));
    let base = base.or(named.get("base")?).unwrap_or(10);
    named.assert_all_used()?;
    let whole = value.as_str().and_then(|text| whole_number(text, base));
    if let Some(whole) = whole.or_else(|| value.as_i64()) {
        return Ok(Value::from(whole));
    }
    let number = number(value).filter(|number| number.abs() < i64::MAX as f64);
    Ok(number.map_or(default, |number| Value::from(number as i64)))
}

/// Jinja's `float(value, default)`.
fn float(value: &Value, default: Option<Value>, named: Kwargs) -> Result<Value, Error> {
    let default = default.or(named.get("default")?).unwrap_or_else(|| Value::from(0.0));
    named.assert_all_used()?;
    Ok(number(value).map_or(default, Value::from))
}

fn number(value: &Value) -> Option<f64> {
    match value.kind() {
        ValueKind::String => value.as_str()?.trim().replace('_', "").parse().ok(),
        ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        _ => f64::try_from(value.clone()).ok(),
    }
}

/// Parses a whole number with Python's rules, including the prefix of its base.
fn whole_number(text: &str, base: u32) -> Option<i64> {
    let text = text.trim();
    let (sign, digits) = match text.strip_prefix(['-', '+']) {
        Some(digits) => (if text.starts_with('-') { -1 } else { 1 }, digits),
        None => (1, text),
    };
    let prefix = match base {
        16 => ["0x", "0X"],
        8 => ["0o", "0O"],
        2 => ["0b", "0B"],
        3..=36 => ["", ""],
        _ => return None,
    };
    let digits = prefix.iter().find_map(|prefix| digits.strip_prefix(prefix)).unwrap_or(digits);
    let is_number = digits.starts_with(|c: char| c.is_digit(base));
    let number = i64::from_str_radix(&digits.replace('_', ""), base).ok();
    number.filter(|_| is_number).map(|number| sign * number)
}

fn text(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    string(state, value)
}

/// Jinja's `replace(s, old, new, count)`.
fn replace(state: &State<'_, '_>, args: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let args = args.into_values();
    let (value, old, new, count, named): (&Value, &Value, &Value, Option<i64>, Kwargs) =
        from_args(&args)?;
    let count = count.or(named.get("count")?).and_then(|count| usize::try_from(count).ok());
    named.assert_all_used()?;
    let (value, old, new) = (text(state, value)?, text(state, old)?, text(state, new)?);
    let (value, old, new) = (text_of(&value), text_of(&old), text_of(&new));
    let count = count.unwrap_or(usize::MAX);
    // The result is built only if there is fuel for it.
    let found = value.matches(old).take(count).count();
    clock::burn(state, (value.len() + found.saturating_mul(new.len())) / 64)?;
    Ok(value.replacen(old, new, count))
}

/// Jinja's `indent(s, width, first, blank)`; the width may be a text.
fn indent(state: &State<'_, '_>, args: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let args = args.into_values();
    type Args<'a> = (&'a Value, Option<Value>, Option<bool>, Option<bool>, Kwargs);
    let (value, width, first, blank, named): Args<'_> = from_args(&args)?;
    let width = match width {
        Some(width) => Some(width),
        None => named.get::<Option<Value>>("width")?,
    };
    let first = first.or(named.get("first")?).unwrap_or(false);
    let blank = blank.or(named.get("blank")?).unwrap_or(false);
    named.assert_all_used()?;
    let value = text(state, value)?;
    let value = text_of(&value);
    let lines = value.matches('\n').count() + 1;
    let burn = |bytes: usize| clock::burn(state, lines.saturating_mul(bytes) / 64);
    let margin = match width.as_ref().map(|width| (width.as_str(), width)) {
        None => "    ".to_owned(),
        Some((Some(text), _)) => text.to_owned(),
        Some((None, width)) => {
            let width = i64::try_from(width.clone())?.max(0) as usize;
            burn(width)?;
            " ".repeat(width)
        }
    };
    burn(margin.len())?;
    let mut out = String::with_capacity(value.len());
    for (number, line) in value.split('\n').enumerate() {
        if number > 0 {
            out.push('\n');
        }
        if if number == 0 { first } else { blank || !line.is_empty() } {
            out.push_str(&margin);
        }
        out.push_str(line);
    }
    Ok(out)
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
