//! What a chat template takes, learned by rendering small conversations with it: clients send any
//! history, and many templates raise an exception at it or leave a part of it out.

/// The words for how much to think, from nothing to the most.
pub const EFFORTS: [&str; 7] = ["none", "minimal", "low", "medium", "high", "xhigh", "max"];
/// What a template gets that writes any word into the prompt: a word that the model never saw would
/// tell it nothing.
pub(super) const USUAL_EFFORTS: [&str; 3] = ["low", "medium", "high"];

/// What the arguments of a call may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakenArguments {
    /// A JSON object only.
    Object,
    /// An object; a text is taken too, and written as a JSON string.
    ObjectOrQuoted,
    /// An object, or a text that is written as it is.
    ObjectOrText,
    /// A text only.
    Text,
}

/// What a chat template takes. A part that is not taken raises an exception, or falls out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Takes {
    /// A system message at the beginning.
    pub system: bool,
    /// A system message further on.
    pub later_system: bool,
    /// The role `developer`.
    pub developer: bool,
    /// Two messages of the user in a row.
    pub users_in_a_row: bool,
    /// Two messages of the assistant in a row, none with calls.
    pub assistants_in_a_row: bool,
    /// A conversation that the assistant begins.
    pub assistant_first: bool,
    /// A message of the user right after calls that have no result.
    pub user_after_call: bool,
    /// A message of the user right after the result of a call.
    pub user_after_result: bool,
    /// Calls of tools.
    pub calls: bool,
    /// Several calls in one message.
    pub many_calls: bool,
    /// Text in a message with calls.
    pub text_beside_calls: bool,
    /// Thoughts in a message with calls and text.
    pub thoughts_beside_both: bool,
    /// The results of calls, as messages of the role `tool`.
    pub results: bool,
    /// Definitions of tools: they are shown to the model.
    pub tools: bool,
    /// What the arguments of a call may be.
    pub arguments: TakenArguments,
    /// The shortest text that a message of the assistant may have.
    pub blank: &'static str,
    /// Those of [`EFFORTS`] that may be handed over as `reasoning_effort`; none where the template does
    /// not know that variable.
    pub efforts: Vec<&'static str>,
}

impl Takes {
    /// Everything. That is assumed of a template that does not even render questions and answers.
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

    /// The same but for what a template may refuse all the same, for conversations that it did refuse:
    /// first only its order of roles, then system messages, at last everything but questions and answers
    /// in turn.
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

    /// What to hand over as `reasoning_effort` for one of [`EFFORTS`]: the nearest word that the template
    /// takes, the higher one of two that are as near. Only who asks for no thoughts gets `none`.
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
