//! Runs every `sql/NAME.sql` in a database of its own and compares what `psql` prints with `expected/NAME.out`.
//!
//! `ESR_ACCEPT=1` writes the expected files anew; the change is then reviewed with `git diff`.

use std::{fs, path::Path};

use esr_tests::cluster::{Cluster, Options};

#[test]
fn sql_scripts_print_what_is_expected() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cluster = Cluster::start(Options::default()).unwrap();
    let mut scripts: Vec<_> = fs::read_dir(folder.join("sql")).unwrap().map(|entry| entry.unwrap().path()).collect();
    scripts.retain(|path| path.extension().is_some_and(|extension| extension == "sql"));
    scripts.sort();
    assert!(!scripts.is_empty(), "no scripts found");
    let mut wrong = Vec::new();
    for script in &scripts {
        let name = script.file_stem().unwrap().to_str().unwrap();
        let mut admin = cluster.connect().unwrap();
        admin.batch_execute(&format!("CREATE DATABASE \"{name}\"")).unwrap();
        cluster.connect_to(name).unwrap().batch_execute("CREATE EXTENSION esr").unwrap();
        let merged = format!("\\set ECHO all\n{}", fs::read_to_string(script).unwrap());
        let printed = run(&cluster, name, &merged);
        let expected_file = folder.join(format!("expected/{name}.out"));
        if std::env::var_os("ESR_ACCEPT").is_some() {
            fs::write(&expected_file, &printed).unwrap();
        } else if fs::read_to_string(&expected_file).unwrap_or_default() != printed {
            let actual = expected_file.with_extension("actual");
            fs::write(&actual, &printed).unwrap();
            let diff = std::process::Command::new("diff").arg("-u").args([&expected_file, &actual]).output().unwrap();
            println!("{}", String::from_utf8_lossy(&diff.stdout));
            wrong.push(name.to_string());
        }
    }
    println!("{} scripts compared", scripts.len());
    assert!(wrong.is_empty(), "scripts that print something else: {wrong:?}");
}

/// `psql` with errors in their place among the output: standard error is sent where standard output goes.
fn run(cluster: &Cluster, database: &str, script: &str) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    let out = file.reopen().unwrap();
    let mut command = cluster.psql_command(database);
    let mut child = command.arg("-q").stderr(out.try_clone().unwrap()).stdout(out).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), script.as_bytes()).unwrap();
    child.wait().unwrap();
    fs::read_to_string(file.path()).unwrap()
}
