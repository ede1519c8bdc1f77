//! The part of a panic's message that is safe to log.

use std::any::Any;

/// Limit on the length of the text.
const MAX_CHARS: usize = 200;

/// Returns a panic's message for logs and errors. A literal message is returned whole. A formatted
/// message may quote data such as a prompt, so it is cut before the quotation.
pub fn panic_text(payload: &(dyn Any + Send)) -> String {
    if let Some(literal) = payload.downcast_ref::<&'static str>() {
        return (*literal).to_owned();
    }
    let Some(text) = payload.downcast_ref::<String>() else { return "unknown panic".to_owned() };
    // Such as "called `Result::unwrap()` on an `Err` value: ...".
    let text = text.strip_prefix("called `").unwrap_or(text);
    let safe = text.split(['"', '`', '\'']).next().unwrap_or_default();
    safe.trim_end().chars().take(MAX_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::panic::{UnwindSafe, catch_unwind};

    use super::*;

    fn text_of(run: impl FnOnce() + UnwindSafe) -> String {
        panic_text(&*catch_unwind(run).expect_err("it panics"))
    }

    #[test]
    #[expect(clippy::unnecessary_literal_unwrap, reason = "it shall panic")]
    fn a_panic_text_does_not_quote_its_input() {
        let prompt = || black_box(String::from("a secr\u{e9}t prompt"));
        let cut = text_of(move || drop(prompt()[..7].to_owned()));
        let value = text_of(move || Err::<(), String>(prompt()).expect("it"));
        let unwrapped = text_of(move || Err::<(), _>(prompt()).unwrap());
        let named = text_of(move || panic!("no model {:?}", prompt()));
        for text in [&cut, &value, &unwrapped, &named] {
            assert!(!text.contains("secr") && !text.contains("prompt"), "{text}");
        }
        assert!(cut.contains("char boundary"), "{cut}");
        assert_eq!((value.as_str(), unwrapped.as_str()), ("it:", "Result::unwrap()"));
        assert_eq!(named, "no model");
        assert_eq!(text_of(|| panic!("it is 'so'")), "it is 'so'");
        assert_eq!(text_of(|| panic!("{} of 3", black_box(5))), "5 of 3");
    }
}
