//! `tools` and `tool_choice`: what a model may call, and what it must.

use std::collections::HashSet;

use engine::{Call, Expected, Grammar, GrammarError, Model, Pattern};
use serde_json::{Map, Value, json};

use super::constrain::Constraint;
use super::read::{Fields, Path, not_one_of, wrong};
use super::reading::Reading;
use crate::error::ApiError;
use crate::limits::TOOLS;

/// What a request says about calling functions.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tools {
    /// The functions that the model is shown, in the shape that chat templates expect:
    /// `{"type": "function", "function": {...}}`, keys in the client's order.
    pub offered: Vec<Value>,
    /// Whether one answer may call several.
    pub parallel: bool,
    /// Where each of them stands in the request.
    pub places: Vec<String>,
    /// The field of a tool that holds the schema of its arguments.
    schema_field: &'static str,
    /// Names of all functions in the request.
    known: HashSet<String>,
    /// Names of those of which at least one must be called.
    forced: Option<HashSet<String>>,
    /// The one function that is forced was named: it is called once.
    once: bool,
}

/// `tool_choice` of any API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ToolChoice {
    /// The model decides.
    Auto,
    /// No tool is offered.
    None,
    /// At least one is called.
    Required,
    /// This one is called, once.
    Function(String),
    /// Only these are offered, and one of them is called if it says so.
    Allowed { names: Vec<String>, is_required: bool },
}

impl Tools {
    /// No tools yet. `schema_field`: the field of a tool that holds the schema of its arguments.
    pub(super) fn new(parallel: bool, schema_field: &'static str) -> Self {
        Tools {
            offered: Vec::new(),
            parallel,
            places: Vec::new(),
            schema_field,
            known: HashSet::new(),
            forced: None,
            once: false,
        }
    }

    /// Reads `tools`, `tool_choice` and `parallel_tool_calls`. E3, E4, E5, E14.
    pub(super) fn read(fields: &Fields<'_, '_>, reading: &Reading) -> Result<Self, ApiError> {
        let parallel = fields.boolean("parallel_tool_calls")?.unwrap_or(true);
        let mut tools = Self::new(parallel, "parameters");
        let path = fields.path().field("tools");
        let list = fields.array("tools")?.map_or(&[][..], Vec::as_slice);
        reading.check_count(&path, list.len(), TOOLS)?;
        for (index, tool) in list.iter().enumerate() {
            let path = path.index(index);
            let tool = Fields::of(tool, &path)?;
            match tool.required_string("type")? {
                "function" => {
                    reading.known(&tool, &["type", "function", "cache_control"])?;
                    let function = function(&tool, &path, reading)?;
                    let path = path.field("function");
                    if !tools.offer(function, &path) {
                        let what = "another tool has the same name";
                        return Err(ApiError::invalid_value(path.field("name"), what));
                    }
                }
                "namespace" if !reading.strict => {
                    tools.namespace(&tool, &path, reading)?;
                }
                // Hosted tools (web_search, ...) cannot run here: the model is not told of them.
                _ => reading.ignore(&path)?,
            }
        }
        if let Some(choice) = choice(fields, reading)? {
            let path = fields.path().field("tool_choice");
            // A choice that leaves all to the model is refused only where the field 'tools' is missing.
            if choice == ToolChoice::Auto && fields.get("tools").is_none() {
                return Err(without(&path));
            }
            tools.choose(&choice, &path)?;
        }
        Ok(tools)
    }

    /// The grammar of an answer to `prompt`, whose text is held to `constraint`. `None`: whatever the
    /// model likes. Slow: not for an async thread. E7, E13.
    pub(super) fn grammar(
        &self,
        model: &Model,
        prompt: &str,
        constraint: Option<&Constraint>,
    ) -> Result<Option<Grammar>, ApiError> {
        let mut calls: Vec<Callable> = self.callable();
        let Some(pattern) = self.pattern(model, prompt, constraint, &calls)? else {
            return Ok(None);
        };
        match model.compile(&pattern) {
            Ok(grammar) => return Ok(Some(grammar)),
            Err(error) => self.blame(model, constraint, &mut calls, &error)?,
        }
        // Only what nobody asked to be exact could not be compiled.
        let pattern = self.pattern(model, prompt, constraint, &calls)?;
        let grammar = pattern.map(|pattern| model.compile(&pattern)).transpose();
        grammar.map_err(|error| ApiError::invalid_grammar("tools", "schemas in 'tools'", &error))
    }

    /// The functions that may be called here.
    fn callable(&self) -> Vec<Callable> {
        let tools = self.offered.iter().zip(&self.places);
        let callable = tools.filter_map(|(tool, place)| {
            let function = &tool["function"];
            let name = function["name"].as_str()?.to_owned();
            if self.forced.as_ref().is_some_and(|forced| !forced.contains(&name)) {
                return None;
            }
            let is_strict = function["strict"] == true;
            let arguments = arguments(&function["parameters"], is_strict);
            Some(Callable { call: Call { name, arguments }, is_strict, place: place.clone() })
        });
        callable.collect()
    }

    fn pattern(
        &self,
        model: &Model,
        prompt: &str,
        constraint: Option<&Constraint>,
        calls: &[Callable],
    ) -> Result<Option<Pattern>, ApiError> {
        let functions: Vec<Call> = calls.iter().map(|callable| callable.call.clone()).collect();
        let text = constraint.map(|constraint| constraint.pattern.clone());
        let is_strict = calls.iter().any(|callable| callable.is_strict);
        let expected = match (&self.forced, text) {
            (Some(_), _) => Expected::Calls(functions),
            (None, Some(text)) if functions.is_empty() => Expected::Text(text),
            (None, Some(text)) => Expected::Either(text, functions),
            (None, None) if is_strict => Expected::Free(functions),
            (None, None) => return Ok(None),
        };
        let parallel = self.parallel && !self.once;
        let pattern = model.output_format().pattern(prompt, &expected, parallel);
        if pattern.is_none() && self.forced.is_some() {
            let what = "the calls of this model cannot be forced; supported values are: 'none', \
                        'auto'";
            return Err(ApiError::unsupported_value("tool_choice", what));
        }
        Ok(pattern)
    }

    /// Finds what could not be compiled. Arguments that need not be exact become any object.
    fn blame(
        &self,
        model: &Model,
        constraint: Option<&Constraint>,
        calls: &mut [Callable],
        error: &GrammarError,
    ) -> Result<(), ApiError> {
        if let Some(constraint) = constraint.filter(|_| self.forced.is_none()) {
            model.compile(&constraint.pattern).map_err(|error| constraint.refused(&error))?;
        }
        let mut found = false;
        for Callable { call, is_strict, place } in calls {
            let Err(error) = model.compile(&call.arguments) else { continue };
            if *is_strict {
                let subject = format!("schema for function '{}'", call.name);
                let param = format!("{place}.{}", self.schema_field);
                return Err(ApiError::invalid_grammar(&param, &subject, &error));
            }
            call.arguments = Pattern::json_object();
            found = true;
        }
        if found {
            Ok(())
        } else {
            // Each alone is fine: together they are too much.
            Err(ApiError::invalid_grammar("tools", "schemas in 'tools'", error))
        }
    }

    /// Offers a function, unless one of its name is offered already.
    fn offer(&mut self, function: Value, path: &Path<'_>) -> bool {
        let name = function["function"]["name"].as_str().unwrap_or_default();
        let is_new = self.known.insert(name.to_owned());
        if is_new {
            self.offered.push(function);
            self.places.push(path.to_string());
        }
        is_new
    }

    /// Offers a function whose fields are those of the tool itself. `known`: the names of those that
    /// are understood. E3, E4, E6.
    pub(super) fn offer_flat(
        &mut self,
        tool: &Fields<'_, '_>,
        known: &[&str],
        reading: &Reading,
    ) -> Result<(), ApiError> {
        let path = tool.path();
        if tool.required_string("name")?.is_empty() {
            return Err(ApiError::invalid_value(path.field("name"), "a name must not be empty"));
        }
        tool.string("description")?;
        tool.object(self.schema_field)?;
        tool.boolean("strict")?;
        reading.known(tool, known)?;
        let mut function = Map::new();
        for (name, value) in tool.entries() {
            let name = match name {
                "name" | "description" | "strict" => name,
                name if name == self.schema_field => "parameters",
                _ => continue,
            };
            function.insert(name.to_owned(), value.clone());
        }
        if self.offer(json!({"type": "function", "function": function}), path) {
            return Ok(());
        }
        let what = "another tool has the same name";
        Err(ApiError::invalid_value(path.field("name"), what))
    }

    /// A namespace offers its functions under their own names, where those are free. Its functions
    /// are written flat (`{"type": "function", "name": ...}`), as in the Responses API.
    pub(super) fn namespace(
        &mut self,
        tool: &Fields<'_, '_>,
        path: &Path<'_>,
        reading: &Reading,
    ) -> Result<(), ApiError> {
        let path = path.field("tools");
        let list = tool.array("tools")?.map_or(&[][..], Vec::as_slice);
        reading.check_count(&path, self.offered.len() + list.len(), TOOLS)?;
        for (index, inner) in list.iter().enumerate() {
            let path = path.index(index);
            let inner = Fields::of(inner, &path)?;
            if inner.get("function").is_some() {
                let function = function(&inner, &path, reading)?;
                self.offer(function, &path.field("function"));
                continue;
            }
            let mut function = Map::new();
            function.insert("name".to_owned(), json!(inner.required_string("name")?));
            for name in ["description", "parameters", "strict"] {
                if let Some(value) = inner.get(name) {
                    function.insert(name.to_owned(), value.clone());
                }
            }
            self.offer(json!({"type": "function", "function": function}), &path);
        }
        Ok(())
    }

    /// Applies a choice, which stands at `path`. What may not be called at all is not shown to the
    /// model; where one is forced the others are shown all the same, so that the prompt stays as it was.
    pub(super) fn choose(&mut self, choice: &ToolChoice, path: &Path<'_>) -> Result<(), ApiError> {
        match choice {
            ToolChoice::Auto => {}
            ToolChoice::None => self.retain(|_| false),
            ToolChoice::Required => self.require(path)?,
            ToolChoice::Function(name) => {
                self.check_offered(name)?;
                self.forced = Some(HashSet::from([name.clone()]));
                self.once = true;
            }
            ToolChoice::Allowed { names, is_required } => {
                names.iter().try_for_each(|name| self.check_offered(name))?;
                self.retain(|tool| {
                    let name = tool["function"]["name"].as_str();
                    name.is_some_and(|name| names.iter().any(|allowed| allowed == name))
                });
                if *is_required {
                    self.require(path)?;
                }
            }
        }
        Ok(())
    }

    /// At least one of those that are offered is called.
    fn require(&mut self, path: &Path<'_>) -> Result<(), ApiError> {
        if self.offered.is_empty() {
            return Err(without(path));
        }
        self.forced = Some(self.names());
        Ok(())
    }

    fn names(&self) -> HashSet<String> {
        let names = self.offered.iter().filter_map(|tool| tool["function"]["name"].as_str());
        names.map(str::to_owned).collect()
    }

    fn retain(&mut self, keep: impl Fn(&Value) -> bool) {
        let kept: Vec<bool> = self.offered.iter().map(keep).collect();
        let mut kept_tools = kept.iter();
        self.offered.retain(|_| kept_tools.next() == Some(&true));
        let mut kept_places = kept.iter();
        self.places.retain(|_| kept_places.next() == Some(&true));
    }

    fn check_offered(&self, name: &str) -> Result<(), ApiError> {
        if self.known.contains(name) {
            return Ok(());
        }
        let what = format_args!("{} is not the name of a tool in 'tools'", json!(name));
        Err(ApiError::invalid_value("tool_choice", what))
    }
}

/// `tool_choice` of a chat request.
fn choice(fields: &Fields<'_, '_>, reading: &Reading) -> Result<Option<ToolChoice>, ApiError> {
    let path = fields.path().field("tool_choice");
    let choice = match fields.get("tool_choice") {
        None => return Ok(None),
        Some(Value::String(word)) => return ToolChoice::of_word(word, &path).map(Some),
        Some(object @ Value::Object(_)) => Fields::of(object, &path)?,
        Some(other) => return Err(wrong(&path, "a string or an object", other)),
    };
    let kind = choice.required_string("type")?;
    reading.known(&choice, &["type", kind])?;
    match kind {
        "function" => {
            let path = path.field("function");
            let function = Fields::of(choice.required("function")?, &path)?;
            let name = function.required_string("name")?;
            reading.known(&function, &["name"])?;
            Ok(Some(ToolChoice::Function(name.to_owned())))
        }
        "allowed_tools" => {
            let path = path.field("allowed_tools");
            let allowed = Fields::of(choice.required("allowed_tools")?, &path)?;
            reading.known(&allowed, &["tools", "mode"])?;
            let name = |tool: &Fields<'_, '_>| {
                let path = tool.path().field("function");
                let function = Fields::of(tool.required("function")?, &path)?;
                function.required_string("name").map(str::to_owned)
            };
            ToolChoice::allowed(&allowed, name).map(Some)
        }
        other => Err(not_one_of(&path.field("type"), other, &ToolChoice::TYPES)),
    }
}

impl ToolChoice {
    /// The types of a choice that is an object.
    pub(super) const TYPES: [&str; 2] = ["function", "allowed_tools"];

    /// A choice that is a word. E5.
    pub(super) fn of_word(word: &str, path: &Path<'_>) -> Result<Self, ApiError> {
        match word {
            "none" => Ok(ToolChoice::None),
            "auto" => Ok(ToolChoice::Auto),
            "required" => Ok(ToolChoice::Required),
            other => Err(not_one_of(path, other, &["none", "auto", "required"])),
        }
    }

    /// A list of allowed tools: `{"mode": ..., "tools": [...]}`. `name` reads the name of one.
    pub(super) fn allowed(
        allowed: &Fields<'_, '_>,
        name: impl Fn(&Fields<'_, '_>) -> Result<String, ApiError>,
    ) -> Result<Self, ApiError> {
        allowed.required("tools")?;
        let path = allowed.path().field("tools");
        let mut names = Vec::new();
        for (index, tool) in allowed.array("tools")?.into_iter().flatten().enumerate() {
            let path = path.index(index);
            names.push(name(&Fields::of(tool, &path)?)?);
        }
        let mode = allowed.choice("mode", &["auto", "required"])?;
        Ok(ToolChoice::Allowed { names, is_required: mode == Some("required") })
    }
}

/// A function that an answer may call.
struct Callable {
    call: Call,
    /// Its arguments must validate, whatever the schema says.
    is_strict: bool,
    /// Where it stands in the request.
    place: String,
}

/// What the arguments of a call must look like: an object always.
fn arguments(parameters: &Value, exactly: bool) -> Pattern {
    let Value::Object(fields) = parameters else { return Pattern::json_object() };
    let mut fields = fields.clone();
    fields.entry("type").or_insert_with(|| json!("object"));
    Pattern::Json { schema: Value::Object(fields), exactly }
}

/// What a template may show of a function is handed to it whole; only strict mode refuses what the API does
/// not know.
fn function(tool: &Fields<'_, '_>, path: &Path<'_>, reading: &Reading) -> Result<Value, ApiError> {
    let value = tool.required("function")?;
    let path = path.field("function");
    let function = Fields::of(value, &path)?;
    if function.required_string("name")?.is_empty() {
        return Err(ApiError::invalid_value(path.field("name"), "a name must not be empty"));
    }
    function.string("description")?;
    function.object("parameters")?;
    function.boolean("strict")?;
    if reading.strict {
        reading.known(&function, &["name", "description", "parameters", "strict"])?;
    }
    Ok(json!({"type": "function", "function": value}))
}

fn without(path: &Path<'_>) -> ApiError {
    ApiError::invalid_value(path, "only allowed when 'tools' are given")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(tools: &Tools) -> Vec<&str> {
        tools.offered.iter().map(|tool| tool["function"]["name"].as_str().unwrap()).collect()
    }

    fn read(body: &Value) -> Result<Tools, ApiError> {
        let path = Path::Root;
        Tools::read(&Fields::of(body, &path).unwrap(), &Reading::new(false, 8, 4))
    }

    #[test]
    fn tools_that_do_not_run_here_are_left_out() {
        let body = json!({"tools": [
            {"type": "function", "function": {"name": "a"}, "cache_control": {}},
            {"type": "web_search"},
            {"type": "namespace", "name": "ns", "tools": [
                {"type": "function", "name": "a"}, {"type": "function", "name": "b"}]}]});
        let tools = read(&body).unwrap();
        assert_eq!(names(&tools), ["a", "b"]);
        assert_eq!(tools.places, ["tools[0].function", "tools[2].tools[1]"]);
    }

    #[test]
    fn tool_choice_decides_what_is_offered_and_what_is_forced() {
        let tools = json!([{"type": "function", "function": {"name": "a"}},
                           {"type": "function", "function": {"name": "b"}}]);
        let with = |choice: Value| read(&json!({"tools": tools, "tool_choice": choice}));
        let named = |name: &str| json!({"type": "function", "function": {"name": name}});
        let only_b = |mode: &str| {
            json!({"type": "allowed_tools",
                   "allowed_tools": {"mode": mode, "tools": [named("b")]}})
        };
        for (choice, offered, forced) in [
            (json!("auto"), vec!["a", "b"], None),
            (json!("none"), vec![], None),
            (json!("required"), vec!["a", "b"], Some(vec!["a", "b"])),
            (named("a"), vec!["a", "b"], Some(vec!["a"])),
            (only_b("auto"), vec!["b"], None),
            (only_b("required"), vec!["b"], Some(vec!["b"])),
        ] {
            let tools = with(choice.clone()).unwrap();
            assert_eq!(names(&tools), offered, "{choice}");
            let forced = forced.map(|names| names.into_iter().map(str::to_owned).collect());
            assert_eq!(tools.forced, forced, "{choice}");
            // A function that was named is called once.
            assert_eq!(tools.once, choice == named("a"), "{choice}");
            assert_eq!(tools.offered.len(), tools.places.len());
        }
        for (choice, code) in [
            (named("c"), "invalid_value"),
            (json!("sometimes"), "invalid_value"),
            (json!(3), "invalid_type"),
        ] {
            let error = with(choice).unwrap_err();
            assert_eq!((error.label(), error.param()), (code, Some("tool_choice")));
        }
    }

    #[test]
    fn names_must_differ_and_a_choice_needs_tools() {
        let twice = json!({"tools": [{"type": "function", "function": {"name": "a"}},
                                     {"type": "function", "function": {"name": "a"}}]});
        let error = read(&twice).unwrap_err();
        assert_eq!(error.param(), Some("tools[1].function.name"));
        let error = read(&json!({"tool_choice": "required"})).unwrap_err();
        assert_eq!(error.label(), "invalid_value");
    }

    #[test]
    fn arguments_are_an_object_whatever_the_schema_leaves_open() {
        let object = json!({"type": "object"});
        for parameters in [json!(null), json!({}), json!(true)] {
            let pattern = arguments(&parameters, false);
            let Pattern::Json { schema, .. } = pattern else { panic!("{pattern:?}") };
            assert_eq!(schema, object);
        }
    }
}
