//! Which modules know of which: none comes back to itself by way of what it imports. A module may know of those inside it and they
//! of it; that counts as one. Read off the sources, macros' arguments and test modules aside.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::visit::Visit;
use syn::{Attribute, ItemMod, ItemUse, UseTree};

/// A module's path in its crate.
type Module = Vec<String>;

const SOURCES: [&str; 11] = [
    "extension/src",
    "extension/crates/audio/src",
    "extension/crates/embedder/src",
    "extension/crates/encoder/src",
    "extension/crates/ivf/src",
    "extension/crates/vector/src",
    "extension/crates/wire/src",
    "trainer/src",
    "benches/src",
    "demo/src",
    "tests/src",
];

#[test]
fn no_module_comes_back_to_itself() {
    for source in SOURCES {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(source);
        let modules = modules(&root);
        assert!(modules.len() > 1, "{source} has no modules");
        let imports: BTreeMap<&Module, BTreeSet<Module>> =
            modules.iter().map(|(module, file)| (module, imports(module, file, &modules))).collect();
        let circle = imports.keys().find_map(|module| way_back(module, &imports));
        assert!(circle.is_none(), "{source}: {}", circle.unwrap().join(" -> "));
    }
}

#[test]
fn circles_are_seen() {
    let files: BTreeMap<Module, PathBuf> =
        [vec![], vec!["a"], vec!["a", "b"], vec!["c"]].map(|path| (path_of(&path), PathBuf::new())).into();
    let seen = |module: &[&str], text: &str| {
        let found = imports_of(&path_of(module), &syn::parse_file(text).unwrap(), &files);
        found.iter().map(|module| module.join("::")).collect::<Vec<_>>()
    };
    assert_eq!(seen(&["c"], "use crate::{a::b::{self, X}, c::Y}; fn f() { crate::a::g() }"), ["a", "a::b"]);
    assert_eq!(seen(&["a"], "mod b; use b::X; use std::fmt; use super::c;"), ["a::b", "c"]);
    assert!(seen(&["a", "b"], "use super::X; use crate::f; #[cfg(test)] mod tests { use crate::c; }").is_empty());
    let module = |name| path_of(&[name]);
    let (a, c, d) = (module("a"), module("c"), module("d"));
    let mut imports = BTreeMap::from([(&a, BTreeSet::from([c.clone()])), (&c, BTreeSet::from([d.clone()]))]);
    imports.insert(&d, BTreeSet::new());
    assert_eq!(way_back(&a, &imports), None);
    imports.insert(&d, BTreeSet::from([a.clone()]));
    assert_eq!(way_back(&a, &imports).unwrap(), ["a", "c", "d", "a"]);
}

fn path_of(names: &[&str]) -> Module {
    names.iter().map(|name| name.to_string()).collect()
}

/// The modules of a crate with their files.
fn modules(root: &Path) -> BTreeMap<Module, PathBuf> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let inside = path.strip_prefix(root).unwrap().with_extension("");
                let mut module: Module = inside.iter().map(|name| name.to_string_lossy().into_owned()).collect();
                module.pop_if(|last| ["lib", "main", "mod"].contains(&last.as_str()));
                found.insert(module, path);
            }
        }
    }
    found
}

fn imports(module: &Module, file: &Path, modules: &BTreeMap<Module, PathBuf>) -> BTreeSet<Module> {
    let text = std::fs::read_to_string(file).unwrap();
    let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    imports_of(module, &parsed, modules)
}

fn imports_of(module: &Module, file: &syn::File, modules: &BTreeMap<Module, PathBuf>) -> BTreeSet<Module> {
    let mut named = Named::default();
    named.visit_file(file);
    let known = named.paths.iter().filter_map(|path| resolve(module, path, modules));
    known.filter(|other| !module.starts_with(other)).collect()
}

/// The module that a path leads into: the longest beginning that is one.
fn resolve(module: &Module, path: &[String], modules: &BTreeMap<Module, PathBuf>) -> Option<Module> {
    let ups = path.iter().take_while(|name| *name == "super").count();
    let mut whole: Module = match path.first()?.as_str() {
        "crate" => path[1..].to_vec(),
        "self" => [module, &path[1..]].concat(),
        "super" => [&module[..module.len().checked_sub(ups)?], &path[ups..]].concat(),
        child if modules.contains_key(&[module.as_slice(), &[child.into()]].concat()) => [module, path].concat(),
        _ => return None,
    };
    while !modules.contains_key(&whole) {
        whole.pop()?;
    }
    Some(whole)
}

/// All paths that a file names.
#[derive(Default)]
struct Named {
    paths: Vec<Vec<String>>,
}

impl Named {
    fn add_tree(&mut self, before: &[String], tree: &UseTree) {
        let with = |name: String| [before, &[name]].concat();
        match tree {
            UseTree::Path(path) => self.add_tree(&with(path.ident.to_string()), &path.tree),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.add_tree(before, tree)),
            UseTree::Name(name) if name.ident == "self" => self.paths.push(before.to_vec()),
            UseTree::Name(name) => self.paths.push(with(name.ident.to_string())),
            UseTree::Rename(name) => self.paths.push(with(name.ident.to_string())),
            UseTree::Glob(_) => self.paths.push(before.to_vec()),
        }
    }
}

impl Visit<'_> for Named {
    fn visit_item_mod(&mut self, item: &ItemMod) {
        if !item.attrs.iter().any(is_for_tests) {
            syn::visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &ItemUse) {
        if !item.attrs.iter().any(is_for_tests) {
            self.add_tree(&[], &item.tree);
        }
    }

    fn visit_path(&mut self, path: &syn::Path) {
        self.paths.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        syn::visit::visit_path(self, path);
    }
}

fn is_for_tests(attribute: &Attribute) -> bool {
    attribute.path().is_ident("cfg") && attribute.parse_args::<syn::Path>().is_ok_and(|what| what.is_ident("test"))
}

/// The modules on a way from this one back to it.
fn way_back(start: &Module, imports: &BTreeMap<&Module, BTreeSet<Module>>) -> Option<Vec<String>> {
    let mut came_from: BTreeMap<&Module, &Module> = BTreeMap::new();
    let mut next = vec![start];
    while let Some(module) = next.pop() {
        for other in imports.get(module)? {
            if other == start {
                let mut way = vec![start, module];
                while way[way.len() - 1] != start {
                    way.push(came_from[way[way.len() - 1]]);
                }
                return Some(way.iter().rev().map(|module| module.join("::")).collect());
            }
            if !came_from.contains_key(other) {
                came_from.insert(other, module);
                next.push(other);
            }
        }
    }
    None
}
