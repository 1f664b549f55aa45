//! Who may use whom: the table of ARCHITECTURE.md, checked against what Cargo really links.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use serde_json::Value;

/// Crate, and what must appear nowhere in its dependency tree (development-only dependencies aside).
const MUST_NEVER_SEE: &[(&str, &[&str])] = &[
    ("esr-vector", &["pgrx", "ort", "tch", "esr-audio", "rand", "serde"]),
    ("esr-ivf", &["pgrx", "ort", "tch", "esr-audio", "esr-wire", "esr-encoder"]),
    ("esr-audio", &["pgrx", "ort", "tch", "esr-vector", "esr-encoder"]),
    ("esr-wire", &["pgrx", "ort", "tch", "esr-audio", "esr-encoder"]),
    ("esr-encoder", &["pgrx", "tch", "esr-wire", "esr-vector", "esr-ivf"]),
    ("esr-embedder", &["pgrx", "tch", "esr-vector", "esr-ivf"]),
    ("esr", &["ort", "tch", "tokenizers", "symphonia", "esr-audio", "esr-encoder", "esr-embedder"]),
    ("esr-trainer", &["pgrx", "esr-vector", "esr-ivf", "esr-wire", "esr-embedder"]),
    ("esr-tests", &["pgrx", "ort", "tch", "esr"]),
    ("esr-benches", &["pgrx", "ort", "tch", "esr"]),
    ("esr-demo", &["pgrx", "ort", "tch", "esr"]),
];

#[test]
fn no_crate_sees_what_it_must_not() {
    let dependencies = dependencies();
    for (name, forbidden) in MUST_NEVER_SEE {
        let seen = reachable(&dependencies, name);
        for bad in *forbidden {
            assert!(!seen.contains(*bad), "{name} must never see {bad}, but does");
        }
    }
}

#[test]
fn only_the_extension_names_pgrx_and_only_the_trainer_names_tch() {
    let dependencies = dependencies();
    let users = |library: &str| -> Vec<&str> {
        let ours = dependencies.iter().filter(|(name, _)| name.starts_with("esr"));
        ours.filter(|(_, direct)| direct.contains(library)).map(|(name, _)| name.as_str()).collect()
    };
    assert_eq!(users("pgrx"), ["esr"]);
    assert_eq!(users("tch"), ["esr-trainer"]);
    assert!(users("symphonia").iter().all(|user| *user == "esr-audio"), "{:?}", users("symphonia"));
}

#[test]
fn every_dependency_says_what_it_saves_us() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let members =
        ["vector", "ivf", "audio", "wire", "encoder", "embedder"].map(|name| format!("extension/crates/{name}"));
    for member in members.iter().map(String::as_str).chain(["extension", "trainer", "tests", "benches", "demo"]) {
        let text = std::fs::read_to_string(format!("{root}/{member}/Cargo.toml")).unwrap();
        let (mut in_table, mut above) = (false, "");
        for line in text.lines() {
            if line.starts_with('[') {
                in_table = line.contains("dependencies");
            } else if in_table && line.contains('=') && !line.starts_with([' ', ']', '}']) && !line.contains("esr-") {
                assert!(above.starts_with('#'), "{member}/Cargo.toml: no sentence above `{line}`");
            }
            above = line;
        }
    }
}

/// Package name to the names of what it links, from Cargo's own resolution.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--manifest-path", manifest])
        // Other platforms' crates are neither linked here nor, perhaps, downloaded.
        .args(["--filter-platform", &format!("{}-unknown-linux-gnu", std::env::consts::ARCH)])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let names: BTreeMap<&str, &str> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| (package["id"].as_str().unwrap(), package["name"].as_str().unwrap()))
        .collect();
    let mut all = BTreeMap::new();
    for node in metadata["resolve"]["nodes"].as_array().unwrap() {
        let linked = node["deps"].as_array().unwrap().iter().filter(|dependency| {
            let kinds = dependency["dep_kinds"].as_array().unwrap();
            kinds.iter().any(|kind| kind["kind"].is_null())
        });
        let linked = linked.map(|dependency| names[dependency["pkg"].as_str().unwrap()].to_string()).collect();
        all.insert(names[node["id"].as_str().unwrap()].to_string(), linked);
    }
    all
}

fn reachable(dependencies: &BTreeMap<String, BTreeSet<String>>, from: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut waiting = vec![from.to_string()];
    while let Some(name) = waiting.pop() {
        for next in dependencies.get(&name).unwrap_or_else(|| panic!("{name} is not in the workspace")) {
            if seen.insert(next.clone()) {
                waiting.push(next.clone());
            }
        }
    }
    seen
}
