//! Which file of a package uses which other, read from the code itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A module's path within its package, such as `["text", "stop"]`; empty for lib.rs.
pub(crate) type Module = Vec<String>;

/// The modules of a package that have a file, and what each uses of the others.
#[derive(Debug)]
pub(crate) struct Imports {
    /// By module: those whose items it names, re-exports followed to where the item stands.
    pub(crate) uses: BTreeMap<Module, BTreeSet<Module>>,
}

/// A file's code, apart from its tests.
#[derive(Debug)]
struct Source {
    /// Paths that it names, each made absolute within the package.
    paths: Vec<Module>,
    /// Names that it hands on, with the paths that they stand for.
    exports: BTreeMap<String, Module>,
}

impl Imports {
    /// Reads every file under `src` but those of tests.
    pub(crate) fn read(src: &Path) -> Self {
        let mut files = Vec::new();
        list(src, &mut files);
        let modules: BTreeMap<Module, PathBuf> =
            files.into_iter().map(|file| (module_of(src, &file), file)).collect();
        let names: BTreeSet<Module> = modules.keys().cloned().collect();
        let sources: BTreeMap<Module, Source> = modules
            .into_iter()
            .map(|(module, file)| {
                let text = fs::read_to_string(&file).expect("readable");
                let tokens: TokenStream = text.parse().expect("Rust");
                let mut reader = Reader { module: &module, names: &names, found: Vec::new() };
                let mut exports = BTreeMap::new();
                reader.walk(tokens, &mut exports);
                (module.clone(), Source { paths: reader.found, exports })
            })
            .collect();
        let target = |path: &Module| {
            let mut path = path.clone();
            // A re-export may name another.
            for _ in 0..8 {
                let file =
                    (0..=path.len()).rev().map(|n| &path[..n]).find(|m| names.contains(*m))?;
                let Some(name) = path.get(file.len()) else { return Some(file.to_vec()) };
                match sources[file].exports.get(name) {
                    Some(real) if *real != path => path = real.clone(),
                    _ => return Some(file.to_vec()),
                }
            }
            None
        };
        let uses = sources.iter().map(|(module, source)| {
            let used = source.paths.iter().filter_map(target).filter(|used| used != module);
            (module.clone(), used.collect())
        });
        Self { uses: uses.collect() }
    }

    /// Every group of modules that use each other in a circle.
    pub(crate) fn circles(&self) -> Vec<BTreeSet<Module>> {
        let reach: BTreeMap<&Module, BTreeSet<&Module>> =
            self.uses.keys().map(|module| (module, self.reachable(module))).collect();
        let mut circles = BTreeSet::new();
        for (module, reached) in &reach {
            let circle = reached.iter().filter(|other| reach[**other].contains(module));
            let circle: BTreeSet<Module> = circle.map(|other| (*other).clone()).collect();
            if !circle.is_empty() {
                circles.insert(circle);
            }
        }
        circles.into_iter().collect()
    }

    fn reachable<'a>(&'a self, from: &Module) -> BTreeSet<&'a Module> {
        let mut reached = BTreeSet::new();
        let mut open: Vec<&Module> = self.uses[from].iter().collect();
        while let Some(module) = open.pop() {
            if reached.insert(module) {
                open.extend(&self.uses[module]);
            }
        }
        reached
    }
}

fn list(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("readable").map(|entry| entry.expect("entry").path()) {
        let name = entry.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if name == "tests" || name.ends_with("_tests") || name == "for_tests" {
            continue;
        }
        if entry.is_dir() {
            list(&entry, into);
        } else if entry.extension().is_some_and(|extension| extension == "rs") && name != "main" {
            into.push(entry);
        }
    }
}

fn module_of(src: &Path, file: &Path) -> Module {
    let relative = file.strip_prefix(src).expect("inside").with_extension("");
    let mut parts: Module =
        relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod") || parts == ["lib"] {
        parts.pop();
    }
    parts
}

struct Reader<'a> {
    module: &'a Module,
    names: &'a BTreeSet<Module>,
    found: Vec<Module>,
}

impl Reader<'_> {
    /// Collects the paths of all items but tests. What `pub use` hands on goes to `exports`; it counts
    /// as used only where something else names it.
    fn walk(&mut self, tokens: TokenStream, exports: &mut BTreeMap<String, Module>) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            if is_test_attribute(&tokens[at..]) {
                at = end_of_item(&tokens, at + 2);
            } else if is_word(&tokens[at], "use") {
                let end = end_of_item(&tokens, at + 1);
                let is_public = tokens[..at].iter().rev().take(2).any(|t| is_word(t, "pub"));
                let mut trees = Vec::new();
                use_tree(&tokens[at + 1..end - 1], &[], &mut trees);
                for (path, name) in trees {
                    let Some(path) = self.absolute(&path) else { continue };
                    if is_public {
                        exports.insert(name, path);
                    } else {
                        self.found.push(path);
                    }
                }
                at = end;
            } else if let TokenTree::Group(group) = &tokens[at] {
                self.walk(group.stream(), exports);
                at += 1;
            } else {
                let (path, next) = plain_path(&tokens, at);
                if path.len() > 1 {
                    self.found.extend(self.absolute(&path));
                }
                at = next;
            }
        }
    }

    /// A path from the package's root; `None` for one that leads out of it.
    fn absolute(&self, path: &[String]) -> Option<Module> {
        let (first, rest) = path.split_first()?;
        let mut base = match first.as_str() {
            "crate" => Vec::new(),
            "self" => self.module.clone(),
            "super" => {
                let ups = path.iter().take_while(|part| *part == "super").count();
                let base = self.module[..self.module.len().checked_sub(ups)?].to_vec();
                return Some([&base[..], &path[ups..]].concat());
            }
            _ => {
                let child = [&self.module[..], std::slice::from_ref(first)].concat();
                return self.names.contains(&child).then(|| [&child[..], rest].concat());
            }
        };
        base.extend_from_slice(rest);
        Some(base)
    }
}

fn is_word(token: &TokenTree, word: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if ident == word)
}

fn is_punct(token: Option<&TokenTree>, wanted: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}

/// `#[cfg(test)]`, or an attribute that has it among others.
fn is_test_attribute(tokens: &[TokenTree]) -> bool {
    match tokens {
        [hash, TokenTree::Group(group), ..] if is_punct(Some(hash), '#') => {
            let text = group.stream().to_string().replace(' ', "");
            group.delimiter() == Delimiter::Bracket
                && text.starts_with("cfg(")
                && text.contains("test")
        }
        _ => false,
    }
}

/// Behind the `;` or the braces that end the item which begins at `from`.
fn end_of_item(tokens: &[TokenTree], from: usize) -> usize {
    let is_use = tokens[from..].iter().take_while(|t| !is_punct(Some(t), ';')).count();
    let braces = tokens[from..].iter().position(
        |t| matches!(t, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace),
    );
    let is_tree = from > 0 && is_word(&tokens[from - 1], "use")
        || tokens[from..].iter().take(3).any(|t| is_word(t, "use"));
    match braces {
        Some(braces) if braces < is_use && !is_tree => from + braces + 1,
        _ => (from + is_use + 1).min(tokens.len()),
    }
}

/// The paths of a `use`, each with the name that it is known by.
fn use_tree(tokens: &[TokenTree], prefix: &[String], into: &mut Vec<(Module, String)>) {
    for part in tokens.split(|token| is_punct(Some(token), ',')) {
        let mut path = prefix.to_vec();
        let mut name = None;
        let mut is_nested = false;
        let mut at = 0;
        while at < part.len() {
            match &part[at] {
                TokenTree::Ident(ident) if ident == "as" => {
                    name = part.get(at + 1).map(ToString::to_string);
                    break;
                }
                TokenTree::Ident(ident) => path.push(ident.to_string()),
                TokenTree::Group(group) => {
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    use_tree(&inner, &path, into);
                    is_nested = true;
                }
                _ => {}
            }
            at += 1;
        }
        if is_nested || path.is_empty() {
            continue;
        }
        if path.last().is_some_and(|last| last == "self") && path.len() > 1 {
            path.pop();
        }
        let name = name.unwrap_or_else(|| path.last().expect("not empty").clone());
        into.push((path, name));
    }
}

/// The path of identifiers that begins here, and where it ends.
fn plain_path(tokens: &[TokenTree], at: usize) -> (Module, usize) {
    let mut path = Vec::new();
    let mut next = at;
    while let Some(TokenTree::Ident(ident)) = tokens.get(next) {
        path.push(ident.to_string());
        next += 1;
        if !(is_punct(tokens.get(next), ':') && is_punct(tokens.get(next + 1), ':')) {
            break;
        }
        next += 2;
    }
    (path, next.max(at + 1))
}
