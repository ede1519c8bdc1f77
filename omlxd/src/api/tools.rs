//! `tools` and `tool_choice`.

use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::params::Reading;
use super::read::{Fields, Path, not_one_of, wrong};

/// The functions that a request offers to the model, in the shape that chat templates expect:
/// `{"type": "function", "function": {...}}`, keys in the client's order. E3, E4, E7, E14.
pub(super) fn read(fields: &Fields<'_, '_>, reading: &Reading) -> Result<Vec<Value>, ApiError> {
    let path = fields.path().field("tools");
    let mut tools: Vec<Value> = Vec::new();
    for (index, tool) in fields.array("tools")?.into_iter().flatten().enumerate() {
        let path = path.index(index);
        let tool = Fields::of(tool, &path)?;
        match tool.required_string("type")? {
            "function" => {
                let function = function(&tool, &path)?;
                if named(&tools, &function["function"]["name"]).is_some() {
                    let path = path.field("function");
                    let what = "another tool has the same name";
                    return Err(ApiError::invalid_value(path.field("name"), what));
                }
                tools.push(function);
            }
            "namespace" if !reading.strict => namespace(&tool, &path, &mut tools)?,
            // Hosted tools (web_search, ...) cannot run here: the model is not told of them.
            _ => reading.ignore(&path)?,
        }
    }
    choose(fields, tools)
}

fn function(tool: &Fields<'_, '_>, path: &Path<'_>) -> Result<Value, ApiError> {
    let value = tool.required("function")?;
    let path = path.field("function");
    let function = Fields::of(value, &path)?;
    if function.required_string("name")?.is_empty() {
        return Err(ApiError::invalid_value(path.field("name"), "a name must not be empty"));
    }
    function.string("description")?;
    function.object("parameters")?;
    function.boolean("strict")?;
    Ok(json!({"type": "function", "function": value}))
}

/// A namespace offers its functions under their own names, where those are free. Its functions are
/// written flat (`{"type": "function", "name": ...}`), as in the Responses API.
fn namespace(
    tool: &Fields<'_, '_>,
    path: &Path<'_>,
    tools: &mut Vec<Value>,
) -> Result<(), ApiError> {
    let path = path.field("tools");
    for (index, inner) in tool.array("tools")?.into_iter().flatten().enumerate() {
        let path = path.index(index);
        let inner = Fields::of(inner, &path)?;
        if inner.get("function").is_some() {
            let function = function(&inner, &path)?;
            if named(tools, &function["function"]["name"]).is_none() {
                tools.push(function);
            }
            continue;
        }
        let mut function = Map::new();
        function.insert("name".to_owned(), json!(inner.required_string("name")?));
        for name in ["description", "parameters", "strict"] {
            if let Some(value) = inner.get(name) {
                function.insert(name.to_owned(), value.clone());
            }
        }
        if named(tools, &function["name"]).is_none() {
            tools.push(json!({"type": "function", "function": function}));
        }
    }
    Ok(())
}

fn named<'t>(tools: &'t [Value], name: &Value) -> Option<&'t Value> {
    tools.iter().find(|tool| tool["function"]["name"] == *name)
}

/// Applies `tool_choice`: what may not be called is not shown to the model. Forcing a call needs
/// constrained decoding, which does not exist yet (E7).
fn choose(fields: &Fields<'_, '_>, tools: Vec<Value>) -> Result<Vec<Value>, ApiError> {
    let path = fields.path().field("tool_choice");
    let Some(choice) = fields.get("tool_choice") else { return Ok(tools) };
    let unforced = "forcing a tool call is not supported; supported values are: 'none', 'auto'";
    match choice {
        Value::String(word) => match word.as_str() {
            "none" => Ok(Vec::new()),
            "auto" if tools.is_empty() && fields.get("tools").is_none() => Err(without(&path)),
            "auto" => Ok(tools),
            "required" if tools.is_empty() => Err(without(&path)),
            "required" => Err(ApiError::unsupported_value(path, unforced)),
            other => Err(not_one_of(&path, other, &["none", "auto", "required"])),
        },
        Value::Object(_) => {
            let choice = Fields::of(choice, &path)?;
            match choice.required_string("type")? {
                "function" => {
                    let path = path.field("function");
                    let function = Fields::of(choice.required("function")?, &path)?;
                    let name = function.required("name")?;
                    function.string("name")?;
                    offered(&tools, name)?;
                    Err(ApiError::unsupported_value(Path::Root.field("tool_choice"), unforced))
                }
                "allowed_tools" => allowed(&choice, tools, unforced),
                other => {
                    Err(not_one_of(&path.field("type"), other, &["function", "allowed_tools"]))
                }
            }
        }
        other => Err(wrong(&path, "a string or an object", other)),
    }
}

fn allowed(
    choice: &Fields<'_, '_>,
    tools: Vec<Value>,
    unforced: &str,
) -> Result<Vec<Value>, ApiError> {
    let path = choice.path().field("allowed_tools");
    let allowed = Fields::of(choice.required("allowed_tools")?, &path)?;
    allowed.required("tools")?;
    let list = allowed.array("tools")?.expect("present");
    let mut names = Vec::new();
    let path_tools = path.field("tools");
    for (index, tool) in list.iter().enumerate() {
        let path = path_tools.index(index);
        let tool = Fields::of(tool, &path)?;
        let path = path.field("function");
        let function = Fields::of(tool.required("function")?, &path)?;
        let name = function.required("name")?;
        offered(&tools, name)?;
        names.push(name);
    }
    if allowed.choice("mode", &["auto", "required"])? == Some("required") {
        return Err(ApiError::unsupported_value(choice.path(), unforced));
    }
    Ok(tools.into_iter().filter(|tool| names.contains(&&tool["function"]["name"])).collect())
}

fn offered(tools: &[Value], name: &Value) -> Result<(), ApiError> {
    match named(tools, name) {
        Some(_) => Ok(()),
        None => {
            let what = format_args!("{name} is not the name of a tool in 'tools'");
            Err(ApiError::invalid_value("tool_choice", what))
        }
    }
}

fn without(path: &Path<'_>) -> ApiError {
    ApiError::invalid_value(path, "only allowed when 'tools' are given")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered_names(body: &Value) -> Result<Vec<String>, ApiError> {
        let path = Path::Root;
        let tools = read(&Fields::of(body, &path).unwrap(), &Reading::new(false, 8, 4))?;
        Ok(tools.iter().map(|tool| tool["function"]["name"].as_str().unwrap().to_owned()).collect())
    }

    #[test]
    fn tools_that_do_not_run_here_are_left_out() {
        let body = json!({"tools": [
            {"type": "function", "function": {"name": "a"}, "cache_control": {}},
            {"type": "web_search"},
            {"type": "namespace", "name": "ns", "tools": [
                {"type": "function", "name": "a"}, {"type": "function", "name": "b"}]}]});
        assert_eq!(offered_names(&body).unwrap(), ["a", "b"]);
    }

    #[test]
    fn tool_choice_decides_what_is_offered() {
        let tools = json!([{"type": "function", "function": {"name": "a"}},
                           {"type": "function", "function": {"name": "b"}}]);
        let with = |choice: Value| offered_names(&json!({"tools": tools, "tool_choice": choice}));
        let named = |name: &str| json!({"type": "function", "function": {"name": name}});
        assert_eq!(with(json!("auto")).unwrap(), ["a", "b"]);
        assert!(with(json!("none")).unwrap().is_empty());
        let only_b = json!({"type": "allowed_tools",
                            "allowed_tools": {"mode": "auto", "tools": [named("b")]}});
        assert_eq!(with(only_b).unwrap(), ["b"]);
        for (choice, code) in [
            (json!("required"), "unsupported_value"),
            (named("a"), "unsupported_value"),
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
        let error = offered_names(&twice).unwrap_err();
        assert_eq!(error.param(), Some("tools[1].function.name"));
        let error = offered_names(&json!({"tool_choice": "required"})).unwrap_err();
        assert_eq!(error.label(), "invalid_value");
    }
}
