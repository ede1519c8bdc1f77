//! Regular expressions for formats, and replacements for look-around patterns of common libraries.

/// Years from 0001.
const YEAR: &str = "(?:[0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)";
/// Leap years.
const LEAP_YEAR: &str =
    "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)";
const TIME: &str = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])";
const BYTE: &str = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
/// Characters in the path of a URI.
const PCHAR: &str = "(?:[a-zA-Z0-9._~!$&'()*+,;=:@-]|%[0-9a-fA-F]{2})";

/// Text in base64.
pub(super) const BASE64: &str =
    "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$";

/// The values of `format` that are enforced. All others are ignored.
pub const FORMATS: [&str; 19] = [
    "date-time",
    "date",
    "time",
    "duration",
    "email",
    "idn-email",
    "hostname",
    "idn-hostname",
    "ipv4",
    "ipv6",
    "uuid",
    "uuid1",
    "uuid3",
    "uuid4",
    "uuid5",
    "uuid7",
    "uri",
    "iri",
    "json-pointer",
];

/// A regular expression for a complete text of this format. It matches no more than the standard
/// allows, and in disputed cases only what all readers accept. With `is_alone` names are limited to
/// the length of host names; counting is too expensive next to another pattern.
pub(super) fn regex(format: &str, is_alone: bool) -> Option<String> {
    // Two hyphens in a row have a special meaning, so they are excluded.
    let label = if is_alone {
        "[a-zA-Z0-9](?:-?[a-zA-Z0-9]){0,30}"
    } else {
        "[a-zA-Z0-9]+(?:-[a-zA-Z0-9]+)*"
    };
    let counted = |few: &'static str, any: &'static str| if is_alone { few } else { any };
    let date = || {
        let long = "(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])";
        let short = "(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)";
        let february = "02-(?:0[1-9]|1[0-9]|2[0-8])";
        format!("(?:{YEAR}-(?:{long}|{short}|{february})|{LEAP_YEAR}-02-29)")
    };
    let uuid = |version: &str| {
        let hex = "[0-9a-fA-F]";
        format!("{hex}{{8}}-{hex}{{4}}-{version}{hex}{{3}}-[89abAB]{hex}{{3}}-{hex}{{12}}")
    };
    Some(match format {
        "date-time" => format!("{}T{TIME}", date()),
        "date" => date(),
        "time" => TIME.to_owned(),
        "duration" => duration(counted("[0-9]{1,9}", "[0-9]+")),
        "email" | "idn-email" => {
            let word = format!("[a-zA-Z0-9!#$%&'*+/=?^_`{{|}}~-]{}", counted("{1,20}", "+"));
            let (words, labels) = (counted("{0,2}", "*"), counted("{1,3}", "+"));
            let top = counted("{2,24}", "{2,}");
            format!(r"{word}(?:\.{word}){words}@(?:{label}\.){labels}[a-zA-Z]{top}")
        }
        "hostname" | "idn-hostname" => format!(r"{label}(?:\.{label}){}", counted("{0,4}", "*")),
        "ipv4" => format!(r"(?:{BYTE}\.){{3}}{BYTE}"),
        "ipv6" => ipv6(),
        "uuid" => {
            let hex = "[0-9a-fA-F]";
            format!("{hex}{{8}}-(?:{hex}{{4}}-){{3}}{hex}{{12}}")
        }
        "uuid1" => uuid("1"),
        "uuid3" => uuid("3"),
        "uuid4" => uuid("4"),
        "uuid5" => uuid("5"),
        "uuid7" => uuid("7"),
        "uri" | "iri" => {
            let labels = counted("{0,4}", "*");
            let host =
                format!(r"{label}(?:\.{label}){labels}(?::[1-9][0-9]{{0,3}})?(?:/{PCHAR}*)*");
            let tail = format!(r"(?:\?(?:{PCHAR}|[/?])*)?(?:#(?:{PCHAR}|[/?])*)?");
            format!("[a-zA-Z][a-zA-Z0-9+.-]{{1,11}}:(?://{host}|{PCHAR}(?:{PCHAR}|/)*){tail}")
        }
        "json-pointer" => r"(?:/(?:[^~/]|~[01])*)*".to_owned(),
        _ => return None,
    })
}

fn duration(number: &str) -> String {
    let parts = |[first, second, third]: [&str; 3]| {
        let third = format!("{number}{third}");
        format!(
            "(?:{number}{first}(?:{number}{second}(?:{third})?)?|{number}{second}(?:{third})?|{third})"
        )
    };
    let date = parts(["Y", "M", "D"]);
    let time = parts(["H", "M", "S"]);
    format!("P(?:{number}W|{date}(?:T{time})?|T{time})")
}

fn ipv6() -> String {
    let hex = "[0-9a-fA-F]{1,4}";
    let mut forms = vec![format!("(?:{hex}:){{7}}{hex}")];
    // The gap stands for at least two groups.
    for before in 0..=6 {
        let head = match before {
            0 => String::new(),
            1 => hex.to_owned(),
            n => format!("{hex}(?::{hex}){{{}}}", n - 1),
        };
        let most = 5usize.saturating_sub(before);
        let tail = match 6 - before {
            0 => String::new(),
            _ => format!("(?:{hex}(?::{hex}){{0,{most}}})?"),
        };
        forms.push(format!("{head}::{tail}"));
    }
    format!("(?:{})", forms.join("|"))
}

/// Look-around patterns that libraries write into their schemas, and equivalents without
/// look-around.
pub(super) fn published(pattern: &str) -> Option<String> {
    const EMAIL: &str = r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$";
    const DURATION: &str = r"^P(?:(\d+W)|(?!.*W)(?=\d|T\d)(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+([.,]\d+)?S)?)?)$";
    match pattern {
        EMAIL => Some(
            r"^(?:[A-Za-z0-9_'+-]+\.)*[A-Za-z0-9_'+-]*[A-Za-z0-9_+-]@(?:[A-Za-z0-9][A-Za-z0-9-]*\.)+[A-Za-z]{2,}$"
                .to_owned(),
        ),
        DURATION => {
            // Any part may be omitted, but not all parts of a side.
            let date = "(?:[0-9]+Y(?:[0-9]+M)?(?:[0-9]+D)?|[0-9]+M(?:[0-9]+D)?|[0-9]+D)";
            let second = "[0-9]+(?:[.,][0-9]+)?S";
            let time = format!(
                "T(?:[0-9]+H(?:[0-9]+M)?(?:{second})?|[0-9]+M(?:{second})?|{second})"
            );
            Some(format!("^P(?:[0-9]+W|{date}(?:{time})?|{time})$"))
        }
        _ => None,
    }
}
