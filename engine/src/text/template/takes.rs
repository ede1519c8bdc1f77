//! The features that a chat template supports, found by rendering small conversations. Clients send
//! any history, and many templates raise an exception for parts of it, or omit them.

/// The levels of reasoning effort, in ascending order.
pub const EFFORTS: [&str; 7] = ["none", "minimal", "low", "medium", "high", "xhigh", "max"];
/// The levels passed to a template that copies any word into the prompt: other words are unknown to
/// the model.
pub(super) const USUAL_EFFORTS: [&str; 3] = ["low", "medium", "high"];

/// The supported form of a call's arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakenArguments {
    /// A JSON object only.
    Object,
    /// An object. A text is accepted too, and written as a JSON string.
    ObjectOrQuoted,
    /// An object, or a text that is written unchanged.
    ObjectOrText,
    /// A text only.
    Text,
}

/// The features that a chat template supports. An unsupported part raises an exception or is
/// omitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Takes {
    /// A system message at the beginning.
    pub system: bool,
    /// A system message at a later position.
    pub later_system: bool,
    /// The role `developer`.
    pub developer: bool,
    /// Two messages of the user in a row.
    pub users_in_a_row: bool,
    /// Two messages of the assistant in a row, without calls.
    pub assistants_in_a_row: bool,
    /// A conversation that begins with the assistant.
    pub assistant_first: bool,
    /// A message of the user right after calls without results.
    pub user_after_call: bool,
    /// A message of the user right after the result of a call.
    pub user_after_result: bool,
    /// Calls of tools.
    pub calls: bool,
    /// Several calls in one message.
    pub many_calls: bool,
    /// Text in a message with calls.
    pub text_beside_calls: bool,
    /// Reasoning in a message with calls and text.
    pub thoughts_beside_both: bool,
    /// The results of calls, as messages of the role `tool`.
    pub results: bool,
    /// Tool definitions, which are shown to the model.
    pub tools: bool,
    /// The supported form of a call's arguments.
    pub arguments: TakenArguments,
    /// The shortest supported text of an assistant's message.
    pub blank: &'static str,
    /// The entries of [`EFFORTS`] that may be passed as `reasoning_effort`; empty if the template
    /// does not use that variable.
    pub efforts: Vec<&'static str>,
}

impl Takes {
    /// All features. Assumed of a template that cannot even render questions and answers.
    pub fn anything() -> Self {
        Takes {
            system: true,
            later_system: true,
            developer: true,
            users_in_a_row: true,
            assistants_in_a_row: true,
            assistant_first: true,
            user_after_call: true,
            user_after_result: true,
            calls: true,
            many_calls: true,
            text_beside_calls: true,
            thoughts_beside_both: true,
            results: true,
            tools: true,
            arguments: TakenArguments::ObjectOrQuoted,
            blank: "",
            efforts: Vec::new(),
        }
    }

    /// Reduced sets for conversations that the template rejected although it supports these
    /// features: first without unusual orders of roles, then without system messages, finally with
    /// only questions and answers in turn.
    pub fn less(&self) -> [Self; 3] {
        let turns = Takes {
            later_system: false,
            users_in_a_row: false,
            assistants_in_a_row: false,
            assistant_first: false,
            user_after_call: false,
            user_after_result: false,
            ..self.clone()
        };
        let no_system = Takes { system: false, ..turns.clone() };
        let talk = Takes { calls: false, results: false, ..no_system.clone() };
        [turns, no_system, talk]
    }

    /// The `reasoning_effort` for one of [`EFFORTS`]: the nearest supported level, the higher of
    /// two that are equally near. Only a request for `none` gets `none`.
    pub fn effort(&self, wanted: &str) -> Option<&'static str> {
        let place = |word: &str| EFFORTS.iter().position(|known| *known == word);
        let wanted_place = place(wanted)?;
        let candidates = self.efforts.iter().filter(|word| **word != "none" || wanted == "none");
        candidates
            .min_by_key(|word| {
                let place = place(word).unwrap_or_default();
                (place.abs_diff(wanted_place), std::cmp::Reverse(place))
            })
            .copied()
    }
}
