//! `esr-demo`: a private cluster, clips loaded through the trigger, style queries answered, a page to listen to.
//!
//! Talks to PostgreSQL as any client would; knows nothing of the extension's insides.

mod built_in;
mod clip;
mod folder;
mod load;
mod map;
mod page;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use esr_tests::cluster::{Cluster, Options, Stop};

const SCHEMA: &str = include_str!("../../sql/examples/schema.sql");
const QUERIES: &str = include_str!("../../sql/examples/queries.sql");

/// Loads speech clips into a private PostgreSQL cluster and ranks them by descriptions of speaking style.
#[derive(Parser)]
struct Arguments {
    /// Folder for the cluster, the clips and index.html
    #[arg(long)]
    output: PathBuf,
    /// Your own folder of audio files, with or without a manifest.csv (columns: path, and any of speaker, style, text,
    /// language); without this option the demo makes and fetches clips of its own
    #[arg(long)]
    clips: Option<PathBuf>,
    /// A style to rank by on the page, besides the usual ones; may be repeated
    #[arg(long)]
    query: Vec<String>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    std::fs::create_dir_all(&arguments.output)?;
    let output = arguments.output.canonicalize()?;
    let clips = match &arguments.clips {
        Some(folder) => folder::read(folder)?,
        None => built_in::prepare(&output.join("clips"))?,
    };
    ensure!(!clips.is_empty(), "no audio files found");
    println!("{} clips in {} styles", clips.len(), clip::labels(&clips).len());

    let cluster = Cluster::start(Options { folder: Some(cluster_folder(&output)), ..Options::default() })?;
    let database = database_name(arguments.clips.as_deref())?;
    create_database(&cluster, &database)?;
    let printed = cluster.psql(&database, &["-q", "-v", "ON_ERROR_STOP=1"], SCHEMA)?;
    ensure!(!printed.contains("ERROR"), "the schema was refused:\n{printed}");
    let mut session = cluster.connect_to(&database)?;
    let loaded = load::insert(&mut session, &clips)?;
    loaded.report();

    println!(
        "{}",
        cluster.psql(
            &database,
            &["-q", "-P", "footer=off"],
            &format!("SET client_min_messages=warning;\n\\set ECHO queries\n{QUERIES}")
        )?
    );
    let file = output.join("index.html");
    page::write(&mut session, &clips, &arguments.query, &file)?;
    println!("page: {}", file.display());
    print_how_to_go_on(&cluster, &database);
    drop(session);
    cluster.stop(Stop::Fast)
}

/// The cluster stays between runs, so that the second finds its clips already embedded.
fn cluster_folder(output: &Path) -> PathBuf {
    esr_tests::cluster::reachable_folder(&output.join("cluster"))
}

/// One database per set of clips, so that they do not mix.
fn database_name(clips: Option<&Path>) -> Result<String> {
    let Some(folder) = clips else { return Ok("demo".into()) };
    let folder = folder.canonicalize().with_context(|| format!("opening {}", folder.display()))?;
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect();
    // Two folders of one name must not share a database.
    let mut hash = std::hash::DefaultHasher::new();
    std::hash::Hash::hash(&folder, &mut hash);
    Ok(format!("demo_{plain:.40}_{:08x}", std::hash::Hasher::finish(&hash) as u32))
}

/// Makes the database unless it is there; one that was made with another version of the extension or of the model is made anew.
fn create_database(cluster: &Cluster, name: &str) -> Result<()> {
    let made_with = [include_str!("../../sql/esr--0.1.0.sql"), include_str!("../../models/default/manifest.toml")];
    let mut hash = std::hash::DefaultHasher::new();
    std::hash::Hash::hash(&made_with, &mut hash);
    let mark = format!("esr-demo {:016x}", std::hash::Hasher::finish(&hash));
    let mut session = cluster.connect()?;
    let known = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = $1";
    if let Some(row) = session.query_opt(known, &[&name])? {
        if row.get::<_, Option<String>>(0).as_ref() == Some(&mark) {
            return Ok(());
        }
        println!("the clips are embedded anew: the extension or its model is another version than the last time");
        session.batch_execute(&format!("DROP DATABASE \"{name}\" WITH (FORCE)"))?;
    }
    session.batch_execute(&format!("CREATE DATABASE \"{name}\""))?;
    Ok(session.batch_execute(&format!("COMMENT ON DATABASE \"{name}\" IS '{mark}'"))?)
}

fn print_how_to_go_on(cluster: &Cluster, database: &str) {
    let (bin, data) = (cluster.bin().display(), cluster.data());
    let user = if esr_tests::cluster::runs_as_other_user() { "runuser -u postgres -- " } else { "" };
    println!("to go on by hand, on a socket in /tmp:");
    println!("  {user}{bin}/pg_ctl -D {} -l /dev/null -o '-k /tmp -p 54321' start", data.display());
    println!("  {bin}/psql -h /tmp -p 54321 -U postgres {database}");
}
